//! Real throw-away PostgreSQL servers: a unix socket in a short private path, no durability, gone
//! on drop.
//!
//! PostgreSQL refuses to run as root, so root starts it as the user `postgres`, or `nobody` where
//! there is none.

#![allow(clippy::expect_used)]

use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use lifeboat_engine::databases::postgres::PostgresConnection;
use rustix::process::{Pid, Signal, kill_process, kill_process_group};
use tempfile::TempDir;
use tokio::process::{Child, Command};

use crate::programs::processes_in;
use crate::{ports, tools};

const DEADLINE: Duration = Duration::from_secs(60);
/// The bootstrap superuser, unless a test wants another.
const SUPERUSER: &str = "postgres";

/// How clients reach a server.
enum Door {
    /// The socket directory; everybody on this machine is trusted.
    Socket,
    /// TCP on the loopback, with a password for the role `postgres`.
    Password { port: u16, password: String },
}

/// A running server.
pub struct Postgres {
    place: TempDir,
    programs: PathBuf,
    server: Child,
    door: Door,
    superuser: String,
}

impl Postgres {
    /// Starts the newest server that Debian's packages installed.
    ///
    /// # Panics
    /// Nothing is installed, or it does not start; as all of the harness does.
    pub async fn start() -> Self {
        Self::start_from(&tools::postgresql(), Door::Socket, SUPERUSER).await
    }

    /// Starts the server of these programs.
    ///
    /// # Panics
    /// As [`Self::start`].
    pub async fn start_with(programs: &Path) -> Self {
        Self::start_from(programs, Door::Socket, SUPERUSER).await
    }

    /// Starts the server of these programs with a bootstrap superuser of this name.
    ///
    /// # Panics
    /// As [`Self::start`].
    pub async fn start_as(programs: &Path, superuser: &str) -> Self {
        Self::start_from(programs, Door::Socket, superuser).await
    }

    /// Starts a server that asks for `password` and listens on TCP.
    ///
    /// # Panics
    /// As [`Self::start`].
    pub async fn start_with_password(password: &str) -> Self {
        let door = Door::Password { port: ports::free(), password: password.to_owned() };
        Self::start_from(&tools::postgresql(), door, SUPERUSER).await
    }

