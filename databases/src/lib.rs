//! Engines: one folder for each kind of database, with everything that Lifeboat knows of it.
//!
//! An engine is one registration: a [`Database`] in the list of [`registry`]. It parses its own
//! `[dataset.source]` table, captures, loads into a server, starts a throw-away server, checks and
//! proves. Nothing outside its folder names it. What it writes and reads are [`streams`]; this
//! crate knows nothing of vaults, packs and replicas.
//!
//! To add one: make a folder beside [`postgres`], implement [`Database`] and [`Source`], and add a
//! line to the registry. The tests of the registry then ask of it what they ask of all.

pub mod command;
mod database;
mod directory;
pub mod file;
pub mod postgres;
pub mod proof;
pub mod registry;
pub mod sqlite;
pub mod streams;
mod target;
mod tool;

pub use self::database::{
    ClientTool, Database, RestoreOutcome, ServerAddress, ServerTarget, Source, ThrowAway, ToolFound, Wanted,
    WorkContext,
};
pub use self::target::{Target, load};
pub use self::tool::environment::ToolEnvironment;
