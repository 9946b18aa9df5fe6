//! Packs: many chunks in one age file. See "Packs" in `FORMAT.md`.
//!
//! The plaintext is one complete zstd frame for each chunk, then two skippable frames: the chunk
//! table and the padding. The last 16 bytes of the padding say where the table begins. So
//! `age -d PACK | zstd -d` gives the content, and the size of a pack tells little.

#[cfg(test)]
mod tests;

use std::io::{Read, Seek, SeekFrom, Write};
use std::ops::Range;

use lifeboat_base::buffers::{Buffer, spare};
use lifeboat_base::{Class, Context, Error, Result};

use crate::chunk_id::ChunkIdKey;
use crate::frames::{SKIPPABLE_HEADER_BYTES, SKIPPABLE_MAGIC, decompress, measure};
use crate::id::{ChunkId, Digest};
use crate::{Format, padding, varint};

/// A pack is closed before its plaintext would be longer than this, …
pub const TARGET_PLAINTEXT_BYTES: usize = 16 << 20;
/// … or its content longer than this, which bounds how much of a stream the loss of one pack can
/// take.
pub const TARGET_CONTENT_BYTES: usize = 32 << 20;
/// No age file of a pack is longer: one chunk of the largest size that does not compress, and more.
pub const MAX_PACK_BYTES: u64 = 64 << 20;
/// No chunk is longer.
pub const MAX_CHUNK_BYTES: usize = 16 << 20;
/// No pack has more chunks.
pub const MAX_PACK_CHUNKS: usize = 1 << 17;

const PACK_MAGIC_OF_FORMAT_1: [u8; 8] = *b"LBPACK01";
/// The largest content of a pack of format 1: there, a pack was closed after the chunk that brought
/// it beyond the target.
pub(crate) const MAX_CONTENT_BYTES_OF_FORMAT_1: usize = TARGET_CONTENT_BYTES + MAX_CHUNK_BYTES;
const TRAILER_MAGIC: [u8; 8] = *b"LBPACK02";
const TRAILER_BYTES: usize = 16;
const MAX_TABLE_BYTES: usize = 8 << 20;
/// No table and its padding take more.
const MAX_END_BYTES: u64 = 12 << 20;

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
    /// The length of what the table says of the chunks.
    table: usize,
}

impl<W: Write> PackWriter<W> {
    /// An empty pack that writes to `out`.
    pub fn new(out: W) -> Self {
        Self { out, entries: Vec::new(), frames: 0, content: 0, table: 0 }
    }

    /// Appends a chunk of `length` bytes, compressed to `frame`; returns its offset in the content.
    ///
    /// # Errors
    /// `W` cannot be written to.
    pub fn push(&mut self, id: ChunkId, length: usize, frame: &[u8]) -> Result<u64> {
        let offset = self.content as u64;
        self.out.write_all(frame).context(Class::Failed, || UNWRITABLE)?;
        self.entries.push(ChunkEntry { id, length: length as u32, frame: frame.len() as u32 });
        self.table += entry_bytes(length, frame.len());
        self.frames += frame.len();
        self.content += length;
        Ok(offset)
    }

    /// Bytes of all frames so far.
    #[must_use]
    pub fn size(&self) -> usize {
        self.frames
    }

    /// Whether it has room for one more chunk of `length` bytes, compressed to `frame` bytes. An
    /// empty pack has room for any.
    #[must_use]
    pub fn has_room(&self, length: usize, frame: usize) -> bool {
        let table = varint::length(self.entries.len() as u64 + 1) + self.table + entry_bytes(length, frame);
        let written = self.frames + frame + SKIPPABLE_HEADER_BYTES + table;
        self.entries.is_empty()
            || (self.content + length <= TARGET_CONTENT_BYTES
                && self.entries.len() < MAX_PACK_CHUNKS
                && padding::padded_with_tail(written, TRAILER_BYTES) <= TARGET_PLAINTEXT_BYTES)
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
        let mut tail = Vec::with_capacity(table.len() + (64 << 10));
        tail.extend_from_slice(&SKIPPABLE_MAGIC);
        tail.extend_from_slice(&(table.len() as u32).to_le_bytes());
        tail.extend_from_slice(&table);
        let mut trailer = (self.frames as u64).to_le_bytes().to_vec();
        trailer.extend_from_slice(&TRAILER_MAGIC);
        padding::append(&mut tail, self.frames, &trailer);
        self.out.write_all(&tail).context(Class::Failed, || UNWRITABLE)?;
        Ok(FilledPack { out: self.out, entries: self.entries, content: self.content as u64 })
    }
}

