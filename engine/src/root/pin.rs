//! The newest root that this host has seen, and those before it. They are kept whole, with their
//! signatures, so that a replica which lost them can be given them again.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use chrono::{DateTime, Utc};
use futures::future::join_all;
use lifeboat_base::{Class, Context, Error, Result};
use lifeboat_format::line::RequestLine;
use lifeboat_format::root::{MAX_ROOT_BYTES, Root};
use lifeboat_store::SharedReplica;

use super::find::{FoundRoot, find};
use super::put::put_in_replica;
use super::signed::SignedRoot;
use crate::catalog::verdict::combine;
use crate::keys::HostKeys;
use crate::keys::owners::Owners;
use crate::keys::sign::SignerKey;
use crate::keys::trust::Trust;
use crate::state::{StateDirectory, create_private, replace_file};

const PIN_FILE: &str = "root.json";
/// Below it are those before it, by their versions.
const OLDER_ROOTS: &str = "roots";

fn place(state: &StateDirectory) -> PathBuf {
    state.path().join(PIN_FILE)
}

fn place_of(state: &StateDirectory, version: u64) -> PathBuf {
    state.path().join(OLDER_ROOTS).join(format!("{version}.json"))
}

/// The roots that this host has pinned, the oldest first; the last one is the newest that it has
/// seen. Older ones may be lacking. Empty: it has seen none.
///
/// # Errors
/// [`Class::Storage`]: the newest cannot be read. [`Class::Integrity`]: it is damaged.
pub fn pinned(state: &StateDirectory) -> Result<Vec<SignedRoot>> {
    let path = place(state);
    let hint =
        "mend the disk; or remove the file: then the next root that the owners signed is taken, even an older one";
    let Some(newest) = read_carried(&path).map_err(|error| error.hint(hint))? else { return Ok(Vec::new()) };
    let what = path.display().to_string();
    let version = Root::parse(newest.root.as_bytes(), &what).map_err(|error| error.hint(hint))?.version;
    let mut carried = vec![newest.clone()];
    for older in (1..version).rev() {
        let Ok(Some(older)) = read_carried(&place_of(state, older)) else { break };
        carried.push(older);
    }
    let mut chain: Vec<SignedRoot> = Vec::new();
    for root in carried.into_iter().rev() {
        let before = chain.last().map(|before| &before.root);
        match SignedRoot::read(root.root, &root.signatures, before, &what) {
            Ok(root) if chain.is_empty() || root.flaw(chain.last()).is_none() => chain.push(root),
            // What is older and damaged may be missing.
            Ok(root) => chain = vec![root],
            Err(_) => chain.clear(),
        }
    }
    if chain.last().is_some_and(|newest| newest.root.version == version) {
        return Ok(chain);
    }
    let newest = SignedRoot::read(newest.root, &newest.signatures, None, &what);
    newest.map(|newest| vec![newest]).map_err(|error| error.hint(hint))
}

fn read_carried(path: &Path) -> Result<Option<RequestLine>> {
    let text = match std::fs::read(path) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(Error::storage(format!("cannot read {}", path.display())).because(error)),
    };
    let damaged = || format!("{} is damaged", path.display());
    if text.len() > 4 * MAX_ROOT_BYTES {
        return Err(Error::integrity(damaged()));
    }
    serde_json::from_slice(&text).context(Class::Integrity, damaged).map(Some)
}

/// Remembers a chain of roots, if it is newer than what is pinned, or older roots or signatures are
/// lacking there.
///
/// # Errors
/// [`Class::Storage`]: the disk fails, or what is pinned cannot be read.
pub(super) fn remember(state: &StateDirectory, chain: &[SignedRoot]) -> Result<()> {
    let Some((newest, older)) = chain.split_last() else { return Ok(()) };
    if state.is_of_another_user() {
        return Ok(());
    }
    let pinned = pinned(state)?;
    if pinned.last().is_some_and(|pinned| pinned.root.version > newest.root.version) {
        return Ok(());
    }
    let is_among = |pinned: &[SignedRoot], root: &SignedRoot| {
        pinned.iter().any(|pinned| pinned.text == root.text && pinned.signatures() == root.signatures())
    };
    let (pinned_older, pinned_newest) = pinned.split_at(pinned.len().saturating_sub(1));
    let write = |path: &Path, root: &SignedRoot| {
        let text =
            serde_json::to_vec_pretty(&root.carried()).context(Class::Failed, || "cannot write a root as JSON")?;
        replace_file(path, &text)
    };
    for root in older.iter().filter(|root| !is_among(pinned_older, root)) {
        let path = place_of(state, root.root.version);
        path.parent().map_or(Ok(()), create_private)?;
        write(&path, root)?;
    }
    if is_among(pinned_newest, newest) { Ok(()) } else { write(&place(state), newest) }
}

