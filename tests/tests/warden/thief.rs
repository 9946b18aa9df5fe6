//! What a thief of the backup host gets where there is a warden: nothing that this one keeps goes.

use chrono::{TimeDelta, Utc};
use lifeboat_engine::config::{Config, Surroundings};
use lifeboat_engine::format::act::ActKind;
use lifeboat_engine::format::id::SnapshotId;
use lifeboat_engine::format::layout;
use lifeboat_engine::format::log::{LogKind, LogName};
use lifeboat_engine::format::needs::{SnapshotNeeds, split_needs};
use lifeboat_engine::format::record::RecordType;
use lifeboat_engine::keys::HostKeys;
use lifeboat_tests::by_hand::Hand;
use lifeboat_tests::rooted::RootedVault;
use lifeboat_tests::vault::name;
use serde_json::{Value, json};

use super::{at, backup, counts, deletion_line, files, ids, look, vault, warden};

/// Three snapshots that the warden keeps, of which it has seen what they need.
pub(super) async fn robbed() -> (RootedVault, Vec<String>) {
    let mut vault = vault().await;
    vault.reconfigure("warden1", "keep_last = 2", "keep_last = 3");
    for (offset, content) in [("+0s", "the first"), ("+2m", "the second"), ("+4m", "the third")] {
        at(&mut vault, offset);
        backup(&vault, content).await;
    }
    look(&vault).await;
    let all = ids(&vault, "r1");
    (vault, all)
}

pub(super) fn keys(vault: &RootedVault) -> HostKeys {
    HostKeys::load(&Config::load(&vault.config("db1"), &Surroundings::default()).unwrap().keys).unwrap()
}

pub(super) fn hand(vault: &RootedVault) -> Hand {
    let config = Config::load(&vault.config("db1"), &Surroundings::default()).unwrap();
    Hand::of(&config, vault.identity("ann").as_ref())
}

/// All of these snapshots are there, and restore.
pub(super) async fn nothing_is_lost(vault: &RootedVault, all: &[String]) {
    for replica in ["r1", "r2"] {
        let there = ids(vault, replica);
        assert!(all.iter().all(|id| there.contains(id)), "{replica}: {there:?} of {all:?}");
    }
    for (id, content) in all.iter().zip(["the first", "the second", "the third"]) {
        assert_eq!(vault.restored("shop", "r1", &["--snapshot", id]).await.unwrap(), content);
    }
}

/// He marks all, and says that the marks are old; he calls all removed, and says that no snapshot
/// needs a pack.
#[tokio::test(flavor = "multi_thread")]
async fn a_thief_of_the_host_marks_and_removes_all_and_the_warden_keeps_what_it_promised() {
    let (mut vault, all) = robbed().await;
    let hand = hand(&vault);
    // A prune record that removes all.
    let removed: Vec<Value> = all.iter().map(|id| json!({ "snapshot": id, "blake3": null })).collect();
    let id = SnapshotId::new(chrono::Utc::now() + chrono::TimeDelta::minutes(3), 7);
    let body = json!({ "removed": removed, "passed": [] });
    let record = hand.record(RecordType::Prune, &hand.host, &id, &body).to_string().into_bytes();
    hand.put_signed(&keys(&vault).signer, &layout::prune(&name("shop"), &id), &record);
    // His own retention marks all but one, and his packs are nobody's.
    at(&mut vault, "+6m");
    backup(&vault, "his own").await;
    at(&mut vault, "+8m");
    look(&vault).await;
    at(&mut vault, "+12m");
    let looked = look(&vault).await;
    assert!(counts(&looked)[1] > 0, "{looked}");
    // The newest three stay, and of the older ones what the mark and the rules agree on may go.
    nothing_is_lost_but_the_oldest(&vault, &all).await;
}

