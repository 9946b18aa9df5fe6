//! zstd: one complete frame a call, content size in the frame header, no checksum (ids and age authenticate).

use std::cell::RefCell;
use std::io;

use crate::error::{Class, Context, Error, Result};

thread_local! {
    /// Its tables are megabytes: one a thread, and reused.
    static COMPRESSOR: RefCell<Option<(i32, zstd::bulk::Compressor<'static>)>> = const { RefCell::new(None) };
}

/// One frame of `data`, at `level` 1 to 19.
///
/// # Errors
/// No memory.
pub fn compress(level: i32, data: &[u8]) -> Result<Vec<u8>> {
    COMPRESSOR.with_borrow_mut(|kept| {
        if kept.as_ref().is_none_or(|(of, _)| *of != level) {
            let new = zstd::bulk::Compressor::new(level).context(Class::Failed, || "cannot set up zstd")?;
            *kept = Some((level, new));
        }
        let (_, compressor) = kept.as_mut().ok_or_else(|| Error::failed("zstd is not set up"))?;
        compressor.compress(data).context(Class::Failed, || "zstd cannot compress")
    })
}

/// Decompresses one frame into exactly `out`.
///
/// # Errors
/// [`Class::Integrity`]: not a frame, or one of another length.
pub fn decompress_into(frame: &[u8], out: &mut [u8]) -> Result<()> {
    let length = zstd::bulk::decompress_to_buffer(frame, out).context(Class::Integrity, || "zstd cannot decompress")?;
    if length == out.len() {
        Ok(())
    } else {
        Err(Error::integrity(format!("a frame holds {length} bytes where {} are due", out.len())))
    }
}

/// Decompresses every frame of a small document.
///
/// # Errors
/// [`Class::Integrity`]: damaged, or more than `limit` bytes.
pub fn decompress_document(data: &[u8], limit: u64) -> Result<Vec<u8>> {
    let mut decoder = zstd::stream::read::Decoder::with_buffer(data).context(Class::Failed, || "cannot set up zstd")?;
    let mut text = Vec::new();
    let read = io::copy(&mut io::Read::take(&mut decoder, limit + 1), &mut text)
        .context(Class::Integrity, || "zstd cannot decompress")?;
    if read > limit {
        return Err(Error::integrity(format!("a document decompresses to more than {limit} bytes")));
    }
    Ok(text)
}
