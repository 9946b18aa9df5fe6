//! A drill that is killed in the load of a real PostgreSQL, its worker, and both: what is left, and
//! that the next drill leaves nothing of it.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use lifeboat_engine::config::{ReplicaConfig, ReplicaKind};
use lifeboat_engine::store::bandwidth::Bandwidth;
use lifeboat_tests::host::{BackupHost, section};
use lifeboat_tests::postgres::Postgres;
use lifeboat_tests::programs::{self, run};
use lifeboat_tests::vault::name;
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;
use tokio::process::{Child, Command};

const DEADLINE: Duration = Duration::from_secs(180);

/// A host with a backup of a database whose load takes seconds.
struct Killed {
    host: BackupHost,
    _vault: TempDir,
    place: TempDir,
    _server: Postgres,
}

/// The processes that work below a directory, by what the system says of each.
fn processes_in(directory: &Path) -> Vec<(i32, String)> {
    let names = std::fs::read_dir("/proc").unwrap().flatten().map(|entry| entry.file_name());
    let pids = names.filter_map(|name| name.to_str()?.parse::<i32>().ok());
    let is_in = |pid: &i32| std::fs::read_link(format!("/proc/{pid}/cwd")).is_ok_and(|cwd| cwd.starts_with(directory));
    let told = |pid: i32| (pid, std::fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap_or_default());
    pids.filter(is_in).map(told).collect()
}

fn children_of(pid: u32) -> Vec<i32> {
    let mut found = Vec::new();
    for task in std::fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten() {
        let children = std::fs::read_to_string(task.path().join("children")).unwrap_or_default();
        found.extend(children.split_whitespace().filter_map(|pid| pid.parse::<i32>().ok()));
    }
    found
}

fn send(pid: i32, signal: Signal) {
    kill_process(Pid::from_raw(pid).unwrap(), signal).unwrap();
}

