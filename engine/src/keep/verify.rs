//! Verify: every object of a dataset in every replica: presence, hashes, signatures, the chain of
//! predecessors.
//!
//! Each replica is judged alone, as if the others were lost. What is wrong with the data is a
//! finding; only what prevents looking is an error.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use futures::{StreamExt, TryStreamExt};
use lifeboat_base::{Class, Context, Error, Result};
use lifeboat_format::id::{Name, PackId, SnapshotId};
use lifeboat_format::layout;
use lifeboat_format::manifest::{Manifest, PackRef};
use serde::Serialize;
use tokio_util::sync::CancellationToken;

use super::prune::pruned_snapshots;
use crate::catalog::ciphertext::fetch_ciphertext;
use crate::catalog::documents::fetch_signed;
use crate::catalog::inventory::Inventory;
use crate::keys::{PackKeys, ReaderKeys};
use crate::restore::VaultReader;
use crate::restore::fetch;

/// Packs that are read at once from one replica.
const PACKS_AT_ONCE: usize = 4;

/// Something wrong.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// Where.
    pub replica: Name,
    /// The object's key.
    pub object: String,
    /// What is wrong, in plain words.
    pub problem: String,
}

/// What was looked at and what was found.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct VerifyReport {
    /// Snapshots looked at.
    pub snapshots: u64,
    /// Packs looked at, over all replicas.
    pub packs: u64,
    /// Bytes read, over all replicas.
    pub bytes: u64,
    /// Bytes decrypted, with `read_data`.
    pub decrypted_bytes: u64,
    /// Empty: all is well.
    pub findings: Vec<Finding>,
    /// What is not wrong but worth knowing: a replica behind, packs no snapshot refers to.
    pub notes: Vec<String>,
}

/// Verifies one or all snapshots of a dataset in every replica of `reader`. With `read_data` every
/// pack is also decrypted, decompressed and its chunks are checked.
///
/// # Errors
/// It could not look: no replica lists, cancelled, or no identity opens the dataset's packs
/// although `read_data` is asked for.
pub async fn verify(
    reader: &VaultReader,
    dataset: &Name,
    only: Option<&SnapshotId>,
    read_data: bool,
    cancel: &CancellationToken,
) -> Result<VerifyReport> {
    let (inventories, failed) = Inventory::take_all(reader.replicas(), reader.vault_id(), dataset).await;
    let keys = reader.document_keys(dataset).await;
    let pruned = pruned_snapshots(&reader.documents(dataset, &keys), &inventories).await;
    let everywhere: BTreeSet<&SnapshotId> = inventories.iter().flat_map(|inventory| &inventory.snapshots).collect();
    if let Some(snapshot) = only.filter(|snapshot| !everywhere.contains(snapshot)) {
        return Err(Error::usage(format!("dataset {dataset} has no snapshot {snapshot}")));
    }
    let newest = everywhere.last().copied();
    let mut report = VerifyReport::default();
    report.findings.extend(failed.into_iter().map(|(replica, error)| Finding {
        replica,
        object: layout::dataset(dataset),
        problem: format!("cannot be listed: {}", error.chain()),
    }));
    let mut snapshots = BTreeSet::new();
    for inventory in &inventories {
        let mut judge =
            Judge { reader, dataset, keys: &keys, inventory, pack_keys: BTreeMap::new(), report: &mut report };
        let manifests = judge.manifests(only, cancel).await?;
        judge.chain(&manifests, &everywhere, &pruned);
        judge.keyring(&manifests, read_data).await?;
        judge.packs(&manifests, read_data, cancel).await?;
        if only.is_none() {
            judge.others(cancel).await?;
            judge.leftovers(&manifests, newest, &pruned);
        }
        snapshots.extend(manifests.into_keys());
    }
    report.snapshots = snapshots.len() as u64;
    Ok(report)
}

/// Looks at one replica.
struct Judge<'a> {
    reader: &'a VaultReader,
    dataset: &'a Name,
    keys: &'a ReaderKeys,
    inventory: &'a Inventory,
    pack_keys: BTreeMap<u32, Arc<PackKeys>>,
    report: &'a mut VerifyReport,
}

