//! What `init` finds in the replicas: the few objects that it knows by name, and that are what they
//! claim to be. Whoever can write into a replica can put anything there, and `init` runs as root
//! and carries objects from one replica to the others. So it takes nothing else along.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use lifeboat_base::clock::SharedClock;
use lifeboat_base::{Class, Error, Result};
use lifeboat_format::id::Name;
use lifeboat_format::info::{self, HostInfo, MAX_VAULT_INFO_BYTES, VaultInfo};
use lifeboat_format::keyring::MAX_KEYRING_OBJECT_BYTES;
use lifeboat_format::layout;
use lifeboat_store::SharedReplica;

use crate::catalog::signed::believe;
use crate::catalog::verdict::combine;
use crate::keys::bundle::Bundle;
use crate::keys::crypt;
use crate::keys::sign::MAX_SIGNATURE_BYTES;
use crate::keys::trust::Trust;

/// So many objects of a replica are looked at.
const MAX_REMOTE_OBJECTS: usize = 4096;

/// One replica that answers: its `vault.json`, and its objects in `keyring/` and `hosts/`.
pub(super) struct Reached<'a> {
    pub(super) replica: &'a SharedReplica,
    info: Option<VaultInfo>,
    /// Good ones, by key.
    pub(super) objects: BTreeMap<String, Bytes>,
    /// The signatures of keyring objects, by the keys of these. Nobody need have checked them.
    pub(super) signatures: BTreeMap<String, Bytes>,
    /// Keyring objects that nobody signed who may, where somebody must.
    pub(super) unsigned: BTreeMap<String, Bytes>,
    /// Those of them that a host signed which was revoked.
    pub(super) revoked: BTreeSet<String>,
    /// The recipients of these, as far as they were opened.
    pub(super) recipients: BTreeMap<String, String>,
    /// Those of these that this replica dates before that.
    dated: BTreeSet<String>,
    /// The keys of those that are not what they claim to be.
    pub(super) damaged: BTreeSet<String>,
}

impl Reached<'_> {
    /// Whether it can also take the objects of `more` that it lacks: a later `init` looks at no
    /// more than so many.
    pub(super) fn has_room_for<'k>(&self, more: impl Iterator<Item = &'k String>) -> bool {
        let lacking = more.filter(|key| !self.has(key)).count();
        self.objects.len() + self.unsigned.len() + self.damaged.len() + lacking <= MAX_REMOTE_OBJECTS
    }

    /// Whether it holds the vault, and not just room for one.
    pub(super) fn holds_the_vault(&self) -> bool {
        self.info.is_some()
    }

    /// Whether there is something under this key, of whatever kind.
    pub(super) fn has(&self, key: &str) -> bool {
        let is_bad = self.damaged.contains(key) || self.unsigned.contains_key(key);
        self.objects.contains_key(key) || is_bad || (key == layout::VAULT && self.info.is_some())
    }
}

/// What the replicas hold, without the objects of datasets.
pub(super) struct Remote<'a> {
    pub(super) reached: Vec<Reached<'a>>,
    /// Those that nothing is written to, because their vault is of a format that is only read.
    read_only: Vec<Reached<'a>>,
    /// Why the others are left aside.
    pub(super) unreached: Vec<String>,
    /// What was left aside in those that were reached.
    pub(super) notes: Vec<String>,
    /// Whether every keyring object was signed by somebody who may.
    is_signed: bool,
}

impl<'a> Remote<'a> {
    /// With `trust`, keyring objects count only if somebody signed them who may.
    pub(super) async fn look(replicas: &'a [SharedReplica], trust: Option<&Trust>) -> Result<Self> {
        let (reached, read_only) = (Vec::new(), Vec::new());
        let is_signed = trust.is_some();
        let mut remote = Self { reached, read_only, unreached: Vec::new(), notes: Vec::new(), is_signed };
        let mut errors = Vec::new();
        for replica in replicas {
            match look_at(replica, trust, &mut remote.notes).await {
                Ok(reached) => remote.reached.push(reached),
                Err(error) => {
                    remote.unreached.push(error.chain());
                    errors.push(error);
                }
            }
        }
        remote.count_dated();
        if remote.reached.is_empty() {
            let error = combine("no replica can be used".to_owned(), &errors);
            let has_hint = error.hint_text().is_some();
            return Err(if has_hint { error } else { error.hint("run `lifeboat check` for details") });
        }
        Ok(remote)
    }

