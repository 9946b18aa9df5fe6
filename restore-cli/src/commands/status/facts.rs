//! What the replicas show of each dataset, and what the daemon says.

use std::collections::{BTreeMap, BTreeSet};

use chrono::{DateTime, Utc};
use lifeboat_engine::config::{Config, Limits, Objectives, ProofLevel};
use lifeboat_engine::drill::{DrillHistory, history};
use lifeboat_engine::format::id::{Name, SnapshotId};
use lifeboat_engine::restore::{Listed, VaultReader};
use lifeboat_engine::{Error, Result, is_future};

use super::daemon::{self, DaemonStatus};
use crate::access::Need;
use crate::deletion::{self, DatasetDeletion};
use crate::session::Session;

/// So many of the newest drills are looked at: a daily drill that fails for a month hides no proof.
const DRILLS_LOOKED_AT: usize = 32;

/// So many of the newest snapshots of a region are tried until one is believed.
const MAX_TRIED_SNAPSHOTS: usize = 16;

/// Everything that the page is made of.
pub(super) struct Facts {
    pub now: DateTime<Utc>,
    /// The regions, each with its replicas.
    pub regions: BTreeMap<String, Vec<Name>>,
    /// Replicas that do not answer, and why.
    pub unreachable: BTreeMap<Name, String>,
    pub daemon: DaemonAnswer,
    pub datasets: Vec<DatasetFacts>,
    /// What waits for its deletion, and what does not go.
    pub deletion: BTreeMap<Name, DatasetDeletion>,
}

/// What the daemon of this host says.
pub(super) enum DaemonAnswer {
    /// This host has none.
    NotHere,
    Silent(Error),
    Answered(DaemonStatus),
}

/// One dataset.
pub(super) struct DatasetFacts {
    pub name: Name,
    /// Whether it is to be backed up by a schedule.
    pub is_scheduled: bool,
    pub objectives: Objectives,
    /// What a drill of it has to reach.
    pub required: ProofLevel,
    /// The newest snapshot that each region shows, and that a trusted signer signed.
    pub newest: BTreeMap<String, Option<RegionSnapshot>>,
    /// Newer ones that nobody signed whom this host trusts, and why they do not count.
    pub unbelieved: Vec<String>,
    /// Snapshots whose times lie in the future.
    pub future: Vec<SnapshotId>,
    pub drills: DrillHistory,
}

/// The newest snapshot of a region.
#[derive(Debug, Clone)]
pub(super) struct RegionSnapshot {
    pub id: SnapshotId,
    pub age_seconds: f64,
}

impl Facts {
    /// Reads the replicas, and asks the daemon.
    ///
    /// # Errors
    /// No replica answers; nobody is trusted; the vault has no such dataset.
    pub(super) async fn gather(only: Option<&Name>, session: &Session) -> Result<Self> {
        let place = session.place()?;
        let config = place.config.as_ref();
        let reader = session.reader(&place, Need::Manifests).await?;
        let mut regions: BTreeMap<String, Vec<Name>> = BTreeMap::new();
        for replica in &place.replicas {
            regions.entry(replica.region.clone()).or_default().push(replica.name.clone());
        }
        let mut names: BTreeSet<Name> =
            config.iter().flat_map(|config| &config.datasets).map(|of| of.name.clone()).collect();
        match only {
            Some(only) if names.contains(only) => names = BTreeSet::from([only.clone()]),
            Some(_) => names = session.datasets(&reader, only).await?.into_iter().collect(),
            // Without a configuration, or on a host that only drills, all there is.
            None if names.is_empty() => names = session.datasets(&reader, None).await?.into_iter().collect(),
            None => {}
        }
        let (mut datasets, now) = (Vec::new(), session.clock.now());
        let all: Vec<Name> = names.iter().cloned().collect();
        let looked = async { Ok(deletion::look(&reader, &all).await) };
        let deletion = session.cancellable("reading the replicas", looked).await?;
        for name in names {
            let facts = DatasetFacts::gather(name, config, &reader, &regions, now);
            datasets.push(session.cancellable("reading the replicas", facts).await?);
        }
        // Keys that this user cannot read make no host without a daemon.
        let daemon = match config.filter(|config| config.keys.may_back_up()) {
            None => DaemonAnswer::NotHere,
            Some(config) => {
                daemon::ask(&config.control_socket).await.map_or_else(DaemonAnswer::Silent, DaemonAnswer::Answered)
            }
        };
        Ok(Self { now, regions, unreachable: reader.unreachable().clone(), daemon, datasets, deletion })
    }
}

