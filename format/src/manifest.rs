//! The manifest of a snapshot: what it holds and where. See "Manifests" in `FORMAT.md`.

use std::collections::HashMap;
use std::sync::Arc;

use bytes::Bytes;
use chrono::{DateTime, Utc};
use lifeboat_base::facts::SourceFacts;
use lifeboat_base::{Class, Context, Error, Result};
use serde::{Deserialize, Serialize};

use crate::extents::{Bounds, Extent, Extents};
use crate::id::{Digest, Name, PackId, SnapshotId};
use crate::map::{Resolved, StreamMap};

/// The one version of the manifest that this program writes and reads.
pub const MANIFEST_VERSION: u32 = 2;

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
    /// For each pack, how many bytes of its content this snapshot does not need: neither its
    /// streams, directly or by way of maps, nor its maps lie there. Bytes that are needed several
    /// times are subtracted several times, so the true number may be higher. Missing numbers are 0.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub unused: Vec<u64>,
    /// In the order of capture.
    pub streams: Vec<StreamEntry>,
    /// Sums over all streams and packs.
    pub totals: Totals,
}

/// A pack as a manifest names it: id, ciphertext size, length of its content. Written as a JSON
/// array.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct PackRef(pub PackId, pub u64, pub u64);

/// One stream.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StreamEntry {
    /// Such as `database/shop`.
    pub name: String,
    /// Its length, in bytes.
    pub length: u64,
    /// The hash of its plaintext.
    pub blake3: Digest,
    /// Exit status of the tool that made it.
    pub exit: i32,
    /// Where its bytes lie, as [`Extents::to_text`] writes it.
    pub extents: String,
    /// The map of the older stream, if some of its extents lie in one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub map: Option<MapEntry>,
}

/// Where a map ([`StreamMap`]) lies.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MapEntry {
    /// The length of the older stream, in bytes.
    pub covers: u64,
    /// The length of the map itself, in bytes.
    pub length: u64,
    /// The hash of the map itself.
    pub blake3: Digest,
    /// Where the map itself lies. These extents name packs only, and never an older stream.
    pub extents: String,
}

/// Sums over a snapshot.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Totals {
    /// Length of all streams.
    pub raw_bytes: u64,
    /// How many of these were found in older packs, or twice in this snapshot.
    pub deduplicated_bytes: u64,
    /// How many of these were found as rows: they lie in chunks that no pack holds as a whole.
    pub row_bytes: u64,
    /// Ciphertext of the packs and the index segment that this snapshot added.
    pub stored_bytes: u64,
    /// Packs that this snapshot added.
    pub new_packs: u64,
}

impl Manifest {
    /// Parses a manifest and checks that it belongs where it was found; its extents are checked
    /// when they are asked for.
    ///
    /// # Errors
    /// [`Class::Integrity`]: damaged, of another version, or of another vault, dataset or snapshot.
    pub fn parse(json: &[u8], vault: &str, dataset: &Name, snapshot: &SnapshotId) -> Result<Self> {
        let manifest: Self = serde_json::from_slice(json)
            .context(Class::Integrity, || format!("the manifest of {dataset}/{snapshot} is damaged"))?;
        let refused = |problem: String| Error::integrity(format!("the manifest of {dataset}/{snapshot} {problem}"));
        if manifest.version != MANIFEST_VERSION {
            return Err(refused(format!(
                "has version {}, this program knows version {MANIFEST_VERSION}",
                manifest.version
            ))
            .hint("use the version of Lifeboat that wrote it, or a newer one"));
        }
        if manifest.vault != vault || manifest.dataset != *dataset || manifest.snapshot != *snapshot {
            return Err(refused(format!(
                "belongs to {}/{} of vault {}",
                manifest.dataset, manifest.snapshot, manifest.vault
            )));
        }
        Ok(manifest)
    }

