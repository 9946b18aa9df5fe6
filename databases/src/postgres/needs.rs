//! What of an archive only a superuser can make on a server, so that a restore by a role without
//! rights says so before it loads the rows, and not after hours.

use lifeboat_base::{Error, Result};

use super::contents::{Contents, ContentsEntry};
use super::roles::several;
use super::server::Server;
use super::sql::{literal, rows};
use super::tokens::{Statements, Token};

/// Kinds of entries that only a superuser can make.
const HIGH_KINDS: [&str; 10] = [
    "ACCESS METHOD",
    "EVENT TRIGGER",
    "FOREIGN DATA WRAPPER",
    "OPERATOR CLASS",
    "OPERATOR FAMILY",
    "PROCEDURAL LANGUAGE",
    "SUBSCRIPTION",
    "TEXT SEARCH PARSER",
    "TEXT SEARCH TEMPLATE",
    "TRANSFORM",
];
/// Languages whose functions can do whatever the server can. Others of that kind come with an
/// extension that only a superuser can install.
const UNTRUSTED: [&str; 2] = ["c", "internal"];
/// How the lines begin in which `pg_dump` says what a function, a type, an aggregate is made of.
const LANGUAGE: &str = "    LANGUAGE ";
const TYPE_INPUT: &str = "    INPUT = ";
const AGGREGATE_STATE: &str = "    STYPE = ";
/// What to do if a superuser is needed.
pub(crate) const AS_SUPERUSER: &str =
    "if you trust all code in the snapshot, pass --as-superuser, which runs it as the superuser that you connect as";

/// What in an archive only a superuser can make on this server.
///
/// # Errors
/// The server cannot be asked.
pub(crate) async fn needs_superuser(server: &Server<'_>, contents: &Contents) -> Result<Vec<String>> {
    let needs = contents.entries.iter().filter(|entry| is_high(contents, entry));
    let mut needed: Vec<String> = needs.map(|entry| contents.name(entry)).collect();
    let name = |entry: &ContentsEntry| literal(&String::from_utf8_lossy(contents.get(&entry.tag)));
    let extensions: Vec<String> = contents.of_kind("EXTENSION").map(name).collect();
    if !extensions.is_empty() {
        let sql = format!(
            "SELECT DISTINCT 'EXTENSION ' || name FROM pg_available_extension_versions e WHERE name IN ({}) AND superuser
                AND to_jsonb(e) ->> 'trusted' IS DISTINCT FROM 'true'",
            extensions.join(", ")
        );
        needed.extend(rows(&server.query(&sql).await?));
    }
    Ok(needed)
}

/// Whether only a superuser can make an entry, by its kind or its definition. What is overlooked
/// fails later.
fn is_high(contents: &Contents, entry: &ContentsEntry) -> bool {
    let text = String::from_utf8_lossy(contents.get(&entry.definition));
    let kind = String::from_utf8_lossy(contents.get(&entry.kind));
    is_high_kind(contents, entry) || is_high_definition(&kind, &text)
}

/// Whether only a superuser can make an entry, by its kind.
pub(super) fn is_high_kind(contents: &Contents, entry: &ContentsEntry) -> bool {
    HIGH_KINDS.iter().any(|kind| kind.as_bytes() == contents.get(&entry.kind))
}

fn is_high_definition(kind: &str, text: &str) -> bool {
    let line = |begin: &str| text.lines().find_map(|line| line.strip_prefix(begin)).unwrap_or_default();
    match kind {
        "FUNCTION" | "PROCEDURE" => {
            let mut words = line(LANGUAGE).split(' ');
            words.next().is_some_and(|language| UNTRUSTED.contains(&language)) || words.any(|word| word == "LEAKPROOF")
        }
        "TYPE" => !line(TYPE_INPUT).is_empty(),
        "AGGREGATE" => line(AGGREGATE_STATE).trim_end_matches(',') == "internal",
        "CAST" => is_high_cast(text),
        "PUBLICATION" => text.contains(" FOR ALL TABLES") || text.contains(" FOR TABLES IN SCHEMA "),
        "PUBLICATION TABLES IN SCHEMA" => true,
        _ => false,
    }
}

