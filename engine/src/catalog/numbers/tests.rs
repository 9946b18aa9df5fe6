#![allow(clippy::unwrap_used, reason = "tests")]

use std::sync::Arc;

use bytes::Bytes;
use lifeboat_base::clock::SystemClock;
use lifeboat_store::{FailingReplica, Failure, MemoryReplica};

use super::*;
use crate::catalog::inventory::Inventory;
use crate::catalog::records::RecordWriter;
use crate::keys::trust::Trust;

const VAULT: &str = "0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a";

struct Place {
    dataset: Name,
    signer: Signer,
    trust: Arc<Trust>,
    sound: SharedReplica,
    failing: Arc<FailingReplica>,
    replica: SharedReplica,
}

impl Place {
    fn new() -> Self {
        let signer = Signer::generate().unwrap();
        let memory = MemoryReplica::new("r1".parse().unwrap(), "east", SystemClock::shared());
        let sound: SharedReplica = Arc::new(memory);
        let failing = Arc::new(FailingReplica::new(sound.clone()));
        let (replica, trust) = (failing.clone() as SharedReplica, Trust::listed(vec![signer.public()], Vec::new()));
        Self { dataset: "shop".parse().unwrap(), signer, trust, sound, failing, replica }
    }

    fn reader(&self) -> OrderReader<'_> {
        OrderReader { vault: VAULT, dataset: &self.dataset, trust: &self.trust, cache: None, host_key: None }
    }

    /// A commit of this number, signed by `signer`.
    fn act_of(&self, signer: &Signer, number: u64) -> FoundAct {
        let id = id(number);
        let (key, object) = (layout::manifest(&self.dataset, &id), Bytes::from_static(b"manifest"));
        let object = SignedObject { key, object, signature: Bytes::from_static(b"signature") };
        let principal: Name = "db1".parse().unwrap();
        let actor = Actor { vault: VAULT, dataset: &self.dataset, principal: &principal, signer, sequence: None };
        actor.act(ActKind::Commit, &id, &object, None, number - 1, id.time()).unwrap()
    }

    fn act(&self, number: u64) -> FoundAct {
        self.act_of(&self.signer, number)
    }

    fn key(&self, number: u64) -> String {
        layout::act(&self.dataset, number)
    }

    async fn put(&self, number: u64, content: &[u8]) {
        self.sound.put_new(&self.key(number), Bytes::copy_from_slice(content)).await.unwrap();
    }

    async fn is_there(&self, number: u64) -> bool {
        self.sound.head(&self.key(number)).await.unwrap().is_some()
    }

    /// Puts a prune record that says that these numbers have passed.
    async fn put_record(&self, passed: Vec<[u64; 2]>) {
        let principal: Name = "db2".parse().unwrap();
        let writer = RecordWriter { vault: VAULT, dataset: &self.dataset, principal: &principal, signer: &self.signer };
        let body = PruneRecord { passed, ..PruneRecord::default() };
        let record = writer.sign(&id(70), id(70).time(), None, &body).unwrap();
        self.sound.put_new(&record.key, record.object).await.unwrap();
        self.sound.put_new(&layout::signature(&record.key), record.signature).await.unwrap();
    }
}

fn id(number: u64) -> SnapshotId {
    let time: DateTime<Utc> = "2026-11-28T12:00:00Z".parse().unwrap();
    SnapshotId::new(time + chrono::TimeDelta::seconds(number.cast_signed()), 7)
}

#[tokio::test]
async fn a_number_is_taken_unless_something_is_under_its_name() {
    let place = Place::new();
    assert!(matches!(place.reader().take(&place.act(5), &place.replica).await, Taken::Yes));
    assert!(matches!(place.reader().take(&place.act(5), &place.replica).await, Taken::Collided));
    place.put(6, b"garbage").await;
    assert!(matches!(place.reader().take(&place.act(6), &place.replica).await, Taken::Collided));
}

#[tokio::test]
async fn what_is_no_act_above_a_number_does_not_matter() {
    let place = Place::new();
    place.put(6, b"garbage").await;
    place.put(7, &place.act(9).stored).await;
    let elsewhere = Name::clone(&"other".parse().unwrap());
    let other = Place { dataset: elsewhere, ..Place::new() };
    place.put(8, &other.act(8).stored).await;
    assert!(matches!(place.reader().take(&place.act(5), &place.replica).await, Taken::Yes));
}

/// Put, list, then get: whatever fails after the put, others may have seen the act.
#[tokio::test]
async fn an_act_stays_where_nobody_can_look_what_came_after_it() {
    for (call, failure) in [(2, Failure::Unavailable), (2, Failure::Denied), (3, Failure::Unavailable)] {
        let place = Place::new();
        place.put(6, b"garbage").await;
        place.failing.fail(call, failure);
        let taken = place.reader().take(&place.act(5), &place.replica).await;
        assert!(matches!(taken, Taken::Unknown(_)), "{failure:?} at call {call}: {taken:?}");
        assert!(place.is_there(5).await, "{failure:?} at call {call}");
    }
}

#[tokio::test]
async fn a_newer_act_that_is_listed_and_not_returned_may_be_one() {
    let place = Place::new();
    place.put(6, &place.act(6).stored).await;
    place.failing.fail(3, Failure::NotFound);
    let taken = place.reader().take(&place.act(5), &place.replica).await;
    assert!(matches!(taken, Taken::Unknown(_)), "{taken:?}");
}

