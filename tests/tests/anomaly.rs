//! Snapshots that depart from their history, made by the built programs from a real SQLite database
//! and a real command: they are kept and flagged, and nothing is deleted until an operator says so.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::io::{Read, Write};
use std::path::Path;
use std::time::Duration;

use lifeboat_tests::host::BackupHost;
use serde_json::Value;

const PATIENCE: Duration = Duration::from_secs(30);

async fn host(source: &str) -> BackupHost {
    let place = tempfile::tempdir().unwrap().keep();
    let replicas = ["near", "far"].map(|name| {
        let path = place.join(name);
        std::fs::create_dir(&path).unwrap();
        format!(
            "[[replica]]\nname = \"{name}\"\nkind = \"directory\"\nregion = \"{name}\"\npath = \"{}\"\n",
            path.display()
        )
    });
    let source = source.replace("PLACE", &place.display().to_string());
    let host = BackupHost::set_up(&replicas, &format!("{source}\n[dataset.retention]\nkeep_last = 1\n")).await;
    std::fs::write(host.path().join("place"), place.display().to_string()).unwrap();
    host
}

fn place(host: &BackupHost) -> std::path::PathBuf {
    std::fs::read_to_string(host.path().join("place")).unwrap().into()
}

/// Backs up; what is said of the snapshot's history.
async fn anomalies(host: &BackupHost) -> String {
    let (output, report) = host.once().await;
    let found = report["anomalies"].as_array().cloned().unwrap_or_default();
    assert_eq!(output.status.success(), found.is_empty(), "{output}");
    found.iter().map(|found| found.as_str().unwrap()).collect::<Vec<_>>().join("; ")
}

/// The marks and snapshots of a prune by hand, or its error.
async fn pruned(host: &BackupHost) -> Result<Value, String> {
    let output = host.lifeboat(&["--json", "prune", "--yes"]).await;
    if output.status.success() { Ok(output.json().unwrap()[0]["outcome"].clone()) } else { Err(output.stderr) }
}

fn change(path: &Path, sql: &str) {
    rusqlite::Connection::open(path).unwrap().execute_batch(sql).unwrap();
}

