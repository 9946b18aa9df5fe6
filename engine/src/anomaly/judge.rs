//! The verdicts. Each compares one figure with what is normal, and with the extremes of the window.

use super::history::{History, Series};
use super::{Departure, Kind, RunFigures, StreamFigures};

/// A stream that was smaller says nothing when it shrinks.
const MIN_SHRUNK_BYTES: u64 = 4 << 10;
/// A gross loss leaves at most this part of the normal size, …
const GROSS_FALL: f64 = 0.2;
/// … and a departure from a learnt history this part.
const LEARNED_FALL: f64 = 0.5;
/// It must also be less than this part of what the window's least was.
const BELOW_LEAST: f64 = 0.7;
/// A rise of the whole to this many times its size is news, …
const RISE: f64 = 2.5;
/// … if it is also this many times the window's largest, …
const ABOVE_MOST: f64 = 1.2;
/// … and this many bytes.
const MIN_GROWN_BYTES: u64 = 1 << 20;
/// A share of new data is news from here on, if it is also …
const SHARE: f64 = 0.5;
/// … this many times the window's largest.
const SHARE_ABOVE_MOST: f64 = 3.0;
/// How much more of its size fresh data may take than ever in the window, if that is not more than
/// half of what remains up to 1.
const MARGIN: f64 = 0.15;
/// The margin while fresh data was measured on few days: rows that change compress less well
/// than whole tables.
const YOUNG_MARGIN: f64 = 0.3;
const YOUNG_DAYS: usize = 3;
/// Data of which nothing is known is taken for noise from here on.
const NOISE: f64 = 0.95;
/// Data that takes more of its size anyway cannot be told from noise.
const MAX_USUAL: f64 = 0.85;
/// Data that takes this part of the window's least is nearly the same everywhere, …
const UNIFORM: f64 = 0.25;
/// … where the window's least is at least this, and the stream has this many bytes.
const MIN_LEAST: f64 = 0.02;
const MIN_UNIFORM_BYTES: u64 = 64 << 10;
/// A stream may go at the age at which others went, or up to this many days older.
const OLDER_DAYS: i64 = 7;

/// How `run` departs from `history`. Empty: it does not.
#[must_use]
pub fn judge(history: &History, run: &RunFigures) -> Vec<Departure> {
    if history.runs == 0 {
        return Vec::new();
    }
    let mut found = Vec::new();
    let whole = run.whole();
    found.extend(incompressible_whole(history, run, &whole));
    if !run.partial {
        // A single stream tells it itself.
        let fell = shrank(&history.whole, whole.bytes).filter(|_| run.streams.len() > 1);
        found.extend(fell.map(|(was, is)| of(None, Kind::Shrank, was, is)));
        missing(history, run, &mut found);
    }
    found.extend(grew(history, whole.bytes));
    found.extend(rewritten(history, run, &whole));
    for (name, stream) in &run.streams {
        let Some(series) = history.streams.get(name) else { continue };
        let figures = [
            (Kind::Shrank, shrank(series, stream.bytes)),
            (Kind::Incompressible, incompressible(series, run, stream)),
            (Kind::Uniform, uniform(series, run, stream)),
        ];
        let departures = figures.into_iter().filter_map(|(kind, figures)| figures.map(|(was, is)| (kind, was, is)));
        found.extend(departures.map(|(kind, was, is)| of(Some(name), kind, was, is)));
    }
    found
}

fn of(stream: Option<&String>, kind: Kind, was: f64, is: f64) -> Departure {
    Departure { kind, stream: stream.cloned(), was, is }
}

fn shrank(series: &Series, bytes: u64) -> Option<(f64, f64)> {
    let (normal, fall) = (series.normal(), series.fall(bytes));
    let limit = if series.is_learned() { LEARNED_FALL } else { GROSS_FALL };
    let least = series.days.iter().map(|day| f64::from(day.fall)).fold(1.0, f64::min);
    (normal >= MIN_SHRUNK_BYTES && fall <= limit && fall < least * BELOW_LEAST).then_some((normal as f64, bytes as f64))
}

