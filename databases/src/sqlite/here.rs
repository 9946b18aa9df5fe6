//! SQLite files of this machine that a set-up could back up.

use std::io::Read;
use std::path::{Path, PathBuf};

use lifeboat_base::{Error, Result};

use super::SQLITE_KIND;
use super::capture::SQLITE_MAGIC;
use crate::database::{FoundSource, Look};

/// Where applications of an operator keep their files. Packages' own files are in other places.
const APPLICATION_FOLDERS: [&str; 3] = ["/srv", "/opt", "/var/www"];
const FILE_ENDINGS: [&str; 3] = ["db", "sqlite", "sqlite3"];
/// So deep folders are looked into, …
const MAX_DEPTH: usize = 4;
/// … at so many entries, …
const MAX_ENTRIES: usize = 20_000;
/// … and so many files are told.
const MAX_FILES: usize = 16;

/// The files that begin as SQLite's do. It follows no link.
pub(super) fn find(look: &Look) -> Vec<FoundSource> {
    let folders = APPLICATION_FOLDERS.iter().map(PathBuf::from).chain(look.places.iter().cloned());
    let (mut queue, mut files, mut seen): (Vec<(PathBuf, usize)>, Vec<PathBuf>, usize) =
        (folders.map(|folder| (folder, 0)).collect(), Vec::new(), 0);
    queue.reverse();
    while let Some((folder, depth)) = queue.pop() {
        for entry in std::fs::read_dir(&folder).into_iter().flatten().filter_map(std::result::Result::ok) {
            seen += 1;
            if seen > MAX_ENTRIES || files.len() == MAX_FILES {
                return files.iter().map(|path| found(path)).collect();
            }
            let (path, Ok(kind)) = (entry.path(), entry.file_type()) else { continue };
            if kind.is_dir() && depth < MAX_DEPTH {
                queue.push((path, depth + 1));
            } else if kind.is_file() && is_database(&path) && !files.contains(&path) {
                files.push(path);
            }
        }
    }
    files.iter().map(|path| found(path)).collect()
}

fn is_database(path: &Path) -> bool {
    let ending = path.extension().and_then(|ending| ending.to_str());
    let mut magic = [0; SQLITE_MAGIC.len()];
    let mut begins = || std::fs::File::open(path).and_then(|mut file| file.read_exact(&mut magic)).is_ok();
    ending.is_some_and(|ending| FILE_ENDINGS.contains(&ending))
        && path.to_str().is_some()
        && begins()
        && magic == *SQLITE_MAGIC
}

fn found(path: &Path) -> FoundSource {
    let mut settings = toml::Table::new();
    settings.insert("path".to_owned(), path.display().to_string().into());
    FoundSource {
        kind: SQLITE_KIND,
        what: format!("SQLite file {}", path.display()),
        name: path.file_stem().map(|stem| stem.to_string_lossy().into_owned()).unwrap_or_default(),
        settings,
        account: None,
    }
}

/// The file that an operator names.
pub(super) fn at(address: &str) -> Result<FoundSource> {
    if address.starts_with('/') {
        return Ok(found(Path::new(address)));
    }
    Err(Error::usage(format!("`{}` is no absolute path of an SQLite file", address.escape_debug()))
        .hint("write the whole path, such as /srv/wiki/wiki.db"))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn only_what_begins_as_a_database_is_found_and_no_link_is_followed() {
        let place = tempfile::tempdir().unwrap();
        let deep = place.path().join("a/b");
        std::fs::create_dir_all(&deep).unwrap();
        std::fs::write(deep.join("wiki.db"), b"SQLite format 3\0and more").unwrap();
        std::fs::write(deep.join("other.db"), b"something else").unwrap();
        std::os::unix::fs::symlink(deep.join("wiki.db"), place.path().join("link.db")).unwrap();
        std::os::unix::fs::symlink(place.path(), deep.join("loop")).unwrap();
        let look = Look { user: String::new(), places: vec![place.path().to_owned()] };
        let found: Vec<String> = find(&look).into_iter().map(|found| found.name).collect();
        assert!(found.contains(&"wiki".to_owned()), "{found:?}");
        assert!(!found.iter().any(|name| name == "other" || name == "link"), "{found:?}");
        assert!(at("wiki.db").is_err());
    }
}
