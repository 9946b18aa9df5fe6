//! Packs: many chunks in one age file. See "Packs" in `FORMAT.md`.
//!
//! The plaintext is one complete zstd frame for each chunk, then two skippable frames: the chunk
//! table and the padding. The last 16 bytes of the padding say where the table begins. So
//! `age -d PACK | zstd -d` gives the content, and the size of a pack tells little.

use std::io::{Read, Seek, SeekFrom, Write};
use std::ops::Range;

use lifeboat_base::buffers::{Buffer, spare};
use lifeboat_base::{Class, Context, Error, Result};

use crate::chunk_id::ChunkIdKey;
use crate::frames::{SKIPPABLE_MAGIC, decompress};
use crate::id::{ChunkId, Digest};
use crate::varint;

/// A pack is closed once its frames reach this many bytes, …
pub const TARGET_FRAMES_BYTES: usize = 16 << 20;

/// … or its content this many, which bounds how much of a stream the loss of one pack can take.
pub const TARGET_CONTENT_BYTES: usize = 32 << 20;

/// No pack holds more content: the target and one chunk of the largest size.
const MAX_CONTENT_BYTES: usize = TARGET_CONTENT_BYTES + (16 << 20);

/// A pack's plaintext is padded to a multiple of this, …
const PADDING_STEP_BYTES: usize = 64 << 10;
/// … but from there to [`COARSE_PADDING_FROM_BYTES`] only to a multiple of this: a backup of
/// changed rows stores packs of about half a MiB, and coarse padding would be a sixteenth of such a
/// pack.
const FINE_PADDING_STEP_BYTES: usize = 16 << 10;
const COARSE_PADDING_FROM_BYTES: usize = 1 << 20;
const TRAILER_MAGIC: [u8; 8] = *b"LBPACK01";
const TRAILER_BYTES: usize = 16;
const FRAME_HEADER_BYTES: usize = 8;
/// No table and its padding take more: enough for 100,000 chunks.
const MAX_TABLE_BYTES: u64 = 4 << 20;

/// One chunk in a pack, in order; offsets are sums of what stands before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ChunkEntry {
    /// Keyed BLAKE3 of its plaintext.
    pub id: ChunkId,
    /// Length of its plaintext.
    pub length: u32,
    /// Length of its frame.
    pub frame: u32,
}

/// A pack that is being filled. Its plaintext goes to `W` as it comes. `W` is an age writer, so the
/// plaintext is kept nowhere.
pub struct PackWriter<W> {
    out: W,
    entries: Vec<ChunkEntry>,
    frames: usize,
    content: usize,
}

impl<W: Write> PackWriter<W> {
    /// An empty pack that writes to `out`.
    pub fn new(out: W) -> Self {
        Self { out, entries: Vec::new(), frames: 0, content: 0 }
    }

    /// Appends a chunk of `length` bytes, compressed to `frame`; returns its offset in the content.
    ///
    /// # Errors
    /// `W` cannot be written to.
    pub fn push(&mut self, id: ChunkId, length: usize, frame: &[u8]) -> Result<u64> {
        let offset = self.content as u64;
        self.out.write_all(frame).context(Class::Failed, || UNWRITABLE)?;
        self.entries.push(ChunkEntry { id, length: length as u32, frame: frame.len() as u32 });
        self.frames += frame.len();
        self.content += length;
        Ok(offset)
    }

    /// Bytes of all frames so far.
    #[must_use]
    pub fn size(&self) -> usize {
        self.frames
    }

    /// Whether it should be closed.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.frames >= TARGET_FRAMES_BYTES || self.content >= TARGET_CONTENT_BYTES
    }

    /// Writes table and padding.
    ///
    /// # Errors
    /// `W` cannot be written to.
    pub fn finish(mut self) -> Result<FilledPack<W>> {
        let mut table = Vec::with_capacity(self.entries.len() * 40 + 10);
        varint::put(&mut table, self.entries.len() as u64);
        for entry in &self.entries {
            table.extend_from_slice(&entry.id.0);
            varint::put(&mut table, u64::from(entry.length));
            varint::put(&mut table, u64::from(entry.frame));
        }
        let mut tail = Vec::new();
        skippable_frame(&mut tail, &table);
        let unpadded = self.frames + tail.len() + FRAME_HEADER_BYTES + TRAILER_BYTES;
        let mut padding = vec![0; padded(unpadded) - unpadded];
        padding.extend_from_slice(&(self.frames as u64).to_le_bytes());
        padding.extend_from_slice(&TRAILER_MAGIC);
        skippable_frame(&mut tail, &padding);
        self.out.write_all(&tail).context(Class::Failed, || UNWRITABLE)?;
        Ok(FilledPack { out: self.out, entries: self.entries, content: self.content as u64 })
    }
}

