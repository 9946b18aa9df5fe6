//! What the warden remembers of a dataset, and how it goes on when that is lost.

use super::{at, backup, counts, ids, look, vault, warden};

#[tokio::test(flavor = "multi_thread")]
async fn a_warden_whose_memory_is_lost_or_damaged_deletes_nothing_until_it_is_told_to_begin_anew() {
    let mut vault = vault().await;
    vault.reconfigure("warden1", "keep_last = 2", "keep_last = 1");
    for (offset, content) in [("+0s", "the first"), ("+2m", "the second")] {
        at(&mut vault, offset);
        backup(&vault, content).await;
        look(&vault).await;
    }
    let all = ids(&vault, "r1");
    let memory = vault.path("warden1/state/datasets/shop/first-sights");
    at(&mut vault, "+6m");
    for damaged in [None, Some("rubbish"), Some("")] {
        std::fs::remove_file(&memory).unwrap();
        if let Some(text) = damaged {
            std::fs::write(&memory, text).unwrap();
        }
        for _ in 0..2 {
            let refused = warden(&vault, &[]).await;
            assert!(!refused.status.success(), "{refused}");
            assert!(refused.to_string().contains("warden --begin-anew shop"), "{refused}");
            assert_eq!(std::fs::read_to_string(&memory).ok().as_deref(), damaged, "{refused}");
            assert_eq!(ids(&vault, "r1"), all, "{refused}");
        }
        std::fs::write(&memory, "").unwrap();
    }
    let strange = warden(&vault, &["--begin-anew", "other"]).await;
    assert_eq!(strange.status.code(), Some(2), "{strange}");
    let anew = warden(&vault, &["--begin-anew", "shop"]).await;
    assert!(anew.status.success(), "{anew}");
    // It waits anew.
    assert_eq!(ids(&vault, "r1"), all);
    let shown = vault.lifeboat("db1", &["--json", "audit", "show", "--log", "wardens/warden1"]).await.to_string();
    assert!(shown.contains("what was seen first of dataset shop begins anew"), "{shown}");
    at(&mut vault, "+8m");
    let swept = look(&vault).await;
    assert_eq!(counts(&swept)[0], 1, "{swept}");
    assert_eq!(ids(&vault, "r1"), all[1..]);
}
