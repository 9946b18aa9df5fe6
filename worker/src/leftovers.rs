//! What a drill that is killed leaves behind, and who removes it.
//!
//! - **Who owned it**: the directory of a drill has in its name the process id and the start time
//!   of the drill, so it is known from the moment it exists. If no process has both, the drill is
//!   gone, and the next one sweeps.
//! - **What ran**: each worker leads a session of its own. Its process id and start time are in the
//!   directory before it gets a job, so before it starts anything. The system gives no new process
//!   the number of a session that still has members: whatever is in that session, or descends from
//!   it, is of that worker. Nothing is ever told by the name of a program.
//! - **Whose it is**: only a directory of this very user is believed, and only one that holds what
//!   a drill makes there and nothing else. Others may make what they like in the same place, and
//!   this user may call a directory of data `lifeboat-2026-11-30`.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::fs::Permissions;
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use lifeboat_base::{Class, Context, Result};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use tempfile::TempDir;

/// How the name of the directory of a drill begins. It is short, as sockets lie below.
const DRILL_PREFIX: &str = "lifeboat-";
const RANDOM_LETTERS: usize = 4;
/// The directory in it that the worker's user gets.
const WORK: &str = "w";
/// How the name of the empty directory begins that tells of a worker, and of when the machine
/// started.
const WORKER_PREFIX: &str = "worker-";
const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";
/// Each round kills what is there; what that had started is there in the next.
const MAX_KILL_ROUNDS: usize = 500;
const BETWEEN_ROUNDS: Duration = Duration::from_millis(10);

/// A process that no later one is mistaken for, as long as the machine runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ProcessKey {
    pid: i32,
    /// Ticks of the clock since the machine started.
    started: u64,
}

/// Both numbers, hexadecimal.
impl fmt::Display for ProcessKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:x}-{:x}", self.pid, self.started)
    }
}

/// What the system tells of a process.
#[derive(Debug, Clone, Copy)]
struct Listed {
    parent: i32,
    session: i32,
    started: u64,
    /// It has ended, and waits for its parent.
    is_zombie: bool,
}

impl Listed {
    /// Reads the line of `/proc/PID/stat`. The name of the program, in parentheses, may be
    /// anything.
    fn parse(line: &str) -> Option<Self> {
        let fields: Vec<&str> = line.rsplit_once(')')?.1.split_whitespace().collect();
        Some(Self {
            is_zombie: matches!(*fields.first()?, "Z" | "X"),
            parent: fields.get(1)?.parse().ok()?,
            session: fields.get(3)?.parse().ok()?,
            started: fields.get(19)?.parse().ok()?,
        })
    }

    fn of(pid: i32) -> Option<Self> {
        Self::parse(&std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
    }

    /// All that run.
    fn all() -> BTreeMap<i32, Self> {
        let names = std::fs::read_dir("/proc").into_iter().flatten().flatten().map(|entry| entry.file_name());
        let pids = names.filter_map(|name| name.to_str()?.parse::<i32>().ok());
        pids.filter_map(|pid| Some((pid, Self::of(pid)?))).filter(|(_, listed)| !listed.is_zombie).collect()
    }
}

impl ProcessKey {
    /// That of a process that runs, or has ended and was not waited for.
    pub(crate) fn of(pid: i32) -> Option<Self> {
        Listed::of(pid).map(|listed| Self { pid, started: listed.started })
    }

    fn runs(self) -> bool {
        Listed::of(self.pid).is_some_and(|listed| listed.started == self.started && !listed.is_zombie)
    }

    /// The processes of the session that this one leads or led, and their descendants.
    fn session(self) -> Vec<Self> {
        let all = Listed::all();
        // Somebody else has the number now, so that session has ended.
        if all.get(&self.pid).is_some_and(|listed| listed.started != self.started) {
            return Vec::new();
        }
        let mut members: BTreeSet<i32> = all
            .iter()
            .filter(|(pid, listed)| listed.session == self.pid || **pid == self.pid)
            .map(|(pid, _)| *pid)
            .collect();
        loop {
            let more: Vec<i32> = all
                .iter()
                .filter(|(pid, listed)| members.contains(&listed.parent) && !members.contains(pid))
                .map(|(pid, _)| *pid)
                .collect();
            if more.is_empty() {
                break;
            }
            members.extend(more);
        }
        members.into_iter().filter_map(|pid| Some(Self { pid, started: all.get(&pid)?.started })).collect()
    }

