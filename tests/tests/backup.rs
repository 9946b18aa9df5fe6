//! Backup and restore through the vault: what is stored comes back, once, and success is never
//! claimed early.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use lifeboat_engine::base::facts::SourceFacts;
use lifeboat_engine::databases::Database;
use lifeboat_engine::databases::command::Command;
use lifeboat_engine::databases::file::File;
use lifeboat_engine::databases::streams::StreamSink;
use lifeboat_engine::databases::{Source, WorkContext};
use lifeboat_engine::format::id::SnapshotId;
use lifeboat_engine::format::layout;
use lifeboat_engine::format::manifest::PackRef;
use lifeboat_engine::state::{StateDirectory, watch};
use lifeboat_engine::store::{FailingReplica, Failure, SharedReplica};
use lifeboat_engine::{Class, Result};
use lifeboat_tests::tools;
use lifeboat_tests::vault::{DATASET, MemorySource, TestVault, files_below, name, noise};

fn objects(vault: &TestVault, replica: usize, part: &str) -> Vec<std::path::PathBuf> {
    let all = files_below(&vault.replica_path(replica)).into_iter();
    all.filter(|file| file.to_string_lossy().contains(part)).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_backed_up_comes_back_from_either_replica_alone() {
    let vault = TestVault::new(2, 2).await;
    let source = MemorySource {
        streams: vec![
            ("globals".to_owned(), b"CREATE ROLE app;".to_vec()),
            ("database/shop".to_owned(), [noise(3_000_000, 1), vec![b'x'; 9_000_000], noise(2_000_000, 2)].concat()),
            ("empty".to_owned(), Vec::new()),
        ],
        ..MemorySource::default()
    };
    let report = vault.backup(&source).await.unwrap();
    assert!(report.replicas.iter().all(|replica| replica.complete));
    assert_eq!(report.raw_bytes, 14_000_016);
    for lost in [1, 2] {
        let (there, away) = (vault.replica_path(lost), vault.place.path().join("lost"));
        std::fs::rename(&there, &away).unwrap();
        let restored = vault.restore(&report.snapshot).await.unwrap();
        for (stream, content) in &source.streams {
            assert!(restored[stream] == *content, "stream {stream} differs without replica {lost}");
        }
        std::fs::rename(&away, &there).unwrap();
    }
}

/// Streams with the same content, all written at once.
#[derive(Debug)]
struct Twins {
    content: Vec<u8>,
    streams: usize,
}

#[async_trait]
impl Source for Twins {
    fn database(&self) -> &'static dyn Database {
        &Command
    }

    async fn capture(&self, sink: &dyn StreamSink, _: &WorkContext) -> Result<SourceFacts> {
        let write = async |number: usize| {
            let mut writer = sink.open(&format!("twin{number}"))?;
            for piece in self.content.chunks(100_000) {
                writer.write(Bytes::copy_from_slice(piece)).await?;
            }
            writer.finish(0).await
        };
        for written in futures::future::join_all((0..self.streams).map(write)).await {
            written?;
        }
        Ok(SourceFacts { engine: "command".to_owned(), ..SourceFacts::default() })
    }
}

/// A file with the content of another source.
#[derive(Debug)]
struct AsFile(MemorySource);

