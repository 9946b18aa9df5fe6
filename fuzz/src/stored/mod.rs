//! Parsers of what lies in a bucket: all that `lifeboat-format` reads.

pub mod act;
pub mod document;
pub mod extents;
pub mod ids;
pub mod index;
pub mod keyring;
pub mod layout;
pub mod log;
pub mod manifest;
pub mod map;
pub mod needs;
pub mod pack;
pub mod root;
pub mod varint;
pub mod veto;
