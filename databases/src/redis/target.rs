//! A Redis server to restore into, while it runs.
//!
//! What is in a database is kept, unless it is to be overwritten: then the database is emptied
//! first. If a load fails, the databases that it began are emptied again, so that no part of them
//! can be taken for the whole.

use std::path::PathBuf;

use async_trait::async_trait;
use lifeboat_base::secret::Secret;
use lifeboat_base::{Error, Result};

use super::address::RedisAddress;
use super::chosen::ChosenDatabase;
use super::clients;
use super::connect::{RedisConnection, refused};
use super::load::{LoadFailed, LoadedKeys, RedisCommand, WantedKeys, load_keys};
use super::rdb::MAX_REDIS_DATABASES;
use super::replies::RedisReply;
use super::server::{RedisInfo, milliseconds};
use super::users::RedisUsers;
use super::{DUMP_STREAM, RedisDb, USERS_STREAM, version_of};
use crate::database::{Database, ServerTarget, WorkContext};
use crate::streams::StoredStreams;
use crate::wanted::{RestoreOutcome, Wanted};

/// The user that every server has.
const DEFAULT_USER: &str = "default";

/// A server to restore into.
#[derive(Debug)]
pub struct RedisTarget {
    /// How to connect.
    pub address: RedisAddress,
    /// The password, which the caller has read.
    pub password: Option<Secret>,
    /// Directories where client tools are looked for first, before the system's.
    pub client_directories: Vec<PathBuf>,
}

#[async_trait]
impl ServerTarget for RedisTarget {
    fn database(&self) -> &'static dyn Database {
        &RedisDb
    }

    fn describe(&self) -> String {
        self.address.describe()
    }

    fn files(&self) -> Vec<PathBuf> {
        self.address.files()
    }

    fn unverified_host(&self) -> Option<String> {
        self.address.unverified_host()
    }

    fn drops_first(&self) -> bool {
        true
    }

    async fn load(&self, streams: &dyn StoredStreams, wanted: &Wanted, cx: &WorkContext) -> Result<RestoreOutcome> {
        let keys = wanted_keys(wanted)?;
        let client = clients::client(&self.client_directories, cx).await?;
        let connection = RedisConnection::new(client, &self.address, self.password.as_ref())?;
        let info = RedisInfo::ask(&connection, cx).await?;
        takes_writes(&info, streams)?;
        let mut warnings = Vec::new();
        let users = users(&connection, streams, wanted, &info, &mut warnings, cx).await?;
        let now = milliseconds(&connection, cx).await?;
        let evicted = info.value("evicted_keys").to_owned();
        let dump = streams.open(DUMP_STREAM).await?;
        let keys = WantedKeys { now, ..keys };
        let (loaded, progress) = match load_keys(&connection, dump, &info.version, keys, &users, cx).await {
            Ok(done) => done,
            Err(failed) => return Err(undone(&connection, failed, cx).await),
        };
        let after = RedisInfo::ask(&connection, cx).await?;
        if after.value("evicted_keys") != evicted {
            let error = Error::source_failed("the server evicted keys while they were loaded, as its memory is full")
                .hint("raise maxmemory of the server: what the snapshot holds needs more");
            return Err(undone(&connection, LoadFailed { error, progress }, cx).await);
        }
        warnings.extend(told(&loaded));
        let written = progress.begun.iter().map(|database| format!("database {database}")).collect();
        Ok(RestoreOutcome { written, warnings, ..RestoreOutcome::default() })
    }
}

/// What of the dump is wanted; the time is not known yet.
fn wanted_keys(wanted: &Wanted) -> Result<WantedKeys> {
    if wanted.keep_going || wanted.as_superuser || wanted.is_part() {
        return Err(Error::usage(
            "a restore into a Redis server takes no --keep-going, --as-superuser, --table or --schema-only",
        )
        .hint("leave them out: it loads all keys of a database or fails, as the user that connects"));
    }
    let number = |name: &String| {
        let odd = || Error::usage(format!("`{}` is no database of Redis", name.escape_debug()));
        let number = name.parse::<u64>().ok().filter(|number| *number < MAX_REDIS_DATABASES);
        number.ok_or_else(|| odd().hint("databases of Redis have numbers, such as --database 0"))
    };
    let databases: Vec<u64> = wanted.databases.iter().map(number).collect::<Result<_>>()?;
    let into = wanted.rename.as_ref().map(number).transpose()?;
    if into.is_some() && databases.len() != 1 {
        return Err(Error::usage("several databases cannot all be restored under one number")
            .hint("choose one with --database"));
    }
    Ok(WantedKeys { databases, into, overwrite: wanted.overwrite, now: 0 })
}

