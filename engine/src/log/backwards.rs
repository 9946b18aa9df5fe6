//! Reads a log as all replicas together show it, from its newest record back.
//!
//! - **One good record is enough**: what one replica lacks or has damaged, another one may have.
//!   Some bytes of a record are not signed. So of several good ones, the one counts that has the
//!   hash which the record after it names.
//! - **Names that are no records** hide nothing: they count against the replicas that show them,
//!   never against how many records are read. Nor do names that a replica lists and does not
//!   return. Whoever shows too many is left aside: it alone is asked only for records right before
//!   or after one that is believed
//!   ([`MAX_UNBELIEVED`](crate::catalog::unbelieved::MAX_UNBELIEVED)).
//! - **What is missing is told**: numbers in between, records that do not follow each other, and
//!   lists that nobody returns. Beyond the newest record that is believed, a name is missing only
//!   if every replica lists it: one that invents it stops nobody. Where none is believed, every
//!   replica must list a name that it does not return, or be left aside.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use futures::future::join_all;
use lifeboat_base::Error;
use lifeboat_format::id::{Digest, Name};
use lifeboat_format::layout;
use lifeboat_format::log::LogName;
use lifeboat_store::SharedReplica;

use super::reader::{LogReader, LoggedRecord};
use crate::catalog::unbelieved::Unbelieved;
use crate::catalog::verdict::is_verdict;

/// So many records are asked for at once.
const READ_AT_ONCE: usize = 16;

/// A log that is being read.
pub(crate) struct LogBackwards {
    log: LogName,
    /// What was not fetched yet, the newest last.
    left: Vec<(u64, Vec<SharedReplica>)>,
    /// What was fetched, the newest first.
    fetched: VecDeque<(u64, Vec<SharedReplica>, Fetched)>,
    /// What replicas alone list that are left aside, until a record is believed.
    aside: BTreeMap<u64, Vec<SharedReplica>>,
    /// So many records are still read.
    more: usize,
    /// The number of the record that was read last, and the hash that it gives for the one before.
    after: Option<(u64, Option<Digest>)>,
    unbelieved: Unbelieved,
    /// A name behind the record that was read last that nobody returned, and why.
    unread: Option<UnreadName>,
    /// The replicas that list a name that nobody returned.
    unread_in: BTreeSet<Name>,
    /// The replicas that list the log.
    listed: Vec<Name>,
    /// Who does not show the newest record that is believed, in words.
    behind: Vec<String>,
    /// How many names were no records.
    pub(crate) false_names: usize,
    /// Whether there are more records than are read.
    pub(crate) were_too_many: bool,
    missing: Vec<String>,
}

enum Fetched {
    Good(Box<LoggedRecord>),
    /// No holder has one that can be believed.
    Wrong(Error),
    /// A holder fails to return what it lists.
    Unread(Error),
}

/// A name that a replica lists and fails to return.
struct UnreadName {
    number: u64,
    /// Whether every replica lists it that lists the log.
    is_everywhere: bool,
    why: String,
}

impl LogBackwards {
    /// The log as these replicas list it. No more than `most` records are read.
    pub(crate) async fn of(reader: &LogReader<'_>, log: LogName, replicas: &[SharedReplica], most: usize) -> Self {
        let of = &log;
        let lists = replicas.iter().map(|replica| async move { (replica, reader.numbers(replica, of).await) });
        let lists = join_all(lists).await;
        let (mut numbers, mut missing) = (BTreeMap::<u64, Vec<SharedReplica>>::new(), Vec::new());
        let mut names = Vec::new();
        for (replica, listed) in lists {
            match listed {
                Ok(listed) => {
                    names.push(replica.name().clone());
                    listed.into_iter().for_each(|number| numbers.entry(number).or_default().push(replica.clone()));
                }
                Err(error) => {
                    tracing::warn!(%log, replica = %replica.name(), error = %error.chain(), "A log is not read in this replica");
                }
            }
        }
        if names.is_empty() {
            missing.push(format!("no replica lists log {log}"));
        }
        Self {
            log,
            left: numbers.into_iter().collect(),
            fetched: VecDeque::new(),
            aside: BTreeMap::new(),
            more: most,
            after: None,
            unbelieved: Unbelieved::new("a name in a log for which it returns no record"),
            unread: None,
            unread_in: BTreeSet::new(),
            listed: names,
            behind: Vec::new(),
            false_names: 0,
            were_too_many: false,
            missing,
        }
    }

    pub(crate) fn log(&self) -> &LogName {
        &self.log
    }

