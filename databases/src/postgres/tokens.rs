//! Takes SQL text apart into statements of tokens, strictly: what the tools of PostgreSQL write is
//! understood, and nothing else.
//!
//! Nothing that was read here is ever passed on as it was. Who uses a statement takes its names and
//! texts, and writes a statement of its own with them, quoted anew. So a quote that is not closed,
//! a comment, a `$$` or a `\!` can at worst make a statement that is not understood.
//!
//! Text is bytes: all encodings that a database can have leave ASCII to itself.

use std::ops::Range;

/// A statement with more tokens is not understood: none of ours has as many.
const MAX_TOKENS: usize = 20_000;
/// Marks, those of operators included.
const MARKS: &[u8] = b"=,().[]*+-/<>~!@#%^&|?`";
/// No more of a statement's first words is told.
const MAX_KIND_BYTES: usize = 40;

/// A part of a statement.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Token {
    /// A keyword, or a name without quotes.
    Word(Vec<u8>),
    /// A name in double quotes.
    Quoted(Vec<u8>),
    /// A text in single quotes.
    Text(Vec<u8>),
    Number(Vec<u8>),
    Mark(u8),
}

/// A statement, without the semicolon that ends it.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Statement {
    /// The line in which it begins, from 1.
    pub(crate) line: usize,
    /// Where it stands, with the semicolon.
    pub(crate) place: Range<usize>,
    /// Its tokens; `None` if they are not understood.
    pub(crate) tokens: Option<Vec<Token>>,
}

impl Statement {
    /// Its first words, for people. They hold no value and no name that is quoted.
    pub(crate) fn kind(&self) -> String {
        let words = self.tokens.iter().flatten().map_while(|token| match token {
            Token::Word(word) if word.iter().all(u8::is_ascii_uppercase) => Some(String::from_utf8_lossy(word)),
            _ => None,
        });
        let words: Vec<_> = words.take(3).collect();
        let mut kind = if words.is_empty() { "text that is not understood".to_owned() } else { words.join(" ") };
        kind.truncate(MAX_KIND_BYTES);
        kind
    }
}

/// The statements of a text, in order.
pub(crate) struct Statements<'a> {
    text: &'a [u8],
    at: usize,
    line: usize,
}

/// What the next bytes of a statement are.
enum Lexed {
    Token(Token),
    /// A comment.
    Nothing,
    /// Something that no tool of PostgreSQL writes here.
    Strange,
}

impl<'a> Statements<'a> {
    pub(crate) fn new(text: &'a [u8]) -> Self {
        Self { text, at: 0, line: 1 }
    }

    fn peek(&self, ahead: usize) -> u8 {
        self.text.get(self.at + ahead).copied().unwrap_or_default()
    }

    fn step(&mut self) -> Option<u8> {
        let byte = *self.text.get(self.at)?;
        self.at += 1;
        self.line += usize::from(byte == b'\n');
        Some(byte)
    }

