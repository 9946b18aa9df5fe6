//! Catch-up, repair and restore, with every kind of fault at any of their calls. They delete
//! nothing, call nothing whole that is not, and the next one makes good what was left.

use std::collections::BTreeMap;

use bytes::Bytes;
use lifeboat_engine::Result;
use lifeboat_engine::format::id::SnapshotId;
use lifeboat_engine::format::layout;
use lifeboat_engine::keep::catch_up::{ReplicaState, catch_up};
use lifeboat_engine::keep::prune::Prune;
use lifeboat_engine::keep::repair::repair;
use lifeboat_engine::restore::VaultReader;
use lifeboat_engine::state::StateDirectory;
use lifeboat_engine::store::{Failure, SharedReplica};
use lifeboat_tests::faults::takes_every_fault;
use lifeboat_tests::tally::Tally;
use lifeboat_tests::vault::{DATASET, limits, name, read_all};
use tokio_util::sync::CancellationToken;

use crate::prepared::{NEWEST, Prepared, VaultCopy, streams};
use crate::{HANG_TIME, MOST_CALLS};

/// Which of two replicas lacks the newest snapshot: the one that fails, or the other one.
const BEHIND: [usize; 2] = [0, 1];

/// What spreads the newest snapshot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Upkeep {
    CatchUp,
    Repair,
}

pub(crate) async fn objects(replica: &SharedReplica) -> BTreeMap<String, Bytes> {
    let mut objects = BTreeMap::new();
    for object in replica.list("").await.unwrap() {
        let body = replica.get(&object.key, u64::MAX).await.unwrap();
        objects.insert(object.key, body);
    }
    objects
}

/// Spreads what one replica lacks. Returns what is told of the replicas, and whether all is well.
async fn spread(copy: &VaultCopy<'_>, upkeep: Upkeep, replicas: &[SharedReplica]) -> Result<(Vec<ReplicaState>, bool)> {
    let (dataset, keys) = (&copy.config.datasets[0], &copy.prepared.keys);
    let (state, cancel) = (StateDirectory::open(copy.state.path())?, CancellationToken::new());
    let (states, is_well) = match upkeep {
        Upkeep::CatchUp => (catch_up(dataset, keys, replicas, &state, &limits(), &cancel).await?, true),
        Upkeep::Repair => {
            let clock = copy.clock.clone();
            let prune =
                Prune { config: &copy.config, dataset, keys, replicas, records: &[], state: &state, clock, cancel };
            let report = repair(&prune, None).await?;
            let is_well = report.is_whole() && report.doubts.is_empty();
            (report.replicas, is_well)
        }
    };
    let is_well = is_well && states.iter().all(|state| state.error.is_none() && state.behind == 0);
    Ok((states, is_well))
}

/// A copy of which one of two replicas lacks the newest snapshot.
async fn behind(prepared: &Prepared, behind: usize) -> (VaultCopy<'_>, SnapshotId) {
    let mut copy = prepared.copy((2, 1)).await;
    let ahead = [copy.replicas[1 - behind].clone()];
    let newest = copy.backup(&ahead, NEWEST).await.unwrap().snapshot;
    // Of what the host has in its cache, nothing would have to be fetched.
    copy.forget();
    (copy, newest)
}

/// The kinds of fault that are tried at this call: all if `LIFEBOAT_EVERY_FAULT` is set. Otherwise
/// two, others at the next call, so that each kind is met by every seventh call.
pub(crate) fn failures_at(call: u64) -> Vec<Failure> {
    let takes_all = takes_every_fault();
    let all = Failure::all(HANG_TIME).into_iter().zip(0..);
    all.filter(|(_, at)| takes_all || (call + at).is_multiple_of(7)).map(|(failure, _)| failure).collect()
}

