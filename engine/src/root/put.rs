//! Writes roots into one replica.

use std::time::Duration;

use bytes::Bytes;
use lifeboat_base::{Error, Result};
use lifeboat_format::layout;
use lifeboat_format::root::MAX_ROOT_BYTES;
use lifeboat_store::{ReplicaErrorKind, SharedReplica};
use tokio::time::timeout;

use super::find::forked;
use super::shown::ShownRoots;
use super::signed::SignedRoot;
use crate::catalog::verdict::is_verdict;
use crate::keys::sign::MAX_SIGNATURE_BYTES;

/// A replica that takes longer gets the rest another time.
const LONGEST_PUT: Duration = Duration::from_secs(600);

/// Gives a replica a chain of roots and their signatures, the oldest first, and each one after its
/// signatures: a root is there only when it can be believed. Whoever calls it knows that the chain
/// is valid. Junk under their names is overwritten, a valid root never.
///
/// # Errors
/// The replica fails or is too slow, or shows another valid root in the place of one of these.
pub(super) async fn put_in_replica(chain: &[SignedRoot], replica: &SharedReplica) -> Result<()> {
    let too_slow = |_| {
        let seconds = LONGEST_PUT.as_secs();
        Error::storage(format!("replica {} has not taken the roots within {seconds} s", replica.name()))
            .hint("check that the replica is reachable")
    };
    timeout(LONGEST_PUT, put_chain(chain, replica)).await.map_err(too_slow)?
}

async fn put_chain(chain: &[SignedRoot], replica: &SharedReplica) -> Result<()> {
    let shown = ShownRoots::list(replica).await?;
    let mut before: Option<&SignedRoot> = None;
    for root in chain {
        match shown.read(root.root.version, before.map(|before| &before.root)).await {
            Ok(Some(read)) if read.is_rival_of(root, before) => {
                return Err(forked(root.root.version, Some(replica.name())));
            }
            Err(error) if !is_verdict(&error) => return Err(error),
            _ => {}
        }
        put_one(root, replica).await?;
        before = Some(root);
    }
    Ok(())
}

async fn put_one(root: &SignedRoot, replica: &SharedReplica) -> Result<()> {
    let version = root.root.version;
    let signatures = root.signatures().iter();
    let signatures =
        signatures.map(|(owner, text)| (layout::root_signature(version, owner), text.clone(), MAX_SIGNATURE_BYTES));
    for (key, text, limit) in signatures.chain([(layout::root(version), root.text.clone(), MAX_ROOT_BYTES)]) {
        let body = Bytes::from(text);
        match replica.get(&key, limit as u64).await {
            Ok(there) if there == body => {}
            Err(error) if error.is_not_found() => replica.put_new(&key, body).await?,
            Ok(_) => replica.put_replace(&key, body).await?,
            Err(error) if matches!(error.kind, ReplicaErrorKind::TooLong { .. }) => {
                replica.put_replace(&key, body).await?;
            }
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}
