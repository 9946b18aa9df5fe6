//! Asks a server one statement at a time, through `psql`.

use std::ffi::OsStr;

use lifeboat_base::Result;

use super::clients::Clients;
use super::connect::Connection;
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
        "\u{1f}",
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
    let psql = Invocation::new(&clients.tool("psql"), arguments, cx).envs(connection.variables()).envs(encoding);
    output(psql).await.map(|answer| answer.trim_end_matches(['\0', '\n']).to_owned())
}
