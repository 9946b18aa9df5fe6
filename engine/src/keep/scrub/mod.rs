//! Scrub reads every object of every replica again, and replaces what is damaged with a whole copy
//! of another replica.
//!
//! - **What is whole**: a pack matches the hash that is its name. Manifests, index segments,
//!   records and acts are signed. Keyring objects are compared, and their
//!   signatures checked (`compare.rs`). No key that opens a pack is needed.
//! - **What is written**: a damaged object alone is overwritten, and only with a copy that was
//!   checked in the same way. Nothing is deleted. It is looked at a second time first, while the
//!   dataset's lock is held, which reading needs not.
//! - **What is missing** is no damage: a catch-up copies it.
//! - **Memory**: one pack at a time, with one copy of it, or a few small objects, or a large one.
//!   Of a listing, the next few thousand keys are kept.
//! - **Time**: a slice ends after a while, and may be dropped at any time. What it has done is in
//!   [`ReplicaScrub`]; a repair that was cut off is found damaged again.

mod compare;
pub(super) mod folders;
mod look;
mod progress;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use chrono::{DateTime, Utc};
use futures::StreamExt;
use lifeboat_base::clock::SharedClock;
use lifeboat_base::{Class, Error, Result};
use lifeboat_format::id::Name;
use lifeboat_format::info;
use lifeboat_format::layout;
use lifeboat_store::{Listing, SharedReplica};
use serde::Serialize;
use tokio::sync::Mutex;

use self::compare::Judged;
use self::folders::{SMALL_PARTS, prefix, proof};
use self::look::Looker;
pub use self::progress::{Damage, ReplicaScrub, ScrubProgress, late_by};
use crate::config::{Config, Dataset};
use crate::keys::HostKeys;
use crate::state::StateDirectory;

/// So many keys of a listing are kept.
const KEYS_AT_ONCE: usize = 4096;
/// So many objects that are no packs are looked at together.
const SMALL_AT_ONCE: usize = 8;
/// A slice goes through no more parts.
const PARTS_AT_ONCE: usize = 16;
/// A slice begins no other object after this long.
const SLICE: Duration = Duration::from_secs(120);

/// Scrubs a dataset.
pub struct Scrub<'a> {
    /// The installation.
    pub config: &'a Config,
    /// The dataset.
    pub dataset: &'a Dataset,
    /// This host's keys.
    pub keys: &'a HostKeys,
    /// Every replica.
    pub replicas: &'a [SharedReplica],
    /// For the dataset's lock.
    pub state: &'a StateDirectory,
    /// Dates what is remembered.
    pub clock: SharedClock,
}

/// A damaged object, and what became of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Mended {
    /// The replica that it is in.
    pub replica: Name,
    /// Its key.
    pub object: String,
    /// What was wrong.
    pub problem: String,
    /// Whose copy took its place.
    pub repaired_from: Option<String>,
    /// Why it is still damaged.
    pub unrepaired: Option<String>,
}

/// Who holds the dataset's lock.
#[derive(Clone, Copy)]
enum Locked<'m> {
    /// The caller.
    ByCaller,
    /// Nobody yet: each repair takes it, one after the other.
    ForRepairs(&'m Mutex<()>),
}

