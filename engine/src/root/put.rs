//! Writes a root into one replica.

use bytes::Bytes;
use lifeboat_base::Result;
use lifeboat_format::layout;
use lifeboat_format::root::MAX_ROOT_BYTES;
use lifeboat_store::{ReplicaErrorKind, SharedReplica};

use super::signed::SignedRoot;
use crate::keys::sign::MAX_SIGNATURE_BYTES;

/// Gives a replica the root and its signatures, the signatures first: a root is there only when it
/// can be believed. Whoever calls it knows that the root is valid.
///
/// # Errors
/// The replica fails, or shows another root of this version.
pub(super) async fn put_in_replica(root: &SignedRoot, replica: &SharedReplica) -> Result<()> {
    let version = root.root.version;
    let signatures = root.signatures().iter();
    let signatures =
        signatures.map(|(owner, text)| (layout::root_signature(version, owner), text.clone(), MAX_SIGNATURE_BYTES));
    for (key, text, limit) in signatures.chain([(layout::root(version), root.text.clone(), MAX_ROOT_BYTES)]) {
        let body = Bytes::from(text);
        match replica.get(&key, limit as u64).await {
            Ok(there) if there == body => {}
            Err(error) if error.is_not_found() => replica.put_new(&key, body).await?,
            // What is there is no valid root, or a root would have been found.
            Ok(_) => replica.put_replace(&key, body).await?,
            Err(error) if matches!(error.kind, ReplicaErrorKind::TooLong { .. }) => {
                replica.put_replace(&key, body).await?;
            }
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}
