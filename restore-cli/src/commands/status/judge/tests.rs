use std::collections::BTreeMap;
use std::time::Duration;

use chrono::TimeDelta;
use lifeboat_engine::Error;
use lifeboat_engine::config::{Objectives, ProofLevel};
use lifeboat_engine::drill::{DrillHistory, DrillReport};
use serde_json::json;

use super::super::daemon::DaemonStatus;
use super::super::facts::RegionSnapshot;
use super::*;
use crate::deletion::DatasetDeletion;

const HOUR: f64 = 3600.0;

fn name(text: &str) -> Name {
    text.parse().unwrap()
}

fn drill(facts: &Facts, age_days: i64, passed: bool, rto_objective: Option<f64>) -> PastDrill {
    let finished = facts.now - TimeDelta::days(age_days);
    let level = if passed { json!("proved") } else { json!(null) };
    let report: DrillReport = serde_json::from_value(json!({
        "drill": "20261123T180000000Z-9f2c81aa", "vault": "v", "dataset": "shop", "snapshot": null,
        "engine": null, "started": finished, "finished": finished, "replicas_used": [],
        "replicas_unreachable": {}, "required": "proved", "reached": level, "passed": passed,
        "error": null, "phases": [], "restored_bytes": 1, "rto_seconds": 60.0, "rpo_seconds": 60.0,
        "rto_objective_seconds": rto_objective, "rpo_objective_seconds": null, "checks": [], "proof": null,
    }))
    .unwrap();
    PastDrill { host: Some(name("drill1")), report }
}

/// One dataset in two regions, half an hour old, proved yesterday; nothing needs attention.
fn good() -> Facts {
    let snapshot = RegionSnapshot { id: "20261123T193000000Z-9f2c81aa".parse().unwrap(), age_seconds: HOUR / 2.0 };
    let regions = ["eu", "us"];
    let mut facts = Facts {
        now: "2026-11-23T20:00:00Z".parse().unwrap(),
        regions: regions.map(|region| (region.to_owned(), vec![name(region)])).into(),
        unreachable: BTreeMap::new(),
        daemon: DaemonAnswer::Answered(DaemonStatus::default()),
        datasets: Vec::new(),
        deletion: BTreeMap::new(),
    };
    facts.datasets.push(DatasetFacts {
        name: name("shop"),
        is_scheduled: true,
        objectives: Objectives { rpo: Some(Duration::from_secs(3600)), rto: None },
        required: ProofLevel::Proved,
        newest: regions.map(|region| (region.to_owned(), Some(snapshot.clone()))).into(),
        unbelieved: Vec::new(),
        future: Vec::new(),
        drills: DrillHistory { drills: vec![drill(&facts, 1, true, None)], gaps: Vec::new() },
    });
    facts
}

/// What needs attention after `change`, how the dataset stands, and the sentence.
fn after(change: impl FnOnce(&mut Facts)) -> (Vec<String>, Standing, String) {
    let mut facts = good();
    change(&mut facts);
    let told = attention(&facts).into_iter().map(|found| format!("{:?} {}", found.urgency, found.what)).collect();
    (told, standing(&facts, &facts.datasets[0]), sentence(&facts))
}

#[test]
fn all_good_is_one_sentence_and_nothing_else() {
    let (told, standing, sentence) = after(|_| {});
    assert_eq!((told, standing), (Vec::new(), Standing::Proved));
    let expected = "Any one region alone can restore everything. Oldest recovery point: 30 min, objective 1 h.";
    assert_eq!(sentence, expected);
}

#[test]
fn a_region_that_lacks_something_or_does_not_answer_is_a_risk() {
    let (told, standing, sentence) = after(|facts| {
        facts.datasets[0].newest.insert("us".to_owned(), None);
    });
    assert_eq!(told, ["Critical region us has no snapshot of it"]);
    assert_eq!((standing, sentence.as_str()), (Standing::AtRisk, "NOT SAFE: shop is at risk."));

    let old = RegionSnapshot { id: "20261123T191500000Z-9f2c81aa".parse().unwrap(), age_seconds: HOUR * 0.75 };
    let (told, standing, sentence) = after(|facts| {
        facts.datasets[0].newest.insert("us".to_owned(), Some(old.clone()));
    });
    assert_eq!(told, ["Critical region us lacks the newest snapshot; what it has is 45 min old"]);
    // It can still be restored from there within the objective.
    assert_eq!(standing, Standing::Proved);
    assert!(sentence.contains("45 min"), "{sentence}");

    let (told, standing, _) = after(|facts| {
        facts.unreachable.insert(name("us"), "replica us: refused".to_owned());
        facts.datasets[0].newest.insert("us".to_owned(), None);
    });
    assert_eq!(told, ["Critical replica us does not answer: refused"]);
    assert_eq!(standing, Standing::AtRisk);

    let (told, standing, _) = after(|facts| facts.datasets[0].newest.values_mut().for_each(|newest| *newest = None));
    assert!(told[0].contains("never backed up"), "{told:?}");
    assert_eq!(standing, Standing::Unprotected);
}

