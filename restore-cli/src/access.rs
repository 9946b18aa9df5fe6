//! Keys at hand: identities that open the vault, and signers that are trusted.
//!
//! Identities: those of `--identity`. Without any, the drill identity of the configuration, if this
//! host has it, and, where manifests are enough, this host's operations identity.
//!
//! Signers: those of `--trusted-signer` and of the configuration, and on a backup host its own.
//! With owners, those of the newest root, and of `--trusted-signer`.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use chrono::{DateTime, Utc};
use lifeboat_engine::base::secret;
use lifeboat_engine::config::{Config, Secret};
use lifeboat_engine::keys::owners::Owners;
use lifeboat_engine::keys::sign::{Signer, SignerKey};
use lifeboat_engine::keys::trust::Trust;
use lifeboat_engine::keys::{HostKeys, ReaderKeys, SharedIdentity, parse_identities, parse_signers};
use lifeboat_engine::root;
use lifeboat_engine::state::StateDirectory;
use lifeboat_engine::store::SharedReplica;
use lifeboat_engine::{Error, Result};

use crate::flags::Globals;
use crate::lines;

/// What a command must be able to open.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Need {
    /// Data: without an identity there is nothing to do.
    Packs,
    /// Manifests, where possible.
    Manifests,
}

/// The keys to read with.
///
/// # Errors
/// [`Class::Keys`](lifeboat_engine::Class::Keys): a named key cannot be used, or nothing opens
/// packs where that is needed.
pub(crate) async fn reader_keys(globals: &Globals, config: Option<&Config>, need: Need) -> Result<ReaderKeys> {
    let host = config.and_then(host_keys);
    let mut identities = given_identities(&globals.identities).await?;
    if identities.is_empty() {
        if let Some(place) = config.map(|config| &config.keys.drill_identity)
            && let Some(text) = place.read_if_any()?
        {
            identities.extend(parse_identities(&text, &place.path().display().to_string())?);
        }
        if let Some(host) = host.as_ref().filter(|_| need == Need::Manifests) {
            identities.extend(host.reader().identities);
        }
    }
    if identities.is_empty() && need == Need::Packs {
        return Err(Error::keys("no identity is given that could open the data").hint(
            "pass --identity with the master identity, or with a drill identity that may read the dataset; a backup host cannot read its own backups",
        ));
    }
    Ok(ReaderKeys { identities, trust: listed(globals, config, host.as_ref())? })
}

/// Whom flags and configuration list, and a host's own signer.
fn listed(globals: &Globals, config: Option<&Config>, host: Option<&HostKeys>) -> Result<Arc<Trust>> {
    let mut signers: Vec<SignerKey> = parse_signers(&globals.trusted_signers)?;
    let mut drill_signers = Vec::new();
    if let Some(keys) = config.map(|config| &config.keys) {
        signers.extend(parse_signers(&keys.trusted_signers)?);
        drill_signers = parse_signers(&keys.trusted_drill_signers)?;
    }
    if let Some(host) = host.filter(|host| host.owners.is_none()) {
        signers.push(host.signer.public());
        drill_signers.extend(host.own_drill_signer.clone());
    }
    Ok(Trust::listed(signers, drill_signers))
}

/// The owners that flags name, or else the configuration.
///
/// # Errors
/// [`Class::Configuration`](lifeboat_engine::Class::Configuration): one cannot be read.
pub(crate) fn owners(globals: &Globals, config: Option<&Config>) -> Result<Option<Owners>> {
    if !globals.owners.is_empty() {
        let given: Vec<String> = globals.owners.iter().map(|owner| lines::given(owner)).collect::<Result<_>>()?;
        return Owners::parse(&given, globals.owner_threshold);
    }
    config.map_or(Ok(None), |config| Owners::parse(&config.keys.owners, config.keys.owner_threshold))
}

/// Whom the root of these owners lets a reader believe, and the signers of `--trusted-signer`.
/// Where flags name the replica, nothing was pinned. Replicas that are read as of a moment show
/// their root as of now, or else that of the `past`.
///
/// # Errors
/// There is no root that they signed.
pub(crate) async fn rooted(
    owners: &Owners,
    globals: &Globals,
    config: Option<&Config>,
    (replicas, past): (&[SharedReplica], &[SharedReplica]),
    now: DateTime<Utc>,
) -> Result<(Arc<Trust>, Vec<String>)> {
    let state = config.and_then(|config| StateDirectory::open(&config.state_directory).ok());
    let besides = parse_signers(&globals.trusted_signers)?;
    root::trust_of_reader(owners, replicas, past, state.as_ref(), besides, now).await
}

/// What `--identity` names. Reading one may block, as it may be a pipe or the terminal.
///
/// # Errors
/// [`Class::Keys`](lifeboat_engine::Class::Keys).
pub(crate) async fn given_identities(files: &[PathBuf]) -> Result<Vec<SharedIdentity>> {
    let mut identities = Vec::new();
    for file in files {
        let (path, shown) = (file.clone(), file.display().to_string());
        let read = tokio::task::spawn_blocking(move || read_secret(&path)).await;
        let text = read.map_err(|error| Error::keys("cannot read an identity").because(error))??;
        identities.extend(parse_identities(&text, if shown == "-" { "standard input" } else { &shown })?);
    }
    Ok(identities)
}

/// The drill host's signing key, where it has one.
///
/// # Errors
/// [`Class::Keys`](lifeboat_engine::Class::Keys): it cannot be used.
pub(crate) fn drill_signer(config: &Config) -> Result<Option<Signer>> {
    let place = &config.keys.drill_signer;
    let Some(text) = place.read_if_any()? else { return Ok(None) };
    let named = |error: Error| error.within(format!("the drill signer {} cannot be used", place.path().display()));
    Signer::parse(&text).map(Some).map_err(named)
}

/// This host's keys, where it has some that this user may read.
pub(crate) fn host_keys(config: &Config) -> Option<HostKeys> {
    if !config.keys.host_key.path().exists() || !config.keys.host_bundle.path().exists() {
        return None;
    }
    HostKeys::load(&config.keys)
        .inspect_err(|error| tracing::warn!(error = %error.chain(), "ignoring this host's own keys"))
        .ok()
}

/// Reads a file that holds a secret; `-` is standard input.
///
/// # Errors
/// [`Class::Keys`](lifeboat_engine::Class::Keys).
pub(crate) fn read_secret(path: &Path) -> Result<Secret> {
    if path == Path::new("-") {
        secret::read_from(std::io::stdin(), "standard input")
    } else {
        secret::read_given(path)
    }
}
