//! Rows: a changed row costs a row, whatever was edited comes back, and a lost or stale index costs
//! bytes alone.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::collections::BTreeSet;

use lifeboat_engine::Class;
use lifeboat_engine::backup::BackupReport;
use lifeboat_engine::config::Dedup;
use lifeboat_engine::format::extents::OLDER;
use lifeboat_engine::format::id::PackId;
use lifeboat_engine::format::manifest::MapEntry;
use lifeboat_tests::vault::{DATASET, MemorySource, TestVault, files_below, name, noise};
use proptest::prelude::*;

fn row(n: usize, version: usize) -> String {
    let mixed = (n * 1_000_003 + version * 7_777_777).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    format!(
        "{n}\tcustomer {}\t{:016x}\tstreet {}\t{:016x}\t{version}\n",
        mixed % 9973,
        mixed,
        mixed % 577,
        mixed.rotate_left(17)
    )
}

fn table(rows: usize) -> Vec<String> {
    (0..rows).map(|n| row(n, 0)).collect()
}

fn bytes(rows: &[String]) -> Vec<u8> {
    rows.concat().into_bytes()
}

/// One row in a hundred, others each time.
fn change(rows: &mut [String], version: usize) {
    (0..rows.len()).filter(|n| n * 7919 % 100 == version % 100).for_each(|n| rows[n] = row(n, version));
}

