//! zstd frames: one complete frame a call, content size in its header, no checksum (ids and age
//! authenticate).

use std::cell::RefCell;
use std::io;

use lifeboat_base::{Class, Context, Error, Result};
use zstd::zstd_safe::CParameter;

/// The level of a compressor that nobody has told another one.
const FAST: i32 = 1;
/// Where bytes repeat each other only by chance: shorter repetitions than this do not pay, …
const LONG_MATCH: u32 = 7;
/// … and so many places (two to this power) are enough to look for them. Of lengths of rows 4 %
/// less is left than at the level that is fast, in some 60 % of the time.
const FEW_PLACES: u32 = 6;

type Zstd = zstd::bulk::Compressor<'static>;

/// One frame of a small document, at `level`.
///
/// # Errors
/// No memory.
pub fn compress(level: i32, data: &[u8]) -> Result<Vec<u8>> {
    COMPRESSOR.with_borrow_mut(|compressor| {
        let zstd = set_up(compressor)?;
        zstd.set_compression_level(level).context(Class::Failed, || "zstd cannot compress")?;
        zstd.compress(data).context(Class::Failed, || "zstd cannot compress")
    })
}

/// One frame of bytes that repeat each other only by chance, but of which some are more frequent
/// than others: lengths of rows, say.
///
/// # Errors
/// No memory.
pub fn compress_by_frequency(data: &[u8]) -> Result<Vec<u8>> {
    FREQUENCY_COMPRESSOR.with_borrow_mut(|compressor| {
        let zstd = set_up(compressor)?;
        for parameter in [CParameter::MinMatch(LONG_MATCH), CParameter::HashLog(FEW_PLACES)] {
            zstd.set_parameter(parameter).context(Class::Failed, || "cannot set up zstd")?;
        }
        zstd.compress(data).context(Class::Failed, || "zstd cannot compress")
    })
}

fn set_up(compressor: &mut Option<Zstd>) -> Result<&mut Zstd> {
    Ok(match compressor {
        Some(zstd) => zstd,
        none => none.insert(zstd::bulk::Compressor::new(FAST).context(Class::Failed, || "cannot set up zstd")?),
    })
}

thread_local! {
    /// Tables are set up once for each thread.
    static COMPRESSOR: RefCell<Option<Zstd>> = const { RefCell::new(None) };
    /// Parameters outlast a change of level, so these have one of their own.
    static FREQUENCY_COMPRESSOR: RefCell<Option<Zstd>> = const { RefCell::new(None) };
    static DECOMPRESSOR: RefCell<Option<zstd::bulk::Decompressor<'static>>> = const { RefCell::new(None) };
}

/// Decompresses one frame into exactly `out`.
///
/// # Errors
/// [`Class::Integrity`]: not a frame, or one of another length.
pub fn decompress(frame: &[u8], out: &mut [u8]) -> Result<()> {
    let length = DECOMPRESSOR.with_borrow_mut(|decompressor| {
        let zstd = match decompressor {
            Some(zstd) => zstd,
            none => none.insert(zstd::bulk::Decompressor::new().context(Class::Failed, || "cannot set up zstd")?),
        };
        zstd.decompress_to_buffer(frame, out).context(Class::Integrity, || "zstd cannot decompress")
    })?;
    if length == out.len() {
        Ok(())
    } else {
        Err(Error::integrity(format!("a frame holds {length} bytes where {} are due", out.len())))
    }
}

/// Decompresses every frame of a document; room is made for `expected` bytes at first.
///
/// # Errors
/// [`Class::Integrity`]: damaged, or more than `limit` bytes.
pub fn decompress_document(data: impl io::Read, expected: usize, limit: u64) -> Result<Vec<u8>> {
    let mut decoder = zstd::stream::read::Decoder::new(data).context(Class::Failed, || "cannot set up zstd")?;
    let mut text = Vec::with_capacity(expected);
    let read = io::copy(&mut io::Read::take(&mut decoder, limit + 1), &mut text)
        .context(Class::Integrity, || "zstd cannot decompress")?;
    if read > limit {
        return Err(Error::integrity(format!("a document decompresses to more than {limit} bytes")));
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn noise(length: usize) -> Vec<u8> {
        let mut data = vec![0; length];
        blake3::Hasher::new().finalize_xof().fill(&mut data);
        data
    }

    #[test]
    fn by_frequency_no_more_is_left_than_at_the_fast_level() -> Result<()> {
        let lengths: Vec<u8> = noise(12_000).chunks(2).map(|pair| 90 + pair[0] % 12 + pair[1] % 12).collect();
        let frame = compress_by_frequency(&lengths)?;
        let mut out = vec![0; lengths.len()];
        decompress(&frame, &mut out)?;
        assert!(out == lengths, "a frame gives something else back");
        let fast = compress(FAST, &lengths)?.len();
        assert!(frame.len() <= fast, "{} bytes, {fast} at the fast level", frame.len());
        Ok(())
    }
}
