//! Reads what drills have published of a dataset.
//!
//! - **Belief**: a report counts if a trusted drill host signed it. Without a root and without
//!   drill signers nobody is trusted, so no report counts, and the history says so.
//! - **Bounds**: so many of the newest reports are read as the caller asks for, and a bounded
//!   number beside them that nobody believes.

use std::collections::{BTreeMap, BTreeSet};

use chrono::{DateTime, Utc};
use futures::{FutureExt, StreamExt};
use lifeboat_base::{Class, Error, Result};
use lifeboat_databases::proof::ProofLevel;
use lifeboat_format::id::{Name, SnapshotId};
use lifeboat_format::layout;
use lifeboat_store::SharedReplica;

use super::report::DrillReport;
use crate::catalog::future::is_future;
use crate::catalog::records::RecordReader;
use crate::catalog::verdict::combine;
use crate::config::Limits;
use crate::keys::trust::Trust;
use crate::restore::VaultReader;

/// Reports that cannot be believed, after which older ones are not looked at.
const MAX_DISBELIEVED: usize = 256;
/// Reports that are read at once.
const REPORTS_AT_ONCE: usize = 16;

/// A drill of the past, as its host published it.
#[derive(Debug, Clone)]
pub struct PastDrill {
    /// The drill host that signed it. `None` in a vault of format 1.
    pub host: Option<Name>,
    /// As [`DrillReport::for_publication`] left it.
    pub report: DrillReport,
}

impl PastDrill {
    /// Whether it restored a whole snapshot to `level` at least.
    #[must_use]
    pub fn reached(&self, level: ProofLevel) -> bool {
        self.report.passed && self.report.reached.is_some_and(|reached| reached >= level)
    }
}

/// The newest drills of a dataset.
#[derive(Debug, Default)]
pub struct DrillHistory {
    /// Newest first.
    pub drills: Vec<PastDrill>,
    /// Why it may lack some.
    pub gaps: Vec<String>,
}

impl DrillHistory {
    /// Nobody knows, because of this error.
    #[must_use]
    pub fn unknown(error: &Error) -> Self {
        Self { drills: Vec::new(), gaps: vec![format!("what drills proved is not known: {}", error.chain())] }
    }

    /// The newest drill that reached `level` with a whole snapshot.
    #[must_use]
    pub fn newest_that_reached(&self, level: ProofLevel) -> Option<&PastDrill> {
        self.drills.iter().find(|drill| drill.reached(level))
    }

    /// The newest drill that [vouches](DrillReport::vouches_for) for a snapshot.
    #[must_use]
    pub fn newest_that_vouches_for(&self, level: ProofLevel) -> Option<&PastDrill> {
        self.drills.iter().find(|drill| drill.report.vouches_for(level))
    }
}

/// Where drills are published, and who is believed.
#[derive(Debug, Clone, Copy)]
pub struct Publications<'a> {
    /// The vault's id.
    pub vault: &'a str,
    /// Who is believed.
    pub trust: &'a Trust,
    /// Where reports are.
    pub replicas: &'a [SharedReplica],
    /// How far clocks may differ.
    pub limits: &'a Limits,
}

/// The newest `most` drills of `dataset` that any replica shows. One that ends after `now` is not
/// believed.
///
/// # Errors
/// No replica can be listed.
pub async fn history(reader: &VaultReader, dataset: &Name, most: usize, now: DateTime<Utc>) -> Result<DrillHistory> {
    let (vault, trust) = (reader.vault_id(), &reader.keys().trust);
    let place = Publications { vault, trust, replicas: reader.replicas(), limits: reader.limits() };
    published_drills(place, dataset, most, now).await
}

/// As [`history`], for whoever reads nothing else.
///
/// # Errors
/// No replica can be listed.
pub async fn published_drills(
    place: Publications<'_>,
    dataset: &Name,
    most: usize,
    now: DateTime<Utc>,
) -> Result<DrillHistory> {
    let Publications { vault, trust, replicas, limits } = place;
    let folder = &layout::drills(dataset);
    let listing = replicas.iter().cloned().map(|replica| async move {
        let listed = replica.list(folder).await;
        (replica, listed)
    });
    let (mut shown, mut errors) = (BTreeMap::<SnapshotId, Vec<SharedReplica>>::new(), Vec::new());
    let mut history = DrillHistory::default();
    for (replica, listed) in futures::future::join_all(listing).await {
        match listed {
            Ok(objects) => {
                let keys: BTreeSet<&str> = objects.iter().map(|object| object.key.as_str()).collect();
                for key in keys.iter().filter(|key| keys.contains(layout::signature(key).as_str())) {
                    if let Some(id) = layout::parse_json(folder, key) {
                        shown.entry(id).or_default().push(replica.clone());
                    }
                }
            }
            Err(error) => {
                history.gaps.push(format!("the drills in replica {} cannot be listed: {error}", replica.name()));
                errors.push(error.into());
            }
        }
    }
    if errors.len() == replicas.len() {
        return Err(combine(format!("no replica can list {folder}"), &errors));
    }
    if !trust.knows_drill_hosts() && trust.root().is_none() {
        if !shown.is_empty() {
            history.gaps.push("no drill signer is trusted, so no drill report is believed: name those of your drill hosts in `trusted_drill_signers`".to_owned());
        }
        return Ok(history);
    }
    let records = RecordReader { vault, dataset, trust };
    let read = |(id, holders): (SnapshotId, Vec<SharedReplica>)| {
        let read = async move {
            let holders: Vec<&SharedReplica> = holders.iter().collect();
            let read = records.read::<DrillReport>(&holders, &id).await;
            (id, read)
        };
        read.boxed()
    };
    // Boxed, so that this can be spawned: a stream of a closure's futures is not `Send`.
    let reads: Vec<_> = shown.into_iter().rev().take(most + MAX_DISBELIEVED + 1).map(read).collect();
    let mut reports = std::pin::pin!(futures::stream::iter(reads).buffered(REPORTS_AT_ONCE));
    let mut disbelieved = 0;
    while history.drills.len() < most
        && let Some((id, read)) = reports.next().await
    {
        match read {
            Ok(found) if found.id != found.body.drill || is_future(found.body.finished, now, limits) => {
                disbelieved += 1;
                history.gaps.push(format!("drill report {id} tells another id or a time in the future"));
            }
            Ok(found) => {
                let host = found.envelope.map(|envelope| envelope.principal);
                history.drills.push(PastDrill { host, report: found.body });
            }
            Err(error) => {
                disbelieved += 1;
                // Anybody can put a stranger's report there.
                if error.class() != Class::Keys {
                    history.gaps.push(format!("drill report {id} cannot be read: {}", error.chain()));
                }
            }
        }
        if disbelieved > MAX_DISBELIEVED {
            history.gaps.push(format!("more than {MAX_DISBELIEVED} drill reports cannot be believed, and older ones were not looked at: remove what is below {folder} and is not yours"));
            break;
        }
    }
    Ok(history)
}
