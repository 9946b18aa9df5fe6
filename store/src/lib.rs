//! Replicas: whole copies of a vault, each in one region. Packs, manifests and signatures are
//! objects in them.
//!
//! [`Replica`] is the contract. [`open()`] gives a replica that queues, retries and keeps a cap on
//! its bandwidth:
//!
//! ```text
//! caller → Retry → Gate → S3Replica | DirectoryReplica (with its pacer)
//! ```
//!
//! To write a replica of your own, implement [`Replica`], and pass [`conformance`], the suite that
//! every replica here passes (feature `conformance`). [`MemoryReplica`] and [`FailingReplica`] are
//! for tests: the first forgets everything when it is dropped, the second fails the calls that it
//! is told to fail.
//!
//! ```
//! use bytes::Bytes;
//! use lifeboat_base::clock::SystemClock;
//! use lifeboat_store::{MemoryReplica, Replica};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), lifeboat_base::Error> {
//! let replica = MemoryReplica::new("eu".parse()?, "eu-central-1", SystemClock::shared());
//! replica.put_new("vault.json", Bytes::from_static(b"{}")).await?;
//! assert_eq!(replica.get("vault.json", 64).await?, "{}");
//! assert!(replica.get("vault.json", 1).await.is_err(), "it is longer than the caller allows");
//! assert!(replica.put_new("vault.json", Bytes::new()).await.is_err(), "it exists already");
//! # Ok(())
//! # }
//! ```

pub mod bandwidth;
mod breaker;
#[cfg(any(doc, test, feature = "conformance"))]
pub mod conformance;
mod directory;
mod failing;
mod gate;
mod guards;
mod key;
mod listing;
mod memory;
mod open;
mod pacer;
mod protection;
mod replica;
mod retry;
mod s3;
mod settings;
mod trial;
mod version_walk;
mod versions;
mod waiting;

pub use self::breaker::Breaker;
pub use self::directory::DirectoryReplica;
pub use self::failing::{FailingReplica, Failure};
pub use self::gate::Gate;
pub use self::guards::{Guards, Lifecycle, Lock, LockMode};
pub use self::listing::Listing;
pub use self::memory::MemoryReplica;
pub use self::open::{open, open_all, open_as_of};
pub use self::protection::{DeletionLevel, Protection};
pub use self::replica::{
    Down, ObjectMeta, Page, Probe, Removal, Replica, ReplicaError, ReplicaErrorKind, SharedReplica, without_name,
};
pub use self::retry::{Retry, RetryPolicy};
pub use self::s3::S3Replica;
pub use self::settings::{ReplicaConfig, ReplicaKind, S3Config, S3Credentials};
pub use self::version_walk::{ThenAndNow, VersionWalk};
pub use self::versions::{KeptVersion, VersionKind, VersionsPage};
