//! `kit`: a sheet to print, with what a restore needs and what to type, for the day when nothing
//! else is left.
//!
//! It holds no secret. What it cannot hold, the master identity and store credentials, it names, so
//! that somebody keeps them elsewhere.

use std::collections::BTreeSet;
use std::path::PathBuf;

use chrono::{DateTime, Utc};
use lifeboat_engine::config::{Dataset, ReplicaConfig, ReplicaKind};
use lifeboat_engine::format::id::Name;
use lifeboat_engine::format::root::Principal;
use lifeboat_engine::root::SignedRoot;
use lifeboat_engine::{Error, Result};
use serde::Serialize;

use super::root_found;
use crate::access;
use crate::session::Session;
use crate::shell::quoted;

/// The document that prints the script for a recovery without this program.
const FORMAT: &str = include_str!("../../../FORMAT.md");

/// Print a sheet for the safe: where the backups are, whom to believe, the exact commands of a
/// restore, and a script that restores without this program. It holds no secret
#[derive(Debug, clap::Args)]
pub(crate) struct Args {}

#[derive(Serialize)]
pub(super) struct Kit {
    pub(super) host: Name,
    pub(super) printed: DateTime<Utc>,
    pub(super) vault: String,
    /// `None`: the vault has no root, or no owners are given.
    pub(super) root: Option<KitRoot>,
    pub(super) master_recipients: Vec<String>,
    /// Whose snapshots to believe.
    pub(super) signers: Vec<String>,
    pub(super) replicas: Vec<KitReplica>,
    pub(super) datasets: Vec<KitDataset>,
    /// Restores with stock tools.
    pub(super) recovery_script: String,
}

#[derive(Serialize)]
pub(super) struct KitRoot {
    pub(super) version: u64,
    pub(super) fingerprint: String,
    pub(super) threshold: usize,
    pub(super) owners: Vec<KitOwner>,
}

#[derive(Serialize)]
pub(super) struct KitOwner {
    pub(super) name: Name,
    pub(super) signer: String,
}

/// One replica.
#[derive(Serialize)]
pub(super) struct KitReplica {
    pub(super) replica: Name,
    pub(super) region: String,
    /// Where the authorities are that its store is checked with, if they are not the system's.
    pub(super) ca_file: Option<PathBuf>,
    /// The flags that name it and say whom to believe.
    pub(super) flags: String,
    /// Copies it into the directory `vault-copy`, for the script.
    pub(super) copy: String,
}

#[derive(Serialize)]
pub(super) struct KitDataset {
    pub(super) dataset: Name,
    pub(super) kind: &'static str,
    pub(super) restore: String,
}

pub(crate) async fn run(Args {}: &Args, session: &Session) -> Result<()> {
    let config = session.configuration()?;
    let (_, replicas, found) = root_found::found(session).await?;
    let has_owners = access::owners(&session.globals, Some(&config))?.is_some();
    let root = found.newest.filter(|_| has_owners);
    if has_owners && root.is_none() {
        // A sheet without it would have snapshots believed that the owners have revoked.
        return Err(root_found::no_root());
    }
    let keys = access::host_keys(&config);
    let vault = match (&root, &keys) {
        (Some(root), _) => root.root.vault.clone(),
        (None, Some(keys)) => keys.vault.clone(),
        (None, None) => root_found::vault_of(&replicas).await?,
    };
    let (signers, master_recipients) = match &root {
        Some(SignedRoot { root, .. }) => {
            let hosts = root.hosts.iter().filter(|host| host.until.is_none());
            (hosts.map(|host| host.signer.clone()).collect(), root.masters.clone())
        }
        None => {
            let own = keys.map(|keys| keys.signer.public().to_string());
            let all: BTreeSet<String> = config.keys.trusted_signers.iter().cloned().chain(own).collect();
            (all.into_iter().collect::<Vec<_>>(), config.keys.master_recipients.clone())
        }
    };
    if signers.is_empty() {
        return Err(Error::keys("nobody knows whose snapshots are to be believed, so the sheet would restore nothing")
            .hint("run this on the backup host, or name the owners in the configuration"));
    }
    let root = root.as_ref().map(KitRoot::of);
    let believed = believed(root.as_ref(), &signers);
    let restored_by = if root.is_some() { " --owner-directory owner" } else { "" };
    let place = |replica: &ReplicaConfig| KitReplica {
        replica: replica.name.clone(),
        region: replica.region.clone(),
        ca_file: match &replica.kind {
            ReplicaKind::S3(s3) => s3.ca_file.clone(),
            ReplicaKind::Directory { .. } => None,
        },
        flags: format!("{} {believed}", where_it_is(replica, &config.vault_prefix)),
        copy: copy(replica, &config.vault_prefix),
    };
    let command = |dataset: &Dataset| KitDataset {
        dataset: dataset.name.clone(),
        kind: dataset.source.database().kind(),
        restore: format!("restore {} --identity master.txt{restored_by} {}", dataset.name, target(dataset)),
    };
    session.out.result(&Kit {
        host: config.host.clone(),
        printed: session.clock.now(),
        vault,
        root,
        master_recipients,
        signers,
        replicas: config.replicas.iter().map(place).collect(),
        datasets: config.datasets.iter().map(command).collect(),
        recovery_script: script()?.to_owned(),
    })
}