async fn wait_for(what: &str, mut is_so: impl FnMut() -> bool) {
    let began = Instant::now();
    while !is_so() {
        assert!(began.elapsed() < Duration::from_secs(90), "{what} did not happen");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

impl Killed {
    async fn new() -> Self {
        let directory = || tempfile::Builder::new().prefix("lifeboat-killed-").tempdir_in("/tmp").unwrap();
        let (vault, place) = (directory(), directory());
        let open = |path: &Path, mode: u32| {
            std::fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(mode)).unwrap();
        };
        std::fs::create_dir(place.path().join("tmp")).unwrap();
        open(place.path(), 0o711);
        open(&place.path().join("tmp"), 0o1777);
        let server = Postgres::start().await;
        server.create_database("shop").await;
        let fill = "CREATE TABLE items AS SELECT i AS id, md5(i::text) AS name FROM generate_series(1, 1500000) i; \
                    CREATE INDEX ON items (name); CREATE INDEX ON items (id)";
        server.run_sql("shop", fill).await;
        let replica = ReplicaConfig {
            name: name("r1"),
            region: "away".to_owned(),
            kind: ReplicaKind::Directory { path: vault.path().to_owned() },
            timeout: Duration::from_secs(20),
            bandwidth: Bandwidth::default(),
        };
        let source = format!(
            "kind = \"postgres\"\nurl = \"{}\"\nclient_directories = [\"{}\"]\n[dataset.drill]\nschedule = \"@yearly\"\nlevel = \"loaded\"",
            server.url("postgres"),
            server.programs().display()
        );
        let host = BackupHost::set_up(&[section(&replica)], &source).await;
        let backup = run(host.lifeboatd().arg("--once"), DEADLINE).await.unwrap();
        assert_eq!(backup.code(), Some(0), "{backup}");
        Self { host, _vault: vault, place, _server: server }
    }

    fn tmp(&self) -> PathBuf {
        self.place.path().join("tmp")
    }

    fn drill(&self, words: &[&str]) -> Command {
        let mut command = Command::new(programs::lifeboat());
        command.arg("--config").arg(self.host.config()).arg("-i").arg(self.host.master());
        command.args(["-v", "--json", "drill"]).args(words).env("TMPDIR", self.tmp());
        command
    }

    /// A drill that is loading, and its worker.
    async fn loading(&self, words: &[&str]) -> (Child, i32) {
        let log = self.place.path().join("log");
        let mut command = self.drill(words);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(std::fs::File::create(&log).unwrap());
        let mut child = command.kill_on_drop(true).spawn().unwrap();
        wait_for("the load", || {
            let said = std::fs::read_to_string(&log).unwrap();
            assert!(child.try_wait().unwrap().is_none(), "it ended: {said}");
            said.lines().any(|line| line.contains("a phase of the drill begins") && line.contains("\"load\""))
        })
        .await;
        wait_for("a client of the server", || self.running().len() > 3).await;
        let workers = children_of(child.id().unwrap());
        let [worker] = workers.as_slice() else { panic!("{workers:?}") };
        (child, *worker)
    }

    fn running(&self) -> Vec<(i32, String)> {
        processes_in(&self.tmp())
    }

    fn left(&self) -> Vec<PathBuf> {
        std::fs::read_dir(self.tmp()).unwrap().map(|entry| entry.unwrap().path()).collect()
    }

    /// Links in `/tmp` that lead below it.
    fn links(&self) -> Vec<PathBuf> {
        let all = std::fs::read_dir("/tmp").unwrap().flatten().map(|entry| entry.path());
        all.filter(|path| std::fs::read_link(path).is_ok_and(|target| target.starts_with(self.tmp()))).collect()
    }

    fn assert_nothing_is_left(&self) {
        assert_eq!((self.running(), self.left(), self.links()), (Vec::new(), Vec::new(), Vec::new()));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drill_that_is_killed_leaves_nothing_that_the_next_does_not_sweep() {
    let killed = Killed::new().await;

    // The worker alone: the drill fails, and sweeps at once.
    let (mut drill, worker) = killed.loading(&["data", "--no-publish"]).await;
    send(worker, Signal::KILL);
    let status = tokio::time::timeout(DEADLINE, drill.wait()).await.unwrap().unwrap();
    assert!(status.code().is_some_and(|code| code != 0), "{status}");
    killed.assert_nothing_is_left();

    // Both at once: nobody is there to clean up. The worker is stopped first, so that it does not
    // see the end of the drill.
    let metrics = killed.place.path().join("metrics");
    std::fs::create_dir(&metrics).unwrap();
    let due = ["--due", "--textfiles", metrics.to_str().unwrap()];
    let (mut drill, worker) = killed.loading(&due).await;
    send(worker, Signal::STOP);
    send(drill.id().unwrap().cast_signed(), Signal::KILL);
    drill.wait().await.unwrap();
    send(worker, Signal::KILL);
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert!(killed.running().iter().any(|(_, command)| command.contains("postgres")), "{:?}", killed.running());
    assert_eq!(killed.left().len(), 1, "{:?}", killed.left());
    let swept = run(&mut killed.drill(&due), DEADLINE).await.unwrap();
    assert!(swept.status.success(), "{swept}");
    // The attempt that was killed is remembered, so it is not begun again. It counts as failed.
    assert!(swept.stderr.contains("was killed, and counts as failed"), "{swept}");
    let told_of = |family: &str| super::metrics(&metrics.join("lifeboat-drill-data.prom"), family);
    assert!(told_of("lifeboat_drill_last_status").abs() < 0.1 && told_of("lifeboat_drill_last_attempt") > 1e9);
    let told = swept.json().unwrap();
    assert_eq!(
        (told["drills"].as_array().map(Vec::len), told["waiting"][0]["dataset"].as_str()),
        (Some(0), Some("data"))
    );
    killed.assert_nothing_is_left();

    // The drill alone, with the lock of what is due: its worker sees that and stops the server. The
    // next drill needs neither, and succeeds.
    std::fs::remove_file(killed.host.path().join("state/drills/data/attempts")).unwrap();
    for kept in lifeboat_tests::vault::files_below(&killed.host.path().join("state/drills/data")) {
        std::fs::remove_file(kept).unwrap();
    }
    let (mut drill, _) = killed.loading(&["--due"]).await;
    send(drill.id().unwrap().cast_signed(), Signal::KILL);
    drill.wait().await.unwrap();
    assert_eq!(killed.left().len(), 1, "{:?}", killed.left());
    let next = run(&mut killed.drill(&["data"]), DEADLINE).await.unwrap();
    assert!(next.status.success(), "{next}");
    assert_eq!(next.json().unwrap()["reached"], "loaded");
    killed.assert_nothing_is_left();
    let due = run(&mut killed.drill(&["--due"]), DEADLINE).await.unwrap();
    assert!(due.status.success(), "the lock is free: {due}");
    assert!(due.stderr.contains("was killed"), "{due}");
}
