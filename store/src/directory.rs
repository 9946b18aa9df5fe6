//! A replica in a directory: another disk, an NFS mount, a copy of a bucket.
//!
//! - **Atomicity**: a body is written to a hidden temporary file beside its place, synced, then
//!   linked (new) or renamed (replace) into place, and the directory is synced. A crash leaves at
//!   most a hidden file, which no listing shows. Whoever writes into the folder next removes those
//!   that are a week old, by their own time; each process looks once into each folder.
//! - **Folders**: unlike in S3, a key cannot be both an object and a folder of other objects. No
//!   vault needs that.
//! - **The configured directory must exist**: a missing directory is taken for an unmounted disk,
//!   never for an empty vault.
//! - **Links** below the configured directory are never followed, for nothing (`beneath.rs`). Only
//!   regular files are objects: links, pipes and devices are none.
//! - **Deadlines**: a call that exceeds its deadline returns at once. Its thread may still finish
//!   what it has begun.
//! - **A cap on the bandwidth** paces the pieces as they are written and read. The page cache may
//!   pass them to the disk at another pace.

use std::collections::HashSet;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use chrono::{DateTime, Utc};
use lifeboat_base::clock::SharedClock;
use lifeboat_format::id::Name;

use rustix::fs::Stat;
use rustix::io::Errno;

use crate::directory::beneath::Folder;
use crate::directory::leaves::Leaves;
use crate::guards::Guards;
use crate::pacer::Pacer;
use crate::replica::{NOT_MOUNTED, ObjectMeta, Page, Probe, Replica, ReplicaError, ReplicaErrorKind};
use crate::settings::ReplicaConfig;
use crate::{key, trial, waiting};

mod beneath;
mod leaves;

/// How the names of temporary files begin and end.
const TEMPORARY_START: &str = ".lifeboat-";
const TEMPORARY_END: &str = ".tmp";
/// No write takes so long.
const LEFTOVER_SECONDS: i64 = 7 * 24 * 3600;
/// A page of a listing ends with the folder that makes it this long.
const FULL_PAGE_OBJECTS: usize = 1000;
/// No folder has more objects or folders that are looked at.
const MAX_FOLDER_ENTRIES: usize = 256 << 10;
/// The names of the folders that are still to be visited take no more together: they are held, and
/// go into the token of each page.
const MAX_OPEN_BYTES: usize = 4 << 20;

/// A [`Replica`] in a directory: another disk, an NFS mount, a copy of a bucket.
#[derive(Debug)]
pub struct DirectoryReplica {
    name: Name,
    region: String,
    timeout: Duration,
    pacer: Option<Arc<Pacer>>,
    tree: Tree,
}

impl DirectoryReplica {
    /// The replica below `path`. Nothing on disk is touched yet.
    #[must_use]
    pub fn new(replica: &ReplicaConfig, path: &Path, vault_prefix: &str, clock: SharedClock) -> Self {
        Self {
            name: replica.name.clone(),
            region: replica.region.clone(),
            timeout: replica.timeout,
            pacer: Pacer::new(&replica.bandwidth, clock),
            tree: Tree {
                mount: path.to_owned(),
                vault_prefix: vault_prefix.trim_matches('/').to_owned(),
                leaves: Leaves::default(),
                tidied: Arc::default(),
            },
        }
    }

    async fn blocking<T: Send + 'static>(
        &self,
        operation: &'static str,
        key: &str,
        work: impl FnOnce(&Tree) -> Result<T, ReplicaErrorKind> + Send + 'static,
    ) -> Result<T, ReplicaError> {
        let tree = self.tree.clone();
        let task = leaves::blocking(self.pacer.as_ref(), move |leaves| work(&Tree { leaves, ..tree }));
        let outcome = match waiting::within(self.timeout, task).await {
            Some(Ok(outcome)) => outcome,
            Some(Err(_)) => Err(ReplicaErrorKind::Other("the worker thread was stopped".to_owned())),
            None => Err(ReplicaErrorKind::TimedOut(self.timeout)),
        };
        outcome.map_err(|kind| ReplicaError { replica: self.name.clone(), operation, key: key.to_owned(), kind })
    }

    async fn with_key<T: Send + 'static>(
        &self,
        operation: &'static str,
        key: &str,
        work: impl FnOnce(&Tree, &str) -> Result<T, ReplicaErrorKind> + Send + 'static,
    ) -> Result<T, ReplicaError> {
        let owned = key.to_owned();
        self.blocking(operation, key, move |tree| {
            key::check(&owned)?;
            work(tree, &owned)
        })
        .await
    }
}

