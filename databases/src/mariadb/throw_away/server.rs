//! A throw-away MariaDB server: in a private directory, on a unix socket only, without durability,
//! without events, and as an unprivileged user.
//!
//! If Lifeboat runs as root, the server runs as the user `mysql`, or `nobody`, and the scratch
//! directory becomes that user's. It is a child of this process. Stopping, dropping or cancelling
//! kills it and removes its files: nothing in it is worth an orderly end. Only a SIGKILL of this
//! process leaves it behind.

use std::fs::Permissions;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use lifeboat_base::facts::SourceFacts;
use lifeboat_base::{Class, Context, Error, Result};
use rustix::process::{Pid, Signal, kill_process_group};
use tempfile::TempDir;
use tokio::process::{Child, Command};

use crate::database::{ServerAddress, WorkContext};
use crate::mariadb::address::MariaAddress;
use crate::mariadb::capture::{CHARSET, COLLATION, PAGE_SIZE, TIME_ZONES};
use crate::mariadb::clients::{self, MariaPrograms};
use crate::mariadb::connect::MariaConnection;
use crate::mariadb::fit::LOWER_CASE;
use crate::mariadb::globals::Account;
use crate::mariadb::server::MariaServer;
use crate::mariadb::users::{drop_account, existing, make_administrator};
use crate::mariadb::version_of;
use crate::tool::process::{Invocation, output, output_bytes};
use crate::tool::user::unprivileged_user;

const MAX_MARIA_START_TIME: Duration = Duration::from_secs(120);
const MAX_MARIA_END_TIME: Duration = Duration::from_secs(20);
/// The path of a socket must fit into 107 bytes, and the name of its file takes some of them.
const MAX_SOCKET_PLACE_BYTES: usize = 80;
const SOCKET_NAME: &str = "mysqld.sock";
/// Who may do everything in a server that was just made.
const FIRST_USER: &str = "root";
/// Where time zones are described, …
const ZONES: &str = "/usr/share/zoneinfo";
/// … and what writes them as SQL.
const ZONE_TOOLS: [&str; 2] = ["mariadb-tzinfo-to-sql", "mysql_tzinfo_to_sql"];

/// Nothing must survive a crash, nothing must run by itself, and nothing must be refused that
/// another server took.
const MARIA_SETTINGS: &str = "\
skip-networking
skip-log-bin
event-scheduler=OFF
local-infile=OFF
log-bin-trust-function-creators=ON
max-allowed-packet=1G
innodb-flush-log-at-trx-commit=0
innodb-doublewrite=OFF
innodb-flush-method=nosync
innodb-use-native-aio=OFF
innodb-buffer-pool-size=256M
innodb-log-file-size=256M
innodb-strict-mode=OFF
loose-innodb-snapshot-isolation=OFF
aria-sync-log-dir=NEVER
performance-schema=OFF
";

/// A running server.
pub(super) struct MariaThrowAwayServer {
    directory: PathBuf,
    socket_directory: PathBuf,
    /// Where the socket lies if the path of `directory` is too long.
    _short: Option<TempDir>,
    process: Child,
    clients: clients::MariaClients,
    /// Who we are there. No snapshot has such an account. It needs no password: nobody else reaches
    /// the socket.
    pub(super) account: Account,
    pub(super) version: String,
}

