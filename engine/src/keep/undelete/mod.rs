//! Undelete brings back what a bucket had at a moment, and somebody has hidden or overwritten
//! since. The bucket must keep versions.
//!
//! - **How**: where nothing but delete markers lies above the version of then, they are removed: so
//!   it keeps its time, costs nothing, and no lifecycle rule ends it. Where that is not permitted,
//!   and where something else lies above it, the version is copied to the top within the store.
//!   That needs no more than the rights to read and to write. No version is ever removed.
//! - **What stays**: an object that was written after the moment and is valid (`judge.rs`), and
//!   what a prune has deleted (`pruned.rs`), unless the caller wants these, too.
//! - **The order**: keys, packs and index segments first, then manifests and records, then
//!   signatures, and `vault.json` last. So no snapshot is there before its packs, and a bucket
//!   without `vault.json` is left alone by everybody until all is there.
//! - **What fails** ends its replica before the next of these turns: nothing appears without what
//!   it needs. It is told, and so is each bucket that shows no vault of then.
//! - **Again**: what is there is passed over, so whoever was interrupted does it again.
//! - **Bounds**: a page of a listing, the names of small objects, four objects that are judged.

mod fate;
mod judge;
mod pruned;
mod revoked;
mod roots;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use chrono::{DateTime, Utc};
use futures::StreamExt;
use lifeboat_base::{Class, Error, Result};
use lifeboat_format::act::MAX_ACT_BYTES;
use lifeboat_format::layout;
use lifeboat_format::log::MAX_LOG_RECORD_BYTES;
use lifeboat_store::{ReplicaErrorKind, SharedReplica, ThenAndNow, VersionWalk};
use serde::Serialize;
use tokio_util::sync::CancellationToken;

use self::fate::Fate;
use self::judge::FateJudge;
pub use self::pruned::PruneFound;
use self::pruned::Pruned;
use self::revoked::RevokedSigners;
use self::roots::RightRoots;
use crate::keys::sign::MAX_SIGNATURE_BYTES;
use crate::restore::VaultReader;

/// So many objects are brought back at once.
const BROUGHT_AT_ONCE: usize = 16;
/// So many objects are judged at once, each of which may be a pack.
const JUDGED_AT_ONCE: usize = 4;
/// No more names or failures of a replica are told.
const MAX_TOLD_OBJECTS: usize = 1000;

/// Everything that undelete needs.
pub struct Undelete<'a> {
    /// The vault as it was at the moment.
    pub past: &'a VaultReader,
    /// The same replicas as they are now.
    pub replicas: &'a [SharedReplica],
    /// The moment.
    pub moment: DateTime<Utc>,
    /// What is brought back beside the rest.
    pub also: UndeleteAlso,
    /// When it fires, nothing more is brought back.
    pub cancel: CancellationToken,
}

/// What is brought back only if somebody asks for it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct UndeleteAlso {
    /// What a prune deleted, as a record says that is believed.
    pub pruned: bool,
    /// What was there at the moment in place of something newer that is valid.
    pub rewritten: bool,
}

/// Objects, and their size in bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Tally {
    /// How many.
    pub objects: u64,
    /// Their size together.
    pub bytes: u64,
}

/// What is to be done in one replica, or was done.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct ReplicaUndelete {
    /// Its name.
    pub replica: String,
    /// What was deleted since, and comes back.
    pub hidden: Tally,
    /// What was overwritten since with something that is not valid, and comes back.
    pub overwritten: Tally,
    /// Valid objects that were written since in place of others. They stay, unless the caller wants
    /// the others.
    pub rewritten: Vec<String>,
    /// What prunes deleted since. It stays deleted, unless the caller wants it.
    pub pruned: Tally,
    /// The prunes that say so.
    pub prunes: Vec<PruneFound>,
    /// Objects that did not exist at the moment. They stay.
    pub newer: u64,
    /// Objects that did not exist at the moment and have been deleted since.
    pub newer_hidden: u64,
    /// Objects of no kind that belongs to a vault, which were deleted since. They stay deleted.
    pub strange_hidden: u64,
    /// Objects that were not valid then, as they came later than their date, and with nothing
    /// better below. They stay as they are.
    pub not_valid: u64,
    /// Objects that lie in an archive, so that they could not be brought back yet.
    pub frozen: u64,
    /// Signatures and acts of signers whom the root has revoked, which were copied: they are dated
    /// anew, so nobody believes them any more.
    pub redated: u64,
    /// What was brought back so far.
    pub done: Tally,
    /// What went wrong.
    pub failures: Vec<String>,
}

