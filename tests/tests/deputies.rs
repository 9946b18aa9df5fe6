//! A leader and its deputy: two hosts with their own names, keys and state, run as the built
//! daemons, that back up one dataset into two replicas; and a third place that holds records alone.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use lifeboat_tests::by_hand::{Contents, changed, contents};
use lifeboat_tests::programs::{self, Output, run};
use lifeboat_tests::{ports, tools};
use serde_json::Value;
use tempfile::TempDir;
use tokio::process::{Child, Command};

const DEADLINE: Duration = Duration::from_secs(120);
/// A start is due each minute, and a deputy waits 3 s for the leader, and 1 s for clocks. The rest
/// is for its run.
const LONGEST_TAKEOVER: Duration = Duration::from_secs(60 + 3 + 1 + 26);
/// What a host writes while nothing runs would be seen in this time: a lease is renewed each
/// minute.
const IDLE: Duration = Duration::from_secs(65);
const RECORDS: &str = "role = \"records\"\n";

struct Pair {
    place: TempDir,
    master: String,
    min_replicas: usize,
    /// There is a place `r3` that holds records alone.
    has_records: bool,
    signers: Vec<String>,
}

impl Pair {
    /// Two hosts. The first makes the vault; the second takes over its keys with the master's.
    async fn new(min_replicas: usize) -> Self {
        Self::with(min_replicas, false).await
    }

    async fn with(min_replicas: usize, has_records: bool) -> Self {
        let place = tempfile::Builder::new().prefix("lifeboat-pair-").tempdir_in("/tmp").unwrap();
        let mut keygen = Command::new(tools::find("age-keygen"));
        run(keygen.arg("-o").arg(place.path().join("master.txt")), DEADLINE).await.unwrap();
        let mut keygen = Command::new(tools::find("age-keygen"));
        let public = run(keygen.arg("-y").arg(place.path().join("master.txt")), DEADLINE).await.unwrap();
        let (master, signers) = (public.stdout.trim().to_owned(), Vec::new());
        let mut pair = Self { master, place, min_replicas, has_records, signers };
        for replica in ["r1", "r2", "r3"] {
            std::fs::create_dir(pair.place.path().join(replica)).unwrap();
        }
        std::fs::write(pair.data(), "one").unwrap();
        let identity = pair.place.path().join("master.txt").display().to_string();
        for (host, more) in [("db1", &[][..]), ("db2", &["--identity", &identity])] {
            pair.configure(host, "");
            let words = [&["--json"], more, &["init"]].concat();
            let init = pair.lifeboat(host, &words).await;
            assert!(init.status.success(), "{init}");
            pair.signers.push(init.json().unwrap()["signer"].as_str().unwrap().to_owned());
        }
        ["db1", "db2"].iter().for_each(|host| pair.configure(host, ""));
        pair
    }

    fn data(&self) -> PathBuf {
        self.place.path().join("data")
    }

    fn home(&self, host: &str) -> PathBuf {
        self.place.path().join(host)
    }

    fn configure(&self, host: &str, more: &str) {
        let (root, home) = (self.place.path().display(), self.home(host));
        let shown = home.display();
        std::fs::create_dir_all(&home).unwrap();
        let trusted: Vec<String> = self.signers.iter().map(|signer| format!("\"{signer}\"")).collect();
        let replica = |name: &str, role: &str| {
            format!(
                "[[replica]]\n{role}name = \"{name}\"\nkind = \"directory\"\nregion = \"{name}\"\npath = \"{root}/{name}\"\n"
            )
        };
        let text = format!(
            "host = \"{host}\"\nstate_directory = \"{shown}/state\"\nmin_replicas = {}\n\
             control_socket = \"{shown}/control.sock\"\nlisten = \"127.0.0.1:{}\"\n\
             [keys]\ndirectory = \"{shown}/keys\"\nmaster_recipients = [\"{master}\"]\ndrill_recipients = [\"{master}\"]\n\
             trusted_signers = [{}]\n[limits]\nclock_skew = \"1s\"\nrun = \"1m\"\n{}{}\
             [[dataset]]\nname = \"data\"\nhome_region = \"home\"\nhosts = [\"db1\", \"db2\"]\ntakeover_after = \"3s\"\n{more}\n\
             retention = {{ keep_last = 2 }}\nsource = {{ kind = \"file\", path = \"{}\" }}\n",
            self.min_replicas,
            ports::free(),
            trusted.join(", "),
            replica("r1", ""),
            format_args!(
                "{}{}",
                replica("r2", ""),
                if self.has_records { replica("r3", RECORDS) } else { String::new() }
            ),
            self.data().display(),
            master = self.master,
        );
        std::fs::write(home.join("lifeboat.toml"), text).unwrap();
    }

