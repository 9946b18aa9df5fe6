//! The manifest of a snapshot.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use crate::id::{Digest, Name, PackId, SnapshotId};
use crate::source::SourceFacts;

/// The one version of the manifest that this program writes and reads.
pub const MANIFEST_VERSION: u32 = 1;

/// Everything about one snapshot; authenticated by its minisign signature.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// [`MANIFEST_VERSION`].
    pub version: u32,
    /// The vault it belongs to.
    pub vault: String,
    /// The dataset it belongs to.
    pub dataset: Name,
    /// Its id, also its object's name.
    pub snapshot: SnapshotId,
    /// The snapshot before it; `None` for the first.
    pub predecessor: Option<SnapshotId>,
    /// Key generation of its packs.
    pub generation: u32,
    /// The host that took it.
    pub host: Name,
    /// When the capture began: the age of the data counts from here.
    pub started: DateTime<Utc>,
    /// When the capture ended.
    pub finished: DateTime<Utc>,
    /// What the source told.
    pub source: SourceFacts,
    /// Every pack that its extents refer to.
    pub packs: Vec<PackRef>,
    /// In the order of capture.
    pub streams: Vec<StreamEntry>,
    /// Sums.
    pub totals: Totals,
    /// BLAKE3 of this snapshot's index segment object; `None` if it added no pack.
    pub index: Option<Digest>,
}

/// A pack as a manifest names it: id, ciphertext size, length of its content. Written as a JSON array.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct PackRef(pub PackId, pub u64, pub u64);

/// One stream.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StreamEntry {
    /// Such as `database/shop`.
    pub name: String,
    /// In bytes.
    pub length: u64,
    /// Of its plaintext.
    pub blake3: Digest,
    /// Exit status of the tool that made it.
    pub exit: i32,
    /// Base64 of LEB128 varint triples: index into `packs`, offset, length.
    pub extents: String,
}

/// Sums over a snapshot.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Totals {
    /// Length of all streams.
    pub raw_bytes: u64,
    /// Of these, found in older packs or twice in this snapshot.
    pub deduplicated_bytes: u64,
    /// Ciphertext of the packs, index and manifest that this snapshot added, manifest itself aside.
    pub stored_bytes: u64,
    /// Packs that this snapshot added.
    pub new_packs: u64,
}
