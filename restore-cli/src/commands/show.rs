//! `show`: what one snapshot consists of.

use std::collections::BTreeSet;
use std::fmt;

use chrono::{DateTime, Utc};
use lifeboat_engine::base::escape;
use lifeboat_engine::base::facts::SourceFacts;
use lifeboat_engine::databases::registry;
use lifeboat_engine::format::id::{Digest, Name, SnapshotId};
use lifeboat_engine::format::manifest::{Accounting, GroupMoment, Manifest};
use lifeboat_engine::restore::Selector;
use lifeboat_engine::{FalseClaim, Result, is_future};
use serde::Serialize;

use crate::access::Need;
use crate::flags::{Moment, parse_snapshot};
use crate::human;
use crate::session::Session;
use crate::table::Plain;

/// Show one snapshot: source, streams, sizes, and the replicas that hold it
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Name of the dataset
    dataset: Name,
    /// Snapshot id, the beginning of one, or `latest`
    #[arg(value_parser = parse_snapshot, default_value = "latest")]
    pub(crate) snapshot: Selector,
    #[command(flatten)]
    moment: Moment,
}

#[derive(Serialize)]
struct Description {
    vault: String,
    dataset: Name,
    snapshot: SnapshotId,
    predecessor: Option<SnapshotId>,
    /// `None` in vaults of format 1.
    sequence: Option<u64>,
    host: Name,
    started: DateTime<Utc>,
    /// The time that counts: another one than `started`, if it was settled.
    taken: DateTime<Utc>,
    /// `started` lies in the future: a clock was wrong.
    in_future: bool,
    /// What stores or witnesses say against its time.
    false_claim: Option<FalseClaim>,
    /// When it was first seen, if that contradicts it.
    first_seen: Option<DateTime<Utc>>,
    finished: DateTime<Utc>,
    /// The moment that it shares with other members of its group.
    #[serde(skip_serializing_if = "Option::is_none")]
    group: Option<GroupMoment>,
    source: SourceFacts,
    streams: Vec<Stream>,
    totals: Totals,
    packs: usize,
    /// The key generations of these packs.
    generations: BTreeSet<u32>,
    replicas: Vec<Name>,
}

#[derive(Serialize)]
struct Totals {
    raw_bytes: u64,
    deduplicated_bytes: u64,
    row_bytes: u64,
    stored_bytes: u64,
    new_packs: u64,
}

#[derive(Serialize)]
struct Stream {
    name: String,
    bytes: u64,
    blake3: Digest,
    exit: i32,
}

pub(crate) async fn run(args: &Args, session: &Session) -> Result<()> {
    let place = session.place()?.read_as_of(args.moment.seen_from(session.clock.now()));
    let reader = session.reader_for(&args.dataset, &place, Need::Manifests).await?;
    let look = async {
        let (known, snapshot, listed) = futures::join!(
            session.datasets(&reader, Some(&args.dataset)),
            reader.select(&args.dataset, &args.snapshot, session.clock.now()),
            reader.snapshots(&args.dataset),
        );
        known?;
        let (snapshot, listed) = (snapshot?, listed?);
        let replicas = listed.into_iter().find(|listed| listed.snapshot == snapshot).map(|listed| listed.replicas);
        let manifest = reader.manifest(&args.dataset, &snapshot).await?;
        let taken = reader.taken(&manifest).await?;
        Ok((manifest, taken, replicas.unwrap_or_default()))
    };
    let (manifest, taken, replicas) = session.cancellable("reading the snapshot", look).await?;
    let in_future = is_future(taken.time, session.clock.now(), reader.limits());
    let (false_claim, first_seen) = taken.contradicted.map(|found| (found.claim, found.seen)).unzip();
    let described = describe(manifest, replicas);
    session.out.result(&Description { taken: taken.time, in_future, false_claim, first_seen, ..described })
}

fn describe(manifest: Manifest, replicas: Vec<Name>) -> Description {
    let stream = |entry: lifeboat_engine::format::manifest::StreamEntry| Stream {
        name: entry.name,
        bytes: entry.length,
        blake3: entry.blake3,
        exit: entry.exit,
    };
    let generations = manifest.generations();
    let Accounting { raw_bytes, deduplicated_bytes, row_bytes, stored_bytes, new_packs, .. } = manifest.accounting;
    Description {
        vault: manifest.vault,
        dataset: manifest.dataset,
        snapshot: manifest.snapshot,
        predecessor: manifest.previous.map(|previous| previous.snapshot),
        sequence: Some(manifest.sequence).filter(|sequence| *sequence > 0),
        host: manifest.host,
        started: manifest.started,
        taken: manifest.started,
        in_future: false,
        false_claim: None,
        first_seen: None,
        finished: manifest.finished,
        group: manifest.group,
        source: manifest.source,
        streams: manifest.streams.into_iter().map(stream).collect(),
        totals: Totals { raw_bytes, deduplicated_bytes, row_bytes, stored_bytes, new_packs },
        generations,
        packs: manifest.packs.len(),
        replicas,
    }
}

