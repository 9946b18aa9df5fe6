//! Servers of this machine that a set-up could back up: those that answer on a socket, and
//! those whose socket is there without an answer.

use std::io::ErrorKind;
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use lifeboat_base::{Error, Result};

use super::POSTGRES_KIND;
use super::clients;
use super::settings::{DEFAULT_PORT, holds_password, unverified_host};
use crate::database::{FoundHere, FoundSource, Look, NewAccount, WorkContext};
use crate::tool::process::{Invocation, output};

/// Where servers put their sockets. In /tmp, any user could put one.
const SOCKET_FOLDERS: [&str; 1] = ["/var/run/postgresql"];
const SOCKET_PREFIX: &str = ".s.PGSQL.";
/// The role that administers a server, and the usual user of this machine that it belongs to.
const ADMINISTRATOR: &str = "postgres";
/// No folder is looked through further.
const MAX_FOLDER_ENTRIES: usize = 4096;

/// Every server that answers on a socket in a usual folder, or in one of `look.places`.
pub(super) fn find(look: &Look) -> FoundHere {
    let (mut found, mut seen) = (FoundHere::default(), Vec::new());
    for folder in SOCKET_FOLDERS.iter().map(PathBuf::from).chain(look.places.iter().cloned()) {
        // /var/run is a link to /run.
        let whole = match folder.canonicalize() {
            Ok(whole) => whole,
            Err(error) if error.kind() == ErrorKind::NotFound => continue,
            Err(error) => {
                found.cannot_reach(folder.display(), error);
                continue;
            }
        };
        if seen.contains(&whole) {
            continue;
        }
        seen.push(whole);
        let mut ports = ports(&folder, &mut found);
        ports.sort_unstable();
        for port in ports {
            let source = at_socket(&folder, port, &look.user);
            match UnixStream::connect(socket(&folder, port)) {
                Ok(_) => found.sources.push(source),
                Err(error) => found.cannot_reach(source.what, error),
            }
        }
    }
    found
}

/// The ports of the sockets in a folder.
fn ports(folder: &Path, found: &mut FoundHere) -> Vec<u16> {
    let mut ports = Vec::new();
    let entries = match std::fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) => {
            found.cannot_reach(folder.display(), error);
            return ports;
        }
    };
    for (seen, entry) in entries.enumerate() {
        if seen == MAX_FOLDER_ENTRIES {
            found.cannot_reach(folder.display(), "it holds too much to look for sockets in it");
            break;
        }
        match entry {
            Ok(entry) => ports.extend(entry.file_name().to_str().and_then(port_of)),
            Err(error) => found.cannot_reach(folder.display(), error),
        }
    }
    ports
}

fn port_of(name: &str) -> Option<u16> {
    name.strip_prefix(SOCKET_PREFIX)?.parse().ok()
}

fn socket(folder: &Path, port: u16) -> PathBuf {
    folder.join(format!("{SOCKET_PREFIX}{port}"))
}

fn at_socket(folder: &Path, port: u16, user: &str) -> FoundSource {
    let shown = folder.display().to_string();
    let mut settings = toml::Table::new();
    settings.insert("socket".to_owned(), shown.clone().into());
    let is_usual = port == DEFAULT_PORT;
    if !is_usual {
        settings.insert("port".to_owned(), i64::from(port).into());
    }
    settings.insert("user".to_owned(), user.into());
    let name = if is_usual { ADMINISTRATOR.to_owned() } else { format!("{ADMINISTRATOR}-{port}") };
    let by_hand = format!("sudo -u {ADMINISTRATOR} psql -v ON_ERROR_STOP=1 -h {shown} -p {port} postgres");
    FoundSource {
        kind: POSTGRES_KIND,
        what: format!("PostgreSQL at the socket {shown}, port {port}"),
        place: Some(socket(folder, port)),
        name,
        settings,
        account: Some(NewAccount { statements: statements(user), by_hand }),
    }
}

/// A role that reads everything and changes nothing. Without the passwords of roles, a restored
/// server would let nobody in.
fn statements(user: &str) -> String {
    let (name, text) = (format!("\"{}\"", user.replace('"', "\"\"")), user.replace('\'', "''"));
    // A name that holds the quote of the body would end it.
    let mut quotes = (0_usize..).map(|number| format!("$lifeboat{number}$"));
    let quote = quotes.find(|quote| !user.contains(quote)).unwrap_or_default();
    format!(
        "DO {quote} BEGIN IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = '{text}') THEN \
         CREATE ROLE {name} LOGIN; END IF; END {quote};\nGRANT pg_read_all_data TO {name};\nGRANT SELECT ON pg_authid TO {name};\n"
    )
}

