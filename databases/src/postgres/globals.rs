//! The `globals` stream: what `pg_dumpall --globals-only` wrote, read as data.
//!
//! Whoever could write into the vault may have written it, so none of its text is ever executed.
//! The statements that `pg_dumpall` writes are understood, and become roles with what belongs to
//! them. Everything else is left out and told by kind and line. [`super::roles`] makes new
//! statements from what was understood.

use std::collections::{BTreeMap, BTreeSet};

use lifeboat_base::{Class, Context, Error, Result};
use zeroize::Zeroizing;

use super::tokens::{Reading, Statements, Token};
use crate::passing::{PassingLine, PassingMarks};
use crate::streams::StoredStreams;

/// The name of the stream with roles and other globals.
pub(crate) const GLOBALS: &str = "globals";
/// No globals are larger: they are roles, memberships and settings.
pub(super) const MAX_GLOBALS_BYTES: usize = 64 << 20;
/// No more statements are taken: a hundred thousand roles are far fewer.
const MAX_STATEMENTS: usize = 2_000_000;
/// No name is longer in any build of PostgreSQL that we know of.
const MAX_NAME_BYTES: usize = 1024;

/// `pg_dumpall` frames what it writes with a token that it makes up each time. Captures settle it
/// (`frame.rs`); older ones did not.
const FRAME_BEGIN: PassingLine = PassingLine { begin: b"\\restrict ", is_rest: is_frame_word };
const FRAME_END: PassingLine = PassingLine { begin: b"\\unrestrict ", is_rest: is_frame_word };
pub(super) const GLOBALS_PASSING_MARKS: PassingMarks =
    PassingMarks { head: |head| FRAME_BEGIN.take_first(head), tail: |tail| FRAME_END.take_last(tail), check: None };

fn is_frame_word(rest: &[u8]) -> bool {
    !rest.is_empty() && rest.iter().all(u8::is_ascii_alphanumeric)
}

/// The last line of a complete stream.
pub(crate) const END_MARKER: &str = "-- PostgreSQL database cluster dump complete";

/// Attributes that a new role has only if they are given.
const GIVEN: [&str; 6] = ["SUPERUSER", "CREATEROLE", "CREATEDB", "LOGIN", "REPLICATION", "BYPASSRLS"];
/// Their negations, which a new role has anyway.
const NOT_GIVEN: [&str; 6] = ["NOSUPERUSER", "NOCREATEROLE", "NOCREATEDB", "NOLOGIN", "NOREPLICATION", "NOBYPASSRLS"];

/// What the stream holds.
#[derive(Debug, Default)]
pub(crate) struct Globals {
    pub(crate) roles: BTreeMap<String, Role>,
    /// In the order of the stream: a grantor got his right before he granted it.
    pub(crate) memberships: Vec<Membership>,
    pub(crate) parameters: Vec<ParameterGrant>,
    /// Whether it speaks of tablespaces, which are left out.
    pub(crate) tablespaces: bool,
    /// What else was left out, each by kind and line.
    pub(crate) strange: Vec<String>,
}

/// A role and what belongs to it.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Role {
    /// Of [`GIVEN`].
    pub(crate) attributes: BTreeSet<&'static str>,
    pub(crate) no_inherit: bool,
    pub(crate) connection_limit: Option<i64>,
    pub(crate) password: Option<Zeroizing<String>>,
    pub(crate) valid_until: Option<String>,
    pub(crate) settings: Vec<Setting>,
    pub(crate) comment: Option<String>,
    /// Security labels, with their providers.
    pub(crate) labels: Vec<(String, String)>,
}

/// A setting and its value, or the parts of a list.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Setting {
    pub(crate) name: Vec<u8>,
    pub(crate) values: Vec<Vec<u8>>,
}

/// A role that is granted to another.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Membership {
    pub(crate) role: String,
    pub(crate) member: String,
    pub(crate) admin: bool,
    /// PostgreSQL 16 and later.
    pub(crate) inherit: Option<bool>,
    /// PostgreSQL 16 and later.
    pub(crate) set: Option<bool>,
    pub(crate) grantor: Option<String>,
}

/// A right on a setting of the server (PostgreSQL 15 and later).
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct ParameterGrant {
    pub(crate) set: bool,
    pub(crate) alter_system: bool,
    pub(crate) parameter: String,
    /// `None`: all roles.
    pub(crate) role: Option<String>,
    pub(crate) grant_option: bool,
}

/// The whole `globals` stream.
///
/// # Errors
/// Those of the stream; or it is larger than globals can be, or not UTF-8.
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