impl MariaThrowAwayServer {
    /// Starts a server of the series in `facts` below `cx.scratch`.
    ///
    /// # Errors
    /// [`Class::Source`]: its programs are not installed, or it does not start.
    pub(super) async fn start(facts: &SourceFacts, directories: &[PathBuf], cx: &WorkContext) -> Result<Self> {
        let version = version_of(facts)?;
        let programs = clients::programs(&version, directories, cx).await?;
        let clients = clients::choose(&version, directories, cx).await?;
        let user = unprivileged_user("mysql")?;
        let directory = cx.scratch.join("server");
        let failed = || format!("cannot prepare {}", directory.display());
        std::fs::DirBuilder::new().mode(0o700).create(&directory).context(Class::Source, failed)?;
        let short = if directory.as_os_str().len() > MAX_SOCKET_PLACE_BYTES {
            let short = tempfile::Builder::new().prefix("lifeboat-").tempdir_in("/tmp");
            Some(short.context(Class::Source, || "cannot make a directory for the socket in /tmp")?)
        } else {
            None
        };
        let socket_directory = short.as_ref().map_or_else(|| directory.clone(), |short| short.path().to_owned());
        let temporary = directory.join("tmp");
        std::fs::create_dir(&temporary).context(Class::Source, failed)?;
        let options = directory.join("my.cnf");
        std::fs::write(&options, option_file(facts, &directory, &socket_directory)?).context(Class::Source, failed)?;
        // The server refuses options that everybody could have written.
        std::fs::set_permissions(&options, Permissions::from_mode(0o600)).context(Class::Source, failed)?;
        if let Some((user, group)) = user {
            for path in [&cx.scratch, &directory, &socket_directory, &temporary, &options] {
                chown(path, Some(user), Some(group)).context(Class::Source, failed)?;
            }
        }
        init(&programs, &options, &temporary, user, cx).await?;
        let mut server = Command::new(&programs.server);
        server.arg(format!("--defaults-file={}", options.display())).current_dir(&directory);
        if let Some((user, group)) = user {
            server.uid(user).gid(group);
        }
        let log = std::fs::File::create(directory.join("log")).context(Class::Source, failed)?;
        server.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).env_clear();
        server.env("LC_ALL", "C.UTF-8").env("PATH", "/usr/bin:/bin").env("TMPDIR", &temporary);
        let process = server
            .process_group(0)
            .kill_on_drop(true)
            .spawn()
            .context(Class::Source, || "cannot run the throw-away MariaDB server")?;
        let random = format!("{:016x}", rand::random::<u64>());
        let mut started = Self {
            directory,
            socket_directory,
            _short: short,
            process,
            clients,
            account: Account { user: format!("lifeboat-{random}"), host: Some("localhost".to_owned()) },
            version: programs.version.whole,
        };
        started.wait_until_ready(cx).await?;
        started.take_over(facts, cx).await?;
        Ok(started)
    }

    /// How to reach it by hand.
    pub(super) fn address(&self) -> ServerAddress {
        ServerAddress { socket_directory: self.socket_directory.clone(), user: self.account.user.clone() }
    }

    /// The server to query and to load into.
    pub(super) fn server<'a>(&self, cx: &'a WorkContext) -> Result<MariaServer<'a>> {
        self.server_as(&self.account.user, cx)
    }

    fn server_as<'a>(&self, user: &str, cx: &'a WorkContext) -> Result<MariaServer<'a>> {
        let path = self.socket_directory.join(SOCKET_NAME);
        let address = MariaAddress::Socket { path, user: Some(user.to_owned()) };
        Ok(MariaServer { clients: self.clients.clone(), connection: MariaConnection::new(&address, None)?, cx })
    }

    async fn wait_until_ready(&mut self, cx: &WorkContext) -> Result<()> {
        let ready = async {
            loop {
                if let Ok(Some(status)) = self.process.try_wait() {
                    return Err(Error::source_failed(format!(
                        "the throw-away MariaDB server ended with {status}: {}",
                        self.log()
                    )));
                }
                if self.server_as(FIRST_USER, cx)?.run("SELECT 1").await.is_ok() {
                    return Ok(());
                }
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        };
        match tokio::time::timeout(MAX_MARIA_START_TIME, ready).await {
            Ok(result) => result,
            Err(_) => Err(Error::source_failed(format!(
                "the throw-away MariaDB server did not start within {MAX_MARIA_START_TIME:?}: {}",
                self.log()
            ))),
        }
    }

    /// Makes an account of our own, and removes all others: those of the snapshot take their names.
    async fn take_over(&self, facts: &SourceFacts, cx: &WorkContext) -> Result<()> {
        let first = self.server_as(FIRST_USER, cx)?;
        first.run(&make_administrator(&self.account)).await?;
        let server = self.server(cx)?;
        let others: Vec<String> = existing(&server)
            .await?
            .into_iter()
            .filter(|account| *account != self.account)
            .filter(|account| !account.is_public())
            .map(|account| drop_account(&account))
            .collect();
        if !others.is_empty() {
            server.run(&others.join("; ")).await?;
        }
        if facts.details.contains_key(TIME_ZONES) {
            load_time_zones(&server).await?;
        }
        Ok(())
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
    pub(super) async fn stop(mut self) -> Result<()> {
        self.kill();
        let _ = tokio::time::timeout(MAX_MARIA_END_TIME, self.process.wait()).await;
        let directory = self.directory.clone();
        drop(self);
        match tokio::fs::remove_dir_all(&directory).await {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                Err(error).context(Class::Source, || format!("cannot remove {}", directory.display()))
            }
            _ => Ok(()),
        }
    }

    fn kill(&self) {
        let group = self.process.id().and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw);
        if let Some(group) = group {
            let _ = kill_process_group(group, Signal::KILL);
        }
    }
}

