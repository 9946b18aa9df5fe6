//! Prune removes snapshots that no retention rule keeps, and packs that no snapshot needs. It makes
//! a plan, then executes it.
//!
//! - **Mark, wait, sweep**: a signed mark names what will go. It is there until then, but no backup
//!   refers to it any more. After the grace period, a sweep looks at all snapshots anew, spares
//!   what is needed or kept again, and deletes the rest of what the mark names, and nothing else.
//! - **The order**: marks and sweeps take numbers as commits do (`catalog/order.rs`). So no other
//!   host commits between the look of a sweep and its deletions without being noticed.
//! - **Never removed**: the newest snapshot, the newest proved one, and the newest complete one of
//!   each replica; where one of these lacks a database, also the newest before it that lacks none,
//!   and where the proved one was proved in part, also the newest that was not.
//! - **Packs that no snapshot ever named** may belong to a run of another host that is not at its
//!   end. They are marked only when prune has known them for longer than a run may take.
//!   A dataset that is removed as a whole is the exception: then only a root's floors keep.
//! - **Gaps**: what is missing and in no record stops every deletion: see `gaps.rs`.
//! - **Logs**: where there is a root, marks and sweeps are recorded in this host's log before, and
//!   a log that is shorter than it was stops every deletion (`crate::log`).
//! - **Doubt**: what a trusted signer has signed and this program does not understand stops every
//!   deletion. So does what may be signed: a manifest or a record that is listed and cannot be
//!   fetched. What no replica returns signed, and a `vault.json` that is not the vault's, stop
//!   deletions only in the replicas that hold them, and that is told as a failure.
//! - **A bad replica**: the owner of a bucket can always stop deletions in that bucket. In others,
//!   he can stop them only by listing what he does not return, or what is too long to be held here.
//!   While his replica is not doubted, the signed snapshots that it shows count for retention: one
//!   that it alone has, and withholds later, may have let another go elsewhere. But the newest
//!   complete one of each replica stays. While it is doubted, snapshots that it alone shows do not
//!   count for retention, but what signed ones refer to stays in every replica.
//! - **The clock**: where replicas or snapshots contradict this host's clock, nothing is deleted
//!   (`time.rs`).
//! - **The future**: a snapshot whose capture lies in the future stays. It counts for no retention
//!   rule, and is never the newest one: under a wrong clock, it would let others go.
//! - **Floors**: nothing goes that the root still keeps, and no mark is carried out sooner than the
//!   root says (`due.rs`).
//! - **Backdated and postdated snapshots**: the former count as of when a store or a witness first
//!   saw them, the latter stay, as those of the future do.
//! - **A warden**: where the root names one, other hosts only mark, and tell what each snapshot
//!   needs (`needs.rs`). The warden sweeps. It opens nothing, so it goes by these lists.
//! - **Vetoes**: what a mark names that somebody vetoed stays (`catalog/vetoes.rs`).
//! - **Settled times**: what an operator settles can let only that snapshot go whose manifest tells
//!   a time in the future. Others stay if the rules keep them by what all manifests say.

mod accept;
mod at_least;
mod doubts;
mod due;
mod execute;
mod going;
mod locked;
mod mark;
mod memory;
mod needs;
mod plan;
mod proved;
mod seen_times;
mod settle;
mod shown;
mod sweep;
mod time;
mod unreferenced;
mod view;

use std::collections::{BTreeMap, BTreeSet};

use chrono::{DateTime, Utc};
use serde::Serialize;
use tokio_util::sync::CancellationToken;

use lifeboat_base::Result;
use lifeboat_base::clock::SharedClock;
use lifeboat_format::id::{Name, PackId, SnapshotId};
use lifeboat_store::SharedReplica;

pub use self::accept::Accept;
pub(in crate::keep) use self::going::Goes;
pub(in crate::keep) use self::memory::Memory;
pub use self::settle::{ClockReport, Settled};
pub(in crate::keep) use self::view::View;
use crate::config::{Config, Dataset};
pub use crate::keep::false_times::FalseTime;
use crate::keys::HostKeys;
use crate::log::HostLog;
pub use crate::renewal::sparse::Space;
use crate::state::StateDirectory;

/// Everything that prune needs.
pub struct Prune<'a> {
    /// The configuration.
    pub config: &'a Config,
    /// The dataset to prune.
    pub dataset: &'a Dataset,
    /// This host's keys.
    pub keys: &'a HostKeys,
    /// Every configured replica. One that cannot be listed is left alone.
    pub replicas: &'a [SharedReplica],
    /// Every place that holds records alone. Without them, nothing is marked or deleted.
    pub records: &'a [SharedReplica],
    /// The directory that remembers since when packs are unreferenced. The caller holds the
    /// dataset's lock, but for a plan.
    pub state: &'a StateDirectory,
    /// Tells the time.
    pub clock: SharedClock,
    /// When it fires, prune stops before the next deletion.
    pub cancel: CancellationToken,
}

