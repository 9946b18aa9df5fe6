//! What stores and witnesses tell of when snapshots were first there.
//!
//! - **Whoever saw it earlier counts**: objects of a bucket that was moved, or of a replica that
//!   was filled again, have new dates. A witness who has seen the manifest before knows better.
//! - **One store alone is not believed** against another one and every witness who has seen it,
//!   and had not seen it yet ([`FirstSeen::of`]).
//! - **Only where it matters**: the logs of witnesses are read only for snapshots of which the two
//!   earliest dates of stores do not tell that they are as old as they claim, and no further back
//!   than these claim.
//! - **What is missing is told** (`told.rs`): who deletes stops, who restores goes on.
//! - **Only with a root**, which says who is a witness. Without one, everybody is believed who was.

use std::collections::{BTreeMap, BTreeSet};

use chrono::{DateTime, TimeDelta, Utc};
use lifeboat_format::id::{Name, SnapshotId};
use lifeboat_format::log::{LogEvent, LogKind, LogName};
use lifeboat_format::root::Root;
use lifeboat_store::SharedReplica;

use super::told::{ByWitness, MAX_READ_RECORDS, ToldLogs};
use crate::catalog::first_seen::{Contradicted, DatedClaim, FirstSeen};
use crate::config::Limits;
use crate::keys::trust::{SeenManifests, Trust};
use crate::log::{LogBackwards, LogReader};

/// No more manifests are held that witnesses have seen.
const MAX_HELD_MANIFESTS: usize = 1_000_000;

/// Who is asked.
#[derive(Clone, Copy)]
pub(crate) struct Evidence<'a> {
    pub(crate) vault: &'a str,
    pub(crate) trust: &'a Trust,
    pub(crate) replicas: &'a [SharedReplica],
    pub(crate) limits: &'a Limits,
    /// What was read already.
    pub(crate) told: &'a ToldLogs,
}

/// What there is against the claims of a dataset.
#[derive(Debug, Default)]
pub(crate) struct Against {
    /// The claims that stores or witnesses contradict.
    pub(crate) contradicted: BTreeMap<SnapshotId, Contradicted>,
    /// What is missing that may contradict others. For people to read.
    pub(crate) doubts: BTreeSet<String>,
}

impl Evidence<'_> {
    /// What there is against the claims of a dataset.
    pub(crate) async fn against(&self, dataset: &Name, claims: &[DatedClaim]) -> Against {
        let mut found = Against::default();
        let Some(root) = self.trust.root() else { return found };
        let tolerance = tolerance(self.limits);
        let doubtful: Vec<&DatedClaim> = claims.iter().filter(|claim| self.is_doubtful(claim)).collect();
        let Some(earliest) = doubtful.iter().map(|claim| claim.ended).min() else { return found };
        let until = earliest.checked_sub_signed(tolerance).unwrap_or(earliest);
        let reader = LogReader { vault: self.vault, trust: self.trust };
        let witnesses = self.told.ask(&reader, self.replicas, (dataset, &root.witnesses), &doubtful, until).await;
        for claim in doubtful {
            let snapshot = &claim.snapshot;
            let named = || witnesses.iter().filter_map(|witness| witness.seen.get(snapshot).copied());
            let seen = named().reduce(FirstSeen::earlier);
            // Whoever has looked and not named it has not seen it, unless a record is missing.
            let is_whole = |witness: &&ByWitness<'_>| !witness.unsure.contains_key(snapshot);
            let looked = || witnesses.iter().filter(is_whole).filter_map(|witness| witness.looked).max();
            // One of them may lie, so all must say so. `None` is less than any time.
            let not_yet = named().map(|told| told.not_yet).min().unwrap_or_else(looked);
            let first = FirstSeen::of(&claim.stored, seen, not_yet, tolerance);
            if let Some(contradicted) = first.and_then(|first| first.contradicts(claim, tolerance)) {
                found.contradicted.insert(snapshot.clone(), contradicted);
            }
            let is_sure = |witness: &ByWitness<'_>| {
                let told = witness.seen.get(snapshot).filter(|_| !witness.unsure.contains_key(snapshot));
                told.is_some_and(|told| told.not_yet.is_some())
            };
            // What is missing can void dates of stores, and no more. So where none can be voided,
            // it makes nothing younger.
            let latest = FirstSeen::of(&claim.stored, None, Some(DateTime::<Utc>::MAX_UTC), tolerance);
            let may_be_younger = latest.is_none() || latest != first;
            if may_be_younger && !witnesses.iter().any(is_sure) {
                found.doubts.extend(witnesses.iter().filter_map(|witness| witness.unsure.get(snapshot).cloned()));
            }
        }
        found
    }

    /// Whether anybody who is asked could contradict a claim. The hash is not looked at.
    pub(crate) fn is_doubtful(&self, claim: &DatedClaim) -> bool {
        let tolerance = tolerance(self.limits);
        let has_witnesses = |root: &Root| !root.witnesses.is_empty();
        let Some(root) = self.trust.root() else { return false };
        let contradicts = |stored: DateTime<Utc>| FirstSeen::stored(stored).contradicts(claim, tolerance).is_some();
        match FirstSeen::earliest(&claim.stored) {
            [None, _] => has_witnesses(&root),
            stores => stores.into_iter().flatten().any(contradicts),
        }
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
