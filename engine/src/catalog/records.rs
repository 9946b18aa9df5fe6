//! Reads and writes records: what is signed besides manifests and index segments.
//!
//! A record that no replica returns whole, or that requires what this program does not know, is
//! never dropped in silence: the caller gets it by name, and decides what it must not do.

use std::collections::{BTreeMap, BTreeSet};

use chrono::{DateTime, Utc};
use lifeboat_base::{Error, Result};
use lifeboat_format::id::{Digest, Name, SnapshotId};
use lifeboat_format::layout;
use lifeboat_format::record::{self, Envelope, MAX_RECORD_BYTES, PreviousRecord, RecordBody, RecordType};
use lifeboat_format::requirements::Requirements;
use lifeboat_store::SharedReplica;

use super::inventory::Inventory;
use super::order::FoundAct;
use super::signed::{SignedObject, fetch_signed, fetch_signed_pair, sign_plain};
use super::unbelieved::Unbelieved;
use super::verdict::{Signed, combine_looks, is_verdict};
use crate::keys::sign::Signer;
use crate::keys::trust::Trust;

/// A record that was read and believed.
pub(crate) struct FoundRecord<B> {
    pub id: SnapshotId,
    /// `None` in format 1.
    pub envelope: Option<Envelope>,
    pub body: B,
    /// The hash of its object.
    pub hash: Digest,
    /// Whether the warden of the root signed it.
    pub by_warden: bool,
}

/// Where records are read, and whom to believe.
#[derive(Clone, Copy)]
pub(crate) struct RecordReader<'a> {
    pub vault: &'a str,
    pub dataset: &'a Name,
    pub trust: &'a Trust,
}

impl RecordReader<'_> {
    /// Reads a record from the first of `replicas` that returns a good one.
    ///
    /// # Errors
    /// None does.
    pub(crate) async fn read<B: RecordBody>(
        &self,
        replicas: &[&SharedReplica],
        id: &SnapshotId,
    ) -> Result<FoundRecord<B>> {
        let key = layout::record(self.dataset, B::TYPE, id);
        let mut errors = Vec::new();
        for replica in replicas {
            let read = async {
                let limit = MAX_RECORD_BYTES as u64;
                let (json, signature) =
                    fetch_signed_pair(replica.as_ref(), &key, limit, self.vault, self.trust).await?;
                let by_warden = self.trust.warden().is_some()
                    && self
                        .trust
                        .verify(self.vault, &key, &json, &signature)
                        .is_ok_and(|key| self.trust.is_warden(&key));
                let what = format!("replica {}: {key}", replica.name());
                let (envelope, body) = record::read(&json, self.vault, self.dataset, &what)?;
                Ok(FoundRecord { id: id.clone(), envelope, body, hash: Digest::of(&json), by_warden })
            };
            match read.await {
                Ok(record) => return Ok(record),
                // Of the only replica, its own words say it all.
                Err(error) if replicas.len() == 1 => return Err(error),
                Err(error) => errors.push(error),
            }
        }
        Err(combine_looks(format!("no replica returns a valid {key}"), &errors))
    }

    /// Reads the record that an act is about. The act holds its signature, so nobody needs to have
    /// put that beside it.
    ///
    /// # Errors
    /// No replica returns it.
    pub(crate) async fn read_ordered<B: RecordBody>(&self, replicas: &[&SharedReplica], of: &FoundAct) -> Result<B> {
        let key = of.act.object();
        let mut errors = Vec::new();
        for replica in replicas {
            let read = async {
                let json = replica.get(&key, MAX_RECORD_BYTES as u64).await?;
                self.trust.verify(self.vault, &key, &json, of.act.signature.as_bytes())?;
                let what = format!("replica {}: {key}", replica.name());
                Ok::<_, Error>(record::read::<B>(&json, self.vault, self.dataset, &what)?.1)
            };
            match read.await {
                Ok(body) => return Ok(body),
                Err(error) => errors.push(error),
            }
        }
        Err(combine_looks(format!("no replica returns a valid {key}"), &errors))
    }

    /// Who signed the record, as far as `replicas` tell, whether it can be understood or not.
    pub(crate) async fn signed(&self, of: RecordType, replicas: &[&SharedReplica], id: &SnapshotId) -> Signed {
        let (key, limit, mut signed) = (layout::record(self.dataset, of, id), MAX_RECORD_BYTES as u64, None);
        for replica in replicas {
            match fetch_signed(replica.as_ref(), &key, limit, self.vault, self.trust).await {
                Ok(_) => return Signed::Trusted,
                Err(error) => signed = signed.max(Some(Signed::of(&error))),
            }
        }
        signed.unwrap_or(Signed::ByNobody)
    }

    /// Reads every record of a type that some replica shows, and returns them oldest first. Those
    /// that cannot be read come with their errors. Replicas that show too many that none returns
    /// signed are left aside ([`MAX_UNBELIEVED`](super::unbelieved::MAX_UNBELIEVED)).
    pub(crate) async fn read_all<B: RecordBody>(
        &self,
        inventories: &[Inventory],
    ) -> (Vec<FoundRecord<B>>, BTreeMap<SnapshotId, Error>) {
        let shown = inventories.iter().map(|inventory| (&inventory.replica, inventory.records(B::TYPE)));
        self.read_shown(&shown.collect::<Vec<_>>()).await
    }

    /// As [`Self::read_all`], of the records that each replica shows.
    pub(crate) async fn read_shown<B: RecordBody>(
        &self,
        shown: &[(&SharedReplica, &BTreeSet<SnapshotId>)],
    ) -> (Vec<FoundRecord<B>>, BTreeMap<SnapshotId, Error>) {
        let ids: BTreeSet<&SnapshotId> = shown.iter().flat_map(|(_, records)| *records).collect();
        let (mut found, mut unreadable) = (Vec::new(), BTreeMap::new());
        let mut unbelieved = Unbelieved::new("a record that no replica returns signed");
        for id in ids.into_iter().rev() {
            let holders: Vec<&SharedReplica> =
                shown.iter().filter(|(_, records)| records.contains(id)).map(|(replica, _)| *replica).collect();
            let names = || holders.iter().map(|holder| holder.name());
            if unbelieved.leaves_aside(names()) {
                continue;
            }
            let error = match self.read(&holders, id).await {
                Ok(record) => {
                    found.push(record);
                    continue;
                }
                Err(error) => error,
            };
            if self.signed(B::TYPE, &holders, id).await != Signed::Trusted {
                unbelieved.add(names(), id, &error);
            } else if is_verdict(&error)
                && let Ok(record) = self.read(&holders, id).await
            {
                // The first answer was damaged on its way.
                found.push(record);
                continue;
            }
            unreadable.insert(id.clone(), error);
        }
        found.reverse();
        (found, unreadable)
    }
}

