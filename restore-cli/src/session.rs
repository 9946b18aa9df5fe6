//! What the commands share: the flags, the output, and the vault that configuration or flags name.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use chrono::{DateTime, Utc};
use lifeboat_engine::clock::SharedClock;
use lifeboat_engine::config::{Config, Limits, ReplicaConfig, ReplicaKind, Surroundings};
use lifeboat_engine::databases::ToolEnvironment;
use lifeboat_engine::format::id::Name;
use lifeboat_engine::restore::VaultReader;
use lifeboat_engine::store;
use lifeboat_engine::store::SharedReplica;
use lifeboat_engine::worker::{Guard, WorkerPlace};
use lifeboat_engine::{Error, Result};
use tempfile::TempDir;
use tokio_util::sync::CancellationToken;

use crate::access::{self, Need};
use crate::flags::Globals;
use crate::human;
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
    /// Who works with databases, beside a drill that names another.
    pub(crate) worker: WorkerPlace,
    /// Looks a variable of the environment up.
    pub(crate) variable: fn(&str) -> Option<OsString>,
    /// This program, …
    pub(crate) program: PathBuf,
    /// … and its whole command line.
    pub(crate) arguments: Vec<OsString>,
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
    /// The moment to read it as of; `None`: as it is.
    pub(crate) as_of: Option<DateTime<Utc>>,
}

impl Session {
    /// The replica that the flags name; without such flags, the replicas of the configuration.
    ///
    /// # Errors
    /// The flags contradict each other, the configuration is invalid, or it has no replica of that
    /// name.
    pub(crate) fn place(&self) -> Result<Place> {
        if let Some(replica) = self.globals.given.replica()? {
            if self.globals.replica.is_some() {
                return Err(Error::usage(
                    "--replica chooses from a configuration, but --directory or --s3-bucket names the replica already",
                )
                .hint("leave --replica out"));
            }
            let vault_prefix = self.globals.given.vault_prefix.as_deref().unwrap_or_default().trim_matches('/');
            let vault_prefix = vault_prefix.to_owned();
            return Ok(Place {
                config: None,
                replicas: vec![replica],
                vault_prefix,
                limits: Limits::default(),
                as_of: None,
            });
        }
        let config = self.configuration()?;
        let mut replicas = config.replicas.clone();
        if let Some(name) = &self.globals.replica {
            let known: Vec<String> = replicas.iter().map(|replica| replica.name.to_string()).collect();
            replicas.retain(|replica| replica.name == name.name);
            if replicas.is_empty() {
                return Err(Error::usage(format!("the configuration has no replica {}", name.name))
                    .hint(format!("it has: {}", known.join(", "))));
            }
        }
        let (vault_prefix, limits) = (config.vault_prefix.clone(), config.limits.clone());
        Ok(Place { config: Some(config), replicas, vault_prefix, limits, as_of: None })
    }

    /// The configuration, for commands that cannot do without one.
    ///
    /// # Errors
    /// Flags name a replica instead; the file is missing or invalid.
    pub(crate) fn configuration(&self) -> Result<Config> {
        if self.globals.given.is_named() {
            return Err(Error::usage("this command works on an installation, not on a single replica")
                .hint("pass --config instead of --directory or --s3-bucket"));
        }
        let path = &self.globals.config;
        if !path.exists() {
            return Err(Error::configuration(format!("there is no configuration {}", path.display()))
                .hint("pass --config or set LIFEBOAT_CONFIG; or name one replica with --directory or --s3-bucket"));
        }
        Config::load(path, &self.surroundings)
    }

    /// Opens the vault for reading.
    ///
    /// # Errors
    /// No identity or trusted signer is at hand, or no replica answers.
    pub(crate) async fn reader(&self, place: &Place, need: Need) -> Result<VaultReader> {
        self.open(place, need, None).await
    }

    /// As [`Self::reader`], for whoever reads `dataset` next.
    pub(crate) async fn reader_for(&self, dataset: &Name, place: &Place, need: Need) -> Result<VaultReader> {
        self.open(place, need, Some(dataset)).await
    }

