//! Proofs in part: what has not changed since a drill proved it is not restored again.
//!
//! A drill of a whole snapshot is the base. A part of a later snapshot counts as proved with it if
//! each of its streams has the same content *and* lies at the same places of the same packs, and if
//! the replicas that the base read still list all packs. So nobody who signs a manifest gets
//! another one believed by naming old hashes in it. A stream that lies elsewhere is read, and so is
//! one that may differ in nothing but what tells of the moment of its capture. Whatever is in doubt
//! is restored, and where nothing can be left out, or what was restored fails, the drill is one of
//! the whole snapshot.
//!
//! A base is never itself in part: so all that counts together was proved by two drills, of which
//! the older one is at most `full_every` old.
//!
//! Memory: of each stream of the base, 80 bytes and its name; and its places in packs, which take
//! at most an eighth of `limits.memory`.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::Duration;

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use lifeboat_base::facts::SourceFacts;
use lifeboat_base::{Error, Result};
use lifeboat_databases::proof::{PartsToProve, ProofLevel};
use lifeboat_databases::streams::{StoredStreams, StreamReader};
use lifeboat_databases::{Database, PassingMarks, WorkContext, registry};
use lifeboat_format::id::{Digest, Name, SnapshotId};
use lifeboat_format::manifest::{Manifest, StreamEntry};
use lifeboat_format::map::Resolved;

use super::history::PastDrill;
use super::report::{DrillReport, InPart, MAX_TOLD};
use super::{Drill, Given, Stopwatch};
use crate::catalog::inventory::Inventory;
use crate::catalog::pack_ranges::PackRanges;
use crate::config::DrillConfig;
use crate::restore::SnapshotStreams;

/// A stream with more new bytes than this has surely changed in more than its marks: two chunks at
/// its edges, as long as `chunk_size` allows, are no more.
const MAX_FRESH_BYTES: u64 = 32 << 20;

/// The drill that proved what one at `now` need not restore, by the plan in `settings`. `past` is
/// newest first, `failed` when the last drill began that failed as far as this host knows, and
/// `read` the replicas that are read now.
#[must_use]
pub fn base_of<'p>(
    past: &'p [PastDrill],
    failed: Option<DateTime<Utc>>,
    settings: &DrillConfig,
    read: &BTreeSet<&Name>,
    now: DateTime<Utc>,
) -> Option<&'p DrillReport> {
    let oldest = now - settings.full_every?;
    for PastDrill { report, .. } in past {
        let began = report.started.min(report.finished);
        // What failed since may fail again, and what is older does not count.
        if !report.passed || failed.is_some_and(|failed| failed >= began) || began < oldest {
            return None;
        }
        let is_whole = report.in_part.is_none() && report.reached == Some(ProofLevel::Proved);
        // A region that is drilled apart is proved by what came from there.
        let came_from_there =
            !report.replicas_used.is_empty() && report.replicas_used.iter().all(|name| read.contains(name));
        if is_whole && came_from_there && report.manifest.is_some() && report.finished <= now {
            return Some(report);
        }
    }
    None
}

/// What a drill restores, and what it leaves out.
struct Parts<'s> {
    /// What is restored; nothing if nothing changed.
    streams: PartStreams<'s>,
    /// For the report.
    in_part: InPart,
}

/// The streams of some parts of a snapshot.
struct PartStreams<'s> {
    snapshot: &'s SnapshotStreams,
    /// In the order of capture.
    names: Vec<String>,
    lengths: HashMap<String, u64>,
    left_out: Vec<String>,
}

impl PartStreams<'_> {
    /// How long all of them are, in bytes.
    fn bytes(&self) -> u64 {
        self.lengths.values().sum()
    }
}

#[async_trait]
impl StoredStreams for PartStreams<'_> {
    fn names(&self) -> Vec<String> {
        self.names.clone()
    }

    fn length(&self, name: &str) -> Option<u64> {
        self.lengths.get(name).copied()
    }

    fn facts(&self) -> &SourceFacts {
        self.snapshot.facts()
    }

    fn left_out(&self) -> Vec<String> {
        self.left_out.clone()
    }

    async fn open(&self, name: &str) -> Result<Box<dyn StreamReader>> {
        match self.lengths.contains_key(name) {
            true => self.snapshot.open(name).await,
            false => Err(Error::failed(format!("the stream `{name}` is not restored in this drill"))),
        }
    }
}

