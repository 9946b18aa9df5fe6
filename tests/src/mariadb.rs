//! Real throw-away MariaDB servers: a unix socket in a short private path, no durability, gone on
//! drop.
//!
//! Root starts it as the user `mysql`, or `nobody` where there is none.

#![allow(clippy::expect_used)]

use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use lifeboat_engine::databases::mariadb::{MariaAddress, MariaConfig};
use rustix::process::{Pid, Signal, kill_process_group};
use tempfile::TempDir;
use tokio::io::AsyncWriteExt;
use tokio::process::{Child, Command};

use crate::postgres::unprivileged;
use crate::{ports, tools};

const DEADLINE: Duration = Duration::from_secs(120);
/// Who may do everything.
const ROOT: &str = "root";

/// A running server.
pub struct MariaDb {
    place: TempDir,
    server: Child,
    port: Option<u16>,
}

impl MariaDb {
    /// Starts a server that writes a binary log, and lets everybody in as `root`.
    ///
    /// # Panics
    /// It is not installed, or does not start; as all of the harness does.
    pub async fn start() -> Self {
        Self::start_with(&["--log-bin=bin", "--server-id=1", "--log-bin-trust-function-creators=1"]).await
    }

    /// Starts a server with these options, on its socket alone.
    ///
    /// # Panics
    /// As [`Self::start`].
    pub async fn start_with(options: &[&str]) -> Self {
        Self::run(&[&["--skip-networking"][..], options].concat(), None).await
    }

    /// Starts a server that also listens on TCP.
    ///
    /// # Panics
    /// As [`Self::start`].
    pub async fn start_on_tcp() -> Self {
        let port = ports::free();
        Self::run(&["--bind-address=127.0.0.1", &format!("--port={port}")], Some(port)).await
    }

