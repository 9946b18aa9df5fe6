//! Snapshots that only their operator understands: commands of his restore and judge them in a
//! drill.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use lifeboat_tests::operator::{Operator, directory_replica};
use lifeboat_tests::vault::files_below;

/// What a verdict says that nobody but this host may read.
const VERDICT: &str = "page 7 of the diary of Ada is empty";

fn script(place: &Path, name: &str, lines: &str) -> String {
    let path = place.join(name);
    fs::write(&path, format!("#!/bin/sh\n{lines}\n")).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    path.display().to_string()
}

/// A host that backs a folder up by `tar`, and the drill host beside it.
async fn hosts(place: &Path) -> (Operator, Operator) {
    let (mut db1, mut drill) = (Operator::at(place, "db1"), Operator::at(place, "drill"));
    fs::create_dir(place.join("wiki")).unwrap();
    for page in 0..20 {
        fs::write(place.join(format!("wiki/page-{page}")), format!("page {page}\n").repeat(9000)).unwrap();
    }
    db1.masters = vec![db1.make_identity("master.txt").await];
    db1.replicas = ["near", "far"].map(|name| directory_replica(place, name)).to_vec();
    db1.datasets = vec![wiki(place, "")];
    let signer = db1.init("").await;
    (drill.replicas, drill.masters, drill.trusted_signers) = (db1.replicas.clone(), db1.masters.clone(), vec![signer]);
    drill.must("cp -r ../db1/keys/drill-host keys").await;
    db1.backup().await;
    (db1, drill)
}

