//! A replica in an S3 bucket, on AWS or any store that speaks S3 version 4 signatures and
//! conditional writes.
//!
//! - **Integrity**: a body is sent from memory in one PutObject, with its SHA-256 signed and a
//!   CRC64NVME in a header, which the store checks and keeps. What comes back is checked against
//!   that checksum and the announced length. If a store keeps no checksums, only the length is
//!   checked here; the caller, who knows what it fetches, checks the rest.
//! - **Atomicity** is up to the store: PutObject shows whole objects only, and `If-None-Match: *`
//!   guards objects that must be new.
//! - **Deadlines**: each request has one, its body included. A connection must be made within a
//!   shorter one.
//! - **Bounds**: every answer but the body of an object ends after 2 MiB (`bounded.rs`). A body
//!   ends at the limit of its caller, whatever length was announced.
//! - **A cap on the bandwidth** paces bodies below the SDK (`paced.rs`).

use std::fmt;
use std::future::Future;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use aws_sdk_s3::Client;
use aws_sdk_s3::primitives::{ByteStream, DateTime as SdkDateTime};
use aws_sdk_s3::types::{ChecksumAlgorithm, StorageClass};
use bytes::Bytes;
use chrono::{DateTime, TimeDelta, Utc};
use lifeboat_base::Result;
use lifeboat_base::buffers::spare;
use lifeboat_base::clock::SharedClock;
use lifeboat_format::id::Name;

use self::date::StoreClock;
use crate::guards::Lock;
use crate::replica::{MAX_DELETED_AT_ONCE, ObjectMeta, Page, Probe, Removal, Replica, ReplicaError, ReplicaErrorKind};
use crate::settings::{ReplicaConfig, S3Config};
use crate::versions::VersionsPage;
use crate::{key, waiting};

mod batch;
mod bounded;
mod client;
mod credentials;
mod date;
mod errors;
mod locked;
mod paced;
pub(crate) mod past;
mod probe;
mod versions;

/// No more memory is reserved because a store announces a length; larger objects grow as they
/// arrive.
const MAX_RESERVED_BYTES: usize = 64 * 1024 * 1024;

/// Longer than the tokens of any known store.
const MAX_TOKEN_BYTES: usize = 8 << 10;

/// A [`Replica`] in an S3 bucket, on AWS or any store that speaks S3.
pub struct S3Replica {
    name: Name,
    region: String,
    bucket: String,
    /// The host that the bucket's name makes: none on AWS, or if the path names the bucket.
    bucket_host: Option<String>,
    vault_prefix: String,
    storage_class: Option<StorageClass>,
    lock: Option<Lock>,
    clock: SharedClock,
    timeout: Duration,
    client: Client,
    store_clock: StoreClock,
    /// Whether an answer has shown that the bucket exists.
    bucket_seen: AtomicBool,
    /// Whether the store may remove several objects by one request: no answer has shown otherwise.
    deletes_many: AtomicBool,
}

impl fmt::Debug for S3Replica {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { name, region, bucket, vault_prefix, .. } = self;
        write!(f, "S3Replica({name}: {bucket}/{vault_prefix} in {region})")
    }
}

impl S3Replica {
    /// Prepares the client. It connects when it is first used.
    ///
    /// # Errors
    /// [`Class::Configuration`](lifeboat_base::Class::Configuration) or
    /// [`Class::Keys`](lifeboat_base::Class::Keys) when its CA file or credential file cannot be
    /// read.
    pub async fn open(replica: &ReplicaConfig, s3: &S3Config, vault_prefix: &str, clock: SharedClock) -> Result<Self> {
        let store_clock = StoreClock::new(clock.clone());
        Ok(Self {
            name: replica.name.clone(),
            region: replica.region.clone(),
            bucket: s3.bucket.clone(),
            bucket_host: s3
                .endpoint
                .as_ref()
                .filter(|_| !s3.path_style)
                .and_then(|endpoint| endpoint.host_str())
                .map(|host| format!("{}.{host}", s3.bucket)),
            vault_prefix: vault_prefix.to_owned(),
            storage_class: s3.storage_class.as_deref().map(StorageClass::from),
            timeout: replica.timeout,
            lock: s3.lock,
            client: client::build(replica, s3, clock.clone(), store_clock.clone()).await?,
            clock,
            store_clock,
            bucket_seen: AtomicBool::new(false),
            deletes_many: AtomicBool::new(true),
        })
    }

