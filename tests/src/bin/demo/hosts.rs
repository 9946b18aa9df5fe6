//! The machines of the story, each a directory of its own: the owner's safe, the backup host beside
//! the database, and the drill host, which holds no more than a drill host should.

use std::fmt::Write;
use std::fs;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use lifeboat_tests::ports;
use lifeboat_tests::programs::{self, Output, run_until};
use lifeboat_tests::s3::Region;
use serde_json::Value;
use tempfile::TempDir;
use tokio::process::Command;
use tokio_util::sync::CancellationToken;

use crate::company::Company;
use crate::{DATASET, Result};

const DEADLINE: Duration = Duration::from_secs(600);

/// Holds the master identity and the key that signs roots, offline.
pub(crate) struct Owner {
    safe: TempDir,
    line: String,
}

impl Owner {
    /// Makes both keys.
    pub(crate) async fn prepare(stop: &CancellationToken) -> Result<Self> {
        let safe = machine()?;
        let line = Self::command(&safe, &["init"], stop).await?;
        Ok(Self { safe, line })
    }

    /// Signs a root. Nobody sits at a terminal, so the question is answered beforehand.
    pub(crate) async fn sign(&self, request: &str, stop: &CancellationToken) -> Result<String> {
        Self::command(&self.safe, &["sign", "--yes", request], stop).await
    }

    /// What the owner brings along.
    fn directory(&self) -> PathBuf {
        self.safe.path().join("owner")
    }

    /// The file that opens everything.
    pub(crate) fn master(&self) -> PathBuf {
        self.directory().join("identity")
    }

    async fn command(safe: &TempDir, words: &[&str], stop: &CancellationToken) -> Result<String> {
        let mut lifeboat = Command::new(programs::lifeboat());
        lifeboat.arg("owner").args(words).arg("--directory").arg(safe.path().join("owner"));
        Ok(finish(run_until(&mut lifeboat, DEADLINE, stop).await?)?.stdout.trim().to_owned())
    }
}

/// Beside the database: configuration, state, and keys that open no pack.
pub(crate) struct BackupHost {
    home: TempDir,
}

impl BackupHost {
    /// Writes its configuration.
    pub(crate) fn prepare(owner: &Owner, company: &Company, regions: [&Region; 2]) -> Result<Self> {
        let home = machine()?;
        let root = home.path().display();
        let mut config = format!(
            r#"
host = "shop-db"
vault_prefix = "lifeboat"
state_directory = "{root}/state"
control_socket = "{root}/control.sock"
listen = "127.0.0.1:{port}"
min_replicas = 2

[keys]
directory = "{root}/keys"
owners = ["{owner}"]
"#,
            port = ports::free(),
            owner = owner.line,
        );
        write_replicas(&mut config, home.path(), regions)?;
        company.write_datasets(&mut config)?;
        fs::write(home.path().join("lifeboat.toml"), config)?;
        Ok(Self { home })
    }

    /// Makes vault and keys.
    pub(crate) async fn init(&self, stop: &CancellationToken) -> Result<Value> {
        Ok(self.lifeboat(&["init", "--json"], stop).await?.json()?)
    }

    /// Puts a root that was signed into every region.
    pub(crate) async fn install(&self, root: &str, stop: &CancellationToken) -> Result<()> {
        self.lifeboat(&["root", "install", root], stop).await.map(drop)
    }

    /// Everything is as it must be.
    pub(crate) async fn check(&self, stop: &CancellationToken) -> Result<()> {
        self.lifeboat(&["check"], stop).await.map(drop)
    }

    /// Backs up these datasets now, or all.
    pub(crate) async fn back_up(&self, datasets: &[&str], stop: &CancellationToken) -> Result<()> {
        let mut lifeboatd = program(&programs::lifeboatd(), self.home.path());
        finish(run_until(lifeboatd.arg("--once").args(datasets), DEADLINE, stop).await?).map(drop)
    }

    /// The owner comes to this host, with the master identity, and restores.
    pub(crate) async fn restore(&self, owner: &Owner, words: &[&str], stop: &CancellationToken) -> Result<Value> {
        let mut lifeboat = program(&programs::lifeboat(), self.home.path());
        lifeboat.args(["restore", DATASET, "--json", "--identity"]).arg(owner.master());
        lifeboat.arg("--owner-directory").arg(owner.directory()).args(words);
        Ok(finish(run_until(&mut lifeboat, DEADLINE, stop).await?)?.json()?)
    }

    /// What the operator sees first.
    pub(crate) async fn status(&self, words: &[&str], stop: &CancellationToken) -> Result<String> {
        let mut lifeboat = program(&programs::lifeboat(), self.home.path());
        // It ends with an error as long as nothing was drilled.
        Ok(run_until(lifeboat.arg("status").args(words), DEADLINE, stop).await?.stdout)
    }

