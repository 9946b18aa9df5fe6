//! What once made Lifeboat lose data without a word, on the built programs: objects that a rule of
//! the bucket or a mistaken clean-up took away, a bucket that is empty or that of yesterday, and
//! two hosts that do not see each other. Wrong clocks are in `clocks.rs`.
//!
//! Whatever is lost, the next runs and prunes delete nothing that was left, and either it comes
//! back by itself, or an exit code and a message tell what is wrong.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod losses;
mod two_hosts;

use std::path::Path;

use lifeboat_tests::operator::{Operator, directory_replica, file_dataset};
use lifeboat_tests::vault::{files_below, noise};
use tempfile::TempDir;

/// The two replicas.
const REPLICAS: [&str; 2] = ["frankfurt", "ireland"];
/// All backups stay, whatever is shown.
const KEEP_TEN: &str = "retention = { keep_last = 10, grace = \"1s\" }";

fn place() -> TempDir {
    tempfile::Builder::new().prefix("lifeboat-attack-").tempdir_in("/tmp").unwrap()
}

/// What the next backup finds: much is as before, and some is new. Wherever chunks are cut, some
/// of them are as before.
fn data(seed: u64) -> Vec<u8> {
    [noise(1_000_000, 1), noise(60_000, 100 + seed)].concat()
}

fn write(place: &Path, seed: u64) {
    std::fs::write(place.join("data"), data(seed)).unwrap();
}

/// A host that backs up the file `data` as `shop`, and needs one of two replicas for that.
async fn host(place: &Path, more: &str) -> Operator {
    let mut host = Operator::at(place, "db1");
    host.masters = vec![host.make_identity("master.txt").await];
    host.replicas = REPLICAS.map(|name| directory_replica(place, name)).to_vec();
    host.min_replicas = 1;
    host.datasets = vec![file_dataset("shop", &place.join("data"), more)];
    host.init("").await;
    host
}

/// Restores a snapshot from one replica alone. It must be this.
async fn assert_restores(host: &Operator, replica: &str, snapshot: &str, content: &[u8], when: &str) {
    let out = tempfile::tempdir_in(host.file("")).unwrap();
    let words = format!("--replica {replica} --identity master.txt restore shop --snapshot {snapshot} --to-directory");
    let output = host.shell(&format!("lifeboat {words} {}", out.path().join("out").display())).await;
    assert!(output.status.success(), "{when}: {snapshot}: {output}");
    let files = files_below(out.path());
    assert!(files.len() == 1 && std::fs::read(&files[0]).unwrap() == content, "{when}: {snapshot} differs");
}
