//! One vault and its host: programs are started, killed and started again, and time passes for them
//! without waiting.

use std::process::Stdio;
use std::sync::Arc;
use std::time::{Duration, Instant};

use lifeboat_engine::config::{Config, ReplicaKind, Secret, Surroundings};
use lifeboat_engine::keys::{HostKeys, ReaderKeys, parse_identities};
use lifeboat_engine::store::SharedReplica;
use lifeboat_tests::crash_proxy::{CrashProxy, Moment, Watch};
use lifeboat_tests::fake_clock;
use lifeboat_tests::host::{BackupHost, section};
use lifeboat_tests::programs::{self, run};
use lifeboat_tests::s3::Region;
use lifeboat_tests::vault::noise;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use tokio::io::AsyncReadExt;
use tokio::process::Command;

use crate::Totals;
use crate::judge::{Judge, Ran, Reported};

const DEADLINE: Duration = Duration::from_secs(120);
/// `limits.run` of the host.
const LONGEST_RUN: u64 = 60;
/// The grace period: `limits.run` and twice `limits.clock_skew`.
pub(crate) const GRACE: u64 = LONGEST_RUN + 2 * 10;
/// Stores refuse requests whose time is wrong by a quarter of an hour. The last steps of a case
/// need the rest.
const MOST_AHEAD: u64 = 14 * 60 - LONGEST_RUN - 4 * GRACE;
/// So many snapshots stay.
pub(crate) const KEEP_LAST: usize = 1;
/// A daemon that has sent no request for so long has nothing to do any more.
const IDLE: Duration = Duration::from_millis(700);

const PRUNE: [&str; 4] = ["--json", "prune", "--yes", "data"];

/// What a program does when it is killed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Action {
    /// `lifeboatd --once`: a backup, and a prune after it.
    Backup,
    /// `lifeboat prune`, when there is something to mark.
    Mark,
    /// `lifeboat prune`, when the grace period of what is marked is over.
    Sweep,
    /// `lifeboatd`, when the second replica lacks a snapshot.
    CatchUp,
    /// `lifeboat repair`, when the second replica lacks a snapshot.
    Repair,
}

pub(crate) const ACTIONS: [Action; 5] = [Action::Backup, Action::Mark, Action::Sweep, Action::CatchUp, Action::Repair];

/// Where replicas lie, and what holds records alone.
pub(crate) struct Stores {
    pub(crate) regions: [Region; 2],
    pub(crate) records: Region,
}

/// One vault in the two regions, and the host that backs up to it.
pub(crate) struct Case<'a> {
    pub(crate) label: String,
    pub(crate) totals: &'a Totals,
    pub(crate) judge: Judge,
    pub(crate) stores: &'a Stores,
    pub(crate) vault_prefix: String,
    host: BackupHost,
    watch: Arc<Watch>,
    proxies: [CrashProxy; 2],
    /// Before the place for records, if the vault has one.
    records: Option<CrashProxy>,
    /// So many seconds the programs and the stores are ahead of the real time.
    ahead: u64,
    began: Instant,
    chance: ChaCha8Rng,
    min_replicas: usize,
    backups: u64,
    /// How many requests each action makes, as far as that is known.
    requests: [u64; ACTIONS.len()],
}

fn source(host: &BackupHost) -> std::path::PathBuf {
    host.path().join("source")
}

impl<'a> Case<'a> {
    /// Every other case has two replicas of which one suffices, and every other two have a place
    /// for records.
    pub(crate) async fn begin(stores: &'a Stores, seed: u64, number: u64, totals: &'a Totals) -> Self {
        let mut chance = ChaCha8Rng::seed_from_u64(seed);
        chance.set_stream(number);
        let (watch, regions) = (Arc::new(Watch::default()), &stores.regions);
        let proxies = [
            CrashProxy::start(regions[0].plain_address(), watch.clone()).await,
            CrashProxy::start(regions[1].plain_address(), watch.clone()).await,
        ];
        let records = match number / 2 % 2 {
            0 => None,
            _ => Some(CrashProxy::start(stores.records.plain_address(), watch.clone()).await),
        };
        let (vault_prefix, min_replicas) = (format!("vault-{number}"), 1 + usize::try_from(number % 2).unwrap());
        let sections = Self::sections(stores, &proxies, records.as_ref());
        let host = BackupHost::set_up_in(&vault_prefix, min_replicas, &sections, "kind = \"file\"\npath = \"/\"").await;
        let (replicas, owner) = Self::direct(regions, &host, &vault_prefix).await;
        Self {
            label: format!(
                "LIFEBOAT_CRASH_SEED={seed}, case {number}, min_replicas = {min_replicas}, records: {}",
                records.is_some()
            ),
            totals,
            judge: Judge::new(replicas, owner),
            stores,
            vault_prefix,
            host,
            watch,
            proxies,
            records,
            ahead: 0,
            began: Instant::now(),
            chance,
            min_replicas,
            backups: 0,
            requests: [60, 30, 60, 25, 25],
        }
    }

