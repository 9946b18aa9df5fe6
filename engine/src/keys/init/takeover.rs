//! Opens keyring objects for `init`, and decides which of them it believes.
//!
//! Without a root, nothing tells who signed a keyring object, and whoever knows the masters' public
//! keys can wrap keys of his own to them. So keys are **taken over** only if the newest that can be
//! opened are the same in every replica that answers and holds the vault. Damaged objects are left
//! aside; where there is nothing else, keys are lost, and none are made in their place. To **wrap
//! known keys again**, only those count that this host already uses.

use std::collections::BTreeMap;

use age::x25519::Identity;
use bytes::Bytes;
use lifeboat_base::{Error, Result};
use lifeboat_format::id::Name;
use lifeboat_format::keyring::{self, DatasetSecrets, MAX_KEYRING_OBJECT_BYTES};
use lifeboat_format::layout;
use zeroize::Zeroizing;

use super::remote::{Reached, Remote};
use crate::config::KeysConfig;
use crate::keys::bundle::BundledDataset;
use crate::keys::{SharedIdentity, crypt};

/// So many generations of one dataset are tried in each replica, from the newest. Anybody can name
/// more, and each may ask the operator to touch a key.
pub(super) const MAX_GENERATIONS_TRIED: usize = 16;

/// The keys of a dataset that the replicas hold; `None` if they hold none.
pub(super) fn dataset_secrets(
    dataset: &Name,
    vault: &str,
    remote: &Remote<'_>,
    identities: &[SharedIdentity],
) -> Result<Option<DatasetSecrets>> {
    let newest_first = |reached: &Reached<'_>| -> Vec<(String, u32)> {
        let of_dataset = |key: &String| layout::parse_keyring_generation(dataset, key);
        let mut generations: Vec<u32> = reached.objects.keys().filter_map(of_dataset).collect();
        if generations.is_empty() {
            generations.extend(reached.recipients.keys().filter_map(of_dataset));
        }
        if generations.is_empty() {
            generations.extend(reached.damaged.iter().chain(reached.unsigned.keys()).find_map(of_dataset));
        }
        generations.sort_unstable_by(|one, other| other.cmp(one));
        let tried = generations.into_iter().take(MAX_GENERATIONS_TRIED);
        tried.map(|generation| (layout::keyring_generation(dataset, generation), generation)).collect()
    };
    take_over(&format!("dataset {dataset}"), remote, identities, newest_first, |text, generation, _| {
        let secrets = DatasetSecrets::parse(text, vault, dataset, generation)?;
        Ok((secrets.to_text(), secrets))
    })
}

/// The operations identity of a host that the replicas hold; `None` if they hold none.
pub(super) fn operations_identity(
    host: &Name,
    remote: &Remote<'_>,
    identities: &[SharedIdentity],
) -> Result<Option<Identity>> {
    let only = |reached: &Reached<'_>| {
        let key = layout::host_identity(host);
        if reached.has(&key) { vec![(key, ())] } else { Vec::new() }
    };
    take_over(&format!("host {host}"), remote, identities, only, |text, (), key| {
        let identity = identity_in(text, key)?;
        Ok((Zeroizing::new(identity.to_public().to_string()), identity))
    })
}

/// The keys of a dataset that this host knows, whole: from its own wrapped copy, or else from a
/// replica.
pub(super) fn known_secrets(
    dataset: &Name,
    known: &BundledDataset,
    vault: &str,
    remote: &Remote<'_>,
    identities: &[SharedIdentity],
) -> Result<DatasetSecrets> {
    let (generation, key) = (known.generation, layout::keyring_generation(dataset, known.generation));
    let open = |wrapped: &[u8]| {
        let text = open_with(identities, wrapped, &key)?;
        let secrets = DatasetSecrets::parse(&text, vault, dataset, generation)?;
        if known.are(&secrets) {
            return Ok(secrets);
        }
        Err(Error::integrity(format!("{key} holds other keys than this host uses")))
    };
    let error = match known.wrapped(dataset).and_then(|wrapped| open(&wrapped)) {
        Ok(secrets) => return Ok(secrets),
        Err(error) => error,
    };
    for (replica, wrapped) in remote.get(&key) {
        match open(wrapped) {
            Ok(secrets) => return Ok(secrets),
            Err(error) => tracing::warn!(%replica, error = %error.chain(), "Leaving aside a keyring object"),
        }
    }
    Err(error)
}

/// What one or more replicas hold as their newest.
struct KeysHeld<'a, T> {
    key: String,
    /// The same for the same keys.
    same: Zeroizing<String>,
    value: T,
    holders: Vec<&'a str>,
}

