//! A bucket as it was at a moment, as far as it keeps old versions: what has been deleted since is
//! there, and what has been overwritten has its bytes of then. It is read only.
//!
//! - **What counts**: of the versions and delete markers of a key, the newest that the store dates
//!   at or before the moment. The key is there if that one is a version.
//! - **The store's word**: the times are the store's own, in whole seconds on most. Whoever may
//!   remove single versions can take away what was there then; he cannot add to it, but by
//!   rewinding the store's clock.
//! - **Cost**: each object takes one more request, which finds its version.
//! - **Bounds**: a listing has the budget of every listing. A key with more pages of versions than
//!   `MAX_PAGES_OF_A_KEY` after the moment is refused.

use std::collections::HashSet;

use async_trait::async_trait;
use aws_sdk_s3::operation::list_object_versions::ListObjectVersionsOutput;
use aws_sdk_s3::types::BucketVersioningStatus;
use bytes::Bytes;
use chrono::{DateTime, TimeDelta, Utc};
use lifeboat_format::id::Name;
use tokio::sync::OnceCell;

use super::{MAX_TOKEN_BYTES, S3Replica, describe, errors, to_chrono};
use crate::key;
use crate::replica::{ObjectMeta, Page, Probe, Replica, ReplicaError, ReplicaErrorKind};

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

/// One version of a key, or one of its delete markers.
struct Version {
    key: String,
    /// `None`: a delete marker.
    id: Option<String>,
    size: Option<i64>,
    modified: DateTime<Utc>,
    is_latest: bool,
}

/// What was found of a key at the moment.
enum Then {
    There { meta: ObjectMeta, id: String },
    Gone,
}

/// Where a listing goes on.
#[derive(Debug, Default, PartialEq, Eq)]
struct Mark {
    key: String,
    version: String,
    /// Whether the pages before have decided about `key`: what comes of it next is older.
    is_decided: bool,
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

    /// One page of versions and where the next one begins. `prefix` includes the vault's own.
    async fn versions(&self, prefix: &str, from: &Mark) -> Result<(Vec<Version>, Option<Mark>), ReplicaErrorKind> {
        let marker = |text: &String| Some(text.clone()).filter(|text| !text.is_empty());
        let page = self
            .bucket
            .client
            .list_object_versions()
            .bucket(&self.bucket.bucket)
            .prefix(prefix)
            .set_key_marker(marker(&from.key))
            .set_version_id_marker(marker(&from.version))
            .send()
            .await
            .map_err(|error| errors::classify(&error))?;
        let next = next_mark(&page)?;
        Ok((in_order(page)?, next))
    }

