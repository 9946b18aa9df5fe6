//! Index segments: which chunks lie in the packs that one snapshot added. See "Index segments" in
//! `FORMAT.md`.

use std::collections::HashSet;

use lifeboat_base::{Error, Result};

use crate::frames::{self, DOCUMENT_LEVEL};
use crate::id::{ChunkId, Digest, PackId};
use crate::pack::{MAX_CHUNK_BYTES, MAX_PACK_CHUNKS};
use crate::{Format, padding, varint};

const INDEX_MAGIC_OF_FORMAT_1: &[u8; 8] = b"LBINDEX1";
const INDEX_MAGIC: &[u8; 8] = b"LBINDEX2";
/// No segment has more packs than this, nor more content.
const MAX_SEGMENT_PACKS: u64 = 1 << 17;
const MAX_CONTENT_BYTES: usize = 16 << 20;
/// No segment is longer as an age file: its content, compressed at worst into a little more, padded
/// and encrypted.
pub const MAX_INDEX_OBJECT_BYTES: u64 = 18 << 20;

/// A segment is closed before the pack that would bring it above this many chunks: about 2 MB.
pub const MAX_SEGMENT_CHUNKS: usize = 1 << 16;

/// A pack as deduplication must know it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IndexedPack {
    /// Its id.
    pub id: PackId,
    /// Size of its ciphertext.
    pub size: u64,
    /// Id and plaintext length of each chunk, in order.
    pub chunks: Vec<(ChunkId, u32)>,
}

impl IndexedPack {
    /// Length of its content.
    #[must_use]
    pub fn content(&self) -> u64 {
        self.chunks.iter().map(|(_, length)| u64::from(*length)).sum()
    }

    /// Appends its record.
    pub fn write(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.id.0);
        varint::put(out, self.size);
        varint::put(out, self.chunks.len() as u64);
        for (id, length) in &self.chunks {
            out.extend_from_slice(&id.0);
            varint::put(out, u64::from(*length));
        }
    }

    /// Takes a record off the front of `input`; `None` if it is damaged.
    pub fn read(input: &mut &[u8]) -> Option<Self> {
        let id = Digest(varint::take_bytes(input)?);
        let size = varint::take(input)?;
        let count = varint::take(input).filter(|count| (1..=MAX_PACK_CHUNKS as u64).contains(count))?;
        // A chunk takes at least 33 bytes, so a damaged count cannot reserve more than `input`
        // allows.
        let mut chunks = Vec::with_capacity((count as usize).min(input.len() / 33));
        for _ in 0..count {
            let id = Digest(varint::take_bytes(input)?);
            let length = varint::take(input).filter(|length| (1..=MAX_CHUNK_BYTES as u64).contains(length))?;
            chunks.push((id, length as u32));
        }
        Some(Self { id, size, chunks })
    }
}

/// A segment of packs that one snapshot added, all of one key generation. It may be large, so it is
/// read pack by pack.
#[derive(Debug)]
pub struct IndexSegment {
    /// The key generation of its packs.
    pub generation: u32,
    packs: u64,
    bytes: Vec<u8>,
    /// Where the first pack's record begins.
    records: usize,
}

impl IndexSegment {
    /// A segment as it is encrypted: compressed and padded.
    ///
    /// # Errors
    /// No memory.
    pub fn write(generation: u32, packs: &[IndexedPack]) -> Result<Vec<u8>> {
        let mut out = frames::compress(DOCUMENT_LEVEL, &Self::content(generation, packs))?;
        padding::append(&mut out, 0, &[]);
        Ok(out)
    }

    /// Reads what [`Self::write`] wrote, or a segment of format 1, after decryption.
    ///
    /// # Errors
    /// [`Class::Integrity`](lifeboat_base::Class::Integrity): it is no segment that this program
    /// knows. Damage to its packs shows when they are read.
    pub fn open(plaintext: &[u8]) -> Result<Self> {
        let (content, rest) = frames::take_frame(plaintext, MAX_CONTENT_BYTES)?;
        let (segment, format) = Self::of_content(content)?;
        let ends_well = match format {
            Format::One => rest.is_empty(),
            Format::Two => padding::is_right(rest, plaintext.len() - rest.len(), 0),
        };
        if ends_well { Ok(segment) } else { Err(damaged()) }
    }

    /// A segment as bytes, neither compressed nor encrypted.
    #[must_use]
    pub fn content(generation: u32, packs: &[IndexedPack]) -> Vec<u8> {
        let mut out = INDEX_MAGIC.to_vec();
        varint::put(&mut out, u64::from(generation));
        varint::put(&mut out, packs.len() as u64);
        packs.iter().for_each(|pack| pack.write(&mut out));
        out
    }

