//! Refuses a drill that would pass its limits, before anything is started.
//!
//! - **Disk**: what the engine takes for the bytes that the manifest tells, by
//!   [`Database::drill_disk`]. It is compared with `max_disk` here, and with what is free by the
//!   worker, which knows where.
//! - **Time**: how long past drills of the dataset took that reached the level. What they did with
//!   each byte is scaled by the size of this snapshot, and the rest, such as to start a server, is
//!   not. Of those that restored about as much, the slowest counts. Without any, there is no
//!   forecast: then `max_time` only stops a drill that takes too long.

use std::time::Duration;

use lifeboat_base::{Error, Result};
use lifeboat_databases::Database;
use lifeboat_databases::proof::ProofLevel;

use super::report::DrillReport;
use crate::config::DrillConfig;

/// So many of the newest drills that fit are looked at, …
const MAX_FORECAST_DRILLS: usize = 16;
/// … and the slowest of so many counts, of those whose size is nearest.
const NEAREST_DRILLS: usize = 3;

/// How many bytes of disk a drill of so many `bytes` to `level` will need: none if it only fetches.
/// `engine` is that of the snapshot, if this version knows it.
///
/// # Errors
/// [`Class::Configuration`](lifeboat_base::Class::Configuration): `max_disk` allows fewer.
pub fn needed_disk(
    settings: &DrillConfig,
    engine: Option<&dyn Database>,
    bytes: u64,
    level: ProofLevel,
) -> Result<u64> {
    if level == ProofLevel::Fetched {
        return Ok(0);
    }
    let needed = engine.map_or(bytes, |engine| engine.drill_disk(bytes, level));
    let Some(most) = settings.max_disk.filter(|most| needed > *most) else { return Ok(needed) };
    let what = format!(
        "the snapshot restores {bytes} bytes, for which a drill is forecast to need {needed} bytes of disk, and max_disk allows {most}: the drill was not started"
    );
    Err(Error::configuration(what)
        .hint("raise max_disk in [drill] or [dataset.drill] if the disk of the worker has the room"))
}

/// Refuses to drill so many `bytes` to `level` where `settings` do not leave enough time. `past` is
/// newest first, and `spent` is gone of the time.
///
/// # Errors
/// [`Class::Configuration`](lifeboat_base::Class::Configuration).
pub(super) fn check_time(
    settings: &DrillConfig,
    (bytes, spent): (u64, Duration),
    level: ProofLevel,
    past: &[DrillReport],
) -> Result<()> {
    let Some((limit, seconds)) = settings.max_time.zip(forecast(bytes, level, past)) else { return Ok(()) };
    let seconds = seconds + spent.as_secs_f64();
    if seconds <= limit.as_secs_f64() {
        return Ok(());
    }
    let forecast = Duration::try_from_secs_f64(seconds.ceil()).unwrap_or(Duration::MAX);
    let what =
        format!("by past drills, this one would take {forecast:?}, and max_time allows {limit:?}: it was not started");
    Err(Error::configuration(what)
        .hint("raise max_time in [drill] or [dataset.drill], ask for a lower `level`, or use a faster drill host"))
}

