//! The outline of a stream: which parts of it lie in which packs, as the plan of a restore needs
//! it. Where there are millions of extents, most blocks are not opened: what they say of their
//! reaches is enough.

use std::ops::Range;

use crate::extents::{Extent, Extents, Finder, MAX_BLOCK_EXTENTS, OLDER, Reach};
use crate::map::Resolved;

/// A block of the stream's own extents that holds more of the stream is opened: its extents are
/// long, so they are few.
const MAX_OWN_BLOCK_BYTES: u64 = 32 << 20;
/// The same for blocks of the older stream's extents.
const MAX_OLDER_BLOCK_BYTES: u64 = 8 << 20;

impl Resolved {
    /// Calls `each` for every stretch of the stream, in order, with its length and what it reaches
    /// in packs. If `each` returns `false` because that is too much at once, the stretch is divided
    /// into shorter ones, in the end into single extents. Returns `false` if extents are damaged;
    /// damage inside blocks that were not opened goes unnoticed.
    pub fn outline(&self, each: impl FnMut(u64, &[Reach]) -> bool) -> bool {
        let (older, numbers) = self.older.clone().unwrap_or_default();
        let finder = Finder::new(older.clone());
        let (older, numbers) = (&older, &numbers[..]);
        let (block, places) = (0, 0..0);
        let mut group =
            Group { older, numbers, finder, each, extents: Vec::new(), block, places, covered: 0, end: 0, told: 0 };
        let mut opened = Vec::new();
        for block in 0..self.extents.blocks() {
            if !group.tell_block(&self.extents, block) {
                self.extents.open(block, &mut opened);
                opened.iter().for_each(|extent| group.push(*extent));
                group.tell();
            }
        }
        group.told == self.length()
    }
}

/// Successive extents of the stream. Those of them in the older stream lie in one block of it, and
/// in order.
struct Group<'a, F> {
    older: &'a Extents,
    /// The numbers of the older stream's packs among those of the stream.
    numbers: &'a [u32],
    finder: Finder,
    each: F,
    extents: Vec<Extent>,
    /// The block of the older stream, and which part of the older stream it holds.
    block: usize,
    places: Range<u64>,
    /// How many bytes of that part the extents name.
    covered: u64,
    /// Where in the older stream the last one ends.
    end: u64,
    /// How many bytes of the stream `each` has taken.
    told: u64,
}

impl<F: FnMut(u64, &[Reach]) -> bool> Group<'_, F> {
    /// Hands a whole block of the stream's own extents to `each`, by the block's reaches. `false`
    /// if it must be opened.
    fn tell_block(&mut self, own: &Extents, block: usize) -> bool {
        let places = own.places(block);
        let length = places.end - places.start;
        let reaches = if length <= MAX_OWN_BLOCK_BYTES { self.in_packs(own.reaches(block)) } else { None };
        let taken = reaches.is_some_and(|reaches| (self.each)(length, &reaches));
        self.told += if taken { length } else { 0 };
        taken
    }

    /// `own` with the reaches in the older stream translated to packs. `None` if there are no
    /// reaches, or if only the extents themselves can tell.
    fn in_packs(&self, own: Vec<Reach>) -> Option<Vec<Reach>> {
        let mut reaches = Vec::new();
        for Reach { pack, range, named } in own {
            if pack != OLDER {
                reaches.push(Reach { pack, range, named });
                continue;
            }
            // Where extents name only little of a range, its blocks would reach far too much.
            let whole = range.end - range.start;
            if named <= whole / 2 {
                return None;
            }
            let mut begin = range.start;
            while begin < range.end {
                let block = self.older.block_at(begin)?;
                let end = range.end.min(self.older.places(block).end);
                reaches.extend(self.of_older(block, share(named, end - begin, whole))?);
                begin = end;
            }
        }
        Some(reaches).filter(|reaches| !reaches.is_empty())
    }

    /// What a block of the older stream reaches in packs if `named` bytes of it are needed. `None`
    /// if the block does not say.
    fn of_older(&self, block: usize, named: u64) -> Option<Vec<Reach>> {
        let (mut reaches, places) = (self.older.reaches(block), self.older.places(block));
        for reach in &mut reaches {
            // Nobody says how much of each reach is needed: about the same share as of the block.
            reach.pack = self.numbers[reach.pack as usize];
            reach.named = share(reach.named, named, places.end - places.start);
        }
        Some(reaches).filter(|reaches| !reaches.is_empty())
    }

    fn push(&mut self, extent: Extent) {
        if self.extents.len() >= MAX_BLOCK_EXTENTS {
            self.tell();
        }
        if extent.pack != OLDER {
            self.extents.push(extent);
            return;
        }
        let (mut offset, end) = (extent.offset, extent.offset + extent.length);
        while offset < end {
            if !self.places.contains(&offset) || offset < self.end {
                self.tell();
                let Some(block) = self.older.block_at(offset) else { return };
                (self.block, self.places) = (block, self.older.places(block));
            }
            self.end = end.min(self.places.end);
            self.covered += self.end - offset;
            self.extents.push(Extent { offset, length: self.end - offset, ..extent });
            offset = self.end;
        }
    }

    /// Hands all extents to `each`, and begins a new group.
    fn tell(&mut self) {
        if !self.tell_at_once() {
            for extent in &self.extents {
                if extent.pack == OLDER {
                    self.told += self.finder.show(extent.offset..extent.offset + extent.length, usize::MAX, |older| {
                        let extent = Extent { pack: self.numbers[older.pack as usize], ..older };
                        (self.each)(extent.length, &[Reach::from(&extent)]);
                    });
                } else {
                    self.told += extent.length;
                    (self.each)(extent.length, &[extent.into()]);
                }
            }
        }
        self.extents.clear();
        (self.covered, self.end) = (0, 0);
    }

    /// If the extents name most of their block of the older stream, hands them over at once, with
    /// what that block reaches and what their own extents reach.
    fn tell_at_once(&mut self) -> bool {
        let whole = self.places.end - self.places.start;
        if whole > MAX_OLDER_BLOCK_BYTES || self.covered <= whole / 2 {
            return false;
        }
        let own = Reach::of(self.extents.iter().filter(|extent| extent.pack != OLDER));
        if own.is_empty() && self.extents.iter().any(|extent| extent.pack != OLDER) {
            return false;
        }
        let Some(mut reaches) = self.of_older(self.block, self.covered) else { return false };
        reaches.extend(own);
        let length = self.extents.iter().map(|extent| extent.length).sum();
        let taken = (self.each)(length, &reaches);
        self.told += if taken { length } else { 0 };
        taken
    }
}

