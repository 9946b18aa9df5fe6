//! The process of a throw-away server, of whatever engine: its private directory, the directory of
//! its unix socket, its log and its end.
//!
//! If Lifeboat runs as root, the server runs as an unprivileged user, and the scratch directory
//! becomes that user's. The server is a child of this process, in a process group of its own, with
//! a minimal environment. [`ServerProcess::stop`] and dropping end it and remove its files. Only a
//! SIGKILL of this process leaves it behind, in the session of this process: then whoever started
//! that removes it.
//!
//! The log is read through the handle that it was made with, and only its end. So a server that
//! puts something else in its place, or writes without end, gives no file away and takes no memory.

use std::ffi::OsStr;
use std::fs::File;
use std::os::unix::fs::{DirBuilderExt, FileExt, chown};
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use lifeboat_base::{Class, Context, Error, Result, disk};
use rustix::process::{Pid, Signal, kill_process, kill_process_group};
use tempfile::TempDir;
use tokio::process::{Child, Command};

use crate::database::WorkContext;
use crate::tool::user::unprivileged_user;

/// The path of a socket must fit into 107 bytes, and the name of its file takes some of them.
const MAX_SOCKET_DIRECTORY_BYTES: usize = 80;
/// So much of the log's end is told.
const TOLD_LOG_BYTES: usize = 2000;
/// What is asked to end, and what is killed, is waited for no longer.
const MAX_SERVER_END_TIME: Duration = Duration::from_secs(20);
/// What was told to quit is then killed.
const MAX_SERVER_QUIT_TIME: Duration = Duration::from_secs(5);
/// A server that its clients lost has ended after so long, or runs.
const MAX_SERVER_DEATH_TIME: Duration = Duration::from_millis(500);

/// How a server ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ServerEnd {
    /// SIGKILL of its group: nothing in it is worth an orderly end.
    Kill,
    /// SIGINT where there is time, else SIGQUIT, and SIGKILL only if that does not help. For a
    /// server whose children have sessions of their own, and end when it is told to.
    QuitThenKill,
}

/// A server that is to run, or runs.
pub(crate) struct ServerProcess {
    directory: PathBuf,
    socket_directory: PathBuf,
    /// Where the socket lies if the path of `directory` is too long.
    _short: Option<TempDir>,
    user: Option<(u32, u32)>,
    log: File,
    /// How much of the log is about its start.
    start_bytes: u64,
    end: ServerEnd,
    child: Option<Child>,
}

impl ServerProcess {
    /// Makes the place of a server below `cx.scratch`. It will run as `user` if we are root, or as
    /// `nobody` if there is no such user.
    ///
    /// # Errors
    /// [`Class::Source`]: there is no place or no user for it.
    pub(crate) fn prepare(cx: &WorkContext, user: &str, end: ServerEnd) -> Result<Self> {
        let user = unprivileged_user(user)?;
        let directory = cx.scratch.join("server");
        let failed = || format!("cannot prepare {}", directory.display());
        std::fs::DirBuilder::new().mode(0o700).create(&directory).context(Class::Source, failed)?;
        let log = File::options().read(true).write(true).create_new(true).open(directory.join("log"));
        let log = log.context(Class::Source, failed)?;
        let short = if directory.as_os_str().len() > MAX_SOCKET_DIRECTORY_BYTES {
            let short = tempfile::Builder::new().prefix("lifeboat-").tempdir_in("/tmp");
            Some(short.context(Class::Source, || "cannot make a directory for the socket in /tmp")?)
        } else {
            None
        };
        let socket_directory = short.as_ref().map_or_else(|| directory.clone(), |short| short.path().to_owned());
        let prepared = Self { directory, socket_directory, _short: short, user, log, start_bytes: 0, end, child: None };
        for path in [&cx.scratch, &prepared.directory, &prepared.socket_directory] {
            prepared.hand_over(path)?;
        }
        Ok(prepared)
    }

    /// Its private directory. The name `log` in it is taken.
    pub(crate) fn directory(&self) -> &Path {
        &self.directory
    }

    /// Where its socket is to lie: a path that is short enough.
    pub(crate) fn socket_directory(&self) -> &Path {
        &self.socket_directory
    }

    /// The user and group that it runs as, if we are root.
    pub(crate) fn user(&self) -> Option<(u32, u32)> {
        self.user
    }

