//! Acts: the order in which the hosts of a dataset commit, mark and sweep, whatever their clocks
//! say. See "Order" in `FORMAT.md`.
//!
//! An act takes the next number of its dataset. It names the one object that it is about, and holds
//! the signature of this object: whoever finds an act can finish it. A line of JSON comes first,
//! then its own minisign signature.

use chrono::{DateTime, Utc};
use lifeboat_base::{Error, Result};
use serde::{Deserialize, Serialize};

use crate::id::{Digest, Name, SEQUENCE_END, SnapshotId};
use crate::layout;
use crate::requirements::Requirements;
use crate::signed_line;
use crate::strict;
use crate::utc;

/// No act is longer.
pub const MAX_ACT_BYTES: usize = 16 << 10;

/// What is done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ActKind {
    /// A snapshot comes into being. The object is its manifest.
    Commit,
    /// A record says what will be deleted. The object is the mark.
    Mark,
    /// What marks name is deleted. The object is the record of this prune.
    Sweep,
}

/// One act.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Act {
    /// What is done.
    pub act: ActKind,
    /// What a reader must know to understand it.
    pub requires: Requirements,
    /// The vault.
    pub vault: String,
    /// The dataset.
    pub dataset: Name,
    /// Who did it.
    pub principal: Name,
    /// Its number: 1 for the first act in the dataset.
    pub number: u64,
    /// The hash of the act before it; `None` if its writer knew none.
    #[serde(deserialize_with = "strict::value_or_null")]
    pub previous: Option<Digest>,
    /// When it was written.
    #[serde(with = "utc")]
    pub time: DateTime<Utc>,
    /// The id in the name of the object that it is about.
    pub id: SnapshotId,
    /// The hash of this object.
    pub blake3: Digest,
    /// The content of the signature file of this object.
    pub signature: String,
    /// Of a commit: the place of its snapshot in the chain. `None` in acts of older programs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sequence: Option<u64>,
}

impl Act {
    /// The key of the object that it is about.
    #[must_use]
    pub fn object(&self) -> String {
        object(&self.dataset, self.act, &self.id)
    }

    /// The line that its signature covers.
    ///
    /// # Errors
    /// [`Class::Failed`](lifeboat_base::Class::Failed): it is longer than an act can be.
    pub fn to_line(&self) -> Result<Vec<u8>> {
        signed_line::write(self, MAX_ACT_BYTES / 2, &format!("act {} of {}", self.number, self.dataset))
    }

    /// Reads the line of act `number`, whose signature was checked. `what` names it in errors.
    ///
    /// # Errors
    /// [`Class::Integrity`](lifeboat_base::Class::Integrity): it is damaged, requires what this
    /// program does not know, or belongs to another place.
    pub fn of_line(line: &[u8], vault: &str, dataset: &Name, number: u64, what: &str) -> Result<Self> {
        let act: Self = signed_line::read(line, what)?;
        if (act.vault.as_str(), &act.dataset, act.number) != (vault, dataset, number) {
            let (vault, dataset, number) = (&act.vault, &act.dataset, act.number);
            return Err(Error::integrity(format!(
                "{what} belongs to number {number} of dataset {dataset} of vault {vault}"
            )));
        }
        if !(1..SEQUENCE_END).contains(&number) {
            return Err(Error::integrity(format!("{what} is damaged")));
        }
        Ok(act)
    }
}

/// The key of the object that an act is about.
#[must_use]
pub fn object(dataset: &Name, act: ActKind, id: &SnapshotId) -> String {
    match act {
        ActKind::Commit => layout::manifest(dataset, id),
        ActKind::Mark => layout::mark(dataset, id),
        ActKind::Sweep => layout::prune(dataset, id),
    }
}

/// Splits an act as it is stored into its line and the signature of this line; `None` if it is none
/// or too long.
#[must_use]
pub fn split(stored: &[u8]) -> Option<(&[u8], &[u8])> {
    signed_line::split(stored, MAX_ACT_BYTES)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn good() -> Value {
        json!({
            "act": "commit",
            "requires": [],
            "vault": "v",
            "dataset": "shop",
            "principal": "db1",
            "number": 7,
            "previous": "00".repeat(32),
            "time": "2026-11-28T12:00:00Z",
            "id": "20261123T183244123Z-9f2c81aa",
            "blake3": "11".repeat(32),
            "signature": "untrusted comment: x\nRU…\n",
        })
    }

    fn parse(json: &Value) -> Result<Act> {
        Act::of_line(format!("{json}\n").as_bytes(), "v", &"shop".parse()?, 7, "act 7")
    }

    #[test]
    fn comes_back_as_it_was() -> Result<()> {
        let act = parse(&good())?;
        let line = act.to_line()?;
        assert_eq!(serde_json::from_slice::<Value>(&line).unwrap_or_default(), good());
        let stored = [line.as_slice(), b"a\nb\n"].concat();
        assert_eq!(split(&stored), Some((line.as_slice(), b"a\nb\n".as_slice())));
        assert_eq!(act.object(), layout::manifest(&act.dataset, &act.id));
        let act = Act { sequence: Some(5), ..act };
        assert_eq!(Act::of_line(&act.to_line()?, "v", &act.dataset, 7, "act 7")?, act);
        Ok(())
    }

    #[test]
    fn each_broken_rule_is_refused() {
        for (field, value, why) in [
            ("act", json!("song"), "damaged"),
            ("requires", json!(["holograms"]), "requires `holograms`"),
            ("requires", Value::Null, "damaged"),
            ("vault", json!("w"), "belongs to"),
            ("dataset", json!("other"), "belongs to"),
            ("number", json!(8), "belongs to"),
            ("principal", json!("../x"), "damaged"),
            ("previous", json!(5), "damaged"),
            ("time", json!("2026-11-28T12:00:00+01:00"), "damaged"),
            ("id", json!("../../x"), "damaged"),
            ("blake3", Value::Null, "damaged"),
            ("signature", json!({}), "damaged"),
            ("sequence", json!("1"), "damaged"),
        ] {
            let mut changed = good();
            changed[field] = value.clone();
            let told = parse(&changed).err().map(|error| error.chain()).unwrap_or_default();
            assert!(told.contains(why), "{field} = {value}: {told}");
        }
        let mut changed = good();
        changed["new"] = json!(5);
        assert!(parse(&changed).is_ok(), "an unknown field is overlooked");
        let pretty = serde_json::to_string_pretty(&good()).unwrap_or_default();
        let shop: Result<Name> = "shop".parse();
        assert!(shop.is_ok_and(|shop| Act::of_line(format!("{pretty}\n").as_bytes(), "v", &shop, 7, "act 7").is_err()));
    }
}
