//! Puts a root that was signed, and those before it, into every replica. It overwrites junk that
//! stands under their names, but never a valid root.

use std::collections::BTreeMap;

use lifeboat_base::{Error, Result};
use lifeboat_format::id::Name;
use lifeboat_format::line::RequestLine;
use lifeboat_format::root::Root;
use lifeboat_store::SharedReplica;

use super::find::find;
use super::pin::{pinned, remember};
use super::put::put_in_replica;
use super::signed::SignedRoot;
use crate::keys::owners::Owners;
use crate::state::StateDirectory;

/// What was installed where.
#[derive(Debug)]
pub struct Installed {
    /// The root.
    pub root: SignedRoot,
    /// The replicas that have it now.
    pub replicas: Vec<Name>,
    /// The others, and why not.
    pub failed: BTreeMap<Name, Error>,
}

/// Installs the root that `lines` hold, of which each may have other signatures. `vault` is the
/// vault of the replicas.
///
/// # Errors
/// They hold different roots, not enough owners signed, it does not follow the newest root, it is
/// of another vault, or its owners are others than the configured ones.
pub async fn install(
    lines: Vec<RequestLine>,
    vault: &str,
    owners: Option<&Owners>,
    replicas: &[SharedReplica],
    state: &StateDirectory,
) -> Result<Installed> {
    let known = pinned(state)?;
    let found = find(replicas, owners, &known).await?;
    let (newest, mut chain) = (found.newest, found.chain);
    let again = newest.as_ref().filter(|newest| lines.iter().all(|line| line.root == newest.text)).cloned();
    let root = match again {
        // Replicas that lack it get it.
        Some(root) => root,
        None => {
            let root = merged(lines, newest.as_ref().map(|newest| &newest.root))?;
            if root.root.vault != vault {
                return Err(Error::usage(format!("this root is for vault {}, not for {vault}", root.root.vault))
                    .hint("install it where it belongs"));
            }
            if let Some(newest) = newest.as_ref().filter(|newest| newest.root.version >= root.root.version) {
                return Err(Error::usage(format!(
                    "this is root {}, and the newest is already root {}",
                    root.root.version, newest.root.version
                ))
                .hint("make the request again with `lifeboat root request`, and let an owner sign that; if others put that root there, pass your owner with --owner"));
            }
            root.check(newest.as_ref()).map_err(|error| {
                error.hint("let the others sign it, too: `lifeboat owner sign` takes this line, and `lifeboat root install` takes several")
            })?;
            let is_owners = newest.is_some() || owners.is_none_or(|owners| owners.are_enough(root.signers()));
            if !is_owners {
                return Err(Error::keys("the owners of this root are not those of the configuration")
                    .hint("compare [keys] owners with what `lifeboat owner init` printed"));
            }
            chain.push(root.clone());
            root
        }
    };
    let (mut done, mut failed) = (Vec::new(), BTreeMap::new());
    for replica in replicas {
        match put_in_replica(&chain, replica).await {
            Ok(()) => done.push(replica.name().clone()),
            Err(error) => drop(failed.insert(replica.name().clone(), error)),
        }
    }
    if !done.is_empty() {
        remember(state, &chain)?;
    }
    Ok(Installed { root, replicas: done, failed })
}

fn merged(lines: Vec<RequestLine>, before: Option<&Root>) -> Result<SignedRoot> {
    let mut all: Option<SignedRoot> = None;
    for line in lines {
        let read = SignedRoot::read(line.root, &line.signatures, before, "the root")?;
        match &mut all {
            None => all = Some(read),
            Some(known) if known.text == read.text => known.merge(read),
            Some(_) => {
                return Err(Error::usage("these lines hold different roots")
                    .hint("install lines together only if they answer the same request"));
            }
        }
    }
    all.ok_or_else(|| Error::usage("there is no root to install").hint("pass what `lifeboat owner sign` printed"))
}
