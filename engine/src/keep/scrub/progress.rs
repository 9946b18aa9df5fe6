//! How far the scrub of a dataset has come in each replica, and what it found damaged.
//!
//! It lies in the state directory, so that a restart goes on where the last slice ended. It can be
//! lost: then a round begins anew. Only the daemon writes it.

use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use lifeboat_base::{Class, Context, Result};
use lifeboat_format::id::Name;
use serde::{Deserialize, Serialize};

use super::folders::PARTS;
use crate::state::{StateDirectory, replace_file};

const PROGRESS_FILE: &str = "scrub";
/// So many damaged objects of a replica are remembered by name.
const MAX_NAMED_DAMAGE: usize = 256;
/// A problem is told in so many characters.
const MAX_PROBLEM: usize = 300;
/// Damage that could not be repaired is looked at again after this long.
const AGAIN: TimeDelta = TimeDelta::minutes(10);

/// The scrub of a dataset.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct ScrubProgress {
    /// Each replica's.
    replicas: BTreeMap<Name, ReplicaScrub>,
}

/// The scrub of one replica.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ReplicaScrub {
    /// When the first round began, or one after a clock that was set back.
    pub since: Option<DateTime<Utc>>,
    /// When the round began. `None`: no round did.
    began: Option<DateTime<Utc>>,
    /// The part that comes next; after the last one, the round is over.
    pub(super) next: usize,
    /// In that part, keys up to this one are done.
    pub(super) after: Option<String>,
    /// When that part was begun.
    part_began: Option<DateTime<Utc>>,
    /// When each part was begun that was done last.
    done: Vec<Option<DateTime<Utc>>>,
    /// Objects that were checked, over all rounds.
    pub objects: u64,
    /// Objects that were damaged and are whole again, over all rounds.
    pub repaired: u64,
    /// Objects that are damaged, by key. See [`Self::damaged_objects`].
    pub damaged: BTreeMap<String, Damage>,
    /// Those of this round that are too many to be named.
    untold: u64,
    /// When damage was last looked at again.
    looked_again: Option<DateTime<Utc>>,
}

/// A damaged object that was not repaired.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Damage {
    /// What is wrong.
    pub problem: String,
    /// Why it is still so.
    pub unrepaired: String,
    /// When it was last seen so.
    seen: DateTime<Utc>,
}

impl ScrubProgress {
    /// What is remembered of a dataset; nothing, if that is lost.
    #[must_use]
    pub fn read(state: &StateDirectory, dataset: &Name) -> Self {
        let path = state.path().join("datasets").join(dataset.as_str()).join(PROGRESS_FILE);
        let text = match std::fs::read(&path) {
            Ok(text) => text,
            Err(error) => {
                if error.kind() != ErrorKind::NotFound {
                    tracing::warn!(path = %path.display(), %error, "Cannot read how far the scrub came; it begins anew");
                }
                return Self::default();
            }
        };
        serde_json::from_slice(&text).unwrap_or_else(|error| {
            tracing::warn!(path = %path.display(), %error, "How far the scrub came is damaged; it begins anew");
            Self::default()
        })
    }

    /// Remembers it.
    ///
    /// # Errors
    /// [`Class::Storage`]: the disk fails or is full.
    pub fn write(&self, state: &StateDirectory, dataset: &Name) -> Result<()> {
        let text = serde_json::to_vec(self).context(Class::Failed, || "cannot write how far the scrub came")?;
        replace_file(&state.dataset(dataset)?.join(PROGRESS_FILE), &text)
    }

    /// How the scrub of a replica stands.
    #[must_use]
    pub fn of(&self, replica: &Name) -> Option<&ReplicaScrub> {
        self.replicas.get(replica)
    }

    /// How the scrub of each replica stands.
    pub fn replicas(&self) -> impl Iterator<Item = (&Name, &ReplicaScrub)> {
        self.replicas.iter()
    }

    /// As [`Self::of`], to go on with.
    pub fn entry(&mut self, replica: &Name) -> &mut ReplicaScrub {
        self.replicas.entry(replica.clone()).or_default()
    }

    /// Forgets replicas that are no longer configured.
    pub fn retain(&mut self, is_configured: impl Fn(&Name) -> bool) {
        self.replicas.retain(|replica, _| is_configured(replica));
    }
}

