//! Keys that only a revoked host signed, and that no two stores date from before. They may be the
//! thief's. What the operator names by its recipient is taken over all the same, and nothing else:
//! whoever has restored an old snapshot knows which keys opened it. Of hosts, the root itself names
//! the recipients.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use lifeboat_format::id::Name;
use lifeboat_format::layout;

use super::access::Access;
use super::remote::Remote;
use super::takeover::{MAX_GENERATIONS_TRIED, identity_in, open_with};
use crate::config::Config;
use crate::keys::SharedIdentity;
use crate::keys::bundle::Bundle;

/// Opens the keys that this host lacks and that only revoked hosts signed, so that people can be
/// told their recipients, and takes in those whose recipient is `accepted`.
pub(super) fn accept(
    config: &Config,
    known: Option<&Bundle>,
    remote: &mut Remote<'_>,
    access: &Access,
    identities: &[SharedIdentity],
    accepted: &[String],
) {
    if identities.is_empty() {
        return;
    }
    let hosts: BTreeSet<&Name> = config.datasets.iter().flat_map(|dataset| dataset.other_hosts(&config.host)).collect();
    let mut hosts: Vec<&Name> =
        hosts.into_iter().filter(|host| !known.is_some_and(|known| known.knows(host))).collect();
    hosts.extend(known.is_none().then_some(&config.host));
    let datasets = config.datasets.iter().map(|dataset| &dataset.name);
    let datasets: Vec<&Name> =
        datasets.filter(|dataset| !known.is_some_and(|known| known.datasets.contains_key(*dataset))).collect();
    // Each object is opened once: an identity may be a token that must be touched.
    let mut opened: BTreeMap<(String, Bytes), Option<String>> = BTreeMap::new();
    let mut taken = BTreeSet::new();
    for reached in &mut remote.reached {
        let of_hosts = hosts.iter().map(|host| (layout::host_identity(host), Some(*host)));
        let mut keys: Vec<(String, Option<&Name>)> = of_hosts.collect();
        for dataset in &datasets {
            let of_dataset = |key: &String| layout::parse_keyring_generation(dataset, key);
            let mut generations: Vec<u32> = reached.revoked.iter().filter_map(of_dataset).collect();
            // The oldest: whoever invents more cannot hide what was there before him.
            generations.sort_unstable();
            let generations = generations.into_iter().take(MAX_GENERATIONS_TRIED);
            keys.extend(generations.map(|generation| (layout::keyring_generation(dataset, generation), None)));
        }
        for (key, host) in keys.into_iter().filter(|(key, _)| reached.revoked.contains(key)) {
            let Some(wrapped) = reached.unsigned.get(&key).cloned() else { continue };
            let recipient = opened.entry((key.clone(), wrapped.clone())).or_insert_with(|| {
                let identity = open_with(identities, &wrapped, &key).and_then(|text| identity_in(&text, &key));
                identity.ok().map(|identity| identity.to_public().to_string())
            });
            let Some(recipient) = recipient.clone() else { continue };
            let is_of_root = host.is_some_and(|host| access.operations_of(host).any(|known| *known == recipient));
            if is_of_root || accepted.contains(&recipient) {
                reached.unsigned.remove(&key);
                reached.objects.insert(key, wrapped);
                taken.insert(recipient);
            } else {
                reached.recipients.insert(key, recipient);
            }
        }
    }
    for recipient in accepted.iter().filter(|recipient| !taken.contains(*recipient)) {
        remote.notes.push(format!("no keys that this host lacks have the recipient {recipient}"));
    }
}
