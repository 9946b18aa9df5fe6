//! Cuts a stream into chunks and identifies them. It guesses the next chunk, so that unchanged data
//! is not searched for boundaries.
//!
//! A chunk that an older run stored is usually followed by the one that was stored after it. The
//! length of that one is known. If the stream has a boundary there, the bytes before it are
//! identified. If their id is known, they are the next chunk: an older run searched the same bytes
//! from the same beginning. So the boundaries are those that a search would find. After a change of
//! `chunk_size`, older chunks may stay longer than a search would cut them, which does no harm.
//!
//! A wrong guess costs one hash. So a guess is made only after two chunks have followed each other
//! as in the older run. After a wrong guess, this must happen again. Streams whose chunks are new,
//! or come in another order, therefore cost no guesses.

use bytes::Bytes;
use lifeboat_format::chunk_id::ChunkIdKey;
use lifeboat_format::id::ChunkId;

use super::chunk::{Block, Chunker, Peek};
use super::chunk_index::ChunkIndex;

/// A chunk of a stream, and its id.
pub(crate) struct Identified {
    pub chunk: Bytes,
    pub id: ChunkId,
    /// The number of the chunk, if an older run stored it.
    pub older: Option<u32>,
}

/// The chunks of one stream.
pub(crate) struct Sequence<'a> {
    chunker: Chunker,
    index: &'a ChunkIndex,
    key: &'a ChunkIdKey,
    /// The number of the chunk before, if an older run stored it.
    last: Option<u32>,
    /// The number of the chunk that should come next; `None` if nothing is guessed.
    next: Option<u32>,
}

impl<'a> Sequence<'a> {
    /// Begins a stream, with an average chunk of `chunk_size` bytes.
    pub(crate) fn new(index: &'a ChunkIndex, key: &'a ChunkIdKey, chunk_size: u32) -> Self {
        Self { chunker: Chunker::new(key, chunk_size), index, key, last: None, next: None }
    }

    /// Takes more of the stream. Before, [`Self::next_chunk`] must have returned `None`.
    pub(crate) fn feed(&mut self, block: Block) {
        self.chunker.feed(block);
    }

    /// The next chunk whose end is certain.
    pub(crate) fn next_chunk(&mut self) -> Option<Identified> {
        if let Some(length) = self.next.and_then(|next| self.index.length(next)) {
            match self.chunker.peek(length as usize) {
                Peek::Chunk(chunk) => {
                    let guessed = self.identify(chunk);
                    if guessed.older.is_some() {
                        self.chunker.skip(guessed.chunk.len());
                        self.next = guessed.older.and_then(|number| number.checked_add(1));
                        self.last = guessed.older;
                        return Some(guessed);
                    }
                }
                Peek::More => return None,
                Peek::No => {}
            }
            (self.last, self.next) = (None, None);
        }
        let found = self.chunker.next_chunk().map(|chunk| self.identify(chunk))?;
        let follows = self.last.and_then(|last| last.checked_add(1)) == found.older;
        self.next = found.older.filter(|_| follows).and_then(|number| number.checked_add(1));
        self.last = found.older;
        Some(found)
    }

    /// The remaining chunks, one for each call, after the stream has ended.
    pub(crate) fn rest(&mut self) -> Option<Identified> {
        self.chunker.rest().map(|chunk| self.identify(chunk))
    }

    fn identify(&self, chunk: Bytes) -> Identified {
        let id = self.key.id_of(&chunk);
        Identified { older: self.index.find_older(&id), chunk, id }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use lifeboat_base::buffers::BufferPool;
    use lifeboat_format::id::Digest;
    use lifeboat_format::index::IndexedPack;

    const AVERAGE: u32 = 64 << 10;

    /// The chunks, and of how many an older run's chunk was expected.
    fn cut(data: &[u8], index: Option<&ChunkIndex>, block: usize) -> (Vec<Bytes>, usize) {
        let key = ChunkIdKey::new(&[7; 32]).unwrap();
        let headroom = Chunker::longest(AVERAGE);
        let pool = BufferPool::new(data.len() / block + 2, headroom + block);
        let nothing = ChunkIndex::of(std::iter::empty());
        let mut sequence = Sequence::new(index.unwrap_or(&nothing), &key, AVERAGE);
        let (mut found, mut guessed) = (Vec::new(), 0);
        for part in data.chunks(block) {
            let mut block = Block::new(pool.try_take_for(1).unwrap(), headroom, part.len());
            block.space().copy_from_slice(part);
            block.filled(part.len());
            sequence.feed(block);
            while let Some(Identified { chunk, id, .. }) = sequence.next_chunk() {
                guessed += usize::from(sequence.next.is_some());
                assert_eq!(id, key.id_of(&chunk));
                found.push(chunk);
            }
        }
        found.extend(std::iter::from_fn(|| sequence.rest()).map(|rest| rest.chunk));
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
            let index = index(&cut(&before, None, block).0);
            let (guessed, _) = cut(&after, Some(&index), block);
            let (searched, _) = cut(&after, None, block);
            prop_assert_eq!(guessed, searched);
        }
    }

    #[test]
    fn what_has_not_changed_is_guessed_and_what_has_is_not() {
        let before = noise(8 << 20, 1);
        let (chunks, _) = cut(&before, None, 1 << 20);
        let index = index(&chunks);
        let (again, guessed) = cut(&before, Some(&index), 1 << 20);
        assert_eq!(again, chunks);
        assert!(guessed + 8 > chunks.len(), "{guessed} of {}", chunks.len());
        let mut changed = before.clone();
        changed[4 << 20] ^= 1;
        let (_, guessed) = cut(&changed, Some(&index), 1 << 20);
        assert!(guessed + 20 > chunks.len(), "{guessed} of {}", chunks.len());
        assert_eq!(cut(&noise(8 << 20, 2), Some(&index), 1 << 20).1, 0);
    }

    #[test]
    fn the_end_of_an_older_stream_is_no_boundary() {
        let mut data = noise(1 << 20, 1);
        let index = index(&cut(&data, None, 1 << 19).0);
        data.extend_from_slice(&noise(1 << 20, 2));
        assert_eq!(cut(&data, Some(&index), 1 << 19).0, cut(&data, None, 1 << 19).0);
    }
}
