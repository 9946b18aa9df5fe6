//! A running server: what it says about itself, the tools that fit it, and how to ask it.

use std::path::PathBuf;

use bytes::Bytes;
use lifeboat_base::secret::Secret;
use lifeboat_base::{Error, Result};

use super::address::MariaAddress;
use super::clients::{self, CLIENT_PLACES, MariaClients, MariaVersion};
use super::connect::MariaConnection;
use super::failures::explained;
use crate::database::WorkContext;
use crate::streams::{Once, StreamReader};
use crate::tool::process::{Invocation, feed};

/// Names of the system's own databases, in lower case.
pub(super) const SYSTEM_DATABASES: [&str; 4] = ["mysql", "information_schema", "performance_schema", "sys"];
/// What every session of ours begins with, so that texts mean what they say.
const SESSION: &str = "SET SESSION sql_mode = '' /*M!100100 , SESSION max_statement_time = 0 */;\n";
/// The facts that every work asks for.
const MARIA_FACTS: &str = "SELECT VERSION(), CURRENT_USER(), @@log_bin, @@innodb_page_size, @@lower_case_table_names, \
    @@character_set_server, @@collation_server, UNIX_TIMESTAMP()";
/// No answer is longer.
const MAX_MARIA_ANSWER_BYTES: usize = 256 << 20;
/// What the client is told beside the option file: rows one a line, fields between tabs, and
/// nothing of its own commands, which could run programs.
const ASKING: [&str; 7] = [
    "--batch",
    "--skip-column-names",
    "--quick",
    "--binary-mode",
    "--loose-sandbox",
    "--loose-local-infile=0",
    "--comments",
];

/// What a server says about itself.
#[derive(Debug, Clone)]
pub(super) struct MariaFacts {
    pub(super) version: MariaVersion,
    /// The account that we are.
    pub(super) account: String,
    pub(super) binlog: bool,
    pub(super) page_size: String,
    pub(super) lower_case: String,
    pub(super) charset: String,
    pub(super) collation: String,
    /// Its clock, in seconds since 1970.
    pub(super) now: String,
}

/// A server, and the client tools that fit it.
#[derive(Debug)]
pub(super) struct MariaServer<'a> {
    pub(super) clients: MariaClients,
    pub(super) connection: MariaConnection,
    pub(super) cx: &'a WorkContext,
}

impl<'a> MariaServer<'a> {
    /// Asks the server for its facts, and chooses the tools.
    ///
    /// # Errors
    /// The server does not answer, is no MariaDB, or no tools fit.
    pub(super) async fn reach(
        at: &MariaAddress,
        password: Option<&Secret>,
        client_directories: &[PathBuf],
        cx: &'a WorkContext,
    ) -> Result<(Self, MariaFacts)> {
        let connection = MariaConnection::new(at, password)?;
        let clients = clients::newest(client_directories, cx).await?;
        let first = Self { clients, connection, cx };
        let facts = first.facts().await?;
        let clients = clients::choose(&facts.version, client_directories, CLIENT_PLACES, cx).await?;
        Ok((Self { clients, ..first }, facts))
    }

    async fn facts(&self) -> Result<MariaFacts> {
        // The version first: what else is asked may be unknown elsewhere.
        let said =
            self.value("SELECT VERSION()").await.map_err(|error| error.within("cannot query the MariaDB server"))?;
        let version = MariaVersion::of(&said).ok_or_else(|| {
            Error::source_failed(format!("the server is no MariaDB, but says that it is {}", said.escape_debug()))
                .hint("name a MariaDB server; MySQL is backed up by a source of kind = \"command\" that runs mysqldump")
        })?;
        let rows = self.rows(MARIA_FACTS).await.map_err(|error| error.within("cannot query the MariaDB server"))?;
        match rows.into_iter().next().as_deref() {
            Some([_, account, binlog, page_size, lower_case, charset, collation, now]) => Ok(MariaFacts {
                version,
                account: account.clone(),
                binlog: binlog == "1",
                page_size: page_size.clone(),
                lower_case: lower_case.clone(),
                charset: charset.clone(),
                collation: collation.clone(),
                now: now.clone(),
            }),
            _ => Err(unexpected("the first query")),
        }
    }