impl Globals {
    /// Reads the text of the stream.
    ///
    /// # Errors
    /// It has more statements than globals can have.
    pub(crate) fn parse(text: &str) -> Result<Self> {
        let mut globals = Self::default();
        let mut count = 0;
        for statement in Statements::new(text.as_bytes()) {
            count += 1;
            if count > MAX_STATEMENTS {
                return Err(Error::integrity("the stream `globals` has more statements than roles and settings need"));
            }
            let understood = statement.tokens.as_ref().and_then(|tokens| globals.take(tokens));
            if understood.is_none() {
                globals.strange.push(format!("{} (line {})", statement.kind(), statement.line));
            }
        }
        Ok(globals)
    }

    /// Takes one statement; `None` if it is not one of those that are understood.
    fn take(&mut self, tokens: &[Token]) -> Option<()> {
        let mut reading = Reading(tokens);
        if reading.words(&["CREATE", "ROLE"]) {
            let name = name(&mut reading)?;
            reading.end()?;
            self.roles.entry(name).or_default();
            return Some(());
        }
        if reading.words(&["ALTER", "ROLE"]) {
            let name = name(&mut reading)?;
            if reading.words(&["IN", "DATABASE"]) {
                // It comes with the database.
                reading.name()?;
                return setting(&mut reading).map(drop);
            }
            // Only of roles that the stream creates.
            let role = self.roles.get_mut(&name)?;
            if reading.words(&["WITH"]) {
                return role.take_attributes(reading);
            }
            role.settings.push(setting(&mut reading)?);
            return Some(());
        }
        if reading.words(&["COMMENT", "ON", "ROLE"]) {
            let name = name(&mut reading)?;
            reading.must(&["IS"])?;
            let comment = text(&mut reading)?;
            reading.end()?;
            self.roles.get_mut(&name)?.comment = Some(comment);
            return Some(());
        }
        if reading.words(&["SECURITY", "LABEL", "FOR"]) {
            let provider = name(&mut reading)?;
            if reading.words(&["ON", "TABLESPACE"]) {
                self.tablespaces = true;
                return Some(());
            }
            reading.must(&["ON", "ROLE"])?;
            let name = name(&mut reading)?;
            reading.must(&["IS"])?;
            let label = text(&mut reading)?;
            reading.end()?;
            self.roles.get_mut(&name)?.labels.push((provider, label));
            return Some(());
        }
        if is_of_tablespaces(tokens) {
            self.tablespaces = true;
            return Some(());
        }
        if reading.words(&["GRANT"]) {
            match parameter_grant(reading) {
                Some(grant) => self.parameters.push(grant),
                None => self.memberships.push(membership(reading)?),
            }
            return Some(());
        }
        // Settings of the session that is to run the text; and settings of a database, which come
        // with the database.
        let settings: [&[&str]; 2] = [&["SET"], &["ALTER", "DATABASE"]];
        let ignored = settings.iter().any(|words| reading.words(words))
            || reading.words(&["RESET", "SESSION", "AUTHORIZATION"])
            || reading.words(&["SELECT", "pg_catalog"]);
        ignored.then_some(())
    }
}

impl Role {
    /// Takes all attributes of a statement, or none: one that is not understood may not do half of
    /// what it says.
    fn take_attributes(&mut self, mut reading: Reading<'_>) -> Option<()> {
        let (mut new, mut given, mut inherits) = (Self::default(), Vec::new(), None);
        while reading.end().is_none() {
            match reading.keyword()? {
                "INHERIT" => inherits = Some(true),
                "NOINHERIT" => inherits = Some(false),
                "CONNECTION" => {
                    reading.must(&["LIMIT"])?;
                    new.connection_limit = Some(reading.number()?);
                }
                "PASSWORD" => new.password = Some(Zeroizing::new(text(&mut reading)?)),
                "VALID" => {
                    reading.must(&["UNTIL"])?;
                    new.valid_until = Some(text(&mut reading)?);
                }
                word => {
                    let is = |known: &&str| *known == word;
                    match (GIVEN.iter().position(is), NOT_GIVEN.iter().position(is)) {
                        (Some(at), _) => given.push((GIVEN[at], true)),
                        (None, at) => given.push((GIVEN[at?], false)),
                    }
                }
            }
        }
        for (word, is) in given {
            if is {
                self.attributes.insert(word)
            } else {
                self.attributes.remove(word)
            };
        }
        self.no_inherit = inherits.map_or(self.no_inherit, |inherits| !inherits);
        self.connection_limit = new.connection_limit.or(self.connection_limit);
        self.password = new.password.or(self.password.take());
        self.valid_until = new.valid_until.or(self.valid_until.take());
        Some(())
    }
}

