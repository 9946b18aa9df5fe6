//! Brings definitions into a form in which two texts are equal if they differ only by what
//! PostgreSQL is known to print in other words after a restore, and it means the same:
//!
//! - A cast of an array moves into its elements: `(ARRAY[a, b])::t[]` is `ARRAY[(a)::t, (b)::t]`.
//! - Brackets within ANDs go, and within ORs: `((a AND b) AND c)` is `(a AND b AND c)`.
//! - `DEFAULT NULL` gets a cast.
//! - The columns of a table get another order, if one was inherited later.
//! - `EXTRACT(YEAR FROM x)` gets small letters: PostgreSQL reads a field without regard to case.
//! - The `ON TRUE` of a join without a condition becomes `ON (true)`.
//! - A right gets another grantor, if the former one may no longer grant it.
//! - Columns that have no name get one where it is [hidden](super::column_names).
//!
//! Every other word stays. So a cast that was not there, or one that is gone, is a difference: it
//! chooses another operator. Brackets say less here than in SQL, so two texts may only be called
//! equal if, besides, PostgreSQL itself reads the one and prints the other.

use std::collections::BTreeSet;

use super::column_names::drop_hidden_names;
use super::nested::{Part, parts};

/// The normal form of a text. `None` if the text is not understood.
pub(super) fn normal_form(text: &[u8]) -> Option<Vec<u8>> {
    let mut sequence = normal(parts(text)?);
    drop_hidden_names(&mut sequence);
    drop_grantors(&mut sequence);
    order_columns(&mut sequence);
    let mut form = Vec::new();
    write(&sequence, &mut form);
    Some(form)
}

/// A piece is told from the next by a NUL, which no text of a dump holds.
fn write(sequence: &[Part], form: &mut Vec<u8>) {
    for part in sequence {
        match part {
            Part::Piece(piece) => form.extend_from_slice(piece),
            Part::Group(bracket, inner) => {
                form.extend([*bracket, 0]);
                write(inner, form);
                form.push(if *bracket == b'(' { b')' } else { b']' });
            }
        }
        form.push(0);
    }
}

fn normal(sequence: Vec<Part>) -> Vec<Part> {
    let inner = |part| match part {
        Part::Group(bracket, inner) => Part::Group(bracket, normal(inner)),
        piece @ Part::Piece(_) => piece,
    };
    let mut sequence: Vec<Part> = sequence.into_iter().map(inner).collect();
    lower_fields(&mut sequence);
    bracket_true(&mut sequence);
    move_casts(&mut sequence);
    for word in [&b"AND"[..], b"OR"] {
        flatten(&mut sequence, word);
    }
    sequence
}

/// Writes the field of `EXTRACT(FIELD FROM value)` in small letters.
fn lower_fields(sequence: &mut [Part]) {
    for at in 1..sequence.len() {
        let (before, rest) = sequence.split_at_mut(at);
        if before.last().is_some_and(|word| word.is(b"EXTRACT"))
            && let Some(Part::Group(b'(', inner)) = rest.first_mut()
            && let [Part::Piece(field), from, ..] = inner.as_mut_slice()
            && from.is(b"FROM")
            // Not in quotes: there every letter counts.
            && field.iter().all(|byte| byte.is_ascii_alphabetic() || *byte == b'_')
        {
            field.make_ascii_lowercase();
        }
    }
}

/// Writes `ON TRUE`, which is a keyword in capitals only here, as the condition that it is.
fn bracket_true(sequence: &mut [Part]) {
    for at in 1..sequence.len() {
        if sequence[at - 1].is(b"ON") && sequence[at].is(b"TRUE") {
            sequence[at] = Part::Group(b'(', vec![piece(b"true")]);
        }
    }
}

