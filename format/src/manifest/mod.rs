//! The manifest of a snapshot: what it holds and where. See "Manifests" in `FORMAT.md`.

mod format_1;
mod group;
mod json;
mod long_json;
#[cfg(test)]
mod tests;

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use bytes::Bytes;
use chrono::{DateTime, Utc};
use lifeboat_base::facts::SourceFacts;
use lifeboat_base::{Error, Result};
use serde::ser::SerializeStruct;
use serde::{Deserialize, Serialize, Serializer};

pub use self::group::{GroupMoment, MAX_GROUP_MEMBERS};
pub use self::json::{MAX_MANIFEST_BYTES, MAX_MANIFEST_OBJECT_BYTES, json_bytes};
use crate::extents::{Bounds, Extent, Extents, max_packs};
use crate::id::{Digest, Name, PackId, SEQUENCE_END, SnapshotId};
use crate::map::{MAX_MAP_BYTES, Resolved, StreamMap};
use crate::pack::{MAX_CONTENT_BYTES_OF_FORMAT_1, MAX_PACK_BYTES, TARGET_CONTENT_BYTES};
use crate::requirements::Requirements;
use crate::stream_name::StreamNames;
use crate::{Format, strict, utc};

const MAX_STREAMS: usize = 1 << 17;
const MAX_MANIFEST_PACKS: usize = 1 << 20;
/// So many tools, details and warnings a source may have.
const MAX_FACTS: usize = 1 << 16;

/// Everything about one snapshot; authenticated by its minisign signature. Its JSON is written as
/// serde says here; the extents of its streams are written after the JSON.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Manifest {
    /// The format that it was read from. New ones are written in [`Format::Two`] alone.
    #[serde(skip)]
    pub format: Format,
    /// What a reader must know to understand it.
    pub requires: Requirements,
    /// The vault it belongs to.
    pub vault: String,
    /// The dataset it belongs to.
    pub dataset: Name,
    /// Its id, also its object's name.
    pub snapshot: SnapshotId,
    /// 1 for a dataset's first snapshot, and one more for each later one. 0 in format 1, which has
    /// no such number.
    pub sequence: u64,
    /// The snapshot before it; `None` for the first.
    pub previous: Option<Previous>,
    /// The host that took it.
    pub host: Name,
    /// When the capture began: the age of the data counts from here.
    #[serde(with = "utc")]
    pub started: DateTime<Utc>,
    /// When the capture ended.
    #[serde(with = "utc")]
    pub finished: DateTime<Utc>,
    /// The moment that it shares with snapshots of other datasets; `None`: it has none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub group: Option<GroupMoment>,
    /// What the source told.
    pub source: SourceFacts,
    /// Every pack that its extents and maps refer to.
    pub packs: Vec<PackRef>,
    /// In the order of capture.
    pub streams: Vec<StreamEntry>,
    /// What writers count. Nobody needs it to restore.
    pub accounting: Accounting,
}

/// The snapshot before another one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Previous {
    /// Its id.
    pub snapshot: SnapshotId,
    /// The hash of its manifest as it is stored; `None` in format 1.
    pub blake3: Option<Digest>,
}

/// What every manifest of format 2 tells, even to a program that does not know what it requires.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ManifestHead {
    /// What a reader of the whole must know.
    pub requires: Requirements,
    /// As [`Manifest::vault`].
    pub vault: String,
    /// As [`Manifest::dataset`].
    pub dataset: Name,
    /// As [`Manifest::snapshot`].
    pub snapshot: SnapshotId,
    /// As [`Manifest::sequence`].
    pub sequence: u64,
    /// As [`Manifest::previous`].
    pub previous: Option<Previous>,
}

/// A pack as a manifest names it. Written as a JSON array.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "(PackId, u64, u64, u32)", into = "(PackId, u64, u64, u32)")]
pub struct PackRef {
    /// Its id.
    pub id: PackId,
    /// The size of its age file, in bytes.
    pub size: u64,
    /// The length of its content, in bytes.
    pub content: u64,
    /// The key generation whose identity opens it.
    pub generation: u32,
}

