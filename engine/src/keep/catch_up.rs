//! Catch-up copies to a replica that is behind what it lacks, from a healthy one.
//!
//! It copies ciphertext and needs no key that opens a pack. For each snapshot it copies keyring,
//! packs, index segment, manifest and signature, in this order. So a replica never shows a snapshot
//! that it cannot restore. The keyring object is this host's own copy, if it has one. Pruned
//! snapshots are not brought back. Packs that are missing or have the wrong size are replaced.
//! What a revoked signer signed is signed anew by this host, if two replicas date it from before.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bytes::Bytes;
use chrono::{DateTime, Utc};
use lifeboat_base::{Class, Error, Result};
use lifeboat_format::id::{Name, SnapshotId};
use lifeboat_format::index::MAX_INDEX_OBJECT_BYTES;
use lifeboat_format::keyring::MAX_KEYRING_OBJECT_BYTES;
use lifeboat_format::layout;
use lifeboat_format::manifest::MAX_MANIFEST_OBJECT_BYTES;
use lifeboat_format::record::MAX_RECORD_BYTES;
use lifeboat_store::SharedReplica;
use serde::Serialize;
use tokio_util::sync::CancellationToken;

use super::put_back::put_back;
use crate::catalog::ciphertext::{copy_pack, put_once};
use crate::catalog::documents::Documents;
use crate::catalog::inventory::{Inventory, all_snapshots};
use crate::catalog::outlines::{KeptOutlines, Outline, ReadOutlines};
use crate::catalog::removals::prune_records;
use crate::catalog::signed::{fetch_signed_pair, sign_plain};
use crate::catalog::taken::TimeClaim;
use crate::catalog::unbelieved::Unbelieved;
use crate::catalog::verdict::{Signed, combine};
use crate::config::{Dataset, Limits};
use crate::keys::sign::{MAX_SIGNATURE_BYTES, verify};
use crate::keys::{HostKeys, crypt};
use crate::state::StateDirectory;
use crate::state::cache::ObjectCache;

/// The state of one replica after a catch-up.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ReplicaState {
    /// The replica's name.
    pub replica: Name,
    /// Objects copied to it.
    pub copied_objects: u64,
    /// Their size in bytes.
    pub copied_bytes: u64,
    /// The newest snapshot that it holds whole.
    pub last_complete: Option<SnapshotId>,
    /// When all snapshots that it holds whole were taken. An id may tell a later time.
    #[serde(skip)]
    pub complete_since: BTreeSet<DateTime<Utc>>,
    /// Those of them whose times an operator has settled or confirmed.
    #[serde(skip)]
    pub vouched_for: BTreeSet<SnapshotId>,
    /// How many snapshots it still lacks, or holds only in part.
    pub behind: u64,
    /// Why it could not be brought up to date.
    pub error: Option<String>,
}

