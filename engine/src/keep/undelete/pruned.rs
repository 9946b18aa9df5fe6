//! Finds out what prunes have deleted in a replica since the moment.
//!
//! - **Who is believed**: the newest prune record that is there now and that a trusted signer has
//!   signed, and those before it, which it has replaced. Without one, nothing was pruned.
//! - **What they explain**: snapshots that a record names, acts that have passed, records that were
//!   replaced, marks that were carried out, and of what these marks name, packs that no snapshot
//!   needs that is there afterwards.
//! - **In doubt it comes back**: index segments, which the next prune removes; packs, if a manifest
//!   cannot be opened; and all, if there are too many objects to look at.

use std::collections::{BTreeMap, HashSet};

use bytes::Bytes;
use chrono::{DateTime, TimeDelta, Utc};
use lifeboat_base::{Class, Result};
use lifeboat_format::act::{ActKind, MAX_ACT_BYTES};
use lifeboat_format::id::{Name, PackId, SnapshotId};
use lifeboat_format::layout;
use lifeboat_format::record::{self, Envelope, MAX_RECORD_BYTES, MarkRecord, PruneRecord, RecordBody};
use lifeboat_store::{KeptVersion, ReplicaErrorKind, SharedReplica, ThenAndNow, VersionWalk};
use serde::Serialize;

use crate::catalog::order::OrderReader;
use crate::keys::sign::MAX_SIGNATURE_BYTES;
use crate::restore::VaultReader;

/// A prune that began so long before the moment may have gone on after it.
const LONGEST_SWEEP: TimeDelta = TimeDelta::days(1);

/// A prune since the moment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PruneFound {
    /// The dataset.
    pub dataset: Name,
    /// The id of its record.
    pub record: SnapshotId,
    /// Who signed it, as the record says.
    pub host: Option<Name>,
    /// How many snapshots it calls removed.
    pub snapshots: usize,
}

/// What prunes have deleted in one replica.
#[derive(Default)]
pub(super) struct Pruned {
    pub(super) found: Vec<PruneFound>,
    /// Keys that a record or a mark names, or follow from one, without those of signatures.
    keys: HashSet<String>,
    records: Vec<PruneRecord>,
    packs: HashSet<PackId>,
    dataset: Option<Name>,
}

/// Where it is looked for.
#[derive(Clone, Copy)]
struct Searched<'a> {
    reader: &'a VaultReader,
    now: &'a SharedReplica,
    dataset: &'a Name,
    moment: DateTime<Utc>,
}

impl Pruned {
    /// Looks at the records, acts and marks of a dataset, and at those that were deleted.
    ///
    /// # Errors
    /// The replica fails.
    pub(super) async fn look(
        reader: &VaultReader,
        past: &SharedReplica,
        now: &SharedReplica,
        dataset: &Name,
        moment: DateTime<Utc>,
    ) -> Result<Self> {
        let place = Searched { reader, now, dataset, moment };
        match Self::search(place, past).await {
            // Whoever writes very much there must not stop what brings back.
            Err(error) if error.class() == Class::Integrity => {
                tracing::warn!(%dataset, error = %error.chain(), "It cannot be told what prunes deleted, so all comes back");
                Ok(Self { dataset: Some(dataset.clone()), ..Self::default() })
            }
            looked => looked,
        }
    }

    /// # Errors
    /// [`Class::Integrity`]: there is too much. Others: the replica fails.
    async fn search(place: Searched<'_>, past: &SharedReplica) -> Result<Self> {
        let Searched { dataset, moment, .. } = place;
        let mut pruned = Self { dataset: Some(dataset.clone()), ..Self::default() };
        let folder = layout::prunes(dataset);
        let versions = place.versions(&folder).await?;
        let mut newest = None;
        for (key, history) in versions.iter().rev() {
            let Some(id) = layout::parse_json(&folder, key) else { continue };
            if newest.is_none() && history.now.is_none() {
                continue;
            }
            let Some((envelope, body)) = place.signed::<PruneRecord>(&versions, key).await? else { continue };
            if newest.replace(id.clone()).is_some() {
                pruned.keys.insert(key.clone());
            }
            let is_old = history.newest.as_ref().is_some_and(|record| record.modified < moment - LONGEST_SWEEP);
            if is_old {
                continue;
            }
            // No record removes what the root still keeps.
            let trust = &place.reader.keys().trust;
            let removed = body.removed.iter().filter(|removed| trust.keeps_until(removed.snapshot.time()).is_none());
            let removed = removed.map(|removed| layout::manifest(dataset, &removed.snapshot));
            pruned.keys.extend(removed);
            let host = envelope.map(|envelope| envelope.principal);
            let snapshots = body.removed.len();
            pruned.found.push(PruneFound { dataset: dataset.clone(), record: id, host, snapshots });
            pruned.records.push(body);
        }
        if !pruned.records.is_empty() {
            pruned.take_marks(place).await?;
            if !pruned.packs.is_empty() {
                pruned.spare_needed(place, past).await?;
            }
        }
        Ok(pruned)
    }

    /// Whether a prune deleted this object.
    pub(super) fn explains(&self, key: &str) -> bool {
        let Some(dataset) = &self.dataset else { return false };
        if let Some(pack) = layout::parse_pack(dataset, key) {
            return self.packs.contains(&pack);
        }
        if let Some(number) = layout::parse_act(dataset, key) {
            return self.records.iter().any(|record| record.has_passed(number));
        }
        self.keys.contains(key.strip_suffix(&layout::signature("")).unwrap_or(key))
    }

