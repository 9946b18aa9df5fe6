//! Format 2 as its document promises it: older and newer programs side by side, the chains of
//! snapshots and records, padding, names of streams, key generations, and vaults of format 1 that
//! nobody writes into.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod chain;
mod format_1;
mod generations;
mod newer_programs;
mod newer_records;
mod newer_snapshots;
mod padding;
mod records;
mod stream_names;
mod unknown_fields;
mod unreadable;

use std::path::Path;
use std::time::Duration;

use lifeboat_engine::Error;
use lifeboat_engine::clock::Clock;
use lifeboat_engine::config::{Objectives, ReplicaConfig, ReplicaKind};
use lifeboat_engine::drill::{Drill, DrillReport};
use lifeboat_engine::keep::catch_up::{ReplicaState, catch_up};
use lifeboat_engine::keep::verify::{Finding, verify};
use lifeboat_engine::restore::Selector;
use lifeboat_engine::state::StateDirectory;
use lifeboat_engine::store::bandwidth::Bandwidth;
use lifeboat_tests::host::section;
use lifeboat_tests::vault::{DATASET, TestVault, limits, name};
use lifeboat_tests::{programs, tools};
use tokio_util::sync::CancellationToken;

/// A word that no program of today knows.
pub(crate) const WORD: &str = "holograms";
pub(crate) const DEADLINE: Duration = Duration::from_secs(120);
/// Longer than the grace period of packs.
pub(crate) const TWO_DAYS: Duration = Duration::from_secs(2 * 86_400);

/// What is wrong in each replica, without a look into packs.
pub(crate) async fn findings(vault: &TestVault) -> Vec<Finding> {
    let reader = vault.open(vault.owner()).await.unwrap();
    verify(&reader, &name(DATASET), None, false, vault.clock.now(), &CancellationToken::new()).await.unwrap().findings
}

/// Whether a finding names all of these.
pub(crate) fn names(finding: &Finding, all: &[&str]) -> bool {
    let text = format!("{} {}", finding.object, finding.problem);
    all.iter().all(|one| text.contains(one))
}

/// Each replica has a finding for this object that says `what`, and none has another.
pub(crate) fn assert_found(findings: &[Finding], replicas: &[&str], object: &str, what: &str) {
    let found: Vec<&str> = findings.iter().map(|finding| finding.replica.as_str()).collect();
    assert_eq!(found, replicas, "{findings:?}");
    assert!(
        findings.iter().all(|finding| finding.object == object && finding.problem.contains(what)),
        "{object}, {what}: {findings:?}"
    );
}

/// An error names the word that this program does not know.
pub(crate) fn assert_names_the_word(error: &Error) {
    assert!(error.chain().contains(WORD), "{error:?}");
}

/// And it says what helps.
pub(crate) fn assert_asks_for_a_newer_version(error: &Error) {
    assert_names_the_word(error);
    assert!(format!("{error:?}").contains("newer version"), "{error:?}");
}

pub(crate) async fn caught_up(vault: &TestVault) -> Vec<ReplicaState> {
    let state = StateDirectory::open(&vault.config.state_directory).unwrap();
    let keys = vault.keys().unwrap();
    catch_up(&vault.config.datasets[0], &keys, &vault.replicas, &state, &limits(), &CancellationToken::new())
        .await
        .unwrap()
}

/// Fetches the newest snapshot, a second after whatever was before.
pub(crate) async fn drilled(vault: &TestVault) -> DrillReport {
    vault.clock.advance(Duration::from_secs(1));
    let reader = vault.open(vault.owner()).await.unwrap();
    let drill = Drill {
        reader: &reader,
        dataset: &name(DATASET),
        selector: Selector::Latest,
        settings: &vault.config.datasets[0].drill,
        past: &[],
        base: None,
        objectives: Objectives::default(),
        rehearses_loss: false,
        across: None,
        jobs: 1,
        environment: &tools::environment(),
        worker: &programs::worker(),
        scratch: vault.place.path().join("scratch"),
        clock: vault.clock.clone(),
        cancel: CancellationToken::new(),
    };
    let (report, error) = drill.run().await;
    assert!(error.is_none(), "{error:?}");
    report
}

/// The `[[replica]]` section of a directory, which is made.
pub(crate) fn directory(replica: &str, path: &Path) -> String {
    std::fs::create_dir_all(path).unwrap();
    section(&ReplicaConfig {
        name: name(replica),
        region: format!("region-{replica}"),
        kind: ReplicaKind::Directory { path: path.to_owned() },
        timeout: Duration::from_secs(20),
        bandwidth: Bandwidth::default(),
    })
}

/// A `[dataset.source]` section of a script.
pub(crate) fn script(text: &str) -> String {
    format!("kind = \"command\"\nargv = [\"/bin/sh\", \"-c\", \"{text}\"]\n")
}
