//! What snapshots need, as their hosts tell a warden, who can open no manifest. See "Needs" in
//! `FORMAT.md`.
//!
//! - **The first list counts**: whoever has stolen a backup host can sign another one later, by
//!   which an old snapshot needs nothing. So a warden remembers what it saw first, and goes by no
//!   other list of that snapshot. It believes that one whoever signed it: the signer may have been
//!   revoked since. Before it has seen one, all replicas must tell the same.
//! - **Only of this manifest**: the list names the hash of the manifest, which is signed, too.
//! - **None**: then nobody here knows what the snapshot needs, and nothing is deleted.
//! - **Bounds**: long lists are read one at a time, as all large documents are, and none that takes
//!   more than half of `limits.memory`: a replica may send anything in their place.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use bytes::Bytes;
use chrono::{DateTime, Utc};
use futures::StreamExt;
use lifeboat_base::{Class, Error, Result};
use lifeboat_format::id::{Digest, Name, PackId, SnapshotId};
use lifeboat_format::layout;
use lifeboat_format::manifest::{Manifest, ManifestHead, PackRef, Previous};
use lifeboat_format::needs::{MAX_NEEDS_BYTES, NeedsBefore, SnapshotNeeds, split_needs};
use lifeboat_format::requirements::Requirements;
use lifeboat_store::{ReplicaErrorKind, SharedReplica};

use super::documents::{Documents, LargeTurn, SMALL_DOCUMENT_BYTES, raise_memory, take_turn};
use super::first_sights::{FirstSights, SeenNeeds};
use super::inventory::Inventory;
use super::outlines::{Outline, OutlineMap, Outlines, ReadOutlines};
use super::signed::believe;
use super::verdict::{combine, is_verdict};
use crate::keys::sign::Signer;

/// So many lists are fetched at once, of which one may be long.
const LISTS_AT_ONCE: usize = 4;

/// A list that is believed.
struct BelievedNeeds {
    needs: SnapshotNeeds,
    /// The hash of its line.
    list: Digest,
    /// While a long list is held, no other is.
    turn: Option<LargeTurn>,
}

/// How a list is not what a host would write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Differs {
    /// Nobody can believe it.
    Unbelieved,
    /// Somebody signed it who may, and it tells something else than the manifest.
    Signed,
}

/// What the snapshot of a manifest needs; `hash` is that of the manifest as it is stored.
pub(crate) fn of_manifest(manifest: &Manifest, hash: Digest) -> SnapshotNeeds {
    let before = |previous: &Previous| NeedsBefore { snapshot: previous.snapshot.clone(), blake3: previous.blake3 };
    let needs = SnapshotNeeds {
        requires: Requirements::default(),
        vault: manifest.vault.clone(),
        dataset: manifest.dataset.clone(),
        snapshot: manifest.snapshot.clone(),
        manifest: hash,
        sequence: manifest.sequence,
        previous: manifest.previous.as_ref().map(before),
        started: manifest.started,
        finished: manifest.finished,
        partial: !manifest.source.skipped.is_empty(),
        generations: manifest.generations().into_iter().collect(),
        packs: Vec::new(),
        sizes: Vec::new(),
    };
    with_packs(needs, manifest.packs.iter().copied())
}

/// As [`of_manifest`], of what was read of one.
pub(crate) fn of_outline(
    vault: &str,
    dataset: &Name,
    outline: &Outline,
    packs: impl Iterator<Item = PackRef>,
) -> SnapshotNeeds {
    let before = |snapshot: &SnapshotId| NeedsBefore {
        snapshot: snapshot.clone(),
        blake3: outline.previous.as_ref().and_then(|previous| previous.blake3),
    };
    let mut generations = outline.generations.clone();
    generations.sort_unstable();
    let needs = SnapshotNeeds {
        requires: Requirements::default(),
        vault: vault.to_owned(),
        dataset: dataset.clone(),
        snapshot: outline.snapshot.clone(),
        manifest: outline.hash,
        sequence: outline.sequence,
        previous: outline.predecessor().map(before),
        started: outline.started,
        finished: outline.finished,
        partial: outline.is_partial,
        generations,
        packs: Vec::new(),
        sizes: Vec::new(),
    };
    with_packs(needs, packs)
}