    async fn open(&self, place: &Place, need: Need, dataset: Option<&Name>) -> Result<VaultReader> {
        let keys = access::reader_keys(&self.globals, place.config.as_ref(), need);
        let mut keys = self.cancellable("reading an identity", keys).await?;
        let (replicas, unopened) = place.open_for_reading(&self.clock).await?;
        let config = place.config.as_ref();
        if let Some(owners) = access::owners(&self.globals, config)? {
            // A root that revokes somebody counts for what was there before it, too.
            let (now, past) = match place.as_of {
                None => (replicas.clone(), Vec::new()),
                Some(_) => (place.open_each(None, &self.clock).await?.0, replicas.clone()),
            };
            let rooted = access::rooted(&owners, &self.globals, config, (&now, &past), self.clock.now());
            let (trust, warnings) = self.cancellable("reading the root", rooted).await?;
            warnings.into_iter().for_each(|warning| self.out.warning(warning));
            keys.trust = trust;
        }
        let (limits, cancel) = (place.limits.clone(), self.cancel.clone());
        let opened = async {
            match dataset {
                Some(dataset) => VaultReader::open_for(dataset, &replicas, keys, limits, cancel).await,
                None => VaultReader::open(&replicas, keys, limits, cancel).await,
            }
        };
        let reader = self.cancellable("opening the vault", opened).await?.without(unopened);
        for (replica, why) in reader.unreachable() {
            self.out.warning(human::skipping(replica, why));
        }
        Ok(reader)
    }

    /// The datasets to work on: the named one, or all.
    ///
    /// # Errors
    /// The vault has no such dataset.
    pub(crate) async fn datasets(&self, reader: &VaultReader, only: Option<&Name>) -> Result<Vec<Name>> {
        // Whatever else the replicas name does not matter then.
        if let Some(dataset) = only
            && self.cancellable("listing the vault", reader.has_dataset(dataset)).await?
        {
            return Ok(vec![dataset.clone()]);
        }
        let known = self.cancellable("listing the vault", reader.datasets()).await?;
        match only {
            None => Ok(known),
            Some(dataset) => {
                let names: Vec<&str> = known.iter().map(Name::as_str).collect();
                Err(Error::usage(format!("the vault has no dataset {dataset}")).hint(if names.is_empty() {
                    "the vault is empty: back up first".to_owned()
                } else {
                    format!("it has: {}", names.join(", "))
                }))
            }
        }
    }

    /// Does `work`, and ends early when a signal comes.
    ///
    /// # Errors
    /// Those of `work`, or that it was cancelled.
    pub(crate) async fn cancellable<T>(&self, what: &str, work: impl Future<Output = Result<T>>) -> Result<T> {
        tokio::select! {
            result = work => result,
            () = self.cancel.cancelled() => Err(Error::failed(format!("{what} was cancelled"))),
        }
    }

    /// Goes on only with `--yes` or a person's consent.
    ///
    /// # Errors
    /// The person refused, or there is nobody to ask.
    pub(crate) async fn confirm(&self, yes: bool, question: String) -> Result<()> {
        self.confirm_by(yes, question, "yes".to_owned(), "pass --yes to confirm".to_owned()).await
    }

    /// As [`Self::confirm`], by a `word` that is not typed without thinking. `hint` says how to
    /// confirm without a terminal.
    pub(crate) async fn confirm_by(&self, yes: bool, question: String, word: String, hint: String) -> Result<()> {
        if yes {
            return Ok(());
        }
        if !self.out.can_ask() {
            return Err(Error::usage("this needs your consent, and there is no terminal to ask on").hint(hint));
        }
        let out = self.out;
        let answer = async {
            let asked = tokio::task::spawn_blocking(move || out.ask(&question, &word)).await;
            asked.map_err(|error| Error::failed("cannot ask").because(error))
        };
        if self.cancellable("the question", answer).await? {
            Ok(())
        } else {
            Err(Error::failed("you did not confirm; nothing was changed"))
        }
    }

