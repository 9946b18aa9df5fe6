//! Restores into a directory: each stream becomes a file.

use std::path::{Component, Path, PathBuf};

use tokio::fs::{self, OpenOptions};
use tokio::io::AsyncWriteExt;

use super::{CaptureContext, RestoreOutcome, StoredStreams};
use crate::error::{Class, Context, Error, Result};

/// Writes every stream under a temporary name, checks it, makes it durable, and renames it.
pub(super) async fn load(
    streams: &dyn StoredStreams,
    path: &Path,
    overwrite: bool,
    cx: &CaptureContext,
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
        write(streams, &name, &file, cx).await?;
        outcome.written.push(file.display().to_string());
    }
    Ok(outcome)
}

async fn write(streams: &dyn StoredStreams, name: &str, file: &Path, cx: &CaptureContext) -> Result<()> {
    let failed = || format!("cannot write {}", file.display());
    let folder = file.parent().unwrap_or(Path::new("."));
    fs::create_dir_all(folder).await.context(Class::Source, failed)?;
    let base = file.file_name().map(|base| base.to_string_lossy().into_owned()).unwrap_or_default();
    let temporary = folder.join(format!(".{base}.part"));
    let mut stream = streams.open(name).await?;
    let _ = fs::remove_file(&temporary).await;
    let mut out = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&temporary)
        .await
        .context(Class::Source, failed)?;
    let copied = async {
        while let Some(piece) = stream.next().await? {
            if cx.cancel.is_cancelled() {
                return Err(Error::failed("the restore was cancelled"));
            }
            out.write_all(&piece).await.context(Class::Source, failed)?;
        }
        out.flush().await.context(Class::Source, failed)?;
        out.sync_all().await.context(Class::Source, failed)?;
        fs::rename(&temporary, file).await.context(Class::Source, failed)?;
        let folder = fs::File::open(folder).await.context(Class::Source, failed)?;
        folder.sync_all().await.context(Class::Source, failed)
    };
    let copied = copied.await;
    if copied.is_err() {
        let _ = fs::remove_file(&temporary).await;
    }
    copied
}

/// The file that a stream becomes: what the tools of its engine expect.
fn file_of(engine: &str, stream: &str) -> Result<PathBuf> {
    let named = match (engine, stream) {
        ("postgres", "globals") => "globals.sql".to_owned(),
        ("postgres", name) if name.starts_with("database/") => format!("{name}.dump"),
        ("sqlite", super::sqlite::STREAM) => "database.sqlite".to_owned(),
        (_, name) => name.to_owned(),
    };
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
        assert_eq!(file_of("postgres", "database/shop").ok(), Some(PathBuf::from("database/shop.dump")));
        assert_eq!(file_of("sqlite", "database").ok(), Some(PathBuf::from("database.sqlite")));
    }
}
