//! Opens replicas as the configuration describes them.

use std::sync::Arc;

use chrono::{DateTime, Utc};
use lifeboat_base::clock::SharedClock;
use lifeboat_base::{Error, Result};

use crate::breaker::Breaker;
use crate::directory::DirectoryReplica;
use crate::gate::Gate;
use crate::replica::SharedReplica;
use crate::retry::{Retry, RetryPolicy};
use crate::s3::S3Replica;
use crate::s3::past::PastS3Replica;
use crate::settings::{ReplicaConfig, ReplicaKind};

/// Opens one replica, with retries and gate. It connects when it is first used.
///
/// The gate is inside the retries: each attempt queues and is timed by itself, and a pause between
/// two attempts blocks nobody. The vault lies below `vault_prefix`, such as `a/b`, or an empty
/// string. `clock` decides which cap on the bandwidth holds, and is compared with the replica's
/// clock.
///
/// # Errors
/// [`Class::Configuration`](lifeboat_base::Class::Configuration) or
/// [`Class::Keys`](lifeboat_base::Class::Keys) when its CA file or credential file cannot be read.
pub async fn open(replica: &ReplicaConfig, vault_prefix: &str, clock: &SharedClock) -> Result<SharedReplica> {
    Ok(retried(replica, gated(replica, vault_prefix, clock).await?))
}

/// Opens one replica as it was at `moment`, as far as its bucket keeps old versions. Nothing can be
/// written to it.
///
/// # Errors
/// As [`open`]; [`Class::Usage`](lifeboat_base::Class::Usage) for a directory, which keeps none. A
/// bucket that keeps none refuses each operation.
pub async fn open_as_of(
    replica: &ReplicaConfig,
    vault_prefix: &str,
    clock: &SharedClock,
    moment: DateTime<Utc>,
) -> Result<SharedReplica> {
    let ReplicaKind::S3(s3) = &replica.kind else {
        return Err(Error::usage(format!("replica {}: a directory keeps no old versions of its files", replica.name))
            .hint("name a replica in a bucket that keeps versions"));
    };
    let bucket = S3Replica::open(replica, s3, vault_prefix, clock.clone()).await?;
    Ok(retried(replica, Arc::new(Gate::new(Arc::new(PastS3Replica::new(bucket, moment))))))
}

fn retried(replica: &ReplicaConfig, gated: SharedReplica) -> SharedReplica {
    Arc::new(Retry::new(gated, RetryPolicy::within(replica.timeout)))
}

async fn gated(replica: &ReplicaConfig, vault_prefix: &str, clock: &SharedClock) -> Result<SharedReplica> {
    let bare: SharedReplica = match &replica.kind {
        ReplicaKind::S3(s3) => Arc::new(S3Replica::open(replica, s3, vault_prefix, clock.clone()).await?),
        ReplicaKind::Directory { path } => Arc::new(DirectoryReplica::new(replica, path, vault_prefix, clock.clone())),
    };
    Ok(Arc::new(Gate::new(bare)))
}

/// Opens all of `replicas`, for a program that works with them for long: one that does not answer
/// is left alone until a probe shows that it does.
///
/// # Errors
/// As [`open`], for the first that cannot be opened.
pub async fn open_all(
    replicas: &[ReplicaConfig],
    vault_prefix: &str,
    clock: &SharedClock,
) -> Result<Vec<SharedReplica>> {
    let mut opened = Vec::with_capacity(replicas.len());
    for replica in replicas {
        let gated = gated(replica, vault_prefix, clock).await?;
        let retried = retried(replica, gated.clone());
        opened.push(Arc::new(Breaker::new(retried, gated, replica.timeout, clock.clone())) as SharedReplica);
    }
    Ok(opened)
}
