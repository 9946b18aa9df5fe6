//! Handles objects as ciphertext, without any key. It fetches whole packs, checks them against the
//! hash that names them, and copies objects from one replica to another.

use bytes::Bytes;
use lifeboat_base::{Class, Context, Error, Result};
use lifeboat_format::id::{Digest, Name};
use lifeboat_format::layout;
use lifeboat_format::manifest::PackRef;
use lifeboat_format::pack::MAX_PACK_BYTES;
use lifeboat_store::{Replica, ReplicaError, ReplicaErrorKind, SharedReplica};

/// Fetches a pack from one replica and checks size and hash of its ciphertext.
pub(crate) async fn fetch_ciphertext(replica: &dyn Replica, dataset: &Name, pack: &PackRef) -> Result<Bytes> {
    let PackRef { id, size, .. } = *pack;
    let damaged = || {
        Error::integrity(format!("replica {}: the content of pack {id} does not match its name", replica.name())).hint(
            "remove the damaged object from this replica; the daemon then copies a whole one from another replica",
        )
    };
    let limit = size.min(MAX_PACK_BYTES);
    let ciphertext = replica.get(&layout::pack(dataset, &id), limit).await.map_err(|error| match error.kind {
        ReplicaErrorKind::NotFound => Error::integrity(format!("replica {}: pack {id} is missing", replica.name())),
        ReplicaErrorKind::TooLong { .. } => damaged().because(error),
        _ => error.into(),
    })?;
    let ciphertext = tokio::task::spawn_blocking(move || (Digest::of(&ciphertext) == id).then_some(ciphertext))
        .await
        .context(Class::Failed, || "the thread that hashes a pack failed")?;
    ciphertext.filter(|ciphertext| ciphertext.len() as u64 == size).ok_or_else(damaged)
}

/// Copies a pack from the first of `sources` that has it whole. Returns its size in bytes.
///
/// The caller knows that `target` does not list the pack with the right size.
pub(crate) async fn copy_pack(
    dataset: &Name,
    pack: &PackRef,
    sources: &[&SharedReplica],
    target: &dyn Replica,
) -> Result<u64> {
    let mut last = Error::integrity(format!("no other replica holds pack {} whole", pack.id));
    for source in sources {
        match fetch_ciphertext(source.as_ref(), dataset, pack).await {
            Ok(ciphertext) => {
                let key = layout::pack(dataset, &pack.id);
                if target.head(&key).await?.is_some() {
                    // Its size is wrong, and a pack is named by its content: so it is damaged.
                    target.delete(&key).await?;
                }
                target.put_new(&key, ciphertext).await?;
                return Ok(pack.size);
            }
            Err(error) => last = error,
        }
    }
    Err(last)
}

/// Puts an object. Succeeds, too, if `target` already has the same bytes under this key.
pub(crate) async fn put_once(target: &dyn Replica, key: &str, body: Bytes) -> Result<()> {
    let Err(error) = target.put_new(key, body.clone()).await else { return Ok(()) };
    if matches!(error.kind, ReplicaErrorKind::AlreadyExists) {
        match target.get(key, body.len() as u64).await {
            Ok(found) if found == body => return Ok(()),
            Ok(_) | Err(ReplicaError { kind: ReplicaErrorKind::TooLong { .. }, .. }) => {}
            Err(failed) => return Err(failed.into()),
        }
    }
    Err(error.into())
}
