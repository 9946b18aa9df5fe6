//! Files with holes: where their data is, and how an archive says so.
//!
//! It is GNU tar's sparse format 1.0 of pax archives: the map stands before the data, as decimal
//! numbers in lines, in whole blocks. A file with more pieces than [`MAX_PIECES`] has its last one
//! reach to its end, so the rest of its holes is stored as zeros.

use std::io;
use std::os::fd::AsFd;

use rustix::fs::{SeekFrom, seek};
use rustix::io::Errno;

use super::BLOCK_BYTES;

/// So many pieces of data are told apart.
const MAX_PIECES: usize = 4096;
/// So long a map can be: three numbers of 20 digits a piece are more than there can be.
pub(super) const MAX_MAP_BYTES: usize = MAX_PIECES * 64;
/// A hole in a shorter file saves nothing.
pub(super) const MIN_SPARSE_BYTES: u64 = 64 << 10;

/// Where the data of a file is: pieces in order, apart from each other.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct DataMap(Vec<(u64, u64)>);

impl DataMap {
    /// All of it.
    pub(super) fn whole(length: u64) -> Self {
        Self(if length == 0 { Vec::new() } else { vec![(0, length)] })
    }

    /// Asks the file system for the data of a file of this length.
    pub(super) fn of(file: impl AsFd, length: u64) -> io::Result<Self> {
        let (mut pieces, mut at) = (Vec::new(), 0);
        while at < length {
            let begin = match seek(&file, SeekFrom::Data(at)) {
                Ok(begin) => begin.min(length),
                Err(Errno::NXIO) => break,
                // A file system that knows no holes.
                Err(Errno::INVAL | Errno::OPNOTSUPP) => return Ok(Self::whole(length)),
                Err(error) => return Err(error.into()),
            };
            let last = pieces.len() + 1 == MAX_PIECES;
            let end = if last { length } else { hole_after(&file, begin, length)? };
            if begin < end {
                pieces.push((begin, end - begin));
            }
            at = end.max(begin + 1);
        }
        Ok(Self(pieces))
    }

    pub(super) fn is_whole(&self, length: u64) -> bool {
        *self == Self::whole(length)
    }

    /// Offset and length of each piece.
    pub(super) fn pieces(&self) -> impl Iterator<Item = (u64, u64)> + '_ {
        self.0.iter().copied()
    }

    /// How many bytes of data there are.
    pub(super) fn bytes(&self) -> u64 {
        self.pieces().map(|(_, length)| length).sum()
    }

    /// The map of a file of this length, in whole blocks. Where the file ends with a hole, an empty
    /// piece stands at its end.
    pub(super) fn to_blocks(&self, length: u64) -> Vec<u8> {
        let end = self.0.last().map_or(0, |(offset, length)| offset + length);
        let tail = (end < length).then_some((length, 0));
        let mut text = format!("{}\n", self.0.len() + usize::from(tail.is_some()));
        for (offset, length) in self.pieces().chain(tail) {
            text.push_str(&format!("{offset}\n{length}\n"));
        }
        let mut blocks = text.into_bytes();
        blocks.resize(blocks.len().next_multiple_of(BLOCK_BYTES), 0);
        blocks
    }
}

/// Where the data from `begin` on ends.
fn hole_after(file: impl AsFd, begin: u64, length: u64) -> io::Result<u64> {
    match seek(&file, SeekFrom::Hole(begin)) {
        // The file became shorter just now.
        Err(Errno::NXIO) => Ok(length),
        found => Ok(found?.clamp(begin, length)),
    }
}

/// A map that is being read, number by number.
#[derive(Debug, Default)]
pub(super) struct MapReader {
    numbers: Vec<u64>,
    digits: String,
    expected: Option<usize>,
}

impl MapReader {
    /// Takes the next block. `Ok(true)` once the map is complete.
    ///
    /// # Errors
    /// It is no map.
    pub(super) fn take(&mut self, block: &[u8; BLOCK_BYTES]) -> Result<bool, &'static str> {
        for byte in block {
            let is_complete = self.expected.is_some_and(|expected| self.numbers.len() == expected);
            match byte {
                0 if is_complete => {}
                b'0'..=b'9' if !is_complete && self.digits.len() < 20 => self.digits.push(char::from(*byte)),
                b'\n' if !is_complete => {
                    let number: u64 = self.digits.parse().map_err(|_| "its map of holes holds no number")?;
                    self.digits.clear();
                    match self.expected {
                        // The empty piece at the end comes on top.
                        None if number > MAX_PIECES as u64 + 1 => return Err("its map of holes is too long"),
                        None => self.expected = Some(number as usize * 2),
                        Some(_) => self.numbers.push(number),
                    }
                }
                _ => return Err("its map of holes is none"),
            }
        }
        Ok(self.expected == Some(self.numbers.len()))
    }

    /// The map, which must be one of a file of this length.
    pub(super) fn finish(self, length: u64) -> Result<DataMap, &'static str> {
        let (mut pieces, mut end) = (Vec::new(), 0u64);
        for &[offset, piece] in self.numbers.as_chunks::<2>().0 {
            let reach = offset.checked_add(piece).filter(|reach| *reach <= length);
            let (true, Some(reach)) = (offset >= end, reach) else {
                return Err("its map of holes does not fit its length");
            };
            end = reach;
            if piece > 0 {
                pieces.push((offset, piece));
            }
        }
        Ok(DataMap(pieces))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    fn read(blocks: &[u8], length: u64) -> Result<DataMap, &'static str> {
        let mut reader = MapReader::default();
        let (blocks, rest) = blocks.as_chunks::<BLOCK_BYTES>();
        assert!(rest.is_empty());
        let (last, before) = blocks.split_last().unwrap();
        for block in before {
            assert_eq!(reader.take(block), Ok(false));
        }
        if reader.take(last)? { reader.finish(length) } else { Err("not complete") }
    }

    #[test]
    fn a_map_survives_its_blocks() {
        let many = DataMap((0..MAX_PIECES as u64).map(|at| (at << 50, 4096)).collect());
        for (map, length) in [
            (DataMap::default(), 1 << 40),
            (DataMap(vec![(4096, 4096)]), 8192),
            (DataMap(vec![(0, 10), (1 << 62, 7)]), (1 << 62) + 7),
            (many, u64::MAX),
        ] {
            let blocks = map.to_blocks(length);
            assert!(blocks.len() <= MAX_MAP_BYTES);
            assert_eq!(read(&blocks, length), Ok(map));
        }
    }

    #[test]
    fn a_map_that_does_not_fit_is_refused() {
        let blocks = |text: &str| {
            let mut blocks = text.as_bytes().to_vec();
            blocks.resize(blocks.len().next_multiple_of(BLOCK_BYTES).max(BLOCK_BYTES), 0);
            blocks
        };
        assert!(read(&blocks("1\n0\n100\n"), 100).is_ok());
        for bad in [
            "1\n0\n101\n",
            "2\n50\n10\n40\n10\n",
            "2\n0\n60\n50\n10\n",
            "1\n18446744073709551615\n2\n",
            "9999999\n",
            "1\n-1\n2\n",
            "1\n\n2\n",
            "1\n0\n1\n5",
            "99999999999999999999999\n",
            "",
        ] {
            assert!(read(&blocks(bad), 100).is_err(), "{bad:?}");
        }
    }
}
