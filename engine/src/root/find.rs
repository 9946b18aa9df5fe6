//! Finds the newest valid root in replicas, each of which may be hostile.
//!
//! The way goes from the root that is known, or from the oldest that is there, to the next, as long
//! as a replica shows a valid one. A replica can invent a chain of its own. It does not count, as
//! none of the owners signed it, and it costs no more than [`MAX_STRANGE_BYTES`] and the time that
//! a replica may take (`shown.rs`). So a chain that begins with other owners than those who were
//! given must be signed by enough of these before it is so long.

use std::collections::{BTreeMap, BTreeSet};

use futures::future::join_all;
use lifeboat_base::{Error, Result};
use lifeboat_format::id::Name;
use lifeboat_format::root::{MAX_ROOT_VERSION, Root};
use lifeboat_store::SharedReplica;

use super::shown::ShownRoots;
use super::signed::SignedRoot;
use crate::catalog::verdict::is_verdict;
use crate::keys::owners::Owners;

/// A chain that none of the owners has signed is followed no further.
const MAX_STRANGE_BYTES: usize = 64 << 20;

/// What replicas show of roots.
#[derive(Debug, Default)]
pub struct FoundRoot {
    /// The newest valid one.
    pub newest: Option<SignedRoot>,
    /// It and those before it, as far as anybody has them, the oldest first.
    pub chain: Vec<SignedRoot>,
    /// What was left aside, for people to read.
    pub junk: Vec<String>,
    /// The replicas that show the newest one.
    pub holders: BTreeSet<Name>,
    /// Those that answered, and do not show it.
    pub lacking: BTreeSet<Name>,
    /// Those that answered, and do not list the whole chain with all signatures.
    pub incomplete: BTreeSet<Name>,
    /// Those that did not answer, at least not to all, and why.
    pub unanswered: BTreeMap<Name, Error>,
}

/// Looks for the newest root after `known`, a chain that ends with the newest known one. If that is
/// empty, for the newest of these owners.
///
/// # Errors
/// [`Class::Keys`](lifeboat_base::Class::Keys): two valid roots follow the same one, or a replica
/// shows another valid one in the place of a known one.
pub async fn find(replicas: &[SharedReplica], owners: Option<&Owners>, known: &[SignedRoot]) -> Result<FoundRoot> {
    let mut found = FoundRoot::default();
    let listings = replicas.iter().map(|replica| async move { (replica, ShownRoots::list(replica).await) });
    let mut shown = Vec::new();
    for (replica, listed) in join_all(listings).await {
        match listed {
            Ok(listed) => shown.push(listed),
            Err(error) => drop(found.unanswered.insert(replica.name().clone(), error)),
        }
    }
    let is_enough = |root: &SignedRoot| owners.is_none_or(|owners| owners.are_enough(root.signers()));
    let mut good = Vec::new();
    if known.is_empty() {
        // Old roots may have been lost everywhere. Then the oldest that is there is the first.
        let listed = shown.iter().flat_map(ShownRoots::versions).filter(|version| *version <= MAX_ROOT_VERSION);
        for first in listed.collect::<BTreeSet<_>>() {
            let begin = next(&shown, first, None, &mut found).await;
            let begin =
                begin.into_iter().map(|root| Chain { is_owners: is_enough(&root), roots: vec![root], bytes: 0 });
            // Whoever owns a bucket can show long ways that lead nowhere: one of them is enough.
            let begin = begin.filter(|chain| first == 1 || chain.is_owners).collect();
            good = walk(begin, &shown, &is_enough, &mut found).await;
            if !good.is_empty() {
                break;
            }
        }
    } else {
        let chains = vec![Chain { roots: known.to_vec(), is_owners: true, bytes: 0 }];
        good = walk(chains, &shown, &is_enough, &mut found).await;
    }
    if let [one, other, ..] = &good[..] {
        let same = one.iter().zip(other).take_while(|(one, other)| one.text == other.text).count();
        return Err(forked(one.get(same).or(one.last()).map_or(0, |root| root.root.version), None));
    }
    found.chain = good.pop().unwrap_or_default();
    compare(&shown, &mut found).await?;
    found.newest = found.chain.last().cloned();
    found.junk.sort_unstable();
    found.junk.dedup();
    Ok(found)
}