/// Moves casts of arrays into the elements, drops those of `DEFAULT NULL`, and drops the brackets
/// of what is cast where they change nothing.
fn move_casts(sequence: &mut Vec<Part>) {
    let mut at = 0;
    while at < sequence.len() {
        let of_default = sequence[at..].starts_with(&[piece(b"DEFAULT"), piece(b"NULL"), piece(b"::")]);
        if of_default && let Some(length) = type_length(&sequence[at + 3..]) {
            sequence.drain(at + 2..at + 3 + length);
        }
        if let Some((until, array)) = cast_array(&sequence[at..]) {
            sequence.splice(at..at + until, array);
            // It may be cast once more.
            continue;
        }
        let bare = sequence[at].inside(b'(').filter(|inner| is_cast_value(inner)).map(<[Part]>::to_vec);
        if let Some(inner) = bare.filter(|_| is_operand(sequence, at)) {
            sequence.splice(at..=at, inner);
        }
        at += 1;
    }
}

/// Whether the group at `at` is cast, and neither the arguments of a function nor a subscript's.
fn is_operand(sequence: &[Part], at: usize) -> bool {
    let cast = sequence.get(at + 1).is_some_and(|next| next.is(b"::"));
    // A keyword may stand before a bracket, too, and then the brackets stay. That is the safe side.
    let before = at.checked_sub(1).map(|before| &sequence[before]);
    let named = |part: &Part| part.is_value() && !is_keyword(part) || part.inside(b'[').is_some();
    cast && !before.is_some_and(named)
}

/// Words before an expression in brackets that are no names of functions.
fn is_keyword(part: &Part) -> bool {
    const WORDS: [&[u8]; 20] = [
        b"AND", b"OR", b"NOT", b"WHEN", b"THEN", b"ELSE", b"CASE", b"SELECT", b"WHERE", b"FROM", b"DEFAULT", b"AS",
        b"BY", b"ON", b"HAVING", b"IN", b"LIKE", b"RETURN", b"BETWEEN", b"LIMIT",
    ];
    WORDS.iter().any(|word| part.is(word))
}

/// An array with a cast at the beginning of `sequence`: how many parts that is, and the array with
/// the cast in its elements.
fn cast_array(sequence: &[Part]) -> Option<(usize, Vec<Part>)> {
    let (begin, elements) = match sequence {
        [word, Part::Group(b'[', elements), ..] if word.is(b"ARRAY") => (2, elements),
        [Part::Group(b'(', inner), ..] => match inner.as_slice() {
            [word, Part::Group(b'[', elements)] if word.is(b"ARRAY") => (1, elements),
            _ => return None,
        },
        _ => return None,
    };
    let kind = sequence.get(begin..)?.strip_prefix(&[piece(b"::")])?;
    let length = type_length(kind)?;
    let element = kind[..length].strip_suffix(&[Part::Group(b'[', Vec::new())])?;
    if elements.is_empty() {
        return None;
    }
    Some((begin + 1 + length, vec![piece(b"ARRAY"), Part::Group(b'[', cast_each(elements, element))]))
}

/// Casts each element, those of nested arrays too.
fn cast_each(elements: &[Part], kind: &[Part]) -> Vec<Part> {
    let mut cast = Vec::new();
    for (number, element) in elements.split(|part| part.is(b",")).enumerate() {
        if number > 0 {
            cast.push(piece(b","));
        }
        match element {
            [word, Part::Group(b'[', inner)] if word.is(b"ARRAY") => {
                cast.extend([word.clone(), Part::Group(b'[', cast_each(inner, kind))]);
                continue;
            }
            bare if is_cast_value(bare) => cast.extend_from_slice(bare),
            other => cast.push(Part::Group(b'(', other.to_vec())),
        }
        cast.push(piece(b"::"));
        cast.extend_from_slice(kind);
    }
    cast
}

/// Whether this is a name or a constant, perhaps with casts: a cast more needs no brackets.
fn is_cast_value(sequence: &[Part]) -> bool {
    let Some((first, mut rest)) = sequence.split_first().filter(|(first, _)| first.is_value()) else { return false };
    while let [dot, name, after @ ..] = rest
        && dot.is(b".")
        && first.is_value()
        && name.is_value()
    {
        rest = after;
    }
    while let [cast, kind @ ..] = rest
        && cast.is(b"::")
        && let Some(length) = type_length(kind)
    {
        rest = &kind[length..];
    }
    rest.is_empty()
}

