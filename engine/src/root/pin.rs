//! The newest root that this host has seen. It is kept whole, with its signatures, so that a
//! replica which lost it can be given it again.

use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::sync::Arc;

use chrono::{DateTime, Utc};
use lifeboat_base::{Class, Context, Error, Result};
use lifeboat_format::line::RequestLine;
use lifeboat_format::root::MAX_ROOT_BYTES;
use lifeboat_store::SharedReplica;

use super::find::{FoundRoot, find};
use super::put::put_in_replica;
use super::signed::SignedRoot;
use crate::catalog::verdict::combine;
use crate::keys::HostKeys;
use crate::keys::owners::Owners;
use crate::keys::sign::SignerKey;
use crate::keys::trust::Trust;
use crate::state::{StateDirectory, replace_file};

const PIN_FILE: &str = "root.json";

fn place(state: &StateDirectory) -> PathBuf {
    state.path().join(PIN_FILE)
}

/// The root that this host has pinned; `None` if it has seen none.
///
/// # Errors
/// [`Class::Storage`]: it cannot be read. [`Class::Integrity`]: it is damaged.
pub fn pinned(state: &StateDirectory) -> Result<Option<SignedRoot>> {
    let (path, hint) = (
        place(state),
        "mend the disk; or remove the file: then the next root that the owners signed is taken, even an older one",
    );
    let text = match std::fs::read(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => {
            return Err(Error::storage(format!("cannot read {}", path.display())).because(error).hint(hint));
        }
    };
    let damaged = || format!("{} is damaged", path.display());
    if text.len() > 4 * MAX_ROOT_BYTES {
        return Err(Error::integrity(damaged()).hint(hint));
    }
    let read: RequestLine =
        serde_json::from_slice(&text).context(Class::Integrity, damaged).map_err(|error| error.hint(hint))?;
    let read = SignedRoot::read(read.root, &read.signatures, None, &path.display().to_string());
    read.map(Some).map_err(|error| error.hint(hint))
}

/// Remembers a root, if it is newer than the one that is pinned.
///
/// # Errors
/// [`Class::Storage`]: the disk fails, or what is pinned cannot be read.
pub(super) fn remember(state: &StateDirectory, root: &SignedRoot) -> Result<()> {
    // A file of root's in the directory of the daemon would lock the daemon out.
    let owner = std::fs::metadata(state.path()).map(|found| found.uid());
    if owner.is_ok_and(|owner| owner != rustix::process::geteuid().as_raw()) {
        return Ok(());
    }
    if pinned(state)?.is_some_and(|pinned| pinned.root.version >= root.root.version) {
        return Ok(());
    }
    let text = serde_json::to_vec_pretty(&root.carried()).context(Class::Failed, || "cannot write a root as JSON")?;
    replace_file(&place(state), &text)
}

/// Looks for a newer root, pins it, and lets `keys` go by it. Without owners in the configuration,
/// there is nothing to do. Returns the root, and what was found of it.
///
/// # Errors
/// No root is known; two are valid; it is of another vault; or every replica that answers has gone
/// back behind the root that this host has seen. In the last case `keys` go by that one.
pub async fn renew(
    keys: &HostKeys,
    replicas: &[SharedReplica],
    state: &StateDirectory,
    now: DateTime<Utc>,
) -> Result<Option<(SignedRoot, FoundRoot)>> {
    let Some(owners) = &keys.owners else { return Ok(None) };
    let known = pinned(state)?;
    if let Some(known) = &known {
        check_vault(known, &keys.vault)?;
        keys.trust.follow(Arc::new(known.root.clone()), now)?;
    }
    let found = find(replicas, Some(owners), known.as_ref()).await?;
    for junk in &found.junk {
        tracing::warn!("{junk}");
    }
    let Some(newest) = found.newest.clone() else {
        let errors: Vec<Error> = found.unanswered.into_values().collect();
        return Err(if errors.is_empty() { no_root() } else { combine("no root can be read".to_owned(), &errors) });
    };
    check_vault(&newest, &keys.vault)?;
    keys.trust.follow(Arc::new(newest.root.clone()), now)?;
    remember(state, &newest)?;
    if found.holders.is_empty() && !found.lacking.is_empty() {
        return Err(gone_back(&newest, &found));
    }
    for replica in &found.lacking {
        tracing::warn!(%replica, "This replica does not show root {}; catch-up puts it there", newest.root.version);
    }
    Ok(Some((newest, found)))
}

/// As [`renew`], and gives the root to the replicas that lack it. Those that do not take it are
/// warned of.
///
/// # Errors
/// As [`renew`].
pub async fn keep(
    keys: &HostKeys,
    replicas: &[SharedReplica],
    state: &StateDirectory,
    now: DateTime<Utc>,
) -> Result<()> {
    let Some((root, found)) = renew(keys, replicas, state, now).await? else { return Ok(()) };
    for replica in replicas.iter().filter(|replica| found.lacking.contains(replica.name())) {
        if let Err(error) = put_in_replica(&root, replica).await {
            tracing::warn!(replica = %replica.name(), error = %error.chain(), "The root cannot be put there");
        }
    }
    Ok(())
}

/// Whom a reader believes who goes by owners: the newest root that replicas show, or that was
/// pinned. `besides` are signers that are trusted whatever the root says. Returns warnings, too.
///
/// # Errors
/// No root is known, or two are valid.
pub async fn trust_of_reader(
    owners: &Owners,
    replicas: &[SharedReplica],
    state: Option<&StateDirectory>,
    besides: Vec<SignerKey>,
    now: DateTime<Utc>,
) -> Result<(Arc<Trust>, Vec<String>)> {
    let known = state.map(pinned).transpose()?.flatten();
    let found = find(replicas, Some(owners), known.as_ref()).await?;
    let mut warnings = found.junk.clone();
    let Some(newest) = &found.newest else {
        let errors: Vec<Error> = found.unanswered.into_values().collect();
        return Err(if errors.is_empty() { no_root() } else { combine("no root can be read".to_owned(), &errors) });
    };
    if found.holders.is_empty() && known.is_some() {
        warnings
            .push(format!("{}; going on with the one that this host has seen", gone_back(newest, &found).message()));
    }
    // A reader may have a directory that it cannot write into.
    if let Some(error) = state.and_then(|state| remember(state, newest).err()) {
        warnings.push(format!("root {} was not pinned: {}", newest.root.version, error.chain()));
    }
    Ok((Trust::of_root(Arc::new(newest.root.clone()), besides, now)?, warnings))
}

fn check_vault(root: &SignedRoot, vault: &str) -> Result<()> {
    if root.root.vault == vault {
        return Ok(());
    }
    Err(Error::configuration(format!(
        "the root is of vault {}, and this host's keys are of vault {vault}",
        root.root.vault
    ))
    .hint("correct vault_prefix, or the buckets or paths of the replicas"))
}

fn no_root() -> Error {
    Error::keys("no replica shows a root that the owners signed, so nobody is trusted")
        .hint("run `lifeboat init` on the backup host: it prints what an owner has to sign; if there was a root, check vault_prefix and the replicas")
}

fn gone_back(newest: &SignedRoot, found: &FoundRoot) -> Error {
    let names: Vec<&str> = found.lacking.iter().map(lifeboat_format::id::Name::as_str).collect();
    Error::keys(format!(
        "this host has seen root {}, and none of the replicas that answer shows it: {}",
        newest.root.version,
        names.join(", ")
    ))
    .because("they were emptied or rolled back")
    .hint("find out who did that; then put it back: lifeboat root install \"$(lifeboat root show --line)\"")
}
