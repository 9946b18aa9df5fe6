//! `setup --root`: a backup host, from its keys and the owner's root to a daemon that backs up.
//!
//! Order: choose what to back up, find the store's keys, try the stores; show the configuration and
//! ask; write keys and configuration; make roles; install the root; `init`; `check`; start the
//! unit; back up each dataset; have the unit start at boot.

use std::fmt;
use std::path::{Path, PathBuf};

use lifeboat_engine::format::id::Name;
use lifeboat_engine::format::root::Root;
use lifeboat_engine::root::{self, SignedRoot};
use lifeboat_engine::{Error, Result, keys};
use serde::Serialize;

use super::believe::RootFlags;
use super::config_text::{self, Change, ConfigText, Lose};
use super::place::{Installation, Part};
use super::replica_place::{PlaceKind, ReplicaPlace};
use super::restart::Restart;
use super::sources::{ChosenSource, SourceFlags};
use super::steps::{CLI, DAEMON, Steps};
use super::store_keys::{KeysFrom, StoreKeys};
use super::stores::{TriedStore, try_store};
use crate::flags::ReplicaWord;
use crate::session::Session;

/// Steps after the configuration was agreed to, beside one for each dataset.
const STEPS: usize = 6;

/// The flags of a backup host's set-up.
#[derive(Debug, Clone, Default, clap::Args)]
pub(super) struct VaultFlags {
    #[command(flatten)]
    believed: RootFlags,
    /// A new replica: NAME=s3://BUCKET?region=…&endpoint=…&ca_file=… or NAME=/DIRECTORY; at least
    /// two, which should be in different regions; may be repeated
    #[arg(long, value_name = "NAME=PLACE", value_parser = ReplicaWord::placed)]
    replica: Vec<ReplicaWord>,
    /// The keys of a replica's store: a file of mode 0600 in the AWS shared-credentials format, or
    /// `chain` for the role of an instance; may be repeated [default: asked for]
    #[arg(long, value_name = "NAME=FILE", value_parser = KeysFrom::parse)]
    store_keys: Vec<KeysFrom>,
    #[command(flatten)]
    pub(super) sources: SourceFlags,
    /// Answer every question with yes
    #[arg(long)]
    pub(super) yes: bool,
    /// Replace a configuration that setup wrote and nobody changed, also by one with fewer datasets
    /// and replicas, or with other places of them; never one with other owners or another vault
    #[arg(long)]
    replace: bool,
    /// Show the configuration, and change nothing
    #[arg(long)]
    dry_run: bool,
    /// Lifeboat is tried: what lies in the folder of the trial needs no consent.
    #[arg(skip)]
    in_trial: bool,
}

impl VaultFlags {
    /// The flags of a host on a machine where Lifeboat is tried.
    pub(super) fn of_trial(&self, believed: RootFlags, replica: Vec<ReplicaWord>) -> Self {
        Self { believed, replica, in_trial: true, ..self.clone() }
    }
}

/// What was set up.
#[derive(Serialize)]
struct Done {
    config: PathBuf,
    vault: String,
    datasets: Vec<Name>,
    replicas: Vec<Name>,
    #[serde(skip)]
    has_drill_host: bool,
}

impl fmt::Display for Done {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<&str> = self.datasets.iter().map(Name::as_str).collect();
        writeln!(f, "Backed up for the first time: {}. Nothing counts until a drill has proved it.", names.join(", "))?;
        let drill = if self.has_drill_host { "" } else { ", once the root names one," };
        write!(
            f,
            "Next: print `lifeboat kit`, and run `lifeboat setup drill-host --join s3://… --root 'ROOT'` on the drill host{drill} with the same root."
        )
    }
}

pub(super) async fn run(args: &VaultFlags, session: &Session) -> Result<()> {
    let at = Installation::of(session, Part::Backup)?;
    let done = set_up(args, &at, session).await?;
    done.map_or(Ok(()), |done| session.out.result(&done))
}

/// Sets a backup host up for a trial.
pub(super) async fn run_quietly(args: &VaultFlags, at: &Installation, session: &Session) -> Result<Vec<Name>> {
    Ok(set_up(args, at, session).await?.map(|done| done.datasets).unwrap_or_default())
}

