//! The warden alone deletes: on the built programs, each with files of its own.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod left_behind;
mod memory;
mod store;
mod thief;
mod veto;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use lifeboat_tests::fake_clock;
use lifeboat_tests::programs::{self, Output, run};
use lifeboat_tests::rooted::RootedVault;
use lifeboat_tests::vault::files_below;
use serde_json::Value;
use tokio::process::Command;

/// What a host that keeps one snapshot adds to its configuration.
const HOST_KEEPS: &str = "home_region = \"home\"\nretention = { keep_last = 1, grace = \"1m\" }\n";
/// What the warden adds to its own.
const WARDEN_KEEPS: &str = "home_region = \"home\"\nretention = { keep_last = 2, grace = \"1m\" }\n";

/// All files below a folder, by their names in it.
fn files(folder: &Path) -> BTreeMap<String, Vec<u8>> {
    let named = |path: PathBuf| {
        let name = path.strip_prefix(folder).unwrap().display().to_string();
        (name, std::fs::read(&path).unwrap())
    };
    files_below(folder).into_iter().map(named).collect()
}

/// A vault whose root names a warden, `warden1`, and a host, `db1`, which keeps less than it.
async fn vault() -> RootedVault {
    let vault = RootedVault::new().await;
    vault.set_up("db1", &["shop"], &[]).await;
    let limits = "[limits]\nrun = \"1m\"\nclock_skew = \"1s\"\n";
    vault.reconfigure("db1", "[limits]\n", limits);
    vault.reconfigure("db1", "home_region = \"home\"\n", HOST_KEEPS);
    install_warden(&vault).await;
    vault.reconfigure("warden1", "[limits]\n", limits);
    vault
}

async fn install_warden(vault: &RootedVault) {
    vault.configure("warden1", &vault.owners(), &["shop"]);
    vault.reconfigure("warden1", "home_region = \"home\"\n", WARDEN_KEEPS);
    std::fs::create_dir_all(vault.path("warden1/keys")).unwrap();
    let made = warden(vault, &["--make-signer"]).await;
    assert!(made.status.success(), "{made}");
    let again = warden(vault, &["--make-signer"]).await;
    assert_eq!(again.status.code(), Some(7), "{again}");
    vault.change("db1", &["set-warden", "warden1", "--signer", made.stdout.trim()]).await;
}

/// The warden's program.
async fn warden(vault: &RootedVault, words: &[&str]) -> Output {
    let mut daemon = Command::new(programs::lifeboatd());
    daemon.envs(vault.clock.iter().flat_map(|offset| fake_clock::environment(offset)));
    let daemon = daemon.arg("--config").arg(vault.config("warden1")).args(["--log", "text", "warden"]).args(words);
    run(daemon, Duration::from_secs(120)).await.expect("lifeboatd runs")
}

/// A look that succeeds, and what it says of the dataset.
async fn look(vault: &RootedVault) -> Value {
    let looked = warden(vault, &["--json"]).await;
    assert!(looked.status.success(), "{looked}");
    looked.json().unwrap()["datasets"][0].clone()
}

async fn backup(vault: &RootedVault, content: &str) {
    std::fs::write(vault.path("db1/shop"), content).unwrap();
    let once = vault.once("db1").await;
    assert!(once.status.success(), "{once}");
}

/// The ids of the snapshots in a replica.
fn ids(vault: &RootedVault, replica: &str) -> Vec<String> {
    let files = files(&vault.path(replica).join("datasets/shop/snapshots"));
    files.into_keys().filter_map(|file| file.strip_suffix(".json.zst.age").map(str::to_owned)).collect()
}

/// The one line in which a command tells of marks, vetoes and the warden.
async fn deletion_line(vault: &RootedVault, command: &str) -> String {
    let shown = vault.lifeboat("db1", &[command]).await;
    let lines: Vec<&str> = shown.stdout.lines().filter(|line| line.starts_with("shop: ")).collect();
    assert_eq!(lines.len(), 1, "{shown}");
    lines[0].to_owned()
}

