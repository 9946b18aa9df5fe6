//! A record, or `vault.json`, that requires a word that today's program does not know: it is named,
//! nothing is deleted, and what does not depend on it goes on.

use lifeboat_engine::Result;
use lifeboat_engine::clock::{Clock, SharedClock};
use lifeboat_engine::format::id::SnapshotId;
use lifeboat_engine::format::layout;
use lifeboat_engine::format::record::RecordType;
use lifeboat_engine::keep::catch_up::catch_up;
use lifeboat_engine::keys::{InitOptions, init};
use lifeboat_engine::state::StateDirectory;
use lifeboat_tests::by_hand::{Hand, changed, contents, drill_signer, harmed};
use lifeboat_tests::vault::{MemorySource, TestVault, limits, name, noise};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use crate::{
    TWO_DAYS, WORD, assert_asks_for_a_newer_version, assert_found, assert_names_the_word, caught_up, drilled, findings,
};

/// Two snapshots in two replicas, of which retention keeps one, and a record of a newer program.
struct Fleet {
    vault: TestVault,
    hand: Hand,
    snapshots: Vec<SnapshotId>,
    key: String,
}

impl Fleet {
    async fn new(of: RecordType, change: impl Fn(&mut Value)) -> Self {
        let mut vault = TestVault::new(2, 2).await;
        vault.config.datasets[0].retention.keep_last = 1;
        let mut snapshots = Vec::new();
        for seed in 0..2 {
            snapshots.push(vault.backup(&MemorySource::of(noise(300_000, seed))).await.unwrap().snapshot);
        }
        let report = drilled(&vault).await;
        let hand = Hand::of(&vault.config, &vault.master);
        let id = SnapshotId::new(vault.clock.now(), 7);
        let (principal, signer, body) = match of {
            RecordType::Prune => (hand.host.clone(), vault.keys().unwrap().signer, json!({ "removed": [] })),
            RecordType::Mark => (
                hand.host.clone(),
                vault.keys().unwrap().signer,
                json!({ "snapshots": [], "packs": [], "objects": [] }),
            ),
            RecordType::Drill => (name("drill1"), drill_signer(&vault.config), json!(report)),
        };
        let mut record = hand.record(of, &principal, &id, &body);
        change(&mut record);
        let key = layout::record(&hand.dataset, of, &id);
        hand.put_signed(&signer, &key, record.to_string().as_bytes());
        Self { vault, hand, snapshots, key }
    }

    async fn assert_prunes_nothing(&self) {
        let before = self.hand.contents();
        let error = self.vault.prune().await.expect_err("prune went on");
        assert_names_the_word(&error);
        assert!(error.chain().contains(&self.key), "{error:?}");
        let changed = changed(&before, &self.hand.contents());
        assert!(changed.is_empty(), "{changed:?}");
    }
}

fn modest(record: &mut Value) {
    record["requires"] = json!([WORD]);
}

/// It changes what need not keep its meaning.
fn bold(record: &mut Value) {
    modest(record);
    record["body"] = json!([1, 2, 3]);
    record["scenes"] = json!({ "told": "elsewhere" });
}