    /// The next record that is believed; `None` if there is none, or all were read that may be.
    pub(crate) async fn next(&mut self, reader: &LogReader<'_>) -> Option<LoggedRecord> {
        loop {
            if self.more == 0 {
                self.were_too_many |= !(self.fetched.is_empty() && self.left.is_empty());
                return None;
            }
            let Some((number, holders, fetched)) = self.fetched.pop_front() else {
                let batch = self.batch();
                if batch.is_empty() {
                    self.end();
                    return None;
                }
                self.fetched = self.fetch_all(reader, batch).await.into();
                continue;
            };
            match fetched {
                Fetched::Good(_) if self.after.is_none() && !self.aside.is_empty() => {
                    self.fetched.push_front((number, holders, fetched));
                    self.climb(reader, number).await;
                }
                Fetched::Good(found) => {
                    let found = self.followed(reader, number, &holders, found).await;
                    self.more -= 1;
                    if self.after.is_none() {
                        self.tell_who_lacks(number, &holders);
                    }
                    self.follow(number, found.record.previous, Some(found.hash()));
                    return Some(*found);
                }
                Fetched::Wrong(error) => {
                    self.false_names += 1;
                    self.count(number, &holders, &error);
                }
                Fetched::Unread(error) => {
                    self.count(number, &holders, &error);
                    self.unread_in.extend(holders.iter().map(|holder| holder.name().clone()));
                    let is_everywhere = holders.len() == self.listed.len();
                    if self.unread.as_ref().is_none_or(|unread| is_everywhere && !unread.is_everywhere) {
                        self.unread = Some(UnreadName { number, is_everywhere, why: error.chain() });
                    }
                }
            }
        }
    }

    /// What the record after this one follows, if a holder has it; else what was `found`.
    async fn followed(
        &self,
        reader: &LogReader<'_>,
        number: u64,
        holders: &[SharedReplica],
        found: Box<LoggedRecord>,
    ) -> Box<LoggedRecord> {
        let expected = self.after.filter(|(after, _)| *after == number + 1).and_then(|(_, previous)| previous);
        let Some(expected) = expected.filter(|expected| *expected != found.hash()) else { return found };
        for replica in holders {
            match reader.fetch(replica, &self.log, number).await {
                Ok(Some(other)) if other.hash() == expected => return Box::new(other),
                _ => {}
            }
        }
        found
    }

    fn count(&mut self, number: u64, holders: &[SharedReplica], why: &Error) {
        let key = layout::log_record(&self.log, number);
        self.unbelieved.add(holders.iter().map(|holder| holder.name()), key, why);
    }

    /// Looks for records after the newest one of those that are not left aside, until one is not
    /// good: each step on costs whoever fills the log a record that is believed. Only the newest
    /// one is held. The others are fetched once more when it is their turn.
    async fn climb(&mut self, reader: &LogReader<'_>, number: u64) {
        let mut aside = std::mem::take(&mut self.aside);
        let (mut climbed, mut newest, mut is_good) = (Vec::new(), None, true);
        while is_good {
            let first = number + 1 + climbed.len() as u64;
            let batch = (first..).take(READ_AT_ONCE).map_while(|number| Some((number, aside.remove(&number)?)));
            let batch = self.fetch_all(reader, batch.collect()).await;
            is_good = !batch.is_empty();
            for (number, holders, found) in batch {
                is_good &= matches!(found, Fetched::Good(_));
                if !is_good {
                    break;
                }
                climbed.push((number, holders.clone()));
                newest = Some((number, holders, found));
            }
        }
        if let Some(newest) = newest {
            self.false_names = self.false_names.saturating_sub(climbed.len());
            climbed.pop();
            self.left.extend(self.fetched.drain(..).rev().map(|(number, holders, _)| (number, holders)));
            self.left.append(&mut climbed);
            self.fetched.push_front(newest);
        }
    }

    async fn fetch_all(
        &self,
        reader: &LogReader<'_>,
        batch: Vec<(u64, Vec<SharedReplica>)>,
    ) -> Vec<(u64, Vec<SharedReplica>, Fetched)> {
        let log = &self.log;
        let fetches = batch.into_iter().map(|(number, holders)| async move {
            let fetched = fetch(reader, &holders, log, number).await;
            (number, holders, fetched)
        });
        join_all(fetches).await
    }

    /// What was found missing since this was asked last. For people to read.
    pub(crate) fn missing(&mut self) -> Vec<String> {
        std::mem::take(&mut self.missing)
    }

