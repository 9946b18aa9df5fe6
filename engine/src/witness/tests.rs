#![allow(clippy::unwrap_used, reason = "tests")]

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use chrono::{DateTime, TimeDelta, Utc};
use lifeboat_base::clock::ManualClock;
use lifeboat_format::id::{Digest, Name, SnapshotId};
use lifeboat_format::layout;
use lifeboat_format::line::OwnerLine;
use lifeboat_format::log::{LogEvent, LogHead, LogKind, LogName, LogRecord, SeenSnapshot};
use lifeboat_format::requirements::Requirements;
use lifeboat_format::root::{Floors, Pattern, Root};
use lifeboat_store::{FailingReplica, Failure, MemoryReplica, Replica, SharedReplica};

use super::{Against, Evidence, ToldLogs};
use crate::catalog::first_seen::{DatedClaim, FalseClaim};
use crate::catalog::unbelieved::MAX_UNBELIEVED;
use crate::config::Limits;
use crate::keys::sign::Signer;
use crate::keys::trust::Trust;
use crate::root::{NewDrillHost, first_root};

const VAULT: &str = "01230123012301230123012301230123";

fn name(text: &str) -> Name {
    text.parse().unwrap()
}

/// So many minutes after a time. Clocks may differ by ten.
fn at(minutes: i64) -> DateTime<Utc> {
    DateTime::from_timestamp(1_795_000_000 + 60 * minutes, 0).unwrap()
}

fn limits() -> Limits {
    Limits { clock_skew: Duration::from_secs(300), ..Limits::default() }
}

/// A snapshot that claims to be of this minute, and when stores took it.
fn claim(ended: i64, stored: &[i64]) -> DatedClaim {
    let (snapshot, stored) = (SnapshotId::new(at(ended), 1), stored.iter().copied().map(at).collect());
    DatedClaim { snapshot, hash: Digest::of(b"its manifest"), began: at(ended), ended: at(ended), stored }
}

fn shared<R: Replica + 'static>(replica: &Arc<R>) -> SharedReplica {
    replica.clone()
}

/// Two replicas, and witnesses that write their logs there.
struct Logs {
    root: Root,
    signers: BTreeMap<&'static str, Signer>,
    memories: [Arc<MemoryReplica>; 2],
    heads: BTreeMap<&'static str, LogHead>,
}

