//! Queries of the operator: one command of Redis, which may only read. What counts is the first
//! element of the answer that is not nil; if there is none, nothing was found.

use lifeboat_base::{Error, Result};

use crate::database::WorkContext;
use crate::proof::{CheckResult, DrillQuery, QueryAnswer, Unanswered};
use crate::redis::connect::RedisConnection;
use crate::redis::replies::RedisReply;

/// So much of what was expected and found is told.
const MAX_TOLD_CHARS: usize = 200;
/// What the server says to a typing error.
const TYPING_ERRORS: [&str; 3] = ["ERR unknown command", "ERR unknown subcommand", "ERR wrong number of arguments"];
/// What it says to somebody who may not.
const NOT_ALLOWED: &str = "NOPERM";

/// Runs one query.
///
/// # Errors
/// The server cannot be asked.
pub(super) async fn ask(connection: &RedisConnection, wanted: &DrillQuery, cx: &WorkContext) -> Result<QueryAnswer> {
    let typing_error = |said: &str| {
        Error::configuration(format!("the drill's query `{}` is no command of Redis: {said}", wanted.sql))
            .hint("correct it in [dataset.drill] queries")
    };
    let named = wanted.database.as_deref().unwrap_or("0");
    let check = wanted.sql.clone();
    let failed = |detail: String, typing_error| Ok(Err(Unanswered { check: check.clone(), detail, typing_error }));
    let Ok(database) = named.parse::<u64>() else {
        return failed("no number".to_owned(), Some(typing_error("its database is no number")));
    };
    let Some(words) = words(&wanted.sql) else {
        return failed("no command".to_owned(), Some(typing_error("its quotation marks do not fit")));
    };
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    match connection.ask_in(database, &words, cx).await? {
        RedisReply::Refused(why) => {
            let odd = TYPING_ERRORS.iter().any(|begin| why.starts_with(begin)).then(|| typing_error(&why));
            let detail = match why.starts_with(NOT_ALLOWED) {
                true => format!("a query may only read: {}", why.escape_debug()),
                false => why.escape_debug().to_string(),
            };
            failed(detail, odd)
        }
        RedisReply::Values(_) if !wanted.wants_result() => {
            Ok(Ok(CheckResult { check, passed: true, detail: "ran".to_owned() }))
        }
        RedisReply::Values(values) => {
            let (passed, told) = judged(&values, wanted);
            Ok(Ok(CheckResult { check, passed, detail: format!("{told} in database {database}") }))
        }
    }
}

/// Whether the first value is as expected, and what is told of it. A key that is missing has no
/// value, and is not as one that is empty.
fn judged(values: &[Vec<u8>], wanted: &DrillQuery) -> (bool, String) {
    let first = values.first().map(|value| String::from_utf8_lossy(value));
    let (passed, told) = wanted.judge(first.as_deref());
    let short: String = told.chars().take(MAX_TOLD_CHARS).collect();
    let more = if short.len() < told.len() { "…" } else { "" };
    (passed, format!("{}{more}", short.escape_debug()))
}

/// The words of a command. A word with blanks stands in quotation marks of either kind; there is no
/// way to write these within themselves. `None` if there is no word, or a mark is not closed.
fn words(command: &str) -> Option<Vec<String>> {
    let (mut words, mut rest) = (Vec::new(), command.trim());
    while let Some(first) = rest.chars().next() {
        let (word, after) = match first {
            '"' | '\'' => {
                let (word, after) = rest[1..].split_once(first)?;
                (after.is_empty() || after.starts_with(char::is_whitespace)).then_some((word, after))?
            }
            _ => rest.split_at(rest.find(char::is_whitespace).unwrap_or(rest.len())),
        };
        words.push(word.to_owned());
        rest = after.trim_start();
    }
    // A word that looks like an option would be one of the client.
    (words.first().is_some_and(|word| word.starts_with(|letter: char| letter.is_ascii_alphabetic()))).then_some(words)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_is_not_empty_and_what_is_found_is_told_in_one_short_line() {
        let judged = |values: &[Vec<u8>], expected: &str| {
            judged(values, &DrillQuery { expect: Some(expected.to_owned()), ..DrillQuery::default() })
        };
        assert_eq!(judged(&[], ""), (false, "expected an empty text, found nothing".to_owned()));
        assert_eq!(judged(&[Vec::new()], ""), (true, "expected an empty text, found an empty text".to_owned()));
        assert_eq!(judged(&[b"a\n\x1b[2J".to_vec()], "a"), (false, "expected a, found a\\n\\u{1b}[2J".to_owned()));
        let (passed, told) = judged(&[vec![b'x'; 1000]], "x");
        assert!(!passed && told.len() < 300 && told.ends_with('…'), "{told}");
    }

    #[test]
    fn commands_are_split_into_words() {
        assert_eq!(words(" GET  a:1 ").unwrap(), ["GET", "a:1"]);
        assert_eq!(words("HGET 'a b' \"it's\" ''").unwrap(), ["HGET", "a b", "it's", ""]);
        for odd in ["", "  ", "GET 'a", "GET \"a\"b", "--rdb -", "-x GET", "'' a"] {
            assert_eq!(words(odd), None, "{odd}");
        }
    }
}
