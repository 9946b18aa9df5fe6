//! The table of known chunks alone: how long it takes to make, what it weighs, how long a look-up
//! takes beside the hash of the chunk that is looked up.

use std::time::Instant;

use lifeboat_engine::format::chunk_id::ChunkIdKey;
use lifeboat_engine::format::id::{ChunkId, Digest};
use lifeboat_engine::stages::TableBuilder;
use serde_json::json;

use super::Result;

const LOOKUPS: u64 = 1_000_000;
const CHUNK: usize = 1 << 20;

fn id(number: u64) -> ChunkId {
    Digest(*blake3::hash(&number.to_le_bytes()).as_bytes())
}

fn resident_kib() -> Result<u64> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).ok_or("no VmRSS")?;
    Ok(line.trim().trim_end_matches(" kB").parse()?)
}

pub(super) fn measure(chunks: &str) -> Result<()> {
    let chunks: u64 = chunks.parse()?;
    let before = resident_kib()?;
    let (mut builder, mut adding) = (TableBuilder::new(usize::try_from(chunks)?), 0.0);
    for batch in 0..chunks.div_ceil(4096) {
        let ids: Vec<ChunkId> = (batch * 4096..chunks.min((batch + 1) * 4096)).map(id).collect();
        let began = Instant::now();
        for (at, id) in ids.iter().enumerate() {
            builder.add(id, (batch * 4096) as u32 + at as u32);
        }
        adding += began.elapsed().as_secs_f64();
    }
    let began = Instant::now();
    let table = builder.finish();
    let sorting = began.elapsed().as_secs_f64();
    let weight = resident_kib()? - before;
    let ids: Vec<ChunkId> = (0..LOOKUPS).map(|n| id(n * 7919 % (2 * chunks))).collect();
    let began = Instant::now();
    let found = ids.iter().filter(|id| table.find(id).is_some()).count();
    let lookup = began.elapsed().as_secs_f64() / LOOKUPS as f64;
    let (key, chunk) = (ChunkIdKey::new(&[1; 32])?, vec![7; CHUNK]);
    let began = Instant::now();
    let hashed = (0..100).map(|_| key.id_of(&chunk).0[0]).fold(0_u64, |sum, byte| sum + u64::from(byte));
    let hash = began.elapsed().as_secs_f64() / 100.0;
    println!(
        "{}",
        json!({ "chunks": chunks, "build_seconds": adding + sorting, "table_mib": weight as f64 / 1024.0,
            "lookup_ns": lookup * 1e9, "hash_of_a_chunk_ns": hash * 1e9, "found": found, "hashed": hashed })
    );
    Ok(())
}
