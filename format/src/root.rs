//! `root/<n>.json`: who and what is trusted in a vault. See "Root" in `FORMAT.md`.
//!
//! The owners sign it. This module reads and writes its bytes, and says whether one root may follow
//! another; whoever has the signatures checks them.

use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;

use chrono::{DateTime, Utc};
use data_encoding::BASE64;
use lifeboat_base::{Class, Context, Error, Result};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer, Serialize};

use crate::id::{Digest, Name};
use crate::requirements::{self, Requirements};
use crate::strict::{self, Object};
use crate::utc;

/// No root is longer.
pub const MAX_ROOT_BYTES: usize = 256 << 10;
/// No root has a later version.
pub const MAX_ROOT_VERSION: u64 = 4096;
/// No root names more owners, masters or approvers.
pub const MAX_OWNERS: usize = 64;
/// No root names more backup hosts, drill hosts or witnesses.
pub const MAX_MACHINES: usize = 1024;
/// No machine has more patterns.
pub const MAX_PATTERNS: usize = 64;
/// No recipient is longer.
const MAX_RECIPIENT_BYTES: usize = 4096;
/// A minisign public key: 2 bytes that say so, 8 of its number, 32 of the key.
const SIGNER_BYTES: usize = 42;
/// How many words name a root, and the bits that each tells.
const FINGERPRINT: (usize, usize) = (8, 11);

/// A root.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Root {
    /// What a reader must know to understand it.
    pub requires: Requirements,
    /// The vault.
    pub vault: String,
    /// 1 for the first root of a vault, and one more for each later one.
    pub version: u64,
    /// When it was made.
    #[serde(with = "utc")]
    pub time: DateTime<Utc>,
    /// The hash of the root before; `None` for the first.
    #[serde(deserialize_with = "strict::value_or_null")]
    pub previous: Option<Digest>,
    /// So many owners must sign a root.
    pub threshold: usize,
    /// Who signs roots.
    #[serde(deserialize_with = "bounded_objects::<MAX_OWNERS, _, _>")]
    pub owners: Vec<Principal>,
    /// Recipients that open the whole keyring.
    #[serde(deserialize_with = "strict::list::<MAX_OWNERS, _, _>")]
    pub masters: Vec<String>,
    /// The backup hosts.
    #[serde(deserialize_with = "bounded_objects::<MAX_MACHINES, _, _>")]
    pub hosts: Vec<BackupHost>,
    /// The drill hosts.
    #[serde(deserialize_with = "bounded_objects::<MAX_MACHINES, _, _>")]
    pub drill_hosts: Vec<DrillHost>,
    /// Names of drill hosts that witness the time.
    #[serde(deserialize_with = "strict::list::<MAX_MACHINES, _, _>")]
    pub witnesses: Vec<Name>,
    /// Who deletes, apart from the backup hosts.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "strict::some_object")]
    pub warden: Option<Principal>,
    /// Who deleted before. What these say of what is gone still explains it.
    #[serde(default, skip_serializing_if = "Vec::is_empty", deserialize_with = "bounded_objects::<MAX_OWNERS, _, _>")]
    pub former_wardens: Vec<Principal>,
    /// Who may veto a deletion.
    #[serde(deserialize_with = "bounded_objects::<MAX_OWNERS, _, _>")]
    pub approvers: Vec<Principal>,
    /// What no configuration goes below.
    #[serde(deserialize_with = "strict::object")]
    pub floors: Floors,
}

/// Somebody who signs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Principal {
    /// The name.
    pub name: Name,
    /// The minisign public key.
    pub signer: String,
}

/// A backup host. Two may have one name, if one came after the other.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BackupHost {
    /// The name.
    pub name: Name,
    /// The minisign public key.
    pub signer: String,
    /// The recipient that opens what this host reads.
    pub operations: String,
    /// The datasets that it backs up.
    #[serde(deserialize_with = "strict::list::<MAX_PATTERNS, _, _>")]
    pub datasets: Vec<Pattern>,
    /// From when on it is trusted.
    #[serde(with = "utc")]
    pub from: DateTime<Utc>,
    /// Until when it is trusted.
    #[serde(default, skip_serializing_if = "Option::is_none", with = "utc::optional")]
    pub until: Option<DateTime<Utc>>,
}