/// Opens in each replica the first object of `keys_of` that can be opened and that `read` accepts.
/// They must be the same in all replicas that hold the vault. A replica for which `keys_of` names
/// only damaged objects does not count, unless there are no keys elsewhere: then this fails. `read`
/// also returns what tells the same from others.
fn take_over<G: Copy, T>(
    what: &str,
    remote: &Remote<'_>,
    identities: &[SharedIdentity],
    keys_of: impl Fn(&Reached<'_>) -> Vec<(String, G)>,
    read: impl Fn(&[u8], G, &str) -> Result<(Zeroizing<String>, T)>,
) -> Result<Option<T>> {
    let (mut held, mut first): (Vec<KeysHeld<'_, T>>, Option<Error>) = (Vec::new(), None);
    // Why those speak against it that hold the vault and no such keys.
    let mut against = Vec::new();
    // Where there is nothing but damage.
    let (mut damaged, mut are_revoked): (Vec<String>, bool) = (Vec::new(), false);
    // Each object is opened once: an identity may be a token that must be touched.
    let mut tried: BTreeMap<(String, &Bytes), Option<usize>> = BTreeMap::new();
    for reached in remote.witnesses() {
        let (replica, keys) = (reached.replica.name(), keys_of(reached));
        let mut found = None;
        for (key, generation) in &keys {
            let Some(wrapped) = reached.objects.get(key) else { continue };
            found = *tried.entry((key.clone(), wrapped)).or_insert_with(|| {
                match open_with(identities, wrapped, key).and_then(|text| read(&text, *generation, key)) {
                    Ok((same, value)) => Some(held.iter().position(|known| known.same == same).unwrap_or_else(|| {
                        held.push(KeysHeld { key: key.clone(), same, value, holders: Vec::new() });
                        held.len() - 1
                    })),
                    Err(error) => {
                        tracing::warn!(%replica, error = %error.chain(), "Leaving aside a keyring object");
                        first.get_or_insert(error.within(format!("replica {replica}")));
                        None
                    }
                }
            });
            if found.is_some() {
                break;
            }
        }
        match found {
            Some(at) => held[at].holders.push(replica.as_str()),
            None if keys.iter().any(|(key, _)| reached.objects.contains_key(key)) => {
                against.push(format!("{replica} holds others, which no given identity opens"));
            }
            None if keys.is_empty() && reached.holds_the_vault() => {
                against.push(format!("{replica} holds the vault, and none of these keys"));
            }
            None => damaged.extend(keys.iter().map(|(key, _)| {
                let why = match (reached.revoked.contains(key), reached.unsigned.contains_key(key)) {
                    (true, _) => match reached.recipients.get(key) {
                        Some(recipient) => format!(" (recipient {recipient}; the host that signed it was revoked)"),
                        None => " (the host that signed it was revoked)".to_owned(),
                    },
                    (_, true) => " (nobody signed it who may)".to_owned(),
                    _ => String::new(),
                };
                are_revoked |= reached.revoked.contains(key);
                format!("{key} in {replica}{why}")
            })),
        }
    }
    let find_out = "find out with `lifeboat restore --replica` which one opens the backups";
    if let [one, other, ..] = &held[..] {
        let each = held.iter().map(|held| format!("{} in {}", held.key, held.holders.join(" and in ")));
        return Err(Error::integrity(format!(
            "{what} has different keys in {} and in {}: {}",
            one.holders[0],
            other.holders[0],
            each.collect::<Vec<_>>().join(", ")
        ))
        .hint(format!("{find_out}; delete the other object, and run `lifeboat init` again")));
    }
    match (held.pop(), first) {
        (None, Some(error)) => Err(error),
        (None, None) if are_revoked => Err(Error::keys(format!("{what} has keys, but none that counts: {}", damaged.join(", ")))
            .because("two replicas must date them from before the revocation, and these do not")
            .hint("run it with --identity MASTER, which tells their recipients; find out which keys open an old snapshot, and name their recipient with --accept-keys: see \"A machine is stolen\" in OPERATIONS.md")),
        (None, None) if !damaged.is_empty() => {
            Err(Error::integrity(format!("{what} has keys, but they are damaged: {}", damaged.join(", "))).hint(
                "put a good copy back, such as an older version of the object, and run `lifeboat init` again; new keys open no backup that is there: delete the object only if there is none to lose",
            ))
        }
        (Some(held), _) if !against.is_empty() => Err(Error::integrity(format!(
            "{what} has keys in {} ({}), but {}",
            held.holders.join(" and in "),
            held.key,
            against.join(", and ")
        ))
        .hint(format!("{find_out}, copy it to the others, and run `lifeboat init` again; if it opens none, somebody put it there: delete it"))),
        (found, _) => Ok(found.map(|held| held.value)),
    }
}

/// Refuses to take datasets over from a host that this configuration does not know whole.
///
/// # Errors
/// [`Class::Keys`](lifeboat_base::Class::Keys): there is such a dataset.
pub(super) fn refuse_partial<'n>(keys: &KeysConfig, mut taken_over: impl Iterator<Item = &'n Name>) -> Result<()> {
    let Some(dataset) = taken_over.next() else { return Ok(()) };
    let mut lacking = vec!["drill_recipients and trusted_drill_signers of its drill host"];
    if keys.trusted_signers.is_empty() {
        lacking.push("trusted_signers with the signer of the host before");
    }
    Err(Error::keys(format!(
        "dataset {dataset} is in the vault already, and the configuration does not say who drills it; it lacks {}",
        lacking.join(", and ")
    ))
    .because("a drill identity that is made now would take the place of the one before, which then opens nothing new")
    .hint("add them, as \"Backup host lost\" in OPERATIONS.md says, and run the same command again; or pass --new-drill-host if there is no drill host"))
}

/// The identity that a keyring object holds.
pub(super) fn identity_in(text: &[u8], key: &str) -> Result<Identity> {
    let line = std::str::from_utf8(text).ok().and_then(|text| text.lines().find_map(|line| line.parse().ok()));
    line.ok_or_else(|| Error::integrity(format!("{key} is damaged")))
}

pub(super) fn open_with(identities: &[SharedIdentity], wrapped: &[u8], key: &str) -> Result<Zeroizing<Vec<u8>>> {
    if identities.is_empty() {
        return Err(Error::keys(format!("the vault already holds {key}, and this host cannot open it"))
            .hint("run `lifeboat init --identity MASTER` if this is the same host or dataset; else choose another name for it"));
    }
    keyring::check_size(wrapped, key)?;
    let identities = identities.iter().map(|identity| identity.as_ref() as &dyn age::Identity);
    crypt::decrypt(identities, wrapped, MAX_KEYRING_OBJECT_BYTES)
        .map(Zeroizing::new)
        .map_err(|error| error.within(format!("cannot open {key}")).hint("pass the identity of a master recipient"))
}