/// The share of `value` that `part` is of `whole`.
fn share(value: u64, part: u64, whole: u64) -> u64 {
    (u128::from(value) * u128::from(part) / u128::from(whole.max(1))) as u64
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::{Digest, PackId};
    use crate::map::StreamMap;
    use lifeboat_base::Result;

    const ROW: u64 = 150;

    /// A stream of rows in turn from two packs, some 40 MiB, and a newer one of which `own` tells.
    fn resolved(own: impl IntoIterator<Item = Extent>) -> Result<Resolved> {
        let older = (0..280_000).map(|n| Extent { pack: (n % 2) as u32, offset: n / 2 * ROW, length: ROW - n % 2 });
        let ids: Vec<PackId> = (0..3_u8).map(|n| Digest::of(&[n])).collect();
        let map = StreamMap::of(older, &ids)?;
        Ok(Resolved::new(Extents::of(own)?, &map, vec![0, 1]))
    }

    /// Most of the older stream: of so many rows one is changed, and one comes from elsewhere.
    fn own(of: u64) -> Vec<Extent> {
        let row = |n: u64| match n {
            4007 => Extent { pack: OLDER, offset: 11_000_000, length: 90 },
            n if n % 2 == 0 => Extent { pack: 2, offset: n * 50, length: 100 },
            _ => Extent { pack: OLDER, offset: n / 2 * of * ROW, length: (of - 1) * ROW },
        };
        (0..500_000 / of).map(row).collect()
    }

    #[test]
    fn tells_what_the_extents_need_though_few_blocks_are_opened() -> Result<()> {
        // Blocks of the stream's own extents tell of more than is taken at once, and of less.
        for (of, most) in [(50, 14_000), (10, 4)] {
            let resolved = resolved(own(of))?;
            let (mut stretches, mut all) = (0, resolved.iter().peekable());
            let mut left = 0;
            assert!(resolved.outline(|length, reaches| {
                stretches += 1;
                left += length;
                while let Some(extent) = all.next_if(|extent| extent.length <= left) {
                    left -= extent.length;
                    assert!(reaches.iter().any(|reach| reach.holds(&extent)), "{extent:?} is not in {reaches:?}");
                }
                true
            }));
            assert_eq!((left, all.next()), (0, None));
            assert!((1..=most).contains(&stretches), "{stretches} stretches");
        }
        Ok(())
    }

    #[test]
    fn what_lies_all_over_the_older_stream_is_not_told_by_its_blocks() -> Result<()> {
        // A row here and there, near enough to each other to be one reach.
        let resolved = resolved((0..16_000).map(|n| Extent { pack: OLDER, offset: n * 10 * ROW, length: 100 }))?;
        let mut longest = 0;
        assert!(resolved.outline(|length, _| {
            longest = longest.max(length);
            true
        }));
        assert_eq!(longest, 100);
        Ok(())
    }

    #[test]
    fn what_is_too_much_at_once_is_told_one_by_one() -> Result<()> {
        for of in [50, 10] {
            let resolved = resolved(own(of))?;
            let mut told = Vec::new();
            assert!(resolved.outline(|length, reaches| {
                let one = reaches.len() == 1;
                if one {
                    told.push(Extent { pack: reaches[0].pack, offset: reaches[0].range.start, length });
                }
                one
            }));
            // One may be told in two parts, where a block of the older stream ends: they are merged
            // again.
            assert_eq!(Extents::of(told)?.bytes(), Extents::of(resolved.iter())?.bytes());
        }
        Ok(())
    }

    #[test]
    fn damage_is_told() -> Result<()> {
        for own in [vec![Extent { pack: OLDER, offset: 45_000_000, length: 10 }], vec![]] {
            let none = own.is_empty();
            let resolved = resolved(own)?;
            assert_eq!(resolved.outline(|_, _| true), none);
        }
        Ok(())
    }
}
