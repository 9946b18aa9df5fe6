//! `prune`: plans which snapshots retention no longer keeps, shows the plan, and carries it out
//! after consent.
//!
//! - **The lock** of the dataset is taken after the answer, so an open question holds up no backup.
//!   The execution looks again, and does nothing that was not shown.
//! - **Several datasets**: one that fails, or that another run works on, does not stop the others.
//!   The gravest failure decides the exit code. A refusal or a cancellation stops all.

use std::fmt;

use lifeboat_engine::base::escape;
use lifeboat_engine::config::{Config, Dataset};
use lifeboat_engine::format::id::Name;
use lifeboat_engine::keep::prune::{DeadPack, Prune, PruneOutcome, PrunePlan, Space};
use lifeboat_engine::keys::HostKeys;
use lifeboat_engine::state::{StateDirectory, watch};
use lifeboat_engine::store::{Probe, SharedReplica};
use lifeboat_engine::{Class, Error, Result};
use serde::Serialize;

use crate::human;
use crate::session::Session;
use crate::table::Plain;

/// What to do when a prune did not come to its end.
const AGAIN: &str = "Completed deletions are not undone. Run `lifeboat prune` again.";

/// Remove the snapshots that retention no longer keeps; shows the plan, then asks; runs on a
/// backup host
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Only this dataset
    dataset: Option<Name>,
    /// Show the plan; mark and delete nothing
    #[arg(long)]
    dry_run: bool,
    /// Do not ask for confirmation
    #[arg(long, conflicts_with = "dry_run")]
    yes: bool,
}

/// A plan, and what came of it.
#[derive(Serialize)]
struct Pruned {
    dataset: Name,
    /// `None` if none could be made.
    plan: Option<PrunePlan>,
    /// `None` if the plan was only shown, or could not be carried out.
    outcome: Option<PruneOutcome>,
    /// Why there is no plan, or why it was not carried out.
    #[serde(serialize_with = "in_words")]
    error: Option<Error>,
}

fn in_words<S: serde::Serializer>(error: &Option<Error>, serializer: S) -> Result<S::Ok, S::Error> {
    error.as_ref().map(Error::chain_and_hint).serialize(serializer)
}

impl Pruned {
    /// What did not come to its end, as the error that decides the exit code.
    fn failure(&self) -> Option<Error> {
        if let Some(error) = &self.error {
            let why = format!("dataset {} was not pruned: {}", self.dataset, error.chain());
            return Some(Error::new(error.class(), why).hint(error.hint_text().unwrap_or(AGAIN)));
        }
        let failures = self.outcome.as_ref().map(|outcome| outcome.failures.join("; ")).unwrap_or_default();
        let what = || Error::new(Class::Storage, format!("some deletions failed: {failures}")).hint(AGAIN);
        (!failures.is_empty()).then(what)
    }
}

/// All datasets.
#[derive(Serialize)]
#[serde(transparent)]
struct AllPruned(Vec<Pruned>);

pub(crate) async fn run(args: &Args, session: &Session) -> Result<()> {
    let config = session.configuration()?;
    if session.globals.replica.is_some() {
        return Err(Error::usage("prune always looks at every replica, because each must keep a complete snapshot")
            .hint("leave --replica out; prune skips a replica that does not answer"));
    }
    if session.out.is_json() && !args.dry_run && !args.yes {
        return Err(
            Error::usage("prune cannot ask with --json").hint("pass --yes to confirm, or --dry-run to see the plan")
        );
    }
    for warning in &config.warnings {
        session.out.warning(warning);
    }
    let keys = HostKeys::load(&config.keys)?;
    let replicas = config.open_replicas(&session.clock).await?;
    let records = config.open_records(&session.clock).await?;
    let state = StateDirectory::open_for_writing(&config.state_directory)?;
    let mut all = Vec::new();
    for dataset in chosen(&config, args.dataset.as_ref())? {
        let context = Context { config: &config, keys: &keys, replicas: &replicas, records: &records, state: &state };
        all.push(prune(args, session, &context, dataset).await?);
    }
    let failures: Vec<Error> = all.iter().filter_map(Pruned::failure).collect();
    if session.out.is_json() {
        session.out.result(&AllPruned(all))?;
    }
    worst(failures).map_or(Ok(()), Err)
}