    /// Opens and checks all its extents. Whoever only needs the names of packs need not do this.
    ///
    /// # Errors
    /// [`Class::Integrity`]: some extents are damaged.
    pub fn check_extents(&self) -> Result<()> {
        let contents = self.contents();
        for stream in &self.streams {
            if !self.extents(stream, &contents)?.are_whole() {
                return Err(Error::integrity(format!("the extents of stream `{}` are damaged", stream.name)));
            }
            stream.map.iter().try_for_each(|entry| self.map_extents(entry).map(drop))?;
        }
        Ok(())
    }

    /// Its packs, each with how many bytes of its content the snapshot does not need.
    pub fn packs_and_unused(&self) -> impl Iterator<Item = (&PackRef, u64)> {
        self.packs.iter().zip(self.unused.iter().copied().chain(std::iter::repeat(0)))
    }

    /// The manifest without the extents of its streams, which take most of its memory.
    #[must_use]
    pub fn without_extents(mut self) -> Self {
        self.streams.iter_mut().for_each(|stream| stream.extents = String::new());
        self
    }

    /// The lengths of its packs' contents, by number.
    #[must_use]
    pub fn contents(&self) -> Arc<[u64]> {
        self.packs.iter().map(|PackRef(_, _, content)| *content).collect()
    }

    /// The extents of one of its streams, each inside its pack or inside the older stream;
    /// `contents` are [`Self::contents`].
    ///
    /// # Errors
    /// [`Class::Integrity`]: their lengths are not the stream's.
    pub fn extents(&self, stream: &StreamEntry, contents: &Arc<[u64]>) -> Result<Extents> {
        let older = stream.map.as_ref().map_or(0, |map| map.covers);
        Extents::parse(&stream.extents, stream.length, Bounds { packs: contents.clone(), older })
            .ok_or_else(|| Error::integrity(format!("the extents of stream `{}` are damaged", stream.name)))
    }

    /// The snapshot with the maps of its streams instead of the streams, by the same names.
    #[must_use]
    pub fn maps(&self) -> Self {
        let stream = |stream: &StreamEntry| {
            let MapEntry { length, blake3, extents, .. } = stream.map.clone()?;
            Some(StreamEntry { name: stream.name.clone(), length, blake3, exit: 0, extents, map: None })
        };
        Self { streams: self.streams.iter().filter_map(stream).collect(), ..self.clone() }
    }

    /// Where a map lies: its extents, each with its pack.
    ///
    /// # Errors
    /// [`Class::Integrity`]: its extents are damaged.
    pub fn map_extents(&self, entry: &MapEntry) -> Result<Vec<(PackRef, Extent)>> {
        let bounds = Bounds { packs: self.contents(), older: 0 };
        let extents = Extents::parse(&entry.extents, entry.length, bounds).filter(Extents::are_whole);
        let extents = extents.ok_or_else(|| Error::integrity("the extents of a map are damaged"))?;
        Ok(extents.iter().map(|extent| (self.packs[extent.pack as usize], extent)).collect())
    }

    /// The map of a stream, from its bytes.
    ///
    /// # Errors
    /// [`Class::Integrity`]: the map is damaged, or names a pack that this manifest does not.
    pub fn map(&self, stream: &StreamEntry, entry: &MapEntry, bytes: &Bytes) -> Result<StreamMap> {
        let contents: HashMap<PackId, u64> = self.packs.iter().map(|PackRef(id, _, content)| (*id, *content)).collect();
        StreamMap::parse(bytes, entry.covers, |pack| contents.get(pack).copied())
            .ok_or_else(|| Error::integrity(format!("the map of stream `{}` is damaged", stream.name)))
    }

