//! Removes several objects by one request (`DeleteObjects`).
//!
//! An answer of 200 says nothing by itself: it names what is gone and what is not. What it does not
//! name counts as there.

use std::collections::BTreeMap;

use aws_sdk_s3::types::{Delete, ObjectIdentifier};

use super::{S3Replica, errors};
use crate::key;
use crate::replica::{ReplicaError, ReplicaErrorKind};

impl S3Replica {
    /// Removes at most [`MAX_DELETED_AT_ONCE`](crate::replica::MAX_DELETED_AT_ONCE) objects.
    pub(super) async fn delete_many(&self, keys: &[String]) -> Result<(), ReplicaError> {
        let Some(first) = keys.first() else { return Ok(()) };
        let mut failed = first.clone();
        let work = async {
            let mut left = BTreeMap::new();
            for key in keys {
                key::check(key).inspect_err(|_| failed.clone_from(key))?;
                left.insert(key::below(&self.vault_prefix, key), key);
            }
            let identify = |full: &String| ObjectIdentifier::builder().key(full).build();
            let objects: Result<Vec<_>, _> = left.keys().map(identify).collect();
            let delete = objects.and_then(|objects| Delete::builder().set_objects(Some(objects)).build());
            let delete = delete.map_err(|error| ReplicaErrorKind::Other(error.to_string()))?;
            let answer = self.client.delete_objects().bucket(&self.bucket).delete(delete).send().await;
            let answer = answer.map_err(|error| errors::classify(&error))?;
            for error in answer.errors() {
                let (code, message) = (error.code().unwrap_or_default(), error.message().unwrap_or_default());
                if code == "NoSuchKey" {
                    left.remove(error.key().unwrap_or_default());
                    continue;
                }
                if let Some(key) = left.get(error.key().unwrap_or_default()) {
                    failed.clone_from(key);
                }
                return Err(errors::classify_code(code, message));
            }
            for gone in answer.deleted() {
                left.remove(gone.key().unwrap_or_default());
            }
            match left.into_values().next() {
                None => Ok(()),
                Some(key) => {
                    failed.clone_from(key);
                    Err(ReplicaErrorKind::Unavailable("the store does not say whether it is gone".to_owned()))
                }
            }
        };
        let outcome = self.request("delete", first, work).await;
        outcome.map_err(|error| ReplicaError { key: failed, ..error })
    }
}

/// Whether a store refused the request as such: it has no `DeleteObjects`, or wants it otherwise.
pub(super) fn is_not_offered(kind: &ReplicaErrorKind) -> bool {
    matches!(kind, ReplicaErrorKind::Misconfigured(_) | ReplicaErrorKind::Other(_) | ReplicaErrorKind::NotFound)
}
