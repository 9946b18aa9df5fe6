//! Cuts streams into chunks by content: FastCDC (Xia et al., 2016 and 2020) with a gear table that
//! is a secret of the dataset.
//!
//! Boundaries depend only on the bytes, the key and the average size, and not on how the bytes are
//! fed. Without the key, the sizes of chunks do not reveal which known file a dataset holds. The id
//! of a chunk is the keyed BLAKE3 of its plaintext.

use bytes::Bytes;
use lifeboat_base::buffers::Buffer;
use lifeboat_format::chunk_id::ChunkIdKey;
use zeroize::Zeroizing;

use super::cut::Cutter;

const GEAR_CONTEXT: &str = "lifeboat v1 gear table";

/// The gear table of a dataset.
fn gear(key: &ChunkIdKey) -> Box<Zeroizing<[u64; 256]>> {
    let mut bytes = Zeroizing::new([0; 256 * 8]);
    blake3::Hasher::new_derive_key(GEAR_CONTEXT).update(key.expose()).finalize_xof().fill(&mut *bytes);
    let mut gear = Box::new(Zeroizing::new([0; 256]));
    for (word, bytes) in gear.iter_mut().zip(bytes.as_chunks::<8>().0) {
        *word = u64::from_le_bytes(*bytes);
    }
    gear
}

/// Bytes of a stream on their way into a [`Chunker`]. The buffer is reused, and has room in front
/// (the headroom) for what is left of the block before.
pub struct Block {
    buffer: Buffer,
    begin: usize,
    end: usize,
}

impl Block {
    /// An empty block in `buffer`, with `headroom` bytes in front and room for `body` bytes.
    #[must_use]
    pub fn new(mut buffer: Buffer, headroom: usize, body: usize) -> Self {
        if buffer.is_empty() {
            // Fresh zeros cost nothing until they are touched, and most of the headroom never is.
            *buffer = vec![0; headroom + body];
        }
        buffer.resize(headroom + body, 0);
        Self { buffer, begin: headroom, end: headroom }
    }

    /// Where the next bytes of the stream go. It is empty when the block is full.
    pub fn space(&mut self) -> &mut [u8] {
        &mut self.buffer[self.end..]
    }

    /// Says how many bytes were put into [`Self::space`].
    pub fn filled(&mut self, length: usize) {
        self.end = (self.end + length).min(self.buffer.len());
    }

    /// The bytes that were put into the block.
    #[must_use]
    pub fn content(&self) -> &[u8] {
        &self.buffer[self.begin..self.end]
    }

    /// Puts `before` in front of the content.
    fn after(mut self, before: &[u8]) -> Bytes {
        let begin = self.begin - before.len();
        self.buffer[begin..self.begin].copy_from_slice(before);
        let end = self.end;
        self.buffer.freeze().slice(begin..end)
    }
}

/// The answer of [`Chunker::peek`].
pub enum Peek {
    /// There is a boundary. These are the bytes before it.
    Chunk(Bytes),
    /// There is no boundary.
    No,
    /// Too few bytes were fed to tell.
    More,
}

/// Cuts one stream into chunks.
pub struct Chunker {
    cutter: Cutter,
    /// The bytes that are not cut yet.
    window: Bytes,
    /// What is left of the block before. It is copied here, so that the block's buffer is free.
    left: Vec<u8>,
    /// How many bytes of the next chunk are known to have no boundary.
    scanned: usize,
}

impl Chunker {
    /// Cuts into chunks of about `average` bytes, a power of two from 64 KiB to 4 MiB. Chunks have
    /// from half to four times that. Only the last one of a stream may be shorter.
    #[must_use]
    pub fn new(key: &ChunkIdKey, average: u32) -> Self {
        Self { cutter: Cutter::new(gear(key), average as usize), window: Bytes::new(), left: Vec::new(), scanned: 0 }
    }

    /// The length of the longest chunk for this average, in bytes. Blocks need as much headroom.
    #[must_use]
    pub fn longest(average: u32) -> usize {
        average as usize * 4
    }

    /// Takes the next bytes of the stream. Before, [`Self::next_chunk`] must have returned `None`.
    pub fn feed(&mut self, block: Block) {
        // What is left fits the headroom: it is shorter than the longest chunk, or it would be cut.
        self.window = block.after(&self.left);
        self.left.clear();
    }

