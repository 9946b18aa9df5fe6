//! The state directory holds locks, caches and the journal. All of it can be lost: the next run
//! rebuilds what it needs. Where it cannot be written, runs cost more, and succeed.
//!
//! ```text
//! lock                            held by the one daemon that uses the directory
//! datasets/<dataset>/status.json  what the metrics show; the daemon writes it, so it survives a restart
//! datasets/<dataset>/lock         held by the one run (of the daemon, --once or prune) that works on the dataset; its process id
//! datasets/<dataset>/cache/<t>/…  exact copies of small vault objects whose signatures were checked (ciphertext)
//! datasets/<dataset>/cache/<t>/.… what these objects said, so that nobody opens and checks them twice (sealed); <t> tells whom this host believed
//! datasets/<dataset>/journal      packs uploaded since the last commit (sealed)
//! datasets/<dataset>/rows/…       keyed hashes of the newest snapshot's rows, up to 4 % of its size, and maps, up to 2 %; up to twice that during a run (sealed)
//! datasets/<dataset>/fingerprints what the streams of the newest snapshot were made of, where a source tells it (sealed: hashes)
//! datasets/<dataset>/unreferenced which packs no snapshot refers to, and since when (plain: ids and times)
//! datasets/<dataset>/seen         the number of the newest act that this host has seen (plain)
//! datasets/<dataset>/shown        which snapshots each replica has shown (plain: ids)
//! datasets/<dataset>/locks        when the locks of each replica were extended last, and how far that is (plain)
//! datasets/<dataset>/sparse       packs that new snapshots must not refer to (plain: ids)
//! datasets/<dataset>/history      sizes and compressibility of each stream in the last 62 days with runs (plain)
//! datasets/<dataset>/flagged      snapshots that depart from it and wait for `lifeboat acknowledge` (plain)
//! datasets/<dataset>/pause.json   until when an operator wants no backup by schedule (plain)
//! datasets/<dataset>/runs         how the last runs ended (plain)
//! datasets/<dataset>/scratch/…    a run's temporary files
//! groups/<group>.json             the newest common moment of a group, and why the last run had none (plain)
//! log/lock                        held by the one process that adds a record to this principal's log
//! log/seen.json                   the newest records of other logs that were seen (plain: names, numbers, hashes)
//! log/<kind>/<name>/<n>.record    the newest 4,096 records of the own log, as they are stored
//! log/<kind>/<name>/<n>.taken     which replicas have it (plain: names)
//! drills/.lock                    held by the one process that runs the drills that are due
//! drills/<dataset>/<n>.json       on a drill host: a report that could not be uploaded to the vault
//! drills/<dataset>/attempts       when drills began, and what they chose (plain: times, ids, names)
//! groups/<group>/attempts         on a drill host: when drills of a group began (plain: times)
//! ```
//!
//! Locks are advisory file locks. The system releases them however their holder ends.

pub mod cache;
pub(crate) mod chunk_table;
pub(crate) mod fingerprints;
pub mod journal;
pub mod past_runs;
pub mod pause;
mod place;
pub mod row_index;
pub(crate) mod sealed_log;
pub(crate) mod seen;
pub mod watch;

use std::fs::{DirBuilder, File, OpenOptions, TryLockError};
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use lifeboat_base::{Class, Context, Error, Result};
use lifeboat_format::id::Name;

pub use self::place::place_for;

const LOCK: &str = "lock";
/// Beside it are directories with names of datasets. No name begins with a dot.
const DRILLS_LOCK: &str = ".lock";
/// A lock that is taken is looked at so often, …
const TRIES_AT_LOCK: u32 = 4;
/// … with so much time between.
const BETWEEN_TRIES: Duration = Duration::from_millis(50);
/// The folder of logs.
const LOG: &str = "log";
/// The folder of what is remembered of groups.
pub(crate) const GROUPS: &str = "groups";
/// The folder of what a drill host remembers.
pub(crate) const DRILLS: &str = "drills";
/// How the name of a file begins that is not whole yet.
const UNFINISHED: &str = ".new-";

