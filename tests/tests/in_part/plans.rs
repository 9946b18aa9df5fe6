//! What a drill in part counts for: the schedule, and what prune keeps.

use std::path::Path;

use serde_json::{Value, json};

use crate::{Hosts, MONTHLY, assert_in_part, metric, sqlite};

/// The only drill that was due.
fn only_drill(told: &Value) -> &Value {
    let drills = told["drills"].as_array().unwrap_or_else(|| panic!("{told}"));
    assert_eq!((drills.len(), &drills[0]["exit_code"]), (1, &json!(0)), "{told:#}");
    &drills[0]["drill"]
}

async fn due(hosts: &Hosts, textfiles: &Path) -> Value {
    let words = ["--json", "drill", "--due", "--textfiles", textfiles.to_str().unwrap()];
    let output = hosts.vault.lifeboat("drill1", &words).await;
    assert_eq!(output.code(), Some(0), "{output}");
    output.json().unwrap()
}

#[tokio::test]
async fn a_drill_in_part_is_as_good_as_a_whole_one_for_the_schedule() {
    let mut hosts = Hosts::at(Some("-240h"), sqlite).await;
    hosts.plan(&format!("schedule = \"@daily\"\n{MONTHLY}"), "");
    hosts.backup().await;
    let textfiles = hosts.vault.path("metrics");
    std::fs::create_dir(&textfiles).unwrap();
    hosts.set_clock("-230h");
    let told = due(&hosts, &textfiles).await;
    let base = only_drill(&told);
    assert_eq!((&base["reached"], &base["in_part"]), (&json!("proved"), &Value::Null), "{told:#}");
    // With a new snapshot, and without one.
    for (clock, backs_up) in [("-206h", true), ("-182h", false)] {
        hosts.set_clock(clock);
        if backs_up {
            hosts.backup().await;
        }
        let told = due(&hosts, &textfiles).await;
        assert_in_part(only_drill(&told), base);
        let file = textfiles.join("lifeboat-drill-shop.prom");
        assert_eq!(["last_status", "due_timestamp_seconds"].map(|of| metric(&file, of)), ["1", "0.000"], "{clock}");
        // It is not due again, and the vault alone tells that, too.
        for forgets in [false, true] {
            if forgets {
                std::fs::remove_file(hosts.vault.path("drill1/state/drills/shop/attempts")).unwrap();
            }
            let again = due(&hosts, &textfiles).await;
            assert_eq!((&again["drills"], &again["waiting"][0]["dataset"]), (&json!([]), &json!("shop")), "{again:#}");
        }
    }
}

#[tokio::test]
async fn prune_keeps_the_newest_that_was_proved_in_part_beside_the_newest_that_was_proved_as_a_whole() {
    let hosts = Hosts::of(sqlite).await;
    let home = "home_region = \"home\"\n";
    hosts.vault.reconfigure("db1", home, &format!("{home}retention = {{ keep_last = 1 }}\n"));
    let whole = hosts.backup().await;
    let base = hosts.whole("the first", &[]).await;
    let older = hosts.backup().await;
    hosts.untouched(&base, &[]).await;
    let newer = hosts.backup().await;
    let report = hosts.untouched(&base, &[]).await;
    assert_eq!(report["snapshot"], newer.as_str(), "{report:#}");
    let undrilled = hosts.backup().await;
    let newest = hosts.backup().await;

    let planned = hosts.vault.lifeboat("db1", &["--json", "prune", "shop", "--dry-run"]).await;
    assert!(planned.status.success(), "{planned}");
    let told = planned.json().unwrap();
    let verdicts = told[0]["plan"]["verdicts"].as_array().unwrap_or_else(|| panic!("{told:#}"));
    let is_kept = |snapshot: &String| {
        let verdict = verdicts.iter().find(|verdict| verdict["snapshot"] == snapshot.as_str());
        verdict.is_some_and(|verdict| verdict["keep_because"].as_array().is_some_and(|why| !why.is_empty()))
    };
    let kept = [&whole, &older, &newer, &undrilled, &newest].map(is_kept);
    assert_eq!(kept, [true, false, true, false, true], "{told:#}");
}
