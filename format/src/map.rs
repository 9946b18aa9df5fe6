//! The map of an older stream: its extents, stored in packs of their own instead of a manifest, so
//! that many snapshots share them. See "Maps" in `FORMAT.md`.
//!
//! The extents of a stream that changes row by row add up from snapshot to snapshot. With a map, a
//! manifest lists only what has changed since the map was made, and refers to the map for the rest.
//! A map never refers to another map.

use std::collections::{HashMap, HashSet};
use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use lifeboat_base::Result;

use crate::Format;
use crate::extents::{Bounds, Extent, Extents, Finder, MAX_BLOCK_EXTENTS, OLDER, max_packs};
use crate::id::{Digest, PackId};
use crate::varint;

const MAP_MAGIC: &[u8; 8] = b"LBMAP002";
/// No map is longer.
pub const MAX_MAP_BYTES: u64 = 256 << 20;

/// Where an older stream lies.
#[derive(Debug, Clone)]
pub struct StreamMap {
    /// The packs that its extents name by number.
    pub packs: Vec<PackId>,
    /// Where its bytes lie, all in packs.
    pub extents: Extents,
}

impl StreamMap {
    /// The map of a stream with these extents, all of them in packs. `packs` are the ids of the
    /// packs by the numbers that the extents have.
    ///
    /// # Errors
    /// No memory.
    pub fn of(extents: impl IntoIterator<Item = Extent>, packs: &[PackId]) -> Result<Self> {
        let (mut table, mut numbers) = (Vec::new(), HashMap::new());
        let extents = Extents::of(extents.into_iter().map(|extent| {
            let pack = *numbers.entry(extent.pack).or_insert_with(|| {
                table.push(packs[extent.pack as usize]);
                table.len() as u32 - 1
            });
            Extent { pack, ..extent }
        }))?;
        Ok(Self { packs: table, extents })
    }

    /// The map as it is stored.
    #[must_use]
    pub fn to_bytes(&self) -> Bytes {
        let mut out = Vec::with_capacity(18 + 32 * self.packs.len() + self.extents.bytes().len());
        out.extend_from_slice(MAP_MAGIC);
        varint::put(&mut out, self.packs.len() as u64);
        self.packs.iter().for_each(|pack| out.extend_from_slice(&pack.0));
        out.extend_from_slice(self.extents.bytes());
        out.into()
    }

    /// Reads what [`Self::to_bytes`] wrote of a stream of `length` bytes. `content` gives the
    /// length of a pack's content. `None` if `content` does not know a pack, or if the map is
    /// damaged, as far as that shows without opening blocks.
    pub fn parse(bytes: &Bytes, length: u64, content: impl Fn(&PackId) -> Option<u64>) -> Option<Self> {
        Self::read_as(Format::Two, bytes, length, content)
    }

    /// As [`Self::parse`], of either format.
    pub(crate) fn read_as(
        format: Format,
        bytes: &Bytes,
        length: u64,
        content: impl Fn(&PackId) -> Option<u64>,
    ) -> Option<Self> {
        let mut rest = &bytes[..];
        let count = match format {
            Format::One => u32::from_le_bytes(varint::take_bytes(&mut rest)?).into(),
            Format::Two => {
                rest = rest.strip_prefix(MAP_MAGIC)?;
                varint::take(&mut rest)?
            }
        };
        let count = usize::try_from(count).ok().filter(|count| *count <= max_packs(format))?;
        let (mut packs, mut lengths, mut known) = (Vec::new(), Vec::new(), HashSet::new());
        for _ in 0..count {
            let pack = Digest(varint::take_bytes(&mut rest)?);
            lengths.push(content(&pack).filter(|_| known.insert(pack))?);
            packs.push(pack);
        }
        let bounds = Bounds { packs: lengths.into(), older: 0 };
        Some(Self { packs, extents: Extents::read_as(format, bytes.slice_ref(rest), length, bounds)? })
    }
}

/// Where all of a stream lies: its own extents and, for those in an older stream, the map's.
/// Nothing is looked up before it is asked for.
#[derive(Debug, Clone)]
pub struct Resolved {
    pub(crate) extents: Extents,
    /// The extents of the older stream. The numbers translate its packs' numbers to those of
    /// `extents`.
    pub(crate) older: Option<(Extents, Arc<[u32]>)>,
}

impl From<Extents> for Resolved {
    /// For a stream that lies in packs alone.
    fn from(extents: Extents) -> Self {
        Self { extents, older: None }
    }
}

impl Resolved {
    /// For a stream of which some extents lie in the older stream of `map`. `numbers` are the
    /// numbers that the map's packs have in `extents`.
    #[must_use]
    pub fn new(extents: Extents, map: &StreamMap, numbers: Vec<u32>) -> Self {
        Self { extents, older: Some((map.extents.clone(), numbers.into())) }
    }

    /// How long the stream is.
    #[must_use]
    pub fn length(&self) -> u64 {
        self.extents.length()
    }

    /// A walk over the stream. It gives nothing until [`ExtentWalk::turn_to`] says where to go.
    #[must_use]
    pub fn walk(&self) -> ExtentWalk {
        let (older, numbers) = self.older.clone().unwrap_or_default();
        let (own, older) = (Finder::new(self.extents.clone()), Finder::new(older));
        ExtentWalk { own, places: 0..0, some: Vec::new(), at: 0, done: 0, older, numbers }
    }