    /// Runs one request within the deadline.
    async fn request<T>(
        &self,
        operation: &'static str,
        key: &str,
        work: impl Future<Output = Result<T, ReplicaErrorKind>> + Send,
    ) -> Result<T, ReplicaError> {
        let outcome = waiting::within(self.timeout, work).await;
        let outcome = outcome.unwrap_or(Err(ReplicaErrorKind::TimedOut(self.timeout)));
        let outcome = outcome.map_err(|kind| errors::named(kind, &self.bucket, self.bucket_host.as_deref()));
        outcome.map_err(|kind| ReplicaError { replica: self.name.clone(), operation, key: key.to_owned(), kind })
    }

    /// Runs one request on a key, if it is legal. `work` gets the key with the vault's prefix.
    async fn with_key<T, F>(
        &self,
        operation: &'static str,
        key: &str,
        work: impl FnOnce(String) -> F + Send,
    ) -> Result<T, ReplicaError>
    where
        F: Future<Output = Result<T, ReplicaErrorKind>> + Send,
    {
        self.request(operation, key, async {
            key::check(key)?;
            work(key::below(&self.vault_prefix, key)).await
        })
        .await
    }

    async fn put(&self, key: &str, body: Bytes, only_new: bool) -> Result<(), ReplicaError> {
        let storage_class = self.storage_class.clone().filter(|_| key.contains("/packs/"));
        let lock = self.lock_of(key);
        self.with_key("put", key, async |full| {
            self.client
                .put_object()
                .bucket(&self.bucket)
                .key(full)
                .checksum_algorithm(ChecksumAlgorithm::Crc64Nvme)
                .set_storage_class(storage_class)
                .set_if_none_match(only_new.then(|| "*".to_owned()))
                .set_object_lock_mode(lock.as_ref().map(|(mode, _)| mode.clone()))
                .set_object_lock_retain_until_date(lock.map(|(_, until)| until))
                .body(ByteStream::from(body))
                .send()
                .await
                .map(drop)
                .map_err(|error| errors::classify(&error))
        })
        .await
    }

    /// The body of an object, or of an old version. `full` is its key with the vault's prefix.
    async fn fetch(&self, full: String, version: Option<String>, limit: u64) -> Result<Bytes, ReplicaErrorKind> {
        let object = self.client.get_object().bucket(&self.bucket).key(full).set_version_id(version).send().await;
        let mut object = object.map_err(|error| errors::classify(&error))?;
        let announced = object
            .content_length
            .and_then(|length| u64::try_from(length).ok())
            .ok_or_else(|| ReplicaErrorKind::Corrupt("the store announced no length".to_owned()))?;
        let too_long = |size| Err(ReplicaErrorKind::TooLong { size, limit });
        if announced > limit {
            return too_long(announced);
        }
        let mut body = spare(usize::try_from(announced).unwrap_or_default().min(MAX_RESERVED_BYTES));
        body.clear();
        while let Some(piece) = object.body.next().await {
            let piece = piece.map_err(|error| errors::classify_body(&error))?;
            // What the store announced need not be what it sends.
            let arrived = body.len() as u64 + piece.len() as u64;
            if arrived > limit {
                return too_long(arrived);
            }
            body.extend_from_slice(&piece);
        }
        if body.len() as u64 == announced {
            Ok(body.freeze())
        } else {
            Err(ReplicaErrorKind::Corrupt(format!("{} of {announced} bytes arrived", body.len())))
        }
    }

