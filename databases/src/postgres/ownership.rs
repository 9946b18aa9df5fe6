//! Takes owners and grants out of an archive, and gives them to the loaded objects afterwards.
//!
//! So a role without rights can load the archive: it owns all that it makes, and whatever the
//! archive runs has no more rights than it. Only then does a superuser say what belongs to whom, by
//! statements that are written anew and cannot run any code.

use std::collections::BTreeMap;
use std::sync::Arc;

use lifeboat_base::Result;

use super::contents::{Change, Contents, ContentsEntry};
use super::needs::is_high_kind;
use super::owners::{KnownRoles, roles};
use super::refusals::OWNER_OF;
use super::sql::quoted_name;
use super::step_list::{StepList, StepTemplate};
use super::tokens::{Reading, Statements, Token};

/// Kinds of objects that have an owner and a name in a schema.
const IN_SCHEMAS: [&str; 12] = [
    "TABLE",
    "VIEW",
    "MATERIALIZED VIEW",
    "FOREIGN TABLE",
    "TYPE",
    "DOMAIN",
    "COLLATION",
    "CONVERSION",
    "STATISTICS",
    "TEXT SEARCH DICTIONARY",
    "TEXT SEARCH CONFIGURATION",
    "SEQUENCE",
];
/// Kinds of objects that have an owner and are in no schema.
const IN_DATABASE: [&str; 2] = ["SCHEMA", "PUBLICATION"];
/// Those that only a server's superuser can make.
const FOREIGN: [&str; 1] = ["SERVER"];
/// Kinds whose name has arguments.
const WITH_ARGUMENTS: [&str; 4] = ["FUNCTION", "PROCEDURE", "AGGREGATE", "OPERATOR"];
/// Kinds that have no owner of their own, of those that an archive can drop. A database has one,
/// which it gets with what else belongs to it.
const WITHOUT_OWNER: [&str; 14] = [
    "CAST",
    "CHECK CONSTRAINT",
    "CONSTRAINT",
    "DATABASE",
    "DATABASE PROPERTIES",
    "DEFAULT",
    "FK CONSTRAINT",
    "INDEX",
    "POLICY",
    "ROW SECURITY",
    "RULE",
    "TRANSFORM",
    "TRIGGER",
    "USER MAPPING",
];
/// What a grant may be on. Roles, databases, tablespaces and settings are not among them.
const GRANTED_ON: [&[&str]; 12] = [
    &["TABLE"],
    &["SEQUENCE"],
    &["SCHEMA"],
    &["FUNCTION"],
    &["PROCEDURE"],
    &["ROUTINE"],
    &["LARGE", "OBJECT"],
    &["LANGUAGE"],
    &["TYPE"],
    &["DOMAIN"],
    &["FOREIGN", "DATA", "WRAPPER"],
    &["FOREIGN", "SERVER"],
];

/// What is done after an archive was loaded by a role that owns everything in it.
#[derive(Debug, Default)]
pub(crate) struct Ownership {
    /// Owners, then grants.
    pub(crate) steps: StepList,
    /// Values of sequences, which come last.
    pub(crate) values: StepList,
    /// Rights whose grantor is lacking.
    pub(crate) anew: Vec<String>,
    /// What was not understood, for people.
    pub(crate) strange: Vec<String>,
    /// Owners and rights of the server's own objects, for people.
    pub(crate) of_server: Vec<String>,
}

impl Ownership {
    /// The owners and grants of an archive. Objects of roles that are lacking go to `otherwise`.
    ///
    /// # Errors
    /// There are more than fit into memory.
    pub(crate) fn of(contents: &Contents, known: &mut KnownRoles, otherwise: &str) -> Result<Self> {
        let comparable = contents.is_comparable();
        let (mut ownership, mut sequences, mut grants) = (Self::default(), StepList::default(), StepList::default());
        let mut ranges: BTreeMap<&[u8], Vec<Arc<[u32]>>> = BTreeMap::new();
        for entry in contents.of_kind("BLOB METADATA") {
            ranges.entry(contents.get(&entry.tag)).or_default().push(numbers(contents.get(&entry.definition)));
        }
        for entry in &contents.entries {
            let kind = contents.get(&entry.kind);
            let owner = contents.get(&entry.owner);
            if matches!(kind, b"ACL" | b"DEFAULT ACL") && !contents.get(&entry.tag).starts_with(b"DATABASE ") {
                ownership.grants(contents, entry, known, &ranges, &mut grants)?;
            } else if !owner.is_empty() {
                let owner = if known.lacks(owner, comparable) { otherwise.as_bytes() } else { owner };
                let of_schema = if kind == b"SCHEMA" { &entry.tag } else { &entry.schema };
                if is_of_server(contents.get(of_schema)) {
                    ownership.of_server.push(format!("{OWNER_OF}{}", contents.name(entry)));
                    continue;
                }
                let steps = if kind == b"SEQUENCE" { &mut sequences } else { &mut ownership.steps };
                match of_owner(contents, entry, owner) {
                    Some(step) => steps.push(step)?,
                    // It was not loaded, and is told among the failures.
                    None if is_high_kind(contents, entry) => {}
                    None if has_owner(contents, entry) => {
                        ownership.strange.push(format!("{OWNER_OF}{}", contents.name(entry)));
                    }
                    None => {}
                }
            }
        }
        // A sequence that belongs to a column follows its table.
        ownership.steps.append(sequences)?;
        ownership.steps.append(grants)?;
        Ok(ownership)
    }

