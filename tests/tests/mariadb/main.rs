//! MariaDB, the whole way, on real servers: capture, restore, throw-away server, proof.
//!
//! Tested with MariaDB 10.11.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod attacks;
mod capture;
mod here;
mod programs;
mod proof;
mod restore;
mod rights;
mod versions;

use lifeboat_engine::Result;
use lifeboat_engine::databases::mariadb::{MariaConfig, MariaSource};
use lifeboat_engine::databases::{Source, WorkContext};
use lifeboat_tests::mariadb::MariaDb;
use lifeboat_tests::streams::MemoryStreams;
use lifeboat_tests::work::context;
use tempfile::TempDir;

/// Everything that can go wrong in a dump, a load or a comparison.
const AWKWARD: &str = include_str!("awkward.sql");

/// A directory that a worker of another user can use.
fn scratch() -> TempDir {
    tempfile::Builder::new().prefix("lifeboat-my-").tempdir_in("/tmp").unwrap()
}

async fn try_captured(config: MariaConfig, cx: &WorkContext) -> Result<MemoryStreams> {
    let mut streams = MemoryStreams::default();
    streams.facts = MariaSource(config).capture(&streams, cx).await?;
    Ok(streams)
}

/// All of a server, as `root`.
async fn captured(server: &MariaDb) -> MemoryStreams {
    try_captured(server.source("root"), &context(&scratch())).await.unwrap()
}

/// A stream as text.
fn text(streams: &MemoryStreams, name: &str) -> String {
    String::from_utf8_lossy(&streams.streams.lock().unwrap()[name].0).into_owned()
}

/// The streams with this text in place of one stream.
fn with_text(streams: &MemoryStreams, name: &str, text: String) -> MemoryStreams {
    let changed = MemoryStreams { facts: streams.facts.clone(), ..MemoryStreams::default() };
    changed.order.lock().unwrap().clone_from(&streams.order.lock().unwrap());
    changed.streams.lock().unwrap().clone_from(&streams.streams.lock().unwrap());
    changed.streams.lock().unwrap().get_mut(name).unwrap().0 = text.into_bytes();
    changed
}
