//! The table: which kinds of objects there are, and what is done to one of each.

use std::fmt;

use chrono::TimeDelta;
use lifeboat_engine::format::id::SnapshotId;

use crate::Objects;

/// Every kind of object but a lease, which nothing rests on: `deputies.rs` tries that. A signature
/// is a kind of its own.
pub(crate) const KINDS: [&str; 21] = [
    "vault.json",
    "description of a host",
    "root",
    "signature of a root",
    "record of a log",
    "keys of a host",
    "signature of keys of a host",
    "keys of a dataset",
    "signature of keys of a dataset",
    "pack",
    "index segment",
    "signature of an index segment",
    "manifest",
    "signature of a manifest",
    "act",
    "mark",
    "signature of a mark",
    "prune record",
    "signature of a prune record",
    "drill report",
    "signature of a drill report",
];

/// What is done to it.
pub(crate) const TAMPERINGS: [&str; 7] =
    ["removed", "garbage", "an older one", "another vault's", "another dataset's", "another host's", "a later name"];

/// Why nobody tells that an object was removed or exchanged, in so many replicas, or 0 for any.
const SILENT: [(&str, &str, usize, &str); 9] = [
    ("description of a host", "any", 0, "no program reads it"),
    ("keys of a host", "any", 0, "only an owner opens them; the scrub of the daemon puts them back"),
    ("signature of keys of a host", "any", 0, "only an owner needs them; the scrub of the daemon puts them back"),
    ("index segment", "removed", 1, "it is put back; until then, what it names is stored once more"),
    ("signature of an index segment", "removed", 1, "as the index segment"),
    ("drill report", "removed", 0, "it proves nothing any more, and nothing else rests on it"),
    ("signature of a drill report", "removed", 0, "as the drill report"),
    ("mark", "removed", 0, "what it names is marked anew, and costs space until then"),
    ("prune record", "removed", 1, "it is copied back"),
];

/// One case.
pub(crate) struct Case {
    kind: &'static str,
    tampering: &'static str,
    /// The replicas in which it is done.
    pub(crate) places: Vec<&'static str>,
    /// What is there then, or nothing.
    pub(crate) changes: Vec<(String, Option<Vec<u8>>)>,
    /// Any of these tells of it.
    pub(crate) names: Vec<String>,
    /// Why nobody does.
    pub(crate) silent: Option<&'static str>,
}

impl fmt::Display for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {} in {}", self.kind, self.tampering, self.places.join(" and "))
    }
}

/// The objects of a kind, of a dataset or a host, the newest last.
fn of_kind(objects: &Objects, kind: &str, dataset: &str, host: &str) -> Vec<String> {
    let in_dataset = |folder: &str| format!("datasets/{dataset}/{folder}");
    let what = kind.strip_prefix("signature of a ").or(kind.strip_prefix("signature of an "));
    let what = what.or(kind.strip_prefix("signature of ")).unwrap_or(kind);
    let (prefix, suffix) = match what {
        "vault.json" => ("vault.json".to_owned(), ""),
        "description of a host" => (format!("hosts/{host}.json"), ""),
        "root" => ("root/".to_owned(), ".json"),
        "record of a log" => (format!("log/hosts/{host}/"), ".record"),
        "keys of a host" => (format!("keyring/hosts/{host}."), ".age"),
        "keys of a dataset" => (format!("keyring/datasets/{dataset}/"), ".age"),
        "pack" => (in_dataset("packs/"), ".age"),
        "index segment" => (in_dataset("index/"), ".age"),
        "manifest" => (in_dataset("snapshots/"), ".age"),
        "act" => (in_dataset("order/"), ".act"),
        "mark" => (in_dataset("marks/"), ".json"),
        "prune record" => (in_dataset("prunes/"), ".json"),
        "drill report" => (in_dataset("drills/"), ".json"),
        other => panic!("{other}"),
    };
    let number = |key: &str| -> u64 {
        let name = key.rsplit('/').next().unwrap_or_default();
        name.chars().take_while(char::is_ascii_digit).collect::<String>().parse().unwrap_or(0)
    };
    let fits = |key: &&String| match kind.starts_with("signature of ") {
        true if what == "root" => key.starts_with(&prefix) && key.ends_with(".minisig"),
        true => key.starts_with(&prefix) && key.ends_with(&format!("{suffix}.minisig")),
        false => key.starts_with(&prefix) && key.ends_with(suffix) && !key.ends_with(".minisig"),
    };
    let mut found: Vec<String> = objects.keys().filter(fits).cloned().collect();
    found.sort_by_key(|key| (number(key), key.clone()));
    found
}

