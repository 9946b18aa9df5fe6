//! Chooses the client tools and server programs: MariaDB's own, of one version and one directory.
//!
//! The tools of MySQL have the same names as MariaDB's older ones, but do not know its sequences,
//! histories and passwords. They are passed over.

use std::path::{Path, PathBuf};

use lifeboat_base::{Error, Result};

use crate::database::{ToolFound, WorkContext};
use crate::tool::places;
use crate::tool::process::{Invocation, output};

/// The names of the dump tool, the newer first.
const DUMP_NAMES: [&str; 2] = ["mariadb-dump", "mysqldump"];
/// The names of the client.
const CLIENT_NAMES: [&str; 2] = ["mariadb", "mysql"];
/// The names of the server.
const SERVER_NAMES: [&str; 2] = ["mariadbd", "mysqld"];
/// The names of the program that makes a data directory.
const INSTALL_NAMES: [&str; 2] = ["mariadb-install-db", "mysql_install_db"];
/// Where servers are, though not in everybody's `PATH`.
const SERVER_DIRECTORIES: [&str; 3] = ["/usr/sbin", "/usr/local/sbin", "/usr/libexec"];

/// What to do if there are no client tools.
pub(super) const CLIENT_REMEDY: &str = "install mariadb-client, or name its directory in client_directories";

/// Where the operator of a backup host or a restore names directories of tools, …
pub(super) const CLIENT_PLACES: &str = "client_directories";
/// … and where that of a drill host does.
const DRILL_PLACES: &str = "[dataset.drill] server_directories";

/// A version: major and minor, which tell the features, and the whole.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct MariaVersion {
    pub(super) series: (u32, u32),
    pub(super) whole: String,
}

impl MariaVersion {
    /// The version in what a program or server says of itself; `None` if that is no MariaDB.
    pub(super) fn of(said: &str) -> Option<Self> {
        let at = said.find("-MariaDB")?;
        let begin = said[..at].rfind(|letter: char| !letter.is_ascii_digit() && letter != '.').map_or(0, |at| at + 1);
        let whole = &said[begin..at];
        let mut numbers = whole.split('.').map(|number| number.parse().ok());
        Some(Self { series: (numbers.next()??, numbers.next()??), whole: whole.to_owned() })
    }

    /// The series as text, such as `10.11`.
    pub(super) fn series_text(&self) -> String {
        format!("{}.{}", self.series.0, self.series.1)
    }
}

/// Client tools of one version.
#[derive(Debug, Clone)]
pub(super) struct MariaClients {
    pub(super) dump: PathBuf,
    pub(super) client: PathBuf,
    pub(super) version: MariaVersion,
}

/// Programs of a server, of one version.
#[derive(Debug, Clone)]
pub(super) struct MariaPrograms {
    pub(super) server: PathBuf,
    pub(super) install: PathBuf,
    pub(super) version: MariaVersion,
}

fn first_of(directory: &Path, names: &[&str]) -> Option<PathBuf> {
    names.iter().map(|name| directory.join(name)).find(|path| path.is_file())
}

async fn version(program: &Path, cx: &WorkContext) -> Option<MariaVersion> {
    let said = output(Invocation::new(program, ["--no-defaults", "--version"], cx)).await.ok()?;
    MariaVersion::of(&said)
}

/// All client tools on this machine. Those in `extra` come first.
pub(super) async fn installed(extra: &[PathBuf], cx: &WorkContext) -> Vec<MariaClients> {
    let mut found = Vec::new();
    for directory in places::directories(extra.iter().cloned(), cx) {
        let (Some(dump), Some(client)) = (first_of(&directory, &DUMP_NAMES), first_of(&directory, &CLIENT_NAMES))
        else {
            continue;
        };
        if let Some(version) = version(&dump, cx).await {
            found.push(MariaClients { dump, client, version });
        }
    }
    found
}

/// The newest client tools.
///
/// # Errors
/// There are none.
pub(super) async fn newest(extra: &[PathBuf], cx: &WorkContext) -> Result<MariaClients> {
    let found = installed(extra, cx).await;
    // Of equal ones the first.
    let newest = found.into_iter().rev().max_by_key(|clients| clients.version.series);
    newest.ok_or_else(|| missing_clients(extra, cx).hint(CLIENT_REMEDY))
}

/// There are no client tools. It names what is missing.
fn missing_clients(extra: &[PathBuf], cx: &WorkContext) -> Error {
    let directories = places::directories(extra.iter().cloned(), cx);
    let has = |names: &[&str]| directories.iter().any(|directory| first_of(directory, names).is_some());
    Error::source_failed(match (has(&CLIENT_NAMES), has(&DUMP_NAMES)) {
        (false, false) => "MariaDB's client tools mariadb and mariadb-dump are not installed",
        (false, true) => "MariaDB's client mariadb is not installed",
        (true, _) => "neither mariadb-dump nor MariaDB's mysqldump is installed beside the client",
    })
}

