//! Follows the statements of a dump as the stock client does, to tell what is a statement's own
//! text from what stands in a name, a text, a comment or the body of a routine.
//!
//! Whoever may make a routine or a trigger writes a part of a dump: its body can hold lines that
//! look like the end of the body, and like the dump's comments after it. The client is not misled,
//! as it follows quotes and comments under every delimiter. So this does the same, byte by byte:
//! `DELIMITER` counts only where a line begins between two statements. `sql_mode` of the session
//! decides what a backslash means, so the dump's own `SET sql_mode` is followed, too.

use super::encodings::{self, Wide};

/// So many bytes of a line decide what the first of them means: the longest delimiter.
const LOOK_AHEAD: usize = 16;
/// So much of a statement is kept, to know those that set `sql_mode`.
const MAX_STATEMENT_HEAD_BYTES: usize = 4 << 10;
const DELIMITER_COMMAND: &[u8] = b"DELIMITER";
/// A dump sets `;`, and as many of them as its text does not hold.
const DELIMITERS: &[u8; LOOK_AHEAD] = b";;;;;;;;;;;;;;;;";
/// What a dump writes after each body.
const AFTER_BODY: &[u8] = b"/*!50003 SET sql_mode ";

/// What a byte stands in.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum Open {
    #[default]
    Nothing,
    /// A name or a text in these quotes.
    Quote(u8),
    Comment,
}

/// The statements of a dump, as far as it was read.
#[derive(Debug)]
pub(super) struct DumpStatements {
    open: Open,
    /// What ends a statement; `None` if it is no delimiter that a dump sets.
    delimiter: Option<&'static [u8]>,
    ansi_quotes: bool,
    no_backslash_escapes: bool,
    /// If the session's texts have characters of two bytes that mislead the client.
    wide: Option<Wide>,
    odd: Option<&'static str>,
    /// The beginning of the statement at work.
    kept: Vec<u8>,
    is_between: bool,
    line: LineState,
    /// The end of what was read of a line: what it means depends on what follows.
    ahead: Vec<u8>,
}

/// What is known of the line at work.
#[derive(Debug, Default)]
struct LineState {
    has_begun: bool,
    /// Whether any of it belongs to the statement at work.
    is_taken: bool,
    /// Whether a statement ended in it, and only blanks came since.
    is_after_end: bool,
    /// Whether it is in a comment `/*!`, which the server reads.
    is_conditional: bool,
    /// Whether the rest of it is a comment, or a command of the client.
    is_over: bool,
}

impl Default for DumpStatements {
    fn default() -> Self {
        Self {
            open: Open::Nothing,
            delimiter: Some(b";"),
            ansi_quotes: false,
            no_backslash_escapes: false,
            wide: None,
            odd: None,
            kept: Vec::new(),
            is_between: true,
            line: LineState::default(),
            ahead: Vec::new(),
        }
    }
}

impl DumpStatements {
    /// Whether no name, text or comment is open.
    pub(super) fn is_outside(&self) -> bool {
        self.open == Open::Nothing
    }

    /// Whether `;` ends a statement.
    pub(super) fn is_plain(&self) -> bool {
        self.delimiter == Some(b";")
    }

    /// Whether a dump's own comment can stand here, where a line begins: between two statements
    /// that `;` ends.
    pub(super) fn is_between(&self) -> bool {
        self.is_between && self.is_plain()
    }