impl DatasetFacts {
    async fn gather(
        name: Name,
        config: Option<&Config>,
        reader: &VaultReader,
        regions: &BTreeMap<String, Vec<Name>>,
        now: DateTime<Utc>,
    ) -> Result<Self> {
        let dataset = config.and_then(|config| config.dataset(&name));
        // `[dataset.drill]` is the drill host's. Elsewhere, its reports tell what it requires.
        let drills_here = config.is_some_and(|config| !config.keys.may_back_up());
        let (listed, drills) =
            futures::try_join!(reader.snapshots(&name), history(reader, &name, DRILLS_LOOKED_AT, now))?;
        let (shown, future) = shown(&listed, regions, now, reader.limits());
        let (mut newest, mut unbelieved) = (BTreeMap::new(), Vec::new());
        for (region, candidates) in shown {
            let signed = newest_signed(reader, &name, &regions[&region], candidates, &mut unbelieved).await;
            newest.insert(region, signed);
        }
        let required = dataset.filter(|_| drills_here).and_then(|dataset| dataset.drill.level);
        // One that failed before it knew the snapshot tells only the highest level.
        let restored =
            drills.drills.iter().find(|drill| drill.report.reached.is_some() || drill.report.in_part.is_some());
        let of_last_drill = restored.map(|drill| drill.report.required);
        Ok(Self {
            is_scheduled: dataset.is_some_and(|dataset| dataset.schedule.is_some()),
            objectives: dataset.map(|dataset| dataset.objectives).unwrap_or_default(),
            required: required.or(of_last_drill).unwrap_or(ProofLevel::Proved),
            newest,
            unbelieved,
            future,
            drills,
            name,
        })
    }
}

/// The first of `candidates` that a replica returns as a trusted signer signed it: a listing is
/// anybody's word.
async fn newest_signed(
    reader: &VaultReader,
    dataset: &Name,
    replicas: &[Name],
    candidates: Vec<RegionSnapshot>,
    unbelieved: &mut Vec<String>,
) -> Option<RegionSnapshot> {
    for candidate in candidates.into_iter().take(MAX_TRIED_SNAPSHOTS) {
        match reader.check_signed(dataset, &candidate.id, replicas).await {
            Ok(()) => return Some(candidate),
            Err(error) => unbelieved.push(format!("snapshot {} does not count: {}", candidate.id, error.chain())),
        }
    }
    None
}

/// The snapshots that each region shows, newest first, and those of the future, which are the
/// newest of none.
fn shown(
    listed: &[Listed],
    regions: &BTreeMap<String, Vec<Name>>,
    now: DateTime<Utc>,
    limits: &Limits,
) -> (BTreeMap<String, Vec<RegionSnapshot>>, Vec<SnapshotId>) {
    let (future, past): (Vec<&Listed>, Vec<&Listed>) =
        listed.iter().partition(|listed| is_future(listed.snapshot.time(), now, limits));
    // Its id is its writer's word: none is younger than what a store took.
    let time = |listed: &Listed| listed.stored.iter().copied().chain([listed.snapshot.time()]).min();
    let age = |listed: &Listed| time(listed).map_or(f64::MAX, |time| (now - time).as_seconds_f64().max(0.0));
    let of_region = |replicas: &Vec<Name>| {
        let shown = |listed: &&&Listed| listed.replicas.iter().any(|replica| replicas.contains(replica));
        let shown = past.iter().rev().filter(shown);
        let mut shown: Vec<RegionSnapshot> =
            shown.map(|listed| RegionSnapshot { id: listed.snapshot.clone(), age_seconds: age(listed) }).collect();
        // Stable: of several of one age, the one with the newest id comes first.
        shown.sort_by(|one, other| one.age_seconds.total_cmp(&other.age_seconds));
        shown
    };
    let all = regions.iter().map(|(region, replicas)| (region.clone(), of_region(replicas))).collect();
    (all, future.into_iter().map(|listed| listed.snapshot.clone()).collect())
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn a_region_has_what_any_of_its_replicas_shows_and_nothing_of_the_future() {
        let name = |text: &str| text.parse::<Name>().unwrap();
        let now = "2026-11-23T20:00:00Z".parse().unwrap();
        let listed = |id: &str, replicas: &[&str]| Listed {
            snapshot: id.parse().unwrap(),
            replicas: replicas.iter().map(|replica| name(replica)).collect(),
            bytes: None,
            stored: Vec::new(),
        };
        let shown = [
            listed("20261123T180000000Z-9f2c81aa", &["a1", "b"]),
            listed("20261123T190000000Z-9f2c81ab", &["a2"]),
            listed("20361123T190000000Z-9f2c81ac", &["b"]),
        ];
        let regions = BTreeMap::from([
            ("a".to_owned(), vec![name("a1"), name("a2")]),
            ("b".to_owned(), vec![name("b")]),
            ("c".to_owned(), vec![name("c")]),
        ]);
        let (all, future) = super::shown(&shown, &regions, now, &Limits::default());
        let ages = |region: &str| all[region].iter().map(|shown| shown.age_seconds).collect::<Vec<_>>();
        assert_eq!([ages("a"), ages("b"), ages("c")], [vec![3600.0, 7200.0], vec![7200.0], vec![]]);
        assert_eq!(future, [shown[2].snapshot.clone()]);

        // One that a store took five hours ago is no younger, whatever it claims.
        let mut claims = shown.clone();
        claims[1].stored = vec![now, "2026-11-23T15:00:00Z".parse().unwrap()];
        let (all, _) = super::shown(&claims, &regions, now, &Limits::default());
        let ages: Vec<f64> = all["a"].iter().map(|shown| shown.age_seconds).collect();
        assert_eq!((ages, &all["a"][0].id), (vec![7200.0, 18_000.0], &claims[0].snapshot));
    }
}
