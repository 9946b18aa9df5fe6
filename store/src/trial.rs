//! Tries out with a throw-away object what a replica really does with writes.

use bytes::Bytes;

use crate::replica::{Replica, ReplicaError, ReplicaErrorKind};

/// More than what a trial writes.
const MAX_TRIAL_BYTES: u64 = 4096;

/// What the trial showed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Trial {
    pub(super) can_write: bool,
    /// `None` if nothing could be written.
    pub(super) conditional_writes: Option<bool>,
    /// `None` if there was nothing to delete.
    pub(super) can_delete: Option<bool>,
}

/// A key for a trial, never used twice.
pub(super) fn fresh_key() -> String {
    format!("probe/{:032x}", rand::random::<u128>())
}

/// Writes `key`, tries to create it again, and deletes it, whatever happened between.
pub(super) async fn run(replica: &dyn Replica, key: &str) -> Result<Trial, ReplicaError> {
    Ok(run_with(replica, key, async { Ok(()) }).await?.0)
}

/// As [`run`], with something else to try before it is deleted. What that found is `None` if
/// nothing could be written.
pub(super) async fn run_with<T: Send>(
    replica: &dyn Replica,
    key: &str,
    meanwhile: impl Future<Output = Result<T, ReplicaError>> + Send,
) -> Result<(Trial, Option<T>), ReplicaError> {
    let first = Bytes::from_static(b"Lifeboat tries out this replica; this object can be deleted.\n");
    match replica.put_replace(key, first.clone()).await {
        Ok(()) => {}
        Err(ReplicaError { kind: ReplicaErrorKind::Denied(_), .. }) => {
            return Ok((Trial { can_write: false, conditional_writes: None, can_delete: None }, None));
        }
        Err(error) => return Err(error),
    }
    let refused = existing_key_is_refused(replica, key, &first).await;
    let found = meanwhile.await;
    let can_delete = match replica.delete(key).await {
        Ok(()) => true,
        Err(ReplicaError { kind: ReplicaErrorKind::Denied(_), .. }) => false,
        Err(error) => return Err(error),
    };
    let trial = Trial { can_write: true, conditional_writes: Some(refused?), can_delete: Some(can_delete) };
    Ok((trial, Some(found?)))
}

async fn existing_key_is_refused(replica: &dyn Replica, key: &str, first: &Bytes) -> Result<bool, ReplicaError> {
    match replica.put_new(key, Bytes::from_static(b"overwritten\n")).await {
        Err(ReplicaError { kind: ReplicaErrorKind::AlreadyExists, .. }) => {
            match replica.get(key, MAX_TRIAL_BYTES).await {
                Ok(found) => Ok(found == *first),
                // The credentials may only write: the refusal itself has to suffice.
                Err(ReplicaError { kind: ReplicaErrorKind::Denied(_), .. }) => Ok(true),
                Err(error) => Err(error),
            }
        }
        Ok(()) => Ok(false),
        Err(error) if error.is_retryable() => Err(error),
        // The store does not know the condition.
        Err(_) => Ok(false),
    }
}
