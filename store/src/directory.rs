//! A replica in a directory: another disk, an NFS mount, a copy of a bucket.
//!
//! - **Atomicity**: a body is written to a hidden temporary file beside its place, synced, then
//!   linked (new) or renamed (replace) into place, and the directory is synced. A crash leaves at
//!   most a hidden file, which no listing shows.
//! - **Folders**: unlike in S3, a key cannot be both an object and a folder of other objects. No
//!   vault needs that.
//! - **The configured directory must exist**: a missing directory is taken for an unmounted disk,
//!   never for an empty vault.
//! - **Deadlines**: a call that exceeds its deadline returns at once. Its thread may still finish
//!   what it has begun.
//! - **A cap on the bandwidth** paces the pieces as they are written and read. The page cache may
//!   pass them to the disk at another pace.

use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use chrono::{DateTime, Utc};
use lifeboat_base::clock::SharedClock;
use lifeboat_format::id::Name;

use crate::directory::leaves::Leaves;
use crate::pacer::Pacer;
use crate::replica::{ObjectMeta, Page, Probe, Replica, ReplicaError, ReplicaErrorKind};
use crate::settings::ReplicaConfig;
use crate::{key, trial, waiting};

mod leaves;

/// A page of a listing ends with the folder that makes it this long.
const FULL_PAGE_OBJECTS: usize = 1000;

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
            tree: Tree { mount: path.to_owned(), root: path.join(vault_prefix), leaves: Leaves::default() },
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

    async fn get(&self, key: &str) -> Result<Bytes, ReplicaError> {
        self.with_key("get", key, Tree::get).await
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
        self.with_key("probe", &key, |tree, _| tree.check_readable()).await?;
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
    /// Where the vault begins.
    root: PathBuf,
    /// Where the one call that this is for asks for leave.
    leaves: Leaves,
}

impl Tree {
    fn put(&self, key: &str, body: &[u8], existing: Existing) -> Result<(), ReplicaErrorKind> {
        self.check_mounted()?;
        let place = self.root.join(key);
        let folder = place.parent().unwrap_or(&self.root);
        // Existing objects are common, so they are refused before a byte is written.
        if existing == Existing::Keep && place.symlink_metadata().is_ok() {
            return Err(ReplicaErrorKind::AlreadyExists);
        }
        create_folders(folder).map_err(|error| classify(&error))?;
        let temporary = Temporary::write(folder, body, &self.leaves).map_err(|error| classify(&error))?;
        match existing {
            Existing::Keep => temporary.link_to(&place),
            Existing::Replace => fs::rename(&temporary.path, &place),
        }
        .and_then(|()| sync_folder(folder))
        .map_err(|error| match error.kind() {
            ErrorKind::AlreadyExists => ReplicaErrorKind::AlreadyExists,
            _ => classify(&error),
        })
    }

    fn get(&self, key: &str) -> Result<Bytes, ReplicaErrorKind> {
        let read = || {
            let mut file = File::open(self.root.join(key))?;
            let announced = file.metadata()?.len();
            let body = self.leaves.read(&mut file, usize::try_from(announced).unwrap_or_default())?;
            Ok((announced, body))
        };
        let (announced, body) = read().map_err(|error| self.missing_or(&error))?;
        if body.len() as u64 == announced {
            Ok(body.freeze())
        } else {
            Err(ReplicaErrorKind::Corrupt(format!("{} of {announced} bytes arrived", body.len())))
        }
    }

    fn head(&self, key: &str) -> Result<Option<ObjectMeta>, ReplicaErrorKind> {
        let found = self.root.join(key).metadata().and_then(|metadata| describe(key.to_owned(), &metadata));
        match found.map_err(|error| self.missing_or(&error)) {
            Ok(found) => Ok(found),
            Err(ReplicaErrorKind::NotFound) => Ok(None),
            Err(kind) => Err(kind),
        }
    }

    fn delete(&self, key: &str) -> Result<(), ReplicaErrorKind> {
        let place = self.root.join(key);
        match fs::remove_file(&place) {
            Ok(()) => sync_folder(place.parent().unwrap_or(&self.root)).map_err(|error| classify(&error)),
            Err(error) => match self.missing_or(&error) {
                ReplicaErrorKind::NotFound => Ok(()),
                kind => Err(kind),
            },
        }
    }

    /// `next` names the folders that are still to be visited, one on each line.
    fn list_page(&self, prefix: &str, next: Option<&str>) -> Result<Page, ReplicaErrorKind> {
        self.check_mounted()?;
        // The whole segments of the prefix name a folder; the rest filters the names in it.
        let folder = prefix.rsplit_once('/').map_or("", |(folder, _)| folder);
        if !folder.is_empty() && key::check(folder).is_err() {
            return Ok(Page::default());
        }
        let mut objects = Vec::new();
        let mut open: Vec<String> = next.unwrap_or(folder).split('\n').map(str::to_owned).collect();
        while objects.len() < FULL_PAGE_OBJECTS
            && let Some(folder) = open.pop()
        {
            let visit = self.visit(&folder, prefix, &mut open, &mut objects);
            // A folder that vanished meanwhile holds nothing.
            if let Err(error) = visit.or_else(|error| if is_missing(&error) { Ok(()) } else { Err(error) }) {
                return Err(classify(&error));
            }
        }
        Ok(Page { objects, next: (!open.is_empty()).then(|| open.join("\n")) })
    }