async fn fail_every_call(upkeep: Upkeep) {
    let (prepared, mut tally) = (Prepared::new(2).await, Tally::of("upkeep_faults"));
    for lacking in BEHIND {
        let mut all_met = true;
        for call in 1..MOST_CALLS {
            for failure in failures_at(call) {
                all_met &= fail(&prepared, upkeep, lacking, call, failure).await;
                tally.faults += u64::from(all_met);
            }
            if !all_met {
                assert!(call > 8, "{upkeep:?}: no more than {call} calls");
                break;
            }
        }
    }
}

/// Whether the replicas hold two signatures of one object. That the last line ends is no matter.
async fn has_two_signatures(copy: &VaultCopy<'_>) -> bool {
    let [one, other] = [objects(&copy.sound[0]).await, objects(&copy.sound[1]).await];
    let mut signatures = one.iter().filter(|(key, _)| layout::is_signature(key));
    signatures.any(|(key, body)| other.get(key).is_some_and(|found| found.trim_ascii_end() != body.trim_ascii_end()))
}

/// Fails one call, and judges what is there then. Returns whether there was such a call.
async fn fail(prepared: &Prepared, upkeep: Upkeep, lacking: usize, call: u64, failure: Failure) -> bool {
    let (copy, newest) = behind(prepared, lacking).await;
    let when = format!("{upkeep:?}, replica {lacking} lacks it, {failure:?} at call {call}");
    let before = [objects(&copy.sound[0]).await, objects(&copy.sound[1]).await];
    let at = copy.failing.calls() + call;
    copy.failing.fail(at, failure);
    let outcome = spread(&copy, upkeep, &copy.replicas).await;
    let is_met = copy.failing.calls() >= at;
    copy.assert_all_is_there(&before, &when).await;
    assert!(!has_two_signatures(&copy).await, "{when}: a damaged signature was copied");
    copy.assert_shown_is_whole(&newest, &when).await;
    // This host has lost its state. What the only listing that shows it hides, nobody knows.
    let is_hidden = matches!(failure, Failure::ListingStale(_) | Failure::ListingCut);
    match &outcome {
        Ok((_, true)) if is_hidden => {}
        Ok((_, true)) => copy.assert_newest(&newest, &when).await,
        Ok(_) | Err(_) => assert!(is_met, "{when}: no call failed, and yet all is not well"),
    }
    let again = spread(&copy, upkeep, &copy.sound).await.unwrap_or_else(|error| panic!("{when}: {error:?}"));
    assert!(again.1, "{when}: the next one: {:?}", again.0);
    copy.assert_newest(&newest, &when).await;
    copy.assert_all_is_there(&before, &when).await;
    copy.assert_whole(&when).await;
    is_met
}

