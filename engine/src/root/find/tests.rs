#![allow(clippy::unwrap_used, reason = "tests")]

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use lifeboat_base::clock::{Clock, ManualClock};
use lifeboat_format::layout;
use lifeboat_format::line::OwnerLine;
use lifeboat_format::root::Floors;
use lifeboat_store::{FailingReplica, Failure, MemoryReplica};

use super::*;
use crate::keys::sign::Signer;
use crate::root::{Change, apply, first_root};

/// Two roots that follow each other.
fn two_roots(clock: &ManualClock) -> (Owners, Vec<SignedRoot>) {
    let (signer, master) = (Signer::generate().unwrap(), age::x25519::Identity::generate().to_public().to_string());
    let ann =
        OwnerLine { name: "ann".parse().unwrap(), recipient: master.clone(), signer: signer.public().to_string() };
    let signed = |root: &Root, before: Option<&Root>| {
        let text = String::from_utf8(root.to_json().unwrap()).unwrap();
        let comment = layout::trusted_comment(&root.vault, &layout::root(root.version));
        let signature = signer.sign(text.as_bytes(), &comment).unwrap();
        SignedRoot::read(text, &BTreeMap::from([("ann".to_owned(), signature)]), before, "a root").unwrap()
    };
    let owners = Owners::parse(std::slice::from_ref(&ann.signer), 1).unwrap().unwrap();
    let (vault, times) = ("0123".repeat(8), (clock.now(), clock.now()));
    let first = first_root(&vault, (&[ann], 1), vec![master], (vec![], vec![]), Floors::default(), times).unwrap();
    let first = signed(&first, None);
    let longer = Change::Set {
        threshold: None,
        floors: Floors { retention: Some(9), delay: None },
        add_masters: Vec::new(),
        remove_masters: Vec::new(),
        add_witnesses: Vec::new(),
        remove_witnesses: Vec::new(),
    };
    let second = signed(&apply(&first, longer, clock.now()).unwrap(), Some(&first.root));
    (owners, vec![first, second])
}

#[tokio::test(start_paused = true)]
async fn a_replica_that_hangs_hides_no_newer_root_of_another() {
    let clock = ManualClock::at("2026-11-28T12:00:00Z".parse().unwrap());
    let (owners, chain) = two_roots(&clock);
    let memory =
        |name: &str| -> SharedReplica { Arc::new(MemoryReplica::new(name.parse().unwrap(), "east", clock.clone())) };
    let [old, honest] = [memory("old"), memory("honest")];
    super::super::put::put_in_replica(&chain[..1], &old).await.unwrap();
    super::super::put::put_in_replica(&chain, &honest).await.unwrap();
    for known in [&chain[..1], &[]] {
        // The listing of the old one hangs, or its first read, or the next.
        for call in 1..=3 {
            let slow = Arc::new(FailingReplica::new(old.clone()));
            slow.fail(call, Failure::Hang(Duration::from_secs(3600)));
            let found = find(&[slow, honest.clone()], Some(&owners), known).await.unwrap();
            let newest = found.newest.unwrap();
            assert_eq!(newest.root.version, 2, "call {call}: {:?}", found.unanswered);
            assert!(found.holders.contains(honest.name()), "call {call}: {:?}", found.unanswered);
        }
    }
    let slow = Arc::new(FailingReplica::new(old));
    slow.fail(1, Failure::Hang(Duration::from_secs(3600)));
    let alone = find(&[slow], Some(&owners), &[]).await.unwrap();
    assert!(alone.newest.is_none() && alone.unanswered.len() == 1, "{:?}", alone.unanswered);
}
