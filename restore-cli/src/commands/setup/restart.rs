//! Whether the daemon has to be started anew: a restart stops a running backup, so it is only done
//! when the configuration or a key has changed since the last one, by whomever. A file remembers
//! when that was, so that a set-up which was killed before the restart, and runs again, knows it
//! still.

use std::fs::File;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;

use lifeboat_engine::base::Context;
use lifeboat_engine::{Class, Result};

use super::place::Installation;

/// As old as what the daemon knows.
const KNOWN: &str = ".daemon-knows";
/// As old as what it will know after a start that is under way.
const BEGUN: &str = ".daemon-knows.new";

/// A start of the daemon.
#[derive(Debug)]
pub(super) struct Restart<'a> {
    at: &'a Installation,
}

impl<'a> Restart<'a> {
    /// Begins a start: what changes from now on, the daemon may not know after it.
    ///
    /// # Errors
    /// The disk fails.
    pub(super) fn begin(at: &'a Installation) -> Result<Self> {
        let place = at.keys.join(BEGUN);
        let made = match std::fs::remove_file(&place) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error),
            _ => File::create_new(&place).map(drop),
        };
        made.context(Class::Storage, || format!("cannot write {}", place.display()))?;
        Ok(Self { at })
    }

    /// Whether a running daemon lacks something: what cannot be looked at counts as changed.
    pub(super) fn is_needed(&self) -> bool {
        // Its content tells when it was made: its name changed later.
        let known = std::fs::symlink_metadata(self.at.keys.join(KNOWN));
        let Ok(known) = known.map(|known| (known.mtime(), known.mtime_nsec())) else { return true };
        // A change of content, name or rights; nobody sets this time.
        let is_known = |file: &PathBuf| {
            std::fs::symlink_metadata(file).is_ok_and(|file| (file.ctime(), file.ctime_nsec()) < known)
        };
        !self.files().is_some_and(|files| files.iter().all(is_known))
    }

    /// What the daemon is handed. `None`: nobody can tell.
    fn files(&self) -> Option<Vec<PathBuf>> {
        let mut files = vec![self.at.config.clone()];
        for folder in [&self.at.keys, &self.at.credentials()] {
            for entry in std::fs::read_dir(folder).ok()? {
                let entry = entry.ok()?;
                let is_own = entry.file_name().to_str().is_some_and(|name| [KNOWN, BEGUN].contains(&name));
                if entry.file_type().ok()?.is_file() && !is_own {
                    files.push(entry.path());
                }
            }
        }
        Some(files)
    }

    /// The daemon knows everything that was there when the start began.
    ///
    /// # Errors
    /// The disk fails.
    pub(super) fn done(self) -> Result<()> {
        let (from, to) = (self.at.keys.join(BEGUN), self.at.keys.join(KNOWN));
        std::fs::rename(from, &to).context(Class::Storage, || format!("cannot write {}", to.display()))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use std::path::Path;
    use std::time::Duration;

    use super::super::place::Part;
    use super::*;

    #[test]
    fn whatever_changed_asks_for_a_restart_and_a_killed_set_up_forgets_nothing() {
        let place = tempfile::tempdir().unwrap();
        let at = Installation::own(&place.path().join("lifeboat.toml"), Part::Backup);
        at.make_folders().unwrap();
        let near = at.credentials().join("near");
        // The kernel's clock of files goes on in steps of some milliseconds.
        let pause = || std::thread::sleep(Duration::from_millis(30));
        let write = |file: &Path, text: &str| {
            std::fs::write(file, text).unwrap();
            pause();
        };
        let is_needed = || Restart::begin(&at).unwrap().is_needed();
        let done = || {
            Restart::begin(&at).unwrap().done().unwrap();
            pause();
        };
        write(&at.config, "a");
        write(&near, "one");
        assert!(is_needed() && is_needed(), "what was not restarted yet is remembered");
        done();
        assert!(!is_needed());
        write(&near, "two");
        assert!(is_needed(), "keys that somebody exchanged by hand");
        done();
        write(&at.keys.join("signer"), "new");
        assert!(is_needed());
        done();
        let under_way = Restart::begin(&at).unwrap();
        pause();
        write(&at.config, "b");
        under_way.done().unwrap();
        assert!(is_needed(), "it changed during the start");
        done();
        assert!(!is_needed());
    }
}
