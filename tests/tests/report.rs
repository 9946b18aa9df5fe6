//! The report of a drill: true, safe to open, readable by everybody, and checked with stock tools.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::path::Path;

use data_encoding::BASE64;
use lifeboat_tests::browser;
use lifeboat_tests::operator::{Operator, directory_replica};
use lifeboat_tests::tools::workspace;
use rusqlite::Connection;
use serde_json::{Value, json};

/// A query whose text would be more than text in a page.
const HOSTILE: &str = "SELECT '</style><script>document.title = \"taken\"</script>' <> ''";

/// A host that backs a SQLite file up, the drill host beside it, and the file.
async fn hosts(place: &Path) -> (Operator, Operator, Connection) {
    let (mut db1, mut drill) = (Operator::at(place, "db1"), Operator::at(place, "drill"));
    let file = place.join("shop.db");
    let shop = Connection::open(&file).unwrap();
    shop.execute_batch("CREATE TABLE item (id INTEGER PRIMARY KEY, name TEXT);").unwrap();
    let dataset = format!(
        "[[dataset]]\nname = \"shop\"\nhome_region = \"home\"\nobjectives = {{ rpo = \"1d\", rto = \"10m\" }}\n\
         source = {{ kind = \"sqlite\", path = \"{}\" }}\n",
        file.display()
    );
    db1.masters = vec![db1.make_identity("master.txt").await];
    db1.replicas = ["frankfurt", "ireland"].map(|name| directory_replica(place, name)).to_vec();
    db1.datasets = vec![dataset.clone()];
    let signer = db1.init("").await;
    (drill.replicas, drill.masters, drill.trusted_signers) = (db1.replicas.clone(), db1.masters.clone(), vec![signer]);
    drill.datasets =
        vec![format!("{dataset}[dataset.drill]\nqueries = [{{ sql = '''{HOSTILE}''', expect = \"1\" }}]\n")];
    drill.must("cp -r ../db1/keys/drill-host keys").await;
    (db1, drill, shop)
}

/// More rows, and a backup of them.
async fn grow(db1: &Operator, shop: &Connection) {
    shop.execute_batch(
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 20000)
         INSERT INTO item (name) SELECT 'item ' || i FROM n",
    )
    .unwrap();
    db1.backup().await;
}

/// What a link of the page saves, by the name that it saves it under.
fn saved(page: &str, name: &str) -> Vec<u8> {
    let link = page.split("<a download=\"").find(|link| link.starts_with(&format!("{name}\"")));
    let link = link.unwrap_or_else(|| panic!("no link to {name}"));
    let data = link.split("base64,").nth(1).unwrap().split('"').next().unwrap();
    BASE64.decode(data.as_bytes()).unwrap()
}

