//! `init` makes the vault, this host's keys and the keyring, or what of these is missing.
//!
//! **Crash safety**: before `init` uploads anything, it seals all secrets and their wrapped form
//! into the local bundle. Uploads are `put_new`. So if `init` is cut short, run it again.
//!
//! **It believes no replica.** Beside what this host made, it copies from one replica to another
//! only objects that it knows by name, that are what they claim to be, that two replicas hold, and
//! on which all agree (`init/remote.rs`). It takes over only keys on which all agree
//! (`init/takeover.rs`). What is wrong in one replica is named and left aside. With a root, only
//! keyring objects count that somebody signed who may, or that people name by their recipients
//! (`init/accept.rs`). With owners and no root yet, none counts but this host's own.
//!
//! **It never overwrites a key.** It replaces only `hosts/<host>.json`, and keyring objects whose
//! recipients changed. It wraps this host's own object again by itself. For the object of a
//! dataset, it needs an identity that opens it.

mod accept;
mod access;
mod records;
mod remote;
mod takeover;
mod upload;

use std::collections::{BTreeMap, BTreeSet};

use age::secrecy::ExposeSecret;
use chrono::{DateTime, Utc};
use lifeboat_base::Result;
use lifeboat_base::clock::SharedClock;
use lifeboat_format::chunk_id::ChunkIdKey;
use lifeboat_format::id::Name;
use lifeboat_format::info::VaultInfo;
use lifeboat_format::keyring::DatasetSecrets;
use lifeboat_format::layout;
use lifeboat_format::root::Floors;
use lifeboat_store::SharedReplica;
use serde::Serialize;
use zeroize::Zeroizing;

use self::access::Access;
use self::remote::Remote;
use self::upload::upload;
use super::PackKeys;
use super::bundle::{Bundle, BundledDataset};
use super::crypt;
use super::local;
use super::seal::HostKey;
use super::sign::Signer;
use super::{SharedIdentity, parse_recipients};
use crate::config::Config;

/// The folder below the key directory for files that belong on the drill host.
pub const DRILL_HOST_FOLDER: &str = "drill-host";

/// What `init` is given besides the configuration.
#[derive(Default)]
pub struct InitOptions {
    /// Identities that open the keyring. They are needed on a host that takes over, and to change
    /// who may open a dataset.
    pub identities: Vec<SharedIdentity>,
    /// Recipients of keys that are taken over although nobody signed them but a revoked host, and
    /// no two stores date them from before.
    pub accepted: Vec<String>,
    /// Take a dataset over only if the configuration, or a root, says who drills it. Else a new
    /// drill identity is made, and the drill host of before opens nothing from then on.
    pub only_whole: bool,
    /// What root 1 shall say that no configuration goes below.
    pub floors: Floors,
}

/// A file that `init` made or found, or an object that it wrote.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct InitItem {
    /// Path of the file, or key of the object.
    pub what: String,
    /// Whether this run wrote it.
    pub created: bool,
    /// Where it belongs, or what to do with it, for people to read.
    pub advice: String,
}

/// What `init` did.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct InitReport {
    /// The vault's id.
    pub vault: String,
    /// The minisign public key of this host, for `trusted_signers` of readers.
    pub signer: String,
    /// The minisign public key of the drill host, for `trusted_drill_signers`. `None` if `init` did
    /// not make the drill host's keys.
    pub drill_signer: Option<String>,
    /// The drill host's recipient, if `init` made it.
    pub drill_recipient: Option<String>,
    /// What an owner has to sign before anybody believes this host. `None`: nothing.
    pub request: Option<String>,
    /// The eight words of the root in `request`.
    pub request_words: Option<String>,
    /// The local key files.
    pub files: Vec<InitItem>,
    /// The objects that were written, by key.
    pub objects: Vec<InitItem>,
    /// Why some replicas were not reached. `init` must run again for these.
    pub unreached: Vec<String>,
    /// What remains to be done, for people to read.
    pub notes: Vec<String>,
}

