//! The row index of a dataset: sketches of the chunks of its newest snapshot's streams, in the order of each stream.
//!
//! ```text
//! rows/<hash of the name>.stream   snapshot, generation, name; each chunk's id, length, smallest hash, and where its sketch lies
//! rows/<random>.sketches           a key of its own, sealed under the host key; sketches, each sealed under that key for its chunk's id
//! ```
//!
//! All of it is sealed (AES-256-GCM), and holds keyed hashes and positions, never data. A chunk that stays keeps its sketch where it is;
//! files that no stream needs any more go after each commit, and sketches are written anew once their files hold a tenth
//! more than is needed. Whatever cannot be read, or belongs to another snapshot than the newest, is as good as missing.

use std::collections::HashSet;
use std::fs::{self, File, OpenOptions};
use std::io::{self, BufWriter, Read, Write};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::{StateDirectory, create_private, replace_file};
use crate::bytes::seal::HostKey;
use crate::bytes::varint;
use crate::config::Secret;
use crate::error::{Class, Context, Error, Result};
use crate::id::{ChunkId, Digest, Name, SnapshotId};
use crate::rows::matcher::Older;
use crate::rows::parity::Element;
use crate::rows::sketch::Sketch;
use crate::vault::chunk_table::{self, ChunkTable};

const MAGIC: &[u8; 8] = b"LBROWS01";
const STREAM: &str = "lifeboat rows: stream";
const KEY: &str = "lifeboat rows: key of sketches";
/// Of sketches that are being written.
const UNFINISHED: &str = "new";
/// A sealed block of a `.stream` file holds so much.
const BLOCK: usize = 1 << 20;
/// So many bytes are left free where the state directory is: the journal matters more.
const LEFT_FREE: u64 = 1 << 30;
/// Sketches between two looks at what is free.
const LOOK: usize = 256;
/// Bytes of a chunk's id that are kept.
const ID: usize = 16;

/// The row index of one dataset.
#[derive(Clone)]
pub struct RowIndex {
    folder: PathBuf,
    host_key: HostKey,
}

/// Where a sketch lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Place {
    /// In which of a stream's files.
    file: u32,
    offset: u64,
    length: u32,
}

/// A chunk of a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Chunk {
    id: [u8; ID],
    length: u32,
    smallest: Element,
    sketch: Place,
}

/// A file of sketches.
struct Sketches {
    name: String,
    file: File,
    key: HostKey,
}

impl RowIndex {
    /// Opens it.
    ///
    /// # Errors
    /// Its directory cannot be created.
    pub fn open(state: &StateDirectory, dataset: &Name, host_key: &HostKey) -> Result<Self> {
        let folder = state.dataset(dataset)?.join("rows");
        create_private(&folder)?;
        let index = Self { folder, host_key: host_key.clone() };
        // What a run that failed has left.
        index.remove(|path| path.extension().is_some_and(|extension| extension == UNFINISHED));
        Ok(index)
    }

    fn remove(&self, which: impl Fn(&Path) -> bool) {
        let entries = fs::read_dir(&self.folder).into_iter().flatten().flatten();
        entries.map(|entry| entry.path()).filter(|path| which(path)).for_each(|path| drop(fs::remove_file(path)));
    }

    fn stream_path(&self, name: &str) -> PathBuf {
        self.folder.join(format!("{}.stream", &Digest::of(name.as_bytes()).to_string()[..32]))
    }

    /// A stream as it was in `snapshot`, if that is what is remembered.
    #[must_use]
    pub fn stream(&self, snapshot: &SnapshotId, generation: u32, name: &str) -> Option<OlderStream> {
        let plain = self.read_sealed(&self.stream_path(name))?;
        let mut input = plain.strip_prefix(header(snapshot, generation, name).as_slice())?;
        let mut files = Vec::new();
        for _ in 0..varint::take(&mut input)? {
            let name = format!("{:032x}", u128::from_le_bytes(varint::take_bytes(&mut input)?));
            files.push(self.open_sketches(name).ok()?);
        }
        let mut chunks = Vec::new();
        while !input.is_empty() {
            chunks.push(Chunk {
                id: varint::take_bytes(&mut input)?,
                smallest: Element::from(u64::from_le_bytes(varint::take_bytes(&mut input)?)),
                length: u32::try_from(varint::take(&mut input)?).ok()?,
                sketch: Place {
                    file: u32::try_from(varint::take(&mut input)?)
                        .ok()
                        .filter(|file| (*file as usize) < files.len())?,
                    offset: varint::take(&mut input)?,
                    length: u32::try_from(varint::take(&mut input)?).ok()?,
                },
            });
        }
        Some(OlderStream::new(chunks, files))
    }

