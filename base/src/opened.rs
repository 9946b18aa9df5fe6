//! Opens what others may try to swap: a file for its secret, a directory to restore into. Paths are
//! walked step by step, and a symbolic link is followed only if it belongs to this user or to root.
//! Opening never waits, unless a pipe is welcome.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStringExt;
use std::path::{Component, Path, PathBuf};

use rustix::fs::{CWD, FileType, Mode, OFlags, fstat, fstatfs, mkdirat, openat, readlinkat};
use rustix::io::Errno;

/// As many as the kernel follows.
const MAX_LINKS: usize = 40;
/// A place in the file system: nothing is opened, so nothing waits and no device notices.
const PLACE: OFlags = OFlags::PATH.union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);
const TO_READ: OFlags =
    OFlags::RDONLY.union(OFlags::NONBLOCK).union(OFlags::NOCTTY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);
const FOLDER: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC);

/// What a path led to.
pub(crate) struct Found {
    /// Anything but a regular file can be looked at, but not read.
    pub(crate) file: File,
    /// Whether this process had it open already, and the path names it by its number below `/proc`,
    /// as shells write `<(…)`.
    pub(crate) inherited: bool,
}

/// Who runs this program.
pub(crate) fn user() -> u32 {
    rustix::process::geteuid().as_raw()
}

/// Opens a file to read it.
pub(crate) fn to_read(path: &Path) -> io::Result<Found> {
    walk(path, TO_READ, false)
}

/// Opens a file to look at its metadata alone.
pub(crate) fn to_look_at(path: &Path) -> io::Result<Found> {
    walk(path, PLACE, false)
}

/// Opens a file or a pipe to read it. It waits for whoever writes into a pipe.
pub(crate) fn to_read_or_wait(path: &Path) -> io::Result<Found> {
    walk(path, TO_READ - OFlags::NONBLOCK, false)
}

/// Opens a directory. It and its parents are made if they are missing.
///
/// # Errors
/// Those of the file system; a link of another user on the way is refused.
pub fn directory(path: &Path) -> io::Result<OwnedFd> {
    let found = walk(path, FOLDER, true)?.file;
    if found.metadata()?.is_dir() { Ok(found.into()) } else { Err(Errno::NOTDIR.into()) }
}

/// Opens a directory that must be there.
///
/// # Errors
/// As of [`directory`], and if it is missing.
pub fn existing_directory(path: &Path) -> io::Result<OwnedFd> {
    let found = walk(path, FOLDER, false)?.file;
    if found.metadata()?.is_dir() { Ok(found.into()) } else { Err(Errno::NOTDIR.into()) }
}

fn walk(path: &Path, flags: OFlags, make: bool) -> io::Result<Found> {
    let mut folder = start(path)?;
    let mut left = steps(path);
    let mut links = 0;
    while let Some(step) = left.pop() {
        let last = left.is_empty();
        let found = match openat(&folder, &step, PLACE, Mode::empty()) {
            Err(Errno::NOENT) if make => {
                // Where somebody else just made it, it is looked at like everything else.
                match mkdirat(&folder, &step, Mode::from_raw_mode(0o777)) {
                    Ok(()) | Err(Errno::EXIST) => openat(&folder, &step, PLACE, Mode::empty())?,
                    Err(error) => return Err(error.into()),
                }
            }
            found => found?,
        };
        let stat = fstat(&found)?;
        match FileType::from_raw_mode(stat.st_mode) {
            // The kernel's own links name what is open, not a path.
            FileType::Symlink if is_proc(&folder)? => {
                let flags = if last { flags } else { PLACE } - OFlags::NOFOLLOW;
                let target = openat(&folder, &step, flags, Mode::empty())?;
                if last {
                    return Ok(Found { file: target.into(), inherited: true });
                }
                folder = target;
            }
            FileType::Symlink => {
                links += 1;
                if stat.st_uid != user() && stat.st_uid != 0 {
                    let (link, owner) = (Path::new(&step).display(), stat.st_uid);
                    let what = format!("the symbolic link {link} on its path belongs to another user (uid {owner})");
                    return Err(io::Error::new(io::ErrorKind::PermissionDenied, what));
                }
                let target = PathBuf::from(OsString::from_vec(readlinkat(&found, "", Vec::new())?.into_bytes()));
                if target.is_absolute() {
                    folder = start(&target)?;
                }
                left.extend(steps(&target));
            }
            _ if !last => folder = found,
            FileType::Directory if flags == FOLDER => folder = found,
            kind if is_wanted(kind, flags) => match openat(&folder, &step, flags, Mode::empty()) {
                // It was replaced by a link just now: look again.
                Err(Errno::LOOP) => {
                    links += 1;
                    left.push(step);
                }
                opened => return Ok(Found { file: opened?.into(), inherited: false }),
            },
            _ => return Ok(Found { file: found.into(), inherited: false }),
        }
        if links > MAX_LINKS {
            return Err(Errno::LOOP.into());
        }
    }
    let file = if flags == FOLDER { openat(&folder, ".", flags, Mode::empty())? } else { folder };
    Ok(Found { file: file.into(), inherited: false })
}

/// Nothing else is opened, as opening a device may already do something.
fn is_wanted(kind: FileType, flags: OFlags) -> bool {
    ![PLACE, FOLDER].contains(&flags)
        && (kind == FileType::RegularFile || kind == FileType::Fifo && !flags.contains(OFlags::NONBLOCK))
}

fn start(path: &Path) -> io::Result<OwnedFd> {
    let from = if path.is_absolute() { "/" } else { "." };
    Ok(openat(CWD, from, PLACE, Mode::empty())?)
}

/// The names on the way, the last one first.
fn steps(path: &Path) -> Vec<OsString> {
    let named = |part: Component| match part {
        Component::Normal(name) => Some(name.to_owned()),
        Component::ParentDir => Some(OsStr::new("..").to_owned()),
        Component::RootDir | Component::CurDir | Component::Prefix(_) => None,
    };
    path.components().rev().filter_map(named).collect()
}

fn is_proc(folder: &OwnedFd) -> io::Result<bool> {
    Ok(fstatfs(folder)?.f_type == rustix::fs::PROC_SUPER_MAGIC)
}
