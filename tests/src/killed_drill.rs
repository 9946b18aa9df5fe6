//! The built `lifeboat drill` in a private `TMPDIR`, to be killed in the middle: what of it runs,
//! and what of it is left.
#![allow(clippy::expect_used)]

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;
use tokio::process::{Child, Command};

use crate::host::BackupHost;
use crate::programs;

const DEADLINE: Duration = Duration::from_secs(90);
/// Between two looks.
const STEP: Duration = Duration::from_millis(10);

/// Where drills work: a directory, and in it the one for temporary files.
pub struct DrillPlace(TempDir);

/// A drill that was started, and its worker.
pub struct DrillUnderWay {
    drill: Child,
    /// The process id of the worker, which is also the number of its session.
    pub worker: i32,
}

impl DrillPlace {
    /// Makes one that a worker of another user can reach.
    ///
    /// # Panics
    /// It cannot be made.
    #[must_use]
    pub fn make() -> Self {
        let place = tempfile::Builder::new().prefix("lifeboat-killed-").tempdir_in("/tmp").expect("a directory");
        let temporary = place.path().join("tmp");
        std::fs::create_dir(&temporary).expect("a directory");
        for (path, mode) in [(place.path(), 0o711), (&temporary, 0o1777)] {
            std::fs::set_permissions(path, Permissions::from_mode(mode)).expect("permissions");
        }
        Self(place)
    }

    /// The directory, for files of a test.
    #[must_use]
    pub fn path(&self) -> &Path {
        self.0.path()
    }

    /// `TMPDIR` of the drills.
    #[must_use]
    pub fn tmp(&self) -> PathBuf {
        self.path().join("tmp")
    }

    /// `lifeboat drill` with these words, as the owner, who reads JSON.
    #[must_use]
    pub fn drill(&self, host: &BackupHost, words: &[&str]) -> Command {
        let mut command = Command::new(programs::lifeboat());
        command.arg("--config").arg(host.config()).arg("-i").arg(host.master());
        command.args(["-v", "--json", "drill"]).args(words).env("TMPDIR", self.tmp());
        command
    }

    /// Starts a drill, and waits until it loads and something else is so.
    ///
    /// # Panics
    /// It ends before, or does not come so far.
    pub async fn loading(&self, host: &BackupHost, words: &[&str], is_so: impl Fn(&Self) -> bool) -> DrillUnderWay {
        let log = self.path().join("log");
        let mut command = self.drill(host, words);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(std::fs::File::create(&log).expect("a log"));
        let mut drill = command.kill_on_drop(true).spawn().expect("lifeboat runs");
        wait_for("the middle of the drill", || {
            let said = std::fs::read_to_string(&log).expect("a log");
            assert!(drill.try_wait().expect("it can be waited for").is_none(), "it ended: {said}");
            let loads = |line: &str| line.contains("a phase of the drill begins") && line.contains("\"load\"");
            said.lines().any(loads) && is_so(self)
        })
        .await;
        let workers = children_of(drill.id().expect("it runs"));
        let [worker] = workers.as_slice() else { panic!("{workers:?}") };
        DrillUnderWay { drill, worker: *worker }
    }

    /// The processes that work below `TMPDIR`, by number and command line.
    #[must_use]
    pub fn running(&self) -> Vec<(i32, String)> {
        let tmp = self.tmp();
        told(processes().filter(|pid| works_in(*pid, &tmp)))
    }

    /// The processes that work there, or whose command line or environment names it.
    #[must_use]
    pub fn named(&self) -> Vec<(i32, String)> {
        let tmp = self.tmp();
        let name = tmp.display().to_string();
        let names = |pid: i32| ["cmdline", "environ"].iter().any(|file| text_of(pid, file).contains(&name));
        told(processes().filter(|pid| works_in(*pid, &tmp) || names(*pid)))
    }

    /// What is in `TMPDIR`.
    ///
    /// # Panics
    /// It cannot be listed.
    #[must_use]
    pub fn left(&self) -> Vec<PathBuf> {
        let entries = std::fs::read_dir(self.tmp()).expect("a directory");
        entries.map(|entry| entry.expect("an entry").path()).collect()
    }