    /// What a revoked host signed counts if two replicas hold it and date it from before: the owner
    /// of one bucket can write any date there.
    fn count_dated(&mut self) {
        let dated = self.reached.iter().flat_map(|reached| {
            reached.dated.iter().filter_map(|key| Some((key.clone(), reached.unsigned.get(key)?.clone())))
        });
        let dated: Vec<(String, Bytes)> = dated.collect();
        for (key, body) in &dated {
            if dated.iter().filter(|(other, same)| other == key && same == body).count() < 2 {
                continue;
            }
            for reached in &mut self.reached {
                if reached.unsigned.get(key) == Some(body) && reached.dated.contains(key) {
                    reached.unsigned.remove(key);
                    reached.objects.insert(key.clone(), body.clone());
                }
            }
        }
    }

    /// Refuses vaults of a format that is only read, before anything is made. If a replica holds a
    /// vault that is written, [`Self::leave_read_only`] decides about the others.
    pub(super) fn check_writable(&self) -> Result<()> {
        let infos = || self.reached.iter().filter_map(|reached| Some((reached.replica, reached.info.as_ref()?)));
        if infos().any(|(replica, info)| info::check_writable(info.format(), replica.name()).is_ok()) {
            return Ok(());
        }
        infos().try_for_each(|(replica, info)| info::check_writable(info.format(), replica.name()))
    }

