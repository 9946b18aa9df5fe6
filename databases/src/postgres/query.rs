//! Asks a server one statement at a time, through `psql`.

use std::ffi::OsStr;

use lifeboat_base::Result;

use super::clients::Clients;
use super::connect::Connection;
use super::sql::FIELD_SEPARATOR;
use crate::database::WorkContext;
use crate::tool::process::{Invocation, output};

/// Runs one statement; fields are separated by U+001F, rows by NUL.
///
/// # Errors
/// Those of `psql`.
pub(crate) async fn query(
    clients: &Clients,
    connection: &Connection,
    database: &str,
    sql: &str,
    cx: &WorkContext,
) -> Result<String> {
    let answer = query_with_nulls(clients, connection, database, sql, "", cx).await;
    // Only the end of the last row goes: a name may end in a line break.
    answer.map(|answer| answer.strip_suffix('\0').unwrap_or(&answer).to_owned())
}

/// As [`query`], but the last row ends with NUL, too, and `null` stands for what has no value.
///
/// # Errors
/// Those of `psql`.
pub(crate) async fn query_with_nulls(
    clients: &Clients,
    connection: &Connection,
    database: &str,
    sql: &str,
    null: &str,
    cx: &WorkContext,
) -> Result<String> {
    let null = format!("null={null}");
    let arguments = [
        "-X",
        "-A",
        "-t",
        "-q",
        "-w",
        "-0",
        "-F",
        FIELD_SEPARATOR,
        "-P",
        &null,
        "-v",
        "ON_ERROR_STOP=1",
        "-v",
        "VERBOSITY=terse",
        "-d",
        &connection.conninfo(database),
        "-c",
        sql,
    ];
    let encoding = [("PGCLIENTENCODING", OsStr::new("UTF8"))];
    let psql = connection.give(Invocation::new(&clients.tool("psql"), arguments, cx)).envs(encoding);
    output(psql).await
}
