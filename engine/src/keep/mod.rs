//! Keep: what happens to snapshots after they were committed.
//!
//! [Verify](verify) checks what every replica holds. [Catch-up](catch_up) gives a replica what it
//! lacks. [Prune](prune) removes what retention lets go.

pub mod catch_up;
pub mod prune;
mod retention;
pub mod verify;
