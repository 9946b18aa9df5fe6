//! Renewal: storing again, a little in each run, what has hardly changed. It keeps snapshots dense,
//! so that they are quick to restore and waste little.
//!
//! Where rows change all over a table, two things get worse with every snapshot:
//!
//! - **Packs become sparse** (`sparse.rs`). A pack stays as long as a single row of it is needed,
//!   and what else it holds is waste.
//! - **Streams become scattered** (`scatter.rs`). They have more extents, in more packs, and a
//!   restore must gather all of them.
//!
//! The cure is the same. A backup host cannot read a pack, so it cannot rewrite one. But each
//! backup reads the same rows from their source, and can store them as if they were new.
//!
//! **One budget** bounds how much a run stores again: a 32nd of the newest snapshot, or 16 MiB if
//! that is more. It holds for all streams and for both causes, so no single run stores everything
//! again.
//!
//! 1. **Sparse packs come first.** Prune decides which packs are sparse and writes the list, as far
//!    as the budget has room for what the newest snapshot needs of them. The next backup refers to
//!    none of them, so it stores all of that again. Packs are listed only once they waste much, so
//!    most runs have none to store again.
//! 2. **What is left of the budget goes to scattered stretches**, the most scattered first over all
//!    streams, and at most one of each stream. The backup takes a stretch only as a whole, if the
//!    budget still has room for it. A stretch is a 32nd of its stream, or 16 MiB: if a snapshot has
//!    a single stream and no sparse packs, it is the whole budget.
//!
//! What is stored again is counted before compression. Where a stretch lies in a sparse pack, it
//! counts twice, so a run may store less than the budget allows. What is stored again for other
//! reasons does not count, such as packs that no replica holds, or chunks with too many parts.

pub(crate) mod scatter;
pub(crate) mod sparse;
#[cfg(test)]
mod tests;

/// A run stores again at most this part of the newest snapshot: a 32nd.
const MAX_PART_RENEWED: u64 = 32;
/// If that is less than this, so much may be stored again.
const MIN_BYTES_RENEWED: u64 = 16 << 20;

/// How much of so many bytes is stored again at once, at most.
fn share(bytes: u64) -> u64 {
    (bytes / MAX_PART_RENEWED).max(MIN_BYTES_RENEWED)
}

/// How many bytes a run may still store again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Budget {
    left: u64,
}

impl Budget {
    /// The whole budget of the run that follows the newest snapshot, whose streams are so long.
    fn after(raw_bytes: u64) -> Self {
        Self { left: share(raw_bytes) }
    }

    /// Without the bytes that are stored again in any case.
    fn without(self, bytes: u64) -> Self {
        Self { left: self.left.saturating_sub(bytes) }
    }

    /// Takes so many bytes, if there is room for them.
    fn take(&mut self, bytes: u64) -> bool {
        let left = self.left.checked_sub(bytes);
        self.left = left.unwrap_or(self.left);
        left.is_some()
    }
}
