//! Guesses a stream's next chunk, so that what has not changed need not be searched for boundaries.
//!
//! After a chunk that an older run stored, most often the one stored after it comes. Its length is known; if the stream holds a
//! boundary there, the bytes up to it are identified, and if the id is known, that is the chunk: bytes of that id were searched
//! before, from the same beginning on. So boundaries are those that a search would find; only chunks that were cut for another
//! `chunk_size` may be kept longer than a search would leave them, which costs nothing.
//!
//! A wrong guess costs one hash too many. None is made before two chunks have followed each other as they did in the older
//! run, and after a wrong one that must be seen again: streams whose chunks are all new, or come in another order, are not guessed at.

use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;

use super::chunk_index::ChunkIndex;
use crate::bytes::chunk::{ChunkIdKey, Chunker, Peek};
use crate::id::ChunkId;

/// A chunk's place in its stream, and its number in the index, when the one before it has the number before.
#[derive(Clone, Copy)]
struct InOrder {
    at: u64,
    number: u32,
}

type Shared = Arc<Mutex<Option<InOrder>>>;

/// Two ends: who cuts guesses, who identifies says what came.
pub(super) fn sequence() -> (Guesser, Follower) {
    let seen = Shared::default();
    (Guesser { seen: seen.clone(), at: 0, next: None, missed: None }, Follower { seen, at: 0, last: None })
}

/// A chunk that an older run stored.
#[derive(Clone, Copy)]
pub(super) struct Guessed {
    pub id: ChunkId,
    pub number: u32,
}

/// Cuts a stream's next chunk.
pub(super) struct Guesser {
    seen: Shared,
    at: u64,
    next: Option<u32>,
    missed: Option<u64>,
}

impl Guesser {
    /// As [`Chunker::next_chunk`]; with what is known of the chunk where it was guessed.
    pub(super) fn next_chunk(
        &mut self,
        chunker: &mut Chunker,
        index: &ChunkIndex,
        key: &ChunkIdKey,
    ) -> Option<(Bytes, Option<Guessed>)> {
        if let Some(number) = self.guess() {
            let peek = index.length(number).map_or(Peek::No, |length| chunker.peek(length as usize));
            match peek {
                Peek::Chunk(chunk) => {
                    let id = key.id_of(&chunk);
                    if let Some(number) = index.find_older(&id) {
                        chunker.skip(chunk.len());
                        (self.at, self.next) = (self.at + 1, number.checked_add(1));
                        return Some((chunk, Some(Guessed { id, number })));
                    }
                }
                Peek::More => return None,
                Peek::No => {}
            }
            (self.next, self.missed) = (None, Some(self.at));
        }
        let chunk = chunker.next_chunk()?;
        self.at += 1;
        self.next = None;
        Some((chunk, None))
    }

    fn guess(&mut self) -> Option<u32> {
        if self.next.is_none() {
            let seen = (*self.seen.lock().unwrap_or_else(PoisonError::into_inner))?;
            let later = self.missed.is_none_or(|missed| seen.at > missed);
            self.next = u32::try_from(self.at - seen.at).ok().filter(|_| later)?.checked_add(seen.number);
        }
        self.next
    }
}

/// Told of every chunk, in order.
pub(super) struct Follower {
    seen: Shared,
    at: u64,
    last: Option<u32>,
}

