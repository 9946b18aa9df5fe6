//! Knows where SQL text is quoted: whether a line begins inside a string, a quoted name, a
//! dollar-quoted body or a block comment (PostgreSQL manual, "Lexical Structure").
//!
//! It assumes `standard_conforming_strings = on`, which every dump sets. It reads byte by byte, so
//! pieces may end anywhere.

/// The state between two bytes.
#[derive(Debug, Clone, Default)]
pub(crate) struct Lexer {
    state: QuoteState,
    /// The last two bytes outside quotes.
    before: [u8; 2],
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
enum QuoteState {
    #[default]
    Plain,
    LineComment,
    BlockComment,
    Name,
    String {
        escapes: bool,
    },
    /// After a backslash in an `E''` string.
    Escaped,
    /// After a quote in a string, which is its end or the first of a doubled quote.
    StringEnd {
        escapes: bool,
    },
    /// After `$`, perhaps the beginning of a tag.
    Tag(Vec<u8>),
    /// In a body, after `seen` bytes of what may be its closing tag.
    Body {
        close: Vec<u8>,
        seen: usize,
    },
}

impl Lexer {
    /// Whether the next byte is outside quotes and block comments.
    pub(crate) fn is_plain(&self) -> bool {
        matches!(
            self.state,
            QuoteState::Plain | QuoteState::LineComment | QuoteState::StringEnd { .. } | QuoteState::Tag(_)
        )
    }

    pub(crate) fn update(&mut self, bytes: &[u8]) {
        bytes.iter().for_each(|byte| self.step(*byte));
    }

    fn step(&mut self, byte: u8) {
        match &mut self.state {
            QuoteState::Plain => self.plain(byte),
            QuoteState::LineComment => {
                if byte == b'\n' {
                    self.go(QuoteState::Plain);
                }
            }
            QuoteState::BlockComment => {
                let end = self.before[1] == b'*' && byte == b'/';
                self.before = [self.before[1], byte];
                if end {
                    self.go(QuoteState::Plain);
                }
            }
            QuoteState::Name => {
                if byte == b'"' {
                    self.go(QuoteState::Plain);
                }
            }
            QuoteState::String { escapes } => match byte {
                b'\'' => self.state = QuoteState::StringEnd { escapes: *escapes },
                b'\\' if *escapes => self.state = QuoteState::Escaped,
                _ => {}
            },
            QuoteState::Escaped => self.state = QuoteState::String { escapes: true },
            QuoteState::StringEnd { escapes } => {
                if byte == b'\'' {
                    self.state = QuoteState::String { escapes: *escapes };
                } else {
                    self.go(QuoteState::Plain);
                    self.plain(byte);
                }
            }
            QuoteState::Tag(tag) => {
                if byte == b'$' {
                    let close = [b"$", tag.as_slice(), b"$"].concat();
                    self.state = QuoteState::Body { close, seen: 0 };
                } else if is_word(byte) && !(tag.is_empty() && byte.is_ascii_digit()) {
                    tag.push(byte);
                } else {
                    self.go(QuoteState::Plain);
                    self.plain(byte);
                }
            }
            QuoteState::Body { close, seen } => {
                *seen = match byte {
                    byte if close.get(*seen) == Some(&byte) => *seen + 1,
                    b'$' => 1,
                    _ => 0,
                };
                if *seen == close.len() {
                    self.go(QuoteState::Plain);
                }
            }
        }
    }

    fn plain(&mut self, byte: u8) {
        let [earlier, last] = self.before;
        self.before = [last, byte];
        match byte {
            b'\'' => self.state = QuoteState::String { escapes: matches!(last, b'e' | b'E') && !is_word(earlier) },
            b'"' => self.state = QuoteState::Name,
            b'-' if last == b'-' => self.state = QuoteState::LineComment,
            b'*' if last == b'/' => self.go(QuoteState::BlockComment),
            b'$' if !is_word(last) => self.state = QuoteState::Tag(Vec::new()),
            _ => {}
        }
    }

    fn go(&mut self, state: QuoteState) {
        self.state = state;
        self.before = [0; 2];
    }
}

fn is_word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_' || byte >= 0x80
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plain_after(text: &str) -> bool {
        let mut lexer = Lexer::default();
        lexer.update(text.as_bytes());
        lexer.is_plain()
    }

    #[test]
    fn knows_what_is_quoted() {
        for quoted in [
            "SELECT 'a",
            "SELECT 'it''s",
            "SELECT E'a\\'",
            "SELECT \"na",
            "AS $$ body",
            "AS $_$ a $$ b",
            "AS $a$ $b$ $",
            "/* comment ' ",
            "SELECT 'a -- b\n",
            "$$ 'x",
            "SELECT 'a\\' 'b",
        ] {
            assert!(!plain_after(quoted), "{quoted} counts as plain");
        }
        for plain in [
            "SELECT 'a'",
            "SELECT 'it''s'",
            "SELECT E'a\\''",
            "SELECT 'a\\'",
            "SELECT \"na'me\"",
            "AS $$ ' body $$;",
            "AS $_$ ' $$ $_$",
            "/* it's */",
            "-- it's\n",
            "SELECT $1",
            "SELECT a$b$c",
            "type'x'",
            "SELECT 1 - 2",
            "$a$ $$a$",
        ] {
            assert!(plain_after(plain), "{plain} counts as quoted");
        }
    }
}
