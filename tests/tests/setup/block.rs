//! The whole block of the README, from nothing to protected and proved.

use std::os::unix::fs::PermissionsExt;

use lifeboat_engine::databases::postgres::PostgresConnection;
use lifeboat_tests::postgres::Postgres;
use lifeboat_tests::readme::Block;
use lifeboat_tests::s3::Region;

use crate::{Machines, bucket_url, files, replica};

#[tokio::test(flavor = "multi_thread")]
async fn from_nothing_to_protected_and_proved() {
    let (near, far) = tokio::join!(Region::start("eu-near"), Region::start("eu-far"));
    let server = Postgres::start().await;
    server.create_database("orders").await;
    server.run_sql("orders", "CREATE TABLE item (id int PRIMARY KEY); INSERT INTO item VALUES (1), (2);").await;
    let PostgresConnection::Socket { directory, .. } = server.connection() else { panic!("a socket") };
    let machines = Machines::new();
    let wiki = machines.sqlite("wiki.db");

    let mut block = Block::of_readme();
    let drill_line = machines.shown(&mut block, "drill", "setup drill-host", &[], &["--name", "drill1"]).await;
    let host_line = machines.shown(&mut block, "host", "setup host", &[], &["--name", "db1"]).await;
    let owner = machines.path("owner").display().to_string();
    let lines = [("LINE-H", host_line.as_str()), ("LINE-D", drill_line.as_str())];
    let root = machines.shown(&mut block, "nowhere", "owner init", &lines, &["--yes", "--directory", &owner]).await;
    let (near_keys, far_keys) = (near.credential_file().display(), far.credential_file().display());
    let (near_keys, far_keys) = (format!("near={near_keys}"), format!("far={far_keys}"));
    let shop = format!("shop=postgres:{}", directory.display());
    let wiki = format!("wiki=sqlite:{wiki}");
    let (near_place, far_place) = (replica("near", &near), replica("far", &far));
    let places = [
        ("ROOT", root.as_str()),
        ("shop=postgres:/var/run/postgresql", &shop),
        ("near=s3://backup-near?region=eu-central-1", &near_place),
        ("far=s3://backup-far?region=eu-west-1", &far_place),
    ];
    let more = ["--store-keys", &near_keys, "--store-keys", &far_keys, "--dataset", &wiki, "--yes"];
    let words = block.take("setup --root", &places, &more);
    let words: Vec<&str> = words.iter().map(String::as_str).collect();

    let dry = machines.ok("host", &[&words[..], &["--dry-run"]].concat()).await;
    assert!(dry.contains("kind = \"postgres\"") && dry.contains("path_style = true"), "{dry}");
    assert!(!machines.config("host").exists() && !machines.path("host/keys/credentials/near").exists());
    let stored = near.client().list_objects_v2().bucket(near.bucket()).send().await.unwrap();
    assert_eq!(stored.contents().len(), 0, "a dry run wrote into the bucket");

    let done = machines.lifeboat("host", &words).await;
    assert!(done.status.success(), "{done}");
    assert!(done.stdout.contains("Backed up for the first time: shop, wiki"), "{done}");
    for (path, mode) in files(&machines.path("host/keys")) {
        assert_eq!(mode, 0o600, "{}", path.display());
    }
    let secret = std::fs::read_to_string(near.credential_file()).unwrap();
    let secret = secret.lines().find_map(|line| line.strip_prefix("aws_secret_access_key = ")).unwrap();
    assert!(!format!("{done}").contains(secret), "the secret was printed");
    // The role reads, and changes nothing.
    let may = "SELECT rolsuper OR rolcreaterole OR rolcreatedb OR rolreplication FROM pg_roles WHERE rolname = 'root'";
    if rustix::process::geteuid().is_root() {
        assert_eq!(server.query("postgres", may).await.trim(), "f");
    }

    let kit = machines.shown(&mut block, "host", "kit", &[], &[]).await;
    assert!(kit.contains("eu-near") && kit.contains("eu-far"), "{kit}");
    let place = bucket_url(&far, far.bucket());
    let keys = far.credential_file().display().to_string();
    let places = [("ROOT", root.as_str()), ("s3://backup-far?region=eu-west-1", &place)];
    machines.shown(&mut block, "drill", "setup drill-host --join", &places, &["--store-keys", &keys, "--yes"]).await;
    let first = machines.shown(&mut block, "drill", "drill shop", &[], &["--json"]).await;
    let second = machines.ok("drill", &["--json", "drill", "wiki"]).await;
    for report in [first, second] {
        let report: serde_json::Value = serde_json::from_str(&report).unwrap();
        assert_eq!(report["reached"], "proved", "{report}");
    }
    let status = machines.ok("drill", &["--json", "status"]).await;
    let status: serde_json::Value = serde_json::from_str(&status).unwrap();
    let standings: Vec<&str> =
        status["datasets"].as_array().unwrap().iter().map(|dataset| dataset["standing"].as_str().unwrap()).collect();
    assert_eq!(standings, ["proved", "proved"], "{status}");
    let shown = machines.shown(&mut block, "drill", "status", &[], &[]).await;
    assert!(shown.contains("protected, proved"), "{shown}");
    block.end();

    restore_by_the_sheet(&machines, &far).await;

    // All of it again: nothing is made anew, and nothing is refused.
    let (before, config) = (files(&machines.path("host/keys")), std::fs::read(machines.config("host")).unwrap());
    assert_eq!(machines.host_line().await, host_line);
    assert_eq!(machines.drill_line().await, drill_line);
    let again = machines.root(&[&host_line, &drill_line]).await;
    let done = machines.lifeboat("host", &words).await;
    assert!(done.status.success(), "{done}");
    assert_eq!((files(&machines.path("host/keys")), std::fs::read(machines.config("host")).unwrap()), (before, config));
    let words = ["setup", "drill-host", "--join", &place, "--root", &again, "--yes"];
    let joined = machines.lifeboat("drill", &words).await;
    assert!(joined.status.success(), "{joined}");
}

