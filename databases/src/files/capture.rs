//! Captures a tree, as one archive, which is cut into streams where it is long (`shard.rs`).
//!
//! What belongs to one stream is looked at first. If all of it is as it was in the snapshot before,
//! the stream is taken over from there, and no file of it is opened (`unread.rs` says when that is
//! believed). Else each file is opened and read.
//!
//! A file that changes while it is read is read again, up to [`MAX_READINGS`] times; after that the
//! snapshot holds the last reading, with a warning. What cannot be read fails the capture, once all
//! of it is known, unless that is allowed; a file that fails while it is read ends with zeros then.
//! An empty tree fails, too: where nothing is mounted, there is an empty folder.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::atomic::Ordering;

use async_trait::async_trait;
use lifeboat_base::facts::SourceFacts;
use lifeboat_base::opened;
use lifeboat_base::{Class, Context, Error, Result};
use rustix::fs::Stat;
use tokio::sync::mpsc;

use super::archive::Archive;
use super::encode::{ARCHIVE_END_BYTES, member, padding};
use super::entry::{Entry, EntryKind, shown};
use super::links::{is_same, stamp};
use super::owners::{OwnerNames, are_told_apart};
use super::settings::FilesConfig;
use super::shard::Shard;
use super::sparse::{DataMap, MIN_SPARSE_BYTES};
use super::troubles::Troubles;
use super::unread::Unread;
use super::walk::{Found, Walk, WalkStep};
use super::{BLOCK_BYTES, FILES_KIND, Files, mount};
use crate::database::{Database, Source, SourceCheck, WorkContext};
use crate::streams::StreamSink;

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
        // It also fires when this future is dropped, so that no thread goes on reading.
        let stop = cx.cancel.child_token();
        let _stops_when_dropped = stop.clone().drop_guard();
        let (asks, mut asked) = mpsc::channel(1);
        let (config, out) = (self.0.clone(), Archive::new(asks, stop));
        let progress = out.progress.clone();
        let keeps = sink.keeps_fingerprints();
        let mut writing = tokio::task::spawn_blocking(move || Capture::new(config, out).run(keeps));
        let mut seen = None;
        let captured = loop {
            tokio::select! {
                done = &mut writing => break done.context(Class::Failed, || "a worker thread failed")??,
                Some(ask) = asked.recv() => ask.answer(sink).await,
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
        let warnings = captured.warnings();
        Ok(SourceFacts { engine: FILES_KIND.to_owned(), warnings, ..SourceFacts::default() })
    }
}

const READ_HINT: &str = "let Lifeboat's user read it: see \"Files\" in OPERATIONS.md";

fn empty(path: &Path) -> Error {
    Error::source_failed(format!("{} is empty", path.display()))
        .hint("find out whether its file system is mounted; if nothing is right, set allow_empty = true")
}

/// Opens the root, and makes sure that it is the right one. A link of another user on the way is
/// not followed: it could lead to what only Lifeboat may read.
fn open(config: &FilesConfig) -> Result<OwnedFd> {
    let opened = |path: &Path, key: &str| {
        opened::existing_directory(path).map_err(|error| {
            let hint = match error.kind() {
                io::ErrorKind::NotFound => format!("mount it, or correct `{key}`"),
                _ => "name the folder itself, not by links of others, and let Lifeboat's user read it".to_owned(),
            };
            Error::source_failed(format!("cannot open the folder {}", path.display())).because(error).hint(hint)
        })
    };
    let root = opened(&config.path, "path")?;
    if !are_told_apart() {
        return Err(Error::source_failed("the owners of files cannot be told apart here")
            .hint("set PrivateUsers=no for lifeboatd: see \"Files\" in OPERATIONS.md"));
    }
    let Some(mount) = &config.mount else { return Ok(root) };
    let place = opened(mount, "mount")?;
    let why = mount::problem(&place, &root, &config.path);
    match why.context(Class::Source, || format!("cannot look at {}", mount.display()))? {
        None => Ok(root),
        Some(why) => {
            let said = format!("{} is not the file system that was configured: {why}", mount.display());
            Err(Error::source_failed(said).hint("mount it, or correct mount in [dataset.source]"))
        }
    }
}

