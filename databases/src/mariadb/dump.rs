//! One dump of one database: its arguments, its stream, and what its bytes must show.

use lifeboat_base::{Error, Result};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};

use crate::passing::{PassingLine, PassingMarks};
use crate::streams::MAX_STREAM_NAME_BYTES;

/// What is percent-encoded in the name of a database.
const ENCODED_IN_NAME: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'_');
/// The folder of the streams.
const DATABASE_FOLDER: &str = "database/";
/// The last line of a whole dump.
const DUMP_END: &[u8] = b"\n-- Dump completed\n";
/// How a dump begins: comments and settings, and no output of something else.
const DUMP_BEGINS: [&[u8]; 2] = [b"/*M!999999\\-", b"-- MariaDB dump"];
/// The position is told at the beginning, …
const POSITION_MARK: &str = "\n-- CHANGE MASTER TO MASTER_LOG_FILE='";
/// … and the GTID near the end.
const GTID_MARK: &str = "\n-- SET GLOBAL gtid_slave_pos='";
/// Both lie within so many bytes.
const WATCHED_BYTES: usize = 8 << 10;
/// The first version whose dumps can hold the history of system-versioned tables.
const SINCE_HISTORY: (u32, u32) = (10, 11);

const POSITION_LINE: PassingLine =
    PassingLine { begin: b"-- CHANGE MASTER TO MASTER_LOG_FILE='", is_rest: is_rest_of_position };
const GTID_LINE: PassingLine = PassingLine { begin: b"-- SET GLOBAL gtid_slave_pos='", is_rest: is_rest_of_gtid };
/// Both are comments.
pub(super) const MARIA_PASSING_MARKS: PassingMarks =
    PassingMarks { head: |head| POSITION_LINE.take_first(head), tail: |tail| GTID_LINE.take_last(tail), check: None };

/// `bin.000001', MASTER_LOG_POS=39390;`
fn is_rest_of_position(rest: &[u8]) -> bool {
    let is_name = |byte: &u8| byte.is_ascii_alphanumeric() || b"._-".contains(byte);
    let parts = rest.iter().position(|byte| !is_name(byte)).map(|end| rest.split_at(end).1);
    let position = parts.and_then(|rest| rest.strip_prefix(b"', MASTER_LOG_POS=")?.strip_suffix(b";"));
    position.is_some_and(|position| position.iter().all(u8::is_ascii_digit))
}

/// `0-1-166,1-1-7';`
fn is_rest_of_gtid(rest: &[u8]) -> bool {
    let is_in_gtid = |byte: &u8| byte.is_ascii_digit() || b"-,".contains(byte);
    rest.strip_suffix(b"';").is_some_and(|gtid| gtid.iter().all(is_in_gtid))
}

/// What every dump is told.
///
/// Rows come in the order of the primary key, one a line, so that a row that did not change has the
/// same bytes as before. `--no-autocommit` makes a load one transaction a table. A lock of tables
/// would be one of the server that a dump is loaded into.
const DUMP_ARGUMENTS: [&str; 15] = [
    "--single-transaction",
    "--quick",
    "--routines",
    "--events",
    "--triggers",
    "--order-by-primary",
    "--skip-dump-date",
    "--hex-blob",
    "--default-character-set=utf8mb4",
    "--tz-utc",
    "--no-tablespaces",
    "--skip-add-locks",
    "--no-autocommit",
    "--extended-insert",
    // Rows of one statement, which a server with a default of 16 MiB must take.
    "--net-buffer-length=1M",
];

/// What a dump can hold beside definitions and rows.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct DumpExtras {
    /// The history of system-versioned tables.
    pub(super) history: bool,
    /// The position in the binary log.
    pub(super) position: bool,
}

impl DumpExtras {
    /// Those of a server of this series.
    pub(super) fn of(series: (u32, u32), position: bool) -> Self {
        Self { history: series >= SINCE_HISTORY, position }
    }

    /// The arguments of a dump of `database`.
    pub(super) fn arguments(self, database: &str) -> Vec<&str> {
        let mut arguments = DUMP_ARGUMENTS.to_vec();
        if self.history {
            arguments.push("--dump-history");
        }
        if self.position {
            arguments.extend(["--master-data=2", "--gtid"]);
        }
        arguments.extend(["--", database]);
        arguments
    }
}

/// The stream of a database; `None` if its name is too long for one.
pub(super) fn stream_of(database: &str) -> Option<String> {
    let name = format!("{DATABASE_FOLDER}{}", utf8_percent_encode(database, ENCODED_IN_NAME));
    (name.len() <= MAX_STREAM_NAME_BYTES).then_some(name)
}

/// The database of a stream; `None` for a stream of another kind.
pub(super) fn database_of(stream: &str) -> Option<String> {
    let name = stream.strip_prefix(DATABASE_FOLDER).filter(|name| !name.contains('/'))?;
    Some(percent_decode_str(name).decode_utf8().ok()?.into_owned())
}

/// Watches the bytes of a dump.
#[derive(Debug, Default)]
pub(super) struct DumpWatch {
    head: Vec<u8>,
    tail: Vec<u8>,
}