/// The name that comes after this one, where there are later ones.
fn later(kind: &str, key: &str) -> Option<String> {
    let (folder, name) = key.rsplit_once('/')?;
    let (first, rest) = name.split_once('.')?;
    let next = match kind {
        "root" | "record of a log" | "keys of a dataset" | "act" => (first.parse::<u64>().ok()? + 1).to_string(),
        "index segment" | "manifest" | "mark" | "prune record" | "drill report" => {
            let id: SnapshotId = first.parse().ok()?;
            SnapshotId::new(id.time() + TimeDelta::seconds(1), 7).to_string()
        }
        _ => return None,
    };
    Some(format!("{folder}/{next}.{rest}"))
}

impl Case {
    /// `None` if there is no such case: nothing older, or nothing of another host.
    pub(crate) fn of(
        kind: &'static str,
        tampering: &'static str,
        places: &[&'static str],
        own: &Objects,
        foreign: &Objects,
    ) -> Option<Self> {
        let mine = of_kind(own, kind, "shop", "db1");
        let key = mine.last().unwrap_or_else(|| panic!("there is no {kind}")).clone();
        let signature = |key: &str| format!("{key}.minisig");
        // An object comes with its signature, if it has one.
        let with = |from: &Objects, source: &str, target: &str| {
            let mut changes = vec![(target.to_owned(), Some(from[source].clone()))];
            if let Some(signed) = from.get(&signature(source)) {
                changes.push((signature(target), Some(signed.clone())));
            }
            changes
        };
        let newest = |objects: &Objects, dataset: &str, host: &str| of_kind(objects, kind, dataset, host).pop();
        let changes = match tampering {
            "removed" => vec![(key.clone(), None)],
            "garbage" => vec![(key.clone(), Some(b"garbage".to_vec()))],
            "an older one" => with(own, mine.iter().rev().nth(1)?, &key),
            "another vault's" => with(foreign, &newest(foreign, "shop", "db1")?, &key),
            "another dataset's" => with(own, &newest(own, "wiki", "db1").filter(|other| *other != key)?, &key),
            "another host's" => with(own, &newest(own, "crm", "db2").filter(|other| *other != key)?, &key),
            "a later name" => with(own, &key, &later(kind, &key)?),
            other => panic!("{other}"),
        };
        if changes.iter().all(|(key, content)| own.get(key) == content.as_ref()) {
            return None;
        }
        let is = |how: &str, count: usize| (how == tampering || how == "any") && (count == 0 || count == places.len());
        let silent = SILENT.iter().find(|(of, how, count, _)| *of == kind && is(how, *count));
        let names = changes.iter().flat_map(|(key, _)| names(kind, key)).collect();
        Some(Self { kind, tampering, places: places.to_vec(), changes, names, silent: silent.map(|silent| silent.3) })
    }
}

/// How an object is named to people.
fn names(kind: &str, key: &str) -> Vec<String> {
    let name = key.rsplit('/').next().unwrap_or_default();
    let first = name.split('.').next().unwrap_or_default();
    let mut names = vec![key.to_owned()];
    match kind {
        "root" | "signature of a root" => names.push(format!("root {first}")),
        "record of a log" => names.extend([format!("record {first} "), "log hosts/db1".to_owned()]),
        "act" => names.push(format!("act {first}")),
        "vault.json" => names.push("holds vault ".to_owned()),
        "pack" | "index segment" | "manifest" | "mark" | "prune record" | "drill report" => {
            names.push(first.to_owned());
        }
        _ => {}
    }
    // Without the record, what it explained is missing.
    if kind == "prune record" {
        names.push("in no prune record".to_owned());
    }
    let signed = key.strip_suffix(".minisig").map(str::to_owned);
    names.extend(signed.filter(|_| kind.starts_with("signature")));
    if kind.starts_with("signature") && first.parse::<SnapshotId>().is_ok() {
        names.push(first.to_owned());
    }
    names
}