/// How many parts the name of a type at the beginning of `sequence` has.
fn type_length(sequence: &[Part]) -> Option<usize> {
    let is = |at: usize, word: &[u8]| sequence.get(at).is_some_and(|part| part.is(word));
    let group = |at: usize, bracket: u8| sequence.get(at).and_then(|part| part.inside(bracket));
    sequence.first().filter(|part| part.is_value())?;
    let mut at = 1;
    if is(0, b"character") || is(0, b"bit") {
        at += usize::from(is(1, b"varying"));
    } else if is(0, b"double") && is(1, b"precision") {
        at = 2;
    } else {
        while is(at, b".") && sequence.get(at + 1).is_some_and(Part::is_value) {
            at += 2;
        }
    }
    at += usize::from(group(at, b'(').is_some());
    if (is(0, b"time") || is(0, b"timestamp")) && is(at + 1, b"time") && is(at + 2, b"zone") {
        at += 3;
    }
    while group(at, b'[').is_some_and(<[Part]>::is_empty) {
        at += 1;
    }
    Some(at)
}

/// Drops the brackets around an operand of `word` that is made of this word, too.
fn flatten(sequence: &mut Vec<Part>, word: &[u8]) {
    // The AND of a BETWEEN is another one.
    if sequence.iter().any(|part| part.is(b"BETWEEN")) {
        return;
    }
    let mut at = 0;
    while at < sequence.len() {
        let joins = |part: Option<&Part>| part.is_some_and(|part| part.is(word));
        let (first, last) = (at == 0, at + 1 == sequence.len());
        let whole = (first || joins(sequence.get(at - 1))) && (last || joins(sequence.get(at + 1)));
        let inner = sequence[at].inside(b'(').filter(|inner| whole && !(first && last) && is_list(inner, word));
        let Some(inner) = inner.map(<[Part]>::to_vec) else {
            at += 1;
            continue;
        };
        let length = inner.len();
        sequence.splice(at..=at, inner);
        at += length;
    }
}

/// Whether a condition is made of `word` at its top.
fn is_list(inner: &[Part], word: &[u8]) -> bool {
    let has = |word: &[u8]| inner.iter().any(|part| part.is(word));
    let other = [&b","[..], b"SELECT", b"WITH", b"VALUES", b"BETWEEN"].iter().any(|word| has(word));
    has(word) && !other && (word == b"OR" || !has(b"OR"))
}

/// Drops who grants, and the order, where all statements grant and revoke. Rights that two roles
/// granted are one right.
fn drop_grantors(sequence: &mut Vec<Part>) {
    let is_comment = |part: &Part| matches!(part, Part::Piece(text) if text.starts_with(b"--"));
    let begin = sequence.iter().position(|part| !is_comment(part)).unwrap_or(sequence.len());
    let end = sequence.iter().rposition(|part| !is_comment(part)).map_or(begin, |last| last + 1);
    let begins = |statement: &[Part], words: &[&[u8]]| {
        words.len() <= statement.len() && words.iter().zip(statement).all(|(word, part)| part.is(word))
    };
    let sets = |statement: &[Part]| {
        [&b"SET"[..], b"RESET"].iter().any(|word| begins(statement, &[word, b"SESSION", b"AUTHORIZATION"]))
    };
    let mut grants = BTreeSet::new();
    for statement in sequence[begin..end].split(|part| part.is(b";")).filter(|statement| !statement.is_empty()) {
        if begins(statement, &[b"GRANT"]) || begins(statement, &[b"REVOKE"]) {
            grants.insert(statement.to_vec());
        } else if !sets(statement) {
            return;
        }
    }
    let grants: Vec<Vec<Part>> = grants.into_iter().collect();
    sequence.splice(begin..end, grants.join(&piece(b";")));
}

