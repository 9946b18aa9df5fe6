//! lib
pub mod backup;
mod catalog;
pub mod config;
pub mod drill;
pub mod keep;
pub mod keys;
pub mod restore;
mod rows;
pub mod schedule;
pub mod state;

/// For `benches/` alone: no promise is made of what is in it.
#[doc(hidden)]
pub mod stages {
    pub use crate::backup::chunk::{Block, Chunker, Peek};
    pub use crate::keys::crypt::{decrypt, decrypting, encrypt, encrypting};
    pub use crate::rows::sketch::sketch;
    pub use crate::rows::units::{Fineness, Unit, UnitCutter};
    pub use crate::state::chunk_table::{ChunkTable, TableBuilder};
}

pub use lifeboat_base as base;
pub use lifeboat_base::{Class, Error, Result, clock};
pub use lifeboat_databases as databases;
pub use lifeboat_format as format;
pub use lifeboat_store as store;