fn at(vault: &mut RootedVault, offset: &str) {
    vault.clock = Some(offset.to_owned());
}

/// How many marks a look carried out, refused in part, and left waiting.
fn counts(looked: &Value) -> [usize; 3] {
    let all = |of: &str| looked[of].as_array().map_or_else(|| looked[of].as_object().unwrap().len(), Vec::len);
    [all("carried_out"), all("refused"), all("waiting")]
}

#[tokio::test(flavor = "multi_thread")]
async fn the_warden_carries_out_what_it_agrees_with_and_the_host_only_marks() {
    let mut vault = vault().await;
    for (offset, content) in [("+0s", "the first"), ("+2m", "the second")] {
        at(&mut vault, offset);
        backup(&vault, content).await;
        look(&vault).await;
    }
    // Its own grace period is over for the first one, but the host deletes nothing.
    at(&mut vault, "+6m");
    backup(&vault, "the third").await;
    let all = ids(&vault, "r1");
    assert_eq!(all.len(), 3);
    let needs = files(&vault.path("r1/datasets/shop/needs"));
    assert_eq!(needs.len(), 3, "{:?}", needs.keys());
    let packs = files(&vault.path("r1/datasets/shop/packs")).len();

    // The warden agrees with the first mark, since now, and waits. It keeps what the second names.
    let first = look(&vault).await;
    assert_eq!(counts(&first), [0, 1, 2], "{first}");
    let told = deletion_line(&vault, "list").await;
    for part in ["1 mark REFUSED by the warden, such as ", ": it waits, and now ", "2 marks wait until "] {
        assert!(told.contains(part), "no {part:?} in {told}");
    }
    let status = vault.lifeboat("db1", &["status"]).await;
    assert!(status.stdout.contains("the warden refuses 1 mark of backup hosts, such as "), "{status}");
    at(&mut vault, "+8m");
    let second = look(&vault).await;
    assert_eq!(counts(&second), [2, 1, 0], "{second}");
    assert!(second["refused"].to_string().contains("last 2 of 2"), "{second}");
    for replica in ["r1", "r2"] {
        assert_eq!(ids(&vault, replica), all[1..], "{replica}");
        assert_eq!(files(&vault.path(replica).join("datasets/shop/needs")).len(), 2, "{replica}");
        let left = files(&vault.path(replica).join("datasets/shop/packs")).len();
        assert!(left < packs, "{replica}: {left} of {packs} packs are left");
    }
    // Nothing is missing, nothing is doubted, and the host goes on.
    backup(&vault, "the fourth").await;
    let identity = vault.identity("ann");
    let verify = vault.lifeboat("db1", &["--identity", &identity, "verify", "--read-data"]).await;
    assert!(verify.status.success(), "{verify}");
    let audit = vault.lifeboat("db1", &["audit", "verify"]).await;
    assert!(audit.status.success() && audit.stdout.contains("wardens/warden1"), "{audit}");
    assert_eq!(vault.restored("shop", "r2", &[]).await.unwrap(), "the fourth");
    let shown = vault.lifeboat("db1", &["--json", "audit", "show", "--log", "wardens/warden1"]).await.to_string();
    for told in ["sweep", "refused", "last 2 of 2"] {
        assert!(shown.contains(told), "no {told} in {shown}");
    }

    // A new warden takes over, and what the old one deleted stays explained.
    for lost in ["warden1/keys/warden-signer", "warden1/state/datasets/shop/first-sights"] {
        std::fs::remove_file(vault.path(lost)).unwrap();
    }
    let made = warden(&vault, &["--make-signer"]).await;
    let old = warden(&vault, &[]).await;
    assert_eq!(old.status.code(), Some(7), "{old}");
    vault.change("db1", &["set-warden", "warden1", "--signer", made.stdout.trim()]).await;
    at(&mut vault, "+10m");
    let unsure = warden(&vault, &[]).await;
    assert!(!unsure.status.success() && unsure.to_string().contains("--begin-anew shop"), "{unsure}");
    let anew = warden(&vault, &["--begin-anew", "shop"]).await;
    assert!(anew.status.success(), "{anew}");
    backup(&vault, "the fifth").await;
    let verify = vault.lifeboat("db1", &["--identity", &identity, "verify"]).await;
    assert!(verify.status.success(), "{verify}");
    at(&mut vault, "+12m");
    look(&vault).await;
    at(&mut vault, "+14m");
    let looked = look(&vault).await;
    assert!(counts(&looked)[0] > 0, "{looked}");
    assert_eq!(ids(&vault, "r2").len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_warden_that_is_not_named_or_sees_no_list_of_needs_deletes_nothing_and_says_why() {
    let mut vault = RootedVault::new().await;
    vault.set_up("db1", &["shop"], &[]).await;
    let limits = "[limits]\nrun = \"1m\"\nclock_skew = \"1s\"\n";
    vault.reconfigure("db1", "[limits]\n", limits);
    // Snapshots from before there was a warden.
    for (offset, content) in [("+0s", "the first"), ("+2m", "the second")] {
        at(&mut vault, offset);
        backup(&vault, content).await;
    }
    vault.reconfigure("db1", "home_region = \"home\"\n", HOST_KEEPS);
    install_warden(&vault).await;
    vault.reconfigure("warden1", "[limits]\n", limits);
    let blind = warden(&vault, &[]).await;
    assert!(!blind.status.success(), "{blind}");
    assert!(blind.to_string().contains("run `lifeboat prune shop`"), "{blind}");
    let pruned = vault.lifeboat("db1", &["prune", "--yes"]).await;
    assert!(pruned.status.success(), "{pruned}");
    assert_eq!(files(&vault.path("r2/datasets/shop/needs")).len(), 2);
    let seen = look(&vault).await;
    assert_eq!(counts(&seen), [0, 1, 1], "{seen}");

    vault.change("db1", &["remove-warden"]).await;
    let unnamed = warden(&vault, &[]).await;
    assert_eq!(unnamed.status.code(), Some(7), "{unnamed}");
    assert!(unnamed.stderr.contains("set-warden warden1 --signer"), "{unnamed}");
    assert_eq!(ids(&vault, "r1").len(), 2);
}

/// A backup takes long, and the warden sweeps meanwhile: the number that it wanted is taken.
#[tokio::test(flavor = "multi_thread")]
async fn a_backup_during_which_the_warden_sweeps_is_committed() {
    let mut vault = vault().await;
    vault.reconfigure("warden1", "keep_last = 2", "keep_last = 1");
    for (offset, content) in [("+0s", "the first"), ("+2m", "the second")] {
        at(&mut vault, offset);
        backup(&vault, content).await;
        look(&vault).await;
    }
    let all = ids(&vault, "r1");
    let (go, begun) = (vault.path("go"), vault.path("begun"));
    let wait =
        format!("touch {}; while [ ! -e {} ]; do sleep 0.1; done; echo the third", begun.display(), go.display());
    let source = format!("kind = \"file\"\npath = \"{}\"\n", vault.path("db1/shop").display());
    let command = "replaces = \"file\"\n[dataset.source]\nkind = \"command\"\nstream = \"shop\"\n";
    let command = format!("{command}argv = [\"/bin/sh\", \"-c\", \"{wait}\"]\n");
    vault.reconfigure("db1", &format!("[dataset.source]\n{source}"), &command);
    at(&mut vault, "+4m");
    let (done, swept) = tokio::join!(vault.once("db1"), async {
        while !begun.exists() {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        let swept = look(&vault).await;
        std::fs::write(&go, "").unwrap();
        swept
    });
    assert_eq!(swept["outcome"]["snapshots"], 1, "{swept}");
    assert!(done.status.success(), "{done}");
    let left = ids(&vault, "r2");
    assert!(left.len() == 2 && left.contains(&all[1]), "{left:?} of {all:?}");
    let verify = vault.lifeboat("db1", &["--identity", &vault.identity("ann"), "verify", "--read-data"]).await;
    assert!(verify.status.success(), "{verify}");
}
