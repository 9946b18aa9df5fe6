//! Captures a server: databases, users and grants as `globals`, then a dump of each database.

use std::collections::BTreeMap;
use std::path::PathBuf;

use async_trait::async_trait;
use bytes::Bytes;
use lifeboat_base::facts::SourceFacts;
use lifeboat_base::secret::{Secret, SecretRef};
use lifeboat_base::{Error, Result};

use super::dump::{DumpExtras, DumpPosition, DumpWatch, stream_of};
use super::failures::explained;
use super::globals::{MARIA_GLOBALS, MAX_MARIA_GLOBALS_BYTES};
use super::rights::AccountRights;
use super::server::{MariaFacts, MariaServer, SYSTEM_DATABASES};
use super::settings::MariaConfig;
use super::{MARIADB_KIND, MariaDb, fit, losses, users};
use crate::database::{Database, Source, SourceCheck, WorkContext};
use crate::streams::StreamSink;

/// Details of a snapshot that a throw-away server must share, …
pub(super) const PAGE_SIZE: &str = "page_size";
pub(super) const CHARSET: &str = "character_set";
pub(super) const COLLATION: &str = "collation";
/// … the server's clock at the beginning, …
pub(super) const TAKEN: &str = "taken";
/// … whether events name time zones, and whether users are in the snapshot.
pub(super) const TIME_ZONES: &str = "time_zones";
pub(super) const USERS: &str = "users";
/// Details that tell a database's position in the binary log. The rest is the name of its stream.
const BINLOG_OF: &str = "binlog:";
const GTID_OF: &str = "gtid:";

/// Whether the server told its position in its binary log, which then stands in the dump, too.
pub(super) fn tells_position(stream: &str, facts: &SourceFacts) -> bool {
    [BINLOG_OF, GTID_OF].iter().any(|of| facts.details.contains_key(&format!("{of}{stream}")))
}

/// Whether a detail tells nothing that a restore of the same streams depends on.
pub(super) fn is_of_the_moment(detail: &str) -> bool {
    detail == TAKEN || [BINLOG_OF, GTID_OF].iter().any(|of| detail.starts_with(of))
}
/// Time zones of events that every server knows.
const NAMED_ZONES: &str =
    "SELECT count(*) FROM information_schema.EVENTS WHERE TIME_ZONE <> 'SYSTEM' AND TIME_ZONE NOT REGEXP '^[+-]'";

/// Captures the configured server.
#[derive(Debug, Clone)]
pub struct MariaSource(pub MariaConfig);

/// What a capture goes by.
struct CapturePlan {
    databases: Vec<String>,
    with_users: bool,
    extras: DumpExtras,
    warnings: Vec<String>,
}

#[async_trait]
impl Source for MariaSource {
    fn database(&self) -> &'static dyn Database {
        &MariaDb
    }

    fn client_directories(&self) -> &[PathBuf] {
        &self.0.client_directories
    }

    async fn check(&self, cx: &WorkContext) -> SourceCheck {
        let looked = async {
            let (server, facts) = self.reach(cx).await?;
            let rights = AccountRights::ask(&server).await?;
            let databases = self.databases(&server, &rights).await?;
            let mut broken: Vec<Error> =
                databases.iter().filter_map(|database| rights.lacking(database, &facts.account)).collect();
            let mut weak = lacks(&server, &facts, &rights);
            let extras = DumpExtras::of(facts.version.series, false);
            for database in &databases {
                broken.extend(losses::endless(&server, database).await?);
                weak.extend(losses::of_database(&server, database, extras.history).await?);
            }
            Ok(SourceCheck { broken, weak, scratch_bytes: 0 })
        };
        looked.await.unwrap_or_else(SourceCheck::of)
    }

    async fn capture(&self, sink: &dyn StreamSink, cx: &WorkContext) -> Result<SourceFacts> {
        let (server, facts) = self.reach(cx).await?;
        let CapturePlan { databases, with_users, extras, mut warnings } = self.plan(&server, &facts).await?;
        let (globals, left_out) = users::globals(&server, &databases, with_users, None).await?;
        warnings.extend(left_out);
        let written = globals.written();
        if written.len() > MAX_MARIA_GLOBALS_BYTES {
            return Err(Error::source_failed(format!(
                "the server's users and grants take {} bytes, and no more than {MAX_MARIA_GLOBALS_BYTES} can be restored",
                written.len()
            ))
            .hint("remove accounts that nobody needs, or revoke SELECT on mysql.* to back up without users"));
        }
        let mut stream = sink.open(MARIA_GLOBALS)?;
        stream.write(Bytes::from(written)).await?;
        stream.finish(0).await?;
        let mut details = BTreeMap::from([
            (PAGE_SIZE.to_owned(), facts.page_size),
            (fit::LOWER_CASE.to_owned(), facts.lower_case),
            (CHARSET.to_owned(), facts.charset),
            (COLLATION.to_owned(), facts.collation),
            (TAKEN.to_owned(), facts.now),
        ]);
        if with_users {
            details.insert(USERS.to_owned(), "yes".to_owned());
        }
        if server.value(NAMED_ZONES).await? != "0" {
            details.insert(TIME_ZONES.to_owned(), "named".to_owned());
        }
        for database in &databases {
            warnings.extend(losses::of_database(&server, database, extras.history).await?);
            let named =
                stream_of(database).ok_or_else(|| Error::failed("a database has a name too long for a stream"))?;
            details.insert(format!("{}{named}", fit::ENGINES_OF), fit::engines_of(&server, database).await?);
            let position = dump(&server, database, &named, extras, sink).await?;
            let told = [(BINLOG_OF, position.binlog), (GTID_OF, position.gtid)];
            details.extend(told.into_iter().filter_map(|(of, told)| Some((format!("{of}{named}"), told?))));
        }
        Ok(SourceFacts {
            engine: MARIADB_KIND.to_owned(),
            server_version: Some(facts.version.whole),
            tools: BTreeMap::from([("mariadb-dump".to_owned(), server.clients.version.whole.clone())]),
            details,
            warnings,
            skipped: Vec::new(),
        })
    }
}