    /// Reads what [`Self::content`] wrote, or the same of format 1.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub fn of_content(bytes: Vec<u8>) -> Result<(Self, Format)> {
        let begin = || {
            let (format, mut input) =
                match (bytes.strip_prefix(INDEX_MAGIC), bytes.strip_prefix(INDEX_MAGIC_OF_FORMAT_1)) {
                    (Some(input), _) => (Format::Two, input),
                    (_, input) => (Format::One, input?),
                };
            let generation = u32::try_from(varint::take(&mut input)?).ok().filter(|generation| *generation > 0)?;
            let packs = varint::take(&mut input).filter(|packs| (1..=MAX_SEGMENT_PACKS).contains(packs))?;
            Some((format, generation, packs, bytes.len() - input.len()))
        };
        let (format, generation, packs, records) = begin().ok_or_else(damaged)?;
        Ok((Self { generation, packs, bytes, records }, format))
    }

    /// What [`Self::of_content`] reads again, unless it is longer than `limit` bytes.
    #[must_use]
    pub fn short_content(&self, limit: usize) -> Option<&[u8]> {
        Some(self.bytes.as_slice()).filter(|bytes| bytes.len() <= limit)
    }

    /// Its packs. Where the bytes are damaged, an error comes and nothing after it.
    pub fn packs(&self) -> impl Iterator<Item = Result<IndexedPack>> {
        let (mut input, mut left) = (&self.bytes[self.records..], self.packs);
        let (mut known, mut chunks) = (HashSet::new(), 0);
        std::iter::from_fn(move || {
            if left == 0 {
                return (!std::mem::take(&mut input).is_empty()).then(|| Err(damaged()));
            }
            let pack = IndexedPack::read(&mut input).filter(|pack| {
                chunks += pack.chunks.len();
                known.insert(pack.id) && chunks <= MAX_PACK_CHUNKS
            });
            left -= 1;
            if pack.is_none() {
                (input, left) = (&[], 0);
            }
            Some(pack.ok_or_else(damaged))
        })
    }
}

fn damaged() -> Error {
    Error::integrity("this is not an index segment, or it is damaged")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parses_back_and_is_refused_when_cut_anywhere() -> Result<()> {
        let pack = |byte: u8| IndexedPack {
            id: Digest([byte; 32]),
            size: 1 << 24,
            chunks: vec![(Digest([byte + 1; 32]), 1 << 20), (Digest([byte + 2; 32]), 5)],
        };
        let packs = [pack(1), pack(9)];
        let plaintext = IndexSegment::write(3, &packs)?;
        let read = |segment: IndexSegment| -> Result<(u32, Vec<IndexedPack>)> {
            Ok((segment.generation, segment.packs().collect::<Result<_>>()?))
        };
        assert_eq!(read(IndexSegment::open(&plaintext)?)?, (3, packs.to_vec()));
        assert_eq!(pack(1).content(), (1 << 20) + 5);
        let content = IndexSegment::content(3, &packs);
        let parse = |content: &[u8]| read(IndexSegment::of_content(content.to_vec())?.0);
        for length in 0..content.len() {
            assert!(parse(&content[..length]).is_err(), "cut at {length} passed");
        }
        assert!(parse(&[&content[..], b"x"].concat()).is_err(), "something behind the last pack passed");
        assert!(parse(&IndexSegment::content(3, &[pack(1), pack(1)])).is_err(), "the same pack twice passed");
        Ok(())
    }

    #[test]
    fn is_padded_but_not_in_format_1() -> Result<()> {
        let one = IndexedPack { id: Digest([1; 32]), size: 9, chunks: vec![(Digest([2; 32]), 1)] };
        let padded = IndexSegment::write(3, std::slice::from_ref(&one))?;
        assert_eq!(padded.len(), 64 << 10);
        let mut content = IndexSegment::content(3, std::slice::from_ref(&one));
        assert!(IndexSegment::open(&frames::compress(3, &content)?).is_err());
        content[7] = b'1';
        let mut of_format_1 = frames::compress(3, &content)?;
        assert!(IndexSegment::open(&of_format_1).is_ok());
        padding::append(&mut of_format_1, 0, &[]);
        assert!(IndexSegment::open(&of_format_1).is_err());
        Ok(())
    }

    #[test]
    fn has_as_many_packs_and_as_much_content_as_format_md_allows() -> Result<()> {
        let head = |packs: u64, length: usize| {
            let mut content = INDEX_MAGIC.to_vec();
            varint::put(&mut content, 3);
            varint::put(&mut content, packs);
            content.resize(length, 0);
            content
        };
        let has_packs = |packs| IndexSegment::of_content(head(packs, 100)).is_ok();
        assert!(has_packs(131_072) && !has_packs(131_073));
        let is_read = |length| {
            let mut plaintext = frames::compress(1, &head(1, length))?;
            padding::append(&mut plaintext, 0, &[]);
            Ok::<_, Error>(IndexSegment::open(&plaintext).is_ok())
        };
        assert!(is_read(16 << 20)? && !is_read((16 << 20) + 1)?);
        Ok(())
    }

    #[test]
    fn limits_are_those_of_format_md() {
        let pack = |n: u32, chunks: usize, length: u32| {
            let id = Digest::of(&n.to_le_bytes());
            IndexedPack { id, size: 9, chunks: vec![(Digest([2; 32]), length); chunks] }
        };
        let parse = |packs: &[IndexedPack]| {
            let (segment, _) = IndexSegment::of_content(IndexSegment::content(3, packs)).ok()?;
            segment.packs().collect::<Result<Vec<_>>>().ok()
        };
        for (packs, good) in [
            (vec![], false),
            (vec![pack(1, 0, 1)], false),
            (vec![pack(1, 1, 0)], false),
            (vec![pack(1, 1, 16 << 20)], true),
            (vec![pack(1, 1, (16 << 20) + 1)], false),
            (vec![pack(1, 131_072, 1)], true),
            (vec![pack(1, 131_073, 1)], false),
            (vec![pack(1, 131_071, 1), pack(2, 1, 1)], true),
            (vec![pack(1, 131_072, 1), pack(2, 1, 1)], false),
        ] {
            let told = packs.iter().map(|pack| pack.chunks.len()).collect::<Vec<_>>();
            assert_eq!(parse(&packs).is_some(), good, "{told:?}");
        }
    }
}