    /// Writes nothing to the replicas whose vault is of a format that is only read, if another one
    /// holds the same vault in a format that is written: a vault never changes its format, but
    /// anybody can change an unsigned `vault.json`, this one or the other one.
    fn leave_read_only(&mut self) -> Result<()> {
        let is_read_only = |reached: &Reached<'_>| {
            reached
                .info
                .as_ref()
                .is_some_and(|info| info::check_writable(info.format(), reached.replica.name()).is_err())
        };
        let written = self.reached.iter().find(|reached| reached.info.is_some() && !is_read_only(reached));
        let Some(written) = written.map(|reached| reached.replica.name().clone()) else { return self.check_writable() };
        for other in self.reached.extract_if(.., |reached| is_read_only(reached)) {
            self.unreached.push(format!(
                "replica {} says that its vault is of an older format, and replica {written} that the same vault is of the new one; a vault never changes its format, so somebody changed one of the two vault.json: `lifeboat show DATASET --json` tells which, as a snapshot of the older format has no sequence; put the right vault.json in place of the other, and run `lifeboat init` again",
                other.replica.name()
            ));
            self.read_only.push(other);
        }
        Ok(())
    }

    /// All replicas that answer and may hold keys of this vault, also those that nothing is written
    /// to.
    pub(super) fn witnesses(&self) -> impl Iterator<Item = &Reached<'a>> {
        self.reached.iter().chain(&self.read_only)
    }

    /// The `vault.json` of the replicas, or a new one if none of them has one. This host's keys
    /// know their vault: a replica that holds another one is then left aside, if one holds the
    /// right one.
    pub(super) fn vault_info(&mut self, bundle: Option<&Bundle>, clock: &SharedClock) -> Result<VaultInfo> {
        if let Some(bundle) = bundle {
            let is_other = |reached: &Reached<'_>| reached.info.as_ref().is_some_and(|info| info.vault != bundle.vault);
            let is_right = |reached: &Reached<'_>| reached.info.as_ref().is_some_and(|info| info.vault == bundle.vault);
            if self.reached.iter().any(is_right) {
                for other in self.reached.extract_if(.., |reached| is_other(reached)) {
                    let found = other.info.map(|info| info.vault).unwrap_or_default();
                    self.unreached.push(format!(
                        "replica {} holds vault {found}, not {}: correct vault_prefix, or its bucket or path; if neither is wrong, somebody changed its vault.json",
                        other.replica.name(),
                        bundle.vault
                    ));
                }
            }
        }
        self.check_same()?;
        self.leave_read_only()?;
        let found = self.reached.iter().find_map(|reached| reached.info.as_ref());
        match (found, bundle) {
            (Some(info), Some(bundle)) if bundle.vault != info.vault => Err(Error::configuration(format!(
                "this host's keys belong to vault {}, the replicas hold vault {}",
                bundle.vault, info.vault
            ))
            .hint("correct vault_prefix, or the buckets or paths of the replicas")),
            (Some(info), _) => Ok(info.clone()),
            (None, bundle) => {
                let fresh = || data_encoding::HEXLOWER.encode(&rand::random::<[u8; 16]>());
                let vault = bundle.map_or_else(fresh, |bundle| bundle.vault.clone());
                Ok(VaultInfo::new(vault, clock.now()))
            }
        }
    }

    /// Refuses replicas that hold different vaults.
    fn check_same(&self) -> Result<()> {
        let mut found: Option<(&VaultInfo, &Name)> = None;
        for Reached { replica, info, .. } in &self.reached {
            let Some(info) = info else { continue };
            match &found {
                Some((other, place)) if other.vault != info.vault => {
                    return Err(Error::configuration(format!(
                        "replica {} holds vault {}, replica {place} holds vault {}",
                        replica.name(),
                        info.vault,
                        other.vault
                    ))
                    .hint("remove one of them from the configuration, or give it another bucket or path"));
                }
                Some(_) => {}
                None => found = Some((info, replica.name())),
            }
        }
        Ok(())
    }

    /// A keyring object that is not one of `own`, byte for byte, and the replica that holds it.
    pub(super) fn foreign_key(&self, own: &BTreeMap<String, Bytes>) -> Option<(&Name, &String)> {
        self.witnesses().find_map(|reached| {
            let objects = reached.objects.iter().chain(&reached.unsigned);
            let foreign = objects.filter(|(key, body)| own.get(*key) != Some(body)).map(|(key, _)| key);
            let mut foreign = foreign.chain(&reached.damaged).filter(|key| key.starts_with(layout::KEYRING));
            foreign.next().map(|key| (reached.replica.name(), key))
        })
    }

    /// The signature of an object, where a replica holds that object.
    pub(super) fn signature_of(&self, key: &str, body: &Bytes) -> Option<&Bytes> {
        let holder = self.reached.iter().filter(|reached| reached.objects.get(key) == Some(body));
        holder.filter_map(|reached| reached.signatures.get(key)).next()
    }

    /// The different objects that the replicas hold under a key, each with a replica that holds it.
    pub(super) fn get(&self, key: &str) -> Vec<(&Name, &Bytes)> {
        let mut found: Vec<(&Name, &Bytes)> = Vec::new();
        for reached in &self.reached {
            if let Some(body) = reached.objects.get(key).filter(|body| found.iter().all(|(_, other)| other != body)) {
                found.push((reached.replica.name(), body));
            }
        }
        found
    }

    /// What is copied to a replica that lacks it, beside this host's `own` objects: every object
    /// that at least two replicas hold, and on which all that have it agree. What one replica alone
    /// holds may be its owner's invention, and nothing tells which one is right of those that
    /// differ.
    pub(super) fn agreed(&mut self, own: &BTreeMap<String, Bytes>) -> BTreeMap<String, Bytes> {
        let keys: BTreeSet<&String> = self.reached.iter().flat_map(|reached| reached.objects.keys()).collect();
        let (mut agreed, mut notes) = (BTreeMap::new(), Vec::new());
        let mut alone: BTreeMap<&Name, Vec<&String>> = BTreeMap::new();
        for key in keys {
            let is_alone_enough = self.is_signed && key.starts_with(layout::KEYRING);
            match self.get(key)[..] {
                [(_, body)] if is_alone_enough => {
                    agreed.insert(key.clone(), body.clone());
                }
                [(_, body)] if self.reached.iter().filter(|reached| reached.objects.contains_key(key)).count() > 1 => {
                    agreed.insert(key.clone(), body.clone());
                }
                [(replica, _)] if !own.contains_key(key) => alone.entry(replica).or_default().push(key),
                [_] => {}
                ref several => {
                    let names: Vec<&str> = several.iter().map(|(name, _)| name.as_str()).collect();
                    notes.push(format!(
                        "{key} differs between {}, so none of these is copied: run `lifeboat verify --read-data` to see which is right",
                        names.join(" and ")
                    ));
                }
            }
        }
        for (replica, keys) in alone.into_iter().filter(|_| self.reached.len() > 1) {
            let others = keys.len() - 1;
            let more = if others == 0 { String::new() } else { format!(" and {others} more") };
            notes.push(format!(
                "only {replica} holds {}{more}, so this is not copied: run `lifeboat init` on the host that made it, or remove what no host made",
                keys[0]
            ));
        }
        self.notes.extend(notes);
        agreed
    }
}