    /// The stores as the programs reach them, behind what belongs to `[limits]`.
    fn sections(stores: &Stores, proxies: &[CrashProxy; 2], records: Option<&CrashProxy>) -> Vec<String> {
        let limits = format!("run = \"{LONGEST_RUN}s\"\nclock_skew = \"{}s\"\n", (GRACE - LONGEST_RUN) / 2);
        let place = |name: &str, region: &Region, proxy: &CrashProxy| {
            let mut replica = region.replica_config(name);
            let ReplicaKind::S3(s3) = &mut replica.kind else { unreachable!("regions are S3") };
            s3.endpoint = Some(format!("http://{}", proxy.address()).parse().unwrap());
            s3.ca_file = None;
            section(&replica)
        };
        let [north, south] = &stores.regions;
        let replicas = [place("north", north, &proxies[0]), place("south", south, &proxies[1])];
        let records = records.map(|proxy| {
            let section = place("records", &stores.records, proxy);
            section.replace("[[replica]]\n", "[[replica]]\nrole = \"records\"\n")
        });
        std::iter::once(limits).chain(replicas).chain(records).collect()
    }

    /// The regions without a proxy, and the keys of the owner.
    async fn direct(regions: &[Region; 2], host: &BackupHost, vault_prefix: &str) -> (Vec<SharedReplica>, ReaderKeys) {
        let config = Config::load(&host.config(), &Surroundings::default()).unwrap();
        let mut replicas = Vec::new();
        for (name, region) in ["north", "south"].iter().zip(regions) {
            let clock = lifeboat_engine::clock::SystemClock::shared();
            replicas
                .push(lifeboat_engine::store::open(&region.replica_config(name), vault_prefix, &clock).await.unwrap());
        }
        let master = Secret::new(std::fs::read(host.master()).unwrap());
        let keys = HostKeys::load(&config.keys).unwrap();
        let owner = ReaderKeys { identities: parse_identities(&master, "master").unwrap(), ..keys.reader() };
        (replicas, owner)
    }

    /// Whether snapshots are marked and deleted from now on.
    async fn set_retention(&self, is_on: bool) {
        let source = format!("kind = \"file\"\npath = \"{}\"", source(&self.host).display());
        let keep = if is_on { format!("keep_last = {KEEP_LAST}\n") } else { String::new() };
        let source = format!("{source}\n[dataset.retention]\n{keep}grace = \"{GRACE}s\"");
        let sections = Self::sections(self.stores, &self.proxies, self.records.as_ref());
        self.host.configure(self.min_replicas, &sections, &source).await;
    }

    /// Seconds since the case began, as the programs see it.
    fn now(&self) -> u64 {
        self.began.elapsed().as_secs() + self.ahead
    }

    fn pass_time(&mut self, seconds: u64) {
        self.ahead += seconds;
        self.watch.set_seconds_ahead(self.ahead.try_into().unwrap());
    }

    /// A program at the time that is now.
    fn timed(&self, program: std::path::PathBuf, arguments: &[&str]) -> Command {
        let mut command = Command::new(program);
        command.arg("--config").arg(self.host.config()).args(arguments);
        command.envs(fake_clock::environment(&format!("+{}s", self.ahead)));
        command
    }

