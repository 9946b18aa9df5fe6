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
    /// The time by the store's clock, as far as it is known.
    pub(super) fn store_now(&self) -> DateTime<Utc> {
        let ours = self.clock.now();
        let offset = self.store_clock.offset(TimeDelta::MAX).unwrap_or_default();
        ours.checked_add_signed(offset).unwrap_or(ours)
    }

    /// The lock that an object gets at its upload.
    pub(super) fn lock_of(&self, key: &str) -> Option<(ObjectLockMode, SdkDateTime)> {
        let lock = self.lock?;
        let period = TimeDelta::from_std(lock.period).ok()?;
        // A short lock must not have ended by the store's clock before it begins.
        let (from, period) = if key.starts_with("probe/") {
            (self.store_now(), period.min(PROBE_LOCK))
        } else {
            (self.clock.now(), period)
        };
        let mode = match lock.mode {
            LockMode::Governance => ObjectLockMode::Governance,
            LockMode::Compliance => ObjectLockMode::Compliance,
        };
        Some((mode, to_sdk(from.checked_add_signed(period)?)))
    }

    /// Until when an object is locked, and how.
    pub(super) async fn lock_there(&self, key: &str) -> Result<Option<(DateTime<Utc>, LockMode)>, ReplicaError> {
        self.with_key("look up", key, async |full| {
            let found = self.client.head_object().bucket(&self.bucket).key(full).send().await;
            match found.map_err(|error| errors::classify(&error)) {
                Ok(found) => Ok(found.object_lock_retain_until_date.and_then(to_chrono).map(|end| {
                    let is_compliance = found.object_lock_mode == Some(ObjectLockMode::Compliance);
                    (end, if is_compliance { LockMode::Compliance } else { LockMode::Governance })
                })),
                Err(ReplicaErrorKind::NotFound) => Ok(None),
                Err(kind) => Err(kind),
            }
        })
        .await
    }

    /// A store refuses a shorter lock than there is: then nothing is to be done. It refuses a
    /// weaker mode, too: then the object keeps its own.
    pub(super) async fn extend_lock(&self, key: &str, until: DateTime<Utc>) -> Result<(), ReplicaError> {
        let Some(lock) = self.lock else { return Ok(()) };
        let refused = match self.put_retention(key, lock.mode, until).await {
            Err(error) if !error.is_retryable() && !error.is_not_found() => error,
            other => return other,
        };
        match self.lock_there(key).await? {
            Some((end, LockMode::Governance)) if lock.mode == LockMode::Compliance && end >= until => {
                self.put_retention(key, LockMode::Compliance, end).await
            }
            Some((end, _)) if end >= until => Ok(()),
            Some((_, LockMode::Compliance)) if lock.mode == LockMode::Governance => {
                self.put_retention(key, LockMode::Compliance, until).await
            }
            _ => Err(refused),
        }
    }

    async fn put_retention(&self, key: &str, mode: LockMode, until: DateTime<Utc>) -> Result<(), ReplicaError> {
        let mode = match mode {
            LockMode::Governance => ObjectLockRetentionMode::Governance,
            LockMode::Compliance => ObjectLockRetentionMode::Compliance,
        };
        let retention = ObjectLockRetention::builder().mode(mode).retain_until_date(to_sdk(until)).build();
        self.with_key("lock", key, async |full| {
            let extend = self.client.put_object_retention().bucket(&self.bucket).key(full);
            let extend = extend.checksum_algorithm(ChecksumAlgorithm::Crc64Nvme).retention(retention);
            extend.send().await.map(drop).map_err(|error| errors::classify(&error))
        })
        .await
    }
}

fn to_sdk(time: DateTime<Utc>) -> SdkDateTime {
    SdkDateTime::from_secs(time.timestamp())
}
