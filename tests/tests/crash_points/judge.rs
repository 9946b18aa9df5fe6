//! What must be there, whatever was killed, and what must not.

use std::collections::{BTreeMap, BTreeSet};

use lifeboat_engine::format::id::{Name, SnapshotId};
use lifeboat_engine::format::layout;
use lifeboat_engine::keys::ReaderKeys;
use lifeboat_engine::restore::VaultReader;
use lifeboat_engine::store::SharedReplica;
use lifeboat_tests::s3::Region;
use lifeboat_tests::vault::{limits, name, read_all};
use serde::Deserialize;
use tokio_util::sync::CancellationToken;

use crate::case::{GRACE, KEEP_LAST, Stores};

/// What is wrong, in words.
#[derive(Debug, Default)]
pub(crate) struct Found {
    pub(crate) lost: Vec<String>,
    pub(crate) false_successes: Vec<String>,
    pub(crate) orphans: Vec<String>,
}

/// What a backup reports of its success.
#[derive(Debug, Deserialize)]
pub(crate) struct Reported {
    snapshot: SnapshotId,
    replicas: Vec<ReportedReplica>,
}

#[derive(Debug, Deserialize)]
struct ReportedReplica {
    replica: Name,
    complete: bool,
}

/// A program that ended, in whatever way.
pub(crate) struct Ran {
    pub(crate) when: String,
    /// What a backup reported.
    pub(crate) reported: Option<Reported>,
    /// Seconds since the case began.
    pub(crate) began: u64,
    pub(crate) ended: u64,
}

/// A snapshot that was shown.
#[derive(Debug)]
struct Known {
    content: Vec<u8>,
    /// Since when retention may let it go.
    let_go: Option<u64>,
}

/// Knows what was captured, what was reported, and since when what may go.
pub(crate) struct Judge {
    replicas: Vec<SharedReplica>,
    owner: ReaderKeys,
    known: BTreeMap<SnapshotId, Known>,
    /// What was captured and is not known to be committed.
    pending: Vec<Vec<u8>>,
    committed: u64,
}

fn dataset() -> Name {
    name("data")
}

impl Judge {
    pub(crate) fn new(replicas: Vec<SharedReplica>, owner: ReaderKeys) -> Self {
        Self { replicas, owner, known: BTreeMap::new(), pending: Vec::new(), committed: 0 }
    }

    /// A backup of this content begins.
    pub(crate) fn captures(&mut self, content: Vec<u8>) {
        self.pending.push(content);
    }

    /// How many snapshots were reported as committed.
    pub(crate) fn committed(&self) -> u64 {
        self.committed
    }

    async fn reader(&self, replicas: &[SharedReplica]) -> VaultReader {
        VaultReader::open(replicas, self.owner.clone(), limits(), CancellationToken::new()).await.unwrap()
    }

    /// What a snapshot comes back as.
    async fn restored(reader: &VaultReader, snapshot: &SnapshotId) -> Result<Vec<u8>, String> {
        let restored = async { read_all(&reader.streams(&dataset(), snapshot).await?).await };
        let restored = restored.await.map_err(|error| error.chain())?;
        Ok(restored.into_values().collect::<Vec<_>>().concat())
    }

    /// Looks at both regions after a program, and at what it reported.
    pub(crate) async fn look(&mut self, ran: &Ran, restores_all: bool) -> Found {
        let Ran { when, reported, began, ended } = ran;
        let mut found = Found::default();
        if let Some(reported) = reported {
            self.committed += 1;
            self.judge_success(when, reported, &mut found).await;
            let content = self.pending.pop().unwrap();
            self.known.insert(reported.snapshot.clone(), Known { content, let_go: None });
        }
        let reported = reported.as_ref().map(|reported| &reported.snapshot);
        let shown = self.shown().await;
        let looks_at: Vec<&SnapshotId> = shown
            .iter()
            .filter(|snapshot| restores_all || !self.known.contains_key(snapshot))
            .filter(|snapshot| reported != Some(snapshot))
            .collect();
        let mut seen = BTreeMap::new();
        let reader = if looks_at.is_empty() { None } else { Some(self.reader(&self.replicas).await) };
        for snapshot in looks_at {
            let restored = match Self::restored(reader.as_ref().unwrap(), snapshot).await {
                Ok(restored) => restored,
                Err(error) => {
                    found.lost.push(format!("{when}: {snapshot} is shown: {error}"));
                    continue;
                }
            };
            if let Some(known) = self.known.get(snapshot) {
                if known.content != restored {
                    found.lost.push(format!("{when}: {snapshot} differs"));
                }
                continue;
            }
            // Nobody knew whether it was committed.
            let made = self.pending.iter().position(|content| *content == restored);
            let made = made.unwrap_or_else(|| panic!("{when}: {snapshot} is shown, and nobody made it"));
            let known = Known { content: self.pending.remove(made), let_go: None };
            seen.insert(snapshot.clone(), known);
        }
        self.known.extend(seen);
        if let Some(snapshot) = reported.filter(|snapshot| !shown.contains(*snapshot)) {
            found.false_successes.push(format!("{when}: {snapshot} is not shown"));
        }
        let kept: BTreeSet<SnapshotId> = shown.iter().rev().take(KEEP_LAST).cloned().collect();
        for (snapshot, known) in &mut self.known {
            let may_be_gone = known.let_go.is_some_and(|since| since + GRACE <= ended + 1);
            if !shown.contains(snapshot) && !may_be_gone {
                found.lost.push(format!("{when}: {snapshot} is gone"));
            }
            if known.let_go.is_none() && !kept.contains(snapshot) {
                known.let_go = Some(*began);
            }
        }
        self.known.retain(|snapshot, _| shown.contains(snapshot));
        found
    }

