//! The `globals` stream: the SQL of `pg_dumpall --globals-only`, taken apart into statements.
//!
//! A restore leaves out roles that already exist, and tablespaces, which name directories of
//! another machine.

use std::collections::BTreeSet;

use lifeboat_base::{Class, Context, Error, Result};

use crate::streams::StoredStreams;

/// The name of the stream with roles and other globals.
pub(crate) const GLOBALS: &str = "globals";
/// No globals are larger: they are roles, memberships and settings.
const MAX_GLOBALS_BYTES: usize = 256 << 20;

/// The last line of a complete stream.
pub(crate) const END_MARKER: &str = "-- PostgreSQL database cluster dump complete";

/// The whole `globals` stream.
pub(crate) async fn read_globals(streams: &dyn StoredStreams) -> Result<String> {
    let mut stream = streams.open(GLOBALS).await?;
    let mut text = Vec::new();
    while let Some(piece) = stream.next().await? {
        text.extend_from_slice(&piece);
        if text.len() > MAX_GLOBALS_BYTES {
            return Err(Error::integrity("the stream `globals` is larger than roles and settings can be"));
        }
    }
    String::from_utf8(text).context(Class::Integrity, || "the stream `globals` is not UTF-8")
}

/// The statements to run on a server that already has the roles `existing`.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Script {
    pub(crate) sql: String,
    /// Whether a tablespace was left out.
    pub(crate) tablespaces: bool,
}

/// Chooses the statements to run. `pg_dumpall` writes each on a line of its own, but quoted text
/// may hold line breaks.
pub(crate) fn script(globals: &str, existing: &BTreeSet<String>) -> Script {
    let mut script = Script::default();
    for statement in statements(globals) {
        let words = statement.trim_start();
        let of_tablespace = is_of_tablespace(words);
        script.tablespaces |= of_tablespace;
        let of_existing = ["CREATE ROLE ", "ALTER ROLE ", "COMMENT ON ROLE "]
            .iter()
            .find_map(|verb| words.strip_prefix(verb))
            .is_some_and(|rest| existing.contains(&identifier(rest).0));
        // If both roles exist, a membership would give one of them more rights than it has.
        let of_both = words.strip_prefix("GRANT ").is_some_and(|rest| {
            let (role, rest) = identifier(rest);
            let member = rest.strip_prefix(" TO ").map(|rest| identifier(rest).0);
            member.is_some_and(|member| existing.contains(&role) && existing.contains(&member))
        });
        let skipped = of_tablespace || of_existing || of_both;
        if !skipped {
            script.sql.push_str(statement);
        }
    }
    script
}

/// Splits a text at line ends outside quotes. Comments and `\restrict` lines are left out.
pub(crate) fn statements(text: &str) -> Vec<&str> {
    let mut statements = Vec::new();
    let (mut start, mut quote) = (0, None);
    let mut comment = false;
    for (at, c) in text.char_indices() {
        match (quote, c) {
            _ if comment => {}
            (None, '\'' | '"') => quote = Some(c),
            (Some(open), c) if open == c => quote = None,
            (None, '-') if text[start..at].trim().is_empty() && text[at..].starts_with("--") => comment = true,
            _ => {}
        }
        if c == '\n' && quote.is_none() {
            let line = &text[start..=at];
            if !comment && !line.trim().is_empty() && !line.starts_with('\\') {
                statements.push(line);
            }
            (start, comment) = (at + 1, false);
        }
    }
    statements
}

/// Whether a statement is about a tablespace.
pub(crate) fn is_of_tablespace(statement: &str) -> bool {
    let verbs = ["CREATE TABLESPACE ", "ALTER TABLESPACE ", "COMMENT ON TABLESPACE "];
    let grant = ["GRANT ", "REVOKE "].iter().any(|verb| statement.starts_with(verb));
    verbs.iter().any(|verb| statement.starts_with(verb)) || (grant && statement.contains(" ON TABLESPACE "))
}

/// The SQL identifier at the beginning of `text`, and what follows it.
fn identifier(text: &str) -> (String, &str) {
    let Some(quoted) = text.strip_prefix('"') else {
        let end = text.find(|c: char| c.is_whitespace() || c == ';').unwrap_or(text.len());
        return (text[..end].to_owned(), &text[end..]);
    };
    let mut name = String::new();
    let mut rest = quoted;
    while let Some((part, after)) = rest.split_once('"') {
        name.push_str(part);
        let Some(again) = after.strip_prefix('"') else { return (name, after) };
        name.push('"');
        rest = again;
    }
    (name, "")
}

#[cfg(test)]
mod tests {
    use super::*;

    const GLOBALS: &str = "--\n-- it's a comment\n--\n\\restrict x\nSET client_encoding = 'UTF8';\n\nCREATE ROLE postgres;\nALTER ROLE postgres WITH SUPERUSER;\nCREATE ROLE \"we\"\"ird\nname\";\nALTER ROLE \"we\"\"ird\nname\" WITH LOGIN PASSWORD 'a\nb';\nCREATE TABLESPACE fast OWNER postgres LOCATION '/ssd';\nGRANT x TO y;\n";

    #[test]
    fn existing_roles_and_tablespaces_are_left_out() {
        let script = script(GLOBALS, &BTreeSet::from(["postgres".to_owned()]));
        assert!(script.tablespaces);
        assert_eq!(
            script.sql,
            "SET client_encoding = 'UTF8';\nCREATE ROLE \"we\"\"ird\nname\";\nALTER ROLE \"we\"\"ird\nname\" WITH LOGIN PASSWORD 'a\nb';\nGRANT x TO y;\n"
        );
        let all = BTreeSet::from(["postgres", "x", "y"].map(str::to_owned));
        assert!(!super::script(GLOBALS, &all).sql.contains("GRANT"), "an existing role gains a membership");
        let known = BTreeSet::from(["we\"ird\nname".to_owned()]);
        assert!(
            !super::script(GLOBALS, &known).sql.contains("weird")
                && !super::script(GLOBALS, &known).sql.contains("LOGIN")
        );
    }
}
