//! Streams of trees that are taken over from the snapshot before, unread: when they are, when they
//! are not, and that nothing is missed.

use std::fs;
use std::os::unix::fs::MetadataExt;

use async_trait::async_trait;
use lifeboat_engine::Result;
use lifeboat_engine::backup::BackupReport;
use lifeboat_engine::base::facts::SourceFacts;
use lifeboat_engine::config::{Dataset, Dedup};
use lifeboat_engine::databases::files::{FilesConfig, FilesSource};
use lifeboat_engine::databases::streams::StreamSink;
use lifeboat_engine::databases::{Database, Source, SourceCheck, TreeWanted, WorkContext, registry};
use lifeboat_engine::diff::StreamState;
use lifeboat_engine::format::id::SnapshotId;
use lifeboat_engine::store::SharedReplica;
use lifeboat_tests::vault::{DATASET, TestVault, files_below};
use lifeboat_tests::work;

use super::*;

/// A tree of several streams, which settles before the next backup.
struct Kept {
    tree: TempDir,
    vault: TestVault,
}

impl Kept {
    async fn new(replicas: usize, min_replicas: usize) -> Self {
        let tree = scratch();
        let at = |name: String| tree.path().join(name);
        for folder in ["a", "b", "c"] {
            fs::create_dir(at(folder.to_owned())).unwrap();
            for number in 0..1500 {
                fs::write(at(format!("{folder}/{number:04}")), format!("{folder} {number}\n")).unwrap();
            }
        }
        fs::write(at("large".to_owned()), noise(40 << 20, 7)).unwrap();
        fs::hard_link(at("a/0000".to_owned()), at("c/same".to_owned())).unwrap();
        let vault = TestVault::new(replicas, min_replicas).await;
        let kept = Self { tree, vault };
        kept.settle();
        kept
    }

    /// What was changed so far is old by now.
    fn settle(&self) {
        self.vault.clock.advance(Duration::from_secs(600));
    }

    async fn backup(&self) -> BackupReport {
        self.backup_to(&self.vault.replicas).await
    }

    async fn backup_to(&self, replicas: &[SharedReplica]) -> BackupReport {
        let source = FilesSource(FilesConfig::of(self.tree.path()));
        self.vault.backup_to(&source, replicas).await.unwrap()
    }

    /// Restores a snapshot, and compares it with the tree.
    async fn restores(&self, snapshot: &SnapshotId, what: &str) {
        let place = scratch();
        let out = place.path().join("out");
        let reader = self.vault.open(self.vault.owner()).await.unwrap();
        let streams = reader.streams(&name(DATASET), snapshot).await.unwrap();
        let wanted = TreeWanted { owners: is_root(), special: is_root(), ..TreeWanted::default() };
        let files = registry::find("files").unwrap();
        files.load_tree(&streams, &out, &wanted, &work::context(&place)).await.unwrap();
        assert_eq!(differences(self.tree.path(), &out), Vec::<String>::new(), "{what}");
    }

    fn replica(&self, n: usize, below: &str) -> PathBuf {
        self.vault.replica_path(n).join("datasets").join(DATASET).join(below)
    }