impl Drill<'_> {
    /// Restores what has changed since `base`, if the rest can be left out. `false`: all of the
    /// snapshot must be restored, and of an attempt the report tells no more than that it failed.
    ///
    /// # Errors
    /// The drill was cancelled, or a throw-away database cannot be removed.
    pub(super) async fn prove_in_part(
        &self,
        streams: &SnapshotStreams,
        taken: DateTime<Utc>,
        report: &mut DrillReport,
        cx: &WorkContext,
    ) -> Result<bool> {
        let is_wanted = report.required == ProofLevel::Proved && self.across.is_none() && !self.rehearses_loss;
        let Some(base) = self.base.filter(|_| is_wanted) else { return Ok(false) };
        let mut attempt = report.clone();
        let phase = Stopwatch::start(self, "compare");
        let Parts { streams: changed, in_part } =
            match self.unless_cancelled(async { Ok(self.parts(streams, base).await) }).await? {
                Ok(parts) => parts,
                Err(why) => {
                    tracing::info!(dataset = %self.dataset, "the whole snapshot is drilled: {why}");
                    return Ok(false);
                }
            };
        phase.stop(&mut attempt);
        if !in_part.restored.is_empty() {
            let given = Given { streams: &changed, bytes: changed.bytes(), taken, spent: Duration::ZERO };
            let (restored, stopped) = self.restore(streams, &given, &mut attempt, self.clock.elapsed(), cx).await;
            if self.cancel.is_cancelled() {
                return Err(self.cancelled());
            }
            if let Err(error) = restored {
                tracing::warn!(
                    dataset = %self.dataset,
                    error = %error.chain(),
                    "what has changed is not proved without the rest, so the whole snapshot is drilled"
                );
                report.failed_in_part = Some(error.chain());
                // What is still there would be there whatever comes of the whole snapshot.
                return stopped.map(|()| false);
            }
            stopped?;
        }
        attempt.replicas_used = streams.read_from();
        // What was not restored tells no time. How old the data is, it tells.
        (attempt.reached, attempt.rto_seconds) = (None, None);
        attempt.in_part = Some(in_part);
        *report = attempt;
        Ok(true)
    }

    /// What of the snapshot is restored after `base`; or why all of it is.
    async fn parts<'s>(&self, streams: &'s SnapshotStreams, base: &DrillReport) -> Result<Parts<'s>, &'static str> {
        let manifest = streams.manifest();
        let engine = registry::find(&manifest.source.engine).ok_or("this version does not know its kind")?;
        let snapshot = base.snapshot.as_ref().ok_or("the drill before names no snapshot")?;
        let memory = self.reader.limits().memory;
        let former = self.reader.with_places(self.dataset, snapshot, |manifest, stored, places| {
            Ok((stored, manifest.source.clone(), FormerStreams::of(manifest, places, memory)))
        });
        let (stored, facts, former) = former.await.map_err(|error| {
            tracing::info!(%snapshot, error = %error.chain(), "the snapshot that was proved before cannot be read");
            "the snapshot that was proved before cannot be read"
        })?;
        if base.manifest != Some(stored) {
            return Err("the snapshot that was proved before is another one now");
        }
        if !same_source(engine, &facts, &manifest.source) {
            return Err("the server that was captured has changed, or what is captured of it");
        }
        let mut changed = former.changed(manifest, &streams.extents()).ok_or("it lacks what was there before")?;
        let same = self.read_and_same(engine, streams, (snapshot, stored, &former), &changed).await;
        changed.retain(|name| !same.contains(*name));
        let names: Vec<String> = manifest.streams.iter().map(|stream| stream.name.clone()).collect();
        let mut split = Split::of(engine, &names, &changed).ok_or("what all its parts need has changed")?;
        self.asks_what_is_restored(&split)?;
        self.leave_out_tables(engine, streams, &changed, &mut split).await?;
        if split.left_out.is_empty() {
            return Err("all of it has changed");
        }
        let (streams, bytes) = split.streams(streams);
        if streams.bytes() > bytes {
            return Err("most of it has changed");
        }
        // Which pack came from which of them, nobody knows. What another replica has, nobody
        // proved.
        let proved = self.reader.replicas().iter().filter(|replica| base.replicas_used.contains(replica.name()));
        let proved: Vec<_> = proved.cloned().collect();
        let (listed, _) = Inventory::take_all(&proved, self.reader.vault_id(), self.dataset).await;
        let has_all = |replica: &Inventory| manifest.packs.iter().all(|pack| replica.has(pack));
        if listed.len() < base.replicas_used.len() || !listed.iter().all(has_all) {
            return Err("a replica that the drill before read lacks a part of it");
        }
        let in_part = InPart {
            drill: base.drill.clone(),
            snapshot: snapshot.clone(),
            proved: base.finished,
            left_out: told(split.left_out.into_iter().map(|(name, _)| name)),
            left_out_bytes: bytes,
            restored: told(split.restored.into_keys()),
        };
        Ok(Parts { streams, in_part })
    }

    /// Leaves out what has not changed of the parts that have, but of none that a query asks.
    async fn leave_out_tables(
        &self,
        engine: &dyn Database,
        streams: &SnapshotStreams,
        changed: &BTreeSet<&str>,
        split: &mut Split,
    ) -> Result<(), &'static str> {
        let is_asked = |part: &String| self.settings.queries.iter().any(|query| query.database.as_ref() == Some(part));
        for (_, of_one) in split.restored.iter_mut().filter(|(part, _)| !is_asked(part)) {
            let same = of_one.iter().map(String::as_str).filter(|stream| !changed.contains(stream)).collect();
            let apart = engine.proved_apart(streams, of_one, &same).await;
            let apart = apart.map_err(|_| "its definitions cannot be read")?;
            let apart: BTreeSet<String> = apart.into_iter().collect();
            of_one.retain(|stream| !apart.contains(stream));
            split.left_out.extend(apart.into_iter().map(|stream| (stream.clone(), vec![stream])));
        }
        Ok(())
    }

    /// Those of `changed` that turn out to be the same when they are read. What cannot be read is
    /// none of them. One snapshot is read after the other, as each may take all the memory for
    /// packs.
    async fn read_and_same(
        &self,
        engine: &dyn Database,
        streams: &SnapshotStreams,
        (base, stored, former): (&SnapshotId, Digest, &FormerStreams),
        changed: &BTreeSet<&str>,
    ) -> BTreeSet<String> {
        let (manifest, extents) = (streams.manifest(), streams.extents());
        let (mut same, mut marked) = (BTreeSet::new(), BTreeMap::new());
        let looked_at = manifest.streams.iter().enumerate();
        for (number, stream) in looked_at.filter(|(_, of)| of.exit == 0 && changed.contains(&*of.name)) {
            let Some((length, blake3, _)) = former.streams.get(&stream.name) else { continue };
            if (stream.length, stream.blake3) == (*length, *blake3) {
                if read_whole(streams, &stream.name).await.is_ok() {
                    same.insert(stream.name.clone());
                }
            } else if let Some(marks) = engine.passing_marks(&stream.name, &manifest.source)
                && stream.length.abs_diff(*length) <= PassingMarks::MAX_BYTES
                && former.has_most_of(manifest, &extents[number])
            {
                marked.insert(stream.name.clone(), marks);
            }
        }
        if !marked.is_empty() {
            let before = match self.reader.streams(self.dataset, base).await {
                // It was read once more.
                Ok(base) if base.manifest_hash() == stored => digests(&base, &marked).await,
                _ => return same,
            };
            let now = digests(streams, &marked).await;
            same.extend(
                now.into_iter().filter(|(name, digest)| before.get(name) == Some(digest)).map(|(name, _)| name),
            );
        }
        same
    }

    /// A query has no answer in what is not restored. What it gave the last time does not count: it
    /// may ask for the time.
    fn asks_what_is_restored(&self, split: &Split) -> Result<(), &'static str> {
        let is_restored = |database: &Option<String>| {
            split.has_databases && database.as_ref().is_some_and(|database| split.restored.contains_key(database))
        };
        match self.settings.queries.iter().all(|query| is_restored(&query.database)) {
            true => Ok(()),
            false => Err("a query asks what has not changed"),
        }
    }
}

