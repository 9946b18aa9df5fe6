//! What a vault holds, as all verbs look at it: listings of replicas, signed documents, ciphertext.
//!
//! Nothing in here is believed before its signature or its name (a hash) was checked.

pub(crate) mod ciphertext;
pub(crate) mod documents;
pub(crate) mod inventory;
