//! Object Lock: for how long an object is locked at its upload, until when it is, and longer locks.

use aws_sdk_s3::primitives::DateTime as SdkDateTime;
use aws_sdk_s3::types::{ChecksumAlgorithm, ObjectLockMode, ObjectLockRetention, ObjectLockRetentionMode};
use chrono::{DateTime, TimeDelta, Utc};

use super::{S3Replica, errors, to_chrono};
use crate::guards::LockMode;
use crate::replica::{ReplicaError, ReplicaErrorKind};

/// What `probe` writes is locked for so long.
const PROBE_LOCK: TimeDelta = TimeDelta::seconds(60);

impl S3Replica {
    /// The lock that an object gets at its upload.
    pub(super) fn lock_of(&self, key: &str) -> Option<(ObjectLockMode, SdkDateTime)> {
        let lock = self.lock?;
        let period = TimeDelta::from_std(lock.period).ok()?;
        let period = if key.starts_with("probe/") { period.min(PROBE_LOCK) } else { period };
        let mode = match lock.mode {
            LockMode::Governance => ObjectLockMode::Governance,
            LockMode::Compliance => ObjectLockMode::Compliance,
        };
        Some((mode, to_sdk(self.clock.now().checked_add_signed(period)?)))
    }

    pub(super) async fn end_of_lock(&self, key: &str) -> Result<Option<DateTime<Utc>>, ReplicaError> {
        self.with_key("look up", key, async |full| {
            let found = self.client.head_object().bucket(&self.bucket).key(full).send().await;
            match found.map_err(|error| errors::classify(&error)) {
                Ok(found) => Ok(found.object_lock_retain_until_date.and_then(to_chrono)),
                Err(ReplicaErrorKind::NotFound) => Ok(None),
                Err(kind) => Err(kind),
            }
        })
        .await
    }

    /// A store refuses a shorter lock than there is: then nothing is to be done.
    pub(super) async fn extend_lock(&self, key: &str, until: DateTime<Utc>) -> Result<(), ReplicaError> {
        let Some(lock) = self.lock else { return Ok(()) };
        let mode = match lock.mode {
            LockMode::Governance => ObjectLockRetentionMode::Governance,
            LockMode::Compliance => ObjectLockRetentionMode::Compliance,
        };
        let retention = ObjectLockRetention::builder().mode(mode).retain_until_date(to_sdk(until)).build();
        let extended = self
            .with_key("lock", key, async |full| {
                let extend = self.client.put_object_retention().bucket(&self.bucket).key(full);
                let extend = extend.checksum_algorithm(ChecksumAlgorithm::Crc64Nvme).retention(retention);
                extend.send().await.map(drop).map_err(|error| errors::classify(&error))
            })
            .await;
        match extended {
            Err(error) if matches!(error.kind, ReplicaErrorKind::Denied(_)) => {
                if self.end_of_lock(key).await?.is_some_and(|end| end >= until) { Ok(()) } else { Err(error) }
            }
            other => other,
        }
    }
}

fn to_sdk(time: DateTime<Utc>) -> SdkDateTime {
    SdkDateTime::from_secs(time.timestamp())
}
