//! Lists the values of one column, as `COPY … TO STDOUT` writes them, however many there are.

use std::ffi::OsStr;

use lifeboat_base::{Error, Result};
use tokio::sync::mpsc;

use super::PostgresThrowAway;
use crate::listing::{ItemBatches, ListedItem, MAX_ITEM_BYTES};
use crate::postgres::connect::Connection;
use crate::proof::DrillQuery;
use crate::tool::process::Invocation;

/// A character may be written as two.
const MAX_COPY_LINE_BYTES: usize = 2 * MAX_ITEM_BYTES + 2;

impl PostgresThrowAway {
    /// Passes on what `query` gives, which may only read.
    pub(super) async fn list_values(&self, query: &DrillQuery, to: mpsc::Sender<Vec<ListedItem>>) -> Result<()> {
        let database = self.only_database(query)?;
        let Err(error) = self.copy_values(&database, query, to).await else { return Ok(()) };
        let said = error.chain();
        if self.is_no_sql(query, &said).await? {
            return Err(Error::configuration(format!("`{}` is no SQL: {said}", query.sql))
                .hint("correct `sql` of the [[group.reference]]"));
        }
        Err(match said.contains("does not exist") {
            true => error.hint(
                "look whether `sql` of the [[group.reference]] spells what the source has; if it does, the snapshot lacks it",
            ),
            false => error,
        })
    }

    async fn copy_values(&self, database: &str, query: &DrillQuery, to: mpsc::Sender<Vec<ListedItem>>) -> Result<()> {
        let connection = Connection::new(&self.server.connection(), None, &self.cx)?
            .with_settings("-c default_transaction_read_only=on");
        let sql = query.sql.trim_end().trim_end_matches(';');
        // A comment at its end must not take the rest along.
        let copy = format!("COPY (\n{sql}\n) TO STDOUT");
        let database = connection.conninfo(database);
        let arguments =
            ["-X", "-q", "-w", "-v", "ON_ERROR_STOP=1", "-v", "VERBOSITY=terse", "-d", &database, "-c", &copy];
        let encoding = [("PGCLIENTENCODING", OsStr::new("UTF8"))];
        let psql = Invocation::new(&self.server.clients.tool("psql"), arguments, &self.cx);
        let mut tool = connection.give(psql).envs(encoding).start(false)?;
        let (mut items, mut lines) = (ItemBatches::new(to), CopyLines::default());
        while let Some(piece) = tool.read().await? {
            for line in lines.ended_by(&piece) {
                items.push(value(&line)?.as_deref()).await?;
            }
        }
        tool.finish(0).await?;
        items.pass_on().await
    }
}

impl PostgresThrowAway {
    /// The database to ask. Where several could be meant, none is: an empty answer would look like
    /// one without a fault.
    fn only_database(&self, query: &DrillQuery) -> Result<String> {
        let all = || self.databases.iter().map(|name| name.escape_debug().to_string()).collect::<Vec<_>>().join(", ");
        let mut others = self.databases.iter().filter(|name| *name != "postgres");
        match (&query.database, others.next(), others.next()) {
            (None, Some(_), Some(_)) => {
                Err(Error::configuration("the snapshot has several databases, and nothing says which one to ask")
                    .hint(format!("set `database` of the [[group.reference]] to one of: {}", all())))
            }
            (Some(wanted), ..) if !self.databases.contains(wanted) => {
                Err(Error::configuration(format!("the snapshot has no database `{}`", wanted.escape_debug()))
                    .hint(format!("set `database` of the [[group.reference]] to one of: {}", all())))
            }
            _ => Ok(self.database_of(query)),
        }
    }
}

/// Divides what comes in pieces into lines.
#[derive(Default)]
struct CopyLines {
    begun: Vec<u8>,
}

impl CopyLines {
    /// The lines that end in `piece`. Of a line that is too long, the beginning.
    fn ended_by(&mut self, piece: &[u8]) -> Vec<Vec<u8>> {
        let mut ended = Vec::new();
        let mut parts = piece.split(|byte| *byte == b'\n').peekable();
        while let Some(part) = parts.next() {
            let room = MAX_COPY_LINE_BYTES.saturating_sub(self.begun.len());
            self.begun.extend_from_slice(&part[..part.len().min(room)]);
            if parts.peek().is_some() {
                ended.push(std::mem::take(&mut self.begun));
            }
        }
        ended
    }
}

/// The value that a line writes; `None` if it has none.
fn value(line: &[u8]) -> Result<Option<Vec<u8>>> {
    if line == b"\\N" {
        return Ok(None);
    }
    if line.contains(&b'\t') {
        return Err(Error::configuration("the query gives more than one column")
            .hint("let `sql` of the [[group.reference]] give the path alone"));
    }
    let mut value = Vec::with_capacity(line.len());
    let mut bytes = line.iter();
    while let Some(byte) = bytes.next() {
        if *byte != b'\\' {
            value.push(*byte);
            continue;
        }
        let Some(escaped) = bytes.next() else { break };
        value.push(match escaped {
            b'b' => 8,
            b't' => b'\t',
            b'n' => b'\n',
            b'v' => 11,
            b'f' => 12,
            b'r' => b'\r',
            other => *other,
        });
    }
    Ok(Some(value))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn lines_come_whole_however_they_are_cut_and_a_long_one_as_its_beginning() {
        let long = vec![b'x'; 1 << 20];
        let text = [b"a/b\n\n\\N\n".as_slice(), &long, b"\nlast\n"].concat();
        for size in [1, 3, 4096, text.len()] {
            let mut lines = CopyLines::default();
            let found: Vec<Vec<u8>> = text.chunks(size).flat_map(|piece| lines.ended_by(piece)).collect();
            assert_eq!(found.len(), 5, "{size}");
            assert_eq!((found[0].as_slice(), found[4].as_slice()), (&b"a/b"[..], &b"last"[..]));
            assert_eq!(found[3].len(), MAX_COPY_LINE_BYTES);
        }
    }

    #[test]
    fn values_are_read_as_copy_writes_them() {
        for (line, expected) in [
            (&b"a/b"[..], Some(&b"a/b"[..])),
            (b"", Some(b"")),
            (b"\\N", None),
            (b"\\\\N", Some(b"\\N")),
            (b"a\\nb\\tc\\\\d\\r", Some(b"a\nb\tc\\d\r")),
            (b"cut\\", Some(b"cut")),
        ] {
            assert_eq!(value(line).unwrap().as_deref(), expected, "{line:?}");
        }
        assert!(value(b"a\tb").unwrap_err().message().contains("more than one column"));
    }
}
