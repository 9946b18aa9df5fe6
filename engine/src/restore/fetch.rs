//! Fetches packs from the replica that has been fastest, checks them, and decrypts what is wanted.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use lifeboat_base::{Class, Context, Error, Result};
use lifeboat_format::id::Name;
use lifeboat_format::manifest::PackRef;
use lifeboat_format::pack;
use lifeboat_format::pack::Excerpt;
use lifeboat_store::{Replica, SharedReplica};
use tokio::time::Instant;

use super::workers::Workers;
use crate::catalog::ciphertext::fetch_ciphertext;
use crate::catalog::verdict::combine;
use crate::keys::{PackKeys, crypt};

/// The weight of earlier measurements of a replica when a new one is added. 0 to 1.
const WEIGHT_OF_OLDER_PACE: f64 = 0.7;

/// Fetches the packs of one dataset.
pub(crate) struct PackFetcher {
    dataset: Name,
    replicas: Vec<SharedReplica>,
    /// By key generation. If replicas disagree, there are several of one generation.
    keys: BTreeMap<u32, Arc<[PackKeys]>>,
    /// The threads that decrypt and decompress.
    workers: Workers,
    seen: Mutex<BTreeMap<Name, Seen>>,
}

/// What the fetcher knows about one replica.
#[derive(Default, Clone, Copy)]
struct Seen {
    /// Seconds for each byte, averaged over the packs so far. `None` before the first pack.
    pace: Option<f64>,
    asked: u32,
    gave: bool,
    failed: bool,
}

impl Seen {
    /// The expected cost of one more pack, which grows with the requests under way. A replica that
    /// has failed comes last. One that has not answered its first request yet is not asked again
    /// while another one can be asked.
    fn cost(&self) -> (bool, f64) {
        let pace = self.pace.unwrap_or(if self.asked == 0 { 0.0 } else { f64::MAX });
        (self.failed, pace * f64::from(self.asked + 1))
    }
}

impl PackFetcher {
    /// `keys` are those of each key generation of its packs.
    pub(crate) fn new(
        dataset: Name,
        replicas: Vec<SharedReplica>,
        keys: BTreeMap<u32, Vec<PackKeys>>,
        workers: Workers,
    ) -> Self {
        let keys = keys.into_iter().map(|(generation, keys)| (generation, Arc::from(keys))).collect();
        Self { dataset, replicas, keys, workers, seen: Mutex::default() }
    }

    /// The replicas that packs came from.
    pub(crate) fn used(&self) -> Vec<Name> {
        self.seen().iter().filter(|(_, seen)| seen.gave).map(|(name, _)| name.clone()).collect()
    }

    fn seen(&self) -> MutexGuard<'_, BTreeMap<Name, Seen>> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The threads that decrypt and decompress.
    pub(crate) fn workers(&self) -> &Workers {
        &self.workers
    }

    /// Fetches a pack, and returns the chunks that `wanted` touches. `wanted` lists offsets in the
    /// pack's content, and lengths.
    pub(crate) async fn fetch(&self, pack: &PackRef, wanted: &[(u64, u64)]) -> Result<Excerpt> {
        let mut untried: Vec<&SharedReplica> = self.replicas.iter().collect();
        let mut errors = Vec::new();
        while let Some(replica) = self.cheapest(&mut untried) {
            match self.fetch_from(replica.as_ref(), pack, wanted).await {
                Ok(excerpt) => return Ok(excerpt),
                Err(error) => {
                    tracing::warn!(replica = %replica.name(), error = %error.chain(), "Cannot fetch a pack from this replica");
                    errors.push(error);
                }
            }
        }
        Err(combine(format!("no replica returns a whole pack {} of dataset {}", pack.id, self.dataset), &errors))
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
            let (ciphertext, content, wanted) = (ciphertext?, pack.content, wanted.to_vec());
            let keys = self.keys.get(&pack.generation).cloned();
            let keys =
                keys.ok_or_else(|| Error::keys(format!("no keys of generation {} are at hand", pack.generation)))?;
            let excerpt = self.workers.begin(move || open(&ciphertext, content, &keys, &wanted)).await;
            let excerpt = excerpt.context(Class::Failed, || "the thread that decrypts a pack failed")?;
            excerpt.map_err(|error| error.within(format!("replica {name}: cannot open pack {}", pack.id)))
        };
        let excerpt = excerpt.await;
        drop(asked);
        let mut seen = self.seen();
        let seen = seen.entry(name.clone()).or_default();
        match &excerpt {
            Ok(_) => {
                let pace = took.as_secs_f64() / pack.size.max(1) as f64;
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

/// Counts a request that is under way. If its future is dropped, the request ends, too.
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

/// Decrypts the wanted parts of a pack with whichever of `keys` fits. Takes CPU time.
pub(crate) fn open(ciphertext: &[u8], content: u64, keys: &[PackKeys], wanted: &[(u64, u64)]) -> Result<Excerpt> {
    let identities = keys.iter().map(|keys| &keys.identity as &dyn age::Identity);
    pack::read(&mut crypt::decrypting(identities, ciphertext)?, content, wanted)
}
