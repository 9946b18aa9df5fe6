//! What changed from one snapshot of a dataset to another.
//!
//! - **Bytes** are told by manifests alone. A stream's new bytes are those of which the older
//!   snapshot refers to no copy: in none of its streams, at none of its places. Data that a run
//!   stored again although it had not changed, to keep restores fast, counts as new, too.
//! - **Rows** are counted only if that is asked for: it reads every stream that differs, from both
//!   snapshots. See [`rows`].
//!
//! Memory: the places of the older snapshot are held as ranges of packs, 16 bytes each, and ranges
//! that touch are one.

mod rows;
mod spill;

use std::collections::{BTreeMap, BTreeSet, HashMap};

use lifeboat_base::Result;
use lifeboat_format::id::{Name, PackId, SnapshotId};
use lifeboat_format::manifest::{Manifest, StreamEntry};
use lifeboat_format::map::Resolved;
use serde::Serialize;

pub use self::rows::{RowChange, count_rows};
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
        let (before, after) = futures::try_join!(self.places(dataset, old), self.places(dataset, new))?;
        Ok(compare(&before, &after))
    }

    async fn places(&self, dataset: &Name, snapshot: &SnapshotId) -> Result<Places> {
        let manifest = self.manifest(dataset, snapshot).await?;
        if manifest.streams.iter().any(|stream| stream.map.is_some()) {
            let streams = self.streams(dataset, snapshot).await.map_err(|error| {
                error.within(format!("snapshot {snapshot} has maps in its packs, which tell where its bytes lie"))
            })?;
            return Ok(Places { extents: streams.extents(), manifest: streams.manifest().clone() });
        }
        let contents = manifest.contents();
        let extents = manifest.streams.iter().map(|stream| manifest.extents(stream, &contents).map(Resolved::from));
        Ok(Places { extents: extents.collect::<Result<_>>()?, manifest })
    }
}

/// Where the streams of a snapshot lie.
struct Places {
    manifest: Manifest,
    /// Of each stream of the manifest.
    extents: Vec<Resolved>,
}

impl Places {
    fn streams(&self) -> BTreeMap<&str, (&StreamEntry, &Resolved)> {
        let both = self.manifest.streams.iter().zip(&self.extents);
        both.map(|(stream, extents)| (stream.name.as_str(), (stream, extents))).collect()
    }

    /// All ranges of packs that it refers to.
    fn ranges(&self) -> PackRanges {
        let mut ranges = PackRanges::default();
        for extents in &self.extents {
            for extent in extents.iter() {
                if let Some(pack) = self.manifest.packs.get(extent.pack as usize) {
                    ranges.add(pack.id, extent.offset, extent.length);
                }
            }
        }
        ranges.settle();
        ranges
    }
}

fn compare(before: &Places, after: &Places) -> SnapshotDiff {
    let known = before.ranges();
    let (old, new) = (before.streams(), after.streams());
    let names: BTreeSet<&str> = old.keys().chain(new.keys()).copied().collect();
    let streams = names.into_iter().map(|name| {
        let (was, is) = (old.get(name), new.get(name));
        let state = match (was, is) {
            (None, _) => StreamState::Added,
            (_, None) => StreamState::Removed,
            (Some((was, _)), Some((is, _))) if (was.length, was.blake3) == (is.length, is.blake3) => {
                StreamState::Unchanged
            }
            _ => StreamState::Changed,
        };
        let fresh = is.filter(|_| state != StreamState::Unchanged).map_or(0, |(_, extents)| {
            let fresh = |extent: lifeboat_format::extents::Extent| {
                let pack = after.manifest.packs.get(extent.pack as usize);
                extent.length - pack.map_or(0, |pack| known.within(&pack.id, extent.offset, extent.length))
            };
            extents.iter().map(fresh).sum()
        });
        StreamDiff {
            stream: name.to_owned(),
            state,
            old_bytes: was.map(|(stream, _)| stream.length),
            new_bytes: is.map(|(stream, _)| stream.length),
            fresh_bytes: fresh,
            rows_counted: false,
        }
    });
    let known_packs: BTreeSet<PackId> = before.manifest.packs.iter().map(|pack| pack.id).collect();
    let new_packs: Vec<_> = after.manifest.packs.iter().filter(|pack| !known_packs.contains(&pack.id)).collect();
    SnapshotDiff {
        dataset: after.manifest.dataset.clone(),
        old: before.manifest.snapshot.clone(),
        new: after.manifest.snapshot.clone(),
        streams: streams.collect(),
        new_packs: new_packs.len(),
        new_pack_bytes: new_packs.iter().map(|pack| pack.size).sum(),
        tables: None,
    }
}

/// Ranges of packs' contents.
#[derive(Default)]
struct PackRanges(HashMap<PackId, Vec<(u64, u64)>>);

impl PackRanges {
    fn add(&mut self, pack: PackId, offset: u64, length: u64) {
        let ranges = self.0.entry(pack).or_default();
        match ranges.last_mut() {
            Some((_, end)) if *end == offset => *end += length,
            _ => ranges.push((offset, offset + length)),
        }
        // So that what is used over and over is held once.
        if ranges.len() == ranges.capacity() {
            settle(ranges);
        }
    }

    /// Puts the ranges in order, and joins those that touch. Call it before [`Self::within`].
    fn settle(&mut self) {
        self.0.values_mut().for_each(settle);
    }

    /// How many bytes of a range are in these.
    fn within(&self, pack: &PackId, offset: u64, length: u64) -> u64 {
        let Some(ranges) = self.0.get(pack) else { return 0 };
        let end = offset + length;
        let first = ranges.partition_point(|(_, range_end)| *range_end <= offset);
        let some = ranges[first..].iter().take_while(|(begin, _)| *begin < end);
        some.map(|(begin, range_end)| end.min(*range_end) - offset.max(*begin)).sum()
    }
}

fn settle(ranges: &mut Vec<(u64, u64)>) {
    ranges.sort_unstable();
    let mut joined: Vec<(u64, u64)> = Vec::with_capacity(ranges.len());
    for (begin, end) in ranges.drain(..) {
        match joined.last_mut() {
            Some((_, last)) if begin <= *last => *last = end.max(*last),
            _ => joined.push((begin, end)),
        }
    }
    *ranges = joined;
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use lifeboat_format::id::Digest;

    use super::*;

    proptest! {
        #[test]
        fn bytes_within_ranges_are_counted_once(
            given in prop::collection::vec((0_u64..300, 1_u64..40), 0..60),
            asked in (0_u64..300, 1_u64..80),
        ) {
            let (pack, mut ranges, mut model) = (Digest([7; 32]), PackRanges::default(), BTreeSet::new());
            for (offset, length) in given {
                ranges.add(pack, offset, length);
                model.extend(offset..offset + length);
            }
            ranges.settle();
            let (offset, length) = asked;
            let expected = (offset..offset + length).filter(|byte| model.contains(byte)).count() as u64;
            prop_assert_eq!(ranges.within(&pack, offset, length), expected);
            prop_assert_eq!(ranges.within(&Digest([8; 32]), offset, length), 0);
        }
    }
}
