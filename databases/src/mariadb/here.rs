//! Servers of this machine that a set-up could back up: those that answer on a socket, and
//! those whose socket is there without an answer.

use std::io::ErrorKind;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use lifeboat_base::{Error, Result};

use super::MARIADB_KIND;
use super::address::MariaAddress;
use super::clients;
use super::connect::MariaConnection;
use crate::database::{FoundHere, FoundSource, Look, NewAccount, WorkContext};
use crate::tool::process::output;

/// Where servers put their socket. In /tmp, any user could put one.
const USUAL_SOCKETS: [&str; 1] = ["/run/mysqld/mysqld.sock"];
const SOCKET_FILE_NAME: &str = "mysqld.sock";
const MARIA_ADMINISTRATOR: &str = "root";

/// Every server that answers on a usual socket, or on one in `look.places`.
pub(super) fn find(look: &Look) -> FoundHere {
    let mut found = FoundHere::default();
    let sockets = USUAL_SOCKETS.iter().map(PathBuf::from);
    for path in sockets.chain(look.places.iter().map(|place| place.join(SOCKET_FILE_NAME))) {
        let source = at_socket(&path, &look.user);
        match UnixStream::connect(&path) {
            Ok(_) => found.sources.push(source),
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(error) => found.cannot_reach(source.what, error),
        }
    }
    found
}

fn at_socket(path: &Path, user: &str) -> FoundSource {
    let shown = path.display().to_string();
    let mut settings = toml::Table::new();
    settings.insert("socket".to_owned(), shown.clone().into());
    settings.insert("user".to_owned(), user.into());
    let account = format!("'{}'@localhost", user.replace('\\', "\\\\").replace('\'', "''"));
    let statements = format!(
        "CREATE USER IF NOT EXISTS {account} IDENTIFIED VIA unix_socket;\n\
         GRANT SELECT, SHOW VIEW, TRIGGER, EVENT, SHOW DATABASES, BINLOG MONITOR ON *.* TO {account};\n"
    );
    FoundSource {
        kind: MARIADB_KIND,
        what: format!("MariaDB at the socket {shown}"),
        place: Some(path.to_owned()),
        name: MARIADB_KIND.to_owned(),
        settings,
        account: Some(NewAccount { statements, by_hand: format!("sudo mariadb -S {shown}") }),
    }
}

/// The server that an operator names by its socket.
pub(super) fn at(address: &str, look: &Look) -> Result<FoundSource> {
    if address.starts_with('/') {
        return Ok(at_socket(Path::new(address), &look.user));
    }
    Err(Error::usage("this is no socket of a MariaDB server").hint(
        "write the path of its socket, such as /run/mysqld/mysqld.sock; write another address into the configuration",
    ))
}

/// Lets the server's administrator make the account.
pub(super) async fn make_account(found: &FoundSource, cx: &WorkContext) -> Result<()> {
    let socket = found.settings.get("socket").and_then(toml::Value::as_str);
    let (Some(account), Some(socket)) = (&found.account, socket) else { return Ok(()) };
    let user = Some(MARIA_ADMINISTRATOR.to_owned());
    let connection = MariaConnection::new(&MariaAddress::Socket { path: socket.into(), user }, None)?;
    let program = clients::newest(&[], cx).await?.client;
    let client = connection.tool(&program, &["--batch", "-e", &account.statements], cx);
    output(client).await.map(drop).map_err(|error| {
        error.within(format!("the account that reads {} cannot be made", found.what)).hint(format!(
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
    fn a_name_cannot_leave_its_quotes() {
        let look = Look { user: "o'x\\".to_owned(), places: Vec::new() };
        let account = at("/run/x.sock", &look).unwrap().account.unwrap();
        assert!(account.statements.contains(r"'o''x\\'@localhost"), "{}", account.statements);
        assert!(at("mariadb://x", &look).is_err());
    }
}
