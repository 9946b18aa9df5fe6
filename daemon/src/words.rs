//! Sizes, durations, times and counts in one line, as people read them.

use chrono::{DateTime, Utc};

/// `512 B`, `64.0 KiB`, `201.3 MiB`.
pub(crate) fn bytes(bytes: u64) -> String {
    let mut value = bytes as f64;
    let mut units = ["B", "KiB", "MiB", "GiB", "TiB", "PiB"].into_iter();
    let mut unit = units.next().unwrap_or_default();
    // What would be shown as 1024.0 of a unit is 1.0 of the next.
    while value >= 1023.95
        && let Some(next) = units.next()
    {
        value /= 1024.0;
        unit = next;
    }
    if unit == "B" { format!("{bytes} B") } else { format!("{value:.1} {unit}") }
}

/// `41.2 s`, `12 min 3 s`, `3 h 5 min`.
pub(crate) fn duration(seconds: f64) -> String {
    let whole = seconds.round() as u64;
    match whole {
        ..60 => format!("{seconds:.1} s"),
        60..3_600 => format!("{} min {} s", whole / 60, whole % 60),
        _ => format!("{} h {} min", whole / 3_600, whole % 3_600 / 60),
    }
}

/// `2026-11-23 18:32:44 UTC`.
pub(crate) fn time(time: DateTime<Utc>) -> String {
    time.format("%Y-%m-%d %H:%M:%S UTC").to_string()
}

/// `1 replica`, `2 replicas`.
pub(crate) fn count(n: u64, noun: &str) -> String {
    format!("{n} {noun}{}", if n == 1 { "" } else { "s" })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_thing_is_told_from_several() {
        assert_eq!([count(1, "replica"), count(0, "replica")], ["1 replica", "0 replicas"]);
    }

    #[test]
    fn sizes_and_durations_change_unit_at_the_boundary() {
        assert_eq!([bytes(0), bytes(1023), bytes(1024)], ["0 B", "1023 B", "1.0 KiB"]);
        assert_eq!([bytes((1 << 20) - 1), bytes(u64::MAX)], ["1.0 MiB", "16384.0 PiB"]);
        assert_eq!([duration(59.4), duration(61.0), duration(11_100.0)], ["59.4 s", "1 min 1 s", "3 h 5 min"]);
    }
}
