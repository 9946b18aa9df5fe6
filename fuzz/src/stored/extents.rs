//! Extents: none reaches beyond its pack, together they are as long as they say, and any place of
//! the stream is found.

use bytes::Bytes;
use lifeboat_format::extents::{Bounds, Extent, Extents, Finder, OLDER};
use lifeboat_format::varint;

/// Larger than any content or stream.
const MAX_LENGTH: u64 = 1 << 50;
/// Each takes a MiB while it is open: of an input with more, time would be all that is found out.
pub(super) const MAX_BLOCKS: usize = 32;
/// Extents that are looked up by their place.
const LOOKED_UP: usize = 100;

/// What stands before blocks in an input: the length of the stream and of the older one, the number
/// of packs, and the length of the content of each; varints.
#[must_use]
pub fn header(length: u64, bounds: &Bounds) -> Vec<u8> {
    let mut out = Vec::new();
    for value in [length, bounds.older, bounds.packs.len() as u64].iter().chain(bounds.packs.iter()) {
        varint::put(&mut out, *value);
    }
    out
}

/// Takes [`header`] off the front of an input.
pub(super) fn take_header(input: &mut &[u8]) -> Option<(u64, Bounds)> {
    let mut next = || varint::take(input).filter(|value| *value <= MAX_LENGTH);
    let (length, older, count) = (next()?, next()?, next()?);
    let packs: Option<Vec<u64>> = (0..count).map(|_| next()).collect();
    Some((length, Bounds { packs: packs?.into(), older }))
}

/// Takes `data` for a header and blocks.
pub fn drive(data: &[u8]) -> bool {
    let mut blocks = data;
    let Some((length, bounds)) = take_header(&mut blocks) else { return false };
    let read = Extents::read(Bytes::copy_from_slice(blocks), length, bounds.clone());
    let Some(extents) = read.filter(|extents| extents.blocks() <= MAX_BLOCKS) else { return false };
    assert_eq!((extents.length(), &extents.bytes()[..]), (length, blocks));
    let longer = Extents::read(extents.bytes().clone(), length + 1, bounds.clone());
    assert!(longer.is_none(), "of two lengths");

    let whole = extents.are_whole();
    let all: Vec<Extent> = extents.iter().collect();
    for extent in &all {
        assert!(extent.length > 0 && inside(&bounds, extent), "{extent:?}");
    }
    if !whole {
        return false;
    }
    assert_eq!(all.iter().map(|extent| extent.length).sum::<u64>(), length);
    look_up(&extents, &all);
    let Ok(written) = Extents::of(all.iter().copied()) else { panic!("cannot be written again") };
    let read = Extents::read(written.bytes().clone(), length, bounds);
    let read = read.filter(Extents::are_whole).unwrap_or_default();
    assert!(merged(read.iter()) == merged(all), "written again they are others");
    true
}

/// Whether there are these bytes.
pub(super) fn inside(bounds: &Bounds, extent: &Extent) -> bool {
    let content = if extent.pack == OLDER { Some(&bounds.older) } else { bounds.packs.get(extent.pack as usize) };
    content.is_some_and(|content| extent.offset + extent.length <= *content)
}

/// Finds some of them by their place.
fn look_up(extents: &Extents, all: &[Extent]) {
    let (mut finder, mut begin) = (Finder::new(extents.clone()), 0);
    let step = all.len() / LOOKED_UP + 1;
    for (at, extent) in all.iter().enumerate() {
        let end = begin + extent.length;
        if at % step == 0 {
            for position in [begin, end - 1] {
                assert_eq!(finder.find(position), Some((begin, *extent)), "what lies at {position}");
            }
            let mut shown = Vec::new();
            assert_eq!(finder.show(end - 1..end, usize::MAX, |part| shown.push(part)), 1);
            assert_eq!(shown, [Extent { offset: extent.offset + extent.length - 1, length: 1, ..*extent }]);
        }
        begin = end;
    }
    assert_eq!(finder.find(begin), None);
}

/// Each merged with the one before where it continues it, as a writer does.
fn merged(extents: impl IntoIterator<Item = Extent>) -> Vec<Extent> {
    let mut merged: Vec<Extent> = Vec::new();
    for extent in extents {
        match merged.last_mut() {
            Some(last) if last.pack == extent.pack && last.offset + last.length == extent.offset => {
                last.length += extent.length;
            }
            _ => merged.push(extent),
        }
    }
    merged
}
