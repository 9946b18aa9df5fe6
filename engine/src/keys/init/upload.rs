//! Writes into the replicas what `init` made, and what they lack of each other.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use lifeboat_base::{Class, Context, Result};
use lifeboat_format::info::{HostInfo, VaultInfo};
use lifeboat_format::layout;

use super::InitItem;
use super::remote::Remote;
use crate::config::Config;
use crate::keys::bundle::Bundle;
use crate::keys::sign::verify;

/// Uploads to every reached replica what the bundle or another replica holds and it lacks.
pub(super) async fn upload(
    config: &Config,
    vault: &VaultInfo,
    bundle: &Bundle,
    remote: &mut Remote<'_>,
) -> Result<Vec<InitItem>> {
    let json = |value: serde_json::Result<Vec<u8>>| {
        value.map(Bytes::from).context(Class::Failed, || "cannot serialise an object")
    };
    let mut own = BTreeMap::new();
    own.insert(layout::VAULT.to_owned(), json(serde_json::to_vec_pretty(vault))?);
    own.insert(layout::host_identity(&config.host), bundle.wrapped_operations()?);
    for (dataset, keys) in &bundle.datasets {
        own.insert(layout::keyring_generation(dataset, keys.generation), keys.wrapped(dataset)?);
    }
    let host = HostInfo {
        host: config.host.clone(),
        operations_recipient: bundle.operations()?.to_public().to_string(),
        signer: bundle.signer()?.public().to_string(),
    };
    let host_key = layout::host(&config.host);
    own.insert(host_key.clone(), json(serde_json::to_vec_pretty(&host))?);
    // No two signatures are the same, and replicas shall be.
    let mut signatures: BTreeMap<&String, Bytes> = BTreeMap::new();
    let signer = bundle.signer()?;
    let signed: Vec<String> = own.keys().filter(|key| key.starts_with(layout::KEYRING)).cloned().collect();
    let mut agreed = remote.agreed(&own);
    // What this host has made itself counts more than what the replicas hold.
    agreed.retain(|key, _| !own.contains_key(key));

    let (mut written, mut notes): (BTreeMap<String, Vec<&str>>, _) = (BTreeMap::new(), Vec::new());
    for reached in &remote.reached {
        let replica = reached.replica;
        let copied = if reached.has_room_for(own.keys().chain(agreed.keys())) {
            Some(&agreed)
        } else {
            notes.push(format!("replica {}: it holds too many keys and hosts to copy those of others", replica.name()));
            None
        };
        let mut put = BTreeSet::new();
        // vault.json comes first, because all other objects belong to the vault that it names.
        let (first, others): (Vec<_>, Vec<_>) = own.iter().partition(|(key, _)| *key == layout::VAULT);
        for (key, body) in first.into_iter().chain(others).chain(copied.into_iter().flatten()) {
            // Where keyring objects must be signed, what nobody signed is no key.
            let is_junk = own.contains_key(key) && reached.unsigned.get(key).is_some_and(|there| there != body);
            let replace = bundle.unreplaced.contains(key) || *key == host_key || is_junk;
            match reached.objects.get(key) {
                _ if reached.has(key) && !replace => continue,
                Some(there) if there == body => continue,
                None if !reached.has(key) => replica.put_new(key, body.clone()).await?,
                _ => replica.put_replace(key, body.clone()).await?,
            }
            put.insert(key);
            written.entry(key.clone()).or_default().push(replica.name().as_str());
        }
        for key in &signed {
            let there = reached.objects.get(key).or(reached.unsigned.get(key));
            let lies = if put.contains(key) { own.get(key) } else { there };
            // What is there may be another wrapping of the same keys, by another host.
            let Some(body) = own.get(key).filter(|body| lies == Some(body)) else { continue };
            let comment = layout::trusted_comment(&vault.vault, key);
            let is_good = |signature: &&Bytes| verify(&[signer.public()], body, signature, &comment).is_ok();
            if reached.signatures.get(key).filter(is_good).is_some() {
                continue;
            }
            let text = match signatures.get(key) {
                Some(text) => text,
                None => {
                    let found = remote.reached.iter().filter_map(|other| other.signatures.get(key)).find(is_good);
                    let made = || signer.sign(body, &comment).map(Bytes::from);
                    signatures.entry(key).or_insert(found.cloned().map_or_else(made, Ok)?)
                }
            };
            let (at, text) = (layout::signature(key), text.clone());
            replica.put_replace(&at, text).await?;
            written.entry(at).or_default().push(replica.name().as_str());
        }
        for (key, body) in copied.into_iter().flatten().filter(|(key, _)| put.contains(key)) {
            if let Some(signature) = remote.signature_of(key, body) {
                replica.put_replace(&layout::signature(key), signature.clone()).await?;
            }
        }
    }
    let item = |(key, places): (String, Vec<&str>)| InitItem {
        what: key,
        created: true,
        advice: format!("in {}", places.join(", ")),
    };
    let written = written.into_iter().map(item).collect();
    remote.notes.extend(notes);
    Ok(written)
}
