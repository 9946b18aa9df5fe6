//! A backup host as an operator sets it up: a configuration file, keys made by `lifeboat init`, the
//! built programs.
#![allow(clippy::expect_used)]

use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::time::Duration;

use lifeboat_engine::clock::SystemClock;
use lifeboat_engine::config::{Config, ReplicaConfig, ReplicaKind, S3Credentials, Surroundings};
use lifeboat_engine::keep::prune::{Prune, PruneOutcome};
use lifeboat_engine::keys::HostKeys;
use lifeboat_engine::state::StateDirectory;
use serde_json::Value;
use tempfile::TempDir;
use tokio::process::Command;
use tokio_util::sync::CancellationToken;

use crate::programs::{self, Output, run};
use crate::{ports, tools};

const DEADLINE: Duration = Duration::from_secs(120);

/// One backup host with one dataset, `data`.
pub struct BackupHost {
    place: TempDir,
    vault_prefix: String,
    /// The signer that `init` printed.
    pub signer: String,
}

impl BackupHost {
    /// Writes a configuration with these `[[replica]]` and `[dataset.source]` sections, makes a
    /// master identity with the real `age-keygen`, and runs `lifeboat init`.
    ///
    /// # Panics
    /// On any failure, as all of the harness does.
    pub async fn set_up(replicas: &[String], source: &str) -> Self {
        Self::set_up_in("vault", 1, replicas, source).await
    }

    /// As [`Self::set_up`], with this prefix of the vault in its buckets, and so many replicas that
    /// must hold a snapshot.
    ///
    /// # Panics
    /// As [`Self::set_up`].
    pub async fn set_up_in(vault_prefix: &str, min_replicas: usize, replicas: &[String], source: &str) -> Self {
        let place = tempfile::Builder::new().prefix("lifeboat-host-").tempdir_in("/tmp").expect("a directory");
        let mut host = Self { place, vault_prefix: vault_prefix.to_owned(), signer: String::new() };
        let mut keygen = Command::new(tools::find("age-keygen"));
        let made = run(keygen.arg("-o").arg(host.master()), DEADLINE).await.expect("age-keygen runs");
        assert!(made.status.success(), "{}", made.stderr);
        host.configure(min_replicas, replicas, source).await;
        let init = host.lifeboat(&["--json", "init"]).await;
        assert!(init.status.success(), "{}", init.stderr);
        host.signer = init.json().expect("a report")["signer"].as_str().expect("a signer").to_owned();
        host
    }

    /// Writes the configuration anew.
    ///
    /// # Panics
    /// As [`Self::set_up`].
    pub async fn configure(&self, min_replicas: usize, replicas: &[String], source: &str) {
        let mut keygen = Command::new(tools::find("age-keygen"));
        let public = run(keygen.arg("-y").arg(self.master()), DEADLINE).await.expect("age-keygen runs");
        let root = self.path().display();
        // A test may go on with another kind of source.
        let replaces = if source.contains("kind = \"command\"") { "" } else { "replaces = \"command\"\n" };
        let text = format!(
            "host = \"host\"\nvault_prefix = \"{prefix}\"\nstate_directory = \"{root}/state\"\nmin_replicas = {min_replicas}\n\
             control_socket = \"{root}/control.sock\"\nlisten = \"127.0.0.1:{port}\"\n\
             [keys]\ndirectory = \"{root}/keys\"\nmaster_recipients = [\"{master}\"]\n[limits]\ncpu = 2\nstall = \"60s\"\n\
             {replicas}\n[[dataset]]\nname = \"data\"\nhome_region = \"home\"\nchunk_size = \"64KiB\"\n{replaces}[dataset.source]\n{source}\n",
            prefix = self.vault_prefix,
            port = ports::free(),
            master = public.stdout.trim(),
            replicas = replicas.join("\n"),
        );
        std::fs::write(self.config(), text).expect("a configuration");
    }

    /// Its directory.
    #[must_use]
    pub fn path(&self) -> &Path {
        self.place.path()
    }

    /// Its configuration file.
    #[must_use]
    pub fn config(&self) -> PathBuf {
        self.path().join("lifeboat.toml")
    }

    /// The owner's identity file, which a real host does not have.
    #[must_use]
    pub fn master(&self) -> PathBuf {
        self.path().join("master.txt")
    }

