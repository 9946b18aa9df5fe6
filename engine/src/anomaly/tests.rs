//! Simulated days: ordinary ones that must pass, and harms that must not.
#![allow(clippy::unwrap_used, reason = "tests")]

use chrono::TimeDelta;

use super::*;

const MIB: f64 = 1048576.0;
const DAYS: i64 = 200;
const SEEDS: u64 = 4;
const TABLES: usize = 50;

/// A small generator, so that each day is the same in every run.
struct Chance(u64);

impl Chance {
    /// From 0 to 1.
    fn next(&mut self) -> f64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 11) as f64 / (1u64 << 53) as f64
    }

    fn between(&mut self, low: f64, high: f64) -> f64 {
        low + (high - low) * self.next()
    }
}

/// A table whose dump is a stream.
#[derive(Clone)]
struct Table {
    bytes: f64,
    /// What its data takes when it is compressed.
    ratio: f64,
    /// What grows a day, and what changes a day, in parts of its size.
    grows: f64,
    changes: f64,
}

/// What a day's work did to one table, as a run sees it.
fn captured(bytes: f64, fresh: f64, ratio: f64) -> StreamFigures {
    let fresh = fresh.min(bytes);
    StreamFigures { bytes: bytes as u64, fresh: fresh as u64, stored: (fresh * ratio) as u64 }
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Pattern {
    Growing,
    WeeklyBatch,
    MonthEnd,
    Vacuum,
    /// A partition a day, of which thirty are kept.
    Partitions,
    /// Days off: little changes at the weekend, a third on each other day.
    Busy,
}

const PATTERNS: [Pattern; 6] =
    [Pattern::Growing, Pattern::WeeklyBatch, Pattern::MonthEnd, Pattern::Vacuum, Pattern::Partitions, Pattern::Busy];

struct World {
    pattern: Pattern,
    chance: Chance,
    tables: Vec<Table>,
    day: i64,
    /// On which day a table, or all of them, is rewritten by maintenance.
    maintenance: i64,
}

impl World {
    fn new(pattern: Pattern, seed: u64) -> Self {
        let mut chance = Chance(seed.wrapping_mul(977).wrapping_add(pattern as u64 * 31 + 7));
        let tables = (0..TABLES).map(|number| Table {
            // From 200 KiB to 200 MiB.
            bytes: 0.2 * MIB * 10f64.powf(chance.between(0.0, 3.0)),
            // One has pictures.
            ratio: if number == 7 { 0.96 } else { chance.between(0.12, 0.55) },
            grows: chance.between(0.0, 0.02),
            changes: chance.between(0.0, 0.05),
        });
        let tables = tables.collect();
        let maintenance = 20 + (chance.next() * 150.0) as i64;
        Self { pattern, chance, tables, day: 0, maintenance }
    }

    /// The next day's run.
    fn next(&mut self) -> RunFigures {
        // 1 January 2026 was a Thursday.
        let start: DateTime<Utc> = "2026-01-01T02:00:00Z".parse().unwrap();
        let at = start + TimeDelta::days(self.day) + TimeDelta::seconds((self.chance.next() * 900.0) as i64);
        let date = at.date_naive();
        let (weekday, month_day) = ((self.day + 3) % 7, chrono::Datelike::day(&date));
        let weekend = weekday >= 5;
        let is_month_end = chrono::Datelike::month(&(date + TimeDelta::days(1))) != chrono::Datelike::month(&date);
        let first = self.day == 0;
        let mut streams = BTreeMap::new();
        for number in 0..self.tables.len() {
            let rest = if self.pattern == Pattern::Busy && weekend { 0.02 } else { 1.0 };
            let pace = self.chance.between(0.3, 1.7) * rest;
            let noise = self.chance.between(0.9, 1.15);
            let table = &mut self.tables[number];
            let mut fresh = table.bytes * (table.grows + table.changes) * pace;
            table.bytes *= 1.0 + table.grows * pace;
            let mut bytes = table.bytes;
            match self.pattern {
                Pattern::WeeklyBatch if number < 10 && weekday == 6 => {
                    // Half of it is written anew, and a report is added that is gone the next day.
                    bytes *= 1.6;
                    fresh += bytes * 0.5;
                }
                Pattern::MonthEnd if number < 10 && (is_month_end || month_day == 1) => {
                    bytes *= 3.0;
                    fresh += bytes * 0.7;
                }
                Pattern::Vacuum if self.day == self.maintenance && (number == 3 || self.chance.0.is_multiple_of(2)) => {
                    fresh = bytes;
                }
                Pattern::Busy if !weekend => fresh += bytes * 0.3,
                _ => {}
            }
            if first {
                fresh = bytes;
            }
            // Changed rows compress a little less well than whole tables.
            let ratio = (table.ratio * noise * if first { 1.0 } else { 1.12 }).min(1.0);
            streams.insert(format!("table/{number:02}"), captured(bytes, fresh, ratio));
        }
        if self.pattern == Pattern::Partitions {
            for partition in self.day - 30..self.day {
                let fresh = if partition == self.day - 1 || first { 20.0 * MIB } else { 0.0 };
                streams.insert(format!("part/{partition}"), captured(20.0 * MIB, fresh, 0.3));
            }
        }
        self.day += 1;
        RunFigures { at, measured: true, comparable: !first, partial: false, streams }
    }

    /// A history of so many days, all of which were accepted.
    fn lived(pattern: Pattern, seed: u64, days: i64) -> (Self, History) {
        let (mut world, mut history) = (Self::new(pattern, seed), History::default());
        for _ in 0..days {
            history.learn(&world.next());
        }
        (world, history)
    }
}

fn told(departures: &[Departure]) -> String {
    departures.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
}

#[test]
fn two_hundred_ordinary_days_give_at_most_one_false_flag() {
    for pattern in PATTERNS {
        for seed in 0..SEEDS {
            let (mut world, mut history) = (World::new(pattern, seed), History::default());
            let mut flags = Vec::new();
            for day in 0..DAYS {
                let run = world.next();
                let departures = judge(&history, &run);
                if !departures.is_empty() {
                    flags.push(format!("day {day}: {}", told(&departures)));
                }
                history.learn(&run);
            }
            // Of partitions, nobody knows at first at which age they go.
            let allowed = if pattern == Pattern::Partitions { 5 } else { 1 };
            assert!(flags.len() <= allowed, "{pattern:?} {seed}: {flags:#?}");
        }
    }
}

#[test]
fn runs_of_every_hour_are_judged_like_daily_ones() {
    for seed in 0..3 {
        let (mut world, mut history) = (World::new(Pattern::WeeklyBatch, seed), History::default());
        let mut flags = 0;
        for _ in 0..70 {
            let mut run = world.next();
            for hour in 0..24 {
                flags += usize::from(!judge(&history, &run).is_empty());
                history.learn(&run);
                run.at += TimeDelta::minutes(50);
                run.comparable = true;
                // The rest of the day brings a part of the day's changes.
                run.streams.values_mut().for_each(|stream| {
                    stream.fresh /= 2 + hour;
                    stream.stored /= 2 + hour;
                });
            }
        }
        assert!(flags <= 1, "{seed}: {flags}");
        assert!(history.whole.days.len() <= 62, "{}", history.whole.days.len());
    }
}

/// A harm: what it is called, and what it does to a day's figures.
type Harm = (&'static str, fn(&mut RunFigures));

fn table(run: &mut RunFigures, number: usize) -> &mut StreamFigures {
    run.streams.get_mut(&format!("table/{number:02}")).unwrap()
}

fn encrypt(stream: &mut StreamFigures) {
    *stream = StreamFigures { bytes: stream.bytes, fresh: stream.bytes, stored: stream.bytes };
}

const HARMS: [Harm; 12] = [
    ("a table is emptied", |run| *table(run, 12) = StreamFigures { bytes: 900, fresh: 900, stored: 400 }),
    ("a table is encrypted in place", |run| encrypt(table(run, 31))),
    ("the whole database is encrypted", |run| run.streams.values_mut().for_each(encrypt)),
    ("the dump is truncated by 90 %", |run| {
        for stream in run.streams.values_mut() {
            *stream = captured(stream.bytes as f64 / 10.0, 0.0, 0.3);
        }
    }),
    ("one stream is truncated by 90 %", |run| {
        let stream = table(run, 5);
        *stream = captured(stream.bytes as f64 / 10.0, 0.0, 0.3);
    }),
    ("a stream is missing", |run| _ = run.streams.remove("table/22")),
    ("rows of one table are replaced by noise", |run| {
        let stream = table(run, 41);
        *stream = captured(stream.bytes as f64, stream.bytes as f64, 0.95);
    }),
    ("it is ten times as large, with noise", |run| {
        for stream in run.streams.values_mut() {
            let noise = stream.bytes * 9;
            stream.bytes += noise;
            stream.fresh += noise;
            stream.stored += noise;
        }
    }),
    ("all rows are the same", |run| {
        for stream in run.streams.values_mut() {
            *stream = captured(stream.bytes as f64, stream.bytes as f64, 0.002);
        }
    }),
    ("tables are replaced by encrypted files", |run| {
        let streams = std::mem::take(&mut run.streams);
        for (name, mut stream) in streams {
            encrypt(&mut stream);
            run.streams.insert(format!("{name}.locked"), stream);
        }
    }),
    ("half of all tables are dropped", |run| {
        run.streams.retain(|name, _| !name.ends_with(['1', '3', '5', '7', '9']));
    }),
    ("all values are encrypted and written as base64", |run| {
        for stream in run.streams.values_mut() {
            let bytes = stream.bytes as f64 * 1.33;
            *stream = captured(bytes, bytes, 0.76);
        }
    }),
];

#[test]
fn every_planted_harm_is_flagged_on_its_day() {
    for pattern in PATTERNS {
        for seed in 0..SEEDS {
            for days in [40, 120] {
                let (mut world, history) = World::lived(pattern, seed, days);
                let ordinary = world.next();
                for (name, harm) in HARMS {
                    let mut harmed = ordinary.clone();
                    harm(&mut harmed);
                    assert!(!judge(&history, &harmed).is_empty(), "{pattern:?} {seed}, day {days}: {name}");
                }
            }
        }
    }
}

#[test]
fn noise_in_a_third_of_a_table_shows_where_little_changes() {
    for pattern in [Pattern::Growing, Pattern::MonthEnd, Pattern::Vacuum] {
        for seed in 0..SEEDS {
            let (mut world, history) = World::lived(pattern, seed, 40);
            let mut run = world.next();
            let stream = table(&mut run, 41);
            let noise = stream.bytes / 3;
            stream.fresh = (stream.fresh + noise).min(stream.bytes);
            stream.stored = (stream.stored + noise).min(stream.fresh);
            assert!(told(&judge(&history, &run)).contains("table/41"), "{pattern:?} {seed}");
        }
    }
}

#[test]
fn a_young_history_shows_gross_harms_and_nothing_else() {
    // At which age partitions go is not known yet.
    for pattern in PATTERNS.into_iter().filter(|pattern| *pattern != Pattern::Partitions) {
        for seed in 0..SEEDS {
            for days in 1..4 {
                let (mut world, history) = World::lived(pattern, seed, days);
                let ordinary = world.next();
                assert_eq!(told(&judge(&history, &ordinary)), "", "{pattern:?} {seed}, day {days}");
                for (name, harm) in HARMS {
                    let gross = !name.starts_with("all values");
                    let mut harmed = ordinary.clone();
                    harm(&mut harmed);
                    let is_flagged = !judge(&history, &harmed).is_empty();
                    assert!(is_flagged || !gross, "{pattern:?} {seed}, day {days}: {name}");
                }
            }
        }
    }
}

#[test]
fn a_departure_names_its_stream_and_says_what_was_normal() {
    let (mut world, history) = World::lived(Pattern::Growing, 1, 60);
    let mut run = world.next();
    encrypt(table(&mut run, 31));
    run.streams.remove("table/22");
    let departures = judge(&history, &run);
    let kinds: Vec<_> = departures.iter().map(|found| (found.kind, found.stream.as_deref())).collect();
    assert_eq!(
        kinds,
        [(Kind::Missing, Some("table/22")), (Kind::Incompressible, Some("table/31"))],
        "{}",
        told(&departures)
    );
    assert!(told(&departures).contains("stream `table/31` has new data that compresses to 100 %"), "{departures:?}");
}

#[test]
fn what_is_flagged_is_flagged_again_until_it_is_learnt() {
    let (mut world, mut history) = World::lived(Pattern::Growing, 2, 60);
    let mut empty = || {
        let mut run = world.next();
        *table(&mut run, 12) = captured(900.0, 0.0, 0.3);
        run
    };
    let (first, second, third) = (empty(), empty(), empty());
    assert!(!judge(&history, &first).is_empty() && !judge(&history, &second).is_empty());
    history.learn(&first);
    history.learn(&second);
    assert_eq!(told(&judge(&history, &third)), "");
}

#[test]
fn a_stream_that_moved_is_not_missing() {
    let (mut world, history) = World::lived(Pattern::Growing, 3, 60);
    let mut run = world.next();
    let moved = run.streams.remove("table/22").unwrap();
    run.streams.insert("table/new".to_owned(), StreamFigures { fresh: 0, stored: 0, ..moved });
    assert_eq!(told(&judge(&history, &run)), "");
    let noise = StreamFigures { fresh: moved.bytes, stored: moved.bytes, ..moved };
    run.streams.insert("table/new".to_owned(), noise);
    assert!(told(&judge(&history, &run)).contains("table/22` is missing"));
}

#[test]
fn a_partial_run_is_not_blamed_for_what_it_could_not_read() {
    let (mut world, mut history) = World::lived(Pattern::Growing, 4, 60);
    let mut run = world.next();
    run.streams.retain(|name, _| name.ends_with('1'));
    run.partial = true;
    assert_eq!(told(&judge(&history, &run)), "");
    history.learn(&run);
    let mut next = world.next();
    next.streams.remove("table/22");
    assert!(told(&judge(&history, &next)).contains("table/22` is missing"));
}

#[test]
fn a_static_table_is_remembered_though_nothing_of_it_is_fresh() {
    let mut history = History::default();
    let start: DateTime<Utc> = "2026-01-01T02:00:00Z".parse().unwrap();
    let run = |day: i64, stream: StreamFigures| RunFigures {
        at: start + TimeDelta::days(day),
        measured: true,
        comparable: day > 0,
        partial: false,
        streams: BTreeMap::from([("database/shop".to_owned(), stream)]),
    };
    history.learn(&run(0, captured(9.0 * MIB, 9.0 * MIB, 0.2)));
    (1..400).for_each(|day| history.learn(&run(day, captured(9.0 * MIB, 0.0, 0.2))));
    assert_eq!(judge(&history, &run(400, captured(9.0 * MIB, 3.0 * MIB, 0.2))), []);
    let noise = judge(&history, &run(400, captured(9.0 * MIB, 3.0 * MIB, 0.99)));
    assert!(told(&noise).contains("compresses to 99 %; normal is at most 20 %"), "{}", told(&noise));
    let text = serde_json::to_string(&history).unwrap();
    assert!(text.len() < 20_000, "{}", text.len());
    assert_eq!(serde_json::from_str::<History>(&text).unwrap(), history);
}
