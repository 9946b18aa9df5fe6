//! Fills the first replica of a configuration, which must be a directory, with many small
//! snapshots, some very large ones, or a large index: signed and encrypted as the daemon does it,
//! under the keys of that configuration.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use chrono::{DateTime, TimeDelta, Utc};
use lifeboat_engine::base::facts::SourceFacts;
use lifeboat_engine::clock::SystemClock;
use lifeboat_engine::config::{Config, ReplicaKind, Surroundings};
use lifeboat_engine::format::Format;
use lifeboat_engine::format::act::{Act, ActKind};
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

    /// Returns the hash of the object, and its signature.
    fn put_signed(&self, key: &str, plaintext: &[u8]) -> Result<(Digest, String)> {
        let readers = [self.keys.operations.to_public(), self.keys.dataset(&self.dataset)?.recipient.clone()];
        let sealed = stages::encrypt(readers.iter().map(|reader| reader as &dyn age::Recipient), plaintext)?;
        let comment = layout::trusted_comment(&self.keys.vault, key);
        let signature = self.keys.signer.sign(&sealed, &comment)?;
        self.put(&layout::signature(key), signature.as_bytes())?;
        self.put(key, &sealed)?;
        Ok((Digest::of(&sealed), signature))
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

/// The snapshots of one dataset, one after the other, as runs commit them.
struct Chain {
    seed: Seed,
    generation: u32,
    begin: DateTime<Utc>,
    previous: Option<Previous>,
    last_act: Option<Digest>,
}

/// What the next snapshot refers to.
struct Contents {
    packs: Vec<PackRef>,
    unused: Vec<u64>,
    new_packs: usize,
}

impl Chain {
    /// Begins so long ago that the last of `count` snapshots, one an hour, is new.
    fn open(config: &Path, count: u64) -> Result<Self> {
        let seed = Seed::open(config)?;
        let generation = seed.keys.dataset(&seed.dataset)?.generation;
        let begin = SystemClock::shared().now() - TimeDelta::hours(i64::try_from(count)?);
        Ok(Self { seed, generation, begin, previous: None, last_act: None })
    }

    fn pack(&self, pack: u64, size: u64) -> PackRef {
        PackRef { id: number("pack", pack), size, content: size, generation: self.generation }
    }

    fn id(&self, snapshot: u64) -> Result<SnapshotId> {
        Ok(SnapshotId::new(self.begin + TimeDelta::hours(i64::try_from(snapshot)?), u32::try_from(snapshot)?))
    }

    /// Writes a segment that names one pack with one chunk.
    fn index(&self, snapshot: u64, pack: &PackRef) -> Result<()> {
        let chunks = vec![(number("chunk", snapshot), u32::try_from(pack.content)?)];
        let packs = [IndexedPack { id: pack.id, size: pack.size, chunks }];
        let key = layout::index(&self.seed.dataset, &self.id(snapshot)?);
        self.seed.put_signed(&key, &IndexSegment::write(self.generation, &packs)?).map(drop)
    }

    /// Writes the snapshot of this number, from 0, and its act.
    fn commit(&mut self, snapshot: u64, contents: Contents) -> Result<()> {
        let Contents { packs, unused, new_packs } = contents;
        let seed = &self.seed;
        let started = self.begin + TimeDelta::hours(i64::try_from(snapshot)?);
        let id = self.id(snapshot)?;
        let raw_bytes: u64 = packs.iter().map(|pack| pack.content).sum();
        let stored_bytes: u64 = packs[packs.len() - new_packs..].iter().map(|pack| pack.size).sum();
        let mut extents = ExtentsWriter::default();
        (0..)
            .zip(&packs)
            .try_for_each(|(at, pack)| extents.push(Extent { pack: at, offset: 0, length: pack.content }))?;
        let manifest = Manifest {
            format: Format::Two,
            requires: Requirements::default(),
            vault: seed.keys.vault.clone(),
            dataset: seed.dataset.clone(),
            snapshot: id.clone(),
            sequence: snapshot + 1,
            previous: self.previous.take(),
            host: seed.host.clone(),
            started,
            finished: started,
            group: None,
            source: SourceFacts { engine: "file".to_owned(), ..SourceFacts::default() },
            accounting: Accounting {
                unused,
                raw_bytes,
                deduplicated_bytes: raw_bytes - stored_bytes,
                row_bytes: 0,
                stored_bytes,
                new_packs: new_packs as u64,
            },
            packs,
            streams: vec![StreamEntry {
                name: "data".to_owned(),
                length: raw_bytes,
                blake3: number("stream", snapshot),
                exit: 0,
                extents: extents.finish()?.bytes().clone(),
                map: None,
            }],
        };
        let (hash, signature) = seed.put_signed(&layout::manifest(&seed.dataset, &id), &manifest.to_plaintext()?)?;
        let act = Act {
            act: ActKind::Commit,
            requires: Requirements::default(),
            vault: seed.keys.vault.clone(),
            dataset: seed.dataset.clone(),
            principal: seed.host.clone(),
            number: snapshot + 1,
            previous: self.last_act,
            time: started,
            id: id.clone(),
            blake3: hash,
            signature,
            sequence: Some(snapshot + 1),
        };
        let key = layout::act(&seed.dataset, act.number);
        let mut stored = act.to_line()?;
        let signature = seed.keys.signer.sign(&stored, &layout::trusted_comment(&seed.keys.vault, &key))?;
        stored.extend_from_slice(signature.as_bytes());
        seed.put(&key, &stored)?;
        self.last_act = Some(Digest::of(&stored));
        self.previous = Some(Previous { snapshot: id, blake3: Some(hash) });
        Ok(())
    }
}

/// `count` snapshots, one an hour, that refer to a few packs each.
pub(super) fn snapshots(config: &Path, count: &str) -> Result<()> {
    let (count, size) = (count.parse()?, 1 << 16);
    let mut chain = Chain::open(config, count)?;
    for snapshot in 0..count {
        // Packs are shared with the ones before, as increments share them.
        let packs: Vec<PackRef> = (snapshot / 8..snapshot / 8 + 4).map(|pack| chain.pack(pack, size)).collect();
        if snapshot % 8 == 0 {
            let new = if snapshot == 0 { 0 } else { 3 };
            packs[new..].iter().try_for_each(|pack| chain.seed.put_pack(&pack.id, size))?;
            chain.index(snapshot, &packs[3])?;
        }
        chain.commit(snapshot, Contents { unused: vec![0; packs.len()], packs, new_packs: 1 })?;
    }
    Ok(())
}

/// `count` snapshots of `packs` packs of 16 MiB each, that nobody reads: with every one, a
/// thousandth of the packs is replaced, and of a hundredth a little more is unused.
pub(super) fn large(config: &Path, count: &str, packs: &str) -> Result<()> {
    const SIZE: u64 = 16 << 20;
    let (count, in_each): (u64, u64) = (count.parse()?, packs.parse()?);
    let mut chain = Chain::open(config, count)?;
    let changed = in_each / 1000;
    let (mut packs, mut unused) = (Vec::new(), Vec::new());
    for snapshot in 0..count {
        let new = if snapshot == 0 { in_each } else { changed };
        let first = if snapshot == 0 { 0 } else { in_each + (snapshot - 1) * changed };
        let kept = packs.len().min((in_each - new) as usize);
        packs.drain(..packs.len() - kept);
        unused.drain(..unused.len() - kept);
        for pack in first..first + new {
            let pack = chain.pack(pack, SIZE);
            chain.seed.put_pack(&pack.id, SIZE)?;
            packs.push(pack);
            unused.push(0);
        }
        (snapshot as usize % 100..kept).step_by(100).for_each(|at| unused[at] += 4096);
        chain.commit(snapshot, Contents { packs: packs.clone(), unused: unused.clone(), new_packs: new as usize })?;
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
