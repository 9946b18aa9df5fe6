//! The flows: backup, restore, verify, prune, catch-up, drill. Each is one call with everything it
//! needs as an argument, a cancellation token and a report as its result.

pub mod backup;
mod batches;
pub mod catch_up;
mod chunks;
mod copy;
mod documents;
pub mod drill;
mod inventory;
mod pack_cache;
mod pack_fetch;
pub mod prune;
pub mod reader;
mod spans;
pub mod streams;
pub mod verify;
mod workers;
