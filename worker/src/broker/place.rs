//! Where a worker comes from: a socket that systemd listens on, or a program that is started here.
//!
//! systemd gives each connection a worker of its own, as the user `lifeboat-worker` and
//! without network.
//! A program that root starts gives up root for the user `lifeboat-worker`, or `nobody`. Started by
//! anybody else, it keeps that user, and only Landlock stands between it and the keys.

use std::fmt;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{chown, symlink};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use lifeboat_base::{Class, Context, Error, Result};
use rustix::process::Signal;
use tempfile::NamedTempFile;
use tokio::io::AsyncReadExt;
use tokio::net::UnixStream;
use tokio::process::{Child, ChildStderr, Command};
use tokio_util::task::AbortOnDropHandle;

use super::queue::Queue;
use crate::channel::{self, Receiver};
use crate::leftovers::{self, ProcessKey};
use crate::protocol::MAX_REPLY_BYTES;

/// The name of the program.
const PROGRAM: &str = "lifeboat-worker";
/// Who does root's work with databases: the first that exists.
const USERS: [&str; 2] = ["lifeboat-worker", "nobody"];
/// What a worker has to stop and clean up when its socket was closed.
const END_GRACE: Duration = Duration::from_secs(30);
/// The path of a socket has at most 107 bytes.
const MAX_SCRATCH_PATH_BYTES: usize = 64;
/// What to do about a worker that was killed. The kernel does that where memory runs out.
const KILLED_REMEDY: &str =
    "it may have run out of memory: look at the kernel's log (`journalctl -k`), and run it again";
/// No more is kept of what a worker says outside of its messages.
const MAX_SAID_BYTES: usize = 2000;

/// Where a worker comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum WorkerPlace {
    /// A socket, with a new worker for each connection.
    Socket(PathBuf),
    /// The program, which is started for each job.
    Program(PathBuf),
}

/// What stands between a worker and the keys, beside Landlock and seccomp.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Guard {
    /// systemd's sandbox.
    Service,
    /// Another user.
    User(String),
    /// Nothing.
    Nothing,
}

impl fmt::Display for Guard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Service => f.write_str("a service of its own"),
            Self::User(name) => write!(f, "the user {name}"),
            Self::Nothing => f.write_str("the user that holds the keys"),
        }
    }
}

impl WorkerPlace {
    /// The program in the folder of `program`.
    #[must_use]
    pub fn beside(program: &Path) -> Self {
        Self::Program(program.with_file_name(PROGRAM))
    }

    /// Why there can be no worker here: its program is missing, or root has no user for it. A
    /// socket is not asked.
    #[must_use]
    pub fn problem(&self) -> Option<Error> {
        let Self::Program(program) = self else { return None };
        if !program.is_file() {
            let missing = Error::failed(format!("the program {} is missing", program.display()));
            return Some(missing.hint("install lifeboat-worker beside lifeboat"));
        }
        other_user().err()
    }

    /// What stands between its workers and the keys.
    #[must_use]
    pub fn guard(&self) -> Guard {
        match self {
            Self::Socket(_) => Guard::Service,
            Self::Program(_) => other_user().ok().flatten().map_or(Guard::Nothing, |user| Guard::User(user.name)),
        }
    }

    /// A new worker, and its directory for temporary files if this place has one. `scratch` is a
    /// private directory.
    pub(crate) async fn connect(&self, scratch: &Path) -> Result<(Connection, Option<PathBuf>)> {
        match self {
            Self::Socket(path) => {
                let socket = UnixStream::connect(path).await.map_err(|error| {
                    Error::failed(format!("there is no worker at {}", path.display()))
                        .because(error)
                        .hint("run systemctl enable --now lifeboat-worker.socket")
                })?;
                Ok((Connection::new(socket, None), None))
            }
            Self::Program(program) => {
                let short = ShortPath::of(scratch)?;
                let given = short.path().to_owned();
                Ok((start(program, scratch, short)?, Some(given)))
            }
        }
    }
}

fn start(program: &Path, scratch: &Path, short: ShortPath) -> Result<Connection> {
    let failed = || format!("cannot start the worker {}", program.display());
    let (ours, theirs) = std::os::unix::net::UnixStream::pair().context(Class::Failed, failed)?;
    ours.set_nonblocking(true).context(Class::Failed, failed)?;
    let mut command = Command::new(program);
    if let Some(user) = other_user()? {
        chown(scratch, Some(user.uid), Some(user.gid)).context(Class::Failed, failed)?;
        command.arg("--user").arg(format!("{}:{}", user.uid, user.gid));
    }
    let child = command
        .env_clear()
        .stdin(OwnedFd::from(theirs))
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .current_dir("/")
        .spawn()
        .map_err(|error| {
            let missing = error.kind() == std::io::ErrorKind::NotFound;
            let error = Error::failed(failed()).because(error);
            if missing { error.hint("install lifeboat-worker beside lifeboat") } else { error }
        })?;
    drop(command);
    let process = Process::new(child, short);
    if let Some(worker) = process.key {
        // Before it gets a job, so before it starts anything.
        leftovers::remember_worker(scratch, worker).context(Class::Storage, failed)?;
    }
    Ok(Connection::new(UnixStream::from_std(ours).context(Class::Failed, failed)?, Some(process)))
}

/// A directory, by a path that leaves room for the names of unix sockets below it.
enum ShortPath {
    Itself(PathBuf),
    /// A link in `/tmp`.
    Link(NamedTempFile<()>),
}

impl ShortPath {
    fn of(directory: &Path) -> Result<Self> {
        if directory.as_os_str().len() <= MAX_SCRATCH_PATH_BYTES {
            return Ok(Self::Itself(directory.to_owned()));
        }
        let link = tempfile::Builder::new().prefix("lifeboat-").make_in("/tmp", |path| symlink(directory, path));
        link.map(Self::Link).context(Class::Failed, || "cannot make a link in /tmp")
    }

