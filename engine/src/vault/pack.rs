//! Packs: many chunks in one age file. See "Packs" in `FORMAT.md`.
//!
//! The plaintext is a run of complete zstd frames, one a chunk, then two skippable frames: the
//! chunk table, and padding up to a multiple of 64 KiB, whose last 16 bytes say where the table is. So
//! `age -d PACK | zstd -d` gives the content, and sizes tell little.

use std::io::{Read, Seek, SeekFrom, Write};

use bytes::Bytes;

use crate::bytes::buffers::Buffer;
use crate::bytes::chunk::ChunkIdKey;
use crate::bytes::compress::Frames;
use crate::bytes::{crypt, varint};
use crate::error::{Class, Context, Error, Result};
use crate::id::{ChunkId, Digest};

/// A pack is closed once its frames reach this many bytes, …
pub const TARGET_SIZE: usize = 16 << 20;

/// … or its content this many: what a restore must hold in memory of one pack.
pub const TARGET_CONTENT: usize = 32 << 20;

/// No pack holds more content than this: the target and one chunk of the largest kind.
pub const MAX_CONTENT: usize = TARGET_CONTENT + (16 << 20);

const PADDED_TO: usize = 64 << 10;
const SKIPPABLE: [u8; 4] = 0x184D_2A50_u32.to_le_bytes();
const TRAILER_MAGIC: [u8; 8] = *b"LBPACK01";
const TRAILER: usize = 16;
const FRAME_HEADER: usize = 8;
/// A table of more than 100,000 chunks, and the padding.
const LARGEST_TABLE: u64 = 4 << 20;

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

/// A pack that is being filled. Its plaintext goes to `W` as it comes: to an age writer, so that it lies nowhere.
pub struct PackWriter<W> {
    out: W,
    entries: Vec<ChunkEntry>,
    frames: usize,
    content: usize,
}

impl<W: Write> PackWriter<W> {
    /// An empty one.
    pub fn new(out: W) -> Self {
        Self { out, entries: Vec::new(), frames: 0, content: 0 }
    }

    /// Appends a chunk of `length` bytes, compressed to `frame`; returns its offset in the content.
    ///
    /// # Errors
    /// `W` takes nothing.
    pub fn push(&mut self, id: ChunkId, length: usize, frame: &[u8]) -> Result<u64> {
        let offset = self.content as u64;
        self.out.write_all(frame).context(Class::Failed, || UNWRITABLE)?;
        self.entries.push(ChunkEntry { id, length: length as u32, frame: frame.len() as u32 });
        self.frames += frame.len();
        self.content += length;
        Ok(offset)
    }

    /// Whether it should be closed.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.frames >= TARGET_SIZE || self.content >= TARGET_CONTENT
    }

    /// Writes table and padding.
    ///
    /// # Errors
    /// `W` takes nothing.
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
        let unpadded = self.frames + tail.len() + FRAME_HEADER + TRAILER;
        let mut padding = vec![0; unpadded.next_multiple_of(PADDED_TO) - unpadded];
        padding.extend_from_slice(&(self.frames as u64).to_le_bytes());
        padding.extend_from_slice(&TRAILER_MAGIC);
        skippable_frame(&mut tail, &padding);
        self.out.write_all(&tail).context(Class::Failed, || UNWRITABLE)?;
        Ok(FilledPack { out: self.out, entries: self.entries, content: self.content as u64 })
    }
}

const UNWRITABLE: &str = "cannot write a pack";

fn skippable_frame(out: &mut Vec<u8>, payload: &[u8]) {
    out.extend_from_slice(&SKIPPABLE);
    out.extend_from_slice(&(payload.len() as u32).to_le_bytes());
    out.extend_from_slice(payload);
}

/// A pack whose plaintext is complete.
pub struct FilledPack<W> {
    /// What took it.
    pub out: W,
    /// Its chunks.
    pub entries: Vec<ChunkEntry>,
    /// Length of its content.
    pub content: u64,
}