/// What a whole dump told.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct DumpPosition {
    /// File and offset in the binary log.
    pub(super) binlog: Option<String>,
    /// The GTID position.
    pub(super) gtid: Option<String>,
}

impl DumpWatch {
    /// Sees the next piece.
    pub(super) fn see(&mut self, piece: &[u8]) {
        let room = WATCHED_BYTES - self.head.len();
        self.head.extend_from_slice(&piece[..piece.len().min(room)]);
        let from = piece.len().saturating_sub(WATCHED_BYTES);
        self.tail.extend_from_slice(&piece[from..]);
        let excess = self.tail.len().saturating_sub(WATCHED_BYTES);
        self.tail.drain(..excess);
    }

    /// What the dump told, if it is whole.
    ///
    /// # Errors
    /// It is no dump, or its last line is missing.
    pub(super) fn end(&self) -> Result<DumpPosition> {
        if !DUMP_BEGINS.iter().any(|begin| self.head.starts_with(begin)) {
            return Err(Error::source_failed("mariadb-dump did not write a dump"));
        }
        if !self.tail.ends_with(DUMP_END) {
            return Err(Error::source_failed("mariadb-dump ended without its end marker, so the dump is cut short")
                .hint("run the backup again; if it fails again, run mariadb-dump by hand and look how it ends"));
        }
        let (head, tail) = (String::from_utf8_lossy(&self.head), String::from_utf8_lossy(&self.tail));
        // What tables and routines say stands between the two.
        let binlog = head.split_once(POSITION_MARK).and_then(|(_, rest)| rest.split_once(";\n"));
        let binlog = binlog.map(|(said, _)| said.replace("', MASTER_LOG_POS=", ":"));
        let gtid = tail.rsplit_once(GTID_MARK).and_then(|(_, rest)| rest.split_once("';\n"));
        let gtid = gtid.map(|(said, _)| said.to_owned());
        Ok(DumpPosition { binlog, gtid })
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    fn end(dump: &str, piece: usize) -> Result<DumpPosition> {
        let mut watch = DumpWatch::default();
        dump.as_bytes().chunks(piece).for_each(|piece| watch.see(piece));
        watch.end()
    }

    #[test]
    fn only_a_position_is_taken_out_of_a_dump() {
        let taken = |line: &str| {
            let mut head = format!("-- MariaDB dump\n{line}\nx\n").into_bytes();
            let before = head.len();
            (MARIA_PASSING_MARKS.head)(&mut head);
            (MARIA_PASSING_MARKS.tail)(&mut head);
            head.len() < before && head.ends_with(b"'\nx\n")
        };
        assert!(taken("-- CHANGE MASTER TO MASTER_LOG_FILE='bin.000001', MASTER_LOG_POS=39390;"));
        assert!(taken("-- SET GLOBAL gtid_slave_pos='0-1-166,1-1-7';") && taken("-- SET GLOBAL gtid_slave_pos='';"));
        assert!(!taken("-- CHANGE MASTER TO MASTER_LOG_FILE='); DROP TABLE x; --"));
        assert!(!taken("-- CHANGE MASTER TO MASTER_LOG_FILE='b', MASTER_LOG_POS=1; x;"));
        assert!(!taken("-- SET GLOBAL gtid_slave_pos='0-1'; x';") && !taken(" -- SET GLOBAL gtid_slave_pos='0-1';"));
    }

    #[test]
    fn a_dump_is_whole_only_with_its_last_line() {
        let rows = "(1,2),\n".repeat(10_000);
        let dump = format!(
            "/*M!999999\\- enable the sandbox mode */ \n-- MariaDB dump\n\
            -- CHANGE MASTER TO MASTER_LOG_FILE='bin.000001', MASTER_LOG_POS=39390;\n{rows}\n\
            -- SET GLOBAL gtid_slave_pos='0-1-166';\n\n-- Dump completed\n"
        );
        for piece in [1, 7, 4096, dump.len()] {
            let told = end(&dump, piece).unwrap();
            assert_eq!(told.binlog.as_deref(), Some("bin.000001:39390"));
            assert_eq!(told.gtid.as_deref(), Some("0-1-166"));
            for cut in [1, 2, 20, 100, dump.len() - 10] {
                assert!(end(&dump[..dump.len() - cut], piece).is_err(), "{cut}");
            }
        }
        assert!(end(&dump[50..], 100).is_err());
    }

    #[test]
    fn every_name_of_a_database_has_a_stream() {
        for (name, stream) in [("shop", "database/shop"), ("a/b.c`d\n%", "database/a%2Fb%2Ec%60d%0A%25")] {
            assert_eq!(stream_of(name).as_deref(), Some(stream));
            assert_eq!(database_of(stream).as_deref(), Some(name));
        }
        assert_eq!(stream_of(&"☂".repeat(64)).map(|name| name.len()), Some(9 + 64 * 9));
        assert_eq!((database_of("globals"), database_of("database/a/b")), (None, None));
    }
}
