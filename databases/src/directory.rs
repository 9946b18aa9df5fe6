//! Restores into a directory: each stream becomes a file.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Component, Path, PathBuf};

use bytes::Bytes;
use lifeboat_base::{Class, Context, Error, Result};
use tokio::fs;
use tokio::sync::mpsc;

use crate::database::{RestoreOutcome, WorkContext};
use crate::registry;
use crate::streams::StoredStreams;

/// No more pieces wait to be written.
const MAX_QUEUED_PIECES: usize = 4;

/// Writes every stream under a temporary name, checks it, and renames it. With `sync` each file is
/// durable before the next begins.
pub(crate) async fn load(
    streams: &dyn StoredStreams,
    path: &Path,
    overwrite: bool,
    sync: bool,
    cx: &WorkContext,
) -> Result<RestoreOutcome> {
    fs::create_dir_all(path).await.context(Class::Source, || format!("cannot create {}", path.display()))?;
    let mut entries = fs::read_dir(path).await.context(Class::Source, || format!("cannot read {}", path.display()))?;
    let occupied = entries.next_entry().await.context(Class::Source, || format!("cannot read {}", path.display()))?;
    if occupied.is_some() && !overwrite {
        return Err(Error::usage(format!("{} is not empty", path.display()))
            .hint("choose an empty directory, or pass --overwrite to write into this one"));
    }
    let mut outcome = RestoreOutcome::default();
    for name in streams.names() {
        let file = path.join(file_of(&streams.facts().engine, &name)?);
        // A crash must not take the old file before the new one is durable.
        let sync = sync || file.symlink_metadata().is_ok();
        write(streams, &name, &file, sync, cx).await?;
        outcome.written.push(file.display().to_string());
    }
    Ok(outcome)
}

async fn write(streams: &dyn StoredStreams, name: &str, file: &Path, sync: bool, cx: &WorkContext) -> Result<()> {
    let failed = || format!("cannot write {}", file.display());
    let folder = file.parent().unwrap_or(Path::new(".")).to_owned();
    fs::create_dir_all(&folder).await.context(Class::Source, failed)?;
    let base = file.file_name().map(|base| base.to_string_lossy().into_owned()).unwrap_or_default();
    let temporary = folder.join(format!(".{base}.part"));
    let _ = fs::remove_file(&temporary).await;
    let out =
        OpenOptions::new().write(true).create_new(true).mode(0o600).open(&temporary).context(Class::Source, failed)?;
    let length = streams.length(name);
    let mut stream = streams.open(name).await?;
    let (pieces, queue) = mpsc::channel(MAX_QUEUED_PIECES);
    let writing = tokio::task::spawn_blocking(move || write_pieces(out, length, queue, sync));
    let copied = async {
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
        writing.await.context(Class::Failed, || "a worker thread failed")?.context(Class::Source, failed)?;
        fs::rename(&temporary, file).await.context(Class::Source, failed)?;
        if sync {
            let folder = fs::File::open(folder).await.context(Class::Source, failed)?;
            folder.sync_all().await.context(Class::Source, failed)?;
        }
        Ok(())
    };
    let copied = copied.await;
    if copied.is_err() {
        let _ = fs::remove_file(&temporary).await;
    }
    copied
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
