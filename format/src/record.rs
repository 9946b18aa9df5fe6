//! Records: whatever somebody signs besides snapshots, such as prunes and drills. See "Records" in
//! `FORMAT.md`.
//!
//! A prune record is written before the first deletion. So a missing snapshot is either in a
//! record, or lost; and a replica that was unreachable meanwhile does not bring a pruned snapshot
//! back.

use chrono::{DateTime, Utc};
use lifeboat_base::{Class, Context, Error, Result};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer, Serialize};

use crate::id::{Digest, Name, PackId, SEQUENCE_END, SnapshotId};
use crate::requirements::{self, Requirements};
use crate::strict::{self, Object};
use crate::utc;

/// No record is longer.
pub const MAX_RECORD_BYTES: usize = 16 << 20;

/// What a record is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RecordType {
    /// Which snapshots were removed on purpose.
    Prune,
    /// What will be deleted.
    Mark,
    /// What a drill has shown.
    Drill,
}

/// What every record tells, whatever it requires.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Envelope {
    /// What it is about.
    #[serde(rename = "type")]
    pub record_type: RecordType,
    /// What a reader must know to understand it.
    pub requires: Requirements,
    /// The vault.
    pub vault: String,
    /// The dataset.
    pub dataset: Name,
    /// Who wrote it.
    pub principal: Name,
    /// 1 for the first record of this type that the principal wrote in this dataset, and one more
    /// for each later one.
    pub sequence: u64,
    /// The record before it; `None` for the first.
    #[serde(deserialize_with = "strict::object_or_null")]
    pub previous: Option<PreviousRecord>,
    /// When it was written.
    #[serde(with = "utc")]
    pub time: DateTime<Utc>,
}

/// The record before another one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PreviousRecord {
    /// Its id.
    pub record: SnapshotId,
    /// The hash of its object.
    pub blake3: Digest,
}

/// What a record says.
pub trait RecordBody: Serialize + DeserializeOwned {
    /// The type of the record that holds it.
    const TYPE: RecordType;

    /// Reads an object of format 1, which has no envelope. Returns the vault and the dataset that
    /// it names, too.
    ///
    /// # Errors
    /// It is damaged.
    fn of_format_1(json: &[u8]) -> serde_json::Result<(String, Name, Self)>;

    /// The rule of `FORMAT.md` that it breaks.
    fn broken_rule(&self) -> Option<&'static str> {
        None
    }
}

#[derive(Serialize)]
struct Written<'a, B> {
    #[serde(flatten)]
    envelope: &'a Envelope,
    body: &'a B,
}

#[derive(Deserialize)]
struct ReadBody<B> {
    body: Object<B>,
}

/// The record as it is stored.
///
/// # Errors
/// [`Class::Failed`]: it is longer than [`MAX_RECORD_BYTES`].
pub fn write<B: RecordBody>(envelope: &Envelope, body: &B) -> Result<Vec<u8>> {
    let json = serde_json::to_vec_pretty(&Written { envelope, body })
        .context(Class::Failed, || "cannot write a record as JSON")?;
    if json.len() > MAX_RECORD_BYTES {
        let limit = MAX_RECORD_BYTES >> 20;
        return Err(Error::failed(format!("a record would be longer than the limit of {limit} MiB"))
            .hint("make every replica reachable, then try again: a record of prune then repeats less"));
    }
    Ok(json)
}

