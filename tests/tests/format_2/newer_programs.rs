//! The built programs beside a newer one: what an operator of an older host reads, and which exit
//! codes scripts get.

use std::path::Path;

use lifeboat_engine::config::{Config, Surroundings};
use lifeboat_engine::format::id::SnapshotId;
use lifeboat_engine::format::layout;
use lifeboat_engine::format::record::RecordType;
use lifeboat_engine::format::requirements::Requirements;
use lifeboat_tests::by_hand::{Hand, changed, harmed};
use lifeboat_tests::host::BackupHost;
use lifeboat_tests::programs::Output;
use lifeboat_tests::vault::noise;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::{WORD, directory, script};

/// A backup host whose source is a file, and the words of its owner.
struct Fleet {
    host: BackupHost,
    hand: Hand,
    place: TempDir,
    replicas: [String; 2],
}

impl Fleet {
    /// Two replicas that hold two snapshots.
    async fn new() -> Self {
        let place = TempDir::new().unwrap();
        let replicas = ["near", "far"].map(|name| directory(name, &place.path().join(name)));
        let source = Self::source(place.path());
        let host = BackupHost::set_up(&replicas, &source).await;
        host.configure(2, &replicas, &source).await;
        let config = Config::load(&host.config(), &Surroundings::default()).unwrap();
        let fleet = Self { hand: Hand::of(&config, &host.master()), host, place, replicas };
        for seed in 0..2 {
            fleet.backup(seed).await;
        }
        fleet
    }

    fn source(place: &Path) -> String {
        script(&format!("cat {}", place.join("data").display()))
    }

    /// From now on, only the newest snapshot is to be kept.
    async fn keep_one(&self) {
        let source = format!("{}[dataset.retention]\nkeep_last = 1\n", Self::source(self.place.path()));
        self.host.configure(2, &self.replicas, &source).await;
    }

    /// Backs noise of this seed up.
    async fn backup(&self, seed: u64) -> (Output, Value) {
        std::fs::write(self.place.path().join("data"), noise(300_000, seed)).unwrap();
        let (output, report) = self.host.once().await;
        // It commits, and says so if nothing may be deleted.
        let expected = if report["deletion_stopped"].is_object() { 6 } else { 0 };
        assert_eq!(output.code(), Some(expected), "{output}");
        (output, report)
    }

    /// Runs `lifeboat` as the owner.
    async fn lifeboat(&self, words: &[&str]) -> Output {
        let master = self.host.master().display().to_string();
        self.host.lifeboat(&[&["--identity", &master][..], words].concat()).await
    }

    /// What is listed: ids and problems.
    async fn listed(&self) -> Vec<(SnapshotId, Value)> {
        let output = self.lifeboat(&["--json", "list", "data"]).await;
        assert!(output.status.success(), "{output}");
        let listing = output.json().unwrap();
        let rows = listing["snapshots"].as_array().unwrap().iter();
        rows.map(|row| (row["snapshot"].as_str().unwrap().parse().unwrap(), row["problem"].clone())).collect()
    }

    async fn restored(&self, snapshot: &SnapshotId, to: &str) -> Output {
        let out = self.place.path().join(to).display().to_string();
        self.lifeboat(&["restore", "data", "--snapshot", snapshot.as_str(), "--to-directory", &out]).await
    }
}

/// A program ended with this code, and named the word.
fn assert_told(output: &Output, code: i32) {
    assert_eq!(output.code(), Some(code), "{output}");
    assert!(output.stdout.contains(WORD) || output.stderr.contains(WORD), "{output}");
}

