//! What a thief of the backup host leaves behind: records, marks and lists that wait for somebody
//! who believes them.

use chrono::{TimeDelta, Utc};
use lifeboat_engine::format::act::ActKind;
use lifeboat_engine::format::id::SnapshotId;
use lifeboat_engine::format::layout;
use lifeboat_engine::format::needs::split_needs;
use lifeboat_engine::format::record::RecordType;
use lifeboat_engine::keys::sign::Signer;
use lifeboat_tests::vault::name;
use serde_json::json;

use super::thief::{hand, keys, next_number, nothing_is_lost, robbed};
use super::{at, backup, ids, look, warden};

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

/// He calls a snapshot removed in a record that tells a time to come, when nobody may be left who
/// does not believe it.
#[tokio::test(flavor = "multi_thread")]
async fn the_warden_stays_in_the_root_while_a_record_waits_for_its_end() {
    let (mut vault, all) = robbed().await;
    let (hand, signer) = (hand(&vault), keys(&vault).signer);
    let id = SnapshotId::new(Utc::now() + TimeDelta::hours(2), 7);
    let body = json!({ "removed": [{ "snapshot": all[0], "blake3": null }], "passed": [] });
    let record = hand.record(RecordType::Prune, &hand.host, &id, &body).to_string().into_bytes();
    let key = layout::prune(&name("shop"), &id);
    hand.put_signed(&signer, &key, &record);
    at(&mut vault, "+6m");
    let request = ["root", "request", "remove-warden"];
    let refused = vault.lifeboat("db1", &request).await;
    assert_eq!(refused.status.code(), Some(6), "{refused}");
    let told = refused.stderr.contains(&format!("{key} tells a time to come"));
    assert!(told && refused.stderr.contains("remove-host db1"), "{refused}");
    let away = vault.path("away");
    std::fs::rename(vault.path("r2"), &away).unwrap();
    let blind = vault.lifeboat("db1", &request).await;
    assert!(!blind.status.success(), "{blind}");
    std::fs::rename(&away, vault.path("r2")).unwrap();

    for replica in ["r1", "r2"] {
        for file in [key.clone(), layout::signature(&key)] {
            std::fs::remove_file(vault.path(replica).join(file)).unwrap();
        }
    }
    vault.change("db1", &["remove-warden"]).await;
    at(&mut vault, "+3h");
    vault.reconfigure("db1", "keep_last = 1", "keep_last = 9");
    let pruned = vault.lifeboat("db1", &["prune", "--yes"]).await;
    assert!(pruned.status.success(), "{pruned}");
    nothing_is_lost(&vault, &all).await;
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

/// He puts rubbish over what an old snapshot needs, in every replica.
#[tokio::test(flavor = "multi_thread")]
async fn a_host_writes_a_list_of_needs_anew_that_it_cannot_believe_and_the_warden_goes_on() {
    let (mut vault, all) = robbed().await;
    let key = layout::needs(&name("shop"), &all[0].parse().unwrap());
    let hand = hand(&vault);
    let told = hand.read(&key);
    let (line, _) = split_needs(&told).unwrap();
    at(&mut vault, "+6m");
    for rubbish in [b"rubbish".to_vec(), line[..line.len() / 2].to_vec(), vec![b'x'; 1 << 20]] {
        hand.put(&key, &rubbish);
        let stopped = warden(&vault, &[]).await;
        assert!(!stopped.status.success(), "{stopped}");
        assert!(stopped.to_string().contains("run `lifeboat prune shop`"), "{stopped}");
        let pruned = vault.lifeboat("db1", &["prune", "--yes"]).await;
        assert!(pruned.status.success(), "{pruned}");
        for replica in ["r1", "r2"] {
            let stored = std::fs::read(vault.path(replica).join(&key)).unwrap();
            assert_eq!(split_needs(&stored).map(|(line, _)| line), Some(line), "{replica}");
        }
        look(&vault).await;
    }
    nothing_is_lost(&vault, &all).await;
}

/// The signer of a list counts no more, as that of a host that was revoked.
#[tokio::test(flavor = "multi_thread")]
async fn the_warden_believes_a_list_that_it_has_seen_whoever_signed_it() {
    let (mut vault, all) = robbed().await;
    let key = layout::needs(&name("shop"), &all[0].parse().unwrap());
    let (hand, comment) = (hand(&vault), layout::trusted_comment(&keys(&vault).vault, &key));
    let told = hand.read(&key);
    let (line, _) = split_needs(&told).unwrap();
    let mut strange = line.to_vec();
    strange.extend_from_slice(Signer::generate().unwrap().sign(line, &comment).unwrap().as_bytes());
    hand.put(&key, &strange);
    at(&mut vault, "+6m");
    look(&vault).await;
    nothing_is_lost(&vault, &all).await;
}
