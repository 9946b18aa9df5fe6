//! What of a database `restore` is asked for: some tables, or definitions alone; and how rows of a
//! table go into a file or to standard output.

use std::io;
use std::path::{Path, PathBuf};

use lifeboat_engine::base::Context;
use lifeboat_engine::databases::{Database, Portion, PortionOutcome, RowFormat, registry};
use lifeboat_engine::restore::SnapshotStreams;
use lifeboat_engine::{Class, Error, Result};
use tempfile::NamedTempFile;
use tokio::io::AsyncWrite;

use crate::progress::Progress;
use crate::session::Session;

/// Formats of `--format`, the default first.
const FORMATS: [(&str, RowFormat); 2] = [("copy", RowFormat::Copy), ("csv", RowFormat::Csv)];

/// What of a database to restore.
#[derive(Debug, clap::Args)]
pub(super) struct PartFlags {
    /// Of a PostgreSQL database, only this table with its rows, partitions, indexes, keys and owned
    /// sequences, as it is written there: public.orders, or "a.b"."c" for names with dots; may be
    /// repeated. Into a server, it is put into the database of that name, beside what is there
    #[arg(long = "table", value_name = "SCHEMA.NAME", conflicts_with_all = ["to_directory", "schema_only"])]
    tables: Vec<String>,
    /// Of a PostgreSQL database, only the definitions, without rows
    #[arg(long, conflicts_with = "to_directory")]
    schema_only: bool,
    /// With --table: a file that gets its rows. With --schema-only: one that gets the definitions,
    /// as an archive for pg_restore
    #[arg(long, value_name = "FILE")]
    pub(super) to_file: Option<PathBuf>,
    /// How rows are written: as PostgreSQL's COPY does, or as comma-separated values below a line
    /// of column names [default: copy]
    #[arg(long, value_name = "FORMAT", requires = "tables", value_parser = FORMATS.map(|(word, _)| word))]
    format: Option<String>,
}

/// Where a portion goes.
pub(super) enum PortionTarget {
    StandardOutput,
    File { path: PathBuf, overwrite: bool },
}

impl PartFlags {
    /// The tables that were asked for.
    pub(super) fn tables(&self) -> &[String] {
        &self.tables
    }

    /// Whether definitions alone were asked for.
    pub(super) fn is_schema_only(&self) -> bool {
        self.schema_only
    }

    /// Whether less than whole databases was asked for.
    pub(super) fn is_given(&self) -> bool {
        self.schema_only || !self.tables.is_empty()
    }

    /// The portion for a file or standard output; `None` if a whole stream goes there.
    ///
    /// # Errors
    /// The flags ask for several things, or for nothing.
    pub(super) fn portion(&self, stdout: Option<&str>, is_file: bool) -> Result<Option<Portion>> {
        if !is_file && stdout.is_none() {
            if self.format.is_some() {
                return Err(Error::usage("--format goes with --stdout or --to-file").hint("leave --format out"));
            }
            return Ok(None);
        }
        match (&self.tables[..], self.schema_only, stdout) {
            (_, _, Some(stream)) if self.is_given() && !stream.is_empty() => {
                Err(Error::usage("with --table or --schema-only, --stdout takes no STREAM")
                    .hint(format!("leave `{}` out", stream.escape_debug())))
            }
            ([], true, _) => Ok(Some(Portion::Definitions)),
            ([table], false, _) => {
                let format = FORMATS.iter().find(|(word, _)| self.format.as_deref() == Some(word));
                let format = format.map_or(RowFormat::Copy, |(_, format)| *format);
                Ok(Some(Portion::Rows { table: table.clone(), format }))
            }
            ([_, ..], _, _) => Err(Error::usage("one file holds the rows of one table")
                .hint("restore the tables one by one, each with a --table and a target of its own")),
            ([], false, Some("")) => Err(Error::usage("--stdout needs the name of a stream, --table or --schema-only")
                .hint("`lifeboat show` lists the streams")),
            ([], false, Some(_)) if !is_file => Ok(None),
            ([], false, _) => Err(Error::usage("--to-file needs --table or --schema-only")
                .hint("to restore all streams as files, use --to-directory")),
        }
    }

    /// What is recorded of a restore of a part into `target`.
    pub(super) fn told(&self, target: &str) -> String {
        match &self.tables[..] {
            [] if self.schema_only => format!("{target}, definitions alone"),
            [] => target.to_owned(),
            tables => format!("{target}, only {}", tables.join(", ")),
        }
    }
}

/// Fails if snapshots of this engine have no parts.
///
/// # Errors
/// [`Class::Usage`].
pub(super) fn must_have_parts(engine: &str) -> Result<()> {
    if registry::find(engine).is_some_and(Database::has_tables) {
        return Ok(());
    }
    Err(Error::usage(format!("a snapshot of kind {engine} is restored as a whole"))
        .hint("leave out --table, --schema-only and --to-file"))
}

/// Gives a portion. A file is written under another name, and gets its own only when it is
/// complete.
///
/// # Errors
/// As [`Database::give`]; or the file is there.
pub(super) async fn give(
    session: &Session,
    streams: &SnapshotStreams,
    database: Option<&str>,
    (portion, target): (&Portion, &PortionTarget),
) -> Result<PortionOutcome> {
    let engine = &streams.manifest().source.engine;
    must_have_parts(engine)?;
    let engine = registry::find(engine).ok_or_else(|| Error::usage(format!("no kind {engine} is known")))?;
    let give = async |out: &mut (dyn AsyncWrite + Send + Unpin)| {
        let progress = Progress::follow(streams.delivered_counter(), 0, "rows");
        let given = session.cancellable("the restore", engine.give(streams, database, portion, out)).await;
        drop(progress);
        given
    };
    let (path, overwrite) = match target {
        PortionTarget::StandardOutput => return give(&mut tokio::io::stdout()).await,
        PortionTarget::File { path, overwrite } => (path, *overwrite),
    };
    let failed = || format!("cannot write {}", path.display());
    if !overwrite && path.symlink_metadata().is_ok() {
        return Err(is_there(path));
    }
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let unfinished = NamedTempFile::new_in(folder).context(Class::Storage, failed)?;
    let file = unfinished.as_file().try_clone().context(Class::Storage, failed)?;
    let mut out = tokio::fs::File::from_std(file);
    let outcome = give(&mut out).await?;
    out.sync_all().await.context(Class::Storage, failed)?;
    let persisted = if overwrite { unfinished.persist(path) } else { unfinished.persist_noclobber(path) };
    match persisted {
        Ok(_) => Ok(outcome),
        Err(error) if error.error.kind() == io::ErrorKind::AlreadyExists => Err(is_there(path)),
        Err(error) => Err(error.error).context(Class::Storage, failed),
    }
}

fn is_there(path: &Path) -> Error {
    Error::usage(format!("{} is there already", path.display()))
        .hint("name another file, or pass --overwrite to replace it")
}
