//! A manifest as bytes: a frame that says where its JSON ends, the JSON, the extents of its
//! streams, and padding. See "Manifests" in `FORMAT.md`.

use std::collections::BTreeMap;

use bytes::Bytes;
use chrono::{DateTime, Utc};
use lifeboat_base::facts::SourceFacts;
use lifeboat_base::{Class, Context, Error, Result};
use serde::Deserialize;

use super::long_json::{self, LONG_JSON_BYTES};
use super::{
    Accounting, GroupMoment, MAX_FACTS, MAX_MANIFEST_PACKS, MAX_STREAMS, Manifest, ManifestHead, MapEntry, MapPlace,
    PackRef, Previous, StreamEntry,
};
use crate::frames::{self, DOCUMENT_LEVEL, SKIPPABLE_MAGIC};
use crate::id::{Digest, Name, SnapshotId};
use crate::requirements::{self, NEWER_HINT, Requirements};
use crate::strict::{self, Object};
use crate::{Format, padding, utc};

const MANIFEST_MAGIC: &[u8; 8] = b"LBMANI02";
/// The payload of the first frame: the magic bytes, and the length of the frame with the JSON.
const HEADER_PAYLOAD_BYTES: u32 = 16;
const HEADER_BYTES: usize = 24;
/// No manifest is longer, before it is encrypted.
pub const MAX_MANIFEST_BYTES: usize = 256 << 20;
/// No manifest is longer as an age file: encryption adds 16 bytes to every 64 KiB, and a header.
pub const MAX_MANIFEST_OBJECT_BYTES: u64 = 257 << 20;
pub(super) const MAX_JSON_BYTES: usize = 128 << 20;

/// The parts of a manifest's plaintext.
pub(super) struct Parts {
    pub(super) json: Vec<u8>,
    /// The extents of all streams, one after the other.
    extents: Bytes,
}

/// Whether this is not the plaintext of a manifest of format 1, which has no first frame.
pub(super) fn is_format_2(plaintext: &[u8]) -> bool {
    plaintext.starts_with(&SKIPPABLE_MAGIC)
}

/// How many bytes the first frame of JSON in a manifest holds, or all frames in format 1, as they
/// say themselves. If they do not say so, as many as it could hold at most.
#[must_use]
pub fn json_bytes(plaintext: &[u8]) -> u64 {
    if is_format_2(plaintext) {
        // A reader refuses a frame that does not tell.
        return frames::measure(plaintext.get(HEADER_BYTES..).unwrap_or_default()).map_or(0, |(content, _)| content);
    }
    let (mut rest, mut sum) = (plaintext, 0_u64);
    while !rest.is_empty() {
        let Some((content, length)) = frames::measure(rest) else { return MAX_MANIFEST_BYTES as u64 };
        (rest, sum) = (&rest[length..], sum.saturating_add(content));
    }
    sum
}

/// Divides a plaintext; `what` names the manifest.
pub(super) fn divide(plaintext: &Bytes, what: &str) -> Result<Parts> {
    let damaged = || Error::integrity(format!("{what} is damaged"));
    let mark = plaintext.get(8..16).unwrap_or_default();
    if mark.starts_with(&MANIFEST_MAGIC[..6]) && mark != MANIFEST_MAGIC {
        let mark = mark.escape_ascii();
        let problem = format!("{what} has the mark {mark}, which this version of Lifeboat does not know");
        return Err(Error::integrity(problem).hint(NEWER_HINT));
    }
    let length = frame_length(plaintext).ok_or_else(damaged)?;
    let from_json = plaintext.slice(HEADER_BYTES..);
    let within = |error: Error| error.within(format!("{what} is damaged"));
    let (json, rest) = frames::take_frame(&from_json, MAX_JSON_BYTES).map_err(within)?;
    let lines = json.strip_suffix(b"\n").filter(|line| !line.contains(&b'\n')).is_some();
    let found = plaintext.len() - rest.len() - HEADER_BYTES;
    if found != length || !lines || plaintext.len() > MAX_MANIFEST_BYTES {
        return Err(damaged().because("its first frame is not one line of JSON, as long as its header says"));
    }
    Ok(Parts { extents: plaintext.slice(HEADER_BYTES + length..), json })
}

/// How long the frame with the JSON is, as the header says.
fn frame_length(plaintext: &[u8]) -> Option<usize> {
    let mut header = SKIPPABLE_MAGIC.to_vec();
    header.extend(HEADER_PAYLOAD_BYTES.to_le_bytes());
    header.extend(MANIFEST_MAGIC);
    let length = plaintext.strip_prefix(&header[..])?.first_chunk().copied().map(u64::from_le_bytes)?;
    usize::try_from(length).ok()
}

