//! Maps: a stream is found in packs, whether its extents tell so or a map does.

use bytes::Bytes;
use lifeboat_format::extents::Extents;
use lifeboat_format::id::PackId;
use lifeboat_format::map::{Resolved, StreamMap};
use lifeboat_format::varint;

use super::extents::{MAX_BLOCKS, header, inside, take_header};

/// Content of every pack that a map names here.
const CONTENT: u64 = 1 << 40;
/// Extents of the stream that are resolved. Each may lie in all blocks of the map.
const MAX_EXTENTS: usize = 2000;
/// Extents in packs that are looked at.
const MAX_RESOLVED: usize = 100_000;

/// An input: the length of the older stream and of the map, the map, and what `extents` takes.
#[must_use]
pub fn input(covers: u64, map: &[u8], header: &[u8], blocks: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    varint::put(&mut out, covers);
    varint::put(&mut out, map.len() as u64);
    [&out, map, header, blocks].concat()
}

/// Takes `data` for a map, and the stream whose older stream it tells of.
pub fn drive(data: &[u8]) -> bool {
    let mut rest = data;
    let Some((covers, bytes)) = take_map(&mut rest) else { return false };
    let known = |pack: &PackId| (pack.0[0] != 0xff).then_some(CONTENT);
    let map = StreamMap::parse(&bytes, covers, known);
    let Some(map) = map.filter(|map| map.extents.blocks() <= MAX_BLOCKS) else { return false };
    assert_eq!(map.to_bytes(), bytes, "written differently");
    assert!(map.packs.len() <= bytes.len() / 32 && map.packs.iter().all(|pack| known(pack).is_some()));
    assert!(StreamMap::parse(&bytes, covers + 1, known).is_none(), "of two lengths");
    assert!(StreamMap::parse(&bytes.slice(..bytes.len() - 1), covers, known).is_none(), "cut short");

    let Some((length, mut bounds)) = take_header(&mut rest) else { return false };
    bounds.older = covers;
    debug_assert_eq!(take_header(&mut &header(length, &bounds)[..]), Some((length, bounds.clone())));
    let own = Extents::read(Bytes::copy_from_slice(rest), length, bounds.clone());
    let Some(own) = own.filter(|own| own.blocks() <= MAX_BLOCKS) else { return false };
    if own.iter().take(MAX_EXTENTS).count() == MAX_EXTENTS {
        return false;
    }
    let whole = own.are_whole() && map.extents.are_whole();
    // The map's packs stand behind those of the stream.
    let first = bounds.packs.len();
    bounds.packs = bounds.packs.iter().copied().chain(map.packs.iter().map(|_| CONTENT)).collect();
    bounds.older = 0;
    let numbers = (first as u32..).take(map.packs.len()).collect();
    let resolved = Resolved::new(own, &map, numbers);
    assert_eq!(resolved.length(), length);

    let (mut sum, mut count) = (0, 0);
    for extent in resolved.iter().take(MAX_RESOLVED) {
        assert!(extent.length > 0 && inside(&bounds, &extent), "{extent:?}");
        (sum, count) = (sum + extent.length, count + 1);
    }
    assert!(sum <= length, "{sum} bytes of {length}");
    if count == MAX_RESOLVED {
        return false;
    }
    assert!(!whole || sum == length, "{sum} bytes of {length}");
    whole
}

/// The length of the older stream, and the map.
fn take_map(input: &mut &[u8]) -> Option<(u64, Bytes)> {
    let (covers, length) = (varint::take(input)?, varint::take(input)?);
    let bytes = input.split_off(..usize::try_from(length).ok()?)?;
    (covers < u64::MAX).then(|| (covers, Bytes::copy_from_slice(bytes)))
}