/// Refuses a server that would refuse us, before anything is touched.
fn takes_writes(info: &RedisInfo, streams: &dyn StoredStreams) -> Result<()> {
    if info.value("role") == "slave" {
        return Err(Error::usage("the server is a replica, and takes no writes").hint("restore into its master"));
    }
    if info.value("cluster_enabled") == "1" {
        return Err(Error::usage("the server is a node of a cluster, which takes the keys of its own slots only")
            .hint("restore the files with --to-directory, and start the node with them: see Redis in OPERATIONS.md"));
    }
    let captured = version_of(streams.facts())?;
    if info.version.product == captured.product && info.version.series < captured.series {
        return Err(Error::usage(format!(
            "the snapshot is of {} {}, and the server is {}: an older one may not take it",
            captured.product.name(),
            captured.whole,
            info.version.whole
        ))
        .hint("restore it into a server of the same series or a newer one"));
    }
    Ok(())
}

/// The commands that make the users that are missing, if they are wanted: into a server that holds
/// nothing, they are.
async fn users(
    connection: &RedisConnection,
    streams: &dyn StoredStreams,
    wanted: &Wanted,
    info: &RedisInfo,
    warnings: &mut Vec<String>,
    cx: &WorkContext,
) -> Result<Vec<RedisCommand>> {
    if !streams.names().iter().any(|name| name == USERS_STREAM) {
        return Ok(Vec::new());
    }
    let stored = RedisUsers::of_stream(streams, USERS_STREAM).await?;
    let others = stored.iter().filter(|(name, _)| *name != DEFAULT_USER).count();
    let may_be_wanted = wanted.globals || (wanted.databases.is_empty() && info.key_counts().is_empty());
    let there = match may_be_wanted {
        true => match connection.ask(&["ACL", "USERS"], cx).await? {
            RedisReply::Values(there) => Some(there),
            RedisReply::Refused(why) if wanted.globals => return Err(refused(&["ACL", "USERS"], &why)),
            RedisReply::Refused(_) => None,
        },
        false => None,
    };
    let is_fresh = there.as_ref().is_some_and(|there| there.iter().all(|name| name == DEFAULT_USER.as_bytes()));
    let Some(there) = there.filter(|_| wanted.globals || is_fresh) else {
        if others > 0 {
            warnings.push(format!(
                "the snapshot's {others} users were not restored: pass --globals to make those that are missing"
            ));
        }
        return Ok(Vec::new());
    };
    let is_missing = |name: &str| !there.iter().any(|known| known == name.as_bytes());
    let missing: Vec<_> = stored.iter().filter(|(name, _)| is_missing(name)).collect();
    if !missing.is_empty() {
        // Whoever made them may have done so to get in: they are named.
        let named = missing.iter().map(|(name, rules)| {
            let open = rules.split(' ').any(|rule| rule == "nopass");
            format!("{}{}", name.escape_debug(), if open { " (needs no password)" } else { "" })
        });
        warnings.push(format!(
            "these users were made: {}; run ACL SAVE if the server has an aclfile, else CONFIG REWRITE, or they are \
            gone after its next start",
            named.collect::<Vec<_>>().join(", ")
        ));
    }
    if stored.iter().any(|(name, _)| !is_missing(name)) {
        warnings.push("users that were there, such as default, keep their passwords and rules".to_owned());
    }
    let command = |(name, rules): &(&String, &String)| {
        let words = ["ACL", "SETUSER", name.as_str()].into_iter().chain(rules.split(' '));
        words.filter(|word| !word.is_empty()).map(|word| word.as_bytes().to_vec()).collect()
    };
    Ok(missing.iter().map(command).collect())
}

/// Empties the databases that hold a part of the dump. Returns the error, with what else was done.
async fn undone(connection: &RedisConnection, failed: LoadFailed, cx: &WorkContext) -> Error {
    let LoadFailed { mut error, progress } = failed;
    let cx = cx.to_the_end();
    for number in progress.begun {
        let emptied = match progress.others_write {
            // What others wrote is not ours to remove.
            true => Err(Error::source_failed("somebody else writes into it")),
            false => ChosenDatabase { connection, number }.empty_for_good(&cx).await,
        };
        if let Err(why) = emptied {
            error = error.within(format!(
                "database {number} of the server holds a part of what was restored: empty it by hand: {}",
                why.chain()
            ));
        }
        if progress.emptied.contains(&number) {
            error = error.within(format!("what database {number} held before is gone, as it was to be overwritten"));
        }
    }
    if progress.beyond_keys {
        error = error.within("functions and users that were made by then are still there");
    }
    error
}

/// What an operator should know.
fn told(loaded: &LoadedKeys) -> Vec<String> {
    let mut told = Vec::new();
    if loaded.expired > 0 {
        told.push(format!("{} keys had expired by now, and were left out", loaded.expired));
    }
    if loaded.empty > 0 {
        told.push(format!("{} keys have no element, and no server takes such", loaded.empty));
    }
    if loaded.functions_left_out {
        told.push("the snapshot's functions were left out: they come with all databases only".to_owned());
    }
    told
}
