//! What lies in a bucket, byte by byte: `FORMAT.md` specifies it, this crate reads and writes it.
//!
//! Bytes in, bytes out: no I/O, no clock, no configuration, no randomness. Signing, encrypting and
//! decrypting are the caller's: age plugins start processes, and encryption draws randomness.
//!
//! What a reader gives this crate comes from whoever can write to a bucket. Manifests and index
//! segments are parsed only after their signature was checked; the parsers are bounded all the
//! same, and each has a fuzz target (`fuzz/`).

pub mod chunk_id;
pub mod extents;
pub mod frames;
pub mod id;
pub mod index;
pub mod info;
pub mod keyring;
pub mod layout;
pub mod manifest;
pub mod map;
mod outline;
pub mod pack;
pub mod planes;
pub mod prune_record;
pub mod varint;
