//! What a chunk is put together from, where it is not stored whole.

use std::collections::HashSet;

use lifeboat_format::manifest::PackRef;

use super::chunk_index::StoredAt;

/// Some bytes of a stream, in order.
pub(crate) enum Fragment {
    /// In a pack that the chunk index knows.
    Known { place: StoredAt, length: usize },
    /// In a pack of the snapshot before.
    Older { pack: PackRef, offset: u64, length: usize },
    /// In the older stream that the stream's map tells of.
    Mapped { offset: u64, length: usize },
    /// Nowhere yet.
    New { length: usize },
}

impl Fragment {
    pub(crate) fn length(&self) -> usize {
        match self {
            Self::Known { length, .. }
            | Self::Older { length, .. }
            | Self::Mapped { length, .. }
            | Self::New { length } => *length,
        }
    }
}

/// What it takes to put a chunk together.
#[derive(Default)]
pub(crate) struct Weight {
    /// Bytes that need not be stored.
    pub found: usize,
    /// Extents in packs, and the packs.
    pub extents: usize,
    pub packs: HashSet<u32>,
}

/// Appends bytes that are not there.
pub(crate) fn push_new(parts: &mut Vec<Fragment>, more: usize) {
    match parts.last_mut() {
        Some(Fragment::New { length }) => *length += more,
        _ if more > 0 => parts.push(Fragment::New { length: more }),
        _ => {}
    }
}
