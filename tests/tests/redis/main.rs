//! Redis, the whole way, on real servers: capture, restore, throw-away server, proof.
//!
//! Tested with Redis 7.0, and in `valkey` with Valkey 8.1 and 9.1.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod attacks;
mod capture;
mod here;
mod programs;
mod proof;
mod restore;
mod valkey;

use lifeboat_engine::Result;
use lifeboat_engine::databases::redis::{RedisConfig, RedisSource};
use lifeboat_engine::databases::{Source, WorkContext};
use lifeboat_tests::redis::Redis;
use lifeboat_tests::streams::MemoryStreams;
use lifeboat_tests::work::context;
use tempfile::TempDir;

/// A directory that a worker of another user can use.
fn scratch() -> TempDir {
    tempfile::Builder::new().prefix("lifeboat-re-").tempdir_in("/tmp").unwrap()
}

async fn try_captured(config: RedisConfig, cx: &WorkContext) -> Result<MemoryStreams> {
    let mut streams = MemoryStreams::default();
    streams.facts = RedisSource(config).capture(&streams, cx).await?;
    Ok(streams)
}

/// All of a server, as the default user.
async fn captured(server: &Redis) -> MemoryStreams {
    try_captured(server.source(None), &context(&scratch())).await.unwrap()
}

/// The content of a stream.
fn content(streams: &MemoryStreams, name: &str) -> Vec<u8> {
    streams.streams.lock().unwrap()[name].0.clone()
}

/// A stream as text.
fn text(streams: &MemoryStreams, name: &str) -> String {
    String::from_utf8_lossy(&content(streams, name)).into_owned()
}

/// The streams with this in place of one stream.
fn with_content(streams: &MemoryStreams, name: &str, content: Vec<u8>) -> MemoryStreams {
    let changed = MemoryStreams { facts: streams.facts.clone(), ..MemoryStreams::default() };
    changed.order.lock().unwrap().clone_from(&streams.order.lock().unwrap());
    changed.streams.lock().unwrap().clone_from(&streams.streams.lock().unwrap());
    changed.streams.lock().unwrap().get_mut(name).unwrap().0 = content;
    changed
}
