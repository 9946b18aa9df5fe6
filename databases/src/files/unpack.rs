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
use std::path::PathBuf;

use lifeboat_base::beneath::open_beneath;
use lifeboat_base::{Class, Context, Error, Result};
use rustix::fs::{AtFlags, FileType, Gid, Mode, OFlags, Timespec, Timestamps, UTIME_OMIT, Uid, XattrFlags};
use rustix::io::Errno;

use super::decode::ArchiveReader;
use super::entry::{
    ACCESS_ACL, CAPABILITIES, DEFAULT_ACL, Entry, EntryKind, as_path, is_within, last_name, parent, shown,
};
use super::owners::OwnerNames;
use super::reduced::{Reduced, reduced};
use super::troubles::Trouble;
use crate::wanted::TreeWanted;

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
    /// Names of files whose first name was not asked for. Its content comes with that.
    pub(super) lost_names: Trouble,
    /// Names of files whose first name lies in a folder that lets us not in.
    pub(super) closed_names: Trouble,
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
pub(super) fn unpack(mut archive: ArchiveReader<impl Read>, root: OwnedFd, wanted: &TreeWanted) -> Result<Unpacked> {
    let paths: Vec<&[u8]> = wanted.paths.iter().map(|path| path.as_os_str().as_encoded_bytes()).collect();
    let mut found = vec![false; paths.len()];
    let (owners, unpacked) = (OwnerNames::here(), Unpacked::default());
    let mut unpacking = Unpacking { root, wanted, owners, folders: Vec::new(), unpacked };
    let mut made: Option<Vec<u8>> = None;
    while let Some(entry) = archive.next()? {
        let holds = |path: &&[u8]| entry.kind == EntryKind::Folder && is_within(path, &entry.path);
        let is_wanted = is_wanted(&entry.path, &wanted.paths) || paths.iter().any(holds);
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
    let missing: Vec<&[u8]> = paths.iter().zip(found).filter(|(_, found)| !found).map(|(path, _)| *path).collect();
    missing.iter().for_each(|path| unpacking.remove_way_to(path));
    if let Some(path) = missing.first() {
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
            close_to_others(&folder)?;
            self.folders.push(OpenFolder { folder, entry: entry.clone() });
            self.unpacked.entries += 1;
            return Ok(());
        };
        let depth = self.folders.iter().rposition(|filling| filling.entry.path == holder);
        let depth = depth.ok_or_else(|| Error::integrity("its folder is not there"))?;
        self.leave(depth + 1)?;
        let name = last_name(&entry.path);
        let folder = self.folders[depth].folder.as_fd();
        if let EntryKind::SameAs { path } = &entry.kind
            && !is_wanted(path, &self.wanted.paths)
        {
            self.unpacked.lost_names.add(|| format!("{} (as {})", shown(&entry.path), shown(path)));
            return Ok(());
        }
        if again {
            rustix::fs::unlinkat(folder, name, AtFlags::empty()).context(Class::Source, || "cannot replace it")?;
        } else {
            self.unpacked.entries += 1;
        }
        let failed = "cannot make it";
        let made = match &entry.kind {
            EntryKind::Folder => {
                done(rustix::fs::mkdirat(folder, name, Mode::RWXU), failed)?;
                let folder = done(rustix::fs::openat(folder, name, TREE_FOLDER, Mode::empty()), failed)?;
                must_be_ours(&folder, FileType::Directory)?;
                self.folders.push(OpenFolder { folder, entry: entry.clone() });
                return Ok(());
            }
            EntryKind::File { length } => {
                let file = rustix::fs::openat(folder, name, NEW_FILE, Mode::RUSR | Mode::WUSR);
                let file = std::fs::File::from(done(file, failed)?);
                // What no piece fills is a hole.
                done(file.set_len(*length), failed)?;
                while let Some((offset, piece)) = archive.piece()? {
                    done(file.write_all_at(piece, offset), "cannot write it")?;
                }
                let file = file.into();
                return self.settle(&file, entry);
            }
            EntryKind::SameAs { path } => {
                if !self.link(path, depth, name)? {
                    self.unpacked.entries -= 1;
                    self.unpacked.closed_names.add(|| format!("{} (as {})", shown(&entry.path), shown(path)));
                }
                return Ok(());
            }
            EntryKind::CharacterDevice { .. } | EntryKind::BlockDevice { .. } if !self.wanted.special => {
                self.unpacked.entries -= 1;
                self.unpacked.devices += 1;
                return Ok(());
            }
            kind => done(make(folder, name, kind), failed)?,
        };
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let opened = done(rustix::fs::openat(folder, name, flags, Mode::empty()), failed)?;
        must_be_ours(&opened, made)?;
        self.settle(&opened, entry)
    }

    /// Another name of a file that was made before. Whether its folder, which is complete, lets us
    /// make one.
    fn link(&self, path: &[u8], depth: usize, name: &OsStr) -> Result<bool> {
        let failed = || format!("cannot make it another name of {}", shown(path));
        let flags = OFlags::PATH | OFlags::DIRECTORY;
        let holder = open_beneath(&self.root, as_path(parent(path).unwrap_or_default()), flags, Mode::empty());
        let found = holder.and_then(|holder| {
            let stat = rustix::fs::statat(&holder, last_name(path), AtFlags::SYMLINK_NOFOLLOW)?;
            Ok((holder, stat))
        });
        let (holder, stat) = match found {
            Err(error) if Errno::from_io_error(&error) == Some(Errno::ACCESS) => return Ok(false),
            found => found.context(Class::Source, failed)?,
        };
        if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
            return Err(Error::integrity(format!("{}: that is no file", failed())));
        }
        let folder = &self.folders[depth].folder;
        done(rustix::fs::linkat(&holder, last_name(path), folder, name, AtFlags::empty()), &failed())?;
        Ok(true)
    }

    /// Removes the folders that were made on the way to what is not there, as far as they are empty
    /// and nobody asked for them.
    fn remove_way_to(&self, path: &[u8]) {
        let mut way = parent(path);
        while let Some(folder) = way.filter(|folder| !folder.is_empty() && !is_wanted(folder, &self.wanted.paths)) {
            way = parent(folder);
            let flags = OFlags::PATH | OFlags::DIRECTORY;
            let holder = open_beneath(&self.root, as_path(way.unwrap_or_default()), flags, Mode::empty());
            let removed =
                holder.and_then(|holder| Ok(rustix::fs::unlinkat(&holder, last_name(folder), AtFlags::REMOVEDIR)?));
            // One that was never made is no reason to leave those above it.
            if removed.is_err_and(|error| error.kind() != std::io::ErrorKind::NotFound) {
                return;
            }
        }
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
            done(given, &failed("owner"))?;
        }
        let path = format!("/proc/self/fd/{}", made.as_fd().as_raw_fd());
        let is_link = matches!(entry.kind, EntryKind::Link { .. });
        // Capabilities come after the mode, as they fall with it.
        let (late, early): (Vec<_>, Vec<_>) = entry.attributes.iter().partition(|(name, _)| *name == CAPABILITIES);
        for (name, value) in early {
            set_attribute(&path, name, value)?;
        }
        if !is_link {
            done(rustix::fs::chmod(&path, Mode::from_raw_mode(entry.mode)), &failed("mode"))?;
        }
        for (name, value) in late {
            set_attribute(&path, name, value)?;
        }
        done(set_time(made.as_fd(), &entry), &failed("time"))
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
    let what = format!("cannot set its attribute {}", shown(name));
    match set {
        // So some file systems say that an attribute is longer than they take.
        Err(error @ (Errno::NOSPC | Errno::DQUOT | Errno::TOOBIG | Errno::RANGE)) => Err(Error::source_failed(what)
            .because(std::io::Error::from(error))
            .hint("restore onto a file system with room for such attributes, as the captured one had")),
        set => done(set, &what),
    }
}

