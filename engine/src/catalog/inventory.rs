//! What each replica holds of one dataset, as its listing shows.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use chrono::{DateTime, Utc};
use lifeboat_base::{Class, Error, Result};
use lifeboat_format::Format;
use lifeboat_format::id::{Name, PackId, SnapshotId};
use lifeboat_format::info::{self, MAX_VAULT_INFO_BYTES, VaultInfo};
use lifeboat_format::layout;
use lifeboat_format::manifest::PackRef;
use lifeboat_store::{Listing, ObjectMeta, ReplicaError, SharedReplica};

/// No keyring of a dataset has more objects, signatures included.
const MAX_KEYRING_OBJECTS: usize = 4096;

/// What one replica holds of one dataset.
#[derive(Clone)]
pub(crate) struct Inventory {
    pub replica: SharedReplica,
    /// The format of the vault that it holds.
    pub format: Format,
    /// Packs, each with its size in bytes.
    pub packs: Arc<HashMap<PackId, u64>>,
    /// Committed snapshots: they have a manifest and its signature.
    pub snapshots: BTreeSet<SnapshotId>,
    /// When the replica stored each of these, by its own clock: the manifest or its signature,
    /// whichever came first.
    pub written: BTreeMap<SnapshotId, DateTime<Utc>>,
    /// Manifests without a signature, from interrupted commits.
    pub unsigned: BTreeSet<SnapshotId>,
    /// Index segments with a signature.
    pub indexes: BTreeSet<SnapshotId>,
    /// Total size of these index segments, in bytes.
    pub index_bytes: u64,
    /// Drill records with a signature.
    pub drills: BTreeSet<SnapshotId>,
    /// Prune records with a signature.
    pub prunes: BTreeSet<SnapshotId>,
    /// Marks with a signature.
    pub marks: BTreeSet<SnapshotId>,
    /// When the replica stored the signatures of these, by its own clock, as it listed them.
    pub marked: BTreeMap<SnapshotId, DateTime<Utc>>,
    /// Lists of what snapshots need, each with its size and when the replica stored it.
    pub needs: BTreeMap<SnapshotId, (u64, DateTime<Utc>)>,
    /// Vetoes: the mark, and whose.
    pub vetoes: BTreeSet<(SnapshotId, Name)>,
    /// The numbers of acts.
    pub acts: BTreeSet<u64>,
    /// Keys of manifests, index segments, marks and prune records that have no signature.
    pub unfinished: BTreeSet<String>,
    /// Keys of objects of these kinds that it does not list, though it lists their signatures.
    pub lone_signatures: BTreeSet<String>,
    /// Keys of objects that are of no known kind.
    pub strangers: Vec<String>,
    /// Keys of the dataset's keyring objects.
    pub keyring: BTreeSet<String>,
}

/// Why a replica was not listed.
pub(crate) struct NotListed {
    pub error: Error,
    /// It answered, but without a vault that can be believed, or that is to be written into.
    pub answered: bool,
    /// It answered that it holds no vault at all.
    pub is_empty: bool,
}

impl From<ReplicaError> for NotListed {
    fn from(error: ReplicaError) -> Self {
        let error = Error::from(error);
        Self { answered: error.class() == Class::Integrity, is_empty: false, error }
    }
}

/// What was found is refused.
impl From<Error> for NotListed {
    fn from(error: Error) -> Self {
        Self { error, answered: true, is_empty: false }
    }
}

/// The format of the vault that a replica holds, which must be `vault`.
async fn format_of(replica: &SharedReplica, vault: &str) -> Result<Format, NotListed> {
    let info = replica.get(layout::VAULT, MAX_VAULT_INFO_BYTES as u64).await.map_err(|error| {
        if error.is_not_found() {
            let refused = NotListed::from(Error::from(error).hint(
                "if this replica is new, run `lifeboat init`; else check vault_prefix and where the replica points",
            ));
            NotListed { is_empty: true, ..refused }
        } else {
            NotListed::from(error)
        }
    })?;
    let info = VaultInfo::parse(&info, replica.name())?;
    let found = &info.vault;
    if found != vault {
        let error = Error::configuration(format!("replica {} holds vault {found}, not {vault}", replica.name()));
        return Err(error.hint("correct vault_prefix, or the bucket or path of this replica").into());
    }
    Ok(info.format())
}