    /// Notes the marks that were carried out, and what they name.
    async fn take_marks(&mut self, place: Searched<'_>) -> Result<()> {
        let Searched { reader, dataset, .. } = place;
        let versions = place.versions(&layout::marks(dataset)).await?;
        let order =
            OrderReader { vault: reader.vault_id(), dataset, trust: &reader.keys().trust, cache: None, host_key: None };
        for (key, history) in place.versions(&layout::order(dataset)).await? {
            let Some(number) = layout::parse_act(dataset, &key).filter(|_| history.now.is_none()) else { continue };
            if !self.explains(&key) {
                continue;
            }
            let Some(stored) = place.newest(&history, MAX_ACT_BYTES as u64).await? else { continue };
            let Ok(found) = order.believe(stored, number, &key) else { continue };
            if found.act.act != ActKind::Mark {
                continue;
            }
            let mark = layout::mark(dataset, &found.act.id);
            if let Some((_, body)) = place.signed::<MarkRecord>(&versions, &mark).await? {
                self.packs.extend(body.packs);
                self.keys.extend(body.objects);
                self.keys.insert(mark);
            }
        }
        Ok(())
    }

    /// Spares the packs that a snapshot needs that is there now, or comes back.
    async fn spare_needed(&mut self, place: Searched<'_>, past: &SharedReplica) -> Result<()> {
        let dataset = place.dataset;
        let (then, now) = (place.reader.only(past), place.reader.only(place.now));
        for reader in [&then, &now] {
            for listed in reader.snapshots(dataset).await? {
                let key = layout::manifest(dataset, &listed.snapshot);
                if self.keys.contains(&key) {
                    continue;
                }
                match reader.manifest(dataset, &listed.snapshot).await {
                    Ok(manifest) => {
                        let needed: HashSet<PackId> = manifest.packs.iter().map(|pack| pack.id).collect();
                        self.packs.retain(|pack| !needed.contains(pack));
                    }
                    // Nobody signed it: it needs nothing.
                    Err(error) if error.class() == Class::Integrity => {}
                    Err(error) => {
                        tracing::warn!(%dataset, snapshot = %listed.snapshot, error = %error.chain(), "A manifest cannot be opened, so packs that prunes deleted come back, too");
                        self.packs.clear();
                        return Ok(());
                    }
                }
            }
        }
        Ok(())
    }
}

impl Searched<'_> {
    /// The keys of a folder of records or acts. What is named otherwise than these is passed over.
    async fn versions(&self, folder: &str) -> Result<BTreeMap<String, ThenAndNow>> {
        let (mut walk, mut all) = (VersionWalk::new(folder, self.moment), BTreeMap::new());
        while let Some(keys) = walk.next(self.now.as_ref()).await? {
            for key in keys.into_iter().filter(|key| is_record_or_act(self.dataset, folder, &key.key)) {
                walk.admit(self.now.as_ref(), &key)?;
                all.insert(key.key.clone(), key);
            }
        }
        Ok(all)
    }

    /// The newest version of a key; `None` if there is none, or it is too long.
    async fn newest(&self, history: &ThenAndNow, limit: u64) -> Result<Option<Bytes>> {
        let Some(KeptVersion { key, id, .. }) = &history.newest else { return Ok(None) };
        match self.now.get_version(key, id, limit).await {
            Ok(body) => Ok(Some(body)),
            Err(error) if matches!(error.kind, ReplicaErrorKind::NotFound | ReplicaErrorKind::TooLong { .. }) => {
                Ok(None)
            }
            Err(error) => Err(error.into()),
        }
    }

    /// The newest version of a record, if a trusted signer signed it and it is understood.
    async fn signed<B: RecordBody>(
        &self,
        versions: &BTreeMap<String, ThenAndNow>,
        key: &str,
    ) -> Result<Option<(Option<Envelope>, B)>> {
        let signature_key = layout::signature(key);
        let (Some(record), Some(signature)) = (versions.get(key), versions.get(&signature_key)) else {
            return Ok(None);
        };
        let Some(json) = self.newest(record, MAX_RECORD_BYTES as u64).await? else { return Ok(None) };
        let Some(signature) = self.newest(signature, MAX_SIGNATURE_BYTES as u64).await? else { return Ok(None) };
        let vault = self.reader.vault_id();
        if self.reader.keys().trust.verify(vault, key, &json, &signature).is_err() {
            return Ok(None);
        }
        let read = record::read::<B>(&json, vault, self.dataset, &format!("replica {}: {key}", self.now.name()));
        Ok(read.inspect_err(|error| tracing::warn!("Not counting a record: {}", error.chain())).ok())
    }
}

fn is_record_or_act(dataset: &Name, folder: &str, key: &str) -> bool {
    let object = key.strip_suffix(&layout::signature("")).unwrap_or(key);
    layout::parse_json(folder, object).is_some() || layout::parse_act(dataset, key).is_some()
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn only_names_of_records_and_acts_take_memory() {
        let shop: Name = "shop".parse().unwrap();
        let id: SnapshotId = "20261123T183244123Z-9f2c81aa".parse().unwrap();
        let (folder, prune) = (layout::prunes(&shop), layout::prune(&shop, &id));
        for key in [prune.clone(), layout::signature(&prune), layout::act(&shop, 7)] {
            assert!(is_record_or_act(&shop, &folder, &key), "{key}");
        }
        for key in [format!("{folder}x"), format!("{prune}.x"), layout::mark(&shop, &id), layout::signature("")] {
            assert!(!is_record_or_act(&shop, &folder, &key), "{key}");
        }
    }
}
