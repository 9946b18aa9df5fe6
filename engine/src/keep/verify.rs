//! Verify checks every object of a dataset in every replica: presence, hashes, signatures, and the
//! chain of predecessors.
//!
//! Each replica is judged alone, as if the others were lost. Wrong data is a finding. Only what
//! prevents looking is an error.
//!
//! What stops deletions (`gaps.rs`) is a finding, too, but for what only a backup host knows:
//! what replicas have shown before, and whether its clock is right.

mod keyring;
mod together;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};

use chrono::{DateTime, Utc};
use futures::{Stream, StreamExt, TryStreamExt};
use lifeboat_base::{Class, Context, Error, Result};
use lifeboat_format::id::{Name, PackId, SnapshotId};
use lifeboat_format::layout;
use lifeboat_format::manifest::{Manifest, PackRef, Previous};
use lifeboat_format::record::{MarkRecord, PruneRecord, RecordBody};
use serde::Serialize;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use self::together::{Link, Links, Together, forks, missing};
use crate::catalog::ciphertext::fetch_ciphertext;
use crate::catalog::documents::StoredAs;
use crate::catalog::inventory::Inventory;
use crate::catalog::outlines::{OutlineMap, Outlines};
use crate::catalog::records::RecordReader;
use crate::catalog::removals::{PrunedSnapshots, prune_records};
use crate::drill::DrillReport;
use crate::keep::gaps::settled;
use crate::keep::reading::{Coverage, PackReading};
use crate::keys::{PackKeys, ReaderKeys};
use crate::restore::VaultReader;
use crate::restore::fetch;

/// How many objects are asked for at once from one replica, so that a far one does not make each of
/// them wait for the one before, …
const OBJECTS_AT_ONCE: usize = 16;
/// … and how many MiB of packs.
const PACK_MIBS_AT_ONCE: usize = 64;

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
    /// Bytes of chunks that were decompressed and checked. 0 without
    /// [`PackReading::decrypt`].
    pub decrypted_bytes: u64,
    /// How much of the packs was read.
    pub coverage: Coverage,
    /// What is wrong. Empty if all is well.
    pub findings: Vec<Finding>,
    /// What is not wrong, but worth knowing: for example, a replica is behind.
    pub notes: Vec<String>,
}

/// Verifies all snapshots of a dataset, or `only` one, in every replica of `reader`, at the time
/// `now`. With `reading.decrypt`, it also decrypts and decompresses the packs that it reads, and
/// checks each chunk.
///
/// # Errors
/// [`Class::Usage`] if no replica lists the snapshot `only`. [`Class::Keys`] if it is to decrypt,
/// and no identity opens the dataset's keyring. [`Class::Failed`] if `cancel` fired. A replica that
/// cannot be listed is a finding.
pub async fn verify(
    reader: &VaultReader,
    dataset: &Name,
    only: Option<&SnapshotId>,
    reading: impl Into<PackReading>,
    now: DateTime<Utc>,
    cancel: &CancellationToken,
) -> Result<VerifyReport> {
    let reading = reading.into();
    let (inventories, failed) = Inventory::take_all(reader.replicas(), reader.vault_id(), dataset).await;
    let keys = reader.document_keys(dataset).await;
    let records = prune_records(&reader.documents(dataset, &keys), &inventories).await;
    let pruned = &records.snapshots;
    let everywhere: BTreeSet<&SnapshotId> = inventories.iter().flat_map(|inventory| &inventory.snapshots).collect();
    if let Some(snapshot) = only.filter(|snapshot| !everywhere.contains(snapshot)) {
        return Err(Error::usage(format!("dataset {dataset} has no snapshot {snapshot}"))
            .hint(format!("run `lifeboat list {dataset}` to see its snapshots")));
    }
    let newest = everywhere.last().copied();
    let mut report = VerifyReport::default();
    if only.is_some() {
        // Of a single snapshot, records are not judged; but what they would say may be missed.
        report.notes.extend(
            records.unreadable.iter().map(|(id, error)| format!("{}: {}", layout::prune(dataset, id), error.chain())),
        );
    }
    report.findings.extend(failed.into_iter().map(|(replica, error)| Finding {
        replica,
        object: layout::dataset(dataset),
        problem: format!("cannot be listed: {}", error.chain()),
    }));
    let (mut all_outlines, mut all_links) = (OutlineMap::new(), BTreeMap::new());
    for inventory in &inventories {
        let mut judge =
            Judge { reader, dataset, keys: &keys, inventory, pack_keys: BTreeMap::new(), report: &mut report };
        let (outlines, links) = judge.manifests(only, cancel).await?;
        judge.chain(&links, pruned);
        for (snapshot, link) in links {
            let (holders, _) = all_links.entry(snapshot).or_insert((Vec::new(), link));
            holders.push(inventory.replica.name().clone());
        }
        judge.keyring(&outlines, reading.decrypt).await?;
        judge.packs(&outlines, &reading, cancel).await?;
        if only.is_none() {
            judge.keyring_signatures().await;
            judge.others(cancel).await?;
            judge.leftovers(&outlines, newest, pruned);
        }
        all_outlines.extend(outlines.by_snapshot());
    }
    let found = match only {
        // What is missing elsewhere says nothing about one snapshot.
        Some(_) => Vec::new(),
        None => {
            let outlines = &all_outlines;
            let all = Together { reader, dataset, keys: &keys, inventories: &inventories, records: &records, outlines };
            unless(cancel, all.gaps(now, &mut report)).await?
        }
    };
    report.findings.extend(missing(dataset, &all_links, &everywhere, pruned, &found));
    let settled = settled(records.found.iter().map(|record| &record.body));
    all_links.retain(|snapshot, _| !settled.contains(snapshot));
    report.findings.extend(forks(dataset, &all_links));
    report.snapshots = all_outlines.len() as u64;
    Ok(report)
}

