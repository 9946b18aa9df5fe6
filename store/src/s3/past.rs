//! A bucket as it was at a moment, as far as it keeps old versions: what has been deleted since is
//! there, and what has been overwritten has its bytes of then. It is read only.
//!
//! - **What counts**: of the versions and delete markers of a key, the newest that the store dates
//!   at or before the moment. The key is there if that one is a version.
//! - **The store's word**: the times are the store's own, in whole seconds on most. Whoever may
//!   remove single versions can take away what was there then. He can add to it by rewinding the
//!   store's clock; and by an upload in parts that he began before, where a store dates it by its
//!   beginning, as AWS does. What is read is checked all the same.
//! - **Cost**: each object takes one more request, which finds its version.
//! - **Bounds**: a listing has the budget of every listing. A key with more pages of versions than
//!   `MAX_PAGES_OF_A_KEY` after the moment is refused.

use std::collections::HashSet;

use async_trait::async_trait;
use aws_sdk_s3::types::BucketVersioningStatus;
use bytes::Bytes;
use chrono::{DateTime, TimeDelta, Utc};
use lifeboat_format::id::Name;
use tokio::sync::OnceCell;

use super::versions::Mark;
use super::{S3Replica, errors};
use crate::key;
use crate::replica::{ObjectMeta, Page, Probe, Replica, ReplicaError, ReplicaErrorKind};
use crate::versions::{KeptVersion, VersionKind};

/// A thousand versions each. Whoever writes more of one key hides it from `--as-of`.
const MAX_PAGES_OF_A_KEY: usize = 1000;

/// A [`Replica`] that shows what was in a bucket at a moment.
#[derive(Debug)]
pub(crate) struct PastS3Replica {
    bucket: S3Replica,
    moment: DateTime<Utc>,
    /// Filled when the bucket has been asked whether it keeps versions.
    keeps_versions: OnceCell<()>,
}

/// What was found of a key at the moment.
enum Then {
    There { meta: ObjectMeta, id: String },
    Gone,
}

impl PastS3Replica {
    pub(crate) fn new(bucket: S3Replica, moment: DateTime<Utc>) -> Self {
        Self { bucket, moment, keeps_versions: OnceCell::new() }
    }

    /// A bucket without versions would pass for one in which nothing was ever deleted.
    async fn check_versions(&self) -> Result<(), ReplicaErrorKind> {
        let ask = async {
            let asked = self.bucket.client.get_bucket_versioning().bucket(&self.bucket.bucket).send().await;
            let status = match asked.map_err(|error| errors::classify(&error)) {
                Ok(answer) => answer.status,
                // Credentials that may read versions need not be allowed to ask this.
                Err(ReplicaErrorKind::Denied(why)) => {
                    tracing::warn!(
                        replica = %self.bucket.name,
                        "It is not known whether the bucket keeps old versions, as these credentials may not ask: {why}. If it keeps none, only what is left is shown"
                    );
                    return Ok(());
                }
                Err(kind) => return Err(kind),
            };
            match status {
                Some(BucketVersioningStatus::Enabled | BucketVersioningStatus::Suspended) => Ok(()),
                _ => Err(ReplicaErrorKind::Misconfigured(
                    "the bucket keeps no old versions, so nothing shows how it was then".to_owned(),
                )),
            }
        };
        self.keeps_versions.get_or_try_init(|| ask).await.copied()
    }

    async fn page(&self, prefix: &str, next: Option<&str>) -> Result<Page, ReplicaErrorKind> {
        self.check_versions().await?;
        let from = next.map(Mark::parse).transpose()?.unwrap_or_default();
        let (versions, next) = self.bucket.versions(prefix, &from).await?;
        let mut decided = HashSet::new();
        if from.is_decided {
            decided.insert(from.key);
        }
        let mut objects = Vec::new();
        for version in versions {
            if version.modified > self.moment || !decided.insert(version.key.clone()) {
                continue;
            }
            if let Then::There { meta, .. } = then(version)
                && key::check(&meta.key).is_ok()
            {
                objects.push(meta);
            }
        }
        let next = next.map(|mark| Mark { is_decided: decided.contains(&mark.key), ..mark }.to_token()).transpose()?;
        Ok(Page { objects, next })
    }

