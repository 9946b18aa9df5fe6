//! `sqlite`: one database file, copied by SQLite's backup API while it is in use.

mod at_rest;
mod capture;
mod here;
mod throw_away;

use std::path::PathBuf;

use async_trait::async_trait;
use lifeboat_base::Result;
use lifeboat_base::facts::SourceFacts;
use lifeboat_base::settings::{Section, SettingsReader, Text};
use serde::Deserialize;

pub use self::capture::SqliteSource;
use self::throw_away::SqliteThrowAway;
use crate::database::{Database, FoundHere, FoundSource, Look, Source, ThrowAway, WorkContext};
use crate::proof::ProofLevel;

const SQLITE_KIND: &str = "sqlite";
/// The name of the only stream.
const DATABASE_STREAM: &str = "database";

/// The engine of kind `sqlite`.
#[derive(Debug)]
pub struct Sqlite;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawSqlite {
    path: Option<Text>,
}

#[async_trait]
impl Database for Sqlite {
    fn kind(&self) -> &'static str {
        SQLITE_KIND
    }

    fn keys(&self) -> &'static [&'static str] {
        &["path"]
    }

    fn source(&self, section: Section<'_>, reader: &mut SettingsReader<'_>) -> Option<Box<dyn Source>> {
        let place = section.place();
        let raw: RawSqlite = section.read(reader)?;
        let path = reader.required(raw.path.as_ref(), "path", &place)?;
        Some(Box::new(SqliteSource { path: reader.path(path) }))
    }

    fn highest_level(&self) -> ProofLevel {
        ProofLevel::Proved
    }

    /// The proof has three files: the restored one, its copy, and the stored one again.
    fn drill_disk(&self, bytes: u64, level: ProofLevel) -> u64 {
        bytes.saturating_mul(if level < ProofLevel::Proved { 1 } else { 3 })
    }

    fn checks(&self) -> &'static [&'static str] {
        &["integrity_check", "foreign_key_check"]
    }

    fn file_of(&self, stream: &str) -> String {
        if stream == DATABASE_STREAM { "database.sqlite".to_owned() } else { stream.to_owned() }
    }

    async fn throw_away(&self, _: &SourceFacts, _: &[PathBuf], cx: &WorkContext) -> Result<Option<Box<dyn ThrowAway>>> {
        Ok(Some(Box::new(SqliteThrowAway::new(cx)?)))
    }

    async fn find_here(&self, look: &Look, _: &WorkContext) -> FoundHere {
        let look = look.clone();
        let found = tokio::task::spawn_blocking(move || here::find(&look)).await;
        found.unwrap_or_else(|error| {
            let mut none = FoundHere::default();
            none.cannot_reach("SQLite files", error);
            none
        })
    }

    fn source_at(&self, address: &str, _: &Look) -> Result<FoundSource> {
        here::at(address)
    }
}
