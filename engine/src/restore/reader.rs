//! Reads a vault: lists datasets and snapshots, and opens a snapshot. This needs replicas, an
//! identity and trusted signers, but no local state.
//!
//! All replicas count the same. If one lacks an object or returns it damaged, the next is asked.

mod ahead;
mod keys;
mod seen_times;
mod settled;
mod summaries;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::Duration;

use chrono::{DateTime, Utc};
use lifeboat_base::{Error, Result};
use lifeboat_format::Format;
use lifeboat_format::id::{Digest, Name, SnapshotId};
use lifeboat_format::info::{self, MAX_VAULT_INFO_BYTES, VaultInfo};
use lifeboat_format::layout;
use lifeboat_format::manifest::Manifest;
use lifeboat_store::SharedReplica;
use tokio::sync::Mutex;
use tokio_util::sync::CancellationToken;

use self::ahead::Ahead;
pub(super) use self::settled::FoundSettled;
pub use self::summaries::{HostMemory, Summary};
use super::fetch::PackFetcher;
use super::streams::SnapshotStreams;
use super::workers::Workers;
use crate::catalog::documents::Documents;
use crate::catalog::unbelieved::Unbelieved;
use crate::catalog::verdict::combine;
use crate::config::Limits;
use crate::keys::{PackKeys, ReaderKeys, SharedIdentity};
use crate::witness::{ToldLogs, tell_what_was_seen};

/// So many snapshots of a dataset are looked at to find out whether a vault is the right one.
const MAX_SNAPSHOTS_AS_PROOF: usize = 8;
/// No longer is one looked for. Whoever owns a bucket can make every listing slow.
const MAX_PROOF_TIME: Duration = Duration::from_secs(600);
/// No replica names more datasets. Each costs a listing.
const MAX_DATASETS: usize = 4096;

/// A snapshot as the replicas list it. Nothing of it was read or checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed {
    /// The snapshot's id.
    pub snapshot: SnapshotId,
    /// The replicas that hold its manifest and signature.
    pub replicas: Vec<Name>,
    /// How long its manifest is, as all of them say, in bytes; `None` if they differ.
    pub bytes: Option<u64>,
    /// When each store took its manifest or its signature, of those whose clocks agree with this
    /// machine's.
    pub stored: Vec<DateTime<Utc>>,
}

/// The snapshots that the replicas show, oldest first.
pub(super) struct Shown {
    pub(super) snapshots: Vec<Listed>,
    /// The replicas that could not be listed: they may hold any of them.
    pub(super) unlisted: BTreeSet<Name>,
}

/// What the replicas list.
#[derive(Default)]
struct Listings {
    /// The keys of the objects, each with the replica that shows it.
    objects: Vec<(Name, String)>,
    /// How long each of these is, in bytes, and when it was stored.
    details: Vec<(u64, DateTime<Utc>)>,
    /// The replicas that could not be listed.
    unlisted: BTreeSet<Name>,
}

/// A vault opened for reading.
pub struct VaultReader {
    vault: String,
    replicas: Vec<SharedReplica>,
    /// The format of the vault in each of `replicas`.
    formats: Vec<Format>,
    unreachable: BTreeMap<Name, String>,
    keys: ReaderKeys,
    limits: Limits,
    cancel: CancellationToken,
    dataset_identities: Mutex<BTreeMap<Name, Vec<SharedIdentity>>>,
    /// What the keyrings of datasets were seen to hold.
    keyrings: Mutex<BTreeMap<Name, BTreeSet<String>>>,
    /// Keys of packs, by dataset and generation, that were opened already.
    opened: Mutex<BTreeMap<(Name, u32), Vec<PackKeys>>>,
    ahead: Ahead,
    /// What witnesses told.
    told: ToldLogs,
}

