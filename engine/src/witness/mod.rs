//! Witnesses: drill hosts that look at the vault by their own clock, every hour, and record in
//! their logs what they saw. See "Witnesses" in `FORMAT.md`.
//!
//! - **What a witness needs** (`look.rs`): its signer, the root, and replicas that it can read and
//!   in which it can write its log. No identity: it reads acts, which are not encrypted.
//! - **What it is good for** (`evidence.rs`, `told.rs`): whoever steals a backup host can claim any
//!   time for what he writes, but not that a witness saw it then. So his snapshots count from when
//!   a witness or a store first saw them.
//! - **What it cannot do**: a witness signs no snapshot. One that lies makes a snapshot at most as
//!   old as its writer claims.

mod evidence;
mod known;
mod last;
mod look;
mod told;

pub(crate) use evidence::{Against, Evidence, ended, tell_what_was_seen};
pub use last::last_looks;
pub(crate) use last::{NewestRecords, has_warden_looked};
pub use look::{LookReport, WitnessLook};
pub(crate) use told::ToldLogs;

#[cfg(test)]
mod tests;
