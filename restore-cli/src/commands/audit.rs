//! `audit`: shows and checks the logs of all principals. It needs owners and a replica, or a copy
//! of one on disk, and no key that opens anything.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use chrono::{DateTime, Utc};
use lifeboat_engine::config::Config;
use lifeboat_engine::format::id::Name;
use lifeboat_engine::format::log::{LogHead, LogName};
use lifeboat_engine::keys::trust::Trust;
use lifeboat_engine::log::{Expected, LogReader, accept_what_is_there, audit};
use lifeboat_engine::state::StateDirectory;
use lifeboat_engine::store::SharedReplica;
use lifeboat_engine::{Error, Result};

use super::audit_export;
use super::audit_view::{AuditReport, RecordRow, Records};
use crate::access;
use crate::flags::parse_time;
use crate::human;
use crate::session::Session;

/// Show and check the logs: who did what with backups and their keys
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    what: AuditVerb,
}

#[derive(Debug, clap::Subcommand)]
enum AuditVerb {
    /// Show the records of all logs, in the order of their times
    Show {
        /// Only this log, such as drill-hosts/drill1
        #[arg(long, value_name = "KIND/NAME", value_parser = parse_log)]
        log: Option<LogName>,
        /// Only what is about this dataset
        #[arg(long, value_name = "NAME")]
        dataset: Option<Name>,
        /// Only from this time on (RFC 3339)
        #[arg(long, value_name = "TIME", value_parser = parse_time)]
        since: Option<DateTime<Utc>>,
        /// Only before this time (RFC 3339)
        #[arg(long, value_name = "TIME", value_parser = parse_time)]
        until: Option<DateTime<Utc>>,
        /// Read what `audit export` printed, instead of replicas
        #[arg(long, value_name = "FILE")]
        export: Option<PathBuf>,
    },
    /// Print all logs, roots and signatures as lines of JSON, to be kept elsewhere
    Export,
    /// Check that no record is missing, changed or out of order; exit 6 if one is
    Verify {
        /// A record that must be there, as an earlier `audit verify` printed it; may be repeated
        #[arg(long = "head", value_name = "KIND/NAME=NUMBER:HASH", value_parser = parse_head)]
        heads: Vec<LogHead>,
        /// Directory of an owner: what it remembers must be there, too
        #[arg(long, value_name = "DIR")]
        owner_directory: Option<PathBuf>,
        /// From now on, remember what the replicas show, instead of what this machine had seen
        #[arg(long)]
        accept_older: bool,
        /// Do not ask before that
        #[arg(long)]
        yes: bool,
        /// Check what `audit export` printed, instead of replicas
        #[arg(long, value_name = "FILE", conflicts_with = "accept_older")]
        export: Option<PathBuf>,
    },
}

fn parse_log(text: &str) -> Result<LogName, String> {
    text.parse().map_err(|error: Error| error.chain_and_hint())
}

fn parse_head(text: &str) -> Result<LogHead, String> {
    text.parse().map_err(|error: Error| error.chain_and_hint())
}