/// Compares what each replica shows with the chain that was found, and takes more signatures of the
/// newest root from them.
async fn compare(shown: &[ShownRoots<'_>], found: &mut FoundRoot) -> Result<()> {
    let Some((newest, older)) = found.chain.split_last_mut() else { return Ok(()) };
    let before = older.last();
    let of = before.map(|before| &before.root);
    let version = newest.root.version;
    let reads = shown.iter().map(|shown| async move { (shown, shown.read(version, of).await) });
    for (shown, read) in join_all(reads).await {
        let has = match read {
            Ok(Some(read)) if read.text == newest.text => {
                let counts = read.flaw(before).is_none();
                newest.merge(read);
                counts
            }
            Ok(Some(read)) if read.is_rival_of(newest, before) => return Err(forked(version, Some(shown.name()))),
            Ok(_) => false,
            Err(error) if is_verdict(&error) => false,
            Err(error) => {
                found.unanswered.entry(shown.name().clone()).or_insert(error);
                continue;
            }
        };
        let names = if has { &mut found.holders } else { &mut found.lacking };
        names.insert(shown.name().clone());
    }
    let answered = found.holders.union(&found.lacking).cloned().collect::<BTreeSet<Name>>();
    for shown in shown.iter().filter(|shown| answered.contains(shown.name())) {
        if found.lacking.contains(shown.name()) || !found.chain.iter().all(|root| shown.lists(root)) {
            found.incomplete.insert(shown.name().clone());
        }
    }
    Ok(())
}

/// Roots of which each is valid after the one before.
#[derive(Clone)]
struct Chain {
    /// The oldest first; never empty.
    roots: Vec<SignedRoot>,
    /// Whether enough of the owners that were asked for signed one of them.
    is_owners: bool,
    /// How long those are that come after the first.
    bytes: usize,
}

impl Chain {
    fn followed_by(mut self, next: SignedRoot, is_enough: &impl Fn(&SignedRoot) -> bool) -> Self {
        self.is_owners = self.is_owners || is_enough(&next);
        self.bytes += next.text.len();
        self.roots.push(next);
        self
    }

    fn is_too_long(&self) -> bool {
        !self.is_owners && self.bytes > MAX_STRANGE_BYTES
    }
}

/// Follows each chain to its end. Returns those that the owners signed.
async fn walk(
    mut chains: Vec<Chain>,
    shown: &[ShownRoots<'_>],
    is_enough: &impl Fn(&SignedRoot) -> bool,
    found: &mut FoundRoot,
) -> Vec<Vec<SignedRoot>> {
    let mut good = Vec::new();
    while let Some(chain) = chains.pop() {
        let Some(newest) = chain.roots.last() else { continue };
        let Root { version, ref vault, .. } = newest.root;
        let mut all_next =
            if chain.is_too_long() { Vec::new() } else { next(shown, version + 1, Some(newest), found).await };
        if let Some(last) = all_next.pop() {
            chains.extend(all_next.into_iter().map(|next| chain.clone().followed_by(next, is_enough)));
            chains.push(chain.followed_by(last, is_enough));
        } else if chain.is_owners {
            good.push(chain.roots);
        } else {
            found.junk.push(format!("root {version} of vault {vault} is left aside: others own it"));
        }
    }
    good
}

/// The different valid roots of a version that follow `before`.
async fn next(
    shown: &[ShownRoots<'_>],
    version: u64,
    before: Option<&SignedRoot>,
    found: &mut FoundRoot,
) -> Vec<SignedRoot> {
    let of = before.map(|before| &before.root);
    let reads = shown.iter().map(|shown| async move { (shown.name(), shown.read(version, of).await) });
    let mut next: Vec<SignedRoot> = Vec::new();
    for (replica, read) in join_all(reads).await {
        let root = match read {
            Ok(Some(root)) => root,
            Ok(None) => continue,
            Err(error) if is_verdict(&error) => {
                found.junk.push(format!("replica {replica}: root {version} is left aside: {}", error.chain()));
                continue;
            }
            // It may be there, and good.
            Err(error) => {
                let error = error.within(format!("replica {replica} lists root {version}, and it cannot be read"));
                found.unanswered.entry(replica.clone()).or_insert(error);
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
        found.junk.extend(flaw.iter().map(|flaw| format!("a root {version} is left aside: {flaw}")));
        flaw.is_none()
    });
    next
}

/// The error of two valid roots of one version; `replica` shows the one that is not known here.
pub(super) fn forked(version: u64, replica: Option<&Name>) -> Error {
    let what = match replica {
        Some(replica) => {
            format!("replica {replica} and this host have different valid roots of version {version}")
        }
        None => format!("the replicas show different valid roots of version {version}"),
    };
    Error::keys(what)
        .because("an owner's key was used twice, or somebody else has it")
        .hint("find out who signed the wrong one, and remove it from the replicas; on each host that pinned the wrong one, remove root.json and roots/ from the state directory")
}

#[cfg(test)]
mod tests;
