//! What changed from one snapshot of a dataset to another.
//!
//! - **Bytes** are told by manifests alone. A stream's new bytes are those of which the older
//!   snapshot refers to no copy: in none of its streams, at none of its places. Data that a run
//!   stored again although it had not changed, to keep restores fast, counts as new, too.
//! - **Rows** are counted only if that is asked for: it reads every stream that differs, from both
//!   snapshots. See `rows.rs`.
//!
//! Memory: one manifest is held at a time. The places of the older snapshot are held as ranges of
//! packs, 16 bytes each, and ranges that touch are one. They take at most half of `limits.memory`.

mod rows;
mod spill;

use std::collections::{BTreeMap, BTreeSet};

use lifeboat_base::Result;
use lifeboat_databases::registry;
use lifeboat_format::id::{Digest, Name, PackId, SnapshotId};
use lifeboat_format::manifest::{Manifest, StreamEntry};
use lifeboat_format::map::Resolved;
use serde::Serialize;

pub use self::rows::{RowChange, count_rows};
use crate::catalog::pack_ranges::PackRanges;
use crate::restore::VaultReader;

/// What became of a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum StreamState {
    /// Only the newer snapshot has it.
    Added,
    /// Only the older snapshot has it.
    Removed,
    /// Its content differs.
    Changed,
    /// It is the same, byte by byte.
    Unchanged,
}

/// What changed in one stream.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct StreamDiff {
    /// The name of the stream.
    pub stream: String,
    /// What became of it.
    pub state: StreamState,
    /// Its length in the older snapshot, in bytes; `None` if that does not have it.
    pub old_bytes: Option<u64>,
    /// Its length in the newer snapshot, in bytes; `None` if that does not have it.
    pub new_bytes: Option<u64>,
    /// How many of its bytes the older snapshot does not refer to.
    pub fresh_bytes: u64,
    /// Whether its rows were read and counted. What is the same needs no count.
    pub rows_counted: bool,
}

/// What changed between two snapshots.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct SnapshotDiff {
    /// The dataset.
    pub dataset: Name,
    /// The older snapshot, or the one that was named first.
    pub old: SnapshotId,
    /// The other one.
    pub new: SnapshotId,
    /// The streams of both, in the order of their names.
    pub streams: Vec<StreamDiff>,
    /// Packs that the newer snapshot refers to and the older one does not.
    pub new_packs: usize,
    /// The size of these packs, in bytes.
    pub new_pack_bytes: u64,
    /// The tables with rows that only one of the two has; `None` if rows were not counted.
    pub tables: Option<Vec<RowChange>>,
}

impl VaultReader {
    /// What changed from the snapshot `old` to `new`. Rows are not counted.
    ///
    /// # Errors
    /// A manifest cannot be read. If one has maps, also if no identity opens packs.
    pub async fn diff(&self, dataset: &Name, old: &SnapshotId, new: &SnapshotId) -> Result<SnapshotDiff> {
        let memory = self.limits().memory;
        let before =
            self.with_places(dataset, old, |manifest, _, extents| OldPlaces::of(manifest, extents, memory)).await?;
        self.with_places(dataset, new, |manifest, _, extents| Ok(compare(&before, manifest, extents))).await
    }

    /// What `work` makes of a manifest, of the hash of its object as it is stored, and of where
    /// each of its streams lies. Nothing of it is held longer.
    pub(crate) async fn with_places<T>(
        &self,
        dataset: &Name,
        snapshot: &SnapshotId,
        work: impl FnOnce(&Manifest, Digest, &[Resolved]) -> Result<T>,
    ) -> Result<T> {
        let (manifest, stored) = self.stored_manifest(dataset, snapshot).await?;
        if manifest.streams.iter().any(|stream| stream.map.is_some()) {
            drop(manifest);
            let streams = self.streams(dataset, snapshot).await.map_err(|error| {
                error.within(format!("snapshot {snapshot} has maps in its packs, which tell where its bytes lie"))
            })?;
            return work(streams.manifest(), streams.manifest_hash(), &streams.extents());
        }
        let contents = manifest.contents();
        let extents = manifest.streams.iter().map(|stream| manifest.extents(stream, &contents).map(Resolved::from));
        let extents: Vec<Resolved> = extents.collect::<Result<_>>()?;
        work(&manifest, stored, &extents)
    }
}

