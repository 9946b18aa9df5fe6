//! A throw-away Redis server: in a private directory, on a unix socket only, without modules, and
//! as an unprivileged user.
//!
//! It is told to be a replica of a server that cannot be there (port 0). A replica lets no key
//! expire by itself and takes no writes. So it holds all that the dump holds, whatever the time is,
//! and a query can only read.
//!
//! If Lifeboat runs as root, the server runs as the user `redis`, or `nobody`. Stopping, dropping
//! or cancelling kills it and removes its files.

use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use lifeboat_base::facts::SourceFacts;
use lifeboat_base::{Class, Context, Error, Result};

use crate::database::{ServerAddress, WorkContext};
use crate::redis::address::RedisAddress;
use crate::redis::clients::{self, RedisClient, RedisPrograms};
use crate::redis::connect::RedisConnection;
use crate::redis::replies::RedisReply;
use crate::redis::users::RedisUsers;
use crate::redis::version_of;
use crate::tool::process::Invocation;
use crate::tool::server::{ServerEnd, ServerProcess};

const MAX_REDIS_START_TIME: Duration = Duration::from_secs(120);
/// One question whether it is there waits no longer.
const MAX_REDIS_PING_TIME: Duration = Duration::from_secs(2);
/// A server that only loads a dump writes a few lines. A function of the dump can write any number.
const MAX_REDIS_LOG_BYTES: u64 = 64 << 20;
/// What to do about a server that is busy with something else than loading.
const BUSY_HINT: &str = "look at the libraries of functions in the snapshot, as one may run for ever when it is loaded; \
    if this host is only slow, raise stall in [limits]";
/// With this status `redis-check-rdb` ends when it refuses a dump, and also when it crashes on one.
const DUMP_REFUSED: i32 = 1;
/// The signal by which a system without memory ends a process.
const KILLED: i32 = 9;
const REDIS_SOCKET: &str = "redis.sock";
const DUMP_FILE: &str = "dump.rdb";
/// What we may do in it, …
const OUR_RULES: &str = "on nopass ~* &* +@all";
/// … and what queries may.
const QUERY_RULES: &str = "on nopass ~* -@all +@read +select +ping +info";
/// Since this series a server can be told to let nobody load modules.
const FIRST_WITH_SWITCHES: (u32, u32) = (7, 0);

/// Nothing is written by itself, nothing is reached, and every value is checked when it is loaded.
const REDIS_SETTINGS: &str = "\
port 0
unixsocketperm 700
replicaof 127.0.0.1 0
replica-read-only yes
replica-serve-stale-data yes
save \"\"
appendonly no
rdbcompression no
sanitize-dump-payload yes
maxmemory 0
protected-mode yes
daemonize no
crash-log-enabled no
crash-memcheck-enabled no
";
const REDIS_SWITCHES: &str = "\
enable-module-command no
enable-debug-command no
enable-protected-configs no
";

/// A server that is to run, or runs.
pub(super) struct RedisThrowAwayServer {
    programs: RedisPrograms,
    client: RedisClient,
    process: ServerProcess,
    /// Who we are there, and who asks queries. No snapshot has such users.
    me: String,
    asker: String,
}

impl RedisThrowAwayServer {
    /// Prepares a server for a snapshot with these facts, below `cx.scratch`.
    ///
    /// # Errors
    /// [`Class::Source`]: its programs are not installed, or there is no place for it.
    pub(super) async fn prepare(facts: &SourceFacts, directories: &[PathBuf], cx: &WorkContext) -> Result<Self> {
        let programs = clients::programs(&version_of(facts)?, directories, cx).await?;
        let client = clients::client(directories, cx).await?;
        let process = ServerProcess::prepare(cx, "redis", ServerEnd::Kill)?;
        let random = rand::random::<u64>();
        Ok(Self {
            programs,
            client,
            process,
            me: format!("lifeboat-{random:016x}"),
            asker: format!("lifeboat-query-{random:016x}"),
        })
    }

    pub(super) fn version(&self) -> &clients::RedisVersion {
        &self.programs.version
    }

    /// How to reach it by hand.
    pub(super) fn address(&self) -> ServerAddress {
        ServerAddress { socket_directory: self.process.socket_directory().to_owned(), user: self.me.clone() }
    }

    /// The dump that it loads, and that it saves again.
    pub(super) fn dump(&self) -> PathBuf {
        self.process.directory().join(DUMP_FILE)
    }

    /// The end of what it wrote into its log.
    pub(super) fn log(&self) -> String {
        self.process.log()
    }

    /// Looks at the dump with the tool of the server, which is told what is wrong.
    ///
    /// # Errors
    /// [`Class::Integrity`]: the tool refuses the dump. Else: it could not look at all of it.
    pub(super) async fn check_dump(&self, cx: &WorkContext) -> Result<()> {
        let dump = self.dump();
        self.process.hand_over(&dump)?;
        let check = Invocation::new(&self.programs.check_rdb, [&dump], cx).user(self.process.user());
        let check = check.directory(self.process.directory());
        let failed = |error: Error| error.within("cannot look at the dump with redis-check-rdb");
        let mut tool = check.start(false).map_err(failed)?;
        // What it prints may name keys.
        while tool.read().await.map_err(failed)?.is_some() {}
        match tool.finish_with(&[0, DUMP_REFUSED]).await.map_err(failed)? {
            DUMP_REFUSED => Err(Error::integrity(format!("redis-check-rdb refuses the dump{}", tool.said()))
                .hint("restore an older snapshot; run redis-check-rdb on a new dump of the server")),
            _ => Ok(()),
        }
    }