async fn read_whole(streams: &SnapshotStreams, name: &str) -> Result<()> {
    let mut reader = streams.open(name).await?;
    while reader.next().await?.is_some() {}
    Ok(())
}

/// The digests of the streams that can be read, without their marks.
async fn digests(streams: &SnapshotStreams, marked: &BTreeMap<String, PassingMarks>) -> BTreeMap<String, [u8; 32]> {
    let mut found = BTreeMap::new();
    for (name, marks) in marked {
        let digest = async { marks.digest(streams.open(name).await?).await };
        found.extend(digest.await.ok().map(|digest| (name.clone(), digest)));
    }
    found
}

/// As many names as a report holds.
fn told(names: impl ExactSizeIterator<Item = String>) -> Vec<String> {
    let all = names.len();
    let mut told: Vec<String> = names.take(MAX_TOLD - 1).collect();
    if all > told.len() {
        told.push(format!("and {} more", all - told.len()));
    }
    told
}

/// Whether the same streams of both are restored in the same way.
fn same_source(engine: &dyn Database, one: &SourceFacts, other: &SourceFacts) -> bool {
    let details = |facts: &SourceFacts| -> BTreeMap<String, String> {
        let lasting = facts.details.iter().filter(|(detail, _)| !engine.is_of_the_moment(detail));
        lasting.map(|(detail, value)| (detail.clone(), value.clone())).collect()
    };
    let of = |facts: &SourceFacts| {
        (facts.engine.clone(), facts.server_version.clone(), facts.skipped.clone(), details(facts))
    };
    of(one) == of(other)
}

