//! `vault.json` and `hosts/<host>.json`: with signatures and records the only objects that are not
//! encrypted. They hold no secret, and are not signed. Readers trust neither: manifests carry the
//! vault id under a signature, and signers are pinned. Writers look at the format and at what is
//! required: a forged `vault.json` can stop them, and must do no more.

use chrono::{DateTime, Utc};
use lifeboat_base::{Error, Result};
use serde::{Deserialize, Serialize};

use crate::Format;
use crate::id::Name;
use crate::requirements::{self, NEWER_HINT, Requirements};
use crate::utc;

/// No `vault.json` is longer, and no description of a host.
pub const MAX_VAULT_INFO_BYTES: usize = 64 << 10;

/// `vault.json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VaultInfo {
    /// The number of the format.
    format: u32,
    /// What a reader of the vault must know.
    #[serde(default)]
    requires: Requirements,
    /// 128 random bits as hexadecimal digits.
    pub vault: String,
    /// When it was made.
    #[serde(with = "utc")]
    pub created: DateTime<Utc>,
}

/// What is looked at before all else, so that it is named even where other fields have changed.
#[derive(Deserialize)]
struct Told {
    format: u32,
    requires: Option<Requirements>,
}

impl VaultInfo {
    /// A new vault, of format 2.
    #[must_use]
    pub fn new(vault: String, created: DateTime<Utc>) -> Self {
        Self { format: Format::Two.number(), requires: Requirements::default(), vault, created }
    }

    /// Parses the object; `place` names the replica in errors.
    ///
    /// # Errors
    /// [`Class::Integrity`](lifeboat_base::Class::Integrity): the object is damaged, of another
    /// format, or requires what this program does not know.
    pub fn parse(data: &[u8], place: &Name) -> Result<Self> {
        let what = format!("replica {place}: vault.json");
        let damaged = || format!("{what} is damaged");
        if data.len() > MAX_VAULT_INFO_BYTES {
            return Err(Error::integrity(damaged()).because("it is too long"));
        }
        let told: Told = requirements::read_head(data, &what)?;
        if Format::of(told.format).is_none() {
            return Err(Error::integrity(format!(
                "{what} is of format {}, and this version of Lifeboat knows formats 1 and 2",
                told.format
            ))
            .hint(NEWER_HINT));
        }
        match &told.requires {
            Some(requires) => requires.check(&what)?,
            None if told.format == Format::One.number() => {}
            None => return Err(Error::integrity(damaged()).because("`requires` is missing")),
        }
        let info: Self = requirements::read_head(data, &what)?;
        let digits = |byte: u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
        if info.vault.len() != 32 || !info.vault.bytes().all(digits) {
            return Err(Error::integrity(damaged()).because("`vault` is not 32 hexadecimal digits"));
        }
        Ok(info)
    }

    /// Its format.
    #[must_use]
    pub fn format(&self) -> Format {
        Format::of(self.format).unwrap_or(Format::Two)
    }
}

/// Refuses to write into a vault of a format that is only read; `place` names the replica.
///
/// # Errors
/// [`Class::Configuration`](lifeboat_base::Class::Configuration): it is of format 1.
pub fn check_writable(format: Format, place: &Name) -> Result<()> {
    match format {
        Format::Two => Ok(()),
        Format::One => Err(Error::configuration(format!(
            "replica {place} holds a vault of format 1, which this version of Lifeboat reads but does not write"
        ))
        .hint(
            "set a new vault_prefix in the configuration, move `host.key`, `host-keys` and the state directory \
             away, and run `lifeboat init`; the old vault stays readable where it is",
        )),
    }
}

/// `hosts/<host>.json`: tells operators a host's public keys, to be compared out of band.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostInfo {
    /// Its name.
    pub host: Name,
    /// Age recipient of its operations identity.
    pub operations_recipient: String,
    /// Minisign public key of its signer.
    pub signer: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(json: &str) -> Result<VaultInfo> {
        VaultInfo::parse(json.as_bytes(), &"near".parse()?)
    }

    fn told(start: &str) -> String {
        format!(r#"{{{start}, "vault": "{}", "created": "2026-11-28T12:00:00Z"}}"#, "0a".repeat(16))
    }

    #[test]
    fn both_formats_are_read_and_one_is_written() -> Result<()> {
        let near = "near".parse()?;
        let (one, two) = (parse(&told(r#""format": 1"#))?, parse(&told(r#""format": 2, "requires": [], "new": 5"#))?);
        assert_eq!((one.format(), two.format()), (Format::One, Format::Two));
        let refused = check_writable(one.format(), &near).err();
        let hint = refused.as_ref().and_then(Error::hint_text).unwrap_or_default();
        assert!(hint.contains("vault_prefix"), "{hint}");
        check_writable(two.format(), &near)
    }

    #[test]
    fn is_no_longer_than_format_md_says() {
        let good = told(r#""format": 2, "requires": []"#);
        let of_length = |length: usize| parse(&format!("{good}{}", " ".repeat(length - good.len()))).is_ok();
        assert!(of_length(64 << 10) && !of_length((64 << 10) + 1));
    }

    #[test]
    fn what_is_unknown_or_required_is_named() {
        for (json, why) in [
            (told(r#""format": 3"#), "format 3"),
            (r#"{"format": 3, "vaults": []}"#.to_owned(), "format 3"),
            (told(r#""format": 2, "requires": ["holograms"]"#), "requires `holograms`"),
            (r#"{"format": 2, "requires": ["holograms"]}"#.to_owned(), "requires `holograms`"),
            (told(r#""format": 2, "requires": [], "vault": "v""#), "damaged"),
            (r#"{"format": 2, "requires": [], "vault": "v", "created": "2026-11-28T12:00:00Z"}"#.to_owned(), "digits"),
            (told(r#""format": 2"#), "`requires` is missing"),
            (format!("{}{}", told(r#""format": 2"#), " ".repeat(64 << 10)), "too long"),
        ] {
            let refused = parse(&json).err().map(|error| error.chain()).unwrap_or_default();
            assert!(refused.contains(why), "{why}: {refused}");
        }
    }
}
