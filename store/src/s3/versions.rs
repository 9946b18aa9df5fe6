//! The old versions that a bucket keeps: lists them, reads one, and brings one back to the top.

use aws_sdk_s3::operation::list_object_versions::ListObjectVersionsOutput;
use url::form_urlencoded;

use super::{MAX_TOKEN_BYTES, S3Replica, errors, to_chrono};
use crate::key;
use crate::replica::{ReplicaError, ReplicaErrorKind};
use crate::versions::{KeptVersion, VersionKind, VersionsPage};

/// Where a listing goes on.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Mark {
    pub(super) key: String,
    pub(super) version: String,
    /// Whether the pages before have decided about `key`: what comes of it next is older.
    pub(super) is_decided: bool,
}

impl S3Replica {
    /// One page of versions and where the next one begins, for keys below the vault's prefix. Those
    /// of one key are together, the newest first.
    pub(super) async fn versions(
        &self,
        prefix: &str,
        from: &Mark,
    ) -> Result<(Vec<KeptVersion>, Option<Mark>), ReplicaErrorKind> {
        let root = key::below(&self.vault_prefix, "");
        let marker = |text: &String| Some(text.clone()).filter(|text| !text.is_empty());
        let page = self
            .client
            .list_object_versions()
            .bucket(&self.bucket)
            .prefix(format!("{root}{prefix}"))
            .set_key_marker(marker(&from.key).map(|key| format!("{root}{key}")))
            .set_version_id_marker(marker(&from.version))
            .send()
            .await
            .map_err(|error| errors::classify(&error))?;
        let next = next_mark(&page, &root)?;
        Ok((in_order(page, &root)?, next))
    }

    /// The versions of legal keys.
    pub(super) async fn page_of_versions(
        &self,
        prefix: &str,
        next: Option<&str>,
    ) -> Result<VersionsPage, ReplicaErrorKind> {
        let from = next.map(Mark::parse).transpose()?.unwrap_or_default();
        let (mut versions, next) = self.versions(prefix, &from).await?;
        versions.retain(|version| key::check(&version.key).is_ok());
        Ok(VersionsPage { versions, next: next.map(|mark| mark.to_token()).transpose()? })
    }

    /// Removes one delete marker.
    pub(super) async fn remove_marker(&self, key: &str, marker: &str) -> Result<(), ReplicaError> {
        self.with_key("remove a delete marker of", key, async |full| {
            let delete = self.client.delete_object().bucket(&self.bucket).key(full).version_id(marker);
            match delete.send().await.map_err(|error| errors::classify(&error)) {
                Ok(_) | Err(ReplicaErrorKind::NotFound) => Ok(()),
                Err(kind) => Err(kind),
            }
        })
        .await
    }

    /// Copies an old version to the top, within the store.
    pub(super) async fn copy_up(&self, key: &str, version: &str) -> Result<(), ReplicaError> {
        let storage_class = self.storage_class.clone().filter(|_| key.contains("/packs/"));
        let lock = self.lock_of(key);
        self.with_key("bring back", key, async |full| {
            let id: String = form_urlencoded::byte_serialize(version.as_bytes()).collect();
            let copied = self
                .client
                .copy_object()
                .copy_source(format!("{}/{full}?versionId={id}", self.bucket))
                .bucket(&self.bucket)
                .key(full)
                .set_storage_class(storage_class)
                .set_object_lock_mode(lock.as_ref().map(|(mode, _)| mode.clone()))
                .set_object_lock_retain_until_date(lock.map(|(_, until)| until))
                .send()
                .await
                .map_err(|error| errors::classify(&error))?;
            match copied.copy_object_result {
                Some(_) => Ok(()),
                None => Err(ReplicaErrorKind::Unavailable("the store does not say whether it was copied".to_owned())),
            }
        })
        .await
    }
}

