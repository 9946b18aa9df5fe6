//! How blocks of extents write the number of a pack: one higher than it is, so that 0 is left for
//! [`OLDER`](super::OLDER).

use crate::Format;

/// Higher numbers were not written in format 1 either.
const MAX_NUMBER: u64 = (1 << 24) - 1;

/// How many packs a manifest or a map may name: in format 2, more than 16 TiB of content.
pub(crate) fn max_packs(format: Format) -> usize {
    match format {
        Format::One => MAX_NUMBER as usize,
        Format::Two => 1 << 20,
    }
}

/// The number as it is written.
pub(super) fn encode(pack: u32) -> u64 {
    pack.wrapping_add(1).into()
}

/// Whether a written number can be that of a pack, or [`OLDER`](super::OLDER).
pub(super) fn is_legal(written: u64) -> bool {
    written <= MAX_NUMBER
}

/// The reverse of [`encode`], of a number that [is legal](is_legal).
pub(super) fn decode(written: u64) -> u32 {
    (written as u32).wrapping_sub(1)
}
