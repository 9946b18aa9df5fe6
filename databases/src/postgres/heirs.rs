//! Tables that are to be replaced, and what hangs on them by inheritance: to drop a parent drops
//! its partitions, and to drop a partition takes it out of its parent.

use lifeboat_base::{Error, Result};

use super::extract::PickedRelation;
use super::roles::several;
use super::server::Server;
use super::sql::{FIELD_SEPARATOR, quoted_name, quoted_text, rows};

/// What to do in each case.
const COMPARE: &str = "restore into another database with --database and --rename, and move the rows by hand";

/// The name of a table as the server reads it.
pub(super) fn qualified(one: &PickedRelation) -> Vec<u8> {
    [&quoted_name(&one.schema)[..], b".", &quoted_name(&one.name)].concat()
}

/// Refuses to replace `found`, tables that the database `place` has, if that would take away what
/// nobody asked for. `typed` are those of them that were named, and not taken for their parents.
///
/// # Errors
/// It would. The server cannot be asked.
pub(super) async fn refuse_torn(
    server: &Server<'_>,
    place: &str,
    found: &[&PickedRelation],
    typed: &[&PickedRelation],
) -> Result<()> {
    if found.is_empty() {
        return Ok(());
    }
    let list = |tables: &[&PickedRelation]| {
        let one =
            |table: &&PickedRelation| format!("{}::regclass", String::from_utf8_lossy(&quoted_text(&qualified(table))));
        format!("ARRAY[{}]::regclass[]", tables.iter().map(one).collect::<Vec<_>>().join(", "))
    };
    let (found, typed) = (list(found), list(typed));
    let pairs = async |condition: &str| -> Result<Vec<(String, String)>> {
        let sql = format!(
            "SELECT i.inhrelid::regclass, i.inhparent::regclass FROM pg_inherits i WHERE {condition} ORDER BY 1 LIMIT 50"
        );
        let answer = server.query_in(place, &sql).await?;
        let pair = |row: String| {
            let (child, parent) = row.split_once(FIELD_SEPARATOR)?;
            Some((child.to_owned(), parent.to_owned()))
        };
        Ok(rows(&answer).into_iter().filter_map(pair).collect())
    };
    let of_parents = pairs(&format!("i.inhrelid = ANY ({found}) AND NOT i.inhparent = ANY ({found})")).await?;
    if let Some((child, parent)) = of_parents.first() {
        return Err(Error::usage(format!(
            "database {place} has the table {child} as a part of {parent}: to replace it would take it out of there"
        ))
        .hint(format!("name {parent} with --table; or {COMPARE}")));
    }
    let others = pairs(&format!("i.inhparent = ANY ({found}) AND NOT i.inhrelid = ANY ({found})")).await?;
    if let Some((_, parent)) = others.first() {
        let children = several(others.iter().map(|(child, _)| child.as_str()));
        return Err(Error::usage(format!(
            "to replace the table {parent} in database {place} would drop parts of it that were not asked for: {children}"
        ))
        .hint(format!("detach them first; or {COMPARE}")));
    }
    let sql = format!(
        "SELECT t FROM unnest({found}) t WHERE NOT t = ANY ({typed})
            AND NOT EXISTS (SELECT FROM pg_inherits i WHERE i.inhrelid = t AND i.inhparent = ANY ({found}))"
    );
    let strangers = rows(&server.query_in(place, &sql).await?);
    if strangers.is_empty() {
        return Ok(());
    }
    let strangers = several(strangers.iter().map(String::as_str));
    Err(Error::usage(format!(
        "parts of a table in the snapshot are tables of their own in database {place}, and would be replaced: {strangers}"
    ))
    .hint(format!("rename them first; or {COMPARE}")))
}