impl ReplicaScrub {
    /// When there is work next. Rounds are spread evenly, and take a tenth less than `period`, so
    /// that busy days fit in.
    #[must_use]
    pub fn due(&self, period: Duration) -> DateTime<Utc> {
        let Some(began) = self.began else { return DateTime::<Utc>::MIN_UTC };
        let parts = u32::try_from(PARTS).unwrap_or(u32::MAX);
        let done = u32::try_from(self.next).unwrap_or(parts).min(parts);
        let elapsed = period.mul_f64(0.9 * f64::from(done) / f64::from(parts));
        let part = TimeDelta::from_std(elapsed).ok().and_then(|elapsed| began.checked_add_signed(elapsed));
        let part = part.unwrap_or(DateTime::<Utc>::MAX_UTC);
        match self.looked_again.filter(|_| !self.damaged.is_empty()) {
            Some(looked) => part.min(looked + AGAIN),
            None => part,
        }
    }

    /// Whether there is work now. A clock that was set back does not stop it.
    #[must_use]
    pub fn is_due(&self, period: Duration, now: DateTime<Utc>) -> bool {
        self.due(period) <= now || self.began.is_some_and(|began| began > now)
    }

    /// Whether the next part is to be done now.
    pub(super) fn is_part_due(&self, period: Duration, now: DateTime<Utc>) -> bool {
        let without_damage = Self { began: self.began, next: self.next, ..Self::default() };
        without_damage.is_due(period, now)
    }

    /// How many objects are known to be damaged.
    #[must_use]
    pub fn damaged_objects(&self) -> u64 {
        self.damaged.len() as u64 + self.untold
    }

    /// Every object was checked at this time or later. `None`: not every one was yet.
    #[must_use]
    pub fn oldest_check(&self) -> Option<DateTime<Utc>> {
        (0..PARTS).map(|part| self.done.get(part).copied().flatten()).min().flatten()
    }

    /// Begins the next part, and a round if the last one is over. Returns the part.
    pub(super) fn begin_part(&mut self, now: DateTime<Utc>) -> usize {
        if self.began.is_none_or(|began| began > now) || self.next >= PARTS {
            (self.began, self.next, self.after, self.untold) = (Some(now), 0, None, 0);
            self.since = self.since.filter(|since| *since <= now).or(Some(now));
            self.part_began = None;
        }
        self.part_began.get_or_insert(now);
        self.next
    }

    /// The part was gone through to its end: what was damaged in it and was not seen again is gone.
    pub(super) fn end_part(&mut self, prefix: Option<&str>) {
        self.done.resize(PARTS, None);
        let began = self.part_began.take();
        if let (Some(prefix), Some(began)) = (prefix, began) {
            self.damaged.retain(|key, damage| !key.starts_with(prefix) || damage.seen >= began);
        }
        if let Some(done) = self.done.get_mut(self.next) {
            *done = began;
        }
        (self.next, self.after) = (self.next + 1, None);
    }

    /// Notes an object that is damaged and stays so.
    pub(super) fn note_damage(&mut self, key: &str, problem: &str, unrepaired: &str, now: DateTime<Utc>) {
        let short = |text: &str| text.chars().take(MAX_PROBLEM).collect();
        if !self.damaged.contains_key(key) && self.damaged.len() >= MAX_NAMED_DAMAGE {
            self.untold += 1;
            return;
        }
        let damage = Damage { problem: short(problem), unrepaired: short(unrepaired), seen: now };
        self.damaged.insert(key.to_owned(), damage);
        self.looked_again.get_or_insert(now);
    }

    /// The damaged objects, if it is time to look at them again.
    pub(super) fn look_again(&mut self, now: DateTime<Utc>) -> Vec<String> {
        if self.damaged.is_empty() || self.looked_again.is_some_and(|looked| now < looked + AGAIN && looked <= now) {
            return Vec::new();
        }
        self.looked_again = Some(now);
        self.damaged.keys().cloned().collect()
    }
}

