//! Packs: many chunks in one age file. See "Packs" in `FORMAT.md`.
//!
//! The plaintext is a run of complete zstd frames, one a chunk, then two skippable frames: the
//! chunk table, and padding up to a multiple of 64 KiB, whose last 16 bytes say where the table is. So
//! `age -d PACK | zstd -d` gives the content, and sizes tell little.

use bytes::Bytes;

use crate::bytes::chunk::ChunkIdKey;
use crate::bytes::{compress, varint};
use crate::error::{Error, Result};
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

/// A pack that is being filled.
#[derive(Debug, Default)]
pub struct PackBuilder {
    frames: Vec<u8>,
    entries: Vec<ChunkEntry>,
    content: usize,
}

impl PackBuilder {
    /// Appends a chunk of `length` bytes, compressed to `frame`; returns its offset in the content.
    pub fn push(&mut self, id: ChunkId, length: usize, frame: &[u8]) -> u64 {
        if self.frames.capacity() == 0 {
            self.frames.reserve(TARGET_SIZE + (1 << 20));
        }
        let offset = self.content as u64;
        self.frames.extend_from_slice(frame);
        self.entries.push(ChunkEntry { id, length: length as u32, frame: frame.len() as u32 });
        self.content += length;
        offset
    }

    /// Whether it should be closed.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.frames.len() >= TARGET_SIZE || self.content >= TARGET_CONTENT
    }

    /// Whether nothing is in it.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Closes it.
    #[must_use]
    pub fn finish(mut self) -> PlainPack {
        let table_at = self.frames.len() as u64;
        let mut table = Vec::with_capacity(self.entries.len() * 40 + 10);
        varint::put(&mut table, self.entries.len() as u64);
        for entry in &self.entries {
            table.extend_from_slice(&entry.id.0);
            varint::put(&mut table, u64::from(entry.length));
            varint::put(&mut table, u64::from(entry.frame));
        }
        skippable_frame(&mut self.frames, &table);
        let unpadded = self.frames.len() + FRAME_HEADER + TRAILER;
        let mut padding = vec![0; unpadded.next_multiple_of(PADDED_TO) - unpadded];
        padding.extend_from_slice(&table_at.to_le_bytes());
        padding.extend_from_slice(&TRAILER_MAGIC);
        skippable_frame(&mut self.frames, &padding);
        PlainPack { bytes: self.frames, entries: self.entries, content: self.content as u64 }
    }
}

fn skippable_frame(out: &mut Vec<u8>, payload: &[u8]) {
    out.extend_from_slice(&SKIPPABLE);
    out.extend_from_slice(&(payload.len() as u32).to_le_bytes());
    out.extend_from_slice(payload);
}

/// A closed pack, not yet encrypted.
pub struct PlainPack {
    /// What is encrypted.
    pub bytes: Vec<u8>,
    /// Its chunks.
    pub entries: Vec<ChunkEntry>,
    /// Length of its content.
    pub content: u64,
}

/// Reads the chunk table of a decrypted pack.
///
/// # Errors
/// Not a pack, or damaged.
pub fn read_table(plaintext: &[u8]) -> Result<Vec<ChunkEntry>> {
    parse_table(plaintext).ok_or_else(|| Error::integrity("this is not a pack: its chunk table is damaged"))
}

fn parse_table(plaintext: &[u8]) -> Option<Vec<ChunkEntry>> {
    let (body, magic) = plaintext.split_last_chunk::<8>()?;
    let (_, table_at) = body.split_last_chunk::<8>()?;
    let table_at = usize::try_from(u64::from_le_bytes(*table_at)).ok()?;
    if *magic != TRAILER_MAGIC {
        return None;
    }
    let mut rest = plaintext.get(table_at..)?;
    let header: [u8; 4] = varint::take_bytes(&mut rest)?;
    let length = u32::from_le_bytes(varint::take_bytes(&mut rest)?) as usize;
    let mut table = rest.get(..length)?;
    let count = varint::take(&mut table)?;
    let mut entries = Vec::new();
    let (mut frames, mut content) = (0_usize, 0_usize);
    for _ in 0..count {
        let id = Digest(varint::take_bytes(&mut table)?);
        let length = u32::try_from(varint::take(&mut table)?).ok()?;
        let frame = u32::try_from(varint::take(&mut table)?).ok()?;
        frames = frames.checked_add(frame as usize)?;
        content = content.checked_add(length as usize)?;
        entries.push(ChunkEntry { id, length, frame });
    }
    (header == SKIPPABLE && table.is_empty() && frames == table_at && content <= MAX_CONTENT).then_some(entries)
}