/// The state directory, which only its owner can read (mode 0700).
#[derive(Debug, Clone)]
pub struct StateDirectory {
    root: PathBuf,
}

/// A lock that is held until it is dropped. The system releases it after a crash.
#[derive(Debug)]
pub struct Lock {
    _file: File,
}

impl StateDirectory {
    /// Opens the directory `root`, or creates it.
    ///
    /// # Errors
    /// [`Class::Storage`] if it cannot be created; [`Class::Configuration`] if other users may
    /// write to it.
    pub fn open(root: &Path) -> Result<Self> {
        create_private(root)?;
        let metadata = root
            .metadata()
            .context(Class::Storage, || format!("cannot read the state directory {}", root.display()))?;
        if metadata.permissions().mode() & 0o022 != 0 {
            return Err(Error::configuration(format!("the state directory {} is writable by others", root.display()))
                .hint(format!("run `chmod 0700 {}`", root.display())));
        }
        Ok(Self { root: root.to_owned() })
    }

    /// As [`Self::open`], for a program that changes what is in it.
    ///
    /// # Errors
    /// As [`Self::open`]; [`Class::Usage`] if it belongs to another user. Even root is refused:
    /// what root writes there, the daemon cannot read or replace.
    pub fn open_for_writing(root: &Path) -> Result<Self> {
        let state = Self::open(root)?;
        state.refuse_another_user()?;
        Ok(state)
    }

    /// Refuses to change files in the directory of another user.
    fn refuse_another_user(&self) -> Result<()> {
        if !self.is_of_another_user() {
            return Ok(());
        }
        let owner = self.root.metadata().map(|found| found.uid()).unwrap_or_default();
        let (owner, user) = match user_named(owner) {
            Some(name) => (format!("user {name}"), name),
            None => (format!("the user with id {owner}"), format!("'#{owner}'")),
        };
        let root = self.root.display();
        let refused = Error::usage(format!(
            "the state directory {root} belongs to {owner}, whom files of this user would lock out"
        ));
        if self.root.metadata().is_ok_and(|found| found.uid() == 0) {
            return Err(refused.hint(format!(
                "a command of root made it before the daemon did: if it is the daemon's, run `chown -R lifeboat: {root}`"
            )));
        }
        Err(refused.hint(format!("run the same command as that user: put `sudo -u {user}` before it, or, if it needs keys that only root can read, use `systemd-run` as OPERATIONS.md shows")))
    }

