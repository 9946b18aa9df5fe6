//! Verify checks every object of a dataset in every replica: presence, hashes, signatures, and the
//! chain of predecessors.
//!
//! Each replica is judged alone, as if the others were lost. Wrong data is a finding. Only what
//! prevents looking is an error.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use futures::{StreamExt, TryStreamExt};
use lifeboat_base::{Class, Context, Error, Result};
use lifeboat_format::id::{Name, PackId, SnapshotId};
use lifeboat_format::layout;
use lifeboat_format::manifest::{Manifest, PackRef};
use serde::Serialize;
use tokio_util::sync::CancellationToken;

use super::prune::prune_records;
use crate::catalog::ciphertext::fetch_ciphertext;
use crate::catalog::documents::fetch_signed;
use crate::catalog::inventory::Inventory;
use crate::keys::{PackKeys, ReaderKeys};
use crate::restore::VaultReader;
use crate::restore::fetch;

/// How many packs are read at once from one replica.
const PACKS_AT_ONCE: usize = 4;

/// Something that is wrong in a replica.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// The replica's name.
    pub replica: Name,
    /// The object's key.
    pub object: String,
    /// What is wrong, for people to read.
    pub problem: String,
}

/// What verify looked at, and what it found.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct VerifyReport {
    /// Snapshots with a valid manifest in at least one replica.
    pub snapshots: u64,
    /// Packs that were looked at, summed over all replicas.
    pub packs: u64,
    /// Bytes of whole packs that were read, summed over all replicas.
    pub bytes: u64,
    /// Bytes of chunks that were decompressed and checked. 0 without `read_data`.
    pub decrypted_bytes: u64,
    /// What is wrong. Empty if all is well.
    pub findings: Vec<Finding>,
    /// What is not wrong, but worth knowing: for example, a replica is behind.
    pub notes: Vec<String>,
}

/// Verifies all snapshots of a dataset, or `only` one, in every replica of `reader`. With
/// `read_data`, it also decrypts and decompresses every pack and checks each chunk.
///
/// # Errors
/// [`Class::Usage`] if no replica lists the snapshot `only`. [`Class::Keys`] if `read_data` is set
/// and no identity opens the dataset's keyring. [`Class::Failed`] if `cancel` fired. A replica that
/// cannot be listed is a finding.
pub async fn verify(
    reader: &VaultReader,
    dataset: &Name,
    only: Option<&SnapshotId>,
    read_data: bool,
    cancel: &CancellationToken,
) -> Result<VerifyReport> {
    let (inventories, failed) = Inventory::take_all(reader.replicas(), reader.vault_id(), dataset).await;
    let keys = reader.document_keys(dataset).await;
    let pruned = prune_records(&reader.documents(dataset, &keys), &inventories).await.snapshots;
    let everywhere: BTreeSet<&SnapshotId> = inventories.iter().flat_map(|inventory| &inventory.snapshots).collect();
    if let Some(snapshot) = only.filter(|snapshot| !everywhere.contains(snapshot)) {
        return Err(Error::usage(format!("dataset {dataset} has no snapshot {snapshot}"))
            .hint(format!("run `lifeboat list {dataset}` to see its snapshots")));
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

/// Judges one replica.
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
            let manifest = documents.manifest(std::slice::from_ref(&self.inventory.replica), &snapshot).await;
            match manifest.and_then(|manifest| manifest.check_extents().map(|()| manifest.without_extents())) {
                Ok(manifest) => drop(manifests.insert(snapshot, manifest)),
                Err(error) => self.finding(layout::manifest(self.dataset, &snapshot), error.chain()),
            }
        }
        Ok(manifests)
    }

    /// Checks that every predecessor is in some replica, or in a prune record.
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
                    format!("is missing: it is the predecessor of {}, and no prune record names it", manifest.snapshot),
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
                self.finding(key, "is missing: this replica alone cannot restore the dataset");
                if read_data {
                    let pack_keys = self.reader.pack_keys(self.dataset, generation).await?;
                    self.pack_keys.insert(generation, Arc::new(pack_keys));
                }
                continue;
            }
            match alone.pack_keys(self.dataset, generation).await {
                Ok(pack_keys) => drop(self.pack_keys.insert(generation, Arc::new(pack_keys))),
                Err(error) if error.class() == Class::Keys && read_data => return Err(error),
                // On a backup host nothing opens it, so only its presence was checked.
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
                        // A restore does not check chunks one by one. It checks the hash of the
                        // ciphertext, which the signed manifest names, and that of the whole
                        // stream. Verify is to find out which chunk is wrong.
                        all.check(&pack_keys.chunk_id_key)
                    });
                    opened.await.context(Class::Failed, || "the thread that opens a pack failed")?
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

    /// Checks index segments, drill reports and prune records.
    async fn others(&mut self, cancel: &CancellationToken) -> Result<()> {
        let inventory = self.inventory;
        let replica = inventory.replica.as_ref();
        for snapshot in &inventory.indexes {
            if cancel.is_cancelled() {
                return Err(Error::failed("the verification was cancelled"));
            }
            let segment = self
                .reader
                .documents(self.dataset, self.keys)
                .index(std::slice::from_ref(&inventory.replica), snapshot)
                .await;
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
                self.note("drill reports were not checked, because no trusted drill signer is configured");
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

    /// Notes what is not wrong, but worth knowing.
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
                "{unreferenced} packs are needed by no snapshot; prune removes them after the grace period"
            ));
        }
        if !inventory.unsigned.is_empty() {
            self.note(&format!(
                "{} manifests have no signature, because their commits were interrupted",
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
                "{} objects were not written by Lifeboat, such as {}",
                inventory.strangers.len(),
                inventory.strangers[0]
            ));
        }
    }
}
