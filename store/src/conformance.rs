//! The conformance suite: it tests the guarantees of [`Replica`] on any replica.
//!
//! [`conforms`] needs an empty replica, and panics where a guarantee is broken:
//!
//! - `put_new` creates an object, refuses a key that exists, and leaves the existing object alone.
//! - Of several concurrent `put_new` with one key, exactly one succeeds, and its body is stored.
//! - While `put_replace` runs, readers see the old object or the new one, whole.
//! - A missing object is reported as missing, also if its key is a folder or a prefix of another.
//! - Bodies from 0 bytes to 17 MiB come back as they were, with their size and a sensible time.
//! - A body of as many bytes as the caller allows comes; one that is a byte longer is refused, with
//!   its size.
//! - Every legal key works: 512 bytes long, with dots, in upper and lower case.
//! - An illegal key is refused by every operation.
//! - A listing is complete, sorted, and takes any prefix.
//! - `delete` succeeds also if the object is gone.
//! - `probe` tells the truth, leaves nothing to be seen, and without `write` only reads.
//! - A `put_new` that is dropped midway leaves the whole object or nothing.
//!
//! Every replica of this crate passes it: directory, memory, S3 against real servers, and each with
//! gate, retries and a cap on the bandwidth.
//!
//! The suite cannot show that a body survives a power cut, or that a store behaves elsewhere as it
//! does here. `lifeboat check` probes each store where it is.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a broken guarantee ends the test")]

use std::collections::BTreeSet;
use std::time::Duration;

use bytes::Bytes;
use futures::stream::{self, StreamExt};
use lifeboat_base::clock::SystemClock;
use tokio::time::Instant;

use crate::guards::Guards;
use crate::replica::{Probe, Replica, ReplicaError, ReplicaErrorKind, SharedReplica};

/// No body of the suite is longer.
const MAX_BODY_BYTES: u64 = 17 << 20;

/// What a probe finds in a replica without versions and locks, where all is permitted.
#[must_use]
pub fn all_permitted() -> Probe {
    Probe {
        conditional_writes: Some(true),
        versioning: Some(false),
        object_lock: Some(false),
        can_write: Some(true),
        can_delete: Some(true),
        clock_skew_seconds: None,
        guards: Guards::default(),
    }
}

/// Tests every guarantee on an empty replica, and leaves it empty. `expected` is what its probe
/// must find; of the clock's skew, only whether it is known is compared.
///
/// # Panics
/// If a guarantee is broken.
pub async fn conforms(replica: SharedReplica, expected: &Probe) {
    put_new_creates_and_leaves_existing_objects_alone(&*replica).await;
    put_replace_is_atomic(&replica).await;
    missing_objects_are_missing(&*replica).await;
    bodies_from_nothing_to_17_mib_come_back(&*replica).await;
    odd_but_legal_keys_work(&*replica).await;
    illegal_keys_are_refused(&*replica).await;
    listings_are_complete_sorted_and_by_any_prefix(&*replica).await;
    delete_is_idempotent(&*replica).await;
    of_concurrent_put_new_one_wins(&replica).await;
    many_are_removed_and_no_other(&*replica).await;
    probe_is_truthful_and_leaves_nothing(&*replica, expected).await;
    cancelled_put_leaves_all_or_nothing(&replica).await;
}

async fn put_new_creates_and_leaves_existing_objects_alone(replica: &dyn Replica) {
    let key = "new/object";
    replica.put_new(key, Bytes::from_static(b"first")).await.unwrap();
    let refused = replica.put_new(key, Bytes::from_static(b"second")).await.unwrap_err();
    assert!(matches!(refused.kind, ReplicaErrorKind::AlreadyExists), "{refused}");
    assert_eq!(replica.get(key, MAX_BODY_BYTES).await.unwrap(), "first");
    replica.delete(key).await.unwrap();
    replica.put_new(key, Bytes::from_static(b"third")).await.unwrap();
    assert_eq!(replica.get(key, MAX_BODY_BYTES).await.unwrap(), "third");
    replica.delete(key).await.unwrap();
}

