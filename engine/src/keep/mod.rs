//! Keep: what happens to snapshots after their commit.
//!
//! [Verify](verify) checks what every replica holds. [Catch-up](catch_up) copies to a replica what
//! it lacks. [Prune](prune) removes snapshots that no retention rule keeps.

pub mod catch_up;
pub(crate) mod gaps;
pub mod prune;
pub(crate) mod put_back;
mod retention;
pub mod verify;