#[test]
fn what_is_partial_damaged_or_behind_is_at_risk_whatever_its_age() {
    let told = |field: &str, value: serde_json::Value| {
        let status = json!({ "datasets": { "shop": { field: value } } });
        after(|facts| facts.daemon = DaemonAnswer::Answered(serde_json::from_value(status).unwrap()))
    };
    assert_eq!(told("skipped", json!(1)).1, Standing::AtRisk);
    assert_eq!(told("scrubs", json!({ "us": { "damaged_objects": 1 } })).1, Standing::AtRisk);
    let old = RegionSnapshot { id: "20261001T191500000Z-9f2c81aa".parse().unwrap(), age_seconds: 1000.0 * HOUR };
    let (_, standing, _) = after(|facts| {
        facts.datasets[0].objectives.rpo = None;
        facts.datasets[0].newest.insert("us".to_owned(), Some(old));
    });
    assert_eq!(standing, Standing::AtRisk);
    let (told, ..) = after(|facts| facts.datasets[0].unbelieved.push("snapshot x does not count: forged".to_owned()));
    assert_eq!(told, ["Warning snapshot x does not count: forged"]);
}

#[test]
fn an_old_backup_misses_its_objective_and_a_silent_daemon_promises_none() {
    let (told, standing, _) = after(|facts| {
        facts.datasets[0].newest.values_mut().flatten().for_each(|newest| newest.age_seconds = HOUR + 1.0);
    });
    assert_eq!(told, ["Critical the newest backup is 1 h old, and the objective is 1 h"]);
    assert_eq!(standing, Standing::AtRisk);
    let (told, standing, _) = after(|facts| facts.daemon = DaemonAnswer::Silent(Error::failed("refused")));
    assert_eq!(told, ["Critical no backup runs by schedule: refused"]);
    assert_eq!(standing, Standing::AtRisk);
}

#[test]
fn what_no_drill_has_restored_of_late_is_not_called_proved() {
    let drills = |drills: Vec<(i64, bool)>| {
        after(|facts| {
            let all = drills.iter().map(|(days, passed)| drill(facts, *days, *passed, None)).collect();
            facts.datasets[0].drills.drills = all;
        })
    };
    let (told, standing, sentence) = drills(Vec::new());
    assert_eq!(told, ["Warning no drill has ever restored it, so nobody knows that it can be"]);
    assert_eq!(standing, Standing::Unproved);
    assert!(sentence.ends_with("But no drill of late has proved it."), "{sentence}");
    let (told, standing, _) = drills(vec![(9, true)]);
    assert_eq!((told.len(), standing), (1, Standing::Unproved), "{told:?}");
    // An older proof still counts, but nobody overlooks the failure.
    let (told, standing, _) = drills(vec![(1, false), (2, true)]);
    assert!(told[0].starts_with("Critical the last drill FAILED 2026-11-22"), "{told:?}");
    assert_eq!((told.len(), standing), (1, Standing::Proved));
    let (told, ..) = after(|facts| facts.datasets[0].drills.drills = vec![drill(facts, 1, true, Some(30.0))]);
    assert_eq!(told, ["Warning the last drill missed its objective (RTO)"]);
}

#[test]
fn what_the_daemon_found_stands_on_the_page_the_most_urgent_first() {
    let status = json!({ "datasets": { "shop": {
        "deletion_stopped": "act 5 is missing", "error": "replica us: full", "skipped": 1, "takeover_needed": true,
        "led_by": "db1", "unlogged": "no room", "anomalies": [{ "snapshot": null, "why": ["shrank"] }],
        "doubtful_times": { "20361123T193000000Z-9f2c81aa": "2036-11-23T19:30:00Z" },
        "scrubs": { "us": { "damaged_objects": 2 } }, "newer_field": 1,
    } } });
    let (told, ..) =
        after(|facts| facts.daemon = DaemonAnswer::Answered(serde_json::from_value(status.clone()).unwrap()));
    let critical = told.iter().take_while(|told| told.starts_with("Critical")).count();
    assert_eq!((critical, told.len()), (4, 8), "{told:#?}");
}

#[test]
fn what_the_warden_did_not_do_needs_attention_and_what_waits_does_not() {
    let told = |word: serde_json::Value| {
        let warden = Some(serde_json::from_value(word).unwrap());
        after(|facts| drop(facts.deletion.insert(name("shop"), DatasetDeletion { warden, ..Default::default() }))).0
    };
    let (mark, looked) = ("20261123T180000000Z-9f2c81aa", "2026-11-23T19:00:00Z");
    let waits = |since: &str| json!({ "dataset": "shop", "marks": 2, "until": "2026-11-29T09:00:00Z", "since": since, "delay": 604_800 });
    let waiting = waits("2026-11-22T09:00:00Z");
    let good =
        json!({ "looked": looked, "failed": [], "waiting": waiting, "refused": {}, "vetoed": { mark: ["ann"] } });
    assert_eq!(told(good.clone()), Vec::<String>::new());
    let with = |field: &str, value: serde_json::Value| {
        let mut word = good.clone();
        word[field] = value;
        told(word)
    };
    let never = "Critical the warden has never looked, so nothing is deleted, and locks may run out";
    assert_eq!(with("looked", json!(null)), [never]);
    assert!(with("looked", json!("2026-11-23T16:59:59Z"))[0].contains("not looked since 2026-11-23T16:59:59Z"));
    assert_eq!(
        with("failed", json!(["a list is lost"])),
        ["Warning the warden's last look did not do all: a list is lost"]
    );
    assert_eq!(
        with("waiting", waits("2026-11-01T09:00:00Z")),
        ["Warning the warden has let a mark wait since 2026-11-01T09:00:00Z, much longer than it must"]
    );
    let refused = format!("Warning the warden refuses 1 mark of backup hosts, such as {mark}: last 2 of 2");
    assert_eq!(with("refused", json!({ mark: "last 2 of 2" })), [refused]);
}