/// All failures as one, of the class whose exit code is highest.
fn worst(mut failures: Vec<Error>) -> Option<Error> {
    failures.sort_by_key(|failure| std::cmp::Reverse(failure.class().exit_code()));
    let worst = failures.first()?;
    let all: Vec<&str> = failures.iter().map(Error::message).collect();
    Some(Error::new(worst.class(), all.join("; ")).hint(worst.hint_text().unwrap_or(AGAIN)))
}

struct Context<'a> {
    config: &'a Config,
    keys: &'a HostKeys,
    replicas: &'a [SharedReplica],
    records: &'a [SharedReplica],
    state: &'a StateDirectory,
}

fn chosen<'a>(config: &'a Config, only: Option<&Name>) -> Result<Vec<&'a Dataset>> {
    match only {
        None => Ok(config.datasets.iter().collect()),
        Some(name) => config.dataset(name).map(|dataset| vec![dataset]).ok_or_else(|| {
            Error::usage(format!("the configuration has no dataset {name}"))
                .hint(format!("name a dataset of this configuration: prune follows its retention; to remove all of one that is in no configuration any more, run `lifeboat remove-dataset {name}`"))
        }),
    }
}

async fn prune(args: &Args, session: &Session, context: &Context<'_>, dataset: &Dataset) -> Result<Pruned> {
    let prune = Prune {
        config: context.config,
        dataset,
        keys: context.keys,
        replicas: context.replicas,
        records: context.records,
        state: context.state,
        clock: session.clock.clone(),
        cancel: session.cancel.clone(),
    };
    let mut pruned = Pruned { dataset: dataset.name.clone(), plan: None, outcome: None, error: None };
    let plan = match session.cancellable("planning", prune.plan()).await {
        Err(error) if !session.cancel.is_cancelled() => return Ok(Pruned { error: Some(error), ..pruned }),
        plan => pruned.plan.insert(plan?),
    };
    session.out.text(PlanView(plan))?;
    if args.dry_run {
        return Ok(pruned);
    }
    if let Err(error) = watch::permit(context.state, &dataset.name) {
        pruned.error = Some(error);
        return Ok(pruned);
    }
    // A plan without deletions is still carried out: it notes since when packs are unreferenced,
    // and which are sparse.
    if !plan.is_empty() {
        let removes = !plan.packs.is_empty()
            || !plan.segments.is_empty()
            || !plan.objects.is_empty()
            || plan.removed().next().is_some();
        // Whoever is not asked need not wait for that.
        let keepers = if removes && !args.yes { keepers_of_versions(context.replicas).await } else { Vec::new() };
        session.confirm(args.yes, question(&dataset.name, removes, &keepers, context.replicas.len())).await?;
    }
    match execute(&prune, plan).await {
        Err(error) if session.cancel.is_cancelled() => return Err(error.hint(AGAIN)),
        Err(error) => pruned.error = Some(error),
        Ok(outcome) => {
            for forgotten in &outcome.forgotten {
                session.out.warning(format!("this host cannot remember what it did: {forgotten}"));
            }
            session.out.text(OutcomeView(pruned.outcome.insert(outcome)))?;
        }
    }
    Ok(pruned)
}

/// The replicas that keep versions, as far as they tell.
async fn keepers_of_versions(replicas: &[SharedReplica]) -> Vec<&Name> {
    let probes = replicas.iter().map(async |replica| (replica.name(), replica.probe(false).await));
    let probed = futures::future::join_all(probes).await.into_iter();
    let keeps = |probe: &Probe| probe.versioning == Some(true);
    probed.filter(|(_, probe)| probe.as_ref().is_ok_and(keeps)).map(|(name, _)| name).collect()
}

/// What is asked before a plan is carried out.
fn question(dataset: &Name, removes: bool, keepers: &[&Name], replicas: usize) -> String {
    if !removes {
        return format!("Mark these of dataset {dataset} for deletion?");
    }
    let names: Vec<&str> = keepers.iter().map(|name| name.as_str()).collect();
    match keepers.len() {
        0 => format!("Permanently delete these of dataset {dataset}?"),
        all if all == replicas => {
            format!("Hide these of dataset {dataset}? Every replica keeps versions, and frees the space later.")
        }
        _ => format!(
            "Permanently delete these of dataset {dataset}? Replicas that keep versions hide them, and free the space later: {}.",
            names.join(", ")
        ),
    }
}