    /// The path of the state directory.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.root
    }

    /// Whether files that this user makes there would lock the directory's owner out.
    #[must_use]
    pub fn is_of_another_user(&self) -> bool {
        let owner = self.root.metadata().map(|found| found.uid());
        owner.is_ok_and(|owner| owner != rustix::process::geteuid().as_raw())
    }

    /// Takes the lock of the one daemon that may use this directory.
    ///
    /// # Errors
    /// [`Class::Failed`] if another process holds the lock; [`Class::Usage`] if the directory
    /// belongs to another user; [`Class::Storage`] if the disk fails.
    pub fn lock_daemon(&self) -> Result<Lock> {
        self.refuse_another_user()?;
        let path = self.root.join(LOCK);
        try_lock(&path)?.ok_or_else(|| {
            Error::failed(format!("another lifeboatd holds {}", path.display()))
                .hint("stop the other daemon, or give this one its own state_directory")
        })
    }

    /// Takes the lock of the one run that may work on a dataset.
    ///
    /// # Errors
    /// As [`Self::take_dataset_lock`]; [`Class::Failed`] if another run holds the lock.
    pub async fn lock_dataset(&self, dataset: &Name) -> Result<Lock> {
        self.take_dataset_lock(dataset).await?.ok_or_else(|| self.taken(dataset))
    }

    /// Takes the lock of a dataset at once; `None` if another run holds it, or if it seems so: see
    /// [`Self::take_dataset_lock`].
    ///
    /// # Errors
    /// [`Class::Usage`] if the directory belongs to another user; [`Class::Storage`] if the disk
    /// fails.
    pub fn try_lock_dataset(&self, dataset: &Name) -> Result<Option<Lock>> {
        self.refuse_another_user()?;
        try_lock(&self.dataset(dataset)?.join(LOCK))
    }

    /// As [`Self::try_lock_dataset`], but looks a few times: a tool that this process starts has a
    /// copy of what is open here until it executes its program, and so of a lock that was dropped.
    ///
    /// # Errors
    /// As [`Self::try_lock_dataset`].
    pub async fn take_dataset_lock(&self, dataset: &Name) -> Result<Option<Lock>> {
        for tried in 0..TRIES_AT_LOCK {
            if tried > 0 {
                tokio::time::sleep(BETWEEN_TRIES).await;
            }
            if let Some(lock) = self.try_lock_dataset(dataset)? {
                return Ok(Some(lock));
            }
        }
        Ok(None)
    }

    /// The error of whoever needs the lock of a dataset that another run holds.
    #[must_use]
    pub fn taken(&self, dataset: &Name) -> Error {
        let holder = self.holder(dataset);
        Error::failed(format!("{holder} works on dataset {dataset} and holds its lock"))
            .hint("wait until that run ends; `lifeboatd status` shows what is running")
    }

    /// Takes the lock of the one process that may add to a log; `None` if another holds it.
    ///
    /// # Errors
    /// [`Class::Storage`] if the disk fails.
    pub(crate) fn try_lock_log(&self) -> Result<Option<Lock>> {
        let folder = self.root.join(LOG);
        create_private(&folder)?;
        try_lock(&folder.join(LOCK))
    }

    /// Takes the lock of the one process that runs the drills that are due; `None` if another holds
    /// it.
    ///
    /// # Errors
    /// [`Class::Storage`] if the disk fails.
    pub fn try_lock_drills(&self) -> Result<Option<Lock>> {
        let folder = self.root.join(DRILLS);
        create_private(&folder)?;
        try_lock(&folder.join(DRILLS_LOCK))
    }

    /// Who holds the lock of a dataset, in words.
    #[must_use]
    pub fn holder(&self, dataset: &Name) -> String {
        let path = self.dataset_path(dataset).join(LOCK);
        let process: Option<u32> = std::fs::read_to_string(path).ok().and_then(|text| text.trim().parse().ok());
        process.map_or("another run".to_owned(), |process| format!("another run (process {process})"))
    }

    /// A private, empty directory for a run's temporary files.
    ///
    /// # Errors
    /// [`Class::Storage`] if it cannot be emptied or created.
    pub fn scratch(&self, dataset: &Name) -> Result<PathBuf> {
        let path = self.scratch_path(dataset);
        match std::fs::remove_dir_all(&path) {
            Ok(()) => {}
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => {
                return Err(Error::storage(format!("cannot empty {}", path.display())).because(error));
            }
        }
        create_private(&path)?;
        Ok(path)
    }

    /// Where the status of a group is kept.
    #[must_use]
    pub fn group(&self, group: &Name) -> PathBuf {
        self.root.join(GROUPS).join(format!("{group}.json"))
    }

    /// Replaces the status of a group.
    ///
    /// # Errors
    /// As [`replace_file`].
    pub fn write_group(&self, group: &Name, content: &[u8]) -> Result<()> {
        create_private(&self.root.join(GROUPS))?;
        replace_file(&self.group(group), content)
    }

    /// Keeps other programs from changing the status of groups until it is dropped. It waits for
    /// them: none holds it for long.
    ///
    /// # Errors
    /// [`Class::Storage`].
    pub fn lock_groups(&self) -> Result<File> {
        let folder = self.root.join(GROUPS);
        let failed = || format!("cannot lock {}", folder.display());
        create_private(&folder)?;
        let lock = File::open(&folder).context(Class::Storage, failed)?;
        lock.lock().context(Class::Storage, failed)?;
        Ok(lock)
    }

    /// Where [`Self::scratch`] is.
    pub(crate) fn scratch_path(&self, dataset: &Name) -> PathBuf {
        self.dataset_path(dataset).join("scratch")
    }

    /// The directory of one dataset, which is created if necessary.
    pub(crate) fn dataset(&self, dataset: &Name) -> Result<PathBuf> {
        let path = self.dataset_path(dataset);
        create_private(&path)?;
        Ok(path)
    }

    /// Where [`Self::dataset`] is.
    fn dataset_path(&self, dataset: &Name) -> PathBuf {
        folder_of(&self.root, dataset)
    }

    /// What a file of a dataset says that remembers what this host has seen. `None`: there is no
    /// such file, so it has seen nothing.
    ///
    /// # Errors
    /// [`Class::Storage`]: it cannot be read. [`Class::Integrity`]: `parse` makes nothing of it.
    pub(crate) fn witness<T>(
        &self,
        dataset: &Name,
        file: &str,
        parse: impl FnOnce(&[u8]) -> Option<T>,
    ) -> Result<Option<T>> {
        let path = self.dataset_path(dataset).join(file);
        let found = match std::fs::read(&path) {
            Ok(text) => parse(&text).ok_or_else(|| Error::integrity(format!("{} is damaged", path.display()))),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => Err(Error::storage(format!("cannot read {}", path.display())).because(error)),
        };
        let hint = "mend the disk or the rights of the file; or remove it if `lifeboat verify` finds nothing: then a loss that only this file tells of is not noticed";
        found.map(Some).map_err(|error| error.hint(hint))
    }
}

