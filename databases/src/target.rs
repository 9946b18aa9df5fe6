//! Where a snapshot is restored to: a server of its engine, or a directory.

use std::path::PathBuf;

use lifeboat_base::{Error, Result, disk};

use crate::database::{ServerTarget, WorkContext};
use crate::streams::StoredStreams;
use crate::wanted::{RestoreOutcome, TreeWanted, Wanted};
use crate::{directory, registry};

/// Where a snapshot is restored to.
#[derive(Debug)]
pub enum Target {
    /// A server. Each database of the snapshot is created there; roles that exist are kept.
    Server {
        /// The server.
        server: Box<dyn ServerTarget>,
        /// Which databases of the snapshot, and how.
        wanted: Wanted,
    },
    /// A directory. Each stream becomes a file, which is written under a temporary name, checked,
    /// and renamed.
    Directory {
        /// It is created if it is missing. It must be empty, unless `overwrite` is set.
        path: PathBuf,
        /// Whether to write into a directory that is not empty, and replace files of the same
        /// names.
        overwrite: bool,
        /// Whether to wait until the files are on stable storage. A file that replaces another
        /// always is.
        sync: bool,
    },
    /// A directory that gets the files of a snapshot that is a tree.
    Tree {
        /// It is created if it is missing, and must be empty.
        path: PathBuf,
        /// What of the tree, and with which rights.
        wanted: TreeWanted,
    },
}

/// Loads `streams` into `target`. It succeeds only if every stream was read to its checked end and
/// every tool ended with success.
///
/// # Errors
/// [`Class::Usage`](lifeboat_base::Class::Usage) for a target that is not empty or of another
/// engine, [`Class::Source`](lifeboat_base::Class::Source) for a failing tool,
/// [`Class::Storage`](lifeboat_base::Class::Storage) if the disk of a directory is full.
pub async fn load(streams: &dyn StoredStreams, target: &Target, cx: &WorkContext) -> Result<RestoreOutcome> {
    let loaded = load_into(streams, target, cx).await;
    match target {
        Target::Directory { path, .. } | Target::Tree { path, .. } => loaded.map_err(|error| {
            if !disk::tells_of_full_disk(&error.chain()) {
                return error;
            }
            disk::full(path, error, "make room there, or restore into a directory on a larger disk")
        }),
        Target::Server { .. } => loaded,
    }
}

async fn load_into(streams: &dyn StoredStreams, target: &Target, cx: &WorkContext) -> Result<RestoreOutcome> {
    match target {
        Target::Directory { path, overwrite, sync } => directory::load(streams, path, *overwrite, *sync, cx).await,
        Target::Tree { path, wanted } => {
            let engine = &streams.facts().engine;
            let known = registry::find(engine);
            let known =
                known.ok_or_else(|| Error::usage(format!("this version knows no snapshots of kind {engine}")))?;
            known.load_tree(streams, path, wanted, cx).await
        }
        Target::Server { server, wanted } => {
            let (there, stored) = (server.database().kind(), &streams.facts().engine);
            if stored != there {
                let has_servers = registry::find(stored).is_some_and(|engine| engine.address_form().is_some());
                return Err(Error::usage(format!(
                    "a snapshot of kind {stored} cannot be restored into a server of kind {there}"
                ))
                .hint(match has_servers {
                    true => format!("restore it with --to-{stored}"),
                    false => "restore it with --to-directory".to_owned(),
                }));
            }
            server.load(streams, wanted, cx).await
        }
    }
}
