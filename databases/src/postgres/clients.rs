//! Chooses the client tools that fit a server.
//!
//! `pg_dump` refuses a server that is newer than itself, and a newer `pg_restore` writes settings
//! that an older server does not know. So the tools of the server's own major version are chosen if
//! they are installed, else those of the next newer one.

use std::collections::BTreeSet;
use std::path::PathBuf;

use lifeboat_base::{Error, Result};

use crate::database::{ToolFound, WorkContext};
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
    let mut directories = extra.to_vec();
    let debian =
        std::fs::read_dir(DEBIAN_DIRECTORY).into_iter().flatten().flatten().map(|entry| entry.path().join("bin"));
    directories.extend(debian);
    directories.extend(std::env::split_paths(cx.environment.path()));
    // `/bin` may be a link to `/usr/bin`.
    let mut seen = BTreeSet::new();
    directories.retain(|directory| std::fs::canonicalize(directory).is_ok_and(|real| seen.insert(real)));
    directories
}

/// Every set of client tools on this machine. Those in `extra` come first.
pub(crate) async fn installed(extra: &[PathBuf], cx: &WorkContext) -> Vec<Clients> {
    let mut found: Vec<Clients> = Vec::new();
    for directory in directories(extra, cx) {
        let tool = directory.join("pg_dump");
        if !CLIENT_TOOLS.iter().all(|tool| directory.join(tool).is_file()) {
            continue;
        }
        let Ok(text) = output(Invocation::new(&tool, ["--version"], cx)).await else { continue };
        let Some(version) = text.split_whitespace().find(|word| word.starts_with(|c: char| c.is_ascii_digit())) else {
            continue;
        };
        let Some(major) = major_of(version) else { continue };
        found.push(Clients { directory, version: version.to_owned(), major });
    }
    found
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
    best(server, &found).cloned().ok_or_else(|| {
        let there: Vec<String> = found.iter().map(|clients| clients.version.clone()).collect();
        let there = if there.is_empty() { "none".to_owned() } else { there.join(", ") };
        Error::source_failed(format!(
            "the PostgreSQL client tools are too old for a server of version {server} (installed: {there})"
        ))
        .hint(format!("install postgresql-client-{server} or newer, or name its directory in client_directories"))
    })
}

/// The newest client tools, for the first question to a server.
pub(crate) async fn newest(extra: &[PathBuf], cx: &WorkContext) -> Result<Clients> {
    let found = installed(extra, cx).await;
    found.into_iter().max_by_key(|clients| clients.major).ok_or_else(|| {
        Error::source_failed("no PostgreSQL client tools are installed (pg_dump, psql)")
            .hint("install postgresql-client, or name its directory in client_directories")
    })
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
