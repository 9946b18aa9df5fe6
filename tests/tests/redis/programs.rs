//! The programs, as operators run them: backup, check, drill, and restores.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use lifeboat_engine::config::{ReplicaConfig, ReplicaKind};
use lifeboat_engine::keys::DRILL_HOST_FOLDER;
use lifeboat_engine::store::bandwidth::Bandwidth;
use lifeboat_tests::host::{BackupHost, section};
use lifeboat_tests::redis::{Redis, fill_with_awkward_data};
use lifeboat_tests::vault::name;

use super::{captured, content, scratch};

/// A host whose dataset is this server, and its replica.
async fn host(server: &Redis, vault: &tempfile::TempDir) -> BackupHost {
    host_with(server, vault, "", "").await
}

/// The same, with more lines for the source and for the drill.
pub(super) async fn host_with(server: &Redis, vault: &tempfile::TempDir, source: &str, drill: &str) -> BackupHost {
    let replica = ReplicaConfig {
        name: name("r1"),
        region: "away".to_owned(),
        kind: ReplicaKind::Directory { path: vault.path().to_owned() },
        timeout: Duration::from_secs(20),
        bandwidth: Bandwidth::default(),
    };
    let source = format!(
        "kind = \"redis\"\nsocket = \"{}\"\n{source}[dataset.drill]\nlevel = \"proved\"\n{drill}\
        queries = [{{ database = \"15\", sql = \"GET only\", expect = \"here\" }}]",
        server.socket().display()
    );
    let host = BackupHost::set_up(&[section(&replica)], &source).await;
    let keys = host.path().join("keys");
    fs::copy(keys.join(DRILL_HOST_FOLDER).join("drill-signer"), keys.join("drill-signer")).unwrap();
    host
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_is_backed_up_checked_drilled_and_restored() {
    let (server, vault) = (Redis::start().await, scratch());
    fill_with_awkward_data(&server).await;
    let host = host(&server, &vault).await;
    let checked = host.lifeboat(&["check"]).await;
    assert!(!format!("{checked}").contains("redis-cli is not"), "{checked}");
    let (backup, report) = host.once().await;
    assert_eq!(backup.code(), Some(0), "{backup}");
    assert!(report["snapshot"].is_string(), "{backup}");

    let master = host.master().display().to_string();
    let drill = host.lifeboat(&["-i", &master, "--json", "drill", "data"]).await;
    assert_eq!(drill.code(), Some(0), "{drill}");
    let report = drill.json().unwrap();
    assert_eq!(report["reached"], "proved", "{report:#}");
    assert_eq!(report["proof"]["tables"], 7, "{report:#}");
    let checks: Vec<&str> = report["checks"].as_array().unwrap().iter().filter_map(|it| it["check"].as_str()).collect();
    assert_eq!(checks, ["redis_check_rdb", "key_count", "GET only"], "{report:#}");

    // Into a server that runs, once; then it is not empty.
    let lives = Redis::start().await;
    let address = format!("socket:{}", lives.socket().display());
    let into = host.lifeboat(&["-i", &master, "--json", "restore", "data", "--to-redis", &address]).await;
    assert_eq!(into.code(), Some(0), "{into}");
    assert_eq!(into.json().unwrap()["written"], serde_json::json!(["database 0", "database 15"]), "{into}");
    let again = host.lifeboat(&["-i", &master, "restore", "data", "--to-redis", &address]).await;
    assert_eq!(again.code(), Some(2), "{again}");
    assert!(again.stderr.contains("pass --overwrite to empty it first"), "{again}");
    let again =
        host.lifeboat(&["-i", &master, "restore", "data", "--overwrite", "--yes", "--to-redis", &address]).await;
    assert_eq!(again.code(), Some(0), "{again}");

    // The file and the users make a server again, by the server itself.
    let out = vault.path().join("files");
    let target = out.display().to_string();
    let files = host.lifeboat(&["-i", &master, "restore", "data", "--to-directory", &target]).await;
    assert_eq!(files.code(), Some(0), "{files}");
    let acl = out.join("users.acl");
    fs::set_permissions(&out, fs::Permissions::from_mode(0o777)).unwrap();
    for file in ["dump.rdb", "users.acl", "settings.txt"] {
        fs::set_permissions(out.join(file), fs::Permissions::from_mode(0o666)).unwrap();
    }
    fs::set_permissions(vault.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let again = Redis::start_with(&["--dir", &target, "--aclfile", &acl.display().to_string()]).await;
    let (mut before, mut after) = (server.client().await, again.client().await);
    while after.command(&[b"PING"]).await.is_err() {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(before.text("DBSIZE").await, after.text("DBSIZE").await);
    let code: [&[u8]; 3] = [b"FUNCTION", b"LIST", b"WITHCODE"];
    assert_eq!(before.command(&code).await, after.command(&code).await);
    // Each process writes the rules of different commands in an order of its own.
    let sorted = |listed: Vec<Vec<u8>>| -> Vec<Vec<Vec<u8>>> {
        let words = |line: Vec<u8>| line.split(|byte| *byte == b' ').map(<[u8]>::to_vec).collect::<Vec<_>>();
        let mut lines: Vec<Vec<Vec<u8>>> = listed.into_iter().map(words).collect();
        lines.iter_mut().for_each(|words| words.sort());
        lines
    };
    let [of_before, of_after] =
        [before.command(&[b"ACL", b"LIST"]).await.unwrap(), after.command(&[b"ACL", b"LIST"]).await.unwrap()];
    assert_eq!(sorted(of_before), sorted(of_after));
    for server in [&mut before, &mut after] {
        server.run("SELECT 0").await;
    }
    for key in ["wide zset", "zset", "scores"] {
        let words: [&[u8]; 5] = [b"ZRANGE", key.as_bytes(), b"0", b"-1", b"WITHSCORES"];
        assert_eq!(before.command(&words).await, after.command(&words).await, "{key}");
    }
    let large: [&[u8]; 2] = [b"GET", b"large"];
    assert_eq!(before.command(&large).await, after.command(&large).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_wrong_has_its_exit_code() {
    let (server, vault) = (Redis::start().await, scratch());
    server.run("SET a 1\nACL SETUSER locked on >right ~* +@all").await;
    let host = host(&server, &vault).await;
    let config = fs::read_to_string(host.config()).unwrap();
    let password = host.path().join("password");
    fs::write(&password, "wrong").unwrap();
    fs::set_permissions(&password, fs::Permissions::from_mode(0o600)).unwrap();
    let socket = format!("socket = \"{}\"", server.socket().display());
    for (replaced, told, hint) in [
        (
            format!("{socket}\nuser = \"locked\"\npassword = \"{}\"", password.display()),
            "AUTH failed",
            "check user and password",
        ),
        (socket.replace("/socket", "/nowhere"), "Could not connect", "that the server runs"),
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
    fs::write(host.config(), &config).unwrap();
    let (backup, _) = host.once().await;
    assert_eq!(backup.code(), Some(0), "{backup}");
    let master = host.master().display().to_string();
    let no_server = host.lifeboat(&["-i", &master, "restore", "data", "--to-mariadb", "mariadb://localhost"]).await;
    assert_eq!(no_server.code(), Some(2), "{no_server}");
    assert!(no_server.stderr.contains("kind redis cannot be restored into a server of kind mariadb"), "{no_server}");
}

/// The last step of the runbook: without it, the next start would load the old dump again.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_written_after_a_restore_outlives_the_next_start() {
    let source = Redis::start().await;
    source.run("SET before 1").await;
    let place = scratch();
    fs::set_permissions(place.path(), fs::Permissions::from_mode(0o777)).unwrap();
    let dir = place.path().join("data");
    fs::create_dir(&dir).unwrap();
    fs::set_permissions(&dir, fs::Permissions::from_mode(0o777)).unwrap();
    let dump = dir.join("dump.rdb");
    fs::write(&dump, content(&captured(&source).await, "dump")).unwrap();
    fs::set_permissions(&dump, fs::Permissions::from_mode(0o666)).unwrap();
    let dir = dir.display().to_string();
    {
        let restored = Redis::start_with(&["--dir", &dir, "--appendonly", "no"]).await;
        let mut client = restored.client().await;
        while client.command(&[b"PING"]).await.is_err() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        client.run("CONFIG SET appendonly yes").await;
        let ready = |said: &str| {
            ["aof_rewrite_in_progress:0", "aof_rewrite_scheduled:0", "aof_last_bgrewrite_status:ok"]
                .iter()
                .all(|line| said.contains(line))
        };
        while !ready(&client.text("INFO persistence").await) {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        client.run("CONFIG SET appendfsync always\nSET after 1").await;
    }
    let again = Redis::start_with(&["--dir", &dir, "--appendonly", "yes"]).await;
    let mut client = again.client().await;
    while client.command(&[b"PING"]).await.is_err() {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(client.text("GET before").await, "1");
    assert_eq!(client.text("GET after").await, "1");
}