async fn of_concurrent_put_new_one_wins(replica: &SharedReplica) {
    for round in 0..5 {
        let key = format!("race/{round}");
        let racers = (0..8).map(|racer: u8| {
            let (replica, key) = (replica.clone(), key.clone());
            tokio::spawn(async move { replica.put_new(&key, Bytes::from(vec![racer; 100_000])).await.map(|()| racer) })
        });
        let mut winners = Vec::new();
        for outcome in futures::future::join_all(racers).await {
            match outcome.unwrap() {
                Ok(racer) => winners.push(racer),
                // A store may also say "conflict, try later", but never "created" twice.
                Err(error) => assert!(
                    matches!(error.kind, ReplicaErrorKind::AlreadyExists | ReplicaErrorKind::Unavailable(_)),
                    "{error}"
                ),
            }
        }
        assert_eq!(winners.len(), 1, "round {round}: {winners:?} won");
        assert_eq!(replica.get(&key, MAX_BODY_BYTES).await.unwrap(), vec![winners[0]; 100_000]);
        replica.delete(&key).await.unwrap();
    }
}

async fn put_replace_is_atomic(replica: &SharedReplica) {
    const BODY_BYTES: usize = 1024 * 1024;
    let key = "replaced";
    replica.put_replace(key, Bytes::from(vec![0; BODY_BYTES])).await.unwrap();
    let writer = tokio::spawn({
        let replica = replica.clone();
        async move {
            for version in 1..=12 {
                replica.put_replace(key, Bytes::from(vec![version; BODY_BYTES + usize::from(version)])).await.unwrap();
            }
        }
    });
    while !writer.is_finished() {
        // A replica that never waits must not keep the writer from its turn.
        tokio::task::yield_now().await;
        let seen = replica.get(key, MAX_BODY_BYTES).await.unwrap();
        let version = seen[0];
        assert_eq!(seen.len(), BODY_BYTES + usize::from(version), "a mixture of versions");
        assert!(seen.iter().all(|byte| *byte == version), "a mixture of versions");
    }
    writer.await.unwrap();
    assert_eq!(replica.get(key, MAX_BODY_BYTES).await.unwrap()[0], 12);
    replica.delete(key).await.unwrap();
}

async fn missing_objects_are_missing(replica: &dyn Replica) {
    replica.put_new("folder/object", Bytes::from_static(b"x")).await.unwrap();
    for missing in ["nothing", "folder", "folder/object/below", "folder/objec"] {
        let error = replica.get(missing, MAX_BODY_BYTES).await.unwrap_err();
        assert!(error.is_not_found(), "{error}");
        assert_eq!(error.key, missing);
        assert_eq!(replica.head(missing).await.unwrap(), None);
    }
    replica.delete("folder/object").await.unwrap();
}

async fn bodies_from_nothing_to_17_mib_come_back(replica: &dyn Replica) {
    let before = SystemClock::shared().now();
    let bytes = noise(17 * 1024 * 1024);
    for (key, body) in [("size/nothing", Bytes::new()), ("size/large", Bytes::from(bytes))] {
        replica.put_new(key, body.clone()).await.unwrap();
        assert_eq!(replica.get(key, body.len() as u64).await.unwrap(), body);
        if let Some(limit) = (body.len() as u64).checked_sub(1) {
            let refused = replica.get(key, limit).await.unwrap_err();
            assert!(
                matches!(refused.kind, ReplicaErrorKind::TooLong { size, limit: told } if size > limit && told == limit),
                "{refused}"
            );
            assert!(!refused.is_retryable() && refused.key == key, "{refused}");
        }
        let meta = replica.head(key).await.unwrap().unwrap();
        assert_eq!((meta.key.as_str(), meta.size), (key, body.len() as u64));
        assert!((meta.modified - before).num_seconds().abs() < 60, "modified {}", meta.modified);
        replica.delete(key).await.unwrap();
    }
}

