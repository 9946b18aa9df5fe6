//! What the log of the warden tells, for those who rely on it: backup hosts, and people.
//!
//! The newest record that names a dataset counts. Whoever asks looks at a bounded number of
//! records, so a dataset that only older ones name was never looked at, as far as can be told.

use std::collections::BTreeMap;

use chrono::{DateTime, SecondsFormat, TimeDelta, Utc};
use lifeboat_base::escape;
use lifeboat_format::id::{Name, SnapshotId};
use lifeboat_format::log::{FailedLook, LogEvent, LogKind, LogName, LookedLock, RefusedMark, WaitingMarks, WardenLook};
use lifeboat_store::SharedReplica;
use serde::{Deserialize, Serialize};

use super::locks::{LockStanding, LockStandings};
use crate::catalog::vetoes::Vetoes;
use crate::keys::trust::Trust;
use crate::log::LogReader;
use crate::witness::NewestRecords;

/// A warden looks every hour. One that has not for so long is late.
const LATEST_WARDEN_LOOK: TimeDelta = TimeDelta::hours(3);
/// A mark that waits longer than twice its time, and this, is late.
const LATE_MARK_SECONDS: u64 = 2 * 24 * 3600;

/// What a warden tells.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WardenTells {
    /// Its name.
    pub name: Name,
    /// What it tells of each dataset.
    pub datasets: BTreeMap<Name, WardenWord>,
    /// How many of the names in its log were passed over that nobody can believe.
    pub unbelieved: usize,
}

/// What a warden tells of one dataset.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct WardenWord {
    /// When it last looked at it to the end; `None`: never, as far as the newest records tell.
    pub looked: Option<DateTime<Utc>>,
    /// Why its newest look did not do all, or not come to an end.
    pub failed: Vec<String>,
    /// The marks that wait.
    pub waiting: Option<WaitingMarks>,
    /// The marks that it does not carry out as they stand, and why.
    pub refused: BTreeMap<SnapshotId, String>,
    /// The marks that somebody vetoed, and who.
    pub vetoed: Vetoes,
    /// How locks stand, by replica.
    #[serde(skip)]
    pub locks: BTreeMap<Name, LookedLock>,
}

/// What the warden of the root tells of these datasets; `None` if there is no warden.
pub async fn warden_tells(
    vault: &str,
    trust: &Trust,
    replicas: &[SharedReplica],
    datasets: impl IntoIterator<Item = &Name>,
) -> Option<WardenTells> {
    let name = trust.warden()?.name;
    let log = LogName { kind: LogKind::Wardens, name: name.clone() };
    let reader = LogReader { vault, trust };
    let mut datasets: BTreeMap<Name, Hearing> =
        datasets.into_iter().map(|name| (name.clone(), Hearing::default())).collect();
    let mut records = NewestRecords::of(&reader, &log, replicas).await;
    while datasets.values().any(|hearing| hearing.word.looked.is_none())
        && let Some(record) = records.next().await
    {
        if let LogEvent::Warden(look) = &record.event {
            datasets.iter_mut().for_each(|(dataset, hearing)| hearing.hear(dataset, look, record.time));
        }
    }
    let datasets = datasets.into_iter().map(|(name, hearing)| (name, hearing.word)).collect();
    Some(WardenTells { name, datasets, unbelieved: records.unbelieved() })
}

/// What was read of one dataset, from the newest record on.
#[derive(Default)]
struct Hearing {
    word: WardenWord,
    /// Whether a record has named it.
    is_named: bool,
}

