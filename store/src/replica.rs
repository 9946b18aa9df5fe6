//! A replica: one whole copy of the vault, in one region.
//!
//! Every implementation keeps the guarantees that the methods of [`Replica`] state, and passes the
//! [conformance suite](crate::conformance). Keys are relative to the vault's prefix, at most 512
//! bytes, made of `/`-separated segments of 1 to 200 of `A-Za-z0-9-_.`, none of which begins with a
//! dot.
//!
//! - **Deadlines**: each implementation keeps one for each request, so a listing has one for each
//!   page. It counts the time that the replica takes, without waits for the gate or a cap on the
//!   bandwidth (`waiting.rs`).
//! - **Bandwidth**: each implementation keeps its cap with a pacer (`pacer.rs`).
//! - **Concurrency**: [`Gate`](crate::Gate) decides how many large transfers run at once.
//! - **Retries**: only [`Retry`](crate::Retry) sends a request again; the SDK's retries are off.
//! - **Secrets**: the S3 client holds them. They appear in no error and no `Debug`.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use chrono::{DateTime, TimeDelta, Utc};
use lifeboat_base::{Class, Error, Result};
use lifeboat_format::id::Name;

use crate::guards::{Guards, Lock};
use crate::listing::Listing;
use crate::versions::VersionsPage;

/// What a listing says about an object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ObjectMeta {
    /// Its key, relative to the vault's prefix.
    pub key: String,
    /// Its size in bytes.
    pub size: u64,
    /// When it was last written, by the replica's own clock.
    pub modified: DateTime<Utc>,
}

/// A part of a listing, in any order.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Page {
    /// The objects; usually a thousand at most.
    pub objects: Vec<ObjectMeta>,
    /// The token for the next page; `None` after the last one.
    pub next: Option<String>,
}

/// What is said behind the path of a directory that is not there.
pub(crate) const NOT_MOUNTED: &str = "does not exist, or is not mounted";

/// Why an operation failed, as far as callers must tell the cases apart.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum ReplicaErrorKind {
    /// There is no such object.
    #[error("no such object")]
    NotFound,
    /// [`Replica::put_new`] found an existing object.
    #[error("the object exists already")]
    AlreadyExists,
    /// The credentials are wrong, or do not permit the operation.
    #[error("access denied: {0}")]
    Denied(String),
    /// The bucket, directory or endpoint is wrong.
    #[error("misconfigured: {0}")]
    Misconfigured(String),
    /// What arrived is not what was sent, or not what the key promises.
    #[error("corrupt transfer: {0}")]
    Corrupt(String),
    /// The replica asks to come back later, answered with a server error, or reset the connection.
    #[error("unavailable: {0}")]
    Unavailable(String),
    /// The replica asks for fewer requests.
    #[error("asks to slow down: {why}")]
    Throttled {
        /// What it answered.
        why: String,
        /// When it wants to be asked again, if it says so.
        after: Option<Duration>,
    },
    /// No answer came within the deadline.
    #[error("no answer within {0:?}")]
    TimedOut(Duration),
    /// The object is longer than its kind can be. No more of it was read than shows that.
    #[error("it has {size} bytes or more, and what belongs there has at most {limit}")]
    TooLong {
        /// Its size as announced, or how much of it had arrived, in bytes.
        size: u64,
        /// What the caller allowed, in bytes.
        limit: u64,
    },
    /// The listing is beyond its budget, or contradicts itself.
    #[error("the listing cannot be believed: {0}")]
    BadListing(String),
    /// It lies in an archive that must be thawed before anything is read.
    #[error("it lies in an archive: {0}")]
    Frozen(String),
    /// Anything else.
    #[error("{0}")]
    Other(String),
}

/// A failed operation: which one, on which object, on which replica, and why.
#[derive(Debug, Clone, thiserror::Error)]
#[error("replica {replica}: cannot {operation} {}: {kind}", if key.is_empty() { "the vault" } else { key })]
pub struct ReplicaError {
    /// Its name.
    pub replica: Name,
    /// `put`, `get`, `look up`, `list`, `delete`, `probe`, and others.
    pub operation: &'static str,
    /// The object's key, or the prefix.
    pub key: String,
    /// What failed.
    pub kind: ReplicaErrorKind,
}

