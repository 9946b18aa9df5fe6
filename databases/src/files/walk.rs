//! Walks a tree in the order of its entries, without following a symbolic link.
//!
//! Each folder is opened below the one that holds it, by handle, so nothing is reached outside of
//! the tree, whatever is renamed meanwhile. What vanishes before it is opened was not there. What
//! cannot be looked at is told, never passed over. Memory is bounded: for the names of the folders
//! on the way by [`MAX_NAMES_BYTES`], for files with several names by [`MAX_LINKS_BYTES`].

use std::collections::HashMap;
use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;

use rustix::buffer::spare_capacity;
use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, Stat};
use rustix::io::Errno;

use super::entry::{Attributes, Entry, EntryKind, MAX_TREE_DEPTH, MODE_BITS, Modified, is_kept};
use super::owners::OwnerNames;

/// The names of all folders on the way, together.
const MAX_NAMES_BYTES: usize = 64 << 20;
/// The paths of files whose other names were not met yet.
const MAX_LINKS_BYTES: usize = 64 << 20;
/// No attribute, and no list of their names, is longer on Linux.
const MAX_ATTRIBUTE_BYTES: usize = 64 << 10;
/// An entry that is swapped for one of another kind is looked at so often.
const MAX_LOOKS: usize = 3;

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
    /// Another file system is mounted here. Its folder was the step before.
    OtherFileSystem {
        path: Vec<u8>,
    },
    /// A socket: it means nothing without the program that listens.
    Socket {
        path: Vec<u8>,
    },
}

/// An entry, and the file itself if it is one.
pub(super) struct Found {
    pub(super) entry: Entry,
    pub(super) file: Option<File>,
    pub(super) stat: Stat,
}

/// Names of one folder, in the order of their bytes.
#[derive(Default)]
struct Names {
    bytes: Vec<u8>,
    ends: Vec<(u32, u32)>,
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
            names.ends.push((begin, names.bytes.len() as u32));
            if names.size() > most {
                return Err(io::Error::other("its folders hold more names than fit into memory"));
            }
        }
        let bytes = &names.bytes;
        let name = |(begin, end): &(u32, u32)| &bytes[*begin as usize..*end as usize];
        names.ends.sort_unstable_by(|a, b| name(a).cmp(name(b)));
        // Where files come and go meanwhile, a file system may list one twice.
        names.ends.dedup_by(|a, b| name(a) == name(b));
        Ok(names)
    }

    fn get(&self, at: usize) -> Option<&[u8]> {
        self.ends.get(at).map(|(begin, end)| &self.bytes[*begin as usize..*end as usize])
    }

    fn size(&self) -> usize {
        self.bytes.len() + self.ends.len() * size_of::<(u32, u32)>()
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
    links: HashMap<(u64, u64), (Vec<u8>, usize)>,
    links_bytes: usize,
    /// Whether a file was taken for several, as too many have several names.
    pub(super) forgot_links: bool,
}

impl<'a, R: WalkRules> Walk<'a, R> {
    pub(super) fn new(root: OwnedFd, rules: &'a R, owners: OwnerNames) -> io::Result<Self> {
        let device = rustix::fs::fstat(&root)?.st_dev;
        Ok(Self {
            rules,
            owners,
            levels: Vec::new(),
            path: Vec::new(),
            names_bytes: 0,
            device,
            pending: None,
            root: Some(root),
            links: HashMap::new(),
            links_bytes: 0,
            forgot_links: false,
        })
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
            self.enter(root, 0, None)?;
            return Ok(Some(WalkStep::Entry(Box::new(Found { entry, file: None, stat }))));
        }
        while let Some(level) = self.levels.last_mut() {
            self.path.truncate(level.path_length);
            let Some(name) = level.names.get(level.next) else {
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
            match self.visit(&path, OsStr::from_bytes(&name)) {
                Ok(Some(step)) => return Ok(Some(step)),
                Ok(None) => {}
                Err(why) => return Ok(Some(WalkStep::Unreadable { path, why })),
            }
        }
        Ok(None)
    }

    /// The attributes and names that `stat` does not tell.
    fn entry(&self, path: Vec<u8>, kind: EntryKind, stat: &Stat, attributes: Attributes) -> Entry {
        Entry {
            path,
            kind,
            mode: stat.st_mode & MODE_BITS,
            ownership: self.owners.of(stat.st_uid, stat.st_gid),
            modified: modified(stat),
            attributes,
        }
    }