impl From<(PackId, u64, u64, u32)> for PackRef {
    fn from((id, size, content, generation): (PackId, u64, u64, u32)) -> Self {
        Self { id, size, content, generation }
    }
}

impl From<PackRef> for (PackId, u64, u64, u32) {
    fn from(PackRef { id, size, content, generation }: PackRef) -> Self {
        (id, size, content, generation)
    }
}

/// One stream.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct StreamEntry {
    /// Such as `database/shop`.
    pub name: String,
    /// Its length, in bytes.
    pub length: u64,
    /// The hash of its plaintext.
    pub blake3: Digest,
    /// Exit status of the tool that made it.
    pub exit: i32,
    /// Where its bytes lie, as [`Extents::bytes`] gives it.
    #[serde(serialize_with = "length_of")]
    pub extents: Bytes,
    /// The map of the older stream, if some of its extents lie in one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub map: Option<MapEntry>,
}

/// The JSON tells only how long the extents are.
fn length_of<S: Serializer>(extents: &Bytes, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_u64(extents.len() as u64)
}

/// Where a map ([`StreamMap`]) lies.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MapEntry {
    /// The length of the older stream, in bytes.
    pub covers: u64,
    /// The hash of the map itself.
    pub blake3: Digest,
    /// Where the map itself lies.
    pub place: MapPlace,
}

/// Where the bytes of a map lie.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MapPlace {
    /// They are the contents of these packs, by number from 0, one after the other.
    Packs(Vec<u32>),
    /// In format 1, they lie in packs among other data.
    Extents {
        /// The length of the map.
        length: u64,
        /// As [`StreamEntry::extents`], but all in packs.
        extents: Bytes,
    },
}

impl Serialize for MapEntry {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let MapPlace::Packs(packs) = &self.place else {
            return Err(serde::ser::Error::custom("a map of format 1 cannot be written"));
        };
        let mut entry = serializer.serialize_struct("MapEntry", 3)?;
        entry.serialize_field("covers", &self.covers)?;
        entry.serialize_field("blake3", &self.blake3)?;
        entry.serialize_field("packs", &packs.iter().map(|pack| pack + 1).collect::<Vec<_>>())?;
        entry.end()
    }
}

/// What writers count over a snapshot.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Accounting {
    /// For each pack, how many bytes of its content this snapshot does not need: neither its
    /// streams, directly or by way of maps, nor its maps lie there. Bytes that are needed several
    /// times are subtracted several times, so the true number may be higher. Missing numbers are 0.
    #[serde(deserialize_with = "strict::list::<MAX_MANIFEST_PACKS, _, _>")]
    pub unused: Vec<u64>,
    /// Length of all streams.
    pub raw_bytes: u64,
    /// How many of these were found in older packs, or twice in this snapshot.
    pub deduplicated_bytes: u64,
    /// How many of these were found as rows: they lie in chunks that no pack holds as a whole.
    pub row_bytes: u64,
    /// Ciphertext of the packs and the index segments that this snapshot added.
    pub stored_bytes: u64,
    /// Packs that this snapshot added.
    pub new_packs: u64,
}

impl Manifest {
    /// Reads a manifest of any format, after decryption, and checks that it belongs where it was
    /// found. Its extents are checked when they are asked for.
    ///
    /// # Errors
    /// [`Class::Integrity`](lifeboat_base::Class::Integrity): it is damaged, requires what this
    /// program does not know, or belongs to another vault, dataset or snapshot.
    pub fn parse(plaintext: impl Into<Bytes>, vault: &str, dataset: &Name, snapshot: &SnapshotId) -> Result<Self> {
        let (plaintext, what) = (plaintext.into(), described(dataset, snapshot));
        let manifest = if json::is_format_2(&plaintext) {
            json::read(plaintext, &what)
        } else {
            format_1::read(&plaintext, &what)
        };
        let manifest = manifest?;
        let place = (manifest.vault.as_str(), &manifest.dataset, &manifest.snapshot);
        belongs(place, (vault, dataset, snapshot), &what)?;
        match manifest.broken_rule() {
            None => Ok(manifest),
            Some(rule) => Err(Error::integrity(format!("{what} is damaged")).because(rule)),
        }
    }