impl ReplicaUndelete {
    /// Whether nothing is to be brought back.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.hidden.objects + self.overwritten.objects == 0
    }

    fn fail(&mut self, why: String) {
        if self.failures.len() < MAX_TOLD_OBJECTS {
            self.failures.push(why);
        }
    }

    /// Counts what was decided. Returns whether the object comes back.
    fn count(&mut self, key: &ThenAndNow, fate: Fate, also: UndeleteAlso) -> bool {
        let size = key.then.as_ref().map_or(0, lifeboat_store::KeptVersion::size);
        let add = |tally: &mut Tally| {
            tally.objects += 1;
            tally.bytes += size;
        };
        match fate {
            Fate::Same => false,
            Fate::Strange => {
                // Probes and leases come and go.
                let passes = key.key.starts_with("probe/") || key.key.ends_with("/lease");
                self.strange_hidden += u64::from(key.then.is_some() && key.now.is_none() && !passes);
                false
            }
            Fate::Newer => {
                *(if key.now.is_some() { &mut self.newer } else { &mut self.newer_hidden }) += 1;
                false
            }
            Fate::Hidden => {
                add(&mut self.hidden);
                true
            }
            Fate::NotValid => {
                self.not_valid += 1;
                false
            }
            Fate::Overwritten => {
                add(&mut self.overwritten);
                true
            }
            Fate::Rewritten => {
                if self.rewritten.len() < MAX_TOLD_OBJECTS {
                    self.rewritten.push(key.key.clone());
                }
                if also.rewritten {
                    add(&mut self.overwritten);
                }
                also.rewritten
            }
            Fate::Pruned => {
                add(&mut self.pruned);
                if also.pruned {
                    add(&mut self.hidden);
                }
                also.pruned
            }
            Fate::Unknown(why) => {
                self.fail(why);
                false
            }
        }
    }
}

/// When an object is brought back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Turn {
    First,
    Documents,
    Signatures,
    Vault,
}

impl Turn {
    fn of(key: &str) -> Self {
        if key == layout::VAULT {
            return Self::Vault;
        }
        // A root is there only when it can be believed, so its signatures come first.
        if layout::parse_root(key).is_some() {
            return Self::Documents;
        }
        let folder = key.strip_prefix(layout::DATASETS).and_then(|rest| rest.split('/').nth(1));
        match folder {
            Some("packs" | "index") | None => Self::First,
            Some(_) if layout::is_signature(key) => Self::Signatures,
            Some(_) => Self::Documents,
        }
    }
}

impl Undelete<'_> {
    /// Looks at every replica that could be read as of the moment. Changes nothing.
    ///
    /// # Errors
    /// It was cancelled. A replica that fails has that in its `failures`.
    pub async fn plan(&self) -> Result<Vec<ReplicaUndelete>> {
        self.each(false).await
    }

    /// Brings back what [`Self::plan`] tells, as it is found now.
    ///
    /// # Errors
    /// As [`Self::plan`].
    pub async fn execute(&self) -> Result<Vec<ReplicaUndelete>> {
        self.each(true).await
    }

    async fn each(&self, write: bool) -> Result<Vec<ReplicaUndelete>> {
        let mut all = Vec::new();
        for now in self.replicas {
            let mut found = ReplicaUndelete { replica: now.name().to_string(), ..ReplicaUndelete::default() };
            let Some(past) = self.past.replicas().iter().find(|past| past.name() == now.name()) else {
                let why = self.past.unreachable().get(now.name()).map_or("it shows no vault of then", String::as_str);
                found.fail(format!("replica {}: nothing was brought back: {why}", now.name()));
                all.push(found);
                continue;
            };
            match self.in_replica(past, now, write, &mut found).await {
                Err(error) if self.cancel.is_cancelled() => return Err(error),
                Err(error) => found.fail(error.chain_and_hint()),
                Ok(()) => {}
            }
            all.push(found);
        }
        Ok(all)
    }

    async fn in_replica(
        &self,
        past: &SharedReplica,
        now: &SharedReplica,
        write: bool,
        found: &mut ReplicaUndelete,
    ) -> Result<()> {
        let mut pruned = BTreeMap::new();
        for dataset in self.past.only(past).datasets().await? {
            let of = Pruned::look(self.past, past, now, &dataset, self.moment).await?;
            found.prunes.extend(of.found.iter().cloned());
            pruned.insert(dataset, of);
        }
        let roots = RightRoots::look(self.past, past, now).await;
        let judge = FateJudge { past: self.past, then: past, now, pruned: &pruned, roots: &roots };
        let revoked = RevokedSigners::of(self.past.keys().trust.root().as_deref());
        let (frozen, redated) = (AtomicU64::new(0), AtomicU64::new(0));
        let bringer = Bringer { now, may_uncover: AtomicBool::new(true), frozen, revoked, redated };
        let (mut walk, mut later) = (VersionWalk::new("", self.moment), Vec::new());
        while let Some(keys) = walk.next(now.as_ref()).await? {
            let judged = futures::stream::iter(keys).map(|mut key| async { (judge.fate(&mut key).await, key) });
            let judged: Vec<_> = judged.buffered(JUDGED_AT_ONCE).collect().await;
            let mut first = Vec::new();
            for (fate, key) in judged {
                if found.count(&key, fate?, self.also) && write {
                    let turn = Turn::of(&key.key);
                    if turn == Turn::First {
                        first.push(key);
                    } else {
                        walk.admit(now.as_ref(), &key)?;
                        later.push((turn, key));
                    }
                }
            }
            self.bring(&bringer, first, found).await?;
        }
        later.sort_by_key(|(turn, _)| *turn);
        for part in later.chunk_by(|(a, _), (b, _)| a == b) {
            if !found.failures.is_empty() {
                let count = later.iter().filter(|(turn, _)| *turn >= part[0].0).count();
                found.fail(format!(
                    "replica {}: {count} more objects, which need what failed, were left as they are",
                    now.name()
                ));
                break;
            }
            self.bring(&bringer, part.iter().map(|(_, key)| key.clone()).collect(), found).await?;
        }
        Ok(())
    }

    /// Brings back all of `keys`, or fails if nobody may.
    async fn bring(&self, bringer: &Bringer<'_>, keys: Vec<ThenAndNow>, found: &mut ReplicaUndelete) -> Result<()> {
        let brought = futures::stream::iter(keys).map(|key| async { (bringer.bring(&key).await, key) });
        let mut brought = std::pin::pin!(brought.buffer_unordered(BROUGHT_AT_ONCE));
        loop {
            found.frozen = bringer.frozen.load(Ordering::Relaxed);
            found.redated = bringer.redated.load(Ordering::Relaxed);
            let next = tokio::select! {
                next = brought.next() => next,
                () = self.cancel.cancelled() => return Err(cancelled()),
            };
            let Some((result, key)) = next else { return Ok(()) };
            match result {
                Ok(()) => {
                    found.done.objects += 1;
                    found.done.bytes += key.then.map_or(0, |then| then.size());
                }
                Err(error) if error.class() == Class::Keys => return Err(error),
                Err(error) => found.fail(error.chain_and_hint()),
            }
        }
    }
}