impl VaultCopy<'_> {
    /// Nothing was deleted or changed.
    async fn assert_all_is_there(&self, before: &[BTreeMap<String, Bytes>; 2], when: &str) {
        for (replica, before) in self.sound.iter().zip(before) {
            let now = objects(replica).await;
            let harmed: Vec<&String> =
                before.iter().filter(|(key, body)| now.get(*key) != Some(body)).map(|(key, _)| key).collect();
            assert!(harmed.is_empty(), "{when}: {harmed:?} of {}", replica.name());
        }
    }

    /// What a replica shows, it restores alone.
    async fn assert_shown_is_whole(&self, newest: &SnapshotId, when: &str) {
        for replica in &self.sound {
            let alone = std::slice::from_ref(replica);
            for listed in self.reader(alone).await.snapshots(&name(DATASET)).await.unwrap() {
                let snapshot = &listed.snapshot;
                let content = if snapshot == newest { &streams(NEWEST) } else { &self.prepared.snapshots[snapshot] };
                self.assert_restores(alone, snapshot, content, when).await;
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fault_at_any_call_of_a_catch_up_harms_nothing_and_the_next_one_makes_it_good() {
    fail_every_call(Upkeep::CatchUp).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fault_at_any_call_of_a_repair_harms_nothing_and_the_next_one_makes_it_good() {
    fail_every_call(Upkeep::Repair).await;
}

/// Nobody can check a keyring object without a key that opens it, and nothing replaces one.
#[tokio::test(flavor = "multi_thread")]
async fn a_keyring_object_that_was_damaged_on_its_way_is_not_copied() {
    let prepared = Prepared::new(2).await;
    let keyring = layout::keyring_generation(&name(DATASET), 1);
    let mut keys = prepared.vault.keys().unwrap();
    // This host has no copy of its own.
    keys.datasets.clear();
    for failure in [Failure::Truncated, Failure::Flipped] {
        let mut refused = 0;
        for call in 1..MOST_CALLS {
            let copy = prepared.copy((2, 1)).await;
            let when = format!("{failure:?} at call {call}");
            copy.sound[1].delete(&keyring).await.unwrap();
            let right = copy.sound[0].get(&keyring, u64::MAX).await.unwrap();
            copy.failing.fail(call, failure);
            let dataset = &copy.config.datasets[0];
            for (replicas, must_work) in [(&copy.replicas, false), (&copy.sound, true)] {
                let (state, cancel) = (StateDirectory::open(copy.state.path()).unwrap(), CancellationToken::new());
                let states = catch_up(dataset, &keys, replicas, &state, &limits(), &cancel).await;
                let is_well = states.is_ok_and(|states| states.iter().all(|state| state.error.is_none()));
                assert!(is_well || !must_work, "{when}: the next catch-up fails");
                refused += u64::from(!is_well);
                match copy.sound[1].get(&keyring, u64::MAX).await {
                    Ok(copied) => assert!(copied == right, "{when}: it was copied as it came"),
                    Err(error) => assert!(error.is_not_found() && !must_work, "{when}: {error}"),
                }
            }
            if copy.failing.calls() < call {
                assert!(call > 8, "{when}: a catch-up made no more calls");
                break;
            }
        }
        assert!(refused > 0, "{failure:?}: nothing was noticed");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fault_at_any_call_of_a_restore_gives_the_bytes_or_an_error() {
    let (prepared, mut tally) = (Prepared::new(2).await, Tally::of("restore_faults"));
    for fleet in [(1, 1), (2, 1)] {
        let copy = prepared.copy(fleet).await;
        let newest = copy.backup(&copy.replicas, NEWEST).await.unwrap().snapshot;
        for failure in Failure::all(HANG_TIME) {
            let mut refused = 0;
            for call in 1..MOST_CALLS {
                let at = copy.failing.calls() + call;
                copy.failing.fail(at, failure);
                let restored = async {
                    let (owner, token) = (copy.prepared.owner.clone(), CancellationToken::new());
                    let reader = VaultReader::open(&copy.replicas, owner, limits(), token).await?;
                    // As `restore` finds the newest one.
                    let listed = reader.snapshots(&name(DATASET)).await?;
                    let shows = listed.iter().any(|listed| listed.snapshot == newest);
                    Ok::<_, lifeboat_engine::Error>((
                        shows,
                        read_all(&reader.streams(&name(DATASET), &newest).await?).await?,
                    ))
                };
                let when = format!("{fleet:?}, {failure:?} at call {call}");
                match restored.await {
                    Ok((shows, restored)) => {
                        assert!(restored == streams(NEWEST), "{when}: it differs");
                        assert!(shows || fleet.0 == 1, "{when}: the other replica shows it");
                    }
                    Err(error) => {
                        assert_eq!(fleet.0, 1, "{when}: the other replica has it: {error:?}");
                        refused += 1;
                    }
                }
                if copy.failing.calls() < at {
                    assert!(call > 4, "{when}: a restore made no more calls");
                    copy.failing.fail(at, Failure::ListingStale(0));
                    break;
                }
                tally.faults += 1;
            }
            let harms =
                matches!(failure, Failure::Unavailable | Failure::Denied | Failure::Truncated | Failure::Flipped);
            assert!(refused > 0 || fleet.0 > 1 || !harms, "{fleet:?}, {failure:?}: nothing was noticed");
        }
    }
}
