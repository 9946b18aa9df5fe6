//! Finds the newest valid root in replicas, each of which may be hostile.
//!
//! The way goes from the root that is known, or from the oldest that is there, to the next, as long
//! as a replica shows a valid one. So what a replica invents costs a request for each root that
//! somebody could sign, and nothing more.

use std::collections::{BTreeMap, BTreeSet};

use futures::future::join_all;
use lifeboat_base::{Class, Error, Result};
use lifeboat_format::id::Name;
use lifeboat_format::layout;
use lifeboat_format::root::{MAX_ROOT_BYTES, MAX_ROOT_VERSION, Root};
use lifeboat_store::SharedReplica;

use super::signed::SignedRoot;
use crate::keys::owners::Owners;
use crate::keys::sign::MAX_SIGNATURE_BYTES;

/// What replicas show of roots.
#[derive(Debug, Default)]
pub struct FoundRoot {
    /// The newest valid one.
    pub newest: Option<SignedRoot>,
    /// What was left aside, for people to read.
    pub junk: Vec<String>,
    /// The replicas that show the newest one.
    pub holders: BTreeSet<Name>,
    /// Those that answered, and do not show it.
    pub lacking: BTreeSet<Name>,
    /// Those that did not answer, and why.
    pub unanswered: BTreeMap<Name, Error>,
}

/// What one replica lists below `root/`.
struct RootListing<'a> {
    replica: &'a SharedReplica,
    keys: BTreeSet<String>,
}

impl RootListing<'_> {
    /// The root of this version as the replica has it; `None` if it shows none.
    async fn read(&self, version: u64, before: Option<&Root>) -> Result<Option<SignedRoot>> {
        let key = layout::root(version);
        if !self.keys.contains(&key) {
            return Ok(None);
        }
        let what = format!("replica {}: {key}", self.replica.name());
        let text = self.replica.get(&key, MAX_ROOT_BYTES as u64).await?;
        let text = String::from_utf8(text.to_vec())
            .map_err(|_| Error::integrity(format!("{what} is damaged")).because("it is not text"))?;
        let root = Root::parse(text.as_bytes(), &what)?;
        let owners = root.owners.iter().chain(before.into_iter().flat_map(|before| &before.owners));
        let mut signatures = BTreeMap::new();
        for name in owners.map(|owner| &owner.name).collect::<BTreeSet<_>>() {
            let key = layout::root_signature(version, name);
            if !self.keys.contains(&key) {
                continue;
            }
            let signature = self.replica.get(&key, MAX_SIGNATURE_BYTES as u64).await?;
            if let Ok(signature) = String::from_utf8(signature.to_vec()) {
                signatures.insert(name.to_string(), signature);
            }
        }
        let read = SignedRoot::read(text, &signatures, before, &what)?;
        if read.root.version == version {
            Ok(Some(read))
        } else {
            Err(Error::integrity(format!("{what} is another root")))
        }
    }
}

