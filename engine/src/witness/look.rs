//! One look of a witness: what is there that it has not recorded, and the records of it.
//!
//! - **What it sees**: a snapshot whose manifest a replica lists, and for which a trusted host has
//!   signed an act. Its record names the hash of the manifest, so nothing else can take its place.
//! - **A whole look**: a dataset counts as looked at only if every replica could be listed, and of
//!   everything new in it, it is known whether a trusted host signed it. Only then does a record
//!   say that what it does not name was not there.
//! - **A wrong clock** witnesses nothing: if every replica that tells the time contradicts it,
//!   there is no record.
//! - **Bounds**: a record names [`MAX_SNAPSHOTS_A_RECORD`] snapshots, and what nobody signed is
//!   looked at [`MAX_STRANGERS`] times in a dataset.

use std::collections::{BTreeMap, BTreeSet};

use chrono::{DateTime, Utc};
use futures::future::join_all;
use lifeboat_base::clock::SharedClock;
use lifeboat_base::{Error, Result};
use lifeboat_format::act::ActKind;
use lifeboat_format::id::{Digest, Name, SnapshotId};
use lifeboat_format::layout;
use lifeboat_format::log::{LogEvent, LogKind, LogName, MAX_LOOKED_DATASETS, SeenAct, SeenSnapshot};
use lifeboat_format::manifest::MAX_MANIFEST_OBJECT_BYTES;
use lifeboat_format::root::Pattern;
use lifeboat_store::SharedReplica;

use super::known::{RecordedDataset, RecordedLooks};
use crate::catalog::clocks::ClockWitnesses;
use crate::catalog::documents::held_of;
use crate::catalog::order::OrderReader;
use crate::catalog::signed::fetch_signed;
use crate::catalog::verdict::is_verdict;
use crate::config::Limits;
use crate::keys::sign::Signer;
use crate::keys::trust::Trust;
use crate::log::{LogReader, Logbook, Recorded, look};
use crate::state::StateDirectory;

/// A record of a look names so many snapshots, so that it fits.
const MAX_SNAPSHOTS_A_RECORD: usize = 512;
/// So many manifests of a dataset that nobody signed are fetched in one look.
const MAX_STRANGERS: usize = 64;

/// Everything that a look needs.
pub struct WitnessLook<'a> {
    /// Signs the records.
    pub signer: &'a Signer,
    /// The vault.
    pub vault: &'a str,
    /// Says who is a witness, and of what.
    pub trust: &'a Trust,
    /// Every configured replica.
    pub replicas: &'a [SharedReplica],
    /// Replicas that could not be opened: no look is whole without them.
    pub unopened: usize,
    /// Where it remembers.
    pub home: &'a StateDirectory,
    /// How far clocks may differ, and how much may be held.
    pub limits: &'a Limits,
}

/// What a look came to.
#[derive(Debug, Default)]
pub struct LookReport {
    /// The datasets in which all was seen.
    pub whole: Vec<Name>,
    /// The snapshots that were recorded.
    pub snapshots: Vec<SeenSnapshot>,
    /// The records.
    pub records: Vec<Recorded>,
    /// Logs that are shorter than they were.
    pub findings: Vec<String>,
    /// What else people should know.
    pub warnings: Vec<String>,
}

/// What the replicas show of one dataset.
struct ShownDataset {
    /// The manifests, each with its replicas.
    manifests: BTreeMap<SnapshotId, Vec<SharedReplica>>,
    acts: BTreeMap<u64, Vec<SharedReplica>>,
    is_whole: bool,
}

