//! The figures of snapshots by which their history is judged.

use lifeboat_format::manifest::Manifest;

use super::messages::{Captured, MAP_OF};
use crate::anomaly::{RunFigures, StreamFigures};

/// What this run captured. When, and what it could be compared with, is not known here.
pub(super) fn figures_of_captured(captured: &Captured) -> RunFigures {
    let streams = captured.streams.iter().filter(|stream| !stream.name.starts_with(MAP_OF));
    RunFigures {
        measured: true,
        streams: streams.map(|stream| (stream.name.clone(), stream.figures)).collect(),
        ..RunFigures::default()
    }
}

/// What a manifest tells of its snapshot: sizes.
pub(super) fn figures_of_manifest(manifest: &Manifest) -> RunFigures {
    let size = |bytes| StreamFigures { bytes, ..StreamFigures::default() };
    RunFigures {
        at: manifest.started,
        partial: !manifest.source.skipped.is_empty(),
        streams: manifest.streams.iter().map(|stream| (stream.name.clone(), size(stream.length))).collect(),
        ..RunFigures::default()
    }
}