/// By how much a scrub is late that has not checked every object since then. It is not while
/// whatever was there two periods ago has been checked since. Zero without a period.
#[must_use]
pub fn late_by(unchecked_since: Option<DateTime<Utc>>, period: Duration, now: DateTime<Utc>) -> Duration {
    let waited = unchecked_since.filter(|_| !period.is_zero()).map(|since| now - since);
    let waited = waited.and_then(|waited| waited.to_std().ok()).unwrap_or_default();
    waited.saturating_sub(period.saturating_mul(2))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    const DAY: Duration = Duration::from_secs(86_400);

    fn at(day: i64) -> DateTime<Utc> {
        DateTime::from_timestamp(1_795_459_999 + 86_400 * day, 0).unwrap()
    }

    fn late(scrub: &ReplicaScrub, period: Duration, now: DateTime<Utc>) -> Duration {
        late_by(scrub.oldest_check().or(scrub.since), period, now)
    }

    #[test]
    fn a_round_is_spread_over_its_period_and_follows_the_one_before() {
        let (period, mut scrub, mut days) = (30 * DAY, ReplicaScrub::default(), Vec::new());
        for day in 0..90 {
            let mut parts = 0;
            while scrub.is_due(period, at(day)) {
                scrub.begin_part(at(day));
                scrub.end_part(Some("x"));
                parts += 1;
            }
            days.push(parts);
            if day >= 30 {
                let oldest = scrub.oldest_check().unwrap();
                assert!(at(day) - oldest <= TimeDelta::days(30), "on day {day}, some part is older: {oldest}");
            }
            assert_eq!(late(&scrub, period, at(day)), Duration::ZERO);
        }
        assert!(days[1..].iter().all(|parts| (8..=12).contains(parts)), "{days:?}");
        // A clock that was set back.
        assert!(scrub.is_due(period, at(-100)));
        scrub.begin_part(at(-100));
        assert!(!scrub.is_due(period, at(-200) + TimeDelta::days(100)) || scrub.next == 0);
    }

    #[test]
    fn it_is_late_when_two_periods_pass_without_a_whole_round() {
        let (period, mut scrub) = (30 * DAY, ReplicaScrub::default());
        assert_eq!(late(&scrub, period, at(1000)), Duration::ZERO, "no round began");
        scrub.begin_part(at(0));
        scrub.end_part(Some("x"));
        assert_eq!(late(&scrub, period, at(60)), Duration::ZERO);
        assert_eq!(late(&scrub, period, at(61)), DAY);
        assert_eq!(late(&scrub, Duration::ZERO, at(61)), Duration::ZERO, "there is no scrub");
        for _ in 1..PARTS {
            scrub.begin_part(at(61));
            scrub.end_part(Some("x"));
        }
        // What the first part looked at is as old as before.
        assert_eq!(late(&scrub, period, at(61)), DAY);
        scrub.begin_part(at(62));
        scrub.end_part(Some("x"));
        assert_eq!(late(&scrub, period, at(62)), Duration::ZERO);
    }

    #[test]
    fn damage_is_looked_at_again_soon_and_forgotten_when_it_is_gone() {
        let (period, mut scrub) = (30 * DAY, ReplicaScrub::default());
        scrub.begin_part(at(0));
        scrub.note_damage("x/1", &"y".repeat(10_000), "nobody has it", at(0));
        assert_eq!(scrub.damaged["x/1"].problem.len(), MAX_PROBLEM);
        scrub.end_part(Some("x/"));
        assert!(!scrub.is_due(period, at(0)) && scrub.is_due(period, at(0) + AGAIN));
        assert_eq!(scrub.look_again(at(0) + AGAIN), ["x/1"]);
        assert!(scrub.look_again(at(0) + AGAIN).is_empty());
        for number in 0..2 * MAX_NAMED_DAMAGE {
            scrub.note_damage(&format!("y/{number}"), "it is wrong", "nobody has it", at(0));
        }
        assert_eq!((scrub.damaged.len(), scrub.damaged_objects()), (MAX_NAMED_DAMAGE, 2 * MAX_NAMED_DAMAGE as u64 + 1));
        scrub.next = PARTS;
        scrub.begin_part(at(40));
        scrub.end_part(Some("x/"));
        scrub.begin_part(at(40));
        scrub.end_part(Some("y/"));
        assert_eq!(scrub.damaged_objects(), 0);
    }
}
