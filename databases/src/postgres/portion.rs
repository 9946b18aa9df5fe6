//! Gives rows of one table, or all definitions, to a file or to standard output, without a server.
//!
//! Rows are given as PostgreSQL's `COPY` would write them, as text or as CSV, in the encoding of
//! the database. Those of a partitioned table are those of its partitions, one after the other.

use lifeboat_base::{Class, Context, Error, Result};
use tokio::io::{AsyncWrite, AsyncWriteExt};

use super::contents::{Change, Contents};
use super::copy_text::{CopyText, RowShape};
use super::extract::{Extract, Picked};
use super::grafted::{ChosenRows, RowSource};
use super::items::{Items, drain};
use super::names::TypedName;
use super::parts::{DumpPart, Stored, TableName, by_database};
use crate::streams::StoredStreams;
use crate::wanted::{Portion, PortionOutcome, RowFormat};

/// Where a portion goes.
type Out<'a> = &'a mut (dyn AsyncWrite + Send + Unpin);

/// Gives a portion.
///
/// # Errors
/// There is no such table; those of a stream; `out` cannot be written to.
pub(super) async fn give(
    streams: &dyn StoredStreams,
    database: Option<&str>,
    portion: &Portion,
    out: Out<'_>,
) -> Result<PortionOutcome> {
    let names = streams.names();
    let databases = by_database(&names)?;
    let (database, parts) = choose(&databases, database)?;
    let Some((first, name)) = parts.first().filter(|(part, _)| part.creates()) else {
        return Err(Error::integrity(format!("the snapshot has no definitions of database {database}")));
    };
    let failed = |error: Error| error.within(format!("cannot read {name}"));
    let mut archive = streams.open(name).await?;
    let mut contents = Contents::read(archive.as_mut()).await.map_err(failed)?;
    let table = match portion {
        Portion::Definitions => {
            if *first != DumpPart::Whole {
                drain(archive.as_mut()).await.map_err(failed)?;
            }
            let contents = Extract::Definitions.of(contents, true);
            let bytes = contents.changed(|_| Change::default());
            write(out, &bytes).await?;
            out.flush().await.context(Class::Storage, cannot_write)?;
            return Ok(PortionOutcome { rows: None, bytes: bytes.len() as u64, warnings: Vec::new() });
        }
        Portion::Rows { table, .. } => TableName::typed_or_refused(table)?,
    };
    let Portion::Rows { format, .. } = portion else { return Ok(PortionOutcome::default()) };
    let picked = Picked::of(&contents, database, &[table])?;
    let mut outcome = PortionOutcome { rows: Some(0), ..PortionOutcome::default() };
    let encoding = contents.encoding();
    if encoding != "UTF8" {
        outcome.warnings.push(format!("the text is in the encoding of the database, {encoding}"));
    }
    let mut giving = Giving { out, format: *format, columns: None, outcome };
    if *first == DumpPart::Whole {
        let source = RowSource::of(name, false, &contents, &picked)?;
        let items = Items::new(contents.take_rest(), archive);
        giving.source(source.opened(items), streams).await?;
    } else {
        drain(archive.as_mut()).await.map_err(failed)?;
        for (part, name) in picked.parts(parts).iter().filter(|(part, _)| !part.creates()) {
            let mut archive = streams.open(name).await?;
            let failed = |error: Error| error.within(format!("cannot read {name}"));
            let mut contents = Contents::read(archive.as_mut()).await.map_err(failed)?;
            let source = RowSource::of(name, *part != DumpPart::Data, &contents, &picked)?;
            if !source.rows.is_empty() {
                let items = Items::new(contents.take_rest(), archive);
                giving.source(source.opened(items), streams).await?;
            }
        }
    }
    if giving.columns.is_none() {
        let table = picked.tables.first().map(|table| TypedName(&table.schema, &table.name).to_string());
        return Err(Error::integrity(format!("the snapshot has no rows of table {}", table.unwrap_or_default())));
    }
    giving.out.flush().await.context(Class::Storage, cannot_write)?;
    Ok(giving.outcome)
}

/// The database that is meant, and its parts.
fn choose<'a, 'n>(there: &'a [Stored<'n>], wanted: Option<&str>) -> Result<(&'a str, &'a [(DumpPart, &'n str)])> {
    let names: Vec<&str> = there.iter().map(|stored| stored.0.as_str()).collect();
    let found = match (wanted, there) {
        (Some(wanted), there) => there.iter().find(|stored| stored.0 == wanted),
        (None, [only]) => Some(only),
        (None, _) => {
            return Err(Error::usage("the snapshot has several databases, and this is of one of them")
                .hint(format!("name it with --database: {}", names.join(", "))));
        }
    };
    let (database, parts) = found.ok_or_else(|| {
        Error::usage(format!("the snapshot has no database `{}`", wanted.unwrap_or_default()))
            .hint(format!("it has: {}", names.join(", ")))
    })?;
    Ok((database, parts))
}

/// Rows on their way.
struct Giving<'a> {
    out: Out<'a>,
    format: RowFormat,
    /// The columns in the order in which they are given, once rows of a table were found.
    columns: Option<Vec<Vec<u8>>>,
    outcome: PortionOutcome,
}

impl Giving<'_> {
    /// Gives all wanted rows of a stream.
    async fn source(&mut self, source: RowSource, streams: &dyn StoredStreams) -> Result<()> {
        let mut items = source.items(streams).await?;
        let mut wanted = source.rows.iter().peekable();
        while let Some(rows) = wanted.peek() {
            match items.next().await.map_err(|error| source.failed(error))? {
                Some(number) if number == rows.number => {
                    self.rows(rows, &mut items).await.map_err(|error| source.failed(error))?;
                    wanted.next();
                }
                Some(_) => {}
                None => return Err(source.failed(Error::integrity("the rows of a table are not in the archive"))),
            }
        }
        source.finish(items).await.map_err(|error| source.failed(error))
    }

    async fn rows(&mut self, rows: &ChosenRows, items: &mut Items) -> Result<()> {
        let is_csv = self.format == RowFormat::Csv;
        let columns = match &self.columns {
            Some(columns) => columns.clone(),
            None => {
                if is_csv {
                    self.write(&super::copy_text::csv_header(&rows.columns)).await?;
                }
                self.columns.insert(rows.columns.clone()).clone()
            }
        };
        let mut text = CopyText::new(RowShape::of(&rows.columns, &columns, is_csv)?);
        let mut given = Vec::new();
        while let Some(piece) = items.content().await? {
            text.take(&piece, &mut given)?;
            self.write(&given).await?;
            given.clear();
        }
        let rows = text.end()?;
        self.outcome.rows = self.outcome.rows.map(|before| before + rows);
        Ok(())
    }

    async fn write(&mut self, bytes: &[u8]) -> Result<()> {
        self.outcome.bytes += bytes.len() as u64;
        write(self.out, bytes).await
    }
}

async fn write(out: Out<'_>, bytes: &[u8]) -> Result<()> {
    out.write_all(bytes).await.context(Class::Storage, cannot_write)
}

fn cannot_write() -> &'static str {
    "cannot write what was asked for"
}