    fn line_end(&mut self) -> &'a [u8] {
        let from = self.at;
        while !matches!(self.step(), None | Some(b'\n')) {}
        &self.text[from..self.at]
    }

    /// Skips blanks and comments before a statement.
    fn blanks(&mut self) {
        loop {
            match self.peek(0) {
                b' ' | b'\t' | b'\n' | b'\r' => drop(self.step()),
                b'-' if self.peek(1) == b'-' => drop(self.line_end()),
                _ => break,
            }
        }
    }

    fn lex(&mut self) -> Lexed {
        let first = self.step().unwrap_or_default();
        match first {
            b'-' if self.peek(0) == b'-' => {
                self.line_end();
                Lexed::Nothing
            }
            b'\'' => self.text_token(false),
            b'E' if self.peek(0) == b'\'' => {
                self.step();
                self.text_token(true)
            }
            b'"' => match self.until_quote(b'"', false) {
                Some(name) if !name.is_empty() => Lexed::Token(Token::Quoted(name)),
                _ => Lexed::Strange,
            },
            b'/' if self.peek(0) == b'*' => {
                self.block_comment();
                Lexed::Strange
            }
            b'$' => {
                self.dollar_text();
                Lexed::Strange
            }
            b'0'..=b'9' => Lexed::Token(Token::Number(self.run(first, |byte| byte.is_ascii_digit()))),
            _ if MARKS.contains(&first) => Lexed::Token(Token::Mark(first)),
            _ if is_word(first) && !first.is_ascii_digit() => Lexed::Token(Token::Word(self.run(first, is_word))),
            _ => Lexed::Strange,
        }
    }

    fn run(&mut self, first: u8, belongs: impl Fn(u8) -> bool) -> Vec<u8> {
        let mut word = vec![first];
        while self.at < self.text.len() && belongs(self.peek(0)) {
            word.extend(self.step());
        }
        word
    }

    fn text_token(&mut self, escapes: bool) -> Lexed {
        self.until_quote(b'\'', escapes).map_or(Lexed::Strange, |text| Lexed::Token(Token::Text(text)))
    }

    /// What stands before the closing quote. `None` if there is none, or for an escape or a byte
    /// that the tools do not write.
    fn until_quote(&mut self, quote: u8, escapes: bool) -> Option<Vec<u8>> {
        let (mut text, mut good) = (Vec::new(), true);
        loop {
            match self.step()? {
                0 => good = false,
                b'\\' if escapes => {
                    good &= self.peek(0) == b'\\';
                    text.extend(self.step());
                }
                byte if byte == quote && self.peek(0) == quote => text.extend(self.step()),
                byte if byte == quote => return good.then_some(text),
                byte => text.push(byte),
            }
        }
    }

    fn block_comment(&mut self) {
        let mut depth = 1;
        self.step();
        while depth > 0 {
            match self.step() {
                None => return,
                Some(b'/') if self.peek(0) == b'*' => depth += 1,
                Some(b'*') if self.peek(0) == b'/' => depth -= 1,
                Some(_) => continue,
            }
            self.step();
        }
    }

    /// A text between two `$tag$`, of which the first `$` was read.
    fn dollar_text(&mut self) {
        let begin = self.at - 1;
        while is_word(self.peek(0)) {
            self.step();
        }
        if self.peek(0) != b'$' {
            return;
        }
        self.step();
        let tag = &self.text[begin..self.at];
        while self.at < self.text.len() && !self.text[self.at..].starts_with(tag) {
            self.step();
        }
        for _ in tag {
            self.step();
        }
    }
}

fn is_word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_' || byte >= 0x80
}

impl Iterator for Statements<'_> {
    type Item = Statement;

    fn next(&mut self) -> Option<Statement> {
        loop {
            self.blanks();
            let (line, begin) = (self.line, self.at);
            if self.at >= self.text.len() {
                return None;
            }
            // A line of `psql`. Newer tools frame what they write by `\restrict TOKEN`.
            if self.peek(0) == b'\\' {
                let words: Vec<&[u8]> = self.line_end().trim_ascii().split(|byte| *byte == b' ').collect();
                let frames = matches!(words[..], [b"\\restrict" | b"\\unrestrict", token] if token.iter().all(u8::is_ascii_alphanumeric));
                if frames {
                    continue;
                }
                return Some(Statement { line, place: begin..self.at, tokens: None });
            }
            let (mut tokens, mut good) = (Vec::new(), true);
            while self.at < self.text.len() && self.peek(0) != b';' {
                if matches!(self.peek(0), b' ' | b'\t' | b'\n' | b'\r') {
                    self.step();
                    continue;
                }
                match self.lex() {
                    Lexed::Token(token) if tokens.len() < MAX_TOKENS => tokens.push(token),
                    Lexed::Nothing => {}
                    Lexed::Token(_) | Lexed::Strange => good = false,
                }
            }
            good &= self.step() == Some(b';');
            if good && tokens.is_empty() {
                continue;
            }
            return Some(Statement { line, place: begin..self.at, tokens: good.then_some(tokens) });
        }
    }
}

/// Reads the tokens of one statement from the left.
#[derive(Clone, Copy)]
pub(crate) struct Reading<'t>(pub(crate) &'t [Token]);