/// A cast without a function, or between types that are both PostgreSQL's own: the others are named
/// with their schema.
fn is_high_cast(text: &str) -> bool {
    let Some(tokens) = Statements::new(text.as_bytes()).next().and_then(|statement| statement.tokens) else {
        return false;
    };
    let words = [Token::Word(b"WITHOUT".to_vec()), Token::Word(b"FUNCTION".to_vec())];
    let end = tokens.iter().position(|token| *token == Token::Word(b"WITH".to_vec())).unwrap_or(tokens.len());
    tokens.windows(2).any(|two| *two == words) || !tokens[..end].contains(&Token::Mark(b'.'))
}

/// What of an archive is code that its loading may run, for people.
pub(crate) fn code(contents: &Contents) -> Vec<String> {
    let kinds = ["FUNCTION", "PROCEDURE", "EVENT TRIGGER", "EXTENSION", "MATERIALIZED VIEW DATA"];
    kinds.iter().flat_map(|kind| contents.of_kind(kind)).map(|entry| contents.name(entry)).collect()
}

/// The refusal of an archive that needs a superuser.
pub(crate) fn refusal(needed: &[String]) -> Error {
    let needed = several(needed.iter().map(String::as_str));
    Error::usage(format!("the snapshot is loaded by a role without rights, but only a superuser can make: {needed}"))
        .hint(format!("{AS_SUPERUSER}; or leave these out with --keep-going"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_needs_a_superuser_is_seen_in_its_definition() {
        for (kind, high) in [
            ("FUNCTION", "CREATE FUNCTION s.f() RETURNS integer\n    LANGUAGE c STRICT\n    AS '$libdir/x', 'f';\n"),
            ("FUNCTION", "CREATE FUNCTION s.f(integer) RETURNS integer\n    LANGUAGE internal\n    AS $$int4abs$$;\n"),
            ("FUNCTION", "CREATE FUNCTION s.f() RETURNS integer\n    LANGUAGE sql STABLE LEAKPROOF\n    AS $$x$$;\n"),
            ("TYPE", "CREATE TYPE s.t (\n    INTERNALLENGTH = 16,\n    INPUT = s.in,\n    OUTPUT = s.out\n);\n"),
            ("AGGREGATE", "CREATE AGGREGATE s.a(integer) (\n    SFUNC = s.f,\n    STYPE = internal,\n    X = y\n);\n"),
            ("CAST", "CREATE CAST (s.a AS s.b) WITHOUT FUNCTION AS ASSIGNMENT;\n"),
            ("CAST", "CREATE CAST (text AS integer) WITH FUNCTION s.f(text);\n"),
            ("CAST", "CREATE CAST (text AS integer) WITH INOUT;\n"),
            ("PUBLICATION", "CREATE PUBLICATION p FOR ALL TABLES WITH (publish = 'insert');\n"),
            ("PUBLICATION TABLES IN SCHEMA", "ALTER PUBLICATION p ADD TABLES IN SCHEMA s;\n"),
        ] {
            assert!(is_high_definition(kind, high), "{high}");
        }
        for (kind, low) in [
            (
                "FUNCTION",
                "CREATE FUNCTION s.f() RETURNS integer\n    LANGUAGE plpgsql SECURITY DEFINER\n    AS $$\n    LANGUAGE c $$;\n",
            ),
            ("TYPE", "CREATE TYPE s.t AS (\n\ta integer\n);\n"),
            ("AGGREGATE", "CREATE AGGREGATE s.a(integer) (\n    SFUNC = int4pl,\n    STYPE = integer\n);\n"),
            ("CAST", "CREATE CAST (s.mood AS integer) WITH FUNCTION s.f(s.mood);\n"),
            ("PUBLICATION", "CREATE PUBLICATION p WITH (publish = 'insert');\n"),
        ] {
            assert!(!is_high_definition(kind, low), "{low}");
        }
    }
}
