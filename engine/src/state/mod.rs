//! The state directory: caches, journals, locks. All of it can be lost; the next run rebuilds it.

use std::path::{Path, PathBuf};

use crate::error::Result;
use crate::id::Name;

/// The state directory, created 0700.
#[derive(Debug, Clone)]
pub struct StateDirectory {
    root: PathBuf,
}

/// Held while somebody works; released on drop, also by a crash.
#[derive(Debug)]
pub struct Lock {
    _file: std::fs::File,
}

impl StateDirectory {
    /// Opens or creates it.
    ///
    /// # Errors
    /// It cannot be created or is accessible to others.
    pub fn open(root: &Path) -> Result<Self> {
        todo!("{root:?}")
    }

    /// Its path.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.root
    }

    /// The lock of the one daemon that may use this directory.
    ///
    /// # Errors
    /// Another process holds it.
    pub fn lock_daemon(&self) -> Result<Lock> {
        todo!()
    }

    /// The lock of the one run that may work on a dataset. Waits for nothing.
    ///
    /// # Errors
    /// Another run holds it.
    pub fn lock_dataset(&self, dataset: &Name) -> Result<Lock> {
        todo!("{dataset}")
    }

    /// A private, empty directory for a run's temporary files.
    ///
    /// # Errors
    /// It cannot be emptied or created.
    pub fn scratch(&self, dataset: &Name) -> Result<PathBuf> {
        todo!("{dataset}")
    }
}
