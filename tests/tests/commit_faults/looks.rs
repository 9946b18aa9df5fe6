//! Verify, and the repair of what it finds (the code of the scrub), with every kind of fault at any
//! of their calls. Neither calls a damaged vault whole, and nothing whole is overwritten.

use std::collections::BTreeMap;

use bytes::Bytes;
use lifeboat_engine::Result;
use lifeboat_engine::clock::Clock;
use lifeboat_engine::format::id::Name;
use lifeboat_engine::format::layout;
use lifeboat_engine::keep::prune::Prune;
use lifeboat_engine::keep::repair::{RepairReport, repair};
use lifeboat_engine::keep::verify::{VerifyReport, verify};
use lifeboat_engine::restore::VaultReader;
use lifeboat_engine::state::StateDirectory;
use lifeboat_engine::store::{Failure, SharedReplica};
use lifeboat_tests::tally::Tally;
use lifeboat_tests::vault::{DATASET, limits, name};
use tokio_util::sync::CancellationToken;

use crate::MOST_CALLS;
use crate::prepared::{Prepared, VaultCopy};
use crate::upkeep::{failures_at, objects};

/// What is damaged in the replica that fails, and whole in the other one.
fn damaged(before: &BTreeMap<String, Bytes>) -> Vec<&String> {
    let dataset = name(DATASET);
    let folders = [layout::packs, layout::snapshots, layout::indexes, layout::order].map(|of| of(&dataset));
    let first = |folder: &String| before.keys().find(|key| key.starts_with(folder)).unwrap();
    folders.iter().map(first).collect()
}

/// Two copies, of which the one that fails is damaged, and how both were before.
async fn damaged_copy(prepared: &Prepared) -> (VaultCopy<'_>, BTreeMap<String, Bytes>, Vec<String>) {
    let copy = prepared.copy((2, 1)).await;
    let before = objects(&copy.sound[1]).await;
    let keys: Vec<String> = damaged(&before).into_iter().cloned().collect();
    for key in &keys {
        let mut body = before[key].to_vec();
        body[20] ^= 1;
        copy.sound[0].put_replace(key, body.into()).await.unwrap();
    }
    (copy, before, keys)
}

/// What verify reports, and whether a replica was left out because it could not be opened, which
/// `lifeboat verify` tells with exit code 5.
async fn verified(copy: &VaultCopy<'_>, replicas: &[SharedReplica]) -> Result<(VerifyReport, bool)> {
    let (owner, token) = (copy.prepared.owner.clone(), CancellationToken::new());
    let reader = VaultReader::open(replicas, owner, limits(), token.clone()).await?;
    let report = verify(&reader, &name(DATASET), None, true, copy.clock.now(), &token).await?;
    Ok((report, !reader.unreachable().is_empty()))
}

async fn repaired(copy: &VaultCopy<'_>, replicas: &[SharedReplica], keys: &[String]) -> Result<RepairReport> {
    let state = StateDirectory::open(copy.state.path())?;
    let prune = Prune {
        config: &copy.config,
        dataset: &copy.config.datasets[0],
        keys: &copy.prepared.keys,
        replicas,
        records: &[],
        state: &state,
        clock: copy.clock.clone(),
        cancel: CancellationToken::new(),
    };
    let suspects: Vec<(Name, String)> = keys.iter().map(|key| (name("r1"), key.clone())).collect();
    repair(&prune, Some(&suspects)).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fault_at_any_call_of_a_verify_hides_no_damage_and_changes_nothing() {
    let (prepared, mut tally) = (Prepared::new(2).await, Tally::of("verify_faults"));
    let (copy, before, keys) = damaged_copy(&prepared).await;
    let damage = objects(&copy.sound[0]).await;
    let (told, _) = verified(&copy, &copy.sound).await.unwrap();
    let is_named = |key: &String| {
        let object = layout::signed_object(key).unwrap_or(key);
        told.findings.iter().any(|finding| finding.object == object)
    };
    assert!(keys.iter().all(is_named), "{keys:?} are damaged, and told is {:?}", told.findings);
    for call in 1..MOST_CALLS {
        let mut is_met = true;
        for failure in failures_at(call) {
            let when = format!("{failure:?} at call {call}");
            let at = copy.failing.calls() + call;
            copy.failing.fail(at, failure);
            let told = verified(&copy, &copy.replicas).await;
            let is_called_whole = told.is_ok_and(|(told, is_left_out)| told.findings.is_empty() && !is_left_out);
            assert!(!is_called_whole, "{when}: the vault is called whole");
            is_met &= copy.failing.calls() >= at;
            copy.failing.fail(at, Failure::ListingStale(0));
            tally.faults += u64::from(is_met);
        }
        if !is_met {
            assert!(call > 12, "no more than {call} calls");
            break;
        }
    }
    assert!(
        objects(&copy.sound[0]).await == damage && objects(&copy.sound[1]).await == before,
        "verify wrote something"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fault_at_any_call_of_the_repair_of_damage_harms_nothing_and_the_next_one_makes_it_good() {
    let (prepared, mut tally) = (Prepared::new(2).await, Tally::of("scrub_faults"));
    for call in 1..MOST_CALLS {
        let mut is_met = true;
        for failure in failures_at(call) {
            let (copy, before, keys) = damaged_copy(&prepared).await;
            let when = format!("{failure:?} at call {call}");
            copy.failing.fail(call, failure);
            let report = repaired(&copy, &copy.replicas, &keys).await;
            is_met &= copy.failing.calls() >= call;
            tally.faults += u64::from(is_met);
            let now = objects(&copy.sound[0]).await;
            let wrong: Vec<&String> = before.keys().filter(|key| now.get(*key) != before.get(*key)).collect();
            assert!(wrong.iter().all(|key| keys.contains(key) && now.contains_key(*key)), "{when}: {wrong:?}");
            assert!(objects(&copy.sound[1]).await == before, "{when}: the whole replica was changed");
            if let Ok(report) = &report
                && report.is_whole()
                && report.doubts.is_empty()
                && !matches!(failure, Failure::ListingStale(_) | Failure::ListingCut | Failure::NotFound)
            {
                assert!(wrong.is_empty(), "{when}: {wrong:?} are called whole: {report:?}");
            }
            let again = repaired(&copy, &copy.sound, &keys).await.unwrap_or_else(|error| panic!("{when}: {error:?}"));
            assert!(again.is_whole() && again.doubts.is_empty(), "{when}: the next one: {again:?}");
            assert!(objects(&copy.sound[0]).await == before, "{when}: the next one leaves damage");
        }
        if !is_met {
            assert!(call > 12, "no more than {call} calls");
            break;
        }
    }
}