/// Reads a record of any format; `what` names it in errors. In format 1 there is no envelope.
///
/// # Errors
/// [`Class::Integrity`]: it is damaged, requires what this program does not know, is of another
/// type, or belongs to another vault or dataset.
pub fn read<B: RecordBody>(json: &[u8], vault: &str, dataset: &Name, what: &str) -> Result<(Option<Envelope>, B)> {
    let damaged = || format!("{what} is damaged");
    if json.len() > MAX_RECORD_BYTES {
        return Err(Error::integrity(damaged()).because("it is too long"));
    }
    if strict::is_too_deep(json) {
        return Err(Error::integrity(damaged()).because("it is nested too deep"));
    }
    if !has_envelope(json) {
        let (own_vault, own_dataset, body) = B::of_format_1(json).context(Class::Integrity, damaged)?;
        belongs((&own_vault, &own_dataset), (vault, dataset), what)?;
        return Ok((None, body));
    }
    let envelope: Envelope = requirements::read_json(json, what)?;
    belongs((&envelope.vault, &envelope.dataset), (vault, dataset), what)?;
    let is_placed = match envelope.previous {
        None => envelope.sequence == 1,
        Some(_) => (2..SEQUENCE_END).contains(&envelope.sequence),
    };
    if envelope.record_type != B::TYPE || !is_placed {
        return Err(Error::integrity(damaged()).because("its type, or its place among others, cannot be"));
    }
    let read = serde_json::from_slice::<ReadBody<B>>(json).context(Class::Integrity, damaged)?;
    let Object(body) = read.body;
    match body.broken_rule() {
        None => Ok((Some(envelope), body)),
        Some(rule) => Err(Error::integrity(damaged()).because(rule)),
    }
}

/// Objects of format 1 have no `type`. What is damaged counts as a record.
fn has_envelope(json: &[u8]) -> bool {
    #[derive(Deserialize)]
    struct HasType {
        #[serde(rename = "type")]
        found: Option<serde::de::IgnoredAny>,
    }
    serde_json::from_slice::<HasType>(json).map_or(true, |told| told.found.is_some())
}

fn belongs(own: (&str, &Name), found: (&str, &Name), what: &str) -> Result<()> {
    if own == found {
        return Ok(());
    }
    Err(Error::integrity(format!("{what} belongs to dataset {} of vault {}", own.1, own.0)))
}

/// A mark: what will be deleted after the grace period, unless something refers to it again. Until
/// then it is there, but no backup refers to it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct MarkRecord {
    /// Snapshots that no rule of retention keeps, sorted by id.
    #[serde(deserialize_with = "objects")]
    pub snapshots: Vec<RemovedSnapshot>,
    /// Packs that no other snapshot needs, sorted by id.
    #[serde(deserialize_with = "strict::set::<MAX_MARKED_PACKS, PackId, _>")]
    pub packs: Vec<PackId>,
    /// Names of manifests, marks and prune records that never took a place in the order: what runs
    /// that were killed have left, sorted.
    #[serde(
        default,
        skip_serializing_if = "Vec::is_empty",
        deserialize_with = "strict::list::<MAX_MARKED_OBJECTS, String, _>"
    )]
    pub objects: Vec<String>,
}

/// No mark names more objects of killed runs.
pub const MAX_MARKED_OBJECTS: usize = 1024;

/// No mark names more packs.
pub const MAX_MARKED_PACKS: usize = 150_000;

impl RecordBody for MarkRecord {
    const TYPE: RecordType = RecordType::Mark;

    fn of_format_1(_: &[u8]) -> serde_json::Result<(String, Name, Self)> {
        Err(serde::de::Error::custom("format 1 has no marks"))
    }

    fn broken_rule(&self) -> Option<&'static str> {
        if !self.snapshots.is_sorted_by(|a, b| a.snapshot < b.snapshot) {
            return Some("`snapshots` is not sorted by snapshot");
        }
        if !self.objects.is_sorted_by(|a, b| a < b) {
            return Some("`objects` is not sorted");
        }
        (!self.packs.is_sorted()).then_some("`packs` is not sorted")
    }
}

