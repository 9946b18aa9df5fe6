//! What the daemon remembers of each dataset, in one small file each, so that metrics and schedules
//! survive a restart.
//!
//! - **Writers** hold the dataset's lock, be it the daemon or `--once`; [`Ledger::refresh`] reads
//!   what another process wrote. A start that never got the lock is kept in memory until then.
//! - **Damage**: a file that is missing or cannot be understood counts as empty, with a warning. It
//!   can be lost.
//! - **Disk**: a file that cannot be written is logged, and what was to be written is kept in
//!   memory.

use std::collections::{BTreeMap, BTreeSet};
use std::io::ErrorKind;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use chrono::{DateTime, Utc};
use lifeboat_engine::config::Dataset;
use lifeboat_engine::format::id::{Name, SnapshotId};
use lifeboat_engine::keep::prune::Space;
use lifeboat_engine::keep::scrub::{Damage, ReplicaScrub, ScrubProgress};
use lifeboat_engine::state;
use lifeboat_engine::state::{StateDirectory, watch};
use serde::{Deserialize, Serialize};

/// So many damaged objects of a replica are told one by one.
const MAX_TOLD_DAMAGED: usize = 16;

/// What is remembered of one dataset.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct DatasetStatus {
    /// Since when this host knows the dataset. `None`: an older version saw it first.
    pub first_seen: Option<DateTime<Utc>>,
    /// The scheduler is done with starts up to this time.
    pub considered: Option<DateTime<Utc>>,
    /// When the last run began.
    pub last_attempt: Option<DateTime<Utc>>,
    /// When the run began that has not ended. If nobody holds the dataset's lock, it never will.
    pub under_way: Option<DateTime<Utc>>,
    /// When the capture of the newest committed snapshot began: the age of the data.
    pub last_success: Option<DateTime<Utc>>,
    /// Snapshots whose times are probably false, and these times: they lie in the future, or the
    /// newest one came after a long pause that nothing confirms.
    pub doubtful_times: BTreeMap<SnapshotId, DateTime<Utc>>,
    /// Whether the last run succeeded.
    pub succeeded: bool,
    /// Why it did not.
    pub error: Option<String>,
    /// How long the last successful run took.
    pub duration_seconds: f64,
    /// Bytes that the last successful run captured.
    pub raw_bytes: u64,
    /// Of these, found in older packs or twice, …
    pub deduplicated_bytes: u64,
    /// … and of those, found row by row.
    pub row_bytes: u64,
    /// Bytes that it added to each complete replica.
    pub stored_bytes: u64,
    /// Databases that its snapshot lacks.
    pub skipped: u64,
    /// Runs that succeeded.
    pub successes: u64,
    /// Runs that failed.
    pub failures: u64,
    /// Runs of which nobody knows whether they were committed.
    pub unknown: u64,
    /// Runs that were started because the one before had failed.
    pub retries: u64,
    /// When the run that failed last is tried again, unless its schedule starts it before.
    pub retry_at: Option<DateTime<Utc>>,
    /// The host that backs this dataset up, if it is not this one.
    pub led_by: Option<Name>,
    /// That host has not backed up when it should have, and only an operator may let this one.
    pub takeover_needed: bool,
    /// Why the last prune deleted nothing, or nothing in some replica, if so.
    pub deletion_stopped: Option<String>,
    /// The marks that somebody vetoed, and who, as the last prune found.
    pub vetoed: BTreeMap<SnapshotId, BTreeSet<Name>>,
    /// Why the host's log does not tell of the newest commit, if it does not.
    pub unlogged: Option<String>,
    /// Snapshots that prune removed.
    pub pruned_snapshots: u64,
    /// What each complete replica stored after the daemon's last prune, and how much of that no
    /// snapshot needs.
    pub space: Space,
    /// When a catch-up last found that no replica lacks anything.
    pub level_at: Option<DateTime<Utc>>,
    /// How each replica stands.
    pub replicas: BTreeMap<Name, ReplicaStatus>,
    /// How the scrub of each replica stands. It stands in a file of its own.
    #[serde(skip_deserializing)]
    pub scrubs: BTreeMap<Name, ScrubStanding>,
    /// Snapshots that depart from their history and are not acknowledged. They stand in a file of
    /// their own, which `lifeboat acknowledge` changes.
    #[serde(skip_deserializing)]
    pub anomalies: Vec<Anomaly>,
}