    async fn page(&self, prefix: &str, continuation: Option<&str>) -> Result<Page, ReplicaErrorKind> {
        let root = key::below(&self.vault_prefix, "");
        let page = self
            .client
            .list_objects_v2()
            .bucket(&self.bucket)
            .prefix(format!("{root}{prefix}"))
            .set_continuation_token(continuation.map(str::to_owned))
            .send()
            .await
            .map_err(|error| errors::classify(&error))?;
        let mut objects = Vec::with_capacity(page.contents().len());
        for object in page.contents() {
            let key = object.key().and_then(|key| key.strip_prefix(&root)).unwrap_or_default();
            // Web consoles make objects that are named like folders; they are not ours.
            if key::check(key).is_ok() {
                objects.push(describe(key, object.size, object.last_modified.and_then(to_chrono))?);
            }
        }
        Ok(Page { objects, next: next_page(page.is_truncated, page.next_continuation_token)? })
    }

    /// Removes an object. Returns whether it is only hidden.
    async fn delete_one(&self, key: &str) -> Result<bool, ReplicaError> {
        self.with_key("delete", key, async |full| {
            let deleted = self.client.delete_object().bucket(&self.bucket).key(full).send().await;
            match deleted.map_err(|error| errors::classify(&error)) {
                Ok(deleted) => Ok(deleted.delete_marker() == Some(true)),
                Err(ReplicaErrorKind::NotFound) => Ok(false),
                Err(kind) => Err(kind),
            }
        })
        .await
    }

    /// Tells a missing bucket from a missing object, which HEAD does not: its answer has no body.
    async fn check_bucket(&self) -> Result<(), ReplicaErrorKind> {
        if self.bucket_seen.load(Ordering::Relaxed) {
            return Ok(());
        }
        match self.client.head_bucket().bucket(&self.bucket).send().await {
            Ok(_) => {
                self.bucket_seen.store(true, Ordering::Relaxed);
                Ok(())
            }
            Err(error) => match errors::classify(&error) {
                ReplicaErrorKind::NotFound => Err(ReplicaErrorKind::Misconfigured(errors::NO_BUCKET.to_owned())),
                // Credentials that may read objects need not be allowed to look at the bucket.
                ReplicaErrorKind::Denied(_) => Ok(()),
                kind => Err(kind),
            },
        }
    }
}

#[async_trait]
impl Replica for S3Replica {
    fn name(&self) -> &Name {
        &self.name
    }

    fn region(&self) -> &str {
        &self.region
    }

    fn clock_offset(&self, tolerance: TimeDelta) -> Option<TimeDelta> {
        self.store_clock.offset(tolerance)
    }

    async fn put_new(&self, key: &str, body: Bytes) -> Result<(), ReplicaError> {
        self.put(key, body, true).await
    }

    async fn put_replace(&self, key: &str, body: Bytes) -> Result<(), ReplicaError> {
        self.put(key, body, false).await
    }

    async fn get(&self, key: &str, limit: u64) -> Result<Bytes, ReplicaError> {
        self.with_key("get", key, |full| self.fetch(full, None, limit)).await
    }

    async fn head(&self, key: &str) -> Result<Option<ObjectMeta>, ReplicaError> {
        self.with_key("look up", key, async |full| {
            match self.client.head_object().bucket(&self.bucket).key(full).send().await {
                Ok(found) => describe(key, found.content_length, found.last_modified.and_then(to_chrono)).map(Some),
                Err(error) => match errors::classify(&error) {
                    ReplicaErrorKind::NotFound => self.check_bucket().await.map(|()| None),
                    kind => Err(kind),
                },
            }
        })
        .await
    }

    async fn list_page(&self, prefix: &str, next: Option<&str>) -> Result<Page, ReplicaError> {
        self.request("list", prefix, self.page(prefix, next)).await
    }

    async fn delete(&self, key: &str) -> Result<(), ReplicaError> {
        self.delete_one(key).await.map(drop)
    }

