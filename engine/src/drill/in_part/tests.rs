use std::time::Duration;

use lifeboat_format::extents::{Extent, Extents};
use lifeboat_format::manifest::PackRef;
use serde_json::{Value, json};

use super::*;

fn time(text: &str) -> DateTime<Utc> {
    text.parse().unwrap()
}

/// A drill of the first of November 2026 at so many o'clock, with changes.
fn drill(hour: u32, changes: &Value) -> PastDrill {
    let mut report = json!({
        "drill": format!("20261101T{hour:02}0000000Z-00000000"), "vault": "v", "dataset": "shop",
        "snapshot": "20261101T000000000Z-00000000", "manifest": "11".repeat(32), "engine": "sqlite",
        "started": format!("2026-11-01T{hour:02}:00:00Z"), "finished": format!("2026-11-01T{hour:02}:10:00Z"),
        "replicas_used": ["near"], "replicas_unreachable": {}, "required": "proved", "reached": "proved",
        "passed": true, "error": null, "phases": [], "restored_bytes": 1, "rto_seconds": 1.0, "rpo_seconds": null,
        "rto_objective_seconds": null, "rpo_objective_seconds": null, "checks": [], "proof": null,
    });
    for (key, value) in changes.as_object().unwrap() {
        report[key] = value.clone();
    }
    PastDrill { host: None, report: serde_json::from_value(report).unwrap() }
}

fn in_part() -> Value {
    let snapshot = "20261101T000000000Z-00000000";
    let of = json!({ "drill": snapshot, "snapshot": snapshot, "proved": "2026-11-01T00:00:00Z", "left_out": ["a"],
                     "left_out_bytes": 1, "restored": [] });
    json!({ "reached": null, "rto_seconds": null, "in_part": of })
}

#[test]
fn a_base_is_the_newest_drill_of_a_whole_snapshot_and_none_if_anything_is_in_doubt() {
    let names = ["near", "far"].map(|name| name.parse::<Name>().unwrap());
    let all: BTreeSet<&Name> = names.iter().collect();
    let settings = DrillConfig { full_every: Some(Duration::from_secs(24 * 3600)), ..DrillConfig::default() };
    let found = |past: &[PastDrill], failed: Option<&str>, read: &BTreeSet<&Name>, now: &str| {
        let base = base_of(past, failed.map(time), &settings, read, time(now));
        base.map(|report| report.drill.to_string()[9..11].to_owned())
    };
    let now = "2026-11-01T20:00:00Z";
    let good = || vec![drill(9, &in_part()), drill(8, &json!({})), drill(7, &json!({}))];
    assert_eq!(found(&good(), None, &all, now).as_deref(), Some("08"));
    assert_eq!(found(&good(), Some("2026-11-01T07:59:59Z"), &all, now).as_deref(), Some("08"), "it failed before");
    assert_eq!(found(&good(), Some("2026-11-01T08:00:00Z"), &all, now), None, "it failed since");
    assert_eq!(found(&good(), None, &all, "2026-11-02T08:00:01Z"), None, "it is too long ago");
    assert_eq!(found(&good(), None, &BTreeSet::from([&names[1]]), now), None, "another replica is read");
    assert!(base_of(&good(), None, &DrillConfig::default(), &all, time(now)).is_none(), "nobody asked for it");
    for (why, changes, expected) in [
        ("it failed", json!({ "passed": false, "reached": null }), None),
        ("it was fetched", json!({ "reached": "fetched", "required": "fetched" }), Some("07")),
        ("an older version", json!({ "manifest": null }), Some("07")),
        ("nothing was read", json!({ "replicas_used": [] }), Some("07")),
        ("both were read", json!({ "replicas_used": ["near", "far"] }), Some("08")),
        ("it ended in the future", json!({ "finished": "2026-11-03T00:00:00Z" }), Some("07")),
        ("it began before it could", json!({ "started": "2026-10-01T00:00:00Z" }), None),
    ] {
        let past = [drill(8, &changes), drill(7, &json!({}))];
        assert_eq!(found(&past, None, &all, now).as_deref(), expected, "{why}");
    }
}

/// Pack, offset and length of extents.
type Places<'a> = &'a [(u32, u64, u64)];
/// The name of a stream, each byte of its hash, and where it lies.
type Given<'a> = (&'a str, u8, Places<'a>);

