//! The commit of a backup: index segments, manifest, its place in the order, and at last the
//! signature that shows the snapshot to readers.
//!
//! The order and what each step waits for stand in the [parent](super). A commit is not cancelled.

use std::collections::HashSet;

use lifeboat_base::Result;
use lifeboat_base::clock::SharedClock;
use lifeboat_format::id::{Digest, Name, PackId, SnapshotId};
use lifeboat_format::index::{IndexSegment, IndexedPack, MAX_SEGMENT_CHUNKS};
use lifeboat_format::layout;
use lifeboat_format::manifest::{Manifest, PackRef};
use lifeboat_store::SharedReplica;

use super::decide::{Decision, not_committed, unknown};
use super::fleet::Fleet;
use super::messages::Captured;
use super::stand::Standing;
use crate::catalog::ciphertext::copy_pack;
use crate::catalog::inventory::Inventory;
use crate::catalog::needs;
use crate::catalog::numbers::Actor;
use crate::catalog::order::{FoundAct, OrderReader};
use crate::catalog::signed::{SignedObject, sign_encrypted};
use crate::config::Dataset;
use crate::keys::HostKeys;
use crate::state::cache::ObjectCache;

/// What a commit writes to, and with which keys.
pub(super) struct Commit<'a> {
    pub(super) fleet: &'a Fleet,
    pub(super) dataset: &'a Dataset,
    pub(super) keys: &'a HostKeys,
    /// How many replicas must hold each step before the next.
    pub(super) required: usize,
    /// In how many places its act must be.
    pub(super) required_places: usize,
    /// Places that hold records alone.
    pub(super) records: Vec<SharedReplica>,
    pub(super) reader: OrderReader<'a>,
    pub(super) standing: &'a Standing,
    pub(super) host: &'a Name,
    pub(super) clock: &'a SharedClock,
}

