//! One database of a server that runs, chosen by the server itself.
//!
//! `redis-cli` goes on in database 0 if it cannot choose another one. So what asks or empties a
//! database is one script, in which the server chooses the database, or refuses all of it.

use std::time::Duration;

use lifeboat_base::{Error, Result};

use super::connect::RedisConnection;
use super::failures::{explained, in_one_line};
use super::rdb::MAX_REDIS_DATABASES;
use super::replies::RedisReply;
use crate::database::WorkContext;

/// What a client sent before it was stopped may still be on its way to the server.
const SETTLING: Duration = Duration::from_millis(200);
/// So often it is looked whether a database stays empty.
const MAX_EMPTYINGS: usize = 10;

/// A database of a server.
#[derive(Debug, Clone, Copy)]
pub(super) struct ChosenDatabase<'a> {
    pub(super) connection: &'a RedisConnection,
    pub(super) number: u64,
}

impl ChosenDatabase<'_> {
    /// How many keys it has.
    ///
    /// # Errors
    /// There is no such database, or the user may not ask.
    pub(super) async fn keys(self, cx: &WorkContext) -> Result<u64> {
        let said = self.run("DBSIZE", cx).await?;
        said.parse().map_err(|_| Error::source_failed("the Redis server does not tell how many keys a database has"))
    }

    /// Removes all of its keys.
    ///
    /// # Errors
    /// As [`Self::keys`].
    pub(super) async fn empty(self, cx: &WorkContext) -> Result<()> {
        self.run("FLUSHDB", cx).await.map(drop)
    }

    /// Removes all of its keys, and looks whether it stays so.
    ///
    /// # Errors
    /// It does not.
    pub(super) async fn empty_for_good(self, cx: &WorkContext) -> Result<()> {
        for _ in 0..MAX_EMPTYINGS {
            self.empty(cx).await?;
            tokio::time::sleep(SETTLING).await;
            if self.keys(cx).await? == 0 {
                return Ok(());
            }
        }
        Err(Error::source_failed("somebody else writes into it"))
    }

    async fn run(self, command: &str, cx: &WorkContext) -> Result<String> {
        let number = self.number.to_string();
        if self.number >= MAX_REDIS_DATABASES {
            return Err(Error::usage(format!("`{number}` is no database of Redis")));
        }
        let script = match self.number {
            0 => "return redis.call(ARGV[2])",
            _ => "redis.call('SELECT', ARGV[1]) return redis.call(ARGV[2])",
        };
        match self.connection.ask(&["EVAL", script, "0", &number, command], cx).await? {
            RedisReply::Values(values) => Ok(String::from_utf8_lossy(&values.concat()).into_owned()),
            RedisReply::Refused(why) if why.contains("out of range") => {
                Err(Error::usage(format!("the server has no database {number}"))
                    .hint("raise `databases` in the server's configuration, or choose with --database"))
            }
            RedisReply::Refused(why) => Err(explained(Error::source_failed(format!(
                "the Redis server refuses {command} in database {number}: {}",
                in_one_line(why.split(" script: ").next().unwrap_or_default())
            )))),
        }
    }
}