#[tokio::test]
async fn a_newer_act_of_a_stranger_may_be_one() {
    let place = Place::new();
    place.put(6, &place.act_of(&Signer::generate().unwrap(), 6).stored).await;
    let taken = place.reader().take(&place.act(5), &place.replica).await;
    assert!(matches!(&taken, Taken::Unknown(error) if error.class() == Class::Keys), "{taken:?}");
    // Another vault's is none here.
    let place = Place::new();
    let line = String::from_utf8(place.act_of(&Signer::generate().unwrap(), 6).stored.to_vec()).unwrap();
    place.put(6, line.replace(VAULT, "0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b").as_bytes()).await;
    assert!(matches!(place.reader().take(&place.act(5), &place.replica).await, Taken::Yes));
}

#[tokio::test]
async fn an_act_that_others_have_seen_stays_and_one_whose_number_has_passed_goes() {
    let place = Place::new();
    place.put(9, &place.act(9).stored).await;
    let taken = place.reader().take(&place.act(5), &place.replica).await;
    assert!(matches!(taken, Taken::Unknown(_)) && place.is_there(5).await, "{taken:?}");
    place.put_record(vec![[1, 4], [6, 8]]).await;
    let taken = place.reader().take(&place.act(7), &place.replica).await;
    assert!(matches!(taken, Taken::Collided) && !place.is_there(7).await, "{taken:?}");
    // Where the record cannot be fetched, nobody knows.
    for call in 4..=6 {
        let before = place.failing.calls();
        place.failing.fail(before + call, Failure::Unavailable);
        let taken = place.reader().take(&place.act(8), &place.replica).await;
        assert!(matches!(taken, Taken::Unknown(_)) && place.is_there(8).await, "call {call}: {taken:?}");
        place.sound.delete(&place.key(8)).await.unwrap();
    }
}

#[tokio::test]
async fn an_act_is_withdrawn_only_where_nobody_has_seen_it() {
    let (place, mine) = (Place::new(), 5);
    let act = place.act(mine);
    let put = async || place.sound.put_new(&place.key(mine), act.stored.clone()).await;
    put().await.unwrap();
    place.reader().withdraw(&act, &place.replica).await.unwrap();
    assert!(!place.is_there(mine).await);

    put().await.unwrap();
    let signature = layout::signature(&act.act.object());
    place.sound.put_new(&signature, Bytes::from_static(b"signature")).await.unwrap();
    place.reader().withdraw(&act, &place.replica).await.unwrap_err();
    assert!(place.is_there(mine).await, "another host has finished it");
    place.sound.delete(&signature).await.unwrap();

    place.put(6, &place.act(6).stored).await;
    place.reader().withdraw(&act, &place.replica).await.unwrap_err();
    assert!(place.is_there(mine).await, "another host has acted after it");
    place.put_record(vec![[1, 5]]).await;
    place.reader().withdraw(&act, &place.replica).await.unwrap();
    assert!(!place.is_there(mine).await);
}

#[tokio::test]
async fn an_act_that_one_replica_may_hold_is_neither_missing_nor_damaged() {
    let (bad, good) = (Place::new(), Place::new());
    good.put(5, &good.act(5).stored).await;
    for content in [None, Some(b"garbage".as_slice())] {
        if let Some(content) = content {
            bad.put(5, content).await;
        }
        for replicas in [[&bad.replica, &good.replica], [&good.replica, &bad.replica]] {
            good.failing.fail(good.failing.calls() + 1, Failure::Unavailable);
            let error = good.reader().act(&replicas, 5).await.unwrap_err();
            assert!(!is_verdict(&error), "{error:?}");
            assert_eq!(error.class(), Class::Storage, "{error:?}");
        }
    }
}

async fn listed(place: &Place) -> Vec<Inventory> {
    let info = format!(r#"{{"format": 2, "requires": [], "vault": "{VAULT}", "created": "2026-11-28T12:00:00Z"}}"#);
    let _ = place.sound.put_new(layout::VAULT, info.into()).await;
    let (listed, failed) = Inventory::take_all(std::slice::from_ref(&place.replica), VAULT, &place.dataset).await;
    assert!(failed.is_empty(), "{failed:?}");
    listed
}

#[tokio::test]
async fn the_newest_act_is_one_that_is_believed_and_strangers_and_newer_programs_are_told() {
    let place = Place::new();
    place.put(5, &place.act(5).stored).await;
    place.put(9, b"garbage").await;
    let newest = place.reader().newest(&listed(&place).await).await.unwrap_or_else(|(_, error)| panic!("{error:?}"));
    assert_eq!(newest.unwrap().act.number, 5);

    place.put(7, &place.act_of(&Signer::generate().unwrap(), 7).stored).await;
    let (number, error) = place.reader().newest(&listed(&place).await).await.err().unwrap();
    assert_eq!((number, error.class()), (7, Class::Keys), "{error:?}");
    assert!(error.hint_text().unwrap().contains("trusted_signers"), "{error:?}");

    let mut act = place.act(8).act;
    act.requires = Requirements(vec!["holograms".to_owned()]);
    let line = act.to_line().unwrap();
    let signature = place.signer.sign(&line, &layout::trusted_comment(VAULT, &place.key(8))).unwrap();
    place.put(8, &[line, signature.into_bytes()].concat()).await;
    let (number, error) = place.reader().newest(&listed(&place).await).await.err().unwrap();
    assert_eq!(number, 8, "{error:?}");
    assert!(!is_verdict(&error) && error.chain().contains("holograms"), "{error:?}");
}
