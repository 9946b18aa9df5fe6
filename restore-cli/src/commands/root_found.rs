//! The root and the vault that replicas show, for the commands that are about them.

use std::sync::Arc;

use lifeboat_engine::config::Config;
use lifeboat_engine::format::info::{MAX_VAULT_INFO_BYTES, VaultInfo};
use lifeboat_engine::format::layout;
use lifeboat_engine::keys::HostKeys;
use lifeboat_engine::keys::trust::Trust;
use lifeboat_engine::root::{self, FoundRoot, SignedRoot};
use lifeboat_engine::state::StateDirectory;
use lifeboat_engine::store::SharedReplica;
use lifeboat_engine::{Error, Result};

use crate::access;
use crate::human;
use crate::session::Session;

/// The replicas of the configuration or the flags, and the newest root that they show.
pub(super) async fn found(session: &Session) -> Result<(Option<Config>, Vec<SharedReplica>, FoundRoot)> {
    let place = session.place()?;
    let config = place.config.as_ref();
    let owners = access::owners(&session.globals, config)?;
    let (replicas, unopened) = place.open_for_reading(&session.clock).await?;
    for (replica, why) in unopened {
        session.out.warning(human::skipping(&replica, &why));
    }
    let state = config.and_then(|config| StateDirectory::open(&config.state_directory).ok());
    let known = state.as_ref().map(root::pinned).transpose()?.unwrap_or_default();
    let looked = root::find(&replicas, owners.as_ref(), &known);
    let found = session.cancellable("the look for the root", looked).await?;
    found.junk.iter().for_each(|junk| session.out.warning(junk));
    for (replica, error) in &found.unanswered {
        session.out.warning(human::skipping(replica, &error.chain()));
    }
    if owners.is_none() && found.newest.is_some() {
        session.out.warning("no owners are given, so nobody tells whether this is the owners' root");
    }
    Ok((place.config, replicas, found))
}

/// The newest root, where there must be one.
pub(super) async fn newest(session: &Session) -> Result<(Option<Config>, SignedRoot)> {
    let (config, _, found) = found(session).await?;
    let newest = found.newest.ok_or_else(no_root)?;
    Ok((config, newest))
}

/// The vault that the replicas hold. All that answer must hold the same one.
pub(super) async fn vault_of(replicas: &[SharedReplica]) -> Result<String> {
    let (mut first, mut vault): (_, Option<String>) = (None, None);
    for replica in replicas {
        let read = replica.get(layout::VAULT, MAX_VAULT_INFO_BYTES as u64).await.map_err(Error::from);
        match read.and_then(|data| VaultInfo::parse(&data, replica.name())) {
            Ok(info) if vault.as_ref().is_some_and(|vault| *vault != info.vault) => {
                return Err(Error::configuration(format!(
                    "replica {} holds another vault than the others",
                    replica.name()
                ))
                .hint("correct vault_prefix, or the bucket or path of this replica"));
            }
            Ok(info) => vault = Some(info.vault),
            Err(error) => first = first.or(Some(error)),
        }
    }
    if let Some(vault) = vault {
        return Ok(vault);
    }
    Err(first.unwrap_or_else(|| Error::configuration("there is no replica")))
}

/// Whether there is a root, and lets this host work on its datasets, where the configuration names
/// owners. Returns what is weak about it.
pub(super) async fn check(config: &Config, session: &Session) -> Result<Vec<String>> {
    if config.keys.owners.is_empty() {
        return Ok(Vec::new());
    }
    let (_, _, found) = found(session).await?;
    let newest = found.newest.ok_or_else(no_root)?;
    let lacking = found.lacking.iter().map(|replica| {
        format!(
            "replica {replica} does not show the newest root, number {}: it was emptied or rolled back, or is new; the next catch-up of lifeboatd puts it there",
            newest.root.version
        )
    });
    let weak = lacking.collect();
    if config.keys.host_bundle.path().exists() {
        let keys = HostKeys::load(&config.keys)?;
        let trust = Trust::of_root(Arc::new(newest.root), Vec::new(), session.clock.now())?;
        for dataset in &config.datasets {
            trust.check_may_sign(&keys.signer.public(), &dataset.name)?;
        }
    }
    Ok(weak)
}

fn no_root() -> Error {
    Error::keys("there is no root that the owners signed")
        .hint("run `lifeboat init` on the backup host, or `lifeboat root adopt` for an older vault: they print what an owner has to sign")
}
