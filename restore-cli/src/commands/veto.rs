//! `veto`: shows what is marked, asks for a veto, and puts a signed one into every replica.

use std::fmt;

use chrono::{DateTime, SecondsFormat, Utc};
use lifeboat_engine::base::escape;
use lifeboat_engine::format::id::{Name, SnapshotId};
use lifeboat_engine::format::line;
use lifeboat_engine::format::requirements::Requirements;
use lifeboat_engine::format::veto::{Veto, VetoLine, VetoRequestLine};
use lifeboat_engine::keep::veto::{self, ShownMark};
use lifeboat_engine::keys::trust::Trust;
use lifeboat_engine::{Error, Result};
use serde::Serialize;

use crate::access;
use crate::human;
use crate::lines::{self, OneLine};
use crate::session::Session;

/// Show what is marked for deletion, and forbid that a mark is carried out
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    what: VetoVerb,
}

#[derive(Debug, clap::Subcommand)]
enum VetoVerb {
    /// Show the marks of a dataset, and who vetoed them
    Show {
        /// Name of the dataset
        dataset: Name,
    },
    /// Print a veto of a mark, which an owner or approver signs with `lifeboat owner sign`
    Request {
        /// Name of the dataset
        dataset: Name,
        /// The mark's id, as `lifeboat veto show` tells it
        mark: SnapshotId,
        /// Why, for those who read it later
        #[arg(long, value_name = "TEXT", default_value = "")]
        reason: String,
    },
    /// Put a signed veto into every replica
    Install {
        /// What `lifeboat owner sign` printed; `-` reads standard input, @FILE a file
        #[arg(value_name = "LINE")]
        line: String,
    },
}

pub(crate) async fn run(args: &Args, session: &Session) -> Result<()> {
    match &args.what {
        VetoVerb::Show { dataset } => {
            let (_, marks) = marks(dataset, session).await?;
            session.out.result(&ShownMarks { marks })
        }
        VetoVerb::Request { dataset, mark, reason } => {
            let (vault, marks) = marks(dataset, session).await?;
            let found = marks.into_iter().find(|shown| shown.mark == *mark).ok_or_else(|| {
                Error::usage(format!("no replica shows a mark {mark} of dataset {dataset}"))
                    .hint(format!("`lifeboat veto show {dataset}` lists its marks"))
            })?;
            let veto = Veto {
                requires: Requirements::default(),
                vault,
                dataset: dataset.clone(),
                mark: found.mark,
                blake3: found.blake3,
                // Whoever signs it puts the own name here.
                principal: "nobody".parse()?,
                time: session.clock.now(),
                why: escape::line(reason).to_string(),
            };
            session.out.result(&OneLine { line: line::write(&VetoRequestLine(veto))? })
        }
        VetoVerb::Install { line } => install(&line::read(&lines::given(line)?)?, session).await,
    }
}

async fn install(line: &VetoLine, session: &Session) -> Result<()> {
    let config = session.configuration()?;
    if session.globals.replica.is_some() {
        return Err(Error::usage("a veto is installed in every replica").hint("leave --replica out"));
    }
    let replicas = config.open_replicas(&session.clock).await?;
    let (trust, vault) = trusted(session, &replicas).await?;
    let work = veto::install(line, &vault, &trust, &replicas);
    let (holders, failed) = session.cancellable("installing the veto", work).await?;
    session.out.result(&Vetoed {
        dataset: line.dataset.clone(),
        mark: line.mark.clone(),
        by: line.principal.clone(),
        replicas: holders,
    })?;
    let failed: Vec<String> = failed
        .iter()
        .map(|(replica, error)| format!("{replica}: {}", human::without_name(replica, &error.chain())))
        .collect();
    if failed.is_empty() {
        return Ok(());
    }
    Err(Error::storage(format!("some replicas did not take the veto: {}", failed.join("; ")))
        .hint("run the same command again when they answer"))
}

/// The vault, and the marks of a dataset.
async fn marks(dataset: &Name, session: &Session) -> Result<(String, Vec<ShownMark>)> {
    let place = session.place()?;
    let (replicas, unopened) = place.open_for_reading(&session.clock).await?;
    for (replica, why) in unopened {
        session.out.warning(human::skipping(&replica, &why));
    }
    let (trust, vault) = trusted(session, &replicas).await?;
    let marks = session.cancellable("reading the marks", veto::marks(&vault, dataset, &trust, &replicas)).await?;
    Ok((vault, marks))
}

async fn trusted(
    session: &Session,
    replicas: &[lifeboat_engine::store::SharedReplica],
) -> Result<(std::sync::Arc<Trust>, String)> {
    let config = session.place()?.config;
    let owners = access::owners(&session.globals, config.as_ref())?.ok_or_else(|| {
        Error::keys("no owners are named, so nobody tells who may veto")
            .hint("set [keys] owners; a vault without a root knows no vetoes")
    })?;
    let rooted = access::rooted(&owners, &session.globals, config.as_ref(), (replicas, &[]), session.clock.now());
    let (trust, warnings) = session.cancellable("reading the root", rooted).await?;
    warnings.into_iter().for_each(|warning| session.out.warning(warning));
    let vault = trust.root().map(|root| root.vault.clone()).unwrap_or_default();
    Ok((trust, vault))
}

#[derive(Serialize)]
struct ShownMarks {
    marks: Vec<ShownMark>,
}

#[derive(Serialize)]
struct Vetoed {
    dataset: Name,
    mark: SnapshotId,
    by: Name,
    replicas: Vec<Name>,
}

fn time(time: DateTime<Utc>) -> String {
    time.to_rfc3339_opts(SecondsFormat::Secs, true)
}

impl fmt::Display for ShownMarks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.marks.is_empty() {
            return f.write_str("Nothing is marked");
        }
        for (number, mark) in self.marks.iter().enumerate() {
            let (snapshots, packs) = (mark.snapshots.len() as u64, mark.packs as u64);
            let by = mark.by.as_ref().map_or("somebody", Name::as_str);
            let begin = if number == 0 { "" } else { "\n" };
            let (snapshots, packs) = (human::count(snapshots, "snapshot"), human::count(packs, "pack"));
            write!(f, "{begin}{}  {} by {by}: {snapshots}, {packs}", mark.mark, time(mark.time))?;
            if !mark.vetoed_by.is_empty() {
                let names: Vec<&str> = mark.vetoed_by.iter().map(Name::as_str).collect();
                write!(f, "; vetoed by {}", names.join(", "))?;
            }
        }
        Ok(())
    }
}

impl fmt::Display for Vetoed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let replicas: Vec<&str> = self.replicas.iter().map(Name::as_str).collect();
        write!(f, "{} vetoes mark {} of {}: in {}", self.by, self.mark, self.dataset, replicas.join(", "))
    }
}
