//! The rows of a stream, for whoever counts or compares them. They are given in pieces, so that a
//! long row takes no more memory than a short one.

use lifeboat_base::Result;

use crate::streams::StreamReader;

/// Takes rows, one after the other.
pub trait RowSink: Send {
    /// The rows that come next are of this table, or of whatever else the words name.
    fn table(&mut self, name: &str) -> Result<()>;

    /// The next bytes of a row.
    fn bytes(&mut self, bytes: &[u8]);

    /// The row is complete.
    ///
    /// # Errors
    /// It cannot be counted.
    fn end(&mut self) -> Result<()>;
}

/// Gives the lines of a stream to `sink`, and reads it to its checked end. A last line may lack its
/// line break.
///
/// # Errors
/// Those of the stream, or of `sink`.
pub(crate) async fn lines(reader: &mut dyn StreamReader, sink: &mut dyn RowSink) -> Result<()> {
    let mut is_within = false;
    while let Some(piece) = reader.next().await? {
        is_within = split(&piece, is_within, sink)?;
    }
    if is_within { sink.end() } else { Ok(()) }
}

/// Gives the lines of a piece. Returns whether the last of them goes on.
///
/// # Errors
/// Those of `sink`.
pub(crate) fn split(piece: &[u8], mut is_within: bool, sink: &mut dyn RowSink) -> Result<bool> {
    for part in piece.split_inclusive(|byte| *byte == b'\n') {
        let line = part.strip_suffix(b"\n");
        sink.bytes(line.unwrap_or(part));
        is_within = line.is_none();
        if !is_within {
            sink.end()?;
        }
    }
    Ok(is_within)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;
    use crate::streams::Once;

    #[derive(Default)]
    struct Heard(Vec<String>, String);

    impl RowSink for Heard {
        fn table(&mut self, _: &str) -> Result<()> {
            Ok(())
        }

        fn bytes(&mut self, bytes: &[u8]) {
            self.1.push_str(&String::from_utf8_lossy(bytes));
        }

        fn end(&mut self) -> Result<()> {
            self.0.push(std::mem::take(&mut self.1));
            Ok(())
        }
    }

    #[tokio::test]
    async fn lines_are_given_whole_and_once() {
        for (text, expected) in
            [("", &[][..]), ("a", &["a"]), ("a\n", &["a"]), ("a\n\nb", &["a", "", "b"]), ("\n\n", &["", ""])]
        {
            let mut heard = Heard::default();
            lines(&mut Once(Some(text.into())), &mut heard).await.unwrap();
            assert_eq!(heard.0, expected, "{text:?}");
            let (mut heard, mut is_within) = (Heard::default(), false);
            for byte in text.bytes() {
                is_within = split(&[byte], is_within, &mut heard).unwrap();
            }
            heard.0.extend(is_within.then(|| heard.1.clone()));
            assert_eq!(heard.0, expected, "{text:?}");
        }
    }
}
