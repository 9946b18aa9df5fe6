//! `files`: a tree of files, with what belongs to them.
//!
//! A tree is a pax archive in the order of its paths, which stock `tar` opens: types, modes,
//! owners, times with nanoseconds, extended attributes, access control lists, holes and hard links.
//! It is the one stream `tree`, or the streams of the folder `tree`, one after the other. Sockets
//! are left out. Devices are recorded, and never read; symbolic links are recorded, and never
//! followed. FORMAT.md says what a capture writes, and a restore takes nothing else.
//!
//! A capture reads what may have changed since the snapshot before (`unread.rs`), and takes the
//! other streams over.

mod acl;
mod archive;
mod attributes;
mod capture;
mod compare;
mod decode;
mod encode;
mod entry;
mod holders;
mod links;
mod load;
mod mount;
mod owners;
mod pieces;
mod reach;
mod reduced;
mod settings;
mod shard;
mod sparse;
mod throw_away;
mod troubles;
mod unpack;
mod unread;
mod walk;

#[cfg(test)]
mod tests;

use std::path::{Path, PathBuf};

use async_trait::async_trait;
use lifeboat_base::facts::SourceFacts;
use lifeboat_base::settings::{Section, SettingsReader};
use lifeboat_base::{Error, Result};

pub use self::capture::FilesSource;
pub use self::settings::FilesConfig;
use self::throw_away::FilesThrowAway;
use crate::database::{Database, FoundSource, Look, Source, ThrowAway, WorkContext};
use crate::proof::ProofLevel;
use crate::streams::StoredStreams;
use crate::wanted::{RestoreOutcome, TreeWanted};

const FILES_KIND: &str = "files";
/// The name of the only stream, and of all of them together.
const TREE_STREAM: &str = "tree";
/// Where the streams are if there are several.
const PIECES_FOLDER: &str = "tree/";
/// The unit of archives.
const BLOCK_BYTES: usize = 512;

/// The engine of kind `files`.
#[derive(Debug)]
pub struct Files;

#[async_trait]
impl Database for Files {
    fn kind(&self) -> &'static str {
        FILES_KIND
    }

    fn keys(&self) -> &'static [&'static str] {
        &settings::FILES_KEYS
    }

    fn source(&self, section: Section<'_>, reader: &mut SettingsReader<'_>) -> Option<Box<dyn Source>> {
        settings::parse(section, reader).map(|config| Box::new(FilesSource(config)) as Box<dyn Source>)
    }

    fn highest_level(&self) -> ProofLevel {
        ProofLevel::Proved
    }

    fn checks(&self) -> &'static [&'static str] {
        &[throw_away::ENTRY_CHECK]
    }

    fn file_of(&self, stream: &str) -> String {
        if stream == TREE_STREAM { "tree.tar".to_owned() } else { stream.to_owned() }
    }

    fn whole_of<'a>(&self, stream: &'a str) -> &'a str {
        if stream.starts_with(PIECES_FOLDER) { TREE_STREAM } else { stream }
    }

    fn is_tree(&self) -> bool {
        true
    }

    async fn load_tree(
        &self,
        streams: &dyn StoredStreams,
        path: &Path,
        wanted: &TreeWanted,
        cx: &WorkContext,
    ) -> Result<RestoreOutcome> {
        load::load(streams, path, wanted, cx).await
    }

    async fn throw_away(&self, _: &SourceFacts, _: &[PathBuf], cx: &WorkContext) -> Result<Option<Box<dyn ThrowAway>>> {
        Ok(Some(Box::new(FilesThrowAway::new(cx)?)))
    }

    fn source_at(&self, address: &str, _: &Look) -> Result<FoundSource> {
        let path = Path::new(address);
        if !path.is_absolute() {
            return Err(Error::usage(format!("`{}` is no absolute path of a folder", address.escape_debug()))
                .hint("write the whole path, such as /srv/www"));
        }
        let mut settings = toml::Table::new();
        settings.insert("path".to_owned(), address.into());
        let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        let (what, place) = (format!("files in {address}"), Some(path.to_owned()));
        Ok(FoundSource { kind: FILES_KIND, what, place, name, settings, account: None })
    }
}