    fn fingerprints(&self) -> PathBuf {
        self.vault.config.state_directory.join("datasets").join(DATASET).join("fingerprints")
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_as_it_was_is_taken_over_and_what_changed_is_read() {
    let kept = Kept::new(1, 1).await;
    let at = |name: &str| kept.tree.path().join(name);
    let first = kept.backup().await;
    assert_eq!(first.unread_bytes, 0);
    let second = kept.backup().await;
    assert_eq!((second.unread_bytes, second.stored_bytes), (second.raw_bytes, 0), "{second:#?}");
    assert_eq!((second.raw_bytes, second.deduplicated_bytes, second.row_bytes), (first.raw_bytes, first.raw_bytes, 0));
    assert_eq!(second.warnings, Vec::<String>::new());
    kept.restores(&second.snapshot, "taken over").await;

    // The same size, and the same time of change as far as anybody can set one.
    let before = at("b/0700").metadata().unwrap();
    let file = File::options().write(true).open(at("b/0700")).unwrap();
    file.write_all_at(b"B", 0).unwrap();
    file.set_modified(before.modified().unwrap()).unwrap();
    let after = at("b/0700").metadata().unwrap();
    assert_eq!((before.len(), before.mtime_nsec()), (after.len(), after.mtime_nsec()));
    let changed = kept.backup().await;
    assert!(changed.unread_bytes < changed.raw_bytes && changed.unread_bytes > changed.raw_bytes / 2, "{changed:#?}");
    assert!(changed.stored_bytes < 1 << 20, "{changed:#?}");
    kept.restores(&changed.snapshot, "changed in place").await;

    fs::remove_file(at("a/0000")).unwrap();
    fs::rename(at("b/0001"), at("b/zzzz")).unwrap();
    fs::write(at("new"), "new").unwrap();
    fs::set_permissions(at("large"), Permissions::from_mode(0o600)).unwrap();
    let changed = kept.backup().await;
    assert_eq!(changed.warnings, Vec::<String>::new());
    kept.restores(&changed.snapshot, "names, modes and links").await;
    // None of this departs from the history, though streams came and went.
    let names: Vec<&String> = changed.figures.streams.keys().collect();
    assert_eq!(names, ["tree"]);
    let last = kept.backup().await;
    assert_eq!(last.unread_bytes, last.raw_bytes);
    kept.restores(&last.snapshot, "taken over from a snapshot that was partly taken over").await;

    let reader = kept.vault.open(kept.vault.owner()).await.unwrap();
    let diff = reader.diff(&name(DATASET), &second.snapshot, &last.snapshot).await.unwrap();
    let told: Vec<(&str, StreamState)> = diff.streams.iter().map(|one| (one.stream.as_str(), one.state)).collect();
    assert_eq!(told, [("tree", StreamState::Changed)]);
    assert!((1..8 << 20).contains(&diff.streams[0].fresh_bytes), "{diff:#?}");
    let diff = reader.diff(&name(DATASET), &changed.snapshot, &last.snapshot).await.unwrap();
    assert_eq!((diff.streams[0].state, diff.streams[0].fresh_bytes), (StreamState::Unchanged, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_changed_shortly_before_a_backup_is_read_by_the_next_one() {
    let kept = Kept::new(1, 1).await;
    // The times of the tree are now as near as that to the beginning of the backup.
    let newest = kept.tree.path().join("c/same").metadata().unwrap().ctime();
    let began = |seconds: i64| chrono::DateTime::from_timestamp(newest + seconds, 0).unwrap();
    kept.vault.clock.set(began(40));
    kept.backup().await;
    let second = kept.backup().await;
    assert_eq!(second.unread_bytes, 0, "what is not settled was taken over");
    kept.vault.clock.set(began(80));
    let third = kept.backup().await;
    assert_eq!(third.unread_bytes, 0, "the backup before began too early to tell");
    let fourth = kept.backup().await;
    assert_eq!(fourth.unread_bytes, fourth.raw_bytes);
    // The clock is behind the snapshot before.
    kept.vault.clock.set(began(70));
    let back = kept.backup().await;
    assert_eq!(back.unread_bytes, 0, "the clock went back");
    kept.restores(&back.snapshot, "the clock went back").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn in_doubt_everything_is_read() {
    let mut kept = Kept::new(2, 1).await;
    let older = kept.backup().await;
    assert_eq!(kept.backup().await.unread_bytes, older.raw_bytes);
    let path = kept.fingerprints();
    let whole = fs::read(&path).unwrap();
    let is_private = path.metadata().unwrap().permissions().mode() & 0o077 == 0;
    assert!(is_private && !whole.windows(4).any(|part| part == b"tree"), "it is not sealed");

    // Damaged, cut, of an older snapshot, or gone.
    let mut damaged = whole.clone();
    *damaged.last_mut().unwrap() ^= 1;
    for content in [&damaged[..], &whole[..whole.len() / 2], &[]] {
        fs::write(&path, content).unwrap();
        assert_eq!(kept.backup().await.unread_bytes, 0, "{} bytes", content.len());
    }
    fs::write(&path, &whole).unwrap();
    assert_eq!(kept.backup().await.unread_bytes, 0, "those of an older snapshot counted");
    fs::remove_file(&path).unwrap();
    assert_eq!(kept.backup().await.unread_bytes, 0);
    assert_eq!(kept.backup().await.unread_bytes, older.raw_bytes);

    // The snapshot before is gone.
    let newest = kept.backup().await.snapshot;
    for n in [1, 2] {
        for file in files_below(&kept.replica(n, "snapshots")) {
            if file.display().to_string().contains(newest.to_string().as_str()) {
                fs::remove_file(file).unwrap();
            }
        }
    }
    let after = kept.backup().await;
    assert_eq!(after.unread_bytes, 0, "streams were taken over from a snapshot that is gone");
    kept.restores(&after.snapshot, "the snapshot before is gone").await;

    // Another folder, user of the program, or setting.
    let config = FilesConfig { trust_times: false, ..FilesConfig::of(kept.tree.path()) };
    assert_eq!(kept.vault.backup(&FilesSource(config)).await.unwrap().unread_bytes, 0);
    assert_eq!(kept.backup().await.unread_bytes, older.raw_bytes, "one backup that reads everything costs two");
    let away = scratch();
    let moved = away.path().join("moved");
    fs::rename(kept.tree.path(), &moved).unwrap();
    let source = FilesSource(FilesConfig::of(&moved));
    assert_eq!(kept.vault.backup(&source).await.unwrap().unread_bytes, 0);
    let again = kept.vault.backup(&source).await.unwrap();
    assert_eq!(again.unread_bytes, again.raw_bytes);
    fs::rename(&moved, kept.tree.path()).unwrap();
    assert_eq!(kept.backup().await.unread_bytes, 0);
    let before = &kept.vault.config.datasets[0];
    let source = before.source.clone();
    kept.vault.config.datasets[0] = Dataset { dedup: Dedup::Chunks, source, ..before.clone() };
    assert_eq!(kept.backup().await.unread_bytes, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_replicas_lost_is_read_and_stored_again() {
    let kept = Kept::new(2, 1).await;
    let first = kept.backup().await;
    let packs = |n| files_below(&kept.replica(n, "packs"));
    let (lost, whole) = (packs(1).swap_remove(0), packs(1).len());
    // One replica lacks a pack: nothing need be read, and this replica gets no snapshot.
    fs::remove_file(&lost).unwrap();
    let second = kept.backup().await;
    assert_eq!(second.unread_bytes, second.raw_bytes);
    let complete: Vec<bool> = second.replicas.iter().map(|outcome| outcome.complete).collect();
    assert_eq!(complete, [false, true]);
    // None has it.
    fs::remove_file(kept.replica(2, "packs").join(lost.strip_prefix(kept.replica(1, "packs")).unwrap())).unwrap();
    let third = kept.backup().await;
    assert!(third.unread_bytes < third.raw_bytes && third.stored_bytes > 0, "{third:#?}");
    kept.restores(&third.snapshot, "stored again").await;
    // A replica that is new has nothing, so the snapshot is copied there.
    assert!(whole > 1 && first.raw_bytes == third.raw_bytes);
    for path in packs(2) {
        fs::remove_file(path).unwrap();
    }
    let fourth = kept.backup_to(&kept.vault.replicas[1..]).await;
    assert_eq!((fourth.unread_bytes, fourth.replicas[0].complete), (0, true), "{fourth:#?}");
    fs::rename(kept.vault.replica_path(1), kept.vault.place.path().join("away")).unwrap();
    kept.restores(&fourth.snapshot, "from the replica that had lost everything").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_row_index_is_one_warning_however_many_streams_there_are() {
    let kept = Kept::new(1, 1).await;
    kept.backup().await;
    for file in files_below(&kept.vault.config.state_directory) {
        if file.to_string_lossy().contains("/rows/") {
            fs::remove_file(file).unwrap();
        }
    }
    let after = kept.backup().await;
    assert_eq!((after.unread_bytes, after.stored_bytes), (0, 0));
    assert!(after.warnings.len() == 1 && after.warnings[0].contains(" more is missing"), "{:?}", after.warnings);
    kept.restores(&after.snapshot, "the row index was lost").await;
    assert_eq!(kept.backup().await.unread_bytes, after.raw_bytes);
}

/// A tree as older versions captured it: one stream, however long.
#[derive(Debug)]
struct OneStream(FilesSource);

#[async_trait]
impl Source for OneStream {
    fn database(&self) -> &'static dyn Database {
        self.0.database()
    }

    async fn check(&self, cx: &WorkContext) -> SourceCheck {
        self.0.check(cx).await
    }

    async fn capture(&self, sink: &dyn StreamSink, cx: &WorkContext) -> Result<SourceFacts> {
        let kept = lifeboat_tests::streams::MemoryStreams::default();
        let facts = self.0.capture(&kept, cx).await?;
        let mut tree = sink.open("tree")?;
        let names = kept.order.lock().unwrap().clone();
        for name in names {
            let content = kept.streams.lock().unwrap()[&name].0.clone();
            tree.write(content.into()).await?;
        }
        tree.finish(0).await?;
        Ok(facts)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_snapshot_of_one_stream_is_followed_by_one_of_several() {
    let kept = Kept::new(1, 1).await;
    let source = FilesSource(FilesConfig::of(kept.tree.path()));
    let old = kept.vault.backup(&OneStream(source)).await.unwrap();
    kept.restores(&old.snapshot, "one stream").await;
    let new = kept.backup().await;
    assert_eq!((new.unread_bytes, new.raw_bytes), (0, old.raw_bytes));
    assert!(new.stored_bytes < old.stored_bytes / 4, "{} of {}", new.stored_bytes, old.stored_bytes);
    kept.restores(&new.snapshot, "several streams").await;
    let reader = kept.vault.open(kept.vault.owner()).await.unwrap();
    let diff = reader.diff(&name(DATASET), &old.snapshot, &new.snapshot).await.unwrap();
    assert_eq!(diff.streams.len(), 1, "{diff:#?}");
    assert_eq!((diff.streams[0].old_bytes, diff.streams[0].new_bytes), (Some(old.raw_bytes), Some(old.raw_bytes)));
    let streams = reader.streams(&name(DATASET), &new.snapshot).await.unwrap();
    assert!(streams.streams_of("tree").len() > 3 && streams.streams_of("none").is_empty());
    let read = lifeboat_tests::vault::read_all(&streams).await.unwrap();
    let joined: Vec<u8> = streams.streams_of("tree").iter().flat_map(|name| read[name].clone()).collect();
    let single = kept.vault.restore(&old.snapshot).await.unwrap();
    assert!(joined == single["tree"], "the streams are another archive");
}
