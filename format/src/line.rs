//! What people carry between machines: one line of printable characters that can be copied, typed
//! from paper or scanned. See "Lines" in `FORMAT.md`.
//!
//! A line is its kind, a colon, and base32 of compressed JSON with four bytes of its hash, so a
//! typing error is noticed. Nothing in a line is secret, and nothing in it is believed because it
//! is there.

use std::collections::BTreeMap;

use data_encoding::BASE32_NOPAD;
use lifeboat_base::{Error, Result};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::frames;
use crate::id::Name;
use crate::requirements;
use crate::root::{self, MAX_OWNERS, MAX_PATTERNS, MAX_ROOT_BYTES, Pattern};
use crate::strict;

/// No line holds more JSON.
const MAX_LINE_JSON: u64 = 2 * MAX_ROOT_BYTES as u64;
/// No line is longer, blanks included.
pub const MAX_LINE_BYTES: usize = 1 << 20;
const CHECKSUM_BYTES: usize = 4;
const LEVEL: i32 = 19;

/// What a line can be.
pub trait Line: Serialize + DeserializeOwned {
    /// What it begins with.
    const KIND: &'static str;
    /// What it is, with its article.
    const WHAT: &'static str;
}

/// An owner's public halves.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OwnerLine {
    /// The name.
    pub name: Name,
    /// The age recipient of the master identity.
    pub recipient: String,
    /// The minisign public key that signs roots.
    pub signer: String,
}

impl Line for OwnerLine {
    const KIND: &'static str = "lifeboat-owner-1";
    const WHAT: &'static str = "an owner's line, as `lifeboat owner init` prints it";
}

/// A root that nobody need have signed yet.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RequestLine {
    /// The text of the root.
    pub root: String,
    /// Signatures by the names of owners.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty", deserialize_with = "strict::texts::<MAX_OWNERS, _>")]
    pub signatures: BTreeMap<String, String>,
}

impl Line for RequestLine {
    const KIND: &'static str = "lifeboat-request-1";
    const WHAT: &'static str = "a request, as `lifeboat root request` prints it";
}

/// A root with signatures.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct RootLine(pub RequestLine);

impl Line for RootLine {
    const KIND: &'static str = "lifeboat-root-1";
    const WHAT: &'static str = "a signed root, as `lifeboat owner sign` prints it";
}

/// A backup host that was set up, as it describes itself to the owner.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostLine {
    /// The vault that its keys are for. It need not exist yet.
    pub vault: String,
    /// The name.
    pub name: Name,
    /// The minisign public key.
    pub signer: String,
    /// The recipient that opens what this host reads.
    pub operations: String,
    /// The datasets that it wants to back up.
    #[serde(deserialize_with = "strict::list::<MAX_PATTERNS, _, _>")]
    pub datasets: Vec<Pattern>,
}

impl Line for HostLine {
    const KIND: &'static str = "lifeboat-host-1";
    const WHAT: &'static str = "a backup host's line, as `lifeboat setup host` prints it";
}

/// A drill host that was set up, as it describes itself to the owner.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DrillHostLine {
    /// The name.
    pub name: Name,
    /// The age recipient.
    pub recipient: String,
    /// The minisign public key.
    pub signer: String,
    /// The datasets that it wants to open and drill.
    #[serde(deserialize_with = "strict::list::<MAX_PATTERNS, _, _>")]
    pub datasets: Vec<Pattern>,
}

impl Line for DrillHostLine {
    const KIND: &'static str = "lifeboat-drill-host-1";
    const WHAT: &'static str = "a drill host's line, as `lifeboat setup drill-host` prints it";
}

/// Eight words that tell a line from others, however it was typed: who prints it and who reads it
/// compare them.
///
/// # Errors
/// The line cannot be written.
pub fn words<L: Line>(value: &L) -> Result<String> {
    Ok(root::fingerprint(write(value)?.as_bytes()))
}

/// Whether a text is a line of this kind, if perhaps a damaged one.
#[must_use]
pub fn is_of<L: Line>(text: &str) -> bool {
    text.trim_start().strip_prefix(L::KIND).is_some_and(|rest| rest.starts_with(':'))
}

