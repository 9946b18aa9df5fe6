//! `setup drill-host`: makes a drill host's keys and prints its line; with `--join`, lets it drill
//! what a vault holds.

use std::collections::BTreeSet;
use std::fmt;
use std::path::{Path, PathBuf};

use lifeboat_engine::format::id::Name;
use lifeboat_engine::{Error, Result, keys, root};
use serde::Serialize;
use url::Url;

use super::believe::RootFlags;
use super::config_text::{self, Change, ConfigText, Lose};
use super::machine::{Described, DescribedLine, tell};
use super::place::{Installation, Part};
use super::replica_place::{PlaceKind, ReplicaPlace};
use super::steps::{CLI, Steps};
use super::store_keys::{KeysFrom, StoreKeys};
use super::stores::{TriedStore, try_store};
use crate::access::Need;
use crate::flags::ReplicaWord;
use crate::session::{Place, Session};

const JOIN_STEPS: usize = 4;
/// What a replica is called whose bucket has no legal name.
const UNNAMED: &str = "vault";

#[derive(Debug, Clone, Default, clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    described: Described,
    /// The replica to drill from: s3://BUCKET?region=…&endpoint=…&ca_file=…, or NAME= before it, or
    /// NAME=/DIRECTORY
    #[arg(long, value_name = "PLACE", requires = "root")]
    join: Option<String>,
    #[command(flatten)]
    believed: RootFlags,
    /// File with the keys of the store, mode 0600, in the AWS shared-credentials format, or `chain`
    /// for the role of an instance [default: asked for]
    #[arg(long, value_name = "FILE")]
    store_keys: Option<String>,
    /// Answer every question with yes
    #[arg(long)]
    yes: bool,
    /// Replace a configuration that setup wrote and nobody changed, also by one that names another
    /// place; never one with other owners or another vault
    #[arg(long)]
    replace: bool,
    /// Show the configuration, and change nothing
    #[arg(long)]
    dry_run: bool,
}

impl Args {
    /// The flags of a drill host on a machine where Lifeboat is tried.
    pub(super) fn of_trial(join: String, believed: RootFlags) -> Self {
        Self { join: Some(join), believed, yes: true, ..Self::default() }
    }
}

/// What was set up.
#[derive(Serialize)]
struct Joined {
    config: PathBuf,
    vault: String,
    datasets: Vec<Name>,
}

impl fmt::Display for Joined {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.datasets.first() {
            Some(dataset) => write!(f, "Next: `lifeboat drill {dataset}` proves that {dataset} can be restored."),
            None => f.write_str("The vault has no dataset yet. Run this again when the first backup is there."),
        }
    }
}

pub(super) async fn run(args: &Args, session: &Session) -> Result<()> {
    let at = Installation::of(session, Part::Drill)?;
    if args.join.is_none() {
        if args.believed.is_given() {
            return Err(Error::usage("a root is given, and no replica to drill from")
                .hint("name one with --join s3://BUCKET?region=…"));
        }
        let name = args.described.name()?;
        at.make_folders()?;
        let described = keys::enrol_drill_host(&at.keys, &name, args.described.datasets())?;
        return tell(session, &at, &DescribedLine::of(&described)?, "drill host");
    }
    let joined = join(args, &at, session).await?;
    joined.map_or(Ok(()), |joined| session.out.result(&joined))
}

/// Lets a drill host join for a trial.
pub(super) async fn run_quietly(args: &Args, at: &Installation, session: &Session) -> Result<Vec<Name>> {
    Ok(join(args, at, session).await?.map(|joined| joined.datasets).unwrap_or_default())
}

