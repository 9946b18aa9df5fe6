//! A tree with everything that is awkward, and streams in memory to keep it in.
#![allow(clippy::unwrap_used, reason = "tests")]

mod capturing;
mod equality;
mod hostile;
mod moments;
mod rights;
mod unread;

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::{self, File, Permissions};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, PermissionsExt, symlink};
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::{Duration, UNIX_EPOCH};

use async_trait::async_trait;
use bytes::Bytes;
use lifeboat_base::Result;
use lifeboat_base::facts::SourceFacts;
use rustix::fs::{FileType, Mode, OFlags, XattrFlags};
use tempfile::TempDir;
use tokio_util::sync::CancellationToken;

use super::capture::FilesSource;
use super::settings::FilesConfig;
use super::{FILES_KIND, TREE_STREAM, acl};
use crate::database::{Source, WorkContext};
use crate::streams::{Once, StoredStreams, StreamFingerprint, StreamReader, StreamSink, StreamWriter};
use crate::tool::environment::ToolEnvironment;
use crate::wanted::TreeWanted;

/// Everything, where whoever runs the tests may: root may do more than others.
fn everything() -> TreeWanted {
    let is_root = rustix::process::geteuid().is_root();
    TreeWanted { paths: Vec::new(), owners: is_root, special: is_root }
}

/// What is called after each write of a capture, and told how many there were.
type Hook = Arc<dyn Fn(usize) + Send + Sync>;

/// Names and contents.
type Contents = Vec<(String, Vec<u8>)>;

/// The streams of a tree in memory.
#[derive(Clone)]
struct Kept {
    /// In the order in which they were opened, or taken over.
    streams: Arc<Mutex<Contents>>,
    fingerprints: Arc<Mutex<BTreeMap<String, StreamFingerprint>>>,
    /// Streams are taken over from here.
    before: Option<Arc<Kept>>,
    taken_over: Arc<Mutex<Vec<String>>>,
    /// The streams that were read.
    opened: Arc<Mutex<Vec<String>>>,
    facts: SourceFacts,
    hook: Hook,
}

impl Kept {
    fn of(content: Vec<u8>) -> Self {
        let kept = Self::empty();
        kept.streams.lock().unwrap().push((TREE_STREAM.to_owned(), content));
        kept
    }

    fn empty() -> Self {
        let facts = SourceFacts { engine: FILES_KIND.to_owned(), ..SourceFacts::default() };
        let (streams, fingerprints) = (Arc::default(), Arc::default());
        let (taken_over, opened) = (Arc::default(), Arc::default());
        Self { streams, fingerprints, before: None, taken_over, opened, facts, hook: Arc::new(|_| {}) }
    }

    /// All streams, one after the other.
    fn bytes(&self) -> Vec<u8> {
        self.streams.lock().unwrap().iter().flat_map(|(_, content)| content.clone()).collect()
    }
}

struct KeptWriter {
    kept: Kept,
    stream: usize,
    space: Vec<u8>,
    writes: usize,
}

#[async_trait]
impl StreamSink for Kept {
    fn open(&self, name: &str) -> Result<Box<dyn StreamWriter>> {
        let mut streams = self.streams.lock().unwrap();
        assert!(streams.iter().all(|(taken, _)| taken != name), "{name} comes twice");
        streams.push((name.to_owned(), Vec::new()));
        Ok(Box::new(KeptWriter { kept: self.clone(), stream: streams.len() - 1, space: vec![0; 10_000], writes: 0 }))
    }

    fn keeps_fingerprints(&self) -> bool {
        true
    }

    async fn take_over(&self, name: &str, fingerprint: &StreamFingerprint) -> Result<Option<u64>> {
        let Some(before) = &self.before else { return Ok(None) };
        if before.fingerprints.lock().unwrap().get(name) != Some(fingerprint) {
            return Ok(None);
        }
        let content = before.streams.lock().unwrap().iter().find(|(known, _)| known == name).unwrap().1.clone();
        let length = content.len() as u64;
        self.streams.lock().unwrap().push((name.to_owned(), content));
        self.taken_over.lock().unwrap().push(name.to_owned());
        self.fingerprint(name, *fingerprint);
        Ok(Some(length))
    }

    fn fingerprint(&self, name: &str, fingerprint: StreamFingerprint) {
        self.fingerprints.lock().unwrap().insert(name.to_owned(), fingerprint);
    }
}

#[async_trait]
impl StreamWriter for KeptWriter {
    async fn space(&mut self) -> Result<&mut [u8]> {
        Ok(&mut self.space)
    }

    async fn filled(&mut self, length: usize) -> Result<()> {
        self.kept.streams.lock().unwrap()[self.stream].1.extend_from_slice(&self.space[..length]);
        self.writes += 1;
        (self.kept.hook)(self.writes);
        Ok(())
    }

    async fn finish(self: Box<Self>, _: i32) -> Result<()> {
        Ok(())
    }
}

#[async_trait]
impl StoredStreams for Kept {
    fn names(&self) -> Vec<String> {
        self.streams.lock().unwrap().iter().map(|(name, _)| name.clone()).collect()
    }

    fn facts(&self) -> &SourceFacts {
        &self.facts
    }

    async fn open(&self, name: &str) -> Result<Box<dyn StreamReader>> {
        self.opened.lock().unwrap().push(name.to_owned());
        let streams = self.streams.lock().unwrap();
        let (_, content) = streams.iter().find(|(known, _)| known == name).unwrap();
        Ok(Box::new(Once(Some(Bytes::from(content.clone())))))
    }
}

