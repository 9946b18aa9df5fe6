//! The world of the model: two hosts, two regions and a clock. It takes a step, and judges what
//! came of it.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use lifeboat_engine::backup::{Backup, BackupReport, Progress, RunBudget};
use lifeboat_engine::clock::{Clock, ManualClock, SharedClock};
use lifeboat_engine::config::{Config, Dedup, Retention};
use lifeboat_engine::format::id::SnapshotId;
use lifeboat_engine::format::layout;
use lifeboat_engine::keep::verify::{Finding, verify};
use lifeboat_engine::lead::Lead;
use lifeboat_engine::lead::lease::keep;
use lifeboat_engine::restore::VaultReader;
use lifeboat_engine::state::StateDirectory;
use lifeboat_engine::store::SharedReplica;
use lifeboat_engine::{Class, Result};
use lifeboat_tests::tools;
use lifeboat_tests::vault::{DATASET, limits, name, read_all};
use proptest::sample::Index;
use tempfile::TempDir;
use tokio_util::sync::CancellationToken;

use crate::beginning::{Beginning, scratch};
use crate::reference::{Content, DAILY, GRACE, KEEP_LAST, Known, Reference};
use crate::region::{Crash, Line, Objects, Region};
use crate::upkeep::run_prune;
use crate::{Case, Step, Totals};

/// Not one region, but both.
const BOTH: usize = 2;

/// See the [module](self).
pub(crate) struct World<'a> {
    pub(crate) beginning: &'a Beginning,
    pub(crate) config: Config,
    pub(crate) clock: Arc<ManualClock>,
    pub(crate) regions: [Arc<Region>; 2],
    /// See [`Case`].
    tells_time: bool,
    /// By how much the clock of each host is wrong.
    wrong: [TimeDelta; 2],
    /// The place that holds records alone, if there is one.
    records: Option<Arc<Region>>,
    /// The state directory of each host.
    pub(crate) states: [TempDir; 2],
    /// The snapshots that each host has seen, as far as it still has its state.
    seen: [BTreeSet<SnapshotId>; 2],
    pub(crate) reference: Reference,
    /// Whether anything was taken away from a region, or its hosts could not see it.
    pub(crate) is_harmed: bool,
    pub(crate) totals: &'a Totals,
}

impl<'a> World<'a> {
    pub(crate) async fn new(beginning: &'a Beginning, case: &Case, totals: &'a Totals) -> Self {
        let mut config = Config { min_replicas: case.min_replicas, ..beginning.vault.config.clone() };
        let dataset = &mut config.datasets[0];
        dataset.retention = Retention { keep_last: KEEP_LAST, daily: DAILY, grace: GRACE, ..Retention::default() };
        dataset.dedup = if case.rows { Dedup::Rows } else { Dedup::Chunks };
        let clock = ManualClock::at("2027-03-01T08:00:00Z".parse().unwrap());
        let shared: SharedClock = clock.clone();
        let mut records = None;
        if case.has_records {
            let place = config.replicas[0].clone();
            config.records = vec![place];
            let vault = beginning.objects.get_key_value(layout::VAULT).unwrap();
            let objects = Objects::from([(vault.0.clone(), vault.1.clone())]);
            records = Some(Region::with(name("records"), &objects, &shared).await);
        }
        let regions = [
            Region::with(name("r1"), &beginning.objects, &shared).await,
            Region::with(name("r2"), &beginning.objects, &shared).await,
        ];
        Self {
            beginning,
            config,
            clock,
            regions,
            records,
            tells_time: case.tells_time,
            wrong: [TimeDelta::zero(); 2],
            states: [scratch(), scratch()],
            seen: [BTreeSet::new(), BTreeSet::new()],
            reference: Reference::default(),
            is_harmed: false,
            totals,
        }
    }

    /// The regions as a host reaches them.
    pub(crate) fn lines(&self, host: usize, crash: &Arc<Crash>) -> Vec<SharedReplica> {
        let offset = self.tells_time.then(|| -self.wrong[host]);
        self.regions.iter().map(|region| Line::to(region, crash, offset)).collect()
    }

    /// The place for records, as a host reaches it.
    pub(crate) fn records(&self, host: usize, crash: &Arc<Crash>) -> Vec<SharedReplica> {
        let offset = self.tells_time.then(|| -self.wrong[host]);
        self.records.iter().map(|place| Line::to(place, crash, offset)).collect()
    }