/// Who writes a record.
#[derive(Clone, Copy)]
pub(crate) struct RecordWriter<'a> {
    pub vault: &'a str,
    pub dataset: &'a Name,
    pub principal: &'a Name,
    pub signer: &'a Signer,
}

impl RecordWriter<'_> {
    /// Signs a record. `last` is the newest one of this type that the same principal has written.
    pub(crate) fn sign<B: RecordBody>(
        &self,
        id: &SnapshotId,
        time: DateTime<Utc>,
        last: Option<&FoundRecord<B>>,
        body: &B,
    ) -> Result<SignedObject> {
        let last = last.and_then(|last| Some((last, last.envelope.as_ref()?.sequence)));
        let envelope = Envelope {
            record_type: B::TYPE,
            requires: Requirements::default(),
            vault: self.vault.to_owned(),
            dataset: self.dataset.clone(),
            principal: self.principal.clone(),
            sequence: last.map_or(1, |(_, sequence)| sequence.saturating_add(1)),
            previous: last.map(|(last, _)| PreviousRecord { record: last.id.clone(), blake3: last.hash }),
            time,
        };
        let json = record::write(&envelope, body)?;
        sign_plain(layout::record(self.dataset, B::TYPE, id), json, self.vault, self.signer)
    }

    /// Whether this principal has written the record.
    pub(crate) fn wrote<B>(&self, record: &FoundRecord<B>) -> bool {
        record.envelope.as_ref().is_some_and(|envelope| envelope.principal == *self.principal)
    }
}

impl Inventory {
    /// The signed records of a type.
    pub(crate) fn records(&self, of: RecordType) -> &BTreeSet<SnapshotId> {
        match of {
            RecordType::Prune => &self.prunes,
            RecordType::Mark => &self.marks,
            RecordType::Drill => &self.drills,
        }
    }
}