/// The tools for a server: those of its own series if they are installed, else newer ones. Older
/// ones would leave out what they do not know. `places` is where the operator names `extra`.
///
/// # Errors
/// There are none, or only older ones.
pub(super) async fn choose(
    of: &MariaVersion,
    extra: &[PathBuf],
    places: &str,
    cx: &WorkContext,
) -> Result<MariaClients> {
    let mut found = installed(extra, cx).await;
    let there_are_none = found.is_empty();
    found.retain(|clients| clients.version.series >= of.series);
    // Of equal ones the first.
    found.into_iter().min_by_key(|clients| clients.version.series).ok_or_else(|| {
        let error = match there_are_none {
            true => missing_clients(extra, cx),
            false => Error::source_failed(format!(
                "the client tools are older than the server, which is MariaDB {}",
                of.whole
            )),
        };
        let needed = of.series_text();
        error.hint(format!("install mariadb-client {needed} or newer, or name its directory in {places}"))
    })
}

/// What a drill of a server of this series needs. Directories of servers come first for the tools,
/// too.
///
/// # Errors
/// Something is not installed, or does not run.
pub(super) async fn for_drill(
    of: &MariaVersion,
    extra: &[PathBuf],
    cx: &WorkContext,
) -> Result<(MariaPrograms, MariaClients)> {
    let programs = programs(of, extra, cx).await?;
    let clients = choose(of, extra, DRILL_PLACES, cx).await?;
    // Only the tool beside it has run so far.
    let ran = output(Invocation::new(&clients.client, ["--no-defaults", "--version"], cx)).await;
    match ran {
        Err(error) if !cx.cancel.is_cancelled() => {
            Err(error.within(format!("MariaDB's client {} does not run", clients.client.display())).hint(
                "install mariadb-client again, or name another directory with it in [dataset.drill] server_directories",
            ))
        }
        ran => ran.map(|_| (programs, clients)),
    }
}

/// The programs of a server of this series. Those in `extra` come first.
///
/// # Errors
/// They are not installed.
pub(super) async fn programs(of: &MariaVersion, extra: &[PathBuf], cx: &WorkContext) -> Result<MariaPrograms> {
    let usual = SERVER_DIRECTORIES.map(PathBuf::from);
    let directories = places::directories(extra.iter().cloned().chain(usual), cx);
    let install: Vec<PathBuf> = directories.iter().filter_map(|place| first_of(place, &INSTALL_NAMES)).collect();
    let (mut others, mut alone) = (Vec::new(), None);
    for server in directories.iter().filter_map(|directory| first_of(directory, &SERVER_NAMES)) {
        match version(&server, cx).await {
            Some(version) if version.series == of.series => {
                // A packaged server and its script are in two directories of one system.
                let root = |path: &Path| path.parent().and_then(Path::parent).map(Path::to_owned);
                if let Some(install) = install.iter().find(|install| root(install) == root(&server)) {
                    return Ok(MariaPrograms { install: install.clone(), server, version });
                }
                alone = alone.or(Some(server));
            }
            Some(other) => others.push(other.whole),
            None => {}
        }
    }
    let series = of.series_text();
    let passed_over = if others.is_empty() { String::new() } else { format!(" (there is {})", others.join(", ")) };
    let missing = match alone {
        Some(server) => format!("{} is missing beside {}", INSTALL_NAMES[0], server.display()),
        None => format!("{} of this series is missing", SERVER_NAMES[0]),
    };
    let what =
        format!("the programs of a MariaDB {series} server for the drill are not installed{passed_over}: {missing}");
    Err(Error::source_failed(what).hint(format!(
        "install mariadb-server-core of MariaDB {series} (no service is needed), or name its directories in \
        {DRILL_PLACES}"
    )))
}

/// The tools for people.
pub(super) async fn tools(directories: &[PathBuf], cx: &WorkContext) -> Vec<ToolFound> {
    let found = installed(directories, cx).await;
    let named = |clients: &MariaClients| ToolFound {
        tool: DUMP_NAMES[0].to_owned(),
        version: clients.version.whole.clone(),
        path: clients.dump.clone(),
    };
    found.iter().map(named).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read_and_mysql_is_passed_over() {
        let read = |said| MariaVersion::of(said).map(|version| (version.series, version.whole));
        for (said, series, whole) in [
            ("mariadb-dump  Ver 10.19 Distrib 10.11.19-MariaDB, for debian-linux-gnu (x86_64)", (10, 11), "10.11.19"),
            ("mariadb-dump from 11.8.3-MariaDB, client 10.19 for Linux", (11, 8), "11.8.3"),
            ("mariadbd  Ver 10.11.19-MariaDB-0+deb12u1 for debian-linux-gnu", (10, 11), "10.11.19"),
            ("10.5.1-MariaDB-log", (10, 5), "10.5.1"),
        ] {
            assert_eq!(read(said), Some((series, whole.to_owned())), "{said}");
        }
        for said in ["mysqldump  Ver 8.0.36 for Linux on x86_64 (MySQL Community Server - GPL)", "8.4.0", "-MariaDB"] {
            assert_eq!(read(said), None, "{said}");
        }
    }
}
