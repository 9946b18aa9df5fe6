//! `remove-dataset`: lets all of a dataset go that the configuration no longer names.
//!
//! - **The protocol** is that of prune: a signed mark names what goes, and a later run of this
//!   command sweeps it, after the grace period. Whoever restores until then still can. Marks and
//!   sweeps are logged before. What is missing, doubted or not answering stops it.
//! - **Consent** is the name of the dataset, typed again or given to `--yes`. Without it, the plan
//!   is shown and nothing changes.
//! - **What stays**: keys, drill reports, the last record of the removal, and for as long as a root
//!   says, snapshots that its floors keep.

use std::fmt;
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use lifeboat_engine::config::Dataset;
use lifeboat_engine::format::id::Name;
use lifeboat_engine::keep::prune::{Prune, PruneOutcome, PrunePlan};
use lifeboat_engine::keys::HostKeys;
use lifeboat_engine::root;
use lifeboat_engine::state::StateDirectory;
use lifeboat_engine::{Error, Result};
use serde::Serialize;

use crate::human;
use crate::session::Session;
use crate::table::Plain;

/// Remove all backups of a dataset that the configuration no longer names; shows what goes, and
/// asks for the name
///
/// The first run marks everything. Run it again after the grace period that it tells, to delete
/// what it has marked.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Name of the dataset
    dataset: Name,
    /// Do not ask: the name of the dataset again
    #[arg(long, value_name = "NAME")]
    yes: Option<Name>,
}

/// What goes, and what came of it.
#[derive(Serialize)]
struct Removal {
    dataset: Name,
    plan: PrunePlan,
    /// `None` if the plan was only shown.
    outcome: Option<PruneOutcome>,
    /// When a run of this command deletes more. `None`: nothing waits.
    again_after: Option<DateTime<Utc>>,
}

pub(crate) async fn run(args: &Args, session: &Session) -> Result<()> {
    let config = session.configuration()?;
    let name = &args.dataset;
    if config.dataset(name).is_some() {
        return Err(Error::usage(format!("dataset {name} is still in the configuration, and so it is backed up")).hint(
            "take its [[dataset]] out of the configuration of every host that backs it up, run `systemctl reload lifeboatd` there, then run this again",
        ));
    }
    if session.globals.replica.is_some() {
        return Err(Error::usage("a dataset is removed from every replica").hint("leave --replica out"));
    }
    if args.yes.as_ref().is_some_and(|typed| typed != name) {
        return Err(Error::usage(format!("--yes does not name dataset {name}")).hint(format!("pass --yes {name}")));
    }
    let keys = HostKeys::load(&config.keys)?;
    let replicas = config.open_replicas(&session.clock).await?;
    let records = config.open_records(&session.clock).await?;
    let state = StateDirectory::open_for_writing(&config.state_directory)?;
    let kept = root::keep(&keys, &replicas, &state, session.clock.now());
    session.cancellable("the look for the root", kept).await?;
    let floors = keys.trust.root().map(|root| root.floors.clone()).unwrap_or_default();
    let dataset = Dataset::to_remove(name.clone(), &config.limits, &floors);
    keys.trust.check_may_sign(&keys.signer.public(), name)?;
    let prune = Prune {
        config: &config,
        dataset: &dataset,
        keys: &keys,
        replicas: &replicas,
        records: &records,
        state: &state,
        clock: session.clock.clone(),
        cancel: session.cancel.clone(),
    };
    let plan = session.cancellable("planning", prune.plan()).await?;
    let mut removal = Removal {
        dataset: name.clone(),
        again_after: again_after(&plan, dataset.retention.grace),
        plan,
        outcome: None,
    };
    session.out.text(&removal)?;
    if let Some((replica, why)) = removal.plan.skipped.first() {
        let what = format!("not every replica can be looked at: {replica}: {}", human::without_name(replica, why));
        return Err(Error::storage(what)
            .hint("mend what is said of it, then run this again: a removal needs every replica, and none about which anything is doubtful"));
    }
    if removal.plan.is_empty() {
        let _lock = state.lock_dataset(name).await?;
        // Nothing goes that the plan does not show, but since when packs wait is remembered.
        removal.outcome = Some(prune.execute(&removal.plan).await?);
    } else if consents(args, session, &removal.plan).await? {
        let _lock = state.lock_dataset(name).await?;
        removal.outcome = Some(prune.execute(&removal.plan).await?);
        session.out.text(RemovalView(&removal))?;
    }
    if session.out.is_json() {
        session.out.result(&removal)?;
    }
    let failures = removal.outcome.map(|outcome| outcome.failures.join("; ")).unwrap_or_default();
    if failures.is_empty() {
        return Ok(());
    }
    Err(Error::storage(format!("not everything was done: {failures}"))
        .hint(format!("mend that, then run `lifeboat remove-dataset {name}` again")))
}

