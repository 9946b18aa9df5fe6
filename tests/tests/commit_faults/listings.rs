//! Listings that are cut, or that tell what was there some time ago. A listing that lacks the
//! newest objects leads to no deletion of what is needed, and to no false success.

use lifeboat_engine::format::layout;
use lifeboat_engine::store::Failure;
use lifeboat_engine::{Class, Error};
use lifeboat_tests::faults::takes_every_fault;
use lifeboat_tests::tally::Tally;
use lifeboat_tests::vault::{DATASET, name};

use crate::prepared::{ATTEMPT, GRACE, NEWEST, NEXT, Prepared, VaultCopy, streams};

/// So many that the manifests are on the second page of a listing.
async fn two_pages() -> Prepared {
    let prepared = Prepared::new(24).await;
    let below = layout::dataset(&name(DATASET));
    assert!(prepared.objects.iter().filter(|(key, _)| key.starts_with(&below)).count() > 120);
    prepared
}

/// All snapshots that were there before are shown, and all their packs are there.
async fn assert_nothing_went(copy: &VaultCopy<'_>, when: &str) {
    let shown = copy.shown().await;
    assert!(copy.prepared.snapshots.keys().all(|snapshot| shown.contains(snapshot)), "{when}: one is not shown");
    let packs = layout::packs(&name(DATASET));
    for (key, _) in copy.prepared.objects.iter().filter(|(key, _)| key.starts_with(&packs)) {
        for replica in &copy.sound {
            assert!(replica.head(key).await.unwrap().is_some(), "{when}: {key} went from {}", replica.name());
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_that_sees_half_of_a_listing_harms_nothing() {
    let prepared = two_pages().await;
    let (mut cut, mut pruned) = (0, 0);
    for fleet in [(1, 1), (2, 2)] {
        // vault.json, the keyring and the dataset are listed first.
        for call in 1..=8 {
            let copy = prepared.copy(fleet).await;
            copy.failing.fail(call, Failure::ListingCut);
            let when = format!("{fleet:?}, listing cut at call {call}");
            match copy.backup(&copy.replicas, ATTEMPT).await {
                Ok(report) => copy.assert_committed(&report, &when).await,
                Err(error) => assert_ne!(error.class(), Class::Unknown, "{when}: {error:?}"),
            }
            copy.backup(&copy.sound, NEXT).await.unwrap_or_else(|error| panic!("{when}: {error:?}"));
            for _ in 0..3 {
                pruned += u64::from(copy.prune(&copy.sound).await.is_ok_and(|told| told.is_empty()));
                copy.clock.advance(GRACE + GRACE);
            }
            assert_nothing_went(&copy, &when).await;
            cut += copy.failing.cut_listings();
        }
    }
    assert!(cut > 0 && pruned > 0, "{cut} listings were cut, and {pruned} prunes deleted what they could");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_prune_that_sees_half_of_a_listing_deletes_nothing_that_is_needed() {
    let prepared = two_pages().await;
    let mut told = 0;
    for fleet in [(1, 1), (2, 1)] {
        for call in 1..=8 {
            let copy = prepared.copy(fleet).await;
            let when = format!("{fleet:?}, listing cut at call {call}");
            for _ in 0..3 {
                let next = copy.failing.calls() + call;
                copy.failing.fail(next, Failure::ListingCut);
                match copy.prune(&copy.replicas).await {
                    Ok(failures) => told += u64::from(!failures.is_empty()),
                    Err(error) => {
                        assert_eq!(error.class(), Class::Integrity, "{when}: {error:?}");
                        told += 1;
                    }
                }
                copy.clock.advance(GRACE + GRACE);
            }
            assert_nothing_went(&copy, &when).await;
        }
    }
    assert!(told > 0, "no cut listing was noticed");
}

/// Without the signature of the newest snapshot, without its act as well, without its manifest as
/// well, and without anything of it.
const STALE: [u64; 4] = [1, 2, 3, u64::MAX];
/// The call that is told something old; `None` means that all are. The third call lists the
/// dataset. Others are tried if `LIFEBOAT_EVERY_FAULT` is set.
fn stale_calls() -> Vec<(u64, Option<u64>)> {
    let calls = (0..=8).filter(|call| takes_every_fault() || [0, 3].contains(call));
    let calls = calls.map(|call| Some(call).filter(|call| *call > 0));
    calls.flat_map(|call| STALE.map(|changes| (changes, call))).collect()
}

/// Makes listings of the failing replica tell what was there so many changes ago.
fn make_stale(copy: &VaultCopy<'_>, changes: u64, call: Option<u64>) {
    let next = copy.failing.calls() + 1;
    let calls = call.map_or(next..next + 1000, |call| next + call - 1..next + call);
    calls.for_each(|call| copy.failing.fail(call, Failure::ListingStale(changes)));
}

/// Whether a listing was noticed that lacks what this host has seen.
fn is_old(error: &Error) -> bool {
    let can_wait = error.hint_text().is_some_and(|hint| hint.contains("try again later"));
    error.class() == Class::Storage && error.chain().contains("and does not list it") && can_wait
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_that_is_told_an_old_listing_loses_nothing_and_claims_nothing_false() {
    let prepared = Prepared::new(2).await;
    let (mut committed, mut refused, mut noticed) = (0, 0, 0);
    let mut tally = Tally::of("listing_faults");
    for fleet in [(1, 1), (2, 1), (2, 2)] {
        for (changes, call) in stale_calls() {
            for forgets in [false, true] {
                let mut copy = prepared.copy(fleet).await;
                let newest = copy.backup(&copy.replicas, NEWEST).await.unwrap();
                if forgets {
                    copy.forget();
                }
                make_stale(&copy, changes, call);
                let outcome = copy.backup(&copy.replicas, ATTEMPT).await;
                tally.faults += 1;
                let when = format!("{fleet:?}, {changes} changes ago, call {call:?}, forgets: {forgets}");
                copy.assert_newest(&newest.snapshot, &when).await;
                match &outcome {
                    Ok(report) => {
                        copy.assert_complete(report, &streams(ATTEMPT), &when).await;
                        committed += 1;
                    }
                    Err(error) => {
                        assert_ne!(error.class(), Class::Unknown, "{when}: {error:?}");
                        refused += 1;
                        noticed += u64::from(is_old(error));
                    }
                }
                make_stale(&copy, 0, None);
                let next = copy.backup(&copy.sound, NEXT).await;
                let next = next.unwrap_or_else(|error| panic!("{when}: the next backup: {error:?}"));
                copy.assert_complete(&next, &streams(NEXT), &when).await;
                for _ in 0..3 {
                    // There are no branches: they would stop it.
                    let failures = copy.prune(&copy.sound).await.unwrap_or_else(|error| panic!("{when}: {error:?}"));
                    assert_eq!(failures, [""; 0], "{when}");
                    copy.clock.advance(GRACE + GRACE);
                }
                copy.assert_newest(&newest.snapshot, &when).await;
                if let Ok(report) = &outcome {
                    copy.assert_complete(report, &streams(ATTEMPT), &when).await;
                }
                copy.assert_whole(&when).await;
            }
        }
    }
    assert!(committed > 0 && noticed > 0, "{committed} committed, {refused} refused, {noticed} as they should be");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_prune_that_is_told_an_old_listing_deletes_nothing_that_is_needed() {
    let prepared = Prepared::new(3).await;
    let (mut told, mut tally) = (0, Tally::of("listing_faults"));
    for fleet in [(1, 1), (2, 1)] {
        for (changes, call) in stale_calls() {
            for forgets in [false, true] {
                let mut copy = prepared.copy(fleet).await;
                copy.config.datasets[0].retention.keep_last = 1;
                // What is marked is due when the listings begin to lie.
                assert_eq!(copy.prune(&copy.replicas).await.unwrap(), [""; 0]);
                copy.clock.advance(GRACE + GRACE);
                let newest = copy.backup(&copy.replicas, NEWEST).await.unwrap();
                if forgets {
                    copy.forget();
                }
                let when = format!("{fleet:?}, {changes} changes ago, call {call:?}, forgets: {forgets}");
                for _ in 0..3 {
                    make_stale(&copy, changes, call);
                    match copy.prune(&copy.replicas).await {
                        Ok(failures) => told += u64::from(!failures.is_empty()),
                        Err(error) => {
                            assert!(error.class() == Class::Integrity || is_old(&error), "{when}: {error:?}");
                            told += 1;
                        }
                    }
                    copy.assert_newest(&newest.snapshot, &when).await;
                    copy.clock.advance(GRACE + GRACE);
                }
                make_stale(&copy, 0, None);
                for _ in 0..3 {
                    assert_eq!(copy.prune(&copy.sound).await.unwrap(), [""; 0], "{when}");
                    copy.clock.advance(GRACE + GRACE);
                }
                copy.assert_newest(&newest.snapshot, &when).await;
                copy.assert_whole(&when).await;
                assert_eq!(copy.shown().await.len(), 1, "{when}: the next prunes did not end the work");
                tally.faults += 1;
            }
        }
    }
    assert!(told > 0, "no old listing was noticed");
}