/// Bytes that do not compress (xorshift64, Marsaglia 2003); the same at each call.
fn noise(length: usize) -> Vec<u8> {
    let mut state = 0x9E37_79B9_7F4A_7C15_u64;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    };
    std::iter::repeat_with(&mut next).flatten().take(length).collect()
}

async fn odd_but_legal_keys_work(replica: &dyn Replica) {
    let longest = format!("odd/{}/{}", "x".repeat(200), "y".repeat(200));
    let odd = ["odd/-", "odd/_", "odd/a..b", "odd/trailing.", "odd/UPPER", "odd/upper", "odd/-._-/0", longest.as_str()];
    for key in odd {
        replica.put_new(key, Bytes::copy_from_slice(key.as_bytes())).await.unwrap();
    }
    let listed: BTreeSet<String> = replica.list("odd/").await.unwrap().into_iter().map(|meta| meta.key).collect();
    assert_eq!(listed, odd.into_iter().map(str::to_owned).collect());
    for key in odd {
        assert_eq!(replica.get(key, MAX_BODY_BYTES).await.unwrap(), key);
        replica.delete(key).await.unwrap();
    }
}

async fn illegal_keys_are_refused(replica: &dyn Replica) {
    for key in ["", "/", "/etc/passwd", "../escape", "a/../../escape", "a//b", "a/", ".hidden", "sp ace", "ä", "nul\0"]
    {
        let outcomes: [Result<(), ReplicaError>; 5] = [
            replica.put_new(key, Bytes::new()).await,
            replica.put_replace(key, Bytes::new()).await,
            replica.get(key, MAX_BODY_BYTES).await.map(drop),
            replica.head(key).await.map(drop),
            replica.delete(key).await,
        ];
        for outcome in outcomes {
            let error = outcome.expect_err(key);
            assert!(matches!(error.kind, ReplicaErrorKind::Other(_)), "{error}");
        }
    }
}

async fn listings_are_complete_sorted_and_by_any_prefix(replica: &dyn Replica) {
    const OBJECTS: usize = 1037;
    assert_eq!(replica.list("").await.unwrap(), []);
    let key = |number: usize| format!("many/{:02x}/{number:05}", number % 7);
    stream::iter(0..OBJECTS)
        .for_each_concurrent(16, |number| async move {
            replica.put_new(&key(number), Bytes::from(vec![0; number % 3])).await.unwrap();
        })
        .await;
    replica.put_new("manyfold", Bytes::new()).await.unwrap();

    let all = replica.list("").await.unwrap();
    assert_eq!(all.len(), OBJECTS + 1);
    assert!(all.is_sorted_by(|a, b| a.key < b.key));
    for number in [0, 1, OBJECTS - 1] {
        let meta = all.iter().find(|meta| meta.key == key(number)).unwrap();
        assert_eq!(meta.size, (number % 3) as u64);
    }
    for (prefix, expected) in [
        ("many", OBJECTS + 1),
        ("many/", OBJECTS),
        ("many/0", OBJECTS),
        ("many/03/", 148),
        ("many/03/0000", 1),
        ("many/03/00003", 1),
        ("many/03/00003/", 0),
        ("any", 0),
        ("../", 0),
    ] {
        let listed = replica.list(prefix).await.unwrap();
        assert_eq!(listed.len(), expected, "prefix {prefix}");
        assert!(listed.iter().all(|meta| meta.key.starts_with(prefix)), "prefix {prefix}");
    }

    stream::iter(all).for_each_concurrent(16, |meta| async move { replica.delete(&meta.key).await.unwrap() }).await;
    assert_eq!(replica.list("").await.unwrap(), []);
}

async fn delete_is_idempotent(replica: &dyn Replica) {
    replica.put_new("gone", Bytes::from_static(b"x")).await.unwrap();
    replica.delete("gone").await.unwrap();
    replica.delete("gone").await.unwrap();
    replica.delete("never/was").await.unwrap();
    assert_eq!(replica.head("gone").await.unwrap(), None);
}