impl VaultReader {
    /// Reads `vault.json` of all replicas at once. Those that fail are skipped and listed in
    /// [`Self::unreachable`].
    ///
    /// # Errors
    /// No signer is trusted, no replica has a readable `vault.json`, or two replicas hold different
    /// vaults.
    pub async fn open(
        replicas: &[SharedReplica],
        keys: ReaderKeys,
        limits: Limits,
        cancel: CancellationToken,
    ) -> Result<Self> {
        if keys.trust.is_empty() {
            let error = Error::keys("no signer is trusted, so no snapshot can be trusted");
            if keys.trust.root().is_some() {
                return Err(error
                    .hint("the root names no backup host: let an owner sign one that does, see `lifeboat root show`"));
            }
            return Err(error.hint(
                "pass the backup host's signer key with --trusted-signer, or add it to [keys] trusted_signers; `lifeboat init` printed it on the backup host",
            ));
        }
        let infos = futures::future::join_all(replicas.iter().map(|replica| async move {
            let data = replica.get(layout::VAULT, MAX_VAULT_INFO_BYTES as u64).await.map_err(|error| {
                let missing = error.is_not_found();
                let error = Error::from(error);
                if missing {
                    error
                        .hint("check vault_prefix, and the bucket or path of the replica; for a new vault, run `lifeboat init`")
                } else {
                    error
                }
            })?;
            VaultInfo::parse(&data, replica.name())
        }))
        .await;
        let (mut vaults, mut unreachable, mut errors) = (BTreeMap::new(), BTreeMap::new(), Vec::new());
        for (replica, info) in replicas.iter().zip(infos) {
            match info {
                Ok(info) => {
                    let holders: &mut Vec<(SharedReplica, Format)> = vaults.entry(info.vault.clone()).or_default();
                    holders.push((replica.clone(), info.format()));
                }
                Err(error) => {
                    unreachable.insert(replica.name().clone(), error.chain());
                    errors.push(error);
                }
            }
        }
        if let Some(root) = keys.trust.root() {
            vaults.retain(|vault, holders| {
                let why = format!("it holds vault {vault}, and the root is of vault {}", root.vault);
                let is_right = *vault == root.vault;
                if !is_right {
                    errors.push(Error::configuration(why.clone()));
                    unreachable.extend(holders.iter().map(|(replica, _)| (replica.name().clone(), why.clone())));
                }
                is_right
            });
        }
        let mut readers = Vec::new();
        for (vault, holders) in vaults {
            let (replicas, formats) = holders.into_iter().unzip();
            readers.push(Self {
                vault,
                replicas,
                formats,
                unreachable: BTreeMap::new(),
                keys: keys.clone(),
                limits: limits.clone(),
                cancel: cancel.clone(),
                dataset_identities: Mutex::default(),
                keyrings: Mutex::default(),
                opened: Mutex::default(),
                ahead: Ahead::default(),
                told: ToldLogs::default(),
            });
        }
        let mut reader = match readers.len() {
            0 => return Err(combine("no replica of the vault can be read".to_owned(), &errors)),
            1 => readers.swap_remove(0),
            _ => Self::the_proved_one(readers, &mut unreachable).await?,
        };
        reader.unreachable = unreachable;
        tell_what_was_seen(&reader.vault, &reader.keys.trust, &reader.replicas).await;
        Ok(reader)
    }

