//! Restores a tree below a folder.
//!
//! Everything is made anew, below handles of folders that were just made, and nothing is followed
//! or replaced: what is there already makes the restore fail. Nobody else reaches an entry before
//! it is complete, as folders open to others when the restore leaves them. Owners, access control
//! lists, devices, and what lets a program run as somebody else come back only on request.

use std::ffi::OsStr;
use std::io::Read;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileExt;

use lifeboat_base::beneath::open_beneath;
use lifeboat_base::{Class, Context, Error, Result};
use rustix::fs::{AtFlags, FileType, Gid, Mode, OFlags, Timespec, Timestamps, UTIME_OMIT, Uid, XattrFlags};
use rustix::io::Errno;

use super::decode::ArchiveReader;
use super::entry::{CAPABILITIES, Entry, EntryKind, as_path, is_within, last_name, parent, shown};
use super::owners::OwnerNames;
use super::reduced::{Reduced, reduced};
use crate::database::TreeWanted;

const TREE_FOLDER: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);
const NEW_FILE: OFlags =
    OFlags::WRONLY.union(OFlags::CREATE).union(OFlags::EXCL).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// What a restore made.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Unpacked {
    pub(super) entries: u64,
    /// Devices that were not made.
    pub(super) devices: u64,
    /// Entries without bits of their mode, or attributes, that are special.
    pub(super) special: u64,
    /// Entries without their access control lists.
    pub(super) lists: u64,
}

/// A folder that is being filled.
struct OpenFolder {
    folder: OwnedFd,
    entry: Entry,
}

/// A restore in progress.
struct Unpacking<'a> {
    root: OwnedFd,
    wanted: &'a TreeWanted,
    owners: OwnerNames,
    /// From the root on.
    folders: Vec<OpenFolder>,
    unpacked: Unpacked,
}

/// Makes what the archive holds below `root`, an empty folder, which gets the properties of the
/// tree's root.
pub(super) fn unpack(from: impl Read, root: OwnedFd, wanted: &TreeWanted) -> Result<Unpacked> {
    let mut archive = ArchiveReader::new(from);
    let paths: Vec<&[u8]> = wanted.paths.iter().map(|path| path.as_os_str().as_encoded_bytes()).collect();
    let mut found = vec![false; paths.len()];
    let (owners, unpacked) = (OwnerNames::here(), Unpacked::default());
    let mut unpacking = Unpacking { root, wanted, owners, folders: Vec::new(), unpacked };
    let mut made: Option<Vec<u8>> = None;
    while let Some(entry) = archive.next()? {
        let holds = |path: &&[u8]| entry.kind == EntryKind::Folder && is_within(path, &entry.path);
        let is_wanted = paths.is_empty() || paths.iter().any(|path| is_within(&entry.path, path) || holds(path));
        for (path, found) in paths.iter().zip(&mut found) {
            *found |= entry.path == *path;
        }
        if !is_wanted {
            continue;
        }
        let again = made.as_ref() == Some(&entry.path);
        let failed = || format!("cannot restore {}", shown(&entry.path));
        unpacking.entry(&entry, again, &mut archive).map_err(|error| match error.class() {
            Class::Integrity => error,
            _ => error.within(failed()),
        })?;
        made = Some(entry.path);
    }
    unpacking.leave(0)?;
    if let Some((path, _)) = paths.iter().zip(found).find(|(_, found)| !found) {
        return Err(Error::usage(format!("the snapshot holds no {}", shown(path)))
            .hint("list what it holds with --stdout tree, and tar --list"));
    }
    Ok(unpacking.unpacked)
}

