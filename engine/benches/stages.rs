//! Each stage of the data path, in bytes a second on one thread: `cargo bench -p lifeboat-engine`.
//!
//! Chunks are those of the default size, cut from the first rows of what `make bench` measures
//! with.
#![allow(clippy::unwrap_used, reason = "a benchmark that cannot run stops")]

#[path = "../../tests/src/bin/bench-parts/data.rs"]
mod data;

use std::io::Read;
use std::sync::LazyLock;

use bytes::Bytes;
use divan::counter::{BytesCount, ItemsCount};
use divan::{Bencher, black_box};
use lifeboat_engine::backup::compress::{Compression, Compressor, Effort};
use lifeboat_engine::base::buffers::BufferPool;
use lifeboat_engine::format::chunk_id::ChunkIdKey;
use lifeboat_engine::format::frames;
use lifeboat_engine::format::id::{ChunkId, Digest};
use lifeboat_engine::stages;
use lifeboat_engine::stages::{Block, Chunker};
use lifeboat_engine::stages::{ChunkTable, TableBuilder};
use lifeboat_engine::stages::{Fineness, UnitCutter};

/// What `data` expects of the program that it is part of.
type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

const MIB: usize = 16;
const AVERAGE: u32 = 512 << 10;
const LOOKUPS: u64 = 10_000;

static KEY: LazyLock<ChunkIdKey> = LazyLock::new(|| ChunkIdKey::new(&[7; 32]).unwrap());
static DATA: LazyLock<Vec<u8>> = LazyLock::new(|| {
    let mut bytes = Vec::with_capacity(MIB << 20);
    data::write(&mut bytes, MIB, "").unwrap();
    bytes
});
static CHUNKS: LazyLock<Vec<Bytes>> = LazyLock::new(|| cut(block(&pool())));
static FRAMES: LazyLock<Vec<Vec<u8>>> =
    LazyLock::new(|| CHUNKS.iter().map(|chunk| frames::compress(1, chunk).unwrap()).collect());
static IDENTITY: LazyLock<age::x25519::Identity> = LazyLock::new(age::x25519::Identity::generate);

fn main() {
    divan::main();
}

fn pool() -> BufferPool {
    BufferPool::new(1, Chunker::longest(AVERAGE) + (MIB << 20))
}

/// All of the data, ready to be cut.
fn block(pool: &BufferPool) -> Block {
    let mut block = Block::new(pool.try_take_for(1).unwrap(), Chunker::longest(AVERAGE), MIB << 20);
    block.space().copy_from_slice(&DATA);
    block.filled(MIB << 20);
    block
}

fn cut(block: Block) -> Vec<Bytes> {
    let mut chunker = Chunker::new(&KEY, AVERAGE);
    chunker.feed(block);
    std::iter::from_fn(|| chunker.next_chunk().or_else(|| chunker.rest())).collect()
}

fn all() -> BytesCount {
    BytesCount::new(MIB << 20)
}

#[divan::bench]
fn chunk(bencher: Bencher) {
    let pool = pool();
    bencher.counter(all()).with_inputs(|| block(&pool)).bench_local_values(|block| cut(block).len());
}

#[divan::bench]
fn identify(bencher: Bencher) {
    bencher.counter(all()).bench_local(|| CHUNKS.iter().for_each(|chunk| _ = black_box(KEY.id_of(chunk))));
}

#[divan::bench(args = [1, 3])]
fn compress(bencher: Bencher, level: i32) {
    let (mut compressor, mut frame) = (Compressor::default(), Vec::new());
    let effort = Effort::new(Compression::Level(level));
    bencher.counter(all()).bench_local(|| {
        CHUNKS.iter().for_each(|chunk| compressor.compress(&effort, chunk, &mut frame).unwrap());
    });
}

#[divan::bench]
fn cut_units(bencher: Bencher) {
    let (cutter, mut units) = (UnitCutter::new(&KEY), Vec::new());
    bencher
        .counter(all())
        .bench_local(|| CHUNKS.iter().for_each(|chunk| cutter.cut(chunk, Fineness::EachLine, &mut units)));
}

#[divan::bench]
fn sketch(bencher: Bencher) {
    let cutter = UnitCutter::new(&KEY);
    let units: Vec<_> = CHUNKS
        .iter()
        .map(|chunk| {
            let mut units = Vec::new();
            cutter.cut(chunk, Fineness::EachLine, &mut units);
            units
        })
        .collect();
    bencher.counter(all()).bench_local(|| {
        units.iter().for_each(|units| drop(black_box(stages::sketch(units).unwrap())));
    });
}

#[divan::bench]
fn decompress(bencher: Bencher) {
    let mut out = vec![0; Chunker::longest(AVERAGE)];
    let pairs: Vec<_> = FRAMES.iter().zip(CHUNKS.iter()).collect();
    bencher.counter(all()).bench_local(|| {
        pairs.iter().for_each(|(frame, chunk)| frames::decompress(frame, &mut out[..chunk.len()]).unwrap());
    });
}

#[divan::bench]
fn encrypt(bencher: Bencher) {
    let recipient = IDENTITY.to_public();
    bencher
        .counter(all())
        .bench_local(|| stages::encrypt(std::iter::once(&recipient as &dyn age::Recipient), &DATA).unwrap());
}

#[divan::bench]
fn decrypt(bencher: Bencher) {
    let sealed = stages::encrypt(std::iter::once(&IDENTITY.to_public() as &dyn age::Recipient), &DATA).unwrap();
    let mut plaintext = Vec::with_capacity(MIB << 20);
    bencher.counter(all()).bench_local(|| {
        plaintext.clear();
        let identity = std::iter::once(&*IDENTITY as &dyn age::Identity);
        stages::decrypting(identity, &sealed).unwrap().read_to_end(&mut plaintext).unwrap()
    });
}

fn id(number: u64) -> ChunkId {
    Digest(*blake3::hash(&number.to_le_bytes()).as_bytes())
}

fn table(chunks: u64) -> ChunkTable {
    let mut builder = TableBuilder::new(usize::try_from(chunks).unwrap());
    (0..chunks).for_each(|number| builder.add(&id(number), number as u32));
    builder.finish()
}

/// Every second one is found.
#[divan::bench(args = [10_000, 1_000_000])]
fn look_up(bencher: Bencher, chunks: u64) {
    let table = table(chunks);
    let ids: Vec<ChunkId> = (0..LOOKUPS).map(|number| id(number * 7919 % (2 * chunks))).collect();
    bencher
        .counter(ItemsCount::new(ids.len()))
        .bench_local(|| ids.iter().filter(|id| table.find(id).is_some()).count());
}
