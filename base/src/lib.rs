//! What all crates of Lifeboat speak: errors, time, secrets, and how settings are refused.
//!
//! This crate knows nothing of vaults, stores and databases. It touches no terminal and no
//! environment, and reads time only through [`clock::Clock`].

pub mod buffers;
pub mod clock;
pub mod error;
pub mod facts;
pub mod secret;
pub mod settings;

pub use error::{Class, Context, Error, Result};
