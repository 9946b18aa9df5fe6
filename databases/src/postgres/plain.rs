//! Whether a definition of an archive consists of the statements that `pg_dump` writes for its
//! kind, and of no others.
//!
//! In a database that lives, a definition is run beside what belongs to others, in one transaction
//! with all that goes with it. A statement more, such as `COMMIT`, would end that. So text is taken
//! apart as the server does it, and what could be read in two ways is refused.

/// By how many words each statement of a kind may begin.
const PLAIN: [(&str, &[&str]); 14] = [
    ("TABLE", &["CREATE TABLE", "CREATE UNLOGGED TABLE", "ALTER TABLE"]),
    ("TABLE ATTACH", &["ALTER TABLE"]),
    ("SEQUENCE", &["CREATE SEQUENCE", "CREATE UNLOGGED SEQUENCE", "ALTER TABLE", "ALTER SEQUENCE"]),
    ("SEQUENCE OWNED BY", &["ALTER SEQUENCE"]),
    ("DEFAULT", &["ALTER TABLE"]),
    ("CONSTRAINT", &["ALTER TABLE"]),
    ("CHECK CONSTRAINT", &["ALTER TABLE"]),
    ("FK CONSTRAINT", &["ALTER TABLE"]),
    ("INDEX", &["CREATE INDEX", "CREATE UNIQUE INDEX", "ALTER INDEX", "ALTER TABLE"]),
    ("INDEX ATTACH", &["ALTER INDEX"]),
    ("STATISTICS", &["CREATE STATISTICS", "ALTER STATISTICS"]),
    ("COMMENT", &["COMMENT ON"]),
    ("POLICY", &["CREATE POLICY"]),
    ("ROW SECURITY", &["ALTER TABLE"]),
];

/// Whether all statements of a definition are of its kind.
pub(super) fn is_plain(kind: &[u8], definition: &[u8]) -> bool {
    let Some((_, beginnings)) = PLAIN.iter().find(|(plain, _)| plain.as_bytes() == kind) else { return false };
    let Some(statements) = statements(definition) else { return false };
    let begins = |statement: &&[u8]| {
        beginnings
            .iter()
            .any(|begin| statement.strip_prefix(begin.as_bytes()).is_some_and(|rest| rest.starts_with(b" ")))
    };
    !statements.is_empty() && statements.iter().all(begins)
}

/// The statements of a text; `None` if a part of it could be read in another way.
fn statements(text: &[u8]) -> Option<Vec<&[u8]>> {
    let (mut statements, mut begin, mut at) = (Vec::new(), 0, 0);
    while at < text.len() {
        let (byte, next) = (text[at], text.get(at + 1).copied().unwrap_or_default());
        match byte {
            b'\'' => at = end_of_text(text, at)?,
            b'"' => {
                let is_unicode = at > 0 && text[at - 1] == b'&';
                at = if is_unicode { None } else { end_of_quote(text, at, b'"', false) }?;
            }
            b';' => {
                statements.push(text[begin..at].trim_ascii());
                begin = at + 1;
                at += 1;
            }
            b'-' if next == b'-' => return None,
            b'/' if next == b'*' => return None,
            // A `$` in a name is no quote, but the tools quote such a name.
            b'$' | b'\\' | 0 => return None,
            _ => at += 1,
        }
    }
    text[begin..].trim_ascii().is_empty().then_some(statements)
}

/// Where a text in single quotes ends that begins at `at`. Its prefix may be `E`, `B` or `X`.
fn end_of_text(text: &[u8], at: usize) -> Option<usize> {
    let is_word = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_' || byte >= 0x80;
    let before = |back: usize| at.checked_sub(back).and_then(|at| text.get(at)).copied().unwrap_or(b' ');
    let escapes = match before(1) {
        b'E' | b'e' if !is_word(before(2)) => true,
        b'B' | b'b' | b'X' | b'x' if !is_word(before(2)) => false,
        b'&' | b'\'' | b'"' => return None,
        byte if is_word(byte) => return None,
        _ => false,
    };
    end_of_quote(text, at, b'\'', escapes)
}

fn end_of_quote(text: &[u8], at: usize, quote: u8, escapes: bool) -> Option<usize> {
    let mut at = at + 1;
    loop {
        match *text.get(at)? {
            0 => return None,
            b'\\' if escapes => at += 2,
            byte if byte == quote && text.get(at + 1) == Some(&quote) => at += 2,
            byte if byte == quote => return Some(at + 1),
            _ => at += 1,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_pg_dump_writes_is_plain_and_a_statement_more_is_not() {
        for (kind, good) in [
            (
                "TABLE",
                "CREATE TABLE s.\"a;b\" (\n    a text DEFAULT E'it''s\\\\;'::text,\n    b \"char\" CHECK ((b > 'x;'::\"char\"))\n);\n\nALTER TABLE ONLY s.t ALTER COLUMN a SET STATISTICS 0;\n",
            ),
            ("TABLE", "CREATE UNLOGGED TABLE s.t (\n    bits bit varying(4) DEFAULT B'101'::bit\n);\n"),
            // All of it is one text.
            ("TABLE", "CREATE TABLE s.t (a text DEFAULT e'x\\'); COMMIT; SELECT (''');"),
            ("INDEX", "CREATE UNIQUE INDEX i ON s.t USING btree (lower(a)) WHERE (a <> 'x -- y /* z $a$'::text);\n"),
            ("COMMENT", "COMMENT ON COLUMN s.t.a IS 'a; DROP TABLE x; -- \\';\n"),
            ("FK CONSTRAINT", "ALTER TABLE ONLY s.t\n    ADD CONSTRAINT f FOREIGN KEY (a) REFERENCES s.u(a);\n"),
        ] {
            assert!(is_plain(kind.as_bytes(), good.as_bytes()), "{good}");
        }
        for (kind, bad) in [
            ("TABLE", "CREATE TABLE s.t (a int);\nCOMMIT;\n"),
            ("TABLE", "CREATE TABLE s.t (a int); CREATE FUNCTION s.f() RETURNS int LANGUAGE sql AS 'SELECT 1';"),
            ("TABLE", "CREATE TABLE s.t (a text DEFAULT 'x\\'); COMMIT; --');\n"),
            ("TABLE", "CREATE TABLE s.t (a text DEFAULT 'x\\'); COMMIT; SELECT (''');"),
            ("TABLE", "CREATE TABLE s.t (a text DEFAULT U&'x');"),
            ("TABLE", "CREATE TABLE s.t (a text DEFAULT $a$ ; COMMIT; $a$);"),
            ("TABLE", "CREATE TABLE s.t (a int) /* ' */; COMMIT; /* ' */;"),
            ("TABLE", "CREATE TABLE s.t (a int) -- '\n; COMMIT; --';"),
            ("TABLE", "CREATE TABLE s.t (a text DEFAULT 'x"),
            ("TABLE", "CREATE TABLE s.t (a int)"),
            ("TABLE", ""),
            ("TABLE", "DO 'BEGIN END';"),
            ("COMMENT", "ALTER TABLE s.t DISABLE TRIGGER ALL;"),
            ("INDEX", "CREATE INDEXES x;"),
            ("FUNCTION", "CREATE FUNCTION s.f() RETURNS int LANGUAGE sql AS 'SELECT 1';"),
            ("TRIGGER", "CREATE TRIGGER t AFTER INSERT ON s.t EXECUTE FUNCTION s.f();"),
        ] {
            assert!(!is_plain(kind.as_bytes(), bad.as_bytes()), "{bad}");
        }
    }
}
