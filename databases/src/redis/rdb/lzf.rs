//! LZF, the compression of strings in RDB files, as a stream: only the last 8 KiB of what it gives
//! are kept. (So no small string of a liar makes a large one in memory, as it would with a library
//! that needs both as a whole.)
//!
//! A control byte below 32 is followed by that many bytes and one more. Any other holds a length of
//! three bits and the high bits of a distance; 7 means that the length goes on in the next byte.

use std::io::Read;

use lifeboat_base::Result;

use super::input::{RdbInput, damaged};

/// No distance is longer.
const LZF_WINDOW_BYTES: usize = 8 << 10;
/// What is collected before it is given out.
const LZF_FLUSH_BYTES: usize = 64 << 10;

/// Reads `compressed` bytes, which must make `length` bytes, and gives these to `out`.
pub(super) fn decompress<R: Read>(
    input: &mut RdbInput<R>,
    compressed: u64,
    length: u64,
    out: &mut dyn FnMut(&[u8]) -> Result<()>,
) -> Result<()> {
    let mut left = Left(compressed);
    let mut made: Vec<u8> = Vec::new();
    // How much of `made` was given out, and how much was before it.
    let (mut given, mut before) = (0, 0_u64);
    while left.0 > 0 {
        let control = left.byte(input)?;
        let literal = usize::from(control) + 1;
        if control < 32 {
            left.take(literal as u64)?;
            input.raw(literal as u64, &mut |chunk| {
                made.extend_from_slice(chunk);
                Ok(())
            })?;
        } else {
            let mut copied = usize::from(control >> 5) + 2;
            if control >> 5 == 7 {
                copied += usize::from(left.byte(input)?);
            }
            let distance = (usize::from(control & 0x1f) << 8 | usize::from(left.byte(input)?)) + 1;
            let Some(mut from) = made.len().checked_sub(distance) else {
                return Err(damaged("a compressed string refers to what is not there"));
            };
            for _ in 0..copied {
                made.push(made[from]);
                from += 1;
            }
        }
        if before + made.len() as u64 > length {
            return Err(damaged("a compressed string is longer than it says"));
        }
        if made.len() >= LZF_FLUSH_BYTES {
            out(&made[given..])?;
            let passed = made.len() - LZF_WINDOW_BYTES;
            made.drain(..passed);
            given = LZF_WINDOW_BYTES;
            before += passed as u64;
        }
    }
    match before + made.len() as u64 == length {
        true => out(&made[given..]),
        false => Err(damaged("a compressed string is shorter than it says")),
    }
}

/// How many compressed bytes are left.
struct Left(u64);

impl Left {
    fn take(&mut self, bytes: u64) -> Result<()> {
        self.0 = self.0.checked_sub(bytes).ok_or_else(|| damaged("a compressed string ends in the middle"))?;
        Ok(())
    }

    fn byte<R: Read>(&mut self, input: &mut RdbInput<R>) -> Result<u8> {
        self.take(1)?;
        input.byte()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    fn decompressed(bytes: &[u8], length: u64) -> Result<Vec<u8>> {
        let mut made = Vec::new();
        decompress(&mut RdbInput::new(bytes), bytes.len() as u64, length, &mut |chunk| {
            made.extend_from_slice(chunk);
            Ok(())
        })?;
        Ok(made)
    }

    #[test]
    fn literals_and_references_are_read() {
        assert_eq!(decompressed(&[2, b'a', b'b', b'c', 0x20, 2, 0, b'!'], 7).unwrap(), b"abcabc!");
        // What a server wrote for 58 letters.
        let written = [1, b'x', b'x', 0xe0, 0x2d, 0, 1, b'x', b'x'];
        assert_eq!(decompressed(&written, 58).unwrap(), vec![b'x'; 58]);
    }

    #[test]
    fn far_references_work_behind_the_first_flush() {
        let mut bytes = vec![31];
        let beginning: Vec<u8> = (0..32).collect();
        bytes.extend(&beginning);
        let (mut expected, mut length) = (beginning, 32);
        while length < 300_000 {
            bytes.extend([0xe0, 200, 31]);
            for _ in 0..209 {
                expected.push(expected[length - 32]);
                length += 1;
            }
        }
        assert_eq!(decompressed(&bytes, length as u64).unwrap(), expected);
    }

    #[test]
    fn what_does_not_fit_its_length_is_refused() {
        let good = [2, b'a', b'b', b'c', 0x20, 2];
        assert!(decompressed(&good, 6).is_ok());
        for (bytes, length) in
            [(&good[..], 5), (&good, 7), (&good[..5], 6), (&good[..3], 3), (&[0x20, 0], 3), (&[0, b'a', 0x20, 1], 4)]
        {
            assert!(decompressed(bytes, length).is_err(), "{bytes:x?}");
        }
    }
}