impl Logs {
    fn of(witnesses: &[&'static str]) -> Self {
        let clock = ManualClock::at(at(10_000));
        let signers: BTreeMap<&'static str, Signer> =
            witnesses.iter().map(|witness| (*witness, Signer::generate().unwrap())).collect();
        let master = age::x25519::Identity::generate().to_public().to_string();
        let owner = Signer::generate().unwrap().public().to_string();
        let owner = OwnerLine { name: name("ann"), recipient: master.clone(), signer: owner };
        let drill = |(own, signer): (&&str, &Signer)| NewDrillHost {
            name: name(own),
            recipient: master.clone(),
            signer: signer.public().to_string(),
            datasets: vec![Pattern::all()],
        };
        let drills = signers.iter().map(drill).collect();
        let times = (at(-10_000), at(-10_000));
        let root = first_root(VAULT, (&[owner], 1), Vec::new(), (Vec::new(), drills), Floors::default(), times);
        let memory = |own: &str| Arc::new(MemoryReplica::new(name(own), "east", clock.clone()));
        Self { root: root.unwrap(), signers, memories: [memory("r1"), memory("r2")], heads: BTreeMap::new() }
    }

    /// The next record of a witness: it has looked at both datasets, and first saw `named`.
    async fn look(&mut self, witness: &'static str, minute: i64, named: &[&DatedClaim]) {
        self.record(witness, minute, named, &[]).await;
    }

    async fn record(&mut self, witness: &'static str, minute: i64, named: &[&DatedClaim], heads: &[&str]) {
        let seen = |claim: &&DatedClaim| {
            let (snapshot, blake3) = (claim.snapshot.clone(), claim.hash);
            SeenSnapshot { dataset: name("shop"), snapshot, blake3 }
        };
        let looked = vec![name("shop"), name("wiki")];
        let event = LogEvent::Witness { looked, snapshots: named.iter().map(seen).collect() };
        let last = self.heads.get(witness);
        let record = LogRecord {
            requires: Requirements::default(),
            vault: VAULT.to_owned(),
            kind: LogKind::DrillHosts,
            principal: name(witness),
            number: last.map_or(1, |last| last.number + 1),
            previous: last.map(|last| last.blake3),
            time: at(minute),
            event,
            why: None,
            heads: heads.iter().map(|head| self.heads[head].clone()).collect(),
            acts: Vec::new(),
        };
        let key = layout::log_record(&record.log(), record.number);
        let mut stored = record.to_line().unwrap();
        let signature = self.signers[witness].sign(&stored, &layout::trusted_comment(VAULT, &key)).unwrap();
        stored.extend_from_slice(signature.as_bytes());
        let (kind, number, blake3) = (record.kind, record.number, Digest::of(&stored));
        self.heads.insert(witness, LogHead { kind, name: record.principal, number, blake3 });
        for memory in &self.memories {
            memory.put_new(&key, Bytes::from(stored.clone())).await.unwrap();
        }
    }

    fn key(witness: &str, number: u64) -> String {
        layout::log_record(&LogName { kind: LogKind::DrillHosts, name: name(witness) }, number)
    }

    async fn remove(&self, witness: &str, number: u64) {
        for memory in &self.memories {
            memory.delete(&Self::key(witness, number)).await.unwrap();
        }
    }

    /// Changes what is not signed of a record in `r1`.
    async fn change_comment(&self, witness: &str, number: u64) {
        let (key, replica) = (Self::key(witness, number), &self.memories[0]);
        let mut stored = replica.get(&key, 1 << 20).await.unwrap().to_vec();
        let comment = stored.windows(9).position(|part| part == b"untrusted").unwrap();
        let last = comment + stored[comment..].iter().position(|byte| *byte == b'\n').unwrap() - 1;
        stored[last] ^= 1;
        replica.put_replace(&key, Bytes::from(stored)).await.unwrap();
    }

    /// Names of `r1` in the log of a witness, behind which nothing is that anybody believes.
    async fn flood(&self, witness: &str, count: usize) {
        for number in 1000..1000 + count as u64 {
            self.memories[0].put_new(&Self::key(witness, number), Bytes::from_static(b"rubbish")).await.unwrap();
        }
    }

    fn replicas(&self) -> Vec<SharedReplica> {
        self.memories.iter().map(shared).collect()
    }

    async fn against(&self, claim: &DatedClaim) -> (Option<FalseClaim>, Vec<String>) {
        self.against_in(&self.replicas(), claim).await
    }

    async fn against_in(&self, replicas: &[SharedReplica], claim: &DatedClaim) -> (Option<FalseClaim>, Vec<String>) {
        let told = ToldLogs::default();
        self.ask(replicas, &told, "shop", claim).await
    }

    async fn ask(
        &self,
        replicas: &[SharedReplica],
        told: &ToldLogs,
        dataset: &str,
        claim: &DatedClaim,
    ) -> (Option<FalseClaim>, Vec<String>) {
        let trust = Trust::of_root(Arc::new(self.root.clone()), Vec::new(), at(10_000)).unwrap();
        let evidence = Evidence { vault: VAULT, trust: &trust, replicas, limits: &limits(), told };
        let Against { contradicted, doubts } = evidence.against(&name(dataset), std::slice::from_ref(claim)).await;
        (contradicted.get(&claim.snapshot).map(|found| found.claim), doubts.into_iter().collect())
    }
}

/// A thief's snapshot that claims to be of minute 0. A witness saw it at minute 200.
async fn backdated(stored: &[i64]) -> (Logs, DatedClaim) {
    let (mut logs, claim) = (Logs::of(&["drill"]), claim(0, stored));
    logs.look("drill", 100, &[]).await;
    logs.look("drill", 200, &[&claim]).await;
    logs.look("drill", 300, &[]).await;
    (logs, claim)
}

const BACKDATED: Option<FalseClaim> = Some(FalseClaim::Backdated);

#[tokio::test]
async fn names_that_a_replica_lists_and_does_not_return_are_bounded_and_stop_no_deletion() {
    let (logs, claim) = backdated(&[]).await;
    logs.flood("drill", 2 * MAX_UNBELIEVED).await;
    let refusing = Arc::new(FailingReplica::new(logs.memories[0].clone()));
    refusing.list(&layout::log(&LogName { kind: LogKind::DrillHosts, name: name("drill") })).await.unwrap();
    let pages = refusing.calls();
    for call in 2 * pages + 1..2 * pages + 3 * MAX_UNBELIEVED as u64 {
        refusing.fail(call, Failure::Denied);
    }
    let replicas: [SharedReplica; 2] = [refusing.clone(), logs.memories[1].clone()];
    let (found, doubts) = logs.against_in(&replicas, &claim).await;
    let asked = refusing.calls() - 2 * pages;
    assert!(asked <= MAX_UNBELIEVED as u64 + 32, "{asked}");
    assert_eq!((found, doubts), (BACKDATED, Vec::new()));
}

#[tokio::test]
async fn a_record_that_no_replica_returns_is_missing_and_told_once() {
    let (mut logs, claim) = backdated(&[]).await;
    logs.look("drill", 400, &[]).await;
    // The first call lists. Then the first replica is asked for records 4 to 1, and the other one
    // for what the first did not return.
    let refusing = |logs: &Logs, record: u64| -> [SharedReplica; 2] {
        let replicas = logs.memories.clone().map(|memory| Arc::new(FailingReplica::new(memory)));
        replicas[0].fail(6 - record, Failure::Denied);
        replicas[1].fail(2, Failure::Denied);
        replicas.map(|replica| shared(&replica))
    };
    // It does not matter for one that the rest tells of.
    assert_eq!(logs.against_in(&refusing(&logs, 4), &claim).await, (BACKDATED, Vec::new()));
    let (found, doubts) = logs.against_in(&refusing(&logs, 2), &claim).await;
    let told = "records 2 to 2 of log drill-hosts/drill are missing";
    assert!(found.is_none() && doubts.len() == 1 && doubts[0].contains(told), "{found:?} {doubts:?}");
    // The newest one may tell of another.
    let other = DatedClaim { hash: Digest::of(b"another"), ..claim };
    let (_, doubts) = logs.against_in(&refusing(&logs, 4), &other).await;
    assert!(doubts.len() == 1 && doubts[0].contains("record 4"), "{doubts:?}");
}

#[tokio::test]
async fn the_newest_record_is_found_in_a_replica_that_is_left_aside() {
    let (logs, claim) = backdated(&[]).await;
    // The other replica was away when the two newest were written.
    for number in [2, 3] {
        logs.memories[1].delete(&Logs::key("drill", number)).await.unwrap();
    }
    logs.flood("drill", 2 * MAX_UNBELIEVED).await;
    assert_eq!(logs.against(&claim).await, (BACKDATED, Vec::new()));
    // So is one in the middle.
    let (logs, claim) = backdated(&[]).await;
    logs.memories[1].delete(&Logs::key("drill", 2)).await.unwrap();
    logs.flood("drill", 2 * MAX_UNBELIEVED).await;
    assert_eq!(logs.against(&claim).await, (BACKDATED, Vec::new()));
}

#[tokio::test]
async fn a_record_that_is_missing_is_doubt_also_where_stores_date_the_snapshot() {
    // One store lies, and another one took it at minute 150.
    let (logs, claim) = backdated(&[0, 150]).await;
    assert_eq!(logs.against(&claim).await, (BACKDATED, Vec::new()));
    logs.remove("drill", 2).await;
    let (_, doubts) = logs.against(&claim).await;
    assert!(doubts.len() == 1 && doubts[0].contains("records 2 to 2"), "{doubts:?}");
    // Where two tell the same, or there is but one, no witness makes it younger.
    for stored in [&[0, 5, 150][..], &[150], &[0]] {
        let of = DatedClaim { stored: stored.iter().copied().map(at).collect(), ..claim.clone() };
        let (found, doubts) = logs.against(&of).await;
        assert_eq!((found, doubts), (BACKDATED.filter(|_| stored == [150]), Vec::new()), "{stored:?}");
    }
    // A store knows it exactly, and the witness that was first did not look before.
    let (mut logs, claim) = (Logs::of(&["drill"]), claim.clone());
    let of = DatedClaim { stored: vec![at(500)], ..claim };
    logs.look("drill", 100, &[]).await;
    logs.look("drill", 200, &[&of]).await;
    assert_eq!(logs.against(&of).await, (BACKDATED, Vec::new()));
    logs.remove("drill", 1).await;
    let (found, doubts) = logs.against(&of).await;
    assert!(found.is_none() && doubts.len() == 1, "{found:?} {doubts:?}");
}

#[tokio::test]
async fn looks_count_against_no_snapshot_that_a_missing_record_may_name() {
    // An honest one, which was copied to the other store much later.
    let (logs, claim) = (Logs::of(&["drill"]), claim(150, &[150, 9000]));
    let mut logs = logs;
    logs.look("drill", 100, &[]).await;
    logs.look("drill", 200, &[&claim]).await;
    logs.look("drill", 300, &[]).await;
    assert_eq!(logs.against(&claim).await, (None, Vec::new()));
    logs.remove("drill", 2).await;
    let (found, doubts) = logs.against(&claim).await;
    assert!(found.is_none() && doubts.len() == 1, "{found:?} {doubts:?}");
}

#[tokio::test]
async fn one_stolen_witness_voids_no_true_date_that_another_one_bears_out() {
    let (mut logs, claim) = (Logs::of(&["drill", "stolen"]), claim(100, &[100, 900]));
    logs.look("drill", 60, &[]).await;
    logs.look("stolen", 115, &[]).await;
    logs.look("stolen", 120, &[&claim]).await;
    // Until another witness has looked, nobody knows better.
    assert_eq!(logs.against(&claim).await, (BACKDATED, Vec::new()));
    logs.look("drill", 130, &[&claim]).await;
    assert_eq!(logs.against(&claim).await, (None, Vec::new()));
}

#[tokio::test]
async fn a_witness_with_a_new_key_is_missed_though_its_old_key_was_revoked() {
    let (mut logs, claim) = (Logs::of(&["drill", "other"]), claim(0, &[]));
    logs.look("drill", 100, &[]).await;
    logs.look("drill", 200, &[&claim]).await;
    logs.record("other", 210, &[], &["drill"]).await;
    logs.remove("drill", 2).await;
    let old = Signer::generate().unwrap();
    let own = logs.root.drill_hosts.iter().position(|host| host.name == name("drill")).unwrap();
    let mut revoked = logs.root.drill_hosts[own].clone();
    (revoked.signer, revoked.until) = (old.public().to_string(), Some(at(-5000)));
    logs.root.drill_hosts.push(revoked);
    let (_, doubts) = logs.against(&claim).await;
    let told = "record 2 of log drill-hosts/drill is missing: other has seen it";
    assert!(doubts.len() == 1 && doubts[0] == told, "{doubts:?}");
    // Of one that is gone, nobody misses any.
    logs.root.drill_hosts[own].until = Some(at(9999) + TimeDelta::minutes(100));
    assert_eq!(logs.against(&claim).await.1, Vec::<String>::new());
}

#[tokio::test]
async fn a_comment_that_somebody_changed_in_one_replica_hides_nothing_and_stops_no_deletion() {
    for changed in 1..=3 {
        let (logs, claim) = backdated(&[]).await;
        logs.change_comment("drill", changed).await;
        assert_eq!(logs.against(&claim).await, (BACKDATED, Vec::new()), "{changed}");
        let other = DatedClaim { hash: Digest::of(b"another"), ..claim.clone() };
        assert_eq!(logs.against(&other).await, (None, Vec::new()), "{changed}");
    }
    // Where nobody has it as it was, it is doubt.
    let (logs, claim) = backdated(&[]).await;
    logs.change_comment("drill", 2).await;
    logs.memories[1].delete(&Logs::key("drill", 2)).await.unwrap();
    let other = DatedClaim { hash: Digest::of(b"another"), ..claim };
    let (_, doubts) = logs.against(&other).await;
    assert!(doubts.len() == 1 && doubts[0].contains("record 3 of log drill-hosts/drill does not follow"), "{doubts:?}");
}

#[tokio::test]
async fn one_replica_alone_makes_no_doubt_of_a_witness_that_never_looked() {
    let (logs, claim) = (Logs::of(&["drill"]), claim(0, &[]));
    let log = layout::log(&LogName { kind: LogKind::DrillHosts, name: name("drill") });
    // `r1` lists a name and does not return it, or very many that are no records.
    for count in [1, 2 * MAX_UNBELIEVED] {
        logs.flood("drill", count).await;
        let refusing = Arc::new(FailingReplica::new(logs.memories[0].clone()));
        refusing.list(&log).await.unwrap();
        let pages = refusing.calls();
        if count == 1 {
            refusing.fail(2 * pages + 1, Failure::Denied);
        }
        let replicas: [SharedReplica; 2] = [refusing, logs.memories[1].clone()];
        assert_eq!(logs.against_in(&replicas, &claim).await, (None, Vec::new()), "{count}");
        logs.memories[0].delete(&Logs::key("drill", 1000)).await.unwrap();
    }
    // Both do, each in its way.
    let key = Logs::key("drill", 1000);
    logs.memories[1].put_new(&key, Bytes::from_static(b"rubbish")).await.unwrap();
    let refusing = Arc::new(FailingReplica::new(logs.memories[1].clone()));
    refusing.fail(2, Failure::Denied);
    let replicas: [SharedReplica; 2] = [logs.memories[0].clone(), refusing];
    let (_, doubts) = logs.against_in(&replicas, &claim).await;
    assert!(doubts.len() == 1 && doubts[0].contains("no record of log drill-hosts/drill can be read"), "{doubts:?}");
}

#[tokio::test]
async fn however_many_of_the_newest_records_a_replica_has_alone_that_is_left_aside_they_are_read() {
    let (mut logs, claim) = (Logs::of(&["drill"]), claim(0, &[]));
    for minute in 1..=60 {
        let named: &[&DatedClaim] = if minute == 50 { &[&claim] } else { &[] };
        logs.look("drill", 100 + minute, named).await;
        // The other replica was away for most of them.
        if minute > 3 {
            logs.memories[1].delete(&Logs::key("drill", minute.unsigned_abs())).await.unwrap();
        }
    }
    logs.flood("drill", 2 * MAX_UNBELIEVED).await;
    assert_eq!(logs.against(&claim).await, (BACKDATED, Vec::new()));
    // One in between is in neither.
    logs.memories[0].delete(&Logs::key("drill", 30)).await.unwrap();
    let (found, _) = logs.against(&claim).await;
    assert_eq!(found, None, "what is beyond it is not looked for");
}

#[tokio::test]
async fn what_claims_to_be_older_than_all_that_is_read_is_unsure_unless_that_decides() {
    // The thief's claims to be older than his theft by far. `old` was named where nobody reads any
    // more.
    let (mut logs, old, forged) = (Logs::of(&["drill"]), claim(-5, &[]), claim(-9, &[]));
    logs.look("drill", 0, &[&old]).await;
    for minute in [100, 200, 300] {
        logs.look("drill", minute, &[]).await;
    }
    logs.look("drill", 400, &[&forged]).await;
    let replicas = logs.replicas();
    let ask = async |logs: &Logs, most: usize, claim: &DatedClaim| {
        let told = ToldLogs::of_newest(most);
        logs.ask(&replicas, &told, "shop", claim).await
    };
    // All of five may be read, and no more than four.
    for (most, is_unsure) in [(5, false), (4, true)] {
        assert_eq!(ask(&logs, most, &forged).await, (BACKDATED, Vec::new()), "{most}");
        let (found, doubts) = ask(&logs, most, &old).await;
        assert_eq!((found, doubts.len()), (None, usize::from(is_unsure)), "{most} {doubts:?}");
        assert!(doubts.iter().all(|told| told.contains("drill has more records than are read")), "{doubts:?}");
        // What claims to be younger is not beyond.
        let younger = claim(250, &[]);
        assert_eq!(ask(&logs, most, &younger).await, (None, Vec::new()), "{most}");
    }
    // One such claim does not keep a store's false date of another one from being voided.
    let lied = DatedClaim { stored: vec![at(250), at(9000)], ..claim(250, &[]) };
    let told = ToldLogs::of_newest(4);
    let trust = Trust::of_root(Arc::new(logs.root.clone()), Vec::new(), at(10_000)).unwrap();
    let evidence = Evidence { vault: VAULT, trust: &trust, replicas: &replicas, limits: &limits(), told: &told };
    let against = evidence.against(&name("shop"), &[old.clone(), lied.clone()]).await;
    let found = against.contradicted.get(&lied.snapshot).map(|found| found.claim);
    assert_eq!((found, against.doubts.len()), (BACKDATED, 1), "{:?}", against.doubts);
}

#[tokio::test]
async fn a_log_is_read_once_for_however_many_datasets() {
    let (mut logs, claim) = backdated(&[]).await;
    for minute in 1..40 {
        logs.look("drill", 300 + minute, &[]).await;
    }
    let counting: Vec<Arc<FailingReplica>> =
        logs.memories.iter().map(|memory| Arc::new(FailingReplica::new(memory.clone()))).collect();
    let replicas: Vec<SharedReplica> = counting.iter().map(shared).collect();
    let calls = || counting.iter().map(|replica| replica.calls()).sum::<u64>();
    let told = ToldLogs::default();
    assert_eq!(logs.ask(&replicas, &told, "shop", &claim).await.0, BACKDATED);
    let first = calls();
    assert_eq!(logs.ask(&replicas, &told, "wiki", &claim).await.0, None, "it names none of that dataset");
    assert!(first > 40 && calls() == first, "{first} calls, then {}", calls());
}
