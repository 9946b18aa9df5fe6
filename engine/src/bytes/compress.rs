//! zstd: one complete frame a call, content size in the frame header, no checksum (ids and age authenticate).

use std::io;

use crate::error::{Class, Context, Error, Result};

/// Compresses; keep one a thread, its tables are reused.
pub struct Compressor(zstd::bulk::Compressor<'static>);

impl Compressor {
    /// For `level` 1 to 19.
    ///
    /// # Errors
    /// No memory for its tables.
    pub fn new(level: i32) -> Result<Self> {
        zstd::bulk::Compressor::new(level).map(Self).context(Class::Failed, || "cannot set up zstd")
    }

    /// One frame.
    ///
    /// # Errors
    /// No memory.
    pub fn compress(&mut self, data: &[u8]) -> Result<Vec<u8>> {
        self.0.compress(data).context(Class::Failed, || "zstd cannot compress")
    }
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
