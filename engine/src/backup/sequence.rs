//! Cuts a stream into chunks and identifies them; guesses the next one, so that what has not
//! changed need not be searched for boundaries.
//!
//! After a chunk that an older run stored, most often the one stored after it comes. Its length is
//! known; if the stream holds a boundary there, the bytes up to it are identified, and if the id is
//! known, that is the chunk: bytes of that id were searched before, from the same beginning on. So
//! boundaries are those that a search would find; only chunks that were cut for another
//! `chunk_size` may be kept longer than a search would leave them, which costs nothing.
//!
//! A wrong guess costs one hash too many. None is made before two chunks have followed each other
//! as they did in the older run, and after a wrong one that must be seen again: streams whose
//! chunks are all new, or come in another order, are not guessed at.

use bytes::Bytes;
use lifeboat_format::chunk_id::ChunkIdKey;
use lifeboat_format::id::ChunkId;

use super::chunk::{Block, Chunker, Peek};
use super::chunk_index::ChunkIndex;

/// A chunk of a stream.
pub(crate) struct Identified {
    pub chunk: Bytes,
    pub id: ChunkId,
    /// Its number, if an older run stored it.
    pub older: Option<u32>,
}

/// The chunks of one stream.
pub(crate) struct Sequence<'a> {
    chunker: Chunker,
    index: &'a ChunkIndex,
    key: &'a ChunkIdKey,
    /// The number of the chunk before, …
    last: Option<u32>,
    /// … and of the one that should come next.
    next: Option<u32>,
}

impl<'a> Sequence<'a> {
    /// Of a stream that is cut for `chunk_size`.
    pub(crate) fn new(index: &'a ChunkIndex, key: &'a ChunkIdKey, chunk_size: u32) -> Self {
        Self { chunker: Chunker::new(key, chunk_size), index, key, last: None, next: None }
    }

    /// Takes more of the stream; only when there is no next chunk.
    pub(crate) fn feed(&mut self, block: Block) {
        self.chunker.feed(block);
    }

    /// The next chunk that is sure to end where it does.
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

    /// The next of the chunks that are left when the stream has ended.
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
