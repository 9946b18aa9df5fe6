//! Drops the names of columns that nothing outside of their query can see.
//!
//! PostgreSQL leaves out such a name when it prints the body of a function or the action of a rule,
//! if the column never got one. A load then gives it one of its own choice, and that is printed:
//! `SELECT a` is `SELECT a AS a`. The names in a query that another one reads from stay, because
//! there they say which column is meant. In doubt a name stays.

use super::nested::Part;

/// Where in a query a word stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Clause {
    /// Before the columns.
    Start,
    Columns,
    /// What the query reads from.
    Sources,
    /// After the sources, or in `SET`.
    Rest,
}

/// What ends a list of columns, besides `FROM`.
const AFTER_COLUMNS: [&[u8]; 13] = [
    b"SET",
    b"WHERE",
    b"GROUP",
    b"HAVING",
    b"WINDOW",
    b"ORDER",
    b"UNION",
    b"INTERSECT",
    b"EXCEPT",
    b"LIMIT",
    b"OFFSET",
    b"FETCH",
    b"FOR",
];

/// Drops the names of columns, if this is a function with a body in SQL, or a rule.
pub(super) fn drop_hidden_names(definition: &mut Vec<Part>) {
    let has = |one: &[u8], two: &[u8]| definition.windows(2).any(|pair| pair[0].is(one) && pair[1].is(two));
    if has(b"BEGIN", b"ATOMIC") || has(b"CREATE", b"RULE") {
        in_query(definition, false, Clause::Start);
    }
}

/// `visible`: another query reads the columns of this one by their names.
fn in_query(sequence: &mut Vec<Part>, visible: bool, mut clause: Clause) {
    let mut at = 0;
    while at < sequence.len() {
        let before = at.checked_sub(1).map(|before| sequence[before].clone());
        let follows = |words: &[&[u8]]| before.as_ref().is_some_and(|part| words.iter().any(|word| part.is(word)));
        if let Part::Group(_, inner) = &mut sequence[at] {
            let is_query = begins(inner, &[b"SELECT", b"WITH", b"VALUES"]);
            let (sees, begin) = match clause {
                // A query of `WITH`.
                _ if follows(&[b"AS", b"MATERIALIZED"]) => (true, Clause::Start),
                Clause::Sources if follows(&[b"ON"]) => (false, Clause::Start),
                Clause::Sources if is_query => (true, Clause::Start),
                Clause::Sources => (true, Clause::Sources),
                // Brackets around one side of a UNION.
                Clause::Start => (visible, Clause::Start),
                Clause::Columns | Clause::Rest => (false, Clause::Start),
            };
            in_query(inner, sees, begin);
        } else {
            let is = |word: &[u8]| sequence[at].is(word);
            if is(b"SELECT") || is(b"RETURNING") {
                clause = Clause::Columns;
            } else if is(b"FROM") || is(b"USING") {
                clause = Clause::Sources;
            } else if is(b";") {
                clause = Clause::Start;
            } else if AFTER_COLUMNS.iter().any(|word| is(word)) {
                clause = Clause::Rest;
            } else if clause == Clause::Columns && !visible && is(b"AS") && names_column(&sequence[at + 1..]) {
                sequence.drain(at..at + 2);
                continue;
            }
        }
        at += 1;
    }
}

fn begins(sequence: &[Part], words: &[&[u8]]) -> bool {
    sequence.first().is_some_and(|first| words.iter().any(|word| first.is(word)))
}

