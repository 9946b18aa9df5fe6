//! Walks a tree in the order of its entries, without following a symbolic link.
//!
//! Each folder is opened below the one that holds it, by handle, so nothing is reached outside of
//! the tree, whatever is renamed meanwhile. What vanishes before it is opened was not there. What
//! cannot be looked at is told, never passed over. Memory is bounded: for the names of the folders
//! on the way by [`MAX_NAMES_BYTES`], for files with several names by `links.rs`.

use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::time::Duration;

use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, Stat, StatxAttributes, StatxFlags};
use rustix::io::Errno;

use super::attributes::{attributes_of, attributes_of_unopened};
use super::entry::{
    Attributes, Entry, EntryKind, MAX_TREE_DEPTH, MODE_BITS, Modified, held_attributes, problem_of_path,
};
use super::holders::Holders;
use super::links::{Identity, Links};
use super::owners::OwnerNames;

/// The names of all folders on the way, together.
const MAX_NAMES_BYTES: usize = 64 << 20;
/// An entry that is swapped for one of another kind is looked at so often.
pub(super) const MAX_LOOKS: usize = 3;
/// Whoever holds a lease of a file has 45 seconds to give it up, unless the machine says otherwise.
const MAX_LEASE_WAITS: usize = 600;
const LEASE_WAIT: Duration = Duration::from_millis(100);

const TO_READ: OFlags =
    OFlags::RDONLY.union(OFlags::NOFOLLOW).union(OFlags::NONBLOCK).union(OFlags::NOCTTY).union(OFlags::CLOEXEC);

/// What a walk does not enter, and what it may do.
pub(super) trait WalkRules {
    /// Whether to leave this entry out, with all that is in it.
    fn leaves_out(&self, path: &[u8], is_folder: bool) -> bool;
    /// Whether to stay in the file system of the root.
    fn one_file_system(&self) -> bool;
    /// Whether the tree is ours alone, so that a mode that keeps us out may be changed.
    fn opens_by_force(&self) -> bool;
}

/// What a walk comes to.
pub(super) enum WalkStep {
    Entry(Box<Found>),
    /// It is in the tree, and cannot be captured. What is below it is not looked at.
    Unreadable {
        path: Vec<u8>,
        why: io::Error,
    },
    /// Another file system is mounted here. Its folder was the step before, if it can be looked at.
    OtherFileSystem {
        path: Vec<u8>,
    },
    /// A socket: it means nothing without the program that listens.
    Socket {
        path: Vec<u8>,
    },
}

/// An entry, and the file itself if it is one. Of what was only looked at, the entry says nothing
/// but what `stat` does, and which other name it has; it is complete if it is a folder.
pub(super) struct Found {
    pub(super) entry: Entry,
    pub(super) file: Option<File>,
    pub(super) stat: Stat,
    /// Which file it is, if it has several names.
    pub(super) identity: Option<Identity>,
}

/// Names of one folder, in the order of their bytes.
#[derive(Default)]
struct Names {
    bytes: Vec<u8>,
    /// Where each begins and ends, and what the folder says that it is.
    ends: Vec<(u32, u32, FileType)>,
}

impl Names {
    fn of(folder: BorrowedFd<'_>, most: usize) -> io::Result<Self> {
        let mut names = Self::default();
        for entry in Dir::read_from(folder)? {
            let entry = entry?;
            let name = entry.file_name().to_bytes();
            if matches!(name, b"." | b"..") {
                continue;
            }
            let begin = names.bytes.len() as u32;
            names.bytes.extend_from_slice(name);
            names.ends.push((begin, names.bytes.len() as u32, entry.file_type()));
            if names.size() > most {
                return Err(io::Error::other("its folders hold more names than fit into memory"));
            }
        }
        let bytes = &names.bytes;
        let name = |(begin, end, _): &(u32, u32, FileType)| &bytes[*begin as usize..*end as usize];
        names.ends.sort_unstable_by(|a, b| name(a).cmp(name(b)));
        // Where files come and go meanwhile, a file system may list one twice.
        names.ends.dedup_by(|a, b| name(a) == name(b));
        Ok(names)
    }

