//! The rows of chosen tables, from several streams, as one archive that `pg_restore` reads.

use std::collections::{BTreeSet, VecDeque};
use std::sync::{Mutex, PoisonError};

use async_trait::async_trait;
use bytes::Bytes;
use lifeboat_base::{Error, Result};

use super::contents::Contents;
use super::extract::Picked;
use super::items::Items;
use super::own_archive::{block, copied_columns, item};
use crate::streams::{StoredStreams, StreamReader};

/// Rows of one table, in a stream.
pub(super) struct ChosenRows {
    /// The number of their item in the stream's archive.
    pub(super) number: i64,
    pub(super) schema: Vec<u8>,
    pub(super) table: Vec<u8>,
    pub(super) columns: Vec<Vec<u8>>,
}

/// A stream that holds rows of chosen tables.
pub(super) struct RowSource {
    stream: String,
    /// Whether it holds nothing else, so that it is read to its checked end. Of another, each byte
    /// is checked with its pack.
    is_own: bool,
    pub(super) rows: Vec<ChosenRows>,
    opened: Mutex<Option<Items>>,
}

impl RowSource {
    /// The rows of picked tables in a stream of which the list was read.
    ///
    /// # Errors
    /// The archive is not as a capture makes it.
    pub(super) fn of(stream: &str, is_own: bool, contents: &Contents, picked: &Picked) -> Result<Self> {
        let mut rows = Vec::new();
        for entry in contents.of_kind("TABLE DATA").filter(|entry| picked.is_row_entry(contents, entry)) {
            rows.push(ChosenRows {
                number: entry.id,
                schema: contents.get(&entry.schema).to_vec(),
                table: contents.get(&entry.tag).to_vec(),
                columns: copied_columns(contents.get(&entry.copy))?,
            });
        }
        if contents.is_compressed && !rows.is_empty() {
            return Err(Error::integrity(format!("the rows of {stream} are compressed, which no capture does"))
                .hint("restore the snapshot with --to-directory, and load it with pg_restore by hand"));
        }
        Ok(Self { stream: stream.to_owned(), is_own, rows, opened: Mutex::default() })
    }

    /// The same, where the stream stays open behind its list.
    pub(super) fn opened(self, items: Items) -> Self {
        Self { opened: Mutex::new(Some(items)), ..self }
    }

    /// Takes the tables whose rows it holds out of those whose rows are lacking.
    pub(super) fn takes_from(&self, lacking: &mut BTreeSet<i64>, picked: &Picked) {
        for table in &picked.tables {
            if self.rows.iter().any(|rows| rows.schema == table.schema && rows.table == table.name) {
                lacking.remove(&table.id);
            }
        }
    }

    /// Its items.
    pub(super) async fn items(&self, streams: &dyn StoredStreams) -> Result<Items> {
        let opened = self.opened.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(items) = opened {
            return Ok(items);
        }
        let mut archive = streams.open(&self.stream).await?;
        let mut contents = Contents::read(archive.as_mut()).await.map_err(|error| self.failed(error))?;
        Ok(Items::new(contents.take_rest(), archive))
    }

    /// Ends with a stream of which all wanted rows were read.
    pub(super) async fn finish(&self, items: Items) -> Result<()> {
        if self.is_own { items.finish().await } else { Ok(()) }
    }

    pub(super) fn failed(&self, error: Error) -> Error {
        error.within(format!("cannot read {}", self.stream))
    }
}

/// An archive of ours: its list, then the rows.
pub(super) struct GraftedRows<'a> {
    list: Option<Vec<u8>>,
    streams: &'a dyn StoredStreams,
    sources: VecDeque<RowSource>,
    /// The number of each table's rows in the list, in order.
    numbers: VecDeque<u32>,
    current: Option<GraftedSource>,
}

struct GraftedSource {
    source: RowSource,
    items: Items,
    /// How many of its tables were read.
    done: usize,
    is_within: bool,
}

impl<'a> GraftedRows<'a> {
    pub(super) fn new(
        list: Vec<u8>,
        numbers: Vec<u32>,
        streams: &'a dyn StoredStreams,
        sources: Vec<RowSource>,
    ) -> Self {
        Self { list: Some(list), streams, sources: sources.into(), numbers: numbers.into(), current: None }
    }

    /// Whether everything was given.
    pub(super) fn has_ended(&self) -> bool {
        self.list.is_none() && self.sources.is_empty() && self.current.is_none()
    }

    async fn go_on(&mut self) -> Result<Option<Vec<u8>>> {
        if let Some(list) = self.list.take() {
            return Ok(Some(list));
        }
        let mut current = match self.current.take() {
            Some(current) => current,
            None => {
                let Some(source) = self.sources.pop_front() else { return Ok(None) };
                let items = source.items(self.streams).await?;
                GraftedSource { source, items, done: 0, is_within: false }
            }
        };
        if !current.is_within {
            let wanted = current.source.rows.get(current.done).map(|rows| rows.number);
            while let Some(wanted) = wanted {
                match current.items.next().await.map_err(|error| current.source.failed(error))? {
                    Some(number) if number == wanted => break,
                    Some(_) => {}
                    None => {
                        return Err(current
                            .source
                            .failed(Error::integrity("the rows of a table are not in the archive")));
                    }
                }
            }
            let number = self.numbers.pop_front().unwrap_or_default();
            current.is_within = true;
            self.current = Some(current);
            return Ok(Some(item(number)));
        }
        if let Some(piece) = current.items.content().await.map_err(|error| current.source.failed(error))? {
            self.current = Some(current);
            return Ok(Some(block(&piece)));
        }
        current.is_within = false;
        current.done += 1;
        if current.done < current.source.rows.len() {
            self.current = Some(current);
        } else {
            // Before the rows end for whoever reads them: only a stream whose end was checked may
            // be taken for complete.
            let GraftedSource { source, items, .. } = current;
            source.finish(items).await.map_err(|error| source.failed(error))?;
        }
        Ok(Some(block(&[])))
    }
}

#[async_trait]
impl StreamReader for GraftedRows<'_> {
    async fn next(&mut self) -> Result<Option<Bytes>> {
        Ok(self.go_on().await?.map(Bytes::from))
    }
}
