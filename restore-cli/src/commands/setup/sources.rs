//! What is to be backed up: datasets that flags name, or else what the engines find on this
//! machine.

use std::collections::BTreeSet;
use std::os::unix::fs::FileTypeExt;
use std::path::PathBuf;
use std::time::Duration;

use lifeboat_engine::databases::{Database, FoundSource, Look, WorkContext, registry};
use lifeboat_engine::format::id::Name;
use lifeboat_engine::{Error, Result};

use super::ask;
use super::place::Installation;
use crate::session::Session;

/// An engine's client that gives no byte for so long is given up.
const LONGEST_STATEMENT: Duration = Duration::from_secs(60);
/// Where a name has none of its letters.
const NAMELESS: &str = "data";

/// Which datasets, and how they are asked for.
#[derive(Debug, Clone, Default, clap::Args)]
pub(super) struct SourceFlags {
    /// What to back up: NAME=postgres:FOLDER-OF-SOCKET or FOLDER-OF-SOCKET:PORT,
    /// NAME=mariadb:SOCKET, NAME=sqlite:FILE, NAME=files:FOLDER or NAME=file:FILE; may be repeated
    /// [default: what is found here]
    #[arg(long = "dataset", value_name = "NAME=KIND:ADDRESS")]
    datasets: Vec<String>,
    /// An SQLite file, which is a dataset of its name; may be repeated
    #[arg(long, value_name = "FILE")]
    sqlite: Vec<String>,
    /// A PostgreSQL server, by the folder of its socket, perhaps with :PORT, or its URL
    #[arg(long, value_name = "SERVER")]
    postgres: Option<String>,
    /// A MariaDB server, by its socket
    #[arg(long, value_name = "SOCKET")]
    mariadb: Option<String>,
    /// Look for sockets and SQLite files in this folder, too; may be repeated
    #[arg(long, value_name = "FOLDER")]
    look_in: Vec<PathBuf>,
    /// The role of a database that backups connect as [default: the user that they run as]
    #[arg(long, value_name = "ROLE")]
    role: Option<String>,
    /// Make no role in a server; the statements are shown
    #[arg(long)]
    no_roles: bool,
}

/// A source and the name of its dataset.
pub(super) struct ChosenSource {
    pub(super) name: Name,
    pub(super) found: FoundSource,
}

impl SourceFlags {
    /// The sources that flags name, or those that are found and agreed to.
    ///
    /// # Errors
    /// A flag names none, two have one name, there is none, or one cannot be read: nothing is
    /// written then that would name it.
    pub(super) async fn choose(&self, at: &Installation, yes: bool, session: &Session) -> Result<Vec<ChosenSource>> {
        let user = self.role.clone().unwrap_or_else(|| at.user_name());
        let look = Look { user, places: self.look_in.clone() };
        let mut chosen = self.named(&look)?;
        if chosen.is_empty() {
            chosen = self.found(&look, yes, session).await?;
        }
        if chosen.is_empty() {
            return Err(Error::usage("there is nothing to back up: no database was found on this machine, or none was chosen")
                .hint("name one with --postgres /var/run/postgresql, --mariadb /run/mysqld/mysqld.sock, --sqlite FILE, or --dataset NAME=KIND:ADDRESS"));
        }
        for chosen in &chosen {
            is_there(&chosen.found, at)?;
        }
        Ok(chosen)
    }

    fn named(&self, look: &Look) -> Result<Vec<ChosenSource>> {
        let mut named = Vec::new();
        for text in &self.datasets {
            let refused = || {
                Error::usage("a --dataset does not say name, kind and address")
                    .hint("write NAME=KIND:ADDRESS, such as --dataset shop=postgres:/var/run/postgresql")
            };
            let (name, source) = text.split_once('=').ok_or_else(refused)?;
            let (kind, address) = source.split_once(':').ok_or_else(refused)?;
            named.push((Some(name.parse::<Name>()?), kind, address));
        }
        let alone = self.postgres.iter().map(|address| ("postgres", address));
        let alone = alone.chain(self.mariadb.iter().map(|address| ("mariadb", address)));
        let alone = alone.chain(self.sqlite.iter().map(|address| ("sqlite", address)));
        named.extend(alone.map(|(kind, address)| (None, kind, address.as_str())));
        let (mut chosen, mut names) = (Vec::new(), BTreeSet::new());
        for (name, kind, address) in named {
            let engine = registry::find(kind).ok_or_else(|| {
                Error::usage(format!("there are no sources of kind `{}`", kind.escape_debug()))
                    .hint("use postgres, mariadb, sqlite, files or file")
            })?;
            let found = engine.source_at(address, look)?;
            let name = match name {
                Some(name) => name,
                None => legal(&found.name)?,
            };
            if !names.insert(name.clone()) {
                return Err(Error::usage(format!("two datasets would be called {name}"))
                    .hint(format!("give one of them another name: --dataset OTHER={kind}:{address}")));
            }
            chosen.push(ChosenSource { name, found });
        }
        Ok(chosen)
    }