/// How long a plaintext of `length` bytes is with its padding.
fn padded(length: usize) -> usize {
    let finely = (PADDING_STEP_BYTES..COARSE_PADDING_FROM_BYTES).contains(&length);
    length.next_multiple_of(if finely { FINE_PADDING_STEP_BYTES } else { PADDING_STEP_BYTES })
}

const UNWRITABLE: &str = "cannot write a pack";
/// Why a read of the plaintext fails.
const UNREADABLE: &str = "the ciphertext is damaged or cut short";

fn skippable_frame(out: &mut Vec<u8>, payload: &[u8]) {
    out.extend_from_slice(&SKIPPABLE_MAGIC);
    out.extend_from_slice(&(payload.len() as u32).to_le_bytes());
    out.extend_from_slice(payload);
}

/// A pack whose plaintext is complete.
pub struct FilledPack<W> {
    /// What the plaintext was written to.
    pub out: W,
    /// Its chunks.
    pub entries: Vec<ChunkEntry>,
    /// Length of its content.
    pub content: u64,
}

/// Reads the chunk table of a pack.
///
/// # Errors
/// [`Class::Integrity`]: `plaintext` is not that of a pack, or is damaged.
pub fn read_table(plaintext: &mut (impl Read + Seek)) -> Result<Vec<ChunkEntry>> {
    let mut trailer = [0; TRAILER_BYTES];
    let end = plaintext.seek(SeekFrom::End(-(TRAILER_BYTES as i64))).context(Class::Integrity, || UNREADABLE)?;
    plaintext.read_exact(&mut trailer).context(Class::Integrity, || UNREADABLE)?;
    let (table_at, magic) = trailer.split_at(8);
    let table_at = table_at.try_into().map(u64::from_le_bytes).map_err(|_| damaged())?;
    // A damaged trailer must not make us read a whole pack as its table.
    if *magic != TRAILER_MAGIC || table_at > end || end - table_at > MAX_TABLE_BYTES {
        return Err(damaged());
    }
    plaintext.seek(SeekFrom::Start(table_at)).context(Class::Integrity, || UNREADABLE)?;
    let mut frame = vec![0; (end - table_at) as usize];
    plaintext.read_exact(&mut frame).context(Class::Integrity, || UNREADABLE)?;
    parse_table(&frame, table_at).ok_or_else(damaged)
}

fn damaged() -> Error {
    Error::integrity("this is not a pack: its chunk table is damaged")
}

fn parse_table(mut rest: &[u8], table_at: u64) -> Option<Vec<ChunkEntry>> {
    let header: [u8; 4] = varint::take_bytes(&mut rest)?;
    let length = u32::from_le_bytes(varint::take_bytes(&mut rest)?) as usize;
    let mut table = rest.get(..length)?;
    let count = varint::take(&mut table)?;
    let mut entries = Vec::new();
    let (mut frames, mut content) = (0_u64, 0_usize);
    for _ in 0..count {
        let id = Digest(varint::take_bytes(&mut table)?);
        let length = u32::try_from(varint::take(&mut table)?).ok()?;
        let frame = u32::try_from(varint::take(&mut table)?).ok()?;
        frames = frames.checked_add(u64::from(frame))?;
        content = content.checked_add(length as usize)?;
        entries.push(ChunkEntry { id, length, frame });
    }
    (header == SKIPPABLE_MAGIC && table.is_empty() && frames == table_at && content <= MAX_CONTENT_BYTES)
        .then_some(entries)
}

/// Some chunks of a pack, still compressed.
#[derive(Debug)]
pub struct Excerpt {
    frames: Buffer,
    /// In the order of the pack.
    chunks: Vec<HeldChunk>,
}