fn name(reading: &mut Reading<'_>) -> Option<String> {
    let name = reading.role().filter(|name| name.len() <= MAX_NAME_BYTES)?;
    Some(String::from_utf8_lossy(name).into_owned())
}

fn text(reading: &mut Reading<'_>) -> Option<String> {
    Some(String::from_utf8_lossy(reading.text()?).into_owned())
}

/// `SET name TO 'value'` or `SET name TO 'part', 'part'`, to the end of the statement.
pub(crate) fn setting(reading: &mut Reading<'_>) -> Option<Setting> {
    reading.must(&["SET"])?;
    let name = reading.name().filter(|name| name.len() <= MAX_NAME_BYTES)?.to_vec();
    reading.must(&["TO"])?;
    let mut values = vec![reading.text()?.to_vec()];
    while reading.mark(b',') {
        values.push(reading.text()?.to_vec());
    }
    reading.end()?;
    Some(Setting { name, values })
}

/// The membership that a statement grants, if that is what it does.
pub(crate) fn membership_in(tokens: &[Token]) -> Option<Membership> {
    let mut reading = Reading(tokens);
    reading.must(&["GRANT"])?;
    membership(reading)
}

/// `role TO member [WITH ADMIN OPTION, INHERIT TRUE, SET FALSE] [GRANTED BY grantor]`
fn membership(mut reading: Reading<'_>) -> Option<Membership> {
    let role = name(&mut reading)?;
    reading.must(&["TO"])?;
    let member = name(&mut reading)?;
    let mut granted = Membership { role, member, admin: false, inherit: None, set: None, grantor: None };
    if reading.words(&["WITH"]) {
        loop {
            let option = reading.keyword()?;
            let value = match reading.keyword()? {
                "OPTION" | "TRUE" => true,
                "FALSE" => false,
                _ => return None,
            };
            match option {
                "ADMIN" => granted.admin = value,
                "INHERIT" => granted.inherit = Some(value),
                "SET" => granted.set = Some(value),
                _ => return None,
            }
            if !reading.mark(b',') {
                break;
            }
        }
    }
    if reading.words(&["GRANTED", "BY"]) {
        granted.grantor = Some(name(&mut reading)?);
    }
    reading.end()?;
    Some(granted)
}

/// `SET, ALTER SYSTEM ON PARAMETER name TO role [WITH GRANT OPTION]`
fn parameter_grant(mut reading: Reading<'_>) -> Option<ParameterGrant> {
    let (mut set, mut alter_system) = (false, false);
    loop {
        match reading.keyword()? {
            "SET" => set = true,
            "ALTER" => alter_system = reading.words(&["SYSTEM"]),
            "ALL" => (set, alter_system) = (true, true),
            _ => return None,
        }
        if !reading.mark(b',') {
            break;
        }
    }
    reading.must(&["ON", "PARAMETER"])?;
    let parameter = name(&mut reading)?;
    reading.must(&["TO"])?;
    let role = if reading.words(&["PUBLIC"]) { None } else { Some(name(&mut reading)?) };
    let grant_option = reading.words(&["WITH", "GRANT", "OPTION"]);
    reading.end()?;
    Some(ParameterGrant { set, alter_system, parameter, role, grant_option })
}

