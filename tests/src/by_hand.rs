//! Objects that are put into a vault by hand: what a newer program, another writer, or a thief with
//! a key writes.
#![allow(clippy::expect_used)]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use age::{Identity, Recipient};
use chrono::{SecondsFormat, TimeDelta};
use lifeboat_engine::config::{Config, ReplicaConfig, ReplicaKind, Secret};
use lifeboat_engine::keys::sign::Signer;
use lifeboat_engine::keys::{DRILL_HOST_FOLDER, HostKeys, SharedIdentity, parse_identities};
use lifeboat_engine::stages::{decrypt, encrypt};
use lifeboat_format::act::{Act, ActKind};
use lifeboat_format::id::{Digest, Name, SnapshotId};
use lifeboat_format::manifest::{Manifest, Previous};
use lifeboat_format::record::RecordType;
use lifeboat_format::requirements::Requirements;
use lifeboat_format::{frames, layout, padding};
use serde_json::{Value, json};

use crate::vault::files_below;

/// No object that a test opens is longer.
const MAX_OPENED_BYTES: usize = 256 << 20;
/// Where the header of a manifest tells how long the frame with the JSON is.
const JSON_LENGTH_AT: usize = 16;
/// Where that frame begins.
const JSON_AT: usize = 24;
/// How hard the JSON of a manifest is compressed.
const JSON_LEVEL: i32 = 3;

/// The content of every object, by path.
pub type Contents = BTreeMap<PathBuf, Vec<u8>>;

/// The content of every object below these folders.
///
/// # Panics
/// An object cannot be read.
#[must_use]
pub fn contents<'p>(folders: impl IntoIterator<Item = &'p PathBuf>) -> Contents {
    let files = folders.into_iter().flat_map(|folder| files_below(folder));
    files.map(|file| (file.clone(), std::fs::read(file).expect("an object"))).collect()
}

/// The objects that are not as they were, or are gone.
#[must_use]
pub fn harmed(before: &Contents, after: &Contents) -> Vec<PathBuf> {
    before.iter().filter(|(path, content)| after.get(*path) != Some(*content)).map(|(path, _)| path.clone()).collect()
}

/// The objects that were added, changed or removed.
#[must_use]
pub fn changed(before: &Contents, after: &Contents) -> Vec<PathBuf> {
    let added = after.keys().filter(|path| !before.contains_key(*path)).cloned();
    harmed(before, after).into_iter().chain(added).collect()
}

/// The drill host's signing key, as `init` made it.
///
/// # Panics
/// It is not there, as after `init` it was moved away.
#[must_use]
pub fn drill_signer(config: &Config) -> Signer {
    let file = config.keys.directory.join(DRILL_HOST_FOLDER).join("drill-signer");
    Signer::parse(&Secret::new(std::fs::read(file).expect("the drill signer"))).expect("a signer")
}

/// The plaintext of a manifest, with its JSON changed.
///
/// # Panics
/// It is not the plaintext of a manifest.
#[must_use]
pub fn with_json(plaintext: &[u8], change: impl FnOnce(&mut Value)) -> Vec<u8> {
    let (json, rest) = frames::take_frame(&plaintext[JSON_AT..], MAX_OPENED_BYTES).expect("a frame");
    let mut json: Value = serde_json::from_slice(&json).expect("JSON");
    let streams = json["streams"].as_array().expect("streams");
    let extents: u64 = streams.iter().map(|stream| stream["extents"].as_u64().expect("a length")).sum();
    change(&mut json);
    let frame = frames::compress(JSON_LEVEL, format!("{json}\n").as_bytes()).expect("a frame");
    let mut changed = plaintext[..JSON_LENGTH_AT].to_vec();
    changed.extend((frame.len() as u64).to_le_bytes());
    changed.extend(frame);
    changed.extend_from_slice(&rest[..extents as usize]);
    padding::append(&mut changed, 0, &[]);
    changed
}

fn open(identities: &[SharedIdentity], object: &[u8]) -> Vec<u8> {
    let identities = identities.iter().map(|identity| identity.as_ref() as &dyn Identity);
    decrypt(identities, object, MAX_OPENED_BYTES).expect("an object for one of these identities")
}

