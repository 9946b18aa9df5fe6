//! Which of the hosts of a dataset backs it up.
//!
//! The host of the newest commit **leads**; before the first commit, it is the first host of the
//! list. The others are **deputies**. When a start is due, each deputy waits until the leader
//! should have committed. If it has not, and holds no [lease], the deputy takes over: it backs up,
//! and leads from then on. A host that led before and comes back finds this, and is a deputy.
//!
//! - **Safety** does not rest on any of this. Where two hosts begin, the order of acts lets one of
//!   them commit.
//! - **Automatic takeover** needs commits that meet: `min_replicas` is more than half of the
//!   replicas, or there is a place that holds records alone. Else two hosts that reach different
//!   replicas could both commit, so an operator decides.

pub mod lease;

use std::collections::BTreeSet;
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use lifeboat_base::clock::SharedClock;
use lifeboat_base::{Class, Error, Result};
use lifeboat_format::act::ActKind;
use lifeboat_format::id::{Name, SnapshotId};
use lifeboat_format::layout;
use lifeboat_format::lease::Lease;
use lifeboat_store::SharedReplica;

use crate::catalog::future::is_future;
use crate::catalog::numbers::numbers;
use crate::catalog::order::OrderReader;
use crate::catalog::verdict::{combine, is_verdict};
use crate::config::{Config, Dataset};
use crate::keys::HostKeys;
use crate::root;
use crate::state::StateDirectory;
use crate::state::cache::ObjectCache;

/// So many of the newest acts are read to find a commit. Marks and sweeps stand between.
const MAX_ACTS_READ: usize = 256;

/// What is needed to tell who leads.
pub struct Lead<'a> {
    /// The configuration.
    pub config: &'a Config,
    /// The dataset.
    pub dataset: &'a Dataset,
    /// This host's keys.
    pub keys: &'a HostKeys,
    /// Every replica.
    pub replicas: &'a [SharedReplica],
    /// Every place that holds records alone.
    pub records: &'a [SharedReplica],
    /// Where acts are cached.
    pub state: &'a StateDirectory,
    /// The clock.
    pub clock: SharedClock,
}

/// The newest commit of a dataset.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewestCommit {
    /// The host that made it.
    pub host: Name,
    /// What it committed.
    pub snapshot: SnapshotId,
    /// When, by that host's clock.
    pub time: DateTime<Utc>,
}

/// Who leads, and what it does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Leadership {
    /// The host that leads.
    pub leader: Name,
    /// The newest commit, if there is one.
    pub newest: Option<NewestCommit>,
    /// The lease of another host that works on the dataset now.
    pub running: Option<Lease>,
}

/// What a host does when a start is due.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StartTurn {
    /// It backs up.
    Ours,
    /// It leaves that to the leader. If that is not certain yet, it looks again then.
    Theirs(Option<DateTime<Utc>>),
    /// It takes over.
    TakeOver,
    /// The leader has not backed up, and only an operator may let this host take over.
    AskOperator,
}