/// `/metrics` of the daemon while it runs, and what its `status` says.
async fn shown(host: &BackupHost) -> (String, String) {
    let text = std::fs::read_to_string(host.config()).unwrap();
    let listen = text.split("listen = \"").nth(1).unwrap().split('"').next().unwrap().to_owned();
    let mut daemon = host.lifeboatd().kill_on_drop(true).spawn().unwrap();
    let page = tokio::time::timeout(PATIENCE, async {
        loop {
            let address = listen.clone();
            let page = tokio::task::spawn_blocking(move || {
                let mut stream = std::net::TcpStream::connect(&address).ok()?;
                stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: lifeboat\r\nConnection: close\r\n\r\n").ok()?;
                let mut page = String::new();
                stream.read_to_string(&mut page).ok()?;
                page.contains("lifeboat_build_info").then_some(page)
            });
            if let Some(page) = page.await.unwrap() {
                break page;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    });
    let page = page.await.expect("metrics");
    let status = host.lifeboatd().arg("status").output().await.unwrap();
    daemon.kill().await.unwrap();
    (page, String::from_utf8(status.stdout).unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_encrypted_table_stops_deletion_until_it_is_acknowledged() {
    let host = host("kind = \"sqlite\"\npath = \"PLACE/shop.db\"").await;
    let database = place(&host).join("shop.db");
    change(
        &database,
        "CREATE TABLE customer (id INTEGER PRIMARY KEY, name TEXT, address BLOB);
         WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n WHERE x < 9000)
         INSERT INTO customer SELECT x, 'customer ' || x,
            'street ' || (x % 100) || ', house ' || (x % 7) || ', one of the usual towns on the river' FROM n;
         CREATE TABLE stock (id INTEGER PRIMARY KEY, name TEXT);
         INSERT INTO stock SELECT id, 'a good of the usual kind, number ' || (id % 50) FROM customer;",
    );
    for day in 0..3 {
        assert_eq!(anomalies(&host).await, "", "day {day}");
        change(&database, "UPDATE stock SET name = name || '.' WHERE id % 100 = 3; VACUUM;");
    }
    let (page, _) = shown(&host).await;
    assert!(page.contains("lifeboat_backup_anomalies{dataset=\"data\"} 0\n"), "{page}");

    change(&database, "UPDATE customer SET address = randomblob(length(address));");
    let found = anomalies(&host).await;
    assert!(found.contains("stream `database` has new data that compresses to"), "{found}");
    let (page, status) = shown(&host).await;
    assert!(page.contains("lifeboat_backup_anomalies{dataset=\"data\"} 1\n"), "{page}");
    assert!(page.contains("lifeboat_deletion_stopped{dataset=\"data\"} 1\n"), "{page}");
    assert!(page.contains("lifeboat_backup_last_status{dataset=\"data\"} 1\n"), "{page}");
    assert!(status.contains("DEPARTS from its history") && status.contains("lifeboat acknowledge data"), "{status}");
    let refused = pruned(&host).await.unwrap_err();
    assert!(refused.contains("departs from its history"), "{refused}");

    let asked = host.lifeboat(&["acknowledge", "data"]).await;
    assert_eq!(asked.status.code(), Some(2), "nobody can be asked: {asked}");
    assert!(asked.stdout.contains("stream `database` has new data"), "{asked}");
    assert!(pruned(&host).await.is_err(), "nothing was acknowledged");
    let acknowledged = host.lifeboat(&["--json", "acknowledge", "data", "--yes"]).await;
    assert!(acknowledged.status.success(), "{acknowledged}");
    assert_eq!(acknowledged.json().unwrap()["acknowledged"].as_array().unwrap().len(), 1);
    assert!(pruned(&host).await.is_ok());
    change(&database, "UPDATE stock SET name = name || '.' WHERE id % 100 = 3; VACUUM;");
    assert_eq!(anomalies(&host).await, "", "what was acknowledged is flagged again");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dump_cut_short_is_flagged_and_an_empty_one_fails() {
    let host = host("kind = \"command\"\nargv = [\"cat\", \"PLACE/dump\"]").await;
    let dump = place(&host).join("dump");
    let rows: String =
        (0..20_000).map(|row| format!("INSERT INTO shop VALUES ({row}, 'row {}');\n", row % 91)).collect();
    std::fs::write(&dump, &rows).unwrap();
    assert_eq!(anomalies(&host).await, "");
    std::fs::write(&dump, format!("{rows}INSERT INTO shop VALUES (0, 'the last');\n")).unwrap();
    assert_eq!(anomalies(&host).await, "");

    std::fs::write(&dump, &rows[..rows.len() / 10]).unwrap();
    let found = anomalies(&host).await;
    assert!(found.contains("stream `stdout` shrank to 82.7 KiB"), "{found}");
    let found = anomalies(&host).await;
    assert!(found.contains("shrank"), "it is flagged as long as it lasts: {found}");

    std::fs::write(&dump, "").unwrap();
    let (output, report) = host.once().await;
    assert_eq!((output.status.code(), &report), (Some(4), &Value::Null), "{output}");
    assert!(output.stderr.contains("allow_empty = true"), "{output}");

    // The state of the host is lost but for the flag, which is damaged: deletion stays stopped.
    let folder = host.path().join("state/datasets/data");
    std::fs::remove_file(folder.join("history")).unwrap();
    std::fs::write(folder.join("flagged"), "[{").unwrap();
    std::fs::write(&dump, &rows).unwrap();
    let (output, report) = host.once().await;
    assert_eq!(output.status.code(), Some(6), "{output}");
    assert!(report["deletion_stopped"]["why"].as_str().unwrap().contains("damaged"), "{report}");
    assert!(host.lifeboat(&["acknowledge", "data", "--yes"]).await.status.success());
    assert_eq!(anomalies(&host).await, "");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_harm_shows_though_the_history_was_lost() {
    let host = host("kind = \"command\"\nargv = [\"cat\", \"PLACE/dump\"]").await;
    let dump = place(&host).join("dump");
    std::fs::write(&dump, "one of many rows\n".repeat(20_000)).unwrap();
    assert_eq!(anomalies(&host).await, "");
    std::fs::remove_file(host.path().join("state/datasets/data/history")).unwrap();
    std::fs::write(&dump, "one of many rows\n".repeat(2_000)).unwrap();
    let found = anomalies(&host).await;
    assert!(found.contains("stream `stdout` shrank"), "{found}");
}
