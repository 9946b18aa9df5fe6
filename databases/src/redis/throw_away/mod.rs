//! Drills of Redis snapshots: a throw-away server loads, checks and proves them.

mod prove;
mod query;
mod server;
mod stored;

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use async_trait::async_trait;
use lifeboat_base::facts::SourceFacts;
use lifeboat_base::{Class, Context, Error, Result};
use tokio::io::AsyncWriteExt;

use self::query::ask;
use self::server::RedisThrowAwayServer;
use self::stored::{digest_of_file, milliseconds};
use super::rdb::RdbDigest;
use super::server::RedisInfo;
use super::users::RedisUsers;
use super::{DUMP_STREAM, SETTINGS_STREAM, USERS_STREAM};
use crate::database::{ServerAddress, ThrowAway, WorkContext};
use crate::proof::{CheckResult, DrillQuery, ProofResult, QueryAnswer, answered, checked};
use crate::streams::StoredStreams;

/// What a drill checks: the dump before it is loaded, and how many keys are there after it.
pub(super) const REDIS_CHECKS: [&str; 2] = ["redis_check_rdb", "key_count"];

/// A server has so many databases if nobody says otherwise.
const USUAL_DATABASES: u64 = 16;

/// No more databases are told of whose keys differ.
const MAX_TOLD_DATABASES: usize = 3;

/// A throw-away server with a snapshot in it.
pub(super) struct RedisThrowAway {
    server: RedisThrowAwayServer,
    /// The version, in words.
    version: String,
    /// What was loaded.
    loaded: RdbDigest,
    cx: WorkContext,
}

/// Prepares a throw-away server that can load what the snapshot's server wrote. It starts when it
/// is given the dump.
pub(super) async fn start(facts: &SourceFacts, directories: &[PathBuf], cx: &WorkContext) -> Result<RedisThrowAway> {
    let server = RedisThrowAwayServer::prepare(facts, directories, cx).await?;
    let version = server.version().told();
    Ok(RedisThrowAway { server, version, loaded: RdbDigest::default(), cx: cx.clone() })
}

#[async_trait]
impl ThrowAway for RedisThrowAway {
    fn server_version(&self) -> &str {
        &self.version
    }

    fn address(&self) -> Option<ServerAddress> {
        Some(self.server.address())
    }

    /// The dump is read to its end by a reader of our own, and then by the server's tool, before a
    /// server is given it.
    async fn load(&mut self, streams: &dyn StoredStreams) -> Result<()> {
        let (mut users, mut has_dump) = (RedisUsers::default(), false);
        for name in streams.names() {
            match name.as_str() {
                USERS_STREAM => users = RedisUsers::of_stream(streams, USERS_STREAM).await?,
                DUMP_STREAM => {
                    self.write_dump(streams).await?;
                    has_dump = true;
                }
                // For people.
                SETTINGS_STREAM => read_to_end(streams, SETTINGS_STREAM).await?,
                _ => return Err(Error::integrity("the snapshot of Redis holds a stream that is not known")),
            }
        }
        if !has_dump {
            return Err(Error::integrity("the snapshot holds no dump of Redis"));
        }
        self.loaded = digest_of_file(&self.server.dump(), rand::random(), 0, None, &self.cx).await?;
        // The tool refuses keys without an element, which a server leaves out.
        if self.loaded.empty == 0 {
            self.server.check_dump(&self.cx).await?;
        }
        let databases = (self.loaded.highest_database + 1).max(USUAL_DATABASES);
        self.server.launch(&users, databases, &self.cx).await
    }

    async fn check(&mut self, queries: &[DrillQuery]) -> Result<Vec<CheckResult>> {
        let info = RedisInfo::ask(&self.server.connection()?, &self.cx).await?;
        let (stored, found) = (self.loaded.key_counts(), info.key_counts());
        let [dump_check, count_check] = REDIS_CHECKS.map(str::to_owned);
        let keys = self.loaded.key_count();
        let mut results = Vec::new();
        // A check that was not run has no result: the proof tells why.
        if self.loaded.empty == 0 {
            let sound = format!("{keys} keys are sound");
            results.push(CheckResult { check: dump_check, passed: true, detail: sound });
        }
        let (passed, detail) = match stored == found {
            true => (true, format!("{keys} keys in {} databases", found.len())),
            false => (false, differences(&stored, &found)),
        };
        results.push(CheckResult { check: count_check, passed, detail });
        checked(results, self.answers(queries).await?)
    }

    async fn ask(&mut self, queries: &[DrillQuery]) -> Result<Vec<CheckResult>> {
        answered(self.answers(queries).await?)
    }

    async fn prove(&mut self, streams: &dyn StoredStreams) -> Result<ProofResult> {
        let now = milliseconds(&self.server.connection()?, &self.cx).await?;
        prove::prove(&self.server, streams, now, &self.cx).await
    }

    async fn stop(self: Box<Self>) -> Result<()> {
        self.server.stop().await
    }
}

impl RedisThrowAway {
    async fn answers(&self, queries: &[DrillQuery]) -> Result<Vec<QueryAnswer>> {
        let (connection, mut answers) = (self.server.connection_to_read()?, Vec::new());
        for wanted in queries {
            answers.push(ask(&connection, wanted, &self.cx).await?);
        }
        Ok(answers)
    }

    async fn write_dump(&self, streams: &dyn StoredStreams) -> Result<()> {
        let path = self.server.dump();
        let failed = || format!("cannot write {}", path.display());
        let mut file = tokio::fs::File::create(&path).await.context(Class::Source, failed)?;
        let mut stream = streams.open(DUMP_STREAM).await?;
        while let Some(piece) = stream.next().await? {
            file.write_all(&piece).await.context(Class::Source, failed)?;
        }
        file.flush().await.context(Class::Source, failed)
    }
}

/// The first databases whose keys are not as many, and how many more there are.
fn differences(stored: &BTreeMap<u64, u64>, found: &BTreeMap<u64, u64>) -> String {
    let databases: BTreeSet<&u64> = stored.keys().chain(found.keys()).collect();
    let count = |of: &BTreeMap<u64, u64>, database| of.get(database).copied().unwrap_or_default();
    let differ: Vec<&u64> = databases.into_iter().filter(|it| count(stored, it) != count(found, it)).collect();
    let told = differ.iter().take(MAX_TOLD_DATABASES).map(|database| {
        format!("database {database}: {} keys stored, {} restored", count(stored, database), count(found, database))
    });
    let told = told.collect::<Vec<_>>().join("; ");
    match differ.len().saturating_sub(MAX_TOLD_DATABASES) {
        0 => told,
        more => format!("{told}; and {more} more databases"),
    }
}

/// Reads a stream that nobody needs to its checked end.
async fn read_to_end(streams: &dyn StoredStreams, name: &str) -> Result<()> {
    let mut stream = streams.open(name).await?;
    while stream.next().await?.is_some() {}
    Ok(())
}