async fn backup(vault: &TestVault, data: &[u8]) -> BackupReport {
    let report = vault.backup(&MemorySource::of(data)).await.unwrap();
    assert!(vault.restore(&report.snapshot).await.unwrap()["data"] == data, "{} differs", report.snapshot);
    report
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hundredth_of_the_rows_costs_a_hundredth_and_not_the_table() {
    let vault = TestVault::new(1, 1).await;
    let mut rows = table(100_000);
    let first = backup(&vault, &bytes(&rows)).await;
    for version in 1..=3 {
        change(&mut rows, version);
        let report = backup(&vault, &bytes(&rows)).await;
        assert!(report.stored_bytes * 12 < first.stored_bytes, "{} of {}", report.stored_bytes, first.stored_bytes);
        let again = backup(&vault, &bytes(&rows)).await;
        assert_eq!(again.new_packs, 0, "{again:?}");
        assert_eq!(report.warnings, [""; 0]);
    }
    let index: u64 = files_below(&vault.config.state_directory)
        .iter()
        .filter(|file| file.to_string_lossy().contains("/rows/"))
        .map(|file| file.metadata().unwrap().len())
        .sum();
    let most = bytes(&rows).len() as u64 / 25;
    assert!(index > 0 && index <= most, "the row index takes {index} bytes, {most} are allowed");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_row_index_that_is_lost_or_damaged_is_made_anew_and_that_is_said() {
    let vault = TestVault::new(1, 1).await;
    // Large enough that the padding of a pack does not decide.
    let mut rows = table(80_000);
    let first = backup(&vault, &bytes(&rows)).await;
    let index = || -> Vec<_> {
        let files = files_below(&vault.config.state_directory).into_iter();
        files.filter(|file| file.to_string_lossy().contains("/rows/")).collect()
    };
    for (version, damage) in [(1, "lost"), (2, "cut short"), (3, "flipped")] {
        for file in index() {
            let mut content = std::fs::read(&file).unwrap();
            match damage {
                "lost" => std::fs::remove_file(&file).unwrap(),
                "cut short" => std::fs::write(&file, &content[..content.len() / 2]).unwrap(),
                _ => {
                    let middle = content.len() / 2;
                    content[middle] ^= 1;
                    std::fs::write(&file, content).unwrap();
                }
            }
        }
        change(&mut rows, version);
        let report = backup(&vault, &bytes(&rows)).await;
        assert!(report.warnings.iter().any(|warning| warning.contains("row index")), "{damage}: {:?}", report.warnings);
        change(&mut rows, version + 50);
        let next = backup(&vault, &bytes(&rows)).await;
        assert!(next.warnings.is_empty(), "{:?}", next.warnings);
        assert!(
            next.stored_bytes * 10 < first.stored_bytes,
            "{damage}: {} of {}",
            next.stored_bytes,
            first.stored_bytes
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn sketches_that_cannot_be_read_are_said() {
    let vault = TestVault::new(1, 1).await;
    let mut rows = table(40_000);
    backup(&vault, &bytes(&rows)).await;
    let files = files_below(&vault.config.state_directory).into_iter();
    for file in files.filter(|file| file.extension().is_some_and(|extension| extension == "sketches")) {
        let mut content = std::fs::read(&file).unwrap();
        // All but the file's own key.
        content[300..].fill(0);
        std::fs::write(&file, content).unwrap();
    }
    change(&mut rows, 1);
    let report = backup(&vault, &bytes(&rows)).await;
    assert!(report.warnings.iter().any(|warning| warning.contains("row index is damaged")), "{:?}", report.warnings);
    change(&mut rows, 51);
    assert_eq!(backup(&vault, &bytes(&rows)).await.warnings, [""; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_short_row_costs_no_more_than_itself_where_others_leave_room() {
    let vault = TestVault::new(1, 1).await;
    let short =
        |n: usize, version: usize| format!("{n:08}\t{:032x}\t{version:02}\n", n.wrapping_mul(0x9E37_79B9_7F4A_7C15));
    let mut rows: Vec<String> = (0..20_000).map(|n| format!("{}\t{}", row(n, 0).trim_end(), row(n, 1))).collect();
    rows.extend((0..30_000).map(|n| short(n, 0)));
    rows.extend((20_000..40_000).map(|n| format!("{}\t{}", row(n, 0).trim_end(), row(n, 1))));
    backup(&vault, &bytes(&rows)).await;
    let (mut new, mut least) = (0, 0);
    for version in 1..6 {
        let changed: Vec<usize> = (0..30_000).filter(|n| n * 7919 % 100 == version).collect();
        changed.iter().for_each(|n| rows[20_000 + n] = short(*n, version));
        let report = backup(&vault, &bytes(&rows)).await;
        new += report.raw_bytes - report.deduplicated_bytes;
        least += changed.iter().map(|n| rows[20_000 + n].len() as u64).sum::<u64>();
    }
    // Where a row that was changed has the mark of the old one by chance, 64 are new. Put together,
    // rows would cost three times as much.
    assert!((least..2 * least).contains(&new), "{new} bytes are new, where {least} have changed");
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_too_short_to_be_remembered_cost_no_more_than_allowed() {
    let vault = TestVault::new(1, 1).await;
    // Whether such a line ends a unit is the same for all of them: it does for one in some ten.
    for line in (0..60).map(|n| format!("line {n}\n")) {
        let data = line.repeat(400_000 / line.len()).into_bytes();
        backup(&vault, &data).await;
        let index: u64 = files_below(&vault.config.state_directory)
            .iter()
            .filter(|file| file.to_string_lossy().contains("/rows/"))
            .map(|file| file.metadata().unwrap().len())
            .sum();
        assert!(index * 25 <= data.len() as u64, "{line:?}: {index} bytes of index");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn chunks_whose_rows_would_lie_in_too_many_parts_or_packs_are_stored_anew() {
    let vault = TestVault::new(1, 1).await;
    let mut rows = table(8_000);
    let first = backup(&vault, &bytes(&rows)).await;
    let mut anew = 0;
    for version in 1..=50 {
        change(&mut rows, version);
        let report = backup(&vault, &bytes(&rows)).await;
        anew += usize::from(report.stored_bytes * 2 > first.stored_bytes);
        let reader = vault.open(vault.owner()).await.unwrap();
        let streams = reader.streams(&name(DATASET), &report.snapshot).await.unwrap();
        // The snapshots that changed rows, and the chunks' own.
        assert!(streams.manifest().packs.len() <= 42, "{} packs", streams.manifest().packs.len());
        let stream = &streams.manifest().streams[0];
        let extents = streams.manifest().extents(stream, &streams.manifest().contents()).unwrap().iter().count() as u64;
        assert!(stream.map.is_none() && extents << 20 <= 8200 * stream.length, "{extents} of {}", stream.length);
    }
    assert!((1..=4).contains(&anew), "stored anew {anew} times");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_scattered_too_much_is_stored_anew_a_stretch_in_each_backup() {
    let vault = TestVault::new(1, 1).await;
    let mut rows = table(600_000);
    // Two stretches of 16 MiB and one that is shorter.
    let stretches = bytes(&rows).len().div_ceil(16 << 20);
    assert_eq!(stretches, 3);
    let first = backup(&vault, &bytes(&rows)).await;
    let reader = vault.open(vault.owner()).await.unwrap();
    let first = reader.manifest(&name(DATASET), &first.snapshot).await.unwrap();
    let mut known: BTreeSet<PackId> = first.packs.iter().map(|pack| pack.id).collect();
    // One row in 32, others each time: after some of these there are more than 3,200 parts a MiB.
    let mut new = Vec::new();
    for version in 1..=10 {
        let changes = |n: &usize| n.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 40 & 31 == version;
        (0..rows.len()).filter(changes).for_each(|n| rows[n] = row(n, version));
        let report = backup(&vault, &bytes(&rows)).await;
        new.push(report.raw_bytes - report.deduplicated_bytes);
        // Rows do not lie in the large packs of what is renewed: whoever needs some of them would
        // have to hold all of that.
        let reader = vault.open(vault.owner()).await.unwrap();
        let manifest = reader.manifest(&name(DATASET), &report.snapshot).await.unwrap();
        let extents = manifest.extents(&manifest.streams[0], &manifest.contents()).unwrap();
        let rows = extents.iter().filter(|extent| extent.pack != OLDER && extent.length < 400);
        let packs: BTreeSet<u32> = rows.map(|extent| extent.pack).collect();
        let packs = packs.into_iter().map(|pack| manifest.packs[pack as usize]);
        let largest = packs.filter(|pack| !known.contains(&pack.id)).map(|pack| pack.size).max();
        assert!(largest.is_some_and(|largest| largest <= 1 << 20), "rows lie in a pack of {largest:?} bytes");
        known.extend(manifest.packs.iter().map(|pack| pack.id));
    }
    let changed = new[0];
    let renewed: Vec<bool> = new.iter().map(|new| *new > 2 * changed).collect();
    let first = renewed.iter().position(|renewed| *renewed).unwrap();
    assert!(first >= 3 && renewed[first..].starts_with(&[true, true, true, false]), "{new:?}");
    assert!(new.iter().all(|new| *new < (17 << 20) + changed), "more than a stretch at once: {new:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn with_chunks_alone_nothing_is_remembered() {
    let mut vault = TestVault::new(1, 1).await;
    let rows = bytes(&table(10_000));
    backup(&vault, &rows).await;
    let remembered = |vault: &TestVault| {
        files_below(&vault.config.state_directory).iter().any(|file| file.to_string_lossy().contains("/rows/"))
    };
    assert!(remembered(&vault));
    vault.config.datasets[0].dedup = Dedup::Chunks;
    backup(&vault, &rows).await;
    assert!(!remembered(&vault));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pack_that_is_gone_from_every_replica_is_not_built_upon() {
    let vault = TestVault::new(1, 1).await;
    let mut rows = table(60_000);
    backup(&vault, &bytes(&rows)).await;
    let packs =
        files_below(&vault.replica_path(1)).into_iter().filter(|file| file.to_string_lossy().contains("/packs/"));
    packs.for_each(|pack| std::fs::remove_file(pack).unwrap());
    change(&mut rows, 1);
    backup(&vault, &bytes(&rows)).await;
}

/// One row in 128 here and there, others each time: so few that maps are made long before anything
/// is renewed.
fn change_much(rows: &mut [String], version: usize) {
    let changes = |n: &usize| n.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 40 & 127 == version & 127;
    (0..rows.len()).filter(changes).for_each(|n| rows[n] = row(n, version));
}

async fn map_of(vault: &TestVault, report: &BackupReport) -> Option<MapEntry> {
    let manifest = vault.open(vault.owner()).await.unwrap().manifest(&name(DATASET), &report.snapshot).await.unwrap();
    manifest.streams[0].map.clone()
}

#[tokio::test(flavor = "multi_thread")]
async fn extents_that_add_up_go_into_maps_that_snapshots_share() {
    let mut vault = TestVault::new(1, 1).await;
    let mut rows = table(300_000);
    let (mut maps, mut reports) = (Vec::new(), Vec::new());
    for version in 0..16 {
        if version > 0 {
            change_much(&mut rows, version);
        }
        let report = backup(&vault, &bytes(&rows)).await;
        assert_eq!(report.warnings, [""; 0]);
        maps.push(map_of(&vault, &report).await);
        reports.push(report);
    }
    let (without, with): (Vec<_>, Vec<_>) = maps.iter().partition(|map| map.is_none());
    assert!(without.len() >= 2 && with.len() >= 4, "{maps:?}");
    let mut different: Vec<_> = with.into_iter().flatten().map(|map| map.blake3).collect();
    let used = different.len();
    different.dedup();
    assert!((2..used).contains(&different.len()), "{used} snapshots use {} maps", different.len());
    let again = backup(&vault, &bytes(&rows)).await;
    assert_eq!(again.deduplicated_bytes, again.raw_bytes, "{again:?}");

    // What a map needs stays when the snapshots before are pruned.
    vault.config.datasets[0].retention.keep_last = 1;
    let removed = vault.sweep().await.unwrap();
    assert!(vault.restore(&again.snapshot).await.unwrap()["data"] == bytes(&rows), "{removed:?}");
    assert!(vault.restore(&reports[0].snapshot).await.is_err(), "nothing was pruned");
    change_much(&mut rows, 20);
    let newer = backup(&vault, &bytes(&rows)).await;
    assert!(newer.stored_bytes * 4 < reports[0].stored_bytes && map_of(&vault, &newer).await.is_some(), "{newer:?}");
    assert!(newer.row_bytes * 2 > newer.deduplicated_bytes, "{newer:?}");

    // What is new is found through the maps, which only those can open who may read data.
    let reader = vault.open(vault.owner()).await.unwrap();
    let diff = reader.diff(&name(DATASET), &again.snapshot, &newer.snapshot).await.unwrap();
    let (fresh, least) = (diff.streams[0].fresh_bytes, newer.raw_bytes - newer.deduplicated_bytes);
    assert!((least..=newer.raw_bytes / 4).contains(&fresh), "{fresh} bytes are new, {newer:?}");
    let host = vault.open(vault.keys().unwrap().reader()).await.unwrap();
    let error = host.diff(&name(DATASET), &again.snapshot, &newer.snapshot).await.unwrap_err();
    assert_eq!((error.class(), error.chain().contains("has maps")), (Class::Keys, true), "{error:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn without_its_map_or_with_a_pack_of_it_lost_a_stream_is_stored_anew_as_far_as_needed() {
    let vault = TestVault::new(1, 1).await;
    let mut rows = table(300_000);
    for version in 0..10 {
        change_much(&mut rows, version);
        backup(&vault, &bytes(&rows)).await;
    }
    let local = |vault: &TestVault| {
        let files = files_below(&vault.config.state_directory).into_iter();
        files.filter(|file| file.extension().is_some_and(|extension| extension == "map")).collect::<Vec<_>>()
    };
    assert_eq!(local(&vault).len(), 1);
    std::fs::write(&local(&vault)[0], b"damaged").unwrap();
    change_much(&mut rows, 10);
    let report = backup(&vault, &bytes(&rows)).await;
    assert!(report.warnings.iter().any(|warning| warning.contains("missing or stale")), "{:?}", report.warnings);
    assert_eq!((map_of(&vault, &report).await, local(&vault).len()), (None, 0));

    let mut newest = report.snapshot;
    for version in 11..21 {
        change_much(&mut rows, version);
        let report = backup(&vault, &bytes(&rows)).await;
        if version == 20 {
            assert!(map_of(&vault, &report).await.is_some() && local(&vault).len() == 1);
        }
        newest = report.snapshot;
    }
    let packs = files_below(&vault.replica_path(1)).into_iter();
    let packs: Vec<_> = packs.filter(|file| file.to_string_lossy().contains("/packs/")).collect();
    for lost in packs {
        std::fs::remove_file(lost).unwrap();
    }
    let error = vault.restore(&newest).await.unwrap_err();
    assert!(error.chain().contains("the map of stream `data`"), "{}", error.chain());
    change_much(&mut rows, 21);
    assert_eq!(map_of(&vault, &backup(&vault, &bytes(&rows)).await).await, None);
}

fn edit(rows: &mut Vec<String>, at: f64, kind: usize, count: usize, version: usize) {
    let at = (rows.len() as f64 * at) as usize;
    let end = (at + count).min(rows.len());
    match kind {
        0 => drop(rows.drain(at..end)),
        1 => drop(rows.splice(at..at, (0..count).map(|n| row(n, version)))),
        2 => (at..end).for_each(|n| rows[n] = row(n, version)),
        3 => {
            let moved: Vec<String> = rows.drain(at..end).collect();
            rows.extend(moved);
        }
        _ => change(rows, version),
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(6))]
    #[test]
    fn any_increments_and_prunes_leave_snapshots_that_restore(
        count in 0_usize..40_000,
        binary: bool,
        steps in prop::collection::vec(prop::collection::vec((0.0..1.0, 0_usize..5, 0_usize..3000), 1..6), 1..6),
        prune_after in 0_usize..6,
    ) {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        runtime.block_on(async {
            let mut vault = TestVault::new(1, 1).await;
            let mut rows = table(count);
            let text = |rows: &[String]| -> Vec<u8> {
                let plain = bytes(rows);
                // A keystream that repeats: as good as binary, and still the same where rows are
                // the same.
                if binary { plain.iter().map(|byte| byte.wrapping_mul(5) ^ 0x5a).collect() } else { plain }
            };
            backup(&vault, &text(&rows)).await;
            for (step, edits) in steps.into_iter().enumerate() {
                for (at, kind, count) in edits {
                    edit(&mut rows, at, kind, count, step + 1);
                }
                backup(&vault, &text(&rows)).await;
                if step == prune_after {
                    vault.config.datasets[0].retention.keep_last = 1;
                    vault.prune().await.unwrap();
                }
            }
        });
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn strange_streams_come_back() {
    let vault = TestVault::new(1, 1).await;
    let line = b"all the same, all the same\n";
    for data in [
        line.repeat(100_000),
        line.repeat(100_001),
        vec![b'x'; 3_000_000],
        vec![b'x'; 3_000_001],
        noise(3_000_000, 1),
        [noise(3_000_000, 1), line.to_vec()].concat(),
        [&line[..5], &noise(3_000_000, 1)].concat(),
        Vec::new(),
    ] {
        backup(&vault, &data).await;
    }
}
