//! Local copies of small, immutable vault objects (manifests, index segments), as ciphertext.
//!
//! An object enters the cache only after its signature was checked, so nobody checks it again. The
//! caller fetches a copy again if it is damaged or missing.

use std::path::PathBuf;

use lifeboat_base::Result;
use lifeboat_format::id::Name;

use super::{StateDirectory, create_private, replace_file};

/// The cache of one dataset.
#[derive(Debug, Clone)]
pub struct ObjectCache {
    folder: PathBuf,
}

impl ObjectCache {
    /// Opens the cache of `dataset`, and creates it if necessary.
    ///
    /// # Errors
    /// [`Class::Storage`](lifeboat_base::Class::Storage) if its directory cannot be created.
    pub fn open(state: &StateDirectory, dataset: &Name) -> Result<Self> {
        let folder = state.dataset(dataset)?.join("cache");
        create_private(&folder)?;
        Ok(Self { folder })
    }

    /// The copy of the object `key`, if there is one.
    #[must_use]
    pub fn get(&self, key: &str) -> Option<Vec<u8>> {
        std::fs::read(self.path(key)).ok()
    }

    /// Keeps a copy. A failure is only logged, since it costs time later and nothing else.
    pub fn put(&self, key: &str, object: &[u8]) {
        if let Err(error) = replace_file(&self.path(key), object) {
            tracing::warn!(error = %error.chain(), "cannot keep a local copy; it will be fetched again");
        }
    }

    /// Removes a copy.
    pub fn remove(&self, key: &str) {
        let _ = std::fs::remove_file(self.path(key));
    }

    /// The keys of all copies.
    #[must_use]
    pub fn keys(&self) -> std::collections::BTreeSet<String> {
        let entries = std::fs::read_dir(&self.folder).into_iter().flatten().flatten();
        entries.filter_map(|entry| entry.file_name().into_string().ok()).map(|name| name.replace('!', "/")).collect()
    }

    /// Removes every copy for whose key `keep` returns false.
    pub fn retain(&self, keep: impl Fn(&str) -> bool) {
        let entries = std::fs::read_dir(&self.folder).into_iter().flatten().flatten();
        for name in entries.filter_map(|entry| entry.file_name().into_string().ok()) {
            let key = name.replace('!', "/");
            if !keep(&key) {
                self.remove(&key);
            }
        }
    }

    fn path(&self, key: &str) -> PathBuf {
        self.folder.join(key.replace('/', "!"))
    }
}
