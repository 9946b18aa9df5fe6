//! What `redis-cli --no-raw` prints, read back: texts in quotes with escapes, one element a line.

use lifeboat_base::{Error, Result};

/// An answer of a server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum RedisReply {
    /// It refused, and says why.
    Refused(String),
    /// The elements, those of lists in lists one after the other. What is nil is left out.
    Values(Vec<Vec<u8>>),
}

/// Reads what the client printed.
///
/// # Errors
/// It is not what the client prints.
pub(super) fn reply(printed: &[u8]) -> Result<RedisReply> {
    let printed = printed.strip_suffix(b"\n").unwrap_or(printed);
    if let Some(why) = printed.strip_prefix(b"(error) ") {
        let why = String::from_utf8_lossy(why);
        // What follows may be a password or a value.
        let why = why.split_once(", with args beginning with:").map_or(&*why, |(why, _)| why);
        return Ok(RedisReply::Refused(why.trim().to_owned()));
    }
    let mut values = Vec::new();
    for line in printed.split(|byte| *byte == b'\n') {
        let element = without_numbers(line);
        if element.is_empty() || matches!(element, b"(nil)" | b"(empty array)" | b"(empty list or set)") {
            continue;
        }
        let number = element.strip_prefix(b"(integer) ").or_else(|| element.strip_prefix(b"(double) "));
        values.push(match (number, element.strip_prefix(b"\"")) {
            (Some(number), _) => number.to_vec(),
            (None, Some(quoted)) => unquoted(quoted)?,
            (None, None) => element.to_vec(),
        });
    }
    Ok(RedisReply::Values(values))
}

/// A line without the numbers of list elements in front of it, such as ` 1) 12) `.
fn without_numbers(mut line: &[u8]) -> &[u8] {
    loop {
        let trimmed = line.trim_ascii_start();
        let digits = trimmed.iter().take_while(|byte| byte.is_ascii_digit()).count();
        match trimmed[digits..].strip_prefix(b") ") {
            Some(rest) if digits > 0 => line = rest,
            _ => return trimmed,
        }
    }
}

/// A text behind its first quotation mark.
fn unquoted(quoted: &[u8]) -> Result<Vec<u8>> {
    let odd = || Error::source_failed("redis-cli gave an unexpected answer");
    let quoted = quoted.strip_suffix(b"\"").ok_or_else(odd)?;
    let (mut text, mut bytes) = (Vec::with_capacity(quoted.len()), quoted.iter().copied());
    while let Some(byte) = bytes.next() {
        let escaped = match byte {
            b'\\' => bytes.next().ok_or_else(odd)?,
            b'"' => return Err(odd()),
            _ => {
                text.push(byte);
                continue;
            }
        };
        text.push(match escaped {
            b'n' => b'\n',
            b'r' => b'\r',
            b't' => b'\t',
            b'a' => 7,
            b'b' => 8,
            b'\\' | b'"' => escaped,
            b'x' => {
                let digits = [bytes.next().ok_or_else(odd)?, bytes.next().ok_or_else(odd)?];
                let digits = std::str::from_utf8(&digits).map_err(|_| odd())?;
                u8::from_str_radix(digits, 16).map_err(|_| odd())?
            }
            _ => return Err(odd()),
        });
    }
    Ok(text)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    fn values(printed: &str) -> Vec<String> {
        match reply(printed.as_bytes()).unwrap() {
            RedisReply::Values(values) => {
                values.iter().map(|value| String::from_utf8_lossy(value).into_owned()).collect()
            }
            RedisReply::Refused(why) => panic!("{why}"),
        }
    }

    #[test]
    fn answers_are_read_back() {
        assert_eq!(values("\"a \\\"b\\\" \\\\ \\r\\n\\t\\x07\\a\"\n"), ["a \"b\" \\ \r\n\t\u{7}\u{7}"]);
        assert_eq!(values("OK\n"), ["OK"]);
        assert_eq!(values("(integer) -5\n"), ["-5"]);
        assert_eq!(values(" 1) \"x\"\n10) \"(integer) 1\"\n11) (nil)\n"), ["x", "(integer) 1"]);
        assert_eq!(values("1) 1) \"1-1\"\n   2) 1) \"a\"\n      2) \"b\"\n"), ["1-1", "a", "b"]);
        assert_eq!(values("(empty array)\n"), Vec::<String>::new());
        let refused = reply(b"(error) NOPERM this user has no permissions\n").unwrap();
        assert_eq!(refused, RedisReply::Refused("NOPERM this user has no permissions".to_owned()));
        for odd in ["\"open\n", "\"a\\q\"\n", "\"a\\x1\"\n", "\"a\"b\"\n", "\"a\\\"\n"] {
            assert!(reply(odd.as_bytes()).is_err(), "{odd}");
        }
    }
}