fn context(scratch: &Path) -> WorkContext {
    WorkContext {
        scratch: scratch.to_owned(),
        stall: Duration::from_secs(60),
        jobs: 1,
        environment: ToolEnvironment::inherit([], |_| None),
        cancel: CancellationToken::new(),
    }
}

async fn try_captured(config: FilesConfig, hook: Hook) -> Result<Kept> {
    let mut kept = Kept { hook, ..Kept::empty() };
    kept.facts = FilesSource(config).capture(&kept, &context(Path::new("/nonexistent"))).await?;
    Ok(kept)
}

async fn captured(path: &Path) -> Kept {
    try_captured(FilesConfig::of(path), Arc::new(|_| {})).await.unwrap()
}

fn folder(path: &Path) -> OwnedFd {
    rustix::fs::open(path, OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty()).unwrap()
}

fn set_time(path: &Path, since_1970: Duration) {
    let file = File::open(path).unwrap();
    file.set_modified(UNIX_EPOCH + since_1970).unwrap();
}

fn chmod(path: &Path, mode: u32) {
    fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
}

fn list(text: &str) -> Vec<u8> {
    acl::of_text(text).unwrap()
}

/// A directory on a disk: of what lies in memory, everything is read each time.
fn on_disk() -> TempDir {
    TempDir::new_in("/var/tmp").unwrap()
}

/// A tree with everything that this user can make.
fn awkward() -> TempDir {
    let place = on_disk();
    let at = |name: &str| place.path().join(name);
    fs::create_dir_all(at("docs/deep/er")).unwrap();
    fs::create_dir(at("docs.d")).unwrap();
    fs::create_dir(at("empty")).unwrap();
    fs::write(at("docs/a.txt"), "hello\n").unwrap();
    fs::write(at("docs/empty.txt"), "").unwrap();
    fs::write(at("docs/block"), vec![7; 512]).unwrap();
    fs::write(at("docs/deep/er/big"), (0..700_000u32).flat_map(u32::to_le_bytes).collect::<Vec<u8>>()).unwrap();
    fs::write(at("docs.d/x"), "beside docs").unwrap();
    fs::write(place.path().join(OsStr::from_bytes(b"docs/not \xff UTF-8\n")), "odd name").unwrap();
    fs::write(at(&format!("docs/{}", "n".repeat(255))), "long name").unwrap();
    fs::write(at("docs/secret"), "for nobody").unwrap();
    // What a mode closes, only root can capture and remove.
    let is_root = rustix::process::geteuid().is_root();
    chmod(&at("docs/secret"), if is_root { 0o000 } else { 0o400 });
    fs::write(at("docs/program"), "#!/bin/sh\n").unwrap();
    chmod(&at("docs/program"), 0o6755);
    fs::hard_link(at("docs/a.txt"), at("docs/deep/same")).unwrap();
    fs::hard_link(at("docs/a.txt"), at("zlast")).unwrap();
    symlink("a.txt", at("docs/link")).unwrap();
    symlink(format!("/nowhere/{}", "t".repeat(200)), at("docs/dangling")).unwrap();
    symlink("..", at("docs/deep/up")).unwrap();
    rustix::fs::mknodat(rustix::fs::CWD, at("pipe"), FileType::Fifo, Mode::from_raw_mode(0o640), 0).unwrap();
    let sparse = File::create(at("sparse")).unwrap();
    sparse.set_len((1 << 33) + 5).unwrap();
    sparse.write_all_at(b"in the middle", 1 << 32).unwrap();
    File::create(at("hole")).unwrap().set_len(1 << 20).unwrap();
    let attribute = |path: &str, name: &str, value: &[u8]| {
        rustix::fs::setxattr(at(path), name, value, XattrFlags::empty()).unwrap();
    };
    attribute("docs/a.txt", "user.plain", b"text");
    attribute("docs/a.txt", "user.odd=%name", b"with\nlines\0and = signs\xff");
    attribute("docs", "user.empty", b"");
    attribute(
        "docs/block",
        "system.posix_acl_access",
        &list("user::rw-,user:1234:rwx,group::r--,mask::rwx,other::---"),
    );
    attribute("docs.d", "system.posix_acl_default", &list("user::rwx,user:1234:r-x,group::r-x,mask::r-x,other::---"));
    if is_root {
        // Version 2 of the kernel's form: cap_net_bind_service, permitted and effective.
        let capability = [1, 0, 0, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        attribute("docs/deep/er/big", "security.capability", &capability);
        std::os::unix::fs::chown(at("docs/empty.txt"), Some(4_000_000_000), Some(1234)).unwrap();
        std::os::unix::fs::lchown(at("docs/link"), Some(77), Some(78)).unwrap();
        let device = rustix::fs::makedev(1, 3);
        let null = (FileType::CharacterDevice, Mode::from_raw_mode(0o666));
        rustix::fs::mknodat(rustix::fs::CWD, at("null"), null.0, null.1, device).unwrap();
    }
    set_time(&at("docs/block"), Duration::new(1, 5));
    set_time(&at("docs/deep/er/big"), Duration::from_secs(1 << 34));
    let before_1970 = UNIX_EPOCH - Duration::new(10, 250_000_000);
    File::open(at("zlast")).unwrap().set_modified(before_1970).unwrap();
    set_time(&at("docs/deep"), Duration::new(1_700_000_000, 123_456_789));
    chmod(&at("empty"), 0o1777);
    chmod(&at("docs/deep/er"), if is_root { 0o555 } else { 0o755 });
    place
}
