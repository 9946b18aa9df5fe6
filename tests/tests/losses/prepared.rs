//! Two replicas with a history, what is lost of them, and everything that happens then.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::Duration;

use chrono::{DateTime, Utc};
use lifeboat_engine::Class;
use lifeboat_engine::clock::{Clock, ManualClock};
use lifeboat_engine::config::Retention;
use lifeboat_engine::format::id::SnapshotId;
use lifeboat_engine::format::layout;
use lifeboat_engine::keep::catch_up::catch_up;
use lifeboat_engine::keep::verify::{VerifyReport, verify};
use lifeboat_engine::restore::VaultReader;
use lifeboat_engine::state::StateDirectory;
use lifeboat_engine::store::SharedReplica;
use lifeboat_tests::by_hand::{Contents, Hand, contents, harmed};
use lifeboat_tests::vault::{DATASET, MemorySource, TestVault, files_below, limits, name, noise, read_all};
use serde_json::Value;
use tokio_util::sync::CancellationToken;

use crate::{Harm, Then};

/// Less than a day, so that no step of time looks like a clock that jumped.
const GRACE: Duration = Duration::from_secs(2 * 3600);

type Streams = BTreeMap<String, Vec<u8>>;

/// What all snapshots have in common, and what only this one has.
pub(crate) fn source(seed: u64) -> MemorySource {
    MemorySource {
        streams: vec![("shared".to_owned(), noise(80_000, 99)), ("own".to_owned(), noise(80_000, seed))],
        ..MemorySource::default()
    }
}

fn streams(seed: u64) -> Streams {
    source(seed).streams.into_iter().collect()
}

/// Makes these folders hold exactly these files.
fn put_in_place(folders: &[PathBuf], content: &Contents) {
    for file in folders.iter().flat_map(|folder| files_below(folder)) {
        std::fs::remove_file(file).unwrap();
    }
    for (file, body) in content.iter().filter(|(file, _)| folders.iter().any(|folder| file.starts_with(folder))) {
        std::fs::create_dir_all(file.parent().unwrap()).unwrap();
        std::fs::write(file, body).unwrap();
    }
}

/// Two replicas with a history: the first snapshot was pruned, the second is marked, and three
/// stay.
pub(crate) struct Prepared {
    pub(crate) vault: TestVault,
    pub(crate) hand: Hand,
    /// Where the replicas are.
    places: [PathBuf; 2],
    pruned: SnapshotId,
    marked: SnapshotId,
    /// Oldest first, with what is in them.
    pub(crate) stay: Vec<(SnapshotId, Streams)>,
    /// The keys of the packs that these need.
    needed: BTreeSet<String>,
    /// The ids of all that marks name.
    in_marks: BTreeSet<String>,
    replicas: Contents,
    /// The replicas before the newest snapshot.
    replicas_before: Contents,
    state: Contents,
    now: DateTime<Utc>,
}

impl Prepared {
    pub(crate) async fn new() -> Self {
        let mut vault = TestVault::new(2, 1).await;
        let places = [1, 2].map(|replica| vault.replica_path(replica));
        let keep_last = |keep_last| Retention { keep_last, grace: GRACE, ..Retention::default() };
        let mut made = Vec::new();
        vault.config.datasets[0].retention = keep_last(2);
        for seed in 0..3 {
            made.push((vault.backup(&source(seed)).await.unwrap().snapshot, streams(seed)));
        }
        vault.prune().await.unwrap();
        vault.clock.advance(2 * GRACE);
        vault.prune().await.unwrap();
        made.push((vault.backup(&source(3)).await.unwrap().snapshot, streams(3)));
        let replicas_before = contents(&places);
        made.push((vault.backup(&source(4)).await.unwrap().snapshot, streams(4)));
        vault.config.datasets[0].retention = keep_last(3);
        vault.prune().await.unwrap();

        let hand = Hand::of(&vault.config, &vault.master);
        let stay = made.split_off(2);
        let packs = stay.iter().flat_map(|(snapshot, _)| hand.manifest(snapshot).packs);
        let needed = packs.map(|pack| layout::pack(&name(DATASET), &pack.id)).collect();
        let (now, replicas) = (vault.clock.now(), contents(&places));
        let state = contents([&vault.config.state_directory]);
        let mut of_marks = made.into_iter().map(|(snapshot, _)| snapshot);
        let (pruned, marked) = (of_marks.next().unwrap(), of_marks.next().unwrap());
        let in_marks = places.iter().flat_map(|place| named_by_marks(place)).collect();
        let prepared =
            Self { vault, hand, places, pruned, marked, stay, needed, in_marks, replicas, replicas_before, state, now };
        prepared.check();
        prepared
    }

