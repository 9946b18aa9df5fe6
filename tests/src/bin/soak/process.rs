//! The daemon's process: started as a unit starts it, disturbed by the signals, limits and clocks
//! of a real machine, and measured.

use std::fs;
use std::path::PathBuf;
use std::process::Stdio;
use std::sync::atomic::{AtomicI32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use lifeboat_tests::{fake_clock, programs};
use rustix::process::{Pid, Resource, Rlimit, Signal, kill_process, prlimit};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};

use crate::Result;
use crate::peaks::{Peaks, measure};
use crate::watch::scrape;

/// After SIGTERM: `limits.shutdown`, what cancelled runs get, and a loaded machine.
const LONGEST_END: Duration = Duration::from_secs(60);
const LONGEST_START: Duration = Duration::from_secs(60);

/// Where the daemon's files are, and how its clock is set.
#[derive(Debug, Clone)]
pub(crate) struct Place {
    pub(crate) root: PathBuf,
    pub(crate) address: std::net::SocketAddr,
}

impl Place {
    pub(crate) fn config(&self) -> PathBuf {
        self.root.join("lifeboat.toml")
    }

    /// The same configuration for the CLI, as that of the daemon is replaced at times.
    pub(crate) fn steady_config(&self) -> PathBuf {
        self.root.join("steady.toml")
    }

    pub(crate) fn state(&self) -> PathBuf {
        self.root.join("state")
    }

    pub(crate) fn temporary(&self) -> PathBuf {
        self.root.join("tmp")
    }

    /// The replica that is a directory.
    pub(crate) fn cellar(&self) -> PathBuf {
        self.root.join("cellar")
    }

    pub(crate) fn log(&self) -> PathBuf {
        self.root.join("daemon.log")
    }

    /// Makes the daemon's clock wrong by so many seconds.
    pub(crate) fn set_clock(&self, ahead: i64) -> Result<()> {
        let next = self.root.join("clock.next");
        fs::write(&next, format!("{ahead:+}s\n"))?;
        Ok(fs::rename(next, self.root.join("clock"))?)
    }
}

/// The daemon, which runs or not.
pub(crate) struct Daemon {
    place: Place,
    child: Option<Child>,
    /// The process of the running daemon, 0 if there is none.
    process: Arc<AtomicI32>,
    peaks: Arc<Peaks>,
    log: Arc<Mutex<fs::File>>,
    lives: u64,
}

impl Daemon {
    pub(crate) fn new(place: Place, process: Arc<AtomicI32>, peaks: Arc<Peaks>) -> Result<Self> {
        let log = Arc::new(Mutex::new(fs::File::create(place.log())?));
        Ok(Self { place, child: None, process, peaks, log, lives: 0 })
    }

    pub(crate) fn lives(&self) -> u64 {
        self.lives
    }

    /// Starts it, and waits until it serves.
    pub(crate) async fn start(&mut self) -> Result<()> {
        let mut command = Command::new("sh");
        // A write beyond a limit is then told by an error, as on a full disk.
        command.args(["-c", "trap '' XFSZ; exec \"$@\"", "sh"]).arg(programs::lifeboatd());
        command.arg("--config").arg(self.place.config()).args(["--log", "json"]);
        command.env("TMPDIR", self.place.temporary()).envs(fake_clock::environment("+0s")).env_remove("FAKETIME");
        command.env("FAKETIME_TIMESTAMP_FILE", self.place.root.join("clock")).env("FAKETIME_CACHE_DURATION", "1");
        command.envs(allocator_of_the_unit());
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).kill_on_drop(true);
        let mut child = command.spawn()?;
        let stderr = child.stderr.take().ok_or("no standard error")?;
        let log = self.log.clone();
        tokio::spawn(async move {
            use std::io::Write;
            let mut lines = BufReader::new(stderr).lines();
            while let Ok(Some(line)) = lines.next_line().await {
                let _ = writeln!(log.lock().unwrap_or_else(PoisonError::into_inner), "{line}");
            }
        });
        self.process.store(child.id().unwrap_or_default().cast_signed(), Ordering::SeqCst);
        self.child = Some(child);
        self.lives += 1;
        let begun = Instant::now();
        while scrape(self.place.address).await.is_err() {
            self.must_run()?;
            if begun.elapsed() > LONGEST_START {
                return Err("the daemon does not serve".into());
            }
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
        Ok(())
    }

