//! The manifest of a snapshot: what it holds and where. See "Manifests" in `FORMAT.md`.

use std::sync::Arc;

use chrono::{DateTime, Utc};
use data_encoding::BASE64;
use serde::{Deserialize, Serialize};

use crate::bytes::varint;
use crate::error::{Class, Context, Error, Result};
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
    /// Ciphertext of the packs and the index segment that this snapshot added.
    pub stored_bytes: u64,
    /// Packs that this snapshot added.
    pub new_packs: u64,
}

/// A byte range of one pack's content.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Extent {
    /// Index into a table of packs.
    pub pack: u32,
    /// Where it begins in the pack's content.
    pub offset: u64,
    /// How long it is.
    pub length: u64,
}

/// Appends `extent`, merged with the last one where it continues it.
pub fn push_extent(extents: &mut Vec<Extent>, extent: Extent) {
    match extents.last_mut() {
        Some(last) if last.pack == extent.pack && last.offset + last.length == extent.offset => {
            last.length += extent.length;
        }
        _ => extents.push(extent),
    }
}

/// Writes extents as a manifest does.
#[must_use]
pub fn encode_extents(extents: &[Extent]) -> String {
    let mut bytes = Vec::with_capacity(extents.len() * 8);
    for extent in extents {
        varint::put(&mut bytes, u64::from(extent.pack));
        varint::put(&mut bytes, extent.offset);
        varint::put(&mut bytes, extent.length);
    }
    BASE64.encode(&bytes)
}

impl Manifest {
    /// Parses a manifest and checks that it is consistent in itself and belongs where it was found.
    ///
    /// # Errors
    /// [`Class::Integrity`]: damaged, of another version, or of another vault, dataset or snapshot.
    pub fn parse(json: &[u8], vault: &str, dataset: &Name, snapshot: &SnapshotId) -> Result<Self> {
        let manifest: Self = serde_json::from_slice(json)
            .context(Class::Integrity, || format!("the manifest of {dataset}/{snapshot} is damaged"))?;
        let refused = |problem: String| Error::integrity(format!("the manifest of {dataset}/{snapshot} {problem}"));
        if manifest.version != MANIFEST_VERSION {
            return Err(refused(format!("has version {}, this program knows {MANIFEST_VERSION}", manifest.version)));
        }
        if manifest.vault != vault || manifest.dataset != *dataset || manifest.snapshot != *snapshot {
            return Err(refused(format!(
                "belongs to {}/{} of vault {}",
                manifest.dataset, manifest.snapshot, manifest.vault
            )));
        }
        for stream in &manifest.streams {
            manifest.extents(stream).map_err(|error| refused(format!("is inconsistent: {error}")))?;
        }
        Ok(manifest)
    }

    /// The extents of one of its streams, each inside its pack, their lengths the stream's.
    ///
    /// # Errors
    /// [`Class::Integrity`] otherwise.
    pub fn extents(&self, stream: &StreamEntry) -> Result<Extents> {
        let refused = || Error::integrity(format!("the extents of stream `{}` are damaged", stream.name));
        let bytes = BASE64.decode(stream.extents.as_bytes()).map_err(|_| refused())?;
        let (mut rest, mut total) = (bytes.as_slice(), 0_u64);
        while !rest.is_empty() {
            let Extent { pack, offset, length } = take_extent(&mut rest).ok_or_else(refused)?;
            let PackRef(_, _, content) = self.packs.get(pack as usize).ok_or_else(refused)?;
            let end = offset.checked_add(length).ok_or_else(refused)?;
            total = total.checked_add(length).ok_or_else(refused)?;
            if length == 0 || end > *content {
                return Err(refused());
            }
        }
        if total == stream.length { Ok(Extents(bytes.into())) } else { Err(refused()) }
    }
}

fn take_extent(input: &mut &[u8]) -> Option<Extent> {
    let pack = u32::try_from(varint::take(input)?).ok()?;
    Some(Extent { pack, offset: varint::take(input)?, length: varint::take(input)? })
}

/// The extents of a stream, checked; as they are stored, for there may be millions.
#[derive(Debug, Clone)]
pub struct Extents(Arc<[u8]>);

impl Extents {
    /// All of them, in the stream's order.
    pub fn iter(&self) -> impl Iterator<Item = Extent> + Send + use<> {
        let (bytes, mut at) = (self.0.clone(), 0);
        std::iter::from_fn(move || {
            let mut rest = &bytes[at..];
            let extent = take_extent(&mut rest);
            at = bytes.len() - rest.len();
            extent
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn manifest(extents: &[Extent], length: u64) -> Result<Manifest> {
        Ok(Manifest {
            version: MANIFEST_VERSION,
            vault: "v".to_owned(),
            dataset: "shop".parse()?,
            snapshot: "20261123T183244123Z-9f2c81aa".parse()?,
            predecessor: None,
            generation: 1,
            host: "db1".parse()?,
            started: DateTime::UNIX_EPOCH,
            finished: DateTime::UNIX_EPOCH,
            source: SourceFacts::default(),
            packs: vec![PackRef(Digest::of(b"a"), 100, 1000), PackRef(Digest::of(b"b"), 100, 50)],
            streams: vec![StreamEntry {
                name: "globals".to_owned(),
                length,
                blake3: Digest::of(b""),
                exit: 0,
                extents: encode_extents(extents),
            }],
            totals: Totals::default(),
        })
    }

    fn parse(manifest: &Manifest, vault: &str) -> Result<Manifest> {
        let json = serde_json::to_vec(manifest).unwrap_or_default();
        Manifest::parse(&json, vault, &"shop".parse()?, &"20261123T183244123Z-9f2c81aa".parse()?)
    }

    #[test]
    fn extents_merge_and_come_back() -> Result<()> {
        let mut extents = Vec::new();
        for extent in [
            Extent { pack: 0, offset: 0, length: 10 },
            Extent { pack: 0, offset: 10, length: 990 },
            Extent { pack: 1, offset: 5, length: 45 },
        ] {
            push_extent(&mut extents, extent);
        }
        assert_eq!(extents.len(), 2);
        let manifest = manifest(&extents, 1045)?;
        assert_eq!(parse(&manifest, "v")?, manifest);
        assert_eq!(manifest.extents(&manifest.streams[0])?.iter().collect::<Vec<_>>(), extents);
        Ok(())
    }

    #[test]
    fn refuses_extents_outside_their_pack_or_of_another_sum() -> Result<()> {
        let inside = Extent { pack: 1, offset: 5, length: 45 };
        assert!(parse(&manifest(&[inside], 45)?, "v").is_ok());
        for (extent, length) in [
            (Extent { length: 46, ..inside }, 46),
            (Extent { pack: 2, ..inside }, 45),
            (Extent { offset: u64::MAX, ..inside }, 45),
            (Extent { length: 0, ..inside }, 0),
            (inside, 44),
        ] {
            assert!(parse(&manifest(&[extent], length)?, "v").is_err(), "{extent:?} of {length} passed");
        }
        Ok(())
    }

    #[test]
    fn refuses_a_manifest_of_another_vault() -> Result<()> {
        assert!(parse(&manifest(&[], 0)?, "w").is_err());
        Ok(())
    }
}
