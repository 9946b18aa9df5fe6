//! The built lifeboatd and lifeboat, run as an operator runs them.
//!
//! The programs are built once per process, with the profile and into the target directory of the
//! running test, so no test meets stale ones. `LIFEBOAT_BIN_DIR` names a directory with finished
//! programs instead. A program that is stopped, at its deadline or by its token, first gets SIGTERM
//! and time to clean up.

use std::io;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::sync::OnceLock;
use std::time::Duration;

use lifeboat_engine::worker::WorkerPlace;
use rustix::process::{Pid, Signal, kill_process};
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::process::{Child, Command};
use tokio_util::sync::CancellationToken;

/// What a program gets between SIGTERM and SIGKILL.
const GRACE: Duration = Duration::from_secs(30);

/// The directory that holds the programs.
///
/// # Panics
/// They cannot be built: no test that needs them may pass.
pub fn directory() -> &'static Path {
    static DIRECTORY: OnceLock<PathBuf> = OnceLock::new();
    DIRECTORY.get_or_init(|| match std::env::var_os("LIFEBOAT_BIN_DIR") {
        Some(directory) => {
            PathBuf::from(directory).canonicalize().unwrap_or_else(|error| panic!("LIFEBOAT_BIN_DIR: {error}"))
        }
        None => build(),
    })
}

/// The daemon.
#[must_use]
pub fn lifeboatd() -> PathBuf {
    directory().join("lifeboatd")
}

/// Where the work with databases is done.
#[must_use]
pub fn worker() -> WorkerPlace {
    WorkerPlace::Program(directory().join("lifeboat-worker"))
}

/// The restore CLI.
#[must_use]
pub fn lifeboat() -> PathBuf {
    directory().join("lifeboat")
}

fn build() -> PathBuf {
    let me = std::env::current_exe().unwrap_or_else(|error| panic!("where is the running test? {error}"));
    // target/PROFILE/demo or target/PROFILE/deps/test-0123
    let directory = me.ancestors().skip(1).find(|path| !path.ends_with("deps")).unwrap_or(&me).to_path_buf();
    let profile = match directory.file_name().and_then(|name| name.to_str()) {
        Some("debug") | None => "dev",
        Some(profile) => profile,
    };
    let status = std::process::Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
        .args(["build", "--quiet", "--locked", "--workspace", "--bins", "--profile", profile])
        .arg("--target-dir")
        .arg(directory.parent().unwrap_or(&directory))
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .status();
    match status {
        Ok(status) if status.success() => directory,
        Ok(status) => panic!("building the programs failed ({status}): see above"),
        Err(error) => panic!("cargo does not run: {error}"),
    }
}

/// What a finished program left.
#[derive(Debug)]
pub struct Output {
    /// How it ended.
    pub status: ExitStatus,
    /// Its standard output.
    pub stdout: String,
    /// Its standard error.
    pub stderr: String,
}

impl Output {
    /// Its exit code; `None` if a signal ended it.
    #[must_use]
    pub fn code(&self) -> Option<i32> {
        self.status.code()
    }

    /// Its standard output as JSON.
    ///
    /// # Errors
    /// It is not; the error shows what the program said instead.
    pub fn json(&self) -> io::Result<serde_json::Value> {
        serde_json::from_str(&self.stdout).map_err(|error| io::Error::other(format!("not JSON: {error}\n{self}")))
    }
}

impl std::fmt::Display for Output {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}\n{}{}", self.status, self.stdout, self.stderr)
    }
}

/// Runs `command` to its end, with nothing on its standard input.
///
/// # Errors
/// It cannot be started, or is still running after `deadline` and was stopped.
pub async fn run(command: &mut Command, deadline: Duration) -> io::Result<Output> {
    run_until(command, deadline, &CancellationToken::new()).await
}

/// [`run`], stopped early when `stop` fires: the output then tells how the program took it.
///
/// # Errors
/// As [`run`].
pub async fn run_until(command: &mut Command, deadline: Duration, stop: &CancellationToken) -> io::Result<Output> {
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .map_err(|error| io::Error::new(error.kind(), format!("{:?}: {error}", command.as_std().get_program())))?;
    let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
    let output = tokio::spawn(async move { tokio::join!(read_all(stdout), read_all(stderr)) });

    let (status, late) = tokio::select! {
        status = child.wait() => (status?, false),
        () = stop.cancelled() => (terminate(&mut child).await?, false),
        () = tokio::time::sleep(deadline) => (terminate(&mut child).await?, true),
    };
    // A grandchild that outlives the program and holds its pipes must not hold us.
    let (stdout, stderr) = tokio::time::timeout(GRACE, output)
        .await
        .map_err(|_| io::Error::other(format!("{command:?} ended, but left a process that holds its output")))??;
    let output = Output { status, stdout, stderr };
    if late {
        return Err(io::Error::new(
            io::ErrorKind::TimedOut,
            format!("{command:?} ran longer than {deadline:?}: {output}"),
        ));
    }
    Ok(output)
}

async fn read_all(pipe: Option<impl AsyncRead + Unpin>) -> String {
    let mut bytes = Vec::new();
    if let Some(mut pipe) = pipe {
        // What came before an error is what the program said.
        let _ = pipe.read_to_end(&mut bytes).await;
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// SIGTERM, and SIGKILL to one that does not listen.
///
/// # Errors
/// It cannot be waited for.
pub async fn terminate(child: &mut Child) -> io::Result<ExitStatus> {
    signal(child, Signal::TERM);
    match tokio::time::timeout(GRACE, child.wait()).await {
        Ok(status) => status,
        Err(_) => {
            child.kill().await?;
            child.wait().await
        }
    }
}

/// Sends `signal`, unless the program has ended and been waited for.
pub fn signal(child: &Child, signal: Signal) {
    if let Some(pid) = child.id().and_then(|id| Pid::from_raw(id.cast_signed())) {
        // It may have ended a moment ago: then there is nobody to tell.
        let _ = kill_process(pid, signal);
    }
}

/// The command lines of the processes that work in a directory, also in one that is gone.
pub(crate) fn processes_in(directory: &Path) -> Vec<String> {
    let all = std::fs::read_dir("/proc").into_iter().flatten().flatten().map(|entry| entry.path());
    let is_in = |process: &PathBuf| std::fs::read_link(process.join("cwd")).is_ok_and(|cwd| cwd.starts_with(directory));
    let told = |process: PathBuf| {
        let line = std::fs::read(process.join("cmdline")).unwrap_or_default();
        format!("{} {}", process.display(), String::from_utf8_lossy(&line).replace('\0', " "))
    };
    all.filter(is_in).map(told).collect()
}
