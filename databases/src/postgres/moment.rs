//! Captures a server whose databases belong to a group: each has its snapshot at the group's
//! moment, and is dumped after that, one after the other.
//!
//! **What that takes of the server**: a session for each database, from before the moment until its
//! own dump has ended, with the locks that keep its tables in shape. The application needs sessions
//! and locks, too, so no more than a part of what there is is taken ([`MomentRoom`]).

use lifeboat_base::{Error, Result};

use super::dump::{dump_under, large_tables};
use super::export::LockedTables;
use super::parts::Table;
use super::server::Server;
use super::settings::PostgresConfig;
use super::sql::FIELD_SEPARATOR;
use super::tables;
use crate::streams::StreamSink;

/// How many locks a server has room for, and how many more sessions it lets in. pg_stat_activity
/// would not do: it tells a role with few rights nothing of the sessions of others.
const ROOM: &str = "SELECT current_setting('max_locks_per_transaction')::bigint \
    * (current_setting('max_connections')::bigint + current_setting('max_prepared_transactions')::bigint), \
    current_setting('max_connections')::bigint - current_setting('superuser_reserved_connections')::bigint \
    - (SELECT coalesce(sum(numbackends), 0) FROM pg_stat_database)";
/// The locks of a group's moment take this part of the room for them: a fourth. The dumps take
/// their own.
const SHARE_OF_LOCKS: u64 = 4;
/// Its sessions take this part of those that are free: a half.
const SHARE_OF_SESSIONS: u64 = 2;
/// The warning if there is no room for more locks.
pub(super) const UNLOCKED: &str = "the server has no room to lock all tables before the moment of the group: if one of \
    the others is altered or dropped before its dump, the backup fails; raise max_locks_per_transaction there";

/// What a moment may take of a server.
pub(super) struct MomentRoom {
    /// So many more tables may be locked.
    locks: usize,
}

impl MomentRoom {
    /// # Errors
    /// There are not enough sessions for so many databases.
    pub(super) async fn of(server: &Server<'_>, databases: usize) -> Result<Self> {
        Self::parse(&server.query(ROOM).await?, databases)
    }

    fn parse(answer: &str, databases: usize) -> Result<Self> {
        let fields: Vec<i64> = answer.split(FIELD_SEPARATOR).filter_map(|field| field.trim().parse().ok()).collect();
        let [locks, sessions] = fields[..] else {
            return Err(Error::source_failed(
                "the PostgreSQL server gave an unexpected answer to the query for its room",
            ));
        };
        let [locks, sessions] = [locks, sessions].map(|count| u64::try_from(count).unwrap_or(0));
        if databases as u64 > sessions / SHARE_OF_SESSIONS {
            return Err(Error::source_failed(format!(
                "a group holds a session for each of the {databases} databases of the server, and half of what is free of its connections is {}",
                sessions / SHARE_OF_SESSIONS
            ))
            .hint("raise max_connections of the server, name fewer in `databases`, or take the dataset out of the group"));
        }
        Ok(Self { locks: usize::try_from(locks / SHARE_OF_LOCKS).unwrap_or(usize::MAX) })
    }

    /// Whether no more tables may be locked.
    pub(super) fn is_full(&self) -> bool {
        self.locks == 0
    }
}

/// A database of a group, ready for the moment.
pub(super) struct LockedDatabase {
    name: String,
    encoding: String,
    tables: Vec<Table>,
    session: LockedTables,
}

impl LockedDatabase {
    pub(super) async fn lock(
        server: &Server<'_>,
        database: &str,
        config: &PostgresConfig,
        room: &mut MomentRoom,
    ) -> Result<Self> {
        let (encoding, tables) = (server.encoding_of(database).await?, large_tables(server, database, config).await?);
        // The dumps of other databases may come first, and nobody may alter tables meanwhile.
        let locked = tables::to_lock(server, database, room.locks).await?;
        room.locks -= locked.len().min(room.locks);
        let session = LockedTables::lock(server, database, &locked).await?;
        Ok(Self { name: database.to_owned(), encoding, tables, session })
    }
}

/// Takes a snapshot of each database at the moment of the group, then dumps them.
pub(super) async fn capture_at_one_moment(
    server: &Server<'_>,
    databases: Vec<LockedDatabase>,
    config: &PostgresConfig,
    sink: &dyn StreamSink,
) -> Result<Vec<String>> {
    if databases.is_empty() {
        return Ok(Vec::new());
    }
    sink.moment().turn_with_locks(&server.cx.cancel).await?;
    let exports = databases.into_iter().map(async |LockedDatabase { name, encoding, tables, session }| {
        Ok::<_, Error>((name, encoding, tables, session.export().await?))
    });
    let exported = futures::future::try_join_all(exports).await?;
    sink.moment().fixed();
    let mut warnings = Vec::new();
    for (name, encoding, tables, snapshot) in exported {
        warnings.extend(dump_under(server, (&name, &encoding), &tables, snapshot, config, sink).await?);
    }
    Ok(warnings)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn a_moment_takes_a_part_of_the_locks_and_sessions_that_there_are() {
        let room = |locks: i64, sessions: i64, databases: usize| {
            MomentRoom::parse(&format!("{locks}{FIELD_SEPARATOR}{sessions}"), databases)
        };
        assert_eq!(room(6400, 97, 48).unwrap().locks, 1600);
        let refused = room(6400, 97, 49).err().unwrap();
        assert!(refused.message().contains("each of the 49 databases"), "{refused:?}");
        // More sessions than there may be, those for superusers included.
        assert!(room(6400, -2, 1).is_err() && room(6400, 1, 1).is_err());
        assert!(room(3, 97, 1).unwrap().is_full());
        assert!(MomentRoom::parse("", 1).is_err());
    }
}