    /// Kills the processes of that session, and returns how many there were.
    pub(crate) fn kill_session(self) -> usize {
        let mut killed = BTreeSet::new();
        for _ in 0..MAX_KILL_ROUNDS {
            let members = self.session();
            if members.is_empty() {
                break;
            }
            for member in members {
                killed.insert(member.pid);
                member.kill();
            }
            std::thread::sleep(BETWEEN_ROUNDS);
        }
        killed.len()
    }

    fn kill(self) {
        let Some(pid) = Pid::from_raw(self.pid) else { return };
        // What the descriptor stands for stays the same process, whoever gets its number.
        if let Ok(process) = pidfd_open(pid, PidfdFlags::empty())
            && self.runs()
        {
            let _ = pidfd_send_signal(&process, Signal::KILL);
        }
    }
}

fn boot_id() -> String {
    std::fs::read_to_string(BOOT_ID).unwrap_or_default().trim().to_owned()
}

/// The directory of a drill, which goes when this is dropped.
#[derive(Debug)]
pub struct DrillDirectory {
    directory: TempDir,
    work: PathBuf,
}

impl DrillDirectory {
    /// Makes one in `parent`.
    ///
    /// # Errors
    /// [`Class::Storage`].
    pub fn make(parent: &Path) -> Result<Self> {
        let failed = || format!("cannot make a temporary directory in {}", parent.display());
        let make = || -> io::Result<Self> {
            let pid = rustix::process::getpid().as_raw_nonzero().get();
            let own = ProcessKey::of(pid).ok_or_else(|| io::Error::other("the system does not list this process"))?;
            let mut builder = tempfile::Builder::new();
            let prefix = format!("{DRILL_PREFIX}{own}-");
            // The worker's user has to come through, and sees nothing.
            let directory = builder
                .prefix(&prefix)
                .rand_bytes(RANDOM_LETTERS)
                .permissions(Permissions::from_mode(0o711))
                .tempdir_in(parent)?;
            let work = directory.path().join(WORK);
            std::fs::create_dir(&work)?;
            std::fs::set_permissions(&work, Permissions::from_mode(0o700))?;
            Ok(Self { directory, work })
        };
        make()
            .context(Class::Storage, failed)
            .map_err(|error| error.hint("set TMPDIR to a directory with enough space"))
    }

    /// The private directory in it for the throw-away database.
    #[must_use]
    pub fn work(&self) -> &Path {
        &self.work
    }

    /// The whole directory.
    #[must_use]
    pub fn path(&self) -> &Path {
        self.directory.path()
    }
}

/// Remembers the worker that gets `scratch`, if that is of a drill.
pub(crate) fn remember_worker(scratch: &Path, worker: ProcessKey) -> io::Result<()> {
    match scratch.parent().filter(|parent| owner_of(parent).is_some()) {
        Some(directory) => std::fs::create_dir(directory.join(format!("{WORKER_PREFIX}{worker}-{}", boot_id()))),
        None => Ok(()),
    }
}

/// What was swept.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Swept {
    /// Directories that were removed.
    pub directories: Vec<PathBuf>,
    /// How many processes were killed.
    pub processes: usize,
    /// What could not be removed, and why.
    pub problems: Vec<String>,
}

