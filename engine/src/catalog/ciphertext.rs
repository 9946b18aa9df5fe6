//! Objects as ciphertext: packs fetched whole and checked by their name, objects copied from one
//! replica to another. Needs no key.

use bytes::Bytes;
use lifeboat_base::{Class, Context, Error, Result};
use lifeboat_format::id::{Digest, Name};
use lifeboat_format::layout;
use lifeboat_format::manifest::PackRef;
use lifeboat_store::{Replica, ReplicaErrorKind, SharedReplica};

/// The ciphertext of a pack from one replica, checked against its id. Needs no key.
pub(crate) async fn fetch_ciphertext(replica: &dyn Replica, dataset: &Name, pack: &PackRef) -> Result<Bytes> {
    let PackRef(id, size, _) = *pack;
    let ciphertext = replica.get(&layout::pack(dataset, &id)).await.map_err(|error| {
        if error.is_not_found() {
            Error::integrity(format!("replica {}: pack {id} is missing", replica.name()))
        } else {
            error.into()
        }
    })?;
    let ciphertext = tokio::task::spawn_blocking(move || (Digest::of(&ciphertext) == id).then_some(ciphertext))
        .await
        .context(Class::Failed, || "a worker thread failed")?;
    ciphertext.filter(|ciphertext| ciphertext.len() as u64 == size).ok_or_else(|| {
        Error::integrity(format!("replica {}: pack {id} does not have the content it is named for", replica.name()))
            .hint("another replica may hold it whole; remove the damaged object from this one, and the daemon copies it anew")
    })
}

/// Copies a pack from the first of `sources` that gives it whole; replaces one of another size.
/// Returns its size.
pub(crate) async fn copy_pack(
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
                    // A pack is named by its content: what has that name and another size is
                    // damaged.
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
pub(crate) async fn put_once(target: &dyn Replica, key: &str, body: Bytes) -> Result<()> {
    let Err(error) = target.put_new(key, body.clone()).await else { return Ok(()) };
    if matches!(error.kind, ReplicaErrorKind::AlreadyExists) && target.get(key).await? == body {
        return Ok(());
    }
    Err(error.into())
}