/// Brings every replica up to date for one dataset. The caller holds the dataset's lock.
///
/// # Errors
/// No replica can be listed, or the state directory fails. An error of one replica is in its
/// [`ReplicaState`].
pub async fn catch_up(
    dataset: &Dataset,
    keys: &HostKeys,
    replicas: &[SharedReplica],
    state: &StateDirectory,
    limits: &Limits,
    cancel: &CancellationToken,
) -> Result<Vec<ReplicaState>> {
    let name = &dataset.name;
    let (mut inventories, failed) = Inventory::take_all_to_write(replicas, &keys.vault, name).await;
    if inventories.is_empty() {
        return Err(combine(
            format!("no replica can be used for dataset {name}"),
            &failed.into_values().collect::<Vec<_>>(),
        ));
    }
    let cache = ObjectCache::open(state, name, &keys.trust.mark());
    let reader = keys.reader();
    let documents =
        Documents { vault: &keys.vault, dataset: name, keys: &reader, cache: Some(&cache), memory: limits.memory };
    let records = prune_records(&documents, &inventories).await;
    let mut unread = Unbelieved::new("a prune record that cannot be read");
    for (record, error) in &records.unreadable {
        let holders = inventories.iter().filter(|inventory| inventory.prunes.contains(record));
        unread.add(holders.map(|holder| holder.replica.name()), record, error);
    }
    unread.log("what it removed may be copied again");
    put_back(&documents, keys, &cache, &mut inventories, &records).await;
    let mut unread_signed = Vec::new();
    let snapshots = all_snapshots(&inventories);
    let snapshots = snapshots.into_iter().rev().filter(|snapshot| !records.snapshots.contains_key(snapshot));
    let kept = KeptOutlines::open(&cache, &keys.host_key, &keys.vault, name);
    let ReadOutlines { outlines, by_snapshot, unreadable } =
        documents.outlines(&inventories, snapshots, Some(&kept)).await;
    let all: Vec<&Outline> = by_snapshot.values().map(AsRef::as_ref).collect();
    let times = records.settled_times().among(all.iter().map(|outline| TimeClaim::from(*outline)));
    for (snapshot, error) in unreadable {
        // What nobody signed is missing nowhere.
        let holders = inventories.iter().filter(|inventory| inventory.snapshots.contains(&snapshot));
        if documents.signed(holders.map(|inventory| &inventory.replica), &snapshot).await >= Signed::Unknown {
            tracing::warn!(%snapshot, error = %error.chain(), "Skipping snapshot during catch-up: its manifest cannot be read");
            unread_signed.push(snapshot);
        }
    }

    let newest_prune = records.found.last().map(|record| &record.id);
    let mut states = Vec::new();
    for at in 0..inventories.len() {
        let target = inventories.remove(at);
        let mut run = CatchUp {
            dataset: name,
            documents: &documents,
            keys,
            target,
            others: &inventories,
            all_answer: failed.is_empty(),
            newest_prune,
            objects: 0,
            bytes: 0,
            cancel,
        };
        let is_complete = outlines.complete(name, &run.target);
        let incomplete = all.iter().filter(|outline| !is_complete[outline.place()]);
        let result = run.bring_up(&incomplete.map(|outline| &outline.snapshot).collect::<Vec<_>>()).await;
        let is_complete = outlines.complete(name, &run.target);
        let complete: Vec<&Outline> = all.iter().copied().filter(|outline| is_complete[outline.place()]).collect();
        // Of what cannot be read, no more is known than whether it is there.
        let lacking = unread_signed.iter().filter(|snapshot| !run.target.snapshots.contains(snapshot));
        states.push(ReplicaState {
            replica: run.target.replica.name().clone(),
            copied_objects: run.objects,
            copied_bytes: run.bytes,
            last_complete: complete.last().map(|outline| outline.snapshot.clone()),
            complete_since: complete.iter().map(|outline| times.time(outline)).collect(),
            vouched_for: complete
                .iter()
                .map(|outline| &outline.snapshot)
                .filter(|snapshot| times.is_vouched_for(snapshot))
                .cloned()
                .collect(),
            behind: (all.len() - complete.len() + lacking.count()) as u64,
            error: result.err().map(|error| error.chain()),
        });
        let target = run.target;
        inventories.insert(at, target);
    }
    states.extend(failed.into_iter().map(|(replica, error)| ReplicaState {
        replica,
        copied_objects: 0,
        copied_bytes: 0,
        last_complete: None,
        complete_since: BTreeSet::new(),
        vouched_for: BTreeSet::new(),
        behind: all.len() as u64,
        error: Some(error.chain()),
    }));
    Ok(states)
}

struct CatchUp<'a> {
    dataset: &'a Name,
    documents: &'a Documents<'a>,
    keys: &'a HostKeys,
    target: Inventory,
    others: &'a [Inventory],
    /// Whether every replica could be listed.
    all_answer: bool,
    /// The newest prune record that was believed.
    newest_prune: Option<&'a SnapshotId>,
    objects: u64,
    bytes: u64,
    cancel: &'a CancellationToken,
}

/// Signed objects of one kind that others show and a replica lacks.
struct Lacking {
    /// What one is that is not copied, with its article.
    kind: &'static str,
    shown: fn(&Inventory) -> &BTreeSet<SnapshotId>,
    key: fn(&Name, &SnapshotId) -> String,
    limit: u64,
}

