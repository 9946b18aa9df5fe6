//! `verify`: whether every object of the vault exists and is what was signed.

use std::collections::BTreeMap;
use std::fmt;

use lifeboat_engine::base::escape;
use lifeboat_engine::format::id::Name;
use lifeboat_engine::keep::verify;
use lifeboat_engine::keep::verify::VerifyReport;
use lifeboat_engine::restore::Selector;
use lifeboat_engine::{Class, Error, Result};
use serde::Serialize;

use crate::access::Need;
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
    /// Only this snapshot: an id, or `latest`
    #[arg(long, value_name = "ID", value_parser = parse_snapshot, requires = "dataset")]
    snapshot: Option<Selector>,
    /// Also decrypt all data and check every chunk; needs an identity that opens the data
    #[arg(long)]
    read_data: bool,
    #[command(flatten)]
    moment: Moment,
}

#[derive(Serialize)]
struct Verification {
    vault: String,
    replicas: Vec<Name>,
    /// Replicas that could not be verified, and why.
    unreachable: BTreeMap<Name, String>,
    read_data: bool,
    datasets: BTreeMap<Name, VerifyReport>,
}

pub(crate) async fn run(args: &Args, session: &Session) -> Result<()> {
    let place = session.place()?.read_as_of(&args.moment);
    let need = if args.read_data { Need::Packs } else { Need::Manifests };
    let reader = session.reader(&place, need).await?;
    let mut verification = Verification {
        vault: reader.vault_id().to_owned(),
        replicas: reader.replicas().iter().map(|replica| replica.name().clone()).collect(),
        unreachable: reader.unreachable().clone(),
        read_data: args.read_data,
        datasets: BTreeMap::new(),
    };
    for dataset in session.datasets(&reader, args.dataset.as_ref()).await? {
        let look = async {
            let only = match &args.snapshot {
                Some(selector) => Some(reader.select(&dataset, selector, session.clock.now()).await?),
                None => None,
            };
            let now = session.clock.now();
            verify::verify(&reader, &dataset, only.as_ref(), args.read_data, now, &session.cancel).await
        };
        let report = session.cancellable("the verification", look).await?;
        verification.datasets.insert(dataset, report);
    }
    session.out.result(&verification)?;
    verification.verdict()
}

impl Verification {
    /// What cannot be looked at is not verified.
    fn verdict(&self) -> Result<()> {
        let findings: usize = self.datasets.values().map(|report| report.findings.len()).sum();
        if findings > 0 {
            return Err(Error::integrity(format!("{} found", human::count(findings as u64, "problem"))).hint(
                "leave lifeboatd running: it repairs a replica from one that is whole; then run `lifeboat verify` again, or `lifeboat drill` to see what still restores",
            ));
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