/// Removes what drills left in `parent` that were killed: their processes, then their directories,
/// and links to these in `/tmp`.
#[must_use]
pub fn sweep(parent: &Path) -> Swept {
    let mut swept = Swept::default();
    for entry in std::fs::read_dir(parent).into_iter().flatten().flatten() {
        let path = entry.path();
        let is_ours = path.symlink_metadata().is_ok_and(|found| {
            found.is_dir() && found.uid() == rustix::process::geteuid().as_raw() && found.mode() & 0o022 == 0
        });
        let Some(owner) = owner_of(&path).filter(|_| is_ours && holds_a_drill_alone(&path)) else { continue };
        if owner.runs() {
            continue;
        }
        for worker in workers_of(&path) {
            swept.processes += worker.kill_session();
        }
        match remove(&path) {
            Ok(()) => swept.directories.push(path),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => swept.problems.push(format!("cannot remove {}: {error}", path.display())),
        }
    }
    swept
}

/// Whether nothing is in a directory but what a drill makes there.
fn holds_a_drill_alone(directory: &Path) -> bool {
    let Ok(mut entries) = std::fs::read_dir(directory) else { return false };
    entries.all(|entry| {
        let name = entry.map(|entry| entry.file_name());
        name.is_ok_and(|name| name.to_str().is_some_and(|name| name == WORK || name.starts_with(WORKER_PREFIX)))
    })
}

/// The drill whose directory this is, by its name.
fn owner_of(directory: &Path) -> Option<ProcessKey> {
    key_of(directory.file_name()?.to_str()?.strip_prefix(DRILL_PREFIX)?)
}

/// A process as [`ProcessKey`] is written, and what may follow after another hyphen.
fn key_of(text: &str) -> Option<ProcessKey> {
    let mut parts = text.splitn(3, '-');
    let pid = i32::from_str_radix(parts.next()?, 16).ok()?;
    let started = u64::from_str_radix(parts.next()?, 16).ok()?;
    Some(ProcessKey { pid, started }).filter(|key| key.pid > 1)
}

/// The workers that a drill remembered since this machine started.
fn workers_of(directory: &Path) -> Vec<ProcessKey> {
    let names = std::fs::read_dir(directory).into_iter().flatten().flatten().map(|entry| entry.file_name());
    let boot = boot_id();
    let worker = |name: std::ffi::OsString| {
        let written = name.to_str()?.strip_prefix(WORKER_PREFIX)?;
        let is_of_this_boot = written.splitn(3, '-').nth(2) == Some(boot.as_str());
        key_of(written).filter(|_| is_of_this_boot)
    };
    names.filter_map(worker).collect()
}