/// What a long manifest says, and the extents of its streams. `None`: it is not long, or is better
/// read as a whole.
fn read_long(plaintext: &Bytes) -> Option<(ReadManifest, Bytes)> {
    let length = frame_length(plaintext)?;
    let (content, found) = frames::measure(plaintext.get(HEADER_BYTES..)?)?;
    let is_long = content > LONG_JSON_BYTES && content <= MAX_JSON_BYTES as u64;
    if !is_long || found != length || plaintext.len() > MAX_MANIFEST_BYTES {
        return None;
    }
    let (frame, extents) = (&plaintext[HEADER_BYTES..HEADER_BYTES + length], plaintext.slice(HEADER_BYTES + length..));
    Some((long_json::read(frame, content)?, extents))
}

/// The JSON as it is read.
#[derive(Deserialize)]
struct ReadManifest {
    requires: Requirements,
    vault: String,
    dataset: Name,
    snapshot: SnapshotId,
    sequence: u64,
    #[serde(deserialize_with = "strict::object_or_null")]
    previous: Option<ReadPrevious>,
    host: Name,
    #[serde(with = "utc")]
    started: DateTime<Utc>,
    #[serde(with = "utc")]
    finished: DateTime<Utc>,
    #[serde(default, deserialize_with = "strict::some_object")]
    group: Option<GroupMoment>,
    #[serde(deserialize_with = "strict::object")]
    source: ReadFacts,
    #[serde(deserialize_with = "strict::list::<MAX_MANIFEST_PACKS, _, _>")]
    packs: Vec<PackRef>,
    #[serde(deserialize_with = "strict::list::<MAX_STREAMS, _, _>")]
    streams: Vec<Object<ReadStream>>,
    #[serde(default, deserialize_with = "strict::object")]
    accounting: Accounting,
}

#[derive(Deserialize)]
struct ReadPrevious {
    snapshot: SnapshotId,
    blake3: Digest,
}

impl From<ReadPrevious> for Previous {
    fn from(ReadPrevious { snapshot, blake3 }: ReadPrevious) -> Self {
        Self { snapshot, blake3: Some(blake3) }
    }
}

#[derive(Deserialize)]
struct ReadStream {
    name: String,
    #[serde(deserialize_with = "strict::number")]
    length: u64,
    blake3: Digest,
    #[serde(default)]
    exit: i32,
    /// The length of its extents.
    extents: u64,
    #[serde(default, deserialize_with = "strict::some_object")]
    map: Option<ReadMap>,
}

#[derive(Deserialize)]
struct ReadMap {
    #[serde(deserialize_with = "strict::number")]
    covers: u64,
    blake3: Digest,
    /// From 1.
    #[serde(deserialize_with = "strict::set::<MAX_MANIFEST_PACKS, _, _>")]
    packs: Vec<u32>,
}

/// What the source told, bounded.
#[derive(Deserialize)]
pub(super) struct ReadFacts {
    engine: String,
    #[serde(default)]
    server_version: Option<String>,
    #[serde(default, deserialize_with = "strict::texts::<MAX_FACTS, _>")]
    tools: BTreeMap<String, String>,
    #[serde(default, deserialize_with = "strict::texts::<MAX_FACTS, _>")]
    details: BTreeMap<String, String>,
    #[serde(default, deserialize_with = "strict::list::<MAX_FACTS, _, _>")]
    warnings: Vec<String>,
    #[serde(default, deserialize_with = "strict::list::<MAX_FACTS, _, _>")]
    skipped: Vec<String>,
}

impl From<ReadFacts> for SourceFacts {
    fn from(ReadFacts { engine, server_version, tools, details, warnings, skipped }: ReadFacts) -> Self {
        Self { engine, server_version, tools, details, warnings, skipped }
    }
}

#[derive(Deserialize)]
struct ReadHead {
    requires: Requirements,
    vault: String,
    dataset: Name,
    snapshot: SnapshotId,
    sequence: u64,
    #[serde(deserialize_with = "strict::object_or_null")]
    previous: Option<ReadPrevious>,
}

/// Reads what every manifest tells, whatever it requires.
pub(super) fn read_head(plaintext: &Bytes, what: &str) -> Result<ManifestHead> {
    let Parts { json, .. } = divide(plaintext, what)?;
    let ReadHead { requires, vault, dataset, snapshot, sequence, previous } = requirements::read_head(&json, what)?;
    requires.check_form(what)?;
    Ok(ManifestHead { requires, vault, dataset, snapshot, sequence, previous: previous.map(Previous::from) })
}

