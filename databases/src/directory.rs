//! Restores into a directory: each stream becomes a file.
//!
//! The directory may belong to somebody who changes it meanwhile. It is opened once, and everything
//! below it is reached from there, one folder after the other, without following a link. So nothing
//! is written anywhere else, whatever is swapped for what.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use lifeboat_base::beneath::open_beneath;
use lifeboat_base::opened;
use lifeboat_base::{Class, Context, Error, Result};
use rustix::fs::{AtFlags, Mode, OFlags};
use rustix::io::Errno;
use tokio::sync::mpsc;

use crate::database::WorkContext;
use crate::occupied::is_occupied;
use crate::registry;
use crate::streams::StoredStreams;
use crate::wanted::RestoreOutcome;

/// No more pieces wait to be written.
const MAX_QUEUED_PIECES: usize = 4;

const IN_FOLDER: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC);

/// Writes every stream under a temporary name, checks it, and renames it. With `sync` each file is
/// durable before the next begins.
pub(crate) async fn load(
    streams: &dyn StoredStreams,
    path: &Path,
    overwrite: bool,
    sync: bool,
    cx: &WorkContext,
) -> Result<RestoreOutcome> {
    let failed = || format!("cannot use {}", path.display());
    let root = opened::directory(path).context(Class::Source, failed)?;
    if is_occupied(&root).context(Class::Source, failed)? && !overwrite {
        return Err(Error::usage(format!("{} is not empty", path.display()))
            .hint("choose an empty directory, or pass --overwrite to write into this one"));
    }
    let root = Arc::new(root);
    let mut outcome = RestoreOutcome::default();
    for name in streams.names() {
        let file = file_of(&streams.facts().engine, &name)?;
        let shown = path.join(&file).display().to_string();
        let written = write(streams, &name, NewFile { root: root.clone(), file, sync }, &shown, cx).await;
        written.map_err(|error| match outcome.written.is_empty() {
            true => error,
            false => error.within(format!("{} holds a part of the snapshot", path.display())),
        })?;
        outcome.written.push(shown);
    }
    Ok(outcome)
}

/// A file that is to be written below `root`.
struct NewFile {
    root: Arc<OwnedFd>,
    file: PathBuf,
    sync: bool,
}

/// A file that is being written under a temporary name, which is removed if it is not finished.
struct Unfinished {
    folder: OwnedFd,
    name: OsString,
    temporary: OsString,
    /// Whether it must be durable.
    sync: bool,
    finished: bool,
}

impl NewFile {
    fn begin(self) -> io::Result<(File, Unfinished)> {
        let folder = self.folder()?;
        let name = self.file.file_name().unwrap_or_default().to_owned();
        // A crash must not take the old file before the new one is durable.
        let sync = self.sync || rustix::fs::statat(&folder, &name, AtFlags::SYMLINK_NOFOLLOW).is_ok();
        let temporary = [OsStr::new("."), &name, OsStr::new(".part")].into_iter().collect::<OsString>();
        let _ = rustix::fs::unlinkat(&folder, &temporary, AtFlags::empty());
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let out = open_beneath(&folder, Path::new(&temporary), flags, Mode::RUSR | Mode::WUSR)?;
        Ok((out.into(), Unfinished { folder, name, temporary, sync, finished: false }))
    }

    /// Opens the folder of the file, and makes what is missing on the way.
    fn folder(&self) -> io::Result<OwnedFd> {
        let mut folder = open_beneath(&*self.root, Path::new(""), IN_FOLDER, Mode::empty())?;
        for step in self.file.parent().into_iter().flat_map(Path::components) {
            let made = match rustix::fs::mkdirat(&folder, step.as_os_str(), Mode::from_raw_mode(0o777)) {
                Ok(()) => true,
                Err(Errno::EXIST) => false,
                Err(error) => return Err(error.into()),
            };
            let opened = open_beneath(&folder, Path::new(&step), IN_FOLDER, Mode::empty());
            let next = opened.map_err(|error| match Errno::from_io_error(&error) {
                Some(Errno::LOOP | Errno::NOTDIR) => {
                    let what = format!("{} is not a folder, but a file or a symbolic link", Path::new(&step).display());
                    io::Error::other(what)
                }
                _ => error,
            })?;
            if made && self.sync {
                rustix::fs::fsync(&folder)?;
            }
            folder = next;
        }
        Ok(folder)
    }
}

