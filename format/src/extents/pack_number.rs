//! How blocks of extents write the number of a pack: one higher than it is, so that 0 is left for
//! [`OLDER`](super::OLDER).

/// Packs that a manifest's table may have: a few for each GiB.
const MAX_PACKS: u64 = 1 << 24;

/// The number as it is written.
pub(super) fn encode(pack: u32) -> u64 {
    pack.wrapping_add(1).into()
}

/// Whether a written number can be that of a pack, or [`OLDER`](super::OLDER).
pub(super) fn is_legal(written: u64) -> bool {
    written < MAX_PACKS
}

/// The reverse of [`encode`], of a number that [is legal](is_legal).
pub(super) fn decode(written: u64) -> u32 {
    (written as u32).wrapping_sub(1)
}