    /// Gives a file to the user that the server runs as.
    ///
    /// # Errors
    /// The file is not there, or cannot be given away.
    pub(crate) fn hand_over(&self, path: &Path) -> Result<()> {
        let Some((user, group)) = self.user else { return Ok(()) };
        chown(path, Some(user), Some(group)).context(Class::Source, || format!("cannot prepare {}", path.display()))
    }

    /// `program` as it is to run: in its directory, as its user, and with a minimal environment.
    pub(crate) fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new(program);
        command.current_dir(&self.directory).env_clear().env("LC_ALL", "C.UTF-8").env("PATH", "/usr/bin:/bin");
        if let Some((user, group)) = self.user {
            command.uid(user).gid(group);
        }
        command
    }

    /// Starts what [`Self::command`] made. All that it says goes to its log.
    ///
    /// # Errors
    /// It cannot be run.
    pub(crate) fn spawn(&mut self, mut command: Command) -> Result<()> {
        let program = PathBuf::from(command.as_std().get_program());
        let failed = || format!("cannot run the throw-away server {}", program.display());
        let log = || self.log.try_clone().context(Class::Source, failed);
        command.stdin(Stdio::null()).stdout(log()?).stderr(log()?);
        let child = command.process_group(0).kill_on_drop(true).spawn().context(Class::Source, failed)?;
        self.child = Some(child);
        Ok(())
    }

    /// How it ended, if it did.
    pub(crate) fn ended(&mut self) -> Option<ExitStatus> {
        self.child.as_mut().and_then(|child| child.try_wait().ok().flatten())
    }

    /// Takes note that it has started: its log so far tells nothing of what goes wrong later.
    pub(crate) fn has_started(&mut self) {
        self.start_bytes = self.log_bytes();
    }

    /// `done`, unless the server has ended, or says in its log that its disk is full: its clients
    /// are told neither. `product` is what it is.
    ///
    /// # Errors
    /// That of `done`; or how the server ended; or what its log tells.
    pub(crate) async fn unless_ended<T: Send>(&mut self, product: &str, done: Result<T>) -> Result<T> {
        let patience = if done.is_err() { MAX_SERVER_DEATH_TIME } else { Duration::ZERO };
        let ended = async {
            loop {
                if let Some(status) = self.ended() {
                    return status;
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        let ended = tokio::time::timeout(patience, ended).await;
        let log = self.log();
        match (ended, done) {
            (Ok(status), done) => {
                let log = if log.is_empty() { log } else { format!(": {log}") };
                let what = format!("the throw-away {product} server ended with {status} during the drill{log}");
                let error = Error::source_failed(what)
                    .hint("see why it ended, such as for want of memory (journalctl -k), and run the drill again");
                Err(match done {
                    Err(lost) => error.because(lost),
                    Ok(_) => error,
                })
            }
            (Err(_), Err(failed)) if disk::can_cause(&failed) && disk::tells_of_full_disk(&log) => {
                Err(Error::storage(format!("the log of the throw-away {product} server says: {log}")).because(failed))
            }
            (Err(_), done) => done,
        }
    }

    /// How long its log is.
    pub(crate) fn log_bytes(&self) -> u64 {
        self.log.metadata().map_or(0, |log| log.len())
    }

    /// The end of its log since its start, as one line.
    pub(crate) fn log(&self) -> String {
        let mut end = vec![0; TOLD_LOG_BYTES];
        let begin = self.log_bytes().saturating_sub(TOLD_LOG_BYTES as u64).max(self.start_bytes);
        let mut length = 0;
        while let Ok(read @ 1..) = self.log.read_at(&mut end[length..], begin + length as u64) {
            length += read;
        }
        let text = String::from_utf8_lossy(&end[..length]);
        let clean: String = text.chars().map(|letter| if letter.is_control() { ' ' } else { letter }).collect();
        clean.split_whitespace().collect::<Vec<_>>().join(" ")
    }

    /// Stops it and removes its files.
    ///
    /// # Errors
    /// The files cannot be removed.
    pub(crate) async fn stop(mut self) -> Result<()> {
        if self.end == ServerEnd::QuitThenKill {
            self.signal(Signal::INT);
            self.wait().await;
        }
        self.end_now();
        self.wait().await;
        match tokio::fs::remove_dir_all(&self.directory).await {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                Err(error).context(Class::Source, || format!("cannot remove {}", self.directory.display()))
            }
            _ => Ok(()),
        }
    }

    async fn wait(&mut self) {
        if let Some(child) = &mut self.child {
            let _ = tokio::time::timeout(MAX_SERVER_END_TIME, child.wait()).await;
        }
    }

    /// Waits where nothing can be awaited.
    fn block_until_over(&mut self, patience: Duration) {
        let step = Duration::from_millis(20);
        for _ in 0..patience.as_millis() / step.as_millis() {
            match self.child.as_mut().map(Child::try_wait) {
                Some(Ok(None)) => std::thread::sleep(step),
                _ => break,
            }
        }
    }

    /// Its process, and its group. `None`: it does not run, or its end was seen.
    fn id(&self) -> Option<Pid> {
        self.child.as_ref().and_then(Child::id).and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw)
    }

    fn signal(&self, signal: Signal) {
        if let Some(id) = self.id() {
            let _ = kill_process(id, signal);
        }
    }

    /// Ends it without delay. Its death may still have to be waited for.
    fn end_now(&mut self) {
        if self.end == ServerEnd::QuitThenKill {
            self.signal(Signal::QUIT);
            self.block_until_over(MAX_SERVER_QUIT_TIME);
        }
        if let Some(group) = self.id() {
            let _ = kill_process_group(group, Signal::KILL);
        }
    }
}

