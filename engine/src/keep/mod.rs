//! Keep: what happens to snapshots after their commit.
//!
//! [Verify](verify) checks what every replica holds. [Catch-up](catch_up) copies to a replica what
//! it lacks. [Scrub](scrub) reads all of it again over time, and replaces what is damaged.
//! [Repair](repair) puts back what is known and names what is lost. [Prune](prune) removes
//! snapshots that no retention rule keeps. [Undelete](undelete) brings back what somebody hid or
//! overwrote in a bucket that keeps versions. [Locks](locks) are extended for what is needed. A
//! [warden] carries out what backup hosts only mark. People [veto] marks.

pub(crate) mod beginning;
pub mod catch_up;
mod false_times;
pub(crate) mod gaps;
pub mod locks;
pub mod prune;
pub(crate) mod put_back;
pub mod reading;
pub mod repair;
mod retention;
pub mod scrub;
pub mod undelete;
pub mod verify;
pub mod veto;
pub mod warden;
pub mod warden_leaves;
pub mod warden_log;
mod warden_told;
