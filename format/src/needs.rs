//! `needs/<snapshot>.needs`: which packs a snapshot needs, for a warden, who can open no manifest.
//! See "Needs" in `FORMAT.md`.
//!
//! A host that commits under a warden writes it before the manifest, as one line of JSON with its
//! own signature behind it, as acts are.

use chrono::{DateTime, Utc};
use lifeboat_base::{Error, Result};
use serde::{Deserialize, Serialize};

use crate::id::{Digest, Name, PackId, SnapshotId};
use crate::requirements::Requirements;
use crate::signed_line;
use crate::strict;
use crate::utc;

/// No list of needs is longer.
pub const MAX_NEEDS_BYTES: usize = 96 << 20;
/// No snapshot needs more packs.
pub const MAX_NEEDED_PACKS: usize = 1 << 20;
/// No snapshot has packs of more key generations.
pub const MAX_NEEDED_GENERATIONS: usize = 4096;

/// The snapshot before, as a manifest names it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NeedsBefore {
    /// Its id.
    pub snapshot: SnapshotId,
    /// The hash of its manifest as it is stored; `None` in format 1.
    #[serde(deserialize_with = "strict::value_or_null")]
    pub blake3: Option<Digest>,
}

/// What a snapshot needs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SnapshotNeeds {
    /// What a reader must know to understand it.
    pub requires: Requirements,
    /// The vault.
    pub vault: String,
    /// The dataset.
    pub dataset: Name,
    /// The snapshot.
    pub snapshot: SnapshotId,
    /// The hash of its manifest as it is stored: it is of this one and no other.
    pub manifest: Digest,
    /// As in the manifest.
    pub sequence: u64,
    /// As in the manifest.
    #[serde(deserialize_with = "strict::object_or_null")]
    pub previous: Option<NeedsBefore>,
    /// As in the manifest.
    #[serde(with = "utc")]
    pub started: DateTime<Utc>,
    /// As in the manifest.
    #[serde(with = "utc")]
    pub finished: DateTime<Utc>,
    /// Whether it lacks a database of its source.
    pub partial: bool,
    /// The key generations of its packs, ascending.
    #[serde(deserialize_with = "strict::set::<MAX_NEEDED_GENERATIONS, u32, _>")]
    pub generations: Vec<u32>,
    /// Its packs, sorted.
    #[serde(deserialize_with = "strict::set::<MAX_NEEDED_PACKS, PackId, _>")]
    pub packs: Vec<PackId>,
    /// The size of each of them as it is stored, in the same order.
    #[serde(deserialize_with = "strict::list::<MAX_NEEDED_PACKS, _, _>")]
    pub sizes: Vec<u64>,
}

impl SnapshotNeeds {
    /// The line that its signature covers.
    ///
    /// # Errors
    /// [`Class::Failed`](lifeboat_base::Class::Failed): it would be too long.
    pub fn to_line(&self) -> Result<Vec<u8>> {
        signed_line::write(self, MAX_NEEDS_BYTES - (8 << 10), &format!("what snapshot {} needs", self.snapshot))
    }

    /// Reads the line of a snapshot, whose signature was checked. `what` names it in errors.
    ///
    /// # Errors
    /// [`Class::Integrity`](lifeboat_base::Class::Integrity): it is damaged, requires what this
    /// program does not know, or belongs to another place.
    pub fn of_line(line: &[u8], vault: &str, dataset: &Name, snapshot: &SnapshotId, what: &str) -> Result<Self> {
        let needs: Self = signed_line::read(line, what)?;
        if (needs.vault.as_str(), &needs.dataset, &needs.snapshot) != (vault, dataset, snapshot) {
            return Err(Error::integrity(format!(
                "{what} belongs to snapshot {} of {}",
                needs.snapshot, needs.dataset
            )));
        }
        let is_sorted = needs.packs.is_sorted() && needs.generations.is_sorted();
        if !is_sorted || needs.sizes.len() != needs.packs.len() {
            return Err(Error::integrity(format!("{what} is damaged")).because("its packs are no sorted list"));
        }
        Ok(needs)
    }
}

/// Splits an object as it is stored into its line and the signature of this line; `None` if it is
/// none or too long.
#[must_use]
pub fn split_needs(stored: &[u8]) -> Option<(&[u8], &[u8])> {
    signed_line::split(stored, MAX_NEEDS_BYTES)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn good() -> Value {
        json!({
            "requires": [], "vault": "v", "dataset": "shop", "snapshot": "20261128T120000000Z-00000001",
            "manifest": "00".repeat(32), "sequence": 2,
            "previous": { "snapshot": "20261127T120000000Z-00000001", "blake3": "01".repeat(32) },
            "started": "2026-11-28T12:00:00Z", "finished": "2026-11-28T12:01:00Z", "partial": false,
            "generations": [1], "packs": ["00".repeat(32), "01".repeat(32)], "sizes": [7, 9],
        })
    }

    fn read(value: &Value) -> Result<SnapshotNeeds> {
        let line = format!("{value}\n");
        let (dataset, snapshot) = ("shop".parse()?, "20261128T120000000Z-00000001".parse()?);
        SnapshotNeeds::of_line(line.as_bytes(), "v", &dataset, &snapshot, "it")
    }

    #[test]
    fn reads_what_it_writes_and_refuses_what_is_of_another_place_or_breaks_a_rule() -> Result<()> {
        let needs = read(&good())?;
        let line = needs.to_line()?;
        let again: Value = serde_json::from_slice(&line).unwrap_or_default();
        assert_eq!(again, good());
        let with = |field: &str, value: Value| {
            let mut changed = good();
            changed[field] = value;
            read(&changed)
        };
        assert!(with("more", json!(1)).is_ok(), "fields of newer programs are overlooked");
        for (field, value) in [
            ("vault", json!("w")),
            ("dataset", json!("other")),
            ("snapshot", json!("20261128T120000000Z-00000002")),
            ("requires", json!(["magic"])),
            ("packs", json!(["01".repeat(32), "00".repeat(32)])),
            ("packs", json!(["00".repeat(32)])),
            ("packs", json!(["00".repeat(32), "00".repeat(32)])),
            ("sizes", json!([7])),
            ("generations", json!([2, 1])),
            ("manifest", Value::Null),
        ] {
            assert!(with(field, value.clone()).is_err(), "{field} {value}");
        }
        Ok(())
    }
}