    async fn lifeboat(&self, host: &str, words: &[&str]) -> Output {
        let mut command = Command::new(programs::lifeboat());
        command.arg("--config").arg(self.home(host).join("lifeboat.toml")).args(words);
        run(&mut command, DEADLINE).await.unwrap()
    }

    async fn once(&self, host: &str) -> Output {
        let mut command = Command::new(programs::lifeboatd());
        command.arg("--config").arg(self.home(host).join("lifeboat.toml"));
        run(command.args(["--json", "--log", "text", "--once", "data"]), DEADLINE).await.unwrap()
    }

    /// Starts the daemon of a host, and waits until it answers.
    async fn daemon(&self, host: &str) -> Child {
        let log = std::fs::File::create(self.home(host).join("log")).unwrap();
        let mut command = Command::new(programs::lifeboatd());
        command.arg("--config").arg(self.home(host).join("lifeboat.toml")).args([
            "--log",
            "text",
            "--log-level",
            "debug",
        ]);
        let daemon = command.stdout(Stdio::null()).stderr(Stdio::from(log)).kill_on_drop(true).spawn().unwrap();
        self.until(host, "it answers", |_| true).await;
        daemon
    }

    /// Waits until the status of a host's daemon is as `is` says.
    async fn until(&self, host: &str, what: &str, is: impl Fn(&Value) -> bool) -> Value {
        let began = Instant::now();
        loop {
            let mut command = Command::new(programs::lifeboatd());
            command.arg("--config").arg(self.home(host).join("lifeboat.toml"));
            let output = run(command.args(["--json", "status"]), DEADLINE).await.unwrap();
            if output.status.success() {
                let status: Value = serde_json::from_str(&output.stdout).unwrap();
                if is(&status["datasets"]["data"]) {
                    return status["datasets"]["data"].clone();
                }
            }
            let log = || std::fs::read_to_string(self.home(host).join("log")).unwrap_or_default();
            assert!(began.elapsed() < DEADLINE, "{host}: not so that {what}: {output}\n{}", log());
            tokio::time::sleep(Duration::from_millis(300)).await;
        }
    }

    /// Who made each snapshot, oldest first.
    async fn makers(&self) -> Vec<String> {
        let identity = self.place.path().join("master.txt").display().to_string();
        let list = self.lifeboat("db1", &["--json", "--identity", &identity, "list", "data"]).await;
        assert!(list.status.success(), "{list}");
        let mut makers = Vec::new();
        let listed = list.json().unwrap();
        let mut ids: Vec<String> = listed["snapshots"]
            .as_array()
            .unwrap_or_else(|| panic!("{listed}"))
            .iter()
            .map(|snapshot| snapshot["snapshot"].as_str().unwrap().to_owned())
            .collect();
        ids.sort_unstable();
        for id in ids {
            let show = self.lifeboat("db1", &["--json", "--identity", &identity, "show", "data", &id]).await;
            assert!(show.status.success(), "{show}");
            makers.push(show.json().unwrap()["host"].as_str().unwrap_or_else(|| panic!("{show}")).to_owned());
        }
        makers
    }
}