    /// The history is what it should be.
    fn check(&self) {
        for place in &self.places {
            let is_there = |snapshot| place.join(layout::manifest(&name(DATASET), snapshot)).exists();
            assert!(!is_there(&self.pruned), "the first snapshot was not pruned");
            assert!(is_there(&self.marked), "a mark alone deleted the second snapshot");
            assert!(self.stay.iter().all(|(snapshot, _)| is_there(snapshot)));
        }
        assert!(self.in_marks.contains(self.marked.as_str()), "{:?}", self.in_marks);
        assert!(self.stay.iter().all(|(snapshot, _)| !self.in_marks.contains(snapshot.as_str())));
        assert!(self.needed.iter().all(|key| !self.is_in_a_mark(key)), "a pack that is needed is marked");
        assert!(self.needed.len() >= 3);
    }

    /// Everything is as it was, the clock too, and prune would let no snapshot go.
    pub(crate) fn reset(&mut self) {
        put_in_place(&self.places, &self.replicas);
        put_in_place(std::slice::from_ref(&self.vault.config.state_directory), &self.state);
        self.vault.clock = ManualClock::at(self.now);
        self.vault.config.datasets[0].retention = Retention { grace: GRACE, ..Retention::default() };
    }

    /// Takes away what is lost, in replicas that are counted from 1.
    pub(crate) fn harm(&self, harm: Harm, who: &[usize]) {
        for place in who.iter().map(|replica| &self.places[replica - 1]) {
            if harm == Harm::RolledBack {
                put_in_place(std::slice::from_ref(place), &self.replicas_before);
            }
            for file in files_below(place).into_iter().filter(|file| harm.takes(&self.key(file))) {
                std::fs::remove_file(file).unwrap();
            }
        }
    }

    pub(crate) fn contents(&self) -> Contents {
        contents(&self.places)
    }

    pub(crate) fn key(&self, file: &Path) -> String {
        let below = self.places.iter().find_map(|place| file.strip_prefix(place).ok());
        below.unwrap().to_str().unwrap().to_owned()
    }

    pub(crate) fn is_in_a_mark(&self, key: &str) -> bool {
        self.in_marks.iter().any(|id| key.contains(id.as_str()))
    }

    /// Brings the replicas up to date, as the daemon does after each run.
    pub(crate) async fn catch_up(&self) {
        let state = StateDirectory::open(&self.vault.config.state_directory).unwrap();
        let (dataset, keys) = (&self.vault.config.datasets[0], self.vault.keys().unwrap());
        let (replicas, token) = (&self.vault.replicas, CancellationToken::new());
        // Where no replica can be used, it fails; then prune must tell it, too.
        let _ = catch_up(dataset, &keys, replicas, &state, &limits(), &token).await;
    }

    /// Prunes, and returns what that tells. A prune that refuses deletes nothing.
    async fn prune(&self, harm: Harm, when: &str) -> Vec<String> {
        let before = self.contents();
        match self.vault.prune().await {
            Ok((_, outcome)) => outcome.failures,
            Err(error) => {
                let gone = harmed(&before, &self.contents());
                assert!(gone.is_empty(), "{when}: prune refused ({error:?}) and deleted {gone:?}");
                let is_gap = error.class() == Class::Integrity || matches!(harm, Harm::Keyring | Harm::Bucket);
                assert!(is_gap, "{when}: {error:?}");
                vec![format!("{error:?}")]
            }
        }
    }

