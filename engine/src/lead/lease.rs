//! The lease of a run: written when it begins, renewed while it lasts. The commit ends it, or else
//! its time. A replica that does not take it is no reason to stop.

use std::convert::Infallible;
use std::time::Duration;

use bytes::Bytes;
use chrono::TimeDelta;
use lifeboat_base::Result;
use lifeboat_format::act;
use lifeboat_format::layout;
use lifeboat_format::lease::{Lease, MAX_LEASE_BYTES};
use lifeboat_format::requirements::Requirements;
use lifeboat_store::SharedReplica;

use super::Lead;

/// How long a lease says that its host works.
const TERM: Duration = Duration::from_secs(5 * 60);
/// How often it is renewed.
const RENEWAL: Duration = Duration::from_secs(60);

/// See [`TERM`].
pub(super) fn term() -> TimeDelta {
    TimeDelta::from_std(TERM).unwrap_or_default()
}

/// The lease that a replica holds, if it can be believed.
pub(super) async fn read(lead: &Lead<'_>, replica: &SharedReplica) -> Option<Lease> {
    let key = layout::lease(&lead.dataset.name);
    let stored = replica.get(&key, MAX_LEASE_BYTES as u64).await.ok()?;
    let (line, signature) = act::split(&stored)?;
    let what = format!("replica {}: {key}", replica.name());
    let believed = lead
        .keys
        .trust
        .verify(&lead.keys.vault, &key, line, signature)
        .and_then(|_| Lease::of_line(line, &lead.keys.vault, &lead.dataset.name, &what));
    believed.inspect_err(|error| tracing::warn!(error = %error.chain(), "Passing over a lease")).ok()
}

/// Keeps the lease of this host, for as long as it is polled.
pub async fn keep(lead: &Lead<'_>) -> Infallible {
    loop {
        if let Err(error) = renew(lead).await {
            tracing::warn!(dataset = %lead.dataset.name, error = %error.chain(), "The lease was not renewed; deputies may begin");
        }
        tokio::time::sleep(RENEWAL).await;
    }
}

async fn renew(lead: &Lead<'_>) -> Result<()> {
    let (vault, dataset, now) = (&lead.keys.vault, &lead.dataset.name, lead.clock.now());
    let lease = Lease {
        requires: Requirements::default(),
        vault: vault.clone(),
        dataset: dataset.clone(),
        principal: lead.config.host.clone(),
        time: now,
        until: now + term(),
    };
    let (key, mut stored) = (layout::lease(dataset), lease.to_line()?);
    let signature = lead.keys.signer.sign(&stored, &layout::trusted_comment(vault, &key))?;
    stored.extend_from_slice(signature.as_bytes());
    let stored = Bytes::from(stored);
    // One that is slow lets no lease end in the others.
    let puts = lead.places().map(async |replica| {
        let put = tokio::time::timeout(RENEWAL, replica.put_replace(&key, stored.clone())).await;
        (
            replica.name(),
            put.map_or_else(|_| Some("no answer in time".to_owned()), |put| put.err().map(|e| e.to_string())),
        )
    });
    for (replica, failed) in futures::future::join_all(puts).await {
        if let Some(why) = failed {
            tracing::warn!(%replica, "A replica did not take the lease: {why}");
        }
    }
    Ok(())
}
