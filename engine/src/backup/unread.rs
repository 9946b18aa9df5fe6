//! Streams that a run takes over from the snapshot before, and does not read.
//!
//! A source gives a stream a fingerprint of what it was made of. If the next run finds the same
//! fingerprint, the new snapshot refers to the same bytes, of which the manifest of the snapshot
//! before says length, hash and place. Whatever is in doubt is read:
//!
//! - The fingerprints are this host's own, sealed, and of the very snapshot that the new one
//!   follows. Where another host, or a lost state, came between, there are none.
//! - The manifest says of the stream what it said when this host wrote it.
//! - No byte of it is to be stored again: no pack that no replica lists or that prune listed as
//!   sparse, no scattered stretch, and no pack of older keys (`predecessor.rs`).
//! - A fingerprint is kept only if what it tells was settled a while before the run began, so that
//!   no later change can bear the same time. It counts for nothing while the clock is behind the
//!   snapshot before.
//!
//! A replica that lacks a pack which another one has changes nothing: chunks would be found in it
//! just the same, and a commit sees to it that enough replicas hold every pack of the snapshot.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use chrono::{DateTime, Utc};
use lifeboat_databases::streams::StreamFingerprint;
use lifeboat_format::id::Digest;
use lifeboat_format::manifest::{Manifest, StreamEntry};

use super::Backup;
use super::messages::End;
use crate::state::fingerprints;
use crate::state::fingerprints::{Fingerprints, KnownStream};

/// So many seconds before a run begins, what it keeps a fingerprint of must be settled. The times
/// of files are coarser than the clock, by far less than that.
const MIN_SETTLED_SECONDS: i64 = 60;

/// What a run need not read.
pub(crate) struct Unread {
    /// Streams of the snapshot before, with their fingerprints.
    former: BTreeMap<String, FormerStream>,
    /// When the run began, in seconds since 1970.
    began: i64,
    /// The fingerprints of this run.
    fingerprints: Mutex<BTreeMap<String, Digest>>,
    /// The length of the streams that were taken over.
    bytes: AtomicU64,
}

struct FormerStream {
    fingerprint: Digest,
    length: u64,
    blake3: Digest,
}

impl Unread {
    /// For a run that begins `now`, and follows the snapshot of this manifest.
    pub(crate) fn of(run: &Backup<'_>, before: Option<&Manifest>, now: DateTime<Utc>) -> Self {
        let known = fingerprints::read(run.state, &run.dataset.name, &run.keys.host_key);
        Self::new(before, known, now)
    }

    fn new(before: Option<&Manifest>, known: Option<Fingerprints>, now: DateTime<Utc>) -> Self {
        let both = before.zip(known).filter(|(before, known)| {
            before.snapshot == known.snapshot && before.snapshot.time() <= now && before.started <= now
        });
        let former = both.map(|(before, known)| {
            let known: BTreeMap<String, (Digest, Digest)> =
                known.streams.into_iter().map(|stream| (stream.name, (stream.fingerprint, stream.blake3))).collect();
            let of = |stream: &StreamEntry| {
                let (fingerprint, blake3) = *known.get(&stream.name)?;
                let is_it = blake3 == stream.blake3 && stream.exit == 0;
                is_it.then(|| (stream.name.clone(), FormerStream { fingerprint, length: stream.length, blake3 }))
            };
            before.streams.iter().filter_map(of).collect()
        });
        Self {
            former: former.unwrap_or_default(),
            began: now.timestamp(),
            fingerprints: Mutex::default(),
            bytes: AtomicU64::new(0),
        }
    }

    /// The end of a stream that had this fingerprint in the snapshot before.
    pub(crate) fn find(&self, name: &str, fingerprint: &StreamFingerprint) -> Option<End> {
        let former = self.former.get(name).filter(|former| former.fingerprint == Digest(fingerprint.digest))?;
        Some(End { length: former.length, blake3: former.blake3, exit: 0 })
    }

    /// Says that a stream was taken over.
    pub(crate) fn taken_over(&self, name: &str, fingerprint: &StreamFingerprint, length: u64) {
        self.bytes.fetch_add(length, Ordering::Relaxed);
        self.keep(name, fingerprint);
    }

    /// Keeps the fingerprint of a stream, if it tells every later change.
    pub(crate) fn keep(&self, name: &str, fingerprint: &StreamFingerprint) {
        if fingerprint.settled.saturating_add(MIN_SETTLED_SECONDS) < self.began {
            let mut fingerprints = self.fingerprints.lock().unwrap_or_else(PoisonError::into_inner);
            fingerprints.insert(name.to_owned(), Digest(fingerprint.digest));
        }
    }

    /// The length of all streams that were taken over.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    /// Remembers the fingerprints of the snapshot of this manifest, which was committed.
    pub(crate) fn remember(&self, run: &Backup<'_>, manifest: &Manifest, warnings: &mut Vec<String>) {
        let written = fingerprints::write(run.state, &run.dataset.name, &run.keys.host_key, &self.of_streams(manifest));
        if let Err(error) = written {
            warnings.push(format!("the next run reads everything again: {}", error.chain_and_hint()));
        }
    }

    fn of_streams(&self, manifest: &Manifest) -> Fingerprints {
        let fingerprints = self.fingerprints.lock().unwrap_or_else(PoisonError::into_inner);
        let known = |StreamEntry { name, blake3, .. }: &StreamEntry| {
            let fingerprint = *fingerprints.get(name)?;
            Some(KnownStream { name: name.clone(), fingerprint, blake3: *blake3 })
        };
        let streams = manifest.streams.iter().filter_map(known).collect();
        Fingerprints { snapshot: manifest.snapshot.clone(), streams }
    }
}