    fn get(&self, at: usize) -> Option<(&[u8], FileType)> {
        self.ends.get(at).map(|(begin, end, kind)| (&self.bytes[*begin as usize..*end as usize], *kind))
    }

    fn size(&self) -> usize {
        self.bytes.len() + self.ends.len() * size_of::<(u32, u32, FileType)>()
    }
}

/// A folder on the way.
struct Level {
    folder: OwnedFd,
    names: Names,
    next: usize,
    /// How long its path is.
    path_length: usize,
    /// The mode that it gets back when the walk leaves it.
    forced: Option<Mode>,
    /// Bytes of attributes of it and of all folders on the way to it.
    held_bytes: usize,
}

/// A walk that has come somewhere.
pub(super) struct Walk<'a, R> {
    rules: &'a R,
    owners: OwnerNames,
    levels: Vec<Level>,
    /// The path of the folder that the walk is in.
    path: Vec<u8>,
    names_bytes: usize,
    device: u64,
    /// What comes after the step before.
    pending: Option<WalkStep>,
    /// The root, before the first step.
    root: Option<OwnedFd>,
    pub(super) links: Links,
    /// Whether it looks at what is no folder, and opens nothing of it.
    looks_only: bool,
    /// To reach what was looked at.
    pub(super) holders: Holders,
}

impl<'a, R: WalkRules> Walk<'a, R> {
    pub(super) fn new(root: OwnedFd, rules: &'a R, owners: OwnerNames) -> io::Result<Self> {
        let device = rustix::fs::fstat(&root)?.st_dev;
        let holders = Holders::below(root.try_clone()?);
        Ok(Self {
            rules,
            owners,
            levels: Vec::new(),
            path: Vec::new(),
            names_bytes: 0,
            device,
            pending: None,
            root: Some(root),
            links: Links::default(),
            looks_only: false,
            holders,
        })
    }

    /// A walk that opens folders alone. What it only looks at can be [reached](Self::reached)
    /// later.
    pub(super) fn looking(root: OwnedFd, rules: &'a R, owners: OwnerNames) -> io::Result<Self> {
        Ok(Self { looks_only: true, ..Self::new(root, rules, owners)? })
    }

    /// The next step; `None` after the last.
    ///
    /// # Errors
    /// The root itself cannot be read.
    pub(super) fn next(&mut self) -> io::Result<Option<WalkStep>> {
        if let Some(step) = self.pending.take() {
            return Ok(Some(step));
        }
        if let Some(root) = self.root.take() {
            let stat = rustix::fs::fstat(&root)?;
            let entry = self.entry(Vec::new(), EntryKind::Folder, &stat, attributes_of(&root)?);
            self.enter(root, 0, None, self.held_bytes(&entry)?)?;
            return Ok(Some(WalkStep::Entry(Box::new(Found { entry, file: None, stat, identity: None }))));
        }
        while let Some(level) = self.levels.last_mut() {
            self.path.truncate(level.path_length);
            let Some((name, told)) = level.names.get(level.next) else {
                self.names_bytes -= level.names.size();
                if let Some(mode) = level.forced {
                    rustix::fs::fchmod(&level.folder, mode)?;
                }
                self.levels.pop();
                continue;
            };
            let mut path = self.path.clone();
            if !path.is_empty() {
                path.push(b'/');
            }
            path.extend_from_slice(name);
            let name = name.to_vec();
            level.next += 1;
            let name = OsStr::from_bytes(&name);
            // What is left out is not looked at: a dead mount may keep whoever does waiting.
            let is_left_out = match told {
                FileType::Unknown => [false, true].iter().all(|is_folder| self.rules.leaves_out(&path, *is_folder)),
                told => self.rules.leaves_out(&path, told == FileType::Directory),
            };
            if is_left_out {
                continue;
            }
            match self.visit(&path, name) {
                Ok(Some(step)) => return Ok(Some(step)),
                Ok(None) => {}
                Err(_) if self.is_mounted(name, told) => return Ok(Some(WalkStep::OtherFileSystem { path })),
                Err(why) => return Ok(Some(WalkStep::Unreadable { path, why })),
            }
        }
        Ok(None)
    }