/// The server that an operator names: the folder of its socket, perhaps with `:PORT`, or a URL.
pub(super) fn at(address: &str, look: &Look) -> Result<FoundSource> {
    // What is refused may hold a password, so it is not shown.
    let refused = |why: &str| {
        Error::usage("this is no address of a PostgreSQL server")
            .because(why)
            .hint("write the folder of its socket, such as /var/run/postgresql or /var/run/postgresql:5433, or postgresql://user@host/?sslmode=verify-full")
    };
    if !address.contains("://") {
        let (folder, port) = match address.rsplit_once(':') {
            Some((folder, port)) => (folder, port.parse().map_err(|_| refused("its port is no number"))?),
            None => (address, DEFAULT_PORT),
        };
        if !folder.starts_with('/') {
            return Err(refused("the folder of a socket begins with a slash"));
        }
        return Ok(at_socket(Path::new(folder), port, &look.user));
    }
    let url = url::Url::parse(address).ok().filter(|url| matches!(url.scheme(), "postgresql" | "postgres"));
    let url = url.ok_or_else(|| refused("it is no URL of one"))?;
    if holds_password(&url) {
        return Err(refused("it holds a password, and every user of this machine can see a command line")
            .hint("change the password, and write `password = \"credential:NAME\"` into the configuration"));
    }
    if let Some(host) = unverified_host(&url) {
        return Err(refused(&format!("nothing would prove that the server is {host}")));
    }
    let mut settings = toml::Table::new();
    settings.insert("url".to_owned(), address.into());
    Ok(FoundSource {
        kind: POSTGRES_KIND,
        what: format!("PostgreSQL at {}", url.host_str().filter(|host| !host.is_empty()).unwrap_or("a socket")),
        place: None,
        name: ADMINISTRATOR.to_owned(),
        settings,
        account: None,
    })
}

/// Lets the server's administrator make the role: root becomes the user whose socket it is.
pub(super) async fn make_account(found: &FoundSource, cx: &WorkContext) -> Result<()> {
    let text = |key: &str| found.settings.get(key).and_then(toml::Value::as_str);
    let (Some(account), Some(folder)) = (&found.account, text("socket")) else { return Ok(()) };
    let port = found.settings.get("port").and_then(toml::Value::as_integer);
    let port = port.and_then(|port| u16::try_from(port).ok()).unwrap_or(DEFAULT_PORT);
    let owner = std::fs::metadata(socket(Path::new(folder), port)).map_err(|error| {
        Error::source_failed(format!("{} does not answer", found.what))
            .because(error)
            .hint("start the server, or correct the folder and the port of its socket")
    })?;
    let becomes = rustix::process::geteuid().is_root().then_some((owner.uid(), owner.gid()));
    let program = clients::newest(&[], cx).await?.tool("psql");
    let port = port.to_string();
    let arguments = ["-X", "-q", "-w", "-v", "ON_ERROR_STOP=1", "-h", folder, "-p", &port, "-U", ADMINISTRATOR];
    let arguments = arguments.into_iter().chain(["-d", "postgres", "-c", account.statements.as_str()]);
    let psql = Invocation::new(&program, arguments, cx).directory(Path::new("/")).user(becomes);
    output(psql).await.map(drop).map_err(|error| {
        error.within(format!("the role that reads {} cannot be made", found.what)).hint(format!(
            "run the statements that were shown by hand: {}; then run the same set-up with --no-roles",
            account.by_hand
        ))
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_folders_or_urls_without_secrets() {
        let look = Look { user: "o'\"x".to_owned(), places: Vec::new() };
        let found = at("/run/pg:5433", &look).unwrap();
        assert_eq!(found.settings["port"].as_integer(), Some(5433));
        assert_eq!(found.name, "postgres-5433");
        assert!(found.account.unwrap().statements.contains("'o''\"x'"));
        assert!(at("postgresql://backup@db/?sslmode=verify-full", &look).unwrap().account.is_none());
        for bad in [
            "",
            "run/pg",
            "/run/pg:x",
            "http://x",
            "postgresql://a:hunter2@db/?sslmode=verify-full",
            "postgresql://a@db/?sslmode=verify-full&password=hunter2",
            "postgresql://a@db/?sslmode=verify-full&sslkey=/k&sslpassword=hunter2",
            "host=db user=a password=hunter2",
            "/run/pg:password=hunter2",
            "postgresql://db/",
        ] {
            let error = at(bad, &look).unwrap_err();
            assert!(!error.chain_and_hint().contains("hunter2"), "{bad}");
        }
        let stranger = Look { user: "x$$ $lifeboat0$ y".to_owned(), places: Vec::new() };
        let shown = at("/run/$$pg", &stranger).unwrap().account.unwrap().statements;
        assert_eq!(shown.matches("$lifeboat1$").count(), 2, "{shown}");
        let documented = include_str!("../../../OPERATIONS.md");
        for line in [
            "CREATE ROLE lifeboat LOGIN;",
            "GRANT pg_read_all_data TO lifeboat;",
            "GRANT SELECT ON pg_authid TO lifeboat;",
        ] {
            let shown = statements("lifeboat").replace("\"lifeboat\"", "lifeboat");
            assert!(documented.contains(line) && shown.contains(line), "{line}: {shown}");
        }
        assert_eq!((port_of(".s.PGSQL.5432"), port_of(".s.PGSQL.5432.lock")), (Some(5432), None));
    }
}