/// Packs, each with its size, and all other objects. Packs are many, so they are noted page by
/// page. The others are collected first, because an object and its signature may be on different
/// pages.
async fn list_objects(
    replica: &SharedReplica,
    dataset: &Name,
    mut listing: Listing,
) -> Result<(HashMap<PackId, u64>, Vec<ObjectMeta>), ReplicaError> {
    let (mut packs, mut others) = (HashMap::new(), Vec::new());
    while let Some(objects) = replica.next_page(&mut listing).await? {
        for object in objects {
            match layout::parse_pack(dataset, &object.key) {
                Some(pack) => drop(packs.insert(pack, object.size)),
                None => {
                    let admitted = listing.admit_name(&object.key);
                    admitted.map_err(|why| replica.bad_listing(&listing, why))?;
                    others.push(object);
                }
            }
        }
    }
    Ok((packs, others))
}

/// The keys of objects that are never many. More are somebody else's, and are not held beside the
/// other listings.
async fn list_few(replica: &SharedReplica, mut listing: Listing) -> Result<BTreeSet<String>, ReplicaError> {
    let mut keys = BTreeSet::new();
    while let Some(objects) = replica.next_page(&mut listing).await? {
        keys.extend(objects.into_iter().map(|object| object.key));
        if keys.len() > MAX_KEYRING_OBJECTS {
            return Err(replica.bad_listing(&listing, format!("it has more than {MAX_KEYRING_OBJECTS} objects")));
        }
    }
    Ok(keys)
}

impl Inventory {
    /// Lists a replica. Fails if it holds no vault, or another one than `vault`. All is asked at
    /// once, because a replica may be far away; nothing counts unless the vault is the right one.
    async fn take(replica: &SharedReplica, vault: &str, dataset: &Name) -> Result<Self, NotListed> {
        let (folder, keyring) = (layout::dataset(dataset), layout::keyring(dataset));
        let (format, keyring, objects) = futures::join!(
            format_of(replica, vault),
            list_few(replica, Listing::new(&keyring)),
            list_objects(replica, dataset, Listing::new(&folder)),
        );
        let (format, keyring, (packs, others)) = (format?, keyring?, objects?);
        let mut inventory = Self {
            replica: replica.clone(),
            format,
            packs: Arc::new(packs),
            snapshots: BTreeSet::new(),
            written: BTreeMap::new(),
            unsigned: BTreeSet::new(),
            indexes: BTreeSet::new(),
            index_bytes: 0,
            drills: BTreeSet::new(),
            prunes: BTreeSet::new(),
            marks: BTreeSet::new(),
            marked: BTreeMap::new(),
            needs: BTreeMap::new(),
            vetoes: BTreeSet::new(),
            acts: BTreeSet::new(),
            unfinished: BTreeSet::new(),
            lone_signatures: BTreeSet::new(),
            strangers: Vec::new(),
            keyring,
        };
        inventory.note(dataset, &others);
        Ok(inventory)
    }

