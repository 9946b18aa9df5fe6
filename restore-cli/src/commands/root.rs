//! `root`: shows the root, makes requests for the next one, and installs what owners signed.

use std::fmt;

use chrono::{DateTime, Utc};
use lifeboat_engine::base::escape;
use lifeboat_engine::config::Config;
use lifeboat_engine::format::id::Name;
use lifeboat_engine::format::info::{MAX_VAULT_INFO_BYTES, VaultInfo};
use lifeboat_engine::format::layout;
use lifeboat_engine::format::line::{self, RootLine};
use lifeboat_engine::root::{self, FoundRoot, SignedRoot};
use lifeboat_engine::state::StateDirectory;
use lifeboat_engine::store::SharedReplica;
use lifeboat_engine::{Error, Result};
use serde::Serialize;

use super::owner::OneLine;
use super::{lines, root_request};
use crate::access;
use crate::session::Session;

/// Show, request and install the root, which says who and what is trusted in the vault
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, clap::Subcommand)]
enum What {
    /// Show the newest root, and who may do what
    Show {
        /// Print it as a line that `lifeboat root install` takes
        #[arg(long)]
        line: bool,
    },
    /// Print a request for the next root, which an owner signs
    Request(root_request::Args),
    /// Print a request for root 1 of a vault without a root, from the configuration as it is now; give
    /// the owners with --owner
    Adopt(root_request::Adopt),
    /// Put what owners signed into every replica
    Install {
        /// What `lifeboat owner sign` printed, by as many owners as must sign; `-` reads standard
        /// input, @FILE a file
        #[arg(value_name = "LINE", required = true)]
        lines: Vec<String>,
    },
}

pub(crate) async fn run(args: &Args, session: &Session) -> Result<()> {
    match &args.what {
        What::Show { line } => show(*line, session).await,
        What::Request(args) => root_request::run(args, session).await,
        What::Adopt(args) => root_request::adopt(args, session).await,
        What::Install { lines } => install(lines, session).await,
    }
}

/// The replicas of the configuration or the flags, and the newest root that they show.
pub(super) async fn found(session: &Session) -> Result<(Option<Config>, Vec<SharedReplica>, FoundRoot)> {
    let place = session.place()?;
    let config = place.config.as_ref();
    let owners = access::owners(&session.globals, config)?;
    let (replicas, unopened) = place.open_for_reading(&session.clock).await?;
    for (replica, why) in unopened {
        session.out.warning(format!("skipping replica {replica}: {why}"));
    }
    let state = config.and_then(|config| StateDirectory::open(&config.state_directory).ok());
    let known = state.as_ref().map(root::pinned).transpose()?.flatten();
    let looked = root::find(&replicas, owners.as_ref(), known.as_ref());
    let found = session.cancellable("the look for the root", looked).await?;
    found.junk.iter().for_each(|junk| session.out.warning(junk));
    for (replica, error) in &found.unanswered {
        session.out.warning(format!("skipping replica {replica}: {}", error.chain()));
    }
    if owners.is_none() && found.newest.is_some() {
        session.out.warning("no owners are given, so nobody tells whether this is the owners' root");
    }
    Ok((place.config, replicas, found))
}

/// The newest root, where there must be one.
pub(super) async fn newest(session: &Session) -> Result<(Option<Config>, SignedRoot)> {
    let (config, _, found) = found(session).await?;
    let newest = found.newest.ok_or_else(|| {
        Error::keys("there is no root that the owners signed")
            .hint("run `lifeboat init` on the backup host, or `lifeboat root adopt` for an older vault: they print what an owner has to sign")
    })?;
    Ok((config, newest))
}

async fn show(as_line: bool, session: &Session) -> Result<()> {
    let (_, newest) = newest(session).await?;
    if as_line {
        return session.out.result(&OneLine { line: line::write(&RootLine(newest.carried()))? });
    }
    session.out.result(&Shown::of(&newest))
}

async fn install(lines: &[String], session: &Session) -> Result<()> {
    let config = session.configuration()?;
    if session.globals.replica.is_some() {
        return Err(Error::usage("a root is installed in every replica").hint("leave --replica out"));
    }
    let owners = access::owners(&session.globals, Some(&config))?;
    let replicas = config.open_replicas(&session.clock).await?;
    let mut given = Vec::new();
    for argument in lines {
        let text = lines::given(argument)?;
        for text in text.lines().filter(|line| !line.trim().is_empty()) {
            given.push(line::read::<RootLine>(text)?.0);
        }
    }
    let vault = vault_of(&replicas).await?;
    let state = StateDirectory::open(&config.state_directory)?;
    let work = root::install(given, &vault, owners.as_ref(), &replicas, &state);
    let installed = session.cancellable("installing the root", work).await?;
    if owners.is_none() {
        session.out.warning("the configuration names no owners, so nobody goes by this root yet: set [keys] owners");
    }
    session.out.result(&Shown::of(&installed.root))?;
    let failed: Vec<String> =
        installed.failed.iter().map(|(replica, error)| format!("{replica}: {}", error.chain())).collect();
    if failed.is_empty() {
        return Ok(());
    }
    Err(Error::storage(format!("some replicas did not take the root: {}", failed.join("; ")))
        .hint("run the same command again when they answer"))
}

/// The vault that the replicas hold.
pub(super) async fn vault_of(replicas: &[SharedReplica]) -> Result<String> {
    let mut first = None;
    for replica in replicas {
        let read = replica.get(layout::VAULT, MAX_VAULT_INFO_BYTES as u64).await.map_err(Error::from);
        match read.and_then(|data| VaultInfo::parse(&data, replica.name())) {
            Ok(info) => return Ok(info.vault),
            Err(error) => first = first.or(Some(error)),
        }
    }
    Err(first.unwrap_or_else(|| Error::configuration("there is no replica")))
}

/// A root, for people.
#[derive(Serialize)]
struct Shown {
    version: u64,
    vault: String,
    time: DateTime<Utc>,
    fingerprint: String,
    signed_by: Vec<Name>,
    says: Vec<String>,
}

impl Shown {
    fn of(root: &SignedRoot) -> Self {
        let signers = root.signers();
        let signed = root.root.owners.iter().filter(|owner| signers.iter().any(|key| key.as_str() == owner.signer));
        Self {
            version: root.root.version,
            vault: root.root.vault.clone(),
            time: root.root.time,
            fingerprint: root.fingerprint(),
            signed_by: signed.map(|owner| owner.name.clone()).collect(),
            says: root::differences(None, &root.root),
        }
    }
}

impl fmt::Display for Shown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let signed: Vec<&str> = self.signed_by.iter().map(Name::as_str).collect();
        writeln!(f, "Root {} of vault {}, signed by {}", self.version, self.vault, signed.join(", "))?;
        write!(f, "Fingerprint: {}\n", self.fingerprint)?;
        for line in &self.says {
            write!(f, "\n  {}", escape::line(line))?;
        }
        Ok(())
    }
}