/// Whether a name stands here that ends what is said of one column.
fn names_column(rest: &[Part]) -> bool {
    let Some((name, after)) = rest.split_first() else { return false };
    let quoted_text = matches!(name, Part::Piece(text) if text.first().is_some_and(|first| *first == b'\''));
    let ends = after.is_empty() || begins(after, &[b",", b";", b"FROM"]) || begins(after, &AFTER_COLUMNS);
    name.is_value() && !quoted_text && ends
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::super::nested::parts;
    use super::*;

    fn form(text: &str) -> Vec<Part> {
        let mut sequence = parts(text.as_bytes()).unwrap();
        drop_hidden_names(&mut sequence);
        sequence
    }

    fn are_equal(stored: &str, restored: &str) -> bool {
        let body = |text| format!("CREATE FUNCTION f(a int) LANGUAGE sql BEGIN ATOMIC {text}; END;");
        let rule = |text| format!("CREATE RULE r AS ON UPDATE TO public.t DO ALSO {text};");
        let equal = form(&body(stored)) == form(&body(restored));
        assert_eq!(equal, form(&rule(stored)) == form(&rule(restored)), "{stored}");
        equal
    }

    #[test]
    fn hidden_names_are_dropped() {
        for (stored, restored) in [
            ("SELECT a", "SELECT a AS a"),
            ("SELECT 1, 'a'::text", "SELECT 1, 'a'::text AS text"),
            ("SELECT ( SELECT a)", "SELECT ( SELECT a AS a) AS a"),
            ("SELECT a UNION SELECT 2", "SELECT a AS a UNION SELECT 2"),
            ("INSERT INTO r (a, b) SELECT f.a, f.a", "INSERT INTO r (a, b) SELECT f.a AS a, f.a AS a"),
            (
                "UPDATE t SET (i, v) = ( SELECT 1, 'a'::text) WHERE x",
                "UPDATE t SET (i, v) = ( SELECT 1, 'a'::text AS text) WHERE x",
            ),
            (
                "SELECT 1 FROM t WHERE (EXISTS ( SELECT a, 1))",
                "SELECT 1 FROM t WHERE (EXISTS ( SELECT a AS \"a b\", 1))",
            ),
            ("SELECT 1 FROM (t JOIN u ON ((x = ( SELECT a))))", "SELECT 1 FROM (t JOIN u ON ((x = ( SELECT a AS a))))"),
            ("( SELECT a LIMIT 1) UNION ( SELECT 2)", "( SELECT a AS a LIMIT 1) UNION ( SELECT 2)"),
            ("SELECT q.b FROM ( SELECT ( SELECT a) AS b) q", "SELECT q.b FROM ( SELECT ( SELECT a AS a) AS b) q"),
            ("DELETE FROM t RETURNING a", "DELETE FROM t RETURNING a AS a"),
        ] {
            assert!(are_equal(stored, restored), "{stored}");
        }
    }

    #[test]
    fn names_that_are_read_and_all_other_words_stay() {
        for (stored, restored) in [
            ("SELECT a", "SELECT b AS a"),
            ("SELECT a", "SELECT a, a AS a"),
            ("SELECT a AS a", "SELECT 'AS a'"),
            ("SELECT (a)::text", "SELECT a AS text"),
            ("SELECT q.a FROM ( SELECT x AS a, y AS b) q", "SELECT q.a FROM ( SELECT x AS b, y AS a) q"),
            ("SELECT q.a FROM t, LATERAL ( SELECT x AS a) q", "SELECT q.a FROM t, LATERAL ( SELECT x) q"),
            ("SELECT 1 FROM (t JOIN ( SELECT x AS a) q ON (a))", "SELECT 1 FROM (t JOIN ( SELECT x AS b) q ON (a))"),
            (
                "SELECT q.a FROM (( SELECT x AS a) UNION ( SELECT 2)) q",
                "SELECT q.a FROM (( SELECT x AS b) UNION ( SELECT 2)) q",
            ),
            (
                "WITH q AS ( SELECT x AS a, y AS b) SELECT a FROM q",
                "WITH q AS ( SELECT x AS b, y AS a) SELECT a FROM q",
            ),
            ("WITH q AS MATERIALIZED ( SELECT x AS a) SELECT a", "WITH q AS MATERIALIZED ( SELECT x AS b) SELECT a"),
            ("MERGE INTO t USING ( SELECT x AS a) s ON (a)", "MERGE INTO t USING ( SELECT x AS b) s ON (a)"),
            ("SELECT a ORDER BY a", "SELECT a AS a ORDER BY f.a"),
            ("INSERT INTO t AS x VALUES (1)", "INSERT INTO t VALUES (1)"),
        ] {
            assert!(!are_equal(stored, restored), "{stored}");
        }
        // The columns of a view have names for everybody.
        assert_ne!(form("CREATE VIEW v AS SELECT a AS b;"), form("CREATE VIEW v AS SELECT a;"));
    }
}