/// What `looked` finds wrong: objects, and why.
async fn problems(
    looked: impl Stream<Item = (String, Result<()>)>,
    cancel: &CancellationToken,
) -> Result<Vec<(String, String)>> {
    let (mut looked, mut problems) = (std::pin::pin!(looked), Vec::new());
    while let Some((object, looked)) = unless(cancel, looked.next()).await? {
        problems.extend(looked.err().map(|error| (object, error.chain())));
    }
    Ok(problems)
}

async fn unless<T>(cancel: &CancellationToken, next: impl Future<Output = T>) -> Result<T> {
    tokio::select! {
        next = next => Ok(next),
        () = cancel.cancelled() => Err(Error::failed("the verification was cancelled")),
    }
}

/// Judges one replica.
struct Judge<'a> {
    reader: &'a VaultReader,
    dataset: &'a Name,
    keys: &'a ReaderKeys,
    inventory: &'a Inventory,
    pack_keys: BTreeMap<u32, Arc<[PackKeys]>>,
    report: &'a mut VerifyReport,
}

impl Judge<'_> {
    fn finding(&mut self, object: String, problem: impl Into<String>) {
        let replica = self.inventory.replica.name().clone();
        self.report.findings.push(Finding { replica, object, problem: problem.into() });
    }

    fn report_all(&mut self, problems: Vec<(String, String)>) {
        for (object, problem) in problems {
            self.finding(object, problem);
        }
    }

    fn note(&mut self, note: &str) {
        self.report.notes.push(format!("replica {}: {note}", self.inventory.replica.name()));
    }

    async fn manifests(&mut self, only: Option<&SnapshotId>, cancel: &CancellationToken) -> Result<(Outlines, Links)> {
        let (outlines, mut links) = (Arc::new(Mutex::new(Outlines::default())), Links::new());
        let wanted: Vec<SnapshotId> = match only {
            Some(snapshot) => vec![snapshot.clone()],
            None => self.inventory.snapshots.iter().cloned().collect(),
        };
        let documents = self.reader.documents(self.dataset, self.keys);
        let replica = std::slice::from_ref(&self.inventory.replica);
        let look = |snapshot: SnapshotId| async {
            let outlines = outlines.clone();
            // Before the next one is opened, this manifest is gone.
            let look = move |manifest: Manifest, stored: StoredAs| {
                let (link, checked) = (Link::of(&manifest, stored.hash), manifest.check_extents());
                let noted = checked.and_then(|()| {
                    outlines.lock().unwrap_or_else(PoisonError::into_inner).insert(&manifest, stored).map(drop)
                });
                Ok((link, noted.err()))
            };
            let looked = match documents.look(replica, &snapshot, look).await {
                Ok((link, wrong)) => (Some(link), wrong),
                Err(error) => {
                    // What a newer program requires does not hide where its snapshot stands.
                    let head = documents.manifest_head(replica, &snapshot).await.ok();
                    let link = head.map(|(head, hash)| Link { sequence: head.sequence, previous: head.previous, hash });
                    (link, Some(error))
                }
            };
            (snapshot, looked)
        };
        let mut problems = Vec::new();
        {
            let mut looked = std::pin::pin!(futures::stream::iter(wanted).map(look).buffered(OBJECTS_AT_ONCE));
            while let Some((snapshot, (link, wrong))) = unless(cancel, looked.next()).await? {
                links.extend(link.map(|link| (snapshot.clone(), link)));
                problems.extend(wrong.map(|error| (layout::manifest(self.dataset, &snapshot), error.chain())));
            }
        }
        self.report_all(problems);
        let outlines = std::mem::take(&mut *outlines.lock().unwrap_or_else(PoisonError::into_inner));
        Ok((outlines, links))
    }

    /// Checks that every predecessor is the one that is meant.
    fn chain(&mut self, links: &Links, pruned: &PrunedSnapshots) {
        let dataset = self.dataset;
        for (snapshot, link) in links {
            let Some(Previous { snapshot: before, blake3 }) = &link.previous else { continue };
            let found = links.get(before);
            let hash = found.map(|found| found.hash).or(pruned.get(before).copied().flatten());
            if blake3.is_some_and(|due| hash.is_some_and(|hash| hash != due)) {
                self.finding(
                    layout::manifest(dataset, before),
                    format!("is not the manifest that {snapshot} names as its predecessor: its hash is another"),
                );
            } else if let Some(found) = found
                && found.sequence > 0
                && found.sequence >= link.sequence
            {
                let (own, of_before) = (link.sequence, found.sequence);
                let problem = format!("has sequence {own}, and its predecessor {before} has {of_before}");
                self.finding(layout::manifest(dataset, snapshot), problem);
            }
        }
    }

    async fn keyring(&mut self, outlines: &Outlines, read_data: bool) -> Result<()> {
        let generations: BTreeSet<u32> = outlines.packs().iter().map(|pack| pack.generation).collect();
        let alone = self.reader.only(&self.inventory.replica);
        for generation in generations {
            let key = layout::keyring_generation(self.dataset, generation);
            if !self.inventory.keyring.contains(&key) {
                self.finding(key, "is missing: this replica alone cannot restore the dataset");
                if read_data {
                    let pack_keys = self.reader.pack_keys(self.dataset, generation).await?;
                    self.pack_keys.insert(generation, pack_keys.into());
                }
                continue;
            }
            match alone.pack_keys(self.dataset, generation).await {
                Ok(pack_keys) => drop(self.pack_keys.insert(generation, pack_keys.into())),
                Err(error) if error.class() == Class::Keys && read_data => return Err(error),
                // On a backup host nothing opens it, so only its presence was checked.
                Err(error) if error.class() == Class::Keys => {}
                Err(error) => self.finding(key, error.chain()),
            }
        }
        Ok(())
    }

    async fn packs(&mut self, outlines: &Outlines, reading: &PackReading, cancel: &CancellationToken) -> Result<()> {
        // One of which manifests say different things has several numbers. It counts once, and each
        // of them is checked, with a reading of its own.
        let table = outlines.packs();
        let packs = || (0_u32..).zip(table.iter());
        let is_first = |(number, pack): &(u32, PackRef)| table.numbers(&pack.id).min() == Some(*number);
        let chosen = reading.packs.choose(|| packs().filter(is_first).map(|(_, pack)| pack));
        let coverage = &mut self.report.coverage;
        let mut problems: BTreeMap<u32, String> = BTreeMap::new();
        for (number, pack) in packs() {
            if !chosen.contain(&pack.id) && !self.inventory.has(&pack) {
                problems.insert(number, "is missing, or has the wrong size".to_owned());
            }
            if !is_first(&(number, pack)) {
                continue;
            }
            coverage.of_packs += 1;
            coverage.of_bytes += pack.size;
            if chosen.contain(&pack.id) {
                coverage.packs += 1;
                coverage.bytes += pack.size;
            }
        }
        let read_data = reading.decrypt;
        let (replica, dataset, pack_keys) = (&self.inventory.replica, self.dataset, &self.pack_keys);
        let room = &Semaphore::new(PACK_MIBS_AT_ONCE);
        let read = packs().filter(|(_, pack)| chosen.contain(&pack.id)).map(|(number, pack)| async move {
            let mibs = pack.size.max(pack.content).div_ceil(1 << 20).clamp(1, PACK_MIBS_AT_ONCE as u64);
            let _room = room.acquire_many(mibs as u32).await;
            if cancel.is_cancelled() {
                return Err(Error::failed("the verification was cancelled"));
            }
            let looked = async {
                let ciphertext = fetch_ciphertext(replica.as_ref(), dataset, &pack).await?;
                let Some(pack_keys) = pack_keys.get(&pack.generation).filter(|_| read_data).cloned() else {
                    return Ok(0);
                };
                let opened = tokio::task::spawn_blocking(move || {
                    let all = fetch::open(&ciphertext, pack.content, &pack_keys, &[(0, pack.content)])?;
                    drop(ciphertext);
                    // A restore does not check chunks one by one. It checks the hash of the
                    // ciphertext, which the signed manifest names, and that of the whole stream.
                    // Verify is to find out which chunk is wrong.
                    // Of several keys, one names the chunks.
                    let checked = pack_keys.iter().map(|keys| all.check(&keys.chunk_id_key));
                    let mut checked: Vec<Result<u64>> = checked.collect();
                    let good = checked.iter().position(Result::is_ok).unwrap_or_default();
                    checked.swap_remove(good)
                });
                opened.await.context(Class::Failed, || "the thread that opens a pack failed")?
            };
            Ok((number, pack.size, looked.await))
        });
        let (mut packs_read, mut bytes_read, mut decrypted_bytes) = (0, 0, 0);
        {
            let mut looked = std::pin::pin!(futures::stream::iter(read).buffer_unordered(OBJECTS_AT_ONCE));
            while let Some((number, size, looked)) = looked.try_next().await? {
                packs_read += 1;
                match looked {
                    Ok(decrypted) => {
                        bytes_read += size;
                        decrypted_bytes += decrypted;
                    }
                    Err(error) => drop(problems.insert(number, error.chain())),
                }
            }
        }
        self.report.packs += packs_read;
        self.report.bytes += bytes_read;
        self.report.decrypted_bytes += decrypted_bytes;
        for (number, pack) in packs().filter(|(_, pack)| table.numbers(&pack.id).nth(1).is_some()) {
            let PackRef { size, content, generation, .. } = pack;
            problems.entry(number).or_insert_with(|| {
                format!("is said to have {size} bytes, {content} before compression and keys of generation {generation}, and other manifests say something else")
            });
        }
        let needed_by = outlines.oldest_with(&problems.keys().copied().collect());
        for (number, problem) in problems {
            let snapshot = needed_by.get(&number).map_or_else(String::new, ToString::to_string);
            let pack = layout::pack(self.dataset, &table.get(number).id);
            self.finding(pack, format!("{problem} (needed by {snapshot} and perhaps others)"));
        }
        Ok(())
    }

    /// Checks index segments and records.
    async fn others(&mut self, cancel: &CancellationToken) -> Result<()> {
        let inventory = self.inventory;
        let (dataset, documents) = (self.dataset, &self.reader.documents(self.dataset, self.keys));
        let look = |snapshot: SnapshotId| async move {
            let segment = documents.index(std::slice::from_ref(&inventory.replica), &snapshot).await;
            let checked = segment.and_then(|segment| segment.packs().try_for_each(|pack| pack.map(drop)));
            (layout::index(dataset, &snapshot), checked)
        };
        let looked = futures::stream::iter(inventory.indexes.iter().cloned()).map(look).buffered(OBJECTS_AT_ONCE);
        let problems = problems(looked, cancel).await?;
        self.report_all(problems);
        self.records::<PruneRecord>(cancel).await?;
        self.records::<MarkRecord>(cancel).await?;
        if self.keys.trust.knows_drill_hosts() {
            return self.records::<DrillReport>(cancel).await;
        }
        if !inventory.drills.is_empty() {
            self.note("drill reports were not checked, because no trusted drill signer is configured");
        }
        Ok(())
    }

    /// Reads every record of a type.
    async fn records<B: RecordBody>(&mut self, cancel: &CancellationToken) -> Result<()> {
        let (inventory, dataset) = (self.inventory, self.dataset);
        let reader = RecordReader { vault: self.reader.vault_id(), dataset, trust: &self.keys.trust };
        let reader = &reader;
        let look = |id: SnapshotId| async move {
            let read = reader.read::<B>(&[&inventory.replica], &id).await.map(drop);
            (layout::record(dataset, B::TYPE, &id), read)
        };
        let ids = inventory.records(B::TYPE).iter().cloned();
        let problems = problems(futures::stream::iter(ids).map(look).buffered(OBJECTS_AT_ONCE), cancel).await?;
        self.report_all(problems);
        Ok(())
    }

    /// Notes what is not wrong, but worth knowing.
    fn leftovers(&mut self, outlines: &Outlines, newest: Option<&SnapshotId>, pruned: &PrunedSnapshots) {
        let inventory = self.inventory;
        let is_referenced = |pack: &PackId| outlines.packs().numbers(pack).next().is_some();
        let unreferenced = inventory.packs.keys().filter(|pack| !is_referenced(pack)).count();
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
        let shown = inventory.snapshots.iter().filter(|snapshot| pruned.contains_key(*snapshot)).count();
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
