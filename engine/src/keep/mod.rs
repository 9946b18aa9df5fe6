//! Keep.

pub mod catch_up;
pub mod prune;
mod retention;
pub mod verify;