impl Follower {
    /// The next chunk: its number, if an older run stored it.
    pub(super) fn saw(&mut self, number: Option<u32>) {
        let follows = number.filter(|number| self.last.is_some_and(|last| last.checked_add(1) == Some(*number)));
        let seen = follows.map(|number| InOrder { at: self.at, number });
        *self.seen.lock().unwrap_or_else(PoisonError::into_inner) = seen;
        (self.at, self.last) = (self.at + 1, number);
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use std::collections::VecDeque;

    use proptest::prelude::*;

    use super::*;
    use crate::bytes::buffers::BufferPool;
    use crate::bytes::chunk::Block;
    use crate::id::Digest;
    use crate::vault::index::IndexedPack;

    const AVERAGE: u32 = 64 << 10;

    /// Lengths of the chunks, and how many of them were guessed. The follower learns of a chunk `lag` chunks later.
    fn cut(data: &[u8], index: Option<&ChunkIndex>, block: usize, lag: usize) -> (Vec<Bytes>, usize) {
        let key = ChunkIdKey::new(&[7; 32]).unwrap();
        let headroom = Chunker::longest(AVERAGE);
        let pool = BufferPool::new(data.len() / block + 2, headroom + block);
        let (mut chunker, mut found, mut guessed) = (Chunker::new(&key, AVERAGE), Vec::new(), 0);
        let (mut guesser, mut follower) = sequence();
        let mut late = VecDeque::new();
        for part in data.chunks(block) {
            let mut block = Block::new(pool.try_take_for(1).unwrap(), headroom, part.len());
            block.space().copy_from_slice(part);
            block.filled(part.len());
            chunker.feed(block);
            loop {
                let next = match index {
                    Some(index) => guesser.next_chunk(&mut chunker, index, &key),
                    None => chunker.next_chunk().map(|chunk| (chunk, None)),
                };
                let Some((chunk, number)) = next else { break };
                guessed += usize::from(number.is_some());
                late.push_back(number.map(|guessed| guessed.number).or_else(|| index?.find_older(&key.id_of(&chunk))));
                if late.len() > lag {
                    follower.saw(late.pop_front().flatten());
                }
                found.push(chunk);
            }
        }
        found.extend(std::iter::from_fn(|| chunker.rest()));
        (found, guessed)
    }

    /// Of what was cut before: some chunks a pack.
    fn index(chunks: &[Bytes]) -> ChunkIndex {
        let key = ChunkIdKey::new(&[7; 32]).unwrap();
        let packs = chunks.chunks(5).enumerate().map(|(number, chunks)| IndexedPack {
            id: Digest([number as u8; 32]),
            size: 1,
            chunks: chunks.iter().map(|chunk| (key.id_of(chunk), chunk.len() as u32)).collect(),
        });
        ChunkIndex::of(packs)
    }

    fn noise(length: usize, seed: u64) -> Vec<u8> {
        let mut data = vec![0; length];
        blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof().fill(&mut data);
        data
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]
        #[test]
        fn boundaries_are_those_of_a_search(
            seed: u64,
            length in 0usize..4_000_000,
            block in 300_000usize..700_000,
            lag in 0usize..6,
            edits in prop::collection::vec((0.0..1.0, 0usize..3, 0usize..200_000), 0..5),
        ) {
            let before = noise(length, seed);
            let mut after = before.clone();
            for (number, (at, kind, long)) in edits.into_iter().enumerate() {
                let at = (after.len() as f64 * at) as usize;
                let end = (at + long).min(after.len());
                let new = noise(if kind == 0 { end - at } else { long * (kind - 1) }, number as u64);
                after.splice(at..if kind == 2 { at } else { end }, new);
            }
            let index = index(&cut(&before, None, block, 0).0);
            let (guessed, _) = cut(&after, Some(&index), block, lag);
            let (searched, _) = cut(&after, None, block, 0);
            prop_assert_eq!(guessed, searched);
        }
    }

    #[test]
    fn what_has_not_changed_is_guessed_and_what_has_is_not() {
        let before = noise(8 << 20, 1);
        let (chunks, _) = cut(&before, None, 1 << 20, 0);
        let index = index(&chunks);
        let (again, guessed) = cut(&before, Some(&index), 1 << 20, 3);
        assert_eq!(again, chunks);
        assert!(guessed + 8 > chunks.len(), "{guessed} of {}", chunks.len());
        let mut changed = before.clone();
        changed[4 << 20] ^= 1;
        let (_, guessed) = cut(&changed, Some(&index), 1 << 20, 3);
        assert!(guessed + 20 > chunks.len(), "{guessed} of {}", chunks.len());
        assert_eq!(cut(&noise(8 << 20, 2), Some(&index), 1 << 20, 3).1, 0);
    }

    #[test]
    fn the_end_of_an_older_stream_is_no_boundary() {
        let mut data = noise(1 << 20, 1);
        let index = index(&cut(&data, None, 1 << 19, 0).0);
        data.extend_from_slice(&noise(1 << 20, 2));
        assert_eq!(cut(&data, Some(&index), 1 << 19, 0).0, cut(&data, None, 1 << 19, 0).0);
    }
}