async fn set_up(args: &VaultFlags, at: &Installation, session: &Session) -> Result<Option<Done>> {
    let root = args.believed.read(at, session)?;
    let places = read_places(args)?;
    if let Some(told) = in_one_region(&places) {
        session.out.warning(told);
    }
    if !at.has_keys() {
        return Err(Error::keys(format!("this host has no keys: {} has none", at.keys.display()))
            .hint("run `lifeboat setup host` here first, and give its line to the owner, who makes the root"));
    }
    // The name and the datasets of a line matter only to the owner.
    let own = keys::enrol_host(&at.keys, &root.root.owners[0].name, Vec::new())?;
    let host = root::host_in(&root.root, &own)?;
    let prefix = session.globals.given.vault_prefix.as_deref().unwrap_or_default().trim_matches('/').to_owned();
    if !args.dry_run {
        args.believed.believe(&root, at, args.yes, session).await?;
    }

    let sources = args.sources.choose(at, args.yes, session).await?;
    if let Some(chosen) =
        sources.iter().find(|chosen| !host.datasets.iter().any(|pattern| pattern.covers(&chosen.name)))
    {
        return Err(Error::keys(format!("the root does not let host {} back up dataset {}", host.name, chosen.name))
            .hint("give it a name that the root allows, with --dataset NAME=KIND:ADDRESS; `lifeboat setup host --only PATTERN` asks for others"));
    }
    let write = |replicas: Vec<(&ReplicaPlace, bool, bool)>, sources: &[ChosenSource]| {
        ConfigText { at, host: &host.name, vault_prefix: &prefix, root: &root.root, replicas, sources }.write()
    };
    let stores =
        try_stores(args, places, &root.root, at, session, |place, style, keys| write(vec![(place, style, keys)], &[]))
            .await?;
    let text = write(stores.iter().map(|store| (&store.place, store.path_style, store.has_keys())).collect(), &sources);
    let change = config_text::check_place(&at.config, &text, Lose::of_flag(args.replace))?;
    session.out.text(&text)?;
    if let Some(told) = change.warning() {
        session.out.warning(told);
    }
    if args.dry_run {
        session.out.note("nothing was changed: leave --dry-run out to set this up");
        return Ok(None);
    }
    for store in &stores {
        if let Some(made) = store.place.will_be_made() {
            session.out.asked_about(made);
        }
    }
    if change != Change::Same {
        session
            .confirm(args.yes || args.in_trial, format!("Write this to {}, and go on?", at.config.display()))
            .await?;
    }
    go_on(args, at, session, &root, stores, &sources, &text).await.map(Some)
}

async fn go_on(
    args: &VaultFlags,
    at: &Installation,
    session: &Session,
    root: &SignedRoot,
    stores: Vec<TriedStore>,
    sources: &[ChosenSource],
    text: &str,
) -> Result<Done> {
    let mut steps = Steps::new(session, at, STEPS + sources.len());
    steps.next("write the keys of the stores and the configuration");
    at.make_folders()?;
    let replicas: Vec<Name> = stores.iter().map(|store| store.place.name.clone()).collect();
    for store in stores {
        give_directory(at, &store.place)?;
        if let Some(keys) = store.keys {
            keys.put(&store.place.name, at)?;
        }
    }
    config_text::put(&at.config, text)?;
    steps.next("roles that read the databases");
    args.sources.make_roles(sources, args.yes, session).await?;
    steps.next("install the root");
    let line = lifeboat_engine::format::line::write(&lifeboat_engine::format::line::RootLine(root.carried()))?;
    steps.run(CLI, &["root", "install", "-"], Some(&line)).await?;
    steps.next("make the vault");
    steps.run(CLI, &["init"], None).await?;
    steps.next("check everything as the daemon's user");
    steps.run_as_unit(CLI, &["check"]).await?;
    steps.next("start the daemon");
    if at.has_units() {
        let restart = Restart::begin(at)?;
        steps.systemctl(&["daemon-reload"]).await?;
        // A running backup is stopped only for what the daemon does not know yet.
        steps.systemctl(&[if restart.is_needed() { "restart" } else { "start" }, "lifeboatd"]).await?;
        restart.done()?;
    } else {
        session.out.note("systemd does not run this installation: start `lifeboatd` yourself to back up by schedule");
    }
    for chosen in sources {
        steps.next(&format!("the first backup of {}", chosen.name));
        if at.has_units() {
            steps.run(CLI, &["trigger", chosen.name.as_str()], None).await?;
        } else {
            steps.run_as_unit(DAEMON, &["--log", "text", "--once", chosen.name.as_str()]).await?;
        }
    }
    if at.has_units() {
        steps.systemctl(&["enable", "lifeboatd"]).await?;
    }
    Ok(Done {
        config: at.config.clone(),
        vault: root.root.vault.clone(),
        datasets: sources.iter().map(|chosen| chosen.name.clone()).collect(),
        replicas,
        has_drill_host: root.root.drill_hosts.iter().any(|host| host.until.is_none()),
    })
}