    /// What stands in a body that the client and the server read differently, if there was any.
    pub(super) fn odd(&self) -> Option<&'static str> {
        self.odd
    }

    /// Sees a whole line, without its line break.
    pub(super) fn see_line(&mut self, line: &[u8]) {
        self.scan(line, true);
        self.begin_line();
    }

    /// Sees a part of a line.
    pub(super) fn see(&mut self, part: &[u8]) {
        let joined = [&std::mem::take(&mut self.ahead), part].concat();
        let seen = self.scan(&joined, false);
        self.ahead.extend_from_slice(&joined[seen..]);
    }

    /// Sees the line break after parts of a line.
    pub(super) fn end_line(&mut self) {
        let rest = std::mem::take(&mut self.ahead);
        self.see_line(&rest);
    }

    fn begin_line(&mut self) {
        if !self.is_between {
            self.keep(b"\n");
        }
        self.line = LineState::default();
    }

    /// Says that the statement at work has ended: its rest was read in another way.
    pub(super) fn end_statement(&mut self) {
        self.open = Open::Nothing;
        self.kept.clear();
        self.is_between = true;
        self.line = LineState::default();
        self.ahead.clear();
    }

    /// Returns how much of `text` was seen. All of it, if the line ends with it.
    fn scan(&mut self, text: &[u8], ends: bool) -> usize {
        if !self.line.has_begun && (ends || text.len() >= LOOK_AHEAD) {
            self.line.has_begun = true;
            if self.is_outside() {
                self.obey_command(text);
            } else if text.starts_with(AFTER_BODY) {
                self.odd = Some("a body that has no end");
            }
        }
        let mut at = 0;
        while !self.line.is_over && at < text.len() && (ends || text.len() - at >= LOOK_AHEAD) {
            let rest = &text[at..];
            match self.delimiter {
                Some(delimiter) if self.open == Open::Nothing && rest.starts_with(delimiter) => {
                    self.obey_statement();
                    at += delimiter.len();
                }
                _ => {
                    let (seen, is_text) = self.step(rest);
                    let seen = seen.min(rest.len());
                    if is_text {
                        self.keep(&rest[..seen]);
                        (self.is_between, self.line.is_taken, self.line.is_after_end) = (false, true, false);
                    }
                    at += seen;
                }
            }
        }
        if self.line.is_over { text.len() } else { at }
    }

    /// Looks at the first byte of `rest`. Returns how many bytes are thereby seen, and whether they
    /// belong to a statement.
    fn step(&mut self, rest: &[u8]) -> (usize, bool) {
        let opens = rest.starts_with(b"/*") && !rest.starts_with(b"/*!") && !rest.starts_with(b"/*M!");
        match (self.open, rest[0]) {
            (Open::Quote(quote), _) => return (self.quoted(quote, rest), true),
            (Open::Nothing, b'\\') => {
                // In its first line, a dump switches the client to its sandbox.
                if !rest.starts_with(b"\\N") && !rest.starts_with(b"\\-") {
                    self.odd = Some("a backslash outside of quotes");
                }
                return (2, true);
            }
            (Open::Nothing, b'#') => self.line.is_over = true,
            (Open::Nothing, b'-') if self.is_comment(rest) => self.line.is_over = true,
            (Open::Comment, b'/') if rest.starts_with(b"/*/") || rest.starts_with(b"/*!") => {
                self.odd = Some("`/*/` or `/*!` in a comment");
            }
            (_, b'/') if opens => {
                self.open = Open::Comment;
                return (2, true);
            }
            (Open::Comment, b'*') if !self.line.is_conditional && rest.starts_with(b"*/") => {
                self.open = Open::Nothing;
                return (2, true);
            }
            (_, b'/') if rest.starts_with(b"/*!") => self.line.is_conditional = true,
            (_, b'*') if rest.starts_with(b"*/") => self.line.is_conditional = false,
            (Open::Nothing, quote @ (b'\'' | b'"' | b'`')) => self.open = Open::Quote(quote),
            (Open::Nothing, blank) if self.line.is_after_end && is_blank(blank) => return (1, false),
            // The server asks the encoding of the session what a blank is.
            (Open::Nothing, b'-') if rest.starts_with(b"--") && rest.get(2).is_some_and(may_be_blank) => {
                self.odd = Some("`--` before a control character or one that is not ASCII");
            }
            // To the server, the second byte of a character, or not: after `@` it reads bytes.
            (Open::Nothing, byte) if self.wide.is_some() && !byte.is_ascii() && may_mislead(rest.get(1)) => {
                self.odd = Some("a character that may end in a backslash or a backquote");
            }
            _ => {}
        }
        (1, !self.line.is_over)
    }

    /// How many bytes of `rest` are in the quotes that are open, or end them.
    fn quoted(&mut self, quote: u8, rest: &[u8]) -> usize {
        let escapes = quote != b'`' && !(quote == b'"' && self.ansi_quotes) && !self.no_backslash_escapes;
        let is_sign = |byte: u8| byte == quote || (escapes && byte == b'\\');
        if self.wide.is_some_and(|wide| wide.begins(rest)) {
            // The client takes the second byte for itself.
            if is_sign(rest[1]) {
                self.odd = Some("a character that ends in a backslash or a backquote");
            }
            return 2;
        }
        let is_wide = |byte: u8| self.wide.is_some() && !byte.is_ascii();
        match rest.iter().position(|byte| is_sign(*byte) || is_wide(*byte)) {
            Some(end) if rest[end] == quote => {
                self.open = Open::Nothing;
                end + 1
            }
            // A byte that begins no character of two bytes.
            Some(0) if is_wide(rest[0]) => 1,
            // What is escaped must be here, too.
            Some(0) => 2,
            Some(next) => next,
            None => rest.len(),
        }
    }

    /// Whether two dashes begin a comment.
    fn is_comment(&self, rest: &[u8]) -> bool {
        let is_begin = self.is_between && !self.line.is_taken;
        rest.starts_with(b"--") && rest.get(2).is_none_or(|third| is_blank(*third) || is_begin)
    }

    fn keep(&mut self, text: &[u8]) {
        let room = MAX_STATEMENT_HEAD_BYTES.saturating_sub(self.kept.len());
        self.kept.extend_from_slice(&text[..text.len().min(room)]);
    }

    /// A command counts where a line begins between two statements.
    fn obey_command(&mut self, line: &[u8]) {
        let line = trimmed(line);
        let word = line.iter().position(|byte| is_blank(*byte)).unwrap_or(line.len());
        let (word, set) = line.split_at(word);
        if self.is_between && word.eq_ignore_ascii_case(DELIMITER_COMMAND) {
            let set = trimmed(set);
            self.delimiter = DELIMITERS.get(..set.len()).filter(|known| *known == set && !set.is_empty());
            self.line.is_over = true;
        }
    }

    /// A statement has ended.
    fn obey_statement(&mut self) {
        if trimmed(&self.kept)
            .get(..DELIMITER_COMMAND.len())
            .is_some_and(|word| word.eq_ignore_ascii_case(DELIMITER_COMMAND))
        {
            self.odd = Some("a statement that sets the delimiter");
        }
        match set_to(&self.kept, b"character_set_client").map(encoding) {
            Some(Some(wide)) => self.wide = wide,
            Some(None) => self.odd = Some("a session in an encoding that is not known"),
            None => {}
        }
        if let Some(mode) = set_to(&self.kept, b"sql_mode") {
            let has = |name: &[u8]| mode.windows(name.len()).any(|part| part.eq_ignore_ascii_case(name));
            (self.ansi_quotes, self.no_backslash_escapes) = (has(b"ANSI_QUOTES"), has(b"NO_BACKSLASH_ESCAPES"));
        }
        self.kept.clear();
        self.is_between = true;
        (self.line.is_taken, self.line.is_after_end) = (false, true);
    }
}

