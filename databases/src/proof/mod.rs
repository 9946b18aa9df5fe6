//! What a drill shows: how far it went, what was checked, and what was compared.

pub(crate) mod multiset;

use serde::{Deserialize, Serialize};

/// How far a drill went; each level includes those before.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ProofLevel {
    /// Every object present, signatures and hashes right, decrypts.
    Fetched = 1,
    /// A fresh throw-away server loaded it without an error.
    Loaded = 2,
    /// Engine checks and the operator's queries pass.
    Checked = 3,
    /// Dumped again it equals the snapshot.
    Proved = 4,
}

impl ProofLevel {
    /// The word used in configuration and reports.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Fetched => "fetched",
            Self::Loaded => "loaded",
            Self::Checked => "checked",
            Self::Proved => "proved",
        }
    }
}

/// A query of the operator's, run in the restored database.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DrillQuery {
    /// Which database; None: the only one, or SQLite.
    pub database: Option<String>,
    /// One statement.
    pub sql: String,
    /// What it must return: the first column of the first row as text. None: it must only succeed.
    pub expect: Option<String>,
}

/// One check and what it found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CheckResult {
    /// Such as `pg_amcheck` or the operator's SQL.
    pub check: String,
    /// Whether it passed.
    pub passed: bool,
    /// What it said, one line.
    pub detail: String,
}

/// What was compared to call a restored database equal.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProofResult {
    /// Schema definitions compared as text.
    pub definitions: u64,
    /// Tables compared as multisets of rows.
    pub tables: u64,
    /// Rows in them.
    pub rows: u64,
    /// Large objects compared.
    pub large_objects: u64,
    /// What differs, in plain words; empty: equal. At most 50, then a count.
    pub differences: Vec<String>,
}

impl ProofResult {
    /// Whether something was compared and nothing differs.
    #[must_use]
    pub fn is_equal(&self) -> bool {
        self.differences.is_empty() && self.definitions + self.tables > 0
    }
}
