//! Each stage of the pipeline alone, on one thread, on the same bytes: what the machine cannot do
//! faster.
//!
//! Buffers are reused as the engine reuses them, so that no stage pays for fresh memory. Every byte
//! goes all the way: what comes back is compared with what went in. `SCRATCH/restored` holds the
//! last pack's content, `SCRATCH/pack` comes and goes.

use std::fs::File;
use std::io::{Cursor, Read, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::Instant;

use lifeboat_engine::backup::compress::{Compression, Compressor, Effort};
use lifeboat_engine::base::buffers::BufferPool;
use lifeboat_engine::format::chunk_id::ChunkIdKey;
use lifeboat_engine::format::id::ChunkId;
use lifeboat_engine::format::pack;
use lifeboat_engine::format::pack::PackWriter;
use lifeboat_engine::stages;
use lifeboat_engine::stages::{Block, Chunker};
use serde_json::{Map, Value, json};

use super::Result;

/// The default of `chunk_size`.
const AVERAGE: u32 = 512 << 10;
const BLOCK: usize = 2 << 20;
/// What a restore decompresses at once.
const PIECE: usize = 1 << 20;

/// Adds up the seconds of one stage.
#[derive(Default)]
struct Stage(f64);

impl Stage {
    fn time<T>(&mut self, work: impl FnOnce() -> T) -> T {
        let began = Instant::now();
        let done = work();
        self.0 += began.elapsed().as_secs_f64();
        done
    }
}

/// What a first backup does with every byte; an unchanged one reads, hashes and identifies, and
/// searches for no boundary.
#[derive(Default)]
struct Backup {
    read: Stage,
    hash: Stage,
    chunk: Stage,
    identify: Stage,
    compress: Stage,
    encrypt: Stage,
    name: Stage,
    write: Stage,
}

#[derive(Default)]
struct Restore {
    fetch: Stage,
    check: Stage,
    decrypt: Stage,
    decompress: Stage,
    hash: Stage,
    deliver: Stage,
}

/// A pack on its way out and back.
struct Packs {
    backup: Backup,
    restore: Restore,
    identity: age::x25519::Identity,
    file: PathBuf,
    out: File,
    frames: Vec<u8>,
    chunks: Vec<(ChunkId, usize, usize)>,
    content: usize,
    ciphertext: Vec<u8>,
    plaintext: Vec<u8>,
    piece: Vec<u8>,
    restored: blake3::Hasher,
    stored: usize,
}

/// Prints the seconds of each stage of a first backup of `file`, and of its restore.
pub(super) fn measure(file: &Path, level: &str, scratch: &Path) -> Result<()> {
    let compression = if level == "auto" { Compression::Auto } else { Compression::Level(level.parse()?) };
    let (key, effort) = (ChunkIdKey::new(&[7; 32])?, Effort::new(compression));
    let (mut chunker, mut compressor, mut frame) = (Chunker::new(&key, AVERAGE), Compressor::default(), Vec::new());
    let runtime = tokio::runtime::Builder::new_current_thread().build()?;
    let pool = BufferPool::new(3, Chunker::longest(AVERAGE) + BLOCK);
    let (mut source, mut stream, mut end) = (File::open(file)?, blake3::Hasher::new(), false);
    let mut packs = Packs {
        backup: Backup::default(),
        restore: Restore::default(),
        identity: age::x25519::Identity::generate(),
        file: scratch.join("pack"),
        out: File::create(scratch.join("restored"))?,
        frames: Vec::new(),
        chunks: Vec::new(),
        content: 0,
        ciphertext: Vec::new(),
        plaintext: Vec::new(),
        piece: Vec::new(),
        restored: blake3::Hasher::new(),
        stored: 0,
    };
    while !end {
        let mut block = Block::new(runtime.block_on(pool.take())?, Chunker::longest(AVERAGE), BLOCK);
        end = packs.backup.read.time(|| fill(&mut block, &mut source))?;
        packs.backup.hash.time(|| stream.update(block.content()));
        chunker.feed(block);
        loop {
            let next = || chunker.next_chunk().or_else(|| if end { chunker.rest() } else { None });
            let Some(chunk) = packs.backup.chunk.time(next) else { break };
            let id = packs.backup.identify.time(|| key.id_of(&chunk));
            packs.backup.compress.time(|| compressor.compress(&effort, &chunk, &mut frame))?;
            packs.push(id, chunk.len(), &frame)?;
        }
    }
    packs.there_and_back()?;
    if packs.restored.finalize() != stream.finalize() {
        return Err("something else came back than went in".into());
    }
    packs.print();
    Ok(())
}

/// Whether the source has ended.
fn fill(block: &mut Block, source: &mut File) -> std::io::Result<bool> {
    while !block.space().is_empty() {
        let length = source.read(block.space())?;
        if length == 0 {
            return Ok(true);
        }
        block.filled(length);
    }
    Ok(false)
}

impl Packs {
    fn push(&mut self, id: ChunkId, length: usize, frame: &[u8]) -> Result<()> {
        let is_full = self.frames.len() + frame.len() > pack::TARGET_PLAINTEXT_BYTES
            || self.content + length > pack::TARGET_CONTENT_BYTES;
        if is_full {
            self.there_and_back()?;
        }
        self.chunks.push((id, length, frame.len()));
        self.frames.extend_from_slice(frame);
        self.content += length;
        Ok(())
    }

    fn there_and_back(&mut self) -> Result<()> {
        if self.chunks.is_empty() {
            return Ok(());
        }
        let Self { backup, restore, .. } = self;
        let sealed = std::mem::take(&mut self.ciphertext);
        let sealed = backup.encrypt.time(|| seal(&self.identity.to_public(), &self.frames, &self.chunks, sealed))?;
        let digest = backup.name.time(|| blake3::hash(&sealed));
        backup.write.time(|| store(&self.file, &sealed))?;
        self.stored += sealed.len();
        self.ciphertext = sealed;

        self.ciphertext.clear();
        restore.fetch.time(|| File::open(&self.file)?.read_to_end(&mut self.ciphertext))?;
        if restore.check.time(|| blake3::hash(&self.ciphertext)) != digest {
            return Err("a pack came back changed".into());
        }
        self.plaintext.clear();
        restore.decrypt.time(|| -> Result<usize> {
            let identity = std::iter::once(&self.identity as &dyn age::Identity);
            Ok(stages::decrypting(identity, &self.ciphertext)?.read_to_end(&mut self.plaintext)?)
        })?;
        let (mut offset, length) = (0, self.content as u64);
        let mut plaintext = Cursor::new(&self.plaintext);
        let excerpt = restore.decompress.time(|| pack::read(&mut plaintext, length, &[(0, length)]))?;
        while offset < length {
            let unit = excerpt.chunk_run(offset, length - offset, PIECE).ok_or("a pack came back short")?;
            let place = restore.decompress.time(|| excerpt.decompress(offset, unit, &mut self.piece))?;
            let bytes = &self.piece[place];
            restore.hash.time(|| self.restored.update(bytes));
            // In the same place each time: a virtual machine's fresh pages may cost more than all
            // stages, which is no stage's doing.
            restore.deliver.time(|| self.out.write_all_at(bytes, offset))?;
            offset += unit.length;
        }
        std::fs::remove_file(&self.file)?;
        self.frames.clear();
        self.chunks.clear();
        self.content = 0;
        Ok(())
    }

    fn print(&self) {
        let (backup, restore) = (&self.backup, &self.restore);
        let unchanged = [("read", &backup.read), ("hash", &backup.hash), ("identify", &backup.identify)];
        let more = [
            ("chunk", &backup.chunk),
            ("compress", &backup.compress),
            ("encrypt", &backup.encrypt),
            ("name", &backup.name),
            ("write", &backup.write),
        ];
        let back = [
            ("fetch", &restore.fetch),
            ("check", &restore.check),
            ("decrypt", &restore.decrypt),
            ("decompress", &restore.decompress),
            ("hash_again", &restore.hash),
            ("deliver", &restore.deliver),
        ];
        let sum = |stages: &[(&str, &Stage)]| stages.iter().map(|(_, stage)| stage.0).sum::<f64>();
        let all = unchanged.iter().chain(&more).chain(&back);
        let stages: Map<String, Value> = all.map(|(name, stage)| ((*name).to_owned(), json!(stage.0))).collect();
        println!(
            "{}",
            json!({ "stages": stages, "first": sum(&unchanged) + sum(&more), "unchanged": sum(&unchanged),
                "restore": sum(&back), "stored_bytes": self.stored })
        );
    }
}

/// As [`stages::encrypt`] does it, into a buffer that was used before.
fn seal(
    recipient: &age::x25519::Recipient,
    frames: &[u8],
    chunks: &[(ChunkId, usize, usize)],
    mut out: Vec<u8>,
) -> Result<Vec<u8>> {
    out.clear();
    out.reserve(frames.len() + (1 << 20));
    let recipient = std::iter::once(recipient as &dyn age::Recipient);
    let mut pack = PackWriter::new(stages::encrypting(recipient, out)?);
    let mut rest = frames;
    for (id, length, frame) in chunks {
        let (this, later) = rest.split_at(*frame);
        pack.push(*id, *length, this)?;
        rest = later;
    }
    Ok(pack.finish()?.out.finish()?)
}

/// Written, not synced: the disk works while the processor does something else.
fn store(place: &Path, bytes: &[u8]) -> std::io::Result<()> {
    File::create(place)?.write_all(bytes)
}
