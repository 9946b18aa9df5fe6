//! Captures a tree, as one archive.
//!
//! A file that changes while it is read is read again, up to [`MAX_READINGS`] times; after that the
//! snapshot holds the last reading, with a warning. What cannot be read fails the capture, once all
//! of it is known, unless that is allowed. An empty tree fails, too: where nothing is mounted,
//! there is an empty folder.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use async_trait::async_trait;
use lifeboat_base::facts::SourceFacts;
use lifeboat_base::{Class, Context, Error, Result};
use rustix::fs::{AtFlags, Mode, OFlags, Stat, StatxAttributes, StatxFlags};
use tokio::runtime::Handle;
use tokio_util::sync::CancellationToken;

use super::encode::{ARCHIVE_END_BYTES, member, padding};
use super::entry::{EntryKind, shown};
use super::owners::{OwnerNames, are_told_apart};
use super::settings::FilesConfig;
use super::sparse::{DataMap, MIN_SPARSE_BYTES};
use super::troubles::Troubles;
use super::walk::{Found, Walk, WalkStep, modified};
use super::{BLOCK_BYTES, FILES_KIND, Files, TREE_STREAM};
use crate::database::{Database, Source, SourceCheck, WorkContext};
use crate::streams::{StreamSink, StreamWriter};

/// A file that goes on changing is read so often.
const MAX_READINGS: usize = 3;

/// Captures the configured tree.
#[derive(Debug, Clone)]
pub struct FilesSource(pub FilesConfig);

#[async_trait]
impl Source for FilesSource {
    fn database(&self) -> &'static dyn Database {
        &Files
    }

    async fn check(&self, _: &WorkContext) -> SourceCheck {
        let config = self.0.clone();
        let looked = tokio::task::spawn_blocking(move || {
            let mut first = Walk::new(open(&config)?, &config, OwnerNames::default())
                .context(Class::Source, || format!("cannot read {}", config.path.display()))?;
            let steps = first.next().and_then(|_| first.next());
            let steps = steps.context(Class::Source, || format!("cannot read {}", config.path.display()));
            match steps.map_err(|error| error.hint(READ_HINT))? {
                None if !config.allow_empty => Err(empty(&config.path)),
                _ => Ok(()),
            }
        });
        match looked.await.context(Class::Failed, || "a worker thread failed").and_then(|looked| looked) {
            Ok(()) => SourceCheck::default(),
            Err(error) => SourceCheck::of(error),
        }
    }

    async fn capture(&self, sink: &dyn StreamSink, cx: &WorkContext) -> Result<SourceFacts> {
        let stream = sink.open(TREE_STREAM)?;
        // It also fires when this future is dropped, so that no thread goes on reading.
        let stop = cx.cancel.child_token();
        let _stops_when_dropped = stop.clone().drop_guard();
        let (config, progress) = (self.0.clone(), Arc::new(AtomicU64::new(0)));
        let out = Archive { stream, runtime: Handle::current(), progress: progress.clone(), stop };
        let mut writing = tokio::task::spawn_blocking(move || Capture::new(config, out).run());
        let mut seen = None;
        let (stream, captured) = loop {
            tokio::select! {
                done = &mut writing => break done.context(Class::Failed, || "a worker thread failed")??,
                () = cx.cancel.cancelled() => return Err(Error::cancelled("the capture")),
                () = tokio::time::sleep(cx.stall) => {
                    let now = Some(progress.load(Ordering::Relaxed));
                    if now == seen {
                        let path = self.0.path.display();
                        return Err(Error::source_failed(format!("{path} gave no byte for {:?}", cx.stall))
                            .hint("check the disk or the mount; if it is only slow, raise stall in [limits]"));
                    }
                    seen = now;
                }
            }
        };
        stream.finish(0).await?;
        let warnings = captured.warnings();
        Ok(SourceFacts { engine: FILES_KIND.to_owned(), warnings, ..SourceFacts::default() })
    }
}

const READ_HINT: &str = "let Lifeboat's user read it: see \"Files\" in OPERATIONS.md";

fn empty(path: &Path) -> Error {
    Error::source_failed(format!("{} is empty", path.display()))
        .hint("find out whether its file system is mounted; if nothing is right, set allow_empty = true")
}

/// Opens the root, and makes sure that it is the right one.
fn open(config: &FilesConfig) -> Result<OwnedFd> {
    let failed = |path: &Path| format!("cannot open the folder {}", path.display());
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let root = rustix::fs::open(&config.path, flags, Mode::empty()).context(Class::Source, || failed(&config.path));
    let root = root.map_err(|error| error.hint("check the path, and that Lifeboat's user may read it"))?;
    if !are_told_apart() {
        return Err(Error::source_failed("the owners of files cannot be told apart here")
            .hint("set PrivateUsers=no for lifeboatd: see \"Files\" in OPERATIONS.md"));
    }
    if let Some(mount) = &config.mount {
        let look = |folder: &OwnedFd| {
            rustix::fs::statx(folder, "", AtFlags::EMPTY_PATH, StatxFlags::BASIC_STATS | StatxFlags::MNT_ID)
        };
        let place = rustix::fs::open(mount, flags, Mode::empty()).context(Class::Source, || failed(mount))?;
        let (at, below) =
            look(&place).and_then(|at| Ok((at, look(&root)?))).context(Class::Source, || failed(mount))?;
        let why = if !at.stx_attributes.contains(StatxAttributes::MOUNT_ROOT) {
            "nothing is mounted there".to_owned()
        } else if at.stx_mnt_id != below.stx_mnt_id {
            format!("{} is in another one that is mounted below", config.path.display())
        } else {
            return Ok(root);
        };
        return Err(Error::source_failed(format!(
            "{} is not the file system that was configured: {why}",
            mount.display()
        ))
        .hint("mount it, or correct mount in [dataset.source]"));
    }
    Ok(root)
}

