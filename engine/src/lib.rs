//! What `lifeboatd` and `lifeboat` share: capture, the vault, restore and drill.
//!
//! Arrows point one way: [`flow`] (backup, restore, verify, prune, catch-up, drill) uses [`vault`]
//! (packs, manifests, keyring) and [`replica`]; these use [`bytes`] (chunk, compress, encrypt,
//! sign); everything rests on the foundation ([`error`], [`id`], [`clock`], [`config`]).
//! [`rows`] tells which bytes are the same as before, and knows nothing of where they are stored.
//! [`source`] and [`drill`] know databases and nothing of the vault.
//!
//! The library touches no terminal and reads time only through [`clock::Clock`]. Of the environment it reads only what it hands to
//! client tools: `PATH`, `HOME`, and where PostgreSQL's service and password files are.

pub mod bytes;
pub mod clock;
pub mod config;
pub mod drill;
pub mod error;
pub mod flow;
pub mod id;
pub mod keys;
pub mod replica;
pub mod rows;
pub mod schedule;
pub mod source;
pub mod state;
pub mod vault;

pub use error::{Class, Error, Result};