#[derive(Debug)]
struct HeldChunk {
    entry: ChunkEntry,
    /// Where it begins in the pack's content.
    begin: u64,
    /// Where its frame begins in the excerpt.
    at: usize,
}

impl HeldChunk {
    fn end(&self) -> u64 {
        self.begin + u64::from(self.entry.length)
    }
}

/// Neighbouring chunks that are decompressed together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ChunkRun {
    /// How many bytes of them are wanted.
    pub length: u64,
    /// How many bytes they hold in all.
    pub space: usize,
}

impl Excerpt {
    /// About how many bytes of memory it takes.
    #[must_use]
    pub fn size(&self) -> usize {
        self.frames.len() + self.chunks.capacity() * size_of::<HeldChunk>()
    }

    /// The chunks to decompress together for the next of the `length` bytes from `offset` of the
    /// content on: as many as hold at most `target` bytes together, but at least one. `None` if the
    /// byte at `offset` is not here.
    #[must_use]
    #[inline]
    pub fn chunk_run(&self, offset: u64, length: u64, target: usize) -> Option<ChunkRun> {
        let chunks = self.chunks_from(offset)?;
        let (begin, mut end) = (chunks.first()?.begin, chunks.first()?.end());
        for next in &chunks[1..] {
            if next.begin != end || end >= offset + length || next.end() - begin > target as u64 {
                break;
            }
            end = next.end();
        }
        Some(ChunkRun { length: (end - offset).min(length), space: (end - begin) as usize })
    }

    /// The chunk that holds the byte at `offset`, and those after it.
    #[inline]
    fn chunks_from(&self, offset: u64) -> Option<&[HeldChunk]> {
        let chunks = &self.chunks[self.chunks.partition_point(|chunk| chunk.end() <= offset)..];
        chunks.first().filter(|chunk| chunk.begin <= offset).map(|_| chunks)
    }

    /// Decompresses a [run of chunks](Self::chunk_run) that begins at `offset` into `out`. What
    /// `out` held before is overwritten. Returns where in `out` the wanted bytes lie.
    ///
    /// # Errors
    /// [`Class::Integrity`]: a chunk is damaged.
    pub fn decompress(&self, offset: u64, run: ChunkRun, out: &mut Vec<u8>) -> Result<Range<usize>> {
        let chunks = self.chunks_from(offset).unwrap_or_default();
        // A used buffer is overwritten as it is; only what it lacks is filled with zeros.
        if out.len() < run.space {
            out.resize(run.space, 0);
        }
        let mut at = 0;
        for chunk in chunks.iter().take_while(|chunk| chunk.begin < offset + run.length) {
            let to = at + chunk.entry.length as usize;
            decompress(self.frame(chunk), out.get_mut(at..to).ok_or_else(damaged)?)?;
            at = to;
        }
        let from = chunks.first().map_or(0, |chunk| offset - chunk.begin) as usize;
        let to = from + run.length as usize;
        if to <= at { Ok(from..to) } else { Err(damaged()) }
    }

    /// Where the chunk that holds the byte at `offset` begins and ends; `None` if it is not here.
    #[must_use]
    #[inline]
    pub fn chunk_at(&self, offset: u64) -> Option<Range<u64>> {
        let chunk = self.chunks_from(offset)?.first()?;
        Some(chunk.begin..chunk.end())
    }

    fn frame(&self, chunk: &HeldChunk) -> &[u8] {
        &self.frames[chunk.at..][..chunk.entry.frame as usize]
    }

    /// Decompresses every chunk and checks its id. Returns how many bytes the chunks hold.
    ///
    /// # Errors
    /// [`Class::Integrity`]: a chunk is damaged, or does not match its id.
    pub fn check(&self, key: &ChunkIdKey) -> Result<u64> {
        let mut plain = Vec::new();
        for chunk in &self.chunks {
            plain.resize(chunk.entry.length as usize, 0);
            decompress(self.frame(chunk), &mut plain)?;
            if key.id_of(&plain) != chunk.entry.id {
                let id = chunk.entry.id;
                return Err(Error::integrity(format!("chunk {id} does not match its id")));
            }
        }
        Ok(self.chunks.iter().map(|chunk| u64::from(chunk.entry.length)).sum())
    }
}