async fn nothing_is_lost_but_the_oldest(vault: &RootedVault, all: &[String]) {
    for replica in ["r1", "r2"] {
        let there = ids(vault, replica);
        assert!(all[1..].iter().all(|id| there.contains(id)), "{replica}: {there:?} of {all:?}");
    }
    for (id, content) in all.iter().zip(["the first", "the second", "the third"]).skip(1) {
        assert_eq!(vault.restored("shop", "r1", &["--snapshot", id]).await.unwrap(), content);
    }
}

/// He overwrites what an old snapshot needs by an empty list, in one replica or both.
#[tokio::test(flavor = "multi_thread")]
async fn a_list_of_needs_that_was_overwritten_is_refused_and_nothing_is_deleted() {
    let (mut vault, all) = robbed().await;
    let oldest: SnapshotId = all[0].parse().unwrap();
    let key = layout::needs(&name("shop"), &oldest);
    let forged = emptied(&vault, &oldest, &std::fs::read(vault.path("r1").join(&key)).unwrap());
    std::fs::write(vault.path("r1").join(&key), &forged).unwrap();
    // The other region has the true one.
    at(&mut vault, "+6m");
    look(&vault).await;
    std::fs::write(vault.path("r2").join(&key), &forged).unwrap();
    at(&mut vault, "+12m");
    let before = files(&vault.path("r1/datasets/shop/packs")).len();
    let refused = warden(&vault, &[]).await;
    assert!(!refused.status.success(), "{refused}");
    assert!(refused.to_string().contains("is not what it was when this warden first saw it"), "{refused}");
    assert_eq!(files(&vault.path("r1/datasets/shop/packs")).len(), before);
    nothing_is_lost(&vault, &all).await;
}

/// He writes a false list before the warden has ever seen one, in one region or both.
#[tokio::test(flavor = "multi_thread")]
async fn a_first_list_that_is_false_is_doubted_and_told_by_an_honest_host() {
    let mut vault = vault().await;
    for (offset, content) in [("+0s", "the first"), ("+2m", "the second")] {
        at(&mut vault, offset);
        backup(&vault, content).await;
    }
    let all = ids(&vault, "r1");
    let (dataset, oldest) = (name("shop"), all[0].parse().unwrap());
    let key = layout::needs(&dataset, &oldest);
    let stored = std::fs::read(vault.path("r1").join(&key)).unwrap();
    let forged = emptied(&vault, &oldest, &stored);
    std::fs::write(vault.path("r1").join(&key), &forged).unwrap();
    let doubted = warden(&vault, &[]).await;
    assert!(!doubted.status.success(), "{doubted}");
    assert!(doubted.to_string().contains("tell different lists of what snapshot"), "{doubted}");
    std::fs::write(vault.path("r2").join(&key), &forged).unwrap();
    let told = vault.lifeboat("db1", &["prune", "--yes"]).await;
    assert!(!told.status.success(), "{told}");
    assert!(told.to_string().contains("told something else than the manifest, and was signed"), "{told}");
    for replica in ["r1", "r2"] {
        let now = std::fs::read(vault.path(replica).join(&key)).unwrap();
        assert_eq!(split_needs(&now).map(|(line, _)| line), split_needs(&stored).map(|(line, _)| line), "{replica}");
    }
    at(&mut vault, "+3m");
    look(&vault).await;
    let again = vault.lifeboat("db1", &["prune", "--yes"]).await;
    assert!(again.status.success(), "{again}");
    nothing_is_lost(&vault, &all).await;
}

/// He writes names into the warden's log that are no records, so that nobody reads what it tells.
#[tokio::test(flavor = "multi_thread")]
async fn false_names_in_the_log_of_the_warden_hide_nothing() {
    let (mut vault, _) = robbed().await;
    let told = deletion_line(&vault, "list").await;
    assert!(told.contains("REFUSED by the warden"), "{told}");
    for replica in ["r1", "r2"] {
        for number in 1000..1100 {
            let key = layout::log_record(&LogName { kind: LogKind::Wardens, name: name("warden1") }, number);
            std::fs::write(vault.path(replica).join(key), "rubbish").unwrap();
        }
    }
    assert_eq!(deletion_line(&vault, "list").await, told);
    at(&mut vault, "+5m");
    look(&vault).await;
}