impl DatasetStatus {
    /// Whether this host led when it last knew: it has backed up since, or it is the first of the
    /// list.
    pub(crate) fn has_led(&self, host: &Name, dataset: &Dataset) -> bool {
        let others_may = dataset.hosts.len() > 1 && dataset.hosts.first() != Some(host);
        self.led_by.is_none() && (!others_may || self.successes > 0)
    }

    /// Counts a run that never ended, if there is one, as failed. The caller holds the lock.
    pub(crate) fn count_killed(&mut self) -> Option<DateTime<Utc>> {
        let began = self.under_way.take()?;
        self.failures += 1;
        (self.succeeded, self.error) = (false, Some(KILLED.to_owned()));
        Some(began)
    }
}

/// Why a run never ended.
pub(crate) const KILLED: &str = "the program that ran the backup was killed, or the machine went down";

/// A snapshot that departs from its history.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct Anomaly {
    /// `None`: nobody knows which, for what was remembered is damaged.
    pub snapshot: Option<SnapshotId>,
    pub why: Vec<String>,
}

/// How the scrub of one replica stands.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub(crate) struct ScrubStanding {
    /// Objects that were checked, ever.
    pub checked_objects: u64,
    /// Objects that were damaged and were repaired, ever.
    pub repaired_objects: u64,
    /// Objects that are damaged.
    pub damaged_objects: u64,
    /// Some of them, by key.
    pub damaged: BTreeMap<String, Damage>,
    /// Every object was checked at this time or later.
    pub oldest_check: Option<DateTime<Utc>>,
    /// When the first round began.
    pub since: Option<DateTime<Utc>>,
}

impl ScrubStanding {
    fn of(scrub: &ReplicaScrub) -> Self {
        let damaged = scrub.damaged.iter().take(MAX_TOLD_DAMAGED);
        Self {
            checked_objects: scrub.objects,
            repaired_objects: scrub.repaired,
            damaged_objects: scrub.damaged_objects(),
            damaged: damaged.map(|(key, damage)| (key.clone(), damage.clone())).collect(),
            oldest_check: scrub.oldest_check(),
            since: scrub.since,
        }
    }
}

/// How one replica stands for one dataset.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct ReplicaStatus {
    /// The newest snapshot that it holds whole.
    pub last_complete: Option<DateTime<Utc>>,
    /// Snapshots that it lacks, or holds in part.
    pub behind: u64,
}

/// The status of every dataset.
#[derive(Debug)]
pub(crate) struct Ledger {
    state: StateDirectory,
    files: Mutex<BTreeMap<Name, StatusFile>>,
    /// Only the daemon writes their files, so each is read once.
    scrubs: Mutex<BTreeMap<Name, ScrubProgress>>,
}

/// Tells one content of a file from the next: each is a new file under the old name.
type Version = (SystemTime, u64);

/// The file of one dataset, as it is remembered here.
#[derive(Debug, Default)]
struct StatusFile {
    status: DatasetStatus,
    /// Of the file when it was last read or written here.
    version: Option<Version>,
    missed: Option<MissedStarts>,
}

/// Starts that came to nothing before they had the lock.
#[derive(Debug)]
struct MissedStarts {
    count: u64,
    /// Why the last one did, …
    why: String,
    /// … and when that is tried again.
    retry_at: Option<DateTime<Utc>>,
}

impl StatusFile {
    /// The status, with starts that came to nothing.
    fn told(&self) -> DatasetStatus {
        let mut status = self.status.clone();
        if let Some(MissedStarts { count, why, retry_at }) = &self.missed {
            status.failures += count;
            (status.succeeded, status.error) = (false, Some(why.clone()));
            status.retry_at = retry_at.or(status.retry_at);
        }
        status
    }
}

