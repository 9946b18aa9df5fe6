//! Keys at hand: identities that open the vault, and signers that are trusted.
//!
//! Identities: those of `--identity`. Without any, the drill identity of the configuration, if this
//! host has it, and, where manifests are enough, this host's operations identity.
//!
//! Signers: those of `--trusted-signer` and of the configuration, and on a backup host its own.

use std::path::{Path, PathBuf};

use lifeboat_engine::base::secret;
use lifeboat_engine::config::{Config, Secret};
use lifeboat_engine::keys::sign::SignerKey;
use lifeboat_engine::keys::{HostKeys, ReaderKeys, SharedIdentity, parse_identities, parse_signers};
use lifeboat_engine::{Error, Result};

use crate::flags::Globals;

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
    let (mut trusted_signers, trusted_drill_signers) = match (host, config) {
        (Some(host), _) => (host.trusted_signers, host.trusted_drill_signers),
        (None, Some(config)) => {
            (parse_signers(&config.keys.trusted_signers)?, parse_signers(&config.keys.trusted_drill_signers)?)
        }
        (None, None) => (Vec::new(), Vec::new()),
    };
    let given: Vec<SignerKey> = parse_signers(&globals.trusted_signers)?;
    trusted_signers.extend(given);
    Ok(ReaderKeys { identities, trusted_signers, trusted_drill_signers })
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
