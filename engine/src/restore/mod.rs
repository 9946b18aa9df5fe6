//! Restore reads the streams of a snapshot from a vault.
//!
//! The files, in the order in which data passes:
//! 1. `reader.rs` lists snapshots, `select.rs` selects one, and `reader.rs` opens its manifest.
//!    `believed.rs` opens all, for whoever searches among them.
//! 2. `plan.rs` finds out which packs each part of a stream needs, and when they are needed again.
//!    `wanted.rs` collects which parts of the packs are needed.
//! 3. `fetch.rs` fetches packs from the replica that has been fastest, and decrypts them.
//!    `pack_cache.rs` keeps them for their next use.
//! 4. `batches.rs` opens the extents of a stream. `decode.rs` and `workers.rs` decompress pieces.
//! 5. `streams.rs` delivers the pieces in order, and checks length and hash at the end. `beside.rs`
//!    counts once what several readers of a stream read.

mod batches;
mod believed;
mod beside;
mod decode;
pub(crate) mod fetch;
mod pack_cache;
mod plan;
mod reach;
mod reader;
mod select;
mod streams;
mod wanted;
pub(crate) mod workers;

pub use self::believed::BelievedSnapshots;
pub use self::reader::{HostMemory, Listed, Summary, VaultReader};
pub use self::select::Selector;
pub use self::streams::{Reading, SnapshotStreams};