    /// Reads what a manifest of format 2 tells even to a program that does not know what it
    /// requires.
    ///
    /// # Errors
    /// [`Class::Integrity`](lifeboat_base::Class::Integrity): it is damaged, of format 1, or
    /// belongs to another vault, dataset or snapshot.
    pub fn parse_head(
        plaintext: impl Into<Bytes>,
        vault: &str,
        dataset: &Name,
        snapshot: &SnapshotId,
    ) -> Result<ManifestHead> {
        let (plaintext, what) = (plaintext.into(), described(dataset, snapshot));
        let head = json::read_head(&plaintext, &what)?;
        belongs((&head.vault, &head.dataset, &head.snapshot), (vault, dataset, snapshot), &what)?;
        let is_right = is_chained(head.sequence, head.previous.as_ref(), snapshot);
        if is_right { Ok(head) } else { Err(Error::integrity(format!("{what} is damaged")).because(CHAIN_RULE)) }
    }

    /// The manifest as it is encrypted.
    ///
    /// # Errors
    /// [`Class::Failed`](lifeboat_base::Class::Failed): it is longer than [`MAX_MANIFEST_BYTES`].
    pub fn to_plaintext(&self) -> Result<Vec<u8>> {
        json::write(self)
    }

    /// Refuses what readers would refuse, and format 1.
    ///
    /// # Errors
    /// [`Class::Failed`](lifeboat_base::Class::Failed): the rule that it breaks.
    pub fn check_writable(&self) -> Result<()> {
        let of_format_1 = (self.format == Format::One).then_some("it is of format 1");
        self.broken_rule().or(of_format_1).map_or(Ok(()), |rule| {
            Err(Error::failed(format!("nobody could read the manifest of {}/{}: {rule}", self.dataset, self.snapshot))
                .hint("nothing was committed; divide the dataset if it is too large, else report this"))
        })
    }