impl Ledger {
    /// Reads what is remembered of `datasets`.
    pub(crate) fn open<'a>(state: &StateDirectory, datasets: impl IntoIterator<Item = &'a Name>) -> Self {
        let ledger = Self { state: state.clone(), files: Mutex::default(), scrubs: Mutex::default() };
        for dataset in datasets {
            ledger.refresh(dataset);
        }
        ledger
    }

    /// What is remembered of `dataset`.
    pub(crate) fn get(&self, dataset: &Name) -> DatasetStatus {
        let mut status = self.lock().get(dataset).map(StatusFile::told).unwrap_or_default();
        status.scrubs = self.with_scrub(dataset, |progress| {
            progress.replicas().map(|(name, scrub)| (name.clone(), ScrubStanding::of(scrub))).collect()
        });
        status.anomalies = match watch::flagged(&self.state, dataset) {
            Ok(flagged) => {
                flagged.iter().map(|flag| Anomaly { snapshot: Some(flag.snapshot.clone()), why: flag.told() }).collect()
            }
            Err(error) => vec![Anomaly { snapshot: None, why: vec![error.chain()] }],
        };
        status
    }

    /// Whether another host backs `dataset` up.
    pub(crate) fn is_led_elsewhere(&self, dataset: &Name) -> bool {
        self.lock().get(dataset).is_some_and(|file| file.status.led_by.is_some())
    }

    /// Looks at how far the scrub of `dataset` has come.
    pub(crate) fn with_scrub<T>(&self, dataset: &Name, look: impl FnOnce(&ScrubProgress) -> T) -> T {
        let mut scrubs = self.scrubs.lock().unwrap_or_else(PoisonError::into_inner);
        look(scrubs.entry(dataset.clone()).or_insert_with(|| ScrubProgress::read(&self.state, dataset)))
    }

    /// Remembers how far it has come now.
    pub(crate) fn scrubbed(&self, dataset: &Name, progress: ScrubProgress) {
        if let Err(error) = progress.write(&self.state, dataset) {
            tracing::warn!(%dataset, "cannot remember how far the scrub came; after a restart, it repeats that: {}", error.chain());
        }
        self.scrubs.lock().unwrap_or_else(PoisonError::into_inner).insert(dataset.clone(), progress);
    }

    /// Reads the file again if another process wrote it.
    pub(crate) fn refresh(&self, dataset: &Name) {
        let path = self.path(dataset);
        let version = version(&path);
        let mut files = self.lock();
        let file = files.entry(dataset.clone()).or_default();
        if version.is_some() && version != file.version {
            (file.status, file.version) = (read(&path), version);
        }
    }

    /// Changes what is remembered of `dataset`. The caller holds the dataset's lock.
    pub(crate) fn update(&self, dataset: &Name, change: impl FnOnce(&mut DatasetStatus)) {
        self.refresh(dataset);
        let path = self.path(dataset);
        let mut files = self.lock();
        let file = files.entry(dataset.clone()).or_default();
        (file.status, file.missed) = (file.told(), None);
        change(&mut file.status);
        let written = serde_json::to_vec_pretty(&file.status)
            .map_err(|error| error.to_string())
            .and_then(|text| state::replace_file(&path, &text).map_err(|error| error.chain()));
        match written {
            Ok(()) => file.version = version(&path),
            Err(error) => {
                tracing::warn!(%dataset, %error, "cannot write the status of the dataset; a restart would lose it");
            }
        }
    }

    /// A start of `dataset` came to nothing before it had the lock, so this cannot be written yet.
    /// It is tried again at `retry_at`.
    pub(crate) fn missed(&self, dataset: &Name, why: String, retry_at: Option<DateTime<Utc>>) {
        let mut files = self.lock();
        let file = files.entry(dataset.clone()).or_default();
        let before = file.missed.take().map_or(0, |missed| missed.count);
        file.missed = Some(MissedStarts { count: before + 1, why, retry_at });
    }

    fn path(&self, dataset: &Name) -> PathBuf {
        self.state.path().join("datasets").join(dataset.as_str()).join("status.json")
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<Name, StatusFile>> {
        self.files.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn version(path: &Path) -> Option<Version> {
    let metadata = path.metadata().ok()?;
    Some((metadata.modified().ok()?, metadata.ino()))
}

fn read(path: &Path) -> DatasetStatus {
    let text = match std::fs::read(path) {
        Ok(text) => text,
        Err(error) => {
            if error.kind() != ErrorKind::NotFound {
                tracing::warn!(path = %path.display(), %error, "cannot read the status of a dataset; starting from zero");
            }
            return DatasetStatus::default();
        }
    };
    serde_json::from_slice(&text).unwrap_or_else(|error| {
        tracing::warn!(path = %path.display(), %error, "the status of a dataset is damaged; starting from zero");
        DatasetStatus::default()
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    struct Place(tempfile::TempDir);

    impl Place {
        fn new() -> (Self, Name) {
            let shop: Name = "shop".parse().unwrap();
            let place = tempfile::tempdir().unwrap();
            std::fs::create_dir_all(place.path().join("datasets/shop")).unwrap();
            (Self(place), shop)
        }

        fn ledger(&self, dataset: &Name) -> Ledger {
            Ledger::open(&StateDirectory::open(self.0.path()).unwrap(), [dataset])
        }

        fn file(&self) -> PathBuf {
            self.0.path().join("datasets/shop/status.json")
        }
    }

    #[test]
    fn what_is_remembered_survives_a_restart() {
        let (place, shop) = Place::new();
        let now = DateTime::from_timestamp(1_795_459_999, 0).unwrap();
        place.ledger(&shop).update(&shop, |status| {
            status.last_success = Some(now);
            status.successes = 3;
            status.replicas.insert("north".parse().unwrap(), ReplicaStatus { last_complete: Some(now), behind: 1 });
        });
        let status = place.ledger(&shop).get(&shop);
        assert_eq!((status.last_success, status.successes, status.failures), (Some(now), 3, 0));
        assert_eq!(status.replicas[&"north".parse().unwrap()].behind, 1);
    }

    #[test]
    fn a_damaged_file_counts_as_empty_and_is_replaced() {
        let (place, shop) = Place::new();
        for damage in [&b""[..], b"{\"successes\": 3", b"[]", b"\0\0\0\0"] {
            std::fs::write(place.file(), damage).unwrap();
            let ledger = place.ledger(&shop);
            assert_eq!(ledger.get(&shop), DatasetStatus::default());
            ledger.update(&shop, |status| status.failures += 1);
            assert_eq!(place.ledger(&shop).get(&shop).failures, 1);
        }
    }

    #[test]
    fn a_status_that_cannot_be_written_stays_in_memory() {
        let (place, shop) = Place::new();
        let ledger = place.ledger(&shop);
        std::fs::remove_dir_all(place.0.path().join("datasets")).unwrap();
        ledger.update(&shop, |status| status.successes += 1);
        ledger.update(&shop, |status| status.successes += 1);
        assert_eq!(ledger.get(&shop).successes, 2);
    }

    #[test]
    fn a_start_that_came_to_nothing_counts_and_is_written_by_the_next_run() {
        let (place, shop) = Place::new();
        let ledger = place.ledger(&shop);
        ledger.update(&shop, |status| status.succeeded = true);
        ledger.missed(&shop, "it was held".to_owned(), DateTime::from_timestamp(1_795_459_999, 0));
        ledger.missed(&shop, "it was held again".to_owned(), None);
        assert_eq!(ledger.get(&shop).retry_at, None);
        let told = ledger.get(&shop);
        assert_eq!((told.failures, told.succeeded, told.error.as_deref()), (2, false, Some("it was held again")));
        assert_eq!(place.ledger(&shop).get(&shop).failures, 0, "it was written without the lock");
        place.ledger(&shop).update(&shop, |status| status.successes += 1);
        ledger.update(&shop, |_| {});
        let written = place.ledger(&shop).get(&shop);
        assert_eq!((written.failures, written.successes), (2, 1));
    }

    #[test]
    fn what_another_process_wrote_is_seen() {
        let (place, shop) = Place::new();
        let (daemon, once) = (place.ledger(&shop), place.ledger(&shop));
        once.update(&shop, |status| status.successes += 1);
        daemon.refresh(&shop);
        assert_eq!(daemon.get(&shop).successes, 1);
        daemon.update(&shop, |status| status.successes += 1);
        once.update(&shop, |status| status.successes += 1);
        assert_eq!(once.get(&shop).successes, 3);
    }
}
