//! A vault that has a root: an owner with a folder, backup hosts, and the built programs.
#![allow(clippy::expect_used)]

use std::path::{Path, PathBuf};
use std::time::Duration;

use tempfile::TempDir;
use tokio::process::Command;

use crate::fake_clock;
use crate::ports;
use crate::programs::{self, Output, run};

const DEADLINE: Duration = Duration::from_secs(120);

/// Hosts and their owner, in one directory. A host is a folder with a configuration.
pub struct RootedVault {
    place: TempDir,
    /// The `[[replica]]` sections of every host.
    pub replicas: Vec<String>,
    /// The line of the owner.
    pub owner: String,
    /// What is added to the clock of the programs, such as `+2d`.
    pub clock: Option<String>,
}

impl RootedVault {
    /// Two directory replicas, `r1` and `r2`, and an owner called `ann`. There is no vault yet.
    ///
    /// # Panics
    /// As all of the harness does, on any failure.
    pub async fn new() -> Self {
        let place = tempfile::Builder::new().prefix("lifeboat-root-").tempdir_in("/tmp").expect("a directory");
        let mut vault = Self { place, replicas: Vec::new(), owner: String::new(), clock: None };
        for name in ["r1", "r2"] {
            std::fs::create_dir(vault.path(name)).expect("a directory");
            vault.replicas.push(format!(
                "[[replica]]\nname = \"{name}\"\nkind = \"directory\"\nregion = \"{name}\"\npath = \"{}\"\n",
                vault.path(name).display()
            ));
        }
        vault.owner = vault.new_owner("ann").await;
        vault
    }

    /// A file or folder.
    #[must_use]
    pub fn path(&self, name: &str) -> PathBuf {
        self.place.path().join(name)
    }

    /// Makes an owner in a folder of this name, and returns the line.
    ///
    /// # Panics
    /// As [`Self::new`].
    pub async fn new_owner(&self, name: &str) -> String {
        let folder = self.path(name).display().to_string();
        let made = self.plain(&["owner", "init", "--name", name, "--directory", &folder]).await;
        assert!(made.status.success(), "{made}");
        made.stdout.trim().to_owned()
    }

    /// The identity of an owner, which opens everything.
    #[must_use]
    pub fn identity(&self, owner: &str) -> String {
        self.path(owner).join("identity").display().to_string()
    }

    /// The recipient of that identity.
    ///
    /// # Panics
    /// As [`Self::new`].
    #[must_use]
    pub fn master(&self, owner: &str) -> String {
        let text = std::fs::read_to_string(self.identity(owner)).expect("an identity");
        let recipient = text.lines().find_map(|line| line.strip_prefix("# public key: "));
        recipient.expect("a recipient").to_owned()
    }

    /// The configuration of a host.
    #[must_use]
    pub fn config(&self, host: &str) -> PathBuf {
        self.path(&format!("{host}.toml"))
    }

    /// Writes the configuration of a host. `keys` are lines of `[keys]`. Each dataset is the file
    /// of its name in the folder of the host.
    ///
    /// # Panics
    /// As [`Self::new`].
    pub fn configure(&self, host: &str, keys: &str, datasets: &[&str]) {
        let home = self.path(host);
        std::fs::create_dir_all(&home).expect("a directory");
        let shown = home.display();
        let dataset = |name: &&str| {
            let file = home.join(name);
            if !file.exists() {
                std::fs::write(&file, format!("{name} of {host}")).expect("a file");
            }
            format!(
                "[[dataset]]\nname = \"{name}\"\nhome_region = \"home\"\n[dataset.source]\nkind = \"file\"\npath = \"{}\"\n",
                file.display()
            )
        };
        let text = format!(
            "host = \"{host}\"\nstate_directory = \"{shown}/state\"\ncontrol_socket = \"{shown}/control.sock\"\n\
             listen = \"127.0.0.1:{}\"\n[keys]\ndirectory = \"{shown}/keys\"\n{keys}\n[limits]\ncpu = 1\n{}{}",
            ports::free(),
            self.replicas.concat(),
            datasets.iter().map(dataset).collect::<String>()
        );
        std::fs::write(self.config(host), text).expect("a configuration");
    }

    /// Changes the text of a host's configuration.
    ///
    /// # Panics
    /// `from` is not in it.
    pub fn reconfigure(&self, host: &str, from: &str, to: &str) {
        let text = std::fs::read_to_string(self.config(host)).expect("a configuration");
        assert!(text.contains(from), "{text}");
        std::fs::write(self.config(host), text.replace(from, to)).expect("a configuration");
    }

    /// The line of `[keys]` that names the owner.
    #[must_use]
    pub fn owners(&self) -> String {
        format!("owners = [\"{}\"]", self.owner)
    }

