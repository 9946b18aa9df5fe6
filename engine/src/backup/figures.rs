//! The figures of snapshots by which their history is judged.

use std::collections::BTreeMap;

use lifeboat_databases::{Database, registry};
use lifeboat_format::id::SnapshotId;
use lifeboat_format::manifest::Manifest;

use super::Backup;
use super::fleet::Fleet;
use super::messages::{Captured, MAP_OF};
use crate::anomaly::{RunFigures, StreamFigures};
use crate::state::watch;

/// What this run captured. When, and what it could be compared with, is not known here.
pub(super) fn figures_of_captured(captured: &Captured, engine: &dyn Database) -> RunFigures {
    let streams = captured.streams.iter().filter(|stream| !stream.name.starts_with(MAP_OF));
    let each = streams.map(|stream| (stream.name.as_str(), stream.figures));
    RunFigures { measured: true, streams: wholes(each, Some(engine)), ..RunFigures::default() }
}

/// The figures of streams, and of those that go on with each other, together.
fn wholes<'a>(
    each: impl Iterator<Item = (&'a str, StreamFigures)>,
    engine: Option<&dyn Database>,
) -> BTreeMap<String, StreamFigures> {
    let mut wholes = BTreeMap::<String, StreamFigures>::new();
    for (name, figures) in each {
        let whole = wholes.entry(engine.map_or(name, |engine| engine.whole_of(name)).to_owned()).or_default();
        *whole = whole.with(&figures);
    }
    wholes
}

/// What a manifest tells of its snapshot: sizes.
pub(super) fn figures_of_manifest(manifest: &Manifest) -> RunFigures {
    let size = |bytes| StreamFigures { bytes, ..StreamFigures::default() };
    RunFigures {
        at: manifest.started,
        partial: !manifest.source.skipped.is_empty(),
        streams: wholes(
            manifest.streams.iter().map(|stream| (stream.name.as_str(), size(stream.length))),
            registry::find(&manifest.source.engine),
        ),
        ..RunFigures::default()
    }
}

/// The figures of snapshots before this run that may not have been judged, oldest first. One that
/// no replica shows was not committed, if all of them answer.
pub(super) fn figures_before(
    run: &Backup<'_>,
    fleet: &Fleet,
    predecessor: Option<&Manifest>,
) -> Vec<(SnapshotId, RunFigures)> {
    let members = fleet.members();
    let stands = |snapshot: &SnapshotId| {
        members.len() < run.replicas.len() || members.iter().any(|member| member.snapshots.contains(snapshot))
    };
    // Where they cannot be read, the verdict on this run fails, too.
    let mut unjudged = watch::unjudged(run.state, &run.dataset.name).unwrap_or_default();
    unjudged.retain(|(snapshot, _)| stands(snapshot));
    let before = predecessor.filter(|before| unjudged.iter().all(|(snapshot, _)| *snapshot != before.snapshot));
    unjudged.extend(before.map(|before| (before.snapshot.clone(), figures_of_manifest(before))));
    unjudged
}