impl Drop for MariaThrowAwayServer {
    fn drop(&mut self) {
        self.kill();
        let step = Duration::from_millis(20);
        for _ in 0..MAX_MARIA_END_TIME.as_millis() / step.as_millis() {
            if matches!(self.process.try_wait(), Ok(Some(_)) | Err(_)) {
                break;
            }
            std::thread::sleep(step);
        }
        let _ = std::fs::remove_dir_all(&self.directory);
    }
}

/// The option file: its settings, and what the captured server had.
///
/// # Errors
/// A detail of the snapshot is no value for an option.
fn option_file(facts: &SourceFacts, directory: &Path, socket_directory: &Path) -> Result<String> {
    let mut options = format!("[mysqld]\n{MARIA_SETTINGS}");
    let places = [
        ("datadir", directory.join("data")),
        ("tmpdir", directory.join("tmp")),
        // No statement of a dump reads or writes files elsewhere.
        ("secure-file-priv", directory.join("tmp")),
        ("pid-file", directory.join("pid")),
        ("socket", socket_directory.join(SOCKET_NAME)),
    ];
    for (option, place) in places {
        options.push_str(&format!("{option}=\"{}\"\n", place.display()));
    }
    let told = [
        ("innodb-page-size", PAGE_SIZE),
        ("lower-case-table-names", LOWER_CASE),
        ("character-set-server", CHARSET),
        ("collation-server", COLLATION),
    ];
    for (option, detail) in told {
        let Some(value) = facts.details.get(detail) else { continue };
        // A snapshot must not write options of its own.
        if value.is_empty() || !value.chars().all(|letter| letter.is_ascii_alphanumeric() || letter == '_') {
            return Err(Error::integrity(format!("the snapshot tells an odd {detail}")));
        }
        options.push_str(&format!("{option}={value}\n"));
    }
    Ok(options)
}

async fn init(
    programs: &MariaPrograms,
    options: &Path,
    temporary: &Path,
    user: Option<(u32, u32)>,
    cx: &WorkContext,
) -> Result<()> {
    let arguments = [
        &format!("--defaults-file={}", options.display()),
        "--auth-root-authentication-method=normal",
        "--skip-test-db",
        // It looks for no names in the network.
        "--skip-name-resolve",
        "--force",
    ];
    let environment = [("TMPDIR", temporary.as_os_str())];
    let install = Invocation::new(&programs.install, arguments, cx).user(user).directory(temporary).envs(environment);
    output_bytes(install).await.map(drop).map_err(|error| error.within("cannot make a throw-away MariaDB server"))
}

/// Events may name time zones, which a new server does not know.
async fn load_time_zones(server: &MariaServer<'_>) -> Result<()> {
    let tool = ZONE_TOOLS.iter().map(|name| server.clients.client.with_file_name(name)).find(|path| path.is_file());
    let tool = tool.ok_or_else(|| {
        Error::source_failed("events of the snapshot name time zones, and mariadb-tzinfo-to-sql is not installed")
            .hint("install mariadb-client of the same version")
    })?;
    let zones = output(Invocation::new(&tool, ["--skip-write-binlog", ZONES], server.cx)).await?;
    server.rows_in(Some("mysql"), &zones).await.map(drop)
}