/// A prune: which snapshots were removed on purpose. The newest of a dataset repeats what older
/// ones said, as long as it matters.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PruneRecord {
    /// Snapshots that are gone, or are about to be, sorted by id.
    #[serde(deserialize_with = "objects")]
    pub removed: Vec<RemovedSnapshot>,
    /// Acts that are gone, or are about to be: ranges of their numbers, first and last, ascending
    /// and apart.
    #[serde(
        default,
        skip_serializing_if = "Vec::is_empty",
        deserialize_with = "strict::list::<MAX_PASSED_RANGES, [u64; 2], _>"
    )]
    pub passed: Vec<[u64; 2]>,
    /// Snapshots that stand where others stand in the chain, and of which the operator knows,
    /// sorted.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub branches: Vec<SnapshotId>,
    /// When snapshots were taken whose manifests tell false times, sorted by snapshot.
    #[serde(default, skip_serializing_if = "Vec::is_empty", deserialize_with = "objects")]
    pub times: Vec<SettledTime>,
}

/// When a snapshot was taken, as an operator has settled it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SettledTime {
    /// Its id.
    pub snapshot: SnapshotId,
    /// The time that counts.
    #[serde(with = "utc")]
    pub time: DateTime<Utc>,
    /// When it was settled.
    #[serde(with = "utc")]
    pub settled: DateTime<Utc>,
}

/// No prune record names more ranges of acts.
pub const MAX_PASSED_RANGES: usize = 131_072;

impl PruneRecord {
    /// Whether the act of this number is gone on purpose.
    #[must_use]
    pub fn has_passed(&self, number: u64) -> bool {
        let after = self.passed.partition_point(|[first, _]| *first <= number);
        after.checked_sub(1).is_some_and(|at| number <= self.passed[at][1])
    }
}

/// A list whose items are written as objects, not as arrays.
fn objects<'de, D: Deserializer<'de>, T: DeserializeOwned>(deserializer: D) -> Result<Vec<T>, D::Error> {
    let objects = Vec::<Object<T>>::deserialize(deserializer)?;
    Ok(objects.into_iter().map(|Object(item)| item).collect())
}

/// A snapshot that was removed on purpose.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RemovedSnapshot {
    /// Its id.
    pub snapshot: SnapshotId,
    /// The hash of its manifest as it was stored; `None` if it was not known.
    #[serde(deserialize_with = "strict::value_or_null")]
    pub blake3: Option<Digest>,
}

impl RecordBody for PruneRecord {
    const TYPE: RecordType = RecordType::Prune;

    fn of_format_1(json: &[u8]) -> serde_json::Result<(String, Name, Self)> {
        #[derive(Deserialize)]
        #[serde(deny_unknown_fields)]
        struct Old {
            #[serde(rename = "version")]
            _version: u32,
            vault: String,
            dataset: Name,
            #[serde(rename = "host")]
            _host: Name,
            #[serde(rename = "time")]
            _time: DateTime<Utc>,
            removed: std::collections::BTreeSet<SnapshotId>,
        }
        let Object(Old { vault, dataset, removed, .. }) = serde_json::from_slice(json)?;
        let removed = removed.into_iter().map(|snapshot| RemovedSnapshot { snapshot, blake3: None }).collect();
        Ok((vault, dataset, Self { removed, ..Self::default() }))
    }

    fn broken_rule(&self) -> Option<&'static str> {
        if !self.removed.is_sorted_by(|a, b| a.snapshot < b.snapshot) {
            return Some("`removed` is not sorted by snapshot");
        }
        let is_range = |[first, last]: &[u64; 2]| 1 <= *first && first <= last && *last < SEQUENCE_END;
        let is_sorted = self.passed.is_sorted_by(|a, b| a[1] < b[0]);
        if !is_sorted || !self.passed.iter().all(is_range) {
            return Some("`passed` is no list of ranges");
        }
        if !self.branches.is_sorted_by(|a, b| a < b) {
            return Some("`branches` is not sorted");
        }
        if !self.times.is_sorted_by(|a, b| a.snapshot < b.snapshot) {
            return Some("`times` is not sorted by snapshot");
        }
        let is_later = |settled: &SettledTime| settled.time > settled.settled;
        self.times.iter().any(is_later).then_some("a time of `times` is later than it was settled")
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn good() -> Value {
        json!({
            "type": "prune",
            "requires": [],
            "vault": "v",
            "dataset": "shop",
            "principal": "db1",
            "sequence": 1,
            "previous": null,
            "time": "2026-11-28T12:00:00Z",
            "body": { "removed": [
                { "snapshot": "20261123T183244123Z-9f2c81aa", "blake3": null },
                { "snapshot": "20261124T183244123Z-9f2c81aa", "blake3": "00".repeat(32) },
            ], "passed": [[1, 4], [6, 6]], "branches": ["20261125T183244123Z-9f2c81aa"], "times": [
                { "snapshot": "20291125T183244123Z-9f2c81aa", "time": "2026-11-25T18:32:44Z", "settled": "2026-11-28T12:00:00Z" },
                { "snapshot": "20301125T183244123Z-9f2c81aa", "time": "2026-11-28T12:00:00Z", "settled": "2026-11-28T12:00:00Z" },
            ] },
        })
    }

