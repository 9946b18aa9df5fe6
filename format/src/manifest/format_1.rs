//! Reads manifests of format 1: JSON alone, with extents as base64. See "Version 1" in `FORMAT.md`.

use bytes::Bytes;
use chrono::{DateTime, Utc};
use data_encoding::BASE64;
use lifeboat_base::facts::SourceFacts;
use lifeboat_base::{Class, Context, Error, Result};
use serde::Deserialize;

use super::json::ReadFacts;
use super::{Accounting, MAX_STREAMS, Manifest, MapEntry, MapPlace, PackRef, Previous, StreamEntry};
use crate::id::{Digest, Name, PackId, SnapshotId};
use crate::requirements::Requirements;
use crate::{Format, frames, stream_name, strict};

/// The version that manifests of format 1 have.
const VERSION: u32 = 2;
const MAX_JSON_BYTES_OF_FORMAT_1: u64 = 256 << 20;
const MAX_PACKS_OF_FORMAT_1: usize = (1 << 24) - 1;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct OldManifest {
    version: u32,
    vault: String,
    dataset: Name,
    snapshot: SnapshotId,
    predecessor: Option<SnapshotId>,
    generation: u32,
    host: Name,
    started: DateTime<Utc>,
    finished: DateTime<Utc>,
    source: ReadFacts,
    #[serde(deserialize_with = "strict::list::<MAX_PACKS_OF_FORMAT_1, _, _>")]
    packs: Vec<(PackId, u64, u64)>,
    #[serde(default, deserialize_with = "strict::list::<MAX_PACKS_OF_FORMAT_1, _, _>")]
    unused: Vec<u64>,
    #[serde(deserialize_with = "strict::list::<MAX_STREAMS, _, _>")]
    streams: Vec<OldStream>,
    totals: OldTotals,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct OldStream {
    name: String,
    length: u64,
    blake3: Digest,
    exit: i32,
    extents: String,
    map: Option<OldMap>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct OldMap {
    covers: u64,
    length: u64,
    blake3: Digest,
    extents: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct OldTotals {
    raw_bytes: u64,
    deduplicated_bytes: u64,
    row_bytes: u64,
    stored_bytes: u64,
    new_packs: u64,
}

/// Reads a manifest, and gives its streams the names of format 2. What its fields say is not
/// checked yet.
pub(super) fn read(plaintext: &[u8], what: &str) -> Result<Manifest> {
    let damaged = || format!("{what} is damaged");
    let json = frames::decompress_document(plaintext, plaintext.len(), MAX_JSON_BYTES_OF_FORMAT_1)?;
    if strict::is_too_deep(&json) {
        return Err(Error::integrity(damaged()).because("it is nested too deep"));
    }
    let old: OldManifest = serde_json::from_slice(&json).context(Class::Integrity, damaged)?;
    if old.version != VERSION {
        return Err(Error::integrity(format!("{what} has version {}, and format 1 has only {VERSION}", old.version)));
    }
    let binary = |text: String| BASE64.decode(text.as_bytes()).map(Bytes::from).context(Class::Integrity, damaged);
    let source = SourceFacts::from(old.source);
    let mut streams = Vec::with_capacity(old.streams.len());
    for OldStream { name, length, blake3, exit, extents, map } in old.streams {
        let map = match map {
            None => None,
            Some(OldMap { covers, length, blake3, extents }) => {
                let place = MapPlace::Extents { length, extents: binary(extents)? };
                Some(MapEntry { covers, blake3, place })
            }
        };
        let name = stream_name::of_format_1(&source.engine, &name);
        streams.push(StreamEntry { name, length, blake3, exit, extents: binary(extents)?, map });
    }
    let generation = old.generation;
    let OldTotals { raw_bytes, deduplicated_bytes, row_bytes, stored_bytes, new_packs } = old.totals;
    Ok(Manifest {
        format: Format::One,
        requires: Requirements::default(),
        vault: old.vault,
        dataset: old.dataset,
        snapshot: old.snapshot,
        sequence: 0,
        previous: old.predecessor.map(|snapshot| Previous { snapshot, blake3: None }),
        host: old.host,
        started: old.started,
        finished: old.finished,
        group: None,
        source,
        packs: old.packs.into_iter().map(|(id, size, content)| PackRef { id, size, content, generation }).collect(),
        streams,
        accounting: Accounting {
            unused: old.unused,
            raw_bytes,
            deduplicated_bytes,
            row_bytes,
            stored_bytes,
            new_packs,
        },
    })
}
