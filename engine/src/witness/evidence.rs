//! What stores and witnesses tell of when snapshots were first there.
//!
//! - **Whoever saw it earlier counts**: objects of a bucket that was moved, or of a replica that
//!   was filled again, have new dates. A witness who has seen the manifest before knows better.
//! - **Only where it matters**: the logs of witnesses are read only for snapshots of which no store
//!   tells that they are as old as they claim, and no further back than these claim.
//! - **Only with a root**, which says who is a witness. Without one, everybody is believed who was.

use std::collections::{BTreeMap, BTreeSet};

use chrono::{DateTime, TimeDelta, Utc};
use lifeboat_format::id::{Name, SnapshotId};
use lifeboat_format::log::{LogEvent, LogKind, LogName};
use lifeboat_format::root::Root;
use lifeboat_store::SharedReplica;

use crate::catalog::first_seen::{Contradicted, DatedClaim, FirstSeen};
use crate::config::Limits;
use crate::keys::trust::{SeenManifests, Trust};
use crate::log::{LogBackwards, LogReader};

/// No more records of one witness are read. One looks every hour, so these are of two years.
const MAX_READ_RECORDS: usize = 20_000;
/// No more manifests are held that witnesses have seen.
const MAX_HELD_MANIFESTS: usize = 1_000_000;

/// Who is asked.
#[derive(Clone, Copy)]
pub(crate) struct Evidence<'a> {
    pub(crate) vault: &'a str,
    pub(crate) trust: &'a Trust,
    pub(crate) replicas: &'a [SharedReplica],
    pub(crate) limits: &'a Limits,
}

impl Evidence<'_> {
    /// The claims of a dataset that stores or witnesses contradict.
    pub(crate) async fn against(&self, dataset: &Name, claims: &[DatedClaim]) -> BTreeMap<SnapshotId, Contradicted> {
        let Some(root) = self.trust.root() else { return BTreeMap::new() };
        let tolerance = tolerance(self.limits);
        let stored = |claim: &DatedClaim| claim.stored.map(FirstSeen::stored);
        let doubtful: Vec<&DatedClaim> = claims.iter().filter(|claim| self.is_doubtful(claim)).collect();
        let mut seen: BTreeMap<&SnapshotId, FirstSeen> =
            doubtful.iter().filter_map(|claim| Some((&claim.snapshot, stored(claim)?))).collect();
        let asked: &[Name] = if doubtful.is_empty() { &[] } else { &root.witnesses };
        for witness in asked {
            let log = LogName { kind: LogKind::DrillHosts, name: witness.clone() };
            for (snapshot, told) in self.witnessed(&log, dataset, &doubtful).await {
                seen.entry(snapshot).and_modify(|known| *known = known.earlier(told)).or_insert(told);
            }
        }
        let contradicted = doubtful.into_iter().filter_map(|claim| {
            Some((claim.snapshot.clone(), seen.get(&claim.snapshot)?.contradicts(claim, tolerance)?))
        });
        contradicted.collect()
    }

    /// Whether anybody who is asked could contradict a claim. The hash is not looked at.
    pub(crate) fn is_doubtful(&self, claim: &DatedClaim) -> bool {
        let tolerance = tolerance(self.limits);
        let has_witnesses = |root: &Root| !root.witnesses.is_empty();
        match claim.stored.map(FirstSeen::stored) {
            Some(stored) => self.trust.root().is_some() && stored.contradicts(claim, tolerance).is_some(),
            None => self.trust.root().is_some_and(|root| has_witnesses(&root)),
        }
    }

    /// When a witness first saw these. Its records are read from the newest on, until they are
    /// older than what is claimed: nothing that is older can matter.
    async fn witnessed<'c>(
        &self,
        log: &LogName,
        dataset: &Name,
        claims: &[&'c DatedClaim],
    ) -> BTreeMap<&'c SnapshotId, FirstSeen> {
        let mut seen: BTreeMap<&SnapshotId, FirstSeen> = BTreeMap::new();
        let Some(earliest) = claims.iter().map(|claim| claim.ended).min() else { return seen };
        let earliest = earliest.checked_sub_signed(tolerance(self.limits)).unwrap_or(earliest);
        let reader = LogReader { vault: self.vault, trust: self.trust };
        // The looks at which it has not been found yet, the oldest of those that were read last.
        let mut undecided: BTreeSet<&SnapshotId> = BTreeSet::new();
        let mut records = LogBackwards::of(&reader, log.clone(), self.replicas, MAX_READ_RECORDS).await;
        while let Some(found) = records.next(&reader).await {
            let time = found.record.time;
            let LogEvent::Witness { looked, snapshots } = &found.record.event else { continue };
            let is_named = |claim: &DatedClaim| {
                let mut named = snapshots.iter().filter(|named| named.dataset == *dataset);
                named.any(|named| named.snapshot == claim.snapshot && named.blake3 == claim.hash)
            };
            let has_looked = looked.contains(dataset);
            for claim in claims {
                if is_named(claim) {
                    seen.insert(&claim.snapshot, FirstSeen { not_yet: None, seen: time });
                    undecided.insert(&claim.snapshot);
                } else if has_looked && undecided.remove(&claim.snapshot) {
                    seen.entry(&claim.snapshot).and_modify(|first| first.not_yet = Some(time));
                }
            }
            if time < earliest {
                tell(&mut records);
                return seen;
            }
        }
        tell(&mut records);
        if records.were_too_many {
            tracing::warn!(%log, "Only the newest {MAX_READ_RECORDS} records of this witness are read");
            seen.values_mut().for_each(|first| first.not_yet = None);
        }
        seen
    }
}

