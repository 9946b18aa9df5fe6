//! `list`: which snapshots there are, how old and how large they are, what drills proved of them,
//! and which replicas hold them.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;

use chrono::{DateTime, Utc};
use lifeboat_engine::config::{Limits, ProofLevel};
use lifeboat_engine::drill::{DrillHistory, DrillReport, PastDrill, history};
use lifeboat_engine::format::id::{Name, SnapshotId};
use lifeboat_engine::keys::HostKeys;
use lifeboat_engine::restore::{HostMemory, Listed, Summary, VaultReader};
use lifeboat_engine::{Class, Error, FalseClaim, Result, SnapshotTime, is_future};
use serde::Serialize;

use super::list_group;
use crate::access::{self, Need};
use crate::deletion::{self, DatasetDeletion};
use crate::flags::Moment;
use crate::human;
use crate::session::Session;
use crate::table::Plain;

/// So many of a dataset's newest drills are read.
const MAX_LISTED_DRILLS: usize = 64;

/// List snapshots: age, size, what drills proved of them, and the replicas that hold them
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Only this dataset
    dataset: Option<Name>,
    /// The newest moments of which every member of this group has a snapshot, with these snapshots
    #[arg(long, value_name = "GROUP", conflicts_with = "dataset")]
    group: Option<Name>,
    #[command(flatten)]
    moment: Moment,
}

#[derive(Serialize)]
struct Listing {
    vault: String,
    unreachable: BTreeMap<Name, String>,
    snapshots: Vec<Row>,
    /// By dataset, where the root names a warden.
    deletion: BTreeMap<Name, DatasetDeletion>,
    #[serde(skip)]
    now: DateTime<Utc>,
}

#[derive(Serialize)]
struct Row {
    dataset: Name,
    snapshot: SnapshotId,
    /// The time that counts.
    time: DateTime<Utc>,
    /// What its manifest says instead, if another time counts.
    claimed: Option<DateTime<Utc>>,
    /// What stores or witnesses say against its time.
    false_claim: Option<FalseClaim>,
    /// When it was first seen, if that contradicts it.
    first_seen: Option<DateTime<Utc>>,
    /// `None`: its time lies in the future, so it has none.
    age_seconds: Option<f64>,
    /// Known only if the manifest can be opened and trusted.
    raw_bytes: Option<u64>,
    stored_bytes: Option<u64>,
    replicas: Vec<Name>,
    /// The best of the newest drills of it. `None`: no drill of late restored it.
    proof: Option<Proof>,
    /// Why the manifest must not be used.
    problem: Option<String>,
}

/// What a drill of a snapshot proved.
#[derive(Serialize)]
struct Proof {
    drill: SnapshotId,
    finished: DateTime<Utc>,
    passed: bool,
    /// With the whole snapshot.
    reached: Option<ProofLevel>,
    in_part: bool,
}

impl Proof {
    fn of(drill: &PastDrill) -> Self {
        let DrillReport { drill, finished, passed, reached, in_part, .. } = &drill.report;
        let in_part = in_part.is_some();
        Self { drill: drill.clone(), finished: *finished, passed: *passed, reached: *reached, in_part }
    }

    /// A drill that passed goes before one that failed, then the one that proved all of it, one
    /// that proved in part, the one that reached more, then the newer one.
    fn rank(&self) -> (bool, bool, bool, Option<ProofLevel>, DateTime<Utc>) {
        let is_proved = self.reached == Some(ProofLevel::Proved);
        (self.passed, is_proved, self.in_part, self.reached, self.finished)
    }
}

impl fmt::Display for Proof {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.reached {
            _ if self.passed && self.in_part => f.write_str("proved in part"),
            Some(reached) if self.passed => f.write_str(reached.as_str()),
            _ => f.write_str("FAILED"),
        }
    }
}