/// What is known of a base.
struct FormerStreams {
    /// Length, content and places of each stream.
    streams: BTreeMap<String, (u64, Digest, Digest)>,
    /// Where all its bytes lie. `None`: in too many places.
    places: Option<PackRanges>,
}

impl FormerStreams {
    fn of(manifest: &Manifest, places: &[Resolved], memory: u64) -> Self {
        let each = manifest.streams.iter().zip(places).map(|(stream, places)| {
            // Of one that lies in no pack, no other is the same.
            let places = places_of(manifest, places).unwrap_or(Digest([0; 32]));
            (stream.name.clone(), (stream.length, stream.blake3, places))
        });
        Self { streams: each.collect(), places: ranges_of(manifest, places, memory).ok() }
    }

    /// The streams of `manifest` that are not the same. `None`: it lacks one.
    fn changed<'m>(&self, manifest: &'m Manifest, places: &[Resolved]) -> Option<BTreeSet<&'m str>> {
        let names: BTreeSet<&str> = manifest.streams.iter().map(|stream| stream.name.as_str()).collect();
        if !self.streams.keys().all(|name| names.contains(name.as_str())) {
            return None;
        }
        let is_same = |(stream, places): &(&StreamEntry, &Resolved)| {
            let now = places_of(manifest, places).map(|places| (stream.length, stream.blake3, places));
            stream.exit == 0 && now.is_some() && now.as_ref() == self.streams.get(&stream.name)
        };
        let all = manifest.streams.iter().zip(places);
        Some(all.filter(|stream| !is_same(stream)).map(|(stream, _)| stream.name.as_str()).collect())
    }

    /// Whether few bytes of a stream are new, so that it may be worth its reading.
    fn has_most_of(&self, manifest: &Manifest, places: &Resolved) -> bool {
        let Some(known) = &self.places else { return false };
        let fresh: u64 = places
            .iter()
            .map(|extent| {
                let pack = manifest.packs.get(extent.pack as usize);
                extent.length - pack.map_or(0, |pack| known.within(&pack.id, extent.offset, extent.length))
            })
            .sum();
        fresh <= MAX_FRESH_BYTES
    }
}