/// Versions and markers of a page: by key, the newest first. The store's order between the two
/// kinds is lost, so within a second the current one comes first, then a version: what it holds is
/// checked wherever it is read.
fn in_order(page: ListObjectVersionsOutput, root: &str) -> Result<Vec<KeptVersion>, ReplicaErrorKind> {
    let lacks = |what: &str| ReplicaErrorKind::BadListing(format!("a version has no {what}"));
    let time = |time: Option<_>| time.and_then(to_chrono).ok_or_else(|| lacks("time"));
    let below = |key: Option<String>| {
        let key = key.ok_or_else(|| lacks("key"))?;
        Ok(key.strip_prefix(root).unwrap_or_default().to_owned())
    };
    let mut all = Vec::new();
    for version in page.versions.unwrap_or_default() {
        let size = version.size.and_then(|size| u64::try_from(size).ok()).ok_or_else(|| lacks("size"))?;
        all.push(KeptVersion {
            key: below(version.key)?,
            id: version.version_id.ok_or_else(|| lacks("id"))?,
            kind: VersionKind::Content { size, tag: version.e_tag.unwrap_or_default() },
            modified: time(version.last_modified)?,
            is_latest: version.is_latest.unwrap_or_default(),
        });
    }
    for marker in page.delete_markers.unwrap_or_default() {
        all.push(KeptVersion {
            key: below(marker.key)?,
            id: marker.version_id.ok_or_else(|| lacks("id"))?,
            kind: VersionKind::DeleteMarker,
            modified: time(marker.last_modified)?,
            is_latest: marker.is_latest.unwrap_or_default(),
        });
    }
    let rank = |version: &KeptVersion| (version.modified, version.is_latest, !version.is_marker());
    all.sort_by(|a, b| a.key.cmp(&b.key).then(rank(b).cmp(&rank(a))));
    Ok(all)
}

fn next_mark(page: &ListObjectVersionsOutput, root: &str) -> Result<Option<Mark>, ReplicaErrorKind> {
    if !page.is_truncated.unwrap_or_default() {
        return Ok(None);
    }
    let bad = || ReplicaErrorKind::BadListing("it goes on, but the store does not say how".to_owned());
    let key = page.next_key_marker.as_deref().and_then(|key| key.strip_prefix(root));
    let key = key.filter(|key| !key.is_empty()).ok_or_else(bad)?.to_owned();
    Ok(Some(Mark { key, version: page.next_version_id_marker.clone().unwrap_or_default(), is_decided: false }))
}

impl Mark {
    /// Lengths, then texts: markers are whatever the store says.
    pub(super) fn to_token(&self) -> Result<String, ReplicaErrorKind> {
        let Self { key, version, is_decided } = self;
        let token = format!("{}:{}:{key}{version}", u8::from(*is_decided), key.len());
        if token.len() > MAX_TOKEN_BYTES {
            return Err(ReplicaErrorKind::BadListing("its token is too long".to_owned()));
        }
        Ok(token)
    }

    pub(super) fn parse(token: &str) -> Result<Self, ReplicaErrorKind> {
        let parse = || {
            let (is_decided, rest) = token.split_once(':')?;
            let (length, rest) = rest.split_once(':')?;
            let (key, version) = rest.split_at_checked(length.parse().ok()?)?;
            Some(Self { key: key.to_owned(), version: version.to_owned(), is_decided: is_decided == "1" })
        };
        parse().ok_or_else(|| ReplicaErrorKind::Other("this is no token of this listing".to_owned()))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn a_mark_survives_as_a_token_whatever_its_texts_are() {
        for (key, version, is_decided) in [("a/b", "null", true), ("3:4:", ":", false), ("é", "", true)] {
            let mark = Mark { key: key.to_owned(), version: version.to_owned(), is_decided };
            assert_eq!(Mark::parse(&mark.to_token().unwrap()).unwrap(), mark);
        }
        let long = Mark { key: "k".repeat(MAX_TOKEN_BYTES), ..Mark::default() };
        assert!(matches!(long.to_token(), Err(ReplicaErrorKind::BadListing(_))));
        for bad in ["", "1", "1:1", "1:9:ab", "1:x:ab", "1:1:é"] {
            assert!(Mark::parse(bad).is_err(), "{bad}");
        }
    }
}