/// A capture in progress.
pub(super) struct Capture {
    config: FilesConfig,
    out: Archive,
    pub(super) troubles: Troubles,
    /// Whether anything but folders was captured, as a whole.
    has_content: bool,
    /// How many streams are complete.
    complete: usize,
    /// Whether something in the stream is not what was looked at before.
    differs: bool,
}

impl Capture {
    pub(super) fn new(config: FilesConfig, out: Archive) -> Self {
        Self { config, out, troubles: Troubles::default(), has_content: false, complete: 0, differs: false }
    }

    fn run(mut self, keeps_fingerprints: bool) -> Result<Troubles> {
        let config = self.config.clone();
        let failed = || format!("cannot read {}", config.path.display());
        let root = open(&config)?;
        let unread = Unread::of(&config, &root, keeps_fingerprints);
        let mut walk = Walk::looking(root, &config, OwnerNames::here()).context(Class::Source, failed)?;
        let (mut entries, mut shard) = (0u64, Shard::default());
        loop {
            let step = walk.next().context(Class::Source, failed).map_err(|error| error.hint(READ_HINT))?;
            self.out.progress.fetch_add(1, Ordering::Relaxed);
            match step {
                None => break,
                Some(WalkStep::Entry(found)) => {
                    if shard.ends_before(&found, self.complete) {
                        self.stream(std::mem::take(&mut shard), false, &unread, &mut walk)?;
                    }
                    shard.push(*found, self.complete);
                    entries += 1;
                }
                Some(WalkStep::Unreadable { path, why }) => {
                    self.troubles.unreadable.add(|| format!("{} ({why})", shown(&path)));
                }
                Some(WalkStep::OtherFileSystem { path }) => self.troubles.mounts.add(|| shown(&path)),
                Some(WalkStep::Socket { path }) => self.troubles.sockets.add(|| shown(&path)),
            }
        }
        self.stream(shard, true, &unread, &mut walk)?;
        self.judge(entries)?;
        self.troubles.forgot_links = walk.links.forgot;
        Ok(self.troubles)
    }

    /// Writes a stream, or takes it over.
    fn stream(&mut self, shard: Shard, is_last: bool, unread: &Unread, walk: &mut Walk<'_, FilesConfig>) -> Result<()> {
        let name = shard.name(is_last && self.complete == 0);
        self.complete += 1;
        let fingerprint = unread.fingerprint(&shard, is_last);
        // Another name of what was not captured must become a file.
        let is_captured = |found: &Found| match &found.entry.kind {
            EntryKind::SameAs { path } => walk.links.has(path),
            _ => true,
        };
        if let Some(fingerprint) = fingerprint
            && unread.takes_over
            && shard.entries.iter().all(is_captured)
            && self.out.take_over(&name, fingerprint)?.is_some()
        {
            let has_content = |found: &Found| !matches!(found.entry.kind, EntryKind::Folder | EntryKind::SameAs { .. });
            self.has_content |= shard.entries.iter().any(has_content);
            return Ok(());
        }
        let troubles = self.troubles.count();
        self.differs = false;
        self.out.begin(name)?;
        for seen in shard.entries {
            self.out.progress.fetch_add(1, Ordering::Relaxed);
            let (path, looked_at) = (seen.entry.path.clone(), seen.stat);
            let is_other_name = matches!(seen.entry.kind, EntryKind::SameAs { .. });
            match walk.reached(seen) {
                Ok(Some(found)) => {
                    let is_file = is_other_name && !matches!(found.entry.kind, EntryKind::SameAs { .. });
                    self.differs |= is_file || !is_same(&looked_at, &found.stat);
                    self.entry(found, walk)?;
                }
                Ok(None) => self.differs = true,
                Err(why) => self.troubles.unreadable.add(|| format!("{} ({why})", shown(&path))),
            }
        }
        if is_last {
            self.out.put(&[0; ARCHIVE_END_BYTES])?;
        }
        // The fingerprint tells what was looked at. What lacks something is told again, too.
        let holds_it = !self.differs && self.troubles.count() == troubles;
        self.out.end(fingerprint.filter(|_| holds_it))
    }

