//! Opens the keys of a dataset from its keyring. A reader needs no signature of these objects: the
//! packs that a signed manifest names open with the right keys only.

use std::collections::BTreeSet;
use std::sync::Arc;

use lifeboat_base::{Class, Error, Result};
use lifeboat_format::id::Name;
use lifeboat_format::keyring::{self, DatasetSecrets, MAX_KEYRING_OBJECT_BYTES};
use lifeboat_format::layout;
use lifeboat_format::root::DrillHost;
use lifeboat_store::ReplicaError;

use super::{Listings, VaultReader};
use crate::catalog::verdict::combine;
use crate::keys::crypt;
use crate::keys::{PackKeys, ReaderKeys, SharedIdentity};

/// So many generations of a dataset's keys are looked at.
const MAX_GENERATIONS: usize = 64;

impl VaultReader {
    /// The keys of the packs of one key generation of a dataset, from the keyring. No
    /// signature is asked for, so the keys of every replica count: where replicas disagree there
    /// are several, of which one opens the packs.
    pub(crate) async fn pack_keys(&self, dataset: &Name, generation: u32) -> Result<Vec<PackKeys>> {
        let mut opened = self.opened.lock().await;
        let known = (dataset.clone(), generation);
        if let Some(keys) = opened.get(&known) {
            return Ok(keys.clone());
        }
        let (keys, all_answered) = self.open_pack_keys(dataset, generation).await?;
        // A replica that was away may hold the right ones.
        if all_answered {
            opened.insert(known, keys.clone());
        }
        Ok(keys)
    }

    /// The keys, and whether every replica answered.
    async fn open_pack_keys(&self, dataset: &Name, generation: u32) -> Result<(Vec<PackKeys>, bool)> {
        let key = layout::keyring_generation(dataset, generation);
        let fetched =
            futures::future::join_all(self.replicas.iter().map(|replica| self.ahead.keyring_object(replica, &key)));
        let (mut found, mut errors, mut all_answered) = (Vec::<PackKeys>::new(), Vec::new(), true);
        for (replica, wrapped) in self.replicas.iter().zip(fetched.await) {
            all_answered &= wrapped.as_ref().err().is_none_or(ReplicaError::is_not_found);
            let open = || {
                let wrapped = wrapped.map_err(|error| {
                    if error.is_not_found() { Error::integrity(error.to_string()) } else { error.into() }
                })?;
                let named = |error: Error| error.within(format!("replica {}: cannot open {key}", replica.name()));
                keyring::check_size(&wrapped, &key).map_err(named)?;
                let identities = self.keys.identities.iter().map(|identity| identity.as_ref() as &dyn age::Identity);
                let text = crypt::decrypt(identities, &wrapped, MAX_KEYRING_OBJECT_BYTES)
                    .map(zeroize::Zeroizing::new)
                    .map_err(named)?;
                let secrets = DatasetSecrets::parse(&text, &self.vault, dataset, generation);
                secrets.and_then(PackKeys::of).map_err(named)
            };
            match open() {
                Ok(keys) if found.iter().all(|other| other.identity.to_public() != keys.identity.to_public()) => {
                    found.push(keys);
                }
                Ok(_) => {}
                Err(error) => errors.push(error),
            }
        }
        if found.len() > 1 {
            tracing::warn!(%key, "The replicas hold different keys: run `lifeboat verify --read-data` to see which are wrong");
        }
        if !found.is_empty() {
            for error in errors {
                tracing::warn!(error = %error.chain(), "Leaving aside a keyring object");
            }
            return Ok((found, all_answered));
        }
        let error = combine(format!("the keys of dataset {dataset} cannot be opened"), &errors);
        Err(match error.class() {
            Class::Keys => self.told_who_opens(dataset, error),
            _ if error.hint_text().is_some() => error,
            _ => error.hint("run `lifeboat verify` to see which replica holds a good one"),
        })
    }

    /// Adds who opens a dataset to an error that says nothing better of a key.
    pub(super) fn told_who_opens(&self, dataset: &Name, error: Error) -> Error {
        match error.class() == Class::Keys && error.hint_text().is_none() {
            true => error.hint(self.who_opens(dataset)),
            false => error,
        }
    }

    /// Which identities open a dataset, as far as somebody signed that.
    fn who_opens(&self, dataset: &Name) -> String {
        let Some(root) = self.keys.trust.root() else {
            return "pass --identity with a master identity (master_recipients of the backup host has its public half), or with a drill identity that was granted this dataset (drill_recipients)".to_owned();
        };
        let masters = root.masters.iter().map(|master| format!("a master ({master})"));
        let open =
            |host: &&DrillHost| host.until.is_none() && host.datasets.iter().any(|datasets| datasets.covers(dataset));
        let drill_hosts =
            root.drill_hosts.iter().filter(open).map(|host| format!("drill host {} ({})", host.name, host.recipient));
        let all: Vec<String> = masters.chain(drill_hosts).collect();
        format!("pass --identity with the identity of {}", all.join(", or of "))
    }

    /// The keyring objects of a dataset that any replica shows. A keyring that was seen is not
    /// listed again.
    pub(super) async fn keyring(&self, dataset: &Name) -> Result<BTreeSet<String>> {
        let mut known = self.keyrings.lock().await;
        if let Some(keys) = known.get(dataset) {
            return Ok(keys.clone());
        }
        let Listings { objects, unlisted, .. } = self.list_any(&layout::keyring(dataset)).await?;
        let keys: BTreeSet<String> = objects.into_iter().map(|(_, key)| key).collect();
        if !keys.is_empty() && unlisted.is_empty() {
            known.insert(dataset.clone(), keys.clone());
        }
        Ok(keys)
    }

    /// The keys that open the documents of a dataset. These are encrypted to operations identities
    /// and to the dataset's own. A master or drill identity gets the latter from the keyring.
    pub(crate) async fn document_keys(&self, dataset: &Name) -> ReaderKeys {
        let mut known = self.dataset_identities.lock().await;
        let identities = match known.get(dataset) {
            Some(identities) => identities.clone(),
            None => {
                let identities = self.dataset_identities(dataset).await.unwrap_or_else(|error| {
                    tracing::debug!(error = %error.chain(), "cannot open the keyring, so only the given identities are tried");
                    Vec::new()
                });
                known.entry(dataset.clone()).or_insert(identities).clone()
            }
        };
        let mut keys = self.keys.clone();
        keys.identities.extend(identities);
        keys
    }

    async fn dataset_identities(&self, dataset: &Name) -> Result<Vec<SharedIdentity>> {
        let keys = self.keyring(dataset).await?;
        let generations: BTreeSet<u32> =
            keys.iter().filter_map(|key| layout::parse_keyring_generation(dataset, key)).collect();
        // Generations count from 1. Anybody can name more, but not make a reader fetch them all.
        let generations = generations.into_iter().take(MAX_GENERATIONS);
        let mut identities: Vec<SharedIdentity> = Vec::new();
        for generation in generations {
            // What is wrong with one generation must not hide the others.
            match self.pack_keys(dataset, generation).await {
                Ok(keys) => {
                    let each = keys.into_iter().map(|keys| Arc::new(keys.identity) as SharedIdentity);
                    identities.extend(each);
                }
                Err(error) => {
                    tracing::debug!(error = %error.chain(), generation, "Skipping the keys of one generation");
                }
            }
        }
        Ok(identities)
    }
}
