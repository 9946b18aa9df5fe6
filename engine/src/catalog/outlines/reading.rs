//! Reads the outlines of many snapshots.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures::StreamExt;
use lifeboat_base::Error;
use lifeboat_format::id::SnapshotId;
use lifeboat_format::layout;
use lifeboat_format::manifest::Manifest;
use lifeboat_store::SharedReplica;

use super::{KeptOutlines, Outline, OutlineMap, Outlines};
use crate::catalog::documents::{Documents, StoredAs};
use crate::catalog::inventory::Inventory;
use crate::catalog::unbelieved::Unbelieved;
use crate::catalog::verdict::Signed;
use crate::state::cache::ObjectCache;

/// How many manifests are fetched and opened at once.
const MANIFESTS_AT_ONCE: usize = 16;

/// What was read of some snapshots.
pub(crate) struct ReadOutlines {
    /// These, and others that this host keeps.
    pub(crate) outlines: Outlines,
    /// These alone.
    pub(crate) by_snapshot: OutlineMap,
    /// Why others of them could not be read.
    pub(crate) unreadable: Vec<(SnapshotId, Error)>,
}

impl Documents<'_> {
    /// Reads the outlines of many snapshots, several at once: from what this host keeps, or else
    /// from their manifests. New ones are kept. A manifest of which the cache has no copy is read
    /// again: what replicas lose is put back from the copies.
    ///
    /// Replicas that show too many that none returns signed are left aside, so some of `snapshots`
    /// may be neither read nor unreadable: see `unbelieved.rs`. Hence the newest should come first.
    pub(crate) async fn outlines(
        &self,
        inventories: &[Inventory],
        snapshots: impl IntoIterator<Item = SnapshotId>,
        kept: Option<&KeptOutlines<'_>>,
    ) -> ReadOutlines {
        let (outlines, until) = kept.map(KeptOutlines::read).unzip();
        let outlines = outlines.unwrap_or_default();
        let known = outlines.find_all();
        let copied = self.cache.filter(|_| !known.is_empty()).map(ObjectCache::keys).unwrap_or_default();
        let (mut by_snapshot, mut unread) = (OutlineMap::new(), Vec::new());
        for snapshot in snapshots {
            let known = known.get(&snapshot).map(|outline| Arc::clone(outline));
            match known {
                Some(outline) if copied.contains(&layout::manifest(self.dataset, &snapshot)) => {
                    by_snapshot.insert(snapshot, outline);
                }
                known => unread.push((snapshot, known)),
            }
        }
        drop(known);
        let kept_until = outlines.len();
        let outlines = Arc::new(Mutex::new(outlines));
        let unbelieved = Mutex::new(Unbelieved::new("a snapshot that no replica returns signed"));
        let read = |(snapshot, known): (SnapshotId, Option<Arc<Outline>>)| {
            let (outlines, unbelieved) = (outlines.clone(), &unbelieved);
            async move {
                let holders = inventories.iter().filter(|inventory| inventory.snapshots.contains(&snapshot));
                let holders: Vec<SharedReplica> = holders.map(|inventory| inventory.replica.clone()).collect();
                let names = || holders.iter().map(|holder| holder.name());
                if lock(unbelieved).leaves_aside(names()) {
                    return None;
                }
                // Before the next one is opened, this manifest is gone.
                let insert = move |manifest: Manifest, stored: StoredAs| match &known {
                    Some(known) if known.hash == stored.hash => Ok(Arc::clone(known)),
                    _ => lock(&outlines).insert(&manifest, stored),
                };
                let outline = self.look(&holders, &snapshot, insert).await;
                // A replica that fails may well hold it signed.
                if let Err(error) = &outline
                    && self.signed(holders.iter(), &snapshot).await < Signed::Unknown
                {
                    lock(unbelieved).add(names(), &snapshot, error);
                }
                Some((snapshot, outline))
            }
        };
        let mut unreadable = Vec::new();
        {
            let mut read = std::pin::pin!(futures::stream::iter(unread).map(read).buffered(MANIFESTS_AT_ONCE));
            while let Some(read) = read.next().await {
                match read {
                    Some((snapshot, Ok(outline))) => drop(by_snapshot.insert(snapshot, outline)),
                    Some((snapshot, Err(error))) => unreadable.push((snapshot, error)),
                    None => {}
                }
            }
        }
        lock(&unbelieved).log("it is left aside");
        let outlines = std::mem::take(&mut *lock(&outlines));
        if let (Some(kept), Some(until)) = (kept, until)
            && outlines.len() > kept_until
        {
            let shown: BTreeSet<&SnapshotId> = inventories.iter().flat_map(|inventory| &inventory.snapshots).collect();
            kept.keep(&outlines, until, |outline| shown.contains(&outline.snapshot));
        }
        ReadOutlines { outlines, by_snapshot, unreadable }
    }
}

fn lock<T>(shared: &Mutex<T>) -> MutexGuard<'_, T> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}