async fn many_are_removed_and_no_other(replica: &dyn Replica) {
    let keys: Vec<String> = (0..30).map(|n| format!("many/{n}.x-y_z")).collect();
    for key in keys.iter().skip(1) {
        replica.put_new(key, Bytes::from_static(b"x")).await.unwrap();
    }
    replica.put_new("many/stays", Bytes::from_static(b"x")).await.unwrap();
    // The first was never there.
    let failed = [replica.delete_all(&keys).await.unwrap().failed, replica.delete_all(&[]).await.unwrap().failed];
    assert!(failed.iter().all(Vec::is_empty), "{failed:?}");
    let left: Vec<String> = replica.list("many/").await.unwrap().into_iter().map(|object| object.key).collect();
    assert_eq!(left, ["many/stays"]);
    // What cannot be removed holds up nothing behind it.
    let failed = replica.delete_all(&["../x".to_owned(), "many/stays".to_owned()]).await.unwrap().failed;
    assert_eq!(failed.iter().map(|error| error.key.as_str()).collect::<Vec<_>>(), ["../x"]);
    assert_eq!(replica.list("many/").await.unwrap(), []);
}

async fn probe_is_truthful_and_leaves_nothing(replica: &dyn Replica, expected: &Probe) {
    let probe = replica.probe(true).await.unwrap();
    assert!(probe.clock_skew_seconds.is_none_or(|skew| skew.abs() <= 2), "{probe:?}");
    assert_eq!(probe.clock_skew_seconds.is_some(), expected.clock_skew_seconds.is_some());
    let offset = replica.clock_offset(chrono::TimeDelta::MAX);
    assert_eq!(offset.is_some(), expected.clock_skew_seconds.is_some());
    assert!(offset.is_none_or(|offset| offset.num_seconds().abs() <= 2), "{offset:?}");
    // What guards it depends on the credentials.
    let guards = expected.guards.clone();
    assert_eq!(Probe { clock_skew_seconds: expected.clock_skew_seconds, guards, ..probe }, *expected);

    let probe = replica.probe(false).await.unwrap();
    assert_eq!((probe.can_write, probe.can_delete, probe.conditional_writes), (None, None, None));
    assert_eq!((probe.versioning, probe.object_lock), (expected.versioning, expected.object_lock));
    assert_eq!(replica.list("").await.unwrap(), []);
}

async fn cancelled_put_leaves_all_or_nothing(replica: &SharedReplica) {
    let body = Bytes::from(vec![9; 4 * 1024 * 1024]);
    for delay in [0, 1, 3, 10, 30, 100] {
        let key = format!("cancelled/{delay}");
        let _ = tokio::time::timeout(Duration::from_millis(delay), replica.put_new(&key, body.clone())).await;
        match replica.get(&key, MAX_BODY_BYTES).await {
            Ok(found) => assert_eq!(found, body, "cancelled after {delay} ms"),
            Err(error) => assert!(error.is_not_found(), "{error}"),
        }
    }
    // What was under way may still arrive, whole. A store tells nobody when that is over: only real
    // time does.
    let mut quiet = Instant::now();
    while quiet.elapsed() < Duration::from_millis(500) {
        for late in replica.list("cancelled/").await.unwrap() {
            assert_eq!(replica.get(&late.key, MAX_BODY_BYTES).await.unwrap(), body, "{} arrived", late.key);
            replica.delete(&late.key).await.unwrap();
            quiet = Instant::now();
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use lifeboat_base::clock::SystemClock;

    use super::*;
    use crate::{FailingReplica, MemoryReplica};

    fn memory() -> MemoryReplica {
        MemoryReplica::new("memory".parse().unwrap(), "nowhere", SystemClock::shared())
    }

    #[tokio::test]
    async fn a_replica_in_memory_conforms() {
        conforms(Arc::new(memory()), &all_permitted()).await;
    }

    #[tokio::test]
    async fn a_failing_replica_that_is_to_fail_nothing_conforms() {
        conforms(Arc::new(FailingReplica::new(Arc::new(memory()))), &all_permitted()).await;
    }
}