impl Hearing {
    fn hear(&mut self, dataset: &Name, look: &WardenLook, time: DateTime<Utc>) {
        if self.word.looked.is_some() {
            return;
        }
        let failed = look.failed.iter().filter(|failed| failed.dataset == *dataset);
        let failed: Vec<String> = failed.map(|FailedLook { because, .. }| because.clone()).collect();
        let has_looked = look.looked.contains(dataset);
        if !self.is_named && (has_looked || !failed.is_empty()) {
            (self.word.failed, self.is_named) = (failed, true);
        }
        let locks = look.locks.iter().filter(|lock| lock.dataset == *dataset);
        for lock in locks {
            self.word.locks.entry(lock.replica.clone()).or_insert_with(|| lock.clone());
        }
        if has_looked {
            self.word.looked = Some(time);
            self.word.waiting = look.waiting.iter().find(|waiting| waiting.dataset == *dataset).cloned();
            let refused = look.refused.iter().filter(|refused| refused.dataset == *dataset);
            self.word.refused =
                refused.map(|RefusedMark { mark, because, .. }| (mark.clone(), because.clone())).collect();
            let vetoed = look.vetoed.iter().filter(|vetoed| vetoed.dataset == *dataset);
            self.word.vetoed =
                vetoed.map(|vetoed| (vetoed.mark.clone(), vetoed.by.iter().cloned().collect())).collect();
        }
    }
}

impl WardenWord {
    /// How the locks stand in those of `replicas` that have any. Where the warden tells nothing of
    /// them, nothing was locked yet.
    #[must_use]
    pub fn locks(&self, replicas: &[SharedReplica]) -> LockStandings {
        let standing = |replica: &SharedReplica| {
            let own = replica.lock()?;
            let told = self.locks.get(replica.name()).map(|told| (told.period, told.since));
            let (period, since) = told.unwrap_or((own.period.as_secs(), None));
            Some((replica.name().clone(), LockStanding::told(period, since)))
        };
        replicas.iter().filter_map(standing).collect()
    }

    /// The replicas that the warden locks for a shorter time than this configuration says, in
    /// words.
    #[must_use]
    pub fn shorter_locks(&self, replicas: &[SharedReplica]) -> Vec<String> {
        let mut shorter = Vec::new();
        for replica in replicas {
            let (Some(own), Some(told)) = (replica.lock(), self.locks.get(replica.name())) else { continue };
            let at_most = told.at_most.unwrap_or(told.period);
            let has_longer = own.at_most > own.period;
            for (key, own, told) in [
                ("lock", own.period, told.period),
                ("lock_at_most", own.at_most, if has_longer { at_most } else { u64::MAX }),
            ] {
                let own = own.as_secs();
                if told < own {
                    let name = replica.name();
                    shorter
                        .push(format!("replica {name}: the warden locks for {told} s, and `{key}` here says {own} s"));
                }
            }
        }
        shorter
    }

    /// What is vetoed, as the warden tells, or as somebody else has `seen` since.
    #[must_use]
    pub fn vetoed_with(&self, seen: &Vetoes) -> Vetoes {
        let mut all = self.vetoed.clone();
        for (mark, names) in seen {
            all.entry(mark.clone()).or_default().extend(names.iter().cloned());
        }
        all
    }

    /// Whether it should have looked since.
    #[must_use]
    pub fn is_late(&self, now: DateTime<Utc>) -> bool {
        self.looked.is_none_or(|looked| now - looked > LATEST_WARDEN_LOOK)
    }

    /// Since when the oldest mark waits, if that is much longer than it must.
    #[must_use]
    pub fn waits_long(&self, now: DateTime<Utc>) -> Option<DateTime<Utc>> {
        let WaitingMarks { since, delay, .. } = self.waiting.as_ref()?;
        let longest = delay.saturating_mul(2).saturating_add(LATE_MARK_SECONDS);
        u64::try_from((now - *since).num_seconds()).is_ok_and(|waits| waits > longest).then_some(*since)
    }

    /// When it looked last.
    #[must_use]
    pub fn last_look(&self) -> String {
        self.looked.map_or("never looked".to_owned(), |looked| format!("not looked since {}", second(looked)))
    }
}