impl ReplicaError {
    /// Whether the same request may succeed if it is sent again. Only this method decides that.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        match self.kind {
            ReplicaErrorKind::Corrupt(_)
            | ReplicaErrorKind::Unavailable(_)
            | ReplicaErrorKind::Throttled { .. }
            | ReplicaErrorKind::TimedOut(_) => true,
            ReplicaErrorKind::NotFound
            | ReplicaErrorKind::AlreadyExists
            | ReplicaErrorKind::Denied(_)
            | ReplicaErrorKind::Misconfigured(_)
            | ReplicaErrorKind::TooLong { .. }
            | ReplicaErrorKind::BadListing(_)
            | ReplicaErrorKind::Frozen(_)
            | ReplicaErrorKind::Other(_) => false,
        }
    }

    /// Whether the object is simply not there.
    #[must_use]
    pub fn is_not_found(&self) -> bool {
        matches!(self.kind, ReplicaErrorKind::NotFound)
    }
}

impl From<ReplicaError> for Error {
    fn from(error: ReplicaError) -> Self {
        let hint = match &error.kind {
            ReplicaErrorKind::Denied(_) => Some("check the credentials and the bucket policy of this replica"),
            ReplicaErrorKind::Misconfigured(why) if why.ends_with(NOT_MOUNTED) => {
                Some("mount it, or correct `path` of this replica")
            }
            ReplicaErrorKind::Misconfigured(_) => Some("check this replica's section of the configuration"),
            ReplicaErrorKind::Unavailable(_) | ReplicaErrorKind::TimedOut(_) => {
                Some("check that the replica is reachable, or name another replica with --replica")
            }
            ReplicaErrorKind::Throttled { .. } => {
                Some("ask less of this replica: fewer backups at once, or `bandwidth`; or have its limit raised")
            }
            ReplicaErrorKind::TooLong { .. } | ReplicaErrorKind::BadListing(_) => {
                Some("somebody else writes into this replica, or it lies: use another one with --replica, and find out")
            }
            ReplicaErrorKind::Frozen(_) => Some(
                "thaw it first, such as with `aws s3api restore-object`, wait until that is done, and run it again",
            ),
            ReplicaErrorKind::NotFound
            | ReplicaErrorKind::AlreadyExists
            | ReplicaErrorKind::Corrupt(_)
            | ReplicaErrorKind::Other(_) => None,
        };
        let class = match &error.kind {
            ReplicaErrorKind::TooLong { .. } | ReplicaErrorKind::BadListing(_) => Class::Integrity,
            _ => Class::Storage,
        };
        let wrapped = Self::new(class, error.to_string());
        match hint {
            Some(hint) => wrapped.hint(hint),
            None => wrapped,
        }
    }
}

/// So many objects are removed by one request.
pub(crate) const MAX_DELETED_AT_ONCE: usize = 1000;
/// After so many removals in a row without an answer, no more are tried.
const MAX_UNANSWERED: u32 = 3;

/// What became of objects that were to be removed.
#[derive(Debug, Default)]
pub struct Removal {
    /// Of those that are not certain to be gone: why, an error for each key.
    pub failed: Vec<ReplicaError>,
    /// How many are only hidden, because the replica keeps versions: they still take space.
    pub hidden: u64,
    unanswered: u32,
}

impl Removal {
    /// Takes down what became of one of them: whether it is only hidden.
    ///
    /// # Errors
    /// The replica has not answered for so long that the others are not worth a try.
    pub(crate) fn note(&mut self, outcome: Result<bool, ReplicaError>) -> Result<(), ReplicaError> {
        let error = match outcome {
            Ok(is_hidden) => {
                self.hidden += u64::from(is_hidden);
                self.unanswered = 0;
                return Ok(());
            }
            Err(error) => error,
        };
        self.unanswered = if error.is_retryable() { self.unanswered + 1 } else { 0 };
        if self.unanswered == MAX_UNANSWERED {
            return Err(error);
        }
        self.failed.push(error);
        Ok(())
    }
}

/// One copy of the vault.
///
/// Every request has a deadline, [`ReplicaConfig::timeout`](crate::ReplicaConfig::timeout); a
/// listing has it for each page. With retries, no request is sent after that time, so an operation
/// ends within twice that time. [`put_new`](Self::put_new) may take as long again to check whose
/// object it found. Waits for the gate or for a cap on the bandwidth come on top.
///
/// Every method may be called concurrently. Dropping its future cancels it: an object then exists
/// whole or not at all.
#[async_trait]
pub trait Replica: Send + Sync + fmt::Debug {
    /// The replica's name in the configuration.
    fn name(&self) -> &Name;

    /// The region that the replica is in.
    fn region(&self) -> &str;