/// The name of the user with this id, if this machine knows one.
#[must_use]
pub fn user_named(uid: u32) -> Option<String> {
    let users = std::fs::read_to_string("/etc/passwd").ok()?;
    users.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        (fields.nth(1)? == uid.to_string()).then(|| name.to_owned())
    })
}

pub(crate) fn create_private(path: &Path) -> Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(|error| {
        Error::storage(format!("cannot create {}", path.display()))
            .because(error)
            .hint("check that its parent directory exists, belongs to the user of Lifeboat, and has free space")
    })
}

/// `None` if another process holds the lock. The file then tells its id, if the disk had room.
fn try_lock(path: &Path) -> Result<Option<Lock>> {
    let open = OpenOptions::new().create(true).truncate(false).write(true).mode(0o600).open(path);
    // A disk that cannot be written any more still has the file.
    let mut file = open
        .or_else(|error| File::open(path).map_err(|_| error))
        .context(Class::Storage, || format!("cannot open the lock {}", path.display()))
        .map_err(|error| error.hint("check the disk of the state directory and who owns it"))?;
    match file.try_lock() {
        Ok(()) => {
            let _ = file.set_len(0).and_then(|()| file.write_all(format!("{}\n", std::process::id()).as_bytes()));
            Ok(Some(Lock { _file: file }))
        }
        Err(TryLockError::WouldBlock) => Ok(None),
        Err(TryLockError::Error(error)) => {
            Err(Error::storage(format!("cannot lock {}", path.display())).because(error))
        }
    }
}

/// The directory of a dataset in the state directory `root`.
pub(crate) fn folder_of(root: &Path, dataset: &Name) -> PathBuf {
    root.join("datasets").join(dataset.as_str())
}

/// Replaces `path` with `content`, atomically and durably. A reader sees the whole old file or the
/// whole new one.
///
/// # Errors
/// [`Class::Storage`] if the disk fails or is full. The old file is still in place, unless only the
/// last sync failed.
pub fn replace_file(path: &Path, content: &[u8]) -> Result<()> {
    replace(path, true, |file| file.write_all(content))
}

/// As [`replace_file`], for what is checked when it is read: where the machine loses its power, the
/// file may be damaged. Thousands of such files are written in the time of a few durable ones.
fn replace_cheaply(path: &Path, write: impl FnOnce(&mut File) -> std::io::Result<()>) -> Result<()> {
    replace(path, false, write)
}