    async fn lifeboat(&self, arguments: &[&str], stop: &CancellationToken) -> Result<Output> {
        let mut lifeboat = program(&programs::lifeboat(), self.home.path());
        finish(run_until(lifeboat.args(arguments), DEADLINE, stop).await?)
    }

    fn keys_for_the_drill_host(&self) -> PathBuf {
        self.home.path().join("keys/drill-host")
    }
}

/// Holds the drill identity, a key to sign its reports, and read access: nothing of the backup
/// host.
pub(crate) struct DrillHost {
    home: TempDir,
}

impl DrillHost {
    /// Takes over the keys that `init` made for it, and pins the owner.
    pub(crate) fn prepare(
        owner: &Owner,
        backup_host: &BackupHost,
        company: &Company,
        regions: [&Region; 2],
    ) -> Result<Self> {
        let home = machine()?;
        let root = home.path().display();
        let owner = &owner.line;
        let mut config = format!(
            r#"
host = "drill"
vault_prefix = "lifeboat"
state_directory = "{root}/state"

[keys]
directory = "{root}/keys"
owners = ["{owner}"]
"#
        );
        write_replicas(&mut config, home.path(), regions)?;
        company.write_datasets(&mut config)?;
        fs::write(home.path().join("lifeboat.toml"), config)?;
        // Moved, not copied: from now on the backup host cannot read its own backups.
        fs::rename(backup_host.keys_for_the_drill_host(), home.path().join("keys"))?;
        Ok(Self { home })
    }

    /// The drill's report, whatever it found.
    pub(crate) async fn drill(&self, stop: &CancellationToken) -> Result<Value> {
        let mut lifeboat = program(&programs::lifeboat(), self.home.path());
        Self::told(&run_until(lifeboat.args(["drill", DATASET, "--json"]), DEADLINE, stop).await?, stop)
    }

    /// What the loss of a region means for everything, whatever that is; written as a page, too.
    pub(crate) async fn rehearse(&self, region: &str, page: &Path, stop: &CancellationToken) -> Result<Value> {
        let mut lifeboat = program(&programs::lifeboat(), self.home.path());
        lifeboat.args(["drill", "--json", "--region-loss", region, "--html"]).arg(page);
        Self::told(&run_until(&mut lifeboat, DEADLINE, stop).await?, stop)
    }

    /// What `lifeboat` answers here.
    pub(crate) async fn ask(&self, words: &[&str], stop: &CancellationToken) -> Result<Value> {
        let mut lifeboat = program(&programs::lifeboat(), self.home.path());
        Ok(finish(run_until(lifeboat.arg("--json").args(words), DEADLINE, stop).await?)?.json()?)
    }

    fn told(output: &Output, stop: &CancellationToken) -> Result<Value> {
        if stop.is_cancelled() {
            return Err("interrupted".into());
        }
        Ok(output.json().map_err(|error| format!("{error}: {output}"))?)
    }
}

/// A directory that only its owner may enter.
fn machine() -> Result<TempDir> {
    let home = tempfile::Builder::new().prefix("lifeboat-demo-").tempdir()?;
    fs::set_permissions(home.path(), fs::Permissions::from_mode(0o700))?;
    fs::DirBuilder::new().mode(0o700).create(home.path().join("state"))?;
    Ok(home)
}

/// Both regions as replicas; each machine gets its own copy of certificate authority and
/// credentials.
fn write_replicas(config: &mut String, home: &Path, regions: [&Region; 2]) -> Result<()> {
    for region in regions {
        let name = region.name();
        let ca_file = home.join(format!("{name}.pem"));
        let credentials = home.join(format!("{name}.credentials"));
        fs::copy(region.ca_file(), &ca_file)?;
        fs::copy(region.credential_file(), &credentials)?;
        write!(
            config,
            r#"
[[replica]]
name = "{name}"
region = "{name}"
kind = "s3"
bucket = "{bucket}"
endpoint = "{endpoint}"
path_style = true
ca_file = "{ca_file}"
credentials = "{credentials}"
"#,
            bucket = region.bucket(),
            endpoint = region.endpoint(),
            ca_file = ca_file.display(),
            credentials = credentials.display(),
        )?;
    }
    Ok(())
}

/// A program on the machine `home`, with an environment that holds nothing of ours.
fn program(path: &Path, home: &Path) -> Command {
    let mut command = Command::new(path);
    command.env_clear().env("HOME", home).current_dir(home);
    for kept in ["PATH", "TMPDIR"] {
        if let Some(value) = std::env::var_os(kept) {
            command.env(kept, value);
        }
    }
    command.arg("--config").arg(home.join("lifeboat.toml"));
    command
}

fn finish(output: Output) -> Result<Output> {
    if output.status.success() { Ok(output) } else { Err(output.to_string().into()) }
}