/// Decompresses a decrypted pack and checks every chunk's id.
///
/// # Errors
/// Damaged, or its content is not `content` bytes long.
pub fn read_content(plaintext: &[u8], content: u64, key: &ChunkIdKey) -> Result<Bytes> {
    let entries = read_table(plaintext)?;
    let total: usize = entries.iter().map(|entry| entry.length as usize).sum();
    if total as u64 != content {
        return Err(Error::integrity(format!("a pack holds {total} bytes where the manifest says {content}")));
    }
    let mut out = vec![0; total];
    let (mut frames, mut space) = (plaintext, out.as_mut_slice());
    for entry in &entries {
        let (frame, later_frames) = frames.split_at(entry.frame as usize);
        let (chunk, later_space) = space.split_at_mut(entry.length as usize);
        compress::decompress_into(frame, chunk)?;
        if key.id_of(chunk) != entry.id {
            return Err(Error::integrity(format!("chunk {} does not have the content it is named for", entry.id)));
        }
        (frames, space) = (later_frames, later_space);
    }
    Ok(Bytes::from(out))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key() -> Result<ChunkIdKey> {
        ChunkIdKey::new(&[7; 32])
    }

    fn pack_of(chunks: &[&[u8]]) -> Result<PlainPack> {
        let (key, mut builder) = (key()?, PackBuilder::default());
        for chunk in chunks {
            builder.push(key.id_of(chunk), chunk.len(), &compress::compress(3, chunk)?);
        }
        Ok(builder.finish())
    }

    #[test]
    fn gives_its_content_back_and_is_padded() -> Result<()> {
        let pack = pack_of(&[b"one", b"", b"two two two"])?;
        assert_eq!(pack.bytes.len() % PADDED_TO, 0);
        assert_eq!(&read_content(&pack.bytes, 14, &key()?)?[..], b"onetwo two two");
        assert_eq!(read_table(&pack.bytes)?, pack.entries);
        assert!(read_content(&pack.bytes, 13, &key()?).is_err());
        Ok(())
    }

    #[test]
    fn a_stock_zstd_decoder_reads_the_content() -> Result<()> {
        let pack = pack_of(&[b"one", b"two two two"])?;
        assert_eq!(compress::decompress_document(&pack.bytes, 1 << 20)?, b"onetwo two two");
        Ok(())
    }

    #[test]
    fn a_flipped_bit_in_frames_table_or_trailer_is_found() -> Result<()> {
        let pack = pack_of(&[b"one", b"two two two"])?;
        let table_end = pack.bytes.iter().rposition(|byte| *byte != 0).unwrap_or_default() - 16;
        let frames_and_table = pack.bytes[..table_end].iter().rposition(|byte| *byte != 0).unwrap_or_default();
        let trailer = pack.bytes.len() - TRAILER..pack.bytes.len();
        for position in (0..frames_and_table - FRAME_HEADER).chain(trailer) {
            let mut changed = pack.bytes.clone();
            changed[position] ^= 0x10;
            let content = read_content(&changed, 14, &key()?);
            assert!(content.is_err() || content? == b"onetwo two two"[..], "flipped bit in byte {position} passed");
        }
        Ok(())
    }

    #[test]
    fn is_full_by_frames_or_by_content() {
        let mut by_content = PackBuilder::default();
        by_content.push(Digest([0; 32]), TARGET_CONTENT - 1, b"");
        assert!(!by_content.is_full());
        by_content.push(Digest([0; 32]), 1, b"");
        assert!(by_content.is_full());
        let mut by_frames = PackBuilder::default();
        by_frames.push(Digest([0; 32]), 1, &vec![0; TARGET_SIZE]);
        assert!(by_frames.is_full());
    }
}
