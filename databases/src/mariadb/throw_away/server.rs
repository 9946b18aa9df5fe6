//! A throw-away MariaDB server: in a private directory, on a unix socket only, without durability,
//! without events, and as an unprivileged user.
//!
//! If Lifeboat runs as root, the server runs as the user `mysql`, or `nobody`. Stopping, dropping
//! or cancelling kills it and removes its files: nothing in it is worth an orderly end.

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use lifeboat_base::facts::SourceFacts;
use lifeboat_base::{Class, Context, Error, Result};

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
use crate::tool::server::{ServerEnd, ServerProcess};

const MAX_MARIA_START_TIME: Duration = Duration::from_secs(120);
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
    process: ServerProcess,
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
        let (programs, clients) = clients::for_drill(&version, directories, cx).await?;
        let mut process = ServerProcess::prepare(cx, "mysql", ServerEnd::Kill)?;
        let directory = process.directory().to_owned();
        let failed = || format!("cannot prepare {}", directory.display());
        let temporary = directory.join("tmp");
        std::fs::create_dir(&temporary).context(Class::Source, failed)?;
        let options = directory.join("my.cnf");
        let written = option_file(facts, &directory, process.socket_directory())?;
        std::fs::write(&options, written).context(Class::Source, failed)?;
        // The server refuses options that everybody could have written.
        std::fs::set_permissions(&options, Permissions::from_mode(0o600)).context(Class::Source, failed)?;
        for path in [&temporary, &options] {
            process.hand_over(path)?;
        }
        init(&programs, &options, &temporary, process.user(), cx).await?;
        let mut server = process.command(&programs.server);
        server.arg(format!("--defaults-file={}", options.display())).env("TMPDIR", &temporary);
        process.spawn(server)?;
        let random = format!("{:016x}", rand::random::<u64>());
        let mut started = Self {
            process,
            clients,
            account: Account { user: format!("lifeboat-{random}"), host: Some("localhost".to_owned()) },
            version: programs.version.whole,
        };
        started.wait_until_ready(cx).await?;
        started.take_over(facts, cx).await?;
        started.process.has_started();
        Ok(started)
    }

    /// How to reach it by hand.
    pub(super) fn address(&self) -> ServerAddress {
        let socket_directory = self.process.socket_directory().to_owned();
        ServerAddress { socket_directory, user: self.account.user.clone() }
    }

    /// The server to query and to load into.
    pub(super) fn server<'a>(&self, cx: &'a WorkContext) -> Result<MariaServer<'a>> {
        self.server_as(&self.account.user, cx)
    }

    fn server_as<'a>(&self, user: &str, cx: &'a WorkContext) -> Result<MariaServer<'a>> {
        let path = self.process.socket_directory().join(SOCKET_NAME);
        let address = MariaAddress::Socket { path, user: Some(user.to_owned()) };
        Ok(MariaServer { clients: self.clients.clone(), connection: MariaConnection::new(&address, None)?, cx })
    }

    async fn wait_until_ready(&mut self, cx: &WorkContext) -> Result<()> {
        let mut refused = None;
        let ready = async {
            loop {
                if let Some(status) = self.process.ended() {
                    return Err(Error::source_failed(format!(
                        "the throw-away MariaDB server ended with {status}: {}",
                        self.process.log()
                    )));
                }
                match self.server_as(FIRST_USER, cx)?.run("SELECT 1").await {
                    Ok(()) => return Ok(()),
                    Err(error) if is_of_server(&error) => refused = Some(error),
                    // However long the server is given, this client does not reach it.
                    Err(error) => return Err(error.within("cannot ask the throw-away MariaDB server")),
                }
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        };
        match tokio::time::timeout(MAX_MARIA_START_TIME, ready).await {
            Ok(result) => result,
            Err(_) => {
                let client = refused.map_or_else(|| "the client did not end".to_owned(), |error: Error| error.chain());
                let what = format!("the throw-away MariaDB server did not answer within {MAX_MARIA_START_TIME:?}");
                Err(Error::source_failed(what)
                    .because(format!("{client}; the log of the server: {}", self.process.log()))
                    .hint("see what the client says, and run the drill again when this host has less to do"))
            }
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

    /// `done`, or why the server does not answer: see [`ServerProcess::unless_ended`].
    pub(super) async fn unless_ended<T: Send>(&mut self, done: Result<T>) -> Result<T> {
        self.process.unless_ended("MariaDB", done).await
    }

    /// Stops it and removes its files.
    ///
    /// # Errors
    /// The files cannot be removed.
    pub(super) async fn stop(self) -> Result<()> {
        self.process.stop().await
    }
}

/// Whether the client tells of the server, which may not be ready yet. If not, it could not do its
/// own work. It calls the first alone an `ERROR`, with a number.
fn is_of_server(error: &Error) -> bool {
    error.chain().contains("ERROR ")
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_a_server_says_is_waited_for() {
        let is_waited_for = |said: &str| is_of_server(&Error::source_failed(format!("mariadb {said}")));
        for said in [
            "exited with status 1, saying: ERROR 2002 (HY000): Can't connect to local server through socket '/x' (2)",
            "exited with status 1, saying: ERROR 2013 (HY000): Lost connection to server at 'handshake'",
        ] {
            assert!(is_waited_for(said), "{said}");
        }
        for said in [
            "exited with status 127, saying: mariadb: error while loading shared libraries: libssl.so.3",
            "exited with status 7, saying: mariadb: unknown option '--sandbox'",
            "was killed by signal 9",
            "was cancelled",
        ] {
            assert!(!is_waited_for(said), "{said}");
        }
        let denied = Error::source_failed("cannot run mariadb").because(std::io::Error::from_raw_os_error(13));
        assert!(!is_of_server(&denied));
    }
}
