//! Plain objects: written again they mean the same.

use std::fmt::Debug;

use lifeboat_engine::drill::{DrillReport, GroupPart};
use lifeboat_format::id::Name;
use lifeboat_format::info::{HostInfo, VaultInfo};
use lifeboat_format::record::{self, MarkRecord, PruneRecord, RecordBody};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

/// Ranges of acts whose ends are looked at.
const MAX_RANGES: usize = 100;

/// Takes `data` for `vault.json`, a host's description, and a record of a prune, of a mark and of a
/// drill.
pub fn drive(data: &[u8]) -> bool {
    let place = "r1".parse();
    let known = place.is_ok_and(|place| VaultInfo::parse(data, &place).is_ok());
    assert!(!known || back::<VaultInfo>(data).is_some());

    let host = back::<HostInfo>(data);
    let prune = record_of::<PruneRecord>(data);
    if let Some(prune) = &prune {
        passes(prune);
    }
    let mark = record_of::<MarkRecord>(data);
    assert!(mark.is_none() || prune.is_none(), "of two types");
    let drill = record_of::<DrillReport>(data).map(without_fractions);
    if let Some(drill) = &drill {
        same(drill);
        assert!(drill.objectives_missed().is_empty(), "nothing was measured");
        assert!(drill.proof.as_ref().is_none_or(|proof| !proof.is_equal() || proof.differences.is_empty()));
    }
    known || host.is_some() || prune.is_some() || mark.is_some() || drill.is_some()
}

/// The numbers that have passed are those in the ranges, and no others.
fn passes(prune: &PruneRecord) {
    for [first, last] in prune.passed.iter().take(MAX_RANGES) {
        assert!(prune.has_passed(*first) && prune.has_passed(*last), "{first} to {last}");
        for beside in [first - 1, last + 1] {
            let within = prune.passed.iter().any(|[first, last]| (first..=last).contains(&&beside));
            assert_eq!(prune.has_passed(beside), within, "{beside}");
        }
    }
}

/// The body of a record, of the place that it names itself.
fn record_of<B: RecordBody>(data: &[u8]) -> Option<B> {
    let told = read::<Value>(data)?;
    let (vault, dataset) = (told["vault"].as_str()?, told["dataset"].as_str()?.parse::<Name>().ok()?);
    let (envelope, body) = record::read::<B>(data, vault, &dataset, "the input").ok()?;
    assert!(record::read::<B>(data, &format!("{vault}0"), &dataset, "the input").is_err(), "of two vaults");
    if let Some(envelope) = envelope {
        let written = record::write(&envelope, &body).unwrap_or_default();
        let again = record::read::<B>(&written, vault, &dataset, "the input").ok().and_then(|(again, _)| again);
        assert_eq!(again, Some(envelope), "written again it is another one");
    }
    Some(body)
}

fn read<T: DeserializeOwned>(json: &[u8]) -> Option<T> {
    serde_json::from_slice(json).ok()
}

/// What is read, and read again after it was written.
fn back<T: DeserializeOwned + Serialize + PartialEq + Debug>(json: &[u8]) -> Option<T> {
    let value = read(json)?;
    same(&value);
    Some(value)
}

fn same<T: DeserializeOwned + Serialize + PartialEq + Debug>(value: &T) {
    let written = serde_json::to_vec(value).unwrap_or_default();
    assert_eq!(read::<T>(&written).as_ref(), Some(value), "written again it is another one");
}

/// Without its measurements: fractions may be rounded as they are read.
fn without_fractions(report: DrillReport) -> DrillReport {
    let mut phases = report.phases;
    phases.iter_mut().for_each(|phase| phase.seconds = 0.0);
    DrillReport {
        phases,
        rto_seconds: None,
        rpo_seconds: None,
        rto_objective_seconds: None,
        rpo_objective_seconds: None,
        interval_seconds: None,
        group: report.group.map(|group| GroupPart { spread_seconds: 0.0, ..group }),
        ..report
    }
}
