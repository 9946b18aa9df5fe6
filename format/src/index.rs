//! Index segments: which chunks lie in the packs that one snapshot added. See "Index segments" in
//! `FORMAT.md`.

use lifeboat_base::{Error, Result};

use crate::id::{ChunkId, Digest, PackId};
use crate::varint;

const INDEX_MAGIC: &[u8; 8] = b"LBINDEX1";

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

    /// Takes a record off the front of `input`.
    pub fn read(input: &mut &[u8]) -> Option<Self> {
        let id = Digest(varint::take_bytes(input)?);
        let size = varint::take(input)?;
        let count = varint::take(input)?;
        // A chunk takes at least 33 bytes, so a damaged count cannot reserve more than `input`
        // allows.
        let mut chunks = Vec::with_capacity(usize::try_from(count).ok()?.min(input.len() / 33));
        for _ in 0..count {
            chunks.push((Digest(varint::take_bytes(input)?), u32::try_from(varint::take(input)?).ok()?));
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
    /// A segment as bytes, neither compressed nor encrypted.
    #[must_use]
    pub fn write(generation: u32, packs: &[IndexedPack]) -> Vec<u8> {
        let mut out = INDEX_MAGIC.to_vec();
        varint::put(&mut out, u64::from(generation));
        varint::put(&mut out, packs.len() as u64);
        packs.iter().for_each(|pack| pack.write(&mut out));
        out
    }

    /// Opens what [`Self::write`] wrote.
    ///
    /// # Errors
    /// `bytes` do not begin like an index segment of this version.
    pub fn open(bytes: Vec<u8>) -> Result<Self> {
        let begin = || {
            let mut input = bytes.strip_prefix(INDEX_MAGIC)?;
            let generation = u32::try_from(varint::take(&mut input)?).ok()?;
            let packs = varint::take(&mut input)?;
            Some((generation, packs, bytes.len() - input.len()))
        };
        let (generation, packs, records) = begin().ok_or_else(damaged)?;
        Ok(Self { generation, packs, bytes, records })
    }

    /// Its packs. Where the bytes are damaged, an error comes and nothing after it.
    pub fn packs(&self) -> impl Iterator<Item = Result<IndexedPack>> {
        let (mut input, mut left) = (&self.bytes[self.records..], self.packs);
        std::iter::from_fn(move || {
            if left == 0 {
                return (!std::mem::take(&mut input).is_empty()).then(|| Err(damaged()));
            }
            let pack = IndexedPack::read(&mut input).ok_or_else(damaged);
            left -= 1;
            if pack.is_err() {
                (input, left) = (&[], 0);
            }
            Some(pack)
        })
    }
}

fn damaged() -> Error {
    Error::integrity("this is not an index segment of version 1")
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
        let bytes = IndexSegment::write(3, &packs);
        let parse = |bytes: &[u8]| -> Result<(u32, Vec<IndexedPack>)> {
            let segment = IndexSegment::open(bytes.to_vec())?;
            Ok((segment.generation, segment.packs().collect::<Result<_>>()?))
        };
        assert_eq!(parse(&bytes)?, (3, packs.to_vec()));
        assert_eq!(pack(1).content(), (1 << 20) + 5);
        for length in 0..bytes.len() {
            assert!(parse(&bytes[..length]).is_err(), "cut at {length} passed");
        }
        assert!(parse(&[&bytes[..], b"x"].concat()).is_err(), "something behind the last pack passed");
        Ok(())
    }
}
