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

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

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