    fn backup(&mut self) -> Command {
        self.backups += 1;
        // Much of it is in the backup before, and a little of it comes back later. No part begins
        // another: the first backup would compress, and later ones would depart from it.
        let own = self.chance.random_range(0..6);
        let content = [noise(70_000, 1), noise(20_000, 1000 + self.backups), noise(20_000, 100 + own)].concat();
        std::fs::write(source(&self.host), &content).unwrap();
        self.judge.captures(content);
        self.timed(programs::lifeboatd(), &["--json", "--log", "text", "--once"])
    }

    fn lifeboat(&self, arguments: &[&str]) -> Command {
        self.timed(programs::lifeboat(), arguments)
    }

    /// A backup that must succeed.
    async fn once(&mut self, when: &str) {
        let (mut command, began) = (self.backup(), self.now());
        self.watch.disarm();
        let output = run(&mut command, DEADLINE).await.unwrap();
        self.requests[Action::Backup as usize] = self.watch.requests();
        assert!(output.status.success(), "{}: {when}: the next run: {output}", self.label);
        let when = format!("{when}, not killed");
        let reported = self.reported(&when, &output.stdout);
        assert!(reported.is_some(), "{}: {when}: it reported nothing: {output}", self.label);
        self.learn(&when, began, reported, false).await;
    }

    /// What a backup reported. One that was killed may have reported nothing.
    fn reported(&self, when: &str, stdout: &str) -> Option<Reported> {
        let (line, _) = stdout.split_once('\n')?;
        let read = serde_json::from_str(line);
        Some(read.unwrap_or_else(|error| panic!("{}: {when}: no report of a backup: {error}: {line}", self.label)))
    }

    /// Runs a program that must succeed, and only reads.
    async fn succeed(&self, when: &str, arguments: &[&str]) {
        self.watch.disarm();
        let output = run(&mut self.lifeboat(arguments), DEADLINE).await.unwrap();
        assert!(output.status.success(), "{}: {when}: {arguments:?}: {output}", self.label);
    }

    async fn prune(&mut self, when: &str) {
        let (mut command, began) = (self.lifeboat(&PRUNE), self.now());
        self.watch.disarm();
        let output = run(&mut command, DEADLINE).await.unwrap();
        self.learn(&format!("{when}, not killed"), began, None, false).await;
        assert!(output.status.success(), "{}: {when}: {output}", self.label);
    }

    /// What a program has told and left. What was known before is restored only if asked for.
    async fn learn(&mut self, when: &str, began: u64, reported: Option<Reported>, restores_all: bool) {
        let ran = Ran { when: format!("{}: {when}", self.label), reported, began, ended: self.now() };
        let found = self.judge.look(&ran, restores_all).await;
        self.totals.add(found);
    }

    /// Kills programs so many times.
    pub(crate) async fn run(&mut self, crashes: u64) {
        self.set_retention(false).await;
        self.once("the first backup").await;
        let (mut killed, mut when) = (0, "at the beginning".to_owned());
        for attempt in 0.. {
            assert!(attempt < 10 * crashes, "{}: programs end before they are killed", self.label);
            if killed == crashes {
                break;
            }
            let action = self.choose();
            self.prepare(action, &when).await;
            when = format!("{action:?}, killed");
            killed += u64::from(self.crash(action).await);
        }
        self.set_retention(true).await;
        self.once(&when).await;
    }

    fn choose(&mut self) -> Action {
        let action = ACTIONS[self.chance.random_range(0..ACTIONS.len())];
        match action {
            Action::CatchUp | Action::Repair if self.min_replicas > 1 => Action::Backup,
            Action::Sweep if self.ahead >= MOST_AHEAD => Action::Mark,
            action => action,
        }
    }

    /// Backs up, which must succeed whatever was killed before, so that there is something to do
    /// after it.
    async fn prepare(&mut self, action: Action, when: &str) {
        let is_behind = matches!(action, Action::CatchUp | Action::Repair);
        self.set_retention(matches!(action, Action::Backup | Action::Sweep)).await;
        self.proxies[1].set_denies(is_behind);
        self.once(when).await;
        self.proxies[1].set_denies(false);
        self.set_retention(true).await;
        let sweeps = action == Action::Sweep || (action == Action::Backup && self.chance.random());
        if sweeps && self.ahead < MOST_AHEAD {
            self.pass_time(GRACE + 1);
        }
    }