impl Scrub<'_> {
    /// Goes on with the scrub of one replica, for a while. The caller
    /// does not hold the dataset's lock.
    ///
    /// # Errors
    /// The replica fails, or does not hold this vault. What was done before is in `scrub`.
    pub async fn slice(&self, replica: &SharedReplica, scrub: &mut ReplicaScrub) -> Result<()> {
        let repairs = Mutex::default();
        if let Some(mended) = self.check_vault(replica, Locked::ForRepairs(&repairs)).await? {
            self.note(scrub, &mended);
        }
        for key in scrub.look_again(self.clock.now()) {
            scrub.damaged.remove(&key);
            if let Some(mended) = self.mend(replica, &key, Locked::ForRepairs(&repairs)).await? {
                self.note(scrub, &mended);
            }
        }
        let began = self.clock.elapsed();
        for _ in 0..PARTS_AT_ONCE {
            let late = self.clock.elapsed().saturating_sub(began) > SLICE;
            if late || !scrub.is_part_due(self.config.scrub_period, self.clock.now()) {
                break;
            }
            self.part(replica, scrub, Locked::ForRepairs(&repairs)).await?;
        }
        Ok(())
    }

    /// Looks at these objects, each in its replica, and at every object of every replica that is no
    /// pack, and repairs what is damaged. The caller holds the dataset's lock.
    ///
    /// Returns what was damaged, and the replicas that fail or do not hold this vault.
    pub async fn repair(&self, suspects: &[(Name, String)]) -> (Vec<Mended>, BTreeMap<Name, Error>) {
        let (mut all, mut failed) = (BTreeMap::new(), BTreeMap::new());
        for replica in self.replicas {
            let name = replica.name();
            let looked = async {
                let mut mended = self.check_vault(replica, Locked::ByCaller).await?.into_iter().collect();
                let keys = suspects.iter().filter(|(suspect, _)| suspect == name);
                for (_, key) in keys {
                    note_all(&mut all, mended);
                    mended = self.mend(replica, key, Locked::ByCaller).await?.into_iter().collect();
                }
                let mut scrub = ReplicaScrub::default();
                while scrub.next < SMALL_PARTS {
                    note_all(&mut all, mended);
                    mended = self.part(replica, &mut scrub, Locked::ByCaller).await?;
                }
                note_all(&mut all, mended);
                Ok(())
            };
            if let Err(error) = looked.await {
                failed.insert(name.clone(), error);
            }
        }
        (all.into_values().collect(), failed)
    }

    /// The objects of the next part.
    async fn part(&self, replica: &SharedReplica, scrub: &mut ReplicaScrub, locked: Locked<'_>) -> Result<Vec<Mended>> {
        let (began, mut all) = (self.clock.elapsed(), Vec::new());
        let part = scrub.begin_part(self.clock.now());
        let Some(prefix) = prefix(&self.dataset.name, part, self.is_first()) else {
            scrub.end_part(None);
            return Ok(all);
        };
        loop {
            let (keys, is_all) = self.keys_after(replica, &prefix, scrub.after.as_deref()).await?;
            let in_time = |_: &String| {
                let late = self.clock.elapsed().saturating_sub(began) > SLICE;
                std::future::ready(!late || matches!(locked, Locked::ByCaller))
            };
            let (count, at_once) = (keys.len(), if part < SMALL_PARTS { SMALL_AT_ONCE } else { 1 });
            let look = |key: String| async move { (self.mend(replica, &key, locked).await, key) };
            let looked = futures::stream::iter(keys).take_while(in_time).map(look).buffered(at_once);
            let (mut looked, mut done) = (std::pin::pin!(looked), 0);
            while let Some((mended, key)) = looked.next().await {
                match mended? {
                    Some(mended) => {
                        self.note(scrub, &mended);
                        all.push(mended);
                    }
                    None => drop(scrub.damaged.remove(&key)),
                }
                done += 1;
                scrub.objects += 1;
                scrub.after = Some(key);
            }
            if done < count {
                return Ok(all);
            }
            if is_all {
                scrub.end_part(Some(&prefix));
                return Ok(all);
            }
        }
    }

    /// The keys of the next objects of a part, in order; and whether these are all.
    async fn keys_after(
        &self,
        replica: &SharedReplica,
        prefix: &str,
        after: Option<&str>,
    ) -> Result<(BTreeSet<String>, bool)> {
        let (mut keys, mut is_all, mut listing) = (BTreeSet::new(), true, Listing::new(prefix));
        while let Some(objects) = replica.next_page(&mut listing).await? {
            for object in objects {
                let is_next = after.is_none_or(|after| object.key.as_str() > after);
                if is_next && object.key.starts_with(prefix) && proof(&self.dataset.name, &object.key).is_some() {
                    keys.insert(object.key);
                }
                if keys.len() > KEYS_AT_ONCE {
                    keys.pop_last();
                    is_all = false;
                }
            }
        }
        Ok((keys, is_all))
    }

    /// Looks at an object. If it is damaged, it is replaced where that can be. `None`: it is not.
    ///
    /// # Errors
    /// The replica fails: nothing is known of the object.
    async fn mend(&self, replica: &SharedReplica, key: &str, locked: Locked<'_>) -> Result<Option<Mended>> {
        let looker = self.looker();
        let first = looker.judge(replica, key, looker.look(replica, key).await?).await?;
        let Judged::Damaged(..) = first else { return Ok(None) };
        drop(first);
        let told = |problem: &Error, unrepaired: Option<String>, from: Option<String>| Mended {
            replica: replica.name().clone(),
            object: key.to_owned(),
            problem: problem.chain(),
            repaired_from: from,
            unrepaired,
        };
        // What arrived may be wrong, and the object right; and others may have acted meanwhile.
        let (_alone, lock) = match locked {
            Locked::ByCaller => (None, None),
            Locked::ForRepairs(repairs) => {
                (Some(repairs.lock().await), Some(self.state.take_dataset_lock(&self.dataset.name).await?))
            }
        };
        let again = looker.judge(replica, key, looker.look(replica, key).await?).await?;
        let Judged::Damaged(problem, found) = again else { return Ok(None) };
        if matches!(lock, Some(None)) {
            let taken = self.state.taken(&self.dataset.name);
            return Ok(Some(told(&problem, Some(taken.chain()), None)));
        }
        let put = async {
            let (copy, from) = found?;
            let info = looker.check_vault_of(replica).await;
            if key != layout::VAULT {
                info::check_writable(info?.format(), replica.name())?;
            }
            for (key, body) in copy {
                replica.put_replace(&key, body).await?;
            }
            match looker.judge(replica, key, looker.look(replica, key).await?).await? {
                Judged::Good => Ok(from),
                Judged::Damaged(error, _) => {
                    Err(Error::integrity("it was written anew, and is damaged again").because(error.chain()))
                }
            }
        };
        match put.await {
            Ok(from) => {
                tracing::warn!(dataset = %self.dataset.name, replica = %replica.name(), %key, %from, problem = %problem.chain(), "A damaged object was replaced with a whole copy");
                Ok(Some(told(&problem, None, Some(from))))
            }
            Err(error) => Ok(Some(told(&problem, Some(error.chain_and_hint()), None))),
        }
    }

    /// Repairs `vault.json` if it is nothing that any program wrote, and refuses a replica that
    /// holds no vault, another one, or one of a newer program.
    async fn check_vault(&self, replica: &SharedReplica, locked: Locked<'_>) -> Result<Option<Mended>> {
        let looker = self.looker();
        if looker.check_vault_of(replica).await.is_ok() {
            return Ok(None);
        }
        // What arrived may be wrong, and the object right.
        match looker.check_vault_of(replica).await {
            Ok(_) => Ok(None),
            Err(error) if error.class() == Class::Integrity => match self.mend(replica, layout::VAULT, locked).await? {
                Some(mended) if mended.unrepaired.is_some() => Err(error),
                mended => looker.check_vault_of(replica).await.map(|_| mended),
            },
            Err(error) => Err(error),
        }
    }

    fn note(&self, scrub: &mut ReplicaScrub, mended: &Mended) {
        match &mended.unrepaired {
            None => {
                scrub.repaired += 1;
                scrub.damaged.remove(&mended.object);
            }
            Some(why) => {
                if !scrub.damaged.contains_key(&mended.object) {
                    tracing::error!(dataset = %self.dataset.name, replica = %mended.replica, key = %mended.object, "A damaged object is not repaired: {}: {why}", mended.problem);
                }
                scrub.note_damage(&mended.object, &mended.problem, why, self.clock.now());
            }
        }
    }

    fn looker(&self) -> Looker<'_> {
        let Self { config, dataset, keys, replicas, .. } = self;
        let (host, memory, skew) = (&config.host, config.limits.memory, config.limits.clock_skew);
        Looker { dataset, host, keys, replicas, memory, skew }
    }

    /// What belongs to no dataset is scrubbed with the first one.
    fn is_first(&self) -> bool {
        self.config.datasets.first().is_some_and(|first| first.name == self.dataset.name)
    }
}

/// What is looked at twice counts once.
fn note_all(all: &mut BTreeMap<(Name, String), Mended>, mended: Vec<Mended>) {
    all.extend(mended.into_iter().map(|mended| ((mended.replica.clone(), mended.object.clone()), mended)));
}

/// The replica whose scrub is most overdue, and since when, if one has work to do.
#[must_use]
pub fn next_due<'n>(
    progress: &ScrubProgress,
    replicas: impl Iterator<Item = &'n Name>,
    period: Duration,
    now: DateTime<Utc>,
) -> Option<(DateTime<Utc>, &'n Name)> {
    let fresh = ReplicaScrub::default();
    let due = |replica: &Name| {
        let scrub = progress.of(replica).unwrap_or(&fresh);
        scrub.is_due(period, now).then(|| scrub.due(period))
    };
    replicas.filter_map(|replica| Some((due(replica)?, replica))).min()
}
