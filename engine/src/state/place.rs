//! The place of a file that a person wants written.
//!
//! Work that takes hours gives its content, so whether it can be written is found out before. No
//! error shows the name that the file has until it is complete.

use std::io::{Error as IoError, ErrorKind};
use std::path::{Path, PathBuf};

use lifeboat_base::{Class, Context, Error, Result};

/// The absolute path of `file`, which need not exist.
///
/// # Errors
/// [`Class::Usage`]: no file can be written there, because it is a directory, or because its
/// directory is missing or closed.
pub fn place_for(file: &Path) -> Result<PathBuf> {
    let cannot = || format!("cannot write {}", file.display());
    let path = std::path::absolute(file).context(Class::Usage, cannot).map_err(|error| error.hint("name a file"))?;
    let folder = path.parent().unwrap_or(&path);
    let (why, hint) = if path.is_dir() {
        ("it is a directory".to_owned(), "name another file")
    } else if folder.is_dir() {
        match tempfile::tempfile_in(folder) {
            Ok(_) => return Ok(path),
            Err(error) => (plainly(error).to_string(), "let this user write there, or name another file"),
        }
    } else if folder.symlink_metadata().is_ok() {
        (format!("{} is not a directory", folder.display()), "name another file")
    } else {
        (format!("the directory {} does not exist", folder.display()), "make the directory, or name another file")
    };
    Err(Error::usage(cannot()).because(why).hint(hint))
}

/// The error of a file that could not be made, without its name where that says nothing.
pub(super) fn plainly(error: IoError) -> IoError {
    match error.kind() {
        kind @ (ErrorKind::NotFound
        | ErrorKind::NotADirectory
        | ErrorKind::PermissionDenied
        | ErrorKind::ReadOnlyFilesystem) => kind.into(),
        _ => error,
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn no_hours_are_spent_on_a_file_that_cannot_be_written() {
        let place = tempfile::tempdir().unwrap();
        let at = |name: &str| place.path().join(name);
        std::fs::write(at("file"), "x").unwrap();
        for (name, why, hint) in [
            ("missing/x.html", "/missing does not exist", "make the directory, or name another file"),
            ("file/x.html", "/file is not a directory", "name another file"),
            (".", "it is a directory", "name another file"),
        ] {
            let refused = place_for(&at(name)).unwrap_err();
            assert_eq!((refused.class(), refused.hint_text()), (Class::Usage, Some(hint)), "{refused:?}");
            assert!(refused.chain().contains(why), "{refused:?}");
        }
        for name in ["file", "new.html"] {
            assert_eq!(place_for(&at(name)).unwrap(), at(name));
        }
        assert_eq!(std::fs::read(at("file")).unwrap(), b"x", "it was written to");
        assert_eq!(place.path().read_dir().unwrap().count(), 1, "something was left");
    }

    #[test]
    fn no_error_shows_the_name_of_an_unfinished_file() {
        let place = tempfile::tempdir().unwrap();
        let lost = super::super::replace_file(&place.path().join("missing/status.json"), b"x").unwrap_err();
        assert!(lost.class() == Class::Storage && !lost.chain().contains(super::super::UNFINISHED), "{lost:?}");
    }
}