    /// The rule of the format that it breaks.
    fn broken_rule(&self) -> Option<&'static str> {
        let mut names = StreamNames::default();
        let mut streams = self.streams.iter();
        let chain_is_right =
            self.format == Format::One || is_chained(self.sequence, self.previous.as_ref(), &self.snapshot);
        let maps = || self.streams.iter().filter_map(|stream| stream.map.as_ref());
        let rules = [
            (chain_is_right, CHAIN_RULE),
            (self.packs.len() <= max_packs(self.format), "it names too many packs"),
            (self.accounting.unused.len() <= self.packs.len(), "`unused` has more numbers than there are packs"),
            (are_different(&self.packs), "it names a pack twice"),
            (self.packs.iter().all(|pack| self.is_possible(pack)), "it names a pack that cannot be"),
            (self.streams.len() <= MAX_STREAMS, "it has too many streams"),
            (streams.all(|stream| names.insert(&stream.name)), "a stream has a name that it cannot have"),
            (maps().all(|map| self.has_place(map)), "a map lies where there is none"),
            (self.group.as_ref().is_none_or(|group| group.is_right(&self.dataset)), "its group cannot be"),
        ];
        rules.iter().find(|(kept, _)| !kept).map(|(_, rule)| *rule)
    }

    fn is_possible(&self, pack: &PackRef) -> bool {
        let content = match self.format {
            Format::One => return pack.size <= MAX_PACK_BYTES && pack.content <= MAX_CONTENT_BYTES_OF_FORMAT_1 as u64,
            Format::Two => TARGET_CONTENT_BYTES as u64,
        };
        (1..=MAX_PACK_BYTES).contains(&pack.size) && (1..=content).contains(&pack.content) && pack.generation > 0
    }

    fn has_place(&self, map: &MapEntry) -> bool {
        let packs = match &map.place {
            MapPlace::Packs(packs) => packs,
            MapPlace::Extents { length, .. } => return *length <= MAX_MAP_BYTES,
        };
        let unique: HashSet<&u32> = packs.iter().collect();
        let contents: Option<Vec<u64>> =
            packs.iter().map(|pack| self.packs.get(*pack as usize).map(|pack| pack.content)).collect();
        let is_short = |contents: Vec<u64>| contents.iter().sum::<u64>() <= MAX_MAP_BYTES;
        !packs.is_empty() && unique.len() == packs.len() && map.covers > 0 && contents.is_some_and(is_short)
    }

    /// Opens and checks all its extents. Whoever only needs the names of packs need not do this.
    ///
    /// # Errors
    /// [`Class::Integrity`](lifeboat_base::Class::Integrity): some extents are damaged.
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

    /// The id of the snapshot before it.
    #[must_use]
    pub fn predecessor(&self) -> Option<&SnapshotId> {
        self.previous.as_ref().map(|previous| &previous.snapshot)
    }

    /// The key generations of its packs.
    #[must_use]
    pub fn generations(&self) -> BTreeSet<u32> {
        self.packs.iter().map(|pack| pack.generation).collect()
    }

    /// The length of all its streams, in bytes.
    #[must_use]
    pub fn length(&self) -> u64 {
        self.streams.iter().fold(0, |sum, stream| sum.saturating_add(stream.length))
    }

    /// Its packs, each with how many bytes of its content the snapshot does not need.
    pub fn packs_and_unused(&self) -> impl Iterator<Item = (&PackRef, u64)> {
        self.packs.iter().zip(self.accounting.unused.iter().copied().chain(std::iter::repeat(0)))
    }

    /// The manifest without the extents of its streams, which take most of its memory.
    #[must_use]
    pub fn without_extents(mut self) -> Self {
        self.streams.iter_mut().for_each(|stream| stream.extents = Bytes::new());
        self
    }

    /// The lengths of its packs' contents, by number.
    #[must_use]
    pub fn contents(&self) -> Arc<[u64]> {
        self.packs.iter().map(|pack| pack.content).collect()
    }

    /// The extents of one of its streams, each inside its pack or inside the older stream;
    /// `contents` are [`Self::contents`].
    ///
    /// # Errors
    /// [`Class::Integrity`](lifeboat_base::Class::Integrity): their lengths are not the stream's.
    pub fn extents(&self, stream: &StreamEntry, contents: &Arc<[u64]>) -> Result<Extents> {
        let older = stream.map.as_ref().map_or(0, |map| map.covers);
        let bounds = Bounds { packs: contents.clone(), older };
        Extents::read_as(self.format, stream.extents.clone(), stream.length, bounds)
            .ok_or_else(|| Error::integrity(format!("the extents of stream `{}` are damaged", stream.name)))
    }

    /// The snapshot with the maps of its streams instead of the streams, by the same names.
    ///
    /// # Errors
    /// No memory.
    pub fn maps(&self) -> Result<Self> {
        let mut streams = Vec::new();
        for stream in &self.streams {
            let Some(MapEntry { blake3, place, .. }) = &stream.map else { continue };
            let (length, extents) = match place {
                MapPlace::Extents { length, extents } => (*length, extents.clone()),
                MapPlace::Packs(packs) => {
                    let whole =
                        |pack: &u32| Extent { pack: *pack, offset: 0, length: self.packs[*pack as usize].content };
                    let extents = Extents::of(packs.iter().map(whole))?;
                    (extents.length(), extents.bytes().clone())
                }
            };
            streams.push(StreamEntry {
                name: stream.name.clone(),
                length,
                blake3: *blake3,
                exit: 0,
                extents,
                map: None,
            });
        }
        Ok(Self { streams, ..self.clone() })
    }

    /// Where a map lies: its extents, each with its pack.
    ///
    /// # Errors
    /// [`Class::Integrity`](lifeboat_base::Class::Integrity): its extents are damaged.
    pub fn map_extents(&self, entry: &MapEntry) -> Result<Vec<(PackRef, Extent)>> {
        let at = |number: u32| self.packs[number as usize];
        match &entry.place {
            MapPlace::Packs(packs) => {
                let whole = |pack: u32| (at(pack), Extent { pack, offset: 0, length: at(pack).content });
                Ok(packs.iter().map(|pack| whole(*pack)).collect())
            }
            MapPlace::Extents { length, extents } => {
                let bounds = Bounds { packs: self.contents(), older: 0 };
                let extents =
                    Extents::read_as(self.format, extents.clone(), *length, bounds).filter(Extents::are_whole);
                let extents = extents.ok_or_else(|| Error::integrity("the extents of a map are damaged"))?;
                Ok(extents.iter().map(|extent| (at(extent.pack), extent)).collect())
            }
        }
    }

    /// The map of a stream, from its bytes.
    ///
    /// # Errors
    /// [`Class::Integrity`](lifeboat_base::Class::Integrity): the map is damaged, or names a pack
    /// that this manifest does not.
    pub fn map(&self, stream: &StreamEntry, entry: &MapEntry, bytes: &Bytes) -> Result<StreamMap> {
        let contents: HashMap<PackId, u64> = self.packs.iter().map(|pack| (pack.id, pack.content)).collect();
        StreamMap::read_as(self.format, bytes, entry.covers, |pack| contents.get(pack).copied())
            .ok_or_else(|| Error::integrity(format!("the map of stream `{}` is damaged", stream.name)))
    }

    /// Where all of a stream lies, if some of its `extents` lie in the older stream of `map`.
    ///
    /// # Errors
    /// [`Class::Integrity`](lifeboat_base::Class::Integrity), as [`Self::map`].
    pub fn resolve(&self, extents: Extents, map: &StreamMap) -> Result<Resolved> {
        let numbers: HashMap<PackId, u32> =
            self.packs.iter().zip(0..).map(|(pack, number)| (pack.id, number)).collect();
        let numbers: Option<Vec<u32>> = map.packs.iter().map(|pack| numbers.get(pack).copied()).collect();
        let numbers = numbers.ok_or_else(|| Error::integrity("a map names a pack that its manifest does not"))?;
        Ok(Resolved::new(extents, map, numbers))
    }
}