impl<'t> Reading<'t> {
    /// The next token.
    pub(crate) fn next(&mut self) -> Option<&'t Token> {
        let (first, rest) = self.0.split_first()?;
        self.0 = rest;
        Some(first)
    }

    /// Whether these keywords come next; they are passed if so.
    pub(crate) fn words(&mut self, words: &[&str]) -> bool {
        let comes = words.len() <= self.0.len()
            && words.iter().zip(self.0).all(|(word, token)| *token == Token::Word(word.as_bytes().to_vec()));
        if comes {
            self.0 = &self.0[words.len()..];
        }
        comes
    }

    /// As [`Self::words`], as an answer for `?`.
    pub(crate) fn must(&mut self, words: &[&str]) -> Option<()> {
        self.words(words).then_some(())
    }

    /// Whether this mark comes next; it is passed if so.
    pub(crate) fn mark(&mut self, mark: u8) -> bool {
        let comes = self.0.first() == Some(&Token::Mark(mark));
        if comes {
            self.0 = &self.0[1..];
        }
        comes
    }

    /// A keyword.
    pub(crate) fn keyword(&mut self) -> Option<&'t str> {
        match self.next()? {
            Token::Word(word) => std::str::from_utf8(word).ok(),
            _ => None,
        }
    }

    /// A name. The tools write names without quotes in small letters, and keywords in capitals.
    pub(crate) fn name(&mut self) -> Option<&'t [u8]> {
        match self.next()? {
            Token::Quoted(name) => Some(name),
            Token::Word(name) if !name.iter().any(u8::is_ascii_uppercase) => Some(name),
            _ => None,
        }
    }

    /// The name of a role. No role is called `public`: that would be everybody.
    pub(crate) fn role(&mut self) -> Option<&'t [u8]> {
        let everybody = self.0.first() == Some(&Token::Word(b"public".to_vec()));
        if everybody { None } else { self.name() }
    }

    /// A text in single quotes.
    pub(crate) fn text(&mut self) -> Option<&'t [u8]> {
        match self.next()? {
            Token::Text(text) => Some(text),
            _ => None,
        }
    }

    /// A whole number.
    pub(crate) fn number(&mut self) -> Option<i64> {
        let negative = self.mark(b'-');
        match self.next()? {
            Token::Number(digits) => {
                let number: i64 = std::str::from_utf8(digits).ok()?.parse().ok()?;
                Some(if negative { -number } else { number })
            }
            _ => None,
        }
    }

    /// Whether all was read, as an answer for `?`.
    pub(crate) fn end(&self) -> Option<()> {
        self.0.is_empty().then_some(())
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    fn kinds(text: &str) -> Vec<(usize, String)> {
        Statements::new(text.as_bytes()).map(|statement| (statement.line, statement.kind())).collect()
    }

    fn one(text: &str) -> Vec<Token> {
        Statements::new(text.as_bytes()).next().unwrap().tokens.unwrap()
    }

    #[test]
    fn statements_end_at_semicolons_outside_quotes_and_comments() {
        let text = "-- a; comment\nCREATE ROLE \"a;b\nc\";\n\\restrict abc\nALTER ROLE x -- why;\n SET y TO 'a;''b';\nSELECT 1";
        assert_eq!(
            kinds(text),
            [
                (2, "CREATE ROLE".to_owned()),
                (5, "ALTER ROLE".to_owned()),
                (7, "text that is not understood".to_owned())
            ]
        );
        assert_eq!(
            one("COMMENT 'a''b' E'c\\\\d' \"e\"\"f\";")[1..],
            [Token::Text(b"a'b".to_vec()), Token::Text(b"c\\d".to_vec()), Token::Quoted(b"e\"f".to_vec())]
        );
    }

    #[test]
    fn what_no_tool_writes_is_not_understood_and_hides_nothing() {
        for strange in [
            "DO $$ ; CREATE ROLE x; $$;",
            "DO $a$ $b$ ; $$ ; $a$;",
            "SELECT /* ; /* ; */ ; */ 1;",
            "CREATE ROLE x \\! touch y\n;",
            "COMMENT E'\\x41';",
            "SELECT 1 \\ 1;",
            "SELECT :x;",
            "CREATE ROLE \"\";",
            "CREATE ROLE 'a\0b';",
            "CREATE ROLE \u{1};",
            "\\! touch y",
            "\\restrict a b",
            "\\restrict a;\\!",
            "\\connect x",
            "CREATE ROLE 'open",
            "CREATE ROLE \"open",
            "CREATE ROLE x",
        ] {
            let all: Vec<Statement> = Statements::new(strange.as_bytes()).collect();
            assert_eq!(all.len(), 1, "{strange}: {all:?}");
            assert_eq!(all[0].tokens, None, "{strange}");
        }
        assert_eq!(kinds("\\unrestrict abc\n \\restrict x1\n"), []);
    }

    #[test]
    fn names_without_quotes_are_not_keywords() {
        let tokens = one("a \"B\" CURRENT_USER public;");
        let mut reading = Reading(&tokens);
        assert_eq!(reading.name(), Some(&b"a"[..]));
        assert_eq!(reading.name(), Some(&b"B"[..]));
        assert_eq!((reading.name(), reading.role(), reading.name()), (None, None, Some(&b"public"[..])));
        assert!(Reading(&one("- 17;")).number() == Some(-17) && reading.end().is_some());
    }
}
