//! Tokens of the statements in which MariaDB tells users, grants and databases, and how they are
//! written anew.
//!
//! A statement is a list of tokens: words, quoted names, texts, numbers and a few marks. There are
//! no comments, no variables and no operators, so a text of tokens cannot hold a statement that was
//! not recognised. Texts are read and written for a session with an empty `sql_mode`.

use lifeboat_base::{Error, Result};

/// One token.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum MariaToken {
    /// A word, such as `GRANT`: letters, digits and `_`.
    Word(String),
    /// A name in backticks.
    Name(String),
    /// A text in single quotes.
    Text(String),
    /// One of `* . , ( ) @`.
    Mark(char),
}

impl MariaToken {
    /// Whether it is this word.
    pub(super) fn is(&self, word: &str) -> bool {
        matches!(self, Self::Word(own) if own == word)
    }
}

const TOKEN_MARKS: &str = "*.,()@";

/// No more tokens are held, of all statements: each takes many times the memory of its text. Each
/// has a byte at least, so no more bytes of statements are captured either.
pub(super) const MAX_MARIA_TOKENS: usize = 16 << 20;

/// Splits `text` into statements, each of which ends with `;`.
///
/// # Errors
/// Something is no token, there are too many, or the last statement has no end.
pub(super) fn statements(text: &str) -> Result<Vec<Vec<MariaToken>>> {
    let (mut statements, mut current, mut count) = (Vec::new(), Vec::new(), 0);
    let mut rest = text.trim_start();
    while let Some(first) = rest.chars().next() {
        rest = if first == ';' {
            statements.push(std::mem::take(&mut current));
            &rest[1..]
        } else {
            let (token, after) = token(rest)?;
            count += 1;
            if count > MAX_MARIA_TOKENS {
                return Err(Error::integrity(format!(
                    "users and grants have more than {MAX_MARIA_TOKENS} words and marks"
                )));
            }
            current.push(token);
            after
        }
        .trim_start();
    }
    if current.is_empty() { Ok(statements) } else { Err(not_understood(text)) }
}

/// Splits one statement that has no `;`.
///
/// # Errors
/// Something is no token.
pub(super) fn statement(text: &str) -> Result<Vec<MariaToken>> {
    let mut tokens = Vec::new();
    let mut rest = text.trim();
    while !rest.is_empty() {
        let (token, after) = token(rest)?;
        tokens.push(token);
        rest = after.trim_start();
    }
    Ok(tokens)
}

fn token(text: &str) -> Result<(MariaToken, &str)> {
    let Some(first) = text.chars().next() else { return Err(not_understood(text)) };
    match first {
        '`' | '\'' => quoted(&text[1..], first),
        mark if TOKEN_MARKS.contains(mark) => Ok((MariaToken::Mark(mark), &text[1..])),
        letter if is_of_word(letter) => {
            let end = text.find(|letter| !is_of_word(letter)).unwrap_or(text.len());
            Ok((MariaToken::Word(text[..end].to_owned()), &text[end..]))
        }
        _ => Err(not_understood(text)),
    }
}

fn is_of_word(letter: char) -> bool {
    letter.is_ascii_alphanumeric() || letter == '_'
}

/// What stands up to the closing quote, which is doubled where it is part of the text.
fn quoted(text: &str, quote: char) -> Result<(MariaToken, &str)> {
    let (mut content, mut letters) = (String::new(), text.char_indices());
    while let Some((at, letter)) = letters.next() {
        match letter {
            '\0' => break,
            '\\' if quote == '\'' => match letters.next() {
                Some((_, '0')) | None => break,
                Some((_, 'n')) => content.push('\n'),
                Some((_, 'r')) => content.push('\r'),
                Some((_, 't')) => content.push('\t'),
                Some((_, 'b')) => content.push('\u{8}'),
                Some((_, 'Z')) => content.push('\u{1a}'),
                Some((_, itself)) => content.push(itself),
            },
            letter if letter == quote => {
                if !text[at + 1..].starts_with(quote) {
                    let token = if quote == '`' { MariaToken::Name(content) } else { MariaToken::Text(content) };
                    return Ok((token, &text[at + 1..]));
                }
                letters.next();
                content.push(quote);
            }
            other => content.push(other),
        }
    }
    Err(not_understood(text))
}

/// The text itself may hold the hash of a password.
fn not_understood(rest: &str) -> Error {
    let unread = rest.len();
    Error::integrity(format!("what is said of users and grants is not understood, {unread} bytes before its end"))
        .hint("use the version of Lifeboat that wrote the snapshot, or a newer one")
}

/// A name as SQL.
pub(super) fn name(name: &str) -> String {
    format!("`{}`", name.replace('`', "``"))
}

/// A text as SQL, for a session with an empty `sql_mode`.
pub(super) fn text(text: &str) -> String {
    format!("'{}'", text.replace('\\', "\\\\").replace('\'', "''").replace('\n', "\\n").replace('\r', "\\r"))
}

/// Tokens as SQL.
pub(super) fn written(tokens: &[MariaToken]) -> String {
    let mut sql = String::new();
    // Where a name is made of several tokens, they stand together.
    let mut glued = true;
    for token in tokens {
        let (written, glues) = match token {
            MariaToken::Word(word) => (word.clone(), false),
            MariaToken::Name(own) => (name(own), false),
            MariaToken::Text(own) => (text(own), false),
            MariaToken::Mark(mark) => (mark.to_string(), matches!(mark, '.' | '@' | '(')),
        };
        let follows = matches!(token, MariaToken::Mark('.' | '@' | ')' | ','));
        if !glued && !follows {
            sql.push(' ');
        }
        sql.push_str(&written);
        glued = glues;
    }
    sql
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn statements_are_written_as_the_server_tells_them() {
        for sql in [
            "GRANT SELECT, INSERT (`a`, `b``c`) ON `sh\\_p%`.`t` TO `plain`@`%` WITH GRANT OPTION",
            "CREATE USER ``@`nowhere` REQUIRE ISSUER '/CN=it''s' SUBJECT '\\\\x\\n'",
            "GRANT ALL PRIVILEGES ON *.* TO `root`@`localhost`",
        ] {
            assert_eq!(written(&statement(sql).unwrap()), sql);
            assert_eq!(statements(&format!("{sql};\n{sql} ;\n")).unwrap(), vec![statement(sql).unwrap(); 2]);
        }
    }

    #[test]
    fn what_is_no_token_is_refused() {
        for sql in
            ["GRANT -- x", "GRANT /*!1 x */", "# x", "SET @a = 1", "SELECT \"x\"", "\\! id", "'open", "`open", "'\0'"]
        {
            assert!(statement(sql).is_err(), "{sql}");
        }
        assert!(statements("GRANT x TO y").is_err());
        // A mark in quotes is no mark.
        assert_eq!(statements("GRANT `a;b` TO ';';").unwrap().len(), 1);
    }
}
