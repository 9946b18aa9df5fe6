//! What the commands share: the flags, the output, and the vault that configuration or flags name.

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use lifeboat_engine::clock::SharedClock;
use lifeboat_engine::config::{
    Config, Limits, ReplicaConfig, ReplicaKind, S3Config, S3Credentials, SecretRef, Surroundings,
};
use lifeboat_engine::databases::ToolEnvironment;
use lifeboat_engine::format::id::Name;
use lifeboat_engine::restore::VaultReader;
use lifeboat_engine::store;
use lifeboat_engine::store::SharedReplica;
use lifeboat_engine::store::bandwidth::Bandwidth;
use lifeboat_engine::{Class, Error, Result};
use tempfile::TempDir;
use tokio_util::sync::CancellationToken;

use crate::access::{self, Need};
use crate::cli::{GivenReplica, Globals};
use crate::output::Output;

/// One invocation.
pub(crate) struct Session {
    pub(crate) globals: Globals,
    pub(crate) out: Output,
    pub(crate) clock: SharedClock,
    /// Fired by SIGINT and SIGTERM.
    pub(crate) cancel: CancellationToken,
    pub(crate) surroundings: Surroundings,
    /// What client tools inherit of the environment.
    pub(crate) tools: ToolEnvironment,
    /// Where private temporary directories are made.
    pub(crate) temporary: PathBuf,
}

/// Where the vault is.
pub(crate) struct Place {
    /// `None` when flags name the replica.
    pub(crate) config: Option<Config>,
    /// At least one.
    pub(crate) replicas: Vec<ReplicaConfig>,
    pub(crate) vault_prefix: String,
    pub(crate) limits: Limits,
}

impl Session {
    /// What flags or, without any, the configuration name.
    ///
    /// # Errors
    /// Both or neither, an invalid configuration, or no replica of the name.
    pub(crate) fn place(&self) -> Result<Place> {
        if let Some(replica) = given_replica(&self.globals.given)? {
            if self.globals.replica.is_some() {
                return Err(Error::usage("--replica chooses from a configuration, and flags name the replica already"));
            }
            let vault_prefix = self.globals.given.vault_prefix.as_deref().unwrap_or_default().trim_matches('/');
            let vault_prefix = vault_prefix.to_owned();
            return Ok(Place { config: None, replicas: vec![replica], vault_prefix, limits: Limits::default() });
        }
        let config = self.configuration()?;
        let mut replicas = config.replicas.clone();
        if let Some(name) = &self.globals.replica {
            let known: Vec<String> = replicas.iter().map(|replica| replica.name.to_string()).collect();
            replicas.retain(|replica| replica.name == *name);
            if replicas.is_empty() {
                return Err(Error::usage(format!("the configuration has no replica {name}"))
                    .hint(format!("it has: {}", known.join(", "))));
            }
        }
        let (vault_prefix, limits) = (config.vault_prefix.clone(), config.limits.clone());
        Ok(Place { config: Some(config), replicas, vault_prefix, limits })
    }

    /// The configuration, for commands that cannot do without.
    ///
    /// # Errors
    /// Flags name a replica instead; the file is missing or invalid.
    pub(crate) fn configuration(&self) -> Result<Config> {
        if self.globals.given.names_one() {
            return Err(Error::usage("this command works on an installation, not on a single replica")
                .hint("name a configuration with --config, without --directory and --s3-bucket"));
        }
        let path = &self.globals.config;
        if !path.exists() {
            return Err(Error::configuration(format!("there is no configuration {}", path.display())).hint(
                "name another with --config or LIFEBOAT_CONFIG, or one replica with --directory or --s3-bucket",
            ));
        }
        Config::load(path, &self.surroundings)
    }

    /// Opens the vault for reading.
    ///
    /// # Errors
    /// No identity or trusted signer is at hand, or no replica answers.
    pub(crate) async fn reader(&self, place: &Place, need: Need) -> Result<VaultReader> {
        let keys = access::reader_keys(self, place.config.as_ref(), need).await?;
        let replicas = place.open_for_reading(self.out, &self.clock).await?;
        let opened = VaultReader::open(&replicas, keys, place.limits.clone(), self.cancel.clone());
        let reader = self.cancellable("opening the vault", opened).await?;
        for (replica, why) in reader.unreachable() {
            self.out.warning(format!("replica {replica} is left aside: {why}"));
        }
        Ok(reader)
    }

    /// The datasets to work on: the named one, or all.
    ///
    /// # Errors
    /// The vault has no such dataset.
    pub(crate) async fn datasets(&self, reader: &VaultReader, only: Option<&Name>) -> Result<Vec<Name>> {
        let known = self.cancellable("listing the vault", reader.datasets()).await?;
        match only {
            None => Ok(known),
            Some(dataset) if known.contains(dataset) => Ok(vec![dataset.clone()]),
            Some(dataset) => {
                let names: Vec<&str> = known.iter().map(Name::as_str).collect();
                Err(Error::usage(format!("the vault has no dataset {dataset}")).hint(if names.is_empty() {
                    "it is empty".to_owned()
                } else {
                    format!("it has: {}", names.join(", "))
                }))
            }
        }
    }

    /// Ends early when a signal came.
    ///
    /// # Errors
    /// Those of `work`, or cancelled.
    pub(crate) async fn cancellable<T>(&self, what: &str, work: impl Future<Output = Result<T>>) -> Result<T> {
        tokio::select! {
            result = work => result,
            () = self.cancel.cancelled() => Err(Error::failed(format!("{what} was cancelled"))),
        }
    }