/// Whether one snapshot stays, and why.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Verdict {
    /// The snapshot.
    pub snapshot: SnapshotId,
    /// When it was taken; as its id says, if its manifest is about to go.
    pub taken: DateTime<Utc>,
    /// The reasons why it stays. If there are none, it goes.
    pub keep_because: Vec<String>,
    /// When it goes, unless something keeps it by then. `None`: it stays.
    pub goes_at: Option<DateTime<Utc>>,
}

/// A pack that one replica need not keep.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct DeadPack {
    /// The replica's name.
    pub replica: Name,
    /// The object's key.
    pub key: String,
    /// Its size in bytes.
    pub size: u64,
    /// Since when it is marked. If no mark names it: when prune first saw that no snapshot refers
    /// to it.
    pub unreferenced_since: DateTime<Utc>,
}

/// What prune will do. Making a plan changes nothing in a replica, but it puts lost signatures and
/// acts back.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PrunePlan {
    /// The dataset.
    pub dataset: Name,
    /// When the plan was made.
    pub made: DateTime<Utc>,
    /// All snapshots, oldest first.
    pub verdicts: Vec<Verdict>,
    /// Packs that go, because their grace period is over.
    pub packs: Vec<DeadPack>,
    /// Packs that will go when their grace period is over, or their lock.
    pub waiting: Vec<DeadPack>,
    /// Until when what would go now is locked, by replica: the last of its locks.
    pub locked: BTreeMap<Name, DateTime<Utc>>,
    /// Index segments that go, because all their packs will be gone: replica and object key.
    pub segments: Vec<(Name, String)>,
    /// Marks that are carried out, because their grace period is over.
    pub due: Vec<SnapshotId>,
    /// Marks that wait, and until when at least. Those that somebody vetoed are left out.
    pub waits: BTreeMap<SnapshotId, DateTime<Utc>>,
    /// Snapshots that are marked now.
    pub mark_snapshots: BTreeSet<SnapshotId>,
    /// Packs that are marked now.
    pub mark_packs: BTreeSet<PackId>,
    /// Objects of killed runs that are marked now.
    pub mark_objects: BTreeSet<String>,
    /// Objects of killed runs that go now.
    pub objects: BTreeSet<String>,
    /// Replicas that are left alone this time, and why.
    pub skipped: Vec<(Name, String)>,
    /// The size of the packs that snapshots need, and how much of it is unused.
    pub space: Space,
    /// The sparse packs. Until they are gone, no backup refers to them: it stores again what it
    /// needs of them.
    pub sparse: BTreeSet<PackId>,
    /// How many bytes of these the next backup stores again, before compression.
    pub again_bytes: u64,
}

impl Prune<'_> {
    /// Where what is marked and deleted is recorded before.
    fn log(&self) -> HostLog<'_> {
        HostLog { keys: self.keys, replicas: self.replicas, state: self.state }
    }
}

impl PrunePlan {
    /// The snapshots that go now.
    pub fn removed(&self) -> impl Iterator<Item = &SnapshotId> {
        let due = |verdict: &&Verdict| verdict.goes_at.is_some_and(|time| time <= self.made);
        self.verdicts.iter().filter(due).map(|verdict| &verdict.snapshot)
    }

    /// Whether there is nothing to do in any replica.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.packs.is_empty()
            && self.segments.is_empty()
            && self.due.is_empty()
            && self.removed().next().is_none()
            && self.mark_snapshots.is_empty()
            && self.mark_packs.is_empty()
            && self.mark_objects.is_empty()
            && self.objects.is_empty()
    }
}

/// What prune has done.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct PruneOutcome {
    /// How many snapshots were marked.
    pub marked_snapshots: u64,
    /// How many packs were marked.
    pub marked_packs: u64,
    /// How many snapshots were removed from at least one replica.
    pub snapshots: u64,
    /// How many packs were removed, summed over all replicas.
    pub packs: u64,
    /// The size of these packs in bytes.
    pub bytes: u64,
    /// How many objects of all kinds, summed over all replicas, are only hidden: their buckets keep
    /// versions, and free the space when they end them.
    pub hidden: u64,
    /// The size of the packs that snapshots need, and how much of it is unused.
    pub space: Space,
    /// The marks that somebody vetoed, and who.
    pub vetoed: BTreeMap<SnapshotId, BTreeSet<Name>>,
    /// Replicas in which nothing is deleted because something there is doubted. `failures` says
    /// why.
    pub stopped: Vec<Name>,
    /// What failed, an entry for each replica. The next prune tries it again.
    pub failures: Vec<String>,
    /// What this host could not note down. Nothing is deleted wrongly for that.
    pub forgotten: Vec<String>,
}

impl PruneOutcome {
    /// What this host could not note down is only told.
    fn remembered(&mut self, done: Result<()>) {
        self.forgotten.extend(done.err().map(|error| error.chain()));
    }
}
