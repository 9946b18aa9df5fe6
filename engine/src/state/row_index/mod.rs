//! The row index of a dataset: sketches of the chunks of its newest snapshot's streams, in the
//! order of each stream.
//!
//! ```text
//! rows/<hash of the name>.stream   snapshot, generation, name; each chunk's id, length, fineness, smallest hash, and where its sketch lies
//! rows/<hash of the name>.map      the stream's map, where the newest snapshot uses one: the packs are not for this host to open
//! rows/<random>.sketches           a key of its own, sealed under the host key; sketches, each sealed under that key for its chunk's id
//! ```
//!
//! All of it is sealed (AES-256-GCM), and holds keyed hashes and positions, never data. A chunk
//! that stays keeps its sketch where it is; files that no stream needs any more go after each
//! commit, and sketches are written anew once their files hold a tenth more than is needed. Where
//! sketches would take more than a 25th of the stream so far, an empty one is kept: the chunk's
//! rows are not found again. So sketches take at most 4 % of a stream, and a map 2 % (8192 parts a
//! MiB); once for what is remembered and once for what is being written. Whatever cannot be read,
//! or belongs to another snapshot than the newest, is as good as missing.

use std::collections::{BTreeMap, HashSet};
use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use lifeboat_base::secret::Secret;
use lifeboat_base::{Class, Context, Error, Result};
use lifeboat_format::id::{ChunkId, Digest, Name, SnapshotId};
use lifeboat_format::varint;

use crate::keys::seal::HostKey;
use crate::rows::parity::Element;
use crate::rows::units::Fineness;
use crate::state::{StateDirectory, create_private, replace_file};

mod older;
mod writer;

pub use older::OlderStream;
pub use writer::StreamWriter;

const ROWS_MAGIC: &[u8; 8] = b"LBROWS05";
const STREAM_PURPOSE: &str = "lifeboat rows: stream";
const MAP_PURPOSE: &str = "lifeboat rows: map";
const KEY_PURPOSE: &str = "lifeboat rows: key of sketches";
/// Of sketches that are being written.
const UNFINISHED_NAME: &str = "new";
/// A sealed block of a `.stream` or `.map` file holds so much.
const SEALED_BLOCK_BYTES: usize = 1 << 20;
/// So many bytes are left free where the state directory is: the journal matters more.
const MIN_FREE_BYTES: u64 = 1 << 30;
/// Bytes of sketches between two looks at what is free.
const BYTES_BETWEEN_LOOKS: u64 = 16 << 20;
/// Sketches take at most this part of a stream, …
const MIN_STREAM_PER_SKETCH: f64 = 25.0;
/// … and where a stream begins to be remembered, of each line while they take no more than this
/// part of it.
const ROOMY_STREAM_PER_SKETCH: f64 = 27.0;
/// Once they take more: only some lines, until they take no more than this.
const ROOMY_AGAIN_STREAM_PER_SKETCH: f64 = 30.0;
/// Bytes of a chunk's id that are kept.
const KEPT_ID_BYTES: usize = 16;

/// The row index of one dataset.
#[derive(Clone)]
pub struct RowIndex {
    folder: PathBuf,
    host_key: HostKey,
}

/// Where a sketch lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct SketchPlace {
    /// In which of a stream's files.
    file: u32,
    offset: u64,
    length: u32,
}

/// A chunk of a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Chunk {
    id: [u8; KEPT_ID_BYTES],
    length: u32,
    fineness: Fineness,
    smallest: Element,
    sketch: SketchPlace,
}