    async fn found(&self, look: &Look, yes: bool, session: &Session) -> Result<Vec<ChosenSource>> {
        let cx = context(session);
        let found = async { Ok(registry::find_here(look, &cx).await) };
        let found = session.cancellable("the look for databases", found).await?;
        for unreached in &found.unreached {
            session.out.warning(format!("nobody can tell whether there is a database: {unreached}"));
        }
        if yes && !found.unreached.is_empty() {
            return Err(Error::source_failed("some places of this machine could not be looked at, so a database may be left out")
                .hint("start what is down, or make it readable; or name what you want backed up, with --dataset NAME=KIND:ADDRESS"));
        }
        let (mut chosen, mut names) = (Vec::new(), BTreeSet::new());
        for found in found.sources {
            let wanted = legal(&found.name)?;
            let numbered = (2..).map(|number| legal(&format!("{wanted}-{number}")));
            let free = std::iter::once(Ok(wanted.clone())).chain(numbered);
            let Some(name) = free.into_iter().find(|name| name.as_ref().is_ok_and(|name| !names.contains(name))) else {
                continue;
            };
            let name = name?;
            session.out.asked_about(format!("found: {} (dataset {name})", found.what));
            if !yes && (!session.out.can_ask() || !ask::agrees(session, "Back it up?").await?) {
                if !session.out.can_ask() {
                    return Err(Error::usage("databases were found, and there is no terminal to ask whether to back them up")
                        .hint("pass --yes to back all of them up, or name those that you want with --dataset NAME=KIND:ADDRESS"));
                }
                continue;
            }
            names.insert(name.clone());
            chosen.push(ChosenSource { name, found });
        }
        Ok(chosen)
    }

    /// Shows the statements that make roles, and runs them if that is agreed to.
    ///
    /// # Errors
    /// A server refuses.
    pub(super) async fn make_roles(&self, chosen: &[ChosenSource], yes: bool, session: &Session) -> Result<()> {
        for ChosenSource { name, found } in chosen {
            let Some(account) = &found.account else { continue };
            session.out.asked_about(format!(
                "dataset {name} is read by a role that can read everything and change nothing. As administrator ({}):\n{}",
                account.by_hand,
                account.statements.trim_end()
            ));
            let may = !self.no_roles
                && (yes || session.out.can_ask() && ask::agrees(session, "Run these statements now?").await?);
            let engine = registry::find(found.kind);
            if let (true, Some(engine)) = (may, engine) {
                let cx = context(session);
                session.cancellable("making a role", engine.make_account(found, &cx)).await?;
                session
                    .out
                    .note(format!("{}: the role is there, and stays until an administrator drops it", found.what));
            }
        }
        Ok(())
    }
}

/// Whether a file is there, and whoever captures it may read it; whether a socket is there.
fn is_there(found: &FoundSource, at: &Installation) -> Result<()> {
    let Some(place) = &found.place else { return Ok(()) };
    let failed = |why: std::io::Error, hint: String| {
        Err(Error::source_failed(format!("{} cannot be used; nothing was changed", found.what)).because(why).hint(hint))
    };
    let again = "correct its place, and run the same command again";
    let metadata = match std::fs::metadata(place) {
        Ok(metadata) => metadata,
        Err(error) => return failed(error, format!("{again}; a server must run, so that its socket is there")),
    };
    if metadata.file_type().is_socket() {
        return Ok(());
    }
    if found.account.is_some() {
        return failed(std::io::Error::other(format!("{} is no socket", place.display())), again.to_owned());
    }
    let is_tree = registry::find(found.kind).is_some_and(Database::is_tree);
    if is_tree != metadata.is_dir() {
        let kind = if is_tree { std::io::ErrorKind::NotADirectory } else { std::io::ErrorKind::IsADirectory };
        return failed(kind.into(), again.to_owned());
    }
    at.may_read(place).or_else(|error| {
        failed(
            error,
            format!(
                "let the user {} read it, and enter its folders; where a drop-in of the unit lets it, set up by hand",
                at.user_name()
            ),
        )
    })
}

/// A legal name that says as much as possible of `text`.
fn legal(text: &str) -> Result<Name> {
    let kept = |c: char| if c.is_ascii_lowercase() || c.is_ascii_digit() { c } else { '-' };
    let name: String = text.to_lowercase().chars().map(kept).take(48).collect();
    let name = name.trim_matches('-');
    if name.is_empty() { NAMELESS.parse() } else { name.parse() }
}

fn context(session: &Session) -> WorkContext {
    WorkContext {
        scratch: session.temporary.clone(),
        stall: LONGEST_STATEMENT,
        jobs: 1,
        environment: session.tools.clone(),
        cancel: session.cancel.clone(),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn names_become_legal_and_collide_only_aloud() {
        for (text, name) in
            [("Wiki Data", "wiki-data"), ("…", NAMELESS), ("-a", "a"), (&"x".repeat(99), &"x".repeat(48))]
        {
            assert_eq!(legal(text).unwrap().as_str(), name);
        }
        let look = Look { user: "me".to_owned(), places: Vec::new() };
        let flags = SourceFlags { sqlite: vec!["/a/x.db".to_owned(), "/b/x.db".to_owned()], ..SourceFlags::default() };
        assert!(flags.named(&look).err().unwrap().message().contains("two datasets would be called x"));
        for bad in ["shop", "shop=postgres", "shop=oracle:/x", "SHOP=sqlite:/x", "shop=sqlite:x", "shop=command:x"] {
            assert!(
                SourceFlags { datasets: vec![bad.to_owned()], ..SourceFlags::default() }.named(&look).is_err(),
                "{bad}"
            );
        }
    }
}
