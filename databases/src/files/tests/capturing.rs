//! What a capture refuses, leaves out, and tells.

use std::fs;
use std::os::unix::net::UnixListener;
use std::sync::atomic::{AtomicUsize, Ordering};

use lifeboat_base::settings::{Section, SettingsReader, Surroundings};
use toml::de::DeTable;

use super::super::compare::compare;
use super::super::decode::ArchiveReader;
use super::super::entry::{EntryKind, held_attributes, shown};
use super::super::unpack::unpack;
use super::*;

/// The paths in an archive, and the content of the last member of each.
fn paths(kept: &Kept) -> Vec<String> {
    let bytes = kept.bytes();
    let mut reader = ArchiveReader::new(&bytes[..]);
    let mut paths = Vec::new();
    while let Some(entry) = reader.next().unwrap() {
        let mut content = Vec::new();
        while let Some((_, piece)) = reader.piece().unwrap() {
            content.extend_from_slice(piece);
        }
        let what = match entry.kind {
            EntryKind::File { .. } => format!("={}", String::from_utf8_lossy(&content)),
            _ => String::new(),
        };
        paths.push(format!("{}{what}", shown(&entry.path)));
    }
    paths
}

fn parsed(table: &str) -> Result<FilesConfig, String> {
    let surroundings = Surroundings::default();
    let mut reader = SettingsReader::new(Path::new("x.toml"), table, &surroundings, "/keys".into());
    let mut document = DeTable::parse(table).unwrap();
    let section = Section::take(document.get_mut(), 0..0, "source", &mut reader).unwrap();
    let config = super::super::settings::parse(section, &mut reader);
    match reader.findings.into_error() {
        Some(error) => Err(error.message().to_owned()),
        None => Ok(config.unwrap()),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn patterns_leave_out_what_gitignore_would() {
    let place = TempDir::new().unwrap();
    for path in ["cache/a", "deep/cache/b", "deep/x.tmp", "deep/keep.tmp", "logs/a.log", "logs/b"] {
        fs::create_dir_all(place.path().join(path).parent().unwrap()).unwrap();
        fs::write(place.path().join(path), path).unwrap();
    }
    let source = format!(
        "[source]\nkind = \"files\"\npath = \"{}\"\nexclude = [\"/cache/\", \"*.tmp\", \"!keep.tmp\", \"logs/*.log\"]\n",
        place.path().display()
    );
    let kept = try_captured(parsed(&source).unwrap(), Arc::new(|_| {})).await.unwrap();
    let expected = [
        ".",
        "deep",
        "deep/cache",
        "deep/cache/b=deep/cache/b",
        "deep/keep.tmp=deep/keep.tmp",
        "logs",
        "logs/b=logs/b",
    ];
    assert_eq!(paths(&kept), expected);
}

#[test]
fn settings_that_cannot_work_are_told_with_their_lines() {
    let said = |more: &str| parsed(&format!("[source]\nkind = \"files\"\npath = \"/srv/www\"\n{more}\n")).unwrap_err();
    assert!(said("mount = \"/mnt\"").starts_with("x.toml:4: /mnt is neither path nor above it"));
    assert!(said("exclude = [\"# a remark\"]").starts_with("x.toml:4: this pattern excludes nothing"));
    assert!(said("exclude = [\"a{b\"]").starts_with("x.toml:4: this pattern is not usable"));
    assert!(parsed("[source]\nkind = \"files\"\n").unwrap_err().contains("`path` is missing"));
    assert!(parsed("[source]\nkind = \"files\"\npath = \"/srv/www\"\nmount = \"/srv\"\n").is_ok());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_empty_folder_is_no_tree_unless_that_is_said() {
    let place = TempDir::new().unwrap();
    let mut config = FilesConfig::of(place.path());
    let refused = try_captured(config.clone(), Arc::new(|_| {})).await.err().unwrap();
    assert!(refused.message().ends_with("is empty"), "{refused:?}");
    let cx = context(place.path());
    assert_eq!(FilesSource(config.clone()).check(&cx).await.broken.len(), 1);
    config.allow_empty = true;
    assert_eq!(FilesSource(config.clone()).check(&cx).await.broken.len(), 0);
    let kept = try_captured(config, Arc::new(|_| {})).await.unwrap();
    assert_eq!(paths(&kept), ["."]);
    let nowhere = FilesConfig::of(place.path().join("none"));
    let missing = try_captured(nowhere, Arc::new(|_| {})).await.err().unwrap();
    assert_eq!(missing.hint_text(), Some("mount it, or correct `path`"), "{missing:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn only_the_configured_file_system_is_captured() {
    let place = TempDir::new().unwrap();
    fs::write(place.path().join("a"), "").unwrap();
    let says = |path: &Path, mount: &Path| {
        let config = FilesConfig { mount: Some(mount.to_owned()), ..FilesConfig::of(path) };
        async move {
            let broken = FilesSource(config).check(&context(Path::new("/"))).await.broken;
            broken.first().map(|error| error.message().to_owned()).unwrap_or_default()
        }
    };
    assert!(says(place.path(), place.path()).await.contains("nothing is mounted there"));
    assert!(says(Path::new("/proc/self"), Path::new("/")).await.contains("is in another one"));
    assert_eq!(says(Path::new("/proc/self"), Path::new("/proc")).await, "");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_captured_fails_the_run_unless_it_is_allowed() {
    let place = TempDir::new().unwrap();
    let deep = place.path().join(vec!["d"; 257].join("/"));
    fs::create_dir_all(&deep).unwrap();
    fs::create_dir_all(place.path().join(vec!["l".repeat(250); 14].join("/"))).unwrap();
    fs::write(place.path().join("z"), "kept").unwrap();
    let _socket = UnixListener::bind(place.path().join("socket")).unwrap();
    let mut config = FilesConfig::of(place.path());
    let refused = try_captured(config.clone(), Arc::new(|_| {})).await.err().unwrap();
    assert!(refused.message().contains("deeper than 256 folders"), "{refused:?}");
    assert!(refused.message().contains("its path is longer than 3500 bytes"), "{refused:?}");
    config.allow_unreadable = true;
    let kept = try_captured(config, Arc::new(|_| {})).await.unwrap();
    let told = &kept.facts.warnings;
    assert!(told.len() == 2 && told[0].starts_with("lacks 2 entries") && told[1].ends_with(": socket"), "{told:?}");
    assert_eq!(paths(&kept).last().unwrap(), "z=kept");
}

#[tokio::test(flavor = "multi_thread")]
async fn as_many_folders_in_each_other_are_captured_as_a_reader_takes() {
    let (place, out) = (TempDir::new().unwrap(), TempDir::new().unwrap());
    fs::create_dir_all(place.path().join(vec!["d"; 256].join("/"))).unwrap();
    let kept = captured(place.path()).await;
    assert_eq!(paths(&kept).len(), 257);
    unpack(ArchiveReader::new(&kept.bytes()[..]), folder(out.path()), &TreeWanted::default()).unwrap();
    let compared = compare(&kept.bytes()[..], folder(out.path()), &TreeWanted::default()).unwrap();
    assert_eq!((compared.differences, compared.entries), (Vec::<String>::new(), 257));
}

#[test]
fn a_walk_and_a_reader_hold_the_same_of_folders() {
    let attributes = |bytes: usize| [(b"user.x".to_vec(), vec![0; bytes - 6])].into_iter().collect();
    assert_eq!(held_attributes(0, &attributes(16 << 20)), Ok(16 << 20));
    assert!(held_attributes(1, &attributes(16 << 20)).is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_changes_is_read_again_and_then_told() {
    let place = TempDir::new().unwrap();
    let path = place.path().join("log");
    fs::write(&path, "one").unwrap();
    let times = Arc::new(AtomicUsize::new(0));
    let changing = |most: usize| {
        let (path, times) = (path.clone(), times.clone());
        times.store(0, Ordering::SeqCst);
        let hook = move |_| {
            let log = fs::read_to_string(&path).unwrap();
            if times.fetch_add(1, Ordering::SeqCst) < most {
                fs::write(&path, format!("{log}!")).unwrap();
            }
        };
        try_captured(FilesConfig::of(place.path()), Arc::new(hook))
    };
    // The writes are: root, member, content and padding, in each reading.
    let kept = changing(3).await.unwrap();
    assert_eq!(kept.facts.warnings, Vec::<String>::new());
    let read = paths(&kept);
    assert!(read.len() > 2 && read.len() <= 4, "{read:?}");
    assert_eq!(read.last().unwrap(), &format!("log={}", fs::read_to_string(&path).unwrap()));
    let kept = changing(usize::MAX).await.unwrap();
    assert_eq!(paths(&kept).len(), 4);
    assert!(kept.facts.warnings[0].contains("holds 1 entry that changed"), "{:?}", kept.facts.warnings);
}