impl WitnessLook<'_> {
    /// Looks, and records what it saw.
    ///
    /// # Errors
    /// The root does not name this machine as a witness. Its clock is wrong. No replica answers, or
    /// none takes the record; it is then kept, and sent with the next one.
    pub async fn run(&self, clock: &SharedClock) -> Result<LookReport> {
        let (log, patterns) = self.office()?;
        let mut known = RecordedLooks::read(self.home);
        let mut looked = LookReport::default();
        let back =
            look(&LogReader { vault: self.vault, trust: self.trust }, self.replicas, self.home, Some(&log)).await?;
        looked.findings = back.findings;
        looked.warnings.extend(back.warnings.into_iter().chain(back.doubts));
        let began = clock.now();
        let (datasets, all_answer) = self.datasets(&patterns, &mut looked.warnings).await?;
        let mut acts = Vec::new();
        for dataset in &datasets {
            let before = known.dataset(dataset);
            let shown = self.show(dataset, &mut looked.warnings).await;
            let is_whole = self.see(dataset, &shown, before, &mut looked).await;
            acts.extend(before.act.clone());
            if is_whole && all_answer {
                looked.whole.push(dataset.clone());
            }
        }
        known.retain(&datasets);
        let clocks = ClockWitnesses::of(self.replicas, self.limits.clock_skew);
        looked.warnings.extend(clocks.check().map_err(|error| error.within("a wrong clock witnesses nothing"))?);
        let now = clock.now();
        if (now - began).to_std().is_ok_and(|took| took > self.limits.clock_skew) {
            // What came meanwhile would seem not to have been there yet.
            looked.whole.clear();
            looked.warnings.push("the look took longer than limits.clock_skew, so it tells of nothing that it was not there yet: see which store is slow, or let this machine witness fewer datasets".to_owned());
        }
        self.record(&log, &mut looked, &acts, now).await?;
        if let Err(error) = known.write(self.home) {
            looked.warnings.push(format!("all will be recorded once more: {}", error.chain()));
        }
        Ok(looked)
    }

    /// The log of this witness, and the datasets that it may look at.
    fn office(&self) -> Result<(LogName, Vec<Pattern>)> {
        let signer = self.signer.public();
        let log = self.trust.log_of(LogKind::DrillHosts, &signer).ok_or_else(|| {
            Error::keys("the root does not name this machine as a drill host, so nobody would believe it")
                .hint("let an owner sign what `lifeboat root request add-drill-host` prints on the backup host")
        })?;
        let root = self.trust.root().ok_or_else(|| Error::keys("there is no root, so there are no witnesses"))?;
        if !root.witnesses.contains(&log.name) {
            return Err(Error::keys(format!("the root does not name drill host {} as a witness", log.name)).hint(
                format!(
                    "let an owner sign what `lifeboat root request set --add-witness {}` prints on the backup host",
                    log.name
                ),
            ));
        }
        let own = root.drill_hosts.iter().find(|host| host.signer == signer.as_str());
        Ok((log, own.map(|host| host.datasets.clone()).unwrap_or_default()))
    }

    /// The datasets that any replica names, and whether all have answered.
    async fn datasets(&self, patterns: &[Pattern], warnings: &mut Vec<String>) -> Result<(BTreeSet<Name>, bool)> {
        let folder = format!("{}datasets/", layout::KEYRING);
        let lists = join_all(self.replicas.iter().map(|replica| replica.list(&folder))).await;
        let (mut names, mut first, mut failed) = (BTreeSet::new(), None, self.unopened);
        for (replica, listed) in self.replicas.iter().zip(lists) {
            match listed {
                Ok(objects) => names.extend(objects.iter().filter_map(|object| {
                    let name: Name = object.key.strip_prefix(&folder)?.split('/').next()?.parse().ok()?;
                    patterns.iter().any(|pattern| pattern.covers(&name)).then_some(name)
                })),
                Err(error) => {
                    failed += 1;
                    warnings.push(format!("replica {} does not answer: {error}", replica.name()));
                    first = first.or(Some(error));
                }
            }
        }
        if let Some(error) = first.filter(|_| failed == self.replicas.len() + self.unopened) {
            return Err(Error::from(error).within("no replica answers, so there is nothing to witness"));
        }
        if names.len() > MAX_LOOKED_DATASETS {
            warnings.push(format!("only the first {MAX_LOOKED_DATASETS} of {} datasets are looked at", names.len()));
            names = names.into_iter().take(MAX_LOOKED_DATASETS).collect();
        }
        Ok((names, failed == 0))
    }

    async fn show(&self, dataset: &Name, warnings: &mut Vec<String>) -> ShownDataset {
        let folders = (layout::snapshots(dataset), layout::order(dataset));
        let (manifests, order) = (&folders.0, &folders.1);
        let lists = self
            .replicas
            .iter()
            .map(|replica| async move { (replica, futures::try_join!(replica.list(manifests), replica.list(order))) });
        let mut shown = ShownDataset { manifests: BTreeMap::new(), acts: BTreeMap::new(), is_whole: true };
        for (replica, listed) in join_all(lists).await {
            let (manifests, acts) = match listed {
                Ok(listed) => listed,
                Err(error) => {
                    warnings.push(format!("dataset {dataset} is not looked at in replica {}: {error}", replica.name()));
                    shown.is_whole = false;
                    continue;
                }
            };
            for snapshot in manifests.iter().filter_map(|object| layout::parse_manifest(dataset, &object.key)) {
                shown.manifests.entry(snapshot).or_default().push(replica.clone());
            }
            for number in acts.iter().filter_map(|object| layout::parse_act(dataset, &object.key)) {
                shown.acts.entry(number).or_default().push(replica.clone());
            }
        }
        shown
    }

    /// Adds what is new to `looked`, and remembers it. Returns whether this look was whole.
    async fn see(
        &self,
        dataset: &Name,
        shown: &ShownDataset,
        before: &mut RecordedDataset,
        looked: &mut LookReport,
    ) -> bool {
        let mut is_whole = shown.is_whole;
        if is_whole {
            before.snapshots.retain(|snapshot, _| shown.manifests.contains_key(snapshot));
        }
        let mut new: BTreeSet<&SnapshotId> =
            shown.manifests.keys().filter(|snapshot| !before.snapshots.contains_key(*snapshot)).collect();
        let mut found: BTreeMap<SnapshotId, Digest> = BTreeMap::new();
        let (order, mut newest) = (self.order(dataset), None);
        for (number, holders) in shown.acts.iter().rev() {
            let is_known = before.act.as_ref().is_some_and(|act| act.number == *number);
            if new.is_empty() && (newest.is_some() || is_known) {
                break;
            }
            match order.act(&holders.iter().collect::<Vec<_>>(), *number).await {
                Ok(act) => {
                    newest.get_or_insert_with(|| act.seen());
                    if act.act.act == ActKind::Commit && new.remove(&act.act.id) {
                        found.insert(act.act.id, act.act.blake3);
                    }
                }
                Err(error) if is_verdict(&error) => {}
                Err(error) => {
                    is_whole = false;
                    looked.warnings.push(format!("act {number} of {dataset} is not looked at: {}", error.chain()));
                }
            }
        }
        before.act = newest.or(before.act.take());
        if new.len() > MAX_STRANGERS {
            is_whole = false;
            looked.warnings.push(format!(
                "dataset {dataset} has {} manifests that no act names, so it is not known whether all are witnessed",
                new.len()
            ));
        }
        for snapshot in new.into_iter().rev().take(MAX_STRANGERS) {
            match self.without_act(dataset, snapshot, &shown.manifests[snapshot]).await {
                Ok(Some(hash)) => drop(found.insert(snapshot.clone(), hash)),
                Ok(None) => {}
                Err(error) => {
                    is_whole = false;
                    looked.warnings.push(format!("{snapshot} of {dataset} is not looked at: {}", error.chain()));
                }
            }
        }
        looked.snapshots.extend(found.iter().map(|(snapshot, blake3)| SeenSnapshot {
            dataset: dataset.clone(),
            snapshot: snapshot.clone(),
            blake3: *blake3,
        }));
        before.snapshots.extend(found);
        is_whole
    }

    /// The hash of a manifest that no act names, if a trusted host signed it.
    ///
    /// # Errors
    /// A replica fails, or it is too long to be held here: it may be signed.
    async fn without_act(
        &self,
        dataset: &Name,
        snapshot: &SnapshotId,
        holders: &[SharedReplica],
    ) -> Result<Option<Digest>> {
        let key = layout::manifest(dataset, snapshot);
        let limit = MAX_MANIFEST_OBJECT_BYTES.min(held_of(self.limits.memory));
        let mut failed = None;
        for replica in holders {
            match fetch_signed(replica.as_ref(), &key, limit, self.vault, self.trust).await {
                Ok(object) => return Ok(Some(Digest::of(&object))),
                Err(error) if is_verdict(&error) => {}
                Err(error) => failed = Some(error),
            }
        }
        failed.map_or(Ok(None), Err)
    }

    fn order<'b>(&'b self, dataset: &'b Name) -> OrderReader<'b> {
        OrderReader { vault: self.vault, dataset, trust: self.trust, cache: None, host_key: None }
    }

    /// One record, or several if one cannot name all. The last one says which datasets were looked
    /// at.
    async fn record(&self, log: &LogName, looked: &mut LookReport, acts: &[SeenAct], now: DateTime<Utc>) -> Result<()> {
        let book = Logbook {
            log,
            signer: self.signer,
            vault: self.vault,
            trust: self.trust,
            replicas: self.replicas,
            home: self.home,
        };
        let mut parts: Vec<&[SeenSnapshot]> = looked.snapshots.chunks(MAX_SNAPSHOTS_A_RECORD).collect();
        let last = parts.pop().unwrap_or_default();
        for part in parts {
            let event = LogEvent::Witness { looked: Vec::new(), snapshots: part.to_vec() };
            looked.records.push(book.append(event, None, Vec::new(), now).await?);
        }
        let event = LogEvent::Witness { looked: looked.whole.clone(), snapshots: last.to_vec() };
        looked.records.push(book.append(event, None, acts.to_vec(), now).await?);
        for recorded in &looked.records {
            looked.warnings.extend(recorded.warnings());
            recorded.in_a_replica().map_err(|error| {
                error.hint("allow this host to write below log/drill-hosts/ in a replica; the record is kept, and sent with the next")
            })?;
        }
        Ok(())
    }
}