    /// The regions as somebody else reaches them.
    fn direct(&self) -> Vec<SharedReplica> {
        self.regions.iter().map(|region| Line::to(region, &Crash::never(), None)).collect()
    }

    fn is_one_away(&self) -> bool {
        self.regions.iter().chain(&self.records).any(|place| place.is_away())
    }

    pub(crate) fn records_place(&self) -> Option<&Region> {
        self.records.as_deref()
    }

    /// Whether something was taken away, or cannot be seen.
    pub(crate) fn is_troubled(&self) -> bool {
        self.is_harmed || self.is_one_away()
    }

    pub(crate) fn has_wrong_clock(&self, host: usize) -> bool {
        self.wrong[host] != TimeDelta::zero()
    }

    /// The clock of a host.
    pub(crate) fn clock_of(&self, host: usize) -> SharedClock {
        Arc::new(WrongClock { real: self.clock.clone(), by: self.wrong[host] })
    }

    pub(crate) async fn objects(&self) -> [Objects; 2] {
        [self.regions[0].objects().await, self.regions[1].objects().await]
    }

    pub(crate) fn shared_clock(&self) -> SharedClock {
        self.clock.clone()
    }

    /// Opens the vault as its owner does; `None` if no region that is not away has one.
    async fn reader(&self) -> Option<VaultReader> {
        let (owner, token) = (self.beginning.owner.clone(), CancellationToken::new());
        let reader = VaultReader::open(&self.direct(), owner, limits(), token).await;
        assert!(reader.is_ok() || self.is_harmed, "the vault cannot be opened: {:?}", reader.err());
        reader.ok()
    }

    /// Takes a step, and judges what came of it.
    pub(crate) async fn take(&mut self, step: Step) {
        let before = self.objects().await;
        let deletes =
            matches!(step, Step::Prune { .. } | Step::Empty { .. } | Step::RollBack { .. } | Step::Lose { .. });
        match step {
            Step::Backup { host, content } => self.backup(host, content, &Crash::never()).await,
            Step::Crash { host, content, call, does_work } => self.crash(host, content, call, does_work).await,
            Step::Prune { host } => self.prune(host, &before).await,
            Step::Sleep { hours } => self.clock.advance(Duration::from_secs(u64::from(hours) * 3600)),
            Step::Verify => self.verify(&before).await,
            Step::CatchUp { host } => self.catch_up(host, &before).await,
            Step::Repair { host, accepts } => self.repair(host, accepts, &before).await,
            Step::Look { host } => self.look(host).await,
            Step::SetClock { host, hours } => {
                if self.tells_time {
                    self.wrong[host] = TimeDelta::hours(hours.into());
                }
            }
            Step::Restore { which } => self.restore(which, &before).await,
            Step::Leave { region } => {
                self.regions[region].set_away(true);
                self.regions[1 - region].set_away(false);
                // Commits may then be in one region alone, and be lost with it, or branch.
                self.is_harmed |= self.config.min_replicas == 1;
            }
            Step::Records { are_away } => self.records.iter().for_each(|place| place.set_away(are_away)),
            Step::Return => self.regions.iter().for_each(|region| region.set_away(false)),
            Step::Remember { region } => self.regions[region].remember().await,
            Step::RollBack { region } => {
                if let Some(copy) = self.regions[region].copy() {
                    self.harm(region, &copy).await;
                }
            }
            Step::Empty { region, all } => {
                let folder = layout::dataset(&name(DATASET));
                let is_left = |key: &str| !all && !key.starts_with(&folder);
                self.keep_only(region, &before, is_left).await;
            }
            Step::Lose { region, what } => self.keep_only(region, &before, |key| !what.is(key)).await,
            Step::Forget { host } => {
                self.states[host] = scratch();
                self.seen[host].clear();
            }
        }
        let after = self.objects().await;
        self.learn_what_appeared(&after).await;
        if !deletes {
            for (before, after) in before.iter().zip(&after) {
                let gone: Vec<&String> = before.keys().filter(|key| !after.contains_key(*key)).collect();
                assert!(gone.is_empty(), "{step:?} deleted {gone:?}");
            }
        }
        self.judge(step, &after);
        self.judge_records().await;
        self.totals.steps.add(1);
    }

