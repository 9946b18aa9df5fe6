//! Reads when snapshots were taken, where an operator has settled it.

use std::collections::{BTreeMap, BTreeSet};

use lifeboat_base::{Error, Result};
use lifeboat_format::id::{Name, SnapshotId};
use lifeboat_format::layout;
use lifeboat_format::manifest::Manifest;
use lifeboat_format::record::PruneRecord;
use lifeboat_store::SharedReplica;

use super::{Listed, Listings, VaultReader};
use crate::catalog::records::RecordReader;
use crate::catalog::taken::{SettledTimes, SnapshotTime, TakenTimes};
use crate::catalog::unbelieved::Unbelieved;
use crate::catalog::verdict::is_verdict;

/// The times that records settle.
pub(in crate::restore) struct FoundSettled {
    pub(in crate::restore) times: SettledTimes,
    /// A record that no replica returned, although one may hold it: it may settle others.
    pub(in crate::restore) unread: Option<(SnapshotId, Error)>,
}

impl VaultReader {
    /// The times that an operator has settled, as prune records of trusted signers say. Records
    /// that cannot be read are left aside with a warning.
    ///
    /// # Errors
    /// No replica can be listed.
    pub async fn settled_times(&self, dataset: &Name) -> Result<SettledTimes> {
        Ok(self.find_settled(dataset).await?.times)
    }

    /// As [`Self::settled_times`], with a record that may settle others.
    ///
    /// A replica that could not be listed is asked for what others show, too.
    pub(in crate::restore) async fn find_settled(&self, dataset: &Name) -> Result<FoundSettled> {
        let folder = layout::prunes(dataset);
        let Listings { objects, unlisted, .. } = self.list_any(&folder).await?;
        let present: BTreeSet<(&Name, &str)> = objects.iter().map(|(replica, key)| (replica, key.as_str())).collect();
        let mut shown: BTreeMap<&Name, BTreeSet<SnapshotId>> = BTreeMap::new();
        for (replica, key) in &objects {
            let Some(record) = layout::parse_json(&folder, key) else { continue };
            if present.contains(&(replica, layout::signature(key).as_str())) {
                shown.entry(replica).or_default().insert(record);
            }
        }
        let anywhere: BTreeSet<SnapshotId> = shown.values().flatten().cloned().collect();
        let listed = self.replicas.iter().filter_map(|replica| Some((replica, shown.get(replica.name())?)));
        // Last, as they may keep a reader waiting.
        let others = self.replicas.iter().filter(|replica| unlisted.contains(replica.name()));
        let holders = listed.chain(others.map(|replica| (replica, &anywhere)));
        let holders: Vec<(&SharedReplica, &BTreeSet<SnapshotId>)> = holders.collect();
        let reader = RecordReader { vault: &self.vault, dataset, trust: &self.keys.trust };
        let (found, unreadable) = reader.read_shown::<PruneRecord>(&holders).await;
        let mut unbelieved = Unbelieved::new("a prune record that cannot be read");
        for (record, error) in &unreadable {
            let names = shown.iter().filter(|(_, records)| records.contains(record)).map(|(name, _)| *name);
            unbelieved.add(names, record, error);
        }
        unbelieved.log("times that it settles do not count");
        let times = SettledTimes::of(found.iter().map(|record| &record.body));
        let unread = unreadable.into_iter().find(|(_, error)| !is_verdict(error));
        Ok(FoundSettled { times, unread })
    }

    /// When the snapshot of this manifest was taken.
    ///
    /// # Errors
    /// No replica can be listed.
    pub async fn taken(&self, manifest: &Manifest) -> Result<SnapshotTime> {
        let settled = self.settled_times(&manifest.dataset).await?;
        self.taken_as(manifest, &settled).await
    }

    /// As [`Self::taken`], with [`Self::settled_times`] that are known already.
    ///
    /// # Errors
    /// No replica can be listed.
    pub async fn taken_as(&self, manifest: &Manifest, settled: &SettledTimes) -> Result<SnapshotTime> {
        let (dataset, snapshot) = (&manifest.dataset, &manifest.snapshot);
        if !settled.names(snapshot) {
            return self.as_seen(manifest, SnapshotTime::told(manifest.started)).await;
        }
        let shown = self.snapshots(dataset).await?;
        let taken = self.taken_times(dataset, &shown, settled).await.of(snapshot, manifest.started);
        self.as_seen(manifest, taken).await
    }

    /// When those of the snapshots `shown`, oldest first, were taken whose times are settled.
    pub(in crate::restore) async fn taken_times(
        &self,
        dataset: &Name,
        shown: &[Listed],
        settled: &SettledTimes,
    ) -> TakenTimes {
        let keys = self.document_keys(dataset).await;
        let shown: Vec<SnapshotId> = shown.iter().map(|listed| listed.snapshot.clone()).collect();
        self.documents(dataset, &keys).taken_times(&self.replicas, &shown, settled).await
    }
}
