//! A restore into a directory that belongs to somebody else, who swaps what is in it: nothing is
//! written anywhere else.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::fs;
use std::os::unix::fs::{lchown, symlink};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use lifeboat_engine::databases::{Target, WorkContext, load};
use lifeboat_engine::restore::SnapshotStreams;
use lifeboat_engine::{Class, Error};
use lifeboat_tests::tools;
use lifeboat_tests::vault::{DATASET, MemorySource, TestVault, files_below, name};
use rustix::fs::{CWD, RenameFlags, renameat_with};
use tokio_util::sync::CancellationToken;

const STREAMS: usize = 300;
const FOLDERS: usize = 10;

/// A vault with one snapshot of 300 streams in ten folders.
async fn vault() -> (TestVault, SnapshotStreams) {
    let vault = TestVault::new(1, 1).await;
    let stream = |n: usize| (format!("folder{}/inner/stream{n}", n % FOLDERS), format!("content {n}").into_bytes());
    let source = MemorySource { streams: (0..STREAMS).map(stream).collect(), ..MemorySource::default() };
    let report = vault.backup(&source).await.unwrap();
    let reader = vault.open(vault.owner()).await.unwrap();
    let streams = reader.streams(&name(DATASET), &report.snapshot).await.unwrap();
    (vault, streams)
}

async fn restore(streams: &SnapshotStreams, path: &Path, overwrite: bool) -> Result<usize, Error> {
    let cx = WorkContext {
        scratch: path.to_owned(),
        stall: Duration::from_secs(60),
        jobs: 1,
        environment: tools::environment(),
        cancel: CancellationToken::new(),
    };
    let target = Target::Directory { path: path.to_owned(), overwrite, sync: false };
    Ok(load(streams, &target, &cx).await?.written.len())
}

#[tokio::test(flavor = "multi_thread")]
async fn folders_that_become_links_meanwhile_lead_nowhere() {
    let (vault, streams) = vault().await;
    let (target, outside) = (vault.place.path().join("target"), vault.place.path().join("outside"));
    let links = vault.place.path().join("links");
    for folder in [&target, &outside, &links] {
        fs::create_dir(folder).unwrap();
    }
    for n in 0..FOLDERS {
        fs::create_dir(outside.join(format!("inner{n}"))).unwrap();
        fs::create_dir_all(target.join(format!("folder{n}/inner"))).unwrap();
        // Half of them are swapped whole, of the others a folder in them.
        let to = if n.is_multiple_of(2) { outside.clone() } else { outside.join(format!("inner{n}")) };
        symlink(to, links.join(n.to_string())).unwrap();
    }
    fs::create_dir(outside.join("inner")).unwrap();
    let done = AtomicBool::new(false);
    let swap = |n: usize| {
        let folder = target.join(if n.is_multiple_of(2) { format!("folder{n}") } else { format!("folder{n}/inner") });
        renameat_with(CWD, &folder, CWD, links.join(n.to_string()), RenameFlags::EXCHANGE).unwrap();
    };
    let (mut attempts, mut refused) = (0, 0);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                for n in 0..FOLDERS {
                    swap(n);
                    swap(n);
                }
            }
        });
        let began = Instant::now();
        let runtime = tokio::runtime::Handle::current();
        while began.elapsed() < Duration::from_secs(4) {
            let outcome = tokio::task::block_in_place(|| runtime.block_on(restore(&streams, &target, true)));
            attempts += 1;
            if let Err(error) = outcome {
                assert_eq!(error.class(), Class::Source, "{error:?}");
                refused += 1;
            }
        }
        done.store(true, Ordering::Relaxed);
    });
    assert_eq!(files_below(&outside), Vec::<std::path::PathBuf>::new(), "written outside");
    assert!(refused > 0, "the attacker won no race in {attempts} attempts, which proves nothing");
    assert!(!files_below(&target).is_empty());

    // Left alone, all of it is restored.
    assert_eq!(restore(&streams, &target, true).await.unwrap(), STREAMS);
    assert_eq!(files_below(&target).len(), STREAMS);
    assert_eq!(fs::read(target.join("folder7/inner/stream17")).unwrap(), b"content 17");
}

#[tokio::test(flavor = "multi_thread")]
async fn links_in_the_way_are_refused_and_a_link_of_the_same_name_is_replaced() {
    let (vault, streams) = vault().await;
    let (target, outside) = (vault.place.path().join("a/b"), vault.place.path().join("outside"));
    assert_eq!(restore(&streams, &target, false).await.unwrap(), STREAMS);
    assert_eq!(restore(&streams, &target, false).await.unwrap_err().class(), Class::Usage);

    fs::create_dir(&outside).unwrap();
    fs::write(outside.join("precious"), "precious").unwrap();
    fs::remove_file(target.join("folder0/inner/stream0")).unwrap();
    symlink(outside.join("precious"), target.join("folder0/inner/stream0")).unwrap();
    symlink(outside.join("precious"), target.join("folder0/inner/.stream10.part")).unwrap();
    assert_eq!(restore(&streams, &target, true).await.unwrap(), STREAMS);
    assert_eq!(fs::read(outside.join("precious")).unwrap(), b"precious");
    assert_eq!(fs::read(target.join("folder0/inner/stream0")).unwrap(), b"content 0");

    fs::remove_dir_all(target.join("folder3")).unwrap();
    symlink(&outside, target.join("folder3")).unwrap();
    let error = restore(&streams, &target, true).await.unwrap_err();
    assert!(error.chain().contains("folder3 is not a folder, but a file or a symbolic link"), "{error:?}");
    assert_eq!(files_below(&outside).len(), 1);

    // The operator's own link to the directory is fine, another user's is not.
    let link = vault.place.path().join("link");
    symlink(vault.place.path().join("a/c"), &link).unwrap();
    fs::create_dir(vault.place.path().join("a/c")).unwrap();
    assert_eq!(restore(&streams, &link, false).await.unwrap(), STREAMS);
    if rustix::process::geteuid().is_root() {
        lchown(&link, Some(65534), None).unwrap();
        let error = restore(&streams, &link, true).await.unwrap_err();
        assert!(error.chain().contains("belongs to another user"), "{error:?}");
    }
}