async fn join(args: &Args, at: &Installation, session: &Session) -> Result<Option<Joined>> {
    let root = args.believed.read(at, session)?;
    let place = place_of(args.join.as_deref().unwrap_or_default())?;
    if !at.has_keys() {
        return Err(Error::keys(format!("this drill host has no keys: {} has none", at.keys.display()))
            .hint("run `lifeboat setup drill-host` here first, and give its line to the owner, who makes the root"));
    }
    let own = keys::enrol_drill_host(&at.keys, &root.root.owners[0].name, Vec::new())?;
    let host = root::drill_host_in(&root.root, &own)?;
    if let PlaceKind::Directory(path) = &place.kind
        && !Path::new(path).is_dir()
    {
        return Err(Error::storage(format!("the directory {path} is not there, so there is nothing to drill"))
            .hint("mount its disk, or correct --join; then run the same command again"));
    }
    let prefix = session.globals.given.vault_prefix.as_deref().unwrap_or_default().trim_matches('/').to_owned();
    if !args.dry_run {
        args.believed.believe(&root, at, args.yes, session).await?;
    }
    let write = |place: &ReplicaPlace, style: bool, has_keys: bool| {
        let replicas = vec![(place, style, has_keys)];
        ConfigText { at, host: &host.name, vault_prefix: &prefix, root: &root.root, replicas, sources: &[] }.write()
    };
    let flags = args.store_keys.iter().map(|from| KeysFrom::parse(&format!("{}={from}", place.name)));
    let flags: Vec<KeysFrom> = flags.collect::<Result<_, String>>().map_err(Error::usage)?;
    let is_bucket = matches!(place.kind, PlaceKind::Bucket { .. });
    let found = if is_bucket { Some(StoreKeys::find(&place.name, &flags, at, session).await?) } else { None };
    let store = try_store(place, found, &root.root.vault, (at, write), session).await?;
    let text = write(&store.place, store.path_style, store.has_keys());
    let change = config_text::check_place(&at.config, &text, Lose::of_flag(args.replace))?;
    session.out.text(&text)?;
    if let Some(told) = change.warning() {
        session.out.warning(told);
    }
    if args.dry_run {
        session.out.note("nothing was changed: leave --dry-run out to set this up");
        return Ok(None);
    }
    if change != Change::Same {
        session.confirm(args.yes, format!("Write this to {}, and go on?", at.config.display())).await?;
    }
    let datasets = go_on(at, session, store, &text).await?;
    Ok(Some(Joined { config: at.config.clone(), vault: root.root.vault.clone(), datasets }))
}

async fn go_on(at: &Installation, session: &Session, store: TriedStore, text: &str) -> Result<Vec<Name>> {
    let mut steps = Steps::new(session, at, JOIN_STEPS);
    steps.next("write the keys of the store and the configuration");
    at.make_folders()?;
    if let Some(keys) = store.keys {
        keys.put(&store.place.name, at)?;
    }
    config_text::put(&at.config, text)?;
    steps.next("check everything as the drill's user");
    steps.run_as_unit(CLI, &["check"]).await?;
    steps.next("record what is there, as a witness");
    steps.run_as_unit(CLI, &["witness"]).await?;
    let datasets = datasets_of(at, session).await?;
    steps.next("start the timers");
    if at.has_units() {
        steps.systemctl(&["daemon-reload"]).await?;
        steps.systemctl(&["enable", "--now", "lifeboat-witness.timer"]).await?;
        for dataset in &datasets {
            steps.systemctl(&["enable", "--now", &format!("lifeboat-drill@{dataset}.timer")]).await?;
        }
    } else {
        session
            .out
            .note("systemd does not run this installation: run `lifeboat drill` and `lifeboat witness` yourself");
    }
    Ok(datasets)
}

/// The datasets that this drill host sees in the vault.
async fn datasets_of(at: &Installation, session: &Session) -> Result<Vec<Name>> {
    let config = lifeboat_engine::config::Config::load(&at.config, &session.surroundings)?;
    let (replicas, vault_prefix, limits) =
        (config.replicas.clone(), config.vault_prefix.clone(), config.limits.clone());
    let place = Place { config: Some(config), replicas, vault_prefix, limits, as_of: None };
    let reader = session.reader(&place, Need::Packs).await?;
    let datasets: BTreeSet<Name> = session.datasets(&reader, None).await?.into_iter().collect();
    Ok(datasets.into_iter().collect())
}

fn place_of(text: &str) -> Result<ReplicaPlace> {
    if !text.starts_with("s3:") {
        return ReplicaPlace::read(&ReplicaWord::placed(text).map_err(Error::usage)?);
    }
    let url = Url::parse(text).map_err(|_| Error::usage("the place to join is no s3:// URL"))?;
    let named = url.host_str().and_then(|bucket| bucket.parse().ok());
    ReplicaPlace::of_url(named.map_or_else(|| UNNAMED.parse(), Ok)?, &url)
}