impl Drop for ServerProcess {
    fn drop(&mut self) {
        self.end_now();
        self.block_until_over(MAX_SERVER_END_TIME);
        let _ = std::fs::remove_dir_all(&self.directory);
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use tokio::time::Instant;
    use tokio_util::sync::CancellationToken;

    use super::*;
    use crate::tool::environment::ToolEnvironment;

    fn context(scratch: &Path) -> WorkContext {
        WorkContext {
            scratch: scratch.to_owned(),
            stall: Duration::from_secs(10),
            jobs: 1,
            environment: ToolEnvironment::default(),
            cancel: CancellationToken::new(),
        }
    }

    /// A server that is this script. Returned when it has said `ready`.
    async fn running(scratch: &Path, end: ServerEnd, script: &str) -> ServerProcess {
        let mut server = ServerProcess::prepare(&context(scratch), "nobody", end).unwrap();
        let mut command = server.command("/bin/sh");
        command.arg("-c").arg(script);
        server.spawn(command).unwrap();
        let began = Instant::now();
        while !server.log().ends_with("ready") {
            assert!(began.elapsed() < Duration::from_secs(20), "{:?}: {}", server.ended(), server.log());
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        server
    }

    /// Whether the process whose number is the first word of `said` runs.
    fn runs(said: &str) -> bool {
        let id = said.split(' ').next().unwrap();
        let state = std::fs::read_to_string(format!("/proc/{id}/stat")).unwrap_or_default();
        !state.is_empty() && !state.contains(") Z ")
    }

    /// Waits until that process ended, as a process that is killed does so a little later.
    async fn assert_ends(said: &str) {
        let began = Instant::now();
        while runs(said) {
            assert!(began.elapsed() < Duration::from_secs(10), "its child goes on");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    #[tokio::test]
    async fn stopping_or_dropping_ends_its_children_and_removes_its_files() {
        // The child ignores what a shell sends it.
        let script = "trap '' INT QUIT TERM; sleep 600 & echo $! ready; wait";
        for stops in [true, false] {
            let scratch = tempfile::tempdir().unwrap();
            let server = running(scratch.path(), ServerEnd::Kill, script).await;
            let said = server.log();
            assert!(runs(&said), "{said}");
            match stops {
                true => server.stop().await.unwrap(),
                false => drop(server),
            }
            assert_ends(&said).await;
            assert_eq!(std::fs::read_dir(scratch.path()).unwrap().count(), 0, "something is left");
        }
    }

    #[tokio::test]
    async fn a_server_with_an_orderly_end_is_asked_first_and_killed_if_it_does_not_listen() {
        let scratch = tempfile::tempdir().unwrap();
        let outside = scratch.path().join("how");
        for (signal, stops) in [("INT", true), ("QUIT", false)] {
            // A shell could not: whoever starts tests in the background has it ignore both signals.
            let script = format!(
                "exec python3 -c 'import signal, sys, time
def end(*_): open(\"../how\", \"w\").write(\"{signal}\"); sys.exit()
signal.signal(signal.SIG{signal}, end); print(\"ready\", flush=True); time.sleep(600)'"
            );
            let server = running(scratch.path(), ServerEnd::QuitThenKill, &script).await;
            match stops {
                true => server.stop().await.unwrap(),
                false => drop(server),
            }
            assert_eq!(std::fs::read_to_string(&outside).unwrap().trim(), signal);
            std::fs::remove_file(&outside).unwrap();
        }
        let deaf = "trap '' INT QUIT TERM; sleep 600 & echo $! ready; wait";
        let server = running(scratch.path(), ServerEnd::QuitThenKill, deaf).await;
        let (said, began) = (server.log(), Instant::now());
        drop(server);
        assert!(began.elapsed() >= MAX_SERVER_QUIT_TIME, "it was killed at once");
        assert_ends(&said).await;
        assert_eq!(std::fs::read_dir(scratch.path()).unwrap().count(), 0, "something is left");
    }

    #[tokio::test]
    async fn of_a_log_only_the_end_is_told_and_of_nothing_else() {
        let scratch = tempfile::tempdir().unwrap();
        let script = "head -c 5000000 /dev/zero | tr '\\0' x; printf 'begin \\033[31m\\007\\n\\n end' >&2; \
            rm log; ln -s /etc/passwd log; printf ' ready'";
        let mut server = running(scratch.path(), ServerEnd::Kill, script).await;
        let said = server.log();
        assert!(said.len() <= TOLD_LOG_BYTES && said.ends_with("xbegin [31m end ready"), "{said}");
        assert!(server.log_bytes() > 5_000_000);
        let began = Instant::now();
        while server.ended().is_none() {
            assert!(began.elapsed() < Duration::from_secs(10), "its end is not seen");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        assert_eq!(server.log(), said);
        server.stop().await.unwrap();
    }

    #[tokio::test]
    async fn what_failed_is_told_with_what_the_log_says_of_a_full_disk_since_the_start() {
        const FULL: &str = "[ERROR] InnoDB: preallocating 23068672 bytes for file ./shop/t.ibd failed with error 28";
        for (before, after, class) in
            [(FULL, "", Class::Source), ("", FULL, Class::Storage), ("", "a warning", Class::Source)]
        {
            let scratch = tempfile::tempdir().unwrap();
            let go_on = scratch.path().join("go-on");
            let script = format!(
                "echo '{before}'; printf ready; until [ -e {} ]; do sleep 0.01; done; echo '{after}'; sleep 600",
                go_on.display()
            );
            let mut server = running(scratch.path(), ServerEnd::Kill, &script).await;
            server.has_started();
            std::fs::write(go_on, "").unwrap();
            let began = Instant::now();
            while !server.log().contains(after) {
                assert!(began.elapsed() < Duration::from_secs(10), "{}", server.log());
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            let failed = || Err::<(), _>(Error::source_failed("ERROR 1180 at line 3"));
            let error = server.unless_ended("MariaDB", failed()).await.unwrap_err();
            assert_eq!(error.class(), class, "{}", error.chain());
            assert!(error.chain().ends_with("ERROR 1180 at line 3"), "{}", error.chain());
            let wrong = server.unless_ended("MariaDB", Err::<(), _>(Error::integrity("cut off"))).await.unwrap_err();
            assert_eq!((wrong.class(), wrong.message()), (Class::Integrity, "cut off"));
            assert!(server.unless_ended("MariaDB", Ok(())).await.is_ok());
        }
    }

    #[tokio::test]
    async fn the_socket_of_a_server_in_a_long_path_has_a_short_one() {
        let place = tempfile::tempdir().unwrap();
        let scratch = place.path().join("x".repeat(MAX_SOCKET_DIRECTORY_BYTES));
        std::fs::create_dir(&scratch).unwrap();
        let server = ServerProcess::prepare(&context(&scratch), "nobody", ServerEnd::Kill).unwrap();
        let socket = server.socket_directory().to_owned();
        assert!(socket.is_dir() && socket.as_os_str().len() <= MAX_SOCKET_DIRECTORY_BYTES, "{}", socket.display());
        drop(server);
        assert!(!socket.exists() && !scratch.join("server").exists());
    }
}
