//! `mariadb`: users and grants as SQL that is data, databases as dumps of `mariadb-dump`.
//!
//! The streams are `globals` (databases, users and grants, see `globals.rs`), then
//! `database/<name>`, a dump of each database. Each database is consistent in itself, as far as its
//! engines have transactions. Several databases of one server are dumped one after the other.

mod address;
mod capture;
mod clients;
mod connect;
mod dump;
mod encodings;
mod failures;
mod fit;
mod globals;
mod here;
mod lines;
mod load;
mod losses;
mod rights;
mod row_lines;
mod server;
mod settings;
mod statements;
mod target;
mod throw_away;
mod tokens;
mod users;

use std::path::PathBuf;

use async_trait::async_trait;
use lifeboat_base::facts::SourceFacts;
use lifeboat_base::secret::Secret;
use lifeboat_base::settings::{Section, SettingsReader};
use lifeboat_base::{Error, Result};

pub use self::address::MariaAddress;
pub use self::capture::MariaSource;
pub use self::settings::MariaConfig;
pub use self::target::MariaTarget;
use crate::database::{
    ClientTool, Database, FoundHere, FoundSource, Look, ServerTarget, Source, ThrowAway, ToolFound, WorkContext,
};
use crate::passing::PassingMarks;
use crate::proof::{PartsToProve, ProofLevel};
use crate::rows::RowSink;
use crate::streams::StreamReader;

const MARIADB_KIND: &str = "mariadb";

/// The engine of kind `mariadb`.
#[derive(Debug)]
pub struct MariaDb;

#[async_trait]
impl Database for MariaDb {
    fn kind(&self) -> &'static str {
        MARIADB_KIND
    }

    fn keys(&self) -> &'static [&'static str] {
        &settings::MARIA_KEYS
    }

    fn source(&self, section: Section<'_>, reader: &mut SettingsReader<'_>) -> Option<Box<dyn Source>> {
        settings::parse(section, reader).map(|config| Box::new(MariaSource(config)) as Box<dyn Source>)
    }

    fn has_rows(&self, _: &str) -> bool {
        true
    }

    async fn rows(&self, stream: &str, mut reader: Box<dyn StreamReader>, sink: &mut dyn RowSink) -> Result<()> {
        row_lines::read(stream, reader.as_mut(), sink).await
    }

    fn highest_level(&self) -> ProofLevel {
        ProofLevel::Proved
    }

    /// Tables with their indexes take about one and a half times what they take in the SQL of the
    /// dump: 62 MiB of sysbench took 88 MiB. A new server has 286 MiB, of which 256 MiB are redo
    /// log, and its undo log grows.
    fn drill_disk(&self, bytes: u64, _: ProofLevel) -> u64 {
        bytes.saturating_add(bytes / 2).saturating_add(320 << 20)
    }

    fn checks(&self) -> &'static [&'static str] {
        &[throw_away::TABLE_CHECK]
    }

    fn file_of(&self, stream: &str) -> String {
        format!("{stream}.sql")
    }

    fn database_of(&self, stream: &str) -> Option<String> {
        dump::database_of(stream)
    }

    fn passing_marks(&self, stream: &str, facts: &SourceFacts) -> Option<PassingMarks> {
        capture::tells_position(stream, facts).then_some(dump::MARIA_PASSING_MARKS)
    }

    fn parts_to_prove(&self, streams: &[String]) -> Option<PartsToProve> {
        Some(PartsToProve::of_databases(streams, dump::database_of))
    }

    fn is_of_the_moment(&self, detail: &str) -> bool {
        capture::is_of_the_moment(detail)
    }

    fn address_form(&self) -> Option<&'static str> {
        Some(address::MARIA_ADDRESS_FORM)
    }

    fn server(
        &self,
        address: &str,
        password: Option<Secret>,
        client_directories: &[PathBuf],
    ) -> Result<Box<dyn ServerTarget>> {
        let (address, client_directories) = (address::parse(address)?, client_directories.to_vec());
        Ok(Box::new(MariaTarget { address, password, client_directories }))
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
        clients::for_drill(&version_of(facts)?, directories, cx).await.map(drop)
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

    fn client_tool(&self) -> Option<ClientTool> {
        Some(ClientTool { tool: "mariadb-dump", remedy: clients::CLIENT_REMEDY })
    }

    async fn client_tools(&self, directories: &[PathBuf], cx: &WorkContext) -> Vec<ToolFound> {
        clients::tools(directories, cx).await
    }
}

/// The version of the server that a snapshot was taken from.
fn version_of(facts: &SourceFacts) -> Result<clients::MariaVersion> {
    let version = facts.server_version.as_deref().unwrap_or_default();
    clients::MariaVersion::of(&format!("{version}-MariaDB"))
        .ok_or_else(|| Error::integrity("the snapshot does not name its MariaDB version"))
}