impl CatchUp<'_> {
    /// Copies these snapshots, newest first. What is damaged everywhere costs the snapshots that
    /// need it, and no others.
    async fn bring_up(&mut self, incomplete: &[&SnapshotId]) -> Result<()> {
        let mut damaged = None;
        for snapshot in incomplete.iter().rev() {
            if self.cancel.is_cancelled() {
                return Err(cancelled());
            }
            match self.copy_snapshot(snapshot).await {
                Err(error) if matches!(error.class(), Class::Integrity | Class::Keys) => {
                    tracing::warn!(%snapshot, error = %error.chain(), "A snapshot cannot be copied");
                    damaged.get_or_insert(error);
                }
                copied => copied?,
            }
        }
        self.copy_others().await?;
        damaged.map_or(Ok(()), Err)
    }

    async fn copy_snapshot(&mut self, snapshot: &SnapshotId) -> Result<()> {
        let holders = self.others.iter().chain([&self.target]);
        let holders = holders.filter(|holder| holder.snapshots.contains(snapshot));
        let holders: Vec<SharedReplica> = holders.map(|holder| holder.replica.clone()).collect();
        let (manifest, _) = self.documents.manifest(&holders, snapshot).await?;
        let manifest = manifest.without_extents();
        for generation in manifest.generations() {
            self.copy_keyring(generation).await?;
        }
        for pack in &manifest.packs {
            if self.target.has(pack) {
                continue;
            }
            if self.cancel.is_cancelled() {
                return Err(cancelled());
            }
            let holders: Vec<&SharedReplica> =
                self.others.iter().filter(|other| other.has(pack)).map(|other| &other.replica).collect();
            self.bytes += copy_pack(self.dataset, pack, &holders, self.target.replica.as_ref()).await?;
            self.objects += 1;
            Arc::make_mut(&mut self.target.packs).insert(pack.id, pack.size);
        }
        let dataset = self.dataset;
        if !self.target.indexes.contains(snapshot) && self.others.iter().any(|other| other.indexes.contains(snapshot)) {
            let key = layout::index(dataset, snapshot);
            let copied = self.copy_signed(&key, MAX_INDEX_OBJECT_BYTES, |other| other.indexes.contains(snapshot));
            match copied.await {
                // A reader needs none.
                Err(error) if Signed::of(&error) < Signed::Unknown => {
                    tracing::warn!(%key, error = %error.chain(), "Not copying an index segment: no replica returns it signed");
                }
                copied => copied?,
            }
            self.target.indexes.insert(snapshot.clone());
        }
        if !self.target.snapshots.contains(snapshot) {
            let key = layout::manifest(dataset, snapshot);
            let limit = MAX_MANIFEST_OBJECT_BYTES;
            self.copy_signed(&key, limit, |other| other.snapshots.contains(snapshot)).await?;
            self.target.snapshots.insert(snapshot.clone());
        }
        Ok(())
    }

    /// Copies what else the others hold: the newest prune record, marks, index segments of
    /// snapshots that are gone, and drill records.
    async fn copy_others(&mut self) -> Result<()> {
        // Only the newest record matters: it repeats what still matters from older ones.
        if let Some(id) = self.newest_prune.filter(|id| !self.target.prunes.contains(id)) {
            let key = layout::prune(self.dataset, id);
            self.copy_signed(&key, MAX_RECORD_BYTES as u64, |other| other.prunes.contains(id)).await?;
        }
        let marks = Lacking {
            kind: "a mark that no replica returns signed",
            shown: |inventory| &inventory.marks,
            key: layout::mark,
            limit: MAX_RECORD_BYTES as u64,
        };
        self.copy_lacking(&marks).await?;
        let indexes = Lacking {
            kind: "an index segment that no replica returns signed",
            shown: |inventory| &inventory.indexes,
            key: layout::index,
            limit: MAX_INDEX_OBJECT_BYTES,
        };
        self.copy_lacking(&indexes).await?;
        if !self.keys.trust.knows_drill_hosts() {
            return Ok(());
        }
        let drills = Lacking {
            kind: "a drill report that no replica returns signed",
            shown: |inventory| &inventory.drills,
            key: layout::drill,
            limit: MAX_RECORD_BYTES as u64,
        };
        self.copy_lacking(&drills).await
    }

    /// Copies what a trusted signer signed, newest first. What no replica returns signed is not
    /// missing anywhere: anybody can put it there. So that is warned of, and is no failure of the
    /// replica that lacks it.
    async fn copy_lacking(&mut self, lacking: &Lacking) -> Result<()> {
        let shown = lacking.shown;
        let own = shown(&self.target);
        let ids = self.others.iter().flat_map(shown).filter(|id| !own.contains(id));
        let ids: BTreeSet<SnapshotId> = ids.cloned().collect();
        let (mut unbelieved, mut result) = (Unbelieved::new(lacking.kind), Ok(()));
        for id in ids.iter().rev() {
            let holders = self.others.iter().filter(|other| shown(other).contains(id));
            let holders: Vec<Name> = holders.map(|holder| holder.replica.name().clone()).collect();
            if unbelieved.leaves_aside(&holders) {
                continue;
            }
            let key = (lacking.key)(self.dataset, id);
            let copied = self.copy_signed(&key, lacking.limit, |other| shown(other).contains(id));
            match copied.await {
                Ok(()) => {}
                Err(error) if Signed::of(&error) < Signed::Unknown => unbelieved.add(&holders, &key, &error),
                Err(error) => {
                    result = Err(error);
                    break;
                }
            }
        }
        unbelieved.log("it is not copied");
        result
    }

    /// Nothing here opens a keyring object, so this host's own copy counts, if it has one. Of other
    /// generations, one counts that somebody signed who may; without a root nobody need have.
    async fn copy_keyring(&mut self, generation: u32) -> Result<()> {
        let key = layout::keyring_generation(self.dataset, generation);
        if self.target.keyring.contains(&key) {
            return Ok(());
        }
        let own = self.keys.datasets.get(self.dataset).filter(|own| own.generation == generation);
        let body = match own {
            Some(own) => own.wrapped.clone(),
            None if self.keys.trust.root().is_some() => {
                let copied =
                    self.copy_signed(&key, MAX_KEYRING_OBJECT_BYTES as u64, |other| other.keyring.contains(&key));
                copied.await?;
                self.target.keyring.insert(key);
                return Ok(());
            }
            None => self.keyring_of_others(&key).await?,
        };
        if own.is_some() {
            self.sign_keyring(&key, &body).await?;
        }
        self.bytes += body.len() as u64;
        put_once(self.target.replica.as_ref(), &key, body).await?;
        self.objects += 1;
        self.target.keyring.insert(key);
        Ok(())
    }

    /// Puts the signature of this host's own keyring object beside it: one that another replica
    /// has, or else a new one.
    async fn sign_keyring(&self, key: &str, body: &Bytes) -> Result<()> {
        let (at, keys) = (layout::signature(key), self.keys);
        let comment = layout::trusted_comment(&keys.vault, key);
        let mut found = None;
        for other in self.others.iter().filter(|other| other.keyring.contains(&at)) {
            let signature = other.replica.get(&at, MAX_SIGNATURE_BYTES as u64).await.ok();
            let is_good = |text: &Bytes| verify(&[keys.signer.public()], body, text, &comment).is_ok();
            found = found.or(signature.filter(is_good));
        }
        let signature = match found {
            Some(signature) => signature,
            None => keys.signer.sign(body, &comment)?.into(),
        };
        Ok(self.target.replica.put_replace(&at, signature).await?)
    }

    /// The keyring object that more replicas hold than any other. One replica alone is believed
    /// only if all replicas answer: then no other can be asked. Nothing here can tell whether an
    /// answer is whole, so each is asked twice.
    async fn keyring_of_others(&self, key: &str) -> Result<Bytes> {
        let (mut bodies, mut errors) = (BTreeMap::<Bytes, Vec<&str>>::new(), Vec::new());
        for holder in self.others.iter().filter(|other| other.keyring.contains(key)) {
            let replica = holder.replica.name();
            match same_twice(&holder.replica, key, MAX_KEYRING_OBJECT_BYTES as u64).await {
                Ok(body) => match crypt::check_is_age_file(&body) {
                    Ok(()) => bodies.entry(body).or_default().push(replica.as_str()),
                    Err(error) => errors.push(error.within(format!("replica {replica}: {key}"))),
                },
                Err(error) => errors.push(error),
            }
        }
        let mut found: Vec<(Bytes, Vec<&str>)> = bodies.into_iter().collect();
        found.sort_by_key(|(_, holders)| std::cmp::Reverse(holders.len()));
        let again = "find out with `lifeboat restore --replica` which one opens the backups, and remove the others";
        match &found[..] {
            [] if errors.is_empty() => Err(Error::keys(format!("no replica holds {key}"))
                .hint("put it back from a copy: without it, nobody opens the packs of this generation")),
            [] => Err(combine(format!("no replica returns a good {key}"), &errors)),
            [(_, one), (_, other), ..] if one.len() == other.len() => Err(Error::keys(format!(
                "{key} is different in {} and in {}",
                one.join(" and in "),
                other.join(" and in ")
            ))
            .hint(again)),
            [(_, holders)] if holders.len() == 1 && !(self.all_answer && errors.is_empty()) => {
                Err(Error::keys(format!("{} alone returns {key}, and not all replicas answer", holders[0]))
                    .hint("it is copied when all replicas answer"))
            }
            [(body, _), ..] => Ok(body.clone()),
        }
    }

    /// Copies an object, then its signature, from the first replica that has a valid pair.
    async fn copy_signed(&mut self, key: &str, limit: u64, holds: impl Fn(&Inventory) -> bool) -> Result<()> {
        let signature_key = layout::signature(key);
        let mut errors = Vec::new();
        for other in self.others.iter().filter(|other| holds(other)) {
            let source = other.replica.as_ref();
            match fetch_signed_pair(source, key, limit, &self.keys.vault, &self.keys.trust).await {
                Ok((object, signature)) => {
                    // What a revoked signer signed counts for its date, which the copy does not
                    // have. So this host signs for it.
                    let is_dated = self.keys.trust.verify(&self.keys.vault, key, &object, &signature).is_err();
                    let signature = if is_dated && !key.starts_with(&layout::drills(self.dataset)) {
                        if !self.is_dated_besides(other, key, limit, &object, &holds).await {
                            errors.push(dated_once(other.replica.name(), key));
                            continue;
                        }
                        sign_plain(key.to_owned(), object.to_vec(), &self.keys.vault, &self.keys.signer)?.signature
                    } else {
                        signature
                    };
                    self.bytes += (object.len() + signature.len()) as u64;
                    self.objects += 2;
                    put_once(self.target.replica.as_ref(), key, object).await?;
                    return put_once(self.target.replica.as_ref(), &signature_key, signature).await;
                }
                Err(error) => errors.push(error),
            }
        }
        Err(combine(format!("no replica returns a valid {key}"), &errors))
    }

    /// Whether another replica than `first`, too, dates this object before its signer was revoked:
    /// the owner of one bucket can write any date there.
    async fn is_dated_besides(
        &self,
        first: &Inventory,
        key: &str,
        limit: u64,
        object: &Bytes,
        holds: &impl Fn(&Inventory) -> bool,
    ) -> bool {
        for other in self.others.iter().filter(|other| other.replica.name() != first.replica.name() && holds(other)) {
            let pair = fetch_signed_pair(other.replica.as_ref(), key, limit, &self.keys.vault, &self.keys.trust).await;
            if pair.is_ok_and(|(found, _)| found == *object) {
                return true;
            }
        }
        false
    }
}

fn dated_once(replica: &Name, key: &str) -> Error {
    Error::keys(format!("replica {replica} alone dates {key} before its signer was revoked, so it is not copied"))
        .hint("it can still be restored from that replica, with --replica; it is copied when a second one has it")
}

/// An object of which a replica gives the same bytes twice, so that none of them changed on its
/// way.
async fn same_twice(replica: &SharedReplica, key: &str, limit: u64) -> Result<Bytes> {
    let (first, second) = (replica.get(key, limit).await?, replica.get(key, limit).await?);
    if first != second {
        let name = replica.name();
        return Err(Error::storage(format!("replica {name} answers {key} in two ways"))
            .hint("an answer was damaged on its way: it is copied when two answers are equal"));
    }
    Ok(first)
}

fn cancelled() -> Error {
    // `ReplicaState` shows the chain of causes, not the hint.
    Error::cancelled("the catch-up")
        .because("what was copied stays")
        .hint("what was copied stays; the daemon goes on with the rest")
}