impl Judge<'_> {
    fn finding(&mut self, object: String, problem: impl Into<String>) {
        let replica = self.inventory.replica.name().clone();
        self.report.findings.push(Finding { replica, object, problem: problem.into() });
    }

    fn note(&mut self, note: &str) {
        self.report.notes.push(format!("replica {}: {note}", self.inventory.replica.name()));
    }

    async fn manifests(
        &mut self,
        only: Option<&SnapshotId>,
        cancel: &CancellationToken,
    ) -> Result<BTreeMap<SnapshotId, Manifest>> {
        let mut manifests = BTreeMap::new();
        let wanted: Vec<SnapshotId> = match only {
            Some(snapshot) => vec![snapshot.clone()],
            None => self.inventory.snapshots.iter().cloned().collect(),
        };
        for snapshot in wanted {
            if cancel.is_cancelled() {
                return Err(Error::failed("the verification was cancelled"));
            }
            let documents = self.reader.documents(self.dataset, self.keys);
            let manifest = documents.manifest(self.inventory.replica.as_ref(), &snapshot).await;
            match manifest.and_then(|manifest| manifest.check_extents().map(|()| manifest.without_extents())) {
                Ok(manifest) => drop(manifests.insert(snapshot, manifest)),
                Err(error) => self.finding(layout::manifest(self.dataset, &snapshot), error.chain()),
            }
        }
        Ok(manifests)
    }

    /// Every predecessor is there or was pruned on purpose.
    fn chain(
        &mut self,
        manifests: &BTreeMap<SnapshotId, Manifest>,
        everywhere: &BTreeSet<&SnapshotId>,
        pruned: &BTreeSet<SnapshotId>,
    ) {
        for manifest in manifests.values() {
            let Some(predecessor) = &manifest.predecessor else { continue };
            if !everywhere.contains(predecessor) && !pruned.contains(predecessor) {
                self.finding(
                    layout::manifest(self.dataset, predecessor),
                    format!(
                        "is missing: {} names it as its predecessor and no prune record explains it",
                        manifest.snapshot
                    ),
                );
            }
        }
    }

    async fn keyring(&mut self, manifests: &BTreeMap<SnapshotId, Manifest>, read_data: bool) -> Result<()> {
        let generations: BTreeSet<u32> = manifests.values().map(|manifest| manifest.generation).collect();
        let alone = self.reader.only(&self.inventory.replica);
        for generation in generations {
            let key = layout::keyring_generation(self.dataset, generation);
            if !self.inventory.keyring.contains(&key) {
                self.finding(key, "is missing: this replica alone could not restore");
                if read_data {
                    let pack_keys = self.reader.pack_keys(self.dataset, generation).await?;
                    self.pack_keys.insert(generation, Arc::new(pack_keys));
                }
                continue;
            }
            match alone.pack_keys(self.dataset, generation).await {
                Ok(pack_keys) => drop(self.pack_keys.insert(generation, Arc::new(pack_keys))),
                Err(error) if error.class() == Class::Keys && read_data => return Err(error),
                // On a backup host nothing opens it: present is all that can be said.
                Err(error) if error.class() == Class::Keys => {}
                Err(error) => self.finding(key, error.chain()),
            }
        }
        Ok(())
    }

    async fn packs(
        &mut self,
        manifests: &BTreeMap<SnapshotId, Manifest>,
        read_data: bool,
        cancel: &CancellationToken,
    ) -> Result<()> {
        let mut packs: BTreeMap<PackId, (PackRef, u32, SnapshotId)> = BTreeMap::new();
        for manifest in manifests.values() {
            for pack in &manifest.packs {
                packs.entry(pack.0).or_insert_with(|| (*pack, manifest.generation, manifest.snapshot.clone()));
            }
        }
        let (replica, dataset, pack_keys) = (&self.inventory.replica, self.dataset, &self.pack_keys);
        let looked: Vec<(PackRef, SnapshotId, Result<u64>)> = futures::stream::iter(packs.into_values())
            .map(|(pack, generation, snapshot)| async move {
                if cancel.is_cancelled() {
                    return Err(Error::failed("the verification was cancelled"));
                }
                let looked = async {
                    let ciphertext = fetch_ciphertext(replica.as_ref(), dataset, &pack).await?;
                    let Some(pack_keys) = pack_keys.get(&generation).filter(|_| read_data).cloned() else {
                        return Ok(0);
                    };
                    let opened = tokio::task::spawn_blocking(move || {
                        let all = fetch::open(&ciphertext, pack.2, &pack_keys, &[(0, pack.2)])?;
                        drop(ciphertext);
                        // A restore need not look at each chunk: the signed manifest names the
                        // ciphertext by its hash, and the hash of the whole stream is checked at
                        // the end. Who looks for the chunk that is wrong must.
                        all.check(&pack_keys.chunk_id_key)
                    });
                    opened.await.context(Class::Failed, || "a worker thread failed")?
                };
                Ok((pack, snapshot, looked.await))
            })
            .buffer_unordered(PACKS_AT_ONCE)
            .try_collect()
            .await?;
        for (pack, snapshot, looked) in looked {
            self.report.packs += 1;
            match looked {
                Ok(decrypted) => {
                    self.report.bytes += pack.1;
                    self.report.decrypted_bytes += decrypted;
                }
                Err(error) => self.finding(
                    layout::pack(self.dataset, &pack.0),
                    format!("{} (needed by {snapshot} and perhaps others)", error.chain()),
                ),
            }
        }
        Ok(())
    }

    /// Index segments, drill reports, prune records.
    async fn others(&mut self, cancel: &CancellationToken) -> Result<()> {
        let inventory = self.inventory;
        let replica = inventory.replica.as_ref();
        for snapshot in &inventory.indexes {
            if cancel.is_cancelled() {
                return Err(Error::failed("the verification was cancelled"));
            }
            let segment = self.reader.documents(self.dataset, self.keys).index(replica, snapshot).await;
            if let Err(error) = segment.and_then(|segment| segment.packs().try_for_each(|pack| pack.map(drop))) {
                self.finding(layout::index(self.dataset, snapshot), error.chain());
            }
        }
        let vault = self.reader.vault_id();
        for id in &inventory.prunes {
            let key = layout::prune(self.dataset, id);
            if let Err(error) = fetch_signed(replica, &key, vault, &self.keys.trusted_signers).await {
                self.finding(key, error.chain());
            }
        }
        if self.keys.trusted_drill_signers.is_empty() {
            if !inventory.drills.is_empty() {
                self.note("drill reports were not checked: no trusted drill signer is known");
            }
            return Ok(());
        }
        for id in &inventory.drills {
            let key = layout::drill(self.dataset, id);
            if let Err(error) = fetch_signed(replica, &key, vault, &self.keys.trusted_drill_signers).await {
                self.finding(key, error.chain());
            }
        }
        Ok(())
    }

    /// What is not wrong but worth knowing.
    fn leftovers(
        &mut self,
        manifests: &BTreeMap<SnapshotId, Manifest>,
        newest: Option<&SnapshotId>,
        pruned: &BTreeSet<SnapshotId>,
    ) {
        let inventory = self.inventory;
        let referenced: BTreeSet<PackId> =
            manifests.values().flat_map(|manifest| manifest.packs.iter().map(|pack| pack.0)).collect();
        let unreferenced = inventory.packs.keys().filter(|pack| !referenced.contains(pack)).count();
        if unreferenced > 0 {
            self.note(&format!(
                "{unreferenced} packs belong to no snapshot; prune removes them after the grace period"
            ));
        }
        if !inventory.unsigned.is_empty() {
            self.note(&format!(
                "{} manifests have no signature: commits that were interrupted",
                inventory.unsigned.len()
            ));
        }
        if let Some(newest) = newest.filter(|newest| !inventory.snapshots.contains(newest)) {
            self.note(&format!("is behind: it lacks the newest snapshot {newest}"));
        }
        let shown = inventory.snapshots.iter().filter(|snapshot| pruned.contains(snapshot)).count();
        if shown > 0 {
            self.note(&format!("{shown} pruned snapshots are still here; the next prune removes them"));
        }
        if !inventory.strangers.is_empty() {
            self.note(&format!(
                "{} objects are not Lifeboat's, such as {}",
                inventory.strangers.len(),
                inventory.strangers[0]
            ));
        }
    }
}