    /// What `key` was. Each page of its versions has a deadline of its own.
    async fn find(&self, operation: &'static str, key: &str) -> Result<Then, ReplicaError> {
        let mut from = Mark::default();
        for _ in 0..MAX_PAGES_OF_A_KEY {
            let page = async {
                key::check(key)?;
                self.check_versions().await?;
                self.bucket.versions(key, &from).await
            };
            let (versions, next) = self.bucket.request(operation, key, page).await?;
            // Keys that only begin like this one come after it.
            let beyond = versions.iter().any(|version| version.key != key);
            let newest = versions.into_iter().find(|version| version.key == key && version.modified <= self.moment);
            match (newest, next) {
                (Some(version), _) => return Ok(then(version)),
                (None, Some(next)) if !beyond => from = next,
                (None, _) => return Ok(Then::Gone),
            }
        }
        let why = format!("it has more than {} versions since then", MAX_PAGES_OF_A_KEY * 1000);
        Err(self.error(operation, key, ReplicaErrorKind::BadListing(why)))
    }

    fn error(&self, operation: &'static str, key: &str, kind: ReplicaErrorKind) -> ReplicaError {
        ReplicaError { replica: self.bucket.name.clone(), operation, key: key.to_owned(), kind }
    }

    fn refuse(&self, operation: &'static str, key: &str) -> ReplicaError {
        let why = format!("the vault is read as of {}: nothing is written", self.moment);
        self.error(operation, key, ReplicaErrorKind::Other(why))
    }
}

/// What this version says of its key, at the moment at which it was the newest.
fn then(version: KeptVersion) -> Then {
    let KeptVersion { key, id, kind, modified, .. } = version;
    match kind {
        VersionKind::Content { size, .. } => Then::There { meta: ObjectMeta { key, size, modified }, id },
        VersionKind::DeleteMarker => Then::Gone,
    }
}

#[async_trait]
impl Replica for PastS3Replica {
    fn name(&self) -> &Name {
        self.bucket.name()
    }

    fn region(&self) -> &str {
        self.bucket.region()
    }

    fn clock_offset(&self, tolerance: TimeDelta) -> Option<TimeDelta> {
        self.bucket.clock_offset(tolerance)
    }

    async fn put_new(&self, key: &str, _: Bytes) -> Result<(), ReplicaError> {
        Err(self.refuse("put", key))
    }

    async fn put_replace(&self, key: &str, _: Bytes) -> Result<(), ReplicaError> {
        Err(self.refuse("put", key))
    }

    async fn get(&self, key: &str, limit: u64) -> Result<Bytes, ReplicaError> {
        match self.find("get", key).await? {
            Then::There { id, .. } => {
                self.bucket.with_key("get", key, |full| self.bucket.fetch(full, Some(id), limit)).await
            }
            Then::Gone => Err(self.error("get", key, ReplicaErrorKind::NotFound)),
        }
    }

    async fn head(&self, key: &str) -> Result<Option<ObjectMeta>, ReplicaError> {
        match self.find("look up", key).await? {
            Then::There { meta, .. } => Ok(Some(meta)),
            Then::Gone => Ok(None),
        }
    }

    async fn list_page(&self, prefix: &str, next: Option<&str>) -> Result<Page, ReplicaError> {
        self.bucket.request("list", prefix, self.page(prefix, next)).await
    }

    async fn delete(&self, key: &str) -> Result<(), ReplicaError> {
        Err(self.refuse("delete", key))
    }

    async fn probe(&self, _: bool) -> Result<Probe, ReplicaError> {
        self.bucket.probe(false).await
    }
}
