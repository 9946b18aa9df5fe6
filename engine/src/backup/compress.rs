//! Decides how hard each chunk is compressed, depending on its stream.
//!
//! The rule is level 1, or level 3 if samples show that level 1 would take over 5 % more. New rows
//! among old ones get level 6 while they are at most a 32nd of the stream. Chunks that do not
//! compress are stored as they are.

use std::io;
use std::sync::{Mutex, PoisonError};

use lifeboat_base::{Class, Context, Result};

/// The fast level. `auto` uses it unless the thorough level is worth its time.
const FAST_LEVEL: i32 = 1;
/// The thorough level. It takes half as long again as the fast one.
const THOROUGH_LEVEL: i32 = 3;
/// The level for small amounts of new rows. They take a tenth less than at the fast level, at a
/// fifth of its speed.
const HARD_LEVEL: i32 = 6;
/// The fast level is used while its frames are at most this much larger than thorough ones.
/// Samples vary by a few per cent if different kinds of rows alternate. With a lower bound, chance
/// would decide.
const MAX_SIZE_RATIO_OF_FAST: f64 = 1.05;
/// One chunk in this many is compressed at both levels, and more of the first ones.
const CHUNKS_PER_SAMPLE: u64 = 64;
/// Each new sample multiplies the weight of the older ones by this. So a few unusual chunks do not
/// decide.
const WEIGHT_OF_OLDER_SAMPLES: f64 = 0.95;
/// The level that searches least. At this level, incompressible data is nearly copied.
const STORE_LEVEL: i32 = -100;
/// Data whose frame is more than this part of it counts as incompressible.
const INCOMPRESSIBLE_RATIO: f64 = 0.97;
/// A chunk is probed in this many places.
const PROBES_PER_CHUNK: usize = 4;
/// How many bytes each probe compresses.
const PROBE_BYTES: usize = 8 << 10;

type Zstd = zstd::bulk::Compressor<'static>;

/// How hard to compress.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Compression {
    /// The level depends on the data. It is 1, or 3 if level 1 would take over 5 % more. It is 6
    /// for small amounts of new rows.
    Auto,
    /// This zstd level, 1 to 19, for everything.
    Level(i32),
}

impl Compression {
    /// The compression of data that is little compared with its stream.
    #[must_use]
    pub fn of_little(self) -> Self {
        if self == Self::Auto { Self::Level(HARD_LEVEL) } else { self }
    }
}

/// What a run has learnt about one stream: which level pays, and whether it compresses at all.
pub struct Effort {
    wanted: Compression,
    learnt: Mutex<Learnt>,
}

#[derive(Default)]
struct Learnt {
    chunks: u64,
    /// Bytes of the sampled chunks at the fast level. The newest sample weighs most.
    fast: f64,
    /// The same at the thorough level.
    thorough: f64,
    /// Whether the newest chunk did not compress.
    incompressible: bool,
}

struct Plan {
    level: i32,
    also: Option<i32>,
    probe: bool,
}

impl Effort {
    /// Begins a stream of which nothing is known yet.
    #[must_use]
    pub fn new(wanted: Compression) -> Self {
        Self { wanted, learnt: Mutex::default() }
    }

    fn plan(&self) -> Plan {
        let mut learnt = self.learnt.lock().unwrap_or_else(PoisonError::into_inner);
        learnt.chunks += 1;
        let probe = learnt.incompressible;
        match self.wanted {
            Compression::Level(level) => Plan { level, also: None, probe },
            Compression::Auto => {
                let fast = learnt.fast <= MAX_SIZE_RATIO_OF_FAST * learnt.thorough;
                let sampled = learnt.chunks.is_power_of_two() || learnt.chunks.is_multiple_of(CHUNKS_PER_SAMPLE);
                let (level, other) = if fast { (FAST_LEVEL, THOROUGH_LEVEL) } else { (THOROUGH_LEVEL, FAST_LEVEL) };
                Plan { level, also: sampled.then_some(other), probe }
            }
        }
    }

    fn learn(&self, plan: &Plan, chunk: usize, frame: usize, other: Option<usize>) {
        let mut learnt = self.learnt.lock().unwrap_or_else(PoisonError::into_inner);
        learnt.incompressible = frame as f64 > INCOMPRESSIBLE_RATIO * chunk as f64;
        if let Some(other) = other {
            let (fast, thorough) = if plan.level == FAST_LEVEL { (frame, other) } else { (other, frame) };
            learnt.fast = WEIGHT_OF_OLDER_SAMPLES * learnt.fast + fast as f64;
            learnt.thorough = WEIGHT_OF_OLDER_SAMPLES * learnt.thorough + thorough as f64;
        }
    }
}

/// Compresses one chunk after the other. It keeps megabytes of tables, so each thread has one.
#[derive(Default)]
pub struct Compressor(Option<Zstd>);

impl Compressor {
    /// Replaces the content of `frame` with one zstd frame of `chunk`.
    ///
    /// # Errors
    /// [`Class::Failed`] if zstd runs out of memory.
    pub fn compress(&mut self, effort: &Effort, chunk: &[u8], frame: &mut Vec<u8>) -> Result<()> {
        press(set_up(&mut self.0)?, effort, chunk, frame).context(Class::Failed, || "cannot compress a chunk with zstd")
    }
}

