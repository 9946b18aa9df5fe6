//! Fills the first replica of a configuration, which must be a directory, with many small snapshots
//! or a large index: signed and encrypted as the daemon does it, under the keys of that
//! configuration.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use chrono::{DateTime, TimeDelta, Utc};
use lifeboat_engine::base::facts::SourceFacts;
use lifeboat_engine::config::{Config, ReplicaKind, Surroundings};
use lifeboat_engine::format::Format;
use lifeboat_engine::format::extents::{Extent, ExtentsWriter};
use lifeboat_engine::format::id::{Digest, Name, SnapshotId};
use lifeboat_engine::format::index::{IndexSegment, IndexedPack, MAX_SEGMENT_CHUNKS};
use lifeboat_engine::format::layout;
use lifeboat_engine::format::manifest::{Accounting, Manifest, PackRef, Previous, StreamEntry};
use lifeboat_engine::format::requirements::Requirements;
use lifeboat_engine::keys::HostKeys;
use lifeboat_engine::stages;

use super::Result;

/// Chunks of a pack, and of a segment.
const IN_PACK: u64 = 32;
const IN_SEGMENT: u64 = MAX_SEGMENT_CHUNKS as u64;

struct Seed {
    root: PathBuf,
    dataset: Name,
    keys: HostKeys,
    host: Name,
}

impl Seed {
    fn open(config: &Path) -> Result<Self> {
        let config = Config::load(config, &Surroundings::default())?;
        let ReplicaKind::Directory { path } = &config.replicas[0].kind else {
            return Err("the first replica is not a directory".into());
        };
        let root = path.join(&config.vault_prefix);
        Ok(Self {
            root,
            dataset: config.datasets[0].name.clone(),
            keys: HostKeys::load(&config.keys)?,
            host: config.host,
        })
    }

    fn put(&self, key: &str, bytes: &[u8]) -> Result<()> {
        let place = self.root.join(key);
        fs::create_dir_all(place.parent().ok_or("a key without a folder")?)?;
        Ok(fs::write(place, bytes)?)
    }

    /// Returns the hash of the object.
    fn put_signed(&self, key: &str, plaintext: &[u8]) -> Result<Digest> {
        let readers = [self.keys.operations.to_public(), self.keys.dataset(&self.dataset)?.recipient.clone()];
        let sealed = stages::encrypt(readers.iter().map(|reader| reader as &dyn age::Recipient), plaintext)?;
        let comment = layout::trusted_comment(&self.keys.vault, key);
        self.put(&layout::signature(key), self.keys.signer.sign(&sealed, &comment)?.as_bytes())?;
        self.put(key, &sealed)?;
        Ok(Digest::of(&sealed))
    }

    /// A pack that a listing shows; nobody reads it.
    fn put_pack(&self, id: &Digest, size: u64) -> Result<()> {
        let place = self.root.join(layout::pack(&self.dataset, id));
        fs::create_dir_all(place.parent().ok_or("a key without a folder")?)?;
        Ok(File::create(place)?.set_len(size)?)
    }
}

fn number(kind: &str, number: u64) -> Digest {
    Digest(*blake3::Hasher::new().update(kind.as_bytes()).update(&number.to_le_bytes()).finalize().as_bytes())
}

/// `count` snapshots, one an hour, that refer to a few packs each.
pub(super) fn snapshots(config: &Path, count: &str) -> Result<()> {
    let seed = Seed::open(config)?;
    let count: u64 = count.parse()?;
    let begin: DateTime<Utc> = "2014-01-01T00:00:00Z".parse()?;
    let mut previous = None;
    let generation = seed.keys.dataset(&seed.dataset)?.generation;
    let size = 1 << 16;
    for snapshot in 0..count {
        // Packs are shared with the ones before, as increments share them.
        let packs: Vec<PackRef> = (snapshot / 8..snapshot / 8 + 4)
            .map(|pack| PackRef { id: number("pack", pack), size, content: size, generation })
            .collect();
        if snapshot % 8 == 0 {
            let new = if snapshot == 0 { 0 } else { 3 };
            packs[new..].iter().try_for_each(|pack| seed.put_pack(&pack.id, size))?;
        }
        let started = begin + TimeDelta::hours(i64::try_from(snapshot)?);
        let id = SnapshotId::new(started, u32::try_from(snapshot)?);
        let mut extents = ExtentsWriter::default();
        (0..4).try_for_each(|pack| extents.push(Extent { pack, offset: 0, length: size }))?;
        let manifest = Manifest {
            format: Format::Two,
            requires: Requirements::default(),
            vault: seed.keys.vault.clone(),
            dataset: seed.dataset.clone(),
            snapshot: id.clone(),
            sequence: snapshot + 1,
            previous: previous.take(),
            host: seed.host.clone(),
            started,
            finished: started,
            source: SourceFacts { engine: "file".to_owned(), ..SourceFacts::default() },
            accounting: Accounting {
                unused: vec![0; packs.len()],
                raw_bytes: 4 * size,
                deduplicated_bytes: 3 * size,
                row_bytes: 0,
                stored_bytes: size,
                new_packs: 1,
            },
            packs,
            streams: vec![StreamEntry {
                name: "data".to_owned(),
                length: 4 * size,
                blake3: number("stream", snapshot),
                exit: 0,
                extents: extents.finish()?.bytes().clone(),
                map: None,
            }],
        };
        let hash = seed.put_signed(&layout::manifest(&seed.dataset, &id), &manifest.to_plaintext()?)?;
        previous = Some(Previous { snapshot: id, blake3: Some(hash) });
    }
    Ok(())
}

/// Index segments that name `chunks` chunks, and their packs, as far as a listing shows them.
pub(super) fn index(config: &Path, chunks: &str) -> Result<()> {
    let seed = Seed::open(config)?;
    let chunks: u64 = chunks.parse()?;
    let generation = seed.keys.dataset(&seed.dataset)?.generation;
    let begin: DateTime<Utc> = "2014-01-01T00:00:00Z".parse()?;
    for segment in 0..chunks.div_ceil(IN_SEGMENT) {
        let packs = (segment * IN_SEGMENT / IN_PACK)..(chunks.min((segment + 1) * IN_SEGMENT)).div_ceil(IN_PACK);
        let packs: Vec<IndexedPack> = packs
            .map(|pack| IndexedPack {
                id: number("pack", pack),
                size: 16 << 20,
                chunks: (0..IN_PACK).map(|chunk| (number("chunk", pack * IN_PACK + chunk), 1 << 20)).collect(),
            })
            .collect();
        packs.iter().try_for_each(|pack| seed.put_pack(&pack.id, pack.size))?;
        let id = SnapshotId::new(begin + TimeDelta::hours(i64::try_from(segment)?), 1);
        seed.put_signed(&layout::index(&seed.dataset, &id), &IndexSegment::write(generation, &packs)?)?;
    }
    Ok(())
}
