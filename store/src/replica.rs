//! A replica: one whole copy of the vault, in one region.
//!
//! Every implementation keeps the guarantees written on [`Replica`]'s methods, and passes the one
//! conformance suite (`conformance.rs`). Keys are relative to the vault's prefix, at most 512
//! bytes, made of `/`-separated segments of 1 to 200 of `A-Za-z0-9-_.`, none of which begins with a
//! dot.
//!
//! - **Deadlines** are kept by the implementations: one for each request, so that a listing has one
//!   a page. They count what the replica takes, not what a cap on the bandwidth or the gate makes
//!   wait (`waiting.rs`).
//! - **Bandwidth**: a cap is kept by the implementations too, by one pacer each (`pacer.rs`).
//! - **Concurrency** of large transfers is [`Gate`](crate::Gate)'s; **retries** are
//!   [`Retry`](crate::Retry)'s alone; the SDK's own are off.
//! - **Secrets** are held by the S3 client and appear in no error and no `Debug`.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use chrono::{DateTime, Utc};
use lifeboat_base::{Class, Error, Result};
use lifeboat_format::id::Name;

/// What a listing says of an object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ObjectMeta {
    /// Relative to the vault's prefix.
    pub key: String,
    /// In bytes.
    pub size: u64,
    /// By the replica's own clock.
    pub modified: DateTime<Utc>,
}

/// A part of a listing, in no order.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Page {
    /// Some thousand at most, as a rule.
    pub objects: Vec<ObjectMeta>,
    /// What the next page is asked for with; `None` after the last one.
    pub next: Option<String>,
}

/// What failed, as far as callers must tell the cases apart.
#[derive(Debug, thiserror::Error)]
pub enum ReplicaErrorKind {
    /// No such object.
    #[error("no such object")]
    NotFound,
    /// [`Replica::put_new`] met an existing object.
    #[error("the object exists already")]
    AlreadyExists,
    /// Credentials or permissions.
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
    /// No answer within the deadline.
    #[error("no answer within {0:?}")]
    TimedOut(Duration),
    /// Anything else.
    #[error("{0}")]
    Other(String),
}

/// A failed operation: which, on what, where, why.
#[derive(Debug, thiserror::Error)]
#[error("replica {replica}: cannot {operation} {}: {kind}", if key.is_empty() { "the vault" } else { key })]
pub struct ReplicaError {
    /// Its name.
    pub replica: Name,
    /// `put`, `get`, `look up`, `list`, `delete`, `probe`.
    pub operation: &'static str,
    /// The object's key, or the prefix.
    pub key: String,
    /// What failed.
    pub kind: ReplicaErrorKind,
}

impl ReplicaError {
    /// Whether the same request may succeed if sent again. The one place that decides.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        match self.kind {
            ReplicaErrorKind::Corrupt(_) | ReplicaErrorKind::Unavailable(_) | ReplicaErrorKind::TimedOut(_) => true,
            ReplicaErrorKind::NotFound
            | ReplicaErrorKind::AlreadyExists
            | ReplicaErrorKind::Denied(_)
            | ReplicaErrorKind::Misconfigured(_)
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
            ReplicaErrorKind::Misconfigured(_) => {
                Some("check this replica's section of the configuration, then run `lifeboat check`")
            }
            ReplicaErrorKind::Unavailable(_) | ReplicaErrorKind::TimedOut(_) => {
                Some("check that the replica is reachable; another replica can be named with --replica")
            }
            ReplicaErrorKind::NotFound
            | ReplicaErrorKind::AlreadyExists
            | ReplicaErrorKind::Corrupt(_)
            | ReplicaErrorKind::Other(_) => None,
        };
        let wrapped = Self::new(Class::Storage, error.to_string());
        match hint {
            Some(hint) => wrapped.hint(hint),
            None => wrapped,
        }
    }
}

/// One copy of the vault.
///
/// Every request has the deadline of its [`ReplicaConfig::timeout`](crate::ReplicaConfig::timeout),
/// a listing for each page. With retries, none is sent after that time, so that an operation ends
/// within twice as long; [`put_new`](Self::put_new) may then take as long again to look whose
/// object it met. Waiting for the gate or for a cap on the bandwidth comes on top. Every method may
/// be called concurrently, and may be cancelled by dropping its future: an object then exists whole
/// or not at all.
#[async_trait]
pub trait Replica: Send + Sync + fmt::Debug {
    /// Its name in the configuration.
    fn name(&self) -> &Name;

    /// Its region.
    fn region(&self) -> &str;

    /// Creates an object that must not exist yet.
    ///
    /// On `Ok` the object is durable, whole and visible to every later call. On `AlreadyExists`
    /// the existing object is untouched. After any other error it exists whole or not at all.
    /// Of several concurrent calls with one key, at most one succeeds.
    async fn put_new(&self, key: &str, body: Bytes) -> Result<(), ReplicaError>;

    /// Creates or replaces an object, atomically: readers see the old or the new one, whole.
    /// Only for the few objects that may change (keyring wraps, `hosts/<host>.json`).
    async fn put_replace(&self, key: &str, body: Bytes) -> Result<(), ReplicaError>;

    /// The whole object, its transfer checked against the length that the replica announced, and
    /// against the checksum that came with it where the replica keeps one.
    async fn get(&self, key: &str) -> Result<Bytes, ReplicaError>;

    /// What is known of an object; `None` if it does not exist.
    async fn head(&self, key: &str) -> Result<Option<ObjectMeta>, ReplicaError>;

    /// A page of the objects whose key begins with `prefix` (any string; "" lists all): the first
    /// one, or what [`next`](Page::next) of the one before stands for. What exists throughout the
    /// listing is on exactly one page.
    async fn list_page(&self, prefix: &str, next: Option<&str>) -> Result<Page, ReplicaError>;

    /// All pages at once, sorted by key. For what is known to be few: it all lies in memory.
    async fn list(&self, prefix: &str) -> Result<Vec<ObjectMeta>, ReplicaError> {
        let Page { mut objects, mut next } = self.list_page(prefix, None).await?;
        while next.is_some() {
            let page = self.list_page(prefix, next.as_deref()).await?;
            objects.extend(page.objects);
            next = page.next;
        }
        objects.sort_unstable_by(|a, b| a.key.cmp(&b.key));
        Ok(objects)
    }

    /// Removes an object; no error if it is not there. In a versioned bucket the current version is
    /// hidden, not gone.
    async fn delete(&self, key: &str) -> Result<(), ReplicaError>;

    /// Tries out what the replica can do, with a throw-away object below `probe/`, and leaves
    /// nothing behind. With `write` false only reads.
    async fn probe(&self, write: bool) -> Result<Probe, ReplicaError>;
}

/// What [`Replica::probe`] found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Probe {
    /// Whether `put_new` refuses an existing key. `None` where it was not tried.
    pub conditional_writes: Option<bool>,
    /// Whether old versions are kept; `None` where it cannot be known.
    pub versioning: Option<bool>,
    /// Whether Object Lock is on; `None` where it cannot be known.
    pub object_lock: Option<bool>,
    /// Whether writing was permitted.
    pub can_write: Option<bool>,
    /// Whether deleting was permitted.
    pub can_delete: Option<bool>,
    /// The replica's clock minus ours, where it tells.
    pub clock_skew_seconds: Option<i64>,
}

/// A replica that flows share.
pub type SharedReplica = Arc<dyn Replica>;