/// Whether no two of these packs have the same id.
fn are_different(packs: &[PackRef]) -> bool {
    // Ids begin alike by chance only. A list of beginnings takes a seventh of what a set of ids
    // does, and a manifest of some terabytes names hundreds of thousands.
    let beginning = |pack: &PackRef| pack.id.0.first_chunk().copied().map(u64::from_le_bytes);
    let mut beginnings: Vec<u64> = packs.iter().filter_map(beginning).collect();
    beginnings.sort_unstable();
    if beginnings.windows(2).all(|pair| pair[0] != pair[1]) {
        return true;
    }
    let mut ids = HashSet::with_capacity(packs.len());
    packs.iter().all(|pack| ids.insert(pack.id))
}

const CHAIN_RULE: &str = "`sequence` and `previous` contradict each other";

/// Whether a snapshot may have this place.
fn is_chained(sequence: u64, previous: Option<&Previous>, snapshot: &SnapshotId) -> bool {
    match previous {
        None => sequence == 1,
        Some(previous) => (2..SEQUENCE_END).contains(&sequence) && previous.snapshot != *snapshot,
    }
}

fn described(dataset: &Name, snapshot: &SnapshotId) -> String {
    format!("the manifest of {dataset}/{snapshot}")
}

/// Refuses what was found in another place than its own.
fn belongs(own: (&str, &Name, &SnapshotId), found: (&str, &Name, &SnapshotId), what: &str) -> Result<()> {
    if own == found {
        return Ok(());
    }
    let (vault, dataset, snapshot) = own;
    Err(Error::integrity(format!("{what} belongs to {dataset}/{snapshot} of vault {vault}")))
}
