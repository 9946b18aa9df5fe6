//! Restores a tree, or some paths of it, into an empty directory.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::Path;

use lifeboat_base::opened;
use lifeboat_base::{Class, Context, Error, Result};
use rustix::fs::AtFlags;

use super::TREE_STREAM;
use super::decode::ArchiveReader;
use super::entry::problem_of_path;
use super::pieces::{read_joined, streams_of};
use super::unpack::{Unpacked, unpack};
use crate::database::WorkContext;
use crate::occupied::is_occupied;
use crate::streams::StoredStreams;
use crate::wanted::{LoadFailure, RestoreOutcome, TreeWanted};

/// See [`Database::load_tree`](crate::Database::load_tree).
pub(super) async fn load(
    streams: &dyn StoredStreams,
    path: &Path,
    wanted: &TreeWanted,
    cx: &WorkContext,
) -> Result<RestoreOutcome> {
    let wanted = TreeWanted { paths: below_the_root(wanted)?, ..*wanted };
    let failed = || format!("cannot use {}", path.display());
    let missing = missing_folders(path);
    let root = opened::directory(path).context(Class::Source, failed)?;
    if is_occupied(&root).context(Class::Source, failed)? {
        return Err(Error::usage(format!("{} is not empty", path.display()))
            .hint("name an empty directory, or a new one, and move the files from there"));
    }
    let paths: Vec<&[u8]> = wanted.paths.iter().map(|path| path.as_os_str().as_encoded_bytes()).collect();
    let (names, is_whole) = streams_of(streams, &paths);
    let (asked, shown) = (wanted.clone(), path.display().to_string());
    let directory = root.try_clone().context(Class::Source, failed)?;
    let unpacked = read_joined(streams, names, "the restore", cx, move |from| {
        let unsynced = || "cannot write the tree to stable storage";
        let whole = root.try_clone().context(Class::Source, unsynced)?;
        let archive = if is_whole { ArchiveReader::new(from) } else { ArchiveReader::of_part(from) };
        let unpacked = unpack(archive, root, &asked)?;
        rustix::fs::syncfs(whole).context(Class::Source, unsynced)?;
        Ok(unpacked)
    })
    .await;
    let unpacked = unpacked.map_err(|error| match (is_occupied(&directory), error.class()) {
        (Ok(false), _) => {
            remove_empty(&missing);
            error
        }
        // What was asked for in vain matters more than what was found.
        (_, Class::Usage) => {
            let left = format!("{shown} holds what else was asked for");
            Error::usage(error.message()).because(left).hint(error.hint_text().unwrap_or_default())
        }
        _ => error.within(format!("{shown} holds a part of the snapshot")),
    })?;
    let lost = |count, reason| LoadFailure {
        database: TREE_STREAM.to_owned(),
        object: if count == 1 { "another name of a file".to_owned() } else { format!("{count} other names of files") },
        class: "missing_object".to_owned(),
        reason,
    };
    let unasked = |names| format!("pass --path for the first name, too, which holds the content: {names}");
    let closed = |names| format!("restore as root, as the folder of the first name lets nobody else in: {names}");
    let failures = [
        unpacked.lost_names.tell(|count, names| lost(count, unasked(names))),
        unpacked.closed_names.tell(|count, names| lost(count, closed(names))),
    ];
    let failures = failures.into_iter().flatten().collect();
    Ok(RestoreOutcome { written: vec![shown], warnings: warnings(&unpacked, &wanted), failures })
}

/// The folders that are made when `path` is opened, the innermost first.
fn missing_folders(path: &Path) -> Vec<&Path> {
    let folders = path.ancestors().filter(|folder| !folder.as_os_str().is_empty());
    folders.take_while(|folder| folder.symlink_metadata().is_err()).collect()
}

/// Removes folders that were made, the innermost first, as far as they are empty. Whoever owns what
/// is above may have put a link there meanwhile: it is not followed.
fn remove_empty(made: &[&Path]) {
    for folder in made {
        let (Some(holder), Some(name)) = (folder.parent(), folder.file_name()) else { return };
        let removed = opened::existing_directory(holder)
            .is_ok_and(|holder| rustix::fs::unlinkat(&holder, name, AtFlags::REMOVEDIR).is_ok());
        if !removed {
            return;
        }
    }
}

/// The paths as the archive writes them.
fn below_the_root(wanted: &TreeWanted) -> Result<Vec<std::path::PathBuf>> {
    let mut paths = Vec::new();
    for path in &wanted.paths {
        if path.is_absolute() {
            return Err(Error::usage(format!("`{}` is no path of the snapshot: it is absolute", path.display()))
                .hint("write it without the first /, as it is below the folder that was backed up"));
        }
        // Without `.` and a `/` at the end.
        let plain: std::path::PathBuf =
            path.components().filter(|part| !matches!(part, std::path::Component::CurDir)).collect();
        let bytes = plain.as_os_str().as_encoded_bytes();
        if let Some(problem) = problem_of_path(bytes) {
            let said = format!("`{}` is no path of the snapshot: {problem}", path.display());
            return Err(Error::usage(said).hint("write it as it is below the folder that was backed up"));
        }
        paths.push(OsString::from_vec(bytes.to_vec()).into());
    }
    Ok(paths)
}

/// What the restored tree lacks, and which flag brings it back.
fn warnings(unpacked: &Unpacked, wanted: &TreeWanted) -> Vec<String> {
    let entries = |count: u64| if count == 1 { "1 entry".to_owned() } else { format!("{count} entries") };
    let mut warnings = Vec::new();
    if !wanted.owners {
        warnings.push("everything belongs to who restored it: --with-owners gives back owners".to_owned());
    }
    if unpacked.lists > 0 {
        warnings.push(format!("{} lack their access control lists: pass --with-owners", entries(unpacked.lists)));
    }
    if unpacked.special > 0 {
        warnings.push(format!(
            "{} lack setuid or setgid bits, capabilities or trusted attributes: pass --with-owners --with-special",
            entries(unpacked.special)
        ));
    }
    if unpacked.devices > 0 {
        warnings.push(format!(
            "{} that are devices were not made: pass --with-owners --with-special",
            entries(unpacked.devices)
        ));
    }
    warnings
}