/// Whoever holds the keys of a backup host and of the owner, and may write into every replica. All
/// of it panics on any failure, as the harness does.
pub struct Hand {
    /// The backup host's keys.
    pub keys: HostKeys,
    /// The backup host's name.
    pub host: Name,
    /// The dataset.
    pub dataset: Name,
    /// Where each replica keeps the objects of the vault.
    pub replicas: Vec<PathBuf>,
    master: Vec<SharedIdentity>,
}

impl Hand {
    /// With the keys and replicas of a configuration, for its first dataset. `master` is the
    /// owner's identity file.
    ///
    /// # Panics
    /// There are no keys, or a replica is no directory.
    #[must_use]
    pub fn of(config: &Config, master: &Path) -> Self {
        let place = |replica: &ReplicaConfig| match &replica.kind {
            ReplicaKind::Directory { path } => path.join(&config.vault_prefix),
            ReplicaKind::S3(_) => panic!("replica {} is no directory", replica.name),
        };
        let text = Secret::new(std::fs::read(master).expect("an identity file"));
        Self {
            keys: HostKeys::load(&config.keys).expect("the host's keys"),
            host: config.host.clone(),
            dataset: config.datasets[0].name.clone(),
            replicas: config.replicas.iter().map(place).collect(),
            master: parse_identities(&text, "the owner's identity").expect("identities"),
        }
    }

    /// Every object in every replica.
    #[must_use]
    pub fn contents(&self) -> Contents {
        contents(&self.replicas)
    }

    /// An object as the first replica holds it.
    ///
    /// # Panics
    /// It does not.
    #[must_use]
    pub fn read(&self, key: &str) -> Vec<u8> {
        std::fs::read(self.replicas[0].join(key)).unwrap_or_else(|error| panic!("{key}: {error}"))
    }

    /// Puts an object into every replica, over what is there.
    ///
    /// # Panics
    /// It cannot be written.
    pub fn put(&self, key: &str, object: &[u8]) {
        for replica in &self.replicas {
            let file = replica.join(key);
            std::fs::create_dir_all(file.parent().expect("a folder")).expect("a folder");
            std::fs::write(file, object).expect("an object");
        }
    }

    /// Puts an object, signed for its place.
    ///
    /// # Panics
    /// It cannot be signed or written.
    pub fn put_signed(&self, signer: &Signer, key: &str, object: &[u8]) {
        let signature = signer.sign(object, &layout::trusted_comment(&self.keys.vault, key)).expect("a signature");
        self.put(key, object);
        self.put(&layout::signature(key), signature.as_bytes());
    }

    /// The identities that open the dataset's objects: one of each generation.
    ///
    /// # Panics
    /// The owner cannot open the keyring.
    #[must_use]
    pub fn dataset_identities(&self) -> Vec<SharedIdentity> {
        let keyring = files_below(&self.replicas[0].join(layout::keyring(&self.dataset)));
        let objects = keyring.iter().filter(|file| file.extension().is_some_and(|ending| ending == "age"));
        let parsed = objects.map(|file| {
            let text = open(&self.master, &std::fs::read(file).expect("a keyring object"));
            parse_identities(&Secret::new(text), "the keyring").expect("identities")
        });
        parsed.flatten().collect()
    }

    /// The plaintext of an object of the dataset.
    ///
    /// # Panics
    /// It is damaged, or for somebody else.
    #[must_use]
    pub fn open(&self, object: &[u8]) -> Vec<u8> {
        open(&self.dataset_identities(), object)
    }

    /// Encrypts a document to all who read documents of the dataset.
    ///
    /// # Panics
    /// The host has no keys of the dataset.
    #[must_use]
    pub fn seal(&self, plaintext: &[u8]) -> Vec<u8> {
        let operations = self.keys.operations.to_public();
        let dataset = &self.keys.dataset(&self.dataset).expect("the dataset's keys").recipient;
        let readers: [&dyn Recipient; 2] = [&operations, dataset];
        encrypt(readers.into_iter(), plaintext).expect("a ciphertext")
    }

    /// The manifest of a snapshot, opened as its owner opens it.
    ///
    /// # Panics
    /// It cannot be read.
    #[must_use]
    pub fn manifest(&self, snapshot: &SnapshotId) -> Manifest {
        let plaintext = self.open(&self.read(&layout::manifest(&self.dataset, snapshot)));
        Manifest::parse(plaintext, &self.keys.vault, &self.dataset, snapshot).expect("a manifest")
    }