    fn grants(
        &mut self,
        contents: &Contents,
        entry: &ContentsEntry,
        known: &mut KnownRoles,
        ranges: &BTreeMap<&[u8], Vec<Arc<[u32]>>>,
        steps: &mut StepList,
    ) -> Result<()> {
        let comparable = contents.is_comparable();
        let name = contents.name(entry);
        let mut grantor: Option<Vec<u8>> = None;
        for statement in Statements::new(contents.get(&entry.definition)) {
            let tokens = statement.tokens.as_deref().unwrap_or_default();
            let mut reading = Reading(tokens);
            if reading.words(&["SET", "SESSION", "AUTHORIZATION"]) {
                grantor = reading.role().map(<[u8]>::to_vec);
                continue;
            } else if reading.words(&["RESET", "SESSION", "AUTHORIZATION"]) {
                grantor = None;
                continue;
            }
            match granted_on(tokens) {
                Some(OfServer(false)) => {}
                Some(OfServer(true)) => {
                    self.of_server.push(format!("rights on {name}"));
                    continue;
                }
                None => {
                    self.strange.push(format!("{} ({name})", statement.kind()));
                    continue;
                }
            }
            let lacks: Vec<bool> = roles(tokens).iter().map(|role| known.lacks(role, comparable)).collect();
            if lacks.contains(&true) {
                continue;
            }
            let what = format!("rights on {name}");
            let here = grantor.as_ref().filter(|grantor| !known.lacks(grantor, comparable));
            if grantor.is_some() && here.is_none() {
                self.anew.push(what.clone());
            }
            let session = here.map(|grantor| [b"SET SESSION AUTHORIZATION ", &quoted_name(grantor)[..]].concat());
            let one = StepTemplate { session: session.clone(), ..StepTemplate::one(what.clone(), emit(tokens)) };
            // For several large objects, the archive writes only the grant on the first.
            let range = contents.get(&entry.tag).strip_prefix(b"LARGE OBJECTS ");
            let at = tokens.iter().position(|token| matches!(token, Token::Number(_)));
            let Some((range, at)) = range.zip(at) else {
                steps.push(one)?;
                continue;
            };
            for numbers in ranges.get(range).into_iter().flatten() {
                let before = [&emit(&tokens[..at])[..], b" "].concat();
                let after = [b" ", &emit(&tokens[at + 1..])[..]].concat();
                let (what, session, numbers) = (what.clone(), session.clone(), Some(numbers.clone()));
                steps.push(StepTemplate { what, session, before, after, numbers })?;
            }
        }
        Ok(())
    }
}

/// The beginning of an archive without owners and grants.
pub(crate) fn without_owners(contents: &Contents) -> Vec<u8> {
    contents.changed(|entry| Change { owner: Some(Vec::new()), definition: is_grant(contents, entry).then(Vec::new) })
}

/// Whether an entry gives rights.
pub(super) fn is_grant(contents: &Contents, entry: &ContentsEntry) -> bool {
    matches!(contents.get(&entry.kind), b"ACL" | b"DEFAULT ACL")
}

/// Whether an entry has an owner of its own. As in `pg_restore`, what is not dropped by itself has
/// none.
fn has_owner(contents: &Contents, entry: &ContentsEntry) -> bool {
    let kind = contents.get(&entry.kind);
    !contents.get(&entry.drop).is_empty() && !WITHOUT_OWNER.iter().any(|known| known.as_bytes() == kind)
}