/// A list by the host that calls for no pack.
fn emptied(vault: &RootedVault, snapshot: &SnapshotId, stored: &[u8]) -> Vec<u8> {
    let (keys, dataset) = (keys(vault), name("shop"));
    let (line, _) = split_needs(stored).unwrap();
    let mut needs = SnapshotNeeds::of_line(line, &keys.vault, &dataset, snapshot, "it").unwrap();
    assert!(!needs.packs.is_empty());
    (needs.packs, needs.sizes) = (Vec::new(), Vec::new());
    let comment = layout::trusted_comment(&keys.vault, &layout::needs(&dataset, snapshot));
    let mut forged = needs.to_line().unwrap();
    let signature = keys.signer.sign(&forged, &comment).unwrap();
    forged.extend_from_slice(signature.as_bytes());
    forged
}

/// The number after that of the newest act.
pub(super) fn next_number(vault: &RootedVault) -> u64 {
    let folder = layout::order(&name("shop"));
    let acts = files(&vault.path("r1").join(&folder)).into_keys();
    acts.filter_map(|file| layout::parse_act(&name("shop"), &format!("{folder}{file}"))).max().unwrap() + 1
}

/// He writes an empty mark, waits until it is due, and puts a snapshot into it.
#[tokio::test(flavor = "multi_thread")]
async fn a_mark_whose_content_was_exchanged_is_doubted_and_waits_anew() {
    let (mut vault, all) = robbed().await;
    at(&mut vault, "+6m");
    look(&vault).await;
    let (hand, signer) = (hand(&vault), keys(&vault).signer);
    let id = SnapshotId::new(Utc::now() + TimeDelta::minutes(6), 7);
    let mark = |snapshots: Value| {
        let body = json!({ "snapshots": snapshots, "packs": [] });
        hand.record(RecordType::Mark, &hand.host, &id, &body).to_string().into_bytes()
    };
    let key = layout::mark(&name("shop"), &id);
    let (empty, full) = (mark(json!([])), mark(json!([{ "snapshot": all[0], "blake3": null }])));
    hand.put_signed(&signer, &key, &empty);
    let number = next_number(&vault);
    hand.put(&layout::act(&name("shop"), number), &hand.act(ActKind::Mark, &signer, number, &id, &full));
    vault.reconfigure("warden1", "keep_last = 3", "keep_last = 1");
    at(&mut vault, "+7m");
    let seen = look(&vault).await;
    assert_eq!(counts(&seen), [0, 0, 1], "{seen}");
    let since = &seen["waiting_since"];
    assert!(since.is_string(), "{seen}");

    at(&mut vault, "+10m");
    hand.put_signed(&signer, &key, &full);
    let doubted = warden(&vault, &[]).await;
    assert!(!doubted.status.success(), "{doubted}");
    assert!(doubted.to_string().contains("is not what it was when this warden first saw it"), "{doubted}");
    nothing_is_lost(&vault, &all).await;
    let waits = look(&vault).await;
    assert_eq!(counts(&waits), [0, 0, 1], "{waits}");
    // Its log tells everybody how long that mark waits already.
    assert_eq!(&waits["waiting_since"], since, "{waits}");
    let shown = vault.lifeboat("db1", &["--json", "audit", "show", "--log", "wardens/warden1"]).await.to_string();
    assert!(shown.contains(&format!("\"since\": {since}")), "{shown}");
    nothing_is_lost(&vault, &all).await;
    at(&mut vault, "+12m");
    let swept = look(&vault).await;
    assert_eq!(counts(&swept), [1, 0, 0], "{swept}");
    assert_eq!(ids(&vault, "r1"), all[1..]);
}

