//! Engines: one folder for each kind of database, with everything that Lifeboat knows about it.
//!
//! An engine is a [`Database`] in the list of [`registry`], and nothing outside its folder names
//! it. It parses its own `[dataset.source]` table, captures, loads into a server, starts a
//! throw-away server, checks and proves. It writes and reads [`streams`]; this crate knows nothing
//! about vaults, packs and replicas.
//!
//! To add an engine, make a folder beside [`postgres`], implement [`Database`] and [`Source`], and
//! add it to the registry, whose tests then test it like all others.

mod blocking;
pub mod command;
mod database;
mod directory;
mod drill_commands;
pub mod file;
pub mod files;
mod listing;
pub mod mariadb;
mod moment;
mod occupied;
mod passing;
pub mod postgres;
pub mod proof;
pub mod redis;
pub mod registry;
mod removal;
pub mod rows;
pub mod sqlite;
pub mod streams;
mod target;
mod tool;
mod wanted;

pub use self::database::{
    ClientTool, Database, FoundHere, FoundSource, Look, NewAccount, ServerAddress, ServerTarget, Source, SourceCheck,
    ThrowAway, ToolFound, WorkContext,
};
pub use self::drill_commands::DrillCommands;
pub use self::listing::{ListedItem, Listing, MAX_ITEM_BYTES};
pub use self::moment::SharedMoment;
pub use self::passing::PassingMarks;
pub use self::target::{Target, load};
pub use self::tool::environment::ToolEnvironment;
pub use self::wanted::{LoadFailure, Portion, PortionOutcome, RestoreOutcome, RowFormat, TreeWanted, Wanted};