    /// Says so if nobody else does the work with databases; `remedy` is how somebody else would.
    pub(crate) fn tell_what_guards_the_keys(&self, worker: &WorkerPlace, remedy: &str) {
        if worker.guard() == Guard::Nothing {
            self.out.note(format!(
                "the work with the database runs as this user, kept from the keys by the kernel's sandbox alone; {remedy}"
            ));
        }
    }

    /// A private directory that is removed when it is dropped.
    ///
    /// # Errors
    /// [`Class::Storage`](lifeboat_engine::Class::Storage).
    pub(crate) fn scratch(&self) -> Result<TempDir> {
        let mut builder = tempfile::Builder::new();
        builder.prefix("lifeboat-").permissions(Permissions::from_mode(0o700)).tempdir_in(&self.temporary).map_err(
            |error| {
                Error::storage(format!("cannot make a temporary directory in {}", self.temporary.display()))
                    .because(error)
                    .hint("set TMPDIR to a directory that this user can write to, with enough space")
            },
        )
    }
}

impl Place {
    /// The same place at the moment that was asked for.
    pub(crate) fn read_as_of(self, as_of: Option<DateTime<Utc>>) -> Self {
        Self { as_of, ..self }
    }

    /// The same place by these replicas alone.
    pub(crate) fn narrowed(&self, names: &[Name]) -> Self {
        Self {
            config: self.config.clone(),
            replicas: self.replicas.iter().filter(|replica| names.contains(&replica.name)).cloned().collect(),
            vault_prefix: self.vault_prefix.clone(),
            limits: self.limits.clone(),
            as_of: self.as_of,
        }
    }

    /// The configuration of a host that may know the vault as it is; none for a moment in the past.
    pub(crate) fn host(&self) -> Option<&Config> {
        self.config.as_ref().filter(|_| self.as_of.is_none())
    }

    /// The replicas as they are now, to write into: those of `opened`, unless they show the past.
    ///
    /// # Errors
    /// None can be opened.
    pub(crate) async fn as_it_is(&self, opened: &[SharedReplica], clock: &SharedClock) -> Result<Vec<SharedReplica>> {
        if self.as_of.is_none() {
            return Ok(opened.to_vec());
        }
        let (mut replicas, _) = self.open_each(None, clock).await?;
        replicas.retain(|replica| opened.iter().any(|known| known.name() == replica.name()));
        Ok(replicas)
    }

    /// Opens the buckets among the replicas, as they are now. A directory keeps no versions.
    ///
    /// # Errors
    /// There is none; one cannot be opened.
    pub(crate) async fn open_buckets(&self, clock: &SharedClock) -> Result<Vec<SharedReplica>> {
        let mut opened = Vec::new();
        for replica in self.replicas.iter().filter(|replica| matches!(replica.kind, ReplicaKind::S3(_))) {
            opened.push(store::open(replica, &self.vault_prefix, clock).await?);
        }
        Ok(opened)
    }

    /// Opens what can be opened: one replica whose files are broken must not stop a restore from
    /// another. Of the others, tells why they cannot be opened.
    pub(crate) async fn open_for_reading(
        &self,
        clock: &SharedClock,
    ) -> Result<(Vec<SharedReplica>, BTreeMap<Name, String>)> {
        self.open_each(self.as_of, clock).await
    }

    async fn open_each(
        &self,
        as_of: Option<DateTime<Utc>>,
        clock: &SharedClock,
    ) -> Result<(Vec<SharedReplica>, BTreeMap<Name, String>)> {
        let (mut replicas, mut unopened, mut first) = (Vec::new(), BTreeMap::new(), None);
        for replica in &self.replicas {
            let opened = match as_of {
                Some(moment) => store::open_as_of(replica, &self.vault_prefix, clock, moment).await,
                None => store::open(replica, &self.vault_prefix, clock).await,
            };
            match opened {
                Ok(replica) => replicas.push(replica),
                Err(error) => {
                    unopened.insert(replica.name.clone(), error.chain());
                    first = first.or(Some(error));
                }
            }
        }
        match first {
            Some(error) if replicas.is_empty() => Err(error),
            _ => Ok((replicas, unopened)),
        }
    }
}
