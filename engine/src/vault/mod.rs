//! The vault: what lies in every replica and how it is read and written. `FORMAT.md` is its specification.
pub mod manifest;