    /// The replica's clock minus ours, as its last answers told, be they refusals. It is the least
    /// difference that explains them. `None` if the replica does not tell the time, has told
    /// nothing lately, or leaves it open whether the difference is more than `tolerance`: an answer
    /// that was long on its way tells little.
    fn clock_offset(&self, tolerance: TimeDelta) -> Option<TimeDelta> {
        let _ = tolerance;
        None
    }

    /// Since when it is known not to answer, so that operations are not tried before a probe has
    /// shown that it does. `None`: nothing is known against it.
    fn down(&self) -> Option<Down> {
        None
    }

    /// Creates an object that must not exist yet.
    ///
    /// On `Ok` the object is durable, whole and visible to every later call. On `AlreadyExists`
    /// the existing object is untouched. After any other error it exists whole or not at all.
    /// Of several concurrent calls with one key, at most one succeeds.
    async fn put_new(&self, key: &str, body: Bytes) -> Result<(), ReplicaError>;

    /// Creates or replaces an object, atomically: readers see the old or the new one, whole.
    /// Only for the few objects that may change (keyring wraps, `hosts/<host>.json`).
    async fn put_replace(&self, key: &str, body: Bytes) -> Result<(), ReplicaError>;

    /// The whole object, if it has at most `limit` bytes: as many as this kind of object can have.
    /// Else it is [`TooLong`](ReplicaErrorKind::TooLong), and no more than `limit` + 1 bytes of it
    /// were ever held. Its transfer is checked against the length that the replica announced, and
    /// against the checksum if the replica keeps one.
    async fn get(&self, key: &str, limit: u64) -> Result<Bytes, ReplicaError>;

    /// What is known of an object; `None` if it does not exist.
    async fn head(&self, key: &str) -> Result<Option<ObjectMeta>, ReplicaError>;

    /// A page of the objects whose key begins with `prefix`, which may be any string; an empty one
    /// lists all. `next` is `None` for the first page, then the [`next`](Page::next) of the page
    /// before. An object that exists throughout the listing is on exactly one page.
    async fn list_page(&self, prefix: &str, next: Option<&str>) -> Result<Page, ReplicaError>;

    /// The objects of the next page of `listing`, in any order; `None` after the last page.
    ///
    /// # Errors
    /// The listing exceeds its budget, too: [`BadListing`](ReplicaErrorKind::BadListing).
    async fn next_page(&self, listing: &mut Listing) -> Result<Option<Vec<ObjectMeta>>, ReplicaError> {
        let Some(token) = listing.take_token() else { return Ok(None) };
        let waiting = listing.waiting.clone();
        let Page { objects, next } = waiting.count(self.list_page(listing.prefix(), token.as_deref())).await?;
        let admitted = listing.admit_page(objects.len(), next);
        admitted.map_err(|why| self.bad_listing(listing, why))?;
        Ok(Some(objects))
    }

    /// All pages at once, sorted by key. All of it lies in memory, so use it for short listings
    /// only.
    ///
    /// # Errors
    /// The listing exceeds its budget, too: [`BadListing`](ReplicaErrorKind::BadListing).
    async fn list(&self, prefix: &str) -> Result<Vec<ObjectMeta>, ReplicaError> {
        let (mut listing, mut all) = (Listing::new(prefix), Vec::new());
        while let Some(objects) = self.next_page(&mut listing).await? {
            for object in objects {
                listing.admit_name(&object.key).map_err(|why| self.bad_listing(&listing, why))?;
                all.push(object);
            }
        }
        all.sort_unstable_by(|a, b| a.key.cmp(&b.key));
        Ok(all)
    }

    /// The error of a listing that cannot be believed.
    fn bad_listing(&self, listing: &Listing, why: String) -> ReplicaError {
        let kind = ReplicaErrorKind::BadListing(why);
        ReplicaError { replica: self.name().clone(), operation: "list", key: listing.prefix().to_owned(), kind }
    }

    /// Removes an object. It is no error if the object is missing. In a versioned bucket the
    /// current version is hidden, not removed.
    async fn delete(&self, key: &str) -> Result<(), ReplicaError>;

    /// Removes objects, in few requests where the store can. One that cannot be removed is in
    /// [`Removal::failed`], and holds up no other.
    ///
    /// # Errors
    /// The replica fails as such. Some of the objects may be gone: repeat it.
    async fn delete_all(&self, keys: &[String]) -> Result<Removal, ReplicaError> {
        let mut removal = Removal::default();
        for key in keys {
            removal.note(self.delete(key).await.map(|()| false))?;
        }
        Ok(removal)
    }

    /// Tries out what the replica can do, with a throw-away object below `probe/`. It stays where
    /// the replica lets nobody delete it; hidden versions of it stay where they cannot be removed,
    /// or not yet. If `write` is false, it only reads.
    async fn probe(&self, write: bool) -> Result<Probe, ReplicaError>;