    /// Refuses what is no snapshot of the tree.
    pub(super) fn judge(&self, entries: u64) -> Result<()> {
        let path = self.config.path.display();
        let troubles = [&self.troubles.unreadable, &self.troubles.damaged];
        let lacking = troubles.into_iter().filter_map(|trouble| trouble.tell(|_, names| names));
        let lacking = lacking.collect::<Vec<_>>().join(", ");
        if !lacking.is_empty() && !self.config.allow_unreadable {
            return Err(Error::source_failed(format!("{path} holds what cannot be read: {lacking}")).hint(
                "let Lifeboat's user read it (\"Files\" in OPERATIONS.md), exclude it, or set allow_unreadable = true",
            ));
        }
        if !lacking.is_empty() && !self.has_content {
            return Err(
                Error::source_failed(format!("nothing in {path} can be read but folders: {lacking}")).hint(READ_HINT)
            );
        }
        if entries <= 1 && !self.config.allow_empty {
            return Err(empty(&self.config.path));
        }
        Ok(())
    }

    /// Writes an entry, and a file again while it changes.
    pub(super) fn entry(&mut self, found: Found, walk: &Walk<'_, FilesConfig>) -> Result<()> {
        let Found { mut entry, file, stat: mut before, .. } = found;
        let Some(file) = file else {
            // What is in another name is in the first one, which may not have been read.
            self.has_content |= !matches!(entry.kind, EntryKind::Folder | EntryKind::SameAs { .. });
            return self.out.put(&member(&entry, &DataMap::default())?);
        };
        let mut readings = 0;
        loop {
            let read = self.reading(&entry, &file, &before)?;
            readings += 1;
            // What changed may fail to be read for that reason alone.
            let changed = match rustix::fs::fstat(&file) {
                Ok(now) if stamp(&now) == stamp(&before) => read.map(|()| None),
                Ok(_) if readings < MAX_READINGS => walk.again(entry.path.clone(), &file).map(Some),
                Ok(_) => {
                    self.troubles.changed.add(|| shown(&entry.path));
                    match read {
                        Err(why) if why.kind() == io::ErrorKind::UnexpectedEof => return Ok(()),
                        read => read.map(|()| None),
                    }
                }
                Err(why) => Err(why.into()),
            };
            match changed {
                Ok(Some(changed)) => {
                    (entry, before) = changed;
                    self.differs = true;
                }
                Ok(None) => {
                    self.has_content = true;
                    return Ok(());
                }
                Err(why) => {
                    // It may have other names, so it stays.
                    self.troubles.damaged.add(|| format!("{} ({why})", shown(&entry.path)));
                    return Ok(());
                }
            }
        }
    }

    /// Writes a file once. What cannot be read, and all after it, is zeros, and the inner error.
    fn reading(&mut self, entry: &Entry, file: &File, stat: &Stat) -> Result<io::Result<()>> {
        let (length, mut read) = (stat.st_size as u64, Ok(()));
        let is_sparse = length >= MIN_SPARSE_BYTES && (stat.st_blocks as u64) < length / 512;
        let data = if is_sparse { DataMap::of(file, length) } else { Ok(DataMap::whole(length)) };
        let data = data.unwrap_or_else(|why| {
            read = Err(why);
            DataMap::default()
        });
        self.out.put(&member(entry, &data)?)?;
        for (mut at, piece) in data.pieces() {
            let end = at + piece;
            while at < end {
                at += self.out.fill(end - at, |space| {
                    match read.is_ok() {
                        true => read = read_or_zeros(file, space, at),
                        false => space.fill(0),
                    }
                    Ok(())
                })? as u64;
            }
        }
        self.out.put(&[0; BLOCK_BYTES][..padding(data.bytes())])?;
        Ok(read)
    }
}

/// Reads what is at `at`. What cannot be read is zeros.
fn read_or_zeros(file: &File, space: &mut [u8], at: u64) -> io::Result<()> {
    let mut filled = 0;
    let mut read = Ok(());
    while filled < space.len() && read.is_ok() {
        match file.read_at(&mut space[filled..], at + filled as u64) {
            Ok(0) => {
                let why = "it ends before the size that its file system tells";
                read = Err(io::Error::new(io::ErrorKind::UnexpectedEof, why));
            }
            Ok(part) => filled += part,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => read = Err(error),
        }
    }
    space[filled..].fill(0);
    read
}