    /// A backup host, whose signer the owner puts into the root. `more` are flags of `init`.
    ///
    /// # Panics
    /// As [`Self::new`].
    pub async fn set_up(&self, host: &str, datasets: &[&str], more: &[&str]) {
        self.configure(host, &self.owners(), datasets);
        let init = self.lifeboat(host, &[&["--json", "init"], more].concat()).await;
        assert!(init.status.success(), "{init}");
        let report = init.json().expect("a report");
        self.sign_and_install(host, report["request"].as_str().expect("a request")).await;
    }

    /// Lets the owner sign a request, and installs that from a host.
    ///
    /// # Panics
    /// As [`Self::new`].
    pub async fn sign_and_install(&self, host: &str, request: &str) {
        let line = self.signed("ann", request).await;
        let installed = self.lifeboat(host, &["root", "install", &line]).await;
        assert!(installed.status.success(), "{installed}");
    }

    /// Changes the root: `words` are those of `root request`.
    ///
    /// # Panics
    /// As [`Self::new`].
    pub async fn change(&self, host: &str, words: &[&str]) {
        self.change_by(host, words, &["ann"]).await;
    }

    /// As [`Self::change`], signed by these owners, one after the other.
    ///
    /// # Panics
    /// As [`Self::new`].
    pub async fn change_by(&self, host: &str, words: &[&str], owners: &[&str]) {
        let request = self.lifeboat(host, &[&["root", "request"], words].concat()).await;
        assert!(request.status.success(), "{request}");
        let mut line = request.stdout.trim().to_owned();
        for owner in owners {
            line = self.signed(owner, &line).await;
        }
        let installed = self.lifeboat(host, &["root", "install", &line]).await;
        assert!(installed.status.success(), "{installed}");
    }

    /// What an owner answers to a request.
    ///
    /// # Panics
    /// The owner refuses.
    pub async fn signed(&self, owner: &str, request: &str) -> String {
        let signed = self.sign(owner, request).await;
        assert!(signed.status.success(), "{signed}");
        signed.stdout.trim().to_owned()
    }

    /// As [`Self::signed`], which may be refused.
    ///
    /// # Panics
    /// The program cannot be run.
    pub async fn sign(&self, owner: &str, request: &str) -> Output {
        let folder = self.path(owner).display().to_string();
        self.plain(&["owner", "sign", "--yes", "--directory", &folder, request]).await
    }

    /// The CLI without a configuration.
    ///
    /// # Panics
    /// The program cannot be run.
    pub async fn plain(&self, words: &[&str]) -> Output {
        let mut program = Command::new(programs::lifeboat());
        program.envs(self.clock.iter().flat_map(|offset| fake_clock::environment(offset)));
        run(program.args(words), DEADLINE).await.expect("lifeboat runs")
    }

    /// The CLI with the configuration of a host.
    ///
    /// # Panics
    /// The program cannot be run.
    pub async fn lifeboat(&self, host: &str, words: &[&str]) -> Output {
        let config = self.config(host).display().to_string();
        self.plain(&[&["--config", &config], words].concat()).await
    }

    /// One backup of all datasets of a host.
    ///
    /// # Panics
    /// The program cannot be run.
    pub async fn once(&self, host: &str) -> Output {
        let mut daemon = Command::new(programs::lifeboatd());
        daemon.envs(self.clock.iter().flat_map(|offset| fake_clock::environment(offset)));
        let daemon = daemon.arg("--config").arg(self.config(host)).args(["--log", "text", "--once"]);
        run(daemon, DEADLINE).await.expect("lifeboatd runs")
    }

    /// Restores the newest snapshot of a dataset with the owner's identity, as a reader who knows
    /// the owner alone, from one directory replica. Returns the file, or why there is none.
    ///
    /// # Errors
    /// What the program printed.
    ///
    /// # Panics
    /// The program cannot be run.
    pub async fn restored(&self, dataset: &str, replica: &str, more: &[&str]) -> Result<String, Output> {
        let out = tempfile::tempdir_in(self.place.path()).expect("a directory");
        let target = out.path().join("out").display().to_string();
        let (replica, identity) = (self.path(replica).display().to_string(), self.identity("ann"));
        let owner = self.path("ann").display().to_string();
        let words = ["restore", dataset, "--directory", &replica, "--owner", &self.owner, "--identity", &identity];
        let words = [&words[..], &["--owner-directory", &owner]].concat();
        let restored = self.plain(&[&words[..], &["--to-directory", &target], more].concat()).await;
        if !restored.status.success() {
            return Err(restored);
        }
        Ok(std::fs::read_to_string(Path::new(&target).join(dataset)).expect("the restored file"))
    }
}
