//! Looks whether a database has what tables need.

use lifeboat_base::Result;

use super::contents::{Contents, ContentsEntry};
use super::server::Server;
use super::sql::{FIELD_SEPARATOR, literal, rows};

/// So many are looked for by one statement.
const MAX_SOUGHT_AT_ONCE: usize = 200;

/// What is looked for.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct SoughtThing {
    kind: String,
    schema: String,
    name: String,
}

impl SoughtThing {
    /// A table, or whatever else bears such a name. `None` for a name that is not UTF-8.
    pub(super) fn table(schema: &[u8], name: &[u8]) -> Option<Self> {
        let [schema, name] = [schema, name].map(|text| String::from_utf8(text.to_vec()).ok());
        Some(Self { kind: "TABLE".to_owned(), schema: schema?, name: name? })
    }

    /// What an entry makes. `None` for a name that cannot be compared.
    pub(super) fn of(contents: &Contents, entry: &ContentsEntry) -> Option<Self> {
        let fields = [&entry.kind, &entry.schema, &entry.tag].map(|field| contents.get(field));
        if !contents.is_comparable() && !fields.iter().all(|field| field.is_ascii()) {
            return None;
        }
        let [kind, schema, name] = fields.map(|field| String::from_utf8(field.to_vec()).ok());
        let (kind, name) = (kind?, name?);
        // The arguments of a function may be written in several ways, so its name must do.
        let name = if kind == "FUNCTION" { name.split('(').next().unwrap_or_default().to_owned() } else { name };
        Some(Self { kind, schema: schema?, name })
    }
}

/// Which of these things the database `place` has.
///
/// # Errors
/// The server cannot be asked.
pub(super) async fn there(server: &Server<'_>, place: &str, sought: &[SoughtThing]) -> Result<Vec<bool>> {
    let mut found = Vec::with_capacity(sought.len());
    for some in sought.chunks(MAX_SOUGHT_AT_ONCE) {
        let each = some.iter().enumerate().map(|(at, one)| {
            format!("({at}, {}, {}, {})", literal(&one.kind), literal(&one.schema), literal(&one.name))
        });
        let each: Vec<String> = each.collect();
        let sql = format!(
            "SELECT v.at, CASE v.kind
                WHEN 'SCHEMA' THEN EXISTS (SELECT FROM pg_namespace s WHERE s.nspname = v.name)
                WHEN 'EXTENSION' THEN EXISTS (SELECT FROM pg_extension e WHERE e.extname = v.name)
                WHEN 'ACCESS METHOD' THEN EXISTS (SELECT FROM pg_am a WHERE a.amname = v.name)
                WHEN 'TYPE' THEN EXISTS (SELECT FROM pg_type t WHERE t.typnamespace = n.oid AND t.typname = v.name)
                WHEN 'DOMAIN' THEN EXISTS (SELECT FROM pg_type t WHERE t.typnamespace = n.oid AND t.typname = v.name)
                WHEN 'COLLATION' THEN EXISTS (SELECT FROM pg_collation c WHERE c.collnamespace = n.oid AND c.collname = v.name)
                WHEN 'FUNCTION' THEN EXISTS (SELECT FROM pg_proc p WHERE p.pronamespace = n.oid AND p.proname = v.name)
                ELSE EXISTS (SELECT FROM pg_class c WHERE c.relnamespace = n.oid AND c.relname = v.name) END
             FROM (VALUES {}) v (at, kind, schema, name) LEFT JOIN pg_namespace n ON n.nspname = v.schema ORDER BY v.at",
            each.join(", ")
        );
        let answer = rows(&server.query_in(place, &sql).await?);
        found.extend(answer.iter().map(|row| row.split_once(FIELD_SEPARATOR).is_some_and(|(_, there)| there == "t")));
    }
    // What was not answered is not there.
    found.resize(sought.len(), false);
    Ok(found)
}
