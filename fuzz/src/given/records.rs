//! Plain objects: written again they mean the same.

use std::fmt::Debug;

use lifeboat_engine::drill::DrillReport;
use lifeboat_format::info::{FORMAT_VERSION, HostInfo, VaultInfo};
use lifeboat_format::prune_record::PruneRecord;
use serde::Serialize;
use serde::de::DeserializeOwned;

/// Takes `data` for `vault.json`, a host's description, a prune record and a drill report.
pub fn drive(data: &[u8]) -> bool {
    let vault = back::<VaultInfo>(data);
    let place = "r1".parse();
    let known = place.is_ok_and(|place| VaultInfo::parse(data, &place).is_ok());
    assert_eq!(known, vault.as_ref().is_some_and(|vault| vault.format == FORMAT_VERSION));

    let host = back::<HostInfo>(data);
    let prune = back::<PruneRecord>(data);
    let drill = read::<DrillReport>(data).map(without_fractions);
    if let Some(drill) = &drill {
        same(drill);
        assert!(drill.objectives_missed().is_empty(), "nothing was measured");
        assert!(drill.proof.as_ref().is_none_or(|proof| !proof.is_equal() || proof.differences.is_empty()));
    }
    known || host.is_some() || prune.is_some() || drill.is_some()
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
        ..report
    }
}