#[async_trait]
impl Source for AsFile {
    fn database(&self) -> &'static dyn Database {
        &File
    }

    async fn capture(&self, sink: &dyn StreamSink, cx: &WorkContext) -> Result<SourceFacts> {
        Ok(SourceFacts { engine: "file".to_owned(), ..self.0.capture(sink, cx).await? })
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_source_of_another_kind_is_refused_until_somebody_means_it() {
    let mut vault = TestVault::new(1, 1).await;
    vault.backup(&MemorySource::of(noise(10_000, 20))).await.unwrap();
    let other = AsFile(MemorySource::of(noise(10_000, 21)));
    let error = vault.backup(&other).await.unwrap_err();
    assert_eq!(error.class(), Class::Configuration, "{error:?}");
    assert!(error.message().contains("from command, and its source is of kind file"), "{error:?}");
    assert!(error.hint_text().unwrap().contains("replaces = \"command\""), "{error:?}");
    assert_eq!(objects(&vault, 1, "/snapshots/").len(), 2, "something was committed");

    vault.config.datasets[0].replaces = Some("command");
    let replaced = vault.backup(&other).await.unwrap();
    assert!(vault.restore(&replaced.snapshot).await.unwrap()["data"] == other.0.streams[0].1);
    // From now on it is a file, with or without the word.
    vault.config.datasets[0].replaces = None;
    vault.backup(&other).await.unwrap();
    assert!(vault.backup(&MemorySource::of(noise(10_000, 20))).await.is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_without_a_byte_is_no_snapshot_unless_its_source_says_so() {
    let vault = TestVault::new(1, 1).await;
    let source = |refuses_empty| MemorySource {
        streams: vec![("a".to_owned(), b"some".to_vec()), ("b".to_owned(), Vec::new())],
        refuses_empty,
        ..MemorySource::default()
    };
    let error = vault.backup(&source(true)).await.unwrap_err();
    assert!(error.class() == Class::Source && error.message().contains("stream `b` is empty"), "{error:?}");
    assert!(vault.backup(&source(false)).await.is_ok());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn more_streams_at_once_than_blocks_in_memory_store_what_they_share_once() {
    let mut vault = TestVault::new(1, 1).await;
    // Of so little, a run makes three blocks, its least, for nine streams. What a run takes in all
    // is measured by `make bench`.
    vault.config.limits.memory = 8 << 20;
    let twins = Twins { content: noise(12_000_000, 11), streams: 9 };
    let report = vault.backup(&twins).await.unwrap();
    assert_eq!(report.raw_bytes, 9 * 12_000_000);
    assert!(report.stored_bytes < 13_000_000, "{} stored", report.stored_bytes);
    let restored = vault.restore(&report.snapshot).await.unwrap();
    assert!(restored.len() == 9 && restored.values().all(|content| *content == twins.content));
}

#[tokio::test(flavor = "multi_thread")]
async fn unchanged_data_is_not_stored_again_also_after_the_state_directory_was_lost() {
    let vault = TestVault::new(2, 2).await;
    let mut data = noise(6_000_000, 3);
    let first = vault.backup(&MemorySource::of(data.clone())).await.unwrap();
    assert!(first.stored_bytes > 6_000_000);
    let second = vault.backup(&MemorySource::of(data.clone())).await.unwrap();
    assert_eq!((second.new_packs, second.stored_bytes), (0, 0));
    assert_eq!(second.deduplicated_bytes, 6_000_000);

    std::fs::remove_dir_all(&vault.config.state_directory).unwrap();
    data[3_000_000] ^= 1;
    let third = vault.backup(&MemorySource::of(data.clone())).await.unwrap();
    assert!(third.stored_bytes < 1_000_000, "{} bytes were stored again", third.stored_bytes);
    assert!(vault.restore(&third.snapshot).await.unwrap()["data"] == data);
    let reader = vault.open(vault.owner()).await.unwrap();
    let manifest = reader.manifest(&name(DATASET), &third.snapshot).await.unwrap();
    assert_eq!(manifest.predecessor(), Some(&second.snapshot));
}

#[tokio::test(flavor = "multi_thread")]
async fn repeats_inside_one_snapshot_are_stored_once() {
    let vault = TestVault::new(1, 1).await;
    let block = noise(4_000_000, 4);
    let source = MemorySource {
        streams: vec![("a".to_owned(), block.clone()), ("b".to_owned(), [block.clone(), block].concat())],
        ..MemorySource::default()
    };
    let report = vault.backup(&source).await.unwrap();
    assert!(report.stored_bytes < 5_000_000, "{}", report.stored_bytes);
    let restored = vault.restore(&report.snapshot).await.unwrap();
    assert!(source.streams.iter().all(|(stream, content)| restored[stream] == *content));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_source_that_fails_or_is_cut_short_commits_nothing() {
    let vault = TestVault::new(2, 2).await;
    let good = vault.backup(&MemorySource::of(noise(100_000, 5))).await.unwrap();
    let failing = MemorySource { fail_after: Some(2_000_000), ..MemorySource::of(noise(9_000_000, 6)) };
    let error = vault.backup(&failing).await.unwrap_err();
    assert_eq!(error.class(), Class::Source, "{error:?}");
    let abandoned = MemorySource { abandon: true, ..MemorySource::of(noise(300_000, 7)) };
    let error = vault.backup(&abandoned).await.unwrap_err();
    assert_eq!(error.class(), Class::Source, "{error:?}");
    assert!(error.message().contains("`data`"), "{error:?}");

    let reader = vault.open(vault.owner()).await.unwrap();
    let listed: Vec<SnapshotId> =
        reader.snapshots(&name(DATASET)).await.unwrap().into_iter().map(|listed| listed.snapshot).collect();
    assert_eq!(listed, [good.snapshot]);
    assert_eq!(objects(&vault, 1, "/snapshots/").len(), 2);
}

/// Whoever calls the backup judges what it captured, and may die before that.
#[tokio::test(flavor = "multi_thread")]
async fn what_a_run_measured_is_known_to_the_next_one_until_it_was_judged() {
    let (vault, dataset) = (TestVault::new(2, 2).await, name(DATASET));
    let state = StateDirectory::open(&vault.config.state_directory).unwrap();
    let report = vault.backup(&MemorySource::of(noise(100_000, 1))).await.unwrap();
    let first = (report.snapshot.clone(), report.figures.clone());
    assert!(report.figures.measured && report.figures.at == report.started, "{:?}", report.figures);
    assert_eq!(watch::unjudged(&state, &dataset).unwrap(), std::slice::from_ref(&first));
    // What is certain not to be committed is not judged.
    let mut refused = 0;
    for calls in 1..60 {
        let failing = FailingReplica::new(vault.replicas[1].clone());
        (calls..200).for_each(|call| failing.fail(call, Failure::Denied));
        let replicas = [vault.replicas[0].clone(), Arc::new(failing) as SharedReplica];
        match vault.backup_to(&MemorySource::of(noise(100_000, 2)), &replicas).await {
            Err(error) if error.class() == Class::Unknown => break,
            Ok(_) => panic!("there is no act without the second replica"),
            Err(_) => refused += 1,
        }
        assert_eq!(watch::unjudged(&state, &dataset).unwrap(), std::slice::from_ref(&first), "after {calls} calls");
    }
    assert!(refused > 4, "{refused} refusals");
    let report = vault.backup(&MemorySource::of(noise(100_000, 3))).await.unwrap();
    assert_eq!(report.figures_before[0], first, "with all that was measured");
    watch::compare(&state, &dataset, &report.snapshot, &report.figures, &report.figures_before).unwrap();
    assert_eq!(watch::unjudged(&state, &dataset).unwrap(), []);
    let before = report.snapshot;
    let report = vault.backup(&MemorySource::of(noise(100_000, 4))).await.unwrap();
    assert!(matches!(&report.figures_before[..], [(snapshot, figures)] if *snapshot == before && !figures.measured));
    // One that was about to be committed when the program died, and was not.
    let never = SnapshotId::new(report.started, 1);
    watch::expect(&state, &dataset, &never, &report.figures).unwrap();
    let report = vault.backup(&MemorySource::of(noise(100_000, 5))).await.unwrap();
    assert!(report.figures_before.iter().all(|(snapshot, _)| *snapshot != never), "{:?}", report.figures_before);
}

#[tokio::test(flavor = "multi_thread")]
async fn packs_of_a_failed_run_are_used_by_the_next() {
    let vault = TestVault::new(1, 1).await;
    // More than the pipeline holds, so that whole packs are durable before the source fails.
    let data = noise(120_000_000, 8);
    let failing = MemorySource { fail_after: Some(119_000_000), ..MemorySource::of(data.clone()) };
    vault.backup(&failing).await.unwrap_err();
    let left: u64 = objects(&vault, 1, "/packs/").iter().map(|pack| pack.metadata().unwrap().len()).sum();
    assert!(left > 15_000_000, "only {left} bytes were durable");
    let report = vault.backup(&MemorySource::of(data.clone())).await.unwrap();
    assert!(report.stored_bytes < 121_000_000 - left, "{} stored, {left} were there", report.stored_bytes);
    // Their chunks are in this snapshot's index segment now: nothing is stored again without
    // journal and cache.
    std::fs::remove_dir_all(&vault.config.state_directory).unwrap();
    let again = vault.backup(&MemorySource::of(data.clone())).await.unwrap();
    assert_eq!(again.stored_bytes, 0);
    assert!(vault.restore(&again.snapshot).await.unwrap()["data"] == data);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pack_that_vanished_is_uploaded_again_by_the_next_run() {
    let vault = TestVault::new(2, 2).await;
    let data = noise(1_000_000, 9);
    vault.backup(&MemorySource::of(data.clone())).await.unwrap();
    for replica in [1, 2] {
        objects(&vault, replica, "/packs/").iter().for_each(|pack| std::fs::remove_file(pack).unwrap());
    }
    let report = vault.backup(&MemorySource::of(data.clone())).await.unwrap();
    assert!(report.stored_bytes > 1_000_000);
    assert!(vault.restore(&report.snapshot).await.unwrap()["data"] == data);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pack_that_one_replica_lost_is_copied_there_before_min_replicas_is_claimed() {
    let vault = TestVault::new(2, 2).await;
    let data = noise(1_000_000, 10);
    vault.backup(&MemorySource::of(data.clone())).await.unwrap();
    objects(&vault, 1, "/packs/").iter().for_each(|pack| std::fs::remove_file(pack).unwrap());
    let report = vault.backup(&MemorySource::of(data.clone())).await.unwrap();
    assert_eq!(report.stored_bytes, 0);
    assert!(report.replicas.iter().all(|replica| replica.complete), "{:?}", report.replicas);
    std::fs::remove_dir_all(vault.replica_path(2)).unwrap();
    assert!(vault.restore(&report.snapshot).await.unwrap()["data"] == data);
}

/// The content of packs, in this order, by `age` and `zstd` alone.
fn concatenated(vault: &TestVault, packs: &[PackRef]) -> Vec<u8> {
    let place = vault.place.path();
    let run = |tool: &str, arguments: &[&std::path::Path]| {
        let output = std::process::Command::new(tools::find(tool)).args(arguments).output().unwrap();
        assert!(output.status.success(), "{tool}: {}", String::from_utf8_lossy(&output.stderr));
        output.stdout
    };
    let (identity, plaintext) = (place.join("dataset-identity"), place.join("plaintext"));
    let decrypted =
        |with: &std::path::Path, file: &std::path::Path| run("age", &["-d".as_ref(), "-i".as_ref(), with, file]);
    let keyring = vault.replica_path(1).join(layout::keyring_generation(&name(DATASET), 1));
    std::fs::write(&identity, decrypted(&vault.master, &keyring)).unwrap();
    let content = |pack: &PackRef| {
        let file = vault.replica_path(1).join(layout::pack(&name(DATASET), &pack.id));
        std::fs::write(&plaintext, decrypted(&identity, &file)).unwrap();
        run("zstd", &["-dqc".as_ref(), &plaintext])
    };
    packs.iter().flat_map(content).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_first_snapshots_packs_concatenate_to_the_dump() {
    let vault = TestVault::new(1, 1).await;
    // Nothing in it repeats. A part of it compresses well.
    let rows = (0..400_000_u64).flat_map(|n| format!("{n}\t{:09}\n", n * 7919 % 999_999_937).into_bytes()).collect();
    let dump = [noise(20_000_000, 11), rows, noise(20_000_000, 12)].concat();
    let report = vault.backup(&MemorySource::of(dump.clone())).await.unwrap();
    let reader = vault.open(vault.owner()).await.unwrap();
    let manifest = reader.manifest(&name(DATASET), &report.snapshot).await.unwrap();
    assert!(manifest.packs.len() > 2, "{:?}", manifest.packs);
    assert!(concatenated(&vault, &manifest.packs) == dump, "the packs are not the dump");
}

#[tokio::test(flavor = "multi_thread")]
async fn too_few_replicas_is_a_failure_that_commits_nothing() {
    let vault = TestVault::new(2, 2).await;
    std::fs::rename(vault.replica_path(2), vault.place.path().join("away")).unwrap();
    let error = vault.backup(&MemorySource::of("x")).await.unwrap_err();
    assert_eq!(error.class(), Class::Storage, "{error:?}");
    assert!(error.chain().contains("min_replicas") && error.chain().contains("r2"), "{error:?}");
    assert!(objects(&vault, 1, "/snapshots/").is_empty());
}
