//! Sizes, durations, times and reasons as people read them.

use chrono::{DateTime, Utc};
use lifeboat_engine::FalseClaim;
use lifeboat_engine::databases::proof::ProofResult;
use lifeboat_engine::databases::{Database, registry};
use lifeboat_engine::format::id::Name;
pub(crate) use lifeboat_engine::store::without_name;

const KIB: f64 = 1024.0;

/// `512 B`, `64.0 KiB`, `201.3 MiB`.
pub(crate) fn bytes(bytes: u64) -> String {
    let mut value = bytes as f64;
    if value < KIB {
        return format!("{bytes} B");
    }
    let mut unit = "B";
    for next in ["KiB", "MiB", "GiB", "TiB", "PiB"] {
        // What would be shown as 1024.0 of a unit is 1.0 of the next.
        if value < KIB - 0.05 {
            break;
        }
        value /= KIB;
        unit = next;
    }
    format!("{value:.1} {unit}")
}

/// `12 ms`, `41.2 s`, `12 min 3 s`, `3 h 5 min`, `2 d 4 h`.
pub(crate) fn seconds(seconds: f64) -> String {
    if seconds < 0.9995 {
        return format!("{:.0} ms", seconds.max(0.0) * 1000.0);
    }
    let tenths = (seconds * 10.0).round();
    if tenths < 600.0 {
        return format!("{:.1} s", tenths / 10.0);
    }
    let whole = seconds.round() as u64;
    let (large, small) = match whole {
        ..3_600 => ((whole / 60, "min"), (whole % 60, "s")),
        3_600..86_400 => ((whole / 3_600, "h"), (whole % 3_600 / 60, "min")),
        _ => ((whole / 86_400, "d"), (whole % 86_400 / 3_600, "h")),
    };
    if small.0 == 0 {
        format!("{} {}", large.0, large.1)
    } else {
        format!("{} {} {} {}", large.0, large.1, small.0, small.1)
    }
}

/// `2026-11-23 18:32:44 UTC`.
pub(crate) fn time(time: DateTime<Utc>) -> String {
    time.format("%Y-%m-%d %H:%M:%S UTC").to_string()
}

/// When a snapshot was taken, with what its manifest claims instead, if another time was settled.
pub(crate) fn taken(taken: DateTime<Utc>, claimed: Option<DateTime<Utc>>, contradicted: Option<FalseClaim>) -> String {
    let why = match contradicted {
        Some(FalseClaim::Backdated) => "first seen; BACKDATED",
        _ => "settled",
    };
    match (claimed, contradicted) {
        (Some(claimed), _) => format!("{} ({why}; its manifest tells {})", time(taken), time(claimed)),
        (None, Some(_)) => format!("{} (it was there BEFORE)", time(taken)),
        (None, None) => time(taken),
    }
}

/// `1 pack`, `2 packs`, `1,204,332 rows`.
pub(crate) fn count(n: u64, noun: &str) -> String {
    format!("{} {noun}{}", grouped(n), if n == 1 { "" } else { "s" })
}

/// `1,204,332`.
fn grouped(n: u64) -> String {
    let digits = n.to_string();
    let mut grouped = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    grouped
}

/// `database shop`, `databases crm, shop`.
pub(crate) fn databases(names: &[String]) -> String {
    let names: Vec<String> = names.iter().map(|name| name.escape_debug().to_string()).collect();
    format!("database{} {}", if names.len() == 1 { "" } else { "s" }, names.join(", "))
}

/// The engine that a report tells of with its version, such as `postgres 15.14`.
pub(crate) fn engine_of(told: Option<&str>) -> Option<&'static dyn Database> {
    told?.split(' ').next().and_then(registry::find)
}

/// What a drill compared with the snapshot, and what came of it.
pub(crate) fn compared(engine: Option<&str>, proof: &ProofResult) -> String {
    let counts = match engine_of(engine).is_some_and(Database::is_tree) {
        true => format!("{} {}", grouped(proof.rows), if proof.rows == 1 { "entry" } else { "entries" }),
        false => [
            count(proof.definitions, "definition"),
            count(proof.tables, "table"),
            count(proof.rows, "row"),
            count(proof.large_objects, "large object"),
        ]
        .join(", "),
    };
    format!("{counts}: {}", if proof.is_equal() { "equal" } else { "NOT EQUAL" })
}

/// A line about a replica that is left out, which names it once.
pub(crate) fn skipping(replica: &Name, why: &str) -> String {
    format!("skipping replica {replica}: {}", without_name(replica, why))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn a_skipped_replica_is_named_once() {
        let near = "near".parse().unwrap();
        assert_eq!(skipping(&near, "replica near: cannot list: full"), "skipping replica near: cannot list: full");
    }

    #[test]
    fn sizes_change_unit_at_the_boundary() {
        assert_eq!(bytes(0), "0 B");
        assert_eq!(bytes(1023), "1023 B");
        assert_eq!(bytes(1024), "1.0 KiB");
        assert_eq!(bytes((1 << 20) - 1), "1.0 MiB");
        assert_eq!(bytes(211_077_529), "201.3 MiB");
        assert_eq!(bytes(u64::MAX), "16384.0 PiB");
    }

    #[test]
    fn durations_show_the_two_largest_units() {
        assert_eq!(seconds(-1.0), "0 ms");
        assert_eq!(seconds(0.9994), "999 ms");
        assert_eq!(seconds(0.9996), "1.0 s");
        assert_eq!(seconds(59.94), "59.9 s");
        assert_eq!(seconds(59.96), "1 min");
        assert_eq!(seconds(723.4), "12 min 3 s");
        assert_eq!(seconds(3_600.0), "1 h");
        assert_eq!(seconds(11_100.0), "3 h 5 min");
        assert_eq!(seconds(86_400.0 * 2.0 + 3_600.0 * 4.0), "2 d 4 h");
    }

    #[test]
    fn of_a_tree_entries_are_counted() {
        let proof = |rows| ProofResult { tables: 1, rows, ..ProofResult::default() };
        assert_eq!(compared(Some("files"), &proof(1)), "1 entry: equal");
        assert_eq!(compared(Some("files"), &proof(1_207)), "1,207 entries: equal");
        let of_tables = "0 definitions, 1 table, 7 rows, 0 large objects: equal";
        assert_eq!(compared(Some("postgres 15.14"), &proof(7)), of_tables);
        assert_eq!(compared(None, &proof(7)), of_tables);
    }

    #[test]
    fn counts_are_grouped_and_plural() {
        assert_eq!(count(1, "table"), "1 table");
        assert_eq!(count(0, "table"), "0 tables");
        assert_eq!(count(1_204_332, "row"), "1,204,332 rows");
        assert_eq!(count(999, "row"), "999 rows");
    }
}
