//! Keys at hand: identities that open the vault, and signers that are trusted.
//!
//! Identities: those of `--identity`. Without any, the drill identity of the configuration, if this
//! host has it, and, where manifests are enough, this host's operations identity.
//!
//! Signers: those of `--trusted-signer` and of the configuration, and on a backup host its own.

use std::io::Read;
use std::path::{Path, PathBuf};

use lifeboat_engine::config::{Config, Secret, SecretRef};
use lifeboat_engine::keys::sign::SignerKey;
use lifeboat_engine::keys::{HostKeys, ReaderKeys, SharedIdentity, parse_identities, parse_signers};
use lifeboat_engine::{Class, Error, Result};

use crate::flags::Globals;

/// Identities and passwords are lines, not files of any size.
const LARGEST_SECRET: u64 = 1 << 20;

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
/// [`Class::Keys`]: a named key cannot be used, or nothing opens packs where that is needed.
pub(crate) async fn reader_keys(globals: &Globals, config: Option<&Config>, need: Need) -> Result<ReaderKeys> {
    let host = config.and_then(host_keys);
    let mut identities = given_identities(&globals.identities).await?;
    if identities.is_empty() {
        if let Some(place) = config.map(|config| &config.keys.drill_identity).filter(|place| place.path().exists()) {
            identities.extend(parse_identities(&place.read()?, &place.path().display().to_string())?);
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
/// [`Class::Keys`].
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
fn host_keys(config: &Config) -> Option<HostKeys> {
    if !config.keys.host_key.path().exists() || !config.keys.host_bundle.path().exists() {
        return None;
    }
    HostKeys::load(&config.keys)
        .inspect_err(|error| tracing::warn!(error = %error.chain(), "ignoring this host's own keys"))
        .ok()
}

/// Reads a file that holds a secret; `-` is standard input. A file that others may read is refused,
/// a pipe, such as bash's `<(age -d master.age)`, is fine.
///
/// # Errors
/// [`Class::Keys`].
pub(crate) fn read_secret(path: &Path) -> Result<Secret> {
    let failed =
        |error: std::io::Error| Error::new(Class::Keys, format!("cannot read {}", path.display())).because(error);
    let source: Box<dyn Read> = if path == Path::new("-") {
        Box::new(std::io::stdin())
    } else if path.metadata().map_err(failed)?.is_file() {
        return SecretRef::file(path).read();
    } else {
        Box::new(std::fs::File::open(path).map_err(failed)?)
    };
    // Reserved at once, so that no half-read copy is left behind by growing.
    let mut text = Vec::with_capacity(LARGEST_SECRET as usize + 1);
    source.take(LARGEST_SECRET + 1).read_to_end(&mut text).map_err(failed)?;
    let secret = Secret::new(text);
    if secret.expose().len() as u64 > LARGEST_SECRET {
        return Err(Error::keys(format!("{} is too long to be a key or a password", path.display())));
    }
    Ok(secret)
}