    /// The attributes and names that `stat` does not tell.
    pub(super) fn entry(&self, path: Vec<u8>, kind: EntryKind, stat: &Stat, attributes: Attributes) -> Entry {
        Entry {
            path,
            kind,
            mode: stat.st_mode & MODE_BITS,
            ownership: self.owners.of(stat.st_uid, stat.st_gid),
            modified: modified(stat),
            attributes,
        }
    }

    /// Whether another file system is here that is not to be captured. The kernel tells so much
    /// even of a mount that lets us see nothing, or whose server is gone.
    fn is_mounted(&self, name: &OsStr, kind: FileType) -> bool {
        let Some(level) = self.levels.last().filter(|_| self.rules.one_file_system()) else { return false };
        let flags = AtFlags::SYMLINK_NOFOLLOW | AtFlags::NO_AUTOMOUNT | AtFlags::STATX_DONT_SYNC;
        rustix::fs::statx(&level.folder, name, flags, StatxFlags::empty()).is_ok_and(|stat| {
            // On overlayfs, what is no folder may be of another device without any mount.
            let may_be = matches!(kind, FileType::Directory | FileType::Unknown)
                || stat.stx_attributes.contains(StatxAttributes::MOUNT_ROOT);
            may_be && rustix::fs::makedev(stat.stx_dev_major, stat.stx_dev_minor) != self.device
        })
    }

    fn visit(&mut self, path: &[u8], name: &OsStr) -> io::Result<Option<WalkStep>> {
        if let Some(problem) = problem_of_path(path) {
            return Err(io::Error::other(problem));
        }
        for _ in 0..MAX_LOOKS {
            let Some(folder) = self.levels.last().map(|level| level.folder.as_fd()) else { return Ok(None) };
            let stat = match rustix::fs::statat(folder, name, AtFlags::SYMLINK_NOFOLLOW) {
                Err(Errno::NOENT) => return Ok(None),
                stat => stat?,
            };
            let kind = FileType::from_raw_mode(stat.st_mode);
            if self.rules.leaves_out(path, kind == FileType::Directory) {
                return Ok(None);
            }
            if stat.st_dev != self.device && self.is_mounted(name, kind) {
                let other = WalkStep::OtherFileSystem { path: path.to_vec() };
                if kind != FileType::Directory {
                    return Ok(Some(other));
                }
                // It is not opened: a dead mount may keep whoever does waiting.
                let attributes = attributes_of_unopened(folder, name)?;
                let entry = self.entry(path.to_vec(), EntryKind::Folder, &stat, attributes);
                self.held_bytes(&entry)?;
                self.pending = Some(other);
                return Ok(Some(WalkStep::Entry(Box::new(Found { entry, file: None, stat, identity: None }))));
            }
            match kind {
                FileType::RegularFile if self.looks_only => {
                    let identity = match stat.st_nlink {
                        ..2 => None,
                        _ => match Identity::at(folder, name, &stat) {
                            Err(Errno::NOENT) => return Ok(None),
                            // It is another one by now: look again.
                            Ok(None) => continue,
                            identity => identity?,
                        },
                    };
                    return Ok(Some(WalkStep::Entry(Box::new(self.looked_at(path, stat, identity)))));
                }
                FileType::Directory | FileType::RegularFile => {
                    let opened = match self.open_patiently(folder, name, &stat) {
                        Err(Errno::NOENT) => return Ok(None),
                        // It is a link by now: look again.
                        Err(Errno::LOOP) => continue,
                        opened => opened?,
                    };
                    let (opened, forced) = opened;
                    let mut now = rustix::fs::fstat(&opened)?;
                    if FileType::from_raw_mode(now.st_mode) != kind {
                        continue;
                    }
                    if forced.is_some() {
                        now.st_mode = stat.st_mode;
                    }
                    return match kind {
                        FileType::Directory => self.folder(path, opened, now, forced).map(Some),
                        _ => self.file(path, opened, now, forced).map(Some),
                    };
                }
                FileType::Socket => return Ok(Some(WalkStep::Socket { path: path.to_vec() })),
                _ if self.looks_only => {
                    let kind = EntryKind::Pipe;
                    let entry = self.entry(path.to_vec(), kind, &stat, Attributes::new());
                    return Ok(Some(WalkStep::Entry(Box::new(Found { entry, file: None, stat, identity: None }))));
                }
                _ => match self.other(folder, path, name, &stat)? {
                    Some(found) => return Ok(Some(WalkStep::Entry(Box::new(found)))),
                    None => continue,
                },
            }
        }
        Err(io::Error::other("it is replaced again and again"))
    }