pub(crate) async fn run(args: &Args, session: &Session) -> Result<()> {
    let place = session.place()?.read_as_of(args.moment.seen_from(session.clock.now()));
    let reader = session.reader(&place, Need::Manifests).await?;
    if let Some(group) = &args.group {
        return list_group::run(group, &session.configuration()?, &reader, session).await;
    }
    let host = place.host().and_then(|config| Some((config.state_directory.clone(), access::host_keys(config)?)));
    let mut snapshots = Vec::new();
    let mut locked = None;
    let datasets = session.datasets(&reader, args.dataset.as_ref()).await?;
    let looked = async { Ok(deletion::look(&reader, &datasets).await) };
    let deletion = session.cancellable("listing", looked).await?;
    for dataset in datasets {
        let (now, rows) = (session.clock.now(), rows(session, &reader, &dataset, host.as_ref(), &mut locked));
        let listed = async { futures::join!(rows, history(&reader, &dataset, MAX_LISTED_DRILLS, now)) };
        let (rows, drills) = session.cancellable("listing", async { Ok(listed.await) }).await?;
        let (mut rows, drills) = (rows?, drills.unwrap_or_else(|error| DrillHistory::unknown(&error)));
        drills.gaps.iter().for_each(|gap| session.out.warning(format!("{dataset}: {gap}")));
        for row in &mut rows {
            let of_it = drills.drills.iter().filter(|drill| drill.report.snapshot.as_ref() == Some(&row.snapshot));
            row.proof = of_it.map(Proof::of).max_by_key(Proof::rank);
        }
        snapshots.extend(rows);
    }
    if let Some(error) = locked {
        session.out.note(format!(
            "the sizes are unknown, because no manifest can be opened and trusted ({}); {}",
            error.chain(),
            error.hint_text().unwrap_or("pass --identity")
        ));
    }
    for row in &snapshots {
        if let Some(problem) = &row.problem {
            session.out.warning(format!("ignoring {} {}: {problem}", row.dataset, row.snapshot));
        }
    }
    let (vault, unreachable) = (reader.vault_id().to_owned(), reader.unreachable().clone());
    session.out.result(&Listing { vault, unreachable, snapshots, deletion, now: session.clock.now() })
}

async fn rows(
    session: &Session,
    reader: &VaultReader,
    dataset: &Name,
    host: Option<&(PathBuf, HostKeys)>,
    locked: &mut Option<Error>,
) -> Result<Vec<Row>> {
    let (listed, settled) = futures::join!(reader.snapshots(dataset), reader.settled_times(dataset));
    let listed = listed?;
    let (now, limits) = (session.clock.now(), reader.limits());
    if reader.keys().identities.is_empty() {
        locked.get_or_insert_with(|| Error::keys("no identity is given"));
        return Ok(listed.into_iter().map(|listed| row(dataset, listed, now, limits)).collect());
    }
    let memory = host.map(|(state, keys)| HostMemory { state, host_key: &keys.host_key });
    let opened = reader.summaries(dataset, listed, memory).await;
    let claims = opened.iter().filter_map(|(_, shown)| Some(shown.as_ref().ok()?.claim.clone()));
    let times = settled?.among(claims);
    let shown = opened.iter().filter_map(|(listed, shown)| Some((listed, shown.as_ref().ok()?)));
    let times = reader.seen_by_others(dataset, shown, times).await;
    let mut rows = Vec::with_capacity(opened.len());
    for (listed, manifest) in opened {
        let mut row = row(dataset, listed, now, limits);
        match manifest {
            Ok(Summary { claim, raw_bytes, stored_bytes, .. }) => {
                (row.raw_bytes, row.stored_bytes) = (Some(raw_bytes), Some(stored_bytes));
                row.take_time(times.of(&claim.snapshot, claim.time), now, limits);
            }
            Err(error) if error.class() == Class::Keys => drop(locked.get_or_insert(error)),
            Err(error) => row.problem = Some(error.chain()),
        }
        rows.push(row);
    }
    Ok(rows)
}

fn row(dataset: &Name, listed: Listed, now: DateTime<Utc>, limits: &Limits) -> Row {
    let time = listed.snapshot.time();
    let mut row = Row {
        dataset: dataset.clone(),
        snapshot: listed.snapshot,
        time,
        claimed: None,
        false_claim: None,
        first_seen: None,
        age_seconds: None,
        raw_bytes: None,
        stored_bytes: None,
        replicas: listed.replicas,
        proof: None,
        problem: None,
    };
    row.take_time(SnapshotTime::told(time), now, limits);
    row
}

impl Row {
    /// A snapshot whose time lies in the future is never the latest, so it is marked.
    fn take_time(&mut self, taken: SnapshotTime, now: DateTime<Utc>, limits: &Limits) {
        let time = taken.time;
        (self.time, self.claimed) = (time, taken.claimed);
        self.false_claim = taken.contradicted.map(|found| found.claim);
        self.first_seen = taken.contradicted.map(|found| found.seen);
        let in_future = is_future(time, now, limits);
        self.age_seconds = (!in_future).then(|| (now - time).as_seconds_f64().max(0.0));
        self.problem = match self.first_seen {
            _ if in_future => Some("its time lies in the future, so it is not the latest".to_owned()),
            Some(seen) if taken.is_backdated() => {
                let (seen, claimed) = (human::time(seen), human::time(taken.claimed.unwrap_or(time)));
                Some(format!("it is backdated: it claims {claimed}, and was first seen {seen}; --at never takes it"))
            }
            Some(seen) => {
                Some(format!("it was there before the time that it claims: it was first seen {}", human::time(seen)))
            }
            None => None,
        };
    }
}