    fn parse(json: &Value) -> Result<(Option<Envelope>, PruneRecord)> {
        read(json.to_string().as_bytes(), "v", &"shop".parse()?, "prune record x")
    }

    #[test]
    fn comes_back_as_it_was() -> Result<()> {
        let (envelope, body) = parse(&good())?;
        let envelope = envelope.unwrap_or_else(|| panic!("no envelope"));
        let json = write(&envelope, &body)?;
        assert_eq!(serde_json::from_slice::<Value>(&json).unwrap_or_default(), good());
        Ok(())
    }

    #[test]
    fn each_broken_rule_is_refused() {
        let refused = |field: &str, value: Value| {
            let mut changed = good();
            changed[field] = value;
            parse(&changed).err().map(|error| error.chain()).unwrap_or_default()
        };
        let before = json!({ "record": "20261123T183244123Z-9f2c81aa", "blake3": "00".repeat(32) });
        for (field, value, why) in [
            ("type", json!("drill"), "type"),
            ("type", json!("song"), "damaged"),
            ("requires", json!(["holograms"]), "requires `holograms`"),
            ("requires", Value::Null, "damaged"),
            ("vault", json!("w"), "belongs to"),
            ("dataset", json!("other"), "belongs to"),
            ("principal", json!("../x"), "damaged"),
            ("sequence", json!(0), "place"),
            ("sequence", json!(2), "place"),
            ("previous", before, "place"),
            ("time", json!("2026-11-28T12:00:00+01:00"), "damaged"),
            ("body", json!({}), "damaged"),
            ("body", json!({ "removed": [good()["body"]["removed"][1], good()["body"]["removed"][0]] }), "damaged"),
            ("body", json!({ "removed": [good()["body"]["removed"][0], good()["body"]["removed"][0]] }), "damaged"),
        ] {
            let told = refused(field, value.clone());
            assert!(told.contains(why), "{field} = {value}: {told}");
        }
        let times = &good()["body"]["times"];
        let mut later = times.clone();
        later[1]["time"] = json!("2026-11-28T12:00:00.000000001Z");
        for (times, why) in
            [(json!([times[1], times[0]]), "sorted"), (json!([times[0], times[0]]), "sorted"), (later, "later")]
        {
            assert!(refused("body", json!({ "removed": [], "times": times })).contains(why), "{times}");
        }
        assert_eq!(refused("new", json!(5)), "", "an unknown field is overlooked");
        let long = |bytes: usize| refused("new", json!("x".repeat(bytes - good().to_string().len() - 9)));
        assert_eq!(long(MAX_RECORD_BYTES), "");
        assert!(long(MAX_RECORD_BYTES + 1).contains("too long"));
    }

    #[test]
    fn of_format_1_it_has_no_envelope() -> Result<()> {
        let old = json!({
            "version": 1, "vault": "v", "dataset": "shop", "host": "db1", "time": "2026-11-28T12:00:00Z",
            "removed": ["20261123T183244123Z-9f2c81aa"],
        });
        let (envelope, body) = parse(&old)?;
        assert_eq!((envelope, body.removed.len(), &body.removed[0].blake3), (None, 1, &None));
        Ok(())
    }
}
