//! Takes owners and grants out of an archive, and gives them to the loaded objects afterwards.
//!
//! So a role without rights can load the archive: it owns all that it makes, and whatever the
//! archive runs has no more rights than it. Only then does a superuser say what belongs to whom, by
//! statements that are written anew and cannot run any code.

use super::contents::{Change, Contents, ContentsEntry};
use super::refusals::OWNER_OF;
use super::owners::{KnownRoles, roles};
use super::sql::quoted_name;
use super::steps::Step;
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
    pub(crate) steps: Vec<Step>,
    /// Rights whose grantor is lacking.
    pub(crate) anew: Vec<String>,
    /// What was not understood, for people.
    pub(crate) strange: Vec<String>,
    /// Owners and rights of the server's own objects, for people.
    pub(crate) of_server: Vec<String>,
}

impl Ownership {
    /// The beginning of an archive without owners and grants, and these. Objects of roles that are
    /// lacking go to `otherwise`.
    pub(crate) fn apart(contents: &Contents, known: &mut KnownRoles, otherwise: &str) -> (Vec<u8>, Self) {
        let comparable = contents.is_comparable();
        let (mut ownership, mut sequences, mut grants) = (Self::default(), Vec::new(), Vec::new());
        for entry in &contents.entries {
            let kind = contents.get(&entry.kind);
            let owner = contents.get(&entry.owner);
            if matches!(kind, b"ACL" | b"DEFAULT ACL") && !contents.get(&entry.tag).starts_with(b"DATABASE ") {
                ownership.grants(contents, entry, known, &mut grants);
            } else if !owner.is_empty() {
                let owner = if known.lacks(owner, comparable) { otherwise.as_bytes() } else { owner };
                let of_schema = if kind == b"SCHEMA" { &entry.tag } else { &entry.schema };
                if is_of_server(contents.get(of_schema)) {
                    ownership.of_server.push(format!("{OWNER_OF}{}", contents.name(entry)));
                    continue;
                }
                let given = of_owner(contents, entry, owner);
                if given.is_empty() && has_owner(contents, entry) {
                    ownership.strange.push(format!("{OWNER_OF}{}", contents.name(entry)));
                }
                let steps = if kind == b"SEQUENCE" { &mut sequences } else { &mut ownership.steps };
                steps.extend(given);
            }
        }
        // A sequence that belongs to a column follows its table.
        ownership.steps.extend(sequences);
        ownership.steps.extend(grants);
        let head = contents.changed(|entry| {
            let grants = matches!(contents.get(&entry.kind), b"ACL" | b"DEFAULT ACL");
            Change { owner: Some(Vec::new()), definition: grants.then(Vec::new) }
        });
        (head, ownership)
    }

    fn grants(&mut self, contents: &Contents, entry: &ContentsEntry, known: &mut KnownRoles, steps: &mut Vec<Step>) {
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
            for sql in each_large_object(contents, entry, tokens) {
                let mut step = Step::new(format!("rights on {name}"), sql.clone());
                let here = grantor.as_ref().filter(|grantor| !known.lacks(grantor, comparable));
                if grantor.is_some() && here.is_none() {
                    self.anew.push(step.what.clone());
                }
                if let Some(grantor) = here {
                    let session = [b"SET SESSION AUTHORIZATION ", &quoted_name(grantor)[..], b"; "].concat();
                    step.sql = [&session, &sql[..], b"; RESET SESSION AUTHORIZATION"].concat();
                    step.otherwise = Some(sql);
                }
                steps.push(step);
            }
        }
    }
}

/// Whether an entry has an owner of its own. As in `pg_restore`, what is not dropped by itself has
/// none.
fn has_owner(contents: &Contents, entry: &ContentsEntry) -> bool {
    let kind = contents.get(&entry.kind);
    !contents.get(&entry.drop).is_empty() && !WITHOUT_OWNER.iter().any(|known| known.as_bytes() == kind)
}

/// The statements that give an object to its owner.
fn of_owner(contents: &Contents, entry: &ContentsEntry, owner: &[u8]) -> Vec<Step> {
    let kind = String::from_utf8_lossy(contents.get(&entry.kind)).into_owned();
    let (schema, tag) = (contents.get(&entry.schema), contents.get(&entry.tag));
    let objects: Vec<Vec<u8>> = if IN_SCHEMAS.contains(&kind.as_str()) {
        vec![[kind.as_bytes(), b" ", &quoted_name(schema), b".", &quoted_name(tag)].concat()]
    } else if IN_DATABASE.contains(&kind.as_str()) || FOREIGN.contains(&kind.as_str()) {
        vec![[kind.as_bytes(), b" ", &quoted_name(tag)].concat()]
    } else if WITH_ARGUMENTS.contains(&kind.as_str()) {
        with_arguments(&kind, contents.get(&entry.drop)).into_iter().collect()
    } else if kind == "BLOB" || kind == "BLOB METADATA" {
        large_objects(contents, entry).into_iter().map(|number| format!("LARGE OBJECT {number}").into_bytes()).collect()
    } else {
        Vec::new()
    };
    let what = format!("{OWNER_OF}{}", contents.name(entry));
    let step = |object: Vec<u8>| {
        Step::new(what.clone(), [b"ALTER ", &object[..], b" OWNER TO ", &quoted_name(owner)].concat())
    };
    objects.into_iter().map(step).collect()
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

/// A grant as it is; or the same for each of several large objects, where the archive writes only
/// that for the first.
fn each_large_object(contents: &Contents, entry: &ContentsEntry, tokens: &[Token]) -> Vec<Vec<u8>> {
    let tag = contents.get(&entry.tag);
    let Some(range) = tag.strip_prefix(b"LARGE OBJECTS ") else { return vec![emit(tokens)] };
    let metadata = contents.of_kind("BLOB METADATA").filter(|metadata| contents.get(&metadata.tag) == range);
    let numbers = metadata.flat_map(|metadata| large_objects(contents, metadata));
    let of = |number: u32| {
        let number = number.to_string().into_bytes();
        let token = |token: &Token| match token {
            Token::Number(_) => Token::Number(number.clone()),
            other => other.clone(),
        };
        emit(&tokens.iter().map(token).collect::<Vec<_>>())
    };
    numbers.map(of).collect()
}

/// The large objects of an entry: the one in its name, or those that its definition lists.
fn large_objects(contents: &Contents, entry: &ContentsEntry) -> Vec<u32> {
    let list = if contents.get(&entry.kind) == b"BLOB" { &entry.tag } else { &entry.definition };
    String::from_utf8_lossy(contents.get(list)).lines().filter_map(|line| line.trim().parse().ok()).collect()
}

/// Tokens as text again.
fn emit(tokens: &[Token]) -> Vec<u8> {
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
