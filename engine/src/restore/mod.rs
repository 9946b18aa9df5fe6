//! Restore: from a vault to the bytes of a snapshot's streams.
//!
//! In the order in which data passes: the [catalog](reader) selects a snapshot and opens its
//! manifest; [`plan`](spans) tells which packs which part of a stream needs, and when again; packs
//! are [fetched](pack_fetch) from the replica that has been fastest, decrypted, and
//! [kept](pack_cache) for their next use; [batches] of extents are [decoded](chunks) by the
//! [workers]; and the [stream](streams) gives the pieces in order, its length and hash last.

mod batches;
mod chunks;
mod pack_cache;
pub(crate) mod pack_fetch;
mod reader;
mod spans;
mod streams;
pub(crate) mod workers;

pub use self::reader::{Listed, Selector, VaultReader};
pub use self::streams::{Reading, SnapshotStreams};