    async fn page(&self, prefix: &str, next: Option<&str>) -> Result<Page, ReplicaErrorKind> {
        self.check_versions().await?;
        let root = key::below(&self.bucket.vault_prefix, "");
        let from = next.map(Mark::parse).transpose()?.unwrap_or_default();
        let (versions, next) = self.versions(&format!("{root}{prefix}"), &from).await?;
        let mut decided = HashSet::new();
        if from.is_decided {
            decided.insert(from.key);
        }
        let mut objects = Vec::new();
        for version in versions {
            if version.modified > self.moment || !decided.insert(version.key.clone()) {
                continue;
            }
            if let Then::There { meta, .. } = version.then(&root)?
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
        let root = key::below(&self.bucket.vault_prefix, "");
        let full = key::below(&self.bucket.vault_prefix, key);
        let mut from = Mark::default();
        for _ in 0..MAX_PAGES_OF_A_KEY {
            let page = async {
                key::check(key)?;
                self.check_versions().await?;
                self.versions(&full, &from).await
            };
            let (versions, next) = self.bucket.request(operation, key, page).await?;
            // Keys that only begin like this one come after it.
            let beyond = versions.iter().any(|version| version.key != full);
            let then = versions.into_iter().find(|version| version.key == full && version.modified <= self.moment);
            match (then, next) {
                (Some(version), _) => {
                    return version.then(&root).map_err(|kind| self.error(operation, key, kind));
                }
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

impl Version {
    fn then(self, root: &str) -> Result<Then, ReplicaErrorKind> {
        let Some(id) = self.id else { return Ok(Then::Gone) };
        let key = self.key.strip_prefix(root).unwrap_or_default();
        Ok(Then::There { meta: describe(key, self.size, Some(self.modified))?, id })
    }
}

/// Versions and markers of a page: by key, the newest first. The store's order between the two
/// kinds is lost, so within a second the current one comes first, then a version: what it holds is
/// checked wherever it is read.
fn in_order(page: ListObjectVersionsOutput) -> Result<Vec<Version>, ReplicaErrorKind> {
    let lacks = |what: &str| ReplicaErrorKind::BadListing(format!("a version has no {what}"));
    let time = |time: Option<_>| time.and_then(to_chrono).ok_or_else(|| lacks("time"));
    let mut all = Vec::new();
    for version in page.versions.unwrap_or_default() {
        all.push(Version {
            key: version.key.ok_or_else(|| lacks("key"))?,
            id: Some(version.version_id.ok_or_else(|| lacks("id"))?),
            size: version.size,
            modified: time(version.last_modified)?,
            is_latest: version.is_latest.unwrap_or_default(),
        });
    }
    for marker in page.delete_markers.unwrap_or_default() {
        all.push(Version {
            key: marker.key.ok_or_else(|| lacks("key"))?,
            id: None,
            size: None,
            modified: time(marker.last_modified)?,
            is_latest: marker.is_latest.unwrap_or_default(),
        });
    }
    all.sort_by(|a, b| {
        let newest_first = (b.modified, b.is_latest, b.id.is_some()).cmp(&(a.modified, a.is_latest, a.id.is_some()));
        a.key.cmp(&b.key).then(newest_first)
    });
    Ok(all)
}

fn next_mark(page: &ListObjectVersionsOutput) -> Result<Option<Mark>, ReplicaErrorKind> {
    if !page.is_truncated.unwrap_or_default() {
        return Ok(None);
    }
    let key = page.next_key_marker.clone().filter(|key| !key.is_empty());
    let key =
        key.ok_or_else(|| ReplicaErrorKind::BadListing("it goes on, but the store does not say how".to_owned()))?;
    Ok(Some(Mark { key, version: page.next_version_id_marker.clone().unwrap_or_default(), is_decided: false }))
}

impl Mark {
    /// Lengths, then texts: markers are whatever the store says.
    fn to_token(&self) -> Result<String, ReplicaErrorKind> {
        let Self { key, version, is_decided } = self;
        let token = format!("{}:{}:{key}{version}", u8::from(*is_decided), key.len());
        if token.len() > MAX_TOKEN_BYTES {
            return Err(ReplicaErrorKind::BadListing("its token is too long".to_owned()));
        }
        Ok(token)
    }

    fn parse(token: &str) -> Result<Self, ReplicaErrorKind> {
        let parse = || {
            let (is_decided, rest) = token.split_once(':')?;
            let (length, rest) = rest.split_once(':')?;
            let (key, version) = rest.split_at_checked(length.parse().ok()?)?;
            Some(Self { key: key.to_owned(), version: version.to_owned(), is_decided: is_decided == "1" })
        };
        parse().ok_or_else(|| ReplicaErrorKind::Other("this is no token of this listing".to_owned()))
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

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn a_mark_survives_as_a_token_whatever_its_texts_are() {
        for (key, version, is_decided) in [("a/b", "null", true), ("3:4:", ":", false), ("é", "", true)] {
            let mark = Mark { key: key.to_owned(), version: version.to_owned(), is_decided };
            assert_eq!(Mark::parse(&mark.to_token().unwrap()).unwrap(), mark);
        }
        let long = Mark { key: "k".repeat(MAX_TOKEN_BYTES), ..Mark::default() };
        assert!(matches!(long.to_token(), Err(ReplicaErrorKind::BadListing(_))));
        for bad in ["", "1", "1:1", "1:9:ab", "1:x:ab", "1:1:é"] {
            assert!(Mark::parse(bad).is_err(), "{bad}");
        }
    }
}