#[async_trait]
impl Replica for DirectoryReplica {
    fn name(&self) -> &Name {
        &self.name
    }

    fn region(&self) -> &str {
        &self.region
    }

    async fn put_new(&self, key: &str, body: Bytes) -> Result<(), ReplicaError> {
        self.with_key("put", key, move |tree, key| tree.put(key, &body, Existing::Keep)).await
    }

    async fn put_replace(&self, key: &str, body: Bytes) -> Result<(), ReplicaError> {
        self.with_key("put", key, move |tree, key| tree.put(key, &body, Existing::Replace)).await
    }

    async fn get(&self, key: &str, limit: u64) -> Result<Bytes, ReplicaError> {
        self.with_key("get", key, move |tree, key| tree.get(key, limit)).await
    }

    async fn head(&self, key: &str) -> Result<Option<ObjectMeta>, ReplicaError> {
        self.with_key("look up", key, Tree::head).await
    }

    async fn list_page(&self, prefix: &str, next: Option<&str>) -> Result<Page, ReplicaError> {
        let (owned, next) = (prefix.to_owned(), next.map(str::to_owned));
        self.blocking("list", prefix, move |tree| tree.list_page(&owned, next.as_deref())).await
    }

    async fn delete(&self, key: &str) -> Result<(), ReplicaError> {
        self.with_key("delete", key, Tree::delete).await
    }

