//! `file`: the bytes of a file or block device, such as a dump that another program wrote, or the
//! snapshot of a volume.

use std::fs::Metadata;
use std::io::Read;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use async_trait::async_trait;
use lifeboat_base::facts::SourceFacts;
use lifeboat_base::settings::{Section, SettingsReader, Text};
use lifeboat_base::{Class, Context, Error, Result};
use serde::Deserialize;

use crate::database::{Database, FoundSource, Look, Source, SourceCheck, WorkContext};
use crate::proof::ProofLevel;
use crate::streams::{StreamSink, StreamWriter};

const FILE_KIND: &str = "file";
/// No more is read at once.
const MAX_READ_BYTES: usize = 256 << 10;

/// The engine of kind `file`.
#[derive(Debug)]
pub struct File;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawFile {
    path: Option<Text>,
    #[serde(default)]
    allow_empty: bool,
}

#[async_trait]
impl Database for File {
    fn kind(&self) -> &'static str {
        FILE_KIND
    }

    fn keys(&self) -> &'static [&'static str] {
        &["allow_empty", "path"]
    }

    fn source(&self, section: Section<'_>, reader: &mut SettingsReader<'_>) -> Option<Box<dyn Source>> {
        let place = section.place();
        let raw: RawFile = section.read(reader)?;
        let path = reader.required(raw.path.as_ref(), "path", &place)?;
        Some(Box::new(FileSource { path: reader.path(path), allow_empty: raw.allow_empty }))
    }

    fn highest_level(&self) -> ProofLevel {
        ProofLevel::Fetched
    }

    fn takes_commands(&self) -> bool {
        true
    }

    fn source_at(&self, address: &str, _: &Look) -> Result<FoundSource> {
        let path = Path::new(address);
        if !path.is_absolute() {
            return Err(Error::usage(format!("`{}` is no absolute path of a file", address.escape_debug()))
                .hint("write the whole path, such as /srv/dumps/wiki.dump"));
        }
        let mut settings = toml::Table::new();
        settings.insert("path".to_owned(), address.into());
        let name = path.file_stem().map(|stem| stem.to_string_lossy().into_owned()).unwrap_or_default();
        let what = format!("file {address}");
        Ok(FoundSource { kind: FILE_KIND, what, place: Some(path.to_owned()), name, settings, account: None })
    }
}

/// Captures one file, which must not change during the capture.
#[derive(Debug, Clone)]
pub struct FileSource {
    /// Where it lies.
    pub path: PathBuf,
    /// Whether a file without a byte is a snapshot.
    pub allow_empty: bool,
}

#[async_trait]
impl Source for FileSource {
    fn database(&self) -> &'static dyn Database {
        &File
    }

    fn may_be_empty(&self) -> bool {
        self.allow_empty
    }

    async fn check(&self, _: &WorkContext) -> SourceCheck {
        let readable = || {
            let metadata = look(&self.path)?;
            if metadata.file_type().is_fifo() {
                // To open it would wait for whoever writes into it.
                return Ok(None);
            }
            let opened = std::fs::File::open(&self.path);
            let opened = opened.context(Class::Source, || format!("cannot read {}", self.path.display()));
            opened.map_err(|error| error.hint("let Lifeboat's user read it"))?;
            // Of a device, nothing tells how much it holds.
            Ok(metadata.is_file().then_some(metadata.len()))
        };
        match readable() {
            Err(error) => SourceCheck::of(error),
            Ok(Some(0)) if !self.allow_empty => SourceCheck {
                weak: vec![format!(
                    "{} is empty now, and a backup of it fails as long as it is: see to its writer, or set allow_empty = true",
                    self.path.display()
                )],
                ..SourceCheck::default()
            },
            Ok(_) => SourceCheck::default(),
        }
    }

    async fn capture(&self, sink: &dyn StreamSink, cx: &WorkContext) -> Result<SourceFacts> {
        let name = self.path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        let stream = sink.open(&name)?;
        let before = look(&self.path)?;
        let (stream, length) = stream_file(&self.path, stream, &[], cx).await?;
        if length == 0 && !self.allow_empty {
            return Err(Error::source_failed(format!("{} is empty", self.path.display()))
                .hint("find out why its writer wrote nothing; if nothing is right, set allow_empty = true"));
        }
        let after = look(&self.path)?;
        if (before.dev(), before.ino(), before.len(), before.mtime(), before.mtime_nsec())
            != (after.dev(), after.ino(), after.len(), after.mtime(), after.mtime_nsec())
        {
            return Err(Error::source_failed(format!("{} changed while it was read", self.path.display()))
                .hint("back it up after its writer has finished, or let the writer rename it into place"));
        }
        stream.finish(0).await?;
        Ok(SourceFacts { engine: FILE_KIND.to_owned(), ..SourceFacts::default() })
    }
}

fn look(path: &Path) -> Result<Metadata> {
    let metadata = path.metadata().context(Class::Source, || format!("cannot read {}", path.display()));
    let metadata = metadata.map_err(|error| error.hint("check the path, and that Lifeboat's user may read it"))?;
    if metadata.is_dir() {
        return Err(Error::source_failed(format!("{} is a directory", path.display()))
            .hint("name a file, or use kind = \"files\""));
    }
    Ok(metadata)
}

/// Streams a file, which must begin with `magic`, on a thread of its own. Gives the writer back
/// unfinished, and tells how many bytes there were.
pub(crate) async fn stream_file(
    path: &Path,
    mut stream: Box<dyn StreamWriter>,
    magic: &'static [u8],
    cx: &WorkContext,
) -> Result<(Box<dyn StreamWriter>, u64)> {
    // It also fires when this future is dropped, so that no thread goes on reading.
    let stop = cx.cancel.child_token();
    let _stops_when_dropped = stop.clone().drop_guard();
    let (file, read) = (path.to_owned(), Arc::new(AtomicU64::new(0)));
    let (progress, runtime) = (read.clone(), tokio::runtime::Handle::current());
    let mut reading = tokio::task::spawn_blocking(move || {
        let failed = || format!("cannot read {}", file.display());
        let mut from = std::fs::File::open(&file).context(Class::Source, failed)?;
        loop {
            let space = runtime.block_on(stream.space())?;
            let most = space.len().min(MAX_READ_BYTES);
            let space = &mut space[..most];
            let length = from.read(space).context(Class::Source, failed)?;
            if length == 0 {
                return Ok((stream, progress.load(Ordering::Relaxed)));
            }
            if progress.fetch_add(length as u64, Ordering::Relaxed) == 0 && !space.starts_with(magic) {
                return Err(Error::source_failed(format!(
                    "{} does not begin as a file of its kind does",
                    file.display()
                )));
            }
            runtime.block_on(stream.filled(length))?;
            if stop.is_cancelled() {
                return Err(Error::cancelled("the capture"));
            }
        }
    });
    let mut seen = None;
    loop {
        tokio::select! {
            done = &mut reading => return done.context(Class::Failed, || "a worker thread failed")?,
            () = cx.cancel.cancelled() => return Err(Error::cancelled("the capture")),
            () = tokio::time::sleep(cx.stall) => {
                let now = Some(read.load(Ordering::Relaxed));
                if now == seen {
                    let shown = path.display();
                    return Err(Error::source_failed(format!("{shown} gave no byte for {:?}", cx.stall))
                        .hint("check the disk or the mount; if it is only slow, raise stall in [limits]"));
                }
                seen = now;
            }
        }
    }
}
