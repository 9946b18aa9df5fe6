//! `verify`: whether every object of the vault exists and is what was signed.
//!
//! With `--repair`, what is damaged is replaced, and what `lifeboat repair` does follows. Then what
//! was wrong is looked at again.

use std::collections::BTreeMap;
use std::fmt;

use lifeboat_engine::base::escape;
use lifeboat_engine::config::Config;
use lifeboat_engine::format::id::Name;
use lifeboat_engine::format::layout;
use lifeboat_engine::keep::reading::{Coverage, PackReading, PackShare, PacksRead};
use lifeboat_engine::keep::repair::{self, RepairReport};
use lifeboat_engine::keep::scrub::Mended;
use lifeboat_engine::keep::verify;
use lifeboat_engine::keep::verify::VerifyReport;
use lifeboat_engine::restore::Selector;
use lifeboat_engine::{Class, Error, Result};
use serde::Serialize;

use super::opened::{OpenedDataset, refuse_single_replica};
use super::repair::{ReportView, STILL_DAMAGED, verdict};
use crate::access::{self, Need};
use crate::flags::{Moment, parse_snapshot};
use crate::human;
use crate::session::Session;
use crate::table::Plain;

/// Verify that every object exists in every replica and matches its hash and signature; exit 6 if
/// one does not
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Only this dataset
    dataset: Option<Name>,
    /// Only this snapshot: an id or the beginning of one, or `latest`
    #[arg(long, value_name = "ID", value_parser = parse_snapshot, requires = "dataset")]
    snapshot: Option<Selector>,
    /// Also decrypt all data and check every chunk; needs an identity that opens the data
    #[arg(long)]
    read_data: bool,
    /// Of the packs, read only a random share of their bytes, such as 5%; of the others, check that
    /// they are there and how long they are
    #[arg(long, value_name = "PERCENT", value_parser = parse_percent)]
    read_data_subset: Option<f64>,
    /// Choose the packs as the run did that told this seed
    #[arg(long, value_name = "NUMBER", requires = "read_data_subset")]
    seed: Option<u64>,
    /// Replace what is damaged with a whole copy of another replica, then put back what is missing
    /// as `lifeboat repair` does; runs on a backup host
    #[arg(long, conflicts_with_all = ["snapshot", "as_of"])]
    repair: bool,
    #[command(flatten)]
    moment: Moment,
}

fn parse_percent(text: &str) -> Result<f64, String> {
    let percent = text.strip_suffix('%').unwrap_or(text).parse::<f64>().ok();
    percent
        .filter(|percent| *percent > 0.0 && *percent <= 100.0)
        .ok_or_else(|| format!("`{text}` is no share: write more than 0 % and up to 100 %, such as 5%"))
}

#[derive(Serialize)]
struct Verification {
    vault: String,
    replicas: Vec<Name>,
    /// Replicas that could not be verified, and why.
    unreachable: BTreeMap<Name, String>,
    read_data: bool,
    /// The share of the packs that was read, if not all.
    subset: Option<PackShare>,
    datasets: BTreeMap<Name, VerifyReport>,
    /// Datasets of other hosts, for which this one has no keys.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    left_out: Vec<Name>,
    /// What `--repair` did.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    repairs: BTreeMap<Name, RepairReport>,
}

