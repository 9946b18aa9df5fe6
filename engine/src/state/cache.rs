//! Local copies of small, immutable vault objects (manifests, index segments), as ciphertext.
//!
//! Where nothing can be kept, objects are fetched again. That costs time and nothing else.
//!
//! An object enters the cache only after its signature was checked, so nobody checks it again. So
//! there is a folder for what was believed by the same signers, and the others are removed: a
//! program that still believes them writes into a folder that nobody reads. The caller fetches a
//! copy again if it is damaged or missing.

use std::collections::HashSet;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use lifeboat_base::{Error, Result};
use lifeboat_format::id::Name;

use super::{StateDirectory, UNFINISHED, create_private, replace_cheaply};

/// So many characters of a mark name a folder.
const MARK_CHARACTERS: usize = 32;

/// The cache of one dataset.
#[derive(Debug, Clone)]
pub struct ObjectCache {
    folder: PathBuf,
    /// The mark of whom it is believed by.
    trust: String,
    /// Why the first copy that was not kept was not.
    failed: Arc<OnceLock<String>>,
}

impl ObjectCache {
    /// Opens the cache of `dataset`, and creates it if necessary. If that cannot be, it stays
    /// empty. `trust` changes whenever somebody is trusted with less or more: what was believed
    /// before is then fetched and checked again.
    #[must_use]
    pub fn open(state: &StateDirectory, dataset: &Name, trust: &str) -> Self {
        let cache = Self::at(state.path(), dataset, trust);
        if !cache.folder.is_dir() {
            cache.remove_others();
            cache.note(&create_private(&cache.folder));
        }
        cache
    }

    /// The cache of `dataset` below this state directory, whether there is one or not.
    pub(crate) fn at(state: &Path, dataset: &Name, trust: &str) -> Self {
        let all = state.join("datasets").join(dataset.as_str()).join("cache");
        let folder = all.join(trust.get(..MARK_CHARACTERS).unwrap_or(trust));
        Self { folder, trust: trust.to_owned(), failed: Arc::default() }
    }

    /// Removes what was believed by others. What stays is read by nobody.
    fn remove_others(&self) {
        let all = self.folder.parent().and_then(|all| std::fs::read_dir(all).ok());
        for entry in all.into_iter().flatten().flatten().map(|entry| entry.path()) {
            let _ = if entry.is_dir() { std::fs::remove_dir_all(entry) } else { std::fs::remove_file(entry) };
        }
    }

    /// The mark of whom its objects are believed by, as it was opened with.
    pub(crate) fn trust(&self) -> &str {
        &self.trust
    }

    /// Why copies cannot be kept, if so.
    #[must_use]
    pub fn failure(&self) -> Option<&str> {
        self.failed.get().map(String::as_str)
    }

    /// Only the first failure is logged.
    pub(crate) fn note(&self, done: &Result<()>) {
        if let Err(error) = done.as_ref().map_err(Error::chain)
            && self.failed.set(error.clone()).is_ok()
        {
            tracing::warn!(%error, "cannot keep local copies; they will be fetched again");
        }
    }

    /// The copy of the object `key`, if there is one.
    #[must_use]
    pub fn get(&self, key: &str) -> Option<Vec<u8>> {
        std::fs::read(self.path(key)).ok()
    }

    /// Keeps a copy, if that is possible.
    pub fn put(&self, key: &str, object: &[u8]) {
        self.note(&replace_cheaply(&self.path(key), |file| file.write_all(object)));
    }

    /// Removes a copy.
    pub fn remove(&self, key: &str) {
        let _ = std::fs::remove_file(self.path(key));
    }

    /// The keys of all copies.
    #[must_use]
    pub fn keys(&self) -> HashSet<String> {
        self.names().map(|name| name.replace('!', "/")).collect()
    }

    /// Removes every copy for whose key `keep` returns false.
    pub fn retain(&self, keep: impl Fn(&str) -> bool) {
        for name in self.names() {
            let key = name.replace('!', "/");
            if !keep(&key) {
                self.remove(&key);
            }
        }
    }

    /// The names of all copies, and of files that a killed program has left.
    fn names(&self) -> impl Iterator<Item = String> {
        let entries = std::fs::read_dir(&self.folder).into_iter().flatten().flatten();
        let names = entries.filter_map(|entry| entry.file_name().into_string().ok());
        names.filter(|name| !name.starts_with('.') || name.starts_with(UNFINISHED))
    }

    /// Where a file lies that is no copy. Its name begins with a dot.
    pub(crate) fn beside(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// How long a copy is, in bytes.
    pub(crate) fn length(&self, key: &str) -> Option<u64> {
        Some(std::fs::metadata(self.path(key)).ok()?.len())
    }

    fn path(&self, key: &str) -> PathBuf {
        self.folder.join(key.replace('/', "!"))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn what_others_believed_is_never_read_whoever_writes_last() {
        let place = tempfile::tempdir().unwrap();
        let (state, shop) = (StateDirectory::open(place.path()).unwrap(), "shop".parse().unwrap());
        let before = ObjectCache::open(&state, &shop, "before");
        before.put("a/manifest", b"one");
        let after = ObjectCache::open(&state, &shop, "after");
        assert!(after.get("a/manifest").is_none() && after.keys().is_empty());
        // A program that was started before goes on with whom it believed.
        before.put("a/manifest", b"one");
        assert!(before.failure().is_some(), "its folder is gone");
        let late = ObjectCache::open(&state, &shop, "before");
        late.put("a/manifest", b"one");
        assert!(ObjectCache::open(&state, &shop, "after").get("a/manifest").is_none());
        // Under the same name as what programs kept that knew no folders.
        std::fs::write(place.path().join("datasets/shop/cache/x!manifest"), b"two").unwrap();
        assert!(ObjectCache::open(&state, &shop, "later").get("x/manifest").is_none());
        assert_eq!(std::fs::read_dir(place.path().join("datasets/shop/cache")).unwrap().count(), 1);
    }
}
