//! The stream `globals`: databases, roles, users and grants of a server, as SQL that a stock client
//! runs.
//!
//! **It is data.** A capture writes it from what the server tells, token by token. A load parses it
//! strictly and writes each statement anew, so a forged stream can make users, and nothing else.
//! Statements come in the order in which they can run, and the last line is [`GLOBALS_END`].

use lifeboat_base::{Error, Result};

use super::tokens::{MAX_MARIA_TOKENS, MariaToken, name, statements, text, written};
use crate::streams::StoredStreams;

/// The name of the stream.
pub(super) const MARIA_GLOBALS: &str = "globals";
/// The last line.
const GLOBALS_END: &str = "-- Complete\n";
/// The first line.
const GLOBALS_BEGIN: &str = "-- Databases, roles, users and grants\n";
/// No more bytes are captured or parsed.
pub(super) const MAX_MARIA_GLOBALS_BYTES: usize = MAX_MARIA_TOKENS;

/// What is said of one database.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct MariaDatabase {
    pub(super) name: String,
    pub(super) charset: String,
    pub(super) collation: String,
    pub(super) comment: String,
}

impl MariaDatabase {
    /// The statement that creates it under this name.
    pub(super) fn create(&self, as_name: &str) -> String {
        let comment = match self.comment.as_str() {
            "" => String::new(),
            comment => format!(" COMMENT {}", text(comment)),
        };
        format!("CREATE DATABASE {} CHARACTER SET {} COLLATE {}{comment}", name(as_name), self.charset, self.collation)
    }
}

/// A user or a role.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Account {
    pub(super) user: String,
    /// `None` for a role.
    pub(super) host: Option<String>,
}

impl Account {
    /// Its name as SQL.
    pub(super) fn written(&self) -> String {
        match &self.host {
            Some(host) => format!("{}@{}", name(&self.user), name(host)),
            None if self.is_public() => self.user.clone(),
            None => name(&self.user),
        }
    }

    /// Whether it is everybody, which no statement creates.
    pub(super) fn is_public(&self) -> bool {
        self.host.is_none() && self.user == "PUBLIC"
    }

    /// Takes an account from the beginning of `tokens`. Some servers quote accounts as texts where
    /// they tell of `PROXY`.
    fn take(tokens: &[MariaToken]) -> Option<(Self, &[MariaToken])> {
        let (user, rest) = match tokens {
            [MariaToken::Name(user) | MariaToken::Text(user), rest @ ..] => (user.clone(), rest),
            [MariaToken::Word(public), rest @ ..] if public == "PUBLIC" => (public.clone(), rest),
            _ => return None,
        };
        match rest {
            [MariaToken::Mark('@'), MariaToken::Name(host) | MariaToken::Text(host), rest @ ..] => {
                Some((Self { user, host: Some(host.clone()) }, rest))
            }
            _ => Some((Self { user, host: None }, rest)),
        }
    }
}

/// A grant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Grant {
    /// What is granted, with the object: what stands between `GRANT` and `TO`.
    pub(super) what: Vec<MariaToken>,
    pub(super) to: Account,
    /// What stands after the account: `WITH GRANT OPTION`, or nothing.
    with: Vec<MariaToken>,
}

/// The object of a grant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct GrantedObject {
    /// The database; it may be a pattern if the object is the whole database.
    pub(super) database: String,
    /// `None` for the whole database.
    pub(super) object: Option<String>,
    /// Whether it is a function, procedure or package.
    pub(super) routine: bool,
}

impl Grant {
    /// Parses what `SHOW GRANTS` tells, or what [`Self::written`] wrote. `None` if it is no grant.
    pub(super) fn parse(tokens: &[MariaToken]) -> Option<Self> {
        let [first, tokens @ ..] = tokens else { return None };
        let to = tokens.iter().rposition(|token| token.is("TO")).filter(|_| first.is("GRANT"))?;
        let (account, rest) = Account::take(&tokens[to + 1..])?;
        // What is said of passwords and limits is said by CREATE USER.
        let with = rest.iter().rposition(|token| token.is("WITH")).map_or(&[][..], |at| &rest[at..]);
        let with = match with {
            [with, kind, option, ..] if (kind.is("GRANT") || kind.is("ADMIN")) && option.is("OPTION") => {
                vec![with.clone(), kind.clone(), option.clone()]
            }
            _ => Vec::new(),
        };
        // No other grant has a text before its account, and this one means names.
        let named = |token: &MariaToken| match token {
            MariaToken::Text(name) => MariaToken::Name(name.clone()),
            token => token.clone(),
        };
        Some(Self { what: tokens[..to].iter().map(named).collect(), to: account, with })
    }

    /// The statement.
    pub(super) fn written(&self) -> String {
        let with = if self.with.is_empty() { String::new() } else { format!(" {}", written(&self.with)) };
        format!("GRANT {} TO {}{with}", written(&self.what), self.to.written())
    }

