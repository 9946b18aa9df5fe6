//! What somebody wants of a snapshot, and what came of it.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// Which databases of a snapshot to restore into a server, and how.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Wanted {
    /// Restore only these databases of the snapshot. If there are none, restore all.
    pub databases: Vec<String>,
    /// Restore one database under another name.
    pub rename: Option<String>,
    /// Replace a database of the same name, even if it is not empty.
    pub overwrite: bool,
    /// Make the snapshot's roles also in a server that has roles or databases of its own.
    pub globals: bool,
    /// Load what can be loaded, and list what could not.
    pub keep_going: bool,
    /// Let code in the snapshot run as the superuser that connects, if it is one.
    pub as_superuser: bool,
    /// Restore only these tables, as `SCHEMA.NAME`, also into a database that exists. If there are
    /// none, restore all.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tables: Vec<String>,
    /// Restore definitions alone, and no rows.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub schema_only: bool,
}

impl Wanted {
    /// Whether less than whole databases is wanted.
    #[must_use]
    pub fn is_part(&self) -> bool {
        self.schema_only || !self.tables.is_empty()
    }
}

/// What of a tree to restore, and with which rights.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TreeWanted {
    /// Only these paths below the root, with all that is in them. If there are none, everything.
    pub paths: Vec<PathBuf>,
    /// Give owners and access control lists back, by name where this machine knows it, else by
    /// number.
    pub owners: bool,
    /// Make devices, and give back what lets a program run with the rights of another: setuid and
    /// setgid bits, capabilities, trusted attributes. The bits come back only together with owners.
    pub special: bool,
}

/// A part of one database, for a file or for standard output.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Portion {
    /// All definitions, as the engine's own tools load them.
    Definitions,
    /// The rows of one table.
    Rows {
        /// The table, as `SCHEMA.NAME`.
        table: String,
        /// How they are written.
        format: RowFormat,
    },
}

/// How rows are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RowFormat {
    /// As the engine's own dump holds them.
    Copy,
    /// Comma-separated values, below a line of column names.
    Csv,
}

/// What of a [`Portion`] was given.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PortionOutcome {
    /// The number of rows; `None` for definitions.
    pub rows: Option<u64>,
    /// The number of bytes.
    pub bytes: u64,
    /// What an operator should know, in plain words.
    pub warnings: Vec<String>,
}

/// What a restore did.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RestoreOutcome {
    /// Names of the databases or files that were written.
    pub written: Vec<String>,
    /// What an operator should know about the restore, in plain words.
    pub warnings: Vec<String>,
    /// What could not be loaded. It is empty unless that was allowed: see [`Wanted::keep_going`].
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub failures: Vec<LoadFailure>,
}

/// An object that could not be loaded.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LoadFailure {
    /// The database of the snapshot.
    pub database: String,
    /// Kind and name.
    pub object: String,
    /// One word for the cause, such as `missing_object`.
    pub class: String,
    /// What the server said.
    pub reason: String,
}
