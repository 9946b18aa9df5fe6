//! Names that are mistyped leave no trace; a dataset that lost its snapshots has failed. And what
//! stands between a drill and its place.

use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::time::Duration;

use lifeboat_tests::programs::{self, run};
use lifeboat_tests::rooted::RootedVault;
use lifeboat_tests::vault::files_below;
use tokio::process::Command;

use super::planned;

fn all_files(vault: &RootedVault) -> Vec<PathBuf> {
    ["r1", "r2", "drill1"].iter().flat_map(|place| files_below(&vault.path(place))).collect()
}

/// The configuration of the drill host with these sections.
fn add_sections(vault: &RootedVault, datasets: &[&str], more: &str) {
    let section = |name: &&str| {
        format!(
            "\n[[dataset]]\nname = \"{name}\"\nhome_region = \"r1\"\n[dataset.source]\nkind = \"sqlite\"\npath = \"/{name}\"\n"
        )
    };
    let config = vault.config("drill1");
    let plain = std::fs::read_to_string(&config).unwrap();
    let sections: String = datasets.iter().map(section).collect();
    std::fs::write(&config, format!("{plain}{sections}{more}")).unwrap();
}

#[tokio::test]
async fn a_name_that_nobody_knows_is_refused_and_leaves_no_trace() {
    let mut vault = planned("").await;
    vault.clock = Some("-235h".to_owned());
    let metrics = vault.path("metrics.prom");
    // What this host keeps of the root, it keeps from now on.
    assert_eq!(super::snapshots(&vault, "shop").await.len(), 3);
    let before = all_files(&vault);
    let output = vault.lifeboat("drill1", &["drill", "nosuch", "--textfile", metrics.to_str().unwrap()]).await;
    assert_eq!(output.code(), Some(2), "{output}");
    assert!(output.stderr.contains("the vault has no dataset nosuch"), "{output}");
    assert!(output.stderr.contains("it has: shop, wiki"), "{output}");
    add_sections(&vault, &["shop", "wiki"], "\n[[group]]\nname = \"forum\"\nmembers = [\"shop\", \"wiki\"]\n");
    for (words, what, next) in [
        (&["drill", "forum"][..], "forum is a group", "`lifeboat drill --group forum`"),
        (&["drill", "--group", "shop"], "shop is a dataset, not a group", "`lifeboat drill shop`"),
    ] {
        let output = vault.lifeboat("drill1", words).await;
        assert_eq!(output.code(), Some(2), "{output}");
        assert!(output.stderr.contains(what) && output.stderr.contains(next), "{output}");
    }
    assert_eq!(all_files(&vault), before);
    assert!(!metrics.exists());
}

#[tokio::test]
async fn a_dataset_that_lost_its_snapshots_has_failed_whatever_is_left_of_it() {
    let mut vault = planned("").await;
    vault.clock = Some("-235h".to_owned());
    // `shop` has a section here. `wiki` has none, and was drilled.
    add_sections(&vault, &["shop"], "");
    let drilled = vault.lifeboat("drill1", &["drill", "wiki"]).await;
    assert!(drilled.status.success(), "{drilled}");
    for (replica, dataset) in [("r1", "shop"), ("r2", "shop"), ("r1", "wiki"), ("r2", "wiki")] {
        for folder in ["datasets", "keyring/datasets"] {
            std::fs::remove_dir_all(vault.path(&format!("{replica}/{folder}/{dataset}"))).unwrap();
        }
    }
    for dataset in ["shop", "wiki"] {
        let metrics = vault.path(&format!("{dataset}.prom"));
        let words = ["drill", dataset, "--textfile", metrics.to_str().unwrap()];
        let output = vault.lifeboat("drill1", &words).await;
        assert!(output.code().is_some_and(|code| code != 0), "{output}");
        assert!((super::metrics(&metrics, "lifeboat_drill_last_status") - 0.0).abs() < 0.1, "{dataset}");
        let attempts = std::fs::read_to_string(vault.path(&format!("drill1/state/drills/{dataset}/attempts"))).unwrap();
        assert!(attempts.contains("\"failed\":true"), "{attempts}");
    }
}

#[tokio::test]
async fn a_place_that_the_worker_cannot_reach_is_told_with_what_to_do() {
    let vault = planned("").await;
    let closed = vault.path("closed");
    std::fs::create_dir(&closed).unwrap();
    // Everybody gets there, and nobody but root farther.
    std::fs::set_permissions(vault.path(""), std::fs::Permissions::from_mode(0o711)).unwrap();
    std::fs::set_permissions(&closed, std::fs::Permissions::from_mode(0o700)).unwrap();
    let mut lifeboat = Command::new(programs::lifeboat());
    lifeboat.arg("--config").arg(vault.config("drill1")).args(["drill", "shop"]).env("TMPDIR", &closed);
    let output = run(&mut lifeboat, Duration::from_secs(120)).await.unwrap();
    assert_eq!(output.code(), Some(4), "{output}");
    assert!(output.stderr.contains("the user of the worker cannot reach"), "{output}");
    assert!(output.stderr.contains("let the user of the worker reach TMPDIR"), "{output}");
}