fn press(
    compressor: &mut zstd::bulk::Compressor<'_>,
    effort: &Effort,
    chunk: &[u8],
    frame: &mut Vec<u8>,
) -> io::Result<()> {
    frame.clear();
    frame.reserve(zstd::zstd_safe::compress_bound(chunk.len()));
    let plan = effort.plan();
    if plan.probe && looks_incompressible(compressor, chunk, frame)? {
        compressor.set_compression_level(STORE_LEVEL)?;
        compressor.compress_to_buffer(chunk, frame)?;
        return Ok(());
    }
    let mut other = None;
    if let Some(level) = plan.also {
        compressor.set_compression_level(level)?;
        other = Some(compressor.compress_to_buffer(chunk, frame)?);
    }
    compressor.set_compression_level(plan.level)?;
    let length = compressor.compress_to_buffer(chunk, frame)?;
    effort.learn(&plan, chunk.len(), length, other);
    Ok(())
}

/// Whether short pieces from all over the chunk do not compress.
fn looks_incompressible(
    compressor: &mut zstd::bulk::Compressor<'_>,
    chunk: &[u8],
    scratch: &mut Vec<u8>,
) -> io::Result<bool> {
    compressor.set_compression_level(FAST_LEVEL)?;
    let (mut plain, mut compressed) = (0, 0);
    for part in chunk.chunks(chunk.len().div_ceil(PROBES_PER_CHUNK).max(1)) {
        let piece = &part[..part.len().min(PROBE_BYTES)];
        plain += piece.len();
        compressed += compressor.compress_to_buffer(piece, scratch)?;
    }
    Ok(compressed as f64 > INCOMPRESSIBLE_RATIO * plain as f64)
}

fn set_up(compressor: &mut Option<Zstd>) -> Result<&mut Zstd> {
    Ok(match compressor {
        Some(zstd) => zstd,
        none => none.insert(zstd::bulk::Compressor::new(FAST_LEVEL).context(Class::Failed, || "cannot set up zstd")?),
    })
}

#[cfg(test)]
mod tests {
    use lifeboat_format::frames::{compress, decompress};

    use super::*;

    fn noise(length: usize) -> Vec<u8> {
        let mut data = vec![0; length];
        blake3::Hasher::new().finalize_xof().fill(&mut data);
        data
    }

    fn rows() -> Vec<u8> {
        let mut rows = Vec::new();
        for (n, word) in noise(200_000).chunks(4).enumerate() {
            let (a, b) = (word[0] % 50, u16::from_le_bytes([word[1], word[2]]) % 3000);
            rows.extend_from_slice(format!("{n}\tcustomer-{a}@example.com\titem {b} of {a}\t{}\n", b % 7).as_bytes());
        }
        rows
    }

    fn read_back(frame: &[u8], chunk: &[u8]) -> Result<()> {
        let mut out = vec![0; chunk.len()];
        decompress(frame, &mut out)?;
        assert!(out == chunk, "a frame gives something else back");
        Ok(())
    }

    #[test]
    fn noise_is_stored_and_text_after_noise_is_compressed_again() -> Result<()> {
        let (mut compressor, effort) = (Compressor::default(), Effort::new(Compression::Level(9)));
        let (noise, text, mut frame) = (noise(1 << 20), b"all the same ".repeat(80_000), Vec::new());
        for _ in 0..3 {
            compressor.compress(&effort, &noise, &mut frame)?;
            assert!(frame.len() <= noise.len() + 100, "{} bytes of noise became {}", noise.len(), frame.len());
            read_back(&frame, &noise)?;
        }
        assert!(effort.plan().probe);
        compressor.compress(&effort, &text, &mut frame)?;
        assert!(frame.len() < text.len() / 100);
        read_back(&frame, &text)?;
        assert!(!effort.plan().probe);
        Ok(())
    }

    #[test]
    fn auto_is_thorough_only_where_it_pays() -> Result<()> {
        // Level 3 finds no more than level 1 in letters drawn at random; in rows it does.
        let letters: Vec<u8> = noise(1 << 20).iter().map(|byte| b'a' + byte % 16).collect();
        let rows = rows();
        let level_of = |data: &[u8]| -> Result<(i32, usize, usize)> {
            let (mut compressor, effort, mut frame) =
                (Compressor::default(), Effort::new(Compression::Auto), Vec::new());
            compressor.compress(&effort, data, &mut frame)?;
            Ok((effort.plan().level, compress(FAST_LEVEL, data)?.len(), compress(THOROUGH_LEVEL, data)?.len()))
        };
        for data in [&letters, &rows] {
            let (level, fast, thorough) = level_of(data)?;
            let due = if fast as f64 <= MAX_SIZE_RATIO_OF_FAST * thorough as f64 { FAST_LEVEL } else { THOROUGH_LEVEL };
            assert_eq!(level, due, "{fast} bytes at level 1, {thorough} at level 3");
        }
        Ok(())
    }

    #[test]
    fn what_is_little_is_compressed_harder_unless_a_level_is_set() -> Result<()> {
        assert_eq!(Compression::Level(2).of_little(), Compression::Level(2));
        let rows = rows();
        let length_of = |compression| -> Result<usize> {
            let (mut compressor, mut frame) = (Compressor::default(), Vec::new());
            compressor.compress(&Effort::new(compression), &rows, &mut frame)?;
            read_back(&frame, &rows)?;
            Ok(frame.len())
        };
        let (little, much) = (length_of(Compression::Auto.of_little())?, length_of(Compression::Auto)?);
        assert!(little * 20 < much * 19, "{little} bytes instead of {much}");
        Ok(())
    }

    #[test]
    fn an_empty_chunk_and_a_single_byte_are_frames_too() -> Result<()> {
        let (mut compressor, effort) = (Compressor::default(), Effort::new(Compression::Auto));
        let mut frame = Vec::new();
        for chunk in [&b""[..], b"x", b""] {
            compressor.compress(&effort, chunk, &mut frame)?;
            read_back(&frame, chunk)?;
        }
        Ok(())
    }
}