/// Not dropped half-way: it stops by itself between two deletions.
async fn execute(prune: &Prune<'_>, plan: &PrunePlan) -> Result<PruneOutcome> {
    let _lock = prune.state.lock_dataset(&prune.dataset.name).await?;
    prune.execute(plan).await
}

struct PlanView<'a>(&'a PrunePlan);

impl fmt::Display for PlanView<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let plan = self.0;
        writeln!(f, "Dataset {}", plan.dataset)?;
        let mut table = Plain::new(&["", "SNAPSHOT", "TAKEN", "WHY"]);
        for verdict in &plan.verdicts {
            let (fate, why) = match verdict.goes_at {
                None => ("keep", verdict.keep_because.join(", ")),
                Some(time) if time <= plan.made => ("remove", "no retention rule keeps it".to_owned()),
                Some(_) if plan.mark_snapshots.contains(&verdict.snapshot) => {
                    ("mark", "no retention rule keeps it; it goes after the grace period".to_owned())
                }
                Some(time) => ("marked", format!("no retention rule keeps it; it goes after {}", human::time(time))),
            };
            table.row([fate.to_owned(), verdict.snapshot.to_string(), human::time(verdict.taken), why]);
        }
        write!(f, "{table}")?;
        let sum = |packs: &[DeadPack]| {
            format!(
                "{}, {}",
                human::count(packs.len() as u64, "pack"),
                human::bytes(packs.iter().map(|pack| pack.size).sum())
            )
        };
        write!(f, "\n\n {} to remove over all replicas", sum(&plan.packs))?;
        if !plan.waiting.is_empty() {
            write!(f, "\n {} unused, but still within the grace period", sum(&plan.waiting))?;
        }
        for (replica, until) in &plan.locked {
            write!(f, "\n replica {replica} locks some of what would go, until {}", human::time(*until))?;
        }
        if !plan.mark_packs.is_empty() {
            let packs = human::count(plan.mark_packs.len() as u64, "pack");
            write!(f, "\n {packs} to mark, which begins their grace period")?;
        }
        for (objects, fate) in [(&plan.objects, "remove"), (&plan.mark_objects, "mark")] {
            if !objects.is_empty() {
                let objects = human::count(objects.len() as u64, "object");
                write!(f, "\n {objects} that stopped runs have left, to {fate}")?;
            }
        }
        let Space { stored_bytes, unused_bytes } = plan.space;
        let (stored, unused) = (human::bytes(stored_bytes), human::bytes(unused_bytes));
        write!(
            f,
            "\n {stored} in packs that snapshots need, in each complete replica; of this, no snapshot needs {unused}"
        )?;
        if plan.again_bytes > 0 {
            let again = human::bytes(plan.again_bytes);
            write!(
                f,
                "\n the next backups store {again} of the newest snapshot again, so that mostly unused packs can be removed"
            )?;
        }
        for (replica, why) in &plan.skipped {
            write!(f, "\n {}", escape::line(&human::skipping(replica, why)))?;
        }
        Ok(())
    }
}

struct OutcomeView<'a>(&'a PruneOutcome);

impl fmt::Display for OutcomeView<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let outcome = self.0;
        if outcome.marked_snapshots + outcome.marked_packs > 0 {
            writeln!(
                f,
                " marked {} and {}; they go after the grace period",
                human::count(outcome.marked_snapshots, "snapshot"),
                human::count(outcome.marked_packs, "pack"),
            )?;
        }
        writeln!(
            f,
            " removed {} and {}, {}",
            human::count(outcome.snapshots, "snapshot"),
            human::count(outcome.packs, "pack"),
            human::bytes(outcome.bytes)
        )?;
        match outcome.hidden {
            0 => Ok(()),
            hidden => writeln!(
                f,
                " only hidden, because the bucket keeps versions and frees the space later: {}",
                human::count(hidden, "object")
            ),
        }
    }
}

impl fmt::Display for AllPruned {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().filter_map(|pruned| pruned.plan.as_ref()).try_for_each(|plan| write!(f, "{}", PlanView(plan)))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use lifeboat_engine::format::id::Digest;
    use lifeboat_engine::keep::prune::Verdict;

