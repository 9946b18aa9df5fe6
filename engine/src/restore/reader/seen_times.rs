//! When others than its writer first saw a snapshot, as a reader finds out.

use std::collections::{BTreeMap, BTreeSet};

use chrono::{DateTime, TimeDelta, Utc};
use lifeboat_base::Result;
use lifeboat_format::id::{Digest, Name, SnapshotId};
use lifeboat_format::manifest::Manifest;

use super::{Listed, Summary, VaultReader};
use crate::catalog::documents::StoredAs;
use crate::catalog::first_seen::{Contradicted, DatedClaim};
use crate::catalog::taken::{SnapshotTime, TakenTimes};
use crate::witness::{Against, Evidence, ended};

/// What a manifest says, and the hash of its object.
struct ManifestTimes {
    hash: Digest,
    started: DateTime<Utc>,
    finished: DateTime<Utc>,
}

impl VaultReader {
    /// The replicas that tell the time, and agree with this machine.
    pub(super) fn dating(&self) -> BTreeSet<&Name> {
        let skew = TimeDelta::from_std(self.limits.clock_skew).unwrap_or(TimeDelta::MAX);
        let agrees = |offset: TimeDelta| offset.abs() <= skew;
        let replicas = self.replicas.iter().filter(|replica| replica.clock_offset(skew).is_some_and(agrees));
        replicas.map(|replica| replica.name()).collect()
    }

    fn evidence(&self) -> Evidence<'_> {
        Evidence {
            vault: &self.vault,
            trust: &self.keys.trust,
            replicas: &self.replicas,
            limits: &self.limits,
            told: &self.told,
        }
    }

    /// The claims that others contradict. Says once what is missing: whoever reads goes on.
    async fn against(&self, dataset: &Name, claims: &[DatedClaim]) -> BTreeMap<SnapshotId, Contradicted> {
        let Against { contradicted, doubts } = self.evidence().against(dataset, claims).await;
        for doubt in doubts.into_iter().filter(|doubt| self.told.is_new(doubt)) {
            tracing::warn!("Whether a snapshot of {dataset} is as old as it claims is not sure: {doubt}");
        }
        contradicted
    }

    fn claim(&self, listed: &Listed, times: &ManifestTimes, counts: DateTime<Utc>) -> DatedClaim {
        DatedClaim {
            snapshot: listed.snapshot.clone(),
            hash: times.hash,
            began: counts,
            ended: ended(counts, times.started, times.finished, &self.limits),
            stored: listed.stored.clone(),
        }
    }

    /// `times`, with what stores and witnesses say against those of these snapshots.
    pub async fn seen_by_others<'s>(
        &self,
        dataset: &Name,
        snapshots: impl IntoIterator<Item = (&'s Listed, &'s Summary)>,
        times: TakenTimes,
    ) -> TakenTimes {
        let claim = |(listed, summary): (&Listed, &Summary)| {
            let Summary { claim, finished, hash, .. } = summary;
            let of = ManifestTimes { hash: *hash, started: claim.time, finished: *finished };
            self.claim(listed, &of, times.of(&claim.snapshot, claim.time).time)
        };
        let claims: Vec<DatedClaim> = snapshots.into_iter().map(claim).collect();
        let contradicted = self.against(dataset, &claims).await;
        times.against(contradicted)
    }

    /// What stores and witnesses say against the time of one snapshot, which counts as `counts`.
    ///
    /// # Errors
    /// Its manifest cannot be read.
    pub(in crate::restore) async fn contradicted(
        &self,
        dataset: &Name,
        listed: &Listed,
        counts: Option<DateTime<Utc>>,
    ) -> Result<Option<Contradicted>> {
        if self.keys.trust.root().is_none() {
            return Ok(None);
        }
        let keys = self.document_keys(dataset).await;
        let look = |manifest: Manifest, stored: StoredAs| {
            Ok(ManifestTimes { hash: stored.hash, started: manifest.started, finished: manifest.finished })
        };
        let times = self.documents(dataset, &keys).look(&self.replicas, &listed.snapshot, look).await?;
        let claim = self.claim(listed, &times, counts.unwrap_or(times.started));
        let mut found: BTreeMap<SnapshotId, Contradicted> = self.against(dataset, &[claim]).await;
        Ok(found.remove(&listed.snapshot))
    }

    /// A time, with what stores and witnesses say against it.
    ///
    /// # Errors
    /// No replica can be listed, or the manifest cannot be read.
    pub(super) async fn as_seen(&self, manifest: &Manifest, taken: SnapshotTime) -> Result<SnapshotTime> {
        if self.keys.trust.root().is_none() {
            return Ok(taken);
        }
        let (dataset, snapshot) = (&manifest.dataset, &manifest.snapshot);
        let shown = self.snapshots(dataset).await?;
        let Some(listed) = shown.iter().find(|listed| listed.snapshot == *snapshot) else { return Ok(taken) };
        let told = ManifestTimes { hash: Digest::of(b""), started: manifest.started, finished: manifest.finished };
        // A manifest may be large: it is read again for its hash only if somebody is asked.
        if !self.evidence().is_doubtful(&self.claim(listed, &told, taken.time)) {
            return Ok(taken);
        }
        let contradicted = self.contradicted(dataset, listed, Some(taken.time)).await?;
        Ok(contradicted.map_or(taken, |found| taken.against(found)))
    }
}