/// Whether the newest root that this host has seen names a warden. No replica is asked.
///
/// # Errors
/// As [`pinned`].
pub fn names_warden(state: &StateDirectory) -> Result<bool> {
    Ok(pinned(state)?.last().is_some_and(|newest| newest.root.warden.is_some()))
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
    if let Some(known) = known.last() {
        check_vault(known, &keys.vault)?;
        keys.trust.follow(Arc::new(known.root.clone()), now)?;
    }
    let found = find(replicas, Some(owners), &known).await?;
    for junk in &found.junk {
        tracing::warn!("{junk}");
    }
    let Some(newest) = found.newest.clone() else {
        let errors: Vec<Error> = found.unanswered.into_values().collect();
        return Err(if errors.is_empty() { no_root() } else { combine("no root can be read".to_owned(), &errors) });
    };
    check_vault(&newest, &keys.vault)?;
    keys.trust.follow(Arc::new(newest.root.clone()), now)?;
    remember(state, &found.chain)?;
    if found.holders.is_empty() && !found.lacking.is_empty() {
        return Err(gone_back(&newest, &found));
    }
    for replica in &found.lacking {
        tracing::warn!(%replica, "This replica does not show root {}; catch-up puts it there", newest.root.version);
    }
    for (replica, error) in &found.unanswered {
        tracing::warn!(%replica, error = %error.chain(), "Nobody can tell whether this replica shows a newer root");
    }
    Ok(Some((newest, found)))
}

/// As [`renew`], and gives the root and those before it to the replicas that lack any. Those that
/// do not take them are warned of.
///
/// # Errors
/// As [`renew`].
pub async fn keep(
    keys: &HostKeys,
    replicas: &[SharedReplica],
    state: &StateDirectory,
    now: DateTime<Utc>,
) -> Result<()> {
    let Some((_, found)) = renew(keys, replicas, state, now).await? else { return Ok(()) };
    let incomplete = replicas.iter().filter(|replica| found.incomplete.contains(replica.name()));
    let puts = incomplete.map(|replica| {
        let chain = &found.chain;
        async move { (replica.name(), put_in_replica(chain, replica).await) }
    });
    for (replica, put) in join_all(puts).await {
        if let Err(error) = put {
            tracing::warn!(%replica, error = %error.chain(), "The root cannot be put there");
        }
    }
    Ok(())
}

/// Whom a reader believes who goes by owners: the newest root that replicas show now, or that was
/// pinned, or else what they showed in the `past`. `besides` are signers that are trusted whatever
/// the root says. Returns warnings, too.
///
/// # Errors
/// No root is known, or two are valid.
pub async fn trust_of_reader(
    owners: &Owners,
    replicas: &[SharedReplica],
    past: &[SharedReplica],
    state: Option<&StateDirectory>,
    besides: Vec<SignerKey>,
    now: DateTime<Utc>,
) -> Result<(Arc<Trust>, Vec<String>)> {
    let known = state.map(pinned).transpose()?.unwrap_or_default();
    let mut found = find(replicas, Some(owners), &known).await?;
    let mut warnings = std::mem::take(&mut found.junk);
    if found.newest.is_none() && !past.is_empty() {
        let before = find(past, Some(owners), &known).await?;
        if let Some(newest) = &before.newest {
            let version = newest.root.version;
            warnings.push(format!("no replica shows a root any more; going on with root {version} of that time"));
            let unanswered = std::mem::replace(&mut found, before).unanswered;
            found.unanswered.extend(unanswered);
            warnings.append(&mut found.junk);
        }
    }
    let Some(newest) = &found.newest else {
        let errors: Vec<Error> = found.unanswered.into_values().collect();
        return Err(if errors.is_empty() { no_root() } else { combine("no root can be read".to_owned(), &errors) });
    };
    if found.holders.is_empty() && !found.lacking.is_empty() {
        warnings
            .push(format!("{}; going on with the one that this host has seen", gone_back(newest, &found).message()));
    }
    for (replica, error) in &found.unanswered {
        warnings.push(format!("nobody can tell whether replica {replica} shows a newer root: {}", error.chain()));
    }
    // A reader may have a directory that it cannot write into.
    if let Some(error) = state.and_then(|state| remember(state, &found.chain).err()) {
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
