//! What a dump of a database does not hold as it was, in words for the operator.

use lifeboat_base::{Error, Result};

use super::server::MariaServer;
use super::tokens::{name, text};

/// Tables of engines without transactions: others may write to them while they are dumped.
const NO_TRANSACTIONS: &str = "SELECT t.TABLE_NAME, t.ENGINE FROM information_schema.TABLES t \
    LEFT JOIN information_schema.ENGINES e ON e.ENGINE = t.ENGINE \
    WHERE t.TABLE_TYPE <> 'VIEW' AND coalesce(e.TRANSACTIONS, 'NO') <> 'YES' AND t.TABLE_SCHEMA = ";
/// Columns of single precision, which the server tells with six digits.
const SINGLE_PRECISION: &str = "SELECT TABLE_NAME, COLUMN_NAME FROM information_schema.COLUMNS \
    WHERE DATA_TYPE = 'float' AND GENERATION_EXPRESSION IS NULL AND TABLE_NAME IN \
    (SELECT TABLE_NAME FROM information_schema.TABLES WHERE TABLE_TYPE <> 'VIEW' AND TABLE_SCHEMA = ";
/// Tables whose old rows are kept.
const SYSTEM_VERSIONED: &str =
    "SELECT TABLE_NAME FROM information_schema.TABLES WHERE TABLE_TYPE = 'SYSTEM VERSIONED' AND TABLE_SCHEMA = ";
/// Events whose dump never ends: `mariadb-dump` seeks a delimiter that is not in them, and has `;;`
/// alone to offer.
const ENDLESS_EVENTS: &str = "SELECT EVENT_NAME FROM information_schema.EVENTS WHERE \
    CONCAT_WS(' ', EVENT_NAME, DEFINER, EVENT_COMMENT, EVENT_DEFINITION) LIKE '%;;%' AND EVENT_SCHEMA = ";
/// What a server holds beside databases and accounts.
const LOST_OF_SERVER: [(&str, &str); 2] = [
    (
        "SELECT count(*) FROM mysql.func",
        "functions from plugins (UDFs) are not backed up: make them anew before you restore",
    ),
    (
        "SELECT count(*) FROM mysql.servers",
        "connections to other servers (CREATE SERVER) are not backed up: make them anew",
    ),
];
/// So many names are told.
const MAX_TOLD_TABLES: usize = 3;

/// Of the server, for an account that may read its tables.
pub(super) async fn of_server(server: &MariaServer<'_>) -> Result<Vec<String>> {
    let mut warnings = Vec::new();
    for (count, warning) in LOST_OF_SERVER {
        if server.value(count).await? != "0" {
            warnings.push(warning.to_owned());
        }
    }
    Ok(warnings)
}

/// Why `mariadb-dump` would never end on this database, if it would not.
pub(super) async fn endless(server: &MariaServer<'_>, database: &str) -> Result<Option<Error>> {
    let events = server.column(&format!("{ENDLESS_EVENTS}{} ORDER BY 1", text(database))).await?;
    Ok((!events.is_empty()).then(|| {
        let named = some(events.iter().map(|event| event.escape_debug().to_string()));
        Error::source_failed(format!(
            "database {}: {} with `;;` in the text, at which mariadb-dump never ends: {named}",
            database.escape_debug(),
            counted(events.len(), "event"),
        ))
        .hint("write `; ;` there (ALTER EVENT), in comments of the event, too")
    }))
}

/// Of one database. `history`: dumps hold the old rows of system-versioned tables.
pub(super) async fn of_database(server: &MariaServer<'_>, database: &str, history: bool) -> Result<Vec<String>> {
    let mut warnings = Vec::new();
    let shown = database.escape_debug();
    let unsafe_tables = server.rows(&format!("{NO_TRANSACTIONS}{} ORDER BY 1", text(database))).await?;
    if !unsafe_tables.is_empty() {
        let named = unsafe_tables.iter().map(|row| format!("{} ({})", row[0].escape_debug(), row[row.len() - 1]));
        warnings.push(format!(
            "database {shown}: {} are in engines without transactions, so they are not of one moment with the rest: {}",
            counted(unsafe_tables.len(), "table"),
            some(named)
        ));
    }
    if !history {
        let versioned = server.column(&format!("{SYSTEM_VERSIONED}{} ORDER BY 1", text(database))).await?;
        if !versioned.is_empty() {
            warnings.push(format!(
                "database {shown}: the history of {} WITH SYSTEM VERSIONING is not backed up, only current rows: \
                upgrade the server to MariaDB 10.11 or newer: {}",
                counted(versioned.len(), "table"),
                some(versioned.iter().map(|table| table.escape_debug().to_string()))
            ));
        }
    }
    let columns = format!("{SINGLE_PRECISION}{0}) AND TABLE_SCHEMA = {0} ORDER BY 1, 2", text(database));
    let mut cut = Vec::new();
    for row in server.rows(&columns).await? {
        let [table, column] = [&row[0], &row[row.len() - 1]].map(|part| name(part));
        let there = format!(
            "SELECT EXISTS (SELECT 1 FROM {}.{table} WHERE CAST({column} AS DOUBLE) <> \
            CAST(CAST(CONVERT({column}, CHAR) AS FLOAT) AS DOUBLE))",
            name(database)
        );
        if server.value(&there).await? != "0" {
            cut.push(format!("{table}.{column}").escape_debug().to_string());
        }
    }
    if !cut.is_empty() {
        warnings.push(format!(
            "database {shown}: {} of type FLOAT hold more digits than mariadb-dump writes, and lose them: change them to DOUBLE: {}",
            counted(cut.len(), "column"),
            some(cut.into_iter())
        ));
    }
    Ok(warnings)
}

fn counted(count: usize, what: &str) -> String {
    if count == 1 { format!("1 {what}") } else { format!("{count} {what}s") }
}

fn some(names: impl ExactSizeIterator<Item = String>) -> String {
    let more = names.len().saturating_sub(MAX_TOLD_TABLES);
    let first = names.take(MAX_TOLD_TABLES).collect::<Vec<_>>().join(", ");
    if more == 0 { first } else { format!("{first} and {more} more") }
}
