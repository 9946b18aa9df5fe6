//! The vault: what lies in every replica, how it is named, written and read. `FORMAT.md` is its specification.
//!
//! Nothing here talks to a replica: these are the objects, as bytes.

pub mod chunk_table;
pub mod extents;
pub mod index;
pub mod info;
pub mod keyring;
pub mod layout;
pub mod manifest;
pub mod map;
pub mod outline;
pub mod pack;
pub mod prune_record;