impl Unfinished {
    fn finish(mut self) -> io::Result<()> {
        rustix::fs::renameat(&self.folder, &self.temporary, &self.folder, &self.name)?;
        self.finished = true;
        if self.sync { Ok(rustix::fs::fsync(&self.folder)?) } else { Ok(()) }
    }
}

impl Drop for Unfinished {
    fn drop(&mut self) {
        if !self.finished {
            let _ = rustix::fs::unlinkat(&self.folder, &self.temporary, AtFlags::empty());
        }
    }
}

async fn write(streams: &dyn StoredStreams, name: &str, new: NewFile, shown: &str, cx: &WorkContext) -> Result<()> {
    let failed = || format!("cannot write {shown}");
    let worker = || "a worker thread failed";
    let begun = tokio::task::spawn_blocking(move || new.begin()).await.context(Class::Failed, worker)?;
    let (out, unfinished) = begun.context(Class::Source, failed)?;
    let (length, sync) = (streams.length(name), unfinished.sync);
    let mut stream = streams.open(name).await?;
    let (pieces, queue) = mpsc::channel(MAX_QUEUED_PIECES);
    let writing = tokio::task::spawn_blocking(move || write_pieces(out, length, queue, sync));
    while let Some(piece) = stream.next().await? {
        if cx.cancel.is_cancelled() {
            return Err(Error::failed("the restore was cancelled").hint("run it again"));
        }
        if pieces.send(piece).await.is_err() {
            // The writer has failed, and its own error says why.
            break;
        }
    }
    drop(pieces);
    writing.await.context(Class::Failed, worker)?.context(Class::Source, failed)?;
    let finished = tokio::task::spawn_blocking(move || unfinished.finish()).await.context(Class::Failed, worker)?;
    finished.context(Class::Source, failed)
}

fn write_pieces(
    mut out: File,
    length: Option<u64>,
    mut queue: mpsc::Receiver<Bytes>,
    sync: bool,
) -> std::io::Result<()> {
    // A disk that is too small fails before the first byte, and writing to allocated space is
    // faster.
    if let Some(length) = length.filter(|length| *length > 0) {
        match rustix::fs::fallocate(&out, rustix::fs::FallocateFlags::empty(), 0, length) {
            Err(rustix::io::Errno::OPNOTSUPP | rustix::io::Errno::NOSYS) | Ok(()) => {}
            Err(error) => return Err(error.into()),
        }
    }
    while let Some(piece) = queue.blocking_recv() {
        out.write_all(&piece)?;
    }
    if sync { out.sync_all() } else { Ok(()) }
}

/// The file that a stream becomes, as the tools of its engine expect it.
fn file_of(engine: &str, stream: &str) -> Result<PathBuf> {
    let named = registry::find(engine).map_or_else(|| stream.to_owned(), |engine| engine.file_of(stream));
    let path = PathBuf::from(&named);
    let inside = path.components().all(|part| matches!(part, Component::Normal(_)));
    if inside && named.split('/').all(|segment| !segment.is_empty() && segment != ".") {
        Ok(path)
    } else {
        Err(Error::integrity(format!("stream `{}` cannot become a file", stream.escape_debug()))
            .hint("restore it with --stdout into a file of your choice"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_stream_name_escapes_the_directory() {
        for bad in ["", "/etc/passwd", "../x", "a/../../x", "a/", "a//b", "./a"] {
            assert!(file_of("command", bad).is_err(), "{bad} passed");
        }
        // A database may be named like this; the dot entries it makes stay inside or are refused.
        assert!(file_of("postgres", "database/../x").is_err());
        assert_eq!(file_of("postgres", "table/shop/s/t").ok(), Some(PathBuf::from("table/shop/s/t.dump")));
        assert_eq!(file_of("postgres", "database/shop").ok(), Some(PathBuf::from("database/shop.dump")));
        assert_eq!(file_of("sqlite", "database").ok(), Some(PathBuf::from("database.sqlite")));
    }
}
