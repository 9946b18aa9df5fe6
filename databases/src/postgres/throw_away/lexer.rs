//! Where SQL text is quoted: as much of PostgreSQL's lexical rules as tells whether a line begins
//! inside a string, a quoted name, a dollar-quoted body or a block comment. (PostgreSQL manual,
//! "Lexical Structure".)
//!
//! Assumes `standard_conforming_strings = on`, as every dump sets it. Reads byte by byte, so pieces
//! may end anywhere.

/// The state between two bytes.
#[derive(Debug, Clone, Default)]
pub(crate) struct Lexer {
    state: State,
    /// The last two bytes, outside quotes.
    before: [u8; 2],
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
enum State {
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
    /// After a quote in a string: its end, or the first of a doubled one.
    StringEnd {
        escapes: bool,
    },
    /// After `$`, perhaps the beginning of a tag.
    Tag(Vec<u8>),
    /// In a body; so many bytes of its closing tag were seen.
    Body {
        close: Vec<u8>,
        seen: usize,
    },
}

impl Lexer {
    /// Whether what comes next is not inside quotes or a block comment.
    pub(crate) fn is_plain(&self) -> bool {
        matches!(self.state, State::Plain | State::LineComment | State::StringEnd { .. } | State::Tag(_))
    }

    pub(crate) fn update(&mut self, bytes: &[u8]) {
        bytes.iter().for_each(|byte| self.step(*byte));
    }

    fn step(&mut self, byte: u8) {
        match &mut self.state {
            State::Plain => self.plain(byte),
            State::LineComment => {
                if byte == b'\n' {
                    self.go(State::Plain);
                }
            }
            State::BlockComment => {
                let end = self.before[1] == b'*' && byte == b'/';
                self.before = [self.before[1], byte];
                if end {
                    self.go(State::Plain);
                }
            }
            State::Name => {
                if byte == b'"' {
                    self.go(State::Plain);
                }
            }
            State::String { escapes } => match byte {
                b'\'' => self.state = State::StringEnd { escapes: *escapes },
                b'\\' if *escapes => self.state = State::Escaped,
                _ => {}
            },
            State::Escaped => self.state = State::String { escapes: true },
            State::StringEnd { escapes } => {
                if byte == b'\'' {
                    self.state = State::String { escapes: *escapes };
                } else {
                    self.go(State::Plain);
                    self.plain(byte);
                }
            }
            State::Tag(tag) => {
                if byte == b'$' {
                    let close = [b"$", tag.as_slice(), b"$"].concat();
                    self.state = State::Body { close, seen: 0 };
                } else if is_word(byte) && !(tag.is_empty() && byte.is_ascii_digit()) {
                    tag.push(byte);
                } else {
                    self.go(State::Plain);
                    self.plain(byte);
                }
            }
            State::Body { close, seen } => {
                *seen = match byte {
                    byte if close.get(*seen) == Some(&byte) => *seen + 1,
                    b'$' => 1,
                    _ => 0,
                };
                if *seen == close.len() {
                    self.go(State::Plain);
                }
            }
        }
    }

    fn plain(&mut self, byte: u8) {
        let [earlier, last] = self.before;
        self.before = [last, byte];
        match byte {
            b'\'' => self.state = State::String { escapes: matches!(last, b'e' | b'E') && !is_word(earlier) },
            b'"' => self.state = State::Name,
            b'-' if last == b'-' => self.state = State::LineComment,
            b'*' if last == b'/' => self.go(State::BlockComment),
            b'$' if !is_word(last) => self.state = State::Tag(Vec::new()),
            _ => {}
        }
    }

    fn go(&mut self, state: State) {
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
