//! `redis`: a server's dump by the replication protocol, with its users and its settings.
//!
//! The streams are `users` (the lines of an ACL file, passwords as hashes) and `settings` (text to
//! read, without secrets, that nothing applies), as far as the server shows them; then `dump`, an
//! RDB file. The dump is one state of all databases. Users and settings are of a moment before it.

mod address;
mod capture;
mod chosen;
mod clients;
mod connect;
mod failures;
mod here;
mod load;
mod rdb;
mod replies;
mod same;
mod server;
mod settings;
mod tail;
mod target;
mod throw_away;
mod users;

use std::path::PathBuf;

use async_trait::async_trait;
use lifeboat_base::facts::SourceFacts;
use lifeboat_base::secret::Secret;
use lifeboat_base::settings::{Section, SettingsReader};
use lifeboat_base::{Error, Result};

pub use self::address::RedisAddress;
pub use self::capture::RedisSource;
pub use self::settings::RedisConfig;
pub use self::target::RedisTarget;
use crate::database::{
    ClientTool, Database, FoundHere, FoundSource, Look, ServerTarget, Source, ThrowAway, ToolFound, WorkContext,
};
use crate::passing::PassingMarks;
use crate::proof::ProofLevel;
use crate::wanted::Wanted;

const REDIS_KIND: &str = "redis";
const USERS_STREAM: &str = "users";
const SETTINGS_STREAM: &str = "settings";
const DUMP_STREAM: &str = "dump";

/// The engine of kind `redis`.
#[derive(Debug)]
pub struct RedisDb;

#[async_trait]
impl Database for RedisDb {
    fn kind(&self) -> &'static str {
        REDIS_KIND
    }

    fn keys(&self) -> &'static [&'static str] {
        &settings::REDIS_KEYS
    }

    fn source(&self, section: Section<'_>, reader: &mut SettingsReader<'_>) -> Option<Box<dyn Source>> {
        settings::parse(section, reader).map(|config| Box::new(RedisSource(config)) as Box<dyn Source>)
    }

    fn highest_level(&self) -> ProofLevel {
        ProofLevel::Proved
    }

    /// The proof saves the server beside the dump that it has loaded.
    fn drill_disk(&self, bytes: u64, level: ProofLevel) -> u64 {
        bytes.saturating_mul(if level < ProofLevel::Proved { 1 } else { 2 })
    }

    fn checks(&self) -> &'static [&'static str] {
        &throw_away::REDIS_CHECKS
    }

    fn file_of(&self, stream: &str) -> String {
        match stream {
            DUMP_STREAM => "dump.rdb".to_owned(),
            USERS_STREAM => "users.acl".to_owned(),
            SETTINGS_STREAM => "settings.txt".to_owned(),
            other => other.to_owned(),
        }
    }

    fn passing_marks(&self, stream: &str, _: &SourceFacts) -> Option<PassingMarks> {
        (stream == DUMP_STREAM).then_some(same::RDB_PASSING_MARKS)
    }

    fn address_form(&self) -> Option<&'static str> {
        Some(address::REDIS_ADDRESS_FORM)
    }

    fn server(
        &self,
        address: &str,
        password: Option<Secret>,
        client_directories: &[PathBuf],
    ) -> Result<Box<dyn ServerTarget>> {
        let (address, client_directories) = (address::parse(address)?, client_directories.to_vec());
        Ok(Box::new(RedisTarget { address, password, client_directories }))
    }

    fn reads(&self, stream: &str, _: &Wanted) -> bool {
        stream == DUMP_STREAM
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
        clients::programs(&version_of(facts)?, directories, cx).await.map(drop)
    }

    async fn find_here(&self, look: &Look, _: &WorkContext) -> FoundHere {
        here::find(look)
    }

    fn source_at(&self, address: &str, _: &Look) -> Result<FoundSource> {
        here::at(address)
    }

    fn client_tool(&self) -> Option<ClientTool> {
        Some(ClientTool { tool: "redis-cli", remedy: clients::REDIS_CLIENT_REMEDY })
    }

    async fn client_tools(&self, directories: &[PathBuf], cx: &WorkContext) -> Vec<ToolFound> {
        clients::tools(directories, cx).await
    }
}

/// The version of the server that a snapshot was taken from.
fn version_of(facts: &SourceFacts) -> Result<clients::RedisVersion> {
    let told = facts.server_version.as_deref().unwrap_or_default();
    clients::RedisVersion::of_told(told)
        .ok_or_else(|| Error::integrity("the snapshot does not name its version of Redis"))
}
