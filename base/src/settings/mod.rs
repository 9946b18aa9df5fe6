//! How every section of the configuration is read: findings, paths, secrets and units.
//!
//! There is one configuration file, but its sections belong to several crates: each engine parses
//! the `[dataset.source]` table of its own kind. They all use a [`SettingsReader`], so that a
//! refusal looks the same everywhere: file, line, and what to write instead.

mod findings;
mod section;
pub mod shape;
pub mod units;

use std::ops::Range;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use toml::Spanned;

pub use self::findings::{Findings, explain};
pub use self::section::Section;
use crate::secret::SecretRef;

/// The folder of secrets that are handed over together, in the key directory. systemd names each
/// `credentials_NAME`.
pub const CREDENTIALS: &str = "credentials";

/// A text and where it stands in the file.
pub type Text = Spanned<String>;

/// What a program knows from its environment, and the library must not look up itself.
#[derive(Debug, Clone, Default)]
pub struct Surroundings {
    /// `$CREDENTIALS_DIRECTORY`.
    pub credentials_directory: Option<PathBuf>,
}

/// Validates the values of one file and collects what is wrong with them.
pub struct SettingsReader<'a> {
    /// What is wrong so far.
    pub findings: Findings<'a>,
    surroundings: &'a Surroundings,
    key_directory: PathBuf,
}

impl<'a> SettingsReader<'a> {
    /// A reader for the file at `path`, whose text is `text`.
    #[must_use]
    pub fn new(path: &'a Path, text: &'a str, surroundings: &'a Surroundings, key_directory: PathBuf) -> Self {
        Self { findings: Findings::new(path, text), surroundings, key_directory }
    }

    /// From now on `credential:NAME` is looked for in `directory` where systemd hands nothing over.
    pub fn look_for_keys_in(&mut self, directory: PathBuf) {
        self.key_directory = directory;
    }

    /// Refuses those of `keys` that are present: they belong to another kind.
    pub fn foreign<const N: usize>(&mut self, kind: &str, keys: [(&str, Option<Range<usize>>); N]) {
        for (key, span) in keys {
            if let Some(span) = span {
                self.findings.add(
                    span,
                    format!("`{key}` does not belong to kind = \"{kind}\""),
                    "remove it, or correct the kind",
                );
            }
        }
    }

    /// A value that must be present. If it is missing, a finding at `place` says so.
    pub fn required<'t, T>(&mut self, value: Option<&'t T>, key: &str, place: &Range<usize>) -> Option<&'t T> {
        if value.is_none() {
            self.findings.add(place.clone(), format!("`{key}` is missing"), "");
        }
        value
    }

    /// A text that must not be empty; an empty one becomes a finding.
    pub fn filled(&mut self, text: &Text) -> Option<String> {
        if text.get_ref().trim().is_empty() {
            self.findings.add(text.span(), "this must not be empty", "");
            return None;
        }
        Some(text.get_ref().clone())
    }

    /// An absolute path; a relative one becomes a finding.
    pub fn path(&mut self, text: &Text) -> PathBuf {
        let path = PathBuf::from(text.get_ref());
        if !path.is_absolute() {
            self.findings.add(text.span(), format!("`{}` is not an absolute path", text.get_ref()), "begin it with /");
        }
        path
    }

    /// A path, or the `default`.
    pub fn path_or(&mut self, text: Option<&Text>, default: &str) -> PathBuf {
        text.map_or_else(|| PathBuf::from(default), |text| self.path(text))
    }

    /// Where a secret is that others made: `credential:NAME`, or the absolute path of a 0600 file.
    /// One that is nowhere belongs into the folder of credentials.
    pub fn secret(&mut self, text: &Text) -> SecretRef {
        let folder = self.key_directory.join(CREDENTIALS);
        self.resolve(text.get_ref(), text.span(), &folder)
    }

    /// Where a key of this program is, or its `default` place. One that is nowhere belongs into the
    /// key directory.
    pub fn key_or(&mut self, text: Option<&Text>, default: &str) -> SecretRef {
        let folder = self.key_directory.clone();
        match text {
            Some(text) => self.resolve(text.get_ref(), text.span(), &folder),
            None => self.resolve(default, 0..0, &folder),
        }
    }

    fn resolve(&mut self, text: &str, span: Range<usize>, belongs: &Path) -> SecretRef {
        let secret = match text.strip_prefix("credential:") {
            Some(name) if !name.is_empty() && !name.contains('/') && !name.starts_with('.') => {
                // systemd puts those of a directory beside the others, with its name before theirs.
                let of_directory = format!("{CREDENTIALS}_{name}");
                let folder = self.surroundings.credentials_directory.as_ref();
                let mut handed = folder.into_iter().flat_map(|folder| [folder.join(name), folder.join(&of_directory)]);
                let own = [self.key_directory.join(CREDENTIALS), self.key_directory.clone()];
                let mut own = own.into_iter().map(|folder| folder.join(name));
                match handed.find(|path| path.exists()) {
                    Some(path) => SecretRef::handed_over(path),
                    None => SecretRef::file(own.find(|path| path.exists()).unwrap_or_else(|| belongs.join(name))),
                }
            }
            None if Path::new(text).is_absolute() => SecretRef::file(text),
            _ => {
                let problem = "this names no secret";
                self.findings.add(span.clone(), problem, "use \"credential:NAME\" or the absolute path of a 0600 file");
                SecretRef::file(text)
            }
        };
        if let Err(error) = secret.check_mode() {
            self.findings.add_elsewhere(error.message(), error.hint_text().unwrap_or_default());
        }
        secret
    }

    /// A value with a unit, read by `parse`; an error of `parse` becomes a finding.
    pub fn unit<T>(&mut self, text: Option<&Text>, parse: fn(&str) -> Result<T, String>) -> Option<T> {
        let text = text?;
        match parse(text.get_ref()) {
            Ok(value) => Some(value),
            Err(problem) => {
                self.findings.add(text.span(), problem, "");
                None
            }
        }
    }

    /// A value that its type parses. `wanted` says in a finding what it should be.
    pub fn parsed<T: FromStr>(&mut self, text: Option<&Text>, default: &str, wanted: &str) -> Option<T> {
        let value = text.map_or(default, |text| text.get_ref().as_str());
        let parsed = value.parse().ok();
        if parsed.is_none() {
            let span = text.map_or(0..0, Spanned::span);
            self.findings.add(span, format!("`{value}` is not {wanted}"), "");
        }
        parsed
    }
}
