//! What all crates of Lifeboat share: errors, time, secrets, buffers, and how settings are read.
//!
//! This crate knows nothing about vaults, replicas and databases. It touches no terminal and no
//! environment, and reads time only through [`clock::Clock`].

pub mod beneath;
pub mod buffers;
pub mod clock;
pub mod disk;
pub mod error;
pub mod escape;
pub mod facts;
pub mod hours;
pub mod memory;
pub mod opened;
pub mod secret;
pub mod settings;

pub use error::{Class, Context, Error, Result};
