//! The validated settings of a replica: where it is, and how it is reached.

use std::path::PathBuf;
use std::time::Duration;

use lifeboat_base::secret::SecretRef;
use lifeboat_format::id::Name;

use crate::bandwidth::Bandwidth;
use crate::guards::Lock;

/// One `[[replica]]`.
#[derive(Debug, Clone)]
pub struct ReplicaConfig {
    /// Its name in metrics, logs and `--replica`.
    pub name: Name,
    /// The region that it is in, which is compared with `home_region`.
    pub region: String,
    /// How it is reached.
    pub kind: ReplicaKind,
    /// The deadline of one remote operation.
    pub timeout: Duration,
    /// How many bytes a second may pass to and from it, and when.
    pub bandwidth: Bandwidth,
}

impl ReplicaConfig {
    /// The [`timeout`](Self::timeout) if the configuration has none.
    pub const DEFAULT_TIMEOUT: Duration = Duration::from_secs(60);
}

/// How a replica is reached.
#[allow(clippy::large_enum_variant, reason = "a configuration has few replicas")]
#[derive(Debug, Clone)]
pub enum ReplicaKind {
    /// An S3 bucket.
    S3(S3Config),
    /// A directory: another disk, an NFS mount, a copy of a bucket.
    Directory {
        /// Its path.
        path: PathBuf,
    },
}

/// An S3 bucket.
#[derive(Debug, Clone)]
pub struct S3Config {
    /// The bucket.
    pub bucket: String,
    /// The endpoint; `None` for AWS, by region.
    pub endpoint: Option<url::Url>,
    /// Whether to use `endpoint/bucket/key` instead of `bucket.endpoint/key`.
    pub path_style: bool,
    /// A PEM file with the certificate authorities to trust instead of the system's.
    pub ca_file: Option<PathBuf>,
    /// The storage class of packs, as S3 spells it.
    pub storage_class: Option<String>,
    /// How objects are locked when they are uploaded.
    pub lock: Option<Lock>,
    /// Where the credentials come from.
    pub credentials: S3Credentials,
}

/// Where S3 credentials come from.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum S3Credentials {
    /// The default AWS chain.
    Default,
    /// A profile of the AWS shared configuration.
    Profile(String),
    /// The `[default]` section of a file, or a systemd credential, in the AWS shared-credentials
    /// format.
    File(SecretRef),
}