    /// Whether it grants nothing: `SHOW GRANTS` tells so of users without global privileges.
    pub(super) fn is_nothing(&self) -> bool {
        self.with.is_empty() && matches!(self.what.as_slice(), [usage, ..] if usage.is("USAGE"))
    }

    /// The role that it grants, if it does.
    pub(super) fn role(&self) -> Option<&str> {
        match self.what.as_slice() {
            [MariaToken::Name(role)] => Some(role),
            _ => None,
        }
    }

    /// Its object, if that is in a database.
    pub(super) fn object(&self) -> Option<GrantedObject> {
        let on = self.what.iter().rposition(|token| token.is("ON"))?;
        let (routine, object) = match &self.what[on + 1..] {
            [MariaToken::Word(_), MariaToken::Word(_), object @ ..] | [MariaToken::Word(_), object @ ..] => {
                (true, object)
            }
            object => (false, object),
        };
        let [MariaToken::Name(database), MariaToken::Mark('.'), object] = object else { return None };
        let object = match object {
            MariaToken::Name(object) => Some(object.clone()),
            _ => None,
        };
        Some(GrantedObject { database: database.clone(), object, routine })
    }

    /// The columns that it names, in lower case: case does not matter in them.
    pub(super) fn columns(&self) -> Vec<String> {
        match self.object() {
            Some(GrantedObject { object: Some(_), routine: false, .. }) => {}
            _ => return Vec::new(),
        }
        let on = self.what.iter().rposition(|token| token.is("ON")).unwrap_or(0);
        let names = self.what[..on].iter().filter_map(|token| match token {
            MariaToken::Name(name) => Some(name.to_lowercase()),
            _ => None,
        });
        names.collect()
    }

    /// The same without these columns; `None` if nothing is left.
    pub(super) fn without_columns(&self, gone: &[String]) -> Option<Self> {
        let on = self.what.iter().rposition(|token| token.is("ON"))?;
        let (mut kept, mut privilege, mut depth) = (Vec::new(), Vec::new(), 0);
        let mut privileges = Vec::new();
        for token in self.what[..on].iter().chain([&MariaToken::Mark(',')]) {
            match token {
                MariaToken::Mark('(') => depth += 1,
                MariaToken::Mark(')') => depth -= 1,
                MariaToken::Mark(',') if depth == 0 => {
                    privileges.push(std::mem::take(&mut privilege));
                    continue;
                }
                _ => {}
            }
            privilege.push(token.clone());
        }
        for privilege in privileges {
            let begin = privilege.iter().position(|token| *token == MariaToken::Mark('(')).unwrap_or(privilege.len());
            let (words, columns) = privilege.split_at(begin);
            let there = columns.iter().filter(|token| match token {
                MariaToken::Name(name) => !gone.contains(&name.to_lowercase()),
                _ => false,
            });
            let there: Vec<&MariaToken> = there.collect();
            if there.is_empty() && !columns.is_empty() {
                continue;
            }
            if !kept.is_empty() {
                kept.push(MariaToken::Mark(','));
            }
            kept.extend_from_slice(words);
            for (at, column) in there.iter().enumerate() {
                kept.push(MariaToken::Mark(if at == 0 { '(' } else { ',' }));
                kept.push((*column).clone());
            }
            if !there.is_empty() {
                kept.push(MariaToken::Mark(')'));
            }
        }
        if kept.is_empty() {
            return None;
        }
        kept.extend_from_slice(&self.what[on..]);
        Some(Self { what: kept, ..self.clone() })
    }

    /// The privileges that it grants, without those on columns.
    pub(super) fn privileges(&self) -> Vec<String> {
        let on = self.what.iter().rposition(|token| token.is("ON")).unwrap_or(0);
        self.what[..on].split(|token| *token == MariaToken::Mark(',')).map(written).collect()
    }
}

/// What the stream says.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct MariaGlobals {
    pub(super) databases: Vec<MariaDatabase>,
    /// Roles and users with what `CREATE USER` says of them.
    pub(super) accounts: Vec<(Account, Vec<MariaToken>)>,
    pub(super) grants: Vec<Grant>,
    /// Users and their default roles.
    pub(super) default_roles: Vec<(String, Account)>,
}

impl MariaGlobals {
    /// The stream.
    pub(super) fn written(&self) -> String {
        let databases = self.databases.iter().map(|database| database.create(&database.name));
        let accounts = self.accounts.iter().map(|(account, clause)| create_account(account, clause));
        let grants = self.grants.iter().map(Grant::written);
        let defaults = self.default_roles.iter().map(|(role, account)| set_default_role(role, account));
        let all: Vec<String> =
            databases.chain(accounts).chain(grants).chain(defaults).map(|sql| format!("{sql};\n")).collect();
        format!("{GLOBALS_BEGIN}{}{GLOBALS_END}", all.concat())
    }