/// Holds JSON against the schema that is shipped.
async fn assert_valid(host: &Operator, report: &Value) {
    std::fs::write(host.file("judged.json"), report.to_string()).unwrap();
    let schema = workspace().join("config/drill-report.schema.json");
    let judge = "import json, sys, jsonschema; schema = json.load(open(sys.argv[1])); \
                 judge = jsonschema.Draft202012Validator(schema); judge.check_schema(schema); \
                 judge.validate(json.load(open('judged.json')))";
    host.must(&format!("python3 -c \"{judge}\" {}", schema.display())).await;
    // It refuses something, too.
    let mut broken = report.clone();
    broken["reached"] = json!("believed");
    std::fs::write(host.file("judged.json"), broken.to_string()).unwrap();
    assert!(!host.shell(&format!("python3 -c \"{judge}\" {}", schema.display())).await.status.success());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_report_is_true_safe_readable_and_checked_with_stock_tools() {
    let place = tempfile::tempdir().unwrap();
    let (db1, drill, shop) = hosts(place.path()).await;
    grow(&db1, &shop).await;
    // Nothing was drilled, and that is said.
    let none = db1.shell("lifeboat report shop").await;
    assert!(none.code() == Some(1) && none.stderr.contains("lifeboat drill shop"), "{none}");

    let first = drill.must("lifeboat --json drill shop").await.json().unwrap();
    assert_valid(&drill, &first).await;
    grow(&db1, &shop).await;
    drill.must("lifeboat drill shop --replica frankfurt").await;

    let told = db1.must("lifeboat --json report shop --html report.html").await.json().unwrap();
    let verdict = told["verdict"].as_str().unwrap();
    assert!(verdict.contains("dataset shop was restored from replica frankfurt, and proved equal"), "{verdict}");
    assert!(verdict.ends_with("All objectives were met."), "{verdict}");
    assert_eq!((&told["drills"], &told["host"]), (&json!(2), &json!("drill")), "{told:#}");
    assert_valid(&db1, &told["report"]).await;
    let text = db1.must(&format!("lifeboat report shop --drill {}", first["drill"].as_str().unwrap())).await.stdout;
    assert!(text.contains("20,000 rows") && text.contains("equal"), "{text}");
    assert!(text.starts_with("Passed: the restored database was proved equal to the snapshot ("), "{text}");
    // Where no page can be written, nothing is read from the vault.
    for (file, why) in [("missing/report.html", "does not exist"), (".", "is a directory")] {
        let refused = db1.shell(&format!("lifeboat report shop --html {file}")).await;
        let told = &refused.stderr;
        assert!(refused.code() == Some(2) && told.contains(why) && told.contains("name another file"), "{refused}");
    }

    let page = std::fs::read_to_string(db1.file("report.html")).unwrap();
    for part in [verdict, "40,000 rows", "Objectives", "ireland", "frankfurt"] {
        assert!(page.contains(part), "{part} is not in the page");
    }
    // What the operator asked stands there, as text.
    let seen = browser::rendered(&page).await;
    assert!(seen.contains("<title>Restore drill of shop") && !seen.contains("<script"), "{seen}");
    assert!(seen.contains("&lt;script&gt;document.title = \"taken\""), "{seen}");
    let barriers = browser::barriers(&page).await;
    assert!(barriers.is_empty(), "{barriers:#?}");
    // axe-core sees what is wrong, where something is.
    let wrong = page.replacen("<html lang=\"en\"", "<html", 1).replace("aria-label", "data-label");
    let barriers = browser::barriers(&wrong).await;
    let ids: Vec<&str> = barriers.iter().filter_map(|of| of[0].as_str()).collect();
    assert!(ids.contains(&"html-has-lang") && ids.contains(&"svg-img-alt"), "{barriers:#?}");
    if let Some(file) = std::env::var_os("LIFEBOAT_PICTURE") {
        browser::picture(&page, Path::new(&file)).await;
    }

    // The page alone is enough for an auditor with minisign.
    let key = told["key"].as_str().unwrap();
    let name = key.rsplit('/').next().unwrap();
    let auditor = Operator::at(place.path(), "auditor");
    for file in [name.to_owned(), format!("{name}.minisig")] {
        let inside = saved(&page, &file);
        assert_eq!(
            inside,
            std::fs::read(place.path().join("frankfurt/vault").join(key).with_file_name(&file)).unwrap()
        );
        std::fs::write(auditor.file(&file), inside).unwrap();
    }
    let command = page.split("minisign -Vm ").nth(1).unwrap().split('<').next().unwrap();
    let checked = auditor.must(&format!("minisign -Vm {command}")).await.stdout;
    let comment = page.split("Trusted comment: ").nth(1).unwrap().split('<').next().unwrap();
    assert!(checked.contains(&format!("Trusted comment: {comment}")), "{checked}");
    let record: Value = serde_json::from_slice(&std::fs::read(auditor.file(name)).unwrap()).unwrap();
    assert_eq!(record["body"]["reached"], "proved", "{record:#}");
    assert_valid(&auditor, &record["body"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failure_and_what_nobody_signed_do_not_look_like_a_proof() {
    let place = tempfile::tempdir().unwrap();
    let (db1, mut drill, shop) = hosts(place.path()).await;
    grow(&db1, &shop).await;
    drill.datasets[0] = drill.datasets[0].replace("expect = \"1\"", "expect = \"0\"");
    let failed = drill.shell("lifeboat drill shop").await;
    assert!(!failed.status.success(), "{failed}");
    let told = db1.must("lifeboat --json report shop --html report.html").await.json().unwrap();
    let verdict = told["verdict"].as_str().unwrap();
    assert!(verdict.contains("FAILED") && verdict.contains("level proved is required"), "{verdict}");
    let wrong = "the engine's checks passed, but 1 of your queries did not give what it should";
    assert_eq!(told["not_compared"][0], format!("whether what was restored is sound: {wrong}"), "{told:#}");
    let page = std::fs::read_to_string(db1.file("report.html")).unwrap();
    assert!(page.contains("banner bad") && page.contains("Nothing was compared"), "{page}");
    assert!(page.contains("not met: the drill failed") && !page.contains(">met<"), "{page}");
    let text = db1.must("lifeboat report shop").await.stdout;
    assert!(text.starts_with(&format!("Failed: {wrong} (level loaded; proved is required)\n")), "{text}");
    assert!(browser::barriers(&page).await.is_empty());

    // A report that somebody changed is none, in whatever replica.
    let key = told["key"].as_str().unwrap();
    for replica in ["frankfurt", "ireland"] {
        let file = place.path().join(replica).join("vault").join(key);
        let text = std::fs::read_to_string(&file).unwrap();
        assert!(text.contains("false"), "{text}");
        let text = text.replace("false", "true");
        std::fs::remove_file(&file).unwrap();
        std::fs::write(&file, text).unwrap();
    }
    let refused = db1.shell("lifeboat report shop").await;
    assert!(!refused.status.success() && refused.stderr.contains("cannot be read"), "{refused}");
}
