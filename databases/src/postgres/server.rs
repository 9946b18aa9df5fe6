//! A running server: what it says about itself, the client tools that fit it, and how they reach
//! it.

use std::ffi::OsStr;
use std::path::PathBuf;

use lifeboat_base::secret::Secret;
use lifeboat_base::{Error, Result};

use super::clients::{self, Clients, major_of};
use super::connect::{Connection, SEARCH_PATH};
use super::query::query;
use super::settings::PostgresConnection;
use super::sql::{conninfo, literal, rows};
use crate::database::WorkContext;
use crate::tool::causes::{self, Cause};
use crate::tool::process::Invocation;

/// The facts that every capture asks for: one row, with values separated by a unit separator.
const FACTS: &str = "SELECT current_setting('server_version'), (SELECT rolname FROM pg_roles WHERE oid = 10), \
    pg_encoding_to_char(encoding), datcollate, datctype, (SELECT count(*) FROM pg_tablespace WHERE oid > 16383), \
    has_table_privilege('pg_authid', 'SELECT'), pg_is_in_recovery(), \
    (SELECT count(*) FROM pg_db_role_setting WHERE setrole = 0 AND setdatabase = 0) FROM pg_database WHERE datname = 'template0'";

/// What a server says about itself.
#[derive(Debug, Clone)]
pub(crate) struct ServerFacts {
    pub(crate) version: String,
    pub(crate) major: u32,
    pub(crate) superuser: String,
    pub(crate) encoding: String,
    pub(crate) collate: String,
    pub(crate) ctype: String,
    pub(crate) tablespaces: bool,
    pub(crate) reads_passwords: bool,
    /// Whether it is a standby, or recovers from a backup.
    pub(crate) in_recovery: bool,
    /// Whether `ALTER ROLE ALL SET` gave settings to all roles.
    pub(crate) settings_of_all: bool,
}

impl ServerFacts {
    /// Asks the server.
    ///
    /// # Errors
    /// The server cannot be reached, or does not let us in.
    pub(crate) async fn ask(clients: &Clients, connection: &Connection, cx: &WorkContext) -> Result<Self> {
        let database = connection.maintenance_database();
        let answer = query(clients, connection, database, FACTS, cx).await.map_err(|error| {
            let hint = what_to_do(&error.chain());
            error.within("cannot query the PostgreSQL server").hint(hint)
        })?;
        let fields: Vec<&str> = answer.split('\u{1f}').collect();
        let [version, superuser, encoding, collate, ctype, tablespaces, reads_passwords, in_recovery, settings_of_all] =
            fields[..]
        else {
            return Err(Error::source_failed("the PostgreSQL server gave an unexpected answer to the first query"));
        };
        let version = version.split_whitespace().next().unwrap_or_default().to_owned();
        Ok(Self {
            major: major_of(&version).ok_or_else(|| {
                Error::source_failed(format!("the PostgreSQL server has an unknown version `{version}`"))
            })?,
            version,
            superuser: superuser.to_owned(),
            encoding: encoding.to_owned(),
            collate: collate.to_owned(),
            ctype: ctype.to_owned(),
            tablespaces: tablespaces != "0",
            reads_passwords: reads_passwords == "t",
            in_recovery: in_recovery == "t",
            settings_of_all: settings_of_all != "0",
        })
    }
}

/// What to do if the first query fails, by what `psql` said. Servers may say it in their own
/// language, so the last answer fits whatever it is.
fn what_to_do(said: &str) -> &'static str {
    const HINTS: [Cause; 6] = [
        // It also says "does not exist" or "No such file".
        (
            &["root certificate file", "certificate verify failed", "server certificate for"],
            "check `sslrootcert` in the address or the service, which names the authority that signed the server's certificate, and the host name",
        ),
        (
            &["Peer authentication failed", "Ident authentication failed", "role \"root\" does not exist"],
            "the server lets in the role that has the name of the system's user: name the role (`user`, or user=postgres in the address), and run this as the system's user whom the server takes for it, such as with `sudo -u postgres`",
        ),
        (
            &["password authentication failed", "no password supplied", "no pg_hba.conf entry"],
            "check role and password (`password`, or --password-file), and pg_hba.conf of the server",
        ),
        (
            &[
                "Connection refused",
                "No such file or directory",
                "could not translate host name",
                "timeout expired",
                "No route to host",
                "Network is unreachable",
            ],
            "check host and port, and that the server runs and listens there",
        ),
        (&["permission denied"], "use a role that may read all data: a superuser, or a member of pg_read_all_data"),
        (&["does not exist"], "check the names of database and role"),
    ];
    causes::what_to_do(said, &HINTS).unwrap_or("check address, role and password")
}

/// A server: how to connect to it, and the client tools that fit it.
pub(crate) struct Server<'a> {
    pub(crate) clients: Clients,
    pub(crate) connection: Connection,
    pub(crate) cx: &'a WorkContext,
}

