//! What a bucket that keeps versions has of each key: what was there at a moment, and what is there
//! now.
//!
//! - **Then**: of the versions and delete markers of a key, the newest that the store dates at or
//!   before the moment, as in `s3/past.rs`.
//! - **Bounds**: a walk holds one page and one key. It may have sixteen times the pages and objects
//!   of a listing, as a bucket has more versions than objects, and for each such share the time of
//!   one. What the caller does between two pages takes none of it.

use chrono::{DateTime, Utc};

use crate::listing::Listing;
use crate::replica::{Replica, ReplicaError};
use crate::versions::KeptVersion;

/// More delete markers than this above one version are not remembered.
const MAX_COVERS: usize = 64;

/// One key at the moment, and now.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ThenAndNow {
    /// The object's key, relative to the vault's prefix.
    pub key: String,
    /// What was there then.
    pub then: Option<KeptVersion>,
    /// If that was uploaded in parts, and so may have come later than its date: the newest version
    /// below it that was not.
    pub whole: Option<KeptVersion>,
    /// What is there now.
    pub now: Option<KeptVersion>,
    /// The newest version that is no delete marker.
    pub newest: Option<KeptVersion>,
    /// The delete markers above `then`, if nothing else is above it.
    pub covers: Option<Vec<String>>,
    /// Whether the moment has been reached.
    is_decided: bool,
}

impl ThenAndNow {
    fn of(key: &str) -> Self {
        Self { key: key.to_owned(), covers: Some(Vec::new()), ..Self::default() }
    }

    /// Takes [`whole`](Self::whole) for what was there then.
    pub fn take_whole(&mut self) {
        (self.then, self.covers) = (self.whole.take(), None);
    }

    /// Whether the same is there now as then.
    #[must_use]
    pub fn is_as_then(&self) -> bool {
        let both = self.then.as_ref().zip(self.now.as_ref());
        both.is_some_and(|(then, now)| now.id == then.id || now.is_same_content(then))
    }

    /// Takes in the next older version.
    fn take(&mut self, version: KeptVersion, moment: DateTime<Utc>) {
        let content = (!version.is_marker()).then(|| version.clone());
        if version.is_latest {
            self.now.clone_from(&content);
        }
        if self.newest.is_none() {
            self.newest.clone_from(&content);
        }
        if self.is_decided {
            if self.whole.is_none() && self.then.as_ref().is_some_and(KeptVersion::is_in_parts) {
                self.whole = content.filter(|version| !version.is_in_parts());
            }
            return;
        }
        if version.modified <= moment {
            self.is_decided = true;
            self.then = content;
        } else if content.is_some() {
            self.covers = None;
        } else if let Some(covers) = &mut self.covers {
            covers.push(version.id);
            if covers.len() > MAX_COVERS {
                self.covers = None;
            }
        }
    }
}

/// Walks through all keys of a replica.
pub struct VersionWalk {
    listing: Listing,
    moment: DateTime<Utc>,
    /// The key whose versions may go on with the next page.
    open: Option<ThenAndNow>,
}

impl VersionWalk {
    /// Will walk through the keys that begin with `prefix`.
    #[must_use]
    pub fn new(prefix: &str, moment: DateTime<Utc>) -> Self {
        Self { listing: Listing::of_versions(prefix), moment, open: None }
    }

    /// Counts a key that the caller keeps.
    ///
    /// # Errors
    /// What is kept takes too much memory.
    pub fn admit(&mut self, replica: &dyn Replica, key: &ThenAndNow) -> Result<(), ReplicaError> {
        let versions = [&key.then, &key.whole, &key.now, &key.newest].into_iter().flatten();
        let ids = versions.map(|version| version.id.as_str()).chain(key.covers.iter().flatten().map(String::as_str));
        let admitted = std::iter::once(key.key.as_str()).chain(ids).try_for_each(|text| self.listing.admit_name(text));
        admitted.map_err(|why| replica.bad_listing(&self.listing, why))
    }

    /// Some more keys, in order; `None` after the last.
    ///
    /// # Errors
    /// The replica fails, keeps no versions, or exceeds the budget of a listing.
    pub async fn next(&mut self, replica: &dyn Replica) -> Result<Option<Vec<ThenAndNow>>, ReplicaError> {
        let Some(token) = self.listing.take_token() else {
            return Ok(self.open.take().map(|last| vec![last]));
        };
        self.listing.go_on();
        let waiting = self.listing.waiting.clone();
        let page = waiting.count(replica.versions_page(self.listing.prefix(), token.as_deref())).await?;
        let admitted = self.listing.admit_page(page.versions.len(), page.next);
        admitted.map_err(|why| replica.bad_listing(&self.listing, why))?;
        let mut whole = Vec::new();
        for version in page.versions {
            if self.open.as_ref().is_none_or(|open| open.key != version.key) {
                whole.extend(self.open.replace(ThenAndNow::of(&version.key)));
            }
            if let Some(open) = &mut self.open {
                open.take(version, self.moment);
            }
        }
        self.listing.pause();
        Ok(Some(whole))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;
    use crate::versions::VersionKind;

    fn walked(versions: &[(&str, i64, bool)]) -> ThenAndNow {
        let mut key = ThenAndNow::of("k");
        for (at, (id, seconds, is_marker)) in versions.iter().enumerate() {
            let kind = if *is_marker {
                VersionKind::DeleteMarker
            } else {
                VersionKind::Content { size: 1, tag: (*id).to_owned() }
            };
            let modified = DateTime::from_timestamp(*seconds, 0).unwrap();
            let version = KeptVersion { key: "k".to_owned(), id: (*id).to_owned(), kind, modified, is_latest: at == 0 };
            key.take(version, DateTime::from_timestamp(10, 0).unwrap());
        }
        key
    }

    #[test]
    fn below_what_was_uploaded_in_parts_the_whole_version_is_known() {
        let whole = |versions: &[(&str, i64, bool)]| walked(versions).whole.map(|version| version.id);
        let two = [("\"ab-2\"", 9, false), ("m", 8, true), ("\"cd-1\"", 7, false), ("a", 6, false), ("b", 5, false)];
        assert_eq!(whole(&two), Some("a".to_owned()));
        assert_eq!((whole(&two[3..]), whole(&[("x-", 9, false), ("a", 8, false)])), (None, None));
    }

    #[test]
    fn a_key_is_told_as_it_was_and_as_it_is() {
        let id = |version: &Option<KeptVersion>| version.as_ref().map(|version| version.id.clone()).unwrap_or_default();
        for (versions, then, now, newest, covers) in [
            (vec![("a", 9, false)], "a", "a", "a", Some(vec![])),
            (vec![("m", 12, true), ("l", 11, true), ("a", 10, false)], "a", "", "a", Some(vec!["m", "l"])),
            (vec![("m", 12, true), ("b", 11, false), ("a", 9, false)], "a", "", "b", None),
            (vec![("b", 11, false), ("m", 9, true), ("a", 8, false)], "", "b", "b", None),
            (vec![("m", 12, true), ("b", 11, false)], "", "", "b", None),
        ] {
            let key = walked(&versions);
            let covers = covers.map(|all| all.into_iter().map(str::to_owned).collect::<Vec<_>>());
            let told = (id(&key.then), id(&key.now), id(&key.newest), key.covers.clone());
            assert_eq!(told, (then.to_owned(), now.to_owned(), newest.to_owned(), covers), "{versions:?}");
        }
    }
}