/// The stream of an archive, for a thread that waits for it.
struct Archive {
    stream: Box<dyn StreamWriter>,
    runtime: Handle,
    progress: Arc<AtomicU64>,
    stop: CancellationToken,
}

impl Archive {
    fn put(&mut self, mut bytes: &[u8]) -> Result<()> {
        while !bytes.is_empty() {
            let part = self.fill(bytes.len() as u64, |space| {
                space.copy_from_slice(&bytes[..space.len()]);
                Ok(())
            })?;
            bytes = &bytes[part..];
        }
        Ok(())
    }

    /// Lets `fill` write the next bytes, at most so many, and tells how many there were.
    fn fill(&mut self, most: u64, fill: impl FnOnce(&mut [u8]) -> Result<()>) -> Result<usize> {
        if self.stop.is_cancelled() {
            return Err(Error::cancelled("the capture"));
        }
        let space = self.runtime.block_on(self.stream.space())?;
        let part = usize::try_from(most).unwrap_or(usize::MAX).min(space.len());
        fill(&mut space[..part])?;
        self.runtime.block_on(self.stream.filled(part))?;
        self.progress.fetch_add(part as u64, Ordering::Relaxed);
        Ok(part)
    }
}

/// A capture in progress.
struct Capture {
    config: FilesConfig,
    out: Archive,
    troubles: Troubles,
}

impl Capture {
    fn new(config: FilesConfig, out: Archive) -> Self {
        Self { config, out, troubles: Troubles::default() }
    }

    fn run(mut self) -> Result<(Box<dyn StreamWriter>, Troubles)> {
        let config = self.config.clone();
        let failed = || format!("cannot read {}", config.path.display());
        let walk = Walk::new(open(&config)?, &config, OwnerNames::here());
        let mut walk = walk.context(Class::Source, failed)?;
        let mut entries = 0u64;
        loop {
            let step = walk.next().context(Class::Source, failed).map_err(|error| error.hint(READ_HINT))?;
            self.out.progress.fetch_add(1, Ordering::Relaxed);
            match step {
                None => break,
                Some(WalkStep::Entry(found)) => {
                    self.entry(*found)?;
                    entries += 1;
                }
                Some(WalkStep::Unreadable { path, why }) => {
                    self.troubles.unreadable.add(|| format!("{} ({why})", shown(&path)));
                }
                Some(WalkStep::OtherFileSystem { path }) => self.troubles.mounts.add(|| shown(&path)),
                Some(WalkStep::Socket { path }) => self.troubles.sockets.add(|| shown(&path)),
            }
        }
        if entries <= 1 && self.troubles.unreadable.count == 0 && !config.allow_empty {
            return Err(empty(&config.path));
        }
        let refuse = |_, names| format!("{} holds what cannot be read: {names}", config.path.display());
        if let Some(refusal) = self.troubles.unreadable.tell(refuse).filter(|_| !config.allow_unreadable) {
            return Err(Error::source_failed(refusal).hint(
                "let Lifeboat's user read it (\"Files\" in OPERATIONS.md), exclude it, or set allow_unreadable = true",
            ));
        }
        self.troubles.forgot_links = walk.forgot_links;
        self.out.put(&[0; ARCHIVE_END_BYTES])?;
        Ok((self.out.stream, self.troubles))
    }

    /// Writes an entry, and a file again while it changes.
    fn entry(&mut self, found: Found) -> Result<()> {
        let Found { mut entry, file, stat: mut before } = found;
        let Some(file) = file else {
            return self.out.put(&member(&entry, &DataMap::default())?);
        };
        for _ in 0..MAX_READINGS {
            let length = before.st_size as u64;
            entry.kind = EntryKind::File { length };
            entry.modified = modified(&before);
            let unreadable = |error: io::Error| {
                Error::source_failed(format!("cannot read {}", shown(&entry.path)))
                    .because(error)
                    .hint("check the disk; to back up all else meanwhile, add it to exclude")
            };
            let is_sparse = length >= MIN_SPARSE_BYTES && (before.st_blocks as u64) < length / 512;
            let data = if is_sparse { DataMap::of(&file, length).map_err(unreadable)? } else { DataMap::whole(length) };
            self.out.put(&member(&entry, &data)?)?;
            for (mut at, piece) in data.pieces() {
                let end = at + piece;
                while at < end {
                    let read = |space: &mut [u8]| read_or_zeros(&file, space, at).map_err(unreadable);
                    at += self.out.fill(end - at, read)? as u64;
                }
            }
            self.out.put(&[0; BLOCK_BYTES][..padding(data.bytes())])?;
            let now = rustix::fs::fstat(&file).map_err(|error| unreadable(error.into()))?;
            if stamp(&now) == stamp(&before) {
                return Ok(());
            }
            before = now;
        }
        self.troubles.changed.add(|| shown(&entry.path));
        Ok(())
    }
}

/// Reads what is at `at`; zeros where the file has become too short.
fn read_or_zeros(file: &File, space: &mut [u8], at: u64) -> io::Result<()> {
    let mut filled = 0;
    while filled < space.len() {
        match file.read_at(&mut space[filled..], at + filled as u64) {
            Ok(0) => break,
            Ok(read) => filled += read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    space[filled..].fill(0);
    Ok(())
}

/// What differs if a file was changed.
fn stamp(stat: &Stat) -> (i64, i64, u64, i64, u64) {
    (stat.st_size, stat.st_mtime, stat.st_mtime_nsec, stat.st_ctime, stat.st_ctime_nsec)
}