fn replace(path: &Path, durably: bool, write: impl FnOnce(&mut File) -> std::io::Result<()>) -> Result<()> {
    let written = || -> std::io::Result<()> {
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let mut file = tempfile::Builder::new().prefix(UNFINISHED).tempfile_in(folder).map_err(place::plainly)?;
        write(file.as_file_mut())?;
        if !durably {
            file.persist(path)?;
            return Ok(());
        }
        file.as_file().sync_all()?;
        file.persist(path)?;
        File::open(folder)?.sync_all()
    };
    let written = written().context(Class::Storage, || format!("cannot write {}", path.display()));
    written.map_err(|error| error.hint("check that its disk is not full and works"))
}

/// As [`replace_file`]. If that fails, the old content is removed: what is out of date must not be
/// believed.
///
/// # Errors
/// As [`replace_file`]. There may be no file then.
pub(crate) fn replace_or_forget(path: &Path, content: &[u8]) -> Result<()> {
    replace_file(path, content).inspect_err(|_| drop(std::fs::remove_file(path)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_daemon_and_a_second_run_are_refused() -> Result<()> {
        let place = tempfile::tempdir().context(Class::Failed, || "no temporary directory")?;
        let state = StateDirectory::open(&place.path().join("state"))?;
        let shop: Name = "shop".parse()?;
        let held = (state.lock_daemon()?, state.try_lock_dataset(&shop)?);
        assert!(held.1.is_some() && state.lock_daemon().is_err() && state.try_lock_dataset(&shop)?.is_none());
        assert!(state.try_lock_dataset(&"other".parse()?)?.is_some());
        drop(held);
        assert!(state.lock_daemon().is_ok() && state.try_lock_dataset(&shop)?.is_some());
        Ok(())
    }

    #[test]
    fn no_dataset_is_named_as_the_lock_of_drills() -> Result<()> {
        let place = tempfile::tempdir().context(Class::Failed, || "no temporary directory")?;
        let state = StateDirectory::open(&place.path().join("state"))?;
        let held = state.try_lock_drills()?;
        assert!(held.is_some() && state.try_lock_drills()?.is_none());
        create_private(&place.path().join("state/drills/lock"))?;
        assert!(".lock".parse::<Name>().is_err());
        Ok(())
    }

    /// Only root can make a directory that belongs to somebody else, and is who would write there.
    #[test]
    fn root_leaves_no_files_in_the_directory_of_another_user() -> Result<()> {
        assert!(rustix::process::geteuid().is_root(), "run as root: only root meets this refusal");
        let place = tempfile::tempdir().context(Class::Failed, || "no temporary directory")?;
        let shop: Name = "shop".parse()?;
        for (owner, told) in [(65534, "`sudo -u nobody`"), (54321, "`sudo -u '#54321'`")] {
            let root = place.path().join(owner.to_string());
            let state = StateDirectory::open_for_writing(&root)?;
            std::os::unix::fs::chown(&root, Some(owner), None).context(Class::Failed, || "cannot chown")?;
            let refusals = [
                StateDirectory::open_for_writing(&root).err(),
                state.try_lock_dataset(&shop).err(),
                state.lock_daemon().err(),
            ];
            for refusal in refusals {
                let refusal = refusal.ok_or_else(|| Error::failed("root wrote there"))?;
                assert_eq!(refusal.class(), Class::Usage);
                assert!(refusal.hint_text().is_some_and(|hint| hint.contains(told)), "{refusal:?}");
            }
            let left = std::fs::read_dir(&root).context(Class::Failed, || "cannot list")?.count();
            assert_eq!(left, 0, "something was written");
            assert!(StateDirectory::open(&root).is_ok(), "it can still be read");
        }
        Ok(())
    }

    #[test]
    fn scratch_is_empty_and_private() -> Result<()> {
        let place = tempfile::tempdir().context(Class::Failed, || "no temporary directory")?;
        let state = StateDirectory::open(place.path())?;
        let shop: Name = "shop".parse()?;
        replace_file(&state.scratch(&shop)?.join("left"), b"x")?;
        let scratch = state.scratch(&shop)?;
        assert!(!scratch.join("left").exists());
        let mode = scratch.metadata().map(|metadata| metadata.permissions().mode() & 0o777).unwrap_or_default();
        assert_eq!(mode, 0o700);
        Ok(())
    }
}