    /// Starts it with the dump, these users and so many databases, and waits until it has loaded.
    ///
    /// # Errors
    /// It does not start, or refuses the dump.
    pub(super) async fn launch(&mut self, users: &RedisUsers, databases: u64, cx: &WorkContext) -> Result<()> {
        let directory = self.process.directory().to_owned();
        let failed = || format!("cannot prepare {}", directory.display());
        let mut users = users.clone();
        users.add(&self.me, OUR_RULES);
        users.add(&self.asker, QUERY_RULES);
        let (settings, acl) = (directory.join("redis.conf"), directory.join("users.acl"));
        std::fs::write(&acl, users.written()).context(Class::Source, failed)?;
        std::fs::write(&settings, self.settings(databases, &acl)).context(Class::Source, failed)?;
        for path in [&settings, &acl, &self.dump()] {
            self.process.hand_over(path)?;
        }
        let mut server = self.process.command(&self.programs.server);
        server.arg(&settings);
        self.process.spawn(server)?;
        self.wait_until_loaded(cx).await?;
        // What is there after a save is then what was saved.
        std::fs::remove_file(self.dump()).context(Class::Source, || "cannot remove the dump that was loaded")
    }

    fn settings(&self, databases: u64, acl: &Path) -> String {
        let switches = if self.programs.version.series >= FIRST_WITH_SWITCHES { REDIS_SWITCHES } else { "" };
        let socket = self.process.socket_directory().join(REDIS_SOCKET);
        format!(
            "{REDIS_SETTINGS}{switches}databases {databases}\ndbfilename {DUMP_FILE}\ndir \"{}\"\nunixsocket \"{}\"\n\
            aclfile \"{}\"\n",
            self.process.directory().display(),
            socket.display(),
            acl.display()
        )
    }

    /// The server, as us.
    pub(super) fn connection(&self) -> Result<RedisConnection> {
        self.connection_as(&self.me)
    }

    /// The server, as somebody who only reads.
    pub(super) fn connection_to_read(&self) -> Result<RedisConnection> {
        self.connection_as(&self.asker)
    }

    fn connection_as(&self, user: &str) -> Result<RedisConnection> {
        let path = self.process.socket_directory().join(REDIS_SOCKET);
        RedisConnection::new(self.client.clone(), &RedisAddress::Socket { path, user: Some(user.to_owned()) }, None)
    }

    /// Its users, without ours.
    pub(super) async fn users(&self, cx: &WorkContext) -> Result<RedisUsers> {
        let mut users = RedisUsers::of_lines(&self.connection()?.values(&["ACL", "LIST"], cx).await?)?;
        users.remove(&self.me);
        users.remove(&self.asker);
        Ok(users)
    }

    /// It takes connections before it has loaded, and refuses all commands until then. While it
    /// loads it answers now and then. One that runs a function of the dump does not, so its silence
    /// has a limit, and so has its log.
    async fn wait_until_loaded(&mut self, cx: &WorkContext) -> Result<()> {
        let connection = self.connection()?;
        let asking = WorkContext { stall: cx.stall.min(MAX_REDIS_PING_TIME), ..cx.clone() };
        let mut last_answer = tokio::time::Instant::now();
        // The first answer comes soon, or something is wrong.
        let mut patience = cx.stall.min(MAX_REDIS_START_TIME);
        loop {
            if let Some(status) = self.process.ended() {
                let log = self.process.log();
                let error = Error::source_failed(format!("the throw-away Redis server ended with {status}: {log}"));
                return Err(match status.signal() {
                    Some(KILLED) => error.hint("give the host more memory: a drill holds all data of the dump in it"),
                    _ => error,
                });
            }
            if self.process.log_bytes() > MAX_REDIS_LOG_BYTES {
                return Err(Error::source_failed(format!(
                    "the throw-away Redis server wrote a log of more than {} MiB while it loaded: {}",
                    MAX_REDIS_LOG_BYTES >> 20,
                    self.process.log()
                ))
                .hint(BUSY_HINT));
            }
            match connection.ask(&["PING"], &asking).await {
                Ok(RedisReply::Values(_)) => return Ok(()),
                // It loads, for as long as that takes.
                Ok(RedisReply::Refused(_)) => {
                    last_answer = tokio::time::Instant::now();
                    patience = cx.stall;
                }
                Err(_) if cx.cancel.is_cancelled() => return Err(Error::cancelled("the drill")),
                Err(error) if last_answer.elapsed() > patience => {
                    return Err(Error::source_failed(format!(
                        "the throw-away Redis server gave no answer for {patience:?} while it loaded: {}",
                        self.process.log()
                    ))
                    .because(error)
                    .hint(BUSY_HINT));
                }
                Err(_) => {}
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// Stops it and removes its files.
    ///
    /// # Errors
    /// The files cannot be removed.
    pub(super) async fn stop(self) -> Result<()> {
        self.process.stop().await
    }
}
