//! A throw-away PostgreSQL server: in a private directory, on a unix socket only, without
//! durability, and as an unprivileged user.
//!
//! PostgreSQL refuses to run as root. If Lifeboat runs as root, the server runs as the user
//! `postgres`, or `nobody`. Stopping, dropping or cancelling ends it and removes its files.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use lifeboat_base::{Error, Result};

use crate::database::{ServerAddress, WorkContext};
use crate::postgres::clients::{self, Clients};
use crate::postgres::connect::Connection;
use crate::postgres::server::Server;
use crate::postgres::settings::{DEFAULT_PORT, PostgresConnection};
use crate::tool::process::{Invocation, output};
use crate::tool::server::{ServerEnd, ServerProcess};

const MAX_START_TIME: Duration = Duration::from_secs(60);
/// Nothing must survive a crash, and nothing else may run during the drill.
const SETTINGS: [&str; 16] = [
    "listen_addresses=",
    // In its own directory: /dev/shm is for everybody of the same user.
    "dynamic_shared_memory_type=mmap",
    "fsync=off",
    "synchronous_commit=off",
    "full_page_writes=off",
    "wal_level=minimal",
    "max_wal_senders=0",
    "archive_mode=off",
    "max_wal_size=8GB",
    "autovacuum=off",
    // JIT would fail in sandboxes that forbid writable and executable memory.
    "jit=off",
    "maintenance_work_mem=256MB",
    // A dump locks all tables at once: this is room for some 200,000, their indexes included.
    "max_locks_per_transaction=2048",
    "log_min_messages=error",
    // The log is told in errors: without statements, and without the lines of a COPY.
    "log_error_verbosity=terse",
    "log_min_error_statement=panic",
];

/// What a drill runs besides the client tools.
const SERVER_PROGRAMS: [&str; 3] = ["initdb", "postgres", "pg_amcheck"];

/// A running server.
pub(crate) struct ThrowAwayServer {
    superuser: String,
    process: ServerProcess,
    pub(crate) clients: Clients,
    pub(crate) version: String,
}

impl ThrowAwayServer {
    /// Starts a server of `major` below `cx.scratch`.
    ///
    /// # Errors
    /// [`lifeboat_base::Class::Source`]: its programs are not installed, or it does not start.
    pub(crate) async fn start(
        major: u32,
        details: &BTreeMap<String, String>,
        directories: &[PathBuf],
        cx: &WorkContext,
    ) -> Result<Self> {
        let programs = programs(major, directories, cx).await?;
        // SIGQUIT is PostgreSQL's immediate shutdown, which also ends its children.
        let mut process = ServerProcess::prepare(cx, "postgres", ServerEnd::QuitThenKill)?;
        let superuser = details.get("superuser").map_or("postgres", String::as_str).to_owned();
        init(&programs, &process, &superuser, details, cx).await?;

        let mut server = process.command(programs.tool("postgres"));
        server.arg("-D").arg(process.directory().join("data")).arg("-k").arg(process.socket_directory());
        server.args(SETTINGS.iter().flat_map(|setting| ["-c", setting]));
        process.spawn(server)?;
        let mut started = Self { superuser, process, version: programs.version.clone(), clients: programs };
        started.wait_until_ready(cx).await?;
        started.process.has_started();
        Ok(started)
    }

    /// How to reach it.
    pub(crate) fn connection(&self) -> PostgresConnection {
        PostgresConnection::Socket {
            directory: self.process.socket_directory().to_owned(),
            port: DEFAULT_PORT,
            user: Some(self.superuser.clone()),
        }
    }

    /// How to reach it by hand.
    pub(super) fn address(&self) -> ServerAddress {
        ServerAddress { socket_directory: self.process.socket_directory().to_owned(), user: self.superuser.clone() }
    }

    /// Its name for the bootstrap superuser.
    pub(crate) fn superuser(&self) -> &str {
        &self.superuser
    }

    /// The server to query and to load into.
    pub(crate) fn server<'a>(&self, cx: &'a WorkContext) -> Result<Server<'a>> {
        let connection = Connection::new(&self.connection(), None, cx)?.of_version(self.clients.major);
        Ok(Server { clients: self.clients.clone(), connection, cx })
    }

    async fn wait_until_ready(&mut self, cx: &WorkContext) -> Result<()> {
        let ready = async {
            loop {
                if let Some(status) = self.process.ended() {
                    return Err(Error::source_failed(format!(
                        "the throw-away PostgreSQL server ended with {status}: {}",
                        self.process.log()
                    )));
                }
                let server = self.server(cx)?;
                if let Ok(version) = server.query_in("template1", "SHOW server_version").await {
                    self.version = version.split_whitespace().next().unwrap_or_default().to_owned();
                    return Ok(());
                }
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        };
        match tokio::time::timeout(MAX_START_TIME, ready).await {
            Ok(result) => result,
            Err(_) => Err(Error::source_failed(format!(
                "the throw-away PostgreSQL server did not start within {MAX_START_TIME:?}: {}",
                self.process.log()
            ))),
        }
    }

    /// `done`, or why the server does not answer: see [`ServerProcess::unless_ended`].
    pub(super) async fn unless_ended<T: Send>(&mut self, done: Result<T>) -> Result<T> {
        self.process.unless_ended("PostgreSQL", done).await
    }

    /// Stops it and removes its files.
    ///
    /// # Errors
    /// The files cannot be removed.
    pub(crate) async fn stop(self) -> Result<()> {
        self.process.stop().await
    }
}

async fn init(
    programs: &Clients,
    server: &ServerProcess,
    superuser: &str,
    details: &BTreeMap<String, String>,
    cx: &WorkContext,
) -> Result<()> {
    let data = server.directory().join("data");
    let mut arguments = vec![
        format!("--pgdata={}", data.display()),
        format!("--username={superuser}"),
        "--auth=trust".to_owned(),
        "--no-sync".to_owned(),
    ];
    let named = [("encoding", "--encoding"), ("collate", "--lc-collate"), ("ctype", "--lc-ctype")];
    let given = named.iter().filter_map(|(detail, option)| Some(format!("{option}={}", details.get(*detail)?)));
    let plain = arguments.clone();
    arguments.extend(given);
    let run = |arguments: Vec<String>| {
        let initdb = Invocation::new(&programs.tool("initdb"), arguments, cx);
        output(initdb.user(server.user()).directory(server.directory()))
    };
    let Err(first) = run(arguments).await else { return Ok(()) };
    // The locale of the source may not be installed here. Creating a database that needs it will
    // fail and say so.
    let _ = std::fs::remove_dir_all(&data);
    run(plain).await.map(drop).map_err(|_| first.within("cannot make a throw-away PostgreSQL cluster"))
}

pub(super) async fn programs(major: u32, directories: &[PathBuf], cx: &WorkContext) -> Result<Clients> {
    let found = clients::installed(directories, cx).await;
    let whole =
        |clients: &&Clients| clients.major == major && SERVER_PROGRAMS.iter().all(|name| clients.tool(name).is_file());
    if let Some(programs) = found.iter().find(whole) {
        return Ok(programs.clone());
    }
    let passed_over = clients::passed_over(directories, (major, true), &SERVER_PROGRAMS, cx).await;
    Err(Error::source_failed(format!(
        "the programs of a PostgreSQL {major} server for the drill are not installed{passed_over}"
    ))
    .hint(format!(
        "install postgresql-{major} (no cluster is needed), or name its directory in [dataset.drill] server_directories"
    )))
}