    /// Notes all objects that are not packs.
    fn note(&mut self, dataset: &Name, objects: &[ObjectMeta]) {
        let keys: HashMap<&str, DateTime<Utc>> =
            objects.iter().map(|object| (object.key.as_str(), object.modified)).collect();
        for object in objects {
            let key = object.key.as_str();
            let signed = || keys.contains_key(layout::signature(key).as_str());
            if let Some(number) = layout::parse_act(dataset, key) {
                self.acts.insert(number);
            } else if let Some(snapshot) = layout::parse_needs(dataset, key) {
                self.needs.insert(snapshot, (object.size, object.modified));
            } else if let Some(veto) = layout::parse_veto(dataset, key) {
                self.vetoes.insert(veto);
            } else if let Some(snapshot) = layout::parse_manifest(dataset, key) {
                if let Some(signed) = keys.get(layout::signature(key).as_str()) {
                    self.written.insert(snapshot.clone(), object.modified.min(*signed));
                    self.snapshots.insert(snapshot);
                } else {
                    self.unsigned.insert(snapshot);
                    self.unfinished.insert(key.to_owned());
                }
            } else if let Some(snapshot) = layout::parse_index(dataset, key) {
                if signed() {
                    self.indexes.insert(snapshot);
                    self.index_bytes = self.index_bytes.saturating_add(object.size);
                } else {
                    self.unfinished.insert(key.to_owned());
                }
            } else if let Some(id) = layout::parse_json(&layout::drills(dataset), key) {
                if signed() {
                    self.drills.insert(id);
                }
            } else if let Some(id) = layout::parse_json(&layout::prunes(dataset), key) {
                if signed() {
                    self.prunes.insert(id);
                } else {
                    self.unfinished.insert(key.to_owned());
                }
            } else if let Some(id) = layout::parse_json(&layout::marks(dataset), key) {
                if let Some(signed) = keys.get(layout::signature(key).as_str()) {
                    // Whoever puts a signature first and the mark later dates nothing back.
                    let whole = keys.get(key).map_or(*signed, |own| *signed.max(own));
                    self.marked.insert(id.clone(), whole);
                    self.marks.insert(id);
                } else {
                    self.unfinished.insert(key.to_owned());
                }
            } else if let Some(object) = layout::signed_object(key) {
                if !keys.contains_key(object) && is_signed_kind(dataset, object) {
                    self.lone_signatures.insert(object.to_owned());
                }
            } else if key != layout::lease(dataset) {
                self.strangers.push(key.to_owned());
            }
        }
        self.strangers.sort_unstable();
    }

    /// Lists all replicas at once. Returns the errors of those that failed, by name.
    pub(crate) async fn take_all(
        replicas: &[SharedReplica],
        vault: &str,
        dataset: &Name,
    ) -> (Vec<Self>, BTreeMap<Name, Error>) {
        let (inventories, failed) = Self::take_each(replicas, vault, dataset).await;
        (inventories, errors(failed))
    }

    /// As [`Self::take_all`], but a replica whose vault is of a format that is only read has
    /// failed.
    pub(crate) async fn take_all_to_write(
        replicas: &[SharedReplica],
        vault: &str,
        dataset: &Name,
    ) -> (Vec<Self>, BTreeMap<Name, Error>) {
        let (inventories, failed) = Self::take_each_to_write(replicas, vault, dataset).await;
        (inventories, errors(failed))
    }

    /// As [`Self::take_all_to_write`], and tells which of those that failed had answered.
    pub(crate) async fn take_each_to_write(
        replicas: &[SharedReplica],
        vault: &str,
        dataset: &Name,
    ) -> (Vec<Self>, BTreeMap<Name, NotListed>) {
        let (mut inventories, mut failed) = Self::take_each(replicas, vault, dataset).await;
        inventories.retain(|inventory| {
            let name = inventory.replica.name();
            let refused = info::check_writable(inventory.format, name).err();
            refused.map(|error| failed.insert(name.clone(), error.into())).is_none()
        });
        (inventories, failed)
    }

    async fn take_each(
        replicas: &[SharedReplica],
        vault: &str,
        dataset: &Name,
    ) -> (Vec<Self>, BTreeMap<Name, NotListed>) {
        let taken = futures::future::join_all(replicas.iter().map(|replica| Self::take(replica, vault, dataset))).await;
        let (mut inventories, mut failed) = (Vec::new(), BTreeMap::new());
        for (replica, inventory) in replicas.iter().zip(taken) {
            match inventory {
                Ok(inventory) => inventories.push(inventory),
                Err(not_listed) => drop(failed.insert(replica.name().clone(), not_listed)),
            }
        }
        share_packs(&mut inventories);
        (inventories, failed)
    }

    /// Notes that an unfinished object has its signature now.
    pub(crate) fn signed(&mut self, dataset: &Name, key: &str) {
        if self.unfinished.remove(key) {
            if let Some(snapshot) = layout::parse_manifest(dataset, key) {
                self.unsigned.remove(&snapshot);
                self.snapshots.insert(snapshot);
            } else if let Some(id) = layout::parse_json(&layout::prunes(dataset), key) {
                self.prunes.insert(id);
            } else if let Some(id) = layout::parse_json(&layout::marks(dataset), key) {
                self.marks.insert(id);
            }
        }
    }