#[tokio::test(flavor = "multi_thread")]
async fn both_programs_name_a_newer_snapshot_and_work_around_it() {
    let fleet = Fleet::new().await;
    let older: Vec<SnapshotId> = fleet.listed().await.into_iter().map(|(snapshot, _)| snapshot).collect();
    let mut manifest = fleet.hand.successor(&older[1], 7);
    manifest.requires = Requirements(vec![WORD.to_owned()]);
    let hash = fleet.hand.put_manifest(&manifest);
    let newer = manifest.snapshot;

    let listed = fleet.listed().await;
    assert_eq!(listed.len(), 3);
    for (snapshot, problem) in &listed {
        let told = problem.as_str().is_some_and(|problem| problem.contains(WORD));
        assert_eq!(told, *snapshot == newer, "{listed:?}");
        assert!(told || problem.is_null(), "{listed:?}");
    }
    let for_people = fleet.lifeboat(&["list"]).await;
    assert_told(&for_people, 0);
    assert!(for_people.stderr.contains("warning:") && for_people.stderr.contains(newer.as_str()), "{for_people}");

    for (seed, snapshot) in older.iter().enumerate() {
        let to = format!("restored-{seed}");
        let output = fleet.restored(snapshot, &to).await;
        assert_eq!(output.code(), Some(0), "{output}");
        let data = std::fs::read(fleet.place.path().join(to).join("stdout")).unwrap();
        assert!(data == noise(300_000, seed as u64), "{snapshot} differs");
    }
    for refused in [
        fleet.restored(&newer, "refused").await,
        fleet.lifeboat(&["restore", "data", "--stdout", "stdout"]).await,
        fleet.lifeboat(&["show", "data", "latest"]).await,
    ] {
        assert_told(&refused, 6);
        assert!(refused.stderr.contains("newer version"), "{refused}");
        assert!(refused.stdout.is_empty(), "{refused}");
    }
    assert!(!fleet.place.path().join("refused").join("stdout").exists());

    let verify = fleet.lifeboat(&["verify", "data"]).await;
    assert_told(&verify, 6);
    let key = layout::manifest(&fleet.hand.dataset, &newer);
    assert!(verify.stdout.contains(&format!("PROBLEM in replica far: {key}")), "{verify}");

    // Nothing goes, though retention would have it so; neither by hand nor after a backup.
    fleet.keep_one().await;
    let before = fleet.hand.contents();
    assert_told(&fleet.host.lifeboat(&["prune", "--yes"]).await, 6);
    let changed = changed(&before, &fleet.hand.contents());
    assert!(changed.is_empty(), "{changed:?}");
    let (output, report) = fleet.backup(2).await;
    let warnings: Vec<&str> = report["warnings"].as_array().unwrap().iter().filter_map(Value::as_str).collect();
    let warned = |of: &str| warnings.iter().any(|warning| warning.contains(WORD) && warning.contains(of));
    assert!(warned(newer.as_str()) && warned("not pruned"), "{report}");
    assert!(report["pruned"].is_null(), "{report}");
    assert!(output.stderr.contains(WORD), "{output}");
    let harmed = harmed(&before, &fleet.hand.contents());
    assert!(harmed.is_empty(), "{harmed:?}");

    let snapshot = report["snapshot"].as_str().unwrap();
    let shown = fleet.lifeboat(&["--json", "show", "data", snapshot]).await.json().unwrap();
    assert_eq!((&shown["sequence"], &shown["predecessor"]), (&json!(4), &json!(newer)));
    let previous = fleet.hand.manifest(&snapshot.parse().unwrap()).previous.unwrap();
    assert_eq!(previous.blake3, Some(hash));
}

#[tokio::test(flavor = "multi_thread")]
async fn both_programs_stop_deleting_at_a_newer_prune_record_and_say_so() {
    let fleet = Fleet::new().await;
    let hand = &fleet.hand;
    let id = hand.successor(&fleet.listed().await[1].0, 7).snapshot;
    let mut record = hand.record(RecordType::Prune, &hand.host, &id, &json!({ "removed": [] }));
    record["requires"] = json!([WORD]);
    let key = layout::prune(&hand.dataset, &id);
    hand.put_signed(&hand.keys.signer, &key, record.to_string().as_bytes());

    fleet.keep_one().await;
    let before = hand.contents();
    for words in [&["prune", "--yes"][..], &["prune", "--dry-run"]] {
        let refused = fleet.host.lifeboat(words).await;
        assert_told(&refused, 6);
        assert!(refused.stderr.contains(&key) && refused.stderr.contains("newer version"), "{refused}");
    }
    let verify = fleet.lifeboat(&["verify", "data"]).await;
    assert_told(&verify, 6);
    assert!(verify.stdout.contains(&format!("PROBLEM in replica near: {key}")), "{verify}");
    assert!(fleet.listed().await.iter().all(|(_, problem)| problem.is_null()));
    let (_, report) = fleet.backup(2).await;
    assert!(report["warnings"].to_string().contains(WORD) && report["pruned"].is_null(), "{report}");
    let harmed = harmed(&before, &hand.contents());
    assert!(harmed.is_empty(), "{harmed:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn both_programs_leave_a_vault_alone_that_requires_more_than_they_know() {
    let fleet = Fleet::new().await;
    let mut told: Value = serde_json::from_slice(&fleet.hand.read(layout::VAULT)).unwrap();
    told["requires"] = json!([WORD]);
    fleet.hand.put(layout::VAULT, told.to_string().as_bytes());
    fleet.keep_one().await;
    let before = fleet.hand.contents();
    let (backup, _) = fleet.host.once().await;
    for refused in [
        backup,
        fleet.lifeboat(&["list"]).await,
        fleet.lifeboat(&["verify"]).await,
        fleet.lifeboat(&["restore", "data", "--stdout", "stdout"]).await,
        fleet.lifeboat(&["prune", "--yes"]).await,
        fleet.lifeboat(&["init"]).await,
    ] {
        assert_told(&refused, 6);
        assert!(refused.stderr.contains("newer version"), "{refused}");
    }
    let changed = changed(&before, &fleet.hand.contents());
    assert!(changed.is_empty(), "{changed:?}");
}