/// Gives `trust` what witnesses have seen, if somebody was revoked: else nobody asks.
pub(crate) async fn tell_what_was_seen(vault: &str, trust: &Trust, replicas: &[SharedReplica]) {
    let Some(root) = trust.root().filter(|_| trust.has_revoked_hosts()) else { return };
    let (reader, mut all) = (LogReader { vault, trust }, SeenManifests::new());
    for name in &root.witnesses {
        let log = LogName { kind: LogKind::DrillHosts, name: name.clone() };
        let mut records = LogBackwards::of(&reader, log, replicas, MAX_READ_RECORDS).await;
        while let Some(found) = records.next(&reader).await {
            let LogEvent::Witness { snapshots, .. } = &found.record.event else { continue };
            // A directory tells not when it came: one revoked signer must not vouch for another.
            if trust.log_of(LogKind::DrillHosts, &found.signer).is_none() {
                continue;
            }
            for seen in snapshots.iter().take(MAX_HELD_MANIFESTS.saturating_sub(all.len())) {
                let place = (seen.dataset.clone(), seen.snapshot.clone(), seen.blake3);
                let first = all.entry(place).or_insert(found.record.time);
                *first = found.record.time.min(*first);
            }
        }
        tell(&mut records);
    }
    trust.believe_witnesses(all);
}

/// Says what is wrong with a log of which all was read that is needed.
fn tell(records: &mut LogBackwards) {
    records.warnings().into_iter().chain(records.missing()).for_each(|told| tracing::warn!("{told}"));
}

/// Each host may differ from the right time by `limits.clock_skew`, so two may differ by twice
/// that.
fn tolerance(limits: &Limits) -> TimeDelta {
    TimeDelta::from_std(limits.clock_skew.saturating_mul(2)).unwrap_or(TimeDelta::MAX)
}

/// When the capture of a snapshot ended, as far as its manifest can be believed in that.
pub(crate) fn ended(
    counts: DateTime<Utc>,
    started: DateTime<Utc>,
    finished: DateTime<Utc>,
    limits: &Limits,
) -> DateTime<Utc> {
    let took = finished.signed_duration_since(started);
    let could = took >= TimeDelta::zero() && took.to_std().is_ok_and(|took| took <= limits.run);
    if could { counts.checked_add_signed(took).unwrap_or(counts) } else { counts }
}