    /// Links in `/tmp` that lead below it.
    fn links(&self) -> Vec<PathBuf> {
        let all = std::fs::read_dir("/tmp").expect("a directory").flatten().map(|entry| entry.path());
        all.filter(|path| std::fs::read_link(path).is_ok_and(|target| target.starts_with(self.tmp()))).collect()
    }

    /// # Panics
    /// A process, a directory or a link is left.
    pub fn assert_nothing_is_left(&self) {
        assert_eq!((self.named(), self.left(), self.links()), (Vec::new(), Vec::new(), Vec::new()));
    }
}

impl DrillUnderWay {
    /// Kills the worker alone, and returns how the drill ends then.
    ///
    /// # Panics
    /// It does not end.
    pub async fn kill_worker(mut self) -> ExitStatus {
        send(self.worker, Signal::KILL);
        self.ended().await
    }

    /// Kills the drill alone. Its worker sees that.
    ///
    /// # Panics
    /// It ended before.
    pub async fn kill_drill(mut self) {
        send(self.drill.id().expect("it runs").cast_signed(), Signal::KILL);
        let status = self.ended().await;
        assert_eq!(status.signal(), Some(Signal::KILL.as_raw()), "it ended before: {status}");
    }

    /// Kills both: nobody is there to clean up. The worker is stopped first, so that it does not
    /// see the end of the drill.
    ///
    /// # Panics
    /// One of them ended before, or the worker does not end.
    pub async fn kill_both(self) {
        let worker = self.worker;
        send(worker, Signal::STOP);
        self.kill_drill().await;
        send(worker, Signal::KILL);
        wait_for("the end of the worker", || session_of(worker).is_none()).await;
    }

    async fn ended(&mut self) -> ExitStatus {
        let ended = tokio::time::timeout(DEADLINE, self.drill.wait()).await;
        ended.expect("the drill ends").expect("it can be waited for")
    }
}

/// The processes of a session, by number and command line.
#[must_use]
pub fn in_session(session: i32) -> Vec<(i32, String)> {
    told(processes().filter(|pid| session_of(*pid) == Some(session)))
}

/// Waits until something is so.
///
/// # Panics
/// It is not, for long.
pub async fn wait_for(what: &str, mut is_so: impl FnMut() -> bool) {
    let began = Instant::now();
    while !is_so() {
        assert!(began.elapsed() < DEADLINE, "{what} did not happen");
        tokio::time::sleep(STEP).await;
    }
}

fn processes() -> impl Iterator<Item = i32> {
    let names = std::fs::read_dir("/proc").expect("the processes").flatten().map(|entry| entry.file_name());
    names.filter_map(|name| name.to_str()?.parse().ok())
}

fn told(pids: impl Iterator<Item = i32>) -> Vec<(i32, String)> {
    pids.map(|pid| (pid, text_of(pid, "cmdline"))).collect()
}

/// What the system tells of a process; nothing of one that has ended.
fn text_of(pid: i32, file: &str) -> String {
    let bytes = std::fs::read(format!("/proc/{pid}/{file}")).unwrap_or_default();
    String::from_utf8_lossy(&bytes).replace('\0', " ")
}

fn works_in(pid: i32, directory: &Path) -> bool {
    std::fs::read_link(format!("/proc/{pid}/cwd")).is_ok_and(|cwd| cwd.starts_with(directory))
}

/// The session of a process that has not ended.
fn session_of(pid: i32) -> Option<i32> {
    let stat = text_of(pid, "stat");
    // The name of the program stands in parentheses, and may be anything.
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace();
    let has_ended = matches!(fields.next()?, "Z" | "X");
    // Behind the parent and the group.
    fields.nth(2)?.parse().ok().filter(|_| !has_ended)
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
    kill_process(Pid::from_raw(pid).expect("a process id"), signal).expect("it runs");
}