/// Reads a manifest. What its fields say is not checked yet.
pub(super) fn read(plaintext: Bytes, what: &str) -> Result<Manifest> {
    let length = plaintext.len();
    let (read, extents) = match read_long(&plaintext) {
        Some(found) => found,
        None => {
            let Parts { json, extents } = divide(&plaintext, what)?;
            (requirements::read_json::<ReadManifest>(&json, what)?, extents)
        }
    };
    // They would keep the whole plaintext, which may be much longer.
    let mut rest = if extents.len() < length / 2 { Bytes::copy_from_slice(&extents) } else { extents };
    drop(plaintext);
    let mut streams = Vec::with_capacity(read.streams.len());
    for Object(ReadStream { name, length, blake3, exit, extents, map }) in read.streams {
        let extents = usize::try_from(extents).ok().filter(|length| *length <= rest.len());
        let extents = extents.ok_or_else(|| Error::integrity(format!("{what} is cut short")))?;
        let map = map.map(|ReadMap { covers, blake3, packs }| MapEntry {
            covers,
            blake3,
            // 0 is no number, and becomes one that no pack has.
            place: MapPlace::Packs(packs.into_iter().map(|pack| pack.wrapping_sub(1)).collect()),
        });
        streams.push(StreamEntry { name, length, blake3, exit, extents: rest.split_to(extents), map });
    }
    if !padding::is_right(&rest, length - rest.len(), 0) {
        return Err(Error::integrity(format!("{what} is damaged")).because("its padding is wrong"));
    }
    Ok(Manifest {
        format: Format::Two,
        requires: read.requires,
        vault: read.vault,
        dataset: read.dataset,
        snapshot: read.snapshot,
        sequence: read.sequence,
        previous: read.previous.map(Previous::from),
        host: read.host,
        started: read.started,
        finished: read.finished,
        group: read.group,
        source: read.source.into(),
        packs: read.packs,
        streams,
        accounting: read.accounting,
    })
}

/// Writes a manifest as it is encrypted.
pub(super) fn write(manifest: &Manifest) -> Result<Vec<u8>> {
    let mut json = serde_json::to_vec(manifest).context(Class::Failed, || "cannot write the manifest as JSON")?;
    json.push(b'\n');
    if json.len() > MAX_JSON_BYTES {
        return Err(too_long("JSON", json.len(), MAX_JSON_BYTES));
    }
    let json = frames::compress(DOCUMENT_LEVEL, &json)?;
    let extents: usize = manifest.streams.iter().map(|stream| stream.extents.len()).sum();
    let mut out = Vec::with_capacity(padding::padded_with_tail(HEADER_BYTES + json.len() + extents, 0));
    out.extend(SKIPPABLE_MAGIC);
    out.extend(HEADER_PAYLOAD_BYTES.to_le_bytes());
    out.extend(MANIFEST_MAGIC);
    out.extend((json.len() as u64).to_le_bytes());
    out.extend(json);
    manifest.streams.iter().for_each(|stream| out.extend_from_slice(&stream.extents));
    padding::append(&mut out, 0, &[]);
    if out.len() > MAX_MANIFEST_BYTES {
        return Err(too_long("plaintext", out.len(), MAX_MANIFEST_BYTES));
    }
    Ok(out)
}

fn too_long(part: &str, length: usize, limit: usize) -> Error {
    let (length, limit) = (length >> 20, limit >> 20);
    Error::failed(format!("the manifest would take {length} MiB of {part}, more than the limit of {limit} MiB"))
        .hint("set a larger `chunk_size` for the dataset, or dedup = \"chunks\"")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A plaintext of at least `length` bytes, whose JSON has `json` bytes.
    fn plaintext(json: usize, length: usize) -> Result<Bytes> {
        let mut line = vec![b' '; json - 1];
        line.push(b'\n');
        let frame = frames::compress(1, &line)?;
        let mut out = [&SKIPPABLE_MAGIC[..], &HEADER_PAYLOAD_BYTES.to_le_bytes(), MANIFEST_MAGIC].concat();
        out.extend((frame.len() as u64).to_le_bytes());
        out.extend(frame);
        out.resize(length.max(out.len()), 0);
        padding::append(&mut out, 0, &[]);
        Ok(out.into())
    }

    #[test]
    fn limits_are_those_of_format_md() -> Result<()> {
        let divided = |json: usize, length: usize| {
            let plaintext = plaintext(json, length)?;
            Ok::<_, Error>((plaintext.len(), divide(&plaintext, "a manifest").is_ok()))
        };
        assert!(divided(128 << 20, 0)?.1);
        assert!(!divided((128 << 20) + 1, 0)?.1);
        assert_eq!(divided(9, (256 << 20) - 8)?, (256 << 20, true));
        let (longer, read) = divided(9, 256 << 20)?;
        assert!(longer > 256 << 20 && !read);
        Ok(())
    }

    #[test]
    fn is_one_line_of_json() -> Result<()> {
        for (line, good) in [(&b"{}\n"[..], true), (b"{}", false), (b"{\n}\n", false), (b"", false)] {
            let frame = frames::compress(1, line)?;
            let mut out = [&SKIPPABLE_MAGIC[..], &HEADER_PAYLOAD_BYTES.to_le_bytes(), MANIFEST_MAGIC].concat();
            out.extend((frame.len() as u64).to_le_bytes());
            out.extend(frame);
            assert_eq!(divide(&out.into(), "a manifest").is_ok(), good, "{line:?}");
        }
        Ok(())
    }
}
