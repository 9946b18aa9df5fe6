//! `drills`: what drills have proved, from their signed reports in the vault.

use std::fmt;

use chrono::{DateTime, Utc};
use lifeboat_engine::Result;
use lifeboat_engine::config::ProofLevel;
use lifeboat_engine::drill::{PastDrill, history};
use lifeboat_engine::format::id::{Name, SnapshotId};
use serde::Serialize;

use crate::access::Need;
use crate::human;
use crate::session::Session;
use crate::table::Plain;

/// List past drills, newest first: what each restored and proved, how long it took, who signed it
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Only this dataset
    dataset: Option<Name>,
    /// How many of each dataset
    #[arg(long, default_value_t = 20, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1000))]
    last: u16,
}

#[derive(Serialize)]
struct Drills {
    drills: Vec<PastDrillRow>,
    /// Why some may be missing.
    gaps: Vec<String>,
}

#[derive(Serialize)]
struct PastDrillRow {
    dataset: Name,
    drill: SnapshotId,
    finished: DateTime<Utc>,
    snapshot: Option<SnapshotId>,
    passed: bool,
    required: ProofLevel,
    /// With the whole snapshot.
    reached: Option<ProofLevel>,
    in_part: bool,
    #[serde(skip)]
    told_level: &'static str,
    objectives_missed: Vec<&'static str>,
    rto_seconds: Option<f64>,
    rpo_seconds: Option<f64>,
    restored_bytes: u64,
    replicas_used: Vec<Name>,
    /// The drill host that signed the report.
    host: Option<Name>,
}

pub(crate) async fn run(args: &Args, session: &Session) -> Result<()> {
    let place = session.place()?;
    let reader = session.reader(&place, Need::Manifests).await?;
    let mut told = Drills { drills: Vec::new(), gaps: Vec::new() };
    for dataset in session.datasets(&reader, args.dataset.as_ref()).await? {
        let found = history(&reader, &dataset, args.last.into(), session.clock.now());
        let found = session.cancellable("reading drill reports", found).await?;
        told.gaps.extend(found.gaps.into_iter().map(|gap| format!("{dataset}: {gap}")));
        told.drills.extend(found.drills.into_iter().map(|drill| row(&dataset, drill)));
    }
    told.gaps.iter().for_each(|gap| session.out.warning(gap));
    session.out.result(&told)
}

fn row(dataset: &Name, PastDrill { host, report }: PastDrill) -> PastDrillRow {
    PastDrillRow {
        dataset: dataset.clone(),
        objectives_missed: report.objectives_missed(),
        in_part: report.in_part.is_some(),
        told_level: report.told_level(),
        drill: report.drill,
        finished: report.finished,
        snapshot: report.snapshot,
        passed: report.passed,
        required: report.required,
        reached: report.reached,
        rto_seconds: report.rto_seconds,
        rpo_seconds: report.rpo_seconds,
        restored_bytes: report.restored_bytes,
        replicas_used: report.replicas_used,
        host,
    }
}

impl PastDrillRow {
    fn result(&self) -> String {
        let reached = self.told_level;
        match (self.passed, self.objectives_missed.as_slice()) {
            (true, []) => reached.to_owned(),
            (true, missed) => format!("{reached}, MISSED {}", missed.join(", ")),
            (false, _) => format!("FAILED, reached {reached}"),
        }
    }
}

impl fmt::Display for Drills {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.drills.is_empty() {
            return write!(f, "No drills.");
        }
        let mut table =
            Plain::new(&["DATASET", "DRILLED", "RESULT", "SNAPSHOT", ">RTO", ">RPO", ">RESTORED", "FROM", "BY"]);
        let seconds = |seconds: Option<f64>| seconds.map_or("-".to_owned(), human::seconds);
        for row in &self.drills {
            table.row([
                row.dataset.to_string(),
                human::time(row.finished),
                row.result(),
                row.snapshot.as_ref().map_or("-".to_owned(), ToString::to_string),
                seconds(row.rto_seconds),
                seconds(row.rpo_seconds),
                human::bytes(row.restored_bytes),
                row.replicas_used.iter().map(Name::as_str).collect::<Vec<_>>().join(", "),
                row.host.as_ref().map_or("-".to_owned(), ToString::to_string),
            ]);
        }
        write!(f, "{table}")
    }
}
