//! The secret that names a dataset's chunks. See "Chunks" in `FORMAT.md`.

use lifeboat_base::{Error, Result};
use zeroize::Zeroizing;

use crate::id::{ChunkId, Digest};

/// The key that names a dataset's chunks, and from which its gear table is derived. It has 256
/// bits, and is wiped on drop.
#[derive(Clone)]
pub struct ChunkIdKey(Zeroizing<[u8; 32]>);

impl ChunkIdKey {
    /// Takes the key over.
    ///
    /// # Errors
    /// `bytes` are not 32 bytes.
    pub fn new(bytes: &[u8]) -> Result<Self> {
        let key = bytes.try_into().map_err(|_| Error::keys("a chunk-id key is not 32 bytes long"))?;
        Ok(Self(Zeroizing::new(key)))
    }

    /// The key itself.
    #[must_use]
    pub fn expose(&self) -> &[u8; 32] {
        &self.0
    }

    /// Names a chunk.
    #[must_use]
    pub fn id_of(&self, chunk: &[u8]) -> ChunkId {
        Digest(*blake3::keyed_hash(&self.0, chunk).as_bytes())
    }
}