/// Whether a statement is about a tablespace.
pub(crate) fn is_of_tablespaces(tokens: &[Token]) -> bool {
    let begins = |words: &[&str]| Reading(tokens).words(words);
    let kinds: [&[&str]; 3] = [&["CREATE", "TABLESPACE"], &["ALTER", "TABLESPACE"], &["COMMENT", "ON", "TABLESPACE"]];
    let grants = begins(&["GRANT"]) || begins(&["REVOKE"]);
    let on = (0..tokens.len()).any(|at| Reading(&tokens[at..]).words(&["ON", "TABLESPACE"]));
    kinds.iter().any(|words| begins(words)) || grants && on
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    const GLOBALS: &str = "--\n-- it's a comment\n--\n\\restrict x\nSET client_encoding = 'UTF8';\n\n\
        CREATE ROLE postgres;\nALTER ROLE postgres WITH SUPERUSER INHERIT NOLOGIN;\nCREATE ROLE \"we\"\"ird\nname\";\n\
        ALTER ROLE \"we\"\"ird\nname\" WITH NOINHERIT LOGIN CONNECTION LIMIT -1 PASSWORD 'a\nb' VALID UNTIL '2030-01-01';\n\
        COMMENT ON ROLE postgres IS 'it''s';\nALTER ROLE postgres SET search_path TO 'a', 'b';\n\
        ALTER ROLE postgres IN DATABASE shop SET \"app.x\" TO 'c';\n\
        CREATE TABLESPACE fast OWNER postgres LOCATION '/ssd';\nGRANT ALL ON TABLESPACE fast TO postgres;\n\
        GRANT x TO y WITH ADMIN OPTION, INHERIT FALSE, SET TRUE GRANTED BY postgres;\nGRANT a TO b;\n\
        GRANT SET, ALTER SYSTEM ON PARAMETER work_mem TO x WITH GRANT OPTION;\n\
        GRANT SET ON PARAMETER \"app.x\" TO PUBLIC;\n\\unrestrict x\n";

    #[test]
    fn what_pg_dumpall_writes_is_understood() {
        let globals = Globals::parse(GLOBALS).unwrap();
        assert_eq!(globals.strange, Vec::<String>::new());
        assert!(globals.tablespaces);
        let odd = &globals.roles["we\"ird\nname"];
        assert!(odd.no_inherit && odd.attributes.contains("LOGIN") && odd.connection_limit == Some(-1));
        assert_eq!(odd.password.as_deref().map(String::as_str), Some("a\nb"));
        assert_eq!(odd.valid_until.as_deref(), Some("2030-01-01"));
        let postgres = &globals.roles["postgres"];
        assert_eq!(postgres.attributes, BTreeSet::from(["SUPERUSER"]));
        assert_eq!(postgres.comment.as_deref(), Some("it's"));
        assert_eq!(
            postgres.settings,
            [Setting { name: b"search_path".to_vec(), values: vec![b"a".to_vec(), b"b".to_vec()] }]
        );
        let granted = &globals.memberships[0];
        assert!(granted.admin && granted.inherit == Some(false) && granted.set == Some(true));
        assert_eq!(granted.grantor.as_deref(), Some("postgres"));
        assert_eq!(globals.memberships.len(), 2);
        let parameter = &globals.parameters[0];
        assert!(
            parameter.set && parameter.alter_system && parameter.grant_option && parameter.role.as_deref() == Some("x")
        );
        assert_eq!((&*globals.parameters[1].parameter, &globals.parameters[1].role), ("app.x", &None));
    }

    #[test]
    fn everything_else_is_told_by_kind_and_line() {
        for (strange, kind) in [
            ("COPY t TO PROGRAM 'touch x';", "COPY (line 2)"),
            ("DO $$ BEGIN NULL; END $$;", "text that is not understood (line 2)"),
            ("CREATE ROLE a; \\! touch x\n", "text that is not understood (line 2)"),
            ("ALTER ROLE nobody WITH SUPERUSER;", "ALTER ROLE (line 2)"),
            ("ALTER ROLE a WITH PASSWORD 'secret' SUPERUSERS;", "ALTER ROLE (line 2)"),
            ("ALTER ROLE a WITH SUPERUSER NOINHERIT CONNECTION LIMIT 3 BOGUS;", "ALTER ROLE (line 2)"),
            ("GRANT SET ON PARAMETER work_mem TO public;", "GRANT SET ON (line 2)"),
            ("ALTER ROLE a SET x TO 'secret' || 'y';", "ALTER ROLE (line 2)"),
            ("GRANT a TO CURRENT_USER;", "GRANT (line 2)"),
            ("GRANT a TO public;", "GRANT (line 2)"),
            ("GRANT SELECT ON TABLE t TO a;", "GRANT SELECT ON (line 2)"),
            ("DROP ROLE a;", "DROP ROLE (line 2)"),
            ("CREATE ROLE b SUPERUSER;", "CREATE ROLE (line 2)"),
            ("CREATE ROLE b", "text that is not understood (line 2)"),
            ("REVOKE a FROM b;", "REVOKE (line 2)"),
            ("CREATE FUNCTION f() RETURNS int;", "CREATE FUNCTION (line 2)"),
        ] {
            let globals = Globals::parse(&format!("CREATE ROLE a;\n{strange}")).unwrap();
            assert_eq!(globals.strange, [kind], "{strange}");
            assert!(globals.roles.keys().all(|name| name == "a"), "{strange}");
            assert!(globals.memberships.is_empty() && globals.parameters.is_empty(), "{strange}");
            assert!(globals.roles.values().all(|role| *role == Role::default()), "{strange}");
        }
    }
}
