//! The vectors in `tests/vectors`, which a script made from `FORMAT.md` without this crate: what is
//! good is read, and what breaks a rule is refused.
#![allow(clippy::unwrap_used, reason = "tests")]

use std::collections::{BTreeSet, HashMap};
use std::io::Cursor;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use data_encoding::HEXLOWER;
use lifeboat_base::{Error, Result};
use lifeboat_format::act::{self, Act};
use lifeboat_format::chunk_id::ChunkIdKey;
use lifeboat_format::extents::{Bounds, Extents};
use lifeboat_format::id::{Digest, Name, SnapshotId};
use lifeboat_format::index::IndexSegment;
use lifeboat_format::info::VaultInfo;
use lifeboat_format::keyring::DatasetSecrets;
use lifeboat_format::log::{self, LogRecord};
use lifeboat_format::manifest::Manifest;
use lifeboat_format::map::StreamMap;
use lifeboat_format::record::{self, MarkRecord, PruneRecord, RecordBody, RecordType};
use lifeboat_format::root::Root;
use lifeboat_format::{pack, padding, planes, varint};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

/// Of how many things the index lists no more than the number.
const MANY: usize = 100;

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/vectors")
}

fn told<T: DeserializeOwned>(name: &str) -> T {
    serde_json::from_slice(&std::fs::read(folder().join(name)).unwrap()).unwrap()
}

fn bytes(hex: &str) -> Vec<u8> {
    HEXLOWER.decode(hex.as_bytes()).unwrap()
}

#[derive(Deserialize)]
struct Index {
    chunk_id_key: String,
    files: Vec<File>,
}

/// A file, as the index tells of it.
#[derive(Deserialize)]
struct File {
    name: String,
    kind: String,
    good: bool,
    place: Value,
    /// What is in it, if it is good.
    #[serde(default)]
    holds: Value,
    /// What it breaks, if it is malformed.
    #[serde(default)]
    rule: String,
    /// A word that it requires, and that nobody knows.
    requires: Option<String>,
}

#[derive(Deserialize)]
struct ManifestPlace {
    vault: String,
    dataset: Name,
    snapshot: SnapshotId,
}

#[derive(Deserialize)]
struct ExtentsPlace {
    length: u64,
    packs: Vec<u64>,
    older: u64,
}

#[derive(Deserialize)]
struct MapPlace {
    covers: u64,
    packs: HashMap<String, u64>,
}

#[derive(Deserialize)]
struct RecordPlace {
    vault: String,
    dataset: Name,
    #[serde(rename = "type")]
    record_type: RecordType,
}

#[derive(Deserialize)]
struct ActPlace {
    vault: String,
    dataset: Name,
    number: u64,
}

#[derive(Deserialize)]
struct LogPlace {
    vault: String,
    log: String,
    number: u64,
}

#[derive(Deserialize)]
struct KeyringPlace {
    vault: String,
    dataset: Name,
    generation: u32,
}

impl File {
    fn data(&self) -> Vec<u8> {
        let path = folder().join(if self.good { "good" } else { "malformed" }).join(format!("{}.zst", self.name));
        zstd::decode_all(std::fs::File::open(path).unwrap()).unwrap()
    }

    fn place<T: DeserializeOwned>(&self) -> T {
        serde_json::from_value(self.place.clone()).unwrap()
    }

    /// Reads it as strictly as it can be read, and returns what the index tells of such a file.
    fn read(&self, key: &ChunkIdKey) -> Result<Value> {
        let data = self.data();
        match self.kind.as_str() {
            "pack" => read_pack(&data, self.place["content"].as_u64().unwrap(), key),
            "extents" => read_extents(data, self.place()),
            "map" => read_map(&data.into(), &self.place()),
            "index" => read_index(&data),
            "manifest" => read_manifest(data, &self.place()),
            "record" => read_record(&data, &self.place()),
            "act" => read_act(&data, &self.place()),
            "log" => read_log_record(&data, &self.place()),
            "vault" => VaultInfo::parse(&data, &"near".parse()?).map(|_| Value::Null),
            "root" => Root::parse(&data, "root").map(|_| Value::Null),
            "keyring" => read_keyring(&data, &self.place()),
            kind => panic!("{kind} is no kind of file"),
        }
    }
}

fn damaged() -> Error {
    Error::integrity("damaged")
}