    /// Goes on only with `--yes` or a person's consent.
    ///
    /// # Errors
    /// No consent, or nobody to ask.
    pub(crate) async fn confirm(&self, yes: bool, question: String) -> Result<()> {
        if yes {
            return Ok(());
        }
        if !self.out.can_ask() {
            return Err(Error::usage("this deletes data and nobody can be asked").hint("pass --yes if it is meant"));
        }
        let out = self.out;
        let answer = async {
            let asked = tokio::task::spawn_blocking(move || out.ask(&question)).await;
            asked.map_err(|error| Error::failed("cannot ask").because(error))
        };
        if self.cancellable("the question", answer).await? {
            Ok(())
        } else {
            Err(Error::failed("not confirmed; nothing was changed"))
        }
    }

    /// A private directory that is removed when it is dropped.
    ///
    /// # Errors
    /// [`Class::Storage`].
    pub(crate) fn scratch(&self) -> Result<TempDir> {
        let mut builder = tempfile::Builder::new();
        builder.prefix("lifeboat-").permissions(Permissions::from_mode(0o700)).tempdir_in(&self.temporary).map_err(
            |error| {
                Error::storage(format!("cannot make a temporary directory in {}", self.temporary.display()))
                    .because(error)
                    .hint("set TMPDIR to a directory with enough space")
            },
        )
    }
}

impl Place {
    /// Opens what can be opened: one replica whose files are broken must not stop a restore from
    /// another.
    async fn open_for_reading(&self, out: Output, clock: &SharedClock) -> Result<Vec<SharedReplica>> {
        let (mut replicas, mut first) = (Vec::new(), None);
        for replica in &self.replicas {
            match store::open(replica, &self.vault_prefix, clock).await {
                Ok(replica) => replicas.push(replica),
                Err(error) => {
                    if self.replicas.len() > 1 {
                        out.warning(format!("replica {} is left aside: {}", replica.name, error.chain()));
                    }
                    first = first.or(Some(error));
                }
            }
        }
        match first {
            Some(error) if replicas.is_empty() => Err(error),
            _ => Ok(replicas),
        }
    }
}

impl GivenReplica {
    fn names_one(&self) -> bool {
        self.directory.is_some() || self.s3_bucket.is_some()
    }
}

fn given_replica(given: &GivenReplica) -> Result<Option<ReplicaConfig>> {
    let s3_details = given.s3_region.is_some()
        || given.s3_endpoint.is_some()
        || given.s3_path_style
        || given.s3_ca_file.is_some()
        || given.s3_credentials.is_some();
    let (name, region, kind) = match (&given.directory, &given.s3_bucket) {
        (Some(_), Some(_)) => return Err(Error::usage("--directory and --s3-bucket name two replicas; name one")),
        (None, None) if s3_details => return Err(Error::usage("--s3-bucket is missing")),
        (Some(_), None) if s3_details => return Err(Error::usage("--s3-… flags do not fit --directory")),
        (None, None) if given.vault_prefix.is_some() => {
            return Err(Error::usage("--vault-prefix goes with --directory or --s3-bucket")
                .hint("in a configuration, set vault_prefix"));
        }
        (None, None) => return Ok(None),
        (Some(path), None) => ("directory", "local".to_owned(), ReplicaKind::Directory { path: path.clone() }),
        (None, Some(bucket)) => {
            let region = given.s3_region.clone().ok_or_else(|| {
                Error::usage("--s3-bucket needs --s3-region").hint("such as --s3-region eu-central-1")
            })?;
            if given.s3_endpoint.as_ref().is_some_and(|endpoint| !is_acceptable(endpoint)) {
                return Err(Error::usage("--s3-endpoint is not an https URL, or holds credentials")
                    .hint("use https; plain http is for the loopback only; credentials go into --s3-credentials"));
            }
            let s3 = S3Config {
                bucket: bucket.clone(),
                endpoint: given.s3_endpoint.clone(),
                path_style: given.s3_path_style,
                ca_file: given.s3_ca_file.clone(),
                storage_class: None,
                credentials: given
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

/// Turns an I/O error of the local disk into ours: for `map_err`.
pub(crate) fn storage(what: String) -> impl FnOnce(std::io::Error) -> Error {
    move |error| Error::new(Class::Storage, what).because(error)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

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
        assert!(given_replica(&GivenReplica::default()).unwrap().is_none());
        let directory = GivenReplica { directory: Some("/copy".into()), ..GivenReplica::default() };
        assert!(matches!(given_replica(&directory).unwrap().unwrap().kind, ReplicaKind::Directory { .. }));
        assert!(given_replica(&GivenReplica { directory: Some("/copy".into()), ..s3("https://s3") }).is_err());
        assert!(given_replica(&GivenReplica { s3_region: None, ..s3("https://s3") }).is_err());
        assert!(given_replica(&GivenReplica { s3_bucket: None, ..s3("https://s3") }).is_err());
        let prefix = GivenReplica { vault_prefix: Some("p".to_owned()), ..GivenReplica::default() };
        assert!(given_replica(&prefix).is_err());
    }

    #[test]
    fn endpoints_have_tls_or_are_on_the_loopback_and_hold_no_credentials() {
        for good in ["https://s3.example", "http://localhost:1", "http://127.0.0.1:1", "http://[::1]:1"] {
            assert!(given_replica(&s3(good)).is_ok(), "{good}");
        }
        for bad in
            ["http://s3.example", "http://localhost.example", "http://10.0.0.1", "ftp://localhost", "https://a:b@s3"]
        {
            let error = given_replica(&s3(bad)).unwrap_err();
            assert_eq!(error.class(), Class::Usage, "{bad}");
        }
    }
}
