//! `postgres`: roles and globals as SQL, databases as custom-format archives without compression of their own.
//!
//! Streams: `globals` (`pg_dumpall --globals-only`), then the [parts] of each database (`pg_dump -Fc -Z0`). Each database is
//! consistent in itself; several databases of one server are captured one after the other, as PostgreSQL offers no snapshot
//! across databases.

use std::ffi::OsStr;
use std::path::PathBuf;

use self::capture::{ServerFacts, conninfo, query};
use self::clients::Clients;
use self::connect::Connection;
use super::CaptureContext;
use super::process::Invocation;
use crate::config::{PostgresConnection, Secret};
use crate::error::Result;

mod archive;
mod builds;
pub(crate) mod capture;
pub(crate) mod clients;
pub(crate) mod connect;
mod export;
pub(crate) mod globals;
pub(crate) mod load;
pub(crate) mod parts;
pub(crate) mod tables;

/// Name of the stream with roles and other globals.
pub(crate) const GLOBALS: &str = "globals";

/// A server: how to connect, and client tools that fit it.
pub(crate) struct Server<'a> {
    pub(crate) clients: Clients,
    pub(crate) connection: Connection,
    pub(crate) cx: &'a CaptureContext,
}

impl<'a> Server<'a> {
    /// Asks it what it is, and chooses the tools.
    ///
    /// # Errors
    /// It does not answer, or no tools fit.
    pub(crate) async fn reach(
        at: &PostgresConnection,
        password: Option<&Secret>,
        client_directories: &[PathBuf],
        cx: &'a CaptureContext,
    ) -> Result<(Self, ServerFacts)> {
        let connection = Connection::new(at, password, cx)?;
        let first = clients::newest(client_directories, cx).await?;
        let facts = ServerFacts::ask(&first, &connection, cx).await?;
        let clients = clients::choose(facts.major, client_directories, cx).await?;
        Ok((Self { clients, connection, cx }, facts))
    }

    /// One statement's answer, from the maintenance database.
    pub(crate) async fn query(&self, sql: &str) -> Result<String> {
        self.query_in(self.connection.maintenance_database(), sql).await
    }

    /// One statement's answer.
    pub(crate) async fn query_in(&self, database: &str, sql: &str) -> Result<String> {
        query(&self.clients, &self.connection, database, sql, self.cx).await
    }

    /// A client tool that connects to it.
    pub(crate) fn tool<A: AsRef<OsStr>>(&self, name: &str, arguments: impl IntoIterator<Item = A>) -> Invocation {
        Invocation::new(&self.clients.tool(name), arguments, self.cx).envs(self.connection.variables())
    }

    /// `pg_dump` of a database, as a custom-format archive.
    pub(crate) fn dump_tool(&self, database: &str, more: Vec<String>) -> Invocation {
        let usual = ["--format=custom", "--compress=0", "-w", "-d", &conninfo(database)].map(str::to_owned);
        self.tool("pg_dump", usual.into_iter().chain(more))
    }
}
