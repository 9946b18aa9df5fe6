//! Databases that a look at this machine found, and what it could not look at.

use std::fmt::Display;
use std::path::PathBuf;

/// Where and for whom databases are looked for.
#[derive(Debug, Clone)]
pub struct Look {
    /// The user of this machine that captures run as.
    pub user: String,
    /// Folders to look in, too.
    pub places: Vec<PathBuf>,
}

/// What a look for databases found, and what it could not look at.
#[derive(Debug, Clone, Default)]
pub struct FoundHere {
    /// What datasets could capture.
    pub sources: Vec<FoundSource>,
    /// What may hold a database, and why nobody could tell, for people.
    pub unreached: Vec<String>,
}

impl FoundHere {
    /// Notes what could not be looked at, once.
    pub(crate) fn cannot_reach(&mut self, what: impl Display, why: impl Display) {
        let told = format!("{what}: {why}");
        if !self.unreached.contains(&told) {
            self.unreached.push(told);
        }
    }
}

/// A database that a dataset could capture.
#[derive(Debug, Clone)]
pub struct FoundSource {
    /// Its engine.
    pub kind: &'static str,
    /// What it is and where, for people.
    pub what: String,
    /// The file or the socket that it is read through; `None`: it is on another machine.
    pub place: Option<PathBuf>,
    /// What its dataset could be called. It need not be a legal name.
    pub name: String,
    /// Its `[dataset.source]` table, without `kind`.
    pub settings: toml::Table,
    /// The account that captures connect as; `None` if they need none.
    pub account: Option<NewAccount>,
}

/// An account with no more rights than a capture needs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewAccount {
    /// The statements that make it, or leave it as it is.
    pub statements: String,
    /// The command that runs them when they are on its standard input.
    pub by_hand: String,
}