/// Sorts the columns and constraints in `CREATE TABLE name (…)`.
fn order_columns(sequence: &mut [Part]) {
    let mut at = 0;
    while let Some(create) = sequence.get(at..).and_then(|rest| rest.iter().position(|part| part.is(b"CREATE"))) {
        at += create + 1;
        let words = sequence[at..].iter().take(2).position(|part| part.is(b"TABLE"));
        let Some(table) = words.map(|words| at + words + 1) else { continue };
        let end = sequence[table..].iter().position(|part| part.is(b";")).map_or(sequence.len(), |end| table + end);
        let columns = sequence[table..end].iter_mut().find_map(|part| match part {
            Part::Group(b'(', columns) => Some(columns),
            _ => None,
        });
        if let Some(columns) = columns {
            let mut all: Vec<Vec<Part>> = columns.split(|part| part.is(b",")).map(<[Part]>::to_vec).collect();
            all.sort();
            *columns = all.join(&piece(b","));
        }
    }
}

fn piece(text: &[u8]) -> Part {
    Part::Piece(text.to_vec())
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    fn form(text: &str) -> String {
        String::from_utf8(normal_form(text.as_bytes()).unwrap()).unwrap()
    }

    #[test]
    fn what_postgresql_prints_in_other_words_is_equal() {
        for (stored, restored) in [
            (
                "CHECK (((s)::text = ANY ((ARRAY['new'::character varying, 'paid'::character varying])::text[])))",
                "CHECK (((s)::text = ANY (ARRAY[('new'::character varying)::text, ('paid'::character varying)::text])))",
            ),
            (
                "ON n, (s::text = ANY (ARRAY['new'::character varying, 'paid'::character varying]::text[])) FROM t",
                "ON n, (s::text = ANY (ARRAY['new'::character varying::text, 'paid'::character varying::text])) FROM t",
            ),
            (
                "((ARRAY[ARRAY[1, (x + 1)], ARRAY[f(3), NULL]])::bigint[])::app.\"t x\"(3)[]",
                "ARRAY[ARRAY[((1)::bigint)::app.\"t x\"(3), (((x + 1))::bigint)::app.\"t x\"(3)], \
                 ARRAY[((f(3))::bigint)::app.\"t x\"(3), ((NULL)::bigint)::app.\"t x\"(3)]]",
            ),
            ("CHECK ((((x >= 1) AND (x <= 5)) AND (y > 0)))", "CHECK (((x >= 1) AND (x <= 5) AND (y > 0)))"),
            ("WHEN ((a OR (b OR (c AND (d AND e)))))", "WHEN ((a OR b OR (c AND d AND e)))"),
            ("SELECT EXTRACT(YEAR FROM now())", "SELECT EXTRACT(year FROM now())"),
            ("(a LEFT JOIN b ON TRUE)", "(a LEFT JOIN b ON (true))"),
            (
                "CREATE RULE r AS ON DELETE TO t DO ALSO SELECT (old.a)",
                "CREATE RULE r AS ON DELETE TO t DO ALSO SELECT (old.a) AS a",
            ),
            (
                "-- x\n\nGRANT ALL ON TABLE t TO a;\nSET SESSION AUTHORIZATION b;\nGRANT SELECT(x) ON TABLE t TO c;\nRESET SESSION AUTHORIZATION;\n\n--",
                "-- x\n\nGRANT SELECT(x) ON TABLE t TO c;\nGRANT ALL ON TABLE t TO a;\n\n--",
            ),
            ("m public.dm DEFAULT NULL, n int", "m public.dm DEFAULT NULL::timestamp(3) without time zone, n int"),
            (
                "-- x\nCREATE TABLE t (\n own integer,\n later numeric(3,1) DEFAULT NULL,\n CONSTRAINT c CHECK (a)\n) INHERITS (p);",
                "-- x\nCREATE TABLE t (\n later numeric(3,1) DEFAULT NULL::numeric,\n own integer,\n CONSTRAINT c CHECK (a)\n) INHERITS (p);",
            ),
        ] {
            assert_eq!(form(stored), form(restored), "{stored}");
        }
    }

    #[test]
    fn what_means_something_else_is_not() {
        for (stored, restored) in [
            // An operator outside of pg_catalog, which a dump cannot name here.
            ("((a IS DISTINCT FROM 'x'::public.citext))", "(((a)::text IS DISTINCT FROM ('x'::public.citext)::text))"),
            ("((NULLIF(a, b) IS NULL))", "((NULLIF((a)::text, (b)::text) IS NULL))"),
            ("(old.a IS DISTINCT FROM new.a)", "((old.a)::text IS DISTINCT FROM (new.a)::text)"),
            ("(a = ANY (ARRAY['x'::citext]))", "((a)::text = ANY (ARRAY[('x'::citext)::text]))"),
            ("(a = ANY ((ARRAY['x'::citext])::text[]))", "(a = ANY (ARRAY['x'::citext]))"),
            ("(ARRAY[])::text[]", "(ARRAY[])::citext[]"),
            ("(a AND (b OR c))", "((a AND b) OR c)"),
            ("(a AND (b OR c))", "(a AND b OR c)"),
            ("(a AND (SELECT b AND c))", "(a AND b AND c)"),
            ("(x BETWEEN a AND (b AND c))", "(x BETWEEN a AND b AND c)"),
            ("(NOT (a AND b)) AND c", "(NOT a) AND b AND c"),
            ("(- (1)::text)", "((- 1)::text)"),
            ("f(a)::text", "(f a)::text"),
            ("EXTRACT(YEAR FROM a)", "EXTRACT(year FROM b)"),
            ("EXTRACT(YEAR FROM a)", "EXTRACT(month FROM a)"),
            ("EXTRACT(\"YEAR\" FROM a)", "EXTRACT(\"year\" FROM a)"),
            ("EXTRACT(A FROM f(B, A))", "EXTRACT(a FROM f(b, a))"),
            ("\"EXTRACT\"(YEAR FROM a)", "\"EXTRACT\"(year FROM a)"),
            ("substring(A FROM b)", "substring(a FROM b)"),
            ("(a JOIN b ON TRUE)", "(a JOIN b ON (false))"),
            ("(a JOIN b ON \"TRUE\")", "(a JOIN b ON (true))"),
            ("'ON TRUE'", "'ON (true)'"),
            ("GRANT SELECT ON TABLE t TO a;", "GRANT SELECT ON TABLE t TO b;"),
            ("GRANT SELECT ON TABLE t TO a WITH GRANT OPTION;", "GRANT SELECT ON TABLE t TO a;"),
            ("SET SESSION AUTHORIZATION b;\nGRANT x TO y;\nGRANT z TO y;", "GRANT x TO y;"),
            ("REVOKE ALL ON TABLE t FROM a;", ""),
            ("SET SESSION AUTHORIZATION b;\nCREATE TABLE t (a int);", "CREATE TABLE t (a int);"),
            ("CREATE VIEW v AS SELECT a;", "CREATE VIEW v AS SELECT a AS b;"),
            ("DEFAULT NULL", "DEFAULT 'NULL'"),
            ("DEFAULT NULL::text, n", "DEFAULT NULL, m"),
            ("n = NULL::text", "n = NULL"),
            ("('a '::text)", "('a'::text)"),
            ("CREATE TABLE t (a int, b text);", "CREATE TABLE t (a text, b int);"),
            ("CREATE INDEX i ON t (a, b);", "CREATE INDEX i ON t (b, a);"),
            ("CREATE TABLE t (a int) PARTITION BY RANGE (x, y);", "CREATE TABLE t (a int) PARTITION BY RANGE (y, x);"),
        ] {
            assert_ne!(form(stored), form(restored), "{stored}");
        }
        assert_eq!(normal_form(b"CHECK ((a)"), None);
    }
}
