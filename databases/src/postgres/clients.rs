//! Chooses the client tools that fit a server.
//!
//! `pg_dump` refuses a server that is newer than itself, and a newer `pg_restore` writes settings
//! that an older server does not know. So the tools of the server's own major version are chosen if
//! they are installed, else those of the next newer one.

use std::path::PathBuf;

use lifeboat_base::{Error, Result};

use crate::database::{ToolFound, WorkContext};
use crate::tool::places;
use crate::tool::process::{Invocation, output};

/// A directory must hold all of these.
const CLIENT_TOOLS: [&str; 4] = ["pg_dump", "pg_dumpall", "pg_restore", "psql"];
const DEBIAN_DIRECTORY: &str = "/usr/lib/postgresql";

/// A directory with `pg_dump`, `pg_dumpall`, `pg_restore` and `psql` of one version.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Clients {
    directory: PathBuf,
    /// The version that `pg_dump --version` prints.
    pub(crate) version: String,
    pub(crate) major: u32,
}

impl Clients {
    /// The path of one of the tools.
    pub(crate) fn tool(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }
}

/// Every directory that may hold client tools: those in `extra`, Debian's, then the `PATH`'s.
fn directories(extra: &[PathBuf], cx: &WorkContext) -> Vec<PathBuf> {
    let debian =
        std::fs::read_dir(DEBIAN_DIRECTORY).into_iter().flatten().flatten().map(|entry| entry.path().join("bin"));
    places::directories(extra.iter().cloned().chain(debian), cx)
}

/// Every set of client tools on this machine. Those in `extra` come first.
pub(crate) async fn installed(extra: &[PathBuf], cx: &WorkContext) -> Vec<Clients> {
    let mut found: Vec<Clients> = Vec::new();
    for directory in directories(extra, cx) {
        found.extend(clients_in(directory, cx).await.ok());
    }
    found
}

/// The tools in a directory, or why there are none to use.
async fn clients_in(directory: PathBuf, cx: &WorkContext) -> std::result::Result<Clients, String> {
    if let Some(missing) = CLIENT_TOOLS.iter().find(|tool| !directory.join(tool).is_file()) {
        return Err(format!("it has no {missing}"));
    }
    let tool = directory.join("pg_dump");
    let text = output(Invocation::new(&tool, ["--version"], cx)).await.map_err(|error| error.chain())?;
    let version = text.split_whitespace().find(|word| word.starts_with(|c: char| c.is_ascii_digit()));
    match version.and_then(|version| Some((version, major_of(version)?))) {
        Some((version, major)) => Ok(Clients { directory, version: version.to_owned(), major }),
        None => Err("its pg_dump tells no version".to_owned()),
    }
}

/// Why each directory that the configuration names is not used, for a server of the version
/// `major`, or a newer one unless it must be `exactly` that. Besides its own tools it must hold
/// `programs`.
pub(crate) async fn passed_over(
    extra: &[PathBuf],
    (major, exactly): (u32, bool),
    programs: &[&str],
    cx: &WorkContext,
) -> String {
    let mut told = String::new();
    for directory in extra {
        let why = match clients_in(directory.clone(), cx).await {
            Err(why) => why,
            Ok(clients) if clients.major < major || exactly && clients.major != major => {
                format!("its version is {}", clients.version)
            }
            Ok(clients) => match programs.iter().find(|name| !clients.tool(name).is_file()) {
                Some(missing) => format!("it has no {missing}"),
                None => continue,
            },
        };
        told.push_str(&format!("; {} is passed over: {why}", directory.display()));
    }
    told
}

/// The major version in `15.14`, `18beta1` or `16.2 (Debian …)`.
pub(crate) fn major_of(version: &str) -> Option<u32> {
    let digits: String = version.chars().take_while(char::is_ascii_digit).collect();
    digits.parse().ok()
}

/// The tools that fit a server of this major version.
///
/// # Errors
/// None fits. The error says what is installed and what to install.
pub(crate) async fn choose(server: u32, extra: &[PathBuf], cx: &WorkContext) -> Result<Clients> {
    let found = installed(extra, cx).await;
    if let Some(best) = best(server, &found) {
        return Ok(best.clone());
    }
    let there: Vec<String> = found.iter().map(|clients| clients.version.clone()).collect();
    let there = if there.is_empty() { "none".to_owned() } else { there.join(", ") };
    let passed_over = passed_over(extra, (server, false), &[], cx).await;
    Err(Error::source_failed(format!(
        "the PostgreSQL client tools are too old for a server of version {server} (installed: {there}){passed_over}"
    ))
    .hint(format!("install postgresql-client-{server} or newer, or name its directory in client_directories")))
}

/// The newest client tools, for the first question to a server.
pub(crate) async fn newest(extra: &[PathBuf], cx: &WorkContext) -> Result<Clients> {
    let found = installed(extra, cx).await;
    if let Some(newest) = found.into_iter().max_by_key(|clients| clients.major) {
        return Ok(newest);
    }
    let passed_over = passed_over(extra, (0, false), &[], cx).await;
    Err(Error::source_failed(format!("no PostgreSQL client tools are installed (pg_dump, psql){passed_over}"))
        .hint("install postgresql-client, or name its directory in client_directories"))
}

fn best(server: u32, found: &[Clients]) -> Option<&Clients> {
    // Of equals the first is taken: configured directories come first.
    found.iter().filter(|clients| clients.major >= server).min_by_key(|clients| clients.major)
}

/// The client tools that `lifeboat check` shows.
pub(super) async fn tools(extra: &[PathBuf], cx: &WorkContext) -> Vec<ToolFound> {
    let found = installed(extra, cx).await.into_iter();
    found.map(|clients| ToolFound::new("pg_dump", clients.version, &clients.directory)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_major_is_best_then_the_smallest_newer_one() {
        let clients = |major| Clients { directory: PathBuf::new(), version: format!("{major}.1"), major };
        let found = [clients(14), clients(18), clients(16)];
        assert_eq!(best(16, &found).map(|clients| clients.major), Some(16));
        assert_eq!(best(15, &found).map(|clients| clients.major), Some(16));
        assert_eq!(best(19, &found), None);
        assert_eq!(major_of("18beta1"), Some(18));
    }
}
