//! Keep: what is done to a vault after a backup, so that it stays whole and does not grow forever.
//!
//! [`verify`] looks, [`catch_up`] completes replicas, and [`prune`] removes what `retention.rs`
//! lets go.

pub mod catch_up;
pub mod prune;
mod retention;
pub mod verify;
