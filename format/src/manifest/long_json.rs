//! Reads the JSON of a long manifest while it is decompressed, so that nobody holds it whole: at
//! ten terabytes it takes 60 MiB. All that is checked of a short one is checked here, too.

use std::io::{self, BufReader, Read};

use serde::Deserialize;
use serde::de::DeserializeOwned;

use crate::requirements::Head;
use crate::strict::{Nesting, Object};

/// The JSON of a manifest is long if it has more bytes.
pub(super) const LONG_JSON_BYTES: u64 = 8 << 20;
/// No more is kept of what was decompressed before, as two to this power: 8 MiB. Writers of long
/// manifests keep 2 MiB.
const WINDOW_LOG: u32 = 23;
const PIECE_BYTES: usize = 64 << 10;

/// What a frame of JSON says that requires nothing unknown. `None`: it is damaged, requires what is
/// not known, or cannot be read in this way. Whoever holds the whole of it can tell which.
///
/// `length` is how many bytes its JSON has, as the frame claims: more are not read.
pub(super) fn read<T: DeserializeOwned>(frame: &[u8], length: u64) -> Option<T> {
    let head: Head = read_as(frame, length)?;
    head.requires.check("").ok()?;
    read_as(frame, length)
}

fn read_as<T: DeserializeOwned>(frame: &[u8], left: u64) -> Option<T> {
    let mut decoder = zstd::stream::read::Decoder::with_buffer(frame).ok()?.single_frame();
    decoder.window_log_max(WINDOW_LOG).ok()?;
    let mut line = JsonLine { inner: decoder, nesting: Nesting::default(), cut: Vec::new(), ended: false, left };
    let mut json = serde_json::Deserializer::from_reader(BufReader::with_capacity(PIECE_BYTES, &mut line));
    let Object(found) = Object::<T>::deserialize(&mut json).ok()?;
    json.end().ok()?;
    drop(json);
    (line.ended && line.cut.is_empty()).then_some(found)
}

/// Passes one line of UTF-8 that is not nested too deep, and refuses everything else.
struct JsonLine<R> {
    inner: R,
    nesting: Nesting,
    /// A character of which the rest is still to come.
    cut: Vec<u8>,
    /// Its line break has come.
    ended: bool,
    /// So many bytes may still come.
    left: u64,
}

impl<R: Read> Read for JsonLine<R> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let length = self.inner.read(out)?;
        self.left =
            self.left.checked_sub(length as u64).ok_or_else(|| io::Error::other("this is longer than it claims"))?;
        let piece = &out[..length];
        let is_right = piece.is_empty()
            || !self.ended && self.is_one_line(piece) && !self.nesting.is_too_deep(piece) && self.is_text(piece);
        if is_right { Ok(length) } else { Err(io::Error::other("this is no line of JSON")) }
    }
}

impl<R> JsonLine<R> {
    fn is_one_line(&mut self, piece: &[u8]) -> bool {
        let end = piece.iter().position(|byte| *byte == b'\n');
        self.ended = end.is_some();
        end.is_none_or(|end| end + 1 == piece.len())
    }

    fn is_text(&mut self, mut piece: &[u8]) -> bool {
        while !self.cut.is_empty()
            && let Some((next, rest)) = piece.split_first()
        {
            self.cut.push(*next);
            piece = rest;
            match std::str::from_utf8(&self.cut) {
                Ok(_) => self.cut.clear(),
                Err(error) if error.error_len().is_some() => return false,
                Err(_) => {}
            }
        }
        match std::str::from_utf8(piece) {
            Err(error) if error.error_len().is_some() => false,
            Err(error) => {
                self.cut.extend_from_slice(&piece[error.valid_up_to()..]);
                true
            }
            Ok(_) => true,
        }
    }
}

#[cfg(test)]
mod tests {
    use lifeboat_base::Result;

    use super::*;
    use crate::frames;
    use crate::requirements;

    #[derive(Debug, PartialEq, Deserialize)]
    struct Sample {
        text: String,
    }

    /// What the whole line and the stream say of it.
    fn both(line: &[u8]) -> Result<(Option<Sample>, Option<Sample>)> {
        let whole = line.strip_suffix(b"\n").filter(|line| !line.contains(&b'\n'));
        let whole = whole.and_then(|_| requirements::read_json(line, "a line").ok());
        Ok((whole, read(&frames::compress(3, line)?, line.len() as u64)))
    }

    #[test]
    fn says_what_the_whole_line_says() -> Result<()> {
        // Characters of several bytes lie across the pieces in which it is read.
        let text: String = "äöü€😀".repeat(40_000);
        let good = format!("{{\"requires\":[],\"text\":\"{text}\",\"new\":\"{text}\"}}\n");
        let (whole, streamed) = both(good.as_bytes())?;
        assert!(streamed.is_some() && whole == streamed);
        let end = good.len() - 4;
        let mut broken = good.clone().into_bytes();
        broken[end] = 0xff;
        let deep = format!("{{\"requires\":[],\"text\":\"x\",\"new\":{}{}}}\n", "[".repeat(200), "]".repeat(200));
        let bad = [
            broken,
            deep.into_bytes(),
            good.trim_end().as_bytes().to_vec(),
            format!("{good}\n").into_bytes(),
            good.replacen(':', "\n:", 1).into_bytes(),
            good.replacen("[]", "[\"unheard-of\"]", 1).into_bytes(),
            good.replacen("text", "other", 1).into_bytes(),
            format!("[{}]\n", good.trim_end()).into_bytes(),
            format!("{}{{}}\n", good.trim_end()).into_bytes(),
            b"\n".to_vec(),
            Vec::new(),
        ];
        for (number, line) in bad.iter().enumerate() {
            assert_eq!(both(line)?, (None, None), "line {number} passed");
        }
        let frame = frames::compress(3, good.as_bytes())?;
        for length in [0, 10, frame.len() / 2, frame.len() - 1] {
            assert_eq!(read::<Sample>(&frame[..length], LONG_JSON_BYTES), None, "a frame of {length} bytes passed");
        }
        Ok(())
    }

    #[test]
    fn no_more_is_read_than_the_frame_claims() -> Result<()> {
        let line = b"{\"requires\":[],\"text\":\"one\"}\n";
        let frame = frames::compress(3, line)?;
        assert!(read::<Sample>(&frame, line.len() as u64).is_some());
        assert!(read::<Sample>(&frame, line.len() as u64 - 1).is_none());
        Ok(())
    }
}
