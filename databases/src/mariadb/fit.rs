//! What a server must have so that a dump makes there what it made in its own: table names that
//! keep their letters, and storage engines. Without them, a load loses tables or their engines
//! without an error.

use lifeboat_base::facts::SourceFacts;
use lifeboat_base::{Error, Result};

use super::dump::database_of;
use super::server::{MariaFacts, MariaServer};
use super::tokens::text;

/// The detail of a snapshot that tells its server's setting for the case of names.
pub(super) const LOWER_CASE: &str = "lower_case_table_names";
/// A detail of a snapshot that tells the engines of a database's tables. The rest is the name of
/// its stream.
pub(super) const ENGINES_OF: &str = "engines:";
/// How engines are separated.
const ENGINE_SEPARATOR: char = ',';
const ENGINES_IN: &str =
    "SELECT DISTINCT ENGINE FROM information_schema.TABLES WHERE ENGINE IS NOT NULL AND TABLE_SCHEMA = ";
const USABLE_ENGINES: &str = "SELECT ENGINE FROM information_schema.ENGINES WHERE SUPPORT IN ('YES', 'DEFAULT')";
/// The setting with which names that differ in capitals alone are two names.
const CASE_COUNTS: &str = "0";

/// The engines of a database's tables, as a detail.
pub(super) async fn engines_of(server: &MariaServer<'_>, database: &str) -> Result<String> {
    let mut engines = server.column(&format!("{ENGINES_IN}{}", text(database))).await?;
    engines.sort_unstable();
    Ok(engines.join(&ENGINE_SEPARATOR.to_string()))
}

/// The engines of the tables in a stream, as its snapshot tells them.
pub(super) fn engines_in<'f>(facts: &'f SourceFacts, stream: &str) -> impl Iterator<Item = &'f str> {
    let told = facts.details.get(&format!("{ENGINES_OF}{stream}")).map_or("", String::as_str);
    told.split(ENGINE_SEPARATOR)
}

/// Refuses a server in which two names of the snapshot could be one: one table would replace the
/// other.
///
/// # Errors
/// The server is such.
pub(super) fn keeps_names(facts: &SourceFacts, server: &MariaFacts) -> Result<()> {
    let captured = facts.details.get(LOWER_CASE);
    if captured.is_some_and(|captured| captured == CASE_COUNTS) && server.lower_case != CASE_COUNTS {
        return Err(Error::usage(format!(
            "the snapshot is of a server with lower_case_table_names = 0, and the server has {}: \
            `Orders` and `orders` would be one table there",
            server.lower_case.escape_debug()
        ))
        .hint("restore it into a server that was set up with lower_case_table_names = 0"));
    }
    Ok(())
}

/// The first engine that tables of these streams need and the server lacks, and their database.
pub(super) async fn missing_engine(
    server: &MariaServer<'_>,
    facts: &SourceFacts,
    streams: &[String],
) -> Result<Option<String>> {
    let usable = server.column(USABLE_ENGINES).await?;
    let lacks = |engine: &&str| !engine.is_empty() && !usable.iter().any(|usable| usable.eq_ignore_ascii_case(engine));
    Ok(streams.iter().find_map(|stream| {
        let engine = engines_in(facts, stream).find(lacks)?;
        let database = database_of(stream).unwrap_or_default();
        Some(format!("the storage engine {} of tables in {}", engine.escape_debug(), database.escape_debug()))
    }))
}