/// Reads the chunk table of a pack.
///
/// # Errors
/// Not a pack, or damaged.
pub fn read_table(plaintext: &mut (impl Read + Seek)) -> Result<Vec<ChunkEntry>> {
    let damaged = || Error::integrity("this is not a pack: its chunk table is damaged");
    let mut trailer = [0; TRAILER];
    let end = plaintext.seek(SeekFrom::End(-(TRAILER as i64))).context(Class::Integrity, || crypt::DAMAGED)?;
    plaintext.read_exact(&mut trailer).context(Class::Integrity, || crypt::DAMAGED)?;
    let (table_at, magic) = trailer.split_at(8);
    let table_at = table_at.try_into().map(u64::from_le_bytes).map_err(|_| damaged())?;
    // A table is a small part of its pack.
    if *magic != TRAILER_MAGIC || table_at > end || end - table_at > LARGEST_TABLE {
        return Err(damaged());
    }
    plaintext.seek(SeekFrom::Start(table_at)).context(Class::Integrity, || crypt::DAMAGED)?;
    let mut frame = vec![0; (end - table_at) as usize];
    plaintext.read_exact(&mut frame).context(Class::Integrity, || crypt::DAMAGED)?;
    parse_table(&frame, table_at).ok_or_else(damaged)
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
    (header == SKIPPABLE && table.is_empty() && frames == table_at && content <= MAX_CONTENT).then_some(entries)
}

/// Some of a pack's chunks, decompressed.
#[derive(Debug, Clone)]
pub struct Content {
    bytes: Bytes,
    /// Runs of neighbouring chunks: where they begin in the pack's content, how long they are, and where they lie in `bytes`.
    runs: Vec<(u64, u64, usize)>,
}

impl Content {
    /// This range of the pack's content; `None` if it was not asked for.
    #[must_use]
    pub fn slice(&self, offset: u64, length: u64) -> Option<Bytes> {
        let run = self.runs.partition_point(|run| run.0 <= offset).checked_sub(1)?;
        let (begin, long, at) = self.runs[run];
        let from = at + (offset - begin) as usize;
        (offset + length <= begin + long).then(|| self.bytes.slice(from..from + length as usize))
    }

    /// How many bytes it holds.
    #[must_use]
    pub fn length(&self) -> usize {
        self.runs.iter().map(|run| run.1 as usize).sum()
    }
}