/// A directory that root made for a replica belongs to the daemon.
fn give_directory(at: &Installation, place: &ReplicaPlace) -> Result<()> {
    let PlaceKind::Directory(path) = &place.kind else { return Ok(()) };
    if !Path::new(path).exists() {
        std::fs::create_dir(path)
            .map_err(|error| Error::storage(format!("cannot make the directory {path}")).because(error))?;
    }
    let Some(user) = &at.user else { return Ok(()) };
    let is_empty = std::fs::read_dir(path).is_ok_and(|mut entries| entries.next().is_none());
    if !is_empty {
        return Ok(());
    }
    std::os::unix::fs::chown(path, Some(user.ids.0), Some(user.ids.1))
        .map_err(|error| Error::storage(format!("cannot give {path} to {}", user.name)).because(error))
}

fn read_places(args: &VaultFlags) -> Result<Vec<ReplicaPlace>> {
    let places: Vec<ReplicaPlace> = args.replica.iter().map(ReplicaPlace::read).collect::<Result<_>>()?;
    for (at, place) in places.iter().enumerate() {
        if places[..at].iter().any(|other| other.name == place.name) {
            return Err(
                Error::usage(format!("two replicas are called {}", place.name)).hint("give each a name of its own")
            );
        }
        if places[..at].iter().any(|other| other.kind == place.kind) {
            return Err(Error::usage(format!("replica {} is in the same place as another", place.name))
                .hint("name another bucket, in another region: one place alone survives nothing"));
        }
    }
    if places.len() < 2 {
        return Err(Error::usage("a vault needs two replicas at least")
            .hint("pass --replica near=s3://BUCKET?region=… --replica far=s3://BUCKET?region=…, in two regions"));
    }
    if let Some(keys) = args.store_keys.iter().find(|keys| places.iter().all(|place| place.name != *keys.name())) {
        return Err(Error::usage(format!("--store-keys names {}, which is no replica", keys.name()))
            .hint("correct the name before the `=`"));
    }
    Ok(places)
}

/// What two replicas in one region mean.
fn in_one_region(places: &[ReplicaPlace]) -> Option<String> {
    let pairs = places.iter().enumerate().flat_map(|(at, place)| places[..at].iter().map(move |other| (other, place)));
    let (one, other) = pairs.into_iter().find(|(one, other)| one.region == other.region)?;
    Some(format!(
        "replicas {} and {} are both in region {}: whatever destroys that region destroys both",
        one.name, other.name, one.region
    ))
}

async fn try_stores(
    args: &VaultFlags,
    places: Vec<ReplicaPlace>,
    root: &Root,
    at: &Installation,
    session: &Session,
    text: impl Fn(&ReplicaPlace, bool, bool) -> String,
) -> Result<Vec<TriedStore>> {
    let mut stores = Vec::new();
    for place in places {
        let is_bucket = matches!(place.kind, PlaceKind::Bucket { .. });
        let keys =
            if is_bucket { Some(StoreKeys::find(&place.name, &args.store_keys, at, session).await?) } else { None };
        stores.push(try_store(place, keys, &root.vault, (at, &text), session).await?);
    }
    Ok(stores)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn two_replicas_in_one_region_are_told() {
        let places = |texts: &[&str]| -> Vec<ReplicaPlace> {
            texts.iter().map(|text| ReplicaPlace::read(&ReplicaWord::placed(text).unwrap()).unwrap()).collect()
        };
        assert_eq!(in_one_region(&places(&["a=s3://one?region=eu", "b=s3://two?region=us", "c=/c"])), None);
        let told = in_one_region(&places(&["a=s3://one?region=eu", "b=/b", "c=s3://two?region=eu"])).unwrap();
        assert!(told.contains("replicas a and c are both in region eu"), "{told}");
    }
}