/// Brings single objects back.
struct Bringer<'a> {
    now: &'a SharedReplica,
    /// Whether delete markers may be removed: no answer has shown otherwise.
    may_uncover: AtomicBool,
    /// How many lie in an archive.
    frozen: AtomicU64,
    revoked: RevokedSigners,
    /// How many of their signatures and acts were copied.
    redated: AtomicU64,
}

impl Bringer<'_> {
    async fn bring(&self, key: &ThenAndNow) -> Result<()> {
        let Some(then) = &key.then else { return Ok(()) };
        let markers = key.covers.as_ref().filter(|_| self.may_uncover.load(Ordering::Relaxed));
        for (at, marker) in markers.into_iter().flatten().enumerate() {
            match self.now.uncover(&key.key, marker).await {
                Ok(()) if key.covers.as_ref().is_some_and(|covers| at + 1 == covers.len()) => return Ok(()),
                Ok(()) => {}
                Err(error) if matches!(error.kind, ReplicaErrorKind::Denied(_)) => {
                    self.may_uncover.store(false, Ordering::Relaxed);
                    break;
                }
                Err(error) => return Err(error.into()),
            }
        }
        self.now.copy_version(&key.key, &then.id).await.map_err(|error| match error.kind {
            ReplicaErrorKind::Denied(_) => Error::keys(error.to_string())
                .hint("use credentials that may read old versions and write (s3:GetObjectVersion, s3:PutObject)"),
            ReplicaErrorKind::Frozen(_) => {
                self.frozen.fetch_add(1, Ordering::Relaxed);
                error.into()
            }
            _ => error.into(),
        })?;
        let is_act = judge::dataset_of(&key.key).is_some_and(|of| layout::parse_act(&of, &key.key).is_some());
        let is_record = layout::parse_log_record(&key.key).is_some();
        if (is_act || is_record || layout::is_signature(&key.key)) && !self.revoked.is_empty() {
            let longest = match (is_act, is_record) {
                (true, _) => MAX_ACT_BYTES,
                (_, true) => MAX_LOG_RECORD_BYTES,
                _ => MAX_SIGNATURE_BYTES,
            };
            let copied = self.now.get_version(&key.key, &then.id, longest as u64).await?;
            self.redated.fetch_add(u64::from(self.revoked.made(&copied)), Ordering::Relaxed);
        }
        Ok(())
    }
}

fn cancelled() -> Error {
    Error::cancelled("the undelete").hint("what was brought back stays; run it again for the rest")
}