/// Puts a region out of reach, or back.
fn set_away(pair: &Pair, replica: &str, is_away: bool) {
    let (here, away) = (pair.place.path().join(replica), pair.place.path().join(format!("{replica}-away")));
    let (from, to) = if is_away { (here, away) } else { (away, here) };
    std::fs::rename(from, to).unwrap();
}

/// All that lies in the three places.
fn stored(pair: &Pair) -> Contents {
    contents(&["r1", "r2", "r3"].map(|name| pair.place.path().join(name)))
}

fn exit_code(output: &Output) -> Option<i32> {
    output.status.code()
}

async fn restored(pair: &Pair, into: &Path) -> String {
    let identity = pair.place.path().join("master.txt").display().to_string();
    let target = into.display().to_string();
    let words = ["--identity", &identity, "restore", "data", "--to-directory", &target];
    let output = pair.lifeboat("db2", &words).await;
    assert!(output.status.success(), "{output}");
    let file = std::fs::read_dir(into).unwrap().map(|entry| entry.unwrap().path()).find(|path| path.is_file()).unwrap();
    std::fs::read_to_string(file).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deputy_takes_over_when_the_leader_dies_and_the_leader_comes_back_as_its_deputy() {
    let pair = Pair::new(2).await;
    ["db1", "db2"].iter().for_each(|host| pair.configure(host, "schedule = \"* * * * *\""));
    let mut leader = pair.daemon("db1").await;
    let trigger = pair.lifeboat("db1", &["--json", "trigger", "data"]).await;
    assert!(trigger.status.success(), "{trigger}");
    let deputy = pair.daemon("db2").await;
    // An operator who asks the deputy learns who leads.
    let refused = pair.lifeboat("db2", &["trigger", "data"]).await;
    assert_eq!(exit_code(&refused), Some(3), "{refused}");
    for part in ["host db1 backs up dataset data", "lifeboat takeover data"] {
        assert!(refused.stderr.contains(part), "{refused}");
    }
    let status = pair.until("db2", "db1 leads", |status| status["led_by"] == "db1").await;
    assert!(status["last_success"].is_string() && status["failures"] == 0, "{status}");

    leader.kill().await.unwrap();
    std::fs::write(pair.data(), "two").unwrap();
    let status =
        pair.until("db2", "it has taken over", |status| status["successes"] == 1 && status["led_by"].is_null()).await;
    assert!(status["takeover_needed"] == false, "{status}");
    assert_eq!(pair.makers().await.last().unwrap(), "db2");
    assert_eq!(restored(&pair, &pair.place.path().join("restored")).await, "two");

    // The old leader comes back, and finds that it leads no more.
    let leader = pair.daemon("db1").await;
    let refused = pair.lifeboat("db1", &["trigger", "data"]).await;
    assert!(exit_code(&refused) == Some(3) && refused.stderr.contains("host db2"), "{refused}");
    let unasked = pair.lifeboat("db1", &["takeover", "data"]).await;
    assert!(!unasked.status.success() && unasked.stderr.contains("--yes"), "{unasked}");
    let taken = pair.lifeboat("db1", &["--json", "takeover", "data", "--yes"]).await;
    assert!(taken.status.success(), "{taken}");
    assert_eq!(pair.makers().await.last().unwrap(), "db1");
    pair.until("db1", "it leads", |status| status["led_by"].is_null()).await;
    let again = pair.lifeboat("db1", &["takeover", "data", "--yes"]).await;
    assert!(exit_code(&again) == Some(2) && again.stderr.contains("leads dataset data already"), "{again}");
    drop((leader, deputy));

    // Each reads and prunes what the other wrote.
    for host in ["db2", "db1"] {
        let verified = pair.lifeboat(host, &["verify", "data"]).await;
        assert!(verified.status.success(), "{verified}");
        let prune = pair.lifeboat(host, &["prune", "data", "--yes"]).await;
        assert!(prune.status.success(), "{prune}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deputy_without_a_schedule_sees_who_leads() {
    let pair = Pair::new(2).await;
    let first = pair.once("db1").await;
    assert!(first.status.success(), "{first}");
    let _deputy = pair.daemon("db2").await;
    pair.until("db2", "it sees that db1 leads", |status| status["led_by"] == "db1").await;
    let led = |host: &str| metric(&pair, host, "lifeboat_dataset_led{dataset=\"data\"}");
    assert_eq!(led("db2").as_deref(), Some("0"));
    let _leader = pair.daemon("db1").await;
    assert_eq!(led("db1").as_deref(), Some("1"));
    let status = pair.until("db2", "its backups are those of db1", |status| status["last_success"].is_string()).await;
    assert_eq!(status["takeover_needed"], false, "{status}");
}

/// The value of a metric, as the daemon of a host shows it.
fn metric(pair: &Pair, host: &str, name: &str) -> Option<String> {
    let config = std::fs::read_to_string(pair.home(host).join("lifeboat.toml")).unwrap();
    let address = config.lines().find_map(|line| line.strip_prefix("listen = \"")?.strip_suffix('"')).unwrap();
    let mut stream = TcpStream::connect(address).unwrap();
    stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: lifeboat\r\nConnection: close\r\n\r\n").unwrap();
    let mut page = String::new();
    stream.read_to_string(&mut page).unwrap();
    page.lines().find_map(|line| Some(line.strip_prefix(name)?.trim().to_owned()))
}

#[tokio::test(flavor = "multi_thread")]
async fn where_commits_need_not_meet_a_deputy_asks_an_operator() {
    let pair = Pair::new(1).await;
    let first = pair.once("db1").await;
    assert!(first.status.success(), "{first}");
    let refused = pair.once("db2").await;
    assert_eq!(exit_code(&refused), Some(3), "{refused}");
    pair.configure("db2", "schedule = \"* * * * *\"");
    let deputy = pair.daemon("db2").await;
    let status = pair.until("db2", "an operator is needed", |status| status["takeover_needed"] == true).await;
    assert!(status["successes"] == 0 && status["led_by"] == "db1", "{status}");
    let check = pair.lifeboat("db2", &["check"]).await;
    assert!(check.stdout.contains("takeover"), "{check}");
    let taken = pair.lifeboat("db2", &["takeover", "data", "--yes"]).await;
    assert!(taken.status.success(), "{taken}");
    let status = pair.until("db2", "it leads", |status| status["successes"] == 1 && status["led_by"].is_null()).await;
    assert!(status["takeover_needed"] == false, "{status}");
    drop(deputy);
}

#[tokio::test(flavor = "multi_thread")]
async fn with_a_place_for_records_a_deputy_takes_over_though_the_leader_is_lost_with_its_region() {
    let pair = Pair::with(1, true).await;
    let check = pair.lifeboat("db2", &["check"]).await;
    assert!(check.stdout.contains("r3 (records)") && !check.stdout.contains("no takeover is automatic"), "{check}");
    let first = pair.once("db1").await;
    assert!(first.status.success(), "{first}");
    // The newest snapshot is in the leader's own region alone. The other region and the records are
    // a majority all the same.
    std::fs::write(pair.data(), "two").unwrap();
    set_away(&pair, "r2", true);
    let second = pair.once("db1").await;
    assert!(second.stdout.contains("\"snapshot\""), "{second}");
    let (lost, _) = second.stdout.split_once('\n').unwrap();
    let lost: Value = serde_json::from_str(lost).unwrap();
    let lost = lost["snapshot"].as_str().unwrap();
    set_away(&pair, "r2", false);
    set_away(&pair, "r1", true);

    std::fs::write(pair.data(), "three").unwrap();
    pair.configure("db2", "schedule = \"* * * * *\"");
    let began = Instant::now();
    let deputy = pair.daemon("db2").await;
    let status =
        pair.until("db2", "it has taken over", |status| status["successes"] == 1 && status["led_by"].is_null()).await;
    assert!(began.elapsed() < LONGEST_TAKEOVER, "it took {:?}", began.elapsed());
    assert!(status["takeover_needed"] == false, "{status}");
    drop(deputy);
    let log = std::fs::read_to_string(pair.home("db2").join("log")).unwrap();
    assert!(log.contains(&format!("snapshot {lost}, which host db1 committed, is in no replica")), "{log}");

    // The region comes back, and nothing has branched.
    set_away(&pair, "r1", false);
    let repair = pair.lifeboat("db2", &["--json", "repair", "data"]).await;
    assert!(repair.status.success(), "{repair}");
    let verified = pair.lifeboat("db2", &["verify", "data"]).await;
    assert!(verified.status.success(), "{verified}");
    assert_eq!(pair.makers().await, ["db1", "db1", "db2"]);
    assert_eq!(restored(&pair, &pair.place.path().join("restored")).await, "three");
    let records = pair.place.path().join("r3");
    for file in lifeboat_tests::vault::files_below(&records) {
        let key = file.strip_prefix(&records).unwrap().display().to_string();
        let is_record = key.ends_with("vault.json") || key.contains("/order/") || key.ends_with("/lease");
        assert!(is_record, "{key} is in the place for records");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn with_a_place_for_records_a_host_that_reaches_one_place_commits_nothing() {
    let pair = Pair::with(1, true).await;
    for away in [["r2", "r3"], ["r1", "r3"]] {
        away.iter().for_each(|replica| set_away(&pair, replica, true));
        let before = stored(&pair);
        let once = pair.once("db1").await;
        assert_eq!(exit_code(&once), Some(5), "{once}");
        assert!(once.stderr.contains("a commit must be known in 2 of the 3 places, and 1 can be used"), "{once}");
        let changed = changed(&before, &stored(&pair));
        assert!(changed.iter().all(|file| file.ends_with("lease")), "{changed:?}");
        away.iter().for_each(|replica| set_away(&pair, replica, false));
    }
    // Without the records, both replicas are a majority; but nothing is deleted.
    set_away(&pair, "r3", true);
    for _ in 0..3 {
        let once = pair.once("db1").await;
        assert!(once.stdout.contains("\"snapshot\"") && once.stderr.contains("r3, which holds records"), "{once}");
    }
    let prune = pair.lifeboat("db1", &["prune", "data", "--yes"]).await;
    assert!(exit_code(&prune) == Some(5) && prune.stderr.contains("nothing is marked or deleted: r3"), "{prune}");
    set_away(&pair, "r3", false);
    let once = pair.once("db1").await;
    assert!(once.status.success(), "{once}");
    let prune = pair.lifeboat("db1", &["prune", "data", "--yes"]).await;
    assert!(prune.status.success(), "{prune}");
}

#[tokio::test(flavor = "multi_thread")]
async fn while_nothing_runs_leader_and_deputy_write_nothing() {
    let pair = Pair::with(1, true).await;
    ["db1", "db2"].iter().for_each(|host| pair.configure(host, "schedule = \"0 0 29 2 *\""));
    let leader = pair.daemon("db1").await;
    let trigger = pair.lifeboat("db1", &["trigger", "data"]).await;
    assert!(trigger.status.success(), "{trigger}");
    let deputy = pair.daemon("db2").await;
    // What follows a run is over.
    tokio::time::sleep(Duration::from_secs(10)).await;
    let before = stored(&pair);
    tokio::time::sleep(IDLE).await;
    let changed = changed(&before, &stored(&pair));
    assert!(changed.is_empty(), "{changed:?} while nothing ran");
    drop((leader, deputy));
}
