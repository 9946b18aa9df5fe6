//! The `[dataset.source]` table of `kind = "files"`.

use std::path::PathBuf;
use std::time::Duration;

use ignore::gitignore::{Gitignore, GitignoreBuilder};
use lifeboat_base::settings::{Section, SettingsReader, Text, units};
use serde::Deserialize;

use super::entry::as_path;
use super::walk::WalkRules;

/// The validated settings of a tree.
#[derive(Debug, Clone)]
pub struct FilesConfig {
    /// The folder.
    pub path: PathBuf,
    /// What is left out, in the syntax of `.gitignore`, below `path`.
    pub exclude: Gitignore,
    /// Whether what is mounted below `path` is left out.
    pub one_file_system: bool,
    /// A folder, `path` or above it, that must be where a file system is mounted.
    pub mount: Option<PathBuf>,
    /// Whether a tree without an entry is a snapshot.
    pub allow_empty: bool,
    /// Whether a snapshot may lack what cannot be read.
    pub allow_unreadable: bool,
    /// Whether a file whose size, times and number are as they were is as it was, and not read.
    pub trust_times: bool,
    /// After so long, it is read all the same.
    pub read_all_every: Duration,
}

/// The keys of the table.
pub(super) const FILES_KEYS: [&str; 8] =
    ["path", "exclude", "one_file_system", "mount", "allow_empty", "allow_unreadable", "trust_times", "read_all_every"];
const READ_ALL_EVERY: Duration = Duration::from_secs(30 * 86_400);

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawFiles {
    path: Option<Text>,
    #[serde(default)]
    exclude: Vec<Text>,
    #[serde(default = "yes")]
    one_file_system: bool,
    mount: Option<Text>,
    #[serde(default)]
    allow_empty: bool,
    #[serde(default)]
    allow_unreadable: bool,
    #[serde(default = "yes")]
    trust_times: bool,
    read_all_every: Option<Text>,
}

fn yes() -> bool {
    true
}

impl FilesConfig {
    /// All of the tree at `path`.
    #[must_use]
    pub fn of(path: impl Into<PathBuf>) -> Self {
        let (mount, allow_empty, allow_unreadable) = (None, false, false);
        let (exclude, one_file_system, trust_times) = (Gitignore::empty(), true, true);
        let (path, read_all_every) = (path.into(), READ_ALL_EVERY);
        Self { path, exclude, one_file_system, mount, allow_empty, allow_unreadable, trust_times, read_all_every }
    }
}

/// Validates the table.
pub(super) fn parse(section: Section<'_>, reader: &mut SettingsReader<'_>) -> Option<FilesConfig> {
    let place = section.place();
    let raw: RawFiles = section.read(reader)?;
    let path = reader.required(raw.path.as_ref(), "path", &place)?;
    let path = reader.path(path);
    let mount = raw.mount.as_ref().map(|text| {
        let mount = reader.path(text);
        if !path.starts_with(&mount) {
            let problem = format!("{} is neither path nor above it", mount.display());
            reader.findings.add(text.span(), problem, "name the folder where the file system of path is mounted");
        }
        mount
    });
    Some(FilesConfig {
        exclude: exclude(&raw.exclude, reader),
        path,
        one_file_system: raw.one_file_system,
        mount,
        allow_empty: raw.allow_empty,
        allow_unreadable: raw.allow_unreadable,
        trust_times: raw.trust_times,
        read_all_every: reader.unit(raw.read_all_every.as_ref(), units::duration).unwrap_or(READ_ALL_EVERY),
    })
}

/// The patterns. One that would do nothing is told.
fn exclude(patterns: &[Text], reader: &mut SettingsReader<'_>) -> Gitignore {
    // Matched paths are relative to the tree.
    let mut builder = GitignoreBuilder::new("");
    for pattern in patterns {
        let text = pattern.get_ref();
        let problem = match builder.add_line(None, text) {
            Err(error) => Some(format!("this pattern is not usable: {error}")),
            Ok(_) if text.trim().is_empty() || text.starts_with('#') => {
                Some("this pattern excludes nothing".to_owned())
            }
            Ok(_) => None,
        };
        if let Some(problem) = problem {
            reader.findings.add(pattern.span(), problem, "write it as in .gitignore, such as \"*.tmp\" or \"/cache/\"");
        }
    }
    builder.build().unwrap_or_else(|error| {
        let span = patterns.first().map_or(0..0, toml::Spanned::span);
        reader.findings.add(span, format!("these patterns are not usable together: {error}"), "use fewer");
        Gitignore::empty()
    })
}

impl WalkRules for FilesConfig {
    fn leaves_out(&self, path: &[u8], is_folder: bool) -> bool {
        self.exclude.matched(as_path(path), is_folder).is_ignore()
    }

    fn one_file_system(&self) -> bool {
        self.one_file_system
    }

    fn opens_by_force(&self) -> bool {
        false
    }
}
