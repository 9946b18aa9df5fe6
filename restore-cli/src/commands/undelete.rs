//! `undelete`: brings back what somebody hid or overwrote in buckets that keep versions; shows what
//! it would do, asks, and does it. The work is in `engine/src/keep/undelete/`.

use std::fmt;

use chrono::{DateTime, Utc};
use lifeboat_engine::base::escape;
use lifeboat_engine::keep::locks;
use lifeboat_engine::keep::undelete::{ReplicaUndelete, Tally, Undelete, UndeleteAlso};
use lifeboat_engine::{Class, Error, Result};
use serde::Serialize;
use tokio_util::sync::CancellationToken;

use crate::access::Need;
use crate::human;
use crate::session::Session;
use crate::when::When;

/// So many names are shown to people.
const MAX_SHOWN: usize = 20;

/// Bring back what was deleted or overwritten since a time, in buckets that keep versions; shows
/// the plan, then asks; removes no version
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Bring back what was there at this time, such as 2026-11-23T18:00:00Z or "2h ago": a time
    /// shortly before somebody began to delete
    #[arg(long, value_name = "TIME")]
    as_of: When,
    /// Also bring back what a prune has deleted since then, as a signed record says
    #[arg(long)]
    also_pruned: bool,
    /// Also put back the old version of objects that were rewritten since and are valid, such as
    /// keys and descriptions of hosts
    #[arg(long)]
    also_rewritten: bool,
    /// Show the plan; change nothing
    #[arg(long)]
    dry_run: bool,
    /// Do not ask for confirmation
    #[arg(long, conflicts_with = "dry_run")]
    yes: bool,
}

#[derive(Serialize)]
struct Undeleted {
    as_of: DateTime<Utc>,
    /// Whether it was only planned.
    dry_run: bool,
    also_pruned: bool,
    also_rewritten: bool,
    replicas: Vec<ReplicaUndelete>,
}

pub(crate) async fn run(args: &Args, session: &Session) -> Result<()> {
    if session.out.is_json() && !args.dry_run && !args.yes {
        return Err(
            Error::usage("undelete cannot ask with --json").hint("pass --yes to confirm, or --dry-run to see the plan")
        );
    }
    let as_of = args.as_of.seen_from(session.clock.now());
    if as_of > session.clock.now() {
        return Err(Error::usage(format!("{} lies in the future", human::time(as_of)))
            .hint("name a time shortly before somebody began to delete"));
    }
    let place = session.place()?;
    let replicas = place.open_buckets(&session.clock).await?;
    if replicas.is_empty() {
        return Err(Error::usage(
            "a directory keeps no old versions of its files, so nothing can be brought back in it",
        )
        .hint(
            "restore the directory from file-system snapshots, or have `lifeboat repair` copy from another replica",
        ));
    }
    let place = place.read_as_of(Some(as_of));
    let past = session.reader(&place, Need::Manifests).await?;
    let undelete = Undelete {
        past: &past,
        replicas: &replicas,
        moment: as_of,
        also: UndeleteAlso { pruned: args.also_pruned, rewritten: args.also_rewritten },
        cancel: CancellationToken::clone(&session.cancel),
    };
    let plan = session.cancellable("planning", undelete.plan()).await?;
    let nothing = plan.iter().all(ReplicaUndelete::is_empty);
    let told = |dry_run, replicas| {
        let Args { also_pruned, also_rewritten, .. } = *args;
        Undeleted { as_of, dry_run, also_pruned, also_rewritten, replicas }
    };
    let shown = told(args.dry_run || nothing, plan);
    if shown.dry_run {
        session.out.result(&shown)?;
        return verdict(&shown);
    }
    session.out.text(&shown)?;
    session.confirm(args.yes, format!("Bring these back as of {}?", human::time(as_of))).await?;
    let done = undelete.execute().await;
    // What was hidden meanwhile was not there to be locked.
    if let Some(Err(error)) = place.config.as_ref().map(locks::begin_anew) {
        session.out.warning(error.chain_and_hint());
    }
    let done = told(false, done?);
    if session.out.is_json() {
        session.out.result(&done)?;
    } else {
        for replica in &done.replicas {
            let Tally { objects, bytes } = replica.done;
            let (objects, bytes) = (human::count(objects, "object"), human::bytes(bytes));
            session.out.text(format!(" brought back in replica {}: {objects}, {bytes}\n", replica.replica))?;
            if replica.frozen > 0 {
                let count = human::count(replica.frozen, "object");
                session.out.text(format!(" in an archive, to be thawed first: {count}\n"))?;
            }
        }
        let redated: u64 = done.replicas.iter().map(|replica| replica.redated).sum();
        if redated > 0 {
            session.out.warning(format!(
                "signatures and acts of signers whom the root has revoked were copied ({}), and are believed no more: restore what they sign with --as-of",
                human::count(redated, "object")
            ));
        }
        if args.also_pruned && done.replicas.iter().any(|replica| !replica.prunes.is_empty()) {
            session.out.warning(
                "the next prune deletes again what prunes had deleted: restore what you need first, or retire the signer of these prunes",
            );
        }
        session.out.note("run `lifeboat verify` now, to see that the vault is whole");
    }
    verdict(&done)
}

