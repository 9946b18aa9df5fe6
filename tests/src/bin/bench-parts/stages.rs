//! Each stage of the pipeline alone, on one thread, on the same bytes: what the machine cannot do faster.

use std::fs::File;
use std::io::{Cursor, Read, Write};
use std::path::Path;
use std::time::Instant;

use lifeboat_engine::bytes::buffers::{Buffer, BufferPool};
use lifeboat_engine::bytes::chunk::{Block, ChunkIdKey, Chunker};
use lifeboat_engine::bytes::compress::{Compression, Compressor, Effort};
use lifeboat_engine::bytes::crypt;
use lifeboat_engine::vault::pack::{self, PackWriter};
use serde_json::json;

use super::Result;

const AVERAGE: u32 = 512 << 10;
const BLOCK: usize = 8 << 20;

/// Adds up the processor time of one stage.
struct Stage(f64);

impl Stage {
    fn time<T>(&mut self, work: impl FnOnce() -> T) -> T {
        let began = Instant::now();
        let done = work();
        self.0 += began.elapsed().as_secs_f64();
        done
    }
}

/// Prints the seconds of each stage of a first backup of `file`, and of its restore.
pub(super) fn measure(file: &Path, level: &str, scratch: &Path) -> Result<()> {
    let compression = if level == "auto" { Compression::Auto } else { Compression::Level(level.parse()?) };
    let mut stages: [Stage; 14] = std::array::from_fn(|_| Stage(0.0));
    let [read, cut, identify, hash, compress, encrypt, name, write, fetch, check, open, unpack, again, deliver] =
        &mut stages;
    let key = ChunkIdKey::new(&[7; 32])?;
    let (identity, effort) = (age::x25519::Identity::generate(), Effort::new(compression));
    let recipient = identity.to_public();
    let (mut chunker, mut compressor, mut frame) = (Chunker::new(&key, AVERAGE), Compressor::default(), Vec::new());
    let (mut stream, mut restored) = (blake3::Hasher::new(), blake3::Hasher::new());
    let runtime = tokio::runtime::Builder::new_current_thread().build()?;
    let pool = BufferPool::new(3, Chunker::longest(AVERAGE) + BLOCK);
    let mut source = File::open(file)?;
    let mut out = File::create(scratch.join("restored"))?;
    let (mut pack, mut chunks, mut packs, mut stored) = (Vec::new(), Vec::new(), 0, 0);
    let (mut end, mut space) = (false, Buffer::default());
    while !end {
        let mut block = Block::new(runtime.block_on(pool.take())?, Chunker::longest(AVERAGE), BLOCK);
        read.time(|| -> std::io::Result<()> {
            while !block.space().is_empty() {
                let length = source.read(block.space())?;
                if length == 0 {
                    end = true;
                    break;
                }
                block.filled(length);
            }
            Ok(())
        })?;
        hash.time(|| stream.update(block.content()));
        chunker.feed(block);
        loop {
            let chunk =
                cut.time(|| if end { chunker.next_chunk().or_else(|| chunker.rest()) } else { chunker.next_chunk() });
            let Some(chunk) = chunk else { break };
            let id = identify.time(|| key.id_of(&chunk));
            compress.time(|| compressor.compress(&effort, &chunk, &mut frame))?;
            chunks.push((id, chunk.len(), frame.len()));
            pack.extend_from_slice(&frame);
            let content: usize = chunks.iter().map(|(_, length, _)| length).sum();
            if pack.len() < pack::TARGET_SIZE && content < pack::TARGET_CONTENT {
                continue;
            }
            let sealed = encrypt.time(|| seal(&recipient, &pack, &chunks))?;
            let place = scratch.join(format!("pack-{packs}"));
            let digest = name.time(|| blake3::hash(&sealed));
            write.time(|| store(&place, &sealed))?;
            (packs, stored) = (packs + 1, stored + sealed.len());
            // And back.
            let ciphertext = fetch.time(|| std::fs::read(&place))?;
            if check.time(|| blake3::hash(&ciphertext)) != digest {
                return Err("a pack came back changed".into());
            }
            let mut plaintext = Vec::new();
            open.time(|| -> Result<()> {
                let identity = std::iter::once(&identity as &dyn age::Identity);
                crypt::decrypting(identity, &ciphertext)?.read_to_end(&mut plaintext)?;
                Ok(())
            })?;
            let whole = [(0, content as u64)];
            let content = unpack.time(|| {
                pack::read(&mut Cursor::new(&plaintext), content as u64, None, &whole, std::mem::take(&mut space))
            })?;
            let bytes = content.slice(0, content.length() as u64).ok_or("a pack came back short")?;
            again.time(|| restored.update(&bytes));
            deliver.time(|| out.write_all(&bytes))?;
            std::fs::remove_file(&place)?;
            (pack, chunks) = (Vec::new(), Vec::new());
        }
    }
    let seconds = stages.map(|stage| stage.0);
    let names = [
        "read",
        "chunk",
        "identify",
        "hash",
        "compress",
        "encrypt",
        "name",
        "write",
        "fetch",
        "check",
        "decrypt",
        "decompress",
        "hash_again",
        "deliver",
    ];
    let stages: serde_json::Map<String, serde_json::Value> =
        names.iter().zip(seconds).map(|(name, seconds)| ((*name).to_owned(), json!(seconds))).collect();
    let sum = |from: usize, to: usize| seconds[from..to].iter().sum::<f64>();
    println!(
        "{}",
        json!({ "stages": stages, "first": sum(0, 8), "unchanged": sum(0, 4), "restore": sum(8, 14), "stored_bytes": stored })
    );
    Ok(())
}

fn seal(
    recipient: &age::x25519::Recipient,
    frames: &[u8],
    chunks: &[(lifeboat_engine::id::ChunkId, usize, usize)],
) -> Result<Vec<u8>> {
    let recipient = std::iter::once(recipient as &dyn age::Recipient);
    let mut pack = PackWriter::new(crypt::encrypting(recipient, Vec::with_capacity(frames.len() + (1 << 20)))?);
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