fn wiki(place: &Path, drill: &str) -> String {
    format!(
        "[[dataset]]\nname = \"shop\"\nhome_region = \"near\"\n[dataset.source]\nkind = \"command\"\n\
         argv = [\"/bin/tar\", \"-c\", \"--sort=name\", \"-C\", \"{}\", \".\"]\n[dataset.drill]\n{drill}\n",
        place.join("wiki").display()
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn commands_restore_and_judge_and_leave_nothing_behind() {
    let place = tempfile::tempdir().unwrap();
    let place = place.path();
    fs::set_permissions(place, fs::Permissions::from_mode(0o755)).unwrap();
    let (_db1, mut drill) = hosts(place).await;
    let drilled = async |drill: &mut Operator, settings: &str, more: &str| {
        drill.datasets = vec![wiki(place, settings)];
        drill.shell(&format!("lifeboat --json drill shop {more}")).await
    };

    // Without commands, as far as it can go.
    let fetched = drilled(&mut drill, "", "").await;
    assert_eq!(fetched.json().unwrap()["reached"], "fetched", "{fetched}");

    // The directory is empty at first, the command's own, and the same for both.
    let judge =
        script(place, "judge", "test \"$HOME\" = \"$PWD\" && test \"$(ls | wc -l)\" = 20 && grep -q 'page 7' page-7");
    let empty = script(place, "empty", "test -z \"$(ls -A)\" && test $(stat -c %a .) = 700 && exec tar -x");
    let whole = format!("restore = [\"{empty}\"]\nverify = [\"{judge}\"]");
    let checked = drilled(&mut drill, &whole, "--textfile metrics.prom").await;
    let report = checked.json().unwrap();
    assert_eq!(
        (&report["reached"], &report["passed"], &report["engine"]),
        (&"checked".into(), &true.into(), &"command".into()),
        "{checked}"
    );
    assert_eq!(report["checks"][0]["check"], "verify");
    let metrics = fs::read_to_string(drill.file("metrics.prom")).unwrap();
    assert!(metrics.contains("lifeboat_drill_highest_level{dataset=\"shop\"} 3\n"), "{metrics}");

    // Without `restore`, the stream lies there as a file; with `restore` alone, it was loaded.
    let listed = script(place, "listed", "test \"$(tar -tf stdout | grep -c page-)\" = 20");
    let by_file = drilled(&mut drill, &format!("verify = [\"{listed}\"]"), "").await;
    assert_eq!(by_file.json().unwrap()["reached"], "checked", "{by_file}");
    let loaded = drilled(&mut drill, "restore = [\"tar\", \"-x\"]", "").await;
    assert_eq!(loaded.json().unwrap()["reached"], "loaded", "{loaded}");

    // What keeps others out is removed all the same.
    let shut = script(place, "shut", "tar -x && mkdir shut && touch shut/file && chmod 500 shut");
    let removed = drilled(&mut drill, &format!("restore = [\"{shut}\"]"), "").await;
    assert!(removed.code() == Some(0) && removed.json().unwrap()["reached"] == "loaded", "{removed}");

    // A verdict that is bad fails the drill. Its words stay here.
    let bad = script(place, "bad", &format!("echo '{VERDICT}' >&2; exit 3"));
    let refused = drilled(&mut drill, &format!("restore = [\"tar\", \"-x\"]\nverify = [\"{bad}\"]"), "").await;
    assert_eq!(refused.code(), Some(6), "{refused}");
    let report = refused.json().unwrap();
    assert_eq!((&report["reached"], &report["passed"]), (&"loaded".into(), &false.into()), "{refused}");
    assert!(
        report["error"].as_str().unwrap().contains(&format!("exited with status 3, saying: {VERDICT}")),
        "{refused}"
    );
    let published: Vec<_> = files_below(&place.join("far"))
        .into_iter()
        .filter(|path| path.display().to_string().contains("/drills/"))
        .collect();
    assert!(published.len() >= 4, "{published:?}");
    let tells = |path: &std::path::PathBuf| String::from_utf8_lossy(&fs::read(path).unwrap()).contains("diary");
    assert!(!published.iter().any(tells));

    // Who does not read all has restored nothing; a program that is not there is named.
    let head = script(place, "head", "exec head -c 1000 > part");
    let cut = drilled(&mut drill, &format!("restore = [\"{head}\"]\nverify = [\"true\"]"), "").await;
    assert!(cut.code() != Some(0) && cut.stderr.contains("before it had read the whole stream"), "{cut}");
    assert!(cut.json().unwrap()["reached"].is_null(), "{cut}");
    let missing = drilled(&mut drill, "verify = [\"/usr/bin/no-such-judge\"]", "").await;
    assert!(missing.code() == Some(4) && missing.stderr.contains("install no-such-judge"), "{missing}");
    // No more is proved than was asked.
    let proved = drilled(&mut drill, &whole, "--level proved").await;
    assert!(proved.code() != Some(0) && proved.stderr.contains("--level checked"), "{proved}");
}

#[tokio::test(flavor = "multi_thread")]
async fn commands_see_no_keys_and_end_with_the_drill() {
    let place = tempfile::tempdir().unwrap();
    let place = place.path();
    fs::set_permissions(place, fs::Permissions::from_mode(0o755)).unwrap();
    let (_db1, mut drill) = hosts(place).await;
    let keys = drill.file("keys");
    let key = files_below(&keys).remove(0);
    drill.datasets = vec![wiki(place, &format!("verify = [\"/bin/cat\", \"{}\"]", key.display()))];
    let refused = drill.shell("lifeboat drill shop").await;
    assert!(refused.code() == Some(6) && refused.stderr.contains("Permission denied"), "{refused}");
    // Nobody waits for what does not end, and it does not live on.
    let mark = format!("{}", 40_000 + std::process::id());
    let hang = script(place, "hang", &format!("sleep {mark} & sleep {mark}"));
    drill.datasets = vec![wiki(place, &format!("max_time = \"3s\"\nverify = [\"{hang}\"]"))];
    let late = drill.shell("lifeboat drill shop").await;
    assert!(late.code() != Some(0) && late.stderr.contains("max_time allows 3s"), "{late}");
    let lives = drill.shell(&format!("pgrep -f '[s]leep {mark}'")).await;
    assert!(!lives.status.success(), "{lives}");
}
