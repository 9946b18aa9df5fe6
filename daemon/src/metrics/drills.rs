//! What drill hosts have published, as metrics.

use super::{Page, Snapshot, timestamp};
use crate::drills::ToldDrills;

/// The `source` of what is told of drills here: reports in the vault.
const VAULT_SOURCE: &str = "vault";

/// A drill host tells the same of itself, without `source`.
pub(super) fn fill(page: &Page, snapshot: &Snapshot<'_>) -> prometheus::Result<()> {
    let drilled = || {
        let all = snapshot.config.datasets.iter();
        all.filter_map(|dataset| Some((dataset, snapshot.drills.get(&dataset.name)?)))
    };
    let each = |name: &str, help: &str, value: fn(&ToldDrills) -> Option<f64>| {
        let series =
            drilled().filter_map(|(dataset, told)| Some((vec![dataset.name.as_str(), VAULT_SOURCE], value(told)?)));
        page.gauge(name, help, &["dataset", "source"], series.collect())
    };
    each(
        "lifeboat_drill_last_success_timestamp_seconds",
        "When the last drill that reached its level, or proved in part, ended; 0 if none ever did.",
        |told| Some(timestamp(told.last_success)),
    )?;
    each(
        "lifeboat_drill_last_whole_timestamp_seconds",
        "When the last drill that reached its level with the whole snapshot ended.",
        |told| told.last_whole.map(|ended| timestamp(Some(ended))),
    )?;
    each(
        "lifeboat_drill_last_attempt_timestamp_seconds",
        "When the last drill ended, whether it passed or not.",
        |told| Some(timestamp(Some(told.last_attempt))),
    )?;
    each("lifeboat_drill_last_status", "1 if the last drill reached its level, or proved in part, else 0.", |told| {
        Some(f64::from(u8::from(told.passed)))
    })?;
    each(
        "lifeboat_drill_last_level",
        "The level that the last drill not in part reached: 0 nothing, 1 fetched, 2 loaded, 3 checked, 4 proved.",
        // Where only drills in part are known, nobody knows.
        |told| told.is_level_known().then(|| told.level.map_or(0.0, |level| f64::from(level as u8))),
    )?;
    page.gauge(
        "lifeboat_drill_highest_level",
        "The highest level that a drill of this kind of source can reach.",
        &["dataset", "source"],
        drilled()
            .map(|(dataset, _)| {
                let highest = dataset.drill.highest_level(dataset.source.database());
                (vec![dataset.name.as_str(), VAULT_SOURCE], f64::from(highest as u8))
            })
            .collect(),
    )?;
    each(
        "lifeboat_drill_restore_duration_seconds",
        "How long the last drill that restored took, from its start until the database was loaded.",
        |told| told.rto_seconds,
    )?;
    each(
        "lifeboat_drill_recovery_point_age_seconds",
        "The age of the data when the last drill of a newest snapshot began.",
        |told| told.rpo_seconds,
    )?;
    each("lifeboat_drill_interval_seconds", "The longest time between two drills by schedule.", |told| {
        told.interval_seconds
    })
}
