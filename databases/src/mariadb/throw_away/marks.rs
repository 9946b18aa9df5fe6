//! What the lines of a dump begin with, or are, beside rows and the text of definitions.

/// How the comment begins that says what comes next. The line before is `--`.
pub(super) const TITLES: [(&[u8], &str); 7] = [
    (b"-- Table structure for table ", "table"),
    (b"-- Sequence structure for ", "sequence"),
    (b"-- Temporary table structure for view ", "columns of view"),
    (b"-- Final view structure for view ", "view"),
    (b"-- Dumping data for table ", ROWS_OF),
    (b"-- Dumping events for database ", "events of"),
    (b"-- Dumping routines for database ", "routines of"),
];
/// What comes with the rows of a table: its triggers.
pub(super) const ROWS_OF: &str = "triggers of table";
/// Lines with which a definition of its own begins, and what it is.
pub(super) const DROPS: [(&[u8], &str); 5] = [
    (b"/*!50106 DROP EVENT IF EXISTS ", "event"),
    (b"/*!50003 DROP FUNCTION IF EXISTS ", "function"),
    (b"/*!50003 DROP PROCEDURE IF EXISTS ", "procedure"),
    (b"/*!50003 DROP PACKAGE IF EXISTS ", "package"),
    (b"/*!50003 DROP PACKAGE BODY IF EXISTS ", "package body"),
];
/// Statements around the rows of a table, and at the beginning, which differ between releases of
/// `mariadb-dump`.
const WRAPPERS: [&[u8]; 6] = [
    b"/*M!999999\\- enable the sandbox mode */ ",
    b"set autocommit=0;",
    b"SET @OLD_AUTOCOMMIT=@@AUTOCOMMIT, @@AUTOCOMMIT=0;",
    b"commit;",
    b"COMMIT;",
    b"SET AUTOCOMMIT=@OLD_AUTOCOMMIT;",
];
pub(super) const INSERT: &[u8] = b"INSERT INTO ";
const VALUES: &[u8] = b" VALUES";

/// Whether a line tells of the dump or the server, and not of what is in it. `begun`: it does not
/// stand at the beginning.
pub(super) fn is_of_the_dump(line: &[u8], begun: bool) -> bool {
    let comments_of_position: [&[u8]; 3] = [
        b"-- The deferred gtid setting for slave corresponding to the master-data CHANGE-MASTER follows",
        b"-- Preferably use GTID to start replication from GTID position:",
        b"-- SET GLOBAL gtid_slave_pos='",
    ];
    line.is_empty()
        || line == b"--"
        || WRAPPERS.contains(&line)
        || (!begun && line.starts_with(b"--"))
        || comments_of_position.iter().any(|comment| line.starts_with(comment))
}

/// What a line of the header of an `INSERT` is.
pub(super) enum HeaderLine {
    /// The header ends in it, here: after `VALUES`, outside of names.
    EndsAt(usize),
    /// It ends in a name that holds a line break.
    InName,
    /// It is of no header.
    Odd,
}

/// Reads a line of a header. `in_name`: it begins in a name.
pub(super) fn header_line(line: &[u8], mut in_name: bool) -> HeaderLine {
    for (at, byte) in line.iter().enumerate() {
        match byte {
            b'`' => in_name = !in_name,
            b' ' if !in_name && line[at..].starts_with(VALUES) => {
                let rest = &line[at + VALUES.len()..];
                return match rest.is_empty() || rest.starts_with(b" (") {
                    true => HeaderLine::EndsAt(at + VALUES.len()),
                    false => HeaderLine::Odd,
                };
            }
            _ => {}
        }
    }
    if in_name { HeaderLine::InName } else { HeaderLine::Odd }
}