    /// Parses the stream.
    ///
    /// # Errors
    /// It was cut, or holds what is not understood. Then nothing of it is used.
    pub(super) fn parse(stream: &str) -> Result<Self> {
        let body = stream.strip_prefix(GLOBALS_BEGIN).and_then(|stream| stream.strip_suffix(GLOBALS_END));
        let body = body.ok_or_else(|| Error::integrity("the stream `globals` is not whole"))?;
        let mut globals = Self::default();
        for (number, statement) in statements(body)?.iter().enumerate() {
            globals.add(statement).ok_or_else(|| {
                Error::integrity(format!("statement {} of the stream `globals` is not understood", number + 1))
                    .hint("use the version of Lifeboat that wrote the snapshot, or a newer one")
            })?;
        }
        Ok(globals)
    }

    fn add(&mut self, statement: &[MariaToken]) -> Option<()> {
        match statement {
            [create, what, rest @ ..] if create.is("CREATE") && what.is("DATABASE") => {
                self.databases.push(parse_database(rest)?);
            }
            [create, what, rest @ ..] if create.is("CREATE") && (what.is("ROLE") || what.is("USER")) => {
                let (account, clause) = Account::take(rest)?;
                if account.host.is_some() != what.is("USER") || account.is_public() {
                    return None;
                }
                if account.host.is_none() && !clause.is_empty() {
                    return None;
                }
                self.accounts.push((account, clause.to_vec()));
            }
            [grant, ..] if grant.is("GRANT") => {
                let grant = Grant::parse(statement)?;
                // Whatever was overlooked would be lost.
                if grant.written() != written(statement) {
                    return None;
                }
                self.grants.push(grant);
            }
            [set, default, word, MariaToken::Name(role), for_word, rest @ ..]
                if set.is("SET") && default.is("DEFAULT") && word.is("ROLE") && for_word.is("FOR") =>
            {
                let (account, rest) = Account::take(rest)?;
                if !rest.is_empty() {
                    return None;
                }
                self.default_roles.push((role.clone(), account));
            }
            _ => return None,
        }
        Some(())
    }
}

/// The statement that creates an account.
pub(super) fn create_account(account: &Account, clause: &[MariaToken]) -> String {
    let what = if account.host.is_some() { "USER" } else { "ROLE" };
    let clause = if clause.is_empty() { String::new() } else { format!(" {}", written(clause)) };
    format!("CREATE {what} {}{clause}", account.written())
}

/// The statement that sets a default role.
pub(super) fn set_default_role(role: &str, account: &Account) -> String {
    format!("SET DEFAULT ROLE {} FOR {}", name(role), account.written())
}

fn parse_database(tokens: &[MariaToken]) -> Option<MariaDatabase> {
    let (tokens, comment) = match tokens {
        [tokens @ .., word, MariaToken::Text(comment)] if word.is("COMMENT") => (tokens, comment.clone()),
        tokens => (tokens, String::new()),
    };
    match tokens {
        [MariaToken::Name(name), character, set, MariaToken::Word(charset), collate, MariaToken::Word(collation)]
            if character.is("CHARACTER") && set.is("SET") && collate.is("COLLATE") =>
        {
            Some(MariaDatabase { name: name.clone(), charset: charset.clone(), collation: collation.clone(), comment })
        }
        _ => None,
    }
}