/// Makes the vault, or what of it is missing. It never overwrites a key, and can be run again.
///
/// # Errors
/// There is no master recipient. No replica can be reached, or two of them hold different vaults.
/// The keyring must be opened, and no given identity opens it. Or a key file cannot be written.
pub async fn init(
    config: &Config,
    replicas: &[SharedReplica],
    options: &InitOptions,
    clock: &SharedClock,
) -> Result<InitReport> {
    let access = Access::find(config, replicas, clock.now()).await?;
    access.check_floors(&options.floors)?;
    let mut remote = Remote::look(replicas, access.trust.as_deref()).await?;
    remote.check_writable()?;
    let (mut files, mut notes) = (Vec::new(), Vec::new());
    let host_key = local_host_key(config, &mut files)?;
    let known = open_bundle(config, &host_key, &mut files)?;
    access.check_keys(&config.host, &remote, known.as_ref())?;
    accept::accept(config, known.as_ref(), &mut remote, &access, &options.identities, &options.accepted);
    let vault = remote.vault_info(known.as_ref(), clock)?;
    access.check_vault(&vault.vault)?;
    let mut bundle = match known {
        Some(bundle) => bundle,
        None => new_bundle(config, &vault, &remote, options)?,
    };
    // All that can be refused comes before key files are made: a later run would find them.
    let mut found = BTreeMap::new();
    for dataset in config.datasets.iter().map(|dataset| &dataset.name) {
        if !bundle.datasets.contains_key(dataset) {
            let secrets = takeover::dataset_secrets(dataset, &vault.vault, &remote, &options.identities)?;
            found.insert(dataset, secrets);
        }
    }
    let drill_identity = config.keys.directory.join(DRILL_HOST_FOLDER).join("drill-identity");
    if options.only_whole && !access.names_drill_hosts() && !drill_identity.exists() {
        takeover::refuse_partial(&config.keys, found.iter().filter(|(_, keys)| keys.is_some()).map(|(name, _)| *name))?;
    }
    know_other_hosts(config, &mut bundle, &remote, options, &mut notes)?;
    if !access.names_drill_hosts() {
        make_drill_keys(config, &mut bundle, &mut files)?;
    }
    // Until every replica has them, also those of an earlier run.
    let mut rewrapped = bundle.unreplaced.clone();
    for dataset in config.datasets.iter().map(|dataset| &dataset.name) {
        let granted = access.granted(dataset, &bundle);
        match bundle.datasets.get(dataset) {
            None => {
                let secrets = match found.remove(dataset).flatten() {
                    Some(secrets) => {
                        if !access.names_drill_hosts() {
                            notes.push(format!(
                                "dataset {dataset} was taken over, and only the drill identity that was made here opens it: a drill host of before cannot open what is backed up from now on; to let it, add its recipient (`age-keygen -y drill-identity` there) to drill_recipients, and run `lifeboat init --identity MASTER`"
                            ));
                        }
                        // The object in the vault may be wrapped to others, so it is replaced.
                        rewrapped.insert(layout::keyring_generation(dataset, secrets.generation));
                        secrets
                    }
                    None => fresh_secrets(dataset, &vault.vault)?,
                };
                bundle.datasets.insert(dataset.clone(), wrap(secrets, &granted)?);
            }
            Some(known) if known.granted != granted && options.identities.is_empty() => notes.push(format!(
                "dataset {dataset}: master or drill recipients changed since its keyring was written; run `lifeboat init --identity MASTER` to apply that"
            )),
            Some(known) if known.granted != granted => {
                let secrets =
                    takeover::known_secrets(dataset, known, &vault.vault, &remote, &options.identities)?;
                rewrapped.insert(layout::keyring_generation(dataset, secrets.generation));
                bundle.datasets.insert(dataset.clone(), wrap(secrets, &granted)?);
            }
            Some(_) => {}
        }
    }
    let masters = access.sorted_masters();
    if bundle.masters != masters {
        let wrapped = wrap_operations(&config.host, &masters, &vault.vault, &bundle.operations()?)?;
        bundle.set_wrapped_operations(&wrapped, masters);
        rewrapped.insert(layout::host_identity(&config.host));
    }
    bundle.unreplaced = rewrapped;
    bundle.write(&config.keys.host_bundle, &host_key)?;
    let objects = upload(config, &vault, &bundle, &mut remote).await?;
    if remote.unreached.is_empty() && !bundle.unreplaced.is_empty() {
        bundle.unreplaced.clear();
        bundle.write(&config.keys.host_bundle, &host_key)?;
    }
    notes.extend(access.notes.iter().cloned().chain(remote.notes));
    let request = access.request(config, &bundle, &options.floors, (vault.created, clock.now()))?;
    let (request, request_words) = request.unzip();
    Ok(InitReport {
        vault: vault.vault,
        signer: bundle.signer()?.public().to_string(),
        drill_signer: bundle.drill_signer.clone(),
        drill_recipient: bundle.drill_recipient.clone(),
        request,
        request_words,
        files,
        objects,
        unreached: remote.unreached,
        notes,
    })
}

/// The datasets of this host whose keyring was written for others than the configuration, or the
/// root, names now. Nothing is changed.
///
/// # Errors
/// The root or the host's keys cannot be read.
pub async fn outdated_keyrings(config: &Config, replicas: &[SharedReplica], now: DateTime<Utc>) -> Result<Vec<Name>> {
    let access = Access::find(config, replicas, now).await?;
    let host_key = HostKey::parse(&config.keys.host_key.read()?)?;
    let bundle = Bundle::read(&config.keys.host_bundle, &host_key)?;
    let names = config.datasets.iter().map(|dataset| &dataset.name);
    let is_outdated =
        |name: &&Name| bundle.datasets.get(name).is_some_and(|known| known.granted != access.granted(name, &bundle));
    Ok(names.filter(is_outdated).cloned().collect())
}