    /// What is neither a file nor a folder; `None` if it is something else by now.
    pub(super) fn other(
        &self,
        folder: BorrowedFd<'_>,
        path: &[u8],
        name: &OsStr,
        stat: &Stat,
    ) -> io::Result<Option<Found>> {
        let kind = match FileType::from_raw_mode(stat.st_mode) {
            FileType::Symlink => match rustix::fs::readlinkat(folder, name, Vec::new()) {
                Err(Errno::NOENT | Errno::INVAL) => return Ok(None),
                target => EntryKind::Link { target: target?.into_bytes() },
            },
            FileType::Fifo => EntryKind::Pipe,
            kind => device(kind, stat)?,
        };
        let attributes = attributes_of_unopened(folder, name)?;
        let entry = self.entry(path.to_vec(), kind, stat, attributes);
        Ok(Some(Found { entry, file: None, stat: *stat, identity: None }))
    }

    /// As [`Self::open`], but if another program holds a lease of it, that was just asked to give
    /// it up, and has the time for that.
    pub(super) fn open_patiently(
        &self,
        folder: BorrowedFd<'_>,
        name: &OsStr,
        stat: &Stat,
    ) -> Result<(OwnedFd, Option<Mode>), Errno> {
        for _ in 0..MAX_LEASE_WAITS {
            match self.open(folder, name, stat) {
                Err(Errno::AGAIN) => std::thread::sleep(LEASE_WAIT),
                opened => return opened,
            }
        }
        self.open(folder, name, stat)
    }

    /// Opens a file or a folder. Where its mode keeps us out of a tree of our own, tells the mode
    /// that was changed for that. A folder must let us in as long as we are in it.
    fn open(&self, folder: BorrowedFd<'_>, name: &OsStr, stat: &Stat) -> Result<(OwnedFd, Option<Mode>), Errno> {
        let mode = Mode::from_raw_mode(stat.st_mode & MODE_BITS);
        let is_folder = FileType::from_raw_mode(stat.st_mode) == FileType::Directory;
        let needed = if is_folder { Mode::RUSR | Mode::XUSR } else { Mode::RUSR };
        let forced = (self.rules.opens_by_force() && !mode.contains(needed)).then_some(mode);
        if forced.is_some() {
            rustix::fs::chmodat(folder, name, mode | Mode::RWXU, AtFlags::empty())?;
        }
        let open = |flags| rustix::fs::openat(folder, name, TO_READ | flags, Mode::empty());
        // Reading is no use that a tree should remember, where we may choose.
        let opened = match open(OFlags::NOATIME) {
            Err(Errno::PERM) => open(OFlags::empty()),
            opened => opened,
        }?;
        Ok((opened, forced))
    }