    /// The hash of a manifest as the first replica holds it.
    ///
    /// # Panics
    /// It holds none.
    #[must_use]
    pub fn hash(&self, snapshot: &SnapshotId) -> Digest {
        Digest::of(&self.read(&layout::manifest(&self.dataset, snapshot)))
    }

    /// The manifest of one more snapshot with the data of `snapshot`, which comes after it. Those
    /// with another `number` are other snapshots.
    ///
    /// # Panics
    /// As [`Self::manifest`].
    #[must_use]
    pub fn successor(&self, snapshot: &SnapshotId, number: u32) -> Manifest {
        let before = self.manifest(snapshot);
        let time = snapshot.time() + TimeDelta::milliseconds(10 + i64::from(number));
        Manifest {
            snapshot: SnapshotId::new(time, number),
            sequence: before.sequence + 1,
            previous: Some(Previous { snapshot: snapshot.clone(), blake3: Some(self.hash(snapshot)) }),
            started: time,
            finished: time,
            ..before
        }
    }

    /// Puts a manifest, signed by the host. Returns the hash of its object.
    ///
    /// # Panics
    /// As [`Self::put_signed`].
    pub fn put_manifest(&self, manifest: &Manifest) -> Digest {
        self.put_plaintext(&manifest.snapshot, &manifest.to_plaintext().expect("a plaintext"))
    }

    /// Puts whatever plaintext as the manifest of a snapshot, signed by the host. Returns the hash
    /// of its object.
    ///
    /// # Panics
    /// As [`Self::put_signed`].
    pub fn put_plaintext(&self, snapshot: &SnapshotId, plaintext: &[u8]) -> Digest {
        let object = self.seal(plaintext);
        self.put_signed(&self.keys.signer, &layout::manifest(&self.dataset, snapshot), &object);
        Digest::of(&object)
    }

    /// A record that is the first one of `principal`.
    #[must_use]
    pub fn record(&self, of: RecordType, principal: &Name, id: &SnapshotId, body: &Value) -> Value {
        json!({
            "type": of,
            "requires": [],
            "vault": self.keys.vault,
            "dataset": self.dataset,
            "principal": principal,
            "sequence": 1,
            "previous": null,
            "time": id.time().to_rfc3339_opts(SecondsFormat::Millis, true),
            "body": body,
        })
    }

    /// The act of this number that commits an object with a signature, by whoever has `signer`.
    ///
    /// # Panics
    /// It cannot be written.
    #[must_use]
    pub fn commit_act(&self, signer: &Signer, number: u64, id: &SnapshotId, object: &[u8]) -> Vec<u8> {
        self.act(ActKind::Commit, signer, number, id, object)
    }

    /// As [`Self::commit_act`], of an act of any kind.
    ///
    /// # Panics
    /// It cannot be written.
    #[must_use]
    pub fn act(&self, kind: ActKind, signer: &Signer, number: u64, id: &SnapshotId, object: &[u8]) -> Vec<u8> {
        let vault = self.keys.vault.clone();
        let mut act = Act {
            act: kind,
            requires: Requirements::default(),
            vault: vault.clone(),
            dataset: self.dataset.clone(),
            principal: self.host.clone(),
            number,
            previous: None,
            time: id.time(),
            id: id.clone(),
            blake3: Digest::of(object),
            signature: String::new(),
            sequence: None,
        };
        act.signature = signer.sign(object, &layout::trusted_comment(&vault, &act.object())).expect("a signature");
        let line = act.to_line().expect("a line");
        let comment = layout::trusted_comment(&vault, &layout::act(&self.dataset, number));
        let signature = signer.sign(&line, &comment).expect("a signature");
        [line, signature.into_bytes()].concat()
    }

    /// Removes an object and its signature from a replica, counted from 1.
    ///
    /// # Panics
    /// They are not there.
    pub fn remove(&self, replica: usize, key: &str) {
        for key in [key, &layout::signature(key)] {
            std::fs::remove_file(self.replicas[replica - 1].join(key)).expect("an object");
        }
    }
}
