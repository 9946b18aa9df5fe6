//! Counts the rows that only one of two snapshots has.
//!
//! A row is what the engine's dump has of one: a line. So a row that was changed counts as one
//! removed and one added, and the order of rows means nothing. Tables that the two snapshots hold
//! in streams of other names are the same table.

use std::collections::BTreeMap;
use std::path::Path;

use lifeboat_base::{Class, Context, Result};
use lifeboat_databases::rows::RowSink;
use lifeboat_databases::streams::StoredStreams;
use lifeboat_databases::{Database, registry};
use serde::Serialize;

use super::spill::{Side, Spill};
use super::{SnapshotDiff, StreamState};
use crate::restore::{SnapshotStreams, VaultReader};

/// The rows of one table that only one of the two snapshots has.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct RowChange {
    /// The table with its database, or the stream.
    pub table: String,
    /// Rows that only the newer snapshot has.
    pub added: u64,
    /// Rows that only the older snapshot has.
    pub removed: u64,
}

/// Counts rows in all streams that differ. Hashes of rows go to files without names in `scratch`.
/// Sets [`SnapshotDiff::tables`].
///
/// # Errors
/// No identity opens packs; a stream cannot be read to its checked end; `scratch` is full.
pub async fn count_rows(reader: &VaultReader, diff: &mut SnapshotDiff, scratch: &Path) -> Result<()> {
    let (old, new) = (reader.streams(&diff.dataset, &diff.old).await?, reader.streams(&diff.dataset, &diff.new).await?);
    let mut counting = Counting {
        spill: Spill::new(scratch)?,
        side: Side::Old,
        key: rand::random(),
        hasher: blake3::Hasher::new(),
        tables: BTreeMap::new(),
        table: 0,
    };
    let engine = |streams: &SnapshotStreams| registry::find(&streams.facts().engine);
    for stream in &mut diff.streams {
        if stream.state == StreamState::Unchanged {
            continue;
        }
        for (side, streams, length) in [(Side::Old, &old, stream.old_bytes), (Side::New, &new, stream.new_bytes)] {
            let engine: Option<&dyn Database> = engine(streams);
            let Some(engine) = engine.filter(|engine| length.is_some() && engine.has_rows(&stream.stream)) else {
                continue;
            };
            counting.side = side;
            engine.rows(&stream.stream, streams.open(&stream.stream).await?, &mut counting).await?;
            stream.rows_counted = true;
        }
    }
    let Counting { spill, tables, .. } = counting;
    let counted = tokio::task::spawn_blocking(move || spill.count()).await;
    let counts = counted.context(Class::Failed, || "the thread that counts rows failed")??;
    let change = |(table, number): (String, u32)| {
        let of = counts.get(&number).copied().unwrap_or_default();
        RowChange { table, added: of.added, removed: of.removed }
    };
    let changes = tables.into_iter().map(change).filter(|change| change.added + change.removed > 0);
    diff.tables = Some(changes.collect());
    Ok(())
}

/// Takes rows of one side after the other.
struct Counting {
    spill: Spill,
    side: Side,
    key: [u8; 32],
    /// Of the current row.
    hasher: blake3::Hasher,
    /// The number of each table.
    tables: BTreeMap<String, u32>,
    table: u32,
}

impl RowSink for Counting {
    fn table(&mut self, name: &str) -> Result<()> {
        let next = self.tables.len() as u32;
        self.table = *self.tables.entry(name.to_owned()).or_insert(next);
        self.hasher = blake3::Hasher::new_keyed(&self.key);
        Ok(())
    }

    fn bytes(&mut self, bytes: &[u8]) {
        self.hasher.update(bytes);
    }

    fn end(&mut self) -> Result<()> {
        let hash = self.hasher.finalize();
        self.hasher.reset();
        let half = hash.as_bytes().first_chunk::<16>().copied().unwrap_or_default();
        self.spill.add(self.side, self.table, half)
    }
}
