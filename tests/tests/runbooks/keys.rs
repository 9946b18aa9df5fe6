//! Runbooks for keys that are lost, for an older vault, and for what is added.

use std::os::unix::fs::PermissionsExt;
use std::process::Command;

use lifeboat_tests::operator::{Operator, directory_replica, file_dataset, only_file};
use lifeboat_tests::runbook::Runbook;
use lifeboat_tests::tools;
use serde_json::Value;

use crate::{host, place, write};

#[tokio::test(flavor = "multi_thread")]
async fn lost_keys_are_replaced() {
    let mut book = Runbook::open("A key is lost").leaving_out(
        "lifeboat root request set --add-master RECIPIENT",
        "only where owners sign: the runbooks of the root run it",
    );
    let place = place();
    let mut db1 = host(&place, "").await;
    db1.masters.push(db1.make_identity("other.txt").await);
    let signer = db1.init("--identity master.txt").await;
    db1.backup().await;
    // One of two masters.
    std::fs::remove_file(db1.file("master.txt")).unwrap();
    db1.masters[0] = db1.make_identity("new.txt").await;
    db1.follow(&mut book, "lifeboat init --identity OTHER-MASTER", &[("OTHER-MASTER", "other.txt")]).await;
    assert_eq!(db1.restored("--identity new.txt").await, "one");

    // The drill signer. Prune keeps what the new one proved.
    let database = place.path().join("wiki.db");
    let sql = |text: &str| rusqlite::Connection::open(&database).unwrap().execute_batch(text).unwrap();
    sql("CREATE TABLE page (id INTEGER PRIMARY KEY, text TEXT); INSERT INTO page VALUES (1, 'one')");
    let mut drill = Operator::at(place.path(), "drill");
    db1.drill_recipients = vec![drill.make_identity("drill-identity").await];
    db1.datasets = vec![format!(
        "[[dataset]]\nname = \"shop\"\nhome_region = \"home\"\nreplaces = \"file\"\nretention = {{ keep_last = 1, grace = \"1s\" }}\n\
         source = {{ kind = \"sqlite\", path = \"{}\" }}\n",
        database.display()
    )];
    db1.init("--identity new.txt").await;
    let proved = db1.backup().await["snapshot"].as_str().unwrap().to_owned();
    (drill.masters, drill.replicas) = (db1.masters.clone(), db1.replicas.clone());
    drill.drill_recipients = db1.drill_recipients.clone();
    drill.trusted_signers = vec![signer.clone()];
    drill.datasets = db1.datasets.clone();
    drill.follow(&mut book, "minisign -G -W -p drill.pub -s drill-signer", &[]).await;
    drill.must("mkdir keys && chmod 600 drill-signer && mv drill-signer drill-identity keys/").await;
    let public = std::fs::read_to_string(drill.file("drill.pub")).unwrap();
    let before = drill.must("lifeboat drill shop").await;
    db1.backup().await;
    let plan = db1.must("lifeboat prune --dry-run shop").await;
    let is_kept = |plan: &str| plan.lines().any(|line| line.contains(&proved) && line.contains("proved"));
    assert!(!is_kept(&plan.stdout), "{before} {plan}");
    db1.trusted_drill_signers = vec![public.lines().last().unwrap().to_owned()];
    let plan = db1.must("lifeboat prune --dry-run shop").await;
    assert!(is_kept(&plan.stdout), "{before} {plan}");

    // The host's keys.
    std::fs::remove_file(db1.file("keys/host.key")).unwrap();
    assert_eq!(db1.shell("lifeboatd --once shop").await.code(), Some(7));
    db1.must("mv keys/host-keys .").await;
    db1.trusted_signers = vec![signer];
    db1.init("--identity new.txt").await;
    db1.backup().await;
    db1.must("lifeboat verify shop --read-data --identity new.txt").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dataset_and_a_drill_recipient_are_added() {
    let mut add = Runbook::open("Add a dataset")
        .leaving_out("lifeboat root show", "only where owners sign")
        .leaving_out(
            "lifeboat root request add-drill-host drill1 --recipient age1… --signer RW… --dataset shop",
            "only where owners sign: a runbook of the root runs it",
        )
        .leaving_out(
            "lifeboat init --identity MASTER",
            "only where owners sign; below, it is run for drill recipients",
        );
    let mut book = Runbook::open("Add a drill recipient");
    let place = place();
    let mut db1 = host(&place, "").await;
    db1.start().await;
    db1.must("lifeboat trigger shop").await;
    db1.datasets.push(db1.datasets[0].replace("\"shop\"", "\"wiki\""));
    db1.follow(&mut add, "lifeboat init", &[]).await;
    db1.follow(&mut add, "systemctl reload lifeboatd", &[]).await;
    db1.follow(&mut add, "lifeboat trigger NAME", &[("NAME", "wiki")]).await;
    db1.must("lifeboat verify wiki --read-data --identity master.txt").await;

    let mut drill = Operator::at(place.path(), "drill");
    drill.follow(&mut book, "age-keygen -o drill-identity", &[]).await;
    let public = drill.must("age-keygen -y drill-identity").await.stdout;
    std::fs::copy(drill.file("drill-identity"), db1.file("drill-identity")).unwrap();
    let restore = "lifeboat restore shop --identity drill-identity --to-directory";
    assert!(!db1.shell(&format!("{restore} before")).await.status.success());
    db1.drill_recipients = vec![public.trim().to_owned()];
    db1.follow(&mut book, "lifeboat init --identity MASTER", &[("MASTER", "master.txt")]).await;
    db1.must(&format!("{restore} after")).await;
    assert_eq!(only_file(&db1.file("after")), "one");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_older_vault_is_left_for_a_new_one() {
    let mut book = Runbook::open("A vault of an older format");
    let place = place();
    let frozen = tools::workspace().join("tests/vaults/format-1");
    let replica = directory_replica(place.path(), "frankfurt");
    let copied =
        Command::new("cp").arg("-r").arg(frozen.join("replica/.")).arg(place.path().join("frankfurt")).status();
    assert!(copied.unwrap().success());
    let read = |file: &str| std::fs::read_to_string(frozen.join(file)).unwrap();
    let mut db1 = Operator::at(place.path(), "db1");
    for file in ["master.txt", "drill-identity"] {
        std::fs::write(db1.file(file), read(file)).unwrap();
        std::fs::set_permissions(db1.file(file), PermissionsExt::from_mode(0o600)).unwrap();
    }
    write(&place, "new");
    db1.masters = vec![db1.must("age-keygen -y master.txt").await.stdout.trim().to_owned()];
    db1.replicas = vec![replica];
    db1.min_replicas = 1;
    db1.datasets = vec![file_dataset("shop", &place.path().join("data"), "")];
    db1.vault_prefix = String::new();
    let refused = db1.shell("lifeboat init --identity master.txt").await;
    assert!(!refused.status.success(), "{refused}");
    db1.must("cp lifeboat.toml old.toml; rm -rf state keys").await;

    db1.vault_prefix = "new".to_owned();
    db1.drill_recipients =
        vec![db1.follow(&mut book, "age-keygen -y drill-identity", &[]).await.stdout.trim().to_owned()];
    db1.follow(&mut book, "lifeboat init", &[]).await;
    db1.follow(&mut book, "lifeboat check", &[]).await;
    db1.start().await;
    db1.follow(&mut book, "lifeboat trigger NAME", &[("NAME", "shop")]).await;
    assert_eq!(db1.restored("--identity drill-identity").await, "new");
    // An old snapshot, and then no more.
    let expected: Value = serde_json::from_str(&read("expected.json")).unwrap();
    let old = &expected["snapshots"][0];
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let (dataset, id, signer) = (text(&old["dataset"]), text(&old["snapshot"]), read("signer.pub"));
    let restore = format!(
        "lifeboat restore {dataset} --config old.toml --snapshot {id} --trusted-signer {} --identity master.txt \
         --to-directory",
        signer.trim()
    );
    db1.must(&format!("{restore} old")).await;
    db1.must("cd ../frankfurt && rm -r vault.json hosts keyring datasets").await;
    assert!(!db1.shell(&format!("{restore} gone")).await.status.success());
    db1.must("lifeboat verify shop --read-data --identity master.txt").await;
}
