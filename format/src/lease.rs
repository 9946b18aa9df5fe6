//! Leases: a backup host says that it works on a dataset now. See "Lease" in `FORMAT.md`.
//!
//! A lease only helps others to decide whether to begin. What they may do is decided by the order
//! of acts. A line of JSON comes first, then its own minisign signature, as in an act.

use chrono::{DateTime, Utc};
use lifeboat_base::{Error, Result};
use serde::{Deserialize, Serialize};

use crate::id::Name;
use crate::requirements::Requirements;
use crate::signed_line;
use crate::utc;

/// No lease is longer.
pub const MAX_LEASE_BYTES: usize = 8 << 10;

/// One lease.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lease {
    /// What a reader must know to understand it.
    pub requires: Requirements,
    /// The vault.
    pub vault: String,
    /// The dataset.
    pub dataset: Name,
    /// The host that works on it.
    pub principal: Name,
    /// When it was written.
    #[serde(with = "utc")]
    pub time: DateTime<Utc>,
    /// A host that still works writes another one before.
    #[serde(with = "utc")]
    pub until: DateTime<Utc>,
}

impl Lease {
    /// The line that its signature covers.
    ///
    /// # Errors
    /// [`Class::Failed`](lifeboat_base::Class::Failed): it is longer than a lease can be.
    pub fn to_line(&self) -> Result<Vec<u8>> {
        signed_line::write(self, MAX_LEASE_BYTES, "a lease")
    }

    /// Reads the line of a lease whose signature was checked. `what` names it in errors.
    ///
    /// # Errors
    /// [`Class::Integrity`](lifeboat_base::Class::Integrity): it is damaged, requires what this
    /// program does not know, or belongs to another place.
    pub fn of_line(line: &[u8], vault: &str, dataset: &Name, what: &str) -> Result<Self> {
        let lease: Self = signed_line::read(line, what)?;
        if (lease.vault.as_str(), &lease.dataset) != (vault, dataset) {
            let (vault, dataset) = (&lease.vault, &lease.dataset);
            return Err(Error::integrity(format!("{what} belongs to dataset {dataset} of vault {vault}")));
        }
        Ok(lease)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn good() -> Value {
        json!({
            "requires": [],
            "vault": "v",
            "dataset": "shop",
            "principal": "db1",
            "time": "2026-11-28T12:00:00Z",
            "until": "2026-11-28T12:05:00Z",
        })
    }

    fn parse(json: &Value) -> Result<Lease> {
        Lease::of_line(format!("{json}\n").as_bytes(), "v", &"shop".parse()?, "the lease")
    }

    #[test]
    fn comes_back_as_it_was() -> Result<()> {
        let line = parse(&good())?.to_line()?;
        assert_eq!(serde_json::from_slice::<Value>(&line).unwrap_or_default(), good());
        Ok(())
    }

    #[test]
    fn each_broken_rule_is_refused() {
        for (field, value, why) in [
            ("requires", json!(["holograms"]), "requires `holograms`"),
            ("vault", json!("w"), "belongs to"),
            ("dataset", json!("other"), "belongs to"),
            ("principal", json!("../x"), "damaged"),
            ("time", json!("2026-11-28T12:00:00+01:00"), "damaged"),
            ("until", Value::Null, "damaged"),
        ] {
            let mut changed = good();
            changed[field] = value.clone();
            let told = parse(&changed).err().map(|error| error.chain()).unwrap_or_default();
            assert!(told.contains(why), "{field} = {value}: {told}");
        }
    }
}
