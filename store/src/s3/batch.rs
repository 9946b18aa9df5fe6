//! Removes several objects by one request (`DeleteObjects`).
//!
//! An answer of 200 says nothing by itself: it names what is gone and what is not. What it does not
//! name counts as there. An error for one object is a failure of that one.

use std::collections::BTreeMap;

use aws_sdk_s3::types::{Delete, ObjectIdentifier};

use super::{S3Replica, errors};
use crate::key;
use crate::replica::{Removal, ReplicaError, ReplicaErrorKind};

impl S3Replica {
    /// Removes at most [`MAX_DELETED_AT_ONCE`](crate::replica::MAX_DELETED_AT_ONCE) objects.
    ///
    /// # Errors
    /// The request as such fails.
    pub(super) async fn delete_many(&self, keys: &[String]) -> Result<Removal, ReplicaError> {
        let failure = |key: &str, kind| ReplicaError {
            replica: self.name.clone(),
            operation: "delete",
            key: key.to_owned(),
            kind,
        };
        let (mut removal, mut asked) = (Removal::default(), BTreeMap::new());
        for key in keys {
            match key::check(key) {
                Ok(()) => drop(asked.insert(key::below(&self.vault_prefix, key), key)),
                Err(kind) => removal.failed.push(failure(key, kind)),
            }
        }
        let Some(first) = asked.values().next() else { return Ok(removal) };
        let work = async {
            let identify = |full: &String| ObjectIdentifier::builder().key(full).build();
            let objects: Result<Vec<_>, _> = asked.keys().map(identify).collect();
            let delete = objects.and_then(|objects| Delete::builder().set_objects(Some(objects)).build());
            let delete = delete.map_err(|error| ReplicaErrorKind::Other(error.to_string()))?;
            let answer = self.client.delete_objects().bucket(&self.bucket).delete(delete).send().await;
            answer.map_err(|error| errors::classify(&error))
        };
        let answer = self.request("delete", first, work).await?;
        let mut left = asked.clone();
        for gone in answer.deleted() {
            let was_there = left.remove(gone.key().unwrap_or_default()).is_some();
            removal.hidden += u64::from(was_there && gone.delete_marker() == Some(true));
        }
        for error in answer.errors() {
            let (code, message) = (error.code().unwrap_or_default(), error.message().unwrap_or_default());
            let full = error.key().unwrap_or_default();
            left.remove(full);
            // What it calls gone and failed is not certain to be gone.
            if code != "NoSuchKey"
                && let Some(key) = asked.get(full)
            {
                removal.failed.push(failure(key, errors::classify_code(code, message)));
            }
        }
        let unknown = "the store does not say whether it is gone";
        removal
            .failed
            .extend(left.into_values().map(|key| failure(key, ReplicaErrorKind::Unavailable(unknown.to_owned()))));
        Ok(removal)
    }
}

/// Whether a store refused the request as such: it has no `DeleteObjects`, or wants it otherwise.
pub(super) fn is_not_offered(kind: &ReplicaErrorKind) -> bool {
    matches!(kind, ReplicaErrorKind::Misconfigured(_) | ReplicaErrorKind::Other(_) | ReplicaErrorKind::NotFound)
}
