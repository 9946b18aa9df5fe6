//! The root: who and what is trusted in a vault, signed by its owners.
//!
//! - **A root is valid** if enough of its own owners signed it, and enough of those of the root
//!   before, which it names by its hash. Versions count up by one.
//! - **A replica is hostile.** What it shows counts only by its signatures. Of several roots the
//!   newest valid one counts; what is not valid is named and left aside. Two valid ones that follow
//!   the same root stop whoever sees both: an owner's key was stolen, or used twice.
//! - **A host pins** the newest root that it has seen, and those before it. It never goes back, and
//!   where every replica that answers has gone back, it neither commits nor deletes.
//!
//! Owners act offline (`owner.rs`): they sign what a request asks for (`change.rs`). What they have
//! signed is installed (`install.rs`), found again (`find.rs`) and pinned (`pin.rs`).

mod change;
mod enrol;
mod find;
mod install;
mod owner;
mod pin;
mod put;
mod shown;
mod signed;

pub(crate) use change::revoked_for_good;
pub use change::{Change, GrantedMachine, NewDrillHost, apply, differences, first_root};
pub use enrol::{drill_host_in, first_of, host_in, read_signed};
pub use find::{FoundRoot, find};
pub use install::{Installed, install};
pub use owner::{OwnerFolder, ToSign};
pub use pin::{keep, names_warden, pinned, renew, trust_of_reader};
pub use signed::SignedRoot;