    async fn harm(&mut self, region: usize, objects: &Objects) {
        self.regions[region].fill(objects, &self.shared_clock()).await;
        self.is_harmed = true;
    }

    /// Of one region, or of both.
    async fn keep_only(&mut self, region: usize, before: &[Objects; 2], is_left: impl Fn(&str) -> bool) {
        for one in (0..before.len()).filter(|one| region == *one || region == BOTH) {
            let left = before[one].iter().filter(|(key, _)| is_left(key.as_str()));
            let left: Objects = left.map(|(key, body)| (key.clone(), body.clone())).collect();
            self.harm(one, &left).await;
        }
    }

    async fn run(&self, host: usize, content: Content, crash: &Arc<Crash>) -> Result<BackupReport> {
        let state = StateDirectory::open(self.states[host].path())?;
        let (replicas, records, clock) = (self.lines(host, crash), self.records(host, crash), self.clock_of(host));
        let (config, keys) = (&self.config, &self.beginning.keys);
        let dataset = &config.datasets[0];
        let lead =
            Lead { config, dataset, keys, replicas: &replicas, records: &records, state: &state, clock: clock.clone() };
        let source = content.source();
        let environment = tools::environment();
        let backup = Backup {
            config,
            dataset,
            source: &source,
            environment: &environment,
            keys,
            replicas: &replicas,
            records: &records,
            state: &state,
            clock,
            group: None,
            budget: RunBudget::new(&config.limits),
            progress: Arc::new(Progress::default()),
            cancel: CancellationToken::new(),
        };
        // As the daemon does.
        tokio::select! {
            biased;
            never = keep(&lead) => match never {},
            outcome = backup.run() => outcome,
        }
    }

    async fn backup(&mut self, host: usize, content: Content, crash: &Arc<Crash>) {
        self.clock.advance(Duration::from_secs(1));
        let outcome = self.run(host, content, crash).await;
        self.judge_backup(host, content, outcome).await;
    }

    async fn judge_backup(&mut self, host: usize, content: Content, outcome: Result<BackupReport>) {
        if self.has_wrong_clock(host) {
            let error = outcome.expect_err("a backup under a clock that the regions contradict");
            assert!(error.class() != Class::Unknown, "{error:?}");
            self.totals.wrong_clocks.add(1);
            return;
        }
        match outcome {
            Ok(report) => {
                self.totals.commits.add(1);
                self.judge_success(&report, content).await;
                let objects = self.objects().await;
                let here = self.regions.iter().zip(&objects).filter(|(region, _)| !region.is_away());
                self.seen[host].extend(here.flat_map(|(_, objects)| Reference::shown(objects)));
            }
            Err(error) if error.class() == Class::Unknown => {
                assert!(self.is_troubled(), "nothing is wrong, and yet unknown: {error:?}");
                self.totals.unknown.add(1);
                self.reference.pending.push(content);
            }
            Err(error) => {
                assert!(self.is_troubled(), "a backup was refused though nothing is wrong: {error:?}");
                self.totals.refused.add(1);
            }
        }
    }

    /// A success is true in each replica that it names.
    async fn judge_success(&mut self, report: &BackupReport, content: Content) {
        let objects = self.objects().await;
        let known = self.know(&report.snapshot, content, &objects).await;
        let known = known.unwrap_or_else(|| panic!("{} was reported, and cannot be read", report.snapshot));
        let complete: Vec<&str> = {
            let complete = report.replicas.iter().filter(|outcome| outcome.complete);
            complete.map(|outcome| outcome.replica.as_str()).collect()
        };
        assert!(complete.len() >= self.config.min_replicas, "{report:?}");
        for (region, objects) in ["r1", "r2"].into_iter().zip(&objects) {
            let is_true = !complete.contains(&region) || known.is_whole_in(objects);
            assert!(is_true, "{} was reported as complete in {region}", report.snapshot);
        }
        self.reference.known.insert(report.snapshot.clone(), known);
    }

