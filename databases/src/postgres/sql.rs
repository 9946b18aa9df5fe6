//! SQL as text: statements through `psql`, and how names and strings are quoted.

use std::ffi::OsStr;

use lifeboat_base::Result;

use super::clients::Clients;
use super::connect::Connection;
use crate::database::WorkContext;
use crate::tool::process::{Invocation, output};

/// Lists the databases that can be dumped. One that was left half-dropped (limit -2) cannot.
pub(crate) const DATABASES: &str =
    "SELECT datname FROM pg_database WHERE datallowconn AND NOT datistemplate AND datconnlimit <> -2 ORDER BY datname";

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
        &conninfo(database),
        "-c",
        sql,
    ];
    let encoding = [("PGCLIENTENCODING", OsStr::new("UTF8"))];
    let psql = Invocation::new(&clients.tool("psql"), arguments, cx).envs(connection.variables()).envs(encoding);
    output(psql).await.map(|answer| answer.trim_end_matches(['\0', '\n']).to_owned())
}

/// The rows of an answer of one column.
pub(crate) fn rows(answer: &str) -> Vec<String> {
    answer.split('\0').filter(|row| !row.is_empty()).map(str::to_owned).collect()
}

/// The name of a database as a connection string. A bare name with `=` in it would be taken for
/// one.
pub(crate) fn conninfo(database: &str) -> String {
    format!("dbname='{}'", database.replace('\\', "\\\\").replace('\'', "\\'"))
}

/// A name as a quoted SQL identifier.
pub(crate) fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// A text as a quoted SQL string.
pub(crate) fn literal(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}

/// A name in any encoding as a quoted SQL identifier.
pub(crate) fn quoted_name(name: &[u8]) -> Vec<u8> {
    [&b"\""[..], &doubled(name, b"\""), b"\""].concat()
}

/// A text in any encoding as a quoted SQL string, whatever `standard_conforming_strings` is.
pub(crate) fn quoted_text(text: &[u8]) -> Vec<u8> {
    let begin: &[u8] = if text.contains(&b'\\') { b"E'" } else { b"'" };
    [begin, &doubled(text, b"'\\"), b"'"].concat()
}

fn doubled(text: &[u8], special: &[u8]) -> Vec<u8> {
    text.iter().flat_map(|byte| std::iter::repeat_n(*byte, 1 + usize::from(special.contains(byte)))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_texts_cannot_end_their_quotes() {
        assert_eq!(quoted_name(br#"a"b'\"#), br#""a""b'\""#);
        assert_eq!(quoted_text(br#"a"b'"#), br#"'a"b'''"#);
        assert_eq!(quoted_text(br"a\'"), br"E'a\\'''");
    }
}