async fn stops_prune_alone(of: RecordType) {
    for change in [modest, bold] {
        let fleet = Fleet::new(of, change).await;
        let (vault, hand) = (&fleet.vault, &fleet.hand);
        for (snapshot, seed) in fleet.snapshots.iter().zip(0..) {
            assert!(vault.restore(snapshot).await.unwrap()["data"] == noise(300_000, seed));
        }
        assert_found(&findings(vault).await, &["r1", "r2"], &fleet.key, WORD);
        vault.clock.advance(TWO_DAYS);
        fleet.assert_prunes_nothing().await;

        let before = hand.contents();
        let report = vault.backup(&MemorySource::of(noise(300_000, 3))).await.unwrap();
        assert_eq!(hand.manifest(&report.snapshot).sequence, 3);
        caught_up(vault).await;
        let harmed = harmed(&before, &hand.contents());
        assert!(harmed.is_empty(), "{harmed:?}");
        assert_found(&findings(vault).await, &["r1", "r2"], &fleet.key, WORD);
        fleet.assert_prunes_nothing().await;

        // One replica has lost it.
        hand.remove(2, &fleet.key);
        let before = hand.contents();
        fleet.assert_prunes_nothing().await;
        caught_up(vault).await;
        let after = hand.contents();
        let [one, two] = [0, 1].map(|at| after.get(&hand.replicas[at].join(&fleet.key)));
        assert!(one == before.get(&hand.replicas[0].join(&fleet.key)) && (two.is_none() || one == two));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_prune_record_stops_every_deletion_and_nothing_else() {
    stops_prune_alone(RecordType::Prune).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drill_record_stops_every_deletion_and_nothing_else() {
    stops_prune_alone(RecordType::Drill).await;
}

/// `vault.json` of a newer program, which changes what it must not change in silence.
fn newer_vault_json(hand: &Hand) -> Vec<u8> {
    let mut told: Value = serde_json::from_slice(&hand.read(layout::VAULT)).unwrap();
    told["requires"] = json!([WORD]);
    told["created"] = json!({ "told": "elsewhere" });
    told.to_string().into_bytes()
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_reads_or_writes_a_vault_that_requires_it() {
    let mut vault = TestVault::new(2, 2).await;
    vault.config.datasets[0].retention.keep_last = 1;
    for seed in 0..2 {
        vault.backup(&MemorySource::of(noise(300_000, seed))).await.unwrap();
    }
    let hand = Hand::of(&vault.config, &vault.master);
    hand.put(layout::VAULT, &newer_vault_json(&hand));
    let before = hand.contents();
    let state = StateDirectory::open(&vault.config.state_directory).unwrap();
    let keys = vault.keys().unwrap();
    let cancel = CancellationToken::new();
    let clock: SharedClock = vault.clock.clone();
    let options = InitOptions { identities: vault.master_identities(), ..InitOptions::default() };
    let dataset = &vault.config.datasets[0];

    let refused: [(&str, Result<()>); 5] = [
        ("open", vault.open(vault.owner()).await.map(drop)),
        ("backup", vault.backup(&MemorySource::of("x")).await.map(drop)),
        ("prune", vault.prune().await.map(drop)),
        ("catch-up", catch_up(dataset, &keys, &vault.replicas, &state, &limits(), &cancel).await.map(drop)),
        ("init", init(&vault.config, &vault.replicas, &options, &clock).await.map(drop)),
    ];
    for (verb, result) in refused {
        let error = result.expect_err(verb);
        assert_asks_for_a_newer_version(&error);
        assert!(error.chain().contains(layout::VAULT), "{verb}: {error:?}");
    }
    let changed = changed(&before, &hand.contents());
    assert!(changed.is_empty(), "{changed:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_whose_vault_requires_it_is_left_alone_by_name() {
    let mut vault = TestVault::new(2, 1).await;
    vault.config.datasets[0].retention.keep_last = 1;
    let mut snapshots = Vec::new();
    for seed in 0..2 {
        snapshots.push(vault.backup(&MemorySource::of(noise(300_000, seed))).await.unwrap().snapshot);
    }
    let hand = Hand::of(&vault.config, &vault.master);
    std::fs::write(hand.replicas[1].join(layout::VAULT), newer_vault_json(&hand)).unwrap();
    let before = contents(&hand.replicas[1..]);

    let reader = vault.open(vault.owner()).await.unwrap();
    assert!(reader.unreachable()[&name("r2")].contains(WORD), "{:?}", reader.unreachable());
    for (snapshot, seed) in snapshots.iter().zip(0..) {
        assert!(vault.restore(snapshot).await.unwrap()["data"] == noise(300_000, seed));
    }
    let report = vault.backup(&MemorySource::of(noise(300_000, 2))).await.unwrap();
    let told: Vec<bool> = report.replicas.iter().map(|replica| replica.complete).collect();
    assert_eq!(told, [true, false]);
    assert!(report.replicas[1].error.as_ref().unwrap().contains(WORD), "{:?}", report.replicas);
    vault.clock.advance(TWO_DAYS);
    match vault.prune().await {
        Ok((plan, _)) => {
            let told = plan.skipped.iter().any(|(replica, why)| *replica == name("r2") && why.contains(WORD));
            assert!(told, "{plan:?}");
        }
        Err(error) => assert_names_the_word(&error),
    }
    let states = caught_up(&vault).await;
    let of_r2 = states.iter().find(|state| state.replica == name("r2")).unwrap();
    assert!(of_r2.error.as_ref().unwrap().contains(WORD), "{of_r2:?}");
    let changed = changed(&before, &contents(&hand.replicas[1..]));
    assert!(changed.is_empty(), "{changed:?}");
}
