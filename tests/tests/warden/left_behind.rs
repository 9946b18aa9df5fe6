//! What a thief of the backup host leaves behind: records, marks and lists that wait for somebody
//! who believes them.

use chrono::{TimeDelta, Utc};
use lifeboat_engine::format::act::ActKind;
use lifeboat_engine::format::id::SnapshotId;
use lifeboat_engine::format::layout;
use lifeboat_engine::format::record::RecordType;
use lifeboat_tests::vault::name;
use serde_json::json;

use super::thief::{hand, keys, next_number, nothing_is_lost, robbed};
use super::{at, backup, ids, look};

/// He calls a snapshot removed. Nobody notices, as the warden does not believe it.
#[tokio::test(flavor = "multi_thread")]
async fn a_record_from_the_time_of_a_warden_removes_nothing_when_the_root_has_none_any_more() {
    let (mut vault, all) = robbed().await;
    vault.reconfigure("db1", "keep_last = 1", "keep_last = 9");
    let (hand, signer) = (hand(&vault), keys(&vault).signer);
    let id = SnapshotId::new(Utc::now() + TimeDelta::minutes(5), 7);
    let body = json!({ "removed": [{ "snapshot": all[0], "blake3": null }], "passed": [] });
    let record = hand.record(RecordType::Prune, &hand.host, &id, &body).to_string().into_bytes();
    hand.put_signed(&signer, &layout::prune(&name("shop"), &id), &record);
    at(&mut vault, "+6m");
    vault.change("db1", &["remove-warden"]).await;
    for offset in ["+8m", "+10m"] {
        at(&mut vault, offset);
        backup(&vault, offset).await;
        let pruned = vault.lifeboat("db1", &["prune", "--yes"]).await;
        assert!(pruned.status.success(), "{pruned}");
    }
    nothing_is_lost(&vault, &all).await;

    // What the host itself lets go now goes, in a replica that was away, too.
    vault.reconfigure("db1", "keep_last = 9", "keep_last = 1");
    at(&mut vault, "+12m");
    let marked = vault.lifeboat("db1", &["prune", "--yes"]).await;
    assert!(marked.status.success(), "{marked}");
    at(&mut vault, "+14m");
    let away = vault.path("away");
    std::fs::rename(vault.path("r2"), &away).unwrap();
    vault.lifeboat("db1", &["prune", "--yes"]).await;
    assert_eq!(ids(&vault, "r1").len(), 1);
    std::fs::rename(&away, vault.path("r2")).unwrap();
    let swept = vault.lifeboat("db1", &["prune", "--yes"]).await;
    assert!(swept.status.success(), "{swept}");
    for replica in ["r1", "r2"] {
        assert_eq!(ids(&vault, replica).len(), 1, "{replica}: {swept}");
    }
}

/// He marks what tells which chunks a kept snapshot holds.
#[tokio::test(flavor = "multi_thread")]
async fn an_index_segment_of_a_kept_snapshot_stays_whoever_marks_it() {
    let (mut vault, all) = robbed().await;
    let (hand, signer) = (hand(&vault), keys(&vault).signer);
    let key = layout::index(&name("shop"), &all[1].parse().unwrap());
    let before = hand.read(&key);
    let id = SnapshotId::new(Utc::now() + TimeDelta::minutes(5), 7);
    let body = json!({ "snapshots": [], "packs": [], "objects": [key] });
    let mark = hand.record(RecordType::Mark, &hand.host, &id, &body).to_string().into_bytes();
    hand.put_signed(&signer, &layout::mark(&name("shop"), &id), &mark);
    let number = next_number(&vault);
    hand.put(&layout::act(&name("shop"), number), &hand.act(ActKind::Mark, &signer, number, &id, &mark));
    at(&mut vault, "+6m");
    look(&vault).await;
    at(&mut vault, "+10m");
    let looked = look(&vault).await;
    assert!(looked["carried_out"].to_string().contains(&id.to_string()), "{looked}");
    for replica in ["r1", "r2"] {
        let is_there = std::fs::read(vault.path(replica).join(&key)).is_ok_and(|stored| stored == before);
        assert!(is_there, "{replica}: {looked}");
    }
}