    /// As [`Self::open`], for whoever reads `dataset` next: what that begins with is asked for
    /// at the same time.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub async fn open_for(
        dataset: &Name,
        replicas: &[SharedReplica],
        keys: ReaderKeys,
        limits: Limits,
        cancel: CancellationToken,
    ) -> Result<Self> {
        let (reader, ahead) = futures::join!(Self::open(replicas, keys, limits, cancel), Ahead::ask(replicas, dataset));
        Ok(Self { ahead, ..reader? })
    }

    /// Of readers of different vaults, the one in which a trusted signer has signed a snapshot. A
    /// `vault.json` is not signed, so one that was changed must not make a reader of the others
    /// stop. Its replica is then left aside.
    async fn the_proved_one(readers: Vec<Self>, unreachable: &mut BTreeMap<Name, String>) -> Result<Self> {
        let (mut proved, mut others) = (Vec::new(), Vec::new());
        for reader in readers {
            let looked = tokio::time::timeout(MAX_PROOF_TIME, reader.holds_a_trusted_snapshot()).await;
            if looked.unwrap_or(false) { &mut proved } else { &mut others }.push(reader);
        }
        if proved.len() != 1 {
            let of = |reader: &Self| {
                let names: Vec<&str> = reader.replicas.iter().map(|replica| replica.name().as_str()).collect();
                format!("{} in {}", reader.vault, names.join(", "))
            };
            let vaults: Vec<String> = proved.iter().chain(&others).map(of).collect();
            return Err(Error::configuration(format!("the replicas hold different vaults: {}", vaults.join("; ")))
                .hint("correct the configuration, or choose one replica with --replica"));
        }
        let reader = proved.swap_remove(0);
        for other in others {
            let why = format!(
                "its vault.json is of another vault, {}, in which no trusted signer has signed a snapshot",
                other.vault
            );
            unreachable.extend(other.replicas.iter().map(|replica| (replica.name().clone(), why.clone())));
        }
        Ok(reader)
    }

    async fn holds_a_trusted_snapshot(&self) -> bool {
        let mut unbelieved = Unbelieved::new("a snapshot that no replica returns signed");
        for dataset in self.datasets().await.unwrap_or_default() {
            let listed = self.snapshots(&dataset).await.unwrap_or_default();
            for listed in listed.iter().rev().take(MAX_SNAPSHOTS_AS_PROOF) {
                if unbelieved.leaves_aside(&listed.replicas) {
                    continue;
                }
                let holders = self.replicas.iter().filter(|replica| listed.replicas.contains(replica.name()));
                match self.documents(&dataset, &self.keys).check_signed(holders, &listed.snapshot).await {
                    Ok(()) => return true,
                    Err(error) => unbelieved.add(&listed.replicas, &listed.snapshot, &error),
                }
            }
        }
        false
    }

    /// The vault's id.
    #[must_use]
    pub fn vault_id(&self) -> &str {
        &self.vault
    }

    /// The limits that it keeps.
    #[must_use]
    pub fn limits(&self) -> &Limits {
        &self.limits
    }

    /// The replicas that are read from.
    #[must_use]
    pub fn replicas(&self) -> &[SharedReplica] {
        &self.replicas
    }

    /// The replicas, each with the reason why nobody may write into it, if there is one.
    pub(crate) fn writable(&self) -> impl Iterator<Item = (&SharedReplica, Result<()>)> {
        let each = self.replicas.iter().zip(&self.formats);
        each.map(|(replica, format)| (replica, info::check_writable(*format, replica.name())))
    }

    /// The same reader, which tells of these replicas, too, that they could not be opened.
    #[must_use]
    pub fn without(mut self, unopened: BTreeMap<Name, String>) -> Self {
        self.unreachable.extend(unopened);
        self
    }

    /// The replicas that could not be opened, and why.
    #[must_use]
    pub fn unreachable(&self) -> &BTreeMap<Name, String> {
        &self.unreachable
    }

    /// The keys that it reads with.
    #[must_use]
    pub fn keys(&self) -> &ReaderKeys {
        &self.keys
    }

    /// Whether a replica shows a keyring object of this dataset.
    ///
    /// # Errors
    /// No replica can be listed.
    pub async fn has_dataset(&self, dataset: &Name) -> Result<bool> {
        Ok(!self.keyring(dataset).await?.is_empty())
    }

    /// The datasets that have a keyring object, in the order of their names. A replica that names
    /// too many is left aside with a warning.
    ///
    /// # Errors
    /// No replica can be listed, or all name too many.
    pub async fn datasets(&self) -> Result<Vec<Name>> {
        let folder = format!("{}datasets/", layout::KEYRING);
        let name = |key: &str| key.strip_prefix(&folder)?.split('/').next()?.parse().ok();
        let mut shown: BTreeMap<Name, BTreeSet<Name>> = BTreeMap::new();
        for (replica, key) in self.list_any(&folder).await?.objects {
            let datasets = shown.entry(replica).or_default();
            if datasets.len() <= MAX_DATASETS {
                datasets.extend(name(&key));
            }
        }
        let (mut names, mut errors) = (BTreeSet::new(), Vec::new());
        for (replica, datasets) in shown {
            if datasets.len() > MAX_DATASETS {
                let why = format!("replica {replica} names more than {MAX_DATASETS} datasets");
                tracing::warn!("{why}, so it is left aside in the list of datasets");
                errors.push(Error::integrity(why).hint(
                    "somebody else writes into this replica: remove what is below keyring/datasets/ and is not yours",
                ));
            } else {
                names.extend(datasets);
            }
        }
        if names.is_empty() && !errors.is_empty() {
            return Err(combine("no replica tells the datasets of the vault".to_owned(), &errors));
        }
        Ok(names.into_iter().collect())
    }

    /// The committed snapshots of a dataset, oldest first.
    ///
    /// # Errors
    /// No replica can be listed.
    pub async fn snapshots(&self, dataset: &Name) -> Result<Vec<Listed>> {
        Ok(self.shown(dataset).await?.snapshots)
    }

    /// As [`Self::snapshots`], with the replicas that could not be listed.
    pub(super) async fn shown(&self, dataset: &Name) -> Result<Shown> {
        let Listings { objects, details, unlisted } = self.list_any(&layout::snapshots(dataset)).await?;
        let dated = objects.iter().zip(&details).map(|((replica, key), (_, time))| ((replica, key.as_str()), *time));
        let present: HashMap<(&Name, &str), DateTime<Utc>> = dated.collect();
        let dating = self.dating();
        let mut listed: BTreeMap<SnapshotId, Listed> = BTreeMap::new();
        for ((replica, key), (length, time)) in objects.iter().zip(details) {
            let Some(snapshot) = layout::parse_manifest(dataset, key) else { continue };
            let signature = layout::signature(key);
            let Some(signed) = present.get(&(replica, signature.as_str())).copied() else { continue };
            let new =
                || Listed { snapshot: snapshot.clone(), replicas: Vec::new(), bytes: Some(length), stored: Vec::new() };
            let listed = listed.entry(snapshot.clone()).or_insert_with(new);
            listed.stored.extend(dating.contains(replica).then(|| time.min(signed)));
            listed.replicas.push(replica.clone());
            listed.bytes = listed.bytes.filter(|others| *others == length);
        }
        let snapshots = listed.into_values().collect();
        Ok(Shown { snapshots, unlisted })
    }

    /// Whether one of these replicas returns the manifest of a snapshot as a trusted signer signed
    /// it. It is not opened.
    ///
    /// # Errors
    /// Why none does.
    pub async fn check_signed(&self, dataset: &Name, snapshot: &SnapshotId, of: &[Name]) -> Result<()> {
        let keys = self.document_keys(dataset).await;
        let replicas = self.replicas.iter().filter(|replica| of.contains(replica.name()));
        self.documents(dataset, &keys).check_signed(replicas, snapshot).await
    }

    /// The manifest of a snapshot, from the first replica that returns a valid one. Its signature
    /// was checked.
    ///
    /// # Errors
    /// In every replica, the manifest is missing, damaged or forged, or no identity opens it.
    pub async fn manifest(&self, dataset: &Name, snapshot: &SnapshotId) -> Result<Manifest> {
        self.stored_manifest(dataset, snapshot).await.map(|(manifest, _)| manifest)
    }

    /// As [`Self::manifest`], and the hash of its object as it is stored.
    pub(crate) async fn stored_manifest(&self, dataset: &Name, snapshot: &SnapshotId) -> Result<(Manifest, Digest)> {
        let keys = self.document_keys(dataset).await;
        let found = self.documents(dataset, &keys).manifest(&self.replicas, snapshot).await;
        found.map_err(|error| self.told_who_opens(dataset, error))
    }

    /// The streams of a snapshot.
    ///
    /// # Errors
    /// The errors of [`Self::manifest`], or no identity opens the dataset's packs, or a map cannot
    /// be read.
    pub async fn streams(&self, dataset: &Name, snapshot: &SnapshotId) -> Result<SnapshotStreams> {
        let (manifest, stored) = self.stored_manifest(dataset, snapshot).await?;
        let mut keys = BTreeMap::new();
        for generation in manifest.generations() {
            keys.insert(generation, self.pack_keys(dataset, generation).await?);
        }
        let fetcher = PackFetcher::new(dataset.clone(), self.replicas.clone(), keys, Workers::new(self.limits.cpu)?);
        SnapshotStreams::open((manifest, stored), fetcher, &self.limits, self.cancel.clone()).await
    }

    /// A reader of the same vault that uses this replica alone.
    #[must_use]
    pub(crate) fn only(&self, replica: &SharedReplica) -> Self {
        Self {
            vault: self.vault.clone(),
            // Whoever reads one replica alone writes nothing.
            formats: vec![Format::One],
            replicas: vec![replica.clone()],
            unreachable: BTreeMap::new(),
            keys: self.keys.clone(),
            limits: self.limits.clone(),
            cancel: self.cancel.clone(),
            dataset_identities: Mutex::default(),
            keyrings: Mutex::default(),
            opened: Mutex::default(),
            ahead: Ahead::default(),
            told: ToldLogs::default(),
        }
    }

    pub(crate) fn documents<'a>(&'a self, dataset: &'a Name, keys: &'a ReaderKeys) -> Documents<'a> {
        Documents { vault: &self.vault, dataset, keys, cache: None, memory: self.limits.memory }
    }

    /// Lists all replicas. Those that fail are skipped, unless all fail.
    async fn list_any(&self, prefix: &str) -> Result<Listings> {
        let lists =
            futures::future::join_all(self.replicas.iter().map(|replica| self.ahead.list(replica, prefix))).await;
        let (mut listings, mut errors) = (Listings::default(), Vec::new());
        for (replica, list) in self.replicas.iter().zip(lists) {
            match list {
                Ok(list) => {
                    listings.details.extend(list.iter().map(|object| (object.size, object.modified)));
                    listings.objects.extend(list.into_iter().map(|object| (replica.name().clone(), object.key)));
                }
                Err(error) => {
                    tracing::warn!(%error, "Skipping replica: it cannot be listed");
                    listings.unlisted.insert(replica.name().clone());
                    errors.push(error.into());
                }
            }
        }
        if errors.len() < self.replicas.len() {
            Ok(listings)
        } else {
            Err(combine(format!("no replica can list {prefix}"), &errors))
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests;