    /// Kills a program, unless it ends before, and judges what it left. Returns whether it was
    /// killed.
    async fn crash(&mut self, action: Action) -> bool {
        let command = match action {
            Action::Backup => self.backup(),
            Action::Mark | Action::Sweep => self.lifeboat(&PRUNE),
            Action::CatchUp => self.timed(programs::lifeboatd(), &["--log", "text"]),
            Action::Repair => self.lifeboat(&["--json", "repair", "data"]),
        };
        let most = self.requests[action as usize];
        let at = self.chance.random_range(1..=most);
        let moment =
            [Moment::BeforeRequest, Moment::WithinRequest, Moment::AfterAnswer][self.chance.random_range(0..3)];
        let when = format!("{action:?} killed at request {at} of about {most}, {moment:?}");
        let is_killed = self.kill(action, command, at, moment, &when).await;
        if is_killed {
            self.totals.note_crash(action);
        } else {
            self.requests[action as usize] = self.watch.requests().max(1);
        }
        self.succeed(&when, &["--json", "verify", "data"]).await;
        is_killed
    }

    /// Starts a program, and kills it at a request, or when it has nothing to do any more. Returns
    /// whether it was killed at the request.
    async fn kill(&mut self, action: Action, mut command: Command, at: u64, moment: Moment, when: &str) -> bool {
        let began = self.now();
        let sprung = self.watch.arm(at, moment);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
        let mut child = command.spawn().unwrap();
        let (mut stdout, mut stderr) = (child.stdout.take().unwrap(), child.stderr.take().unwrap());
        let output = tokio::spawn(async move {
            let (mut out, mut err) = (Vec::new(), Vec::new());
            let _ = tokio::join!(stdout.read_to_end(&mut out), stderr.read_to_end(&mut err));
            (String::from_utf8_lossy(&out).into_owned(), String::from_utf8_lossy(&err).into_owned())
        });
        let watch = self.watch.clone();
        let idle = async {
            let mut before = 0;
            loop {
                tokio::time::sleep(IDLE).await;
                let requests = watch.requests();
                if requests > 0 && requests == before {
                    return;
                }
                before = requests;
            }
        };
        let status = tokio::select! {
            biased;
            () = sprung.cancelled() => None,
            status = child.wait() => Some(status.unwrap()),
            () = idle => None,
            () = tokio::time::sleep(DEADLINE) => panic!("{}: {when}: it does not end", self.label),
        };
        let _ = child.start_kill();
        child.wait().await.unwrap();
        let (stdout, stderr) = output.await.unwrap();
        let failed = status.is_some_and(|status| !status.success());
        assert!(!failed, "{}: {when}: it ended by itself: {stdout}{stderr}", self.label);
        let reported = if action == Action::Backup { self.reported(when, &stdout) } else { None };
        let is_told = reported.is_some() || status.is_none() || action != Action::Backup;
        assert!(is_told, "{}: {when}: it ended by itself and reported nothing: {stdout}{stderr}", self.label);
        self.learn(when, began, reported, true).await;
        sprung.is_cancelled()
    }

    /// After the last kill and the grace periods, nothing is left that nobody needs.
    pub(crate) async fn finish(mut self) {
        self.set_retention(true).await;
        for pause in [0, GRACE + 1, GRACE + 1] {
            self.pass_time(pause);
            self.prune(&format!("at the end, {pause} s later")).await;
        }
        self.succeed("at the end", &["--json", "verify", "data"]).await;
        let found = self.judge.orphans(&self.label, self.stores, &self.vault_prefix).await;
        self.totals.add(found);
        self.totals.add_committed(self.judge.committed());
        // As an operator restores it.
        let target = self.host.path().join("restored");
        let (master, out) = (self.host.master().display().to_string(), target.display().to_string());
        self.succeed("at the end", &["--identity", &master, "restore", "data", "--to-directory", &out]).await;
        let restored: Vec<_> = lifeboat_tests::vault::files_below(&target);
        assert_eq!(restored.len(), 1, "{}: {restored:?}", self.label);
        let (restored, source) = (std::fs::read(&restored[0]).unwrap(), std::fs::read(source(&self.host)).unwrap());
        assert!(restored == source, "{}: the newest snapshot differs", self.label);
    }
}
