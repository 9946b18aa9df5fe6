//! `postgres`: roles and other globals as SQL, databases as uncompressed archives in the custom
//! format.
//!
//! The streams are `globals` (`pg_dumpall --globals-only`), then the parts of each database
//! (`pg_dump -Fc -Z0`, see `parts.rs`). Each database is consistent in itself. Several databases of
//! one server are captured one after the other, as PostgreSQL has no snapshot across databases.

mod archive;
mod belongings;
mod builds;
mod capture;
mod check;
mod clients;
mod connect;
mod contents;
mod copy_text;
mod creation;
mod dump;
mod encodings;
mod export;
mod extensions;
mod extract;
mod failures;
mod fill;
mod frame;
mod globals;
mod graft;
mod graft_look;
mod grafted;
mod guard;
mod handover;
mod heirs;
mod here;
mod items;
mod late;
mod load;
mod loader;
mod loading;
mod losses;
mod moment;
mod names;
mod needs;
mod orphans;
mod own_archive;
mod owners;
mod ownership;
mod partitions;
mod parts;
mod phases;
mod places;
mod plain;
mod portion;
mod query;
mod refusals;
mod roles;
mod row_reader;
mod server;
mod settings;
mod sql;
mod step_list;
mod steps;
mod tables;
mod target;
mod there;
mod throw_away;
mod timeless;
mod tokens;
mod unproved;
mod values;

use std::collections::BTreeSet;
use std::path::PathBuf;

use async_trait::async_trait;
use lifeboat_base::Result;
use lifeboat_base::facts::SourceFacts;
use lifeboat_base::secret::Secret;
use lifeboat_base::settings::{Section, SettingsReader};
use tokio::io::AsyncWrite;

pub use self::capture::PostgresSource;
pub use self::settings::{PostgresConfig, PostgresConnection};
pub use self::target::PostgresTarget;
use crate::database::{
    ClientTool, Database, FoundHere, FoundSource, Look, ServerTarget, Source, ThrowAway, ToolFound, WorkContext,
};
use crate::passing::PassingMarks;
use crate::proof::{PartsToProve, ProofLevel};
use crate::rows::RowSink;
use crate::streams::{StoredStreams, StreamReader};
use crate::wanted::{Portion, PortionOutcome, Wanted};

const POSTGRES_KIND: &str = "postgres";
/// What WAL takes at most in a drill: `max_wal_size` of its server.
const MAX_DRILL_WAL_BYTES: u64 = 8 << 30;

/// The engine of kind `postgres`.
#[derive(Debug)]
pub struct Postgres;

