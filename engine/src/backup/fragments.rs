//! The fragments of a chunk that is not stored whole.

use std::collections::HashSet;

use lifeboat_format::manifest::PackRef;

use super::chunk_index::StoredAt;

/// Some adjacent bytes of a stream, and where they lie. Lengths and offsets are in bytes.
pub(crate) enum Fragment {
    /// They lie in a pack that the chunk index knows.
    Known { place: StoredAt, length: usize },
    /// They lie in a pack of the predecessor.
    Older { pack: PackRef, offset: u64, length: usize },
    /// They lie in the older stream that the stream's map describes.
    Mapped { offset: u64, length: usize },
    /// They are not stored yet.
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

/// What it costs to put a chunk together.
#[derive(Default)]
pub(crate) struct Weight {
    /// How many bytes need not be stored.
    pub found: usize,
    /// How many extents in packs a restore must read.
    pub extents: usize,
    /// The packs in which these extents lie.
    pub packs: HashSet<u32>,
}

/// Appends `more` bytes that are not stored yet.
pub(crate) fn push_new(parts: &mut Vec<Fragment>, more: usize) {
    match parts.last_mut() {
        Some(Fragment::New { length }) => *length += more,
        _ if more > 0 => parts.push(Fragment::New { length: more }),
        _ => {}
    }
}
