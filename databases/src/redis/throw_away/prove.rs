//! Takes a dump of the throw-away server again, and compares.

use std::time::Duration;

use lifeboat_base::Result;

use super::server::RedisThrowAwayServer;
use super::stored::{digest_of_file, digest_of_stream};
use crate::database::WorkContext;
use crate::proof::ProofResult;
use crate::proof::multiset::{ProofKey, Titled, shorten, tell};
use crate::redis::rdb::RdbDigest;
use crate::redis::users::RedisUsers;
use crate::redis::{DUMP_STREAM, USERS_STREAM, version_of};
use crate::streams::StoredStreams;

/// A server says nothing while it saves.
const MAX_REDIS_SAVE_TIME: Duration = Duration::from_secs(12 * 3600);

/// Compares the throw-away server with the snapshot. `now` is its clock, in milliseconds.
pub(super) async fn prove(
    server: &RedisThrowAwayServer,
    streams: &dyn StoredStreams,
    now: i64,
    cx: &WorkContext,
) -> Result<ProofResult> {
    let key: ProofKey = rand::random();
    let patient = WorkContext { stall: MAX_REDIS_SAVE_TIME, ..cx.clone() };
    let saved = server.connection()?.values(&["SAVE"], &patient).await;
    // The server answers no more than that it failed.
    saved.map_err(|error| {
        error.within(format!("cannot dump the restored server again, whose log ends with: {}", server.log()))
    })?;
    let stored = digest_of_stream(streams.open(DUMP_STREAM).await?, key, now, cx).await?;
    let restored = digest_of_file(&server.dump(), key, now, Some(stored.version), cx).await?;
    let mut proof = ProofResult {
        source_version: streams.facts().server_version.clone(),
        server_version: Some(server.version().told()),
        ..ProofResult::default()
    };
    compare_dumps(&stored, &restored, &key, &mut proof);
    compare_users(server, streams, &key, &mut proof, cx).await?;
    if stored.expired > 0 {
        proof.notes.push(format!(
            "{} keys had expired by the time of the drill: they were kept and compared like all others",
            stored.expired
        ));
    }
    if stored.empty > 0 {
        proof.notes.push(format!(
            "{} keys have no element: an error of an old server, and no server loads such; redis-check-rdb refuses \
             them, so it was not run",
            stored.empty
        ));
    }
    if !stored.is_checked {
        proof.notes.push("the dump has no checksum: the server has rdbchecksum no".to_owned());
    }
    shorten(&mut proof);
    Ok(proof)
}

fn compare_dumps(stored: &RdbDigest, restored: &RdbDigest, key: &ProofKey, proof: &mut ProofResult) {
    let (keys, keys_again) = (stored.keys(), restored.keys());
    proof.tables += keys.len() as u64;
    proof.rows += stored.key_count();
    tell("all", "keys", &keys, &keys_again, &mut proof.differences);
    let (times, times_again) = (stored.expiries(), restored.expiries());
    tell("expiry of", "times", &times, &times_again, &mut proof.differences);
    let (definitions, definitions_again) = (definitions(stored, key), definitions(restored, key));
    proof.definitions += definitions.values().map(|texts| texts.count).sum::<u64>();
    tell("definition of", "texts", &definitions, &definitions_again, &mut proof.differences);
}

/// Functions, and which databases hold how many keys: also of an empty server there is something to
/// compare.
fn definitions(of: &RdbDigest, key: &ProofKey) -> Titled {
    let mut definitions = Titled::from([("libraries of functions".to_owned(), of.functions())]);
    let mut counts = blake3::Hasher::new_keyed(key);
    for (database, count) in of.key_counts() {
        counts.update(&database.to_le_bytes()).update(&count.to_le_bytes());
    }
    definitions.entry("numbers of keys".to_owned()).or_default().add(&counts);
    definitions
}

async fn compare_users(
    server: &RedisThrowAwayServer,
    streams: &dyn StoredStreams,
    key: &ProofKey,
    proof: &mut ProofResult,
    cx: &WorkContext,
) -> Result<()> {
    if !streams.names().iter().any(|name| name == USERS_STREAM) {
        proof.notes.push("the snapshot holds no users: its warnings say why".to_owned());
        return Ok(());
    }
    let captured = version_of(streams.facts())?;
    if captured.series != server.version().series {
        let notes =
            "users were loaded but not compared, as a server of another version writes their rules in other words";
        proof.notes.push(notes.to_owned());
        return Ok(());
    }
    let titled = |users: &RedisUsers| {
        let mut titled = Titled::new();
        for (name, rules) in users.in_order() {
            let mut hasher = blake3::Hasher::new_keyed(key);
            hasher.update(rules.as_bytes());
            titled.entry(format!("user {}", name.escape_debug())).or_default().add(&hasher);
        }
        titled
    };
    let stored = titled(&RedisUsers::of_stream(streams, USERS_STREAM).await?);
    let restored = titled(&server.users(cx).await?);
    proof.definitions += stored.len() as u64;
    tell("definition of", "texts", &stored, &restored, &mut proof.differences);
    Ok(())
}