    /// How objects are locked when they are uploaded; `None`: not at all.
    fn lock(&self) -> Option<Lock> {
        None
    }

    /// Until when an object is locked; `None`: it is not.
    async fn locked_until(&self, _: &str) -> Result<Option<DateTime<Utc>>, ReplicaError> {
        Ok(None)
    }

    /// Locks an object until `until`, or until later if it is already. It does nothing where
    /// [`lock`](Self::lock) is `None`.
    async fn lock_until(&self, _: &str, _: DateTime<Utc>) -> Result<(), ReplicaError> {
        Ok(())
    }

    /// A page of all versions of the objects whose key begins with `prefix`, as
    /// [`list_page`](Self::list_page). A replica that keeps none refuses.
    async fn versions_page(&self, prefix: &str, _: Option<&str>) -> Result<VersionsPage, ReplicaError> {
        Err(self.keeps_no_versions("list the versions of", prefix))
    }

    /// As [`get`](Self::get), of an old version.
    async fn get_version(&self, key: &str, _: &str, _: u64) -> Result<Bytes, ReplicaError> {
        Err(self.keeps_no_versions("get", key))
    }

    /// Removes a delete marker of an object, so that what lies below it is there again. It is no
    /// error if the marker is missing.
    async fn uncover(&self, key: &str, _: &str) -> Result<(), ReplicaError> {
        Err(self.keeps_no_versions("remove a delete marker of", key))
    }

    /// Copies an old version of an object to the top. What was there becomes an old version.
    async fn copy_version(&self, key: &str, _: &str) -> Result<(), ReplicaError> {
        Err(self.keeps_no_versions("bring back", key))
    }

    /// The error of a replica that keeps no versions.
    fn keeps_no_versions(&self, operation: &'static str, key: &str) -> ReplicaError {
        let kind = ReplicaErrorKind::Misconfigured("it keeps no old versions".to_owned());
        ReplicaError { replica: self.name().clone(), operation, key: key.to_owned(), kind }
    }
}

/// A replica that does not answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Down {
    /// When an operation first found no answer.
    pub since: DateTime<Utc>,
    /// What happened last.
    pub why: String,
}

/// What [`Replica::probe`] found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Probe {
    /// Whether `put_new` refuses an existing key; `None` if that was not tried.
    pub conditional_writes: Option<bool>,
    /// Whether old versions are kept; `None` if the replica does not say.
    pub versioning: Option<bool>,
    /// Whether Object Lock is on; `None` if the replica does not say.
    pub object_lock: Option<bool>,
    /// Whether writing is permitted; `None` if that was not tried.
    pub can_write: Option<bool>,
    /// Whether deleting is permitted; `None` if that was not tried.
    pub can_delete: Option<bool>,
    /// [`Replica::clock_offset`] in seconds; `None` if the replica does not say.
    pub clock_skew_seconds: Option<i64>,
    /// What keeps a thief of the credentials from deleting for good.
    pub guards: Guards,
}

/// A replica that several owners share.
pub type SharedReplica = Arc<dyn Replica>;

/// Why something is wrong with `replica`, without the name that most errors of replicas begin with:
/// for a line that says the name already.
#[must_use]
pub fn without_name<'a>(replica: &Name, why: &'a str) -> &'a str {
    let rest = why.strip_prefix("replica ").and_then(|why| why.strip_prefix(replica.as_str()));
    rest.and_then(|rest| rest.strip_prefix(": ")).unwrap_or(why)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_that_is_not_mounted_has_a_hint_of_its_own() -> Result<(), lifeboat_base::Error> {
        for (why, hint) in [(format!("/backup {NOT_MOUNTED}"), "mount it"), ("301".to_owned(), "check this replica's")]
        {
            let kind = ReplicaErrorKind::Misconfigured(why);
            let error = ReplicaError { replica: "near".parse()?, operation: "get", key: String::new(), kind };
            let error = Error::from(error);
            assert!(error.hint_text().unwrap_or_default().starts_with(hint), "{error:?}");
        }
        Ok(())
    }

    #[test]
    fn a_replica_is_named_once() -> Result<(), lifeboat_base::Error> {
        let near = "near".parse()?;
        assert_eq!(without_name(&near, "replica near: cannot list: full"), "cannot list: full");
        for other in ["replica nearer: full", "replica near", "no credentials"] {
            assert_eq!(without_name(&near, other), other);
        }
        Ok(())
    }
}
