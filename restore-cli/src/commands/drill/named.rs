//! Refuses a name that is nothing that can be drilled, before anything is written of it: neither a
//! report nor a metric of what was mistyped.
//!
//! A dataset that this host has a section for, or has drilled, is never refused: if its snapshots
//! are gone from the vault, its drill has failed, and that must be told.

use lifeboat_engine::config::Config;
use lifeboat_engine::drill::DrillMemory;
use lifeboat_engine::format::id::Name;
use lifeboat_engine::{Class, Error, Result};

use crate::access::Need;
use crate::session::Session;

/// Fails if `name` is that of a group, or if neither this host nor the vault knows such a dataset.
pub(super) async fn refuse_unknown(name: &Name, session: &Session) -> Result<()> {
    // What cannot be opened is told by the drill, which has failed then.
    let Ok(place) = session.place() else { return Ok(()) };
    if let Some(config) = &place.config {
        refuse_group(config, name)?;
        if is_known_here(config, name) {
            return Ok(());
        }
    }
    let Ok(reader) = session.reader_for(name, &place, Need::Manifests).await else { return Ok(()) };
    // A replica that does not answer may be the one that has it.
    if !reader.unreachable().is_empty() {
        return Ok(());
    }
    match session.datasets(&reader, Some(name)).await {
        Err(error) if error.class() == Class::Usage => Err(error),
        _ => Ok(()),
    }
}

fn refuse_group(config: &Config, name: &Name) -> Result<()> {
    match config.group(name) {
        Some(_) => Err(Error::usage(format!("{name} is a group")).hint(format!("run `lifeboat drill --group {name}`"))),
        None => Ok(()),
    }
}

/// Fails if `name` is that of a dataset.
pub(super) fn refuse_dataset(config: &Config, name: &Name) -> Result<()> {
    match config.dataset(name) {
        Some(_) => {
            Err(Error::usage(format!("{name} is a dataset, not a group")).hint(format!("run `lifeboat drill {name}`")))
        }
        None => Ok(()),
    }
}

/// Whether this host has a section for it, or has drilled it. An attempt that failed says nothing:
/// older versions recorded those of names that nobody knows.
fn is_known_here(config: &Config, name: &Name) -> bool {
    let attempts = DrillMemory::of(&config.state_directory, name).attempts();
    config.dataset(name).is_some() || attempts.map_or(true, |all| all.iter().any(|attempt| !attempt.failed))
}