    fn visit(&self, folder: &str, prefix: &str, open: &mut Vec<String>, found: &mut Vec<ObjectMeta>) -> io::Result<()> {
        for entry in fs::read_dir(self.root.join(folder))? {
            let entry = entry?;
            let file_name = entry.file_name();
            let Some(segment) = file_name.to_str().filter(|segment| key::is_legal_segment(segment)) else { continue };
            let key = if folder.is_empty() { segment.to_owned() } else { format!("{folder}/{segment}") };
            let metadata = match entry.metadata() {
                Err(error) if is_missing(&error) => continue,
                metadata => metadata?,
            };
            if metadata.is_dir() {
                if key.starts_with(prefix) || prefix.starts_with(&key) {
                    open.push(key);
                }
            } else if key.starts_with(prefix) {
                found.extend(describe(key, &metadata)?);
            }
        }
        Ok(())
    }

    fn check_readable(&self) -> Result<(), ReplicaErrorKind> {
        self.check_mounted()?;
        fs::read_dir(&self.mount).map(drop).map_err(|error| classify(&error))
    }

    /// Removes the trial's folder with its object, unless another trial uses it.
    fn remove_empty_parent(&self, key: &str) -> Result<(), ReplicaErrorKind> {
        let place = self.root.join(key);
        match fs::remove_dir(place.parent().unwrap_or(&place)) {
            Err(error) if !is_missing(&error) && error.kind() != ErrorKind::DirectoryNotEmpty => Err(classify(&error)),
            _ => Ok(()),
        }
    }

    fn check_mounted(&self) -> Result<(), ReplicaErrorKind> {
        match self.mount.metadata() {
            Ok(metadata) if metadata.is_dir() => Ok(()),
            Ok(_) => Err(ReplicaErrorKind::Misconfigured(format!("{} is not a directory", self.mount.display()))),
            Err(error) if is_missing(&error) => Err(ReplicaErrorKind::Misconfigured(format!(
                "{} does not exist, or is not mounted",
                self.mount.display()
            ))),
            Err(error) => Err(classify(&error)),
        }
    }

    /// A missing file means a missing object only if the directory itself is there.
    fn missing_or(&self, error: &io::Error) -> ReplicaErrorKind {
        if is_missing(error) {
            self.check_mounted().err().unwrap_or(ReplicaErrorKind::NotFound)
        } else {
            classify(error)
        }
    }
}

/// A hidden file that is removed on drop.
struct Temporary {
    path: PathBuf,
}

impl Temporary {
    fn write(folder: &Path, body: &[u8], leaves: &Leaves) -> io::Result<Self> {
        let path = folder.join(format!(".lifeboat-{:016x}.tmp", rand::random::<u64>()));
        let mut file = OpenOptions::new().write(true).create_new(true).open(&path)?;
        let temporary = Self { path };
        leaves.write(&mut file, body)?;
        file.sync_all()?;
        Ok(temporary)
    }

    /// Fails with `AlreadyExists` if `place` is taken, atomically.
    fn link_to(&self, place: &Path) -> io::Result<()> {
        match fs::hard_link(&self.path, place) {
            // File systems without hard links can rename without replacing.
            Err(error) if matches!(error.kind(), ErrorKind::Unsupported | ErrorKind::PermissionDenied) => {
                let flags = rustix::fs::RenameFlags::NOREPLACE;
                Ok(rustix::fs::renameat_with(rustix::fs::CWD, &self.path, rustix::fs::CWD, place, flags)?)
            }
            // NFS repeats a request whose answer was lost, and then finds its own link.
            Err(error) if error.kind() == ErrorKind::AlreadyExists && self.path.metadata()?.nlink() == 2 => Ok(()),
            outcome => outcome,
        }
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        // After a rename it is gone already.
        let _ = fs::remove_file(&self.path);
    }
}

/// As `create_dir_all`, but durable.
fn create_folders(folder: &Path) -> io::Result<()> {
    if folder.is_dir() {
        return Ok(());
    }
    if let Some(parent) = folder.parent() {
        create_folders(parent)?;
        match fs::create_dir(folder) {
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
            outcome => outcome?,
        }
        sync_folder(parent)?;
    }
    Ok(())
}

fn sync_folder(folder: &Path) -> io::Result<()> {
    File::open(folder)?.sync_all()
}

/// `None` for anything that is not a file.
fn describe(key: String, metadata: &fs::Metadata) -> io::Result<Option<ObjectMeta>> {
    let modified: DateTime<Utc> = metadata.modified()?.into();
    Ok(metadata.is_file().then_some(ObjectMeta { key, size: metadata.len(), modified }))
}

fn is_missing(error: &io::Error) -> bool {
    // A file has nothing below it, and a folder is not an object.
    matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory | ErrorKind::IsADirectory)
}

fn classify(error: &io::Error) -> ReplicaErrorKind {
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