/// A file of sketches.
pub(crate) struct Sketches {
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
        index.remove(|path| path.extension().is_some_and(|extension| extension == UNFINISHED_NAME));
        Ok(index)
    }

    fn remove(&self, which: impl Fn(&Path) -> bool) {
        let entries = fs::read_dir(&self.folder).into_iter().flatten().flatten();
        entries.map(|entry| entry.path()).filter(|path| which(path)).for_each(|path| drop(fs::remove_file(path)));
    }

    fn path(&self, name: &str, extension: &str) -> PathBuf {
        self.folder.join(format!("{}.{extension}", &Digest::of(name.as_bytes()).to_string()[..32]))
    }

    /// The map of a stream, if it is the one with this hash.
    #[must_use]
    pub fn map(&self, name: &str, blake3: &Digest) -> Option<Vec<u8>> {
        self.read_sealed(&self.path(name, "map"), MAP_PURPOSE).filter(|map| Digest::of(map) == *blake3)
    }

    /// A stream as it was in `snapshot`, if that is what is remembered.
    #[must_use]
    pub fn stream(&self, snapshot: &SnapshotId, generation: u32, name: &str) -> Option<OlderStream> {
        let plain = self.read_sealed(&self.path(name, "stream"), STREAM_PURPOSE)?;
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
                fineness: if varint::take(&mut input)? == 0 { Fineness::SomeLines } else { Fineness::EachLine },
                sketch: SketchPlace {
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
        let key = self.host_key.open(KEY_PURPOSE, &sealed).map_err(|_| damaged())?;
        let key = HostKey::parse(&Secret::new(key.to_vec())).map_err(|_| damaged())?;
        Ok(Sketches { name, file, key })
    }

    fn sketches_path(&self, name: &str) -> PathBuf {
        self.folder.join(format!("{name}.sketches"))
    }

    fn check_free(&self) -> Result<()> {
        let free = rustix::fs::statvfs(&self.folder).map(|found| found.f_bavail * found.f_frsize);
        if free.is_ok_and(|free| free < MIN_FREE_BYTES) {
            return Err(Error::storage(format!("less than 1 GiB is free at {}", self.folder.display()))
                .hint("the row index takes up to 6 % of the data's size: make room, or set dedup = \"chunks\""));
        }
        Ok(())
    }

    fn unfinished_path(&self, name: &str) -> PathBuf {
        self.folder.join(format!("{name}.{UNFINISHED_NAME}"))
    }

    /// Begins a stream of the next snapshot, as a successor of `older`.
    #[must_use]
    pub fn write(&self, name: &str, older: Option<Arc<OlderStream>>) -> StreamWriter {
        StreamWriter::new(self.clone(), name.to_owned(), older)
    }

    /// From now on these streams are what is remembered, as those of `snapshot`; and of the streams
    /// in `maps` these maps, or those that are remembered already.
    ///
    /// # Errors
    /// [`Class::Storage`], such as a full disk.
    pub fn replace(
        &self,
        snapshot: &SnapshotId,
        generation: u32,
        streams: &[NewStream],
        maps: &BTreeMap<&str, Option<&[u8]>>,
    ) -> Result<()> {
        let mut keep = HashSet::new();
        for (name, map) in maps {
            let path = self.path(name, "map");
            if let Some(map) = map {
                self.write_sealed(&path, MAP_PURPOSE, map)?;
            }
            keep.insert(path);
        }
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
            for Chunk { id, length, fineness, smallest, sketch } in &stream.chunks {
                plain.extend_from_slice(id);
                plain.extend_from_slice(&smallest.get().to_le_bytes());
                let (fineness, SketchPlace { file, offset, length: sketch }) =
                    (*fineness == Fineness::EachLine, *sketch);
                for number in [u64::from(*length), u64::from(fineness), u64::from(file), offset, u64::from(sketch)] {
                    varint::put(&mut plain, number);
                }
            }
            let path = self.path(&stream.name, "stream");
            self.write_sealed(&path, STREAM_PURPOSE, &plain)?;
            keep.insert(path);
        }
        self.remove(|path| !keep.contains(path));
        Ok(())
    }

    /// Forgets everything.
    pub fn clear(&self) {
        let _ = fs::remove_dir_all(&self.folder);
    }

    fn write_sealed(&self, path: &Path, what: &str, plain: &[u8]) -> Result<()> {
        let mut sealed = Vec::with_capacity(plain.len() + plain.len() / SEALED_BLOCK_BYTES * 64 + 64);
        let count = plain.chunks(SEALED_BLOCK_BYTES).count();
        for (number, block) in plain.chunks(SEALED_BLOCK_BYTES).enumerate() {
            let block = self.host_key.seal(&format!("{what} {number} of {count}"), block)?;
            sealed.extend_from_slice(&(block.len() as u32).to_le_bytes());
            sealed.extend_from_slice(&block);
        }
        replace_file(path, &sealed)
    }

    fn read_sealed(&self, path: &Path, what: &str) -> Option<Vec<u8>> {
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
            let purpose = format!("{what} {number} of {}", blocks.len());
            plain.extend_from_slice(&self.host_key.open(&purpose, block).ok()?);
        }
        Some(plain)
    }
}

fn header(snapshot: &SnapshotId, generation: u32, name: &str) -> Vec<u8> {
    let mut out = ROWS_MAGIC.to_vec();
    varint::put(&mut out, u64::from(generation));
    for text in [&snapshot.to_string(), name] {
        varint::put(&mut out, text.len() as u64);
        out.extend_from_slice(text.as_bytes());
    }
    out
}

fn purpose(id: &[u8; KEPT_ID_BYTES]) -> String {
    format!("lifeboat rows: sketch {}", data_encoding::HEXLOWER.encode(id))
}

/// What is kept of a chunk's id.
fn short(id: &ChunkId) -> [u8; KEPT_ID_BYTES] {
    let mut short = [0; KEPT_ID_BYTES];
    short.copy_from_slice(&id.0[..KEPT_ID_BYTES]);
    short
}

/// A stream that is remembered from the next commit on.
pub struct NewStream {
    name: String,
    files: Vec<String>,
    chunks: Vec<Chunk>,
}

#[cfg(test)]
mod tests;