    fn open_sketches(&self, name: String) -> io::Result<Sketches> {
        let damaged = || io::Error::other("damaged");
        let mut file = File::open(self.sketches_path(&name))?;
        let mut length = [0; 2];
        file.read_exact(&mut length)?;
        let mut sealed = vec![0; usize::from(u16::from_le_bytes(length))];
        file.read_exact(&mut sealed)?;
        let key = self.host_key.open(KEY, &sealed).map_err(|_| damaged())?;
        let key = HostKey::parse(&Secret::new(key.to_vec())).map_err(|_| damaged())?;
        Ok(Sketches { name, file, key })
    }

    fn sketches_path(&self, name: &str) -> PathBuf {
        self.folder.join(format!("{name}.sketches"))
    }

    fn check_free(&self) -> Result<()> {
        let free = rustix::fs::statvfs(&self.folder).map(|found| found.f_bavail * found.f_frsize);
        if free.is_ok_and(|free| free < LEFT_FREE) {
            return Err(Error::storage(format!("less than 1 GiB is free at {}", self.folder.display()))
                .hint("the row index takes up to 4 % of the data's size: make room, or set dedup = \"chunks\""));
        }
        Ok(())
    }

    fn unfinished_path(&self, name: &str) -> PathBuf {
        self.folder.join(format!("{name}.{UNFINISHED}"))
    }

    /// Begins a stream of the next snapshot, as a successor of `older`.
    #[must_use]
    pub fn write(&self, name: &str, older: Option<Arc<OlderStream>>) -> StreamWriter {
        StreamWriter {
            index: self.clone(),
            name: name.to_owned(),
            older,
            files: Vec::new(),
            chunks: Vec::new(),
            own: None,
        }
    }

    /// From now on these streams are what is remembered, as those of `snapshot`.
    ///
    /// # Errors
    /// [`Class::Storage`], such as a full disk.
    pub fn replace(&self, snapshot: &SnapshotId, generation: u32, streams: &[NewStream]) -> Result<()> {
        let mut keep = HashSet::new();
        for stream in streams {
            let mut plain = header(snapshot, generation, &stream.name);
            varint::put(&mut plain, stream.files.len() as u64);
            for name in &stream.files {
                plain.extend_from_slice(&u128::from_str_radix(name, 16).unwrap_or_default().to_le_bytes());
                let (unfinished, finished) = (self.unfinished_path(name), self.sketches_path(name));
                if unfinished.exists() {
                    fs::rename(&unfinished, &finished).context(Class::Storage, || "cannot write the row index")?;
                }
                keep.insert(finished);
            }
            for Chunk { id, length, smallest, sketch } in &stream.chunks {
                plain.extend_from_slice(id);
                plain.extend_from_slice(&smallest.get().to_le_bytes());
                for number in [u64::from(*length), u64::from(sketch.file), sketch.offset, u64::from(sketch.length)] {
                    varint::put(&mut plain, number);
                }
            }
            let path = self.stream_path(&stream.name);
            self.write_sealed(&path, &plain)?;
            keep.insert(path);
        }
        self.remove(|path| !keep.contains(path));
        Ok(())
    }

    /// Forgets everything.
    pub fn clear(&self) {
        let _ = fs::remove_dir_all(&self.folder);
    }

    fn write_sealed(&self, path: &Path, plain: &[u8]) -> Result<()> {
        let mut sealed = Vec::with_capacity(plain.len() + plain.len() / BLOCK * 64 + 64);
        let count = plain.chunks(BLOCK).count();
        for (number, block) in plain.chunks(BLOCK).enumerate() {
            let block = self.host_key.seal(&format!("{STREAM} {number} of {count}"), block)?;
            sealed.extend_from_slice(&(block.len() as u32).to_le_bytes());
            sealed.extend_from_slice(&block);
        }
        replace_file(path, &sealed)
    }