/// Old snapshots are marked. A moment before that is due, he commits others that displace them.
#[tokio::test(flavor = "multi_thread")]
async fn what_new_snapshots_displace_waits_since_then_and_is_told_while_it_is_kept() {
    let (mut vault, all) = robbed().await;
    let waits = look(&vault).await;
    assert_eq!(counts(&waits), [0, 2, 2], "{waits}");
    assert!(waits["refused"].to_string().contains("it waits, and now 1 of its snapshots stay"), "{waits}");
    let shown = vault.lifeboat("db1", &["--json", "audit", "show", "--log", "wardens/warden1"]).await.to_string();
    assert!(shown.contains("it waits, and now"), "{shown}");
    for (offset, content) in [("+6m", "his first"), ("+7m", "his second"), ("+8m", "his third")] {
        at(&mut vault, offset);
        backup(&vault, content).await;
    }
    let displaced = look(&vault).await;
    assert_eq!(displaced["outcome"]["snapshots"], 0, "{displaced}");
    nothing_is_lost(&vault, &all).await;
    // Whoever sees that has as long to veto as for any mark.
    at(&mut vault, "+510s");
    look(&vault).await;
    nothing_is_lost(&vault, &all).await;
    at(&mut vault, "+10m");
    let swept = look(&vault).await;
    assert_eq!(swept["outcome"]["snapshots"], 1, "{swept}");
    assert!(!ids(&vault, "r1").contains(&all[0]));
}

/// He puts rubbish over a snapshot and what it needs in every replica, calls it removed, and marks
/// its packs.
#[tokio::test(flavor = "multi_thread")]
async fn a_snapshot_that_was_hidden_and_called_removed_stops_deletion() {
    let (mut vault, all) = robbed().await;
    let (hand, signer) = (hand(&vault), keys(&vault).signer);
    let oldest: SnapshotId = all[0].parse().unwrap();
    let packs = hand.manifest(&oldest).packs;
    let key = layout::manifest(&name("shop"), &oldest);
    // A versioned bucket keeps what was there. Here it is gone.
    for replica in ["r1", "r2"] {
        for lost in [key.clone(), layout::signature(&key), layout::needs(&name("shop"), &oldest)] {
            std::fs::remove_file(vault.path(replica).join(lost)).unwrap();
        }
    }
    let at_six = Utc::now() + TimeDelta::minutes(6);
    let (id, marked) = (SnapshotId::new(at_six, 7), SnapshotId::new(at_six, 8));
    let number = next_number(&vault);
    let body = json!({ "removed": [{ "snapshot": oldest, "blake3": null }], "passed": [[1, number - 1]] });
    let record = hand.record(RecordType::Prune, &hand.host, &id, &body).to_string().into_bytes();
    hand.put_signed(&signer, &layout::prune(&name("shop"), &id), &record);
    let packs: Vec<_> = packs.iter().map(|pack| pack.id).collect();
    let body = json!({ "snapshots": [], "packs": packs });
    let mark = hand.record(RecordType::Mark, &hand.host, &marked, &body).to_string().into_bytes();
    hand.put_signed(&signer, &layout::mark(&name("shop"), &marked), &mark);
    let act = hand.act(ActKind::Mark, &signer, number, &marked, &mark);
    hand.put(&layout::act(&name("shop"), number), &act);
    let before = files(&vault.path("r1/datasets/shop/packs")).len();
    for offset in ["+7m", "+12m"] {
        at(&mut vault, offset);
        let refused = warden(&vault, &[]).await;
        assert_eq!(files(&vault.path("r1/datasets/shop/packs")).len(), before, "{refused}");
        assert!(!refused.status.success(), "{refused}");
        assert!(refused.to_string().contains(&format!("snapshot {oldest} is missing")), "{refused}");
    }
}