/// Refuses a connection whose sessions do not have our settings: the `options` of a service take
/// their place, as may what lies between us and the server. Then names could mean anything.
async fn refuse_other_settings(clients: &Clients, connection: &Connection, cx: &WorkContext) -> Result<()> {
    let asked = query(clients, connection, connection.maintenance_database(), "SHOW search_path", cx).await;
    // Who gets no answer is told by the next question.
    if asked.is_ok_and(|path| path != SEARCH_PATH) {
        return Err(Error::configuration("the connection takes none of Lifeboat's settings, such as search_path")
            .hint("take `options` out of the service in pg_service.conf, or connect by a url, whose options are added to Lifeboat's; a pooler must pass startup options on"));
    }
    Ok(())
}

impl<'a> Server<'a> {
    /// Asks the server for its facts, and chooses the tools.
    ///
    /// # Errors
    /// The server does not answer, or no tools fit.
    pub(crate) async fn reach(
        at: &PostgresConnection,
        password: Option<&Secret>,
        client_directories: &[PathBuf],
        cx: &'a WorkContext,
    ) -> Result<(Self, ServerFacts)> {
        let connection = Connection::new(at, password, cx)?;
        let first = clients::newest(client_directories, cx).await?;
        refuse_other_settings(&first, &connection, cx).await?;
        let facts = ServerFacts::ask(&first, &connection, cx).await?;
        let clients = clients::choose(facts.major, client_directories, cx).await?;
        Ok((Self { clients, connection: connection.of_version(facts.major), cx }, facts))
    }

    /// The answer to one statement, in the maintenance database.
    pub(crate) async fn query(&self, sql: &str) -> Result<String> {
        self.query_in(self.connection.maintenance_database(), sql).await
    }

    /// The answer to one statement, in `database`.
    pub(crate) async fn query_in(&self, database: &str, sql: &str) -> Result<String> {
        query(&self.clients, &self.connection, database, sql, self.cx).await
    }

    /// As [`Self::query_in`], for a statement that makes or drops what would be left behind: see
    /// [`WorkContext::to_the_end`].
    pub(crate) async fn finish_in(&self, database: &str, sql: &str) -> Result<String> {
        query(&self.clients, &self.connection, database, sql, &self.cx.to_the_end()).await
    }

    /// The same server for work that obeys `cx`.
    pub(crate) fn under<'b>(&self, cx: &'b WorkContext) -> Server<'b> {
        Server { clients: self.clients.clone(), connection: self.connection.clone(), cx }
    }

    /// A client tool that connects to it.
    pub(crate) fn tool<A: AsRef<OsStr>>(&self, name: &str, arguments: impl IntoIterator<Item = A>) -> Invocation {
        self.connection.give(Invocation::new(&self.clients.tool(name), arguments, self.cx))
    }

    /// `pg_dump` of a database, as a custom-format archive in `encoding`.
    pub(crate) fn dump_tool(&self, database: &str, encoding: &str, more: Vec<String>) -> Invocation {
        let encoding = format!("--encoding={encoding}");
        let usual = ["--format=custom", "--compress=0", "-w", &encoding, "-d", &conninfo(database)].map(str::to_owned);
        self.tool("pg_dump", usual.into_iter().chain(more))
    }

    /// The encoding of a database.
    pub(crate) async fn encoding_of(&self, database: &str) -> Result<String> {
        let sql =
            format!("SELECT pg_encoding_to_char(encoding) FROM pg_database WHERE datname = {}", literal(database));
        self.query_in(database, &sql).await
    }

    /// Whether it has this database.
    pub(crate) async fn exists(&self, database: &str) -> Result<bool> {
        let sql = format!("SELECT 1 FROM pg_database WHERE datname = {}", literal(database));
        Ok(!rows(&self.query_in(self.outside(database), &sql).await?).is_empty())
    }

    /// A database to be connected to while `target` is created, renamed or dropped.
    pub(crate) fn outside(&self, target: &str) -> &str {
        let usual = self.connection.maintenance_database();
        if usual == target { "template1" } else { usual }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hint_of_a_first_query_fits_what_the_server_said() {
        for (said, expected) in [
            ("FATAL:  Peer authentication failed for user \"postgres\"", "name the role"),
            ("FATAL:  role \"root\" does not exist", "name the role"),
            ("FATAL:  password authentication failed for user \"x\"", "check role and password"),
            ("fe_sendauth: no password supplied", "check role and password"),
            ("connection to server at \"db\", port 5432 failed: Connection refused", "runs and listens there"),
            ("socket \"/run/.s.PGSQL.5432\" failed: No such file or directory", "runs and listens there"),
            ("could not translate host name \"db\" to address", "runs and listens there"),
            ("root certificate file \"/root/.postgresql/root.crt\" does not exist", "check `sslrootcert`"),
            ("could not read root certificate file \"ca.pem\": No such file or directory", "check `sslrootcert`"),
            ("ERROR:  permission denied for table pg_authid", "may read all data"),
            ("FATAL:  database \"shop\" does not exist", "names of database and role"),
            ("FATAL:  das ist mir neu", "check address, role and password"),
        ] {
            let hint = what_to_do(said);
            assert!(hint.contains(expected), "{said}: {hint}");
            assert_eq!(hint.contains("read all data"), said.contains("permission denied"), "{said}: {hint}");
        }
    }
}
