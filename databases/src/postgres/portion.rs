//! Gives rows of one table, or all definitions, to a file or to standard output, without a server.
//!
//! Rows are given as PostgreSQL's `COPY` would write them, as text or as CSV, in the encoding of
//! the database. Those of a partitioned table are those of its partitions, one after the other,
//! with their values in the order of the table's columns.

use lifeboat_base::{Class, Context, Error, Result};
use tokio::io::{AsyncWrite, AsyncWriteExt};

use super::contents::{Change, Contents, ContentsEntry};
use super::copy_text::{CopyText, RowShape};
use super::extract::{Extract, Picked};
use super::grafted::{ChosenRows, RowSource};
use super::items::{Items, drain};
use super::names::TypedName;
use super::partitions::{LackingRows, in_order_of_table, is_partitioned};
use super::parts::{DumpPart, Stored, TableName, by_database, meant};
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
    let picked = Picked::of(&contents, database, std::slice::from_ref(&table))?;
    let mut outcome = PortionOutcome { rows: Some(0), ..PortionOutcome::default() };
    let encoding = contents.encoding();
    if encoding != "UTF8" {
        outcome.warnings.push(format!("the text is in the encoding of the database, {encoding}"));
    }
    for foreign in &picked.foreign {
        let name = TypedName(&foreign.schema, &foreign.name);
        outcome.warnings.push(format!("the rows of partition {name} lie on another server, and are not among these"));
    }
    let mut lacking = LackingRows::of(&contents, &picked.tables);
    let is_asked = |entry: &&ContentsEntry| {
        let is_named = |schema: &[u8], name: &[u8]| schema == table.schema.as_bytes() && name == table.name.as_bytes();
        is_named(contents.get(&entry.schema), contents.get(&entry.tag))
    };
    let asked = contents.of_kind("TABLE").find(is_asked).map_or(&b""[..], |entry| contents.get(&entry.definition));
    let partitioned = is_partitioned(asked).then(|| asked.to_vec());
    let mut giving = Giving { out, format: *format, partitioned, columns: None, outcome };
    if *first == DumpPart::Whole {
        let source = RowSource::of(name, false, &contents, &picked)?;
        source.rows.iter().for_each(|rows| lacking.found(&picked.tables, &rows.schema, &rows.table));
        // Before anything is given.
        lacking.told(&picked.tables)?;
        let items = Items::new(contents.take_rest(), archive);
        giving.source(source.opened(items), streams).await?;
    } else {
        drain(archive.as_mut()).await.map_err(failed)?;
        for (part, name) in picked.parts(parts).iter().filter(|(part, _)| !part.creates()) {
            let mut archive = streams.open(name).await?;
            let failed = |error: Error| error.within(format!("cannot read {name}"));
            let mut contents = Contents::read(archive.as_mut()).await.map_err(failed)?;
            let source = RowSource::of(name, *part != DumpPart::Data, &contents, &picked)?;
            source.rows.iter().for_each(|rows| lacking.found(&picked.tables, &rows.schema, &rows.table));
            if !source.rows.is_empty() {
                let items = Items::new(contents.take_rest(), archive);
                giving.source(source.opened(items), streams).await?;
            }
        }
    }
    let told = lacking.told(&picked.tables)?;
    if giving.columns.is_none() {
        let why = if told.is_empty() { "it has no partition with rows here".to_owned() } else { told.join("; ") };
        return Err(Error::usage(format!("the snapshot has no rows of table {table}: {why}"))
            .hint("restore its definition alone, with --schema-only"));
    }
    giving.outcome.warnings.extend(told);
    giving.out.flush().await.context(Class::Storage, cannot_write)?;
    Ok(giving.outcome)
}

/// The database that is meant, and its parts.
fn choose<'a, 'n>(there: &'a [Stored<'n>], wanted: Option<&str>) -> Result<(&'a str, &'a [(DumpPart, &'n str)])> {
    let names: Vec<&str> = there.iter().map(|stored| stored.0.as_str()).collect();
    let found = match wanted.or_else(|| meant(&names)) {
        Some(wanted) => there.iter().find(|stored| stored.0 == wanted),
        None if there.is_empty() => return Err(Error::integrity("the snapshot holds no database")),
        None => {
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
    /// How the table that was asked for is made, if its rows are those of its partitions.
    partitioned: Option<Vec<u8>>,
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
                let columns = match &self.partitioned {
                    None => rows.columns.clone(),
                    Some(definition) => match in_order_of_table(definition, &rows.columns) {
                        Some(columns) => columns,
                        // Its names are told above the values.
                        None if is_csv => rows.columns.clone(),
                        None => {
                            return Err(Error::usage(
                                "the order of the columns of this partitioned table is not clear",
                            )
                            .hint("pass --format csv: its first line names the columns"));
                        }
                    },
                };
                if is_csv {
                    self.write(&super::copy_text::csv_header(&columns)).await?;
                }
                self.columns.insert(columns).clone()
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
