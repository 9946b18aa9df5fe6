//! Replicas: whole copies of a vault, each in one region. Where packs, manifests and signatures go.
//!
//! [`Replica`] is the contract; [`open()`] gives one that queues, retries and paces as it should:
//!
//! ```text
//! caller → Retry → Gate → S3Replica | DirectoryReplica (with its pacer)
//! ```
//!
//! A replica of one's own implements [`Replica`] and passes [`conformance`], the suite that every
//! replica here passes (feature `conformance`). [`MemoryReplica`] and [`FailingReplica`] are for
//! tests: the first forgets everything when it is dropped, the second fails the call it is told to.

pub mod bandwidth;
#[cfg(feature = "conformance")]
pub mod conformance;
mod directory;
mod failing;
mod gate;
mod key;
mod memory;
mod open;
mod pacer;
mod replica;
mod retry;
mod s3;
mod settings;
mod trial;
mod waiting;

pub use self::directory::DirectoryReplica;
pub use self::failing::{FailingReplica, Failure};
pub use self::gate::Gate;
pub use self::memory::MemoryReplica;
pub use self::open::{open, open_all};
pub use self::replica::{ObjectMeta, Page, Probe, Replica, ReplicaError, ReplicaErrorKind, SharedReplica};
pub use self::retry::{Retry, RetryPolicy};
pub use self::s3::S3Replica;
pub use self::settings::{ReplicaConfig, ReplicaKind, S3Config, S3Credentials};
