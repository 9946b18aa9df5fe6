//! What the examples have in common: arguments, a replica in a directory, a reader's keys.

#![allow(clippy::print_stderr, unreachable_pub, reason = "an example talks to its user")]

use std::process::exit;

use lifeboat_engine::Result;
use lifeboat_engine::clock::SystemClock;
use lifeboat_engine::config::{ReplicaConfig, ReplicaKind, SecretRef};
use lifeboat_engine::keys::trust::Trust;
use lifeboat_engine::keys::{ReaderKeys, parse_identities, parse_signers};
use lifeboat_engine::store::bandwidth::Bandwidth;
use lifeboat_engine::store::{self, SharedReplica};

/// The arguments of the command line, or a sentence on how it is used.
pub fn arguments<const N: usize>(usage: &str) -> [String; N] {
    std::env::args().skip(1).collect::<Vec<_>>().try_into().unwrap_or_else(|_| {
        eprintln!("usage: {usage}");
        exit(2)
    })
}

/// The replica in a directory that begins with `vault.json`.
pub async fn replica(directory: &str) -> Result<SharedReplica> {
    let config = ReplicaConfig {
        name: "copy".parse()?,
        region: "here".to_owned(),
        kind: ReplicaKind::Directory { path: directory.into() },
        timeout: ReplicaConfig::DEFAULT_TIMEOUT,
        bandwidth: Bandwidth::default(),
    };
    store::open(&config, "", &SystemClock::shared()).await
}

/// An identity from a file of mode 0600, and one trusted signer (`RW…`).
pub fn keys(identity: &str, signer: &str) -> Result<ReaderKeys> {
    Ok(ReaderKeys {
        identities: parse_identities(&SecretRef::file(identity).read()?, identity)?,
        trust: Trust::listed(parse_signers([&signer.to_owned()])?, Vec::new()),
    })
}