impl KitRoot {
    fn of(signed: &SignedRoot) -> Self {
        let owner = |owner: &Principal| KitOwner { name: owner.name.clone(), signer: owner.signer.clone() };
        Self {
            version: signed.root.version,
            fingerprint: signed.fingerprint(),
            threshold: signed.root.threshold,
            owners: signed.root.owners.iter().map(owner).collect(),
        }
    }
}

/// The flags that say whom to believe.
fn believed(root: Option<&KitRoot>, signers: &[String]) -> String {
    let flags = |flag: &str, keys: Vec<&String>| {
        keys.into_iter().map(|key| format!("{flag} {}", quoted(key))).collect::<Vec<_>>().join(" ")
    };
    match root {
        Some(root) => {
            let owners = flags("--owner", root.owners.iter().map(|owner| &owner.signer).collect());
            if root.threshold > 1 { format!("{owners} --owner-threshold {}", root.threshold) } else { owners }
        }
        None => flags("--trusted-signer", signers.iter().collect()),
    }
}

/// The flags that name a replica.
fn where_it_is(replica: &ReplicaConfig, prefix: &str) -> String {
    let mut flags = match &replica.kind {
        ReplicaKind::Directory { path } => format!("--directory {}", quoted(&path.display().to_string())),
        ReplicaKind::S3(s3) => {
            let mut flags = format!("--s3-bucket {} --s3-region {}", quoted(&s3.bucket), quoted(&replica.region));
            if let Some(endpoint) = &s3.endpoint {
                flags.push_str(&format!(" --s3-endpoint {}", quoted(endpoint.as_str())));
            }
            if s3.path_style {
                flags.push_str(" --s3-path-style");
            }
            if s3.ca_file.is_some() {
                flags.push_str(" --s3-ca-file ca.pem");
            }
            format!("{flags} --s3-credentials credentials")
        }
    };
    if !prefix.is_empty() {
        flags.push_str(&format!(" --vault-prefix {}", quoted(prefix)));
    }
    flags
}

/// The command that copies a replica.
fn copy(replica: &ReplicaConfig, prefix: &str) -> String {
    match &replica.kind {
        ReplicaKind::Directory { path } => {
            format!("cp -r {} vault-copy", quoted(&path.join(prefix).display().to_string()))
        }
        ReplicaKind::S3(s3) => {
            let from = format!("s3://{}/{prefix}", s3.bucket);
            let endpoint =
                s3.endpoint.as_ref().map(|endpoint| format!(" --endpoint-url {}", quoted(endpoint.as_str())));
            let authorities = s3.ca_file.as_ref().map_or("", |_| " --ca-bundle ca.pem");
            format!(
                "AWS_SHARED_CREDENTIALS_FILE=credentials aws s3 sync {} vault-copy --region {}{}{authorities}",
                quoted(&from),
                quoted(&replica.region),
                endpoint.unwrap_or_default()
            )
        }
    }
}

/// Where a dataset is restored to.
fn target(dataset: &Dataset) -> String {
    match dataset.source.database().kind() {
        "postgres" => "--to-postgres 'postgresql://postgres@NEW-SERVER/postgres?sslmode=verify-full'".to_owned(),
        "mariadb" => "--to-mariadb 'mariadb://root@NEW-SERVER?sslmode=verify-full'".to_owned(),
        "redis" => "--to-redis 'rediss://restorer@NEW-SERVER:6379/?sslrootcert=CA-FILE'".to_owned(),
        _ => format!("--to-directory restored-{}", dataset.name),
    }
}

/// The script in FORMAT.md.
fn script() -> Result<&'static str> {
    let script = FORMAT.split_once("```bash\n").and_then(|(_, rest)| rest.split_once("```\n"));
    script.map(|(script, _)| script).ok_or_else(|| Error::failed("this program was built without the recovery script"))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn the_script_is_whole() {
        let script = script().unwrap();
        assert!(script.starts_with("#!/usr/bin/env bash\n") && script.lines().count() > 80, "{script}");
    }
}