    /// Reads a snapshot, and returns what it consists of. Its data must be `content`. `None` if it
    /// cannot be read.
    async fn know(&self, snapshot: &SnapshotId, content: Content, all: &[Objects; 2]) -> Option<Known> {
        let reader = self.reader().await?;
        let manifest = reader.manifest(&name(DATASET), snapshot).await.ok()?;
        let streams = reader.streams(&name(DATASET), snapshot).await.ok()?;
        let restored = read_all(&streams).await.ok()?;
        if restored != content.streams() {
            return None;
        }
        let key = layout::manifest(&name(DATASET), snapshot);
        let packs = manifest.packs.iter().map(|pack| layout::pack(&name(DATASET), &pack.id));
        let keys = packs.chain([layout::signature(&key), key]);
        let objects = keys.map(|key| {
            let body = all.iter().find_map(|objects| objects.get(&key)).cloned();
            body.map(|body| (key, body))
        });
        Some(Known { content, objects: objects.collect::<Option<Objects>>()? })
    }

    /// A host crashes in the middle of a backup, if the backup makes so many calls.
    async fn crash(&mut self, host: usize, content: Content, call: u64, does_work: bool) {
        self.clock.advance(Duration::from_secs(1));
        let crash = Crash::at(call, does_work);
        let outcome = tokio::select! {
            outcome = self.run(host, content, &crash) => Some(outcome),
            () = crash.begun() => None,
        };
        crash.over();
        match outcome {
            Some(outcome) => self.judge_backup(host, content, outcome).await,
            None => {
                self.totals.crashes.add(1);
                self.reference.pending.push(content);
                // Threads of the run end now: of a real host, nothing would be left.
                tokio::time::sleep(Duration::from_millis(3)).await;
            }
        }
    }

    async fn prune(&mut self, host: usize, before: &[Objects; 2]) {
        let outcome = self.with_prune(host, run_prune).await;
        let after = self.objects().await;
        let shown: BTreeSet<SnapshotId> = before.iter().chain(&after).flat_map(Reference::shown).collect();
        self.reference.let_go(&shown);
        let now = self.clock.now();
        for (before, after) in before.iter().zip(&after) {
            let gone: Vec<&String> = before.keys().filter(|key| !after.contains_key(*key)).collect();
            if let Err(error) = &outcome {
                assert!(gone.is_empty(), "prune refused ({error:?}) and deleted {gone:?}");
            }
            gone.iter().for_each(|key| self.reference.judge_deletion(key, now));
            self.totals.deleted.add(gone.len() as u64);
            self.totals.marks.add(self.reference.note_marks(before, after, now));
        }
        if self.has_wrong_clock(host) {
            assert!(outcome.is_err(), "a prune under a clock that the regions contradict: {outcome:?}");
            self.totals.wrong_clocks.add(1);
            return;
        }
        let is_silent = outcome.as_ref().is_ok_and(Vec::is_empty);
        if !is_silent {
            assert!(self.is_troubled(), "prune complains though nothing is wrong: {outcome:?}");
            self.totals.told.add(1);
            return;
        }
        self.totals.prunes.add(1);
        // What this host has seen, and what is now shown nowhere, must have been told.
        let shown: BTreeSet<SnapshotId> = after.iter().flat_map(Reference::shown).collect();
        let must_be = self.reference.must_be(now).map(|(snapshot, _)| snapshot);
        let lost: Vec<&SnapshotId> = must_be
            .filter(|snapshot| self.seen[host].contains(*snapshot) && !shown.contains(*snapshot))
            .filter(|snapshot| !self.reference.is_marked(snapshot.as_str()))
            .collect();
        assert!(lost.is_empty(), "prune goes on without a word, and {lost:?} are lost");
    }

    async fn verify(&self, objects: &[Objects; 2]) {
        let Some(reader) = self.reader().await else { return };
        let report = verify(&reader, &name(DATASET), None, false, self.clock.now(), &CancellationToken::new()).await;
        let report = report.unwrap_or_else(|error| panic!("{error:?}"));
        let excused = self.is_troubled();
        // A run that crashed between its act and its signature is told when hours have passed.
        let has_crashed = !self.reference.pending.is_empty();
        let is_signed = |key: &str| objects.iter().any(|objects| objects.contains_key(&layout::signature(key)));
        let is_left = |finding: &&Finding| {
            has_crashed && finding.problem.contains("its backup was killed") && !is_signed(&finding.object)
        };
        let wrong: Vec<&Finding> = report.findings.iter().filter(|finding| !is_left(finding)).collect();
        assert!(excused || wrong.is_empty(), "{wrong:?}");
        // A replica that shows what it cannot restore is found out.
        for (region, objects) in self.regions.iter().zip(objects) {
            let shown = Reference::shown(objects);
            let broken = shown.iter().filter(|snapshot| {
                self.reference.known.get(*snapshot).is_some_and(|known| !known.is_whole_in(objects))
            });
            let broken: Vec<&SnapshotId> = broken.collect();
            let is_looked_at = !region.is_away() && objects.contains_key(layout::VAULT);
            let is_found = broken.is_empty() || !is_looked_at || !report.findings.is_empty();
            assert!(is_found, "verify does not find that {broken:?} are broken");
        }
    }

