//! Two hosts with state directories of their own back one dataset up, and do not see each other.

use std::path::Path;
use std::process::Stdio;

use lifeboat_tests::operator::Operator;
use lifeboat_tests::programs::{self, Output};
use lifeboat_tests::vault::{files_below, noise};
use tokio::process::Command;

use crate::{KEEP_TEN, REPLICAS, assert_restores, data, host, place};

/// As little as possible stays. What is marked goes after a minute.
const KEEP_ONE: &str = "retention = { keep_last = 1, grace = \"1s\" }";

/// The section of a dataset that a shell captures.
fn captured(script: &str, retention: &str) -> Vec<String> {
    vec![format!(
        "[[dataset]]\nname = \"shop\"\nhome_region = \"home\"\nchunk_size = \"64KiB\"\n{retention}\n\
         source = {{ kind = \"command\", argv = [\"sh\", \"-c\", \"{script}\"] }}\n"
    )]
}

/// Data that has nothing in common with that of another seed.
fn unlike(seed: u64) -> Vec<u8> {
    noise(200_000, 50 + seed)
}

/// What the first host does while a backup of the second one is at work.
struct Meanwhile {
    what: &'static str,
    /// What the snapshots of the first host hold, and what the second host backs up: seed 0.
    content: fn(u64) -> Vec<u8>,
    /// When it prunes.
    prunes: &'static [Option<&'static str>],
    /// Why the backup is refused.
    refused: Option<&'static str>,
}

const SWEPT: Option<&str> = Some("other hosts have deleted packs of shop meanwhile");

const MEANWHILE: [Meanwhile; 4] = [
    Meanwhile { what: "a mark of the snapshot alone", content: data, prunes: &[None], refused: None },
    Meanwhile { what: "a mark of packs", content: unlike, prunes: &[None], refused: Some("db1 has marked pack") },
    Meanwhile { what: "a sweep of the snapshot alone", content: data, prunes: &[None, Some("+2m")], refused: SWEPT },
    Meanwhile { what: "a sweep of packs", content: unlike, prunes: &[None, Some("+2m")], refused: SWEPT },
];

/// The same host with another state directory.
fn twin(place: &Path, first: &Operator) -> Operator {
    let mut twin = Operator::at(place, "twin");
    let copied = std::process::Command::new("cp").arg("-r").args([first.file("keys"), twin.file("keys")]).status();
    assert!(copied.unwrap().success());
    std::fs::copy(first.file("master.txt"), twin.file("master.txt")).unwrap();
    twin.host.clone_from(&first.host);
    twin.masters.clone_from(&first.masters);
    twin.replicas.clone_from(&first.replicas);
    twin.min_replicas = first.min_replicas;
    twin
}

/// What gives `old`, and ends only when a file `go` is there.
fn paused(twin: &Operator) -> String {
    let folder = twin.file("").display().to_string();
    format!(
        "cat {folder}/old; touch {folder}/begun; n=0; \
         while [ ! -e {folder}/go ]; do sleep 0.05; n=$((n+1)); [ $n -lt 1200 ] || exit 1; done"
    )
}

/// The second host begins a backup that refers to packs of the first snapshot. Meanwhile, the first
/// host prunes at each of these times.
async fn back_up_beside(Meanwhile { what: when, content, prunes, refused }: Meanwhile) {
    let place = place();
    let mut first = host(place.path(), KEEP_TEN).await;
    let script = format!("cat {}/data", place.path().display());
    first.datasets = captured(&script, KEEP_TEN);
    let mut twin = twin(place.path(), &first);
    let mut snapshots = Vec::new();
    for seed in 0..2 {
        std::fs::write(place.path().join("data"), content(seed)).unwrap();
        snapshots.push(first.backup().await["snapshot"].as_str().unwrap().to_owned());
    }
    let packs = || files_below(&place.path().join("ireland/vault/datasets/shop/packs")).len();
    let before = packs();
    std::fs::write(twin.file("old"), content(0)).unwrap();
    twin.datasets = captured(&paused(&twin), KEEP_TEN);
    twin.must("true").await;
    let mut run = Command::new(programs::lifeboatd());
    run.arg("--config").arg(twin.file("lifeboat.toml")).args(["--json", "--log", "text", "--once", "shop"]);
    run.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    let run = run.spawn().unwrap();
    twin.until("its capture has begun", || twin.file("begun").exists()).await;
    first.datasets = captured(&script, KEEP_ONE);
    for clock in prunes {
        first.clock = *clock;
        first.must("lifeboat prune shop --yes").await;
    }
    first.clock = None;
    let are_gone = packs() < before;
    assert_eq!(are_gone, when == "a sweep of packs", "{when}: {before} packs, and now {}", packs());
    std::fs::write(twin.file("go"), "").unwrap();
    let output = run.wait_with_output().await.unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let output = Output { status: output.status, stdout: text(&output.stdout), stderr: text(&output.stderr) };
    match refused {
        Some(why) => {
            let is_told = output.stderr.contains("was not committed") && output.stderr.contains(why);
            assert!(output.code() == Some(1) && is_told, "{when}: {output}");
        }
        None => assert!(output.status.success(), "{when}: {output}"),
    }
    // What is shown is whole, in each replica alone.
    first.must("lifeboat verify shop").await;
    let list = first.must("lifeboat --json list shop").await.json().unwrap();
    let listed: Vec<&str> =
        list["snapshots"].as_array().unwrap().iter().map(|row| row["snapshot"].as_str().unwrap()).collect();
    assert_eq!(listed.contains(&snapshots[0].as_str()), prunes.len() < 2, "{when}: {list}");
    assert_eq!(listed.len(), 2 + usize::from(refused.is_none()) - usize::from(prunes.len() > 1), "{when}: {list}");
    for snapshot in listed {
        let seed = u64::from(snapshot == snapshots[1]);
        for replica in REPLICAS {
            assert_restores(&first, replica, snapshot, &content(seed), when).await;
        }
    }
    // The refused one is made good by the next run.
    twin.datasets = captured(&script, KEEP_TEN);
    twin.backup().await;
    first.must("lifeboat verify shop").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_whose_packs_another_host_marks_or_deletes_is_refused_or_whole() {
    for meanwhile in MEANWHILE {
        back_up_beside(meanwhile).await;
    }
}