    fn read_sealed(&self, path: &Path) -> Option<Vec<u8>> {
        let sealed = fs::read(path).ok()?;
        let (mut blocks, mut rest) = (Vec::new(), sealed.as_slice());
        while !rest.is_empty() {
            let length = u32::from_le_bytes(varint::take_bytes(&mut rest)?);
            let (block, after) = rest.split_at_checked(length as usize)?;
            blocks.push(block);
            rest = after;
        }
        let mut plain = Vec::with_capacity(sealed.len());
        for (number, block) in blocks.iter().enumerate() {
            let purpose = format!("{STREAM} {number} of {}", blocks.len());
            plain.extend_from_slice(&self.host_key.open(&purpose, block).ok()?);
        }
        Some(plain)
    }
}

fn header(snapshot: &SnapshotId, generation: u32, name: &str) -> Vec<u8> {
    let mut out = MAGIC.to_vec();
    varint::put(&mut out, u64::from(generation));
    for text in [&snapshot.to_string(), name] {
        varint::put(&mut out, text.len() as u64);
        out.extend_from_slice(text.as_bytes());
    }
    out
}

fn purpose(id: &[u8; ID]) -> String {
    format!("lifeboat rows: sketch {}", data_encoding::HEXLOWER.encode(id))
}

/// A stream of the newest snapshot.
pub struct OlderStream {
    chunks: Vec<Chunk>,
    /// Where each begins in the stream.
    begins: Vec<u64>,
    files: Vec<Sketches>,
    ids: ChunkTable,
    resembling: ChunkTable,
    /// Its files hold much that is not needed.
    wasteful: bool,
}

impl OlderStream {
    fn new(chunks: Vec<Chunk>, files: Vec<Sketches>) -> Self {
        let (mut ids, mut resembling) =
            (chunk_table::Builder::new(chunks.len()), chunk_table::Builder::new(chunks.len()));
        let (mut begins, mut begin, mut needed) = (Vec::with_capacity(chunks.len()), 0, 0);
        for (chunk, number) in chunks.iter().zip(0..) {
            ids.add(&padded(&chunk.id), number);
            resembling.add(&spread(chunk.smallest), number);
            begins.push(begin);
            begin += u64::from(chunk.length);
            needed += u64::from(chunk.sketch.length);
        }
        let held: u64 = files.iter().filter_map(|file| file.file.metadata().ok()).map(|metadata| metadata.len()).sum();
        let wasteful = held > needed + needed / 10 + (64 << 10);
        Self { chunks, begins, files, ids: ids.finish(), resembling: resembling.finish(), wasteful }
    }

    /// The chunk with this id.
    #[must_use]
    pub fn find(&self, id: &ChunkId) -> Option<u32> {
        let mut short = [0; ID];
        short.copy_from_slice(&id.0[..ID]);
        self.ids.find(&padded(&short)).filter(|number| self.chunks[*number as usize].id == short)
    }

    /// Where a chunk begins in the stream, and its length.
    #[must_use]
    pub fn range(&self, chunk: u32) -> (u64, u32) {
        (self.begins[chunk as usize], self.chunks[chunk as usize].length)
    }

    fn sealed(&self, chunk: &Chunk) -> io::Result<Vec<u8>> {
        let mut sealed = vec![0; chunk.sketch.length as usize];
        self.files[chunk.sketch.file as usize].file.read_exact_at(&mut sealed, chunk.sketch.offset)?;
        Ok(sealed)
    }

    fn bytes(&self, chunk: &Chunk) -> Option<Vec<u8>> {
        let key = &self.files[chunk.sketch.file as usize].key;
        Some(key.open(&purpose(&chunk.id), &self.sealed(chunk).ok()?).ok()?.to_vec())
    }
}

impl Older for Arc<OlderStream> {
    fn sketch(&mut self, chunk: u32) -> Option<Sketch> {
        Sketch::parse(&self.bytes(self.chunks.get(chunk as usize)?)?)
    }

    fn resembling(&mut self, smallest: Element) -> Option<u32> {
        let number = self.resembling.find(&spread(smallest))?;
        (self.chunks[number as usize].smallest == smallest).then_some(number)
    }
}

/// The table wants bits that are as good as random; an id's are.
fn padded(id: &[u8; ID]) -> ChunkId {
    let mut bytes = [0; 32];
    bytes[..ID].copy_from_slice(id);
    Digest(bytes)
}

/// Those of a smallest hash are not.
fn spread(smallest: Element) -> ChunkId {
    Digest::of(&smallest.get().to_le_bytes())
}