fn grew(history: &History, bytes: u64) -> Option<Departure> {
    let series = &history.whole;
    let normal = series.normal().max(series.last);
    let most = series.days.iter().map(|day| f64::from(day.rise)).fold(1.0, f64::max);
    let is_more = bytes.saturating_sub(normal) >= MIN_GROWN_BYTES;
    (history.is_learned() && is_more && series.rise(bytes) >= RISE.max(most * ABOVE_MOST))
        .then(|| of(None, Kind::Grew, normal as f64, bytes as f64))
}

/// A table that is rewritten is no news, for that is what maintenance does. Most of all data is.
fn rewritten(history: &History, run: &RunFigures, whole: &StreamFigures) -> Option<Departure> {
    let most = history.whole.days.iter().map(|day| f64::from(day.share)).fold(0.0, f64::max);
    let tells = history.is_learned() && run.measured && run.comparable && whole.ratio().is_some();
    (tells && whole.share() >= SHARE.max(most * SHARE_ABOVE_MOST))
        .then(|| of(None, Kind::Rewritten, most, whole.share()))
}

fn incompressible(series: &Series, run: &RunFigures, stream: &StreamFigures) -> Option<(f64, f64)> {
    let ratio = stream.ratio().filter(|_| run.measured)?;
    match series.most() {
        Some(most) => is_noise(ratio, most, series).then_some((most, ratio)),
        None => (stream.share() >= 0.5 && ratio >= NOISE).then_some((NOISE, ratio)),
    }
}

/// Streams that are new, or too small to tell alone, show in the whole. Each is expected to
/// compress as it did, or else as the whole did.
fn incompressible_whole(history: &History, run: &RunFigures, whole: &StreamFigures) -> Option<Departure> {
    let ratio = whole.ratio().filter(|_| run.measured)?;
    let usual = history.whole.most()?;
    let expected = run.streams.iter().map(|(name, stream)| {
        let most = history.streams.get(name).and_then(Series::most).unwrap_or(usual);
        stream.fresh as f64 * most
    });
    let most = (expected.sum::<f64>() / whole.fresh as f64).min(1.0);
    is_noise(ratio, most, &history.whole).then(|| of(None, Kind::Incompressible, most, ratio))
}

fn is_noise(ratio: f64, most: f64, series: &Series) -> bool {
    let young = series.days.iter().filter(|day| day.most.is_some()).count() < YOUNG_DAYS;
    let margin = ((1.0 - most) / 2.0).min(if young { YOUNG_MARGIN } else { MARGIN });
    most <= MAX_USUAL && ratio >= most + margin
}

fn uniform(series: &Series, run: &RunFigures, stream: &StreamFigures) -> Option<(f64, f64)> {
    let ratio = stream.ratio().filter(|_| run.measured)?;
    let least = series.least().filter(|least| *least >= MIN_LEAST)?;
    let tells = stream.share() >= 0.5 && stream.bytes >= MIN_UNIFORM_BYTES;
    (tells && ratio <= least * UNIFORM).then_some((least, ratio))
}

/// Streams that the newest run had and this one has not. Those that come and go do so at an age
/// that is known. What other streams have more, and is not fresh, has moved.
fn missing(history: &History, run: &RunFigures, found: &mut Vec<Departure>) {
    let longest = history.longest_life;
    let goes = |series: &Series| longest > 0 && History::age(series, run) <= longest + OLDER_DAYS;
    let gone = history.streams.iter().filter(|(name, series)| series.present && !run.streams.contains_key(*name));
    let gone: Vec<_> = gone.filter(|(_, series)| !goes(series)).collect();
    let lost: u64 = gone.iter().map(|(_, series)| series.last).sum();
    let came = run.streams.iter().map(|(name, stream)| {
        let before = history.streams.get(name).filter(|series| series.present).map_or(0, |series| series.last);
        stream.bytes.saturating_sub(before).saturating_sub(stream.fresh)
    });
    if run.measured && lost > 0 && came.sum::<u64>() >= lost / 2 {
        return;
    }
    found.extend(gone.iter().map(|(name, series)| of(Some(name), Kind::Missing, series.last as f64, 0.0)));
}
