//! Drills of trees: a restored tree in the scratch directory, which is walked and read again.
//!
//! A drill has no rights of its own. So it restores as anybody would who asks for nothing special,
//! and its notes say what was not restored and therefore not compared.

use std::io::{BufRead, Read};
use std::os::fd::OwnedFd;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use async_trait::async_trait;
use lifeboat_base::beneath::open_beneath;
use lifeboat_base::{Class, Context, Error, Result};
use rustix::fs::{AtFlags, FileType, Mode, OFlags};
use tokio::sync::mpsc;

use super::compare::{ComparedTrees, OwnTree, compare};
use super::decode::ArchiveReader;
use super::entry::{EntryKind, as_path, last_name, parent, problem_of_path};
use super::owners::OwnerNames;
use super::pieces::{read_joined, streams_of};
use super::unpack::unpack;
use super::walk::{Walk, WalkStep};
use crate::database::{ThrowAway, WorkContext};
use crate::listing::{ItemBatches, ListedItem, Listing};
use crate::proof::{CheckResult, DrillQuery, ProofResult, QueryAnswer, Unanswered, answered, checked};
use crate::removal::remove_tree;
use crate::streams::StoredStreams;
use crate::wanted::TreeWanted;

/// As many entries are there as were restored.
pub(super) const ENTRY_CHECK: &str = "entry_count";
/// So much of a file is read for a query.
const MAX_FIRST_LINE_BYTES: u64 = 4096;

/// A restored tree.
pub(super) struct FilesThrowAway {
    directory: PathBuf,
    restored: u64,
    cx: WorkContext,
}

impl FilesThrowAway {
    pub(super) fn new(cx: &WorkContext) -> Result<Self> {
        let directory = cx.scratch.join("tree");
        let made = std::fs::DirBuilder::new().mode(0o700).create(&directory);
        made.context(Class::Source, || format!("cannot create {}", directory.display()))?;
        Ok(Self { directory, restored: 0, cx: cx.clone() })
    }
}

impl Drop for FilesThrowAway {
    fn drop(&mut self) {
        let _ = remove_tree(&self.directory);
    }
}

#[async_trait]
impl ThrowAway for FilesThrowAway {
    fn server_version(&self) -> &str {
        ""
    }

    async fn load(&mut self, streams: &dyn StoredStreams) -> Result<()> {
        let (root, (names, _)) = (open(&self.directory)?, streams_of(streams, &[]));
        let unpacking = read_joined(streams, names, "the drill", &self.cx, |from| {
            unpack(ArchiveReader::new(from), root, &TreeWanted::default())
        });
        let unpacked = unpacking.await?;
        self.restored = unpacked.entries;
        let closed = unpacked.closed_names.tell(|_, names| {
            let said = format!("a drill cannot make names of files in folders that let their owner not in: {names}");
            Error::source_failed(said).hint("restore as root to see that tree, or set level = \"fetched\"")
        });
        closed.map_or(Ok(()), Err)
    }

    async fn check(&mut self, queries: &[DrillQuery]) -> Result<Vec<CheckResult>> {
        let (directory, restored, queries) = (self.directory.clone(), self.restored, queries.to_vec());
        let checking = tokio::task::spawn_blocking(move || {
            checked(vec![count_entries(&directory, restored)?], answers(&open(&directory)?, &queries))
        });
        checking.await.context(Class::Failed, || "a worker thread failed")?
    }

    async fn ask(&mut self, queries: &[DrillQuery]) -> Result<Vec<CheckResult>> {
        let (directory, queries) = (self.directory.clone(), queries.to_vec());
        let asking = tokio::task::spawn_blocking(move || answered(answers(&open(&directory)?, &queries)));
        asking.await.context(Class::Failed, || "a worker thread failed")?
    }

    async fn prove(&mut self, streams: &dyn StoredStreams) -> Result<ProofResult> {
        let (root, (names, _)) = (open(&self.directory)?, streams_of(streams, &[]));
        let comparing =
            read_joined(streams, names, "the drill", &self.cx, |from| compare(from, root, &TreeWanted::default()));
        Ok(proof(comparing.await?))
    }

