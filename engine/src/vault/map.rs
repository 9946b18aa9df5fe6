//! The map of an older stream: its extents, stored in packs and not in a manifest, so that many snapshots share them. See "Maps" in
//! `FORMAT.md`.
//!
//! The extents of a stream that changes row by row add up from snapshot to snapshot. A snapshot's own tell only what has changed since
//! a map was made; a map never refers to another one.

use std::collections::HashMap;

use crate::bytes::varint;
use crate::error::Result;
use crate::id::{Digest, PackId};
use crate::vault::extents::{Extent, Extents, ExtentsWriter, Finder, OLDER};

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
        let (mut table, mut numbers, mut writer) = (Vec::new(), HashMap::new(), ExtentsWriter::default());
        for extent in extents.iter() {
            let pack = *numbers.entry(extent.pack).or_insert_with(|| {
                table.push(packs[extent.pack as usize]);
                table.len() as u32 - 1
            });
            writer.push(Extent { pack, ..extent })?;
        }
        Ok(Self { packs: table, extents: writer.finish()? })
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
        Some(Self { packs, extents: Extents::read(bytes.to_vec(), length, content, |_| ())? })
    }

    /// Extents of which some lie in this older stream, as extents in packs alone, each shown to `each` on the way; `numbers` are those
    /// of this map's packs where `extents` name packs.
    ///
    /// # Errors
    /// No memory.
    pub fn resolve(&self, extents: &Extents, numbers: &[u32], mut each: impl FnMut(&Extent)) -> Result<Extents> {
        let (mut writer, mut finder) = (ExtentsWriter::default(), Finder::new(self.extents.clone()));
        let mut push = |extent: Extent| {
            each(&extent);
            writer.push(extent)
        };
        for extent in extents.iter() {
            if extent.pack != OLDER {
                push(extent)?;
                continue;
            }
            let (mut at, end) = (extent.offset, extent.offset + extent.length);
            while let Some((begin, older)) = finder.find(at).filter(|_| at < end) {
                let skipped = at - begin;
                let length = (older.length - skipped).min(end - at);
                let pack = numbers[older.pack as usize];
                push(Extent { pack, offset: older.offset + skipped, length })?;
                at += length;
            }
        }
        writer.finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Error;

    fn extents(of: &[(u32, u64, u64)]) -> Result<Extents> {
        let mut writer = ExtentsWriter::default();
        of.iter().try_for_each(|(pack, offset, length)| {
            writer.push(Extent { pack: *pack, offset: *offset, length: *length })
        })?;
        writer.finish()
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
        let found = map.resolve(&newer, &[5, 2], |_| ())?;
        if found == due { Ok(()) } else { Err(Error::failed(format!("{:?}", found.iter().collect::<Vec<_>>()))) }
    }
}