/// A drill host. Two may have one name, if one came after the other.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DrillHost {
    /// The name.
    pub name: Name,
    /// The recipient that opens the datasets.
    pub recipient: String,
    /// The minisign public key.
    pub signer: String,
    /// The datasets that it may open and drill.
    #[serde(deserialize_with = "strict::list::<MAX_PATTERNS, _, _>")]
    pub datasets: Vec<Pattern>,
    /// From when on it is trusted.
    #[serde(with = "utc")]
    pub from: DateTime<Utc>,
    /// Until when it is trusted.
    #[serde(default, skip_serializing_if = "Option::is_none", with = "utc::optional")]
    pub until: Option<DateTime<Utc>>,
}

/// What no configuration goes below, in seconds.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Floors {
    /// How long every snapshot is kept.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "strict::some_number")]
    pub retention: Option<u64>,
    /// How long nothing is deleted after it was marked.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "strict::some_number")]
    pub delay: Option<u64>,
}

/// Names of datasets: a name in which one `*` may stand for any number of characters, none
/// included.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Pattern(String);

impl Pattern {
    /// The pattern of one dataset.
    #[must_use]
    pub fn of(dataset: &Name) -> Self {
        Self(dataset.as_str().to_owned())
    }

    /// The pattern of all datasets.
    #[must_use]
    pub fn all() -> Self {
        Self("*".to_owned())
    }

    /// Whether a dataset is one of these.
    #[must_use]
    pub fn covers(&self, dataset: &Name) -> bool {
        let name = dataset.as_str();
        match self.0.split_once('*') {
            None => self.0 == name,
            Some((start, end)) => {
                name.len() >= start.len() + end.len() && name.starts_with(start) && name.ends_with(end)
            }
        }
    }

    /// The pattern as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Pattern {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        // A `*` alone, or in front, stands for a letter here.
        let name = text.replacen('*', "x", 1);
        match name.parse::<Name>() {
            Ok(_) => Ok(Self(text.to_owned())),
            Err(_) => Err(Error::configuration(format!("`{text}` is no pattern of datasets"))
                .hint("use the name of a dataset, in which one * may stand for any characters")),
        }
    }
}

impl TryFrom<String> for Pattern {
    type Error = Error;

    fn try_from(text: String) -> Result<Self> {
        text.parse()
    }
}

impl From<Pattern> for String {
    fn from(pattern: Pattern) -> Self {
        pattern.0
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Root {
    /// Reads a root; `what` names it in errors.
    ///
    /// # Errors
    /// [`Class::Integrity`]: it is damaged, breaks a rule, or requires what this program does not
    /// know.
    pub fn parse(json: &[u8], what: &str) -> Result<Self> {
        let damaged = || Error::integrity(format!("{what} is damaged"));
        if json.len() > MAX_ROOT_BYTES {
            return Err(damaged().because("it is too long"));
        }
        let root: Self = requirements::read_json(json, what)?;
        match root.broken_rule() {
            None => Ok(root),
            Some(rule) => Err(damaged().because(rule)),
        }
    }

    /// The root as it is stored and signed.
    ///
    /// # Errors
    /// [`Class::Usage`]: it breaks a rule, or is too long.
    pub fn to_json(&self) -> Result<Vec<u8>> {
        if let Some(rule) = self.broken_rule() {
            return Err(Error::usage("this cannot be a root").because(rule));
        }
        let json = serde_json::to_vec_pretty(self).context(Class::Failed, || "cannot write a root as JSON")?;
        if json.len() > MAX_ROOT_BYTES {
            let limit = MAX_ROOT_BYTES >> 10;
            return Err(Error::usage(format!("the root would be longer than {limit} KiB"))
                .hint("remove machines that are gone, or use patterns that cover more"));
        }
        Ok(json)
    }

    /// Why the owners' signatures do not matter: `self` cannot follow `before`, whose bytes have
    /// the hash `hash`.
    #[must_use]
    pub fn breaks_chain(&self, before: &Self, hash: Digest) -> Option<&'static str> {
        if self.vault != before.vault {
            Some("it is of another vault")
        } else if self.version != before.version + 1 {
            Some("its version is not the next")
        } else if self.previous != Some(hash) {
            Some("it follows another root")
        } else {
            None
        }
    }

    /// All signers that it names.
    pub fn signers(&self) -> impl Iterator<Item = &String> {
        let people = self.owners.iter().chain(&self.approvers).chain(&self.warden).chain(&self.former_wardens);
        let people = people.map(|principal| &principal.signer);
        let hosts = self.hosts.iter().map(|host| &host.signer);
        people.chain(hosts).chain(self.drill_hosts.iter().map(|host| &host.signer))
    }

    fn broken_rule(&self) -> Option<&'static str> {
        let is_digits = |text: &str| text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
        if self.vault.len() != 32 || !is_digits(&self.vault) {
            return Some("`vault` is not 32 hexadecimal digits");
        }
        if !(1..=MAX_ROOT_VERSION).contains(&self.version) || (self.version == 1) != self.previous.is_none() {
            return Some("its version cannot be");
        }
        if !(1..=self.owners.len()).contains(&self.threshold) {
            return Some("`threshold` is not from 1 to the number of owners");
        }
        if self.masters.is_empty() {
            return Some("there is no master, so nobody could restore");
        }
        if !self.signers().all(|signer| is_signer(signer)) {
            return Some("a signer is no minisign public key");
        }
        let mut signers = BTreeSet::new();
        if !self.signers().all(|signer| signers.insert(signer)) {
            return Some("a signer is named twice");
        }
        let mut names = BTreeSet::new();
        if !self.owners.iter().all(|owner| names.insert(&owner.name)) {
            return Some("two owners have one name");
        }
        let operations = self.hosts.iter().map(|host| &host.operations);
        let recipients =
            self.masters.iter().chain(operations).chain(self.drill_hosts.iter().map(|host| &host.recipient));
        if !recipients.into_iter().all(|recipient| is_recipient(recipient)) {
            return Some("a recipient is no line of text");
        }
        let mut masters = BTreeSet::new();
        if !self.masters.iter().all(|master| masters.insert(master)) {
            return Some("a master is named twice");
        }
        let lists = self.hosts.iter().map(|host| &host.datasets);
        if lists.chain(self.drill_hosts.iter().map(|host| &host.datasets)).any(Vec::is_empty) {
            return Some("a machine has no datasets");
        }
        let mut witnesses = BTreeSet::new();
        let is_known = |name: &Name| self.drill_hosts.iter().any(|host| host.name == *name);
        if !self.witnesses.iter().all(|name| witnesses.insert(name) && is_known(name)) {
            return Some("a witness is no drill host, or is named twice");
        }
        None
    }
}