/// Remembers a stream while it is captured. Its files are of no use before [`RowIndex::replace`].
pub struct StreamWriter {
    index: RowIndex,
    name: String,
    older: Option<Arc<OlderStream>>,
    files: Vec<String>,
    chunks: Vec<Chunk>,
    /// The file that is being written: its number, and how long it is.
    own: Option<(u32, BufWriter<File>, HostKey, u64)>,
}

/// A stream that is remembered from the next commit on.
pub struct NewStream {
    name: String,
    files: Vec<String>,
    chunks: Vec<Chunk>,
}

impl StreamWriter {
    /// The next chunk is one of the older stream.
    ///
    /// # Errors
    /// [`Class::Storage`].
    pub fn keep(&mut self, number: u32) -> Result<()> {
        let Some(older) = self.older.clone() else { return Ok(()) };
        let chunk = older.chunks[number as usize];
        if older.wasteful {
            let sketch = older.bytes(&chunk).unwrap_or_default();
            return self.push(chunk.id, chunk.length, chunk.smallest, &sketch);
        }
        let name = &older.files[chunk.sketch.file as usize].name;
        let file = match self.files.iter().position(|file| file == name) {
            Some(file) => file,
            None => {
                self.files.push(name.clone());
                self.files.len() - 1
            }
        };
        self.chunks.push(Chunk { sketch: Place { file: file as u32, ..chunk.sketch }, ..chunk });
        Ok(())
    }

    /// The next chunk is a new one.
    ///
    /// # Errors
    /// [`Class::Storage`].
    pub fn add(&mut self, id: &ChunkId, length: u32, smallest: Element, sketch: &Sketch) -> Result<()> {
        let mut short = [0; ID];
        short.copy_from_slice(&id.0[..ID]);
        self.push(short, length, smallest, &sketch.to_bytes()?)
    }

    fn push(&mut self, id: [u8; ID], length: u32, smallest: Element, sketch: &[u8]) -> Result<()> {
        if self.chunks.len().is_multiple_of(LOOK) {
            self.index.check_free()?;
        }
        if self.own.is_none() {
            let name = format!("{:032x}", rand::random::<u128>());
            self.own = Some(self.begin(&name).context(Class::Storage, || "cannot write the row index")?);
            self.files.push(name);
        }
        let Some((file, out, key, offset)) = &mut self.own else { return Ok(()) };
        let sealed = key.seal(&purpose(&id), sketch)?;
        out.write_all(&sealed).context(Class::Storage, || "cannot write the row index")?;
        let sketch = Place { file: *file, offset: *offset, length: sealed.len() as u32 };
        *offset += sealed.len() as u64;
        self.chunks.push(Chunk { id, length, smallest, sketch });
        Ok(())
    }

    fn begin(&self, name: &str) -> io::Result<(u32, BufWriter<File>, HostKey, u64)> {
        let key = HostKey::generate();
        let sealed =
            self.index.host_key.seal(KEY, key.to_text().as_bytes()).map_err(|_| io::Error::other("sealing failed"))?;
        let file =
            OpenOptions::new().write(true).create_new(true).mode(0o600).open(self.index.unfinished_path(name))?;
        let mut out = BufWriter::with_capacity(256 << 10, file);
        out.write_all(&(sealed.len() as u16).to_le_bytes())?;
        out.write_all(&sealed)?;
        Ok((self.files.len() as u32, out, key, 2 + sealed.len() as u64))
    }

    /// After the last chunk.
    ///
    /// # Errors
    /// [`Class::Storage`].
    pub fn finish(mut self) -> Result<NewStream> {
        if let Some((_, out, ..)) = &mut self.own {
            out.flush().context(Class::Storage, || "cannot write the row index")?;
        }
        self.own = None;
        let (name, files) = (std::mem::take(&mut self.name), std::mem::take(&mut self.files));
        Ok(NewStream { name, files, chunks: std::mem::take(&mut self.chunks) })
    }
}