impl MariaSource {
    async fn reach<'a>(&self, cx: &'a WorkContext) -> Result<(MariaServer<'a>, MariaFacts)> {
        let password: Option<Secret> = self.0.password.as_ref().map(SecretRef::read).transpose()?;
        MariaServer::reach(&self.0.address, password.as_ref(), &self.0.client_directories, cx).await
    }

    async fn plan(&self, server: &MariaServer<'_>, facts: &MariaFacts) -> Result<CapturePlan> {
        let rights = AccountRights::ask(server).await?;
        let databases = self.databases(server, &rights).await?;
        if let Some(error) = databases.iter().find_map(|database| rights.lacking(database, &facts.account)) {
            return Err(error);
        }
        for database in &databases {
            if let Some(error) = losses::endless(server, database).await? {
                return Err(error);
            }
        }
        let mut warnings = lacks(server, facts, &rights);
        let with_users = rights.reads_users();
        if with_users {
            warnings.extend(losses::of_server(server).await?);
        }
        let extras = DumpExtras::of(facts.version.series, facts.binlog && rights.reads_position());
        Ok(CapturePlan { databases, with_users, extras, warnings })
    }

    /// The databases to capture.
    async fn databases(&self, server: &MariaServer<'_>, rights: &AccountRights) -> Result<Vec<String>> {
        let mut there = server.column("SELECT SCHEMA_NAME FROM information_schema.SCHEMATA ORDER BY 1").await?;
        there.retain(|name| !SYSTEM_DATABASES.contains(&name.to_ascii_lowercase().as_str()));
        let named = if self.0.databases.is_empty() { &self.0.exclude } else { &self.0.databases };
        if let Some(missing) = named.iter().find(|wanted| !there.contains(wanted)) {
            let missing = missing.escape_debug();
            return Err(Error::source_failed(format!("the server has no database `{missing}`, or hides it"))
                .hint(format!("it shows: {}", there.join(", ").escape_debug())));
        }
        if !self.0.databases.is_empty() {
            return Ok(self.0.databases.clone());
        }
        if !rights.sees_all_databases() {
            return Err(Error::source_failed("the server may hide databases from the account that dumps")
                .hint("GRANT SHOW DATABASES ON *.* to it, or name the databases in `databases`"));
        }
        there.retain(|name| !self.0.exclude.contains(name));
        match there.is_empty() {
            true => Err(Error::source_failed("the server has no database to capture").hint("check `exclude`")),
            false => Ok(there),
        }
    }
}

/// What a capture lives with.
fn lacks(server: &MariaServer<'_>, facts: &MariaFacts, rights: &AccountRights) -> Vec<String> {
    let mut weak = Vec::new();
    let account = facts.account.escape_debug();
    if !rights.reads_users() {
        weak.push(format!(
            "is captured without users and grants, which {account} may not read: GRANT SELECT ON mysql.* to it"
        ));
    }
    if facts.binlog && !rights.reads_position() {
        weak.push(format!(
            "is captured without its position in the binary log, which {account} may not read: GRANT BINLOG MONITOR ON *.* to it"
        ));
    }
    if server.clients.version.series > facts.version.series {
        weak.push(format!(
            "is dumped by client tools of version {}, which may write what only that version can load: install mariadb-client {}",
            server.clients.version.whole,
            facts.version.series_text()
        ));
    }
    weak
}

async fn dump(
    server: &MariaServer<'_>,
    database: &str,
    stream: &str,
    extras: DumpExtras,
    sink: &dyn StreamSink,
) -> Result<DumpPosition> {
    let failed = |error: Error| explained(error).within(format!("cannot dump database {}", database.escape_debug()));
    let mut tool = server.connection.tool(&server.clients.dump, &extras.arguments(database), server.cx).start(false)?;
    let (mut writer, mut watch) = (sink.open(stream)?, DumpWatch::default());
    let pumped = tool
        .pump(writer.as_mut(), |piece| {
            watch.see(piece);
            Ok(())
        })
        .await;
    pumped.map_err(failed)?;
    let exit = tool.finish(0).await.map_err(failed)?;
    let position = watch.end().map_err(failed)?;
    writer.finish(exit).await?;
    Ok(if extras.position { position } else { DumpPosition::default() })
}