    async fn probe(&self, write: bool) -> Result<Probe, ReplicaError> {
        let key = trial::fresh_key();
        self.with_key("probe", &key, |tree, _| tree.mount().map(drop)).await?;
        let trial = if write { Some(trial::run(self, &key).await?) } else { None };
        if trial.is_some() {
            self.with_key("probe", &key, Tree::remove_empty_parent).await?;
        }
        Ok(Probe {
            conditional_writes: trial.and_then(|trial| trial.conditional_writes),
            versioning: Some(false),
            object_lock: Some(false),
            can_write: trial.map(|trial| trial.can_write),
            can_delete: trial.and_then(|trial| trial.can_delete),
            clock_skew_seconds: None,
            guards: Guards::default(),
        })
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Existing {
    Keep,
    Replace,
}

/// The files, seen from a blocking thread.
#[derive(Debug, Clone)]
struct Tree {
    /// What the operator configured.
    mount: PathBuf,
    /// Where the vault begins, below it.
    vault_prefix: String,
    /// Where the one call that this is for asks for leave.
    leaves: Leaves,
    /// The folders in which left-over files were looked for.
    tidied: Arc<Mutex<HashSet<String>>>,
}

impl Tree {
    /// Opens the configured directory. It is opened for each call: an open one would keep a disk
    /// from being unmounted.
    fn mount(&self) -> Result<Folder, ReplicaErrorKind> {
        Folder::configured(&self.mount).map_err(|error| match error.kind() {
            ErrorKind::NotFound => ReplicaErrorKind::Misconfigured(format!("{} {NOT_MOUNTED}", self.mount.display())),
            ErrorKind::NotADirectory => {
                ReplicaErrorKind::Misconfigured(format!("{} is not a directory", self.mount.display()))
            }
            _ => classify(&error),
        })
    }

    /// The path of a key below the configured directory.
    fn path(&self, key: &str) -> String {
        key::below(&self.vault_prefix, key).trim_end_matches('/').to_owned()
    }

    /// The path of the folder that holds a key, and the key's last segment.
    fn divide(&self, key: &str) -> (String, String) {
        let path = self.path(key);
        match path.rsplit_once('/') {
            Some((folder, name)) => (folder.to_owned(), name.to_owned()),
            None => (String::new(), path),
        }
    }

    fn put(&self, key: &str, body: &[u8], existing: Existing) -> Result<(), ReplicaErrorKind> {
        let mount = self.mount()?;
        let (path, name) = self.divide(key);
        let write = || {
            let folder = mount.make_folder(&path)?;
            // Existing objects are common, so they are refused before a byte is written.
            if existing == Existing::Keep && folder.entry(&name).is_ok() {
                return Err(Errno::EXIST.into());
            }
            let temporary = Temporary::write(&folder, body, &self.leaves)?;
            if self.tidied.lock().unwrap_or_else(PoisonError::into_inner).insert(path.clone())
                && let Err(error) = remove_leftovers(&folder, &temporary)
            {
                tracing::debug!(%error, folder = path, "cannot look for files of killed runs");
            }
            match existing {
                Existing::Keep => folder.link(&temporary.name, &name),
                Existing::Replace => folder.rename(&temporary.name, &name),
            }?;
            folder.sync()
        };
        write().map_err(|error| match error.kind() {
            ErrorKind::AlreadyExists => ReplicaErrorKind::AlreadyExists,
            _ => classify(&error),
        })
    }

    fn get(&self, key: &str, limit: u64) -> Result<Bytes, ReplicaErrorKind> {
        let (mut file, stat) = self.mount()?.file(&self.path(key)).map_err(|error| missing_or(&error))?;
        let announced = size_of(&stat);
        if announced > limit {
            return Err(ReplicaErrorKind::TooLong { size: announced, limit });
        }
        let body = self.leaves.read(&mut file, usize::try_from(announced).unwrap_or_default());
        let body = body.map_err(|error| missing_or(&error))?;
        if body.len() as u64 == announced {
            Ok(body.freeze())
        } else {
            Err(ReplicaErrorKind::Corrupt(format!("it had {announced} bytes, and has {} or more", body.len())))
        }
    }

    fn head(&self, key: &str) -> Result<Option<ObjectMeta>, ReplicaErrorKind> {
        let found = self.mount()?.look_up(&self.path(key)).map_err(|error| missing_or(&error));
        match found {
            Ok(stat) => Ok(Some(describe(key.to_owned(), &stat))),
            Err(ReplicaErrorKind::NotFound) => Ok(None),
            Err(kind) => Err(kind),
        }
    }

    fn delete(&self, key: &str) -> Result<(), ReplicaErrorKind> {
        let mount = self.mount()?;
        let (folder, name) = self.divide(key);
        let removed = mount.folder(&folder).and_then(|folder| {
            folder.remove(&name)?;
            folder.sync()
        });
        match removed.map_err(|error| missing_or(&error)) {
            Ok(()) | Err(ReplicaErrorKind::NotFound) => Ok(()),
            Err(kind) => Err(kind),
        }
    }

    /// `next` names the folders that are still to be visited, one on each line.
    fn list_page(&self, prefix: &str, next: Option<&str>) -> Result<Page, ReplicaErrorKind> {
        let mount = self.mount()?;
        // The whole segments of the prefix name a folder; the rest filters the names in it.
        let folder = prefix.rsplit_once('/').map_or("", |(folder, _)| folder);
        if !folder.is_empty() && key::check(folder).is_err() {
            return Ok(Page::default());
        }
        let mut objects = Vec::new();
        let mut open = Open::default();
        next.unwrap_or(folder).split('\n').for_each(|folder| open.push(folder.to_owned()));
        while objects.len() < FULL_PAGE_OBJECTS
            && let Some(folder) = open.pop()
        {
            match self.visit(&mount, &folder, prefix, &mut open, &mut objects) {
                // A folder that vanished meanwhile holds nothing.
                Err(error) if is_missing(&error) => {}
                visited => visited.map_err(|error| classify(&error))?,
            }
            if objects.len().max(open.folders.len()) > MAX_FOLDER_ENTRIES {
                return Err(ReplicaErrorKind::BadListing(format!(
                    "the folder {folder} has more than {MAX_FOLDER_ENTRIES} entries"
                )));
            }
            if open.bytes > MAX_OPEN_BYTES {
                return Err(ReplicaErrorKind::BadListing(format!(
                    "the names of the folders in {folder} and beside it take more than {} MiB",
                    MAX_OPEN_BYTES >> 20
                )));
            }
        }
        Ok(Page { objects, next: (!open.folders.is_empty()).then(|| open.folders.join("\n")) })
    }

    fn visit(
        &self,
        mount: &Folder,
        folder: &str,
        prefix: &str,
        open: &mut Open,
        found: &mut Vec<ObjectMeta>,
    ) -> io::Result<()> {
        let opened = mount.folder(&self.path(folder))?;
        for name in opened.names()? {
            let name = name?;
            if !key::is_legal_segment(&name) {
                continue;
            }
            let key = if folder.is_empty() { name.clone() } else { format!("{folder}/{name}") };
            // What could not be fetched is no object, and keeps paths short.
            let is_full = open.is_full() || found.len() > MAX_FOLDER_ENTRIES;
            if key::check(&key).is_err() || is_full {
                continue;
            }
            let stat = match opened.entry(&name) {
                Err(error) if is_missing(&error) => continue,
                stat => stat?,
            };
            if beneath::is_folder(&stat) {
                if key.starts_with(prefix) || prefix.starts_with(&key) {
                    open.push(key);
                }
            } else if beneath::is_file(&stat) && key.starts_with(prefix) {
                found.push(describe(key, &stat));
            }
        }
        Ok(())
    }

    /// Removes the trial's folder with its object, unless another trial uses it.
    fn remove_empty_parent(&self, key: &str) -> Result<(), ReplicaErrorKind> {
        let mount = self.mount()?;
        let (folder, _) = self.divide(key);
        let (above, name) = folder.rsplit_once('/').unwrap_or(("", &folder));
        match mount.folder(above).and_then(|above| above.remove_folder(name)) {
            Err(error) if !is_missing(&error) && error.kind() != ErrorKind::DirectoryNotEmpty => Err(classify(&error)),
            _ => Ok(()),
        }
    }
}

/// Removes temporary files of processes that were killed long before `fresh` was written. So no
/// clock but the one of the file system decides.
fn remove_leftovers(folder: &Folder, fresh: &Temporary<'_>) -> io::Result<()> {
    let now = folder.entry(&fresh.name)?.st_mtime;
    for name in folder.names()? {
        let name = name?;
        if !(name.starts_with(TEMPORARY_START) && name.ends_with(TEMPORARY_END)) {
            continue;
        }
        let stat = folder.entry(&name)?;
        if beneath::is_file(&stat) && now.saturating_sub(stat.st_mtime) > LEFTOVER_SECONDS {
            folder.remove(&name)?;
        }
    }
    Ok(())
}

/// A hidden file that is removed on drop.
struct Temporary<'a> {
    folder: &'a Folder,
    name: String,
}

impl<'a> Temporary<'a> {
    fn write(folder: &'a Folder, body: &[u8], leaves: &Leaves) -> io::Result<Self> {
        let name = format!("{TEMPORARY_START}{:016x}{TEMPORARY_END}", rand::random::<u64>());
        let mut file = folder.create(&name)?;
        let temporary = Self { folder, name };
        leaves.write(&mut file, body)?;
        file.sync_all()?;
        Ok(temporary)
    }
}

impl Drop for Temporary<'_> {
    fn drop(&mut self) {
        // After a rename it is gone already.
        let _ = self.folder.remove(&self.name);
    }
}

