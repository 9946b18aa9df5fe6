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
    let arguments = [
        "-X",
        "-A",
        "-t",
        "-q",
        "-w",
        "-0",
        "-F",
        FIELD_SEPARATOR,
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
    // Only the end of the last row goes: a name may end in a line break.
    output(psql).await.map(|answer| answer.strip_suffix('\0').unwrap_or(&answer).to_owned())
}
