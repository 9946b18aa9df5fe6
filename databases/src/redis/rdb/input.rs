//! The bytes of an RDB file, with their checksum and position.
//!
//! Nothing is allocated for what a file only says.

use std::io::Read;

use crc_fast::{CrcAlgorithm, Digest};
use lifeboat_base::{Class, Error, Result};

/// What is read at once.
const RDB_BUFFER_BYTES: usize = 64 << 10;

/// No more is kept: servers take no longer argument of a command, unless they are told to.
pub(super) const MAX_KEPT_BYTES: usize = 512 << 20;

/// The file may be sound, but this version cannot read it.
pub(super) fn unsupported(what: &str) -> Error {
    Error::source_failed(format!("the Redis dump cannot be read: {what}"))
        .hint("restore it with --to-directory; set level = \"fetched\" for drills of this dataset")
}

/// The file is not as a server writes it.
pub(super) fn damaged(what: &str) -> Error {
    Error::integrity(format!("the Redis dump is damaged: {what}"))
        .hint("restore an older snapshot; run redis-check-rdb on a new dump of the server")
}

/// The file cannot be read. That says nothing about what is in it.
fn unreadable(error: std::io::Error) -> Error {
    let told = error.get_ref().and_then(|told| told.downcast_ref::<Error>());
    let (class, hint) = told.map_or((Class::Source, None), |told| (told.class(), told.hint_text()));
    let hint = hint.map(str::to_owned);
    let unreadable = Error::new(class, "cannot read the Redis dump").because(error);
    match hint {
        Some(hint) => unreadable.hint(hint),
        None => unreadable,
    }
}

/// What stands in the place of a length.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Length {
    Plain(u64),
    /// The number of a special encoding of a string.
    Special(u8),
}

/// An RDB file that is being read.
pub(super) struct RdbInput<R> {
    from: R,
    buffer: Vec<u8>,
    /// What of the buffer was not given out yet.
    begin: usize,
    end: usize,
    /// The checksum of all bytes before the buffer.
    digest: Digest,
    /// How many bytes are before the buffer.
    before: u64,
    /// The bytes since [`Self::mark`], if that came after the last [`Self::release`].
    kept: Option<Vec<u8>>,
}

impl<R: Read> RdbInput<R> {
    pub(super) fn new(from: R) -> Self {
        let digest = Digest::new(CrcAlgorithm::Crc64Redis);
        Self { from, buffer: vec![0; RDB_BUFFER_BYTES], begin: 0, end: 0, digest, before: 0, kept: None }
    }

    /// From here on, `first` and what is given out are kept.
    pub(super) fn mark(&mut self, first: u8) {
        self.kept = Some(vec![first]);
    }

    /// From here on, nothing is kept.
    pub(super) fn release(&mut self) {
        self.kept = None;
    }

    /// The bytes since the mark; none if nothing is kept.
    pub(super) fn marked(&self) -> &[u8] {
        self.kept.as_deref().unwrap_or_default()
    }

    /// How many bytes were given out.
    pub(super) fn position(&self) -> u64 {
        self.before + self.begin as u64
    }

    /// The checksum of all bytes that were given out.
    pub(super) fn checksum(&self) -> u64 {
        let mut digest = self.digest;
        digest.update(&self.buffer[..self.begin]);
        digest.finalize()
    }

    /// Reads more if there is nothing left. `false` at the end.
    fn fill(&mut self) -> Result<bool> {
        if self.begin < self.end {
            return Ok(true);
        }
        self.digest.update(&self.buffer[..self.end]);
        self.before += self.end as u64;
        (self.begin, self.end) = (0, 0);
        loop {
            match self.from.read(&mut self.buffer) {
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Err(error) => return Err(unreadable(error)),
                Ok(read) => {
                    self.end = read;
                    return Ok(read > 0);
                }
            }
        }
    }

    pub(super) fn is_at_end(&mut self) -> Result<bool> {
        Ok(!self.fill()?)
    }

    /// The next bytes, at least one and at most `most`.
    fn chunk(&mut self, most: u64) -> Result<&[u8]> {
        if !self.fill()? {
            return Err(damaged(&format!("it ends at byte {}, in the middle", self.position())));
        }
        let length = usize::try_from(most).unwrap_or(usize::MAX).min(self.end - self.begin);
        let chunk = &self.buffer[self.begin..self.begin + length];
        self.begin += length;
        if let Some(kept) = &mut self.kept {
            if kept.len() + chunk.len() > MAX_KEPT_BYTES {
                return Err(Error::source_failed(
                    "a value of the Redis dump has more than 512 MiB, and servers take no longer one by a command",
                )
                .hint(
                    "restore the files with --to-directory, and start the server with them: see Redis in OPERATIONS.md",
                ));
            }
            kept.extend_from_slice(chunk);
        }
        Ok(chunk)
    }

    pub(super) fn byte(&mut self) -> Result<u8> {
        Ok(self.chunk(1)?[0])
    }

    pub(super) fn exact<const N: usize>(&mut self) -> Result<[u8; N]> {
        let mut bytes = [0; N];
        let mut filled = 0;
        while filled < N {
            let chunk = self.chunk((N - filled) as u64)?;
            bytes[filled..filled + chunk.len()].copy_from_slice(chunk);
            filled += chunk.len();
        }
        Ok(bytes)
    }

    /// Gives `length` bytes to `out`, chunk by chunk.
    pub(super) fn raw(&mut self, mut length: u64, out: &mut dyn FnMut(&[u8]) -> Result<()>) -> Result<()> {
        while length > 0 {
            let chunk = self.chunk(length)?;
            length -= chunk.len() as u64;
            out(chunk)?;
        }
        Ok(())
    }

    pub(super) fn length_or_special(&mut self) -> Result<Length> {
        let first = self.byte()?;
        Ok(match first >> 6 {
            0 => Length::Plain(u64::from(first & 0x3f)),
            1 => Length::Plain(u64::from(first & 0x3f) << 8 | u64::from(self.byte()?)),
            2 => match first {
                0x80 => Length::Plain(u64::from(u32::from_be_bytes(self.exact()?))),
                0x81 => Length::Plain(u64::from_be_bytes(self.exact()?)),
                _ => return Err(damaged("a length is written in an unknown way")),
            },
            _ => Length::Special(first & 0x3f),
        })
    }

    pub(super) fn length(&mut self) -> Result<u64> {
        match self.length_or_special()? {
            Length::Plain(length) => Ok(length),
            Length::Special(_) => Err(damaged("there is a string in place of a length")),
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn every_form_of_a_length_is_read() {
        for (bytes, length) in [
            (&[0x00][..], Some(0)),
            (&[0x3f], Some(63)),
            (&[0x40, 0x40], Some(64)),
            (&[0x7f, 0xff], Some(16383)),
            (&[0x80, 0, 0, 0x40, 0], Some(16384)),
            (&[0x81, 0, 0, 0, 1, 0, 0, 0, 0], Some(1 << 32)),
            (&[0x82, 0, 0, 0, 1], None),
            (&[0xc0, 1], None),
            (&[0x80, 0, 0], None),
        ] {
            assert_eq!(RdbInput::new(bytes).length().ok(), length, "{bytes:x?}");
        }
    }
}