impl Lead<'_> {
    /// Asks the replicas who leads.
    ///
    /// # Errors
    /// So few places answer that they may not show the newest commit, or what they show cannot be
    /// read.
    pub async fn look(&self) -> Result<Leadership> {
        let dataset = &self.dataset.name;
        root::renew(self.keys, self.replicas, self.state, self.clock.now()).await?;
        let asked = self.places().map(|place| numbers(place, dataset, 1));
        let (mut shown, mut failed) = (Vec::new(), Vec::new());
        for (replica, found) in self.places().zip(futures::future::join_all(asked).await) {
            match found {
                Ok(found) => shown.push((replica, found)),
                Err(error) => failed.push(error),
            }
        }
        if shown.len() < self.config.min_places() {
            return Err(combine(format!("too few replicas tell who backs {dataset} up"), &failed));
        }
        let newest = self.newest_commit(&shown).await?;
        let known = newest.as_ref().map(|newest| &newest.host).filter(|host| self.dataset.hosts.contains(host));
        let leader = known.or(self.dataset.hosts.first()).unwrap_or(&self.config.host).clone();
        let holders: Vec<&SharedReplica> = shown.iter().map(|(replica, _)| *replica).collect();
        let running = self.running(&holders, newest.as_ref()).await;
        Ok(Leadership { leader, newest, running })
    }

    /// Where acts and leases lie.
    fn places(&self) -> impl Iterator<Item = &SharedReplica> {
        self.replicas.iter().chain(self.records)
    }

    async fn newest_commit(&self, shown: &[(&SharedReplica, BTreeSet<u64>)]) -> Result<Option<NewestCommit>> {
        let cache = ObjectCache::open(self.state, &self.dataset.name, &self.keys.trust.mark());
        let order = OrderReader::of_host(self.keys, &self.dataset.name, &cache);
        let all: BTreeSet<u64> = shown.iter().flat_map(|(_, numbers)| numbers.iter().copied()).collect();
        for (read, number) in all.into_iter().rev().enumerate() {
            if read == MAX_ACTS_READ {
                return Err(Error::integrity(format!(
                    "none of the {MAX_ACTS_READ} newest acts of dataset {} is a commit that can be believed",
                    self.dataset.name
                ))
                .hint(format!("remove what is below {} and is not yours", layout::order(&self.dataset.name))));
            }
            let holders: Vec<&SharedReplica> =
                shown.iter().filter(|(_, numbers)| numbers.contains(&number)).map(|(replica, _)| *replica).collect();
            match order.act(&holders, number).await {
                Ok(found) if found.act.act == ActKind::Commit => {
                    let act = found.act;
                    return Ok(Some(NewestCommit { host: act.principal, snapshot: act.id, time: act.time }));
                }
                Ok(_) => {}
                // Anybody can write that. A host that is not trusted here may lead, though.
                Err(error) if is_verdict(&error) && error.class() != Class::Keys => {}
                Err(error) => return Err(error),
            }
        }
        Ok(None)
    }

    /// The lease of another host whose run is not over yet.
    async fn running(&self, replicas: &[&SharedReplica], newest: Option<&NewestCommit>) -> Option<Lease> {
        let read = replicas.iter().map(|replica| lease::read(self, replica));
        let leases = futures::future::join_all(read).await.into_iter().flatten();
        let (now, skew) = (self.clock.now(), skew(self.config));
        // A lease that ends later than any lease does was written by a clock that is wrong.
        let is_live = |lease: &Lease| now <= lease.until + skew && lease.until <= now + lease::term() + skew;
        let has_committed =
            |lease: &Lease| newest.is_some_and(|newest| newest.host == lease.principal && newest.time >= lease.time);
        leases
            .filter(|lease| lease.principal != self.config.host && is_live(lease) && !has_committed(lease))
            .max_by_key(|lease| lease.until)
    }
}

impl Leadership {
    /// What the host of `config` does about `dataset` at `now`. Without any commit, a deputy waits
    /// anew at each start, so it takes over only if starts are further apart than its wait.
    #[must_use]
    pub fn turn(&self, config: &Config, dataset: &Dataset, now: DateTime<Utc>) -> StartTurn {
        let me = &config.host;
        if dataset.hosts.len() < 2 || self.leader == *me {
            return StartTurn::Ours;
        }
        let Some(schedule) = &dataset.schedule else { return StartTurn::Theirs(None) };
        let believed = self.newest.as_ref().filter(|newest| !is_future(newest.time, now, &config.limits));
        // The first start that the leader has let pass. A later one does not begin the wait anew.
        let passed = match believed {
            Some(newest) => schedule.next_after(newest.time + skew(config)),
            None => schedule.last_before(now),
        };
        let Some(fire) = passed.filter(|fire| *fire <= now) else { return StartTurn::Theirs(None) };
        // Deputies take over one after the other, in the order of the list.
        let deputies = dataset.hosts.iter().filter(|host| **host != self.leader);
        let before = deputies.take_while(|host| *host != me).count();
        let patience = u32::try_from(before + 1).unwrap_or(u32::MAX);
        let wait = schedule.jitter().saturating_add(dataset.takeover_after.saturating_mul(patience));
        let after = |time: DateTime<Utc>, wait: Duration| {
            TimeDelta::from_std(wait).ok().and_then(|wait| time.checked_add_signed(wait))
        };
        let begin = after(fire, wait);
        if begin.is_none_or(|begin| now < begin) {
            return StartTurn::Theirs(begin);
        }
        if self.running.is_some() {
            return StartTurn::Theirs(after(now, dataset.takeover_after));
        }
        if config.commits_meet() { StartTurn::TakeOver } else { StartTurn::AskOperator }
    }

    /// The error of a run that only the leader should begin.
    #[must_use]
    pub fn not_ours(&self, dataset: &Name) -> Error {
        let leader = &self.leader;
        Error::configuration(format!("host {leader} backs up dataset {dataset}, and this host is its deputy"))
            .hint(format!("back up on {leader}; if it is gone, run `lifeboat takeover {dataset}` here"))
    }
}

fn skew(config: &Config) -> TimeDelta {
    TimeDelta::from_std(config.limits.clock_skew).unwrap_or(TimeDelta::MAX)
}

#[cfg(test)]
mod tests;
