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
    /// Takes it out of the end.
    pub(crate) tail: fn(&mut Vec<u8>),
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
    /// Those of the stream.
    pub async fn digest(self, mut reader: Box<dyn StreamReader>) -> Result<[u8; 32]> {
        let mut hasher = blake3::Hasher::new();
        let (mut held, mut is_behind_head) = (Vec::new(), false);
        while let Some(piece) = reader.next().await? {
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
        if !is_behind_head {
            (self.head)(&mut held);
        }
        (self.tail)(&mut held);
        hasher.update(&held);
        Ok(*hasher.finalize().as_bytes())
    }
}

/// Takes out the first line that begins like this; from the end of `text`, the last one.
pub(crate) fn take_line(text: &mut Vec<u8>, begin: &[u8], from_the_end: bool) {
    let is_begin = |at: &usize| (*at == 0 || text[at - 1] == b'\n') && text[*at..].starts_with(begin);
    let found = match from_the_end {
        true => (0..text.len()).rev().find(is_begin),
        false => (0..text.len()).find(is_begin),
    };
    if let Some(at) = found {
        let end = text[at..].iter().position(|byte| *byte == b'\n').map_or(text.len(), |length| at + length + 1);
        text.drain(at..end);
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

    const MARKS: PassingMarks = PassingMarks {
        head: |head| take_line(head, b"-- AT ", false),
        tail: |tail| take_line(tail, b"-- UNTIL ", true),
    };

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
            // Only at the edges, and one line of each.
            assert_ne!(digest(&text("7", "-- AT 8;", "9"), 4096).await, expected);
            assert_ne!(digest(&text("7", "x", "9;\n-- UNTIL 10"), 4096).await, expected);
        }
    }
}