fn with_packs(mut needs: SnapshotNeeds, packs: impl Iterator<Item = PackRef>) -> SnapshotNeeds {
    let packs: BTreeMap<_, _> = packs.map(|pack| (pack.id, pack.size)).collect();
    (needs.packs, needs.sizes) = packs.into_iter().unzip();
    needs
}

/// The key and the object of a list.
///
/// # Errors
/// It is too long, or minisign cannot sign.
pub(crate) fn sign_needs(needs: &SnapshotNeeds, signer: &Signer) -> Result<(String, Bytes)> {
    let key = layout::needs(&needs.dataset, &needs.snapshot);
    let mut stored = needs.to_line()?;
    let signature = signer.sign(&stored, &layout::trusted_comment(&needs.vault, &key))?;
    stored.extend_from_slice(signature.as_bytes());
    Ok((key, stored.into()))
}

impl Documents<'_> {
    /// Whether nothing can be decrypted here, as by a warden.
    pub(crate) fn is_blind(&self) -> bool {
        self.keys.identities.is_empty()
    }

    /// What a snapshot needs, as the first of `replicas` tells whose list `accept` takes, and which
    /// is the one that was seen `first`. While none was, all of them must tell the same.
    ///
    /// # Errors
    /// None does, or they tell different lists.
    async fn needs(
        &self,
        replicas: &[&SharedReplica],
        snapshot: &SnapshotId,
        first: Option<&FirstSights>,
        accept: impl Fn(&SnapshotNeeds) -> Result<()>,
    ) -> Result<BelievedNeeds> {
        let key = layout::needs(self.dataset, snapshot);
        if replicas.is_empty() {
            let nobody = Error::integrity(format!("no replica holds {key}, so nobody here knows what it needs"));
            return Err(nobody.hint(self.how_to_have_it_written()));
        }
        if first.is_some_and(|first| first.seen(snapshot).is_none()) && replicas.len() > 1 {
            self.all_tell_the_same(replicas, snapshot, &accept).await?;
        }
        let mut errors = Vec::new();
        for replica in replicas {
            match self.needs_in(replica, snapshot, first, &accept).await {
                Ok(found) => return Ok(found),
                Err(error) if replicas.len() == 1 => return Err(error),
                Err(error) => errors.push(error),
            }
        }
        Err(combine(format!("no replica returns a valid {key}"), &errors))
    }

    /// Checks that replicas tell one list. What is none is no word of anybody's.
    ///
    /// # Errors
    /// They tell different lists, or one of them cannot be asked.
    async fn all_tell_the_same(
        &self,
        replicas: &[&SharedReplica],
        snapshot: &SnapshotId,
        accept: &impl Fn(&SnapshotNeeds) -> Result<()>,
    ) -> Result<()> {
        let mut told: Option<(&SharedReplica, Digest)> = None;
        for replica in replicas {
            let list = match self.needs_in(replica, snapshot, None, accept).await {
                Ok(found) => found.list,
                Err(error) if is_verdict(&error) => continue,
                Err(error) => return Err(error),
            };
            let (other, before) = *told.get_or_insert((replica, list));
            if before != list {
                return Err(Error::integrity(format!(
                    "replicas {} and {} tell different lists of what snapshot {snapshot} needs, and both are signed",
                    other.name(),
                    replica.name()
                ))
                .hint(self.how_to_have_it_written()));
            }
        }
        Ok(())
    }

    /// What a snapshot needs, as one replica tells.
    ///
    /// # Errors
    /// As [`Self::needs`].
    async fn needs_in(
        &self,
        replica: &SharedReplica,
        snapshot: &SnapshotId,
        first: Option<&FirstSights>,
        accept: &impl Fn(&SnapshotNeeds) -> Result<()>,
    ) -> Result<BelievedNeeds> {
        let key = layout::needs(self.dataset, snapshot);
        let hint = || self.how_to_have_it_written();
        let what = format!("replica {}: {key}", replica.name());
        let (stored, turn) = self.fetch_list(replica, &key).await?;
        let damaged = || Error::integrity(format!("{what} is damaged")).hint(hint());
        let (line, signature) = split_needs(&stored).ok_or_else(damaged)?;
        let list = Digest::of(line);
        if !first.is_some_and(|first| first.knows(snapshot, list)) {
            let (trust, replica) = (&self.keys.trust, replica.as_ref());
            believe(trust, replica, self.vault, &key, (line, signature), &key).await.map_err(|error| {
                let is_asked = error.class() != Class::Storage;
                let error = error.within(format!("{what} cannot be trusted"));
                if is_asked { error.hint(hint()) } else { error }
            })?;
        }
        let needs = SnapshotNeeds::of_line(line, self.vault, self.dataset, snapshot, &what)?;
        accept(&needs)?;
        first.map_or(Ok(()), |first| first.check(&needs, list))?;
        Ok(BelievedNeeds { needs, list, turn })
    }

    /// Whether the list of a snapshot in a replica tells what its manifest does, and can be
    /// believed; and if not, why. A newer program may tell more.
    ///
    /// # Errors
    /// The replica does not return it, and may have it.
    pub(crate) async fn differs(&self, replica: &SharedReplica, needs: &SnapshotNeeds) -> Result<Option<Differs>> {
        match self.needs_in(replica, &needs.snapshot, None, &|_| Ok(())).await {
            Ok(found) if found.needs == *needs => Ok(None),
            Ok(_) => Ok(Some(Differs::Signed)),
            Err(error) if is_verdict(&error) => Ok(Some(Differs::Unbelieved)),
            Err(error) => Err(error),
        }
    }

    /// A list as a replica returns it. If it is large, the turn comes with it.
    async fn fetch_list(&self, replica: &SharedReplica, key: &str) -> Result<(Bytes, Option<LargeTurn>)> {
        let (longest, mut turn) = (MAX_NEEDS_BYTES as u64, None);
        let held = self.held().min(longest);
        let mut limit = held.min(SMALL_DOCUMENT_BYTES);
        loop {
            let error = match replica.get(key, limit).await {
                Ok(stored) => return Ok((stored, turn)),
                Err(error) => error,
            };
            match error.kind {
                ReplicaErrorKind::TooLong { size, .. } if size <= held && turn.is_none() => {
                    (turn, limit) = (Some(take_turn().await?), held);
                }
                ReplicaErrorKind::TooLong { size, .. } if size <= longest => {
                    return Err(Error::integrity(error.to_string()).hint(raise_memory(size)));
                }
                ReplicaErrorKind::TooLong { .. } => {
                    return Err(Error::integrity(error.to_string()).hint(self.how_to_have_it_written()));
                }
                _ if error.is_not_found() => {
                    return Err(Error::integrity(error.to_string()).hint(self.how_to_have_it_written()));
                }
                _ => return Err(error.into()),
            }
        }
    }

    fn how_to_have_it_written(&self) -> String {
        format!("run `lifeboat prune {}` on its backup host, which writes it", self.dataset)
    }

    /// As [`Self::outlines`], where no manifest can be opened. What is new is added to `first`, as
    /// seen at `now`.
    pub(crate) async fn outlines_of_needs(
        &self,
        inventories: &[Inventory],
        snapshots: impl IntoIterator<Item = SnapshotId>,
        first: &mut FirstSights,
        now: DateTime<Utc>,
    ) -> ReadOutlines {
        let outlines = Mutex::new(Outlines::default());
        let (mut by_snapshot, mut unreadable, mut new) = (OutlineMap::new(), Vec::new(), Vec::new());
        let known = &*first;
        let read = |snapshot: SnapshotId| {
            let outlines = &outlines;
            async move {
                let looked = async {
                    let holds = |inventory: &&Inventory| inventory.snapshots.contains(&snapshot);
                    let holders: Vec<SharedReplica> =
                        inventories.iter().filter(holds).map(|inventory| inventory.replica.clone()).collect();
                    let stored = self.signed_manifest(&holders, &snapshot).await?;
                    let lists = inventories.iter().filter(|inventory| inventory.needs.contains_key(&snapshot));
                    let lists: Vec<&SharedReplica> = lists.map(|inventory| &inventory.replica).collect();
                    let accept = |needs: &SnapshotNeeds| {
                        if needs.manifest != stored.hash {
                            let what = format!("what snapshot {snapshot} needs is told of another manifest");
                            return Err(Error::integrity(what)
                                .hint("somebody overwrote one of the two: bring the old version back with `lifeboat undelete`"));
                        }
                        Ok(())
                    };
                    let BelievedNeeds { needs, list, turn: _turn } =
                        self.needs(&lists, &snapshot, Some(known), accept).await?;
                    let seen = SeenNeeds { manifest: needs.manifest, list, seen: now };
                    let outline =
                        outlines.lock().unwrap_or_else(PoisonError::into_inner).insert_needs(&needs, stored)?;
                    Ok::<_, Error>((outline, seen))
                };
                let looked = looked.await;
                (snapshot, looked)
            }
        };
        {
            let mut all = std::pin::pin!(futures::stream::iter(snapshots).map(read).buffered(LISTS_AT_ONCE));
            while let Some((snapshot, looked)) = all.next().await {
                match looked {
                    Ok((outline, seen)) => {
                        new.push((snapshot.clone(), seen));
                        by_snapshot.insert(snapshot, outline);
                    }
                    Err(error) => unreadable.push((snapshot, error)),
                }
            }
        }
        for (snapshot, seen) in new {
            first.pin(snapshot, seen);
        }
        let outlines = outlines.into_inner().unwrap_or_else(PoisonError::into_inner);
        ReadOutlines { outlines, by_snapshot, unreadable }
    }

    /// The head of a manifest without a signature; where none can be opened, as its list of needs
    /// in that replica tells, if that is the one that was seen `first`.
    pub(crate) async fn uncommitted_head(
        &self,
        replica: &SharedReplica,
        snapshot: &SnapshotId,
        first: Option<&FirstSights>,
    ) -> Result<ManifestHead> {
        if !self.is_blind() {
            return self.unsigned_head(replica, snapshot).await;
        }
        let SnapshotNeeds { requires, vault, dataset, snapshot, sequence, previous, .. } =
            self.needs_of_uncommitted(replica, snapshot, first).await?;
        let previous = previous.map(|NeedsBefore { snapshot, blake3 }| Previous { snapshot, blake3 });
        Ok(ManifestHead { requires, vault, dataset, snapshot, sequence, previous })
    }

    /// The packs of such a manifest.
    pub(crate) async fn uncommitted_packs(
        &self,
        replica: &SharedReplica,
        snapshot: &SnapshotId,
        first: Option<&FirstSights>,
    ) -> Result<Vec<PackId>> {
        if !self.is_blind() {
            return self.unsigned_packs(replica, snapshot).await;
        }
        Ok(self.needs_of_uncommitted(replica, snapshot, first).await?.packs)
    }

    async fn needs_of_uncommitted(
        &self,
        replica: &SharedReplica,
        snapshot: &SnapshotId,
        first: Option<&FirstSights>,
    ) -> Result<SnapshotNeeds> {
        Ok(self.needs(&[replica], snapshot, first, |_| Ok(())).await?.needs)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use lifeboat_base::clock::SystemClock;
    use lifeboat_store::MemoryReplica;

    use super::*;
    use crate::keys::ReaderKeys;
    use crate::keys::trust::Trust;

    const VAULT: &str = "v";

    fn needs(packs: u32) -> Result<SnapshotNeeds> {
        let mut ids: Vec<PackId> = (0..packs).map(|number| Digest::of(&number.to_le_bytes())).collect();
        ids.sort_unstable();
        Ok(SnapshotNeeds {
            requires: Requirements::default(),
            vault: VAULT.to_owned(),
            dataset: "shop".parse()?,
            snapshot: SnapshotId::new(DateTime::UNIX_EPOCH, packs),
            manifest: Digest::of(b"manifest"),
            sequence: 1,
            previous: None,
            started: DateTime::UNIX_EPOCH,
            finished: DateTime::UNIX_EPOCH,
            partial: false,
            generations: vec![1],
            sizes: vec![7; ids.len()],
            packs: ids,
        })
    }

    #[tokio::test]
    async fn the_first_list_of_a_snapshot_is_what_all_replicas_tell() -> Result<()> {
        let replica = |name: &str| -> Result<SharedReplica> {
            Ok(Arc::new(MemoryReplica::new(name.parse()?, "east", SystemClock::shared())))
        };
        let (one, two) = (replica("r1")?, replica("r2")?);
        let signer = Signer::generate()?;
        let keys = ReaderKeys { identities: Vec::new(), trust: Trust::listed(vec![signer.public()], Vec::new()) };
        let dataset: Name = "shop".parse()?;
        let documents = Documents { vault: VAULT, dataset: &dataset, keys: &keys, cache: None, memory: 0 };
        let honest = needs(3)?;
        let snapshot = &honest.snapshot;
        let forged = SnapshotNeeds { packs: Vec::new(), sizes: Vec::new(), ..honest.clone() };
        let (key, list) = sign_needs(&honest, &signer)?;
        one.put_new(&key, sign_needs(&forged, &signer)?.1).await?;
        two.put_new(&key, list.clone()).await?;
        let mut first = FirstSights::default();
        let read = async |first: &FirstSights| documents.needs(&[&one, &two], snapshot, Some(first), |_| Ok(())).await;
        let doubted = read(&first).await.err().map(|error| error.chain()).unwrap_or_default();
        assert!(doubted.contains("tell different lists"), "{doubted}");
        assert_eq!(documents.differs(&one, &honest).await?, Some(Differs::Signed));
        assert_eq!(documents.differs(&two, &honest).await?, None);
        // What nobody signed is no word against it.
        one.put_replace(&key, "rubbish".into()).await?;
        assert_eq!(documents.differs(&one, &honest).await?, Some(Differs::Unbelieved));
        let BelievedNeeds { needs, list, .. } = read(&first).await?;
        assert!(needs == honest);
        // Once it was seen, it counts, whoever tells another one.
        first.pin(snapshot.clone(), SeenNeeds { manifest: needs.manifest, list, seen: DateTime::UNIX_EPOCH });
        one.put_replace(&key, sign_needs(&forged, &signer)?.1).await?;
        assert!(read(&first).await?.needs == honest);
        Ok(())
    }

    #[tokio::test]
    async fn a_long_list_waits_for_its_turn_and_none_is_longer_than_may_be_held() -> Result<()> {
        let replica: SharedReplica = Arc::new(MemoryReplica::new("r1".parse()?, "east", SystemClock::shared()));
        let signer = Signer::generate()?;
        let keys = ReaderKeys { identities: Vec::new(), trust: Trust::listed(vec![signer.public()], Vec::new()) };
        let dataset: Name = "shop".parse()?;
        let documents = Documents { vault: VAULT, dataset: &dataset, keys: &keys, cache: None, memory: 0 };
        let (short, long) = (needs(3)?, needs(40_000)?);
        for needs in [&short, &long] {
            let (key, list) = sign_needs(needs, &signer)?;
            assert_eq!(list.len() as u64 > SMALL_DOCUMENT_BYTES, needs.packs.len() > 3);
            replica.put_new(&key, list).await?;
        }
        let read = async |snapshot: &SnapshotId| documents.needs(&[&replica], snapshot, None, |_| Ok(())).await;
        let turn = take_turn().await?;
        let soon = async |snapshot| tokio::time::timeout(Duration::from_millis(300), read(snapshot)).await;
        assert!(soon(&short.snapshot).await.is_ok_and(|found| found.is_ok_and(|found| found.turn.is_none())));
        assert!(soon(&long.snapshot).await.is_err(), "two long lists at once");
        drop(turn);
        let found = read(&long.snapshot).await?;
        assert!(found.needs == long && found.turn.is_some());
        drop(found);

        let endless = layout::needs(&dataset, &short.snapshot);
        replica.put_replace(&endless, vec![b'x'; 33 << 20].into()).await?;
        let refused = read(&short.snapshot).await.err();
        let hint = refused.as_ref().and_then(|error| error.hint_text());
        assert!(hint.is_some_and(|hint| hint.contains("limits.memory")), "{refused:?}");
        Ok(())
    }
}