    /// All extents, in the stream's order, each in a pack.
    pub fn iter(&self) -> impl Iterator<Item = Extent> + Send + use<> {
        let mut walk = self.walk();
        walk.turn_to(0..self.length());
        std::iter::from_fn(move || {
            let mut some = Vec::new();
            walk.next(&mut some).then_some(some)
        })
        .flatten()
    }
}

/// Gives the extents of a part of a stream, some thousand at a time.
#[derive(Debug)]
pub struct ExtentWalk {
    own: Finder,
    /// The part of the stream whose own extents were not looked up yet.
    places: Range<u64>,
    /// Own extents that were looked up.
    some: Vec<Extent>,
    /// How many of `some` are done, …
    at: usize,
    /// … and how many bytes of the next one.
    done: u64,
    older: Finder,
    numbers: Arc<[u32]>,
}

impl ExtentWalk {
    /// Goes to these bytes of the stream.
    pub fn turn_to(&mut self, places: Range<u64>) {
        self.places = places;
        self.some.clear();
        (self.at, self.done) = (0, 0);
    }

    /// Replaces the content of `out` with the next extents, each in a pack. `false` after the last
    /// extent, or before a damaged one.
    pub fn next(&mut self, out: &mut Vec<Extent>) -> bool {
        out.clear();
        while out.len() < MAX_BLOCK_EXTENTS {
            let Some(extent) = self.some.get(self.at) else {
                self.some.clear();
                self.at = 0;
                let shown = self.own.show(self.places.clone(), MAX_BLOCK_EXTENTS, |extent| self.some.push(extent));
                self.places.start += shown;
                if shown == 0 {
                    break;
                }
                continue;
            };
            if extent.pack != OLDER {
                out.push(*extent);
                self.at += 1;
                continue;
            }
            let places = extent.offset + self.done..extent.offset + extent.length;
            let numbers = &self.numbers;
            let shown = self.older.show(places, MAX_BLOCK_EXTENTS - out.len(), |older| {
                out.push(Extent { pack: numbers[older.pack as usize], ..older });
            });
            self.done += shown;
            if shown == 0 {
                // The map is damaged here.
                self.turn_to(0..0);
                break;
            }
            if self.done == extent.length {
                (self.at, self.done) = (self.at + 1, 0);
            }
        }
        !out.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use lifeboat_base::Error;

    fn extents(of: &[(u32, u64, u64)]) -> Result<Extents> {
        Extents::of(of.iter().map(|(pack, offset, length)| Extent { pack: *pack, offset: *offset, length: *length }))
    }

    fn ids() -> Vec<PackId> {
        (0_u8..9).map(|n| Digest::of(&[n])).collect()
    }

    #[test]
    fn names_the_packs_it_needs_and_comes_back() -> Result<()> {
        let map = StreamMap::of(extents(&[(5, 100, 50), (2, 0, 30), (5, 150, 20)])?.iter(), &ids())?;
        assert_eq!(map.packs, [ids()[5], ids()[2]]);
        let bytes = map.to_bytes();
        let content = |id: &PackId| map.packs.contains(id).then_some(170);
        let parse = |bytes: &Bytes, length, content: &dyn Fn(&PackId) -> Option<u64>| {
            StreamMap::parse(bytes, length, content).filter(|map| map.extents.are_whole()).map(|map| map.to_bytes())
        };
        assert_eq!(parse(&bytes, 100, &content), Some(bytes.clone()));
        assert_eq!(parse(&bytes, 99, &content), None);
        assert_eq!(parse(&bytes, 100, &|id| content(id).map(|_| 169)), None, "an extent beyond its pack");
        assert_eq!(parse(&bytes, 100, &|id| Some(170).filter(|_| *id == ids()[5])), None, "an unknown pack");
        for end in 0..bytes.len() {
            assert_eq!(parse(&bytes.slice(..end), 100, &content), None, "cut at {end}");
        }
        Ok(())
    }

    #[test]
    fn names_as_many_packs_as_format_md_allows() {
        let parse = |packs: u32| {
            let mut bytes = MAP_MAGIC.to_vec();
            varint::put(&mut bytes, packs.into());
            (0..packs).for_each(|n| bytes.extend_from_slice(&[[0; 28].as_slice(), &n.to_le_bytes()].concat()));
            StreamMap::parse(&bytes.into(), 0, |_| Some(1)).is_some()
        };
        assert!(parse(1 << 20) && !parse((1 << 20) + 1));
    }

    #[test]
    fn a_map_tells_of_no_older_stream() -> Result<()> {
        let nested = StreamMap { packs: ids(), extents: extents(&[(OLDER, 0, 10)])? };
        let parsed = StreamMap::parse(&nested.to_bytes(), 10, |_| Some(100));
        assert!(parsed.is_none_or(|map| !map.extents.are_whole()));
        Ok(())
    }

    #[test]
    fn what_lies_in_the_older_stream_is_found_in_packs() -> Result<()> {
        let map = StreamMap::of(extents(&[(5, 100, 50), (2, 0, 30), (5, 150, 20)])?.iter(), &ids())?;
        let newer = extents(&[(OLDER, 0, 40), (7, 3, 4), (OLDER, 45, 40), (OLDER, 10, 1), (OLDER, 99, 1)])?;
        let due = extents(&[(5, 100, 40), (7, 3, 4), (5, 145, 5), (2, 0, 30), (5, 150, 5), (5, 110, 1), (5, 169, 1)])?;
        let found = Extents::of(Resolved::new(newer, &map, vec![5, 2]).iter())?;
        if found.bytes() == due.bytes() {
            Ok(())
        } else {
            Err(Error::failed(format!("{:?}", found.iter().collect::<Vec<_>>())))
        }
    }
}