/// Reads from a pack's plaintext the chunks that `wanted` touches (ranges of its content, in order), and leaves the
/// others as they are. With `key`, checks each one's id.
///
/// # Errors
/// Damaged, or its content is not `content` bytes long.
pub fn read(
    plaintext: &mut (impl Read + Seek),
    content: u64,
    key: Option<&ChunkIdKey>,
    wanted: &[(u64, u64)],
    mut out: Buffer,
) -> Result<Content> {
    let entries = read_table(plaintext)?;
    let total: u64 = entries.iter().map(|entry| u64::from(entry.length)).sum();
    if total != content {
        return Err(Error::integrity(format!("a pack holds {total} bytes where the manifest says {content}")));
    }
    let (mut frames, mut frame, mut wanted) = (Frames::new()?, Vec::new(), wanted.iter().peekable());
    let mut runs: Vec<(u64, u64, usize)> = Vec::new();
    let (mut offset, mut frame_at, mut read_to, mut at) = (0_u64, 0_u64, None, 0);
    for entry in &entries {
        let (begin, end) = (offset, offset + u64::from(entry.length));
        let begin_frame = frame_at;
        (offset, frame_at) = (end, frame_at + u64::from(entry.frame));
        while wanted.next_if(|(from, length)| from + length <= begin).is_some() {}
        if wanted.peek().is_none_or(|(from, _)| *from >= end) {
            continue;
        }
        if read_to != Some(begin_frame) {
            plaintext.seek(SeekFrom::Start(begin_frame)).context(Class::Integrity, || crypt::DAMAGED)?;
        }
        frame.resize(entry.frame as usize, 0);
        plaintext.read_exact(&mut frame).context(Class::Integrity, || crypt::DAMAGED)?;
        read_to = Some(frame_at);
        let to = at + entry.length as usize;
        // What is in a used buffer is written over; only what it never held must be made.
        if out.len() < to {
            out.resize(to, 0);
        }
        frames.decompress(&frame, &mut out[at..to])?;
        if key.is_some_and(|key| key.id_of(&out[at..to]) != entry.id) {
            return Err(Error::integrity(format!("chunk {} does not have the content it is named for", entry.id)));
        }
        match runs.last_mut() {
            Some((from, length, _)) if *from + *length == begin => *length += end - begin,
            _ => runs.push((begin, end - begin, at)),
        }
        at = to;
    }
    Ok(Content { bytes: out.freeze(), runs })
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;

    use super::*;
    use crate::bytes::compress;

    fn key() -> Result<ChunkIdKey> {
        ChunkIdKey::new(&[7; 32])
    }

    fn pack_of(chunks: &[&[u8]]) -> Result<FilledPack<Vec<u8>>> {
        let (key, mut writer) = (key()?, PackWriter::new(Vec::new()));
        for chunk in chunks {
            writer.push(key.id_of(chunk), chunk.len(), &compress::compress(3, chunk)?)?;
        }
        writer.finish()
    }

    fn read_all(plaintext: &[u8], content: u64) -> Result<Bytes> {
        let all = read(&mut Cursor::new(plaintext), content, Some(&key()?), &[(0, content)], Buffer::default())?;
        all.slice(0, content).ok_or_else(|| Error::failed("not everything was read"))
    }

    #[test]
    fn gives_its_content_back_and_is_padded() -> Result<()> {
        let pack = pack_of(&[b"one", b"", b"two two two"])?;
        assert_eq!(pack.out.len() % PADDED_TO, 0);
        assert_eq!(read_all(&pack.out, 14)?, b"onetwo two two"[..]);
        assert_eq!(read_table(&mut Cursor::new(&pack.out))?, pack.entries);
        assert!(read_all(&pack.out, 13).is_err());
        Ok(())
    }

    #[test]
    fn gives_only_the_chunks_that_are_wanted() -> Result<()> {
        let pack = pack_of(&[b"aaaa", b"bbbb", b"cccc", b"dddd", b"eeee"])?;
        let read =
            |wanted: &[(u64, u64)]| read(&mut Cursor::new(&pack.out), 20, Some(&key()?), wanted, Buffer::default());
        let some = read(&[(1, 2), (9, 2), (12, 1)])?;
        assert_eq!(some.length(), 12);
        let slices = [(0, 4), (1, 2), (8, 8), (9, 5)].map(|(offset, length)| some.slice(offset, length));
        assert_eq!(slices.map(Option::unwrap_or_default), ["aaaa", "aa", "ccccdddd", "cccdd"]);
        for outside in [(3, 2), (4, 1), (7, 2), (15, 2), (16, 1), (40, 1)] {
            assert_eq!(some.slice(outside.0, outside.1), None, "{outside:?}");
        }
        assert_eq!(read(&[])?.length(), 0);
        assert_eq!(read(&[(3, 14)])?.slice(3, 14), Some(Bytes::from_static(b"abbbbccccdddde")));
        Ok(())
    }

    #[test]
    fn a_stock_zstd_decoder_reads_the_content() -> Result<()> {
        let pack = pack_of(&[b"one", b"two two two"])?;
        assert_eq!(compress::decompress_document(&pack.out, 1 << 20)?, b"onetwo two two");
        Ok(())
    }

    #[test]
    fn a_flipped_bit_in_frames_table_or_trailer_is_found() -> Result<()> {
        let pack = pack_of(&[b"one", b"two two two"])?;
        let table_end = pack.out.iter().rposition(|byte| *byte != 0).unwrap_or_default() - 16;
        let frames_and_table = pack.out[..table_end].iter().rposition(|byte| *byte != 0).unwrap_or_default();
        let trailer = pack.out.len() - TRAILER..pack.out.len();
        for position in (0..frames_and_table - FRAME_HEADER).chain(trailer) {
            let mut changed = pack.out.clone();
            changed[position] ^= 0x10;
            let content = read_all(&changed, 14);
            assert!(content.is_err() || content? == b"onetwo two two"[..], "flipped bit in byte {position} passed");
        }
        Ok(())
    }

    #[test]
    fn is_full_by_frames_or_by_content() -> Result<()> {
        let mut by_content = PackWriter::new(Vec::new());
        by_content.push(Digest([0; 32]), TARGET_CONTENT - 1, b"")?;
        assert!(!by_content.is_full());
        by_content.push(Digest([0; 32]), 1, b"")?;
        assert!(by_content.is_full());
        let mut by_frames = PackWriter::new(Vec::new());
        by_frames.push(Digest([0; 32]), 1, &vec![0; TARGET_SIZE])?;
        assert!(by_frames.is_full());
        Ok(())
    }
}
