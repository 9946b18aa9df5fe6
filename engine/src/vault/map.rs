//! The map of an older stream: its extents, stored in packs and not in a manifest, so that many snapshots share them. See "Maps" in
//! `FORMAT.md`.
//!
//! The extents of a stream that changes row by row add up from snapshot to snapshot. A snapshot's own tell only what has changed since
//! a map was made; a map never refers to another one.

use std::collections::HashMap;
use std::sync::Arc;

use crate::bytes::varint;
use crate::error::Result;
use crate::id::{Digest, PackId};
use crate::vault::extents::{Extent, Extents, Finder, OLDER};

/// Where an older stream lies.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StreamMap {
    /// The packs that its extents name by number.
    pub packs: Vec<PackId>,
    /// All of it.
    pub extents: Extents,
}

impl StreamMap {
    /// Of a stream with these extents, none of them in an older stream; `packs` by number.
    ///
    /// # Errors
    /// No memory.
    pub fn of(extents: &Extents, packs: &[PackId]) -> Result<Self> {
        let (mut table, mut numbers) = (Vec::new(), HashMap::new());
        let extents = Extents::of(extents.iter().map(|extent| {
            let pack = *numbers.entry(extent.pack).or_insert_with(|| {
                table.push(packs[extent.pack as usize]);
                table.len() as u32 - 1
            });
            Extent { pack, ..extent }
        }))?;
        Ok(Self { packs: table, extents })
    }

    /// As it is stored.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(4 + 32 * self.packs.len() + self.extents.bytes().len());
        out.extend_from_slice(&(self.packs.len() as u32).to_le_bytes());
        self.packs.iter().for_each(|pack| out.extend_from_slice(&pack.0));
        out.extend_from_slice(self.extents.bytes());
        out
    }

    /// What [`Self::to_bytes`] wrote, of a stream of `length` bytes; `content` tells the length of a pack's content. `None` if it is
    /// damaged, or a pack is not known.
    pub fn parse(mut bytes: &[u8], length: u64, content: impl Fn(&PackId) -> Option<u64>) -> Option<Self> {
        let count = u32::from_le_bytes(varint::take_bytes(&mut bytes)?);
        let (mut packs, mut lengths) = (Vec::new(), Vec::new());
        for _ in 0..count {
            let pack = Digest(varint::take_bytes(&mut bytes)?);
            lengths.push(content(&pack)?);
            packs.push(pack);
        }
        let content = |pack: u32| lengths.get(pack as usize).copied();
        Some(Self { packs, extents: Extents::read(bytes, length, content)? })
    }
}

/// Where all of a stream lies, though a map may tell of some: nothing is worked out before it is asked for.
#[derive(Debug, Clone)]
pub struct Resolved {
    extents: Extents,
    /// Those of the older stream, with the numbers of its packs among those that `extents` name.
    older: Option<(Extents, Arc<[u32]>)>,
}

impl From<Extents> for Resolved {
    /// In packs alone.
    fn from(extents: Extents) -> Self {
        Self { extents, older: None }
    }
}

impl Resolved {
    /// Those that lie in the older stream as `map` tells, whose packs have these numbers here.
    #[must_use]
    pub fn new(extents: Extents, map: &StreamMap, numbers: Vec<u32>) -> Self {
        Self { extents, older: Some((map.extents.clone(), numbers.into())) }
    }

    /// In packs alone, in the stream's order.
    #[must_use]
    pub fn iter(&self) -> Box<dyn Iterator<Item = Extent> + Send> {
        let mut extents = self.extents.iter();
        let Some((older, numbers)) = self.older.clone() else { return Box::new(extents) };
        let (mut finder, mut at, mut end) = (Finder::new(older), 0, 0);
        Box::new(std::iter::from_fn(move || {
            if at == end {
                let extent = extents.next()?;
                if extent.pack != OLDER {
                    return Some(extent);
                }
                (at, end) = (extent.offset, extent.offset + extent.length);
            }
            let (begin, older) = finder.find(at)?;
            let skipped = at - begin;
            let length = (older.length - skipped).min(end - at);
            at += length;
            Some(Extent { pack: *numbers.get(older.pack as usize)?, offset: older.offset + skipped, length })
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Error;

    fn extents(of: &[(u32, u64, u64)]) -> Result<Extents> {
        Extents::of(of.iter().map(|(pack, offset, length)| Extent { pack: *pack, offset: *offset, length: *length }))
    }

    fn ids() -> Vec<PackId> {
        (0_u8..9).map(|n| Digest::of(&[n])).collect()
    }

    #[test]
    fn names_the_packs_it_needs_and_comes_back() -> Result<()> {
        let map = StreamMap::of(&extents(&[(5, 100, 50), (2, 0, 30), (5, 150, 20)])?, &ids())?;
        assert_eq!(map.packs, [ids()[5], ids()[2]]);
        let bytes = map.to_bytes();
        let content = |id: &PackId| map.packs.contains(id).then_some(170);
        assert_eq!(StreamMap::parse(&bytes, 100, content), Some(map.clone()));
        assert_eq!(StreamMap::parse(&bytes, 99, content), None);
        assert_eq!(StreamMap::parse(&bytes, 100, |id| content(id).map(|_| 169)), None, "an extent beyond its pack");
        assert_eq!(StreamMap::parse(&bytes, 100, |id| Some(170).filter(|_| *id == ids()[5])), None, "an unknown pack");
        for end in 0..bytes.len() {
            assert_eq!(StreamMap::parse(&bytes[..end], 100, content), None, "cut at {end}");
        }
        Ok(())
    }

    #[test]
    fn a_map_tells_of_no_older_stream() -> Result<()> {
        let nested = StreamMap { packs: ids(), extents: extents(&[(OLDER, 0, 10)])? };
        assert_eq!(StreamMap::parse(&nested.to_bytes(), 10, |_| Some(100)), None);
        Ok(())
    }

    #[test]
    fn what_lies_in_the_older_stream_is_found_in_packs() -> Result<()> {
        let map = StreamMap::of(&extents(&[(5, 100, 50), (2, 0, 30), (5, 150, 20)])?, &ids())?;
        let newer = extents(&[(OLDER, 0, 40), (7, 3, 4), (OLDER, 45, 40), (OLDER, 10, 1), (OLDER, 99, 1)])?;
        let due = extents(&[(5, 100, 40), (7, 3, 4), (5, 145, 5), (2, 0, 30), (5, 150, 5), (5, 110, 1), (5, 169, 1)])?;
        let found = Extents::of(Resolved::new(newer, &map, vec![5, 2]).iter())?;
        if found == due { Ok(()) } else { Err(Error::failed(format!("{:?}", found.iter().collect::<Vec<_>>()))) }
    }
}
