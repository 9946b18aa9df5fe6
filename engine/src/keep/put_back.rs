//! Puts back what replicas have lost and this host still has: signatures, which acts hold, and
//! acts, manifests and index segments, of which the cache has copies. All of them were believed
//! before they came there.
//!
//! Nothing is put back that a record calls gone, and nothing at all while a record cannot be
//! fetched that may call it gone. A manifest is put back only into a replica that
//! has every pack that it names, so that none shows what it cannot restore.

use std::collections::{BTreeSet, HashSet};

use lifeboat_base::{Error, Result};
use lifeboat_format::act::ActKind;
use lifeboat_format::id::Digest;
use lifeboat_format::layout;

use crate::catalog::ciphertext::put_once;
use crate::catalog::documents::Documents;
use crate::catalog::inventory::Inventory;
use crate::catalog::order::{Acts, OrderReader};
use crate::catalog::removals::PruneRecords;
use crate::catalog::signed::sign_plain;
use crate::catalog::verdict::is_verdict;
use crate::keys::HostKeys;
use crate::state::cache::ObjectCache;

/// Puts things back into each of `inventories`. Returns the keys of what was put back. A replica
/// that fails gets no more.
pub(crate) async fn put_back(
    documents: &Documents<'_>,
    keys: &HostKeys,
    cache: &ObjectCache,
    inventories: &mut [Inventory],
    records: &PruneRecords,
) -> BTreeSet<String> {
    let (dataset, mut returned) = (documents.dataset, BTreeSet::new());
    let order = OrderReader::of_host(keys, dataset, cache);
    let mut acts = order.all(inventories).await;
    let bodies = || records.found.iter().map(|record| &record.body);
    if let Some((record, error)) = records.unreadable.iter().find(|(_, error)| !is_verdict(error)) {
        tracing::warn!(%record, error = %error.chain(), "Nothing is put back: this prune record may call it gone");
        return returned;
    }
    let cached = cache.keys();
    let cached_acts: BTreeSet<u64> = cached.iter().filter_map(|key| layout::parse_act(dataset, key)).collect();
    for number in cached_acts {
        let is_known = acts.found.contains_key(&number) || bodies().any(|record| record.has_passed(number));
        if !is_known && let Ok(act) = order.act(&[], number).await {
            let key = layout::act(dataset, number);
            for inventory in inventories.iter_mut() {
                let put = put_once(inventory.replica.as_ref(), &key, act.stored.clone()).await;
                if told(inventory, &key, &put) {
                    inventory.acts.insert(number);
                    returned.insert(key.clone());
                }
            }
            acts.insert(number, act);
        }
    }
    let current = acts.without_passed(bodies());
    let all: Vec<Inventory> = inventories.to_vec();
    for inventory in inventories.iter_mut() {
        let brought = async {
            order.level(inventory, &all, acts.newest()).await?;
            let filled = order.fill(inventory, &current).await?;
            Ok::<_, Error>([filled, order.finish(documents, inventory, &current).await?].concat())
        };
        match brought.await {
            Ok(keys) => returned.extend(keys),
            Err(error) => {
                told(inventory, "the order", &Err(error));
            }
        }
    }
    returned.extend(manifests(documents, cache, inventories, &current).await);
    returned.extend(segments(documents, keys, cache, inventories, &cached).await);
    for key in &returned {
        tracing::warn!(%key, "A replica had lost an object, and has it again");
    }
    returned
}

/// Manifests that acts name and that no replica has.
async fn manifests(
    documents: &Documents<'_>,
    cache: &ObjectCache,
    inventories: &mut [Inventory],
    current: &Acts,
) -> BTreeSet<String> {
    let mut returned = BTreeSet::new();
    for act in current.found.values().map(|found| &found.act).filter(|act| act.act == ActKind::Commit) {
        let key = act.object();
        if inventories.iter().any(|other| other.snapshots.contains(&act.id)) {
            continue;
        }
        let object = cache.get(&key).filter(|object| Digest::of(object) == act.blake3);
        let Some(object) = object else { continue };
        let Ok((manifest, _)) = documents.manifest(&[], &act.id).await else { continue };
        for inventory in inventories.iter_mut() {
            if !manifest.packs.iter().all(|pack| inventory.has(pack)) {
                continue;
            }
            let replica = inventory.replica.clone();
            let put = async {
                put_once(replica.as_ref(), &key, object.clone().into()).await?;
                put_once(replica.as_ref(), &layout::signature(&key), act.signature.clone().into()).await
            };
            if told(inventory, &key, &put.await) {
                inventory.unfinished.insert(key.clone());
                inventory.signed(documents.dataset, &key);
                returned.insert(key.clone());
            }
        }
    }
    returned
}

/// Index segments that no replica has. Prune removes those from the cache that are to be gone.
async fn segments(
    documents: &Documents<'_>,
    keys: &HostKeys,
    cache: &ObjectCache,
    inventories: &mut [Inventory],
    cached: &HashSet<String>,
) -> BTreeSet<String> {
    let (dataset, mut returned) = (documents.dataset, BTreeSet::new());
    for key in cached {
        let Some(segment) = layout::parse_index(dataset, key) else { continue };
        if inventories.iter().any(|inventory| inventory.indexes.contains(&segment)) {
            continue;
        }
        let Some(object) = cache.get(key) else { continue };
        let Ok(opened) = documents.index(&[], &segment).await else { continue };
        let Ok(signed) = sign_plain(key.clone(), object, &keys.vault, &keys.signer) else { continue };
        for inventory in inventories.iter_mut() {
            if !opened.packs().any(|pack| pack.is_ok_and(|pack| inventory.packs.contains_key(&pack.id))) {
                continue;
            }
            let replica = inventory.replica.clone();
            let put = async {
                put_once(replica.as_ref(), key, signed.object.clone()).await?;
                put_once(replica.as_ref(), &layout::signature(key), signed.signature.clone()).await
            };
            if told(inventory, key, &put.await) {
                inventory.indexes.insert(segment.clone());
                returned.insert(key.clone());
            }
        }
    }
    returned
}

/// Whether it was put. If not, that is told.
fn told(inventory: &Inventory, what: &str, put: &Result<()>) -> bool {
    if let Err(error) = put {
        tracing::warn!(replica = %inventory.replica.name(), error = %error.chain(), "Cannot put back {what}");
    }
    put.is_ok()
}
