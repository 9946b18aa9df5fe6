//! The chunks in `tests/vectors/chunks.json`, which a script made from `FORMAT.md` without this
//! crate.
#![allow(clippy::unwrap_used, reason = "tests")]

use std::path::Path;

use bytes::Bytes;
use data_encoding::HEXLOWER;
use lifeboat_engine::base::buffers::Buffer;
use lifeboat_engine::format::chunk_id::ChunkIdKey;
use lifeboat_engine::stages::{Block, Chunker, Peek};
use serde::Deserialize;

#[derive(Deserialize)]
struct Vectors {
    masks: Vec<(usize, String)>,
    cases: Vec<Case>,
}

#[derive(Deserialize)]
struct Case {
    name: String,
    key: String,
    average: u32,
    input: Vec<Piece>,
    /// Length and id.
    chunks: Vec<(usize, String)>,
}

/// A part of the input.
#[derive(Deserialize)]
#[serde(untagged)]
enum Piece {
    /// One byte again and again.
    Fill { fill: u8, length: usize },
    /// Output of BLAKE3 of a text, from an offset on; perhaps each byte modulo a number.
    Noise { xof: String, offset: u64, length: usize, modulo: Option<u8> },
}

impl Piece {
    fn make(&self) -> Vec<u8> {
        match self {
            Self::Fill { fill, length } => vec![*fill; *length],
            Self::Noise { xof, offset, length, modulo } => {
                let mut bytes = vec![0; *length];
                let mut output = blake3::Hasher::new().update(xof.as_bytes()).finalize_xof();
                output.set_position(*offset);
                output.fill(&mut bytes);
                if let Some(modulo) = modulo {
                    bytes.iter_mut().for_each(|byte| *byte %= modulo);
                }
                bytes
            }
        }
    }
}

impl Case {
    fn key(&self) -> ChunkIdKey {
        ChunkIdKey::new(&HEXLOWER.decode(self.key.as_bytes()).unwrap()).unwrap()
    }

    fn input(&self) -> Vec<u8> {
        self.input.iter().flat_map(Piece::make).collect()
    }

    fn told(&self, chunk: &Bytes) -> (usize, String) {
        (chunk.len(), self.key().id_of(chunk).to_string())
    }

    /// Feeds the input in blocks of this many bytes.
    fn cut(&self, block: usize) -> Vec<(usize, String)> {
        let mut chunker = Chunker::new(&self.key(), self.average);
        let mut found = Vec::new();
        for part in self.input().chunks(block) {
            chunker.feed(filled(part, self.average));
            found.extend(std::iter::from_fn(|| chunker.next_chunk()).map(|chunk| self.told(&chunk)));
        }
        found.extend(std::iter::from_fn(|| chunker.rest()).map(|chunk| self.told(&chunk)));
        found
    }
}

fn filled(part: &[u8], average: u32) -> Block {
    let mut block = Block::new(Buffer::default(), Chunker::longest(average), part.len());
    block.space().copy_from_slice(part);
    block.filled(part.len());
    block
}

fn vectors() -> Vectors {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/vectors/chunks.json");
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

#[test]
fn streams_are_cut_as_the_vectors_say() {
    for case in vectors().cases {
        for block in [usize::MAX, 100_001] {
            assert_eq!(case.cut(block), case.chunks, "{}, in blocks of {block}", case.name);
        }
    }
}

#[test]
fn a_boundary_is_seen_where_the_vectors_have_one() {
    for case in vectors().cases {
        let Some((last, others)) = case.chunks.split_last() else { continue };
        let mut chunker = Chunker::new(&case.key(), case.average);
        chunker.feed(filled(&case.input(), case.average));
        for due in others {
            let Peek::Chunk(chunk) = chunker.peek(due.0) else { panic!("{}: no chunk of {}", case.name, due.0) };
            assert_eq!(case.told(&chunk), *due, "{}", case.name);
            chunker.skip(due.0);
        }
        assert_eq!(chunker.rest().map(|chunk| case.told(&chunk)).as_ref(), Some(last), "{}", case.name);
    }
}

#[test]
fn masks_are_those_of_the_fastcdc_crate() {
    for (bits, mask) in vectors().masks {
        assert_eq!(format!("{:016x}", fastcdc::v2020::MASKS[bits]), mask);
    }
}
