//! `witness`: a drill host looks at the vault by its own clock, and records what it saw. It needs
//! its signer, and no identity.

use std::collections::BTreeMap;
use std::fmt;

use lifeboat_engine::format::id::Name;
use lifeboat_engine::format::log::{LogHead, SeenSnapshot};
use lifeboat_engine::state::StateDirectory;
use lifeboat_engine::witness::{LookReport, WitnessLook};
use lifeboat_engine::{Error, Result};
use serde::Serialize;

use crate::access;
use crate::human;
use crate::session::Session;

/// Record in this drill host's log which snapshots and logs are there, by its own clock; run it
/// every hour
///
/// Whoever steals a backup host can then not backdate what he writes.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {}

#[derive(Serialize)]
struct Witnessed {
    /// The datasets in which all was seen.
    looked: Vec<Name>,
    /// The snapshots that were not recorded before.
    snapshots: Vec<SeenSnapshot>,
    /// The newest record.
    record: Option<LogHead>,
    /// The replicas that have it.
    replicas: Vec<Name>,
}

pub(crate) async fn run(_: &Args, session: &Session) -> Result<()> {
    let config = session.configuration()?;
    if session.globals.replica.is_some() {
        return Err(Error::usage("a witness looks at every replica").hint("leave --replica out"));
    }
    let owners = access::owners(&session.globals, Some(&config))?.ok_or_else(|| {
        Error::keys("no owners are named, so nobody tells who is a witness")
            .hint("set [keys] owners; a vault without a root has no witnesses")
    })?;
    let signer = access::drill_signer(&config)?.ok_or_else(|| {
        Error::keys(format!("there is no drill signer {}", config.keys.drill_signer.path().display()))
            .hint("run it on a drill host, which signs what it saw with its drill signer")
    })?;
    let home = StateDirectory::open(&config.state_directory)?;
    if home.is_of_another_user() {
        let what = format!("the state directory {} belongs to another user", home.path().display());
        return Err(Error::usage(what).hint("run this as the user who owns it: it writes there"));
    }
    let place = session.place()?;
    let (replicas, unopened) = place.open_for_reading(&session.clock).await?;
    warn_of(session, &unopened);
    let rooted = access::rooted(&owners, &session.globals, Some(&config), (&replicas, &[]), session.clock.now());
    let (trust, warnings) = session.cancellable("reading the root", rooted).await?;
    warnings.into_iter().for_each(|warning| session.out.warning(warning));
    let vault = trust.root().map(|root| root.vault.clone()).unwrap_or_default();
    let look = WitnessLook {
        signer: &signer,
        vault: &vault,
        trust: &trust,
        replicas: &replicas,
        unopened: unopened.len(),
        home: &home,
        limits: &config.limits,
    };
    let report = session.cancellable("the look", look.run(&session.clock)).await?;
    let LookReport { whole, snapshots, records, findings, warnings } = report;
    warnings.into_iter().for_each(|warning| session.out.warning(warning));
    let newest = records.into_iter().next_back();
    let (record, replicas) = newest.map(|newest| (newest.head, newest.replicas)).unzip();
    let replicas = replicas.unwrap_or_default();
    session.out.result(&Witnessed { looked: whole, snapshots, record, replicas })?;
    if findings.is_empty() {
        return Ok(());
    }
    Err(Error::integrity("what is there was recorded, and a log is shorter than it was")
        .because(findings.join("; "))
        .hint("run `lifeboat audit verify`, and find out who cut it"))
}

fn warn_of(session: &Session, unopened: &BTreeMap<Name, String>) {
    for (replica, why) in unopened {
        session.out.warning(format!("skipping replica {replica}: {why}"));
    }
}

impl fmt::Display for Witnessed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (snapshots, datasets) = (self.snapshots.len() as u64, self.looked.len() as u64);
        let record = self.record.as_ref().map_or(0, |head| head.number);
        let replicas: Vec<&str> = self.replicas.iter().map(Name::as_str).collect();
        write!(
            f,
            "Looked at the whole of {}, and recorded {} that {} not there before: record {record}, in {}",
            human::count(datasets, "dataset"),
            human::count(snapshots, "snapshot"),
            if snapshots == 1 { "was" } else { "were" },
            replicas.join(", ")
        )
    }
}