/// The folders that are still to be visited.
#[derive(Default)]
struct Open {
    folders: Vec<String>,
    /// How long the token is that names them.
    bytes: usize,
}

impl Open {
    fn push(&mut self, folder: String) {
        self.bytes += folder.len() + 1;
        self.folders.push(folder);
    }

    fn pop(&mut self) -> Option<String> {
        let folder = self.folders.pop()?;
        self.bytes -= folder.len() + 1;
        Some(folder)
    }

    fn is_full(&self) -> bool {
        self.folders.len() > MAX_FOLDER_ENTRIES || self.bytes > MAX_OPEN_BYTES
    }
}

fn size_of(stat: &Stat) -> u64 {
    u64::try_from(stat.st_size).unwrap_or_default()
}

fn describe(key: String, stat: &Stat) -> ObjectMeta {
    let modified =
        DateTime::<Utc>::from_timestamp(stat.st_mtime, u32::try_from(stat.st_mtime_nsec).unwrap_or_default());
    ObjectMeta { key, size: size_of(stat), modified: modified.unwrap_or_default() }
}

fn missing_or(error: &io::Error) -> ReplicaErrorKind {
    if is_missing(error) { ReplicaErrorKind::NotFound } else { classify(error) }
}

fn is_missing(error: &io::Error) -> bool {
    // A file has nothing below it, and a folder is not an object.
    matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory | ErrorKind::IsADirectory)
}

fn classify(error: &io::Error) -> ReplicaErrorKind {
    if let Some(Errno::LOOP | Errno::XDEV) = Errno::from_io_error(error) {
        let problem = "there is a link in its path, and links in a replica are never followed";
        return ReplicaErrorKind::Misconfigured(problem.to_owned());
    }
    // A sector that cannot be read stays so.
    if Errno::from_io_error(error) == Some(Errno::IO) {
        return ReplicaErrorKind::Other(error.to_string());
    }
    match error.kind() {
        ErrorKind::PermissionDenied | ErrorKind::ReadOnlyFilesystem => ReplicaErrorKind::Denied(error.to_string()),
        ErrorKind::NotADirectory | ErrorKind::IsADirectory => ReplicaErrorKind::Misconfigured(error.to_string()),
        // Retries do not empty a full disk.
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded | ErrorKind::FileTooLarge => {
            ReplicaErrorKind::Other(error.to_string())
        }
        _ => ReplicaErrorKind::Unavailable(error.to_string()),
    }
}

#[cfg(test)]
mod tests;