async fn look_at<'a>(
    replica: &'a SharedReplica,
    trust: Option<&Trust>,
    notes: &mut Vec<String>,
) -> Result<Reached<'a>> {
    let name = replica.name();
    let info = match replica.get(layout::VAULT, MAX_VAULT_INFO_BYTES as u64).await {
        Ok(data) => Some(VaultInfo::parse(&data, name)?),
        Err(error) if error.is_not_found() => None,
        Err(error) => return Err(error.into()),
    };
    let (objects, signatures) = (BTreeMap::new(), BTreeMap::new());
    let (unsigned, damaged) = (BTreeMap::new(), BTreeSet::new());
    let (revoked, recipients, dated) = (BTreeSet::new(), BTreeMap::new(), BTreeSet::new());
    let mut reached = Reached { replica, info, objects, signatures, unsigned, revoked, recipients, dated, damaged };
    let mut keys = Vec::new();
    for folder in [layout::KEYRING, layout::HOSTS] {
        keys.extend(replica.list(folder).await?.into_iter().map(|object| object.key));
    }
    let listed: BTreeSet<String> = keys.iter().cloned().collect();
    keys.retain(|key| known_limit(key).is_some());
    if keys.len() > MAX_REMOTE_OBJECTS {
        return Err(Error::integrity(format!(
            "replica {name}: it has {} keys and hosts, more than can be",
            keys.len()
        ))
        .hint("remove what somebody else put into keyring/ and hosts/ of this replica"));
    }
    for key in keys {
        let Some(limit) = known_limit(&key) else { continue };
        let signature_key = layout::signature(&key);
        if key.starts_with(layout::KEYRING) && listed.contains(&signature_key) {
            match replica.get(&signature_key, MAX_SIGNATURE_BYTES as u64).await {
                Ok(signature) => drop(reached.signatures.insert(key.clone(), signature)),
                Err(error) => {
                    let error = Error::from(error);
                    if error.class() != Class::Integrity {
                        return Err(error);
                    }
                }
            }
        }
        let vault = reached.info.as_ref().map_or("", |info| info.vault.as_str());
        let is_signed = |body: &Bytes| match trust.filter(|_| key.starts_with(layout::KEYRING)) {
            None => Ok(()),
            Some(trust) => {
                let signature = reached.signatures.get(&key).map(|signature| &signature[..]).unwrap_or_default();
                let signed = trust.verify(vault, &key, body, signature);
                signed.map(drop).map_err(|error| Error::integrity("nobody signed it who may").because(error.message()))
            }
        };
        let checked = match replica.get(&key, limit).await {
            Ok(body) => match check(&key, &body).map(|()| is_signed(&body)) {
                Ok(Err(error)) => {
                    notes.push(format!(
                        "replica {name}: {key} is left aside ({}): run `lifeboat init` on the host that made it, which signs it; if none did, delete it there",
                        error.chain()
                    ));
                    let signature = reached.signatures.get(&key).cloned().unwrap_or_default();
                    let signed = (&body[..], &signature[..]);
                    if let Some(trust) = trust.filter(|trust| trust.judge(vault, &key, signed.0, signed.1).is_ok()) {
                        reached.revoked.insert(key.clone());
                        let holder = layout::signature(&key);
                        match believe(trust, replica.as_ref(), vault, &key, signed, &holder).await {
                            Ok(()) => drop(reached.dated.insert(key.clone())),
                            Err(error) if error.class() == Class::Keys => {}
                            Err(error) => return Err(error),
                        }
                    }
                    reached.unsigned.insert(key.clone(), body);
                    continue;
                }
                checked => checked.map(|_| body),
            },
            Err(error) if error.is_not_found() => continue,
            Err(error) => Err(error.into()),
        };
        match checked {
            Ok(body) => drop(reached.objects.insert(key, body)),
            Err(error) if error.class() == Class::Integrity => {
                notes.push(format!(
                    "replica {name}: {key} is left aside ({}): delete it there and run `lifeboat init` again",
                    error.chain()
                ));
                reached.damaged.insert(key);
            }
            Err(error) => return Err(error),
        }
    }
    Ok(reached)
}

/// How long the object with this key can be; `None` if `init` knows no such object.
fn known_limit(key: &str) -> Option<u64> {
    if layout::parse_host(key).is_some() {
        return Some(MAX_VAULT_INFO_BYTES as u64);
    }
    let is_key = layout::parse_host_identity(key).is_some() || layout::parse_keyring(key).is_some();
    is_key.then_some(MAX_KEYRING_OBJECT_BYTES as u64)
}

/// Refuses an object that is not what its key says, as far as that shows without opening it.
fn check(key: &str, body: &[u8]) -> Result<()> {
    let Some(host) = layout::parse_host(key) else { return crypt::check_is_age_file(body) };
    let damaged = || Error::integrity("it describes no host of this name");
    let info: HostInfo = serde_json::from_slice(body).map_err(|error| damaged().because(error))?;
    if info.host == host { Ok(()) } else { Err(damaged()) }
}