/// What gives an object, or each large object of an entry, to its owner.
fn of_owner(contents: &Contents, entry: &ContentsEntry, owner: &[u8]) -> Option<StepTemplate> {
    let kind = String::from_utf8_lossy(contents.get(&entry.kind)).into_owned();
    let (schema, tag) = (contents.get(&entry.schema), contents.get(&entry.tag));
    let to = [b" OWNER TO ", &quoted_name(owner)[..]].concat();
    let what = format!("{OWNER_OF}{}", contents.name(entry));
    let object = if IN_SCHEMAS.contains(&kind.as_str()) {
        [kind.as_bytes(), b" ", &quoted_name(schema), b".", &quoted_name(tag)].concat()
    } else if IN_DATABASE.contains(&kind.as_str()) || FOREIGN.contains(&kind.as_str()) {
        [kind.as_bytes(), b" ", &quoted_name(tag)].concat()
    } else if WITH_ARGUMENTS.contains(&kind.as_str()) {
        with_arguments(&kind, contents.get(&entry.drop))?
    } else if kind == "BLOB" || kind == "BLOB METADATA" {
        let numbers = numbers(contents.get(if kind == "BLOB" { &entry.tag } else { &entry.definition }));
        let before = b"ALTER LARGE OBJECT ".to_vec();
        let some = !numbers.is_empty();
        return some.then_some(StepTemplate { what, session: None, before, after: to, numbers: Some(numbers) });
    } else {
        return None;
    };
    Some(StepTemplate::one(what, [b"ALTER ", &object[..], &to].concat()))
}

/// `FUNCTION public.f(x integer)` of `DROP FUNCTION public.f(x integer);`
fn with_arguments(kind: &str, drop: &[u8]) -> Option<Vec<u8>> {
    let mut statements = Statements::new(drop);
    let (Some(statement), None) = (statements.next(), statements.next()) else { return None };
    let tokens = statement.tokens?;
    let mut reading = Reading(&tokens);
    reading.must(&["DROP", kind])?;
    let begin = reading.0;
    reading.name()?;
    reading.mark(b'.').then_some(())?;
    if kind == "OPERATOR" {
        let mut name = Vec::new();
        while let Some(Token::Mark(mark)) = reading.0.first()
            && *mark != b'('
        {
            name.push(*mark);
            reading.next();
        }
        let comment = name.windows(2).any(|two| two == b"--" || two == b"/*");
        let good = !name.is_empty() && !comment && !name.iter().any(|mark| b".,)[]".contains(mark));
        good.then_some(())?;
    } else {
        reading.name()?;
    }
    reading.mark(b'(').then_some(())?;
    let (last, arguments) = reading.0.split_last()?;
    let plain = |token: &Token| match token {
        Token::Word(_) | Token::Quoted(_) => true,
        Token::Mark(mark) => b".,[]*".contains(mark),
        Token::Text(_) | Token::Number(_) => false,
    };
    (*last == Token::Mark(b')') && arguments.iter().all(plain)).then_some(())?;
    Some([kind.as_bytes(), b" ", &emit(begin)].concat())
}

/// Whether an object is the server's own.
#[derive(Debug, PartialEq, Eq)]
struct OfServer(bool);

/// Whether a schema is the server's own.
fn is_of_server(schema: &[u8]) -> bool {
    schema == b"information_schema" || schema.starts_with(b"pg_")
}

/// On what a statement grants or revokes rights, if that is one object of the database, named with
/// its schema, and the statement does nothing else.
fn granted_on(tokens: &[Token]) -> Option<OfServer> {
    let mut reading = Reading(tokens);
    if reading.words(&["ALTER", "DEFAULT", "PRIVILEGES"]) {
        return Some(OfServer(false));
    }
    (reading.words(&["GRANT"]) || reading.words(&["REVOKE"])).then_some(())?;
    let on = tokens.iter().position(|token| *token == Token::Word(b"ON".to_vec()))?;
    let mut object = Reading(tokens.get(on + 1..)?);
    let kind = GRANTED_ON.iter().find(|kind| object.words(kind))?;
    let of_server = match kind[0] {
        "LARGE" => {
            object.next();
            false
        }
        "SCHEMA" => is_of_server(object.name()?),
        "LANGUAGE" | "FOREIGN" => {
            object.name()?;
            false
        }
        _ => {
            let schema = object.name()?.to_vec();
            object.mark(b'.').then_some(())?;
            object.name()?;
            is_of_server(&schema)
        }
    };
    if object.mark(b'(') {
        let end = object.0.iter().position(|token| *token == Token::Mark(b')'))?;
        object = Reading(&object.0[end + 1..]);
    }
    (object.words(&["TO"]) || object.words(&["FROM"])).then_some(OfServer(of_server))
}