/// What did not come to its end.
fn verdict(done: &Undeleted) -> Result<()> {
    let failures: Vec<&str> = done.replicas.iter().flat_map(|replica| &replica.failures).map(String::as_str).collect();
    let Some(first) = failures.first() else { return Ok(()) };
    let more = match failures.len() - 1 {
        0 => String::new(),
        more => format!(" (and {more} more)"),
    };
    Err(Error::new(Class::Storage, format!("not all could be brought back: {first}{more}"))
        .hint("run it again: what is there is passed over"))
}

impl fmt::Display for Undeleted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "As of {}", human::time(self.as_of))?;
        for replica in &self.replicas {
            write!(f, "\nReplica {}", replica.replica)?;
            let sum =
                |tally: Tally| format!("{}, {}", human::count(tally.objects, "object"), human::bytes(tally.bytes));
            write!(f, "\n deleted since, to bring back: {}", sum(replica.hidden))?;
            if replica.overwritten.objects > 0 {
                write!(f, "\n overwritten since, to bring back: {}", sum(replica.overwritten))?;
            }
            if replica.pruned.objects > 0 {
                let when = if self.also_pruned { "to bring back" } else { "brought back only with --also-pruned" };
                write!(f, "\n deleted by prunes, {when}: {}", sum(replica.pruned))?;
                for prune in &replica.prunes {
                    let by = prune.host.as_ref().map(|host| format!(" by host {host}")).unwrap_or_default();
                    let snapshots = human::count(prune.snapshots as u64, "snapshot");
                    write!(f, "\n  prune {} of dataset {}{by}: {snapshots}", prune.record, prune.dataset)?;
                }
            }
            if !replica.rewritten.is_empty() {
                let when = if self.also_rewritten { "instead" } else { "only with --also-rewritten" };
                write!(f, "\n written anew since, and valid; what was there then is brought back {when}:")?;
                for key in replica.rewritten.iter().take(MAX_SHOWN) {
                    write!(f, "\n  {}", escape::line(key))?;
                }
                if replica.rewritten.len() > MAX_SHOWN {
                    write!(f, "\n  and {} more", replica.rewritten.len() - MAX_SHOWN)?;
                }
            }
            if replica.newer > 0 {
                write!(f, "\n written later, and left as they are: {}", human::count(replica.newer, "object"))?;
            }
            if replica.newer_hidden > 0 {
                let count = human::count(replica.newer_hidden, "object");
                write!(f, "\n written later and deleted since: {count}; a later TIME brings them back")?;
            }
            if replica.strange_hidden > 0 {
                let count = human::count(replica.strange_hidden, "object");
                write!(f, "\n of no kind that belongs to a vault, and left deleted: {count}")?;
            }
            if replica.not_valid > 0 {
                let count = human::count(replica.not_valid, "object");
                write!(f, "\n not valid then, with nothing better below, and left as they are: {count}")?;
            }
            for failure in replica.failures.iter().take(MAX_SHOWN) {
                write!(f, "\n FAILED: {}", escape::line(failure))?;
            }
        }
        Ok(())
    }
}
