//! Opens what lies below a directory, and follows no link on the way.
//!
//! Whoever may write into a replica's directory may put links there, to keys or devices, and swap
//! folders for links while they are looked at. So each path is opened from the directory that the
//! operator configured, by [`open_beneath`]. Only that directory's own path may have links. Folders
//! are then used by descriptor, never by path.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;

use lifeboat_base::beneath::open_beneath;
use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, Stat};
use rustix::io::Errno;

const FOLDER: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC);
const FILE_MODE: Mode = Mode::from_raw_mode(0o666);
const FOLDER_MODE: Mode = Mode::from_raw_mode(0o777);

/// A directory that is open.
#[derive(Debug)]
pub(super) struct Folder(OwnedFd);

impl Folder {
    /// The directory that the operator configured.
    pub(super) fn configured(path: &Path) -> io::Result<Self> {
        Ok(Self(rustix::fs::open(path, FOLDER, Mode::empty())?))
    }

    fn beneath(&self, path: &str, flags: OFlags) -> io::Result<OwnedFd> {
        open_beneath(&self.0, Path::new(path), flags, Mode::empty())
    }

    /// The folder at a path below this one; an empty path is this folder itself.
    pub(super) fn folder(&self, path: &str) -> io::Result<Self> {
        self.beneath(path, FOLDER).map(Self)
    }

    /// As [`Self::folder`], but makes what is missing of the path, durably.
    pub(super) fn make_folder(&self, path: &str) -> io::Result<Self> {
        let mut at = match self.folder(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => self.folder("")?,
            opened => return opened,
        };
        for segment in path.split('/') {
            at = match at.folder(segment) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    match rustix::fs::mkdirat(&at.0, segment, FOLDER_MODE) {
                        Ok(()) => at.sync()?,
                        Err(Errno::EXIST) => {}
                        Err(error) => return Err(error.into()),
                    }
                    at.folder(segment)?
                }
                opened => opened?,
            };
        }
        Ok(at)
    }

    /// Opens a regular file below this folder for reading. Anything else counts as missing: a pipe
    /// would wait for a writer, and a device is no object.
    pub(super) fn file(&self, path: &str) -> io::Result<(File, Stat)> {
        let opened = self.beneath(path, OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::NOFOLLOW);
        let file = opened.map_err(|error| match Errno::from_io_error(&error) {
            // A socket.
            Some(Errno::NXIO) => Errno::NOENT.into(),
            _ => error,
        })?;
        let stat = rustix::fs::fstat(&file)?;
        if !is_file(&stat) {
            return Err(Errno::NOENT.into());
        }
        Ok((File::from(file), stat))
    }

    /// What is known of the regular file at a path below this folder, without opening it.
    pub(super) fn look_up(&self, path: &str) -> io::Result<Stat> {
        let stat = rustix::fs::fstat(self.beneath(path, OFlags::PATH)?)?;
        if is_file(&stat) { Ok(stat) } else { Err(Errno::NOENT.into()) }
    }

    /// What is known of an entry of this folder itself. A link is not followed.
    pub(super) fn entry(&self, name: &str) -> io::Result<Stat> {
        Ok(rustix::fs::statat(&self.0, name, AtFlags::SYMLINK_NOFOLLOW)?)
    }

    /// The names in this folder that are text.
    pub(super) fn names(&self) -> io::Result<impl Iterator<Item = io::Result<String>>> {
        let entries = Dir::read_from(&self.0)?;
        Ok(entries.filter_map(|entry| match entry {
            Ok(entry) => entry.file_name().to_str().ok().map(|name| Ok(name.to_owned())),
            Err(error) => Some(Err(error.into())),
        }))
    }

    /// A new file in this folder, for writing.
    pub(super) fn create(&self, name: &str) -> io::Result<File> {
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        Ok(File::from(rustix::fs::openat(&self.0, name, flags, FILE_MODE)?))
    }

    /// Gives an entry of this folder a second name in it. Fails if that is taken, atomically.
    pub(super) fn link(&self, from: &str, to: &str) -> io::Result<()> {
        match rustix::fs::linkat(&self.0, from, &self.0, to, AtFlags::empty()) {
            // File systems without hard links can rename without replacing.
            Err(Errno::OPNOTSUPP | Errno::PERM | Errno::ACCESS | Errno::NOSYS) => {
                let flags = rustix::fs::RenameFlags::NOREPLACE;
                Ok(rustix::fs::renameat_with(&self.0, from, &self.0, to, flags)?)
            }
            // NFS repeats a request whose answer was lost, and then finds its own link.
            Err(Errno::EXIST) if self.entry(from)?.st_nlink == 2 => Ok(()),
            linked => Ok(linked?),
        }
    }

    /// Renames an entry of this folder within it, and replaces what has that name.
    pub(super) fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        Ok(rustix::fs::renameat(&self.0, from, &self.0, to)?)
    }

    /// Removes an entry of this folder that is no folder.
    pub(super) fn remove(&self, name: &str) -> io::Result<()> {
        Ok(rustix::fs::unlinkat(&self.0, name, AtFlags::empty())?)
    }

    /// Removes an empty folder in this folder.
    pub(super) fn remove_folder(&self, name: &str) -> io::Result<()> {
        Ok(rustix::fs::unlinkat(&self.0, name, AtFlags::REMOVEDIR)?)
    }

    /// Makes changes of its entries durable.
    pub(super) fn sync(&self) -> io::Result<()> {
        Ok(rustix::fs::fsync(&self.0)?)
    }
}

/// Whether this is a regular file.
pub(super) fn is_file(stat: &Stat) -> bool {
    FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile
}

/// Whether this is a folder, and no link to one.
pub(super) fn is_folder(stat: &Stat) -> bool {
    FileType::from_raw_mode(stat.st_mode) == FileType::Directory
}