    /// The snapshots that any region shows: manifests with a signature.
    async fn shown(&self) -> BTreeSet<SnapshotId> {
        let mut shown = BTreeSet::new();
        for replica in &self.replicas {
            let listed = replica.list(&layout::snapshots(&dataset())).await.unwrap();
            let keys: BTreeSet<&String> = listed.iter().map(|object| &object.key).collect();
            let signed = keys.iter().filter(|key| keys.contains(&layout::signature(key)));
            shown.extend(signed.filter_map(|key| layout::parse_manifest(&dataset(), key)));
        }
        shown
    }

    /// A replica that a report calls complete restores the snapshot alone. They take turns.
    async fn judge_success(&self, when: &str, reported: &Reported, found: &mut Found) {
        let (newest, snapshot) = (self.pending.last().unwrap(), &reported.snapshot);
        let complete: Vec<&Name> =
            reported.replicas.iter().filter(|outcome| outcome.complete).map(|outcome| &outcome.replica).collect();
        assert!(!complete.is_empty(), "{when}: {snapshot} is complete in no replica");
        let name = complete[usize::try_from(self.committed).unwrap() % complete.len()];
        let replica = self.replicas.iter().find(|replica| replica.name() == name).unwrap();
        let reader = self.reader(std::slice::from_ref(replica)).await;
        match Self::restored(&reader, snapshot).await {
            Ok(restored) if restored == *newest => {}
            Ok(_) => found.false_successes.push(format!("{when}: {snapshot} differs in {name}")),
            Err(error) => found.false_successes.push(format!("{when}: {snapshot}: {error}")),
        }
    }

    /// What nobody needs: in a place for records, whatever is no act of a region; in each region,
    /// packs that no manifest needs, manifests and records without a signature, signatures without
    /// an object, and whatever has no place in a vault. Index segments without a signature do not
    /// count: nobody reads them, and they stay for good.
    pub(crate) async fn orphans(&self, label: &str, stores: &Stores, vault_prefix: &str) -> Found {
        let reader = self.reader(&self.replicas).await;
        let mut needed = BTreeSet::new();
        for listed in reader.snapshots(&dataset()).await.unwrap() {
            let manifest = reader.manifest(&dataset(), &listed.snapshot).await.unwrap();
            needed.extend(manifest.packs.iter().map(|pack| layout::pack(&dataset(), &pack.id)));
        }
        let (mut found, mut all) = (Found::default(), BTreeSet::new());
        for region in &stores.regions {
            let keys = keys(region, vault_prefix).await;
            let signed = [layout::snapshots, layout::indexes, layout::prunes, layout::marks].map(|of| of(&dataset()));
            for key in &keys {
                let is_orphan = if let Some(object) = key.strip_suffix(".minisig") {
                    !keys.contains(object)
                } else if key.starts_with(&layout::packs(&dataset())) {
                    !needed.contains(key)
                } else if signed.iter().any(|folder| key.starts_with(folder)) {
                    !keys.contains(&layout::signature(key))
                } else {
                    !["vault.json", "keyring/", "hosts/"].iter().any(|place| key.starts_with(place))
                        && !key.starts_with(&layout::order(&dataset()))
                };
                if is_orphan {
                    found.orphans.push(format!("{label}: {key} is left in {}", region.name()));
                }
            }
            let missing: Vec<&String> = needed.iter().filter(|key| !keys.contains(*key)).collect();
            assert!(missing.is_empty(), "{label}: {} lacks {missing:?}", region.name());
            all.extend(keys);
        }
        let order = layout::order(&dataset());
        let is_act = |key: &&String| *key == layout::VAULT || (key.starts_with(&order) && all.contains(*key));
        for key in keys(&stores.records, vault_prefix).await.iter().filter(|key| !is_act(key)) {
            found.orphans.push(format!("{label}: {key} is left in the place for records"));
        }
        found
    }
}

/// All keys below the prefix of the vault, as the store itself lists them.
async fn keys(region: &Region, vault_prefix: &str) -> BTreeSet<String> {
    let (client, mut keys, mut token) = (region.client(), BTreeSet::new(), None);
    let below = format!("{vault_prefix}/");
    loop {
        let page = client.list_objects_v2().bucket(region.bucket()).prefix(&below).set_continuation_token(token);
        let page = page.send().await.unwrap();
        let listed = page.contents().iter().filter_map(|object| object.key()?.strip_prefix(&below));
        keys.extend(listed.filter(|key| !key.is_empty()).map(str::to_owned));
        token = page.next_continuation_token().map(str::to_owned);
        if token.is_none() {
            return keys;
        }
    }
}
