//! Index segments: written again they are the same, byte by byte.

use lifeboat_format::Format;
use lifeboat_format::index::{IndexSegment, IndexedPack};

/// The least that a chunk takes of a segment: its id, and a length of one byte.
const LEAST_CHUNK_BYTES: usize = 33;

/// Takes `data` for a segment, neither compressed nor encrypted.
pub fn drive(data: &[u8]) -> bool {
    let Ok((segment, format)) = IndexSegment::of_content(data.to_vec()) else { return false };
    let mut packs: Vec<IndexedPack> = Vec::new();
    for pack in segment.packs() {
        let Ok(pack) = pack else { return false };
        assert!(pack.chunks.capacity() <= data.len() / LEAST_CHUNK_BYTES + 4, "room for more than there can be");
        assert!(pack.content() <= u64::from(u32::MAX) * pack.chunks.len() as u64);
        packs.push(pack);
    }
    if format == Format::Two {
        assert_eq!(IndexSegment::content(segment.generation, &packs), data, "written differently");
    }
    true
}
