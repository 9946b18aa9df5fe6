//! `vetoes/<mark>.<name>.veto`: somebody whom the root names forbids that a mark is carried out.
//! See "Vetoes" in `FORMAT.md`.
//!
//! It is one line of JSON with its own signature behind it, as acts are.

use chrono::{DateTime, Utc};
use lifeboat_base::{Error, Result};
use serde::{Deserialize, Serialize};

use crate::id::{Digest, Name, SnapshotId};
use crate::line::Line;
use crate::log::MAX_LOG_TEXT_BYTES;
use crate::requirements::Requirements;
use crate::signed_line;
use crate::utc;

/// No veto is longer.
pub const MAX_VETO_BYTES: usize = 16 << 10;

/// A veto.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Veto {
    /// What a reader must know to understand it.
    pub requires: Requirements,
    /// The vault.
    pub vault: String,
    /// The dataset.
    pub dataset: Name,
    /// The mark.
    pub mark: SnapshotId,
    /// The hash of the mark as it is stored.
    pub blake3: Digest,
    /// Who forbids it: an owner or an approver.
    pub principal: Name,
    /// When it was written.
    #[serde(with = "utc")]
    pub time: DateTime<Utc>,
    /// Why.
    pub why: String,
}

impl Veto {
    /// The line that its signature covers.
    ///
    /// # Errors
    /// [`Class::Failed`](lifeboat_base::Class::Failed): it is longer than a veto can be.
    pub fn to_line(&self) -> Result<Vec<u8>> {
        signed_line::write(self, MAX_VETO_BYTES / 2, "this veto")
    }

    /// Reads the line of a veto, whose signature was checked. `what` names it in errors.
    ///
    /// # Errors
    /// [`Class::Integrity`](lifeboat_base::Class::Integrity): it is damaged, requires what this
    /// program does not know, or belongs to another place.
    pub fn of_line(
        line: &[u8],
        vault: &str,
        dataset: &Name,
        (mark, name): (&SnapshotId, &Name),
        what: &str,
    ) -> Result<Self> {
        let veto: Self = signed_line::read(line, what)?;
        if (veto.vault.as_str(), &veto.dataset, &veto.mark, &veto.principal) != (vault, dataset, mark, name) {
            return Err(Error::integrity(format!("{what} belongs to another place")));
        }
        if veto.why.len() > MAX_LOG_TEXT_BYTES {
            return Err(Error::integrity(format!("{what} is damaged")).because("its reason is too long"));
        }
        Ok(veto)
    }
}

/// Splits a veto as it is stored into its line and the signature of this line; `None` if it is none
/// or too long.
#[must_use]
pub fn split_veto(stored: &[u8]) -> Option<(&[u8], &[u8])> {
    signed_line::split(stored, MAX_VETO_BYTES)
}

/// A veto that nobody has signed yet. Whoever signs it puts the own name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct VetoRequestLine(pub Veto);

impl Line for VetoRequestLine {
    const KIND: &'static str = "lifeboat-veto-request-1";
    const WHAT: &'static str = "a veto to sign, as `lifeboat veto request` prints it";
}

/// A veto as it is stored.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VetoLine {
    /// The vault.
    pub vault: String,
    /// The dataset.
    pub dataset: Name,
    /// The mark.
    pub mark: SnapshotId,
    /// Who signed it.
    pub principal: Name,
    /// The object, which is text.
    pub stored: String,
}

impl Line for VetoLine {
    const KIND: &'static str = "lifeboat-veto-1";
    const WHAT: &'static str = "a signed veto, as `lifeboat owner sign` prints it";
}
