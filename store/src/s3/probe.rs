//! Finds out what an S3 replica can do, by asking and by trying.

use aws_sdk_s3::error::ProvideErrorMetadata;
use aws_sdk_s3::types::{
    BucketVersioningStatus, ExpirationStatus, LifecycleRule, ObjectLockEnabled, VersioningConfiguration,
};
use chrono::TimeDelta;

use super::{S3Replica, batch, errors};
use crate::guards::{Guards, Lifecycle};
use crate::replica::{Probe, Replica, ReplicaError, ReplicaErrorKind};
use crate::{key, trial};

/// More than what an object below `probe/` is locked for at its upload.
const LOCK_TRIED: TimeDelta = TimeDelta::seconds(120);

pub(super) async fn run(replica: &S3Replica, write: bool) -> Result<Probe, ReplicaError> {
    let clock_skew_seconds = replica.request("probe", "", read(replica)).await?;
    let mut guards = Guards::default();
    let versioning = replica.request("probe", "", versioning(replica, &mut guards)).await?;
    let (object_lock, default_lock_days) = replica.request("probe", "", object_lock(replica)).await?;
    guards.lifecycle = replica.request("probe", "", lifecycle(replica)).await?;
    guards.default_lock_days = default_lock_days;
    let trial = if write {
        let key = trial::fresh_key();
        let locks = replica.lock.is_some() && object_lock == Some(true);
        let lock = async { if locks { set_lock(replica, &key).await.map(Some) } else { Ok(None) } };
        let (trial, sets_locks) = trial::run_with(replica, &key, lock).await?;
        guards.sets_locks = sets_locks.flatten();
        if trial.can_write && versioning != Some(false) {
            let may_be_locked = object_lock != Some(false) && (locks || default_lock_days.is_some());
            let lock = match guards.sets_locks {
                Some(true) => TrialLock::Set,
                _ if may_be_locked => TrialLock::Perhaps,
                _ => TrialLock::No,
            };
            let removed = remove_versions(replica, &key, lock, &mut guards);
            let removed = replica.request("probe", &key, removed).await?;
            guards.removes_versions = removed.may;
            if removed.is_seen_again && trial.can_delete == Some(true) {
                replica.delete(&key).await?;
            }
        }
        if versioning == Some(true) {
            guards.changes_versioning = replica.request("probe", "", keep_versions(replica, &mut guards)).await?;
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
        guards,
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

async fn versioning(replica: &S3Replica, guards: &mut Guards) -> Result<Option<bool>, ReplicaErrorKind> {
    match replica.client.get_bucket_versioning().bucket(&replica.bucket).send().await {
        Ok(answer) => Ok(Some(answer.status == Some(BucketVersioningStatus::Enabled))),
        Err(error) => unsaid(errors::classify(&error), guards),
    }
}

/// Whether Object Lock is on, and for how many days it locks by itself.
async fn object_lock(replica: &S3Replica) -> Result<(Option<bool>, Option<u32>), ReplicaErrorKind> {
    match replica.client.get_object_lock_configuration().bucket(&replica.bucket).send().await {
        Ok(answer) => {
            let lock = answer.object_lock_configuration;
            let rule = lock.as_ref().and_then(|lock| lock.rule.as_ref()?.default_retention.as_ref());
            let days = rule.and_then(|rule| rule.days.or(rule.years.map(|years| years.saturating_mul(365))));
            let enabled = lock.as_ref().and_then(|lock| lock.object_lock_enabled.clone());
            let days = days.and_then(|days| u32::try_from(days).ok());
            Ok((Some(enabled == Some(ObjectLockEnabled::Enabled)), days))
        }
        Err(error) if error.code() == Some("ObjectLockConfigurationNotFoundError") => Ok((Some(false), None)),
        Err(error) => unknown(errors::classify(&error)).map(|found| (found, None)),
    }
}

/// What lifecycle rules do below the vault's prefix.
async fn lifecycle(replica: &S3Replica) -> Result<Option<Lifecycle>, ReplicaErrorKind> {
    let asked = replica.client.get_bucket_lifecycle_configuration().bucket(&replica.bucket).send().await;
    let rules = match asked {
        Ok(answer) => answer.rules.unwrap_or_default(),
        Err(error) if error.code() == Some("NoSuchLifecycleConfiguration") => Vec::new(),
        Err(error) => return unknown(errors::classify(&error)).map(|_| None),
    };
    let (root, mut found) = (key::below(&replica.vault_prefix, ""), Lifecycle::default());
    for rule in rules.iter().filter(|rule| rule.status == ExpirationStatus::Enabled) {
        let (prefix, is_narrow) = scope(rule);
        let expires = rule.expiration.as_ref();
        let touches = root.starts_with(prefix) || prefix.starts_with(&root);
        found.ends_objects |=
            touches && expires.is_some_and(|end| end.date.is_some() || end.days.is_some_and(|days| days > 0));
        let days = rule.noncurrent_version_expiration.as_ref().and_then(|end| end.noncurrent_days);
        if let Some(days) = days.and_then(|days| u32::try_from(days).ok()).filter(|_| touches) {
            let ends_all = root.starts_with(prefix) && !is_narrow;
            // The shortest one decides how long there is to notice, wherever it is.
            found.old_versions_days = match found.old_versions_days {
                None if !ends_all => None,
                before => Some(before.map_or(days, |before| before.min(days))),
            };
        }
    }
    Ok(Some(found))
}

/// The prefix of a rule, and whether it holds for some of the objects below it only.
#[allow(deprecated, reason = "older rules have their prefix there, and stores return it so")]
fn scope(rule: &LifecycleRule) -> (&str, bool) {
    let Some(filter) = &rule.filter else { return (rule.prefix.as_deref().unwrap_or_default(), false) };
    let is_narrow = filter.tag.is_some()
        || filter.object_size_greater_than.is_some()
        || filter.object_size_less_than.is_some()
        || filter.and.is_some();
    let and = filter.and.as_ref().and_then(|and| and.prefix.as_deref());
    (filter.prefix.as_deref().or(and).unwrap_or_default(), is_narrow)
}

/// Asks to keep versions, as the bucket does already: so nothing changes. Tells whether these
/// credentials may.
async fn keep_versions(replica: &S3Replica, guards: &mut Guards) -> Result<Option<bool>, ReplicaErrorKind> {
    let kept = VersioningConfiguration::builder().status(BucketVersioningStatus::Enabled).build();
    let ask = replica.client.put_bucket_versioning().bucket(&replica.bucket).versioning_configuration(kept);
    match ask.send().await.map_err(|error| errors::classify(&error)) {
        Ok(_) => Ok(Some(true)),
        Err(ReplicaErrorKind::Denied(_)) => Ok(Some(false)),
        Err(kind) => unsaid(kind, guards),
    }
}

/// Locks the trial object for a little longer, and reads that back.
async fn set_lock(replica: &S3Replica, key: &str) -> Result<bool, ReplicaError> {
    let until = replica.store_now() + LOCK_TRIED;
    match replica.extend_lock(key, until).await {
        // A store may keep whole seconds.
        Ok(()) => {
            let lock = replica.lock_there(key).await?;
            Ok(lock.is_some_and(|(end, _)| end > until - TimeDelta::seconds(2)))
        }
        Err(error) if error.is_retryable() => Err(error),
        Err(_) => Ok(false),
    }
}

/// As [`unknown`]. Notes a store that does not offer the request.
fn unsaid(kind: ReplicaErrorKind, guards: &mut Guards) -> Result<Option<bool>, ReplicaErrorKind> {
    guards.cannot_say |= batch::is_not_offered(&kind);
    unknown(kind)
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

/// Whether the versions of the trial object are locked.
#[derive(Clone, Copy, PartialEq, Eq)]
enum TrialLock {
    No,
    Perhaps,
    /// The store has told so.
    Set,
}

/// What became of the versions of the trial object.
struct RemovedVersions {
    /// Whether these credentials may remove versions.
    may: Option<bool>,
    /// Whether its delete marker was removed, and a version stays.
    is_seen_again: bool,
}

/// Deleting has hidden the trial object, where that was permitted. This removes its versions too,
/// as far as that is permitted, and tells whether it was. A version may be locked, so that its
/// refusal shows nothing. Its delete marker is not.
async fn remove_versions(
    replica: &S3Replica,
    key: &str,
    lock: TrialLock,
    guards: &mut Guards,
) -> Result<RemovedVersions, ReplicaErrorKind> {
    let full = key::below(&replica.vault_prefix, key);
    let listed = replica.client.list_object_versions().bucket(&replica.bucket).prefix(&full).send().await;
    let listed = match listed.map_err(|error| errors::classify(&error)) {
        Ok(listed) => listed,
        Err(kind) => return Ok(RemovedVersions { may: unsaid(kind, guards)?, is_seen_again: false }),
    };
    let versions = listed.versions.unwrap_or_default().into_iter().map(|version| (version.version_id, true));
    let markers = listed.delete_markers.unwrap_or_default().into_iter().map(|marker| (marker.version_id, false));
    let (mut may, mut stays, mut uncovered) = (None, false, false);
    for (version, is_content) in versions.chain(markers) {
        let Some(version) = version else { continue };
        let delete = replica.client.delete_object().bucket(&replica.bucket).key(&full).version_id(version);
        match delete.send().await.map_err(|error| errors::classify(&error)) {
            Ok(_) => {
                may = Some(true);
                uncovered |= !is_content;
                guards.removes_locked |= is_content && lock == TrialLock::Set;
                continue;
            }
            Err(ReplicaErrorKind::Denied(_)) if is_content && lock != TrialLock::No => {}
            Err(ReplicaErrorKind::Denied(_)) => may = may.or(Some(false)),
            Err(kind) => drop(unsaid(kind, guards)?),
        }
        stays |= is_content;
    }
    Ok(RemovedVersions { may, is_seen_again: uncovered && stays })
}
