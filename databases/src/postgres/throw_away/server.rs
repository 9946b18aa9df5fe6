//! A throw-away PostgreSQL server: in a private directory, on a unix socket only, without
//! durability, and as an unprivileged user.
//!
//! PostgreSQL refuses to run as root. If Lifeboat runs as root, the server runs as the user
//! `postgres`, or `nobody`, and the scratch directory becomes that user's. The server is a child of
//! this process. Stopping, dropping or cancelling ends it and removes its files. Only a SIGKILL of
//! this process leaves it behind.

use std::collections::BTreeMap;
use std::os::unix::fs::{DirBuilderExt, chown};
use std::path::{Path, PathBuf};
use std::time::Duration;

use lifeboat_base::{Class, Context, Error, Result};
use tempfile::TempDir;
use tokio::process::{Child, Command};

use crate::database::{ServerAddress, WorkContext};
use crate::postgres::clients::{self, Clients};
use crate::postgres::connect::Connection;
use crate::postgres::server::Server;
use crate::postgres::settings::{DEFAULT_PORT, PostgresConnection};
use crate::tool::process::{Invocation, output};
use crate::tool::user::unprivileged_user;

const MAX_START_TIME: Duration = Duration::from_secs(60);
const MAX_STOP_TIME: Duration = Duration::from_secs(20);
/// The path of a socket must fit into 107 bytes, and the name of its file takes some of them.
const MAX_SOCKET_DIRECTORY_BYTES: usize = 80;
/// Nothing must survive a crash, and nothing else may run during the drill.
const SETTINGS: [&str; 14] = [
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
];

/// What a drill runs besides the client tools.
const SERVER_PROGRAMS: [&str; 3] = ["initdb", "postgres", "pg_amcheck"];

/// A running server.
pub(crate) struct ThrowAwayServer {
    directory: PathBuf,
    socket: PathBuf,
    /// Where the socket lies if the path of `directory` is too long.
    _short: Option<TempDir>,
    superuser: String,
    process: Child,
    pub(crate) clients: Clients,
    pub(crate) version: String,
}

impl ThrowAwayServer {
    /// Starts a server of `major` below `cx.scratch`.
    ///
    /// # Errors
    /// [`Class::Source`]: its programs are not installed, or it does not start.
    pub(crate) async fn start(
        major: u32,
        details: &BTreeMap<String, String>,
        directories: &[PathBuf],
        cx: &WorkContext,
    ) -> Result<Self> {
        let programs = programs(major, directories, cx).await?;
        let user = unprivileged_user("postgres")?;
        let directory = cx.scratch.join("server");
        let failed = || format!("cannot prepare {}", directory.display());
        std::fs::DirBuilder::new().mode(0o700).create(&directory).context(Class::Source, failed)?;
        let short = if directory.as_os_str().len() > MAX_SOCKET_DIRECTORY_BYTES {
            let short = tempfile::Builder::new().prefix("lifeboat-").tempdir_in("/tmp");
            Some(short.context(Class::Source, || "cannot make a directory for the socket in /tmp")?)
        } else {
            None
        };
        let socket = short.as_ref().map_or_else(|| directory.clone(), |short| short.path().to_owned());
        if let Some((user, group)) = user {
            for path in [&cx.scratch, &directory, &socket] {
                chown(path, Some(user), Some(group)).context(Class::Source, failed)?;
            }
        }
        let superuser = details.get("superuser").map_or("postgres", String::as_str).to_owned();
        init(&programs, &directory, &superuser, details, user, cx).await?;

        let mut server = Command::new(programs.tool("postgres"));
        server.arg("-D").arg(directory.join("data")).arg("-k").arg(&socket).current_dir(&directory);
        server.args(SETTINGS.iter().flat_map(|setting| ["-c", setting]));
        if let Some((user, group)) = user {
            server.uid(user).gid(group);
        }
        let log = std::fs::File::create(directory.join("log")).context(Class::Source, failed)?;
        server.stdin(std::process::Stdio::null()).stdout(std::process::Stdio::null()).stderr(log);
        server.env_clear().env("LC_ALL", "C.UTF-8").env("PATH", "/usr/bin:/bin");
        let process = server
            .process_group(0)
            .kill_on_drop(true)
            .spawn()
            .context(Class::Source, || "cannot run the throw-away PostgreSQL server")?;
        let mut started = Self {
            directory,
            socket,
            _short: short,
            superuser,
            process,
            version: programs.version.clone(),
            clients: programs,
        };
        started.wait_until_ready(cx).await?;
        Ok(started)
    }

