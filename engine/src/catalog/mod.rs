//! The catalog.

pub(crate) mod ciphertext;
pub(crate) mod documents;
pub(crate) mod inventory;
