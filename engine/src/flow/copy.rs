//! Copies ciphertext from one replica to another. Needs no key.

use bytes::Bytes;

use super::pack_fetch::fetch_ciphertext;
use crate::error::{Error, Result};
use crate::id::Name;
use crate::replica::{Replica, ReplicaErrorKind, SharedReplica};
use crate::vault::layout;
use crate::vault::manifest::PackRef;

/// Copies a pack from the first of `sources` that gives it whole; replaces one of another size. Returns its size.
pub(super) async fn copy_pack(
    dataset: &Name,
    pack: &PackRef,
    sources: &[&SharedReplica],
    target: &dyn Replica,
) -> Result<u64> {
    let mut last = Error::integrity(format!("no replica holds pack {} whole", pack.0));
    for source in sources {
        match fetch_ciphertext(source.as_ref(), dataset, pack).await {
            Ok(ciphertext) => {
                let key = layout::pack(dataset, &pack.0);
                if target.head(&key).await?.is_some() {
                    // A pack is named by its content: what has that name and another size is damaged.
                    target.delete(&key).await?;
                }
                target.put_new(&key, ciphertext).await?;
                return Ok(pack.1);
            }
            Err(error) => last = error,
        }
    }
    Err(last)
}

/// Puts an object that may already be there, unchanged.
pub(super) async fn put_once(target: &dyn Replica, key: &str, body: Bytes) -> Result<()> {
    let Err(error) = target.put_new(key, body.clone()).await else { return Ok(()) };
    if matches!(error.kind, ReplicaErrorKind::AlreadyExists) && target.get(key).await? == body {
        return Ok(());
    }
    Err(error.into())
}