/// What of a dataset waits for its deletion, and what does not go, in one line; `None` if there is
/// nothing to tell. `word` is what the warden tells, if there is one, and `seen` the vetoes that
/// somebody else knows.
#[must_use]
pub fn deletion_line(word: Option<&WardenWord>, seen: &Vetoes, now: DateTime<Utc>) -> Option<String> {
    let mut told = Vec::new();
    let none = WardenWord::default();
    let WardenWord { waiting, refused, failed, .. } = word.unwrap_or(&none);
    let all = word.unwrap_or(&none).vetoed_with(seen);
    if let Some((mark, names)) = all.first_key_value() {
        let names = names.iter().map(Name::as_str).collect::<Vec<_>>().join(", ");
        told.push(format!("{} VETOED, such as {mark} by {names}", marks(all.len() as u64)));
    }
    if let Some((mark, because)) = refused.first_key_value() {
        let marks = marks(refused.len() as u64);
        told.push(format!("{marks} REFUSED by the warden, such as {mark}: {}", escape::line(because)));
    }
    if let Some(WaitingMarks { marks: count, until, .. }) = waiting {
        let wait = if *count == 1 { "waits" } else { "wait" };
        let long = word.and_then(|word| word.waits_long(now));
        let long = long.map_or(String::new(), |since| format!(", one of them SINCE {}", second(since)));
        told.push(format!("{} {wait} until {} or later{long}", marks(*count), second(*until)));
    }
    if let Some(because) = failed.first() {
        told.push(format!("the warden FAILED: {}", escape::line(because)));
    }
    if let Some(word) = word.filter(|word| word.is_late(now)) {
        told.push(format!("the warden has {}", word.last_look()));
    }
    (!told.is_empty()).then(|| told.join("; "))
}

fn second(time: DateTime<Utc>) -> String {
    time.to_rfc3339_opts(SecondsFormat::Secs, true)
}