    async fn list(&mut self, listing: &Listing, to: mpsc::Sender<Vec<ListedItem>>) -> Result<()> {
        if *listing != Listing::Paths {
            return Err(Error::usage("a tree of files answers no query"));
        }
        let (directory, mut items) = (self.directory.clone(), ItemBatches::new(to));
        let listing = tokio::task::spawn_blocking(move || {
            let failed = || "cannot read the restored tree";
            let root = open(&directory)?;
            let mut walk = Walk::new(root, &OwnTree, OwnerNames::default()).context(Class::Source, failed)?;
            while let Some(step) = walk.next().context(Class::Source, failed)? {
                match step {
                    WalkStep::Entry(found) if found.entry.kind != EntryKind::Folder => {
                        items.push_blocking(&found.entry.path)?;
                    }
                    _ => {}
                }
            }
            items.pass_on_blocking()
        });
        listing.await.context(Class::Failed, || "a worker thread failed")?
    }

    async fn stop(self: Box<Self>) -> Result<()> {
        remove_tree(&self.directory).context(Class::Source, || format!("cannot remove {}", self.directory.display()))
    }
}

/// A tree counts as one table, and each entry as a row.
fn proof(compared: ComparedTrees) -> ProofResult {
    let mut notes = vec![
        "types, content, modes, times, targets, names of one file and attributes of users were compared; where \
         files have holes was not, and owners were not restored"
            .to_owned(),
    ];
    let told = [
        (compared.lists, "access control lists"),
        (compared.special, "setuid or setgid bits, capabilities or trusted attributes"),
    ];
    for (count, what) in told.into_iter().filter(|(count, _)| *count > 0) {
        notes.push(format!("{count} entries have {what}, which a drill does not restore: these were not compared"));
    }
    if compared.devices > 0 {
        notes.push(format!("{} devices are recorded, and were not made", compared.devices));
    }
    ProofResult {
        tables: 1,
        rows: compared.entries,
        differences: compared.differences,
        notes,
        ..ProofResult::default()
    }
}

fn open(directory: &Path) -> Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let opened = rustix::fs::open(directory, flags, Mode::empty());
    opened.context(Class::Source, || format!("cannot open {}", directory.display()))
}

fn count_entries(directory: &Path, restored: u64) -> Result<CheckResult> {
    let failed = || "cannot read the restored tree";
    let mut walk = Walk::new(open(directory)?, &OwnTree, OwnerNames::default()).context(Class::Source, failed)?;
    let mut found = 0;
    while let Some(step) = walk.next().context(Class::Source, failed)? {
        found += u64::from(matches!(step, WalkStep::Entry(_)));
    }
    let detail = match found == restored {
        true => format!("{found} entries"),
        false => format!("{restored} entries restored, {found} found"),
    };
    Ok(CheckResult { check: ENTRY_CHECK.to_owned(), passed: found == restored, detail })
}

fn answers(root: &OwnedFd, queries: &[DrillQuery]) -> Vec<QueryAnswer> {
    let each = queries.iter().map(|query| {
        let (check, path) = (query.sql.clone(), query.sql.trim_end_matches('/'));
        let typing_error = problem_of_path(path.as_bytes()).map(|problem| {
            let said = format!("the drill's query `{}` is no path below the tree: {problem}", check.escape_debug());
            Error::configuration(said).hint("correct it in [dataset.drill] queries")
        });
        let (passed, detail) = match look(root, path.as_bytes(), query.wants_result()) {
            // That nothing is there is an answer, too.
            Err(error) if error.kind() == std::io::ErrorKind::NotFound && typing_error.is_none() => {
                (false, error.to_string())
            }
            Err(error) => return Err(Unanswered { check, detail: error.to_string(), typing_error }),
            Ok(_) if !query.wants_result() => (true, "is there".to_owned()),
            Ok(found) => query.judge(found.as_deref()),
        };
        match typing_error {
            Some(_) if !passed => Err(Unanswered { check, detail, typing_error }),
            _ => Ok(CheckResult { check, passed, detail }),
        }
    });
    each.collect()
}

/// Makes sure that something is at `path`, which may be a link that leads nowhere. Gives the first
/// line of a file, if that is asked for.
fn look(root: &OwnedFd, path: &[u8], is_line_wanted: bool) -> std::io::Result<Option<String>> {
    let Some(holder) = parent(path) else { return Ok(None) };
    let holder = open_beneath(root, as_path(holder), OFlags::PATH | OFlags::DIRECTORY, Mode::empty())?;
    let stat = rustix::fs::statat(&holder, last_name(path), AtFlags::SYMLINK_NOFOLLOW)?;
    if !is_line_wanted || FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
        return Ok(None);
    }
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let file = std::fs::File::from(rustix::fs::openat(&holder, last_name(path), flags, Mode::empty())?);
    let mut line = Vec::new();
    std::io::BufReader::new(file.take(MAX_FIRST_LINE_BYTES)).read_until(b'\n', &mut line)?;
    Ok(Some(String::from_utf8_lossy(&line).trim_end().to_owned()))
}