/// Whether the server may take this byte for a blank or a control character.
fn may_be_blank(byte: &u8) -> bool {
    byte.is_ascii_control() || !byte.is_ascii()
}

/// Whether this byte means something to the client.
fn may_mislead(byte: Option<&u8>) -> bool {
    matches!(byte, Some(b'\\' | b'`'))
}

/// As [`encodings::find`]. A variable keeps the encoding of the client.
fn encoding(set: &[u8]) -> Option<Option<Wide>> {
    let set = trimmed(set);
    let end = set.iter().position(|byte| !byte.is_ascii_alphanumeric()).unwrap_or(set.len());
    if set.starts_with(b"@") { Some(None) } else { encodings::find(&set[..end]) }
}

/// What a statement of a dump, such as `/*!50003 SET sql_mode = 'ANSI' */`, sets this variable to.
fn set_to<'t>(statement: &'t [u8], variable: &[u8]) -> Option<&'t [u8]> {
    let statement = trimmed(statement);
    let statement = statement.strip_prefix(b"/*!").or_else(|| statement.strip_prefix(b"/*M!")).unwrap_or(statement);
    let word = statement.iter().position(|byte| !byte.is_ascii_digit() && !is_blank(*byte))?;
    let set = after_word(&statement[word..], b"SET")?;
    after_word(set, variable)?.strip_prefix(b"=")
}

/// What follows this word and blanks.
fn after_word<'t>(text: &'t [u8], word: &[u8]) -> Option<&'t [u8]> {
    let (begin, rest) = text.split_at_checked(word.len())?;
    begin.eq_ignore_ascii_case(word).then(|| trimmed(rest))
}

/// Whether the client takes a byte for a blank.
fn is_blank(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t'..=b'\r')
}