    /// # Errors
    /// It has ended by itself.
    pub(crate) fn must_run(&mut self) -> Result<()> {
        match self.child.as_mut().map(Child::try_wait).transpose()?.flatten() {
            Some(status) => Err(format!("the daemon ended by itself: {status}; {}", self.last_lines()).into()),
            None => Ok(()),
        }
    }

    fn last_lines(&self) -> String {
        let log = fs::read_to_string(self.place.log()).unwrap_or_default();
        let lines: Vec<&str> = log.lines().rev().take(5).collect();
        lines.into_iter().rev().collect::<Vec<_>>().join("\n")
    }

    fn pid(&self) -> Option<Pid> {
        Pid::from_raw(self.process.load(Ordering::SeqCst))
    }

    pub(crate) fn signal(&self, signal: Signal) -> Result<()> {
        Ok(kill_process(self.pid().ok_or("no daemon runs")?, signal)?)
    }

    pub(crate) async fn kill(&mut self) -> Result<()> {
        measure(&self.process, &self.peaks);
        if let Some(mut child) = self.child.take() {
            child.kill().await?;
        }
        self.gone();
        Ok(())
    }

    /// SIGTERM, which it must obey.
    pub(crate) async fn end(&mut self) -> Result<()> {
        measure(&self.process, &self.peaks);
        self.signal(Signal::TERM)?;
        if let Some(mut child) = self.child.take() {
            let status = tokio::time::timeout(LONGEST_END, child.wait()).await;
            let status = status.map_err(|_| "the daemon does not obey SIGTERM")??;
            if !status.success() {
                return Err(format!("after SIGTERM the daemon ended with {status}").into());
            }
        }
        self.gone();
        Ok(())
    }

    /// The clock's library leaves its own files when a process is killed.
    fn gone(&self) {
        let process = self.process.swap(0, Ordering::SeqCst);
        fake_clock::clean_up_after(process);
    }

    /// Sets a limit of the running process. Returns the old one.
    pub(crate) fn limit(&self, resource: Resource, current: Option<u64>) -> Result<Rlimit> {
        let pid = self.pid().ok_or("no daemon runs")?;
        let now = read_limit(pid, resource)?;
        prlimit(Some(pid), resource, Rlimit { current, maximum: now.maximum })?;
        Ok(now)
    }

    /// How many descriptors it has open.
    pub(crate) fn descriptors(&self) -> Result<u64> {
        let process = self.process.load(Ordering::SeqCst);
        Ok(fs::read_dir(format!("/proc/{process}/fd"))?.count() as u64)
    }
}

/// How its unit sets the allocator.
fn allocator_of_the_unit() -> impl Iterator<Item = (&'static str, &'static str)> {
    let lines = include_str!("../../../../systemd/lifeboatd.service").lines();
    let settings =
        lines.filter_map(|line| line.strip_prefix("Environment=").filter(|line| line.starts_with("MALLOC_")));
    let settings: Vec<_> =
        settings.flat_map(str::split_whitespace).filter_map(|setting| setting.split_once('=')).collect();
    assert!(!settings.is_empty(), "the unit does not set the allocator");
    settings.into_iter()
}

/// What the limit of another process is, which the kernel tells in a file.
fn read_limit(pid: Pid, resource: Resource) -> Result<Rlimit> {
    let name = match resource {
        Resource::Nofile => "Max open files",
        Resource::Fsize => "Max file size",
        _ => return Err("an unknown limit".into()),
    };
    let text = fs::read_to_string(format!("/proc/{}/limits", pid.as_raw_nonzero()))?;
    let line = text.lines().find_map(|line| line.strip_prefix(name)).ok_or("no such limit")?;
    let mut words = line.split_whitespace().map(|word| word.parse().ok());
    Ok(Rlimit { current: words.next().flatten(), maximum: words.next().flatten() })
}