    /// What verify tells.
    pub(crate) async fn verify(&self) -> Vec<String> {
        let reader = match self.vault.open(self.vault.owner()).await {
            Ok(reader) => reader,
            Err(error) => return vec![format!("{error:?}")],
        };
        let found =
            verify(&reader, &name(DATASET), None, false, self.vault.clock.now(), &CancellationToken::new()).await;
        match found {
            Ok(report) => report
                .findings
                .into_iter()
                .map(|finding| format!("replica {}: {}: {}", finding.replica, finding.object, finding.problem))
                .collect(),
            Err(error) => vec![format!("{error:?}")],
        }
    }

    /// What verify reports of a vault that can be opened.
    pub(crate) async fn report(&self) -> VerifyReport {
        let reader = self.vault.open(self.vault.owner()).await.unwrap();
        verify(&reader, &name(DATASET), None, false, self.vault.clock.now(), &CancellationToken::new()).await.unwrap()
    }

    /// Whether a text names what is missing: an object, a snapshot, or acts.
    fn names(&self, text: &str, missing: &BTreeSet<String>) -> bool {
        let mut snapshots = self.stay.iter().map(|(snapshot, _)| snapshot).chain([&self.pruned, &self.marked]);
        let is_act = |word: &str| matches!(word, "act" | "acts" | "order");
        missing.iter().any(|key| text.contains(key.as_str()))
            || snapshots.any(|snapshot| text.contains(snapshot.as_str()))
            || text.split(|c: char| !c.is_ascii_alphanumeric()).any(is_act)
            || text.contains(layout::VAULT)
    }

    async fn reader(&self, replicas: &[SharedReplica]) -> VaultReader {
        VaultReader::open(replicas, self.vault.owner(), limits(), CancellationToken::new()).await.unwrap()
    }

    async fn assert_restores(&self, replicas: &[SharedReplica], snapshot: &SnapshotId, content: &Streams, when: &str) {
        let reader = self.reader(replicas).await;
        let stored = reader.streams(&name(DATASET), snapshot).await.unwrap_or_else(|error| panic!("{when}: {error:?}"));
        let restored = read_all(&stored).await.unwrap_or_else(|error| panic!("{when}: {error:?}"));
        assert!(restored == *content, "{when}: {snapshot} differs");
    }

    /// Everything that happens after a loss, and what must hold then.
    pub(crate) async fn endure(&mut self, harm: Harm, who: &[usize], then: Then, forget: bool, why: &str) {
        let when = format!("{harm:?} lost in {who:?} ({why})");
        self.reset();
        let before = self.contents();
        self.harm(harm, who);
        let after = self.contents();
        let lost = harmed(&before, &after);
        assert!(!lost.is_empty(), "{when}: nothing was lost");
        if forget {
            std::fs::remove_dir_all(&self.vault.config.state_directory).unwrap();
        }

        let mut told = Vec::new();
        let next = match self.vault.backup(&source(9)).await {
            Ok(report) => Some(report.snapshot),
            Err(error) => {
                told.push(format!("{error:?}"));
                None
            }
        };
        self.catch_up().await;
        told.extend(self.prune(harm, &when).await);
        told.extend(self.verify().await);
        self.catch_up().await;

        let marks = layout::marks(&name(DATASET));
        let may_stay_away =
            |key: &str| self.is_in_a_mark(key) || (harm != Harm::Marks && key.starts_with(marks.as_str()));
        let now = self.contents();
        // A signature that is made again is as good, and has other bytes.
        let is_back = |file: &PathBuf| match now.get(file) {
            Some(content) => {
                let key = self.key(file);
                let is_made_again = key.contains("/index/") || key.starts_with(layout::KEYRING);
                before.get(file) == Some(content) || (is_made_again && key.ends_with(".minisig"))
            }
            None => false,
        };
        let missing = lost.iter().filter(|file| !is_back(file)).map(|file| self.key(file));
        let missing: BTreeSet<String> = missing.filter(|key| !may_stay_away(key)).collect();
        let is_told = told.iter().any(|text| self.names(text, &missing));
        match then {
            Then::Back => assert!(missing.is_empty(), "{when}: not back: {missing:?}; told: {told:#?}"),
            Then::BackOrTold => {
                assert!(missing.is_empty() || is_told, "{when}: neither back nor told: {missing:?}; told: {told:#?}");
            }
            Then::Told => assert!(is_told, "{when}: this is not told: {missing:?}; told: {told:#?}"),
            Then::Harmless => {}
        }

        // Had prune marked anything for the loss, it would go now.
        self.vault.clock.advance(2 * GRACE);
        self.vault.config.datasets[0].retention.keep_last = 1;
        for _ in 0..2 {
            self.prune(harm, &when).await;
        }
        self.assert_nothing_went(&after, &when);
        if harm == Harm::Marks && who.len() == self.places.len() && !missing.is_empty() {
            let manifest = layout::manifest(&name(DATASET), &self.marked);
            assert!(self.places.iter().all(|place| place.join(&manifest).exists()), "{when}: it went without a mark");
        }
        self.assert_all_restore(who, next.as_ref(), missing.is_empty(), &when).await;
    }

