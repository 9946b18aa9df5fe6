//! The row index of a dataset: a sketch of each chunk of its newest snapshot, in the order of each
//! stream.
//!
//! ```text
//! rows/<hash of the name>.stream   snapshot, generation and name; for each chunk its id, length, fineness, smallest hash, and where its sketch lies
//! rows/<hash of the name>.map      the stream's map, if the newest snapshot uses one: this host cannot open the packs that hold it
//! rows/<random>.sketches           a key of its own, sealed under the host key; then sketches, each sealed under that key for its chunk's id
//! ```
//!
//! All of it is sealed (AES-256-GCM). It holds keyed hashes and positions, never data.
//!
//! - **Changes**: an unchanged chunk keeps its sketch where it is. After each commit, files that no
//!   stream needs any more are removed. Once the files hold a tenth more than is needed, the next
//!   run writes all sketches anew.
//! - **Size**: sketches take at most 4 % of a stream, and a map at most 2 % (8192 fragments a MiB).
//!   During a run the new ones exist beside the old ones. If sketches would take more than a 25th
//!   of the stream so far, an empty sketch is kept, and the chunk's rows are not found again.
//! - **Damage**: an index that cannot be read, or that belongs to another snapshot than the newest,
//!   counts as missing.

use std::collections::{BTreeMap, HashSet};
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use lifeboat_base::secret::Secret;
use lifeboat_base::{Class, Context, Error, Result, disk};
use lifeboat_format::id::{ChunkId, Digest, Name, SnapshotId};
use lifeboat_format::varint;

use crate::keys::seal::HostKey;
use crate::rows::parity::Element;
use crate::rows::units::Fineness;
use crate::state::{StateDirectory, create_private, replace_cheaply};

mod older;
mod writer;

pub use older::OlderStream;
pub use writer::StreamWriter;

const ROWS_MAGIC: &[u8; 8] = b"LBROWS05";
const STREAM_PURPOSE: &str = "lifeboat rows: stream";
const MAP_PURPOSE: &str = "lifeboat rows: map";
const KEY_PURPOSE: &str = "lifeboat rows: key of sketches";
/// The extension of a file of sketches that is still being written.
const UNFINISHED_NAME: &str = "new";
/// How many bytes one sealed block of a `.stream` or `.map` file holds.
const SEALED_BLOCK_BYTES: usize = 1 << 20;
/// The row index is not written while less than this is free: the journal needs the room more.
const MIN_FREE_BYTES: u64 = 1 << 30;
/// After this many bytes of sketches, the free space is checked again.
const BYTES_BETWEEN_LOOKS: u64 = 16 << 20;
/// Sketches take at most one 25th of a stream.
const MIN_STREAM_PER_SKETCH: f64 = 25.0;
/// Where no older chunk decides, chunks are cut at each line while sketches take at most a 27th of
/// the stream. After that they are cut at some lines only.
const ROOMY_STREAM_PER_SKETCH: f64 = 27.0;
/// Chunks that are cut at some lines are cut at each line again once sketches take at most a 30th.
const ROOMY_AGAIN_STREAM_PER_SKETCH: f64 = 30.0;
/// How many bytes of a chunk's id the index keeps.
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
    /// The position of its file in the stream's list of files.
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

/// An open file of sketches, and the key that opens them.
pub(crate) struct Sketches {
    name: String,
    file: File,
    key: HostKey,
}

impl RowIndex {
    /// Opens the row index of `dataset`, and creates it if necessary.
    ///
    /// # Errors
    /// [`Class::Storage`] if its directory cannot be created.
    pub fn open(state: &StateDirectory, dataset: &Name, host_key: &HostKey) -> Result<Self> {
        let folder = state.dataset(dataset)?.join("rows");
        create_private(&folder)?;
        let index = Self { folder, host_key: host_key.clone() };
        // A run that failed may have left unfinished files.
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

    /// The map of a stream; `None` if it is not there, is damaged, or has another hash.
    #[must_use]
    pub fn map(&self, name: &str, blake3: &Digest) -> Option<Vec<u8>> {
        self.read_sealed(&self.path(name, "map"), MAP_PURPOSE).filter(|map| Digest::of(map) == *blake3)
    }

    /// A stream as it was in `snapshot`; `None` if the index is missing, damaged, or of another
    /// snapshot.
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
        if disk::free(&self.folder).is_ok_and(|free| free < MIN_FREE_BYTES) {
            return Err(Error::storage(format!("less than 1 GiB is free in {}", self.folder.display()))
                .hint("make room there, or set dedup = \"chunks\"; the row index takes up to 6 % of the data's size, and twice that during a run"));
        }
        Ok(())
    }

    fn unfinished_path(&self, name: &str) -> PathBuf {
        self.folder.join(format!("{name}.{UNFINISHED_NAME}"))
    }

    /// Begins to write a stream of the next snapshot. `older` is the same stream of the newest one.
    #[must_use]
    pub fn write(&self, name: &str, older: Option<Arc<OlderStream>>) -> StreamWriter {
        StreamWriter::new(self.clone(), name.to_owned(), older)
    }

    /// Replaces the index with these streams of `snapshot`, and removes what they do not need.
    ///
    /// `maps` names the streams that use a map. `None` keeps the map that the index already holds.
    ///
    /// # Errors
    /// [`Class::Storage`] if the disk fails or is full.
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
                    fs::rename(&unfinished, &finished).context(Class::Storage, || {
                        format!("cannot write the row index in {}", self.folder.display())
                    })?;
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

    /// Removes the index.
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
        // One file a stream: a tree has many, and what a crash damages counts as missing.
        replace_cheaply(path, |file| file.write_all(&sealed))
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

/// The part of a chunk's id that the index keeps.
fn short(id: &ChunkId) -> [u8; KEPT_ID_BYTES] {
    let mut short = [0; KEPT_ID_BYTES];
    short.copy_from_slice(&id.0[..KEPT_ID_BYTES]);
    short
}

/// A finished stream for [`RowIndex::replace`].
pub struct NewStream {
    name: String,
    files: Vec<String>,
    chunks: Vec<Chunk>,
}

#[cfg(test)]
mod tests;
