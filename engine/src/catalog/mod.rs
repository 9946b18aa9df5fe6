//! How all verbs look at a vault: listings of replicas, signed documents, ciphertext.
//!
//! A document is trusted only after its signature was checked. A pack is trusted only after it was
//! checked against the hash that names it.

pub(crate) mod ciphertext;
pub(crate) mod clocks;
pub(crate) mod documents;
pub(crate) mod first_seen;
pub(crate) mod first_sights;
pub(crate) mod future;
pub(crate) mod inventory;
mod kept_acts;
pub(crate) mod needs;
pub(crate) mod numbers;
pub(crate) mod order;
pub(crate) mod outlines;
pub(crate) mod pack_ranges;
pub(crate) mod records;
pub(crate) mod removals;
pub(crate) mod signed;
pub(crate) mod taken;
pub(crate) mod unbelieved;
pub(crate) mod verdict;
pub(crate) mod vetoes;