fn trimmed(text: &[u8]) -> &[u8] {
    let begin = text.iter().position(|byte| !is_blank(*byte)).unwrap_or(text.len());
    let end = text.iter().rposition(|byte| !is_blank(*byte)).map_or(begin, |last| last + 1);
    &text[begin..end]
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The state after these lines: outside, plain, and between statements.
    fn after(lines: &str) -> (bool, bool, bool) {
        let (mut whole, mut parts) = (DumpStatements::default(), DumpStatements::default());
        for line in lines.split('\n') {
            whole.see_line(line.as_bytes());
            match line.starts_with("DELIMITER") {
                true => parts.see_line(line.as_bytes()),
                false => {
                    line.as_bytes().chunks(5).for_each(|part| parts.see(part));
                    parts.end_line();
                }
            }
        }
        let told = |it: &DumpStatements| (it.is_outside(), it.is_plain(), it.is_between());
        assert_eq!(told(&whole), told(&parts), "{lines}");
        told(&whole)
    }

    #[test]
    fn statements_end_outside_of_quotes_and_comments_alone() {
        for (lines, outside, between) in [
            ("SELECT 1;", true, true),
            ("SELECT 1;  -- and; more", true, true),
            ("SELECT 1", true, false),
            ("SELECT 'a;", false, false),
            ("SELECT 'it''s \\' ` \";", false, false),
            ("SELECT 'it''s \\\\' , \"`\\\"\";", true, true),
            ("CREATE TABLE `a``'\"\\`;", true, true),
            ("CREATE TABLE `a``;", false, false),
            ("-- of `a'b", true, true),
            ("--'", true, true),
            ("SELECT 1--'", false, false),
            ("# it's", true, true),
            ("SELECT 1 -- it's;\n;", true, true),
            ("/* it's; */ SELECT 1;", true, true),
            ("/* ; -- */", true, false),
            ("/*/ ; */;", true, true),
            ("/*!50001 `;", false, false),
            ("/*!50001 SET @a = '*/' */;", true, true),
            ("/*!50003 trigger t /* a */ x\n*/;", true, true),
            ("SELECT '\\\n';", true, true),
        ] {
            assert_eq!(after(lines), (outside, true, between), "{lines}");
        }
    }

    #[test]
    fn a_delimiter_counts_only_between_statements() {
        let body = |body: &str| format!("DELIMITER ;;\nCREATE TRIGGER t BEGIN {body}\nDELIMITER ;\n");
        for (lines, plain) in [
            (body("END ;;"), true),
            (body("/* x;;"), false),
            (body("SET @a = 'x;;"), false),
            (body("SET @a = `x;;"), false),
            (body("-- x;;"), false),
            (body("# x;;"), false),
            (body("SET @a = 'it\\'s;;"), false),
            (body("/* it's */ END ;;"), true),
            (body("END ;; -- it's"), true),
            (body("END ;; x"), false),
            (body("'\\' END ;;"), false),
            (body("\"\\\" END ;;"), false),
            ("DELIMITER ;;;;\nSELECT ';;' /*;;;*/ ;;;;\nDELIMITER ;".to_owned(), true),
            ("DELIMITER //\nSELECT 1//\nDELIMITER ;".to_owned(), false),
            ("  delimiter ;;\nSELECT 1;;\ndelimiter ;".to_owned(), true),
        ] {
            assert_eq!(after(&lines).1, plain, "{lines}");
        }
    }

    #[test]
    fn what_client_and_server_read_differently_is_told() {
        let odd = |text: &str| {
            let mut statements = DumpStatements::default();
            text.split('\n').for_each(|line| statements.see_line(line.as_bytes()));
            statements.odd()
        };
        let body = |body: &str| format!("DELIMITER ;;\nCREATE PROCEDURE p() {body} ;;\nDELIMITER ;\n");
        for (text, told) in [
            (body("SELECT 1 --\u{1} '\n-- '"), Some("control character")),
            (body("SELECT 1 --\u{b} '\n"), None),
            (body("SELECT 1 --\u{a0};; SELECT 2;; SELECT 1\nUNION SELECT 2"), Some("not ASCII")),
            (body("/* /*! */ -- */"), Some("in a comment")),
            (body("/* /*/ ' */ ;; SELECT 2 ;; '"), Some("in a comment")),
            (body("/* /* */ SELECT '/*!' -- /*!"), None),
            (body("SELECT \\C gbk"), Some("backslash")),
            (body("SELECT \\N, '\\C'"), None),
            (body("SELECT 'a"), None),
            (format!("{}/*!50003 SET sql_mode              = @saved_sql_mode */ ;", body("SELECT 'a")), Some("no end")),
            (" \nDELIMITER ;;\n;".to_owned(), Some("delimiter")),
        ] {
            let said = odd(&text);
            assert_eq!(said.is_some(), told.is_some(), "{text}: {said:?}");
            assert!(said.unwrap_or_default().contains(told.unwrap_or_default()), "{text}: {said:?}");
        }
    }

    #[test]
    fn the_second_byte_of_a_character_is_no_backslash_to_the_server() {
        for (charset, text, is_odd) in [
            ("gbk", b"SELECT '\xbf\\' -- ';".as_slice(), true),
            ("gbk", b"SELECT `\xbf`` -- `;", true),
            // After an @, the server reads byte by byte, and the second byte begins a character.
            ("gbk", b"SELECT @a\xa1\x81` -- `;", true),
            ("gbk", b"SELECT \x81\\;", true),
            // What ends no quotes, and escapes nothing, misleads nobody.
            ("sjis", b"SELECT '\x83`', `\x83\\`;", false),
            ("gbk", b"SELECT '\xd6\xd0', \"\xd6\xd0\";", false),
            // An escape after a character, and one before it.
            ("gbk", b"SELECT '\xd6\xd0\\n', '\\\xd6\xd0';", false),
            // What is escaped begins no character: both see two escapes.
            ("gbk", b"SELECT '\\\xbf\\'';", false),
            ("gbk", b"/* \xbf\\ */ SELECT 1;", false),
            ("sjis", b"SELECT '\x83\\' -- ';", true),
            // A character of one byte does not take the first byte of the next.
            ("sjis", b"SELECT '\xb1\x83\\' -- ';", true),
            ("sjis", b"SELECT '\xb1\\n';", false),
            ("cp932", b"SELECT '\x83\x83\\n';", false),
            ("big5", b"SELECT '\xa4\\' -- ';", true),
            ("big5", b"SELECT '\xa0\\n\xfa\\n';", false),
            ("gb18030", b"SELECT '\x81\x30\x81\x30\\n';", false),
            ("swe7", b"SELECT 1;", true),
            ("unheard", b"SELECT 1;", true),
            ("@saved_cs_client", b"SELECT '\xbf\\n';", false),
            ("utf8mb4", b"SELECT '\xbf\\n';", false),
            ("latin1", b"SELECT '\xbf\\n';", false),
        ] {
            for size in [1, 5, 1000] {
                let mut statements = DumpStatements::default();
                statements.see_line(format!("/*!50003 SET character_set_client  = {charset} */ ;").as_bytes());
                text.chunks(size).for_each(|part| statements.see(part));
                statements.end_line();
                let text = text.escape_ascii();
                assert_eq!(statements.odd().is_some(), is_odd, "{charset} {text}");
                assert!(is_odd || statements.is_between(), "{charset} {text}");
            }
        }
    }

    #[test]
    fn a_backslash_means_what_the_mode_of_the_session_says() {
        let with = |mode: &str, text: &str| {
            after(&format!("/*!50003 SET sql_mode              = {mode} */ ;\nSELECT {text};"))
        };
        let (open, closed) = ((false, true, false), (true, true, true));
        for (mode, text, expected) in [
            ("'STRICT_TRANS_TABLES'", "'\\'", open),
            ("'STRICT_TRANS_TABLES,NO_BACKSLASH_ESCAPES'", "'\\'", closed),
            ("'STRICT_TRANS_TABLES,NO_BACKSLASH_ESCAPES'", "\"\\\"", closed),
            ("'PIPES_AS_CONCAT,ANSI_QUOTES,ORACLE'", "\"\\\"", closed),
            ("'PIPES_AS_CONCAT,ANSI_QUOTES,ORACLE'", "'\\'", open),
        ] {
            assert_eq!(with(mode, text), expected, "{mode} {text}");
            assert_eq!(with("@saved_sql_mode", "'\\'"), open);
        }
        let body = "CREATE PROCEDURE p() SET sql_mode = 'NO_BACKSLASH_ESCAPES';\nSELECT '\\';";
        assert_eq!(after(body), open);
    }
}