fn remove(directory: &Path) -> io::Result<()> {
    let work = directory.join(WORK);
    for entry in std::fs::read_dir("/tmp").into_iter().flatten().flatten() {
        if std::fs::read_link(entry.path()).is_ok_and(|target| target == work) {
            let _ = std::fs::remove_file(entry.path());
        }
    }
    std::fs::remove_dir_all(directory)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;
    use std::process::{Command, Stdio};

    /// Leads a session of its own, starts a child in another session, and ends or waits.
    fn in_session(script: &str) -> std::process::Child {
        let mut command = Command::new("setsid");
        command.args(["sh", "-c", script]).stdin(Stdio::null()).stdout(Stdio::piped()).spawn().unwrap()
    }

    fn gone(pid: i32) -> bool {
        (0..200).any(|_| {
            std::thread::sleep(Duration::from_millis(10));
            Listed::of(pid).is_none_or(|listed| listed.is_zombie)
        })
    }

    #[test]
    fn a_name_in_parentheses_tells_nothing() {
        let line = "7 (a) R 1 (b)) S 3 7 5 0 -1 0 0 0 0 0 0 0 0 0 20 0 1 0 4711 0 0";
        let listed = Listed::parse(line).unwrap();
        assert_eq!((listed.parent, listed.session, listed.started, listed.is_zombie), (3, 5, 4711, false));
        assert!(Listed::parse("7 (a) S 3").is_none() && Listed::parse("").is_none());
        let own = Listed::of(rustix::process::getpid().as_raw_nonzero().get()).unwrap();
        assert!(own.started > 0);
    }

    #[test]
    fn what_a_dead_worker_started_is_found_by_its_session_and_nothing_else_is() {
        let mut bystander = in_session("exec sleep 60");
        // `setsid` forks only if it leads a group, which a child of a test does not.
        let mut leader = in_session("sleep 60 & setsid sleep 60 & wait");
        let pid = leader.id().cast_signed();
        std::thread::sleep(Duration::from_millis(300));
        let key = ProcessKey::of(pid).unwrap();
        let members = key.session();
        assert_eq!(members.len(), 3, "{members:?}");
        // It dies alone; the child in its session, which nobody waits for, lives on.
        rustix::process::kill_process(Pid::from_raw(pid).unwrap(), Signal::KILL).unwrap();
        leader.wait().unwrap();
        assert!(key.kill_session() >= 1);
        assert!(!Listed::all().values().any(|listed| listed.session == pid), "one in its session lives on");
        assert!(bystander.try_wait().unwrap().is_none());
        // A number that another process has by now is nobody's.
        let living = ProcessKey::of(bystander.id().cast_signed()).unwrap();
        let other = ProcessKey { started: living.started - 1, ..living };
        assert_eq!((other.session(), other.kill_session()), (Vec::new(), 0));
        bystander.kill().unwrap();
        bystander.wait().unwrap();
        for member in members {
            ProcessKey::kill(member);
        }
    }

    #[test]
    fn only_what_a_dead_drill_left_is_swept() {
        let place = tempfile::tempdir().unwrap();
        let alive = DrillDirectory::make(place.path()).unwrap();
        let mut worker = in_session("exec sleep 60");
        let worker_key = ProcessKey::of(worker.id().cast_signed()).unwrap();
        // One whose drill has ended: the name has another start time.
        let own = owner_of(alive.path()).unwrap();
        let before = ProcessKey { started: own.started - 1, ..own };
        let dead = place.path().join(format!("{DRILL_PREFIX}{before}-abc"));
        std::fs::create_dir_all(dead.join(WORK).join("server")).unwrap();
        std::thread::sleep(Duration::from_millis(100));
        remember_worker(&dead.join(WORK), worker_key).unwrap();
        let link = tempfile::Builder::new()
            .prefix("lifeboat-")
            .make_in("/tmp", |path| std::os::unix::fs::symlink(dead.join(WORK), path));
        let (_, link) = link.unwrap().keep().unwrap();
        for other in ["lifeboat-x", "lifeboat-x-1-a", "lifeboat-1-1-a", "other"] {
            std::fs::create_dir(place.path().join(other)).unwrap();
        }
        let writable = place.path().join(format!("{DRILL_PREFIX}{}-open", ProcessKey { started: 1, ..own }));
        std::fs::create_dir(&writable).unwrap();
        std::fs::set_permissions(&writable, Permissions::from_mode(0o777)).unwrap();
        let restored = place.path().join("lifeboat-2026-11-30");
        std::fs::create_dir(&restored).unwrap();
        std::fs::write(restored.join("shop.dump"), "data").unwrap();
        let swept = sweep(place.path());
        assert!(restored.join("shop.dump").exists(), "{swept:?}");
        assert_eq!((swept.directories, swept.processes, swept.problems), (vec![dead.clone()], 1, Vec::new()));
        assert!(gone(worker_key.pid) && !dead.exists() && link.symlink_metadata().is_err());
        worker.wait().unwrap();
        assert_eq!(std::fs::read_dir(place.path()).unwrap().count(), 7, "all others are there");
        assert_eq!(sweep(place.path()), Swept::default());
        // A worker of before the machine started anew is nobody.
        std::fs::create_dir_all(dead.join(WORK)).unwrap();
        let mut stranger = in_session("exec sleep 60");
        std::thread::sleep(Duration::from_millis(100));
        let key = ProcessKey::of(stranger.id().cast_signed()).unwrap();
        std::fs::create_dir(dead.join(format!("{WORKER_PREFIX}{key}-another-boot"))).unwrap();
        assert_eq!(sweep(place.path()).processes, 0);
        assert!(stranger.try_wait().unwrap().is_none());
        stranger.kill().unwrap();
        stranger.wait().unwrap();
    }
}
