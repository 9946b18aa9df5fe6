//! SQLite files of this machine that a set-up could back up.

use std::io::{ErrorKind, Read};
use std::path::{Path, PathBuf};

use lifeboat_base::{Error, Result};

use super::SQLITE_KIND;
use super::capture::SQLITE_MAGIC;
use crate::database::{FoundHere, FoundSource, Look};

/// Where applications of an operator keep their files. Packages' own files are in other places.
const APPLICATION_FOLDERS: [&str; 3] = ["/srv", "/opt", "/var/www"];
const FILE_ENDINGS: [&str; 3] = ["db", "sqlite", "sqlite3"];
/// So deep folders are looked into, …
const MAX_DEPTH: usize = 4;
/// … below each at so many entries, …
const MAX_ENTRIES: usize = 20_000;
/// … and so many files of each are told.
const MAX_FILES: usize = 16;

/// The files that begin as SQLite's do, those in places that an operator named first. It follows no
/// link, and tells what it did not look at.
pub(super) fn find(look: &Look) -> FoundHere {
    let (mut here, mut files) = (FoundHere::default(), Vec::new());
    for folder in look.places.iter().cloned().chain(APPLICATION_FOLDERS.iter().map(PathBuf::from)) {
        below(&folder, &mut files, &mut here);
    }
    here.sources = files.iter().map(|path| found(path)).collect();
    here
}

/// The files below a folder that are not known yet.
fn below(top: &Path, files: &mut Vec<PathBuf>, here: &mut FoundHere) {
    let (mut queue, mut seen, before) = (vec![(top.to_owned(), 0)], 0, files.len());
    while let Some((folder, depth)) = queue.pop() {
        let entries = match std::fs::read_dir(&folder) {
            Ok(entries) => entries,
            Err(error) if error.kind() == ErrorKind::NotFound => continue,
            Err(error) => {
                here.cannot_reach(folder.display(), error);
                continue;
            }
        };
        for entry in entries {
            seen += 1;
            if seen > MAX_ENTRIES || files.len() - before == MAX_FILES {
                here.cannot_reach(top.display(), "it holds too much to look for every SQLite file in it");
                return;
            }
            let known = entry.and_then(|entry| Ok((entry.path(), entry.file_type()?)));
            let (path, kind) = match known {
                Ok(known) => known,
                Err(error) => {
                    here.cannot_reach(folder.display(), error);
                    continue;
                }
            };
            if kind.is_dir() && depth < MAX_DEPTH {
                queue.push((path, depth + 1));
            } else if kind.is_file() && is_named_as_database(&path) && !files.contains(&path) {
                match begins_as_database(&path) {
                    Ok(true) => files.push(path),
                    Ok(false) => {}
                    Err(error) => here.cannot_reach(path.display(), error),
                }
            }
        }
    }
}

fn is_named_as_database(path: &Path) -> bool {
    let ending = path.extension().and_then(|ending| ending.to_str());
    ending.is_some_and(|ending| FILE_ENDINGS.contains(&ending)) && path.to_str().is_some()
}

fn begins_as_database(path: &Path) -> std::io::Result<bool> {
    let mut magic = [0; SQLITE_MAGIC.len()];
    match std::fs::File::open(path).and_then(|mut file| file.read_exact(&mut magic)) {
        Ok(()) => Ok(magic == *SQLITE_MAGIC),
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::UnexpectedEof) => Ok(false),
        Err(error) => Err(error),
    }
}

fn found(path: &Path) -> FoundSource {
    let mut settings = toml::Table::new();
    settings.insert("path".to_owned(), path.display().to_string().into());
    FoundSource {
        kind: SQLITE_KIND,
        what: format!("SQLite file {}", path.display()),
        place: Some(path.to_owned()),
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
        let found: Vec<String> = find(&look).sources.into_iter().map(|found| found.name).collect();
        assert!(found.contains(&"wiki".to_owned()), "{found:?}");
        assert!(!found.iter().any(|name| name == "other" || name == "link"), "{found:?}");
        assert!(at("wiki.db").is_err());
    }

    #[test]
    fn a_folder_with_too_many_files_hides_none_of_another_and_is_told() {
        let (many, few) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        for number in 0..=MAX_FILES {
            std::fs::write(many.path().join(format!("{number}.db")), SQLITE_MAGIC).unwrap();
        }
        std::fs::write(few.path().join("wiki.db"), SQLITE_MAGIC).unwrap();
        let look = |places: &[&Path]| Look {
            user: String::new(),
            places: places.iter().map(|place| (*place).to_owned()).collect(),
        };
        let here = find(&look(&[many.path(), few.path()]));
        assert!(here.sources.iter().any(|found| found.name == "wiki"), "{here:?}");
        let told = format!("{}: it holds too much", many.path().display());
        assert_eq!(here.unreached.iter().filter(|line| line.starts_with(&told)).count(), 1, "{here:?}");
        let told = few.path().display().to_string();
        assert!(!here.unreached.iter().any(|line| line.starts_with(&told)), "{here:?}");
    }
}