/// The numbers of large objects, one a line.
fn numbers(lines: &[u8]) -> Arc<[u32]> {
    let line = |line: &[u8]| std::str::from_utf8(line.trim_ascii()).ok()?.parse().ok();
    lines.split(|byte| *byte == b'\n').filter_map(line).collect()
}

/// Tokens as text again.
pub(super) fn emit(tokens: &[Token]) -> Vec<u8> {
    let mut text = Vec::new();
    let mut after_operator = false;
    for token in tokens {
        let operator = matches!(token, Token::Mark(mark) if !b".,()[]".contains(mark));
        if !(text.is_empty() || operator && after_operator) {
            text.push(b' ');
        }
        after_operator = operator;
        match token {
            Token::Word(word) | Token::Number(word) => text.extend_from_slice(word),
            Token::Quoted(name) => text.extend(quoted_name(name)),
            Token::Text(value) => text.extend(super::sql::quoted_text(value)),
            Token::Mark(mark) => text.push(*mark),
        }
    }
    text
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    fn object(kind: &str, drop: &str) -> Option<String> {
        with_arguments(kind, drop.as_bytes()).map(|object| String::from_utf8(object).unwrap())
    }

    #[test]
    fn a_name_with_arguments_is_taken_only_as_pg_dump_writes_it() {
        let function = object("FUNCTION", "DROP FUNCTION public.\"f\"\"g\"(x integer, VARIADIC y text[]);\n");
        assert_eq!(function.as_deref(), Some("FUNCTION public . \"f\"\"g\" ( x integer , VARIADIC y text [ ] )"));
        assert_eq!(
            object("OPERATOR", "DROP OPERATOR s.<-> (a.b, NONE);").as_deref(),
            Some("OPERATOR s . <-> ( a . b , NONE )")
        );
        assert_eq!(
            object("OPERATOR", "DROP OPERATOR s.`~ (integer, integer);").as_deref(),
            Some("OPERATOR s . `~ ( integer , integer )")
        );
        for (kind, hostile) in [
            ("FUNCTION", "DROP FUNCTION s.f() SUPPORT g;"),
            ("FUNCTION", "DROP FUNCTION s.f(x integer DEFAULT g());"),
            ("FUNCTION", "DROP FUNCTION s.f(); DROP TABLE t;"),
            ("FUNCTION", "DROP TABLE s.f();"),
            ("OPERATOR", "DROP OPERATOR s.- - (a, b);"),
            ("OPERATOR", "DROP OPERATOR s./ * (a, b);"),
            ("OPERATOR", "DROP OPERATOR s.(a, b);"),
        ] {
            assert_eq!(object(kind, hostile), None, "{hostile}");
        }
    }

    #[test]
    fn only_rights_on_objects_of_the_database_are_grants() {
        let on = |text: &str| granted_on(&Statements::new(text.as_bytes()).next().unwrap().tokens.unwrap());
        let grants = |text: &str| on(text) == Some(OfServer(false));
        for good in [
            "GRANT SELECT(a),INSERT ON TABLE s.t TO joe WITH GRANT OPTION;",
            "REVOKE ALL ON FUNCTION s.f(x integer) FROM PUBLIC;",
            "ALTER DEFAULT PRIVILEGES FOR ROLE a IN SCHEMA s GRANT SELECT ON TABLES TO b;",
        ] {
            assert!(grants(good), "{good}");
        }
        for bad in [
            "GRANT postgres TO joe;",
            "GRANT ALL ON DATABASE other TO joe;",
            "GRANT SET ON PARAMETER x TO joe;",
            "GRANT CREATE ON TABLESPACE x TO joe;",
            "ALTER ROLE joe SUPERUSER;",
            "GRANT joe TO postgres GRANTED BY ON;",
            "GRANT SELECT ON TABLE pg_authid TO joe;",
            "GRANT SELECT ON TABLE s.t, pg_catalog.pg_authid TO joe;",
            "GRANT SELECT ON TABLE pg_catalog.pg_authid TO joe;",
            "GRANT ALL ON SCHEMA pg_catalog TO joe;",
            "GRANT EXECUTE ON FUNCTION pg_catalog.pg_read_file(text) TO joe;",
        ] {
            assert!(!grants(bad), "{bad}");
        }
        for good in [
            "GRANT ALL ON FUNCTION s.f() TO joe;",
            "GRANT ALL ON LARGE OBJECT 4711 TO joe;",
            "GRANT ALL ON SCHEMA s TO joe;",
        ] {
            assert!(grants(good), "{good}");
        }
    }
}
