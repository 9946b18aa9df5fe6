//! What of a snapshot can be loaded and proved without the rest.

use std::collections::BTreeMap;

/// The parts of a snapshot that can be loaded and proved by themselves.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PartsToProve {
    /// Streams that every part needs.
    pub shared: Vec<String>,
    /// The other streams, by the name of the database that they hold.
    pub databases: BTreeMap<String, Vec<String>>,
}

impl PartsToProve {
    /// Each database of a server is a part, as `database_of` tells it of a stream.
    pub(crate) fn of_databases(streams: &[String], database_of: impl Fn(&str) -> Option<String>) -> Self {
        let mut parts = Self::default();
        for stream in streams {
            match database_of(stream) {
                Some(database) => parts.databases.entry(database).or_default().push(stream.clone()),
                None => parts.shared.push(stream.clone()),
            }
        }
        parts
    }
}