    /// The daemon, ready to be given arguments.
    #[must_use]
    pub fn lifeboatd(&self) -> Command {
        let mut command = Command::new(programs::lifeboatd());
        command.arg("--config").arg(self.config());
        command
    }

    /// One backup now; its report where it succeeded.
    ///
    /// # Panics
    /// The program cannot be run, or prints no report although it succeeds.
    pub async fn once(&self) -> (Output, Value) {
        let output =
            run(self.lifeboatd().args(["--json", "--log", "text", "--once"]), DEADLINE).await.expect("lifeboatd runs");
        let report: Value = serde_json::from_str(output.stdout.lines().next().unwrap_or_default()).unwrap_or_default();
        // A run may commit and end with an error even so.
        let committed = report["snapshot"].is_string();
        assert!(committed || !output.status.success(), "{output}");
        let report = if committed { report } else { Value::Null };
        (output, report)
    }

    /// The CLI with the host's configuration.
    ///
    /// # Panics
    /// The program cannot be run.
    pub async fn lifeboat(&self, arguments: &[&str]) -> Output {
        let mut command = Command::new(programs::lifeboat());
        command.arg("--config").arg(self.config()).args(arguments);
        run(&mut command, DEADLINE).await.expect("lifeboat runs")
    }

    /// Deletes what is marked, as if its grace period were over: the programs go by the real time.
    ///
    /// # Panics
    /// The sweep cannot be planned or begun.
    pub async fn swept(&self) -> PruneOutcome {
        let mut config = Config::load(&self.config(), &Surroundings::default()).expect("a configuration");
        config.datasets[0].retention.grace = Duration::ZERO;
        let clock = SystemClock::shared();
        let replicas = config.open_replicas(&clock).await.expect("replicas");
        let prune = Prune {
            config: &config,
            dataset: &config.datasets[0],
            keys: &HostKeys::load(&config.keys).expect("keys"),
            replicas: &replicas,
            records: &[],
            state: &StateDirectory::open(&config.state_directory).expect("a state directory"),
            clock,
            cancel: CancellationToken::new(),
        };
        let plan = prune.plan().await.expect("a plan");
        prune.execute(&plan).await.expect("an outcome")
    }

    /// Restores the newest snapshot of `data` with the master identity, from one replica alone.
    ///
    /// # Panics
    /// It fails.
    pub async fn restored_from(&self, replica: &str) -> Vec<u8> {
        let out = self.path().join(format!("restored-{replica}"));
        let (master, target) = (self.master().display().to_string(), out.display().to_string());
        let words = ["--replica", replica, "--identity", &master, "restore", "data", "--to-directory", &target];
        let output = self.lifeboat(&words).await;
        assert!(output.status.success(), "{}", output.stderr);
        std::fs::read(out.join("stdout")).expect("the restored stream")
    }
}

/// The `[[replica]]` section of a region or a directory.
///
/// # Panics
/// Never: writing into a string cannot fail.
#[must_use]
pub fn section(replica: &ReplicaConfig) -> String {
    let mut text = format!("[[replica]]\nname = \"{}\"\nregion = \"{}\"\n", replica.name, replica.region);
    match &replica.kind {
        ReplicaKind::Directory { path } => {
            writeln!(text, "kind = \"directory\"\npath = \"{}\"", path.display()).expect("text");
        }
        ReplicaKind::S3(s3) => {
            writeln!(text, "kind = \"s3\"\nbucket = \"{}\"\npath_style = {}", s3.bucket, s3.path_style).expect("text");
            if let Some(endpoint) = &s3.endpoint {
                writeln!(text, "endpoint = \"{endpoint}\"").expect("text");
            }
            if let Some(file) = &s3.ca_file {
                writeln!(text, "ca_file = \"{}\"", file.display()).expect("text");
            }
            if let Some(lock) = &s3.lock {
                writeln!(text, "lock = \"{}s\"", lock.period.as_secs()).expect("text");
                writeln!(text, "lock_at_most = \"{}s\"", lock.at_most.as_secs()).expect("text");
            }
            if let S3Credentials::File(secret) = &s3.credentials {
                writeln!(text, "credentials = \"{}\"", secret.path().display()).expect("text");
            }
        }
    }
    writeln!(text, "timeout = \"{}s\"", replica.timeout.as_secs()).expect("text");
    text
}