    async fn run(options: &[&str], port: Option<u16>) -> Self {
        let place = tempfile::Builder::new().prefix("lifeboat-my-").tempdir_in("/tmp").expect("a temporary directory");
        std::fs::set_permissions(place.path(), std::fs::Permissions::from_mode(0o711)).expect("permissions");
        let data = format!("--datadir={}", place.path().join("data").display());
        // A server that starts removes temporary tables, those of other servers in `/tmp` too.
        let temporary = format!("--tmpdir={}", place.path().display());
        let mut install = Command::new(tools::find("mariadb-install-db"));
        install.args(["--no-defaults", &data, &temporary, "--auth-root-authentication-method=normal"]);
        install
            .args(["--skip-test-db", "--skip-name-resolve", "--force", "--innodb-use-native-aio=0"])
            .current_dir(place.path());
        as_unprivileged(&mut install, place.path());
        let made = install.output().await.expect("mariadb-install-db runs");
        let (out, err) = (String::from_utf8_lossy(&made.stdout), String::from_utf8_lossy(&made.stderr));
        assert!(made.status.success(), "mariadb-install-db: {err}{out}");
        let mut server = Command::new(tools::find("mariadbd"));
        server.args([
            "--no-defaults",
            &data,
            &temporary,
            "--event-scheduler=OFF",
            "--innodb-flush-log-at-trx-commit=0",
        ]);
        server.args(["--max-allowed-packet=1G", "--innodb-use-native-aio=0", "--skip-name-resolve"]).args(options);
        server.arg(format!("--socket={}", place.path().join("socket").display()));
        server.arg(format!("--pid-file={}", place.path().join("pid").display())).current_dir(place.path());
        as_unprivileged(&mut server, place.path());
        let log = std::fs::File::create(place.path().join("log")).expect("a log");
        let server = server.stdin(Stdio::null()).stdout(log.try_clone().expect("a log")).stderr(log).process_group(0);
        let server = server.kill_on_drop(true).spawn().expect("mariadbd runs");
        let started = Self { place, server, port };
        let began = Instant::now();
        while started.try_query("", "SELECT 1").await.is_err() {
            let log = std::fs::read_to_string(started.place.path().join("log")).unwrap_or_default();
            assert!(began.elapsed() < DEADLINE, "MariaDB does not start: {log}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        started
    }

    /// Its socket.
    #[must_use]
    pub fn socket(&self) -> PathBuf {
        self.place.path().join("socket")
    }

    /// How an operator writes its address, as this user.
    ///
    /// # Panics
    /// Never.
    #[must_use]
    pub fn address(&self, user: &str) -> String {
        match self.port {
            Some(port) => format!("mariadb://{user}@127.0.0.1:{port}"),
            None => format!("socket:{}?user={user}", self.socket().display()),
        }
    }

    /// All of its databases, as this user.
    #[must_use]
    pub fn source(&self, user: &str) -> MariaConfig {
        MariaConfig {
            address: MariaAddress::Socket { path: self.socket(), user: Some(user.to_owned()) },
            password: None,
            databases: Vec::new(),
            exclude: Vec::new(),
            client_directories: Vec::new(),
        }
    }

    /// The process id of the server.
    #[must_use]
    pub fn pid(&self) -> Option<u32> {
        self.server.id()
    }

    /// Runs a script, to its first error.
    ///
    /// # Panics
    /// On that error.
    pub async fn run_sql(&self, database: &str, sql: &str) {
        self.try_query(database, sql).await.unwrap_or_else(|error| panic!("{error}"));
    }

    /// Runs a script and gives its output, one row a line.
    ///
    /// # Panics
    /// On the first error.
    pub async fn query(&self, database: &str, sql: &str) -> String {
        self.try_query(database, sql).await.unwrap_or_else(|error| panic!("{error}"))
    }

    /// Runs a script and gives its output, or its error.
    ///
    /// # Errors
    /// What the client said.
    ///
    /// # Panics
    /// The client cannot be run.
    pub async fn try_query(&self, database: &str, sql: &str) -> Result<String, String> {
        ask(&self.socket(), ROOT, database, sql).await
    }

    /// Loads the time zones that events may name.
    ///
    /// # Panics
    /// They cannot be loaded.
    pub async fn load_time_zones(&self) {
        let tool = Command::new(tools::find("mariadb-tzinfo-to-sql")).arg("/usr/share/zoneinfo").output().await;
        let zones = String::from_utf8(tool.expect("mariadb-tzinfo-to-sql runs").stdout).expect("UTF-8");
        self.run_sql("mysql", &zones).await;
    }
}

/// Runs a script at a socket, and gives its output, or its error.
///
/// # Errors
/// What the client said.
///
/// # Panics
/// The client cannot be run.
pub async fn ask(socket: &Path, user: &str, database: &str, sql: &str) -> Result<String, String> {
    let mut client = Command::new(tools::find("mariadb"));
    client.args(["--no-defaults", "--batch", "--skip-column-names", "--comments", "--max-allowed-packet=1G"]);
    client.args(["--default-character-set=utf8mb4", "--user", user]).arg(format!("--socket={}", socket.display()));
    if !database.is_empty() {
        client.arg(format!("--database={database}"));
    }
    client.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut running = client.spawn().expect("mariadb runs");
    let mut input = running.stdin.take().expect("a pipe");
    let script = sql.to_owned();
    let feeding = tokio::spawn(async move {
        // A client that met an error reads no more.
        let _ = input.write_all(script.as_bytes()).await;
    });
    let done = running.wait_with_output().await.expect("mariadb runs");
    feeding.await.expect("a task");
    match done.status.success() {
        true => Ok(String::from_utf8_lossy(&done.stdout).into_owned()),
        false => Err(String::from_utf8_lossy(&done.stderr).into_owned()),
    }
}

impl Drop for MariaDb {
    fn drop(&mut self) {
        let group = self.server.id().and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw);
        if let Some(group) = group {
            let _ = kill_process_group(group, Signal::KILL);
        }
        let began = Instant::now();
        while matches!(self.server.try_wait(), Ok(None)) && began.elapsed() < Duration::from_secs(5) {
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

fn as_unprivileged(command: &mut Command, place: &Path) {
    if let Some((user, group)) = unprivileged("mysql") {
        chown(place, Some(user), Some(group)).expect("chown");
        command.uid(user).gid(group);
    }
}