/// Reads from a pack's plaintext those chunks that hold some of `wanted`: ranges of its content as
/// offset and length, in order.
///
/// # Errors
/// [`Class::Integrity`]: the pack is damaged, or its content is not `content` bytes long.
pub fn read(plaintext: &mut (impl Read + Seek), content: u64, wanted: &[(u64, u64)]) -> Result<Excerpt> {
    let entries = read_table(plaintext)?;
    let total: u64 = entries.iter().map(|entry| u64::from(entry.length)).sum();
    if total != content {
        return Err(Error::integrity(format!("a pack holds {total} bytes where the manifest says {content}")));
    }
    // Where each chunk's frame is in the plaintext.
    let mut found: Vec<(HeldChunk, u64)> = Vec::new();
    let (mut wanted, mut begin, mut frame_at, mut at) = (wanted.iter().peekable(), 0_u64, 0_u64, 0);
    for entry in entries {
        let held = HeldChunk { entry, begin, at };
        let from = frame_at;
        (begin, frame_at) = (held.end(), frame_at + u64::from(entry.frame));
        while wanted.next_if(|(from, length)| from + length <= held.begin).is_some() {}
        if wanted.peek().is_some_and(|(from, _)| *from < held.end()) {
            at += entry.frame as usize;
            found.push((held, from));
        }
    }
    // Neighbouring frames are read at once.
    let mut frames = spare(at);
    frames.resize(at, 0);
    for run in found.chunk_by(|(held, from), (_, next)| from + u64::from(held.entry.frame) == *next) {
        let (first, last) = (&run[0], &run[run.len() - 1].0);
        plaintext.seek(SeekFrom::Start(first.1)).context(Class::Integrity, || UNREADABLE)?;
        let to = last.at + last.entry.frame as usize;
        plaintext.read_exact(&mut frames[first.0.at..to]).context(Class::Integrity, || UNREADABLE)?;
    }
    Ok(Excerpt { frames, chunks: found.into_iter().map(|(held, _)| held).collect() })
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;

    use super::*;
    use crate::frames;

    fn key() -> Result<ChunkIdKey> {
        ChunkIdKey::new(&[7; 32])
    }

    fn pack_of(chunks: &[&[u8]]) -> Result<FilledPack<Vec<u8>>> {
        let (key, mut writer) = (key()?, PackWriter::new(Vec::new()));
        for chunk in chunks {
            writer.push(key.id_of(chunk), chunk.len(), &frames::compress(3, chunk)?)?;
        }
        writer.finish()
    }

    /// This range, run by run.
    fn range(excerpt: &Excerpt, mut offset: u64, length: u64, target: usize) -> Result<Vec<u8>> {
        let (end, mut all, mut out) = (offset + length, Vec::new(), vec![b'x'; 3]);
        while offset < end {
            let run = excerpt.chunk_run(offset, end - offset, target).ok_or_else(damaged)?;
            assert!(run.length > 0, "an empty run at {offset}");
            let place = excerpt.decompress(offset, run, &mut out)?;
            all.extend_from_slice(&out[place]);
            offset += run.length;
        }
        Ok(all)
    }

    /// All of it, each chunk's id checked.
    fn read_all(plaintext: &[u8], content: u64) -> Result<Vec<u8>> {
        let all = read(&mut Cursor::new(plaintext), content, &[(0, content)])?;
        assert_eq!(all.check(&key()?)?, content);
        range(&all, 0, content, 5)
    }

    #[test]
    fn gives_its_content_back_and_is_padded() -> Result<()> {
        let pack = pack_of(&[b"one", b"", b"two two two"])?;
        assert_eq!(pack.out.len() % PADDING_STEP_BYTES, 0);
        assert_eq!(read_all(&pack.out, 14)?, b"onetwo two two");
        assert_eq!(read_table(&mut Cursor::new(&pack.out))?, pack.entries);
        assert!(read_all(&pack.out, 13).is_err());
        Ok(())
    }

    #[test]
    fn between_64_kib_and_1_mib_it_is_padded_finely() {
        for (length, due) in [(1, 64), (64, 64), (65, 80), (513, 528), (1023, 1024), (1025, 1088), (6100, 6144)] {
            assert_eq!(padded(length << 10), due << 10, "{length} KiB");
        }
    }

    #[test]
    fn gives_only_the_chunks_that_are_wanted() -> Result<()> {
        let pack = pack_of(&[b"aaaa", b"bbbb", b"cccc", b"dddd", b"eeee"])?;
        let read = |wanted: &[(u64, u64)]| read(&mut Cursor::new(&pack.out), 20, wanted);
        let some = read(&[(1, 2), (9, 2), (12, 1)])?;
        assert_eq!(some.chunks.iter().map(|chunk| chunk.begin).collect::<Vec<_>>(), [0, 8, 12]);
        for target in [1, 4, 8, 100] {
            for (offset, length, due) in [(0, 4, "aaaa"), (1, 2, "aa"), (8, 8, "ccccdddd"), (9, 5, "cccdd")] {
                assert_eq!(range(&some, offset, length, target)?, due.as_bytes(), "{offset}, {length}, {target}");
            }
            for (offset, length) in [(3, 2), (4, 1), (7, 2), (15, 2), (16, 1), (40, 1)] {
                assert!(range(&some, offset, length, target).is_err(), "{offset}, {length}");
            }
        }
        assert!(read(&[])?.chunks.is_empty());
        assert_eq!(range(&read(&[(3, 14)])?, 3, 14, 8)?, b"abbbbccccdddde");
        Ok(())
    }

    #[test]
    fn a_run_ends_with_a_chunk_and_is_no_longer_than_wanted() -> Result<()> {
        let pack = pack_of(&[b"aaaa", b"bbbb", b"cccc"])?;
        let all = read(&mut Cursor::new(&pack.out), 12, &[(0, 12)])?;
        for (offset, length, target, due) in [
            (0, 12, 4, (4, 4)),
            (0, 12, 8, (8, 8)),
            (0, 12, 11, (8, 8)),
            (0, 12, 12, (12, 12)),
            (0, 12, 1, (4, 4)),
            (2, 10, 8, (6, 8)),
            (2, 1, 8, (1, 4)),
            (0, 4, 100, (4, 4)),
            (0, 5, 100, (5, 8)),
        ] {
            let due = ChunkRun { length: due.0, space: due.1 };
            assert_eq!(all.chunk_run(offset, length, target), Some(due), "{offset}, {length}, {target}");
        }
        assert_eq!(all.chunk_run(12, 1, 8), None);
        Ok(())
    }

    #[test]
    fn a_stock_zstd_decoder_reads_the_content() -> Result<()> {
        let pack = pack_of(&[b"one", b"two two two"])?;
        assert_eq!(frames::decompress_document(&*pack.out, 0, 1 << 20)?, b"onetwo two two");
        Ok(())
    }

    #[test]
    fn a_flipped_bit_in_frames_table_or_trailer_is_found() -> Result<()> {
        let pack = pack_of(&[b"one", b"two two two"])?;
        let table_end = pack.out.iter().rposition(|byte| *byte != 0).unwrap_or_default() - 16;
        let frames_and_table = pack.out[..table_end].iter().rposition(|byte| *byte != 0).unwrap_or_default();
        let trailer = pack.out.len() - TRAILER_BYTES..pack.out.len();
        for position in (0..frames_and_table - FRAME_HEADER_BYTES).chain(trailer) {
            let mut changed = pack.out.clone();
            changed[position] ^= 0x10;
            let content = read_all(&changed, 14);
            assert!(content.is_err() || content? == b"onetwo two two", "flipped bit in byte {position} passed");
        }
        Ok(())
    }

    #[test]
    fn is_full_by_frames_or_by_content() -> Result<()> {
        let mut by_content = PackWriter::new(Vec::new());
        by_content.push(Digest([0; 32]), TARGET_CONTENT_BYTES - 1, b"")?;
        assert!(!by_content.is_full());
        by_content.push(Digest([0; 32]), 1, b"")?;
        assert!(by_content.is_full());
        let mut by_frames = PackWriter::new(Vec::new());
        by_frames.push(Digest([0; 32]), 1, &vec![0; TARGET_FRAMES_BYTES])?;
        assert!(by_frames.is_full());
        Ok(())
    }
}