    #[test]
    fn a_plan_says_what_is_removed_what_is_kept_and_why() {
        let pack = DeadPack {
            replica: "north".parse().unwrap(),
            key: "datasets/shop/packs/aa/x".to_owned(),
            size: 16 << 20,
            unreferenced_since: "2026-11-20T00:00:00Z".parse().unwrap(),
        };
        let plan = PrunePlan {
            dataset: "shop".parse().unwrap(),
            made: "2026-11-24T00:00:00Z".parse().unwrap(),
            verdicts: vec![
                Verdict {
                    snapshot: "20261121T183244123Z-9f2c81aa".parse().unwrap(),
                    taken: "2026-11-21T18:00:00Z".parse().unwrap(),
                    keep_because: Vec::new(),
                    goes_at: Some("2026-11-24T00:00:00Z".parse().unwrap()),
                },
                Verdict {
                    snapshot: "20261122T183244123Z-9f2c81aa".parse().unwrap(),
                    taken: "2026-11-22T18:00:00Z".parse().unwrap(),
                    keep_because: Vec::new(),
                    goes_at: Some("2026-11-25T00:00:00Z".parse().unwrap()),
                },
                Verdict {
                    snapshot: "20261123T183244123Z-9f2c81ab".parse().unwrap(),
                    taken: "2026-11-23T18:00:00Z".parse().unwrap(),
                    keep_because: vec!["last 1 of 1".to_owned(), "the newest".to_owned()],
                    goes_at: None,
                },
            ],
            packs: vec![pack.clone()],
            waiting: vec![pack.clone(), pack],
            locked: [("north".parse().unwrap(), "2026-12-24T00:00:00Z".parse().unwrap())].into(),
            segments: Vec::new(),
            due: Vec::new(),
            waits: Default::default(),
            mark_snapshots: BTreeSet::new(),
            mark_packs: [Digest::of(b"b")].into(),
            mark_objects: ["a".to_owned(), "b".to_owned()].into(),
            objects: ["c".to_owned()].into(),
            skipped: vec![("south".parse().unwrap(), "timed out".to_owned())],
            space: Space { stored_bytes: 100 << 20, unused_bytes: 5 << 20 },
            sparse: [Digest::of(b"a")].into(),
            again_bytes: 1 << 20,
        };
        let text = PlanView(&plan).to_string();
        for part in [
            "remove  20261121T183244123Z-9f2c81aa  2026-11-21 18:00:00 UTC",
            "marked  20261122T183244123Z-9f2c81aa",
            "1 pack to mark",
            "2 objects that stopped runs have left, to mark",
            "1 object that stopped runs have left, to remove",
            "last 1 of 1, the newest",
            "1 pack, 16.0 MiB to remove",
            "2 packs, 32.0 MiB unused, but still within the grace period",
            "100.0 MiB in packs that snapshots need, in each complete replica; of this, no snapshot needs 5.0 MiB",
            "the next backups store 1.0 MiB of the newest snapshot again",
            "skipping replica south: timed out",
            "replica north locks some of what would go, until 2026-12-24 00:00:00 UTC",
        ] {
            assert!(text.contains(part), "{part} is not in\n{text}");
        }
    }

    #[test]
    fn what_versions_keep_is_not_called_deleted() {
        let [dataset, north, south]: [Name; 3] = ["shop", "north", "south"].map(|name| name.parse().unwrap());
        assert_eq!(question(&dataset, false, &[&north], 2), "Mark these of dataset shop for deletion?");
        assert_eq!(question(&dataset, true, &[], 2), "Permanently delete these of dataset shop?");
        let some = question(&dataset, true, &[&north], 2);
        assert!(some.contains("Permanently delete") && some.ends_with("free the space later: north."), "{some}");
        let all = question(&dataset, true, &[&north, &south], 2);
        assert!(all.starts_with("Hide these of dataset shop?") && !all.contains("ermanently"), "{all}");
        let outcome = PruneOutcome { packs: 2, hidden: 7, ..PruneOutcome::default() };
        assert!(OutcomeView(&outcome).to_string().contains("frees the space later: 7 objects"));
        assert!(!OutcomeView(&PruneOutcome::default()).to_string().contains("hidden"));
    }
}