    /// Restores one of the snapshots that are shown.
    async fn restore(&self, which: Index, objects: &[Objects; 2]) {
        let Some(reader) = self.reader().await else { return };
        let listed = reader.snapshots(&name(DATASET)).await.unwrap();
        if listed.is_empty() {
            return;
        }
        let snapshot = &listed[which.index(listed.len())].snapshot;
        self.assert_restores(&reader, snapshot, objects).await;
    }

    /// A snapshot that is whole in a region that is not away restores, and none restores otherwise
    /// than it was.
    async fn assert_restores(&self, reader: &VaultReader, snapshot: &SnapshotId, objects: &[Objects; 2]) {
        let Some(known) = self.reference.known.get(snapshot) else {
            assert!(self.is_harmed, "{snapshot} is shown, and is not known");
            return;
        };
        let mut here = self.regions.iter().zip(objects).filter(|(region, _)| !region.is_away());
        let is_whole = here.any(|(_, objects)| known.is_whole_in(objects));
        let restored = async { read_all(&reader.streams(&name(DATASET), snapshot).await?).await };
        match restored.await {
            Ok(restored) => assert!(restored == known.content.streams(), "{snapshot} differs"),
            Err(error) => assert!(!is_whole, "{snapshot} does not restore: {error:?}"),
        }
        self.totals.restores.add(1);
    }

    /// Restores everything that is shown.
    pub(crate) async fn restore_all(&self) {
        let objects = self.objects().await;
        let Some(reader) = self.reader().await else { return };
        for listed in reader.snapshots(&name(DATASET)).await.unwrap() {
            self.assert_restores(&reader, &listed.snapshot, &objects).await;
        }
    }

    /// What is shown and was not reported must be of a backup whose outcome nobody knew.
    async fn learn_what_appeared(&mut self, objects: &[Objects; 2]) {
        for snapshot in objects.iter().flat_map(Reference::shown).collect::<BTreeSet<_>>() {
            if self.reference.known.contains_key(&snapshot) {
                continue;
            }
            let mut found = None;
            for (at, content) in self.reference.pending.iter().enumerate() {
                if let Some(known) = self.know(&snapshot, *content, objects).await {
                    found = Some((at, known));
                    break;
                }
            }
            match found {
                Some((at, known)) => {
                    self.reference.pending.swap_remove(at);
                    self.reference.known.insert(snapshot, known);
                }
                // It may be shown by what is left of a region, or by one that is away.
                None => assert!(self.is_troubled(), "{snapshot} is shown, and nobody made it"),
            }
        }
    }

    /// What must be there is whole in some region, unless something was taken away.
    fn judge(&mut self, step: Step, after: &[Objects; 2]) {
        let mut threatened = BTreeSet::new();
        for (snapshot, known) in self.reference.must_be(self.clock.now()) {
            if after.iter().any(|objects| known.is_whole_in(objects)) {
                continue;
            }
            let excused = step.is_harm() || self.reference.threatened.contains(snapshot);
            assert!(excused, "{step:?} lost {snapshot}");
            threatened.insert(snapshot.clone());
        }
        self.reference.threatened = threatened;
    }
}

/// The clock of a host.
struct WrongClock {
    real: Arc<ManualClock>,
    by: TimeDelta,
}

impl Clock for WrongClock {
    fn now(&self) -> DateTime<Utc> {
        self.real.now() + self.by
    }

    fn elapsed(&self) -> Duration {
        self.real.elapsed()
    }

    fn elapsed_with_sleep(&self) -> Duration {
        self.real.elapsed_with_sleep()
    }
}