/// Without a terminal and without `--yes`, the plan is only shown.
async fn consents(args: &Args, session: &Session, plan: &PrunePlan) -> Result<bool> {
    let name = &args.dataset;
    if args.yes.is_none() && !session.out.can_ask() {
        session.out.note(format!("nothing was marked or deleted: pass --yes {name} for that"));
        return Ok(false);
    }
    let (now, later) = (plan.removed().count() as u64, plan.mark_snapshots.len() as u64);
    let question = format!(
        "Delete {} of dataset {name} for ever now, and mark {}?",
        human::count(now, "snapshot"),
        human::count(later, "snapshot")
    );
    let hint = format!("pass --yes {name} to confirm");
    session.confirm_by(args.yes.is_some(), question, name.to_string(), hint).await?;
    Ok(true)
}

/// When the last of what waits may go, as far as that is known: what has no time yet gets it by the
/// next run.
fn again_after(plan: &PrunePlan, grace: Duration) -> Option<DateTime<Utc>> {
    let goes = plan.verdicts.iter().filter_map(|verdict| verdict.goes_at).filter(|time| *time > plan.made);
    let waits = !plan.waiting.is_empty() || !plan.mark_packs.is_empty() || !plan.mark_objects.is_empty();
    let later = TimeDelta::from_std(grace).ok().filter(|_| waits).map(|grace| plan.made + grace);
    goes.chain(later).max()
}

impl fmt::Display for Removal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let plan = &self.plan;
        let kept = plan.verdicts.iter().filter(|verdict| verdict.goes_at.is_none());
        let kept: Vec<_> = kept.collect();
        let newest = plan.verdicts.iter().map(|verdict| verdict.taken).max();
        let waiting = plan.verdicts.len() - kept.len() - plan.removed().count() - plan.mark_snapshots.len();
        let packs: u64 = plan.packs.iter().chain(&plan.waiting).map(|pack| pack.size).sum();
        let count = |n: usize| human::count(n as u64, "snapshot");
        let mut facts = vec![
            ("dataset", self.dataset.to_string()),
            ("now, by this host's clock", human::time(plan.made)),
            ("newest snapshot", newest.map_or("none".to_owned(), human::time)),
            ("goes now", count(plan.removed().count())),
            ("marked now", count(plan.mark_snapshots.len())),
            ("waits", count(waiting)),
            ("packs", format!("{} over all replicas", human::bytes(packs))),
        ];
        if let Some(first) = kept.first() {
            facts.push(("stays", format!("{}: {}", count(kept.len()), first.keep_because.join(", "))));
        }
        for (replica, until) in &plan.locked {
            facts.push(("locked", format!("in {replica} until {}", human::time(*until))));
        }
        write!(f, "{}", Plain::facts(facts))?;
        if plan.is_empty() && plan.verdicts.is_empty() && plan.waiting.is_empty() {
            write!(f, "\n\n Nothing of it is left to remove, but its keys, its drill reports and the last record.")?;
        }
        Ok(())
    }
}

/// What became of the plan, and what to do next.
struct RemovalView<'a>(&'a Removal);

impl fmt::Display for RemovalView<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(outcome) = &self.0.outcome else { return Ok(()) };
        write!(
            f,
            "\n Marked {}; deleted {}, {} of packs.",
            human::count(outcome.marked_snapshots, "snapshot"),
            human::count(outcome.snapshots, "snapshot"),
            human::bytes(outcome.bytes)
        )?;
        if outcome.hidden > 0 {
            write!(f, "\n Buckets that keep versions still hold {}.", human::count(outcome.hidden, "old version"))?;
        }
        match self.0.again_after {
            Some(time) => write!(
                f,
                "\n What is marked can still be restored. Run this again after {} to delete it.",
                human::time(time)
            ),
            None => Ok(()),
        }
    }
}