impl Unpacking<'_> {
    fn entry(&mut self, entry: &Entry, again: bool, archive: &mut ArchiveReader<impl Read>) -> Result<()> {
        let Some(holder) = parent(&entry.path) else {
            let folder = rustix::fs::openat(&self.root, ".", TREE_FOLDER, Mode::empty());
            let folder = folder.context(Class::Source, || "cannot open the directory")?;
            self.folders.push(OpenFolder { folder, entry: entry.clone() });
            self.unpacked.entries += 1;
            return Ok(());
        };
        let depth = self.folders.iter().rposition(|filling| filling.entry.path == holder);
        let depth = depth.ok_or_else(|| Error::integrity("its folder is not there"))?;
        self.leave(depth + 1)?;
        let name = last_name(&entry.path);
        let folder = self.folders[depth].folder.as_fd();
        if again {
            rustix::fs::unlinkat(folder, name, AtFlags::empty()).context(Class::Source, || "cannot replace it")?;
        } else {
            self.unpacked.entries += 1;
        }
        let failed = || "cannot make it";
        let made = match &entry.kind {
            EntryKind::Folder => {
                rustix::fs::mkdirat(folder, name, Mode::RWXU).context(Class::Source, failed)?;
                let folder = rustix::fs::openat(folder, name, TREE_FOLDER, Mode::empty());
                let folder = folder.context(Class::Source, failed)?;
                must_be_ours(&folder, FileType::Directory)?;
                self.folders.push(OpenFolder { folder, entry: entry.clone() });
                return Ok(());
            }
            EntryKind::File { length } => {
                let file = rustix::fs::openat(folder, name, NEW_FILE, Mode::RUSR | Mode::WUSR);
                let file = std::fs::File::from(file.context(Class::Source, failed)?);
                // Before the content: what does not fit fails at once.
                file.set_len(*length).context(Class::Source, failed)?;
                while let Some((offset, piece)) = archive.piece()? {
                    file.write_all_at(piece, offset).context(Class::Source, || "cannot write it")?;
                }
                let file = file.into();
                return self.settle(&file, entry);
            }
            EntryKind::SameAs { path } => return self.link(path, depth, name),
            EntryKind::CharacterDevice { .. } | EntryKind::BlockDevice { .. } if !self.wanted.special => {
                self.unpacked.entries -= 1;
                self.unpacked.devices += 1;
                return Ok(());
            }
            kind => make(folder, name, kind).context(Class::Source, failed)?,
        };
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let opened = rustix::fs::openat(folder, name, flags, Mode::empty()).context(Class::Source, failed)?;
        must_be_ours(&opened, made)?;
        self.settle(&opened, entry)
    }

    /// Another name of a file that was made before.
    fn link(&self, path: &[u8], depth: usize, name: &OsStr) -> Result<()> {
        let failed = || format!("cannot make it another name of {}", shown(path));
        let missing = |error: Error| match self.wanted.paths.is_empty() {
            true => error,
            false => error.hint("a file with several names needs its first one in --path, too"),
        };
        let flags = OFlags::PATH | OFlags::DIRECTORY;
        let holder = open_beneath(&self.root, as_path(parent(path).unwrap_or_default()), flags, Mode::empty());
        let holder = holder.context(Class::Source, failed).map_err(missing)?;
        let stat = rustix::fs::statat(&holder, last_name(path), AtFlags::SYMLINK_NOFOLLOW);
        let stat = stat.context(Class::Source, failed).map_err(missing)?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
            return Err(Error::integrity(format!("{}: that is no file", failed())));
        }
        let folder = &self.folders[depth].folder;
        rustix::fs::linkat(&holder, last_name(path), folder, name, AtFlags::empty()).context(Class::Source, failed)
    }

    /// Gives the folders beyond the first so many their properties, the innermost first.
    fn leave(&mut self, depth: usize) -> Result<()> {
        while self.folders.len() > depth
            && let Some(OpenFolder { folder, entry }) = self.folders.pop()
        {
            let settled = self.settle(&folder, &entry);
            settled.map_err(|error| error.within(format!("cannot restore {}", shown(&entry.path))))?;
        }
        Ok(())
    }

    /// Gives an entry that is complete its properties, the time last.
    fn settle(&mut self, made: &OwnedFd, stored: &Entry) -> Result<()> {
        let Reduced { entry, lost_special, lost_list } = reduced(stored, self.wanted);
        self.unpacked.special += u64::from(lost_special);
        self.unpacked.lists += u64::from(lost_list);
        let failed = |what: &str| format!("cannot set its {what}");
        if self.wanted.owners {
            let (uid, gid) = self.owners.numbers(&entry.ownership);
            let (uid, gid) = (Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)));
            let given = rustix::fs::chownat(made, "", uid, gid, AtFlags::EMPTY_PATH);
            given
                .context(Class::Source, || failed("owner"))
                .map_err(|error| error.hint("restore as root, or without --with-owners"))?;
        }
        let path = format!("/proc/self/fd/{}", made.as_fd().as_raw_fd());
        let is_link = matches!(entry.kind, EntryKind::Link { .. });
        // Capabilities come after the mode, as they fall with it.
        let (late, early): (Vec<_>, Vec<_>) = entry.attributes.iter().partition(|(name, _)| *name == CAPABILITIES);
        for (name, value) in early {
            set_attribute(&path, name, value)?;
        }
        if !is_link {
            rustix::fs::chmod(&path, Mode::from_raw_mode(entry.mode)).context(Class::Source, || failed("mode"))?;
        }
        for (name, value) in late {
            set_attribute(&path, name, value)?;
        }
        set_time(made.as_fd(), &entry).context(Class::Source, || failed("time"))
    }
}