/// How many bytes the table says of a chunk.
fn entry_bytes(length: usize, frame: usize) -> usize {
    size_of::<Digest>() + varint::length(length as u64) + varint::length(frame as u64)
}

const UNWRITABLE: &str = "cannot write a pack";
/// Why a read of the plaintext fails.
const UNREADABLE: &str = "the ciphertext is damaged or cut short";

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
    let format = match magic {
        magic if *magic == TRAILER_MAGIC => Format::Two,
        magic if *magic == PACK_MAGIC_OF_FORMAT_1 => Format::One,
        _ => return Err(damaged()),
    };
    // A damaged trailer must not make us read a whole pack as its table.
    let length = (end + TRAILER_BYTES as u64).checked_sub(table_at).filter(|length| *length <= MAX_END_BYTES);
    plaintext.seek(SeekFrom::Start(table_at)).context(Class::Integrity, || UNREADABLE)?;
    let mut rest = vec![0; length.ok_or_else(damaged)? as usize];
    plaintext.read_exact(&mut rest).context(Class::Integrity, || UNREADABLE)?;
    parse_table(&rest, table_at, format).ok_or_else(damaged)
}

fn damaged() -> Error {
    Error::integrity("this is not a pack: its chunk table is damaged")
}

/// Reads the end of a pack, which begins with its table at `table_at`.
fn parse_table(end: &[u8], table_at: u64, format: Format) -> Option<Vec<ChunkEntry>> {
    let mut rest = end;
    let header: [u8; 4] = varint::take_bytes(&mut rest)?;
    let length = u32::from_le_bytes(varint::take_bytes(&mut rest)?) as usize;
    let (mut table, padding) = rest.split_at_checked(length).filter(|_| length <= MAX_TABLE_BYTES)?;
    let count = varint::take(&mut table).filter(|count| *count <= MAX_PACK_CHUNKS as u64)?;
    let mut entries = Vec::new();
    let (mut frames, mut content) = (0_u64, 0_usize);
    for _ in 0..count {
        let id = Digest(varint::take_bytes(&mut table)?);
        let length = varint::take(&mut table).filter(|length| *length <= MAX_CHUNK_BYTES as u64)? as u32;
        let frame = u32::try_from(varint::take(&mut table)?).ok()?;
        frames = frames.checked_add(u64::from(frame))?;
        content = content.checked_add(length as usize)?;
        entries.push(ChunkEntry { id, length, frame });
    }
    let is_right = match format {
        Format::One => content <= MAX_CONTENT_BYTES_OF_FORMAT_1,
        Format::Two => {
            content <= TARGET_CONTENT_BYTES
                && !entries.is_empty()
                && entries.iter().all(|entry| entry.length > 0)
                && padding::is_right(padding, table_at as usize + end.len() - padding.len(), TRAILER_BYTES)
        }
    };
    (header == SKIPPABLE_MAGIC && table.is_empty() && frames == table_at && is_right).then_some(entries)
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
            let frame = self.frame(chunk);
            check_frame(frame, chunk.entry.length)?;
            decompress(frame, out.get_mut(at..to).ok_or_else(damaged)?)?;
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
            check_frame(self.frame(chunk), chunk.entry.length)?;
            decompress(self.frame(chunk), &mut plain)?;
            if key.id_of(&plain) != chunk.entry.id {
                let id = chunk.entry.id;
                return Err(Error::integrity(format!("chunk {id} does not match its id")));
            }
        }
        Ok(self.chunks.iter().map(|chunk| u64::from(chunk.entry.length)).sum())
    }
}

/// Refuses what is not exactly one zstd frame with content of this length.
fn check_frame(frame: &[u8], length: u32) -> Result<()> {
    let is_right = measure(frame) == Some((length.into(), frame.len()));
    if is_right { Ok(()) } else { Err(Error::integrity("a chunk is not one zstd frame of the length that it has")) }
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