impl Commit<'_> {
    /// The replicas that hold every pack of the snapshot. If they are too few, packs are copied to
    /// other replicas first.
    pub(super) async fn complete_replicas(&self, captured: &Captured) -> Result<Vec<SharedReplica>> {
        let (fleet, required) = (self.fleet, self.required);
        let mut complete: Vec<SharedReplica> =
            fleet.complete(&captured.packs, &captured.receipts).iter().map(|member| member.replica.clone()).collect();
        for member in fleet.healthy() {
            let missing = fleet.missing(member, &captured.packs, &captured.receipts);
            if complete.len() >= required {
                break;
            }
            if missing.is_empty() {
                continue;
            }
            match self.copy_missing(member, &missing).await {
                Ok(()) => complete.push(member.replica.clone()),
                Err(error) => fleet.fell_behind(member.replica.name(), &error),
            }
        }
        if complete.len() < required {
            return Err(fleet.too_few("the snapshot", complete.len()));
        }
        Ok(complete)
    }

    async fn copy_missing(&self, member: &Inventory, missing: &[PackRef]) -> Result<()> {
        let sources: Vec<&SharedReplica> = self
            .fleet
            .healthy()
            .into_iter()
            .map(|other| &other.replica)
            .filter(|other| other.name() != member.replica.name())
            .collect();
        for pack in missing {
            copy_pack(&self.dataset.name, pack, &sources, member.replica.as_ref()).await?;
        }
        Ok(())
    }

    /// Writes index segments, manifest, act and signatures, and returns the act and the replicas
    /// that hold them all. Each step is durable in `min_replicas` replicas before the
    /// next begins.
    ///
    /// # Errors
    /// As [`Decision::take`].
    pub(super) async fn write(
        &self,
        generation: u32,
        captured: &Captured,
        manifest: &mut Manifest,
        targets: Vec<SharedReplica>,
        cache: &ObjectCache,
    ) -> Result<(FoundAct, Vec<SharedReplica>)> {
        let stored = self.store(generation, captured, manifest, targets, cache).await;
        let (signed, targets) = stored.map_err(|error| not_committed(&manifest.snapshot, &manifest.dataset, error))?;
        let (fleet, dataset) = (self.fleet, &manifest.dataset);
        let HostKeys { vault, signer, .. } = self.keys;
        let needed: HashSet<PackId> = manifest.packs.iter().map(|pack| pack.id).collect();
        let decision = Decision {
            fleet,
            reader: self.reader,
            actor: Actor { vault, dataset, principal: self.host, signer, sequence: Some(manifest.sequence) },
            clock: self.clock,
            snapshot: &manifest.snapshot,
            packs: &needed,
            required: self.required,
            required_places: self.required_places,
            records: &self.records,
        };
        let (act, decided) = decision.take(&signed, targets, self.standing).await?;
        cache.put(&layout::act(dataset, act.act.number), &act.stored);
        cache.put(&signed.key, &signed.object);
        // From here on, the snapshot will be there: the act holds its signature.
        let signature = layout::signature(&signed.key);
        let targets = fleet
            .put_to(&decided, &signature, &signed.signature, "the manifest's signature")
            .await
            .map_err(|error| unknown(&manifest.snapshot, dataset, &error.chain()))?;
        Ok((act, targets))
    }

    /// Writes index segments, their signatures, what the snapshot needs, and the manifest.
    async fn store(
        &self,
        generation: u32,
        captured: &Captured,
        manifest: &mut Manifest,
        mut targets: Vec<SharedReplica>,
        cache: &ObjectCache,
    ) -> Result<(SignedObject, Vec<SharedReplica>)> {
        let (fleet, dataset) = (self.fleet, &manifest.dataset);
        for (packs, last) in segments(&captured.unindexed) {
            // Segments are found by listing, so the ids of all but the last may be random.
            let id = if last {
                manifest.snapshot.clone()
            } else {
                SnapshotId::new(manifest.snapshot.time(), rand::random())
            };
            let segment = IndexSegment::write(generation, packs)?;
            let index = sign_encrypted(layout::index(dataset, &id), &segment, self.dataset, self.keys)?;
            manifest.accounting.stored_bytes += index.object.len() as u64;
            targets = self.store_index(&index, targets, cache).await?;
        }
        let plaintext = manifest.to_plaintext()?;
        let signed =
            sign_encrypted(layout::manifest(dataset, &manifest.snapshot), &plaintext, self.dataset, self.keys)?;
        if self.keys.only_marks() {
            // Before the manifest: so a warden finds it wherever there is one.
            let needs = needs::of_manifest(manifest, Digest::of(&signed.object));
            let (key, list) = needs::sign_needs(&needs, &self.keys.signer)?;
            targets = fleet.put_to(&targets, &key, &list, "the list of what the snapshot needs").await?;
        }
        targets = fleet.put_to(&targets, &signed.key, &signed.object, "the manifest").await?;
        Ok((signed, targets))
    }

    /// Writes an index segment and its signature.
    async fn store_index(
        &self,
        index: &SignedObject,
        targets: Vec<SharedReplica>,
        cache: &ObjectCache,
    ) -> Result<Vec<SharedReplica>> {
        let targets = self.fleet.put_to(&targets, &index.key, &index.object, "an index segment").await?;
        let signature = layout::signature(&index.key);
        let targets = self.fleet.put_to(&targets, &signature, &index.signature, "an index segment's signature").await?;
        cache.put(&index.key, &index.object);
        Ok(targets)
    }
}

/// Splits packs into index segments that are small enough to be read at once. The flag says whether
/// a segment is the last one.
fn segments(packs: &[IndexedPack]) -> impl Iterator<Item = (&[IndexedPack], bool)> {
    let mut rest = packs;
    std::iter::from_fn(move || {
        let mut chunks = 0;
        let fits = rest.iter().take_while(|pack| {
            chunks += pack.chunks.len();
            chunks <= MAX_SEGMENT_CHUNKS
        });
        let (segment, later) = rest.split_at(fits.count().max(1).min(rest.len()));
        rest = later;
        (!segment.is_empty()).then_some((segment, rest.is_empty()))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn segments_hold_every_pack_once_and_only_the_last_is_last() {
        let pack =
            |chunks: usize| IndexedPack { id: Digest([1; 32]), size: 1, chunks: vec![(Digest([2; 32]), 1); chunks] };
        let cut = |packs: &[IndexedPack]| -> Vec<(usize, bool)> {
            segments(packs).map(|(packs, last)| (packs.iter().map(|pack| pack.chunks.len()).sum(), last)).collect()
        };
        assert_eq!(cut(&[]), []);
        assert_eq!(cut(&[pack(3), pack(4)]), [(7, true)]);
        assert_eq!(
            cut(&[pack(MAX_SEGMENT_CHUNKS), pack(1), pack(MAX_SEGMENT_CHUNKS + 9)]),
            [(MAX_SEGMENT_CHUNKS, false), (1, false), (MAX_SEGMENT_CHUNKS + 9, true)]
        );
    }
}