/// What was done, or why not and what helps.
fn done<T>(result: std::result::Result<T, impl Into<std::io::Error>>, what: &str) -> Result<T> {
    result.map_err(|error| {
        let error: std::io::Error = error.into();
        let hint = Errno::from_io_error(&error).and_then(hint_for);
        let said = Error::source_failed(what).because(error);
        match hint {
            Some(hint) => said.hint(hint),
            None => said,
        }
    })
}

fn hint_for(error: Errno) -> Option<&'static str> {
    match error {
        Errno::NOSPC | Errno::DQUOT => Some("make room, or restore to where there is more"),
        Errno::PERM => Some("restore as root onto a file system that knows this, or without --with-owners"),
        Errno::OPNOTSUPP | Errno::NOSYS => Some("restore onto a file system that knows this, as the captured one did"),
        Errno::INVAL | Errno::ILSEQ | Errno::NAMETOOLONG | Errno::OVERFLOW | Errno::FBIG => {
            Some("the file system does not take this name, size or value: restore onto one of the captured kind")
        }
        Errno::EXIST => Some("two names are one there: restore onto a file system that tells capital letters apart"),
        Errno::XDEV => Some("drill on Linux 5.19 or later: before, Landlock lets no file have names in two folders"),
        Errno::ROFS => Some("restore onto a file system that can be written to"),
        _ => None,
    }
}

/// Keeps others out of the directory until it is complete, and removes its lists: a default one
/// would pass to all that is made in it.
fn close_to_others(root: &OwnedFd) -> Result<()> {
    let own = "restore into a directory of your own";
    let closed = rustix::fs::fchmod(root, Mode::RWXU);
    closed.context(Class::Source, || "cannot set the mode of the directory").map_err(|error| error.hint(own))?;
    for list in [DEFAULT_ACL, ACCESS_ACL] {
        match rustix::fs::fremovexattr(root, list) {
            Err(Errno::NODATA | Errno::OPNOTSUPP) => {}
            removed => removed
                .context(Class::Source, || "cannot remove the access control list of the directory")
                .map_err(|error| error.hint(own))?,
        }
    }
    Ok(())
}

/// Whether a path is among those that were asked for.
fn is_wanted(path: &[u8], paths: &[PathBuf]) -> bool {
    paths.is_empty() || paths.iter().any(|wanted| is_within(path, wanted.as_os_str().as_encoded_bytes()))
}

fn set_time(made: BorrowedFd<'_>, entry: &Entry) -> rustix::io::Result<()> {
    let times = Timestamps {
        last_access: Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT },
        last_modification: Timespec { tv_sec: entry.modified.seconds, tv_nsec: entry.modified.nanoseconds.into() },
    };
    rustix::fs::utimensat(made, "", &times, AtFlags::EMPTY_PATH)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn a_hint_goes_with_the_cause() {
        let hint = |error: Errno| done::<()>(Err(error), "x").unwrap_err().hint_text().map(str::to_owned);
        assert!(hint(Errno::NOSPC).unwrap().starts_with("make room"));
        assert!(hint(Errno::PERM).unwrap().starts_with("restore as root"));
        assert!(hint(Errno::XDEV).unwrap().contains("Linux 5.19"));
        assert_eq!(hint(Errno::IO), None);
        let set = set_attribute("/proc/self/status", b"user.x", b"1").unwrap_err();
        assert!(set.hint_text().is_some(), "{set:?}");
    }
}