impl Drop for StreamWriter {
    /// One that was not finished leaves nothing.
    fn drop(&mut self) {
        if let Some((file, ..)) = self.own.take() {
            let _ = fs::remove_file(self.index.unfinished_path(&self.files[file as usize]));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rows::matcher::smallest;
    use crate::rows::units::Unit;

    fn units(seed: u64, count: u64) -> Vec<Unit> {
        (0..count)
            .map(|n| Unit {
                hash: Element::from((seed * 1000 + n + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15)),
                length: 100,
            })
            .collect()
    }

    fn id(seed: u64) -> ChunkId {
        Digest::of(&seed.to_le_bytes())
    }

    fn add(writer: &mut StreamWriter, seed: u64) -> Result<()> {
        let units = units(seed, 50);
        writer.add(&id(seed), 5000, smallest(&units).unwrap_or_default(), &Sketch::of(&units))
    }

    fn files(index: &RowIndex) -> usize {
        fs::read_dir(&index.folder).into_iter().flatten().count()
    }

    #[test]
    fn streams_are_remembered_changed_and_forgotten() -> Result<()> {
        let place = tempfile::tempdir().context(Class::Failed, || "no temporary directory")?;
        let state = StateDirectory::open(place.path())?;
        let index = RowIndex::open(&state, &"shop".parse()?, &HostKey::generate())?;
        let ids: [SnapshotId; 3] =
            [1, 2, 3].map(|n| SnapshotId::new(chrono::DateTime::UNIX_EPOCH + chrono::TimeDelta::hours(n), 1));
        let mut writer = index.write("data", None);
        add(&mut writer, 0)?;
        writer.finish()?;
        assert_eq!(files(&index), 1);
        let mut writer = index.write("data", None);
        add(&mut writer, 0)?;
        drop(writer);
        assert_eq!(files(&index), 1, "a stream that was given up left something");
        assert_eq!(
            files(&RowIndex::open(&state, &"shop".parse()?, &index.host_key)?),
            0,
            "a failed run left something"
        );
        let mut writer = index.write("data", None);
        (0..40).try_for_each(|seed| add(&mut writer, seed))?;
        index.replace(&ids[0], 1, &[writer.finish()?])?;
        assert!(index.stream(&ids[1], 1, "data").is_none() && index.stream(&ids[0], 2, "data").is_none());
        assert!(index.stream(&ids[0], 1, "other").is_none());

        let mut older =
            index.stream(&ids[0], 1, "data").map(Arc::new).ok_or_else(|| crate::Error::failed("forgotten"))?;
        assert_eq!(older.find(&id(7)), Some(7));
        assert_eq!((older.range(7), older.find(&id(99))), ((35_000, 5000), None));
        assert_eq!(older.sketch(7), Some(Sketch::of(&units(7, 50))));
        assert_eq!(older.sketch(40), None);
        assert_eq!(older.resembling(smallest(&units(9, 50)).unwrap_or_default()), Some(9));

        // Half of the chunks stay: their file stays, too, and goes when the next snapshot has written them anew.
        let mut writer = index.write("data", Some(older.clone()));
        for seed in 0..40 {
            if seed % 2 == 0 { writer.keep(seed as u32)? } else { add(&mut writer, 100 + seed)? }
        }
        index.replace(&ids[1], 1, &[writer.finish()?])?;
        assert_eq!(files(&index), 3);
        let mut half =
            index.stream(&ids[1], 1, "data").map(Arc::new).ok_or_else(|| crate::Error::failed("forgotten"))?;
        assert_eq!(half.sketch(6), Some(Sketch::of(&units(6, 50))));
        assert_eq!(half.sketch(7), Some(Sketch::of(&units(107, 50))));
        Arc::get_mut(&mut half).ok_or_else(|| crate::Error::failed("shared"))?.wasteful = true;
        let mut writer = index.write("data", Some(half));
        (0..40).try_for_each(|number| writer.keep(number))?;
        index.replace(&ids[2], 1, &[writer.finish()?])?;
        assert_eq!(files(&index), 2);
        let mut again =
            index.stream(&ids[2], 1, "data").map(Arc::new).ok_or_else(|| crate::Error::failed("forgotten"))?;
        assert_eq!(again.sketch(6), Some(Sketch::of(&units(6, 50))));

        // Under another key, or with a sketch in the place of another, nothing is believed.
        let stranger = RowIndex { host_key: HostKey::generate(), ..index.clone() };
        assert!(stranger.stream(&ids[2], 1, "data").is_none());
        let chunks = &mut Arc::get_mut(&mut again).ok_or_else(|| crate::Error::failed("shared"))?.chunks;
        chunks[6].sketch = chunks[8].sketch;
        assert_eq!(again.sketch(6), None);
        index.replace(&ids[2], 1, &[])?;
        assert_eq!(files(&index), 0);
        Ok(())
    }
}