    /// Where all of a stream lies, if some of its `extents` lie in the older stream of `map`.
    ///
    /// # Errors
    /// [`Class::Integrity`], as [`Self::map`].
    pub fn resolve(&self, extents: Extents, map: &StreamMap) -> Result<Resolved> {
        let numbers: HashMap<PackId, u32> = self.packs.iter().zip(0..).map(|(pack, number)| (pack.0, number)).collect();
        let numbers: Option<Vec<u32>> = map.packs.iter().map(|pack| numbers.get(pack).copied()).collect();
        let numbers = numbers.ok_or_else(|| Error::integrity("a map names a pack that its manifest does not"))?;
        Ok(Resolved::new(extents, map, numbers))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::extents::OLDER;

    fn manifest(extents: &[Extent], length: u64) -> Result<Manifest> {
        let extents = Extents::of(extents.iter().copied())?;
        let packs = vec![PackRef(Digest::of(b"a"), 100, 1000), PackRef(Digest::of(b"b"), 100, 50)];
        Ok(Manifest {
            streams: vec![StreamEntry {
                name: "globals".to_owned(),
                length,
                blake3: Digest::of(b""),
                exit: 0,
                extents: extents.to_text(),
                map: None,
            }],
            ..of_packs(packs)?
        })
    }

    /// Of no stream, in these packs.
    fn of_packs(packs: Vec<PackRef>) -> Result<Manifest> {
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
            packs,
            unused: Vec::new(),
            streams: Vec::new(),
            totals: Totals::default(),
        })
    }

    fn parse(manifest: &Manifest, vault: &str) -> Result<Manifest> {
        let json = serde_json::to_vec(manifest).unwrap_or_default();
        Manifest::parse(&json, vault, &"shop".parse()?, &"20261123T183244123Z-9f2c81aa".parse()?)
    }

    /// All extents that it has.
    fn extents(manifest: &Manifest) -> Result<Vec<Extent>> {
        manifest.check_extents()?;
        let stream = &manifest.streams[0];
        let mut all: Vec<Extent> = manifest.extents(stream, &manifest.contents())?.iter().collect();
        if let Some(map) = &stream.map {
            all.extend(manifest.map_extents(map)?.iter().map(|(_, extent)| extent));
        }
        Ok(all)
    }

    #[test]
    fn comes_back_with_its_extents() -> Result<()> {
        let extents = [Extent { pack: 0, offset: 0, length: 1000 }, Extent { pack: 1, offset: 5, length: 45 }];
        let manifest = manifest(&extents, 1045)?;
        assert_eq!(parse(&manifest, "v")?, manifest);
        assert_eq!(self::extents(&manifest)?, extents);
        Ok(())
    }

    #[test]
    fn refuses_extents_that_it_has_no_pack_for() -> Result<()> {
        let beyond = Extent { pack: 1, offset: 5, length: 46 };
        assert!(extents(&manifest(&[beyond], 46)?).is_err());
        Ok(())
    }

    #[test]
    fn refuses_an_older_stream_without_a_map_or_with_one_that_lies_nowhere() -> Result<()> {
        let mut mapped = manifest(&[Extent { pack: OLDER, offset: 5, length: 45 }], 45)?;
        assert!(extents(&mapped).is_err(), "no map");
        let whole = manifest(&[Extent { pack: 1, offset: 0, length: 50 }], 50)?.streams[0].extents.clone();
        let entry = MapEntry { covers: 50, length: 50, blake3: Digest::of(b""), extents: whole };
        for (entry, good) in [
            (entry.clone(), true),
            (MapEntry { covers: 49, ..entry.clone() }, false),
            (MapEntry { length: 49, ..entry.clone() }, false),
            (MapEntry { extents: mapped.streams[0].extents.clone(), ..entry }, false),
        ] {
            mapped.streams[0].map = Some(entry);
            assert_eq!(extents(&mapped).is_ok(), good, "{:?}", mapped.streams[0].map);
        }
        Ok(())
    }

    #[test]
    fn refuses_a_manifest_of_another_vault() -> Result<()> {
        assert!(parse(&manifest(&[], 0)?, "w").is_err());
        Ok(())
    }
}
