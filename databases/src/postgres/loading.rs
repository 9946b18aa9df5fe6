//! What is known of a load before it begins, and what came of it.

use std::sync::Mutex;

use super::extract::Chosen;
use super::loader::LoadsAs;
use super::owners::KnownRoles;
use crate::streams::StoredStreams;
use crate::wanted::LoadFailure;

/// Which database of which snapshot is loaded, and how.
pub(crate) struct Loading<'a> {
    pub(crate) streams: &'a dyn StoredStreams,
    pub(crate) database: &'a str,
    pub(crate) roles: &'a Mutex<KnownRoles>,
    /// Whether to go on after errors.
    pub(crate) keep_going: bool,
    pub(crate) loads_as: LoadsAs<'a>,
    /// What of the database is wanted.
    pub(crate) chosen: &'a Chosen<'a>,
}

/// What came of loading a database.
pub(crate) struct Loaded {
    pub(crate) warnings: Vec<String>,
    pub(crate) failures: Vec<LoadFailure>,
}