    /// Starts a standby that follows `primary`, and waits until it has all that is there now.
    ///
    /// # Panics
    /// As [`Self::start`].
    pub async fn standby_of(primary: &Self) -> Self {
        let (place, data) = Self::place();
        let mut copy = Command::new(primary.programs.join("pg_basebackup"));
        copy.args(["--write-recovery-conf", "--checkpoint=fast", "--no-sync", "-U", "postgres", "-h"]);
        copy.arg(primary.place.path()).arg("-D").arg(&data).current_dir(place.path());
        as_unprivileged(&mut copy);
        let made = copy.output().await.expect("pg_basebackup runs");
        assert!(made.status.success(), "pg_basebackup: {}", String::from_utf8_lossy(&made.stderr));
        let standby = Self::run(place, &primary.programs, Door::Socket, &primary.superuser).await;
        let written = primary.query("postgres", "SELECT pg_current_wal_lsn()").await;
        let caught_up = format!("SELECT pg_last_wal_replay_lsn() >= '{}'", written.trim());
        let began = Instant::now();
        while standby.query("postgres", &caught_up).await.trim() != "t" {
            assert!(began.elapsed() < DEADLINE, "the standby does not catch up");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        standby
    }

    /// A private directory, and an empty data directory in it.
    fn place() -> (TempDir, PathBuf) {
        let place = tempfile::Builder::new().prefix("lifeboat-pg-").tempdir_in("/tmp").expect("a temporary directory");
        // Clients pass through to the socket; the data directory is the server's own.
        std::fs::set_permissions(place.path(), std::fs::Permissions::from_mode(0o711)).expect("permissions");
        let data = place.path().join("data");
        std::fs::DirBuilder::new().mode(0o700).create(&data).expect("a data directory");
        if let Some((user, group)) = unprivileged("postgres") {
            for path in [place.path(), &data] {
                std::os::unix::fs::chown(path, Some(user), Some(group)).expect("chown");
            }
        }
        (place, data)
    }

    async fn start_from(programs: &Path, door: Door, superuser: &str) -> Self {
        let (place, data) = Self::place();
        let username = format!("--username={superuser}");
        let mut init = vec![username.as_str(), "--encoding=UTF8", "--locale=C.UTF-8", "--no-sync"];
        let secret = place.path().join("password");
        let secret_option = format!("--pwfile={}", secret.display());
        match &door {
            Door::Socket => init.push("--auth=trust"),
            Door::Password { password, .. } => {
                std::fs::write(&secret, password).expect("a password file");
                init.extend(["--auth=scram-sha-256", &secret_option]);
            }
        }
        let mut initdb = Command::new(programs.join("initdb"));
        initdb.arg("-D").arg(&data).args(init).current_dir(place.path());
        as_unprivileged(&mut initdb);
        let made = initdb.output().await.expect("initdb runs");
        assert!(made.status.success(), "initdb: {}", String::from_utf8_lossy(&made.stderr));
        Self::run(place, programs, door, superuser).await
    }

    /// Runs the server whose data directory is in `place`.
    async fn run(place: TempDir, programs: &Path, door: Door, superuser: &str) -> Self {
        let server = spawn(place.path(), programs, &door);
        let postgres = Self { place, programs: programs.to_owned(), server, door, superuser: superuser.to_owned() };
        postgres.wait_until_ready().await;
        postgres
    }

    async fn wait_until_ready(&self) {
        let began = Instant::now();
        while self.try_query("postgres", "SELECT 1").await.is_err() {
            assert!(began.elapsed() < DEADLINE, "PostgreSQL does not start: {}", self.log());
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// The process id of the server.
    #[must_use]
    pub fn pid(&self) -> Option<u32> {
        self.server.id()
    }

    /// Starts it again, after [`kill_all_of`] it.
    ///
    /// # Panics
    /// As [`Self::start`], or it was not killed.
    pub async fn start_again(&mut self) {
        let ended = tokio::time::timeout(DEADLINE, self.server.wait()).await;
        ended.expect("it was killed").expect("it can be waited for");
        // As long as one of its children is there, no other server takes its data directory.
        let began = Instant::now();
        while !processes_in(self.place.path()).is_empty() {
            assert!(began.elapsed() < DEADLINE, "left: {:?}", processes_in(self.place.path()));
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        self.server = spawn(self.place.path(), &self.programs, &self.door);
        self.wait_until_ready().await;
    }

    /// How Lifeboat is told to connect.
    ///
    /// # Panics
    /// Never: the URL is well-formed.
    #[must_use]
    pub fn connection(&self) -> PostgresConnection {
        match &self.door {
            Door::Socket => PostgresConnection::Socket {
                directory: self.place.path().to_owned(),
                port: 5432,
                user: Some(self.superuser.clone()),
            },
            Door::Password { .. } => PostgresConnection::Url(self.url("postgres").parse().expect("a URL")),
        }
    }

    /// The URL of a database, without the password.
    #[must_use]
    pub fn url(&self, database: &str) -> String {
        match &self.door {
            Door::Socket => format!("postgresql:///{database}?host={}&user=postgres", self.place.path().display()),
            Door::Password { port, .. } => format!("postgresql://postgres@127.0.0.1:{port}/{database}"),
        }
    }

    /// Where its programs are.
    #[must_use]
    pub fn programs(&self) -> &Path {
        &self.programs
    }

    /// What the server said so far.
    ///
    /// # Panics
    /// Its log cannot be read.
    #[must_use]
    pub fn log(&self) -> String {
        String::from_utf8_lossy(&std::fs::read(self.place.path().join("log")).expect("a log")).into_owned()
    }

    /// Makes a directory that is the server's own, such as for a tablespace.
    ///
    /// # Panics
    /// It cannot be made.
    #[must_use]
    pub fn make_directory(&self, name: &str) -> PathBuf {
        let path = self.place.path().join(name);
        std::fs::create_dir(&path).expect("a directory");
        if let Some((user, group)) = unprivileged("postgres") {
            std::os::unix::fs::chown(&path, Some(user), Some(group)).expect("chown");
        }
        path
    }

    /// Makes an empty database.
    ///
    /// # Panics
    /// It cannot be made.
    pub async fn create_database(&self, name: &str) {
        let quoted = name.replace('"', "\"\"");
        self.run_sql("postgres", &format!("CREATE DATABASE \"{quoted}\" TEMPLATE template0")).await;
    }

    /// # Panics
    /// A restore has left a role or a database of its own.
    pub async fn assert_nothing_is_left(&self) {
        let left = "SELECT (SELECT count(*) FROM pg_roles WHERE rolname LIKE 'lifeboat%')
            + (SELECT count(*) FROM pg_database WHERE datname LIKE 'lifeboat%')";
        assert_eq!(self.query("postgres", left).await.trim(), "0");
    }

    /// Runs a script, to its first error.
    ///
    /// # Panics
    /// On that error.
    pub async fn run_sql(&self, database: &str, sql: &str) {
        self.try_query(database, sql).await.unwrap_or_else(|error| panic!("{error}"));
    }

    /// Runs a script and gives its output, unaligned.
    ///
    /// # Panics
    /// On the first error.
    pub async fn query(&self, database: &str, sql: &str) -> String {
        self.try_query(database, sql).await.unwrap_or_else(|error| panic!("{error}"))
    }

    /// Runs a script and gives its output, unaligned, or its error.
    ///
    /// # Errors
    /// What `psql` said.
    ///
    /// # Panics
    /// `psql` cannot be run.
    pub async fn try_query(&self, database: &str, sql: &str) -> Result<String, String> {
        let script = tempfile::NamedTempFile::new_in(self.place.path()).expect("a script");
        std::fs::write(script.path(), sql).expect("a script");
        let escaped = database.replace('\\', "\\\\").replace('\'', "\\'");
        let mut psql = Command::new(self.programs.join("psql"));
        psql.args(["-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1", "-U", &self.superuser, "-f"]).arg(script.path());
        psql.arg("-d").arg(format!("dbname='{escaped}'"));
        match &self.door {
            Door::Socket => psql.arg("-h").arg(self.place.path()),
            Door::Password { port, password } => {
                psql.args(["-h", "127.0.0.1", "-p", &port.to_string()]).env("PGPASSWORD", password)
            }
        };
        let done = psql.stdin(Stdio::null()).output().await.expect("psql runs");
        if done.status.success() {
            Ok(String::from_utf8_lossy(&done.stdout).into_owned())
        } else {
            Err(String::from_utf8_lossy(&done.stderr).into_owned())
        }
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        let group = self.server.id().and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw);
        if let Some(group) = group {
            // SIGQUIT is PostgreSQL's immediate shutdown: it takes its children and its shared
            // memory along.
            let _ = kill_process(group, Signal::QUIT);
            let began = Instant::now();
            while matches!(self.server.try_wait(), Ok(None)) && began.elapsed() < Duration::from_secs(5) {
                std::thread::sleep(Duration::from_millis(20));
            }
            let _ = kill_process_group(group, Signal::KILL);
        }
    }
}

/// Runs the server whose data directory is in `place`.
fn spawn(place: &Path, programs: &Path, door: &Door) -> Child {
    let mut server = Command::new(programs.join("postgres"));
    server.arg("-D").arg(place.join("data")).arg("-k").arg(place).current_dir(place);
    match door {
        Door::Socket => server.args(["-c", "listen_addresses="]),
        Door::Password { port, .. } => server.args(["-c", "listen_addresses=127.0.0.1", "-p", &port.to_string()]),
    };
    server.args(["-c", "fsync=off", "-c", "synchronous_commit=off", "-c", "full_page_writes=off"]);
    server.args(["-c", "max_wal_size=4GB", "-c", "shared_buffers=128MB", "-c", "max_locks_per_transaction=1024"]);
    as_unprivileged(&mut server);
    let log = std::fs::File::create(place.join("log")).expect("a log");
    server.stdin(Stdio::null()).stdout(log.try_clone().expect("a log")).stderr(log).process_group(0);
    server.kill_on_drop(true).spawn().expect("postgres runs")
}

/// Kills a server and its children without a warning. Who has ended already is no error.
pub fn kill_all_of(server: u32) {
    let children = std::fs::read_to_string(format!("/proc/{server}/task/{server}/children")).unwrap_or_default();
    let all = children.split_whitespace().filter_map(|child| child.parse::<i32>().ok());
    for process in std::iter::once(server.cast_signed()).chain(all).filter_map(Pid::from_raw) {
        let _ = kill_process(process, Signal::KILL);
    }
}

/// User and group to run a server as, when we are root: `preferred`, or `nobody`.
pub(crate) fn unprivileged(preferred: &str) -> Option<(u32, u32)> {
    if !rustix::process::geteuid().is_root() {
        return None;
    }
    let users = std::fs::read_to_string("/etc/passwd").unwrap_or_default();
    let entry = |name: &str| {
        let line = users.lines().find(|line| line.split(':').next() == Some(name))?;
        let mut fields = line.split(':').skip(2);
        Some((fields.next()?.parse().ok()?, fields.next()?.parse().ok()?))
    };
    entry(preferred).or_else(|| entry("nobody"))
}

fn as_unprivileged(command: &mut Command) {
    if let Some((user, group)) = unprivileged("postgres") {
        command.uid(user).gid(group);
    }
}
