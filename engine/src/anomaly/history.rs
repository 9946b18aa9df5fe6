//! What is remembered of the runs of a dataset: for each stream, one entry a day.
//!
//! An entry keeps the extremes of its day, so that runs of every minute take no more room than
//! daily ones, and a week or a month is in the window either way.

use std::collections::{BTreeMap, VecDeque};

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use super::{RunFigures, StreamFigures};

/// How many days with runs are remembered: two month ends.
const WINDOW_DAYS: usize = 62;
/// How many days the median looks at.
const MEDIAN_DAYS: usize = 15;
/// The median counts from this many days on.
const MIN_MEDIAN_DAYS: usize = 7;
/// A size is settled that was at least reached on this many days in a row.
const SETTLED_DAYS: usize = 4;
/// From this many days on, more than gross harms count.
const LEARNED_DAYS: usize = 14;
/// A stream that lived longer does not count as one of those that come and go.
const SHORT_LIFE_DAYS: i64 = 100;
/// How many streams are remembered one by one: the largest.
const MAX_SERIES: usize = 1024;
const SECONDS_A_DAY: i64 = 86_400;

/// What is remembered of the runs of a dataset.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct History {
    pub(crate) runs: u64,
    /// When the newest run began.
    pub(crate) last: Option<DateTime<Utc>>,
    /// How many days the longest-lived of the streams lived that came and went.
    pub(crate) longest_life: i64,
    pub(crate) whole: Series,
    pub(crate) streams: BTreeMap<String, Series>,
}

/// What is remembered of a stream.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Series {
    /// The day on which it came.
    pub first: i64,
    /// Whether the newest run has it.
    pub present: bool,
    /// Its bytes in the newest run that has it.
    pub last: u64,
    /// What all of its data takes of its size, if that is known.
    pub content: Option<f32>,
    pub days: VecDeque<Day>,
}

/// The extremes of one day.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub(crate) struct Day {
    pub day: i64,
    /// Of the day's last run.
    pub bytes: u64,
    /// The least part that was left of the normal size.
    pub fall: f32,
    /// The most that the size was, in parts of the size before.
    pub rise: f32,
    /// The largest share of fresh data.
    pub share: f32,
    /// The least and the most that fresh data took of its size.
    pub least: Option<f32>,
    pub most: Option<f32>,
}

impl History {
    /// Whether more than gross harms can be told from what is normal.
    pub(crate) fn is_learned(&self) -> bool {
        self.whole.is_learned()
    }

    /// When the newest run began that it knows.
    #[must_use]
    pub fn last(&self) -> Option<DateTime<Utc>> {
        self.last
    }

    /// A run began at this time that is newer than all that it knows, whatever their clocks said.
    pub fn is_before(&mut self, at: DateTime<Utc>) {
        self.last = self.last.min(Some(at));
    }

    /// How long ago a stream came, in days, when this run began.
    pub(crate) fn age(series: &Series, run: &RunFigures) -> i64 {
        day_of(run.at) - series.first
    }

    /// Takes a run as normal. A run that is older than the newest one widens what is normal, and
    /// does not change how things stand.
    pub fn learn(&mut self, run: &RunFigures) {
        let day = day_of(run.at);
        let is_newest = self.last.is_none_or(|last| run.at >= last);
        self.whole.learn(&run.whole(), run, is_newest);
        let mut largest: Vec<(&String, &StreamFigures)> = run.streams.iter().collect();
        largest.sort_by_key(|(_, stream)| std::cmp::Reverse(stream.bytes));
        for (name, stream) in largest.into_iter().take(MAX_SERIES) {
            if let Some(series) = self.streams.get_mut(name) {
                series.learn(stream, run, is_newest);
            } else if self.streams.len() < MAX_SERIES {
                self.streams.entry(name.clone()).or_default().learn(stream, run, is_newest);
            }
        }
        if is_newest && !run.partial {
            for (_, gone) in self.streams.iter_mut().filter(|(name, _)| !run.streams.contains_key(*name)) {
                let life = day - gone.first;
                if std::mem::take(&mut gone.present) && life <= SHORT_LIFE_DAYS {
                    self.longest_life = self.longest_life.max(life);
                }
            }
        }
        let oldest = self.whole.days.front().map_or(day, |oldest| oldest.day);
        self.streams.retain(|_, series| series.present || series.days.back().is_some_and(|last| last.day >= oldest));
        self.runs += 1;
        self.last = self.last.max(Some(run.at));
    }
}

