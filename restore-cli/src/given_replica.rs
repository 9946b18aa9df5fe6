//! One replica that is named by flags alone, as on the day when nothing else is left.

use std::path::PathBuf;

use clap::Args;
use lifeboat_engine::config::{ReplicaConfig, ReplicaKind, S3Config, S3Credentials, SecretRef};
use lifeboat_engine::store::bandwidth::Bandwidth;
use lifeboat_engine::{Error, Result};

/// One replica, named without any configuration.
#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "One replica, without a configuration")]
pub(crate) struct GivenReplica {
    /// A directory: another disk, a mount, a copy of a bucket
    #[arg(long, global = true, value_name = "PATH")]
    pub(crate) directory: Option<PathBuf>,
    /// An S3 bucket
    #[arg(long, global = true, value_name = "BUCKET")]
    pub(crate) s3_bucket: Option<String>,
    /// Region of the bucket
    #[arg(long, global = true, value_name = "REGION")]
    pub(crate) s3_region: Option<String>,
    /// Endpoint URL, if the bucket is not at AWS
    #[arg(long, global = true, value_name = "URL")]
    pub(crate) s3_endpoint: Option<url::Url>,
    /// Address objects as endpoint/bucket/key instead of bucket.endpoint/key
    #[arg(long, global = true)]
    pub(crate) s3_path_style: bool,
    /// PEM file with the certificate authorities to trust
    #[arg(long, global = true, value_name = "FILE")]
    pub(crate) s3_ca_file: Option<PathBuf>,
    /// File in the AWS shared-credentials format; without it, the default AWS chain applies
    #[arg(long, global = true, value_name = "FILE")]
    pub(crate) s3_credentials: Option<PathBuf>,
    /// Where the vault begins in the replica
    #[arg(long, global = true, value_name = "PREFIX")]
    pub(crate) vault_prefix: Option<String>,
}

impl GivenReplica {
    /// Whether a replica is named at all.
    pub(crate) fn is_named(&self) -> bool {
        self.directory.is_some() || self.s3_bucket.is_some()
    }

    /// The replica that the flags name; `None` without any of them.
    ///
    /// # Errors
    /// [`Class::Usage`](lifeboat_engine::Class::Usage): flags are missing or contradict each other.
    pub(crate) fn replica(&self) -> Result<Option<ReplicaConfig>> {
        let s3_details = self.s3_region.is_some()
            || self.s3_endpoint.is_some()
            || self.s3_path_style
            || self.s3_ca_file.is_some()
            || self.s3_credentials.is_some();
        let (name, region, kind) = match (&self.directory, &self.s3_bucket) {
            (Some(_), Some(_)) => {
                return Err(Error::usage("--directory and --s3-bucket name two replicas").hint("pass only one of them"));
            }
            (None, None) if s3_details => {
                return Err(Error::usage("--s3-… flags need --s3-bucket").hint("add --s3-bucket and --s3-region"));
            }
            (Some(_), None) if s3_details => {
                return Err(Error::usage("--s3-… flags do not go with --directory").hint("leave them out"));
            }
            (None, None) if self.vault_prefix.is_some() => {
                return Err(Error::usage("--vault-prefix goes with --directory or --s3-bucket")
                    .hint("set vault_prefix in the configuration"));
            }
            (None, None) => return Ok(None),
            (Some(path), None) => ("directory", "local".to_owned(), ReplicaKind::Directory { path: path.clone() }),
            (None, Some(bucket)) => {
                let region = self.s3_region.clone().ok_or_else(|| {
                    Error::usage("--s3-bucket needs --s3-region")
                        .hint("pass the region of the bucket, such as --s3-region eu-central-1")
                })?;
                if self.s3_endpoint.as_ref().is_some_and(|endpoint| !is_acceptable(endpoint)) {
                    return Err(Error::usage("--s3-endpoint is not an https URL, or it holds credentials")
                        .hint("use https (plain http works for the loopback only), and pass credentials with --s3-credentials"));
                }
                let s3 = S3Config {
                    bucket: bucket.clone(),
                    endpoint: self.s3_endpoint.clone(),
                    path_style: self.s3_path_style,
                    ca_file: self.s3_ca_file.clone(),
                    storage_class: None,
                    lock: None,
                    credentials: self
                        .s3_credentials
                        .as_ref()
                        .map_or(S3Credentials::Default, |file| S3Credentials::File(SecretRef::file(file))),
                };
                ("s3", region, ReplicaKind::S3(s3))
            }
        };
        Ok(Some(ReplicaConfig {
            name: name.parse()?,
            region,
            kind,
            timeout: ReplicaConfig::DEFAULT_TIMEOUT,
            bandwidth: Bandwidth::default(),
        }))
    }
}

fn is_acceptable(endpoint: &url::Url) -> bool {
    let loopback = match endpoint.host() {
        Some(url::Host::Domain(host)) => host == "localhost",
        Some(url::Host::Ipv4(address)) => address.is_loopback(),
        Some(url::Host::Ipv6(address)) => address.is_loopback(),
        None => false,
    };
    let bare = endpoint.username().is_empty() && endpoint.password().is_none();
    bare && (endpoint.scheme() == "https" || (endpoint.scheme() == "http" && loopback))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;
    use lifeboat_engine::Class;

    fn s3(endpoint: &str) -> GivenReplica {
        GivenReplica {
            s3_bucket: Some("b".to_owned()),
            s3_region: Some("eu".to_owned()),
            s3_endpoint: Some(endpoint.parse().unwrap()),
            ..GivenReplica::default()
        }
    }

    #[test]
    fn flags_name_one_replica_or_none() {
        assert!(GivenReplica::default().replica().unwrap().is_none());
        let directory = GivenReplica { directory: Some("/copy".into()), ..GivenReplica::default() };
        assert!(matches!(directory.replica().unwrap().unwrap().kind, ReplicaKind::Directory { .. }));
        assert!(GivenReplica { directory: Some("/copy".into()), ..s3("https://s3") }.replica().is_err());
        assert!(GivenReplica { s3_region: None, ..s3("https://s3") }.replica().is_err());
        assert!(GivenReplica { s3_bucket: None, ..s3("https://s3") }.replica().is_err());
        let prefix = GivenReplica { vault_prefix: Some("p".to_owned()), ..GivenReplica::default() };
        assert!(prefix.replica().is_err());
    }

    #[test]
    fn endpoints_have_tls_or_are_on_the_loopback_and_hold_no_credentials() {
        for good in ["https://s3.example", "http://localhost:1", "http://127.0.0.1:1", "http://[::1]:1"] {
            assert!(s3(good).replica().is_ok(), "{good}");
        }
        for bad in
            ["http://s3.example", "http://localhost.example", "http://10.0.0.1", "ftp://localhost", "https://a:b@s3"]
        {
            let error = s3(bad).replica().unwrap_err();
            assert_eq!(error.class(), Class::Usage, "{bad}");
        }
    }
}
