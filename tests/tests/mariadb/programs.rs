//! The programs, as operators run them: backup, check, drill, and restores.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use lifeboat_engine::config::{ReplicaConfig, ReplicaKind};
use lifeboat_engine::keys::DRILL_HOST_FOLDER;
use lifeboat_engine::store::bandwidth::Bandwidth;
use lifeboat_tests::host::{BackupHost, section};
use lifeboat_tests::mariadb::MariaDb;
use lifeboat_tests::programs::{self, run};
use lifeboat_tests::vault::name;
use lifeboat_tests::work::assert_nothing_is_left;
use tokio::process::Command;

use super::scratch;

const SHOP: &str = "CREATE DATABASE shop; CREATE TABLE shop.orders (id INT PRIMARY KEY AUTO_INCREMENT, t VARCHAR(40));
    USE shop; INSERT INTO shop.orders (t) SELECT MD5(seq) FROM seq_1_to_5000;
    CREATE VIEW shop.newest AS SELECT max(id) AS id FROM shop.orders;
    CREATE USER app@'%' IDENTIFIED BY 'x'; GRANT SELECT ON shop.* TO app@'%';";

/// A host whose dataset is this server, and its replica.
async fn host(server: &MariaDb, vault: &tempfile::TempDir) -> BackupHost {
    let replica = ReplicaConfig {
        name: name("r1"),
        region: "away".to_owned(),
        kind: ReplicaKind::Directory { path: vault.path().to_owned() },
        timeout: Duration::from_secs(20),
        bandwidth: Bandwidth::default(),
    };
    let source = format!(
        "kind = \"mariadb\"\nsocket = \"{}\"\nuser = \"root\"\n[dataset.drill]\nlevel = \"proved\"\n\
        queries = [{{ database = \"shop\", sql = \"SELECT count(*) FROM orders\", expect = \"5000\" }}]",
        server.socket().display()
    );
    let host = BackupHost::set_up(&[section(&replica)], &source).await;
    let keys = host.path().join("keys");
    fs::copy(keys.join(DRILL_HOST_FOLDER).join("drill-signer"), keys.join("drill-signer")).unwrap();
    host
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_is_backed_up_checked_drilled_and_restored() {
    let (server, vault) = (MariaDb::start().await, scratch());
    server.run_sql("", SHOP).await;
    let host = host(&server, &vault).await;
    let checked = host.lifeboat(&["check"]).await;
    assert!(!format!("{checked}").contains("mariadb-dump is not"), "{checked}");
    let (backup, report) = host.once().await;
    assert_eq!(backup.code(), Some(0), "{backup}");
    assert!(report["snapshot"].is_string(), "{backup}");

    let master = host.master().display().to_string();
    let drill = host.lifeboat(&["-i", &master, "--json", "drill", "data"]).await;
    assert_eq!(drill.code(), Some(0), "{drill}");
    let report = drill.json().unwrap();
    assert_eq!(report["reached"], "proved", "{report:#}");
    assert_eq!((&report["proof"]["tables"], &report["proof"]["rows"]), (&1.into(), &5000.into()), "{report:#}");
    let checks: Vec<&str> = report["checks"].as_array().unwrap().iter().filter_map(|it| it["check"].as_str()).collect();
    assert_eq!(checks, ["check_table shop", "shop: SELECT count(*) FROM orders"], "{report:#}");

    let to = MariaDb::start().await;
    let address = to.address("root");
    let restored = host.lifeboat(&["-i", &master, "--json", "restore", "data", "--to-mariadb", &address]).await;
    assert_eq!(restored.code(), Some(0), "{restored}");
    assert_eq!(to.query("shop", "SELECT count(*), max(id) FROM orders JOIN newest USING (id)").await, "1\t5000\n");
    assert!(to.query("", "SHOW GRANTS FOR app@'%'").await.contains("GRANT SELECT ON `shop`.*"));
    let again = host.lifeboat(&["-i", &master, "restore", "data", "--to-mariadb", &address]).await;
    assert_eq!(again.code(), Some(2), "{again}");
    assert!(again.stderr.contains("not empty") && again.stderr.contains("--overwrite"), "{again}");

    let out = vault.path().join("files");
    let target = out.display().to_string();
    let files = host.lifeboat(&["-i", &master, "restore", "data", "--to-directory", &target]).await;
    assert_eq!(files.code(), Some(0), "{files}");
    assert!(fs::read_to_string(out.join("database/shop.sql")).unwrap().ends_with("\n-- Dump completed\n"));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_wrong_has_its_exit_code() {
    let (server, vault) = (MariaDb::start().await, scratch());
    server.run_sql("", SHOP).await;
    let host = host(&server, &vault).await;
    let config = fs::read_to_string(host.config()).unwrap();
    let password = host.path().join("password");
    fs::write(&password, "wrong").unwrap();
    fs::set_permissions(&password, fs::Permissions::from_mode(0o600)).unwrap();
    server.run_sql("", "CREATE USER locked@localhost IDENTIFIED BY 'right'").await;
    let socket = format!("socket = \"{}\"\nuser = \"root\"", server.socket().display());
    for (replaced, told, hint) in [
        (
            format!("{}\npassword = \"{}\"", socket.replace("root", "locked"), password.display()),
            "1045",
            "check user and password",
        ),
        (socket.replace("/socket", "/nowhere"), "2002", "that the server runs"),
        (format!("{socket}\ndatabases = [\"gone\"]"), "no database `gone`", "shop"),
    ] {
        fs::write(host.config(), config.replace(&socket, &replaced)).unwrap();
        let (failed, report) = host.once().await;
        assert_eq!(failed.code(), Some(4), "{failed}");
        assert!(report.is_null(), "{failed}");
        assert!(failed.stderr.contains(told) && failed.stderr.contains(hint), "{failed}");
        let checked = host.lifeboat(&["check"]).await;
        assert_ne!(checked.code(), Some(0), "{checked}");
        assert!(format!("{checked}").contains(told), "{checked}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drill_without_the_programs_of_its_server_has_its_exit_code_and_leaves_nothing() {
    // A newer server that says it is older, as no older one is installed.
    let (server, vault) = (MariaDb::start_with(&["--version=10.6.1-MariaDB"]).await, scratch());
    server.run_sql("", SHOP).await;
    let host = host(&server, &vault).await;
    let (backup, _) = host.once().await;
    assert_eq!(backup.code(), Some(0), "{backup}");

    let place = scratch();
    fs::set_permissions(place.path(), fs::Permissions::from_mode(0o1777)).unwrap();
    let mut drill = Command::new(programs::lifeboat());
    drill.arg("--config").arg(host.config()).arg("-i").arg(host.master()).args(["--json", "drill", "data"]);
    let failed = run(drill.env("TMPDIR", place.path()), Duration::from_secs(120)).await.unwrap();
    assert_eq!(failed.code(), Some(4), "{failed}");
    let told = "the programs of a MariaDB 10.6 server for the drill are not installed (there is 10.";
    assert!(failed.stderr.contains(told), "{failed}");
    assert!(failed.stderr.contains("install mariadb-server-core of MariaDB 10.6 "), "{failed}");
    let report = failed.json().unwrap();
    assert!(report["passed"] == false && report["reached"].is_null(), "{report:#}");
    assert!(report["restored_bytes"] == 0 && report["error"].as_str().unwrap().contains(told), "{report:#}");
    assert_nothing_is_left(place.path()).await;
}
