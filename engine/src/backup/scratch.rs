//! The directory for temporary files of a run. Sources that need none do without it, so a directory
//! that cannot be made is no error by itself. Where it is why a source fails, the error says so.

use std::path::{Path, PathBuf};

use lifeboat_base::{Error, Result, disk};
use lifeboat_format::id::Name;

use crate::state::StateDirectory;

/// It, or why it could not be made.
pub(super) struct RunScratch {
    path: PathBuf,
    state: PathBuf,
    made: Result<()>,
}

impl RunScratch {
    /// Makes it anew for a run of `dataset`.
    pub(super) fn make(state: &StateDirectory, dataset: &Name) -> Self {
        let made = state.scratch(dataset).map(drop);
        if let Err(error) = &made {
            tracing::warn!(error = %error.chain(), "there is no directory for temporary files");
        }
        Self { path: state.scratch_path(dataset), state: state.path().to_owned(), made }
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// The error of a source, or of the state directory if that is why the source failed.
    pub(super) fn explained(self, error: Error) -> Error {
        match self.made {
            Err(why) if error.chain().contains(&*self.path.to_string_lossy()) && !is_full(&why) => {
                let state = self.state.display();
                Error::storage(format!("the state directory {state} cannot be written, and the source needs it"))
                    .because(why)
                    .hint(format!("make state_directory ({state}) writable for Lifeboat's user"))
            }
            _ => error,
        }
    }
}

/// A disk without room has its own errors and hints.
fn is_full(why: &Error) -> bool {
    disk::tells_of_full_disk(&why.chain())
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn a_source_that_cannot_write_its_temporary_file_says_that_the_state_directory_is_why() {
        let place = tempfile::tempdir().unwrap();
        let (state, shop) = (StateDirectory::open(&place.path().join("state")).unwrap(), "shop".parse().unwrap());
        let lost = |scratch: &RunScratch| {
            Error::source_failed(format!("cannot write {}: no such file", scratch.path().join("copy").display()))
        };
        let made = RunScratch::make(&state, &shop);
        assert!(made.path().is_dir());
        let error = lost(&made);
        assert!(made.explained(error).message().starts_with("cannot write "), "the directory was made");

        std::fs::remove_dir_all(state.path().join("datasets")).unwrap();
        std::fs::write(state.path().join("datasets"), "").unwrap();
        let refused = RunScratch::make(&state, &shop);
        let elsewhere = refused.explained(Error::source_failed("the server does not answer"));
        assert_eq!(elsewhere.message(), "the server does not answer");
        let refused = RunScratch::make(&state, &shop);
        let error = lost(&refused);
        let explained = refused.explained(error);
        assert!(explained.message().contains("/state cannot be written"), "{explained:?}");
        assert!(explained.hint_text().unwrap().starts_with("make state_directory ("), "{explained:?}");
    }
}