    /// Of what the loss had left, the snapshots that stay and their packs are there.
    fn assert_nothing_went(&self, left: &Contents, when: &str) {
        let end = self.contents();
        let manifests: Vec<String> =
            self.stay.iter().map(|(snapshot, _)| layout::manifest(&name(DATASET), snapshot)).collect();
        let stays = |key: &str| {
            self.needed.contains(key) || manifests.iter().any(|manifest| key.starts_with(manifest.as_str()))
        };
        for (file, body) in left.iter().filter(|(file, _)| stays(&self.key(file))) {
            assert!(end.get(file) == Some(body), "{when}: {} went", file.display());
        }
    }

    /// What is shown can be restored, what the loss spared too.
    async fn assert_all_restore(&self, who: &[usize], next: Option<&SnapshotId>, is_back: bool, when: &str) {
        let mut known: BTreeMap<SnapshotId, Streams> = self.stay.iter().cloned().collect();
        known.insert(self.marked.clone(), streams(1));
        known.extend(next.map(|next| (next.clone(), streams(9))));
        let all = &self.vault.replicas;
        if who.len() < all.len() {
            let spared: Vec<SharedReplica> =
                (1..=all.len()).filter(|n| !who.contains(n)).map(|n| all[n - 1].clone()).collect();
            for (snapshot, content) in &self.stay {
                self.assert_restores(&spared, snapshot, content, when).await;
            }
            let next = next.unwrap_or_else(|| panic!("{when}: the backup failed"));
            self.assert_restores(&spared, next, &known[next], when).await;
        }
        let keyring = layout::keyring_generation(&name(DATASET), 1);
        if !self.places.iter().any(|place| place.join(&keyring).exists()) {
            // That was told, and nobody can restore anything.
            return;
        }
        let listed: BTreeSet<SnapshotId> = {
            let reader = self.reader(all).await;
            reader.snapshots(&name(DATASET)).await.unwrap().into_iter().map(|listed| listed.snapshot).collect()
        };
        for snapshot in &listed {
            let content = known.get(snapshot).unwrap_or_else(|| panic!("{when}: {snapshot} is shown"));
            self.assert_restores(all, snapshot, content, when).await;
        }
        if is_back {
            let stay = self.stay.iter().map(|(snapshot, _)| snapshot).chain(next);
            let hidden: Vec<&SnapshotId> = stay.filter(|snapshot| !listed.contains(snapshot)).collect();
            assert!(hidden.is_empty(), "{when}: {hidden:?} are not shown");
        }
    }
}

/// Ids of all snapshots and packs that the marks in a replica name.
fn named_by_marks(place: &Path) -> Vec<String> {
    let marks = files_below(&place.join(layout::marks(&name(DATASET))));
    let marks = marks.iter().filter(|file| file.extension().is_some_and(|extension| extension == "json"));
    let mut named = Vec::new();
    for mark in marks {
        let mark: Value = serde_json::from_slice(&std::fs::read(mark).unwrap()).unwrap();
        let body = &mark["body"];
        let snapshots = body["snapshots"].as_array().unwrap().iter().map(|marked| &marked["snapshot"]);
        let packs = body["packs"].as_array().unwrap().iter();
        named.extend(snapshots.chain(packs).map(|id| id.as_str().unwrap().to_owned()));
    }
    named
}