fn local_host_key(config: &Config, files: &mut Vec<InitItem>) -> Result<HostKey> {
    let place = &config.keys.host_key;
    let advice = "stays on this host (mode 0600, or a systemd credential); it opens host-keys".to_owned();
    let (key, created) = local::host_key(place, &config.keys.host_bundle)?;
    files.push(InitItem { what: place.path().display().to_string(), created, advice });
    Ok(key)
}

fn open_bundle(config: &Config, host_key: &HostKey, files: &mut Vec<InitItem>) -> Result<Option<Bundle>> {
    let place = config.keys.host_bundle.path();
    let created = !place.exists();
    files.push(InitItem {
        what: place.display().to_string(),
        created,
        advice: "stays on this host, sealed under host.key; it opens manifests, but no pack".to_owned(),
    });
    if created { Ok(None) } else { Bundle::read(&config.keys.host_bundle, host_key).map(Some) }
}

fn new_bundle(config: &Config, vault: &VaultInfo, remote: &Remote<'_>, options: &InitOptions) -> Result<Bundle> {
    let found = takeover::operations_identity(&config.host, remote, &options.identities)?;
    let operations = found.unwrap_or_else(age::x25519::Identity::generate);
    Bundle::new(vault.vault.clone(), &operations, &Signer::generate()?)
}

/// Takes in the operations identities of the other hosts of datasets, so that this host reads what
/// they write. A host that was set up before them needs none: they write for it, too.
fn know_other_hosts(
    config: &Config,
    bundle: &mut Bundle,
    remote: &Remote<'_>,
    options: &InitOptions,
    notes: &mut Vec<String>,
) -> Result<()> {
    let others: BTreeSet<&Name> =
        config.datasets.iter().flat_map(|dataset| dataset.other_hosts(&config.host)).collect();
    for host in others {
        if options.identities.is_empty() || bundle.knows(host) {
            continue;
        }
        match takeover::operations_identity(host, remote, &options.identities)? {
            Some(identity) => bundle.know(host, &identity),
            None => notes.push(format!("host {host} has no keys in the vault yet: run `lifeboat init` on it, too")),
        }
    }
    Ok(())
}

/// Makes the keyring object of this host: its operations identity, encrypted to the masters.
fn wrap_operations(host: &Name, masters: &[String], vault: &str, identity: &age::x25519::Identity) -> Result<Vec<u8>> {
    let masters = parse_recipients(masters)?;
    let text = Zeroizing::new(format!(
        "# lifeboat operations key\n# vault: {vault}\n# host: {host}\n{}\n",
        identity.to_string().expose_secret()
    ));
    crypt::encrypt(masters.iter().map(|master| master.as_ref() as &dyn age::Recipient), text.as_bytes())
}

fn make_drill_keys(config: &Config, bundle: &mut Bundle, files: &mut Vec<InitItem>) -> Result<()> {
    if bundle.drill_recipient.is_some() {
        return Ok(());
    }
    let folder = config.keys.directory.join(DRILL_HOST_FOLDER);
    let made = local::drill_keys(&folder, "lifeboat init")?;
    for (place, created) in made.files {
        files.push(InitItem {
            what: place.display().to_string(),
            created,
            advice:
                "MOVE it to the drill host's key directory: as long as it is here, this host can read its own backups"
                    .to_owned(),
        });
    }
    bundle.drill_recipient = Some(made.recipient);
    bundle.drill_signer = Some(made.signer);
    Ok(())
}

fn fresh_secrets(dataset: &Name, vault: &str) -> Result<DatasetSecrets> {
    Ok(DatasetSecrets {
        vault: vault.to_owned(),
        dataset: dataset.clone(),
        generation: 1,
        identity: Zeroizing::new(age::x25519::Identity::generate().to_string().expose_secret().to_owned()),
        chunk_id_key: ChunkIdKey::new(&rand::random::<[u8; 32]>())?,
    })
}

fn wrap(secrets: DatasetSecrets, granted: &[String]) -> Result<BundledDataset> {
    let recipients = parse_recipients(granted)?;
    let wrapped = crypt::encrypt(
        recipients.iter().map(|recipient| recipient.as_ref() as &dyn age::Recipient),
        secrets.to_text().as_bytes(),
    )?;
    let (generation, keys) = (secrets.generation, PackKeys::of(secrets)?);
    let public = keys.identity.to_public();
    Ok(BundledDataset::new(generation, &public, &keys.chunk_id_key, &wrapped, granted.to_vec()))
}
