//! A drill that is killed in the load of a real PostgreSQL, its worker, and both: what is left, and
//! that the next drill leaves nothing of it.

use std::time::Duration;

use lifeboat_engine::config::{ReplicaConfig, ReplicaKind};
use lifeboat_engine::store::bandwidth::Bandwidth;
use lifeboat_tests::host::{BackupHost, section};
use lifeboat_tests::killed_drill::{DrillPlace, DrillUnderWay};
use lifeboat_tests::postgres::Postgres;
use lifeboat_tests::programs::run;
use lifeboat_tests::vault::name;
use tempfile::TempDir;
use tokio::process::Command;

const DEADLINE: Duration = Duration::from_secs(180);

/// A host with a backup of a database whose load takes seconds.
struct Killed {
    host: BackupHost,
    _vault: TempDir,
    place: DrillPlace,
    _server: Postgres,
}

impl Killed {
    async fn new() -> Self {
        let vault = tempfile::Builder::new().prefix("lifeboat-killed-").tempdir_in("/tmp").unwrap();
        let server = Postgres::start().await;
        server.create_database("shop").await;
        let fill = "CREATE TABLE items AS SELECT i AS id, md5(i::text) AS name FROM generate_series(1, 1500000) i; \
                    CREATE INDEX ON items (name); CREATE INDEX ON items (id)";
        server.run_sql("shop", fill).await;
        let replica = ReplicaConfig {
            name: name("r1"),
            region: "away".to_owned(),
            kind: ReplicaKind::Directory { path: vault.path().to_owned() },
            timeout: Duration::from_secs(20),
            bandwidth: Bandwidth::default(),
        };
        let source = format!(
            "kind = \"postgres\"\nurl = \"{}\"\nclient_directories = [\"{}\"]\n[dataset.drill]\nschedule = \"@yearly\"\nlevel = \"loaded\"",
            server.url("postgres"),
            server.programs().display()
        );
        let host = BackupHost::set_up(&[section(&replica)], &source).await;
        let backup = run(host.lifeboatd().arg("--once"), DEADLINE).await.unwrap();
        assert_eq!(backup.code(), Some(0), "{backup}");
        Self { host, _vault: vault, place: DrillPlace::make(), _server: server }
    }

    fn drill(&self, words: &[&str]) -> Command {
        self.place.drill(&self.host, words)
    }

    /// A drill that is loading.
    async fn loading(&self, words: &[&str]) -> DrillUnderWay {
        // The server with its helpers, and a client of it.
        self.place.loading(&self.host, words, |place| place.running().len() > 3).await
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drill_that_is_killed_leaves_nothing_that_the_next_does_not_sweep() {
    let killed = Killed::new().await;

    // The worker alone: the drill fails, and sweeps at once.
    let status = killed.loading(&["data", "--no-publish"]).await.kill_worker().await;
    assert!(status.code().is_some_and(|code| code != 0), "{status}");
    killed.place.assert_nothing_is_left();

    // Both at once: nobody is there to clean up.
    let metrics = killed.place.path().join("metrics");
    std::fs::create_dir(&metrics).unwrap();
    let due = ["--due", "--textfiles", metrics.to_str().unwrap()];
    killed.loading(&due).await.kill_both().await;
    tokio::time::sleep(Duration::from_millis(500)).await;
    let running = killed.place.running();
    assert!(running.iter().any(|(_, command)| command.contains("postgres")), "{running:?}");
    assert_eq!(killed.place.left().len(), 1, "{:?}", killed.place.left());
    let swept = run(&mut killed.drill(&due), DEADLINE).await.unwrap();
    assert!(swept.status.success(), "{swept}");
    // The attempt that was killed is remembered, so it is not begun again. It counts as failed.
    assert!(swept.stderr.contains("was killed, and counts as failed"), "{swept}");
    let told_of = |family: &str| super::metrics(&metrics.join("lifeboat-drill-data.prom"), family);
    assert!(told_of("lifeboat_drill_last_status").abs() < 0.1 && told_of("lifeboat_drill_last_attempt") > 1e9);
    let told = swept.json().unwrap();
    assert_eq!(
        (told["drills"].as_array().map(Vec::len), told["waiting"][0]["dataset"].as_str()),
        (Some(0), Some("data"))
    );
    killed.place.assert_nothing_is_left();

    // The drill alone, with the lock of what is due: its worker sees that and stops the server. The
    // next drill needs neither, and succeeds.
    std::fs::remove_file(killed.host.path().join("state/drills/data/attempts")).unwrap();
    for kept in lifeboat_tests::vault::files_below(&killed.host.path().join("state/drills/data")) {
        std::fs::remove_file(kept).unwrap();
    }
    killed.loading(&["--due"]).await.kill_drill().await;
    assert_eq!(killed.place.left().len(), 1, "{:?}", killed.place.left());
    let next = run(&mut killed.drill(&["data"]), DEADLINE).await.unwrap();
    assert!(next.status.success(), "{next}");
    assert_eq!(next.json().unwrap()["reached"], "loaded");
    killed.place.assert_nothing_is_left();
    let due = run(&mut killed.drill(&["--due"]), DEADLINE).await.unwrap();
    assert!(due.status.success(), "the lock is free: {due}");
    assert!(due.stderr.contains("was killed"), "{due}");
}