impl fmt::Display for Listing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut table = Plain::new(&["DATASET", "SNAPSHOT", "TAKEN", ">AGE", ">SIZE", ">STORED", "PROOF", "REPLICAS"]);
        let size = |row: &Row, bytes: Option<u64>| match bytes {
            Some(bytes) => human::bytes(bytes),
            None if row.problem.is_some() => "BAD".to_owned(),
            None => "-".to_owned(),
        };
        for row in &self.snapshots {
            table.row([
                row.dataset.to_string(),
                row.snapshot.to_string(),
                human::taken(row.time, row.claimed, row.false_claim),
                row.age_seconds.map_or("FUTURE".to_owned(), human::seconds),
                size(row, row.raw_bytes),
                size(row, row.stored_bytes),
                row.proof.as_ref().map_or("-".to_owned(), Proof::to_string),
                row.replicas.iter().map(Name::as_str).collect::<Vec<_>>().join(", "),
            ]);
        }
        if self.snapshots.is_empty() {
            f.write_str("No snapshots.")?;
        } else {
            write!(f, "{table}")?;
        }
        for (dataset, deletion) in &self.deletion {
            if let Some(told) = deletion.line(self.now) {
                write!(f, "\n\n{dataset}: {told}")?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn shows_one_line_a_snapshot_and_marks_what_is_bad_or_unknown() {
        let now = "2026-11-23T20:00:00Z".parse().unwrap();
        let listed = |id: &str| Listed {
            snapshot: id.parse().unwrap(),
            replicas: vec!["north".parse().unwrap(), "south".parse().unwrap()],
            bytes: None,
            stored: Vec::new(),
        };
        let dataset: Name = "shop".parse().unwrap();
        let mut good = row(&dataset, listed("20261123T183244123Z-9f2c81aa"), now, &Limits::default());
        (good.raw_bytes, good.stored_bytes) = (Some(211_077_529), Some(1024));
        let drill = |passed, reached| {
            let (drill, finished) = ("20261123T193000000Z-9f2c81af".parse().unwrap(), now);
            Some(Proof { drill, finished, passed, reached, in_part: false })
        };
        good.proof = drill(true, Some(ProofLevel::Proved));
        let mut unknown = row(&dataset, listed("20261123T193244123Z-9f2c81ab"), now, &Limits::default());
        unknown.proof = drill(false, Some(ProofLevel::Loaded));
        let mut bad = row(&dataset, listed("20261123T195959123Z-9f2c81ac"), now, &Limits::default());
        bad.problem = Some("forged".to_owned());
        let false_time = row(&dataset, listed("20361123T195959123Z-9f2c81ad"), now, &Limits::default());
        assert!(false_time.problem.as_ref().unwrap().contains("future"));
        let mut settled = row(&dataset, listed("20361123T195959124Z-9f2c81ae"), now, &Limits::default());
        let claimed = Some(settled.time);
        let time = SnapshotTime { claimed, ..SnapshotTime::told(now - chrono::TimeDelta::hours(2)) };
        settled.take_time(time, now, &Limits::default());
        assert!(settled.problem.is_none(), "{:?}", settled.problem);
        let snapshots = vec![good, unknown, bad, false_time, settled];
        let (vault, unreachable, deletion) = ("v".to_owned(), BTreeMap::new(), BTreeMap::new());
        let listing = Listing { vault, unreachable, snapshots, deletion, now };
        let text = listing.to_string();
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines.len(), 6);
        assert!(lines[1].contains("1 h 27 min  201.3 MiB  1.0 KiB  proved  north, south"), "{text}");
        assert!(lines[2].contains("FAILED  north"), "{text}");
        assert!(lines[2].contains(" -  ") && lines[3].contains("BAD"), "{text}");
        assert!(lines[4].contains(" FUTURE "), "{text}");
        let both = "  2026-11-23 18:00:00 UTC (settled; its manifest tells 2036-11-23 19:59:59 UTC)  ";
        assert!(lines[5].contains(both) && lines[5].contains("  2 h  "), "{text}");
        let json = serde_json::to_value(&listing).unwrap();
        assert_eq!(json["snapshots"][4]["claimed"], "2036-11-23T19:59:59.124Z");
        assert!(json["snapshots"][0]["claimed"].is_null());
        assert_eq!(json["snapshots"][0]["raw_bytes"], 211_077_529);
        assert_eq!(json["snapshots"][2]["problem"], "forged");
        assert!(json["snapshots"][3]["age_seconds"].is_null());
    }
}