    /// Forgets that it lists these packs.
    pub(crate) fn forget(&mut self, packs: &BTreeSet<PackId>) {
        if packs.iter().any(|pack| self.packs.contains_key(pack)) {
            Arc::make_mut(&mut self.packs).retain(|pack, _| !packs.contains(pack));
        }
    }

    /// Whether the replica lists the object of this key, which is one that is signed.
    pub(crate) fn lists(&self, dataset: &Name, key: &str) -> bool {
        let is_in = |ids: &BTreeSet<SnapshotId>, id: Option<SnapshotId>| id.is_some_and(|id| ids.contains(&id));
        self.unfinished.contains(key)
            || is_in(&self.snapshots, layout::parse_manifest(dataset, key))
            || is_in(&self.indexes, layout::parse_index(dataset, key))
            || is_in(&self.prunes, layout::parse_json(&layout::prunes(dataset), key))
            || is_in(&self.marks, layout::parse_json(&layout::marks(dataset), key))
    }

    /// Whether the replica lists nothing of the dataset but its keys.
    pub(crate) fn is_empty(&self) -> bool {
        self.packs.is_empty()
            && [&self.snapshots, &self.indexes, &self.drills, &self.prunes, &self.marks]
                .iter()
                .all(|ids| ids.is_empty())
            && self.acts.is_empty()
            && self.unfinished.is_empty()
            && self.lone_signatures.is_empty()
    }

    /// Whether both replicas list the same, and neither an object that is not finished.
    pub(crate) fn is_level_with(&self, other: &Self) -> bool {
        let is_whole = |of: &Self| of.unfinished.is_empty() && of.lone_signatures.is_empty();
        is_whole(self)
            && is_whole(other)
            && (&self.snapshots, &self.indexes, &self.drills, &self.prunes, &self.marks, &self.acts, &self.keyring)
                == (
                    &other.snapshots,
                    &other.indexes,
                    &other.drills,
                    &other.prunes,
                    &other.marks,
                    &other.acts,
                    &other.keyring,
                )
            && self.packs == other.packs
    }

    /// Whether the replica lists this pack with the right size.
    pub(crate) fn has(&self, pack: &PackRef) -> bool {
        self.packs.get(&pack.id) == Some(&pack.size)
    }

    /// Whether the replica has the keyring object of this generation.
    pub(crate) fn has_keys(&self, dataset: &Name, generation: u32) -> bool {
        self.keyring.contains(&layout::keyring_generation(dataset, generation))
    }
}

/// Holds the packs of replicas that list the same ones in memory once: at ten terabytes they take
/// 43 MiB.
fn share_packs(inventories: &mut [Inventory]) {
    if let Some((first, others)) = inventories.split_first_mut() {
        for other in others.iter_mut().filter(|other| other.packs == first.packs) {
            other.packs = first.packs.clone();
        }
    }
}

/// Whether an object of this key is a manifest, an index segment, a mark or a prune record.
fn is_signed_kind(dataset: &Name, key: &str) -> bool {
    let of_record = |folder: String| layout::parse_json(&folder, key);
    let id = layout::parse_manifest(dataset, key)
        .or_else(|| layout::parse_index(dataset, key))
        .or_else(|| of_record(layout::prunes(dataset)))
        .or_else(|| of_record(layout::marks(dataset)));
    id.is_some()
}

fn errors(failed: BTreeMap<Name, NotListed>) -> BTreeMap<Name, Error> {
    failed.into_iter().map(|(name, not_listed)| (name, not_listed.error)).collect()
}

/// Every committed snapshot that at least one replica holds, oldest first.
pub(crate) fn all_snapshots(inventories: &[Inventory]) -> BTreeSet<SnapshotId> {
    inventories.iter().flat_map(|inventory| inventory.snapshots.iter().cloned()).collect()
}
