//! Writes the sketches of a stream while it is captured.

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufWriter, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::sync::Arc;

use lifeboat_base::{Class, Context, Result};
use lifeboat_format::id::ChunkId;

use super::{
    BYTES_BETWEEN_LOOKS, Chunk, KEY_PURPOSE, MIN_STREAM_PER_SKETCH, NewStream, OlderStream,
    ROOMY_AGAIN_STREAM_PER_SKETCH, ROOMY_STREAM_PER_SKETCH, RowIndex, SketchPlace, purpose, short,
};
use crate::keys::seal::HostKey;
use crate::rows::parity::Element;
use crate::rows::units::Fineness;

/// Writes the sketches of one stream. Nobody can read them before [`RowIndex::replace`].
pub struct StreamWriter {
    index: RowIndex,
    name: String,
    older: Option<Arc<OlderStream>>,
    files: Vec<String>,
    pub(crate) chunks: Vec<Chunk>,
    /// Bytes of the stream so far.
    bytes: u64,
    /// Bytes of its sketches so far.
    sketches: u64,
    /// The file that is being written: its number, itself, its key, and its length in bytes.
    own: Option<(u32, BufWriter<File>, HostKey, u64)>,
}

impl StreamWriter {
    pub(crate) fn new(index: RowIndex, name: String, older: Option<Arc<OlderStream>>) -> Self {
        Self { index, name, older, files: Vec::new(), chunks: Vec::new(), bytes: 0, sketches: 0, own: None }
    }

    /// Adds the next chunk, which is the older stream's chunk of this number.
    ///
    /// # Errors
    /// [`Class::Storage`] if the disk fails or has less than 1 GiB free.
    pub fn keep(&mut self, number: u32) -> Result<()> {
        let Some(older) = self.older.clone() else { return Ok(()) };
        let chunk = older.chunks[number as usize];
        if !self.fits(chunk.length, chunk.sketch.length as usize) {
            return self.forget(chunk);
        }
        if older.wasteful {
            let sketch = older.bytes(&chunk).unwrap_or_default();
            return self.push(chunk, &sketch);
        }
        let name = &older.files[chunk.sketch.file as usize].name;
        let file = match self.files.iter().position(|file| file == name) {
            Some(file) => file,
            None => {
                self.files.push(name.clone());
                self.files.len() - 1
            }
        };
        self.note(Chunk { sketch: SketchPlace { file: file as u32, ..chunk.sketch }, ..chunk });
        Ok(())
    }

    fn note(&mut self, chunk: Chunk) {
        self.bytes += u64::from(chunk.length);
        self.sketches += u64::from(chunk.sketch.length);
        self.chunks.push(chunk);
    }

    /// Whether the next chunk may be cut at each line. `length` is its length and `sketch` that of
    /// its sketch, in bytes.
    #[must_use]
    pub fn has_room(&self, length: usize, sketch: usize) -> bool {
        // Two bounds, so that the fineness seldom changes: the next run has to guess it.
        let before = self.chunks.last().is_none_or(|chunk| chunk.fineness == Fineness::EachLine);
        self.part(length, sketch)
            <= if before { 1.0 / ROOMY_STREAM_PER_SKETCH } else { 1.0 / ROOMY_AGAIN_STREAM_PER_SKETCH }
    }

    /// The share of the stream that sketches take, if the next chunk has these lengths.
    fn part(&self, length: usize, sketch: usize) -> f64 {
        (self.sketches + sketch as u64) as f64 / (self.bytes + length as u64) as f64
    }

    /// Adds the next chunk, which is new, with its `length` in bytes and its sketch.
    ///
    /// # Errors
    /// [`Class::Storage`] if the disk fails or has less than 1 GiB free.
    pub fn add(
        &mut self,
        id: &ChunkId,
        length: u32,
        fineness: Fineness,
        smallest: Element,
        sketch: &[u8],
    ) -> Result<()> {
        let nowhere = SketchPlace { file: 0, offset: 0, length: 0 };
        let chunk = Chunk { id: short(id), length, fineness, smallest, sketch: nowhere };
        if self.fits(length, sketch.len()) { self.push(chunk, sketch) } else { self.forget(chunk) }
    }

    fn fits(&self, length: u32, sketch: usize) -> bool {
        self.part(length as usize, sketch) <= 1.0 / MIN_STREAM_PER_SKETCH
    }

    /// Adds a chunk with an empty sketch. The next run cuts it at some lines only, so that its
    /// sketch may fit then.
    fn forget(&mut self, chunk: Chunk) -> Result<()> {
        self.push(Chunk { fineness: Fineness::SomeLines, ..chunk }, &[])
    }

    /// Adds a chunk and writes its sketch into this run's own file.
    fn push(&mut self, chunk: Chunk, sketch: &[u8]) -> Result<()> {
        if self.own.is_none() {
            self.index.check_free()?;
            let name = format!("{:032x}", rand::random::<u128>());
            self.own = Some(self.begin(&name).context(Class::Storage, || {
                format!("cannot write the row index in {}", self.index.folder.display())
            })?);
            self.files.push(name);
        }
        let Some((file, out, key, offset)) = &mut self.own else { return Ok(()) };
        let sealed = key.seal(&purpose(&chunk.id), sketch)?;
        out.write_all(&sealed)
            .context(Class::Storage, || format!("cannot write the row index in {}", self.index.folder.display()))?;
        let sketch = SketchPlace { file: *file, offset: *offset, length: sealed.len() as u32 };
        let begin = *offset;
        *offset += sealed.len() as u64;
        if begin / BYTES_BETWEEN_LOOKS != *offset / BYTES_BETWEEN_LOOKS {
            self.index.check_free()?;
        }
        self.note(Chunk { sketch, ..chunk });
        Ok(())
    }

    fn begin(&self, name: &str) -> io::Result<(u32, BufWriter<File>, HostKey, u64)> {
        let key = HostKey::generate();
        let sealed = self
            .index
            .host_key
            .seal(KEY_PURPOSE, key.to_text().as_bytes())
            .map_err(|_| io::Error::other("sealing failed"))?;
        let file =
            OpenOptions::new().write(true).create_new(true).mode(0o600).open(self.index.unfinished_path(name))?;
        let mut out = BufWriter::with_capacity(256 << 10, file);
        out.write_all(&(sealed.len() as u16).to_le_bytes())?;
        out.write_all(&sealed)?;
        Ok((self.files.len() as u32, out, key, 2 + sealed.len() as u64))
    }

    /// Ends the stream after its last chunk.
    ///
    /// # Errors
    /// [`Class::Storage`] if the disk fails or is full.
    pub fn finish(mut self) -> Result<NewStream> {
        if let Some((_, out, ..)) = &mut self.own {
            out.flush()
                .context(Class::Storage, || format!("cannot write the row index in {}", self.index.folder.display()))?;
        }
        self.own = None;
        let (name, files) = (std::mem::take(&mut self.name), std::mem::take(&mut self.files));
        Ok(NewStream { name, files, chunks: std::mem::take(&mut self.chunks) })
    }
}

impl Drop for StreamWriter {
    /// Removes the file of a stream that was not finished.
    fn drop(&mut self) {
        if let Some((file, ..)) = self.own.take() {
            let _ = fs::remove_file(self.index.unfinished_path(&self.files[file as usize]));
        }
    }
}