/// Reads the stream of a snapshot.
///
/// # Errors
/// It cannot be read to its checked end, or is not understood.
pub(super) async fn read_globals(streams: &dyn StoredStreams) -> Result<MariaGlobals> {
    let (mut stream, mut text) = (streams.open(MARIA_GLOBALS).await?, Vec::new());
    while let Some(piece) = stream.next().await? {
        text.extend_from_slice(&piece);
        if text.len() > MAX_MARIA_GLOBALS_BYTES {
            return Err(Error::integrity(format!(
                "the stream `globals` has more than {MAX_MARIA_GLOBALS_BYTES} bytes"
            )));
        }
    }
    let text = String::from_utf8(text).map_err(|_| Error::integrity("the stream `globals` is not UTF-8"))?;
    MariaGlobals::parse(&text)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;
    use crate::mariadb::tokens::statement;

    const STREAM: &str = "-- Databases, roles, users and grants\n\
        CREATE DATABASE `sh``op` CHARACTER SET utf8mb4 COLLATE utf8mb4_bin COMMENT 'it''s;';\n\
        CREATE ROLE `reader`;\n\
        CREATE USER `a`@`%` IDENTIFIED VIA unix_socket OR ed25519 USING 'x\\\\y' REQUIRE SSL ACCOUNT LOCK;\n\
        GRANT `reader` TO `a`@`%` WITH ADMIN OPTION;\n\
        GRANT SELECT, INSERT (`x`, `y`) ON `sh``op`.`t` TO `reader`;\n\
        GRANT EXECUTE ON PROCEDURE `sh``op`.`p` TO PUBLIC;\n\
        GRANT PROXY ON ``@`%` TO `a`@`%` WITH GRANT OPTION;\n\
        SET DEFAULT ROLE `reader` FOR `a`@`%`;\n\
        -- Complete\n";

    #[test]
    fn what_was_written_is_parsed_and_written_again() {
        let globals = MariaGlobals::parse(STREAM).unwrap();
        assert_eq!(globals.written(), STREAM);
        assert_eq!((globals.accounts.len(), globals.grants.len(), globals.default_roles.len()), (2, 4, 1));
        let objects: Vec<_> = globals.grants.iter().map(Grant::object).collect();
        assert_eq!(globals.grants[0].role(), Some("reader"));
        assert_eq!(objects[1].as_ref().unwrap().object.as_deref(), Some("t"));
        assert!(objects[2].as_ref().unwrap().routine);
        assert_eq!(objects[3], None);
        assert_eq!(globals.grants[1].privileges(), ["SELECT", "INSERT (`x`", "`y`)"]);
    }

    #[test]
    fn a_forged_or_cut_stream_is_refused_as_a_whole() {
        let with = |statement: &str| STREAM.replace("-- Complete", &format!("{statement};\n-- Complete"));
        for forged in [
            with("DROP DATABASE `shop`"),
            with("CREATE USER `x`"),
            with("CREATE ROLE `x`@`y`"),
            with("CREATE ROLE `x` WITH ADMIN `y`"),
            with("CREATE DATABASE `x` CHARACTER SET utf8mb4"),
            with("GRANT ALL ON *.* TO `x`@`%` IDENTIFIED BY 'y'"),
            with("GRANT ALL ON *.* TO `x`@`%`, `y`@`%`"),
            with("SET DEFAULT ROLE `x` FOR `y`@`%` , `z`"),
            with("SET GLOBAL general_log"),
            with("CREATE USER `x`@`%` -- y"),
            with("\\! id"),
            STREAM[..STREAM.len() - 1].to_owned(),
            STREAM[10..].to_owned(),
            String::new(),
        ] {
            assert!(MariaGlobals::parse(&forged).is_err(), "{forged}");
        }
    }

    #[test]
    fn columns_that_are_gone_are_left_out() {
        let grant = |sql: &str| Grant::parse(&statement(sql).unwrap()).unwrap();
        let told = "GRANT SELECT (`a`, `Gone`), INSERT, UPDATE (`gone`), REFERENCES (`b`, `a`) ON `s`.`t` TO `u`@`%`";
        assert_eq!(grant(told).columns(), ["a", "gone", "gone", "b", "a"]);
        let left = grant(told).without_columns(&["gone".to_owned()]).unwrap();
        let expected = "GRANT SELECT (`a`), INSERT, REFERENCES (`b`, `a`) ON `s`.`t` TO `u`@`%`";
        assert_eq!(left, grant(expected));
        let nothing = grant("GRANT UPDATE (`gone`) ON `s`.`t` TO `u`@`%`");
        assert_eq!(nothing.without_columns(&["gone".to_owned()]), None);
        assert_eq!(grant("GRANT `role` TO `u`@`%`").columns(), Vec::<String>::new());
    }

    #[test]
    fn accounts_are_the_same_however_they_are_quoted() {
        let parse = |told: &str| Grant::parse(&statement(told).unwrap()).unwrap();
        let texts = parse("GRANT PROXY ON ''@'%' TO 'o''x'@'localhost' WITH GRANT OPTION");
        let names = parse("GRANT PROXY ON ``@`%` TO `o'x`@`localhost` WITH GRANT OPTION");
        assert_eq!(texts, names);
        assert_eq!(texts.written(), "GRANT PROXY ON ``@`%` TO `o'x`@`localhost` WITH GRANT OPTION");
    }

    #[test]
    fn passwords_are_taken_from_create_user_alone() {
        let told = "GRANT RELOAD ON *.* TO `s`@`l` IDENTIFIED BY PASSWORD '*X' REQUIRE SSL WITH MAX_QUERIES_PER_HOUR 1";
        let grant = Grant::parse(&statement(told).unwrap()).unwrap();
        assert_eq!(grant.written(), "GRANT RELOAD ON *.* TO `s`@`l`");
        let with = told.replace("WITH", "WITH GRANT OPTION");
        let with = Grant::parse(&statement(&with).unwrap()).unwrap();
        assert_eq!(with.written(), "GRANT RELOAD ON *.* TO `s`@`l` WITH GRANT OPTION");
    }
}
