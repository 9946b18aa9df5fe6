//! Tries each replica before anything is written: whether the store answers, takes the keys, has
//! the bucket, and holds no other vault; and how its endpoint wants to be addressed.

use std::path::Path;

use lifeboat_engine::config::{Config, ReplicaConfig, ReplicaKind, S3Credentials, Surroundings};
use lifeboat_engine::format::info::{MAX_VAULT_INFO_BYTES, VaultInfo};
use lifeboat_engine::format::layout;
use lifeboat_engine::store::{ReplicaError, ReplicaErrorKind};
use lifeboat_engine::{Class, Error, Result, store};

use super::config_text;
use super::place::Installation;
use super::replica_place::{PlaceKind, ReplicaPlace};
use super::store_keys::{StoreKeys, keys_form};
use crate::session::Session;
use crate::shell::quoted;

/// A replica that was tried.
pub(super) struct TriedStore {
    pub(super) place: ReplicaPlace,
    pub(super) path_style: bool,
    /// `None`: it is a directory.
    pub(super) keys: Option<StoreKeys>,
}

impl TriedStore {
    /// Whether the configuration names a file of keys.
    pub(super) fn has_keys(&self) -> bool {
        self.keys.as_ref().is_some_and(|keys| keys.file().is_some())
    }
}

/// Tries a place. `text` writes the configuration that would name it; `vault` is the vault that may
/// be there.
///
/// # Errors
/// The store does not answer, refuses the keys, lacks the bucket, or holds another vault.
pub(super) async fn try_store(
    place: ReplicaPlace,
    keys: Option<StoreKeys>,
    vault: &str,
    (at, text): (&Installation, impl Fn(&ReplicaPlace, bool, bool) -> String),
    session: &Session,
) -> Result<TriedStore> {
    if let PlaceKind::Directory(path) = &place.kind
        && !Path::new(path).exists()
    {
        // It is made when the set-up was agreed to, and nothing above it: its disk may not be
        // mounted.
        let refused = |what: String, hint: &str| {
            Err(Error::storage(format!("{what}, of replica {}, is not there", place.name)).hint(hint))
        };
        if config_text::names_directory(&at.config, path) {
            return refused(
                format!("the directory {path}"),
                "mount its disk, or make the directory if the replica may begin anew; then run the same command again",
            );
        }
        if !Path::new(path).parent().is_some_and(Path::is_dir) {
            return refused(
                format!("the folder of {path}"),
                "mount its disk, or make the folder; then run the same command again",
            );
        }
        return Ok(TriedStore { place, path_style: false, keys });
    }
    if let PlaceKind::Bucket { ca_file: Some(file), .. } = &place.kind
        && let Err(error) = at.may_read(Path::new(file))
    {
        let user = at.user_name();
        return Err(Error::configuration(format!(
            "the user {user} cannot read {file}, the ca_file of replica {}",
            place.name
        ))
        .because(error)
        .hint(format!(
            "correct its place; or run `chmod 644 {}`, as no authority is secret, and let {user} enter its folders",
            quoted(file)
        )));
    }
    let has_keys = keys.as_ref().is_some_and(|keys| keys.file().is_some());
    let mut first = None;
    for path_style in styles(&place.kind) {
        let text = text(&place, path_style, has_keys);
        let parsed = Config::parse(&text, &at.config, &Surroundings::default())?;
        let Some(mut replica) = parsed.replicas.into_iter().find(|replica| replica.name == place.name) else {
            return Err(Error::failed("a configuration lacks the replica that it was made of"));
        };
        if let (ReplicaKind::S3(s3), Some(file)) = (&mut replica.kind, keys.as_ref().and_then(StoreKeys::file)) {
            s3.credentials = S3Credentials::File(file);
        }
        let tried = try_one(&replica, &parsed.vault_prefix, vault, at, session);
        match session.cancellable("trying a store", tried).await {
            Ok(()) => return Ok(TriedStore { place, path_style, keys }),
            Err(error) if session.cancel.is_cancelled() || error.class() == Class::Configuration => {
                return Err(error);
            }
            Err(error) => first = first.or(Some(error)),
        }
    }
    let error = first.unwrap_or_else(|| Error::failed("no store was tried"));
    let has_hint = error.hint_text().is_some();
    let error = error.within(format!("replica {} ({}) cannot be used; nothing was changed", place.name, place.shown()));
    Err(if has_hint { error } else { error.hint("correct the place or the keys, and run the same command again") })
}

/// The way in which a store other than AWS is most often addressed comes first.
fn styles(kind: &PlaceKind) -> Vec<bool> {
    match kind {
        PlaceKind::Bucket { path_style: Some(style), .. } => vec![*style],
        PlaceKind::Bucket { endpoint: Some(_), .. } => vec![true, false],
        _ => vec![false],
    }
}

async fn try_one(
    config: &ReplicaConfig,
    prefix: &str,
    vault: &str,
    at: &Installation,
    session: &Session,
) -> Result<()> {
    let explained = |error| explained(error, at);
    let replica = store::open(config, prefix, &session.clock).await?;
    replica.probe(false).await.map_err(explained)?;
    let found = match replica.get(layout::VAULT, MAX_VAULT_INFO_BYTES as u64).await {
        Ok(data) => VaultInfo::parse(&data, &config.name)?.vault,
        Err(error) if error.is_not_found() => return Ok(()),
        Err(error) => return Err(explained(error)),
    };
    if found == vault {
        return Ok(());
    }
    Err(Error::configuration(format!(
        "replica {} holds vault {found} already, and the root is of vault {vault}",
        config.name
    ))
    .hint("name another bucket, or a folder of its own in this one with --vault-prefix"))
}

/// With what to do where there is no configuration yet.
fn explained(error: ReplicaError, at: &Installation) -> Error {
    let hint = match error.kind {
        ReplicaErrorKind::Denied(_) => format!(
            "give keys that this store accepts, and that may list, read and write: --store-keys {}, or leave it out to be asked",
            keys_form(&error.replica, at.part)
        ),
        ReplicaErrorKind::Misconfigured(_) => {
            "correct bucket, region, endpoint or ca_file of this replica, or make the bucket; then run the same command"
                .to_owned()
        }
        _ => "check the endpoint, and the network to it; then run the same command again".to_owned(),
    };
    Error::from(error).hint(hint)
}