/// What the owner printed restores, with what it leaves to be filled in.
async fn restore_by_the_sheet(machines: &Machines, region: &Region) {
    let sheet = std::fs::read_to_string(machines.path("owner/sheet.txt")).unwrap();
    let below = |heading: &str| sheet.split(heading).nth(1).unwrap().split("\n\n").nth(1).unwrap();
    let path = |name: &str| machines.path(name).display().to_string();
    std::fs::write(path("sheet-identity"), below("The master identity")).unwrap();
    std::fs::set_permissions(path("sheet-identity"), std::fs::Permissions::from_mode(0o600)).unwrap();
    std::fs::write(path("sheet-line"), below("The owner's line")).unwrap();
    let command = below("To restore with nothing but a bucket").replace("\\\n", " ").replace("\"REASON\"", "REASON");
    let words: Vec<String> = command
        .split_whitespace()
        .skip(1)
        .map(|word| match word {
            "DATASET" => "wiki".to_owned(),
            "BUCKET" => region.bucket().to_owned(),
            "REGION" => region.name().to_owned(),
            "https://STORE" => region.endpoint().to_string(),
            "credentials" => region.credential_file().display().to_string(),
            "@line" => format!("@{}", path("sheet-line")),
            "identity" => path("sheet-identity"),
            "out" => path("sheet-out"),
            other => other.to_owned(),
        })
        .collect();
    let ca_file = region.ca_file().display().to_string();
    // What the sheet says to add at such a store.
    for told in ["--s3-path-style", "--s3-ca-file FILE", "--vault-prefix PREFIX"] {
        assert!(sheet.contains(told), "{told}");
    }
    let of_store = ["--s3-path-style", "--s3-ca-file", &ca_file];
    let words: Vec<&str> = words.iter().map(String::as_str).chain(of_store).collect();
    let done = machines.lifeboat("nowhere", &words).await;
    assert!(done.status.success(), "{words:?}: {done}");
    let database = rusqlite::Connection::open(machines.path("sheet-out/database.sqlite")).unwrap();
    let text: String = database.query_row("SELECT text FROM page", [], |row| row.get(0)).unwrap();
    assert_eq!(text, "kept");
}
