//! Lines of a dump, piece by piece, in bounded memory.
//!
//! A row is one line, and can be as long as a server can hold one. So a line of at most
//! [`MAX_WHOLE_LINE_BYTES`] comes as a whole, and a longer one in parts.

/// No more of a line is kept.
const MAX_WHOLE_LINE_BYTES: usize = 1 << 20;

/// A line, or a part of one. None has the line break.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum LinePart<'a> {
    /// A whole line.
    Whole(&'a [u8]),
    /// The first part of a longer line.
    Begin(&'a [u8]),
    /// One more part of it.
    More(&'a [u8]),
    /// The longer line has ended.
    End,
}

/// Cuts pieces into lines.
#[derive(Debug, Default)]
pub(super) struct Lines {
    kept: Vec<u8>,
    /// Whether the line at work came in parts.
    long: bool,
}

impl Lines {
    /// Gives the lines of `piece` to `each`, in order.
    ///
    /// # Errors
    /// The first of `each`.
    pub(super) fn cut<E>(
        &mut self,
        mut piece: &[u8],
        each: &mut impl FnMut(LinePart<'_>) -> Result<(), E>,
    ) -> Result<(), E> {
        while let Some(end) = piece.iter().position(|byte| *byte == b'\n') {
            let line = &piece[..end];
            piece = &piece[end + 1..];
            match (self.long, self.kept.is_empty()) {
                (true, _) => {
                    self.long = false;
                    each(LinePart::More(line))?;
                    each(LinePart::End)?;
                }
                (false, true) => each(LinePart::Whole(line))?,
                (false, false) => {
                    self.kept.extend_from_slice(line);
                    each(LinePart::Whole(&self.kept))?;
                    self.kept.clear();
                }
            }
        }
        if self.long {
            return each(LinePart::More(piece));
        }
        self.kept.extend_from_slice(piece);
        if self.kept.len() > MAX_WHOLE_LINE_BYTES {
            self.long = true;
            each(LinePart::Begin(&self.kept))?;
            self.kept.clear();
        }
        Ok(())
    }

    /// Whether the last line has its line break.
    pub(super) fn is_at_end(&self) -> bool {
        self.kept.is_empty() && !self.long
    }
}

/// Follows quotes through the statements of a dump: names and texts can hold line breaks, and lines
/// that look like those of the dump.
#[derive(Debug, Default)]
pub(super) struct Quotes {
    /// The quote that is open.
    open: Option<u8>,
    /// Whether the last byte of a text was `\\`.
    escaped: bool,
}

impl Quotes {
    /// Whether a name or text is open.
    pub(super) fn are_open(&self) -> bool {
        self.open.is_some()
    }

    /// Sees the beginning of a line. A comment is no statement.
    pub(super) fn see_begin(&mut self, line: &[u8]) {
        if self.are_open() || !line.starts_with(b"--") {
            self.see(line);
        }
    }

    /// Sees more of a line, or its line break.
    pub(super) fn see(&mut self, text: &[u8]) {
        for byte in text {
            match (self.open, byte) {
                (Some(_), _) if self.escaped => self.escaped = false,
                (Some(b'\'' | b'"'), b'\\') => self.escaped = true,
                (Some(open), byte) if *byte == open => self.open = None,
                (None, b'`' | b'\'' | b'"') => self.open = Some(*byte),
                _ => {}
            }
        }
    }
}

/// How a line begins that sets the delimiter.
const DELIMITER_MARK: &[u8] = b"DELIMITER ";

/// Follows the delimiter of statements, which a dump sets to `;;` around routines, triggers and
/// events. What they hold can look like anything, so `;` is believed only after a line that ends
/// with `;;`.
#[derive(Debug, Default)]
pub(super) struct Delimiter {
    is_other: bool,
    /// The last two bytes of the line before, or of what was seen of this one.
    tail: [u8; 2],
}

impl Delimiter {
    /// Whether it is `;`.
    pub(super) fn is_plain(&self) -> bool {
        !self.is_other
    }

    /// Sees the beginning of a line that is in no quotes.
    pub(super) fn see_begin(&mut self, line: &[u8]) {
        if let Some(set) = line.strip_prefix(DELIMITER_MARK)
            && (!self.is_other || self.tail == *b";;")
        {
            self.is_other = set != b";";
        }
        self.tail = [0; 2];
        self.see_more(line);
    }

    /// Sees more of the line, or its line break.
    pub(super) fn see_more(&mut self, more: &[u8]) {
        let more = more.strip_suffix(b"\n").unwrap_or(more);
        for byte in more.iter().skip(more.len().saturating_sub(2)) {
            self.tail = [self.tail[1], *byte];
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn quotes_are_open_until_they_are_closed() {
        for (sql, open) in [
            ("SELECT 'a", true),
            ("SELECT 'it''s \\' `", true),
            ("SELECT 'it''s \\\\' , \"`\\\"\"", false),
            ("CREATE TABLE `a``'\"\\`", false),
            ("CREATE TABLE `a``", true),
            ("-- of `a'b", false),
            ("/*!50001 `", true),
        ] {
            let mut quotes = Quotes::default();
            quotes.see_begin(sql.as_bytes());
            assert_eq!(quotes.are_open(), open, "{sql}");
            let mut in_parts = Quotes::default();
            in_parts.see_begin(&sql.as_bytes()[..2]);
            sql.as_bytes()[2..].iter().for_each(|byte| in_parts.see(&[*byte]));
            assert!(in_parts.are_open() == open || sql.starts_with("--"), "{sql}");
        }
    }

    #[test]
    fn a_delimiter_ends_only_after_its_own_end() {
        let mut delimiter = Delimiter::default();
        for (line, plain) in [
            ("SELECT 1;", true),
            ("DELIMITER ;;", false),
            ("CREATE PROCEDURE p() BEGIN /* paste:", false),
            ("DELIMITER ;", false),
            ("*/ SELECT 1; END ;;", false),
            ("DELIMITER ;", true),
        ] {
            delimiter.see_begin(line.as_bytes());
            assert_eq!(delimiter.is_plain(), plain, "{line}");
        }
        delimiter.see_begin(b"DELIMITER ;;");
        delimiter.see_begin(b"long ");
        [&b"line"[..], b";", b";", b""].iter().for_each(|more| delimiter.see_more(more));
        delimiter.see_begin(b"DELIMITER ;");
        assert!(delimiter.is_plain());
    }

    #[test]
    fn lines_are_the_same_however_the_pieces_are_cut() {
        let long = "x".repeat(3 << 20);
        let text = format!("a\n\nb\n{long}\nc\n{long}\n");
        for size in [1 << 10, 4097, 1 << 20, text.len()] {
            let (mut lines, mut found, mut parts) = (Lines::default(), Vec::<Vec<u8>>::new(), 0);
            let mut each = |part: LinePart<'_>| {
                match part {
                    LinePart::Whole(line) | LinePart::Begin(line) => found.push(line.to_vec()),
                    LinePart::More(more) => found.last_mut().unwrap().extend_from_slice(more),
                    LinePart::End => parts += 1,
                }
                Ok::<_, ()>(())
            };
            for piece in text.as_bytes().chunks(size) {
                lines.cut(piece, &mut each).unwrap();
            }
            let joined: Vec<&[u8]> = text.strip_suffix('\n').unwrap().split('\n').map(str::as_bytes).collect();
            assert_eq!(found, joined, "{size}");
            assert!(lines.is_at_end());
            assert!(parts == 2 || size >= text.len(), "{size}");
        }
    }
}
