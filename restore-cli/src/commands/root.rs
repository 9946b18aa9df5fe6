//! `root`: shows the root, makes requests for the next one, and installs what owners signed.

use std::fmt;

use chrono::{DateTime, Utc};
use lifeboat_engine::base::escape;
use lifeboat_engine::format::id::{Digest, Name};
use lifeboat_engine::format::line::{self, RootLine};
use lifeboat_engine::format::log::LogEvent;
use lifeboat_engine::format::root::Root;
use lifeboat_engine::root::{self, SignedRoot};
use lifeboat_engine::state::StateDirectory;
use lifeboat_engine::{Error, Result};
use serde::Serialize;

use super::root_found::{newest, vault_of};
use super::root_request;
use crate::access;
use crate::human;
use crate::lines::{self, OneLine};
use crate::recording;
use crate::session::Session;

/// Show, request and install the root, which says who and what is trusted in the vault
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    what: RootVerb,
}

#[derive(Debug, clap::Subcommand)]
enum RootVerb {
    /// Show the newest root, and who may do what
    Show {
        /// Print it as a line that `lifeboat root install` takes
        #[arg(long)]
        line: bool,
    },
    /// Print a request for the next root, which an owner signs
    Request(root_request::Args),
    /// Print a request for root 1 of a vault without one, from the configuration as it is now; give
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
        RootVerb::Show { line } => show(*line, session).await,
        RootVerb::Request(args) => root_request::run(args, session).await,
        RootVerb::Adopt(args) => root_request::adopt(args, session).await,
        RootVerb::Install { lines } => install(lines, session).await,
    }
}

async fn show(as_line: bool, session: &Session) -> Result<()> {
    let (_, newest) = newest(session).await?;
    if as_line {
        return session.out.result(&OneLine { line: line::write(&RootLine(newest.carried()))? });
    }
    session.out.result(&RootView::of(&newest))
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
    let state = StateDirectory::open(&config.state_directory)?;
    // What this host knows counts more than what the owner of a bucket can write there.
    let known = root::pinned(&state)?.pop().map(|pinned| pinned.root.vault);
    let vault = match known.or_else(|| access::host_keys(&config).map(|keys| keys.vault)) {
        Some(vault) => vault,
        None => vault_of(&replicas).await?,
    };
    if let Some(text) = given.first().map(|line| line.root.as_bytes())
        && let Ok(root) = Root::parse(text, "the root")
    {
        let event = LogEvent::Root { version: root.version, blake3: Digest::of(text) };
        recording::by_host(session, &config, &replicas, event).await;
    }
    let work = root::install(given, &vault, owners.as_ref(), &replicas, &state);
    let installed = session.cancellable("installing the root", work).await?;
    if owners.is_none() {
        session.out.warning("the configuration names no owners, so nobody goes by this root yet: set [keys] owners");
    }
    session.out.result(&RootView::of(&installed.root))?;
    let failed: Vec<String> = installed
        .failed
        .iter()
        .map(|(replica, error)| format!("{replica}: {}", human::without_name(replica, &error.chain())))
        .collect();
    if failed.is_empty() {
        return Ok(());
    }
    Err(Error::storage(format!("some replicas did not take the root: {}", failed.join("; ")))
        .hint("run the same command again when they answer"))
}

/// A root, for people.
#[derive(Serialize)]
struct RootView {
    version: u64,
    vault: String,
    time: DateTime<Utc>,
    fingerprint: String,
    signed_by: Vec<Name>,
    says: Vec<String>,
}

impl RootView {
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

impl fmt::Display for RootView {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let signed: Vec<&str> = self.signed_by.iter().map(Name::as_str).collect();
        writeln!(f, "Root {} of vault {}, signed by {}", self.version, self.vault, signed.join(", "))?;
        writeln!(f, "Fingerprint: {}", self.fingerprint)?;
        for line in &self.says {
            write!(f, "\n  {}", escape::line(line))?;
        }
        Ok(())
    }
}
