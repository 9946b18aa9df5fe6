//! The files of `tests/vectors`, as inputs for the fuzz targets. Many are malformed: no target need
//! take them, and none may come to harm by them.

use std::path::Path;

use lifeboat_format::extents::Bounds;
use lifeboat_format::frames;
use serde_json::Value;

use crate::corpus::{MAX_INPUT, Seed};
use crate::fuzz::stored::{extents, manifest, map};

/// Every file of the corpus that is no longer than a target takes, once for each target that it
/// fits.
///
/// # Panics
/// The corpus cannot be read.
#[must_use]
pub fn vectors() -> Vec<Seed> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("vectors");
    let read = |path: &Path| std::fs::read(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let index: Value = serde_json::from_slice(&read(&folder.join("index.json"))).unwrap_or_default();
    let mut seeds = Vec::new();
    for file in index["files"].as_array().into_iter().flatten() {
        let name = file["name"].as_str().unwrap_or_default();
        let kept = if file["good"] == true { "good" } else { "malformed" };
        let packed = read(&folder.join(kept).join(format!("{name}.zst")));
        let data = frames::decompress_document(&packed[..], 0, 64 << 20);
        let data = data.unwrap_or_else(|error| panic!("{name}: {error}"));
        let inputs = inputs(file["kind"].as_str().unwrap_or_default(), &file["place"], data);
        let fitting = inputs.into_iter().filter(|(_, data)| data.len() <= MAX_INPUT);
        seeds.extend(fitting.map(|(target, data)| Seed { target, name: format!("vector-{name}"), data }));
    }
    assert!(seeds.len() > 400, "only {} vectors were found", seeds.len());
    seeds
}

/// What the targets take of a file.
fn inputs(kind: &str, place: &Value, data: Vec<u8>) -> Vec<(&'static str, Vec<u8>)> {
    let number = |field: &str| place[field].as_u64().unwrap_or_default();
    match kind {
        "pack" => vec![("pack", data)],
        "manifest" => {
            let json = data.get(24..).and_then(|rest| frames::take_frame(rest, MAX_INPUT).ok());
            let parts = json.map(|(json, rest)| manifest::input(json.strip_suffix(b"\n").unwrap_or(&json), rest));
            parts.map(|parts| ("manifest", parts)).into_iter().chain([("document", data)]).collect()
        }
        "index" => {
            frames::take_frame(&data, 16 << 20).ok().map(|(content, _)| ("index", content)).into_iter().collect()
        }
        "extents" => {
            let packs = place["packs"].as_array().into_iter().flatten().filter_map(Value::as_u64).collect();
            let header = extents::header(number("length"), &Bounds { packs, older: number("older") });
            vec![("extents", [header, data].concat())]
        }
        "map" => {
            let header = extents::header(0, &Bounds::default());
            vec![("map", map::input(number("covers"), &data, &header, &[]))]
        }
        "act" => vec![("act", data)],
        "log" => vec![("log", data)],
        "record" | "vault" => vec![("records", data)],
        "root" => vec![("root", data)],
        "keyring" => vec![("keyring", data)],
        other => panic!("no target takes a {other}"),
    }
}