    fn path(&self) -> &Path {
        match self {
            Self::Itself(path) => path,
            Self::Link(link) => link.path(),
        }
    }
}

struct User {
    name: String,
    uid: u32,
    gid: u32,
}

/// The user of a worker that root starts; `None` if this is not root.
///
/// # Errors
/// There is no such user: a worker is never root.
fn other_user() -> Result<Option<User>> {
    if !rustix::process::geteuid().is_root() {
        return Ok(None);
    }
    let users = std::fs::read_to_string("/etc/passwd").context(Class::Failed, || "cannot read /etc/passwd")?;
    let entry = |name: &str| {
        let line = users.lines().find(|line| line.split(':').next() == Some(name))?;
        let mut fields = line.split(':').skip(2);
        let (uid, gid): (u32, u32) = (fields.next()?.parse().ok()?, fields.next()?.parse().ok()?);
        (uid != 0).then(|| User { name: name.to_owned(), uid, gid })
    };
    USERS.into_iter().find_map(entry).map(Some).ok_or_else(|| {
        Error::failed("there is neither a user lifeboat-worker nor nobody, and root does no work with databases")
            .hint("run systemd-sysusers, or this as an ordinary user")
    })
}

/// A socket to a worker, and its process if it was started here.
pub(crate) struct Connection {
    pub(crate) queue: Queue,
    pub(crate) receiver: Receiver,
    process: Option<Process>,
    /// Whether the worker has said anything.
    pub(crate) heard: bool,
}

impl Connection {
    fn new(socket: UnixStream, process: Option<Process>) -> Self {
        let (sender, receiver) = channel::ends(socket, MAX_REPLY_BYTES, false);
        Self { queue: Queue::new(sender), receiver, process, heard: false }
    }

    /// Why a worker ended, or is no longer listened to: then `error` says why.
    pub(crate) async fn gone(&mut self, error: Option<Error>) -> Error {
        self.receiver.close();
        if let Some(error) = error {
            return error.within("the worker is not understood");
        }
        match &mut self.process {
            Some(process) => {
                let (said, was_killed) = process.last_words().await;
                let ended = Error::failed(format!("the worker ended before its work was done{said}"));
                if was_killed { ended.hint(KILLED_REMEDY) } else { ended }
            }
            None if self.heard => Error::failed("the worker ended before its work was done")
                .hint("its journal says why: journalctl -u 'lifeboat-worker@*'"),
            None => Error::failed("no worker was free: systemd closed the connection")
                .hint("run fewer drills at once, or raise MaxConnections= of lifeboat-worker.socket"),
        }
    }

    /// Closes the socket, and waits until the worker has cleaned up.
    pub(crate) async fn end(mut self) {
        self.receiver.close();
        if let Some(process) = &mut self.process {
            let _ = tokio::time::timeout(END_GRACE, process.child.wait()).await;
        }
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.receiver.close();
    }
}

/// A worker that was started here. When it is dropped, the worker has time to clean up, then it is
/// killed, and with it whatever is left of the session that it leads.
struct Process {
    child: Child,
    key: Option<ProcessKey>,
    said: Arc<Mutex<Vec<u8>>>,
    listening: Option<AbortOnDropHandle<()>>,
    _short: ShortPath,
}

impl Process {
    fn new(mut child: Child, short: ShortPath) -> Self {
        let said = Arc::new(Mutex::new(Vec::new()));
        let key = child.id().and_then(|id| ProcessKey::of(id.cast_signed()));
        let stderr = child.stderr.take();
        let listening = stderr.map(|stderr| AbortOnDropHandle::new(tokio::spawn(listen(stderr, Arc::clone(&said)))));
        Self { child, key, said, listening, _short: short }
    }

    /// How it ended and what it said, and whether somebody killed it.
    async fn last_words(&mut self) -> (String, bool) {
        let ended = tokio::time::timeout(Duration::from_secs(5), self.child.wait()).await;
        let ended = ended.ok().and_then(std::io::Result::ok);
        let was_killed = ended.is_some_and(|status| status.signal() == Some(Signal::KILL.as_raw()));
        let status = ended.map_or_else(String::new, |status| format!(" ({status})"));
        // What it started may live on, and hold its standard error.
        if let Some(listening) = self.listening.take() {
            let _ = tokio::time::timeout(Duration::from_secs(1), listening).await;
        }
        let said = self.said.lock().unwrap_or_else(PoisonError::into_inner);
        let text = String::from_utf8_lossy(&said).split_whitespace().collect::<Vec<_>>().join(" ");
        let told = if text.is_empty() { status } else { format!("{status}, saying: {}", text.escape_debug()) };
        (told, was_killed)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let step = Duration::from_millis(20);
        for _ in 0..END_GRACE.as_millis() / step.as_millis() {
            if !matches!(self.child.try_wait(), Ok(None)) {
                break;
            }
            std::thread::sleep(step);
        }
        // One that was killed had no time to stop what it had started.
        let killed = self.key.map_or(0, ProcessKey::kill_session);
        if killed > 0 {
            tracing::warn!(killed, "The worker left processes, which were killed");
        }
    }
}

async fn listen(mut stderr: ChildStderr, said: Arc<Mutex<Vec<u8>>>) {
    let mut piece = [0; 1024];
    while let Ok(read) = stderr.read(&mut piece).await {
        if read == 0 {
            return;
        }
        let mut said = said.lock().unwrap_or_else(PoisonError::into_inner);
        said.extend_from_slice(&piece[..read]);
        let excess = said.len().saturating_sub(MAX_SAID_BYTES);
        said.drain(..excess);
    }
}