/// How long a drill would take, in seconds.
fn forecast(bytes: u64, level: ProofLevel, past: &[DrillReport]) -> Option<f64> {
    let fits = |report: &&DrillReport| report.passed && report.reached >= Some(level) && report.restored_bytes > 0;
    let ratio = |report: &DrillReport| bytes as f64 / report.restored_bytes as f64;
    let mut fit: Vec<&DrillReport> = past.iter().filter(fits).take(MAX_FORECAST_DRILLS).collect();
    // Whether it was larger or smaller does not matter.
    let distance = |report: &DrillReport| ratio(report).max(1e-9).ln().abs();
    fit.sort_by(|one, other| distance(one).total_cmp(&distance(other)));
    let seconds = |report: &DrillReport| -> f64 {
        let scaled = report.phases.iter().filter_map(|phase| {
            let (needs, scale) = match phase.phase.as_str() {
                "fetch" => (ProofLevel::Fetched, ratio(report)),
                "load" => (ProofLevel::Loaded, ratio(report)),
                "check" => (ProofLevel::Checked, ratio(report)),
                "prove" => (ProofLevel::Proved, ratio(report)),
                _ => (ProofLevel::Fetched, 1.0),
            };
            (level >= needs).then_some(phase.seconds * scale)
        });
        scaled.sum()
    };
    fit.into_iter().take(NEAREST_DRILLS).map(seconds).filter(|seconds| seconds.is_finite()).reduce(f64::max)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;
    use lifeboat_base::Class;
    use lifeboat_databases::registry;

    const GIB: u64 = 1 << 30;

    fn report(gib: u64, load: f64, reached: ProofLevel) -> DrillReport {
        let mut json = serde_json::json!({
            "drill": "20261123T200000000Z-9f2c81ac", "vault": "v", "dataset": "shop", "snapshot": null,
            "engine": null, "started": "2026-11-23T20:00:00Z", "finished": "2026-11-23T21:00:00Z",
            "replicas_used": [], "replicas_unreachable": {}, "required": "proved", "reached": reached,
            "passed": true, "error": null, "restored_bytes": gib * GIB, "rto_seconds": null,
            "rpo_seconds": null, "rto_objective_seconds": null, "rpo_objective_seconds": null,
            "checks": [], "proof": null,
        });
        json["phases"] = serde_json::json!([
            { "phase": "start", "seconds": 5.0 }, { "phase": "load", "seconds": load },
            { "phase": "prove", "seconds": load },
        ]);
        serde_json::from_value(json).unwrap()
    }

    #[test]
    fn work_is_scaled_by_the_size_and_the_slowest_of_the_nearest_counts() {
        let past = [report(1, 100.0, ProofLevel::Proved)];
        assert_eq!(forecast(GIB, ProofLevel::Proved, &past), Some(205.0));
        assert_eq!(forecast(3 * GIB, ProofLevel::Proved, &past), Some(605.0));
        assert_eq!(forecast(3 * GIB, ProofLevel::Loaded, &past), Some(305.0), "what is not asked for takes no time");
        // A drill of next to nothing tells little of a large one, where there are others.
        let mut past = vec![report(10, 1000.0, ProofLevel::Proved), report(10, 1100.0, ProofLevel::Proved)];
        past.push(report(10, 900.0, ProofLevel::Proved));
        past.push(DrillReport { restored_bytes: 1, ..report(1, 1.0, ProofLevel::Proved) });
        assert_eq!(forecast(10 * GIB, ProofLevel::Proved, &past), Some(2205.0));
        // One that failed, or went less far, tells nothing.
        let failed = DrillReport { passed: false, ..report(1, 1.0, ProofLevel::Proved) };
        assert_eq!(forecast(GIB, ProofLevel::Proved, &[failed, report(1, 1.0, ProofLevel::Loaded)]), None);
    }

    #[test]
    fn just_inside_a_limit_passes_and_just_outside_is_refused() {
        let past = [report(1, 100.0, ProofLevel::Proved)];
        let within = |seconds: u64, past: &[DrillReport]| {
            let settings = DrillConfig { max_time: Some(Duration::from_secs(seconds)), ..DrillConfig::default() };
            check_time(&settings, (GIB, Duration::ZERO), ProofLevel::Proved, past)
        };
        assert!(within(205, &past).is_ok() && within(1, &[]).is_ok(), "without a past drill nobody knows");
        refused_by("max_time", within(204, &past));
        let disk = |kind: &str, max_disk: Option<u64>, level: ProofLevel| {
            let settings = DrillConfig { max_disk, ..DrillConfig::default() };
            needed_disk(&settings, registry::find(kind), GIB, level)
        };
        for (kind, level, needed) in [
            ("postgres", ProofLevel::Proved, GIB * 5 / 2 + (64 << 20)),
            ("mariadb", ProofLevel::Proved, GIB * 3 / 2 + (320 << 20)),
            ("redis", ProofLevel::Loaded, GIB),
            ("redis", ProofLevel::Proved, 2 * GIB),
            ("sqlite", ProofLevel::Checked, GIB),
            ("sqlite", ProofLevel::Proved, 3 * GIB),
            ("files", ProofLevel::Proved, GIB),
            ("unheard-of", ProofLevel::Proved, GIB),
            ("postgres", ProofLevel::Fetched, 0),
        ] {
            assert_eq!(disk(kind, None, level).unwrap(), needed, "{kind} {level:?}");
            assert_eq!(disk(kind, Some(needed), level).unwrap(), needed, "{kind} {level:?}");
            if needed > 0 {
                refused_by("max_disk", disk(kind, Some(needed - 1), level).map(drop));
            }
        }
    }

    fn refused_by(key: &str, result: Result<()>) {
        let error = result.unwrap_err();
        assert_eq!(error.class(), Class::Configuration);
        assert!(error.message().contains(key) && error.hint_text().unwrap().contains(key), "{error:?}");
    }
}