fn read_pack(data: &[u8], content: u64, key: &ChunkIdKey) -> Result<Value> {
    let entries = pack::read_table(&mut Cursor::new(data))?;
    pack::read(&mut Cursor::new(data), content, &[(0, content)])?.check(key)?;
    let chunks: Vec<Value> = entries.iter().map(|entry| json!([entry.id, entry.length])).collect();
    // What a stock decoder gives.
    let plain = zstd::decode_all(data).unwrap_or_default();
    Ok(json!({ "chunks": chunks, "blake3": Digest::of(&plain) }))
}

fn read_extents(data: Vec<u8>, place: ExtentsPlace) -> Result<Value> {
    let bounds = Bounds { packs: place.packs.into(), older: place.older };
    let extents = Extents::read(data, place.length, bounds).filter(Extents::are_whole);
    extents.map(|extents| list(&extents)).ok_or_else(damaged)
}

fn read_map(data: &Bytes, place: &MapPlace) -> Result<Value> {
    let content = |pack: &Digest| place.packs.get(&pack.to_string()).copied();
    let map = StreamMap::parse(data, place.covers, content).filter(|map| map.extents.are_whole());
    map.map(|map| list(&map.extents)).ok_or_else(damaged)
}

/// Extents as the index lists them: pack number, offset, length.
fn list(extents: &Extents) -> Value {
    // The number of an older stream becomes 0.
    let all: Vec<_> =
        extents.iter().map(|extent| (extent.pack.wrapping_add(1), extent.offset, extent.length)).collect();
    if all.len() < MANY { json!({ "extents": all }) } else { json!({ "count": all.len() }) }
}

fn read_index(data: &[u8]) -> Result<Value> {
    let segment = IndexSegment::open(data)?;
    let packs = segment.packs().collect::<Result<Vec<_>>>()?;
    let count: usize = packs.iter().map(|pack| pack.chunks.len()).sum();
    let packs: Vec<Value> = packs.iter().map(|pack| json!([pack.id, pack.size, pack.chunks])).collect();
    let generation = segment.generation;
    Ok(if count < MANY {
        json!({ "generation": generation, "packs": packs })
    } else {
        json!({ "generation": generation, "count": count })
    })
}

fn read_manifest(data: Vec<u8>, place: &ManifestPlace) -> Result<Value> {
    Manifest::parse(data, &place.vault, &place.dataset, &place.snapshot)?.check_extents()?;
    Ok(Value::Null)
}

/// The body of a drill is not this crate's.
#[derive(Serialize, Deserialize)]
#[serde(transparent)]
struct AnyDrill(Value);

impl RecordBody for AnyDrill {
    const TYPE: RecordType = RecordType::Drill;

    fn of_format_1(_: &[u8]) -> serde_json::Result<(String, Name, Self)> {
        Err(serde::de::Error::custom("no drill is of format 1 here"))
    }
}

fn read_record(data: &[u8], place: &RecordPlace) -> Result<Value> {
    let (vault, dataset) = (place.vault.as_str(), &place.dataset);
    match place.record_type {
        RecordType::Prune => record::read::<PruneRecord>(data, vault, dataset, "prune record").map(|_| Value::Null),
        RecordType::Mark => record::read::<MarkRecord>(data, vault, dataset, "mark").map(|_| Value::Null),
        RecordType::Drill => record::read::<AnyDrill>(data, vault, dataset, "drill record").map(|_| Value::Null),
    }
}

/// Who signed it is not this crate's.
fn read_act(data: &[u8], place: &ActPlace) -> Result<Value> {
    let (line, signature) = act::split(data).ok_or_else(damaged)?;
    let act = Act::of_line(line, &place.vault, &place.dataset, place.number, "act")?;
    assert!(signature.starts_with(b"untrusted comment: ") && act.signature.contains("\ntrusted comment: "));
    Ok(json!({ "object": act.object() }))
}

fn read_log_record(data: &[u8], place: &LogPlace) -> Result<Value> {
    let (line, signature) = log::split_record(data).ok_or_else(damaged)?;
    let record = LogRecord::of_line(line, &place.vault, &place.log.parse()?, place.number, "record")?;
    assert!(signature.starts_with(b"untrusted comment: "));
    Ok(json!({ "object": lifeboat_format::layout::log_record(&record.log(), record.number) }))
}

fn read_keyring(data: &[u8], place: &KeyringPlace) -> Result<Value> {
    DatasetSecrets::parse(data, &place.vault, &place.dataset, place.generation).map(|_| Value::Null)
}