impl fmt::Display for Description {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let took = (self.finished - self.started).as_seconds_f64();
        let version = self.source.server_version.as_deref().unwrap_or_default();
        let tools: Vec<String> = self.source.tools.iter().map(|(tool, version)| format!("{tool} {version}")).collect();
        let totals = &self.totals;
        let claimed = Some(self.started).filter(|claimed| *claimed != self.taken);
        let taken = human::taken(self.taken, claimed, self.false_claim);
        let future = if self.in_future { " (this time lies in the FUTURE)" } else { "" };
        let generations: Vec<String> = self.generations.iter().map(|one| format!("generation {one}")).collect();
        let mut facts = vec![
            ("dataset", self.dataset.to_string()),
            ("snapshot", self.snapshot.to_string()),
            ("predecessor", self.predecessor.as_ref().map_or("none, the first".to_owned(), ToString::to_string)),
            ("taken", format!("{taken}{future}, in {}, by host {}", human::seconds(took), self.host)),
            (
                "group",
                self.group.as_ref().map_or(String::new(), |group| {
                    format!("{}, moment {}, viewed from {}", group.name, group.moment, human::time(group.at))
                }),
            ),
            ("source", format!("{} {version}", self.source.engine).trim_end().to_owned()),
            ("tools", tools.join(", ")),
            ("size", human::bytes(totals.raw_bytes)),
            (
                "known before",
                match totals.row_bytes {
                    0 => human::bytes(totals.deduplicated_bytes),
                    rows => {
                        format!("{}, {} of it row by row", human::bytes(totals.deduplicated_bytes), human::bytes(rows))
                    }
                },
            ),
            (
                "stored",
                format!("{} in {}", human::bytes(totals.stored_bytes), human::count(totals.new_packs, "new pack")),
            ),
            ("needs", human::count(self.packs as u64, "pack")),
            ("keys", generations.join(", ")),
            ("replicas", self.replicas.iter().map(Name::as_str).collect::<Vec<_>>().join(", ")),
        ];
        facts.retain(|(_, value)| !value.is_empty());
        writeln!(f, "{}\n", Plain::facts(facts))?;
        let mut streams = Plain::new(&["STREAM", ">SIZE", "BLAKE3"]);
        let engine = registry::find(&self.source.engine);
        let whole =
            |stream: &'_ Stream| engine.map_or(&*stream.name, |engine| engine.whole_of(&stream.name)).to_owned();
        // A tree may have thousands, one after the other.
        for parts in self.streams.chunk_by(|a, b| whole(a) == whole(b)) {
            streams.row(match parts {
                [one] => [one.name.clone(), human::bytes(one.bytes), one.blake3.to_string()],
                parts => {
                    let bytes = parts.iter().map(|part| part.bytes).sum();
                    [whole(&parts[0]), human::bytes(bytes), format!("in {}", human::count(parts.len() as u64, "part"))]
                }
            });
        }
        write!(f, "{streams}")?;
        for (name, value) in &self.source.details {
            write!(f, "\n {}: {}", escape::line(name), escape::line(value))?;
        }
        for database in &self.source.skipped {
            write!(f, "\n PARTIAL: it lacks database {}", database.escape_debug())?;
        }
        for warning in &self.source.warnings {
            write!(f, "\n warning: {}", escape::line(warning))?;
        }
        Ok(())
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;
    use lifeboat_engine::format::Format;
    use lifeboat_engine::format::manifest::StreamEntry;
    use lifeboat_engine::format::requirements::Requirements;

    #[test]
    fn describes_a_first_snapshot_without_its_extents() {
        let time: DateTime<Utc> = "2026-11-23T18:32:44.123Z".parse().unwrap();
        let snapshot = SnapshotId::new(time, 1);
        let manifest = Manifest {
            format: Format::Two,
            requires: Requirements::default(),
            vault: "v".to_owned(),
            dataset: "shop".parse().unwrap(),
            snapshot: snapshot.clone(),
            sequence: 1,
            previous: None,
            host: "db1".parse().unwrap(),
            started: time,
            finished: time + chrono::TimeDelta::seconds(75),
            group: None,
            source: SourceFacts { engine: "sqlite".to_owned(), ..SourceFacts::default() },
            packs: Vec::new(),
            streams: vec![StreamEntry {
                name: "database".to_owned(),
                length: 2048,
                blake3: Digest::of(b"x"),
                exit: 0,
                extents: vec![0; 3].into(),
                map: None,
            }],
            accounting: Accounting {
                unused: Vec::new(),
                raw_bytes: 2048,
                deduplicated_bytes: 1024,
                row_bytes: 512,
                stored_bytes: 1024,
                new_packs: 1,
            },
        };
        let description = describe(manifest, vec!["north".parse().unwrap()]);
        let text = description.to_string();
        for part in [
            "none, the first",
            "2026-11-23 18:32:44 UTC, in 1 min 15 s, by host db1",
            "database",
            "2.0 KiB",
            "1.0 KiB, 512 B of it row by row",
            "north",
        ] {
            assert!(text.contains(part), "{part} is not in\n{text}");
        }
        assert!(!text.contains("tools"), "what is unknown is not shown:\n{text}");
        assert!(serde_json::to_value(&description).unwrap()["streams"][0].get("extents").is_none());

        // The parts of a tree are one row.
        let part = |name: &str| Stream { name: name.to_owned(), bytes: 1024, blake3: Digest::of(b"x"), exit: 0 };
        let source = SourceFacts { engine: "files".to_owned(), ..SourceFacts::default() };
        let streams = vec![part("tree/+"), part("tree/+b"), part("tree/+c")];
        let text = Description { source, streams, ..description }.to_string();
        let rows: Vec<&str> = text.lines().filter(|line| line.contains("tree")).collect();
        assert!(rows.len() == 1 && rows[0].contains("3.0 KiB") && rows[0].contains("in 3 parts"), "{text}");
    }
}
