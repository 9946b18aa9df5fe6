//! Strings of an RDB file. Those of any length can be read in chunks; nothing is allocated for a
//! length before its bytes have come.

use std::io::Read;

use lifeboat_base::Result;

use super::input::{Length, RdbInput, damaged, unsupported};
use super::lzf;

/// Keys, and values that must be in memory as a whole, are not longer. A server's packed values end
/// a little above 1 GiB.
pub(super) const MAX_PIECE_BYTES: u64 = (1 << 30) + (16 << 20);
/// So much is reserved for a piece before its bytes come.
const MAX_RESERVED_BYTES: u64 = 1 << 20;

/// How a string is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum StringHead {
    Raw(u64),
    Number(i64),
    Compressed { compressed: u64, length: u64 },
}

/// A number as the text that the server shows for it.
pub(super) struct Decimal {
    digits: [u8; 20],
    begin: usize,
}

impl Decimal {
    pub(super) fn of(number: i64) -> Self {
        let mut decimal = Self { digits: [0; 20], begin: 20 };
        let mut rest = number.unsigned_abs();
        loop {
            decimal.push(b'0' + u8::try_from(rest % 10).unwrap_or_default());
            rest /= 10;
            if rest == 0 {
                break;
            }
        }
        if number < 0 {
            decimal.push(b'-');
        }
        decimal
    }

    fn push(&mut self, digit: u8) {
        self.begin -= 1;
        self.digits[self.begin] = digit;
    }

    pub(super) fn bytes(&self) -> &[u8] {
        &self.digits[self.begin..]
    }
}

impl<R: Read> RdbInput<R> {
    pub(super) fn string_head(&mut self) -> Result<StringHead> {
        Ok(match self.length_or_special()? {
            Length::Plain(length) => StringHead::Raw(length),
            Length::Special(0) => StringHead::Number(i64::from(i8::from_le_bytes(self.exact()?))),
            Length::Special(1) => StringHead::Number(i64::from(i16::from_le_bytes(self.exact()?))),
            Length::Special(2) => StringHead::Number(i64::from(i32::from_le_bytes(self.exact()?))),
            Length::Special(3) => StringHead::Compressed { compressed: self.length()?, length: self.length()? },
            Length::Special(_) => return Err(damaged("a string is written in an unknown way")),
        })
    }

    /// The bytes of the string with this head, chunk by chunk.
    fn string_after(&mut self, head: StringHead, out: &mut dyn FnMut(&[u8]) -> Result<()>) -> Result<()> {
        match head {
            StringHead::Raw(length) => self.raw(length, out),
            StringHead::Number(number) => out(Decimal::of(number).bytes()),
            StringHead::Compressed { compressed, length } => lzf::decompress(self, compressed, length, out),
        }
    }

    /// A string that must be in memory as a whole.
    pub(super) fn string(&mut self) -> Result<Vec<u8>> {
        let head = self.string_head()?;
        let length = match head {
            StringHead::Raw(length) | StringHead::Compressed { length, .. } => length,
            StringHead::Number(_) => 0,
        };
        if length > MAX_PIECE_BYTES {
            return Err(unsupported(&format!("a key or a packed value has {length} bytes")));
        }
        let mut string = Vec::with_capacity(usize::try_from(length.min(MAX_RESERVED_BYTES)).unwrap_or_default());
        self.string_after(head, &mut |chunk| {
            string.extend_from_slice(chunk);
            Ok(())
        })?;
        Ok(string)
    }

    /// Puts the length of a string and its bytes into a hash.
    pub(super) fn hash_string(&mut self, hasher: &mut blake3::Hasher) -> Result<()> {
        let head = self.string_head()?;
        let length = match head {
            StringHead::Raw(length) | StringHead::Compressed { length, .. } => length,
            StringHead::Number(number) => Decimal::of(number).bytes().len() as u64,
        };
        hasher.update(&length.to_le_bytes());
        self.string_after(head, &mut |chunk| {
            hasher.update(chunk);
            Ok(())
        })
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn numbers_read_as_text() {
        for number in [0, 7, -1, 10, -32768, i64::MAX, i64::MIN] {
            assert_eq!(Decimal::of(number).bytes(), number.to_string().as_bytes());
        }
    }

    #[test]
    fn a_length_of_a_liar_allocates_nothing() {
        let mut bytes = vec![0x81];
        bytes.extend(MAX_PIECE_BYTES.to_be_bytes());
        assert!(RdbInput::new(&bytes[..]).string().is_err());
        let mut hasher = blake3::Hasher::new();
        let all = [0x81, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, b'x'];
        assert!(RdbInput::new(&all[..]).hash_string(&mut hasher).is_err());
        assert!(RdbInput::new(&all[..]).string().is_err());
    }
}
