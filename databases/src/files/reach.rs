//! Opens what a walk has only looked at, which may be another one by now.
//!
//! It is reached from the root, without following a link. What is gone was not there; what took its
//! place is captured in its place, but for a folder: nobody has looked into that.

use std::io;

use rustix::fs::{AtFlags, FileType};
use rustix::io::Errno;

use super::attributes::attributes_of;
use super::entry::{EntryKind, last_name, parent};
use super::links::Identity;
use super::walk::{Found, MAX_LOOKS, Walk, WalkRules};

impl<R: WalkRules> Walk<'_, R> {
    /// Opens what was looked at, all but folders; `None` if it is gone.
    ///
    /// # Errors
    /// It cannot be captured.
    pub(super) fn reached(&mut self, seen: Found) -> io::Result<Option<Found>> {
        if seen.entry.kind == EntryKind::Folder {
            return Ok(Some(seen));
        }
        let reached = self.look_again(&seen);
        let is_first = seen.identity.is_some() && !matches!(seen.entry.kind, EntryKind::SameAs { .. });
        let is_it = reached.as_ref().is_ok_and(|it| it.as_ref().is_some_and(|it| it.identity == seen.identity));
        if is_first && !is_it {
            self.links.lose(&seen.entry.path);
        }
        reached
    }

    fn look_again(&mut self, seen: &Found) -> io::Result<Option<Found>> {
        let (path, name) = (&seen.entry.path, last_name(&seen.entry.path));
        if let Err(error) = self.holders.turn_to(parent(path).unwrap_or_default()) {
            return match Errno::from_io_error(&error) {
                Some(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => Ok(None),
                _ => Err(error),
            };
        }
        for _ in 0..MAX_LOOKS {
            let Some(folder) = self.holders.folder() else { return Ok(None) };
            let stat = match rustix::fs::statat(folder, name, AtFlags::SYMLINK_NOFOLLOW) {
                Err(Errno::NOENT) => return Ok(None),
                stat => stat?,
            };
            let kind = FileType::from_raw_mode(stat.st_mode);
            if stat.st_dev != seen.stat.st_dev || kind == FileType::Directory {
                return Err(io::Error::other("a folder, or another file system, took its place meanwhile"));
            }
            match kind {
                FileType::Socket => return Ok(None),
                FileType::RegularFile => {}
                _ => match self.other(folder, path, name, &stat)? {
                    Some(found) => return Ok(Some(found)),
                    None => continue,
                },
            }
            let (opened, _) = match self.open_patiently(folder, name, &stat) {
                Err(Errno::NOENT) => return Ok(None),
                // It is a link by now.
                Err(Errno::LOOP) => continue,
                opened => opened?,
            };
            let stat = rustix::fs::fstat(&opened)?;
            if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
                continue;
            }
            let identity = seen.identity.as_ref().map(|_| Identity::of(&opened, &stat)).transpose()?;
            let kind = match &seen.entry.kind {
                EntryKind::SameAs { path } if identity == seen.identity && self.links.has(path) => {
                    EntryKind::SameAs { path: path.clone() }
                }
                _ => EntryKind::File { length: stat.st_size as u64 },
            };
            let entry = self.entry(path.clone(), kind, &stat, attributes_of(&opened)?);
            let file = matches!(entry.kind, EntryKind::File { .. }).then(|| opened.into());
            return Ok(Some(Found { entry, file, stat, identity }));
        }
        Err(io::Error::other("it is replaced again and again"))
    }
}