pub(crate) async fn run(args: &Args, session: &Session) -> Result<()> {
    let place = session.place()?.read_as_of(args.moment.seen_from(session.clock.now()));
    if args.repair {
        refuse_single_replica(session)?;
    }
    let share = args.read_data_subset.map(|percent| match args.seed {
        Some(seed) => PackShare { percent, seed },
        None => PackShare::random(percent),
    });
    let packs = share.map_or(PacksRead::All, PacksRead::Share);
    let reading = PackReading { decrypt: args.read_data, packs };
    let need = if args.read_data { Need::Packs } else { Need::Manifests };
    let reader = session.reader(&place, need).await?;
    let mut verification = Verification {
        vault: reader.vault_id().to_owned(),
        replicas: reader.replicas().iter().map(|replica| replica.name().clone()).collect(),
        unreachable: reader.unreachable().clone(),
        read_data: args.read_data,
        subset: share,
        datasets: BTreeMap::new(),
        left_out: Vec::new(),
        repairs: BTreeMap::new(),
    };
    let mut failed = None;
    // What nobody asked for, and this host's own keys do not open, says nothing about the vault.
    let is_hosts_own = |config: &&Config| {
        args.dataset.is_none() && session.globals.identities.is_empty() && !config.datasets.is_empty()
    };
    let host = place.config.as_ref().filter(is_hosts_own).and_then(access::host_keys);
    for dataset in session.datasets(&reader, args.dataset.as_ref()).await? {
        if host.as_ref().is_some_and(|keys| keys.dataset(&dataset).is_err()) {
            session.out.note(format!(
                "dataset {dataset} was not verified, because this host has no keys for it: pass --identity with one that opens it"
            ));
            verification.left_out.push(dataset);
            continue;
        }
        let look = async {
            let only = match &args.snapshot {
                Some(selector) => Some(reader.select(&dataset, selector, session.clock.now()).await?),
                None => None,
            };
            // The past is not judged by what has become of it.
            let now = place.as_of.unwrap_or_else(|| session.clock.now());
            verify::verify(&reader, &dataset, only.as_ref(), reading.clone(), now, &session.cancel).await
        };
        let mut report = session.cancellable("the verification", look).await?;
        let is_ours = place.config.as_ref().is_some_and(|config| config.dataset(&dataset).is_some());
        if args.repair && (is_ours || args.dataset.is_some()) {
            // What was found is shown, whatever becomes of a repair.
            let repaired = match repair_all(&dataset, &report, session).await {
                Ok(repaired) => repaired,
                Err(error) => {
                    failed.get_or_insert(error.within(format!("dataset {dataset} was not repaired")));
                    verification.datasets.insert(dataset, report);
                    continue;
                }
            };
            if !report.findings.is_empty() {
                let damaged = report.findings.iter().filter_map(|found| layout::parse_pack(&dataset, &found.object));
                let again = PackReading { decrypt: args.read_data, packs: PacksRead::Only(damaged.collect()) };
                let look = verify::verify(&reader, &dataset, None, again, session.clock.now(), &session.cancel);
                let left = session.cancellable("the verification", look).await?;
                report = VerifyReport { findings: left.findings, notes: left.notes, ..report };
            }
            verification.repairs.insert(dataset.clone(), repaired);
        }
        verification.datasets.insert(dataset, report);
    }
    session.out.result(&verification)?;
    match failed {
        Some(error) => Err(error),
        None => verification.verdict(),
    }
}

/// Does what `lifeboat repair` does, and looks at what `report` calls wrong.
async fn repair_all(dataset: &Name, report: &VerifyReport, session: &Session) -> Result<RepairReport> {
    let suspects: Vec<(Name, String)> =
        report.findings.iter().map(|finding| (finding.replica.clone(), finding.object.clone())).collect();
    let opened = OpenedDataset::open(dataset, session).await?;
    let _lock = opened.lock().await?;
    // Not dropped half-way: it stops by itself between two objects.
    repair::repair(&opened.prune(session)?, Some(&suspects)).await
}

