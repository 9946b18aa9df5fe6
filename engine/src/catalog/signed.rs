//! Fetches and makes signed objects: each one beside its signature for exactly its vault and key.

use age::Recipient;
use bytes::Bytes;
use chrono::{DateTime, TimeDelta, Utc};
use lifeboat_base::{Class, Context, Error, Result};
use lifeboat_format::id::SnapshotId;
use lifeboat_format::layout;
use lifeboat_store::{Replica, ReplicaError};

use crate::config::Dataset;
use crate::keys::HostKeys;
use crate::keys::crypt;
use crate::keys::sign::{MAX_SIGNATURE_BYTES, Signer};
use crate::keys::trust::{Trust, revoked};

/// Fetches an object of at most `limit` bytes, and its signature. Nothing is checked yet.
pub(crate) async fn fetch_pair(replica: &dyn Replica, key: &str, limit: u64) -> Result<(Bytes, Bytes), ReplicaError> {
    let signature_key = layout::signature(key);
    tokio::try_join!(replica.get(key, limit), replica.get(&signature_key, MAX_SIGNATURE_BYTES as u64))
}

/// Checks that a trusted signer signed the object for this key.
pub(super) async fn check_pair(
    fetched: Result<(Bytes, Bytes), ReplicaError>,
    replica: &dyn Replica,
    key: &str,
    vault: &str,
    trust: &Trust,
) -> Result<(Bytes, Bytes)> {
    let (object, signature) = fetched.map_err(|error| {
        let missing = error.is_not_found();
        let error = Error::from(error);
        if missing { Error::integrity(error.message()) } else { error }
    })?;
    believe(trust, replica, vault, key, (&object, &signature), &layout::signature(key))
        .await
        .map_err(|error| error.within(format!("replica {}: {key} cannot be trusted", replica.name())))?;
    Ok((object, signature))
}

/// Checks that somebody signed an object who may, and may still have when `replica` stored
/// `holder`, which holds the signature.
pub(crate) async fn believe(
    trust: &Trust,
    replica: &dyn Replica,
    vault: &str,
    key: &str,
    (object, signature): (&[u8], &[u8]),
    holder: &str,
) -> Result<()> {
    let before = trust.judge(vault, key, object, signature)?.before;
    let name = key.rsplit('/').next().and_then(|name| name.split('.').next());
    let named = name.and_then(|name| name.parse().ok()).map(|id: SnapshotId| id.time());
    check_claim(named, before)?;
    if before.is_some_and(|until| trust.was_seen_before(key, object, until)) {
        return Ok(());
    }
    check_time(replica, holder, before).await
}

/// Checks that an object of a signer who was revoked does not itself tell a later time. A false
/// date of a store does not hide what is signed.
pub(crate) fn check_claim(claimed: Option<DateTime<Utc>>, before: Option<DateTime<Utc>>) -> Result<()> {
    match before {
        Some(until) if claimed.is_some_and(|claimed| claimed >= until) => {
            Err(revoked(until, "it tells a later time itself"))
        }
        _ => Ok(()),
    }
}

/// Checks that `replica` has stored the object `holder`, which holds a signature, before the time
/// at which its signer was revoked.
pub(crate) async fn check_time(replica: &dyn Replica, holder: &str, before: Option<DateTime<Utc>>) -> Result<()> {
    let Some(until) = before else { return Ok(()) };
    // Whoever holds the key says what he likes of the time. A store sets it by its own clock; in a
    // directory, anybody can.
    let stored = replica.head(holder).await?.map(|found| found.modified);
    if replica.clock_offset(TimeDelta::MAX).is_none() {
        return Err(revoked(until, "this replica cannot tell when it was stored"));
    }
    match stored {
        Some(stored) if stored < until => Ok(()),
        _ => Err(revoked(until, "it was stored after that")),
    }
}

/// Fetches an object of at most `limit` bytes. Checks that a trusted signer signed it for this key.
pub(crate) async fn fetch_signed(
    replica: &dyn Replica,
    key: &str,
    limit: u64,
    vault: &str,
    trust: &Trust,
) -> Result<Bytes> {
    Ok(fetch_signed_pair(replica, key, limit, vault, trust).await?.0)
}

/// As [`fetch_signed`], with the signature that was checked.
pub(crate) async fn fetch_signed_pair(
    replica: &dyn Replica,
    key: &str,
    limit: u64,
    vault: &str,
    trust: &Trust,
) -> Result<(Bytes, Bytes)> {
    check_pair(fetch_pair(replica, key, limit).await, replica, key, vault, trust).await
}

/// An object and its signature, ready for upload.
#[derive(Clone)]
pub(crate) struct SignedObject {
    pub key: String,
    pub object: Bytes,
    pub signature: Bytes,
}

/// Signs an object as it is.
pub(crate) fn sign_plain(key: String, object: Vec<u8>, vault: &str, signer: &Signer) -> Result<SignedObject> {
    let signature = signer.sign(&object, &layout::trusted_comment(vault, &key))?;
    Ok(SignedObject { key, object: object.into(), signature: signature.into() })
}

/// Encrypts a document to everybody who reads documents of `dataset`, and signs it.
pub(crate) fn sign_encrypted(
    key: String,
    plaintext: &[u8],
    dataset: &Dataset,
    keys: &HostKeys,
) -> Result<SignedObject> {
    let mut readers = vec![keys.operations.to_public(), keys.dataset(&dataset.name)?.recipient.clone()];
    let others = keys.others.iter().filter(|(host, _)| dataset.hosts.contains(host));
    readers.extend(others.map(|(_, identity)| identity.to_public()));
    let sealed = crypt::encrypt(readers.iter().map(|reader| reader as &dyn Recipient), plaintext)
        .context(Class::Keys, || format!("cannot encrypt {key}"))?;
    sign_plain(key, sealed, &keys.vault, &keys.signer)
}
