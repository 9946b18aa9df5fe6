//! Restore: from a vault to the bytes of a snapshot's streams.
//!
//! In the order in which data passes: the [catalog](reader) selects a snapshot and opens its
//! manifest; [`plan`](plan) tells which packs which part of a stream needs, and when again; packs
//! are [fetched](fetch) from the replica that has been fastest, decrypted, and
//! [kept](pack_cache) for their next use; [batches] of extents are [decoded](decode) by the
//! [workers]; and the [stream](streams) gives the pieces in order, its length and hash last.

mod batches;
mod decode;
pub(crate) mod fetch;
mod pack_cache;
mod plan;
mod reader;
mod streams;
mod wanted;
pub(crate) mod workers;

pub use self::reader::{Listed, Selector, VaultReader};
pub use self::streams::{Reading, SnapshotStreams};
