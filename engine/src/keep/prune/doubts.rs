//! What a prune doubts: which replicas are left alone, or why nothing is deleted anywhere.

use std::collections::BTreeMap;

use lifeboat_base::{Class, Error, Result};
use lifeboat_format::id::Name;

use crate::catalog::inventory::Inventory;
use crate::catalog::verdict::Signed;

/// What to do if a replica lists an object and does not return it.
pub(super) const NO_ANSWER: &str = "prune again when the replica answers";

/// Why replicas are left alone although they can be listed.
#[derive(Default)]
pub(super) struct Doubts {
    /// The first reason for each.
    pub(super) replicas: BTreeMap<Name, Error>,
    /// The first of what a trusted signer has signed, or may have, and this program cannot read: it
    /// counts for every replica, whoever shows it.
    pub(super) everywhere: Option<Error>,
}

impl Doubts {
    /// What was read of this host's memory. If it cannot be read, every replica is doubted.
    pub(super) fn unless_read<T: Default>(&mut self, read: Result<T>) -> T {
        read.unwrap_or_else(|error| {
            self.everywhere.get_or_insert(error);
            T::default()
        })
    }

    /// Doubts each of `holders`, or every replica if what they hold is, or may be, `signed`. The
    /// hint of `error` itself is better than `hint`.
    pub(super) fn add(&mut self, holders: &[&Inventory], signed: Signed, error: &Error, hint: &str) {
        let hint = if error.class() == Class::Storage { NO_ANSWER } else { hint };
        let doubt = || Error::new(error.class(), error.chain()).hint(error.hint_text().unwrap_or(hint));
        if signed >= Signed::Unknown {
            self.everywhere.get_or_insert_with(doubt);
        }
        for holder in holders {
            self.replicas.entry(holder.replica.name().clone()).or_insert_with(doubt);
        }
    }
}