impl Series {
    pub(crate) fn is_learned(&self) -> bool {
        self.days.len() >= LEARNED_DAYS
    }

    /// The size that is normal.
    pub(crate) fn normal(&self) -> u64 {
        if self.days.len() < MIN_MEDIAN_DAYS {
            return self.last;
        }
        let mut sizes: Vec<u64> = self.days.iter().rev().take(MEDIAN_DAYS).map(|day| day.bytes).collect();
        let settled = sizes[..SETTLED_DAYS].iter().min().copied().unwrap_or_default();
        sizes.sort_unstable();
        sizes[sizes.len() / 2].max(settled)
    }

    /// The part of the normal size that `bytes` are.
    pub(crate) fn fall(&self, bytes: u64) -> f64 {
        bytes as f64 / self.normal().max(1) as f64
    }

    /// The size in parts of the normal one, or of the last one if that is larger.
    pub(crate) fn rise(&self, bytes: u64) -> f64 {
        bytes as f64 / self.normal().max(self.last).max(1) as f64
    }

    /// The most that fresh data has taken of its size, if that is known.
    pub(crate) fn most(&self) -> Option<f64> {
        let days = self.days.iter().filter_map(|day| day.most);
        days.chain(self.content).map(f64::from).reduce(f64::max)
    }

    /// The least that fresh data has taken of its size, if that is known.
    pub(crate) fn least(&self) -> Option<f64> {
        let days = self.days.iter().filter_map(|day| day.least);
        days.chain(self.content).map(f64::from).reduce(f64::min)
    }

    fn learn(&mut self, stream: &StreamFigures, run: &RunFigures, is_newest: bool) {
        let day = day_of(run.at);
        let StreamFigures { bytes, fresh, stored } = *stream;
        let is_first = self.days.is_empty();
        if is_first || is_newest && !self.present {
            self.first = day;
        }
        let ratio = stream.ratio().filter(|_| run.measured).map(|ratio| ratio as f32);
        let entry = Day {
            day,
            bytes,
            fall: if is_first { 1.0 } else { self.fall(bytes) as f32 },
            rise: if is_first { 1.0 } else { self.rise(bytes) as f32 },
            share: if run.measured && run.comparable && !is_first { stream.share() as f32 } else { 0.0 },
            least: ratio,
            most: ratio,
        };
        if run.measured && bytes > 0 {
            let known = self.content.or(ratio.filter(|_| fresh >= bytes / 10 * 9));
            let old = |known: f32| bytes.saturating_sub(fresh) as f32 * known;
            self.content = known.map(|known| ((old(known) + stored as f32) / bytes as f32).min(1.0));
        }
        if is_newest {
            (self.present, self.last) = (true, bytes);
        }
        let place = self.days.partition_point(|known| known.day < day);
        match self.days.get_mut(place).filter(|known| known.day == day) {
            Some(known) => known.merge(&entry, is_newest),
            None => self.days.insert(place, entry),
        }
        if self.days.len() > WINDOW_DAYS {
            self.days.pop_front();
        }
    }
}

impl Day {
    fn merge(&mut self, run: &Day, is_newest: bool) {
        if is_newest {
            self.bytes = run.bytes;
        }
        self.fall = self.fall.min(run.fall);
        self.rise = self.rise.max(run.rise);
        self.share = self.share.max(run.share);
        self.least = [self.least, run.least].into_iter().flatten().reduce(f32::min);
        self.most = [self.most, run.most].into_iter().flatten().reduce(f32::max);
    }
}

fn day_of(time: DateTime<Utc>) -> i64 {
    time.timestamp().div_euclid(SECONDS_A_DAY)
}