/// What is held of the older snapshot while the newer one is looked at.
struct OldPlaces {
    snapshot: SnapshotId,
    /// Length and hash of each stream, or of those that go on with each other.
    streams: BTreeMap<String, Vec<(u64, Digest)>>,
    packs: BTreeSet<PackId>,
    ranges: PackRanges,
}

impl OldPlaces {
    /// # Errors
    /// The ranges take more than half of `memory`, in bytes.
    fn of(manifest: &Manifest, extents: &[Resolved], memory: u64) -> Result<Self> {
        let mut ranges = PackRanges::within_memory(memory);
        for extents in extents {
            for extent in extents.iter() {
                if let Some(pack) = manifest.packs.get(extent.pack as usize) {
                    ranges.add(pack.id, extent.offset, extent.length)?;
                }
            }
        }
        ranges.settle();
        let mut streams = BTreeMap::<String, Vec<(u64, Digest)>>::new();
        for stream in &manifest.streams {
            streams.entry(whole(manifest, stream).to_owned()).or_default().push((stream.length, stream.blake3));
        }
        Ok(Self {
            snapshot: manifest.snapshot.clone(),
            streams,
            packs: manifest.packs.iter().map(|pack| pack.id).collect(),
            ranges,
        })
    }
}

/// What an operator calls this stream, with those that go on with it.
fn whole<'a>(manifest: &Manifest, stream: &'a StreamEntry) -> &'a str {
    registry::find(&manifest.source.engine).map_or(&stream.name, |engine| engine.whole_of(&stream.name))
}

fn compare(before: &OldPlaces, after: &Manifest, extents: &[Resolved]) -> SnapshotDiff {
    let mut new = BTreeMap::<&str, Vec<(&StreamEntry, &Resolved)>>::new();
    for (stream, extents) in after.streams.iter().zip(extents) {
        new.entry(whole(after, stream)).or_default().push((stream, extents));
    }
    let names: BTreeSet<&str> = before.streams.keys().map(String::as_str).chain(new.keys().copied()).collect();
    let streams = names.into_iter().map(|name| {
        let (was, is) = (before.streams.get(name), new.get(name));
        let same = |was: &Vec<(u64, Digest)>, is: &Vec<(&StreamEntry, &Resolved)>| {
            was.iter().copied().eq(is.iter().map(|(stream, _)| (stream.length, stream.blake3)))
        };
        let state = match (was, is) {
            (None, _) => StreamState::Added,
            (_, None) => StreamState::Removed,
            (Some(was), Some(is)) if same(was, is) => StreamState::Unchanged,
            _ => StreamState::Changed,
        };
        let fresh_of = |extents: &Resolved| -> u64 {
            let fresh = |extent: lifeboat_format::extents::Extent| {
                let pack = after.packs.get(extent.pack as usize);
                extent.length - pack.map_or(0, |pack| before.ranges.within(&pack.id, extent.offset, extent.length))
            };
            extents.iter().map(fresh).sum()
        };
        StreamDiff {
            stream: name.to_owned(),
            state,
            old_bytes: was.map(|was| was.iter().map(|(length, _)| length).sum()),
            new_bytes: is.map(|is| is.iter().map(|(stream, _)| stream.length).sum()),
            fresh_bytes: is.map_or(0, |is| is.iter().map(|(_, extents)| fresh_of(extents)).sum()),
            rows_counted: false,
        }
    });
    let new_packs: Vec<_> = after.packs.iter().filter(|pack| !before.packs.contains(&pack.id)).collect();
    SnapshotDiff {
        dataset: after.dataset.clone(),
        old: before.snapshot.clone(),
        new: after.snapshot.clone(),
        streams: streams.collect(),
        new_packs: new_packs.len(),
        new_pack_bytes: new_packs.iter().map(|pack| pack.size).sum(),
        tables: None,
    }
}
