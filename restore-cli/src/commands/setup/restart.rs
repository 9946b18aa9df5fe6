//! Whether the daemon has to be started anew: a restart stops a running backup, so it is only done
//! for keys or a configuration that changed. A file remembers that, so that a set-up which was
//! killed before the restart, and runs again, knows it still.

use std::path::PathBuf;

use lifeboat_engine::base::Context;
use lifeboat_engine::{Class, Result};

use super::place::Installation;

const MARKER: &str = ".restart-needed";

/// The file that is there while the daemon has to be restarted.
#[derive(Debug)]
pub(super) struct Restart(PathBuf);

impl Restart {
    pub(super) fn of(at: &Installation) -> Self {
        Self(at.keys.join(MARKER))
    }

    /// Remembers that something is changed now, which the daemon does not know.
    ///
    /// # Errors
    /// The disk fails.
    pub(super) fn need(&self) -> Result<()> {
        let made = std::fs::File::create(&self.0).and_then(|file| file.sync_all());
        made.context(Class::Storage, || format!("cannot write {}", self.0.display()))
    }

    pub(super) fn is_needed(&self) -> bool {
        self.0.exists()
    }

    /// The daemon knows everything.
    ///
    /// # Errors
    /// The disk fails.
    pub(super) fn done(&self) -> Result<()> {
        match std::fs::remove_file(&self.0) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                Err(error).context(Class::Storage, || format!("cannot remove {}", self.0.display()))
            }
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::super::place::Part;
    use super::super::store_keys::stage;
    use super::*;

    #[test]
    fn only_what_changed_asks_for_a_restart_and_a_killed_set_up_forgets_nothing() {
        let place = tempfile::tempdir().unwrap();
        let at = Installation::own(&place.path().join("lifeboat.toml"), Part::Backup);
        at.make_folders().unwrap();
        let name = "near".parse().unwrap();
        let put = |text: &[u8]| {
            let restart = Restart::of(&at);
            stage(&at, text).unwrap().put(&name, &at, || restart.need()).unwrap();
            Restart::of(&at).is_needed()
        };
        assert!(put(b"one") && put(b"one"), "what was not restarted yet is remembered");
        Restart::of(&at).done().unwrap();
        assert!(!put(b"one"));
        assert!(put(b"two"));
        assert_eq!(std::fs::read(at.credentials().join("near")).unwrap(), b"two");
        Restart::of(&at).done().unwrap();
        Restart::of(&at).done().unwrap();
    }
}
