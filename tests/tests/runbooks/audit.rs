//! The runbooks of logs: what was recorded is read, and a log that was cut is noticed.

use lifeboat_tests::operator::Operator;
use lifeboat_tests::runbook::Runbook;

use crate::{host, place};

/// A host whose vault has a root, signed by `ann`.
async fn rooted(place: &tempfile::TempDir) -> Operator {
    let mut db1 = host(place, "").await;
    db1.backup().await;
    db1.must("lifeboat owner init --directory ann --name ann > ann.line").await;
    let request = db1.must("lifeboat root adopt --owner @ann.line").await.stdout;
    let signed = db1.must(&format!("lifeboat owner sign --directory ann --yes '{}'", request.trim())).await.stdout;
    db1.must(&format!("lifeboat root install '{}'", signed.trim())).await;
    db1.owners = vec![db1.must("cat ann.line").await.stdout.trim().to_owned()];
    db1.masters = Vec::new();
    db1.must("lifeboat init --identity master.txt").await;
    db1
}

#[tokio::test(flavor = "multi_thread")]
async fn who_restored_is_read_and_checked() {
    let mut book =
        Runbook::open("Who did what").leaving_out("lifeboat owner init", "the owner is there from the start");
    let place = place();
    let mut db1 = rooted(&place).await;
    let owner = "--identity ann/identity --owner-directory ann --reason test";
    db1.restored(owner).await;
    let show = "lifeboat audit show --dataset shop --since 2026-11-23T18:00:00Z";
    let shown = db1.follow(&mut book, show, &[]).await;
    assert!(shown.stdout.contains("owners/ann") && shown.stdout.contains("restore: dataset shop"), "{shown}");
    let checked = db1.follow(&mut book, "lifeboat audit verify", &[]).await;
    assert!(checked.stdout.contains("owners/ann=1:"), "{checked}");
    db1.follow(&mut book, "lifeboat audit export > logs.jsonl", &[]).await;
    db1.must("lifeboat audit verify --export logs.jsonl").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backdated_snapshot_is_told_by_a_witness() {
    let mut book = Runbook::open("A snapshot is backdated").leaving_out(
        "systemctl enable --now lifeboat-witness.timer",
        "no manager runs here; what the unit runs comes next",
    );
    let place = place();
    let mut db1 = rooted(&place).await;
    let mut drill1 = Operator::at(place.path(), "drill1");
    (drill1.owners, drill1.replicas) = (db1.owners.clone(), db1.replicas.clone());
    drill1.limits = db1.limits.clone();
    std::fs::create_dir_all(drill1.file("keys")).unwrap();
    std::fs::copy(db1.file("keys/drill-host/drill-signer"), drill1.file("keys/drill-signer")).unwrap();
    db1.must("lifeboat root request set --remove-witness drill > removal").await;
    sign(&db1, "removal").await;
    book.take("lifeboat witness");
    let refused = drill1.shell("lifeboat witness").await;
    assert!(refused.stderr.contains("--add-witness drill"), "{refused}");
    let request = "lifeboat root request set --add-witness drill1";
    let line = db1.follow(&mut book, request, &[("drill1", "drill")]).await.stdout;
    std::fs::write(db1.file("addition"), line.trim()).unwrap();
    sign(&db1, "addition").await;
    drill1.must("lifeboat witness").await;
    let checked = db1.follow(&mut book, "lifeboat check", &[]).await;
    assert!(!checked.stdout.contains("witness drill has"), "{checked}");
    // Whoever has its keys leaves the root out.
    let own = db1.must("lifeboat --json init").await.json().unwrap()["signer"].as_str().unwrap().to_owned();
    let owners = std::mem::take(&mut db1.owners);
    (db1.trusted_signers, db1.clock) = (vec![own], Some("-20d"));
    db1.backup().await;
    (db1.trusted_signers, db1.clock, db1.owners) = (Vec::new(), None, owners);
    drill1.must("lifeboat witness").await;
    let listed = db1.follow(&mut book, "lifeboat list shop", &[]).await;
    assert!(listed.stdout.contains("BACKDATED"), "{listed}");
    let rows = db1.must("lifeboat --json list shop").await.json().unwrap();
    let id = rows["snapshots"][1]["snapshot"].as_str().unwrap().to_owned();
    let shown = db1.follow(&mut book, "lifeboat show shop ID", &[("ID", &id)]).await;
    assert!(shown.stdout.contains("by host db1") && shown.stdout.contains("BACKDATED"), "{shown}");
}

/// Lets `ann` sign the request in a file, and installs that.
async fn sign(host: &Operator, request: &str) {
    let signed = host.must(&format!("lifeboat owner sign --directory ann --yes @{request}")).await.stdout;
    host.must(&format!("lifeboat root install '{}'", signed.trim())).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_that_was_cut_is_noticed_and_accepted() {
    let mut book = Runbook::open("Somebody's log is shorter");
    let place = place();
    let mut db1 = rooted(&place).await;
    db1.restored("--identity ann/identity --owner-directory ann").await;
    // The host sees it.
    db1.restored("--identity ann/identity").await;
    for replica in ["frankfurt", "ireland"] {
        std::fs::remove_file(place.path().join(replica).join("vault/log/owners/ann/1.record")).unwrap();
    }
    let refused = db1.shell("lifeboat restore shop --identity ann/identity --to-directory out").await;
    assert!(refused.stderr.contains("log owners/ann is shorter than it was"), "{refused}");
    book.take("lifeboat audit verify");
    let found = db1.shell("lifeboat audit verify").await;
    assert!(found.code() == Some(6) && found.stdout.contains("log owners/ann was cut"), "{found}");
    db1.follow(&mut book, "lifeboat verify", &[]).await;
    book.take("lifeboat audit verify --accept-older");
    // The host's own record still tells of it: who reads that knows what is gone.
    db1.shell("lifeboat audit verify --accept-older --yes").await;
    db1.must("lifeboat restore shop --identity ann/identity --to-directory out").await;
    // Where it is a witness that stops deletion, an owner removes it.
    let request = "lifeboat root request set --remove-witness drill1";
    let line = db1.follow(&mut book, request, &[("drill1", "drill")]).await.stdout;
    std::fs::write(db1.file("removal"), line.trim()).unwrap();
    sign(&db1, "removal").await;
}