/// The value as a line.
///
/// # Errors
/// It is too long.
pub fn write<L: Line>(value: &L) -> Result<String> {
    let failed = |why: String| Error::failed(format!("cannot write {}", L::WHAT)).because(why);
    let json = serde_json::to_vec(value).map_err(|error| failed(error.to_string()))?;
    if json.len() as u64 > MAX_LINE_JSON {
        return Err(failed("it is too long".to_owned()));
    }
    let mut bytes = frames::compress(LEVEL, &json)?;
    let checksum = checksum::<L>(&bytes);
    bytes.extend(checksum);
    Ok(format!("{}:{}", L::KIND, BASE32_NOPAD.encode(&bytes)))
}

/// Reads a line. Blanks and line breaks in it, and small letters, do not matter.
///
/// # Errors
/// [`Class::Usage`](lifeboat_base::Class::Usage): it is none of this kind, or was copied wrongly.
pub fn read<L: Line>(text: &str) -> Result<L> {
    let refused = |why: &str| {
        Error::usage(format!("this is not {}", L::WHAT))
            .because(why)
            .hint(format!("copy the whole line that begins with {}:", L::KIND))
    };
    if text.len() > MAX_LINE_BYTES {
        return Err(refused("it is too long"));
    }
    let (kind, rest) = text.trim().split_once(':').ok_or_else(|| refused("it has no colon"))?;
    if kind != L::KIND {
        return Err(refused("it begins otherwise"));
    }
    let digits: String = rest.chars().filter(|c| !c.is_whitespace()).map(|c| c.to_ascii_uppercase()).collect();
    let bytes = BASE32_NOPAD.decode(digits.as_bytes()).map_err(|_| refused("it has other characters than base32"))?;
    let at = bytes.len().checked_sub(CHECKSUM_BYTES).ok_or_else(|| refused("it is too short"))?;
    let (frame, told) = bytes.split_at(at);
    if checksum::<L>(frame) != told {
        return Err(refused("its checksum is wrong: a part is missing, or was typed wrongly"));
    }
    let json = frames::decompress_document(frame, 0, MAX_LINE_JSON).map_err(|error| refused(&error.chain()))?;
    requirements::read_head(&json, L::WHAT).map_err(|error| refused(&error.chain()))
}

fn checksum<L: Line>(bytes: &[u8]) -> [u8; CHECKSUM_BYTES] {
    let mut hasher = blake3::Hasher::new();
    hasher.update(L::KIND.as_bytes()).update(b":").update(bytes);
    let mut checksum = [0; CHECKSUM_BYTES];
    hasher.finalize_xof().fill(&mut checksum);
    checksum
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_comes_back_however_it_was_typed() -> Result<()> {
        let owner = OwnerLine { name: "ann".parse()?, recipient: "age1x".to_owned(), signer: "RWx".to_owned() };
        let line = write(&owner)?;
        assert!(line.bytes().all(|byte| byte.is_ascii_graphic()) && is_of::<OwnerLine>(&line));
        assert_eq!(read::<OwnerLine>(&line)?, owner);
        let (kind, digits) = line.split_once(':').unwrap_or_default();
        let typed = format!("  {kind}:\n{} {}\n", digits[..9].to_lowercase(), &digits[9..]);
        assert_eq!(read::<OwnerLine>(&typed)?, owner);
        Ok(())
    }

    #[test]
    fn what_was_copied_wrongly_is_refused() -> Result<()> {
        let line = write(&OwnerLine { name: "ann".parse()?, recipient: "a".to_owned(), signer: "b".to_owned() })?;
        for at in OwnerLine::KIND.len() + 1..line.len() {
            let mut wrong = line.clone();
            let other = if line.as_bytes()[at] == b'A' { "B" } else { "A" };
            wrong.replace_range(at..=at, other);
            assert!(read::<OwnerLine>(&wrong).is_err(), "{at}");
            assert!(read::<OwnerLine>(&line[..at]).is_err(), "{at}");
        }
        for wrong in ["", "x", "lifeboat-owner-1:", &line.replace("owner", "root"), &format!("{line}A")] {
            assert!(read::<OwnerLine>(wrong).is_err(), "{wrong}");
        }
        Ok(())
    }
}
