//! Fetches packs: from the fastest replica that gives them, checked, and decrypted as far as they
//! are wanted.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use lifeboat_base::{Class, Context, Result};
use lifeboat_format::id::Name;
use lifeboat_format::manifest::PackRef;
use lifeboat_format::pack;
use lifeboat_format::pack::Excerpt;
use lifeboat_store::{Replica, SharedReplica};
use tokio::time::Instant;

use super::workers::Workers;
use crate::catalog::ciphertext::fetch_ciphertext;
use crate::catalog::documents::combine;
use crate::keys::{PackKeys, crypt};

/// How much of the old measurement of a replica is left after a new one.
const WEIGHT_OF_OLDER_PACE: f64 = 0.7;

/// Fetches the packs of one dataset.
pub(crate) struct PackFetcher {
    dataset: Name,
    replicas: Vec<SharedReplica>,
    keys: Arc<PackKeys>,
    /// Who decrypts and decompresses.
    workers: Workers,
    seen: Mutex<BTreeMap<Name, Seen>>,
}

/// What was seen of a replica.
#[derive(Default, Clone, Copy)]
struct Seen {
    /// Seconds a byte, the newest weighing most; `None` before the first pack.
    pace: Option<f64>,
    asked: u32,
    gave: bool,
    failed: bool,
}

impl Seen {
    /// What one more pack is expected to cost here. A replica that has failed comes last, and one
    /// that owes its first answer is not asked again meanwhile if another one answers.
    fn cost(&self) -> (bool, f64) {
        let pace = self.pace.unwrap_or(if self.asked == 0 { 0.0 } else { f64::MAX });
        (self.failed, pace * f64::from(self.asked + 1))
    }
}

impl PackFetcher {
    pub(crate) fn new(dataset: Name, replicas: Vec<SharedReplica>, keys: PackKeys, workers: Workers) -> Self {
        Self { dataset, replicas, keys: Arc::new(keys), workers, seen: Mutex::default() }
    }

    /// Replicas that packs came from.
    pub(crate) fn used(&self) -> Vec<Name> {
        self.seen().iter().filter(|(_, seen)| seen.gave).map(|(name, _)| name.clone()).collect()
    }

    fn seen(&self) -> MutexGuard<'_, BTreeMap<Name, Seen>> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Who decrypts and decompresses.
    pub(crate) fn workers(&self) -> &Workers {
        &self.workers
    }

    /// The chunks of a pack that `wanted` touches.
    pub(crate) async fn fetch(&self, pack: &PackRef, wanted: &[(u64, u64)]) -> Result<Excerpt> {
        let mut untried: Vec<&SharedReplica> = self.replicas.iter().collect();
        let mut errors = Vec::new();
        while let Some(replica) = self.cheapest(&mut untried) {
            match self.fetch_from(replica.as_ref(), pack, wanted).await {
                Ok(excerpt) => return Ok(excerpt),
                Err(error) => {
                    tracing::warn!(replica = %replica.name(), error = %error.chain(), "a pack cannot be had here");
                    errors.push(error);
                }
            }
        }
        Err(combine(format!("no replica gives pack {} of dataset {}", pack.0, self.dataset), &errors))
    }

    fn cheapest<'a>(&self, untried: &mut Vec<&'a SharedReplica>) -> Option<&'a SharedReplica> {
        let seen = self.seen();
        let cost = |replica: &SharedReplica| seen.get(replica.name()).copied().unwrap_or_default().cost();
        let cheaper = |a: &(bool, f64), b: &(bool, f64)| a.0.cmp(&b.0).then(a.1.total_cmp(&b.1));
        let (at, _) = untried.iter().map(|replica| cost(replica)).enumerate().min_by(|(_, a), (_, b)| cheaper(a, b))?;
        Some(untried.remove(at))
    }

    async fn fetch_from(&self, replica: &dyn Replica, pack: &PackRef, wanted: &[(u64, u64)]) -> Result<Excerpt> {
        let name = replica.name();
        self.seen().entry(name.clone()).or_default().asked += 1;
        let asked = Asked { fetcher: self, name };
        let began = Instant::now();
        let ciphertext = fetch_ciphertext(replica, &self.dataset, pack).await;
        let took = began.elapsed();
        let excerpt = async {
            let (ciphertext, keys, content, wanted) = (ciphertext?, self.keys.clone(), pack.2, wanted.to_vec());
            let excerpt = self.workers.begin(move || open(&ciphertext, content, &keys, &wanted)).await;
            let excerpt = excerpt.context(Class::Failed, || "a worker thread failed")?;
            excerpt.map_err(|error| error.within(format!("replica {name}: pack {} is damaged", pack.0)))
        };
        let excerpt = excerpt.await;
        drop(asked);
        let mut seen = self.seen();
        let seen = seen.entry(name.clone()).or_default();
        match &excerpt {
            Ok(_) => {
                let pace = took.as_secs_f64() / pack.1.max(1) as f64;
                seen.pace = Some(
                    seen.pace
                        .map_or(pace, |before| WEIGHT_OF_OLDER_PACE * before + (1.0 - WEIGHT_OF_OLDER_PACE) * pace),
                );
                seen.gave = true;
            }
            Err(_) => seen.failed = true,
        }
        excerpt
    }
}

/// A request under way; also one whose future is dropped comes to its end here.
struct Asked<'a> {
    fetcher: &'a PackFetcher,
    name: &'a Name,
}

impl Drop for Asked<'_> {
    fn drop(&mut self) {
        if let Some(seen) = self.fetcher.seen().get_mut(self.name) {
            seen.asked -= 1;
        }
    }
}

/// Decrypts of a pack what is wanted. CPU work.
pub(crate) fn open(ciphertext: &[u8], content: u64, keys: &PackKeys, wanted: &[(u64, u64)]) -> Result<Excerpt> {
    let identity = std::iter::once(&keys.identity as &dyn age::Identity);
    pack::read(&mut crypt::decrypting(identity, ciphertext)?, content, wanted)
}
