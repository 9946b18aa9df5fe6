//! The plain reference: which snapshots were reported as committed, with which bytes, and which of
//! them may be gone.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use bytes::Bytes;
use chrono::{DateTime, NaiveDate, TimeDelta, Utc};
use lifeboat_engine::format::id::SnapshotId;
use lifeboat_engine::format::layout;
use lifeboat_tests::vault::{DATASET, MemorySource, name, noise};
use serde_json::Value;

use crate::region::Objects;

/// Less than a day, so that no step of time looks like a clock that jumped.
pub(crate) const GRACE: Duration = Duration::from_secs(5 * 3600);
pub(crate) const KEEP_LAST: u32 = 2;
pub(crate) const DAILY: u32 = 2;

/// What a backup finds in its source: one of a few contents, so that much of it is stored already.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Content(pub(crate) u8);

impl Content {
    /// How many there are.
    pub(crate) const COUNT: u8 = 30;

    pub(crate) fn source(self) -> MemorySource {
        let lengths = [3_000, 20_000, 60_000, 100_000, 0];
        let stream = |label: &str, which: u8| {
            (label.to_owned(), noise(lengths[usize::from(which) % lengths.len()], u64::from(which)))
        };
        let streams = vec![stream("first", self.0 % 6), stream("second", 6 + self.0 / 6)];
        MemorySource { streams, ..MemorySource::default() }
    }

    pub(crate) fn streams(self) -> BTreeMap<String, Vec<u8>> {
        self.source().streams.into_iter().collect()
    }
}

/// A snapshot that was reported as committed, or that a replica has shown.
#[derive(Debug, Clone)]
pub(crate) struct Known {
    pub(crate) content: Content,
    /// Manifest, signature and packs, as they were stored.
    pub(crate) objects: Objects,
}

impl Known {
    /// Whether these objects alone are enough to show and restore it.
    pub(crate) fn is_whole_in(&self, objects: &Objects) -> bool {
        let keyring = layout::keyring_generation(&name(DATASET), 1);
        objects.contains_key(layout::VAULT)
            && objects.contains_key(&keyring)
            && self.objects.iter().all(|(key, body)| objects.get(key) == Some(body))
    }
}

/// See the [module](self).
#[derive(Debug, Default)]
pub(crate) struct Reference {
    pub(crate) known: BTreeMap<SnapshotId, Known>,
    /// What backups captured that crashed, or whose outcome is unknown.
    pub(crate) pending: Vec<Content>,
    /// What retention may let go.
    allowed: BTreeSet<SnapshotId>,
    /// When a mark first named the snapshot or the pack with this id.
    marked: BTreeMap<String, DateTime<Utc>>,
    /// What was whole in no replica after something was taken away.
    pub(crate) threatened: BTreeSet<SnapshotId>,
}

impl Reference {
    /// Snapshots that some of these objects show.
    pub(crate) fn shown(objects: &Objects) -> BTreeSet<SnapshotId> {
        let manifests = objects.keys().filter(|key| objects.contains_key(&layout::signature(key)));
        manifests.filter_map(|key| layout::parse_manifest(&name(DATASET), key)).collect()
    }

    /// Notes what the rules may let go, if all of these are shown. Fewer would let no other one go.
    pub(crate) fn let_go(&mut self, shown: &BTreeSet<SnapshotId>) {
        let last: BTreeSet<&SnapshotId> = shown.iter().rev().take(KEEP_LAST as usize).collect();
        let mut days: BTreeMap<NaiveDate, &SnapshotId> = BTreeMap::new();
        for snapshot in shown {
            days.insert(snapshot.time().date_naive(), snapshot);
        }
        let daily: BTreeSet<&SnapshotId> = days.into_values().rev().take(DAILY as usize).collect();
        let goes = shown.iter().filter(|snapshot| !last.contains(snapshot) && !daily.contains(snapshot));
        self.allowed.extend(goes.cloned());
    }