pub(crate) async fn run(args: &Args, session: &Session) -> Result<()> {
    match &args.what {
        AuditVerb::Export => {
            let (replicas, unopened) = session.place()?.open_for_reading(&session.clock).await?;
            for (replica, why) in unopened {
                session.out.warning(human::skipping(&replica, &why));
            }
            session.cancellable("the export", audit_export::write(session, &replicas)).await
        }
        AuditVerb::Show { log, dataset, since, until, export } => {
            let opened = Opened::open(session, export.as_deref()).await?;
            let mut rows = Vec::new();
            let reader = opened.reader();
            let checked = audit(&reader, &opened.replicas, Vec::new(), None, |found| {
                let row = RecordRow::of(found)?;
                let record = &found.record;
                let is_wanted = log.as_ref().is_none_or(|log| record.log() == *log)
                    && dataset.as_ref().is_none_or(|dataset| row.is_about(dataset))
                    && since.is_none_or(|since| record.time >= since)
                    && until.is_none_or(|until| record.time < until);
                if is_wanted {
                    rows.push(row);
                }
                Ok(())
            });
            let checked = session.cancellable("reading the logs", checked).await?;
            checked.notes.iter().for_each(|note| session.out.warning(note));
            if !checked.findings.is_empty() {
                session.out.warning("something is wrong with these logs: run `lifeboat audit verify`");
            }
            session.out.result(&Records::sorted(rows))
        }
        AuditVerb::Verify { heads, owner_directory, accept_older, yes, export } => {
            let opened = Opened::open(session, export.as_deref()).await?;
            let by = |head: &LogHead| Expected { head: head.clone(), by: "--head says so".to_owned() };
            let home = home(owner_directory.as_ref(), opened.config.as_ref())?;
            let expected = heads.iter().map(by).collect();
            let reader = opened.reader();
            let checked = audit(&reader, &opened.replicas, expected, home.as_ref(), |_| Ok(()));
            let report = AuditReport::of(session.cancellable("checking the logs", checked).await?, &opened.unopened);
            session.out.result(&report)?;
            if *accept_older {
                let home = home.ok_or_else(|| {
                    Error::usage("this machine remembers nothing of logs").hint("leave --accept-older out")
                })?;
                let home = StateDirectory::open_for_writing(home.path())?;
                session.confirm(*yes, "Forget what this machine has seen of these logs?".to_owned()).await?;
                let back = accept_what_is_there(&reader, &opened.replicas, &home).await?;
                back.findings.into_iter().for_each(|finding| session.out.warning(finding));
                session.out.note("this machine now remembers what the replicas show");
            }
            report.verdict()
        }
    }
}

/// Where logs are, and whom to believe.
struct Opened {
    config: Option<Config>,
    replicas: Vec<SharedReplica>,
    /// Replicas that could not be opened, and why.
    unopened: BTreeMap<Name, String>,
    trust: Arc<Trust>,
    vault: String,
}

impl Opened {
    /// `export` names a file in place of replicas.
    async fn open(session: &Session, export: Option<&Path>) -> Result<Self> {
        // With an export, the configuration need only tell the owners, if flags do not.
        let place = if export.is_some() && !session.globals.owners.is_empty() { None } else { Some(session.place()?) };
        let config = place.as_ref().and_then(|place| place.config.as_ref());
        let owners = access::owners(&session.globals, config)?.ok_or_else(|| {
            Error::keys("no owners are named, so nobody tells who may write which log")
                .hint("pass --owner with the owner's line or signing key; a vault without a root has no logs")
        })?;
        let (replicas, unopened) = match (export, &place) {
            (Some(file), _) => (audit_export::read(file, &session.clock).await?, BTreeMap::new()),
            (None, Some(place)) => place.open_for_reading(&session.clock).await?,
            (None, None) => return Err(Error::usage("there is no replica")),
        };
        for (replica, why) in &unopened {
            session.out.warning(human::skipping(replica, why));
        }
        let rooted = access::rooted(&owners, &session.globals, config, (&replicas, &[]), session.clock.now());
        let (trust, warnings) = session.cancellable("reading the root", rooted).await?;
        warnings.into_iter().for_each(|warning| session.out.warning(warning));
        let root = trust.root().ok_or_else(|| Error::keys("there is no root"))?;
        Ok(Self { vault: root.vault.clone(), config: place.and_then(|place| place.config), replicas, unopened, trust })
    }

    fn reader(&self) -> LogReader<'_> {
        LogReader { vault: &self.vault, trust: &self.trust }
    }
}

/// Where this machine remembers logs.
fn home(owner: Option<&PathBuf>, config: Option<&Config>) -> Result<Option<StateDirectory>> {
    let place = owner.or(config.map(|config| &config.state_directory)).filter(|place| place.exists());
    place.map(|place| StateDirectory::open(place)).transpose()
}