    async fn delete_all(&self, keys: &[String]) -> Result<Removal, ReplicaError> {
        let mut removal = Removal::default();
        for batch in keys.chunks(MAX_DELETED_AT_ONCE) {
            if self.deletes_many.load(Ordering::Relaxed) {
                match self.delete_many(batch).await {
                    Ok(removed) => {
                        removal.failed.extend(removed.failed);
                        removal.hidden += removed.hidden;
                        continue;
                    }
                    Err(error) if !batch::is_not_offered(&error.kind) => return Err(error),
                    Err(error) => tracing::debug!(%error, "The store removes objects one at a time only"),
                }
                self.deletes_many.store(false, Ordering::Relaxed);
            }
            for key in batch {
                removal.note(self.delete_one(key).await)?;
            }
        }
        Ok(removal)
    }

    async fn probe(&self, write: bool) -> Result<Probe, ReplicaError> {
        probe::run(self, write).await
    }

    fn lock(&self) -> Option<Lock> {
        self.lock
    }

    async fn locked_until(&self, key: &str) -> Result<Option<DateTime<Utc>>, ReplicaError> {
        Ok(self.lock_there(key).await?.map(|(end, _)| end))
    }

    async fn lock_until(&self, key: &str, until: DateTime<Utc>) -> Result<(), ReplicaError> {
        self.extend_lock(key, until).await
    }

    async fn versions_page(&self, prefix: &str, next: Option<&str>) -> Result<VersionsPage, ReplicaError> {
        self.request("list the versions of", prefix, self.page_of_versions(prefix, next)).await
    }

    async fn get_version(&self, key: &str, version: &str, limit: u64) -> Result<Bytes, ReplicaError> {
        self.with_key("get", key, |full| self.fetch(full, Some(version.to_owned()), limit)).await
    }

    async fn uncover(&self, key: &str, marker: &str) -> Result<(), ReplicaError> {
        self.remove_marker(key, marker).await
    }

    async fn copy_version(&self, key: &str, version: &str) -> Result<(), ReplicaError> {
        self.copy_up(key, version).await
    }
}

fn to_chrono(time: SdkDateTime) -> Option<DateTime<Utc>> {
    DateTime::from_timestamp(time.secs(), time.subsec_nanos())
}

fn describe(key: &str, size: Option<i64>, modified: Option<DateTime<Utc>>) -> Result<ObjectMeta, ReplicaErrorKind> {
    let size = size.and_then(|size| u64::try_from(size).ok());
    match (size, modified) {
        (Some(size), Some(modified)) => Ok(ObjectMeta { key: key.to_owned(), size, modified }),
        _ => Err(ReplicaErrorKind::Other("the store gave no size or no time".to_owned())),
    }
}

/// The token of the next page. What is not listed would be taken for lost, so a page that
/// contradicts itself is no page.
fn next_page(is_truncated: Option<bool>, token: Option<String>) -> Result<Option<String>, ReplicaErrorKind> {
    let bad = |what: &str| Err(ReplicaErrorKind::BadListing(what.to_owned()));
    match (is_truncated.unwrap_or_default(), token.filter(|token| !token.is_empty())) {
        (false, None) => Ok(None),
        (false, Some(_)) => bad("it says that it is whole, and how it goes on"),
        (true, Some(token)) if token.len() <= MAX_TOKEN_BYTES => Ok(Some(token)),
        (true, Some(_)) => bad("its token is too long"),
        (true, None) => bad("it goes on, but the store does not say how"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_that_contradicts_itself_is_refused() {
        let token = || Some("t".to_owned());
        assert!(matches!(next_page(Some(true), token()), Ok(Some(token)) if token == "t"));
        for empty in [None, Some(String::new())] {
            assert!(matches!(next_page(Some(false), empty.clone()), Ok(None)));
            assert!(matches!(next_page(None, empty.clone()), Ok(None)));
            assert!(matches!(next_page(Some(true), empty), Err(ReplicaErrorKind::BadListing(_))));
        }
        let long = Some("t".repeat(MAX_TOKEN_BYTES + 1));
        for (is_truncated, token) in [(Some(false), token()), (None, token()), (Some(true), long)] {
            assert!(matches!(next_page(is_truncated, token), Err(ReplicaErrorKind::BadListing(_))));
        }
    }
}