/// Looks for the newest root after `known`; without one, for the newest of these owners.
///
/// # Errors
/// [`Class::Keys`]: two valid roots follow the same one.
pub async fn find(
    replicas: &[SharedReplica],
    owners: Option<&Owners>,
    known: Option<&SignedRoot>,
) -> Result<FoundRoot> {
    let mut found = FoundRoot::default();
    let listings = join_all(replicas.iter().map(|replica| async move { (replica, replica.list(layout::ROOTS).await) }));
    let mut shown = Vec::new();
    for (replica, listed) in listings.await {
        match listed {
            Ok(objects) => {
                shown.push(RootListing { replica, keys: objects.into_iter().map(|object| object.key).collect() });
            }
            Err(error) => drop(found.unanswered.insert(replica.name().clone(), error.into())),
        }
    }
    let is_enough = |root: &SignedRoot| owners.is_none_or(|owners| owners.are_enough(root.signers()));
    let mut good = Vec::new();
    if let Some(known) = known {
        let chains = vec![Chain { newest: known.clone(), is_owners: true }];
        good = walk(chains, &shown, &is_enough, &mut found.junk).await;
    } else {
        // Old roots may have been lost everywhere. Then the oldest that is there is the first.
        let listed = shown.iter().flat_map(|shown| &shown.keys).filter_map(|key| layout::parse_root(key));
        for first in listed.filter(|version| *version <= MAX_ROOT_VERSION).collect::<BTreeSet<_>>() {
            let begin = next(&shown, first, None, &mut found.junk).await;
            let begin = begin.into_iter().map(|newest| Chain { is_owners: is_enough(&newest), newest });
            // Whoever owns a bucket can show long ways that lead nowhere: one of them is enough.
            let begin = begin.filter(|chain| first == 1 || chain.is_owners).collect();
            good = walk(begin, &shown, &is_enough, &mut found.junk).await;
            if !good.is_empty() {
                break;
            }
        }
    }
    if let [one, _, ..] = &good[..] {
        return Err(forked(one));
    }
    found.newest = good.pop();
    if let Some(newest) = &found.newest {
        for shown in &shown {
            let has = match shown.read(newest.root.version, None).await {
                Ok(Some(read)) => read.text == newest.text,
                _ => false,
            };
            let names = if has { &mut found.holders } else { &mut found.lacking };
            names.insert(shown.replica.name().clone());
        }
    }
    found.junk.sort_unstable();
    found.junk.dedup();
    Ok(found)
}

/// A root that is valid after those before it.
struct Chain {
    newest: SignedRoot,
    /// Whether enough of the owners that were asked for signed one of them.
    is_owners: bool,
}

/// Follows each chain to its end. Returns the newest roots of those that the owners signed.
async fn walk(
    mut chains: Vec<Chain>,
    shown: &[RootListing<'_>],
    is_enough: &impl Fn(&SignedRoot) -> bool,
    junk: &mut Vec<String>,
) -> Vec<SignedRoot> {
    let mut good = Vec::new();
    while let Some(Chain { newest, is_owners }) = chains.pop() {
        let next = next(shown, newest.root.version + 1, Some(&newest), junk).await;
        if !next.is_empty() {
            chains
                .extend(next.into_iter().map(|next| Chain { is_owners: is_owners || is_enough(&next), newest: next }));
        } else if is_owners {
            good.push(newest);
        } else {
            let Root { version, vault, .. } = &newest.root;
            junk.push(format!("root {version} of vault {vault} is left aside: others own it"));
        }
    }
    good
}

/// The different valid roots of a version that follow `before`.
async fn next(
    shown: &[RootListing<'_>],
    version: u64,
    before: Option<&SignedRoot>,
    junk: &mut Vec<String>,
) -> Vec<SignedRoot> {
    let of = before.map(|before| &before.root);
    let reads = shown.iter().map(|shown| async move { (shown.replica.name(), shown.read(version, of).await) });
    let mut next: Vec<SignedRoot> = Vec::new();
    for (replica, read) in join_all(reads).await {
        let root = match read {
            Ok(Some(root)) => root,
            Ok(None) => continue,
            Err(error) => {
                junk.push(format!("replica {replica}: root {version} is left aside: {}", error.chain()));
                continue;
            }
        };
        match next.iter_mut().find(|known| known.text == root.text) {
            Some(known) => known.merge(root),
            None => next.push(root),
        }
    }
    next.retain(|root| {
        let flaw = root.flaw(before);
        junk.extend(flaw.iter().map(|flaw| format!("a root {version} is left aside: {flaw}")));
        flaw.is_none()
    });
    next
}

fn forked(root: &SignedRoot) -> Error {
    Error::new(Class::Keys, format!("the replicas show different valid roots of version {}", root.root.version))
        .because("an owner's key was used twice, or somebody else has it")
        .hint("find out who signed the wrong one; remove it from the replicas, or start anew with other owners")
}