fn ranges_of(manifest: &Manifest, places: &[Resolved], memory: u64) -> Result<PackRanges> {
    let mut ranges = PackRanges::within_memory(memory / 4);
    for extent in places.iter().flat_map(Resolved::iter) {
        if let Some(pack) = manifest.packs.get(extent.pack as usize) {
            ranges.add(pack.id, extent.offset, extent.length)?;
        }
    }
    ranges.settle();
    Ok(ranges)
}

/// Where the bytes of a stream lie, as a digest. Extents that touch count as one. `None`: in no
/// pack.
fn places_of(manifest: &Manifest, places: &Resolved) -> Option<Digest> {
    let mut hasher = blake3::Hasher::new();
    let mut add = |(pack, offset, length): (u32, u64, u64)| {
        let pack = manifest.packs.get(pack as usize)?;
        // All by which a pack is found and opened.
        hasher.update(&pack.id.0).update(&pack.size.to_le_bytes()).update(&pack.content.to_le_bytes());
        hasher.update(&pack.generation.to_le_bytes()).update(&offset.to_le_bytes()).update(&length.to_le_bytes());
        Some(())
    };
    let mut last: Option<(u32, u64, u64)> = None;
    for extent in places.iter() {
        last = match last {
            Some((pack, offset, length)) if pack == extent.pack && offset + length == extent.offset => {
                Some((pack, offset, length + extent.length))
            }
            before => {
                before.map_or(Some(()), &mut add)?;
                Some((extent.pack, extent.offset, extent.length))
            }
        };
    }
    last.map_or(Some(()), add)?;
    Some(Digest(*hasher.finalize().as_bytes()))
}

/// The parts of a snapshot, by name with their streams.
struct Split {
    /// Streams that every part needs.
    shared: Vec<String>,
    /// Whether the names are those of databases.
    has_databases: bool,
    restored: BTreeMap<String, Vec<String>>,
    /// Parts, and single streams of others.
    left_out: Vec<(String, Vec<String>)>,
}

impl Split {
    /// `None`: what all parts need has changed.
    fn of(engine: &dyn Database, names: &[String], changed: &BTreeSet<&str>) -> Option<Self> {
        let apart = engine.parts_to_prove(names);
        let has_databases = apart.is_some();
        let PartsToProve { shared, databases } = apart.unwrap_or_else(|| {
            let whole = names.iter().map(|name| engine.whole_of(name)).collect::<BTreeSet<_>>();
            let title = whole.into_iter().collect::<Vec<_>>().join(", ");
            PartsToProve { shared: Vec::new(), databases: BTreeMap::from([(title, names.to_vec())]) }
        });
        let has_changed = |streams: &[String]| streams.iter().any(|stream| changed.contains(stream.as_str()));
        if has_changed(&shared) {
            return None;
        }
        let (restored, left_out): (BTreeMap<_, _>, BTreeMap<_, _>) =
            databases.into_iter().partition(|(_, streams)| has_changed(streams));
        Some(Self { shared, has_databases, restored, left_out: left_out.into_iter().collect() })
    }

    /// What is restored of `snapshot`, and how long the rest is.
    fn streams<'s>(&self, snapshot: &'s SnapshotStreams) -> (PartStreams<'s>, u64) {
        let left_out: BTreeSet<&String> = self.left_out.iter().flat_map(|(_, streams)| streams).collect();
        let wanted: BTreeSet<&String> = match self.restored.is_empty() {
            true => BTreeSet::new(),
            false => self.shared.iter().chain(self.restored.values().flatten()).collect(),
        };
        let (mut names, mut lengths, mut bytes) = (Vec::new(), HashMap::new(), 0);
        for StreamEntry { name, length, .. } in &snapshot.manifest().streams {
            if left_out.contains(name) {
                bytes += length;
            } else if wanted.contains(name) {
                names.push(name.clone());
                lengths.insert(name.clone(), *length);
            }
        }
        let left_out = left_out.into_iter().cloned().collect();
        (PartStreams { snapshot, names, lengths, left_out }, bytes)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests;
