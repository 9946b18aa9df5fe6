//! Compares streams but for what only tells of the moment of their capture, such as a position in a
//! log. It stands at the beginning and at the end of a stream.

use lifeboat_base::Result;

use crate::streams::StreamReader;

/// What is looked at, at either end, in bytes.
const EDGE_BYTES: usize = 8 << 10;

/// What of a stream only tells of the moment of its capture.
#[derive(Clone, Copy)]
pub struct PassingMarks {
    /// Takes it out of the beginning.
    pub(crate) head: fn(&mut Vec<u8>),
    /// Takes it out of the end. What is given begins within the stream.
    pub(crate) tail: fn(&mut Vec<u8>),
    /// Sees the whole stream, if what is taken out must be right.
    pub(crate) check: Option<fn() -> Box<dyn StreamCheck>>,
}

/// Says of a stream that passes whether it is right.
pub(crate) trait StreamCheck: Send {
    /// Sees the next piece.
    fn see(&mut self, piece: &[u8]) -> Result<()>;

    /// The stream has ended.
    fn end(self: Box<Self>) -> Result<()>;
}

impl std::fmt::Debug for PassingMarks {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("PassingMarks")
    }
}

impl PassingMarks {
    /// The longest difference between two streams that are the same without it, in bytes.
    pub const MAX_BYTES: u64 = EDGE_BYTES as u64;

    /// The BLAKE3 of a stream without it. It reads the stream to its checked end.
    ///
    /// # Errors
    /// Those of the stream, or it is not right.
    pub async fn digest(self, mut reader: Box<dyn StreamReader>) -> Result<[u8; 32]> {
        let (mut hasher, mut check) = (blake3::Hasher::new(), self.check.map(|check| check()));
        let (mut held, mut is_behind_head) = (Vec::new(), false);
        while let Some(piece) = reader.next().await? {
            check.as_mut().map_or(Ok(()), |check| check.see(&piece))?;
            held.extend_from_slice(&piece);
            if !is_behind_head && held.len() >= 2 * EDGE_BYTES {
                let mut head: Vec<u8> = held.drain(..EDGE_BYTES).collect();
                (self.head)(&mut head);
                hasher.update(&head);
                is_behind_head = true;
            }
            if is_behind_head {
                let settled = held.len().saturating_sub(EDGE_BYTES);
                hasher.update(&held[..settled]);
                held.drain(..settled);
            }
        }
        check.map_or(Ok(()), StreamCheck::end)?;
        if !is_behind_head {
            (self.head)(&mut held);
        }
        (self.tail)(&mut held);
        hasher.update(&held);
        Ok(*hasher.finalize().as_bytes())
    }
}

/// A line that only tells of the moment: how it begins, and what the rest of it must be.
#[derive(Clone, Copy)]
pub(crate) struct PassingLine {
    pub(crate) begin: &'static [u8],
    /// Without the end of the line.
    pub(crate) is_rest: fn(&[u8]) -> bool,
}

impl PassingLine {
    /// Takes the rest of the first of them out of the beginning of a stream.
    pub(crate) fn take_first(self, head: &mut Vec<u8>) {
        let found = (0..head.len()).find_map(|at| self.at(head, at));
        found.map(|rest| head.drain(rest));
    }

    /// Takes the rest of the last of them out of the end of a stream.
    pub(crate) fn take_last(self, tail: &mut Vec<u8>) {
        let found = (1..tail.len()).rev().find_map(|at| self.at(tail, at));
        found.map(|rest| tail.drain(rest));
    }

    /// The rest of the line that begins there.
    fn at(self, text: &[u8], at: usize) -> Option<std::ops::Range<usize>> {
        let begins = at == 0 || text[at - 1] == b'\n';
        let rest = text[at..].strip_prefix(self.begin).filter(|_| begins)?;
        let length = rest.iter().position(|byte| *byte == b'\n')?;
        let begin = at + self.begin.len();
        (self.is_rest)(&rest[..length]).then(|| begin..begin + length)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use async_trait::async_trait;
    use bytes::Bytes;

    use super::*;

    struct Pieces(std::vec::IntoIter<Bytes>);

    #[async_trait]
    impl StreamReader for Pieces {
        async fn next(&mut self) -> Result<Option<Bytes>> {
            Ok(self.0.next())
        }
    }

    const AT: PassingLine = PassingLine { begin: b"-- AT ", is_rest: is_number };
    const UNTIL: PassingLine = PassingLine { begin: b"-- UNTIL ", is_rest: is_number };
    const MARKS: PassingMarks =
        PassingMarks { head: |head| AT.take_first(head), tail: |tail| UNTIL.take_last(tail), check: None };

    fn is_number(rest: &[u8]) -> bool {
        rest.strip_suffix(b";").is_some_and(|number| number.iter().all(u8::is_ascii_digit))
    }

    async fn digest(text: &str, piece: usize) -> [u8; 32] {
        let pieces: Vec<Bytes> = text.as_bytes().chunks(piece).map(Bytes::copy_from_slice).collect();
        MARKS.digest(Box::new(Pieces(pieces.into_iter()))).await.unwrap()
    }

    #[tokio::test]
    async fn streams_are_the_same_but_for_their_marks_however_they_are_cut() {
        for rows in [1, 2000, 20_000] {
            let text = |at: &str, row: &str, until: &str| {
                format!("-- dump\n-- AT {at};\n{}{row}\n-- UNTIL {until};\n-- end\n", "(1,2),\n".repeat(rows))
            };
            let (one, other) = (text("7", "x", "9"), text("1234567", "x", "10"));
            let expected = digest(&one, one.len()).await;
            for piece in [7, 4096, 100_000] {
                assert_eq!(digest(&other, piece).await, expected, "{rows} {piece}");
            }
            assert_ne!(digest(&text("7", "y", "9"), 4096).await, expected);
            // Only at the edges, one line of each, and nothing else in it.
            assert_ne!(digest(&text("7; x", "x", "9"), 4096).await, expected);
            assert_ne!(digest(&text("7", "-- AT 8;", "9"), 4096).await, expected);
            assert_ne!(digest(&text("7", "x", "9;\n-- UNTIL 10"), 4096).await, expected);
        }
    }
}