#[async_trait]
impl Database for Postgres {
    fn kind(&self) -> &'static str {
        POSTGRES_KIND
    }

    fn keys(&self) -> &'static [&'static str] {
        &settings::KEYS
    }

    fn source(&self, section: Section<'_>, reader: &mut SettingsReader<'_>) -> Option<Box<dyn Source>> {
        settings::parse(section, reader).map(|config| Box::new(PostgresSource(config)) as Box<dyn Source>)
    }

    fn lists_values(&self) -> bool {
        true
    }

    fn highest_level(&self) -> ProofLevel {
        ProofLevel::Proved
    }

    /// Rows with their indexes take about one and a half times what they take in the dump, and
    /// their WAL once, up to `max_wal_size`. A million rows of pgbench are 91 MiB in a dump, and
    /// took 150 MiB and 95 MiB of WAL. A new cluster has less than 64 MiB.
    fn drill_disk(&self, bytes: u64, _: ProofLevel) -> u64 {
        let wal = bytes.min(MAX_DRILL_WAL_BYTES);
        bytes.saturating_add(bytes / 2).saturating_add(wal).saturating_add(64 << 20)
    }

    fn database_meant<'a>(&self, databases: &'a BTreeSet<String>) -> Option<&'a str> {
        parts::meant(&databases.iter().map(String::as_str).collect::<Vec<_>>())
    }

    fn checks(&self) -> &'static [&'static str] {
        &["pg_amcheck"]
    }

    fn file_of(&self, stream: &str) -> String {
        match stream {
            globals::GLOBALS => "globals.sql".to_owned(),
            archive if parts::DumpPart::of_stream(archive).is_some() => format!("{archive}.dump"),
            other => other.to_owned(),
        }
    }

    fn database_of(&self, stream: &str) -> Option<String> {
        parts::DumpPart::of_stream(stream).map(|(_, database)| database)
    }

    async fn proved_apart(
        &self,
        streams: &dyn StoredStreams,
        of_one: &[String],
        unchanged: &BTreeSet<&str>,
    ) -> Result<Vec<String>> {
        unproved::tables_apart(streams, of_one, unchanged).await
    }

    fn passing_marks(&self, stream: &str, _: &SourceFacts) -> Option<PassingMarks> {
        (stream == globals::GLOBALS).then_some(globals::GLOBALS_PASSING_MARKS)
    }

    fn parts_to_prove(&self, streams: &[String]) -> Option<PartsToProve> {
        Some(PartsToProve::of_databases(streams, |stream| self.database_of(stream)))
    }

    fn reads(&self, stream: &str, wanted: &Wanted) -> bool {
        let Some((part, database)) = parts::DumpPart::of_stream(stream) else { return false };
        if !wanted.databases.is_empty() && !wanted.databases.contains(&database) {
            return false;
        }
        match part {
            parts::DumpPart::Schema => true,
            parts::DumpPart::Whole | parts::DumpPart::Data => !wanted.is_part(),
            parts::DumpPart::Table(table) => {
                let is_wanted = |text: &String| parts::TableName::typed(text).as_ref() == Some(&table);
                !wanted.is_part() || wanted.tables.iter().any(is_wanted)
            }
        }
    }

    fn has_tables(&self) -> bool {
        true
    }

    async fn give(
        &self,
        streams: &dyn StoredStreams,
        database: Option<&str>,
        portion: &Portion,
        out: &mut (dyn AsyncWrite + Send + Unpin),
    ) -> Result<PortionOutcome> {
        portion::give(streams, database, portion, out).await
    }

    fn has_rows(&self, _: &str) -> bool {
        true
    }

    async fn rows(&self, stream: &str, reader: Box<dyn StreamReader>, sink: &mut dyn RowSink) -> Result<()> {
        row_reader::read(stream, reader, sink).await
    }

    fn address_form(&self) -> Option<&'static str> {
        Some(target::ADDRESS_FORM)
    }

    fn server(
        &self,
        address: &str,
        password: Option<Secret>,
        client_directories: &[PathBuf],
    ) -> Result<Box<dyn ServerTarget>> {
        let (connection, client_directories) = (target::parse(address)?, client_directories.to_vec());
        Ok(Box::new(PostgresTarget { connection, password, client_directories }))
    }

    async fn throw_away(
        &self,
        facts: &SourceFacts,
        directories: &[PathBuf],
        cx: &WorkContext,
    ) -> Result<Option<Box<dyn ThrowAway>>> {
        Ok(Some(Box::new(throw_away::start(facts, directories, cx).await?)))
    }

    async fn has_server_programs(&self, facts: &SourceFacts, directories: &[PathBuf], cx: &WorkContext) -> Result<()> {
        throw_away::has_programs(facts, directories, cx).await
    }

    fn client_tool(&self) -> Option<ClientTool> {
        Some(ClientTool {
            tool: "pg_dump",
            remedy: "install postgresql-client, or name its directory in client_directories",
        })
    }

    async fn client_tools(&self, directories: &[PathBuf], cx: &WorkContext) -> Vec<ToolFound> {
        clients::tools(directories, cx).await
    }

    async fn find_here(&self, look: &Look, _: &WorkContext) -> FoundHere {
        here::find(look)
    }

    fn source_at(&self, address: &str, look: &Look) -> Result<FoundSource> {
        here::at(address, look)
    }

    async fn make_account(&self, found: &FoundSource, cx: &WorkContext) -> Result<()> {
        here::make_account(found, cx).await
    }

    fn inherited_variables(&self) -> &'static [&'static str] {
        &connect::INHERITED_VARIABLES
    }
}