/// Whether this is a minisign public key, as far as its form tells.
fn is_signer(text: &str) -> bool {
    BASE64.decode(text.as_bytes()).is_ok_and(|key| key.len() == SIGNER_BYTES && key.starts_with(b"Ed"))
}

fn is_recipient(text: &str) -> bool {
    (1..=MAX_RECIPIENT_BYTES).contains(&text.len()) && !text.chars().any(char::is_control)
}

/// The eight words that tell a root from others: the first 88 bits of its hash, 11 for each word of
/// the English list of BIP-39.
#[must_use]
pub fn fingerprint(root: &[u8]) -> String {
    let (words, bits) = FINGERPRINT;
    let (list, hash) = (word_list(), blake3::hash(root));
    let bit = |at: usize| usize::from(hash.as_bytes()[at / 8] >> (7 - at % 8) & 1);
    let number = |word: usize| (0..bits).fold(0, |number, at| 2 * number + bit(word * bits + at));
    (0..words).map(|word| list[number(word)]).collect::<Vec<_>>().join(" ")
}

fn word_list() -> Vec<&'static str> {
    include_str!("words.txt").lines().collect()
}

/// For `#[serde(deserialize_with)]`: a list of at most `MAX` items that are written as objects.
fn bounded_objects<'de, const MAX: usize, T: DeserializeOwned, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Vec<T>, D::Error> {
    let objects = strict::list::<MAX, Object<T>, D>(deserializer)?;
    Ok(objects.into_iter().map(|Object(item)| item).collect())
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn signer(number: u8) -> String {
        let mut key = vec![number; SIGNER_BYTES];
        key[..2].copy_from_slice(b"Ed");
        BASE64.encode(&key)
    }

    fn good() -> Value {
        json!({
            "requires": [],
            "vault": "0a".repeat(16),
            "version": 2,
            "time": "2026-11-29T04:00:00Z",
            "previous": "00".repeat(32),
            "threshold": 1,
            "owners": [{ "name": "ann", "signer": signer(1) }],
            "masters": ["age1x"],
            "hosts": [{
                "name": "db1", "signer": signer(2), "operations": "age1y", "datasets": ["shop", "eu-*"],
                "from": "2026-11-29T04:00:00Z", "until": "2026-11-30T04:00:00Z",
            }],
            "drill_hosts": [{
                "name": "drill1", "recipient": "age1z", "signer": signer(3), "datasets": ["*"],
                "from": "2026-11-29T04:00:00Z",
            }],
            "witnesses": ["drill1"],
            "warden": { "name": "warden", "signer": signer(4) },
            "approvers": [{ "name": "bob", "signer": signer(5) }],
            "floors": { "retention": 86400, "delay": 3600 },
        })
    }

    fn parse(json: &Value) -> Result<Root> {
        Root::parse(json.to_string().as_bytes(), "root 2")
    }

    #[test]
    fn comes_back_as_it_was() -> Result<()> {
        let json = parse(&good())?.to_json()?;
        assert_eq!(serde_json::from_slice::<Value>(&json).unwrap_or_default(), good());
        Ok(())
    }

    #[test]
    fn each_broken_rule_is_refused() {
        let owner = &good()["owners"][0];
        let host = |field: &str, value: Value| {
            let mut host = good()["hosts"][0].clone();
            host[field] = value;
            json!([host])
        };
        for (field, value, why) in [
            ("requires", json!(["holograms"]), "requires `holograms`"),
            ("vault", json!("v"), "hexadecimal"),
            ("version", json!(0), "version"),
            ("version", json!(1), "version"),
            ("version", json!(4097), "version"),
            ("previous", Value::Null, "version"),
            ("time", json!("2026-11-29T04:00:00+01:00"), "damaged"),
            ("threshold", json!(0), "threshold"),
            ("threshold", json!(2), "threshold"),
            ("owners", json!([]), "threshold"),
            ("owners", json!([owner, owner]), "twice"),
            ("owners", json!([owner, { "name": "ann", "signer": signer(9) }]), "one name"),
            ("owners", json!([{ "name": "ann", "signer": "RW" }]), "minisign"),
            ("owners", json!([["ann", signer(1)]]), "damaged"),
            ("masters", json!([]), "master"),
            ("masters", json!(["age1x", "age1x"]), "twice"),
            ("masters", json!(["age1\n"]), "line"),
            ("masters", json!(vec!["x"; 65]), "damaged"),
            ("hosts", host("signer", json!(signer(1))), "twice"),
            ("hosts", host("datasets", json!([])), "no datasets"),
            ("hosts", host("datasets", json!(["*a*"])), "damaged"),
            ("hosts", host("datasets", json!(vec!["x"; 65])), "damaged"),
            ("hosts", host("until", Value::Null), "damaged"),
            ("witnesses", json!(["db1"]), "witness"),
            ("witnesses", json!(["drill1", "drill1"]), "witness"),
            ("warden", Value::Null, "damaged"),
            ("floors", json!([]), "damaged"),
            ("floors", json!({ "retention": -1 }), "damaged"),
        ] {
            let mut changed = good();
            changed[field] = value.clone();
            let told = parse(&changed).err().map(|error| error.chain()).unwrap_or_default();
            assert!(told.contains(why), "{field} = {value}: {told}");
        }
        let long = format!("{}{}", good(), " ".repeat(MAX_ROOT_BYTES));
        assert!(Root::parse(long.as_bytes(), "x").is_err());
    }

    #[test]
    fn patterns_cover_what_they_say() -> Result<()> {
        for (pattern, name, covers) in [
            ("shop", "shop", true),
            ("shop", "shop2", false),
            ("*", "shop", true),
            ("shop*", "shop", true),
            ("a*a", "a", false),
            ("a*a", "aa", true),
            ("eu-*-db", "eu-west-db", true),
            ("eu-*-db", "us-west-db", false),
        ] {
            assert_eq!(pattern.parse::<Pattern>()?.covers(&name.parse()?), covers, "{pattern} {name}");
        }
        for bad in ["", "**", "A", "-x", "a b"] {
            assert!(bad.parse::<Pattern>().is_err(), "{bad}");
        }
        Ok(())
    }

    #[test]
    fn a_fingerprint_is_eight_words_of_the_list() {
        assert_eq!(word_list().len(), 1 << FINGERPRINT.1);
        // BLAKE3 of nothing begins with af1349b9f5f9a1a6a0404d.
        assert_eq!(fingerprint(b""), fingerprint_of_hex());
        assert_ne!(fingerprint(b"a"), fingerprint(b"b"));
    }

    fn fingerprint_of_hex() -> String {
        let number = 0x00af_1349_b9f5_f9a1_a6a0_404d_u128;
        (0..8).map(|word| word_list()[(number >> (77 - 11 * word) & 2047) as usize]).collect::<Vec<_>>().join(" ")
    }
}