    /// The same server for work that obeys `cx`.
    pub(super) fn under<'b>(&self, cx: &'b WorkContext) -> MariaServer<'b> {
        MariaServer { clients: self.clients.clone(), connection: self.connection.clone(), cx }
    }

    /// The client, with a statement or dump to come on its standard input.
    pub(super) fn client(&self, database: Option<&str>) -> Invocation {
        let database = database.map(|name| format!("--database={name}"));
        let arguments: Vec<&str> = ASKING.iter().copied().chain(database.as_deref()).collect();
        self.connection.tool(&self.clients.client, &arguments, self.cx)
    }

    /// Runs statements, and returns the rows of all of them. A field that is NULL reads `NULL`.
    ///
    /// # Errors
    /// A statement fails, or the server cannot be reached.
    pub(super) async fn rows(&self, sql: &str) -> Result<Vec<Vec<String>>> {
        self.rows_in(None, sql).await
    }

    /// As [`Self::rows`], with a default database.
    pub(super) async fn rows_in(&self, database: Option<&str>, sql: &str) -> Result<Vec<Vec<String>>> {
        let mut input = Once(Some(Bytes::from(format!("{SESSION}{sql};\n"))));
        let answer = self.answer(database, &mut input).await?;
        let answer = String::from_utf8(answer).map_err(|_| unexpected("a query"))?;
        Ok(answer.split_terminator('\n').map(|line| line.split('\t').map(unescaped).collect()).collect())
    }

    /// The first field of the first row.
    pub(super) async fn value(&self, sql: &str) -> Result<String> {
        let first = self.rows(sql).await?.into_iter().next().and_then(|row| row.into_iter().next());
        first.ok_or_else(|| unexpected("a query"))
    }

    /// The first fields of all rows.
    pub(super) async fn column(&self, sql: &str) -> Result<Vec<String>> {
        Ok(self.rows(sql).await?.into_iter().filter_map(|row| row.into_iter().next()).collect())
    }

    async fn answer(&self, database: Option<&str>, input: &mut dyn StreamReader) -> Result<Vec<u8>> {
        let mut answer = Vec::new();
        let collect = |piece: &[u8]| {
            answer.extend_from_slice(piece);
            match answer.len() > MAX_MARIA_ANSWER_BYTES {
                true => Err(unexpected("a query")),
                false => Ok(()),
            }
        };
        feed(self.client(database), input, collect).await.map_err(explained)?;
        Ok(answer)
    }

    /// Runs statements whose rows nobody wants. They may hold secrets, and reach the client by its
    /// standard input alone.
    ///
    /// # Errors
    /// As [`Self::rows`].
    pub(super) async fn run(&self, sql: &str) -> Result<()> {
        self.rows(sql).await.map(drop)
    }
}

fn unexpected(what: &str) -> Error {
    Error::source_failed(format!("the MariaDB server gave an unexpected answer to {what}"))
}

/// A field as the client's batch mode writes it.
fn unescaped(field: &str) -> String {
    let (mut text, mut letters) = (String::with_capacity(field.len()), field.chars());
    while let Some(letter) = letters.next() {
        match letter {
            '\\' => match letters.next() {
                Some('n') => text.push('\n'),
                Some('t') => text.push('\t'),
                Some('0') => text.push('\0'),
                Some(itself) => text.push(itself),
                None => text.push('\\'),
            },
            other => text.push(other),
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_of_the_batch_mode_are_read_back() {
        assert_eq!(unescaped("a\\tb\\nc\\\\n\\0"), "a\tb\nc\\n\0");
    }
}
