//! Index segments: which chunks lie in the packs that one snapshot added. See "Index segments" in `FORMAT.md`.

use crate::bytes::varint;
use crate::error::{Error, Result};
use crate::id::{ChunkId, Digest, PackId};

const MAGIC: &[u8; 8] = b"LBINDEX1";

/// A pack, as whoever deduplicates must know it.
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

    /// Takes a record off the front of `input`.
    pub fn read(input: &mut &[u8]) -> Option<Self> {
        let id = Digest(varint::take_bytes(input)?);
        let size = varint::take(input)?;
        let count = varint::take(input)?;
        // Each takes 33 bytes at least: a damaged count makes no room for more than there can be.
        let mut chunks = Vec::with_capacity(usize::try_from(count).ok()?.min(input.len() / 33));
        for _ in 0..count {
            chunks.push((Digest(varint::take_bytes(input)?), u32::try_from(varint::take(input)?).ok()?));
        }
        Some(Self { id, size, chunks })
    }
}

/// The packs that one snapshot added, all of one key generation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IndexSegment {
    /// The key generation of its packs.
    pub generation: u32,
    /// Its packs.
    pub packs: Vec<IndexedPack>,
}

impl IndexSegment {
    /// As bytes, neither compressed nor encrypted.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut out = MAGIC.to_vec();
        varint::put(&mut out, u64::from(self.generation));
        varint::put(&mut out, self.packs.len() as u64);
        self.packs.iter().for_each(|pack| pack.write(&mut out));
        out
    }

    /// Parses what [`Self::to_bytes`] wrote.
    ///
    /// # Errors
    /// Damaged, or of another version.
    pub fn parse(bytes: &[u8]) -> Result<Self> {
        let parse = || {
            let mut input = bytes.strip_prefix(MAGIC)?;
            let generation = u32::try_from(varint::take(&mut input)?).ok()?;
            let count = varint::take(&mut input)?;
            let mut packs = Vec::new();
            for _ in 0..count {
                packs.push(IndexedPack::read(&mut input)?);
            }
            input.is_empty().then_some(Self { generation, packs })
        };
        parse().ok_or_else(|| Error::integrity("this is not an index segment of version 1"))
    }
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
        let segment = IndexSegment { generation: 3, packs: vec![pack(1), pack(9)] };
        let bytes = segment.to_bytes();
        assert_eq!(IndexSegment::parse(&bytes)?, segment);
        assert_eq!(pack(1).content(), (1 << 20) + 5);
        for length in 0..bytes.len() {
            assert!(IndexSegment::parse(&bytes[..length]).is_err(), "cut at {length} passed");
        }
        Ok(())
    }
}
