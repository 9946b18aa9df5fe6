//! `postgres`: roles and globals as SQL, each database as a custom-format archive without compression of its own.
//!
//! Streams: `globals` (`pg_dumpall --globals-only`), then `database/<name>` (`pg_dump -Fc -Z0`). Each database is
//! consistent in itself; several databases of one server are captured one after the other, as PostgreSQL offers no snapshot
//! across databases.

pub(crate) mod capture;
pub(crate) mod clients;
pub(crate) mod connect;
pub(crate) mod globals;
pub(crate) mod load;

/// Name of the stream with roles and other globals.
pub(crate) const GLOBALS: &str = "globals";
/// Before the name of a database in a stream's name.
pub(crate) const DATABASE: &str = "database/";