    fn visit(&mut self, path: &[u8], name: &OsStr) -> io::Result<Option<WalkStep>> {
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
            match kind {
                FileType::Directory | FileType::RegularFile => {
                    let opened = match self.open(folder, name, &stat) {
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
                        _ => self.file(path, opened, now).map(Some),
                    };
                }
                FileType::Socket => return Ok(Some(WalkStep::Socket { path: path.to_vec() })),
                _ => {
                    let kind = match kind {
                        FileType::Symlink => match rustix::fs::readlinkat(folder, name, Vec::new()) {
                            Err(Errno::NOENT | Errno::INVAL) => continue,
                            target => EntryKind::Link { target: target?.into_bytes() },
                        },
                        FileType::Fifo => EntryKind::Pipe,
                        kind => device(kind, &stat)?,
                    };
                    let attributes = attributes_of_unopened(folder, name)?;
                    let entry = self.entry(path.to_vec(), kind, &stat, attributes);
                    return Ok(Some(WalkStep::Entry(Box::new(Found { entry, file: None, stat }))));
                }
            }
        }
        Err(io::Error::other("it is replaced again and again"))
    }

    /// Opens a file or a folder. Where its mode keeps us out of a tree of our own, tells the mode
    /// that was changed for that.
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
        // What is open stays open. A folder must let us in as long as we are in it.
        if let Some(mode) = forced.filter(|_| !is_folder) {
            rustix::fs::fchmod(&opened, mode)?;
        }
        Ok((opened, forced))
    }

    fn folder(&mut self, path: &[u8], opened: OwnedFd, stat: Stat, forced: Option<Mode>) -> io::Result<WalkStep> {
        let entry = self.entry(path.to_vec(), EntryKind::Folder, &stat, attributes_of(&opened)?);
        if self.rules.one_file_system() && stat.st_dev != self.device {
            self.pending = Some(WalkStep::OtherFileSystem { path: path.to_vec() });
        } else {
            self.path = path.to_vec();
            self.enter(opened, path.len(), forced)?;
        }
        Ok(WalkStep::Entry(Box::new(Found { entry, file: None, stat })))
    }

    fn enter(&mut self, folder: OwnedFd, path_length: usize, forced: Option<Mode>) -> io::Result<()> {
        if self.levels.len() == MAX_TREE_DEPTH {
            return Err(io::Error::other("it lies deeper than 256 folders"));
        }
        let names = Names::of(folder.as_fd(), MAX_NAMES_BYTES - self.names_bytes)?;
        self.names_bytes += names.size();
        self.levels.push(Level { folder, names, next: 0, path_length, forced });
        Ok(())
    }

    fn file(&mut self, path: &[u8], opened: OwnedFd, stat: Stat) -> io::Result<WalkStep> {
        let attributes = attributes_of(&opened)?;
        let kind = match self.other_name(path, &stat) {
            Some(path) => EntryKind::SameAs { path },
            None => EntryKind::File { length: stat.st_size as u64 },
        };
        let is_file = matches!(kind, EntryKind::File { .. });
        let entry = self.entry(path.to_vec(), kind, &stat, attributes);
        Ok(WalkStep::Entry(Box::new(Found { entry, file: is_file.then(|| opened.into()), stat })))
    }

    /// The name under which this file came before.
    fn other_name(&mut self, path: &[u8], stat: &Stat) -> Option<Vec<u8>> {
        if stat.st_nlink < 2 {
            return None;
        }
        let key = (stat.st_dev, stat.st_ino);
        if let Some((first, left)) = self.links.get_mut(&key) {
            let first = first.clone();
            *left -= 1;
            if *left == 0 {
                self.links_bytes -= first.len();
                self.links.remove(&key);
            }
            return Some(first);
        }
        if self.links_bytes + path.len() + self.links.len() * size_of::<((u64, u64), Vec<u8>)>() > MAX_LINKS_BYTES {
            self.forgot_links = true;
            return None;
        }
        self.links_bytes += path.len();
        self.links.insert(key, (path.to_vec(), usize::try_from(stat.st_nlink).unwrap_or(usize::MAX) - 1));
        None
    }
}

/// When what `stat` tells of was changed.
pub(super) fn modified(stat: &Stat) -> Modified {
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

fn attributes_of(opened: &OwnedFd) -> io::Result<Attributes> {
    read_attributes(
        |list| rustix::fs::flistxattr(opened, spare_capacity(list)),
        |name, value| rustix::fs::fgetxattr(opened, name, spare_capacity(value)),
    )
}

/// Those of what must not be opened: it is named through the handle of its folder.
fn attributes_of_unopened(folder: BorrowedFd<'_>, name: &OsStr) -> io::Result<Attributes> {
    let path = format!("/proc/self/fd/{}/", folder.as_raw_fd()).into_bytes();
    let path = [path.as_slice(), name.as_bytes()].concat();
    read_attributes(
        |list| rustix::fs::llistxattr(path.as_slice(), spare_capacity(list)),
        |name, value| rustix::fs::lgetxattr(path.as_slice(), name, spare_capacity(value)),
    )
}

fn read_attributes(
    list: impl Fn(&mut Vec<u8>) -> rustix::io::Result<usize>,
    get: impl Fn(&[u8], &mut Vec<u8>) -> rustix::io::Result<usize>,
) -> io::Result<Attributes> {
    // Most entries have none, or their names are short.
    let mut names = Vec::with_capacity(1024);
    match list(&mut names) {
        Err(Errno::OPNOTSUPP) => return Ok(Attributes::new()),
        Err(Errno::RANGE) => {
            names = Vec::with_capacity(MAX_ATTRIBUTE_BYTES);
            list(&mut names)?;
        }
        listed => drop(listed?),
    }
    let mut attributes = Attributes::new();
    for name in names.split(|byte| *byte == 0).filter(|name| is_kept(name)) {
        let mut value = Vec::with_capacity(MAX_ATTRIBUTE_BYTES);
        match get(name, &mut value) {
            // It was removed just now.
            Err(Errno::NODATA) => continue,
            got => drop(got?),
        }
        value.shrink_to_fit();
        attributes.insert(name.to_vec(), value);
    }
    Ok(attributes)
}