    /// The next chunk whose end is certain. If it is `None`, feed more, or call [`Self::rest`] at
    /// the end of the stream.
    pub fn next_chunk(&mut self) -> Option<Bytes> {
        let length = self.cutter.cut(&self.window, self.scanned);
        if length < self.window.len() || length == self.cutter.longest() {
            self.scanned = 0;
            return Some(self.window.split_to(length));
        }
        // An odd last byte was not searched.
        self.scanned = length & !1;
        self.set_aside();
        None
    }

    /// Whether there is a boundary after the next `length` bytes. These bytes are not searched for
    /// another one. A caller who knows that there is none takes the chunk with [`Self::skip`].
    /// After [`Peek::More`], feed more, or call [`Self::rest`] at the end of the stream.
    pub fn peek(&mut self, length: usize) -> Peek {
        match self.cutter.ends(&self.window, length) {
            Some(true) => Peek::Chunk(self.window.slice(..length)),
            Some(false) => Peek::No,
            None => {
                self.set_aside();
                Peek::More
            }
        }
    }

    /// Takes the next `length` bytes as a chunk.
    pub fn skip(&mut self, length: usize) {
        self.window = self.window.split_off(length.min(self.window.len()));
        self.scanned = 0;
    }

    fn set_aside(&mut self) {
        self.left.extend_from_slice(&self.window);
        self.window = Bytes::new();
    }

    /// The remaining chunks, one for each call, after the last byte was fed.
    pub fn rest(&mut self) -> Option<Bytes> {
        if self.window.is_empty() {
            self.window = Bytes::from(std::mem::take(&mut self.left));
        }
        let length = self.cutter.cut(&self.window, std::mem::take(&mut self.scanned));
        (length > 0).then(|| self.window.split_to(length))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;
    use lifeboat_base::buffers::BufferPool;
    use lifeboat_base::{Class, Context, Result};
    use proptest::prelude::*;

    const AVERAGE: u32 = 64 << 10;

    fn key(byte: u8) -> ChunkIdKey {
        ChunkIdKey::new(&[byte; 32]).unwrap()
    }

    fn noise(length: usize, seed: u64) -> Vec<u8> {
        let mut data = vec![0; length];
        blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof().fill(&mut data);
        data
    }

    /// Feeds `data` in blocks of `block` bytes.
    fn chunks(key: &ChunkIdKey, data: &[u8], block: usize) -> Result<Vec<Bytes>> {
        let runtime = tokio::runtime::Builder::new_current_thread().build().context(Class::Failed, || "no runtime")?;
        let headroom = Chunker::longest(AVERAGE);
        let pool = BufferPool::new(data.len() / block + 2, headroom);
        let mut chunker = Chunker::new(key, AVERAGE);
        let mut found = Vec::new();
        for part in data.chunks(block) {
            let mut block = Block::new(runtime.block_on(pool.take())?, headroom, part.len());
            block.space().copy_from_slice(part);
            block.filled(part.len());
            chunker.feed(block);
            found.extend(std::iter::from_fn(|| chunker.next_chunk()));
        }
        found.extend(std::iter::from_fn(|| chunker.rest()));
        Ok(found)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(16))]
        #[test]
        fn boundaries_do_not_depend_on_how_bytes_are_fed(seed: u64, length in 0usize..2_000_000, piece in 1000usize..600_000) {
            let data = noise(length, seed);
            let found = chunks(&key(1), &data, piece).unwrap();
            prop_assert_eq!(&found, &chunks(&key(1), &data, usize::MAX).unwrap());
            prop_assert_eq!(found.concat(), data);
            prop_assert!(found.iter().all(|chunk| chunk.len() <= 4 * AVERAGE as usize));
        }
    }

    #[test]
    fn an_insertion_changes_only_the_chunks_around_it() -> Result<()> {
        let mut data = noise(8 << 20, 7);
        let before = chunks(&key(1), &data, 1 << 20)?;
        data.splice(4_000_000..4_000_000, *b"inserted");
        let after = chunks(&key(1), &data, 1 << 20)?;
        let new = after.iter().filter(|chunk| !before.contains(chunk)).count();
        assert!((1..=4).contains(&new), "{new} chunks changed");
        Ok(())
    }

    #[test]
    fn another_key_cuts_elsewhere_and_names_differently() -> Result<()> {
        let data = noise(4 << 20, 7);
        let mine: Vec<usize> = chunks(&key(1), &data, 1 << 20)?.iter().map(Bytes::len).collect();
        let theirs: Vec<usize> = chunks(&key(2), &data, 1 << 20)?.iter().map(Bytes::len).collect();
        assert_ne!(mine, theirs);
        assert_ne!(key(1).id_of(&data), key(2).id_of(&data));
        Ok(())
    }
}