#[test]
fn good_files_are_read_and_malformed_ones_are_refused() {
    let index: Index = told("index.json");
    let key = ChunkIdKey::new(&bytes(&index.chunk_id_key)).unwrap();
    let wrong: Vec<String> = index.files.iter().filter_map(|file| problem(file, &key)).collect();
    assert!(wrong.is_empty(), "{} of {} files:\n{}", wrong.len(), index.files.len(), wrong.join("\n"));
}

/// What this crate does otherwise than the index says.
fn problem(file: &File, key: &ChunkIdKey) -> Option<String> {
    let File { name, good, holds, rule, requires, .. } = file;
    match (file.read(key), requires) {
        (Ok(held), _) if *good && held == *holds => None,
        (Ok(held), _) if *good => Some(format!("{name} holds {holds}, not {held}")),
        (Ok(_), _) => Some(format!("{name} passed, though {rule}")),
        (Err(error), _) if *good => Some(format!("{name} is good, and refused: {}", error.chain())),
        (Err(error), Some(word)) if !error.chain().contains(word.as_str()) => {
            Some(format!("{name} requires {word}, and is refused for another reason: {}", error.chain()))
        }
        (Err(_), _) => None,
    }
}

#[test]
fn the_index_names_every_file() {
    let index: Index = told("index.json");
    for (good, below) in [(true, "good"), (false, "malformed")] {
        let entries = std::fs::read_dir(folder().join(below)).unwrap().map(|entry| entry.unwrap().file_name());
        let found: BTreeSet<String> = entries.map(|name| name.into_string().unwrap()).collect();
        let named = index.files.iter().filter(|file| file.good == good).map(|file| format!("{}.zst", file.name));
        assert_eq!(found, named.collect());
    }
}

#[test]
fn lengths_are_padded_as_the_vectors_say() {
    #[derive(Deserialize)]
    struct Vectors {
        padded: Vec<(usize, usize)>,
    }
    for (length, due) in told::<Vectors>("padding.json").padded {
        assert_eq!(padding::padded(length), due, "{length}");
    }
}

#[test]
fn varints_are_read_and_refused_as_the_vectors_say() {
    #[derive(Deserialize)]
    struct Vectors {
        good: Vec<Good>,
        malformed: Vec<Malformed>,
    }
    #[derive(Deserialize)]
    struct Good {
        value: String,
        bytes: String,
    }
    #[derive(Deserialize)]
    struct Malformed {
        bytes: String,
        rule: String,
    }
    let Vectors { good, malformed } = told("varints.json");
    for Good { value, bytes: hex } in good {
        let (value, mut written) = (value.parse().unwrap(), Vec::new());
        varint::put(&mut written, value);
        assert_eq!(HEXLOWER.encode(&written), hex);
        let mut input = written.as_slice();
        assert_eq!((varint::take(&mut input), input), (Some(value), &[][..]), "{hex}");
        // Where more follows, several bytes are read at once.
        written.extend([0xff; 10]);
        let mut input = written.as_slice();
        assert_eq!((varint::take(&mut input), input), (Some(value), &[0xff; 10][..]), "{hex}");
    }
    for Malformed { bytes: hex, rule } in malformed {
        assert_eq!(varint::take(&mut bytes(&hex).as_slice()), None, "{hex} is {rule}");
    }
}

#[test]
fn planes_are_read_and_refused_as_the_vectors_say() {
    #[derive(Deserialize)]
    struct Vectors {
        good: Vec<Good>,
        malformed: Vec<Malformed>,
    }
    #[derive(Deserialize)]
    struct Good {
        numbers: Vec<String>,
        bytes: String,
    }
    #[derive(Deserialize)]
    struct Malformed {
        count: usize,
        bytes: String,
        rule: String,
    }
    let Vectors { good, malformed } = told("planes.json");
    for Good { numbers, bytes: hex } in good {
        let numbers: Vec<u64> = numbers.iter().map(|number| number.parse().unwrap()).collect();
        let written = planes::planes(&numbers).concat();
        assert_eq!(HEXLOWER.encode(&written), hex);
        let mut input = written.as_slice();
        let taken = planes::take(&mut input, numbers.len());
        assert_eq!((taken, input), (Some(numbers), &[][..]), "{hex}");
    }
    for Malformed { count, bytes: hex, rule } in malformed {
        assert_eq!(planes::take(&mut bytes(&hex).as_slice(), count), None, "{hex} is {rule}");
    }
}