    /// How to reach it.
    pub(crate) fn connection(&self) -> PostgresConnection {
        PostgresConnection::Socket {
            directory: self.socket.clone(),
            port: DEFAULT_PORT,
            user: Some(self.superuser.clone()),
        }
    }

    /// How to reach it by hand.
    pub(super) fn address(&self) -> ServerAddress {
        ServerAddress { socket_directory: self.socket.clone(), user: self.superuser.clone() }
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
                if let Ok(Some(status)) = self.process.try_wait() {
                    return Err(Error::source_failed(format!(
                        "the throw-away PostgreSQL server ended with {status}: {}",
                        self.log()
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
                self.log()
            ))),
        }
    }

    fn log(&self) -> String {
        let log = std::fs::read(self.directory.join("log")).unwrap_or_default();
        let text = String::from_utf8_lossy(&log[log.len().saturating_sub(2000)..]).into_owned();
        text.split_whitespace().collect::<Vec<_>>().join(" ")
    }

    /// Stops it and removes its files.
    ///
    /// # Errors
    /// The files cannot be removed.
    pub(crate) async fn stop(mut self) -> Result<()> {
        self.signal(rustix::process::Signal::INT);
        if tokio::time::timeout(MAX_STOP_TIME, self.process.wait()).await.is_err() {
            self.kill();
            let _ = tokio::time::timeout(MAX_STOP_TIME, self.process.wait()).await;
        }
        let directory = self.directory.clone();
        drop(self);
        match tokio::fs::remove_dir_all(&directory).await {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                Err(error).context(Class::Source, || format!("cannot remove {}", directory.display()))
            }
            _ => Ok(()),
        }
    }

    fn group(&self) -> Option<rustix::process::Pid> {
        self.process.id().and_then(|id| i32::try_from(id).ok()).and_then(rustix::process::Pid::from_raw)
    }

    fn signal(&self, signal: rustix::process::Signal) {
        if let Some(server) = self.group() {
            let _ = rustix::process::kill_process(server, signal);
        }
    }

    /// Ends the server at once. Its children have sessions of their own, and end when it quits; the
    /// rest of its group is killed.
    fn kill(&mut self) {
        if matches!(self.process.try_wait(), Ok(Some(_))) {
            return;
        }
        // SIGQUIT is PostgreSQL's immediate shutdown, which also ends its children.
        self.signal(rustix::process::Signal::QUIT);
        let patience = std::time::Duration::from_secs(5);
        let step = std::time::Duration::from_millis(20);
        for _ in 0..patience.as_millis() / step.as_millis() {
            if matches!(self.process.try_wait(), Ok(Some(_))) {
                return;
            }
            std::thread::sleep(step);
        }
        if let Some(group) = self.group() {
            let _ = rustix::process::kill_process_group(group, rustix::process::Signal::KILL);
        }
    }
}

impl Drop for ThrowAwayServer {
    fn drop(&mut self) {
        self.kill();
        let _ = std::fs::remove_dir_all(&self.directory);
    }
}

async fn init(
    programs: &Clients,
    directory: &Path,
    superuser: &str,
    details: &BTreeMap<String, String>,
    user: Option<(u32, u32)>,
    cx: &WorkContext,
) -> Result<()> {
    let data = directory.join("data");
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
        let initdb = Invocation::new(&programs.tool("initdb"), arguments, cx).user(user).directory(directory);
        output(initdb)
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