/// A manifest of these streams, each with its hash and its extents in packs.
fn manifest(packs: Vec<PackRef>, streams: &[Given<'_>]) -> (Manifest, Vec<Resolved>) {
    let extents: Vec<Extents> = streams
        .iter()
        .map(|(.., extents)| {
            let each =
                extents.iter().map(|(pack, offset, length)| Extent { pack: *pack, offset: *offset, length: *length });
            Extents::of(each).unwrap()
        })
        .collect();
    let entry = |((name, hash, _), extents): (&Given<'_>, &Extents)| StreamEntry {
        name: (*name).to_owned(),
        length: extents.length(),
        blake3: Digest([*hash; 32]),
        exit: 0,
        extents: extents.bytes().clone(),
        map: None,
    };
    let streams = streams.iter().zip(&extents).map(entry).collect();
    let taken = time("2026-11-01T00:00:00Z");
    let manifest = Manifest {
        format: lifeboat_format::Format::Two,
        requires: lifeboat_format::requirements::Requirements::default(),
        vault: "v".to_owned(),
        dataset: "shop".parse().unwrap(),
        snapshot: "20261101T000000000Z-00000000".parse().unwrap(),
        host: "db1".parse().unwrap(),
        sequence: 1,
        previous: None,
        started: taken,
        finished: taken,
        group: None,
        source: SourceFacts::default(),
        packs,
        streams,
        accounting: lifeboat_format::manifest::Accounting::default(),
    };
    (manifest, extents.into_iter().map(Resolved::from).collect())
}

fn pack(id: u8, generation: u32) -> PackRef {
    PackRef { id: Digest([id; 32]), size: 1 << 16, content: 1000, generation }
}

#[test]
fn a_stream_is_the_same_only_by_its_content_in_the_same_places_of_packs_that_open_in_the_same_way() {
    let packs = || vec![pack(1, 1), pack(2, 1)];
    let (a, b): (Places<'_>, Places<'_>) = (&[(0, 0, 100), (1, 0, 50)], &[(1, 50, 50)]);
    let (base, places) = manifest(packs(), &[("a", 7, a), ("b", 8, b)]);
    let former = FormerStreams::of(&base, &places, 1 << 30);
    let changed = |packs: Vec<PackRef>, streams: &[Given<'_>]| {
        let (manifest, places) = manifest(packs, streams);
        let changed = former.changed(&manifest, &places)?;
        Some(changed.into_iter().map(str::to_owned).collect::<Vec<_>>().join(" "))
    };
    assert_eq!(changed(packs(), &[("a", 7, a), ("b", 8, b)]).as_deref(), Some(""));
    // Extents that touch are one, and packs may have other numbers.
    let (split, turned): (Places<'_>, Places<'_>) = (&[(1, 0, 40), (1, 40, 60), (0, 0, 50)], &[(0, 50, 50)]);
    let other_order = vec![pack(2, 1), pack(1, 1)];
    assert_eq!(changed(other_order, &[("a", 7, split), ("b", 8, turned)]).as_deref(), Some(""));
    let moved: Places<'_> = &[(1, 60, 50)];
    for (why, packs, streams, expected) in [
        ("new content", packs(), vec![("a", 9, a), ("b", 8, b)], Some("a")),
        ("another place", packs(), vec![("a", 7, a), ("b", 8, moved)], Some("b")),
        ("another pack", vec![pack(1, 1), pack(3, 1)], vec![("a", 7, a), ("b", 8, b)], Some("a b")),
        ("another key", vec![pack(1, 2), pack(2, 1)], vec![("a", 7, a), ("b", 8, b)], Some("a")),
        (
            "another length of a pack",
            vec![pack(1, 1), PackRef { content: 999, ..pack(2, 1) }],
            vec![("a", 7, a), ("b", 8, b)],
            Some("a b"),
        ),
        ("a new stream", packs(), vec![("a", 7, a), ("b", 8, b), ("c", 9, b)], Some("c")),
        ("a stream less", packs(), vec![("a", 7, a)], None),
        ("another name", packs(), vec![("a", 7, a), ("c", 8, b)], None),
    ] {
        assert_eq!(changed(packs, &streams).as_deref(), expected, "{why}");
    }
    let (new, places) = manifest(vec![pack(1, 1), pack(9, 1)], &[("a", 7, &[(0, 0, 100), (1, 0, 33 << 20)])]);
    assert!(!former.has_most_of(&new, &places[0]), "too much is new to be read");
    let (new, places) = manifest(vec![pack(1, 1), pack(9, 1)], &[("a", 7, &[(0, 0, 100), (1, 0, 1 << 20)])]);
    assert!(former.has_most_of(&new, &places[0]));
}

#[test]
fn a_report_holds_no_more_names_than_it_may() {
    let names = |count: usize| told((0..count).map(|number| number.to_string()).collect::<Vec<_>>().into_iter());
    assert_eq!((names(0).len(), names(50).len()), (0, 50));
    let many = names(1000);
    assert_eq!((many.len(), many.last().map(String::as_str)), (MAX_TOLD, Some("and 950 more")));
}