    /// A warning for each replica that shows names that are no records, or not the newest record.
    pub(crate) fn warnings(&self) -> Vec<String> {
        let mut warnings = self.unbelieved.warnings("it is passed over");
        warnings.extend(self.behind.iter().cloned());
        warnings
    }

    fn tell_who_lacks(&mut self, number: u64, holders: &[SharedReplica]) {
        let has = |name: &Name| holders.iter().any(|holder| holder.name() == name);
        let lacking = self.listed.iter().filter(|name| !has(name));
        let told = lacking.map(|name| {
            format!("replica {name} does not show record {number} of log {}, which another one returns", self.log)
        });
        self.behind = told.collect();
    }

    /// What is fetched next, the newest first. What replicas alone list that are left aside is
    /// fetched by itself, once it is known that the record after it is believed.
    fn batch(&mut self) -> Vec<(u64, Vec<SharedReplica>)> {
        let mut batch = Vec::new();
        while batch.len() < READ_AT_ONCE
            && let Some((number, holders)) = self.left.pop()
        {
            if !self.unbelieved.leaves_aside(holders.iter().map(|holder| holder.name())) {
                batch.push((number, holders));
            } else if !batch.is_empty() {
                self.left.push((number, holders));
                break;
            } else if self.after.is_some_and(|(after, _)| after == number + 1) {
                batch.push((number, holders));
                break;
            } else {
                self.false_names += 1;
                if self.after.is_none() {
                    self.aside.insert(number, holders);
                }
            }
        }
        batch
    }

    /// Goes on to a record with this `hash`, or to the beginning, and tells what lies in between.
    fn follow(&mut self, number: u64, previous: Option<Digest>, hash: Option<Digest>) {
        let (log, unread) = (&self.log, self.unread.take());
        match (self.after, unread) {
            (Some((after, _)), unread) if after > number + 1 => {
                let why = unread.map_or(String::new(), |unread| format!(" ({}: {})", unread.number, unread.why));
                self.missing.push(format!("records {} to {} of log {log} are missing{why}", number + 1, after - 1));
            }
            (Some((after, expected)), _) if expected != hash => {
                self.missing.push(format!("record {after} of log {log} does not follow record {number} as it is now"));
            }
            (None, Some(UnreadName { number, is_everywhere: true, why })) => {
                self.missing.push(format!("record {number} of log {log} cannot be read: {why}"));
            }
            _ => {}
        }
        self.after = Some((number, previous));
    }

    /// All was looked at.
    fn end(&mut self) {
        match self.after {
            Some((1, None)) => {}
            Some(_) => self.follow(0, None, None),
            None if self.may_be_hidden() => {
                let (log, unread) = (&self.log, self.unread.take());
                let why = unread.map_or_else(
                    || "names that are no records may hide it".to_owned(),
                    |UnreadName { number, why, .. }| format!("such as {number}: {why}"),
                );
                self.missing.push(format!("no record of log {log} can be read in any replica: {why}"));
            }
            None => {}
        }
    }

    /// Whether every replica may hide records: one that does so alone, or invents them, stops
    /// nobody.
    fn may_be_hidden(&self) -> bool {
        let left_aside: BTreeSet<&Name> = self.unbelieved.left_aside().collect();
        let may_hide = |replica: &Name| self.unread_in.contains(replica) || left_aside.contains(replica);
        !self.listed.is_empty() && self.listed.iter().all(may_hide)
    }
}

/// A record, from the first replica that returns a good one.
pub(crate) async fn fetch_record(
    reader: &LogReader<'_>,
    holders: &[SharedReplica],
    log: &LogName,
    number: u64,
) -> Option<LoggedRecord> {
    match fetch(reader, holders, log, number).await {
        Fetched::Good(found) => Some(*found),
        Fetched::Wrong(_) | Fetched::Unread(_) => None,
    }
}

async fn fetch(reader: &LogReader<'_>, holders: &[SharedReplica], log: &LogName, number: u64) -> Fetched {
    let (mut wrong, mut unread) = (None, None);
    for replica in holders {
        match reader.fetch(replica, log, number).await {
            Ok(Some(found)) => return Fetched::Good(Box::new(found)),
            Ok(None) => {
                unread = Some(Error::storage(format!("replica {} lists it, and does not have it", replica.name())));
            }
            Err(error) if is_verdict(&error) => wrong = Some(error),
            Err(error) => unread = Some(error),
        }
    }
    match (unread, wrong) {
        (Some(why), _) => Fetched::Unread(why),
        (None, Some(error)) => Fetched::Wrong(error),
        (None, None) => Fetched::Unread(Error::storage("no replica lists it")),
    }
}