    /// Notes what new marks name. None names a snapshot that the rules keep.
    pub(crate) fn note_marks(&mut self, before: &Objects, after: &Objects, now: DateTime<Utc>) -> u64 {
        let folder = layout::marks(&name(DATASET));
        let is_new = |key: &str| key.starts_with(&folder) && !layout::is_signature(key) && !before.contains_key(key);
        let mut marks = 0;
        for (key, body) in after.iter().filter(|(key, _)| is_new(key)) {
            let (snapshots, packs) = named(body);
            for snapshot in &snapshots {
                let id: SnapshotId = snapshot.parse().unwrap();
                let may = self.allowed.contains(&id) || !self.known.contains_key(&id);
                assert!(may, "{key} marks {snapshot}, which retention keeps");
            }
            for id in snapshots.into_iter().chain(packs) {
                self.marked.entry(id).or_insert(now);
            }
            marks += 1;
        }
        marks
    }

    /// What an operator has given up, as new prune records say. It need not be there any more. A
    /// record that names what is whole here was copied before its sweep is carried out here.
    pub(crate) fn note_given_up(&mut self, before: &Objects, after: &Objects) {
        let folder = layout::prunes(&name(DATASET));
        let is_new = |key: &str| key.starts_with(&folder) && !layout::is_signature(key) && !before.contains_key(key);
        for (key, body) in after.iter().filter(|(key, _)| is_new(key)) {
            for snapshot in removed(body) {
                let is_whole = self.known.get(&snapshot).is_some_and(|known| known.is_whole_in(after));
                let is_marked = self.is_marked(snapshot.as_str());
                assert!(!is_whole || is_marked, "{key} gives up {snapshot}, which is whole");
                if !is_whole {
                    self.known.remove(&snapshot);
                }
            }
        }
    }

    pub(crate) fn is_marked(&self, id: &str) -> bool {
        self.marked.contains_key(id)
    }

    /// Whether the snapshot or pack with this id was marked, and its grace period is over.
    pub(crate) fn is_due(&self, id: &str, now: DateTime<Utc>) -> bool {
        let grace = TimeDelta::from_std(GRACE).unwrap();
        self.marked.get(id).is_some_and(|since| now - *since >= grace)
    }

    /// What must be there: committed, and not due.
    pub(crate) fn must_be(&self, now: DateTime<Utc>) -> impl Iterator<Item = (&SnapshotId, &Known)> {
        self.known.iter().filter(move |(snapshot, _)| !self.is_due(snapshot.as_str(), now))
    }

    /// Panics if prune had no right to delete an object.
    pub(crate) fn judge_deletion(&self, key: &str, now: DateTime<Utc>) {
        let dataset = name(DATASET);
        assert!(key.starts_with(&layout::dataset(&dataset)), "prune deleted {key}");
        if let Some(pack) = layout::parse_pack(&dataset, key) {
            assert!(self.is_due(&pack.to_string(), now), "prune deleted {key} without a mark, or too early");
            let needs = self.must_be(now).find(|(_, known)| known.objects.contains_key(key));
            assert!(needs.is_none(), "prune deleted {key}, which {} needs", needs.unwrap().0);
        }
        let object = key.strip_suffix(".minisig").unwrap_or(key);
        if let Some(snapshot) = layout::parse_manifest(&dataset, object) {
            let is_left_over = !self.known.contains_key(&snapshot);
            let may = is_left_over || self.is_due(snapshot.as_str(), now);
            assert!(may, "prune deleted {key} without a mark, or too early");
        }
    }
}

/// The ids of the snapshots and packs that a mark names.
fn named(mark: &Bytes) -> (Vec<String>, Vec<String>) {
    let mark: Value = serde_json::from_slice(mark).unwrap();
    let text = |id: &Value| id.as_str().unwrap().to_owned();
    let snapshots = mark["body"]["snapshots"].as_array().unwrap().iter().map(|marked| text(&marked["snapshot"]));
    let packs = mark["body"]["packs"].as_array().unwrap().iter().map(text);
    (snapshots.collect(), packs.collect())
}

/// The snapshots that a prune record names as removed.
fn removed(record: &Bytes) -> Vec<SnapshotId> {
    let record: Value = serde_json::from_slice(record).unwrap();
    let removed = record["body"]["removed"].as_array();
    let id = |removed: &Value| removed["snapshot"].as_str().unwrap().parse().unwrap();
    removed.map(|removed| removed.iter().map(id).collect()).unwrap_or_default()
}