    fn folder(&mut self, path: &[u8], opened: OwnedFd, stat: Stat, forced: Option<Mode>) -> io::Result<WalkStep> {
        let entry = self.entry(path.to_vec(), EntryKind::Folder, &stat, attributes_of(&opened)?);
        let held_bytes = self.held_bytes(&entry)?;
        if self.rules.one_file_system() && stat.st_dev != self.device {
            self.pending = Some(WalkStep::OtherFileSystem { path: path.to_vec() });
        } else {
            self.path = path.to_vec();
            self.enter(opened, path.len(), forced, held_bytes)?;
        }
        Ok(WalkStep::Entry(Box::new(Found { entry, file: None, stat, identity: None })))
    }

    /// Bytes of attributes that a restore holds while it is in this folder.
    fn held_bytes(&self, folder: &Entry) -> io::Result<usize> {
        let before = self.levels.last().map_or(0, |level| level.held_bytes);
        held_attributes(before, &folder.attributes).map_err(io::Error::other)
    }

    fn enter(&mut self, folder: OwnedFd, path_length: usize, forced: Option<Mode>, held: usize) -> io::Result<()> {
        // The root counts as none.
        if self.levels.len() > MAX_TREE_DEPTH {
            return Err(io::Error::other("it lies deeper than 256 folders"));
        }
        let names = Names::of(folder.as_fd(), MAX_NAMES_BYTES - self.names_bytes)?;
        self.names_bytes += names.size();
        self.levels.push(Level { folder, names, next: 0, path_length, forced, held_bytes: held });
        Ok(())
    }

    fn file(&mut self, path: &[u8], opened: OwnedFd, stat: Stat, forced: Option<Mode>) -> io::Result<WalkStep> {
        let attributes = attributes_of(&opened);
        // What is open can be read further, but for its attributes.
        if let Some(mode) = forced {
            rustix::fs::fchmod(&opened, mode)?;
        }
        let attributes = attributes?;
        let identity = if stat.st_nlink < 2 { None } else { Some(Identity::of(&opened, &stat)?) };
        let mut found = self.looked_at(path, stat, identity);
        found.entry.attributes = attributes;
        found.file = matches!(found.entry.kind, EntryKind::File { .. }).then(|| opened.into());
        Ok(WalkStep::Entry(Box::new(found)))
    }

    /// A file, as far as `stat` tells, or another name of one that came before.
    fn looked_at(&mut self, path: &[u8], stat: Stat, identity: Option<Identity>) -> Found {
        let first = identity.clone().and_then(|identity| self.links.first_name(path, &stat, identity));
        let kind = match first {
            Some(path) => EntryKind::SameAs { path },
            None => EntryKind::File { length: stat.st_size as u64 },
        };
        let entry = self.entry(path.to_vec(), kind, &stat, Attributes::new());
        Found { entry, file: None, stat, identity }
    }

    /// The entry of a file that has changed since, all of it, for another reading.
    pub(super) fn again(&self, path: Vec<u8>, file: &File) -> io::Result<(Entry, Stat)> {
        let stat = rustix::fs::fstat(file)?;
        let kind = EntryKind::File { length: stat.st_size as u64 };
        Ok((self.entry(path, kind, &stat, attributes_of(file)?), stat))
    }
}

/// When what `stat` tells of was changed.
fn modified(stat: &Stat) -> Modified {
    // It is less than a second.
    Modified { seconds: stat.st_mtime, nanoseconds: stat.st_mtime_nsec as u32 }
}

fn device(kind: FileType, stat: &Stat) -> io::Result<EntryKind> {
    let (major, minor) = (rustix::fs::major(stat.st_rdev), rustix::fs::minor(stat.st_rdev));
    match kind {
        FileType::CharacterDevice => Ok(EntryKind::CharacterDevice { major, minor }),
        FileType::BlockDevice => Ok(EntryKind::BlockDevice { major, minor }),
        _ => Err(io::Error::other("the file system does not say what it is")),
    }
}