fn marks(count: u64) -> String {
    format!("{count} mark{}", if count == 1 { "" } else { "s" })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use std::sync::Arc;
    use std::time::Duration;

    use lifeboat_base::clock::SystemClock;
    use lifeboat_format::log::VetoedMark;
    use lifeboat_store::{Lock, LockMode, MemoryReplica};

    use super::*;

    fn name(text: &str) -> Name {
        text.parse().unwrap_or_else(|error| panic!("{text}: {error}"))
    }

    fn at(minute: i64) -> DateTime<Utc> {
        DateTime::UNIX_EPOCH + TimeDelta::minutes(minute)
    }

    /// As records come: the newest first.
    fn heard(looks: &[(i64, WardenLook)]) -> WardenWord {
        let mut hearing = Hearing::default();
        looks.iter().for_each(|(minute, look)| hearing.hear(&name("shop"), look, at(*minute)));
        hearing.word
    }

    fn lock(period: u64, at_most: Option<u64>, since: Option<DateTime<Utc>>) -> LookedLock {
        LookedLock { dataset: name("shop"), replica: name("south"), period, at_most, since }
    }

    fn whole() -> WardenLook {
        let (dataset, mark) = (name("shop"), SnapshotId::new(at(0), 7));
        WardenLook {
            looked: vec![name("shop"), name("wiki")],
            waiting: vec![WaitingMarks {
                dataset: dataset.clone(),
                marks: 2,
                until: at(90),
                since: at(0),
                delay: 24 * 3600,
            }],
            refused: vec![RefusedMark { dataset: dataset.clone(), mark: mark.clone(), because: "it\nis".to_owned() }],
            vetoed: vec![VetoedMark { dataset, mark, by: vec![name("bob")] }],
            failed: Vec::new(),
            locks: vec![lock(60, None, Some(at(5)))],
        }
    }

    #[test]
    fn a_look_that_failed_hides_nothing_of_the_one_before_and_is_told() {
        let failed = WardenLook {
            failed: vec![FailedLook { dataset: name("shop"), because: "a list is lost".to_owned() }],
            locks: vec![lock(60, None, None)],
            ..WardenLook::default()
        };
        let word = heard(&[(70, failed), (10, whole())]);
        assert_eq!((word.looked, word.failed.len()), (Some(at(10)), 1));
        assert_eq!(word.locks[&name("south")], lock(60, None, None), "the newest record counts");
        let line = deletion_line(Some(&word), &Vetoes::new(), at(71)).unwrap_or_default();
        assert_eq!(
            line,
            "1 mark VETOED, such as 19700101T000000000Z-00000007 by bob; \
             1 mark REFUSED by the warden, such as 19700101T000000000Z-00000007: it\\nis; \
             2 marks wait until 1970-01-01T01:30:00Z or later; the warden FAILED: a list is lost"
        );
        assert_eq!(line.lines().count(), 1);
    }

    #[test]
    fn shorter_locks_than_this_configuration_says_are_told() {
        let told = |own: (u64, u64), period, at_most| {
            let [period_here, at_most_here] = [own.0, own.1].map(Duration::from_secs);
            let here = Lock { mode: LockMode::Governance, period: period_here, at_most: at_most_here };
            let replica = MemoryReplica::new(name("south"), "east", SystemClock::shared()).with_lock(here);
            let look = WardenLook { locks: vec![lock(period, at_most, None)], ..whole() };
            heard(&[(10, look)]).shorter_locks(&[Arc::new(replica)])
        };
        let line =
            |told, key, own| format!("replica south: the warden locks for {told} s, and `{key}` here says {own} s");
        assert_eq!(told((60, 60), 60, None), Vec::<String>::new());
        assert_eq!(told((60, 60), 60, Some(900)), Vec::<String>::new());
        assert_eq!(told((60, 60), 30, None), [line(30, "lock", 60)]);
        assert_eq!(told((60, 900), 60, None), [line(60, "lock_at_most", 900)]);
        assert_eq!(told((60, 900), 30, Some(800)), [line(30, "lock", 60), line(800, "lock_at_most", 900)]);
    }

    #[test]
    fn a_mark_that_waits_far_beyond_its_time_is_told() {
        let word = heard(&[(10, whole())]);
        let days = |count: i64| at(count * 24 * 60);
        assert_eq!(word.waits_long(days(4)), None);
        let late = days(4) + TimeDelta::seconds(1);
        assert_eq!(word.waits_long(late), Some(at(0)));
        let line = deletion_line(Some(&word), &Vetoes::new(), late).unwrap_or_default();
        assert!(line.contains("or later, one of them SINCE 1970-01-01T00:00:00Z; "), "{line}");
        assert_eq!(WardenWord::default().waits_long(late), None);
    }

    #[test]
    fn a_look_that_did_all_ends_what_failed_before_and_others_tell_nothing() {
        let failed = FailedLook { dataset: name("shop"), because: "a list is lost".to_owned() };
        let before = WardenLook { failed: vec![failed], ..WardenLook::default() };
        let other = WardenLook { looked: vec![name("wiki")], ..WardenLook::default() };
        let word = heard(&[(80, other), (70, WardenLook { looked: vec![name("shop")], ..WardenLook::default() })]);
        assert_eq!(word, WardenWord { looked: Some(at(70)), ..WardenWord::default() });
        assert_eq!(deletion_line(Some(&word), &Vetoes::new(), at(70 + 180)), None);
        let late = deletion_line(Some(&word), &Vetoes::new(), at(70 + 181)).unwrap_or_default();
        assert_eq!(late, "the warden has not looked since 1970-01-01T01:10:00Z");
        let word = heard(&[(80, WardenLook { looked: vec![name("shop")], ..WardenLook::default() }), (70, before)]);
        assert!(word.failed.is_empty());
        let seen = Vetoes::from([(SnapshotId::new(at(0), 7), BTreeSet::from([name("bob"), name("ann")]))]);
        let line = deletion_line(None, &seen, at(999)).unwrap_or_default();
        assert!(line.starts_with("1 mark VETOED, such as ") && line.ends_with(" by ann, bob"), "{line}");
    }
}