/// Makes what has no content; its type.
fn make(folder: BorrowedFd<'_>, name: &OsStr, kind: &EntryKind) -> rustix::io::Result<FileType> {
    let node = |of: FileType, mode, (major, minor)| {
        rustix::fs::mknodat(folder, name, of, mode, rustix::fs::makedev(major, minor)).map(|()| of)
    };
    match kind {
        EntryKind::Link { target } => rustix::fs::symlinkat(as_path(target), folder, name).map(|()| FileType::Symlink),
        EntryKind::Pipe => node(FileType::Fifo, Mode::RUSR | Mode::WUSR, (0, 0)),
        EntryKind::CharacterDevice { major, minor } => node(FileType::CharacterDevice, Mode::empty(), (*major, *minor)),
        EntryKind::BlockDevice { major, minor } => node(FileType::BlockDevice, Mode::empty(), (*major, *minor)),
        // These have content.
        EntryKind::Folder | EntryKind::File { .. } | EntryKind::SameAs { .. } => Err(Errno::INVAL),
    }
}

/// Who owns the directory that is restored into may swap what was just made for what he likes to be
/// given away, or opened to others.
fn must_be_ours(opened: &OwnedFd, made: FileType) -> Result<()> {
    let stat = rustix::fs::fstat(opened).context(Class::Source, || "cannot look at what was made")?;
    let is_made = FileType::from_raw_mode(stat.st_mode) == made;
    match is_made && stat.st_uid == rustix::process::geteuid().as_raw() {
        true => Ok(()),
        false => Err(Error::source_failed("somebody put something else in its place")
            .hint("restore into a directory that nobody else can write to")),
    }
}

fn set_attribute(path: &str, name: &[u8], value: &[u8]) -> Result<()> {
    let set = rustix::fs::setxattr(path, name, value, XattrFlags::empty());
    let set = set.context(Class::Source, || format!("cannot set its attribute {}", shown(name)));
    set.map_err(|error| error.hint("restore onto a file system that keeps such attributes"))
}

fn set_time(made: BorrowedFd<'_>, entry: &Entry) -> rustix::io::Result<()> {
    let times = Timestamps {
        last_access: Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT },
        last_modification: Timespec { tv_sec: entry.modified.seconds, tv_nsec: entry.modified.nanoseconds.into() },
    };
    rustix::fs::utimensat(made, "", &times, AtFlags::EMPTY_PATH)
}
