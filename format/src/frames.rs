//! zstd frames. Each call makes or reads one complete frame, with the size of its content in its
//! header. Frames have no checksum: chunk ids and age authenticate the content.

use std::cell::RefCell;
use std::io;

use lifeboat_base::{Class, Context, Error, Result};
use zstd::zstd_safe::{self, CParameter};

/// Begins a skippable frame, which decoders of zstd pass over. The length of its payload follows.
pub const SKIPPABLE_MAGIC: [u8; 4] = 0x184D_2A50_u32.to_le_bytes();

/// The magic number of a skippable frame, and the length of its payload.
pub(crate) const SKIPPABLE_HEADER_BYTES: usize = 8;
/// Begins a zstd frame.
const ZSTD_MAGIC: [u8; 4] = 0xFD2F_B528_u32.to_le_bytes();
/// The level at which manifests and index segments are compressed.
pub(crate) const DOCUMENT_LEVEL: i32 = 3;
/// The level of a compressor until it is set to another.
const DEFAULT_LEVEL: i32 = 1;
/// Where bytes repeat each other only by chance, shorter repetitions do not pay, …
const MIN_MATCH_BYTES: u32 = 7;
/// … and a hash table of two to this power is large enough to find the longer ones. Compared with
/// the default level, the lengths of rows then compress to 4 % less, in about 60 % of the time.
const HASH_LOG_BITS: u32 = 6;

type ZstdCompressor = zstd::bulk::Compressor<'static>;

/// Compresses `data` to one frame, at `level`.
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

/// Compresses to one frame what repeats only by chance, but has some bytes more often than others,
/// such as the lengths of rows.
///
/// # Errors
/// No memory.
pub fn compress_by_frequency(data: &[u8]) -> Result<Vec<u8>> {
    FREQUENCY_COMPRESSOR.with_borrow_mut(|compressor| {
        let zstd = set_up(compressor)?;
        for parameter in [CParameter::MinMatch(MIN_MATCH_BYTES), CParameter::HashLog(HASH_LOG_BITS)] {
            zstd.set_parameter(parameter).context(Class::Failed, || "cannot set up zstd")?;
        }
        zstd.compress(data).context(Class::Failed, || "zstd cannot compress")
    })
}

fn set_up(compressor: &mut Option<ZstdCompressor>) -> Result<&mut ZstdCompressor> {
    Ok(match compressor {
        Some(zstd) => zstd,
        none => {
            none.insert(zstd::bulk::Compressor::new(DEFAULT_LEVEL).context(Class::Failed, || "cannot set up zstd")?)
        }
    })
}

thread_local! {
    /// A compressor's tables are costly to set up, so each thread does it once.
    static COMPRESSOR: RefCell<Option<ZstdCompressor>> = const { RefCell::new(None) };
    /// Parameters outlast a change of level, so they need a compressor of their own.
    static FREQUENCY_COMPRESSOR: RefCell<Option<ZstdCompressor>> = const { RefCell::new(None) };
    static DECOMPRESSOR: RefCell<Option<zstd::bulk::Decompressor<'static>>> = const { RefCell::new(None) };
}

/// Decompresses a frame, or several, into exactly `out`.
///
/// # Errors
/// [`Class::Integrity`]: `frame` is not a frame, or its content has another length.
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
        Err(Error::integrity(format!("a zstd frame holds {length} bytes instead of {}", out.len())))
    }
}

/// The zstd frame at the front of `data`: the length of its content, and its own length. `None` if
/// there is none, or it does not tell the length of its content.
pub(crate) fn measure(data: &[u8]) -> Option<(u64, usize)> {
    let content = zstd_safe::get_frame_content_size(data).ok().flatten().filter(|_| data.starts_with(&ZSTD_MAGIC))?;
    let length = zstd_safe::find_frame_compressed_size(data).ok().filter(|length| *length <= data.len())?;
    Some((content, length))
}

/// Decompresses the frame at the front of `data`, which tells the size of its content. Returns the
/// content and the rest of `data`.
///
/// # Errors
/// [`Class::Integrity`]: there is no such frame, or its content is longer than `limit` bytes.
pub fn take_frame(data: &[u8], limit: usize) -> Result<(Vec<u8>, &[u8])> {
    let (content, length) = measure(data)
        .ok_or_else(|| Error::integrity("a zstd frame is cut short, or does not tell its content's size"))?;
    let Some(content) = usize::try_from(content).ok().filter(|content| *content <= limit) else {
        return Err(Error::integrity(format!("a zstd frame holds {content} bytes, more than the limit of {limit}")));
    };
    let (frame, rest) = data.split_at(length);
    let mut out = vec![0; content];
    decompress(frame, &mut out)?;
    Ok((out, rest))
}

/// Decompresses every frame of a document of format 1. Memory for `expected` bytes is reserved at
/// first.
///
/// # Errors
/// [`Class::Integrity`]: the document is damaged, or decompresses to more than `limit` bytes.
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
        let fast = compress(DEFAULT_LEVEL, &lengths)?.len();
        assert!(frame.len() <= fast, "{} bytes, {fast} at the fast level", frame.len());
        Ok(())
    }
}
