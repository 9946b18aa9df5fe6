//! Finds out what an S3 replica can do, by asking and by trying.

use aws_sdk_s3::error::ProvideErrorMetadata;
use aws_sdk_s3::types::{BucketVersioningStatus, ObjectLockEnabled};
use chrono::TimeDelta;

use super::{S3Replica, errors};
use crate::replica::{Probe, Replica, ReplicaError, ReplicaErrorKind};
use crate::{key, trial};

pub(super) async fn run(replica: &S3Replica, write: bool) -> Result<Probe, ReplicaError> {
    let clock_skew_seconds = replica.request("probe", "", read(replica)).await?;
    let versioning = replica.request("probe", "", versioning(replica)).await?;
    let object_lock = replica.request("probe", "", object_lock(replica)).await?;
    let trial = if write {
        let key = trial::fresh_key();
        let trial = trial::run(replica, &key).await?;
        if trial.can_delete == Some(true) && versioning != Some(false) {
            replica.request("probe", &key, remove_versions(replica, &key)).await?;
        }
        Some(trial)
    } else {
        None
    };
    Ok(Probe {
        conditional_writes: trial.and_then(|trial| trial.conditional_writes),
        versioning,
        object_lock,
        can_write: trial.map(|trial| trial.can_write),
        can_delete: trial.and_then(|trial| trial.can_delete),
        clock_skew_seconds,
    })
}

/// Reads a listing, and compares the store's clock with ours.
async fn read(replica: &S3Replica) -> Result<Option<i64>, ReplicaErrorKind> {
    replica
        .client
        .list_objects_v2()
        .bucket(&replica.bucket)
        .prefix(key::below(&replica.vault_prefix, ""))
        .max_keys(1)
        .send()
        .await
        .map_err(|error| errors::classify(&error))?;
    Ok(replica.clock_offset(TimeDelta::MAX).map(|offset| TimeDelta::num_seconds(&offset)))
}

async fn versioning(replica: &S3Replica) -> Result<Option<bool>, ReplicaErrorKind> {
    match replica.client.get_bucket_versioning().bucket(&replica.bucket).send().await {
        Ok(answer) => Ok(Some(answer.status == Some(BucketVersioningStatus::Enabled))),
        Err(error) => unknown(errors::classify(&error)),
    }
}

async fn object_lock(replica: &S3Replica) -> Result<Option<bool>, ReplicaErrorKind> {
    match replica.client.get_object_lock_configuration().bucket(&replica.bucket).send().await {
        Ok(answer) => {
            let enabled = answer.object_lock_configuration.and_then(|lock| lock.object_lock_enabled);
            Ok(Some(enabled == Some(ObjectLockEnabled::Enabled)))
        }
        Err(error) if error.code() == Some("ObjectLockConfigurationNotFoundError") => Ok(Some(false)),
        Err(error) => unknown(errors::classify(&error)),
    }
}

/// `None` if the store refuses to say; an error if it cannot be asked.
fn unknown(kind: ReplicaErrorKind) -> Result<Option<bool>, ReplicaErrorKind> {
    match kind {
        ReplicaErrorKind::Unavailable(_) | ReplicaErrorKind::Throttled { .. } | ReplicaErrorKind::TimedOut(_) => {
            Err(kind)
        }
        _ => Ok(None),
    }
}

/// Deleting has hidden the trial object. This removes its versions too, as far as that is
/// permitted.
async fn remove_versions(replica: &S3Replica, key: &str) -> Result<(), ReplicaErrorKind> {
    let full = key::below(&replica.vault_prefix, key);
    let listed = replica.client.list_object_versions().bucket(&replica.bucket).prefix(&full).send().await;
    let listed = match listed.map_err(|error| errors::classify(&error)) {
        Ok(listed) => listed,
        Err(kind) => return unknown(kind).map(drop),
    };
    let versions = listed.versions.unwrap_or_default().into_iter().map(|version| version.version_id);
    let markers = listed.delete_markers.unwrap_or_default().into_iter().map(|marker| marker.version_id);
    for version in versions.chain(markers).flatten() {
        let delete = replica.client.delete_object().bucket(&replica.bucket).key(&full).version_id(version);
        if let Err(error) = delete.send().await {
            unknown(errors::classify(&error))?;
        }
    }
    Ok(())
}