impl Verification {
    /// What cannot be looked at is not verified.
    fn verdict(&self) -> Result<()> {
        let findings: usize = self.datasets.values().map(|report| report.findings.len()).sum();
        let is_told = |mended: &&Mended| {
            self.datasets.values().flat_map(|report| &report.findings).any(|found| found.object == mended.object)
        };
        let damaged = self.repairs.values().flat_map(RepairReport::still_damaged).filter(|mended| !is_told(mended));
        let problems = findings + damaged.count();
        if problems > 0 {
            let unrepaired = self
                .datasets
                .iter()
                .any(|(dataset, report)| !report.findings.is_empty() && !self.repairs.contains_key(dataset));
            let (left, hint) = if unrepaired {
                (
                    "found",
                    "run `lifeboat verify --repair` on the backup host of the dataset, which repairs a replica from one that is whole, or leave lifeboatd running there, which does so in its idle time; `lifeboat drill` shows what still restores",
                )
            } else {
                ("left", STILL_DAMAGED)
            };
            return Err(Error::integrity(format!("{} {left}", human::count(problems as u64, "problem"))).hint(hint));
        }
        // What is lost is graver than what could not be looked at.
        let mut failed: Vec<Error> = self.repairs.values().filter_map(|report| verdict(report).err()).collect();
        failed.sort_by_key(|error| error.class() != Class::Integrity);
        if let Some(error) = failed.into_iter().next() {
            return Err(error);
        }
        if self.datasets.is_empty() && !self.left_out.is_empty() {
            return Err(Error::keys("nothing was verified: this host has the keys of no dataset in the vault")
                .hint("pass --identity with one that opens them"));
        }
        if self.unreachable.is_empty() {
            return Ok(());
        }
        let names: Vec<&str> = self.unreachable.keys().map(Name::as_str).collect();
        Err(Error::new(
            Class::Storage,
            format!("some replicas did not answer and were not verified: {}", names.join(", ")),
        )
        .hint("run `lifeboat check` to see why; pass --replica NAME to verify one replica alone"))
    }
}

impl fmt::Display for Verification {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut table = Plain::new(&["DATASET", ">SNAPSHOTS", ">PACKS", ">READ", ">DECRYPTED", ">PROBLEMS"]);
        for (dataset, report) in &self.datasets {
            table.row([
                dataset.to_string(),
                report.snapshots.to_string(),
                report.packs.to_string(),
                human::bytes(report.bytes),
                if self.read_data { human::bytes(report.decrypted_bytes) } else { "-".to_owned() },
                report.findings.len().to_string(),
            ]);
        }
        write!(f, "{table}")?;
        for finding in self.datasets.values().flat_map(|report| &report.findings) {
            let (object, problem) = (escape::line(&finding.object), escape::line(&finding.problem));
            write!(f, "\n\nPROBLEM in replica {}: {object}\n  {problem}", finding.replica)?;
        }
        if let Some(PackShare { percent, seed }) = self.subset {
            for (dataset, report) in &self.datasets {
                let Coverage { packs, of_packs, bytes, of_bytes } = report.coverage;
                let (bytes, of_bytes) = (human::bytes(bytes), human::bytes(of_bytes));
                write!(
                    f,
                    "\n read {percent} % of {dataset}: {packs} of {of_packs} packs, {bytes} of {of_bytes}; the same again with --seed {seed}"
                )?;
            }
        }
        for report in self.repairs.values() {
            write!(f, "\n\n{}", ReportView(report))?;
        }
        for note in self.datasets.values().flat_map(|report| &report.notes) {
            write!(f, "\n note: {}", escape::line(note))?;
        }
        Ok(())
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;
    use lifeboat_engine::keep::verify::Finding;

    fn verification() -> Verification {
        Verification {
            vault: "v".to_owned(),
            replicas: vec!["north".parse().unwrap()],
            unreachable: BTreeMap::new(),
            read_data: false,
            subset: None,
            left_out: Vec::new(),
            repairs: BTreeMap::new(),
            datasets: BTreeMap::from([("shop".parse().unwrap(), VerifyReport::default())]),
        }
    }

    #[test]
    fn a_finding_is_an_integrity_error_even_while_a_replica_is_away() {
        let mut found = verification();
        assert!(found.verdict().is_ok());
        found.unreachable.insert("south".parse().unwrap(), "timed out".to_owned());
        assert_eq!(found.verdict().unwrap_err().class(), Class::Storage);
        let finding = Finding {
            replica: "north".parse().unwrap(),
            object: "datasets/shop/packs/aa/x".to_owned(),
            problem: "is missing".to_owned(),
        };
        found.datasets.values_mut().next().unwrap().findings.push(finding);
        assert_eq!(found.verdict().unwrap_err().class(), Class::Integrity);
        assert!(found.to_string().contains("PROBLEM in replica north: datasets/shop/packs/aa/x\n  is missing"));
    }
}
