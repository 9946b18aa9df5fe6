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
//! - It was read no longer ago than its source allows. Not all streams are read again in one run:
//!   that time is up to a quarter shorter, by their names.
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
    fingerprints: Mutex<BTreeMap<String, FoundStream>>,
    /// The length of the streams that were taken over.
    bytes: AtomicU64,
}

struct FormerStream {
    fingerprint: Digest,
    length: u64,
    blake3: Digest,
    /// When it was read.
    read: i64,
}

/// A stream of this run.
#[derive(Clone, Copy)]
struct FoundStream {
    fingerprint: Digest,
    /// When it was read.
    read: i64,
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
            let known: BTreeMap<String, KnownStream> =
                known.streams.into_iter().map(|stream| (stream.name.clone(), stream)).collect();
            let of = |stream: &StreamEntry| {
                let KnownStream { fingerprint, blake3, read, .. } = known.get(&stream.name)?;
                let is_it = *blake3 == stream.blake3 && stream.exit == 0;
                let (fingerprint, length, blake3, read) = (*fingerprint, stream.length, *blake3, *read);
                is_it.then(|| (stream.name.clone(), FormerStream { fingerprint, length, blake3, read }))
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
        if self.began.saturating_sub(former.read) >= trusted_for(name, fingerprint.read_every) {
            return None;
        }
        Some(End { length: former.length, blake3: former.blake3, exit: 0 })
    }

    /// Says that a stream was taken over.
    pub(crate) fn taken_over(&self, name: &str, fingerprint: &StreamFingerprint, length: u64) {
        self.bytes.fetch_add(length, Ordering::Relaxed);
        let read = self.former.get(name).map_or(0, |former| former.read);
        self.keep_as_of(name, fingerprint, read);
    }

    /// Keeps the fingerprint of a stream that was read, if it tells every later change.
    pub(crate) fn keep(&self, name: &str, fingerprint: &StreamFingerprint) {
        self.keep_as_of(name, fingerprint, self.began);
    }

    fn keep_as_of(&self, name: &str, fingerprint: &StreamFingerprint, read: i64) {
        if fingerprint.settled.saturating_add(MIN_SETTLED_SECONDS) < self.began {
            let mut fingerprints = self.fingerprints.lock().unwrap_or_else(PoisonError::into_inner);
            fingerprints.insert(name.to_owned(), FoundStream { fingerprint: Digest(fingerprint.digest), read });
        }
    }

    /// The length of all streams that were taken over.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    /// Remembers the fingerprints of the snapshot of this manifest, which was committed.
    pub(crate) fn remember(&self, run: &Backup<'_>, manifest: &Manifest, warnings: &mut Vec<String>) {
        warnings.extend(self.changed_unseen(manifest));
        let written = fingerprints::write(run.state, &run.dataset.name, &run.keys.host_key, &self.of_streams(manifest));
        if let Err(error) = written {
            warnings.push(format!("the next run reads everything again: {}", error.chain_and_hint()));
        }
    }

    /// What to tell of streams that look as they did, and are not.
    fn changed_unseen(&self, manifest: &Manifest) -> Option<String> {
        let fingerprints = self.fingerprints.lock().unwrap_or_else(PoisonError::into_inner);
        let is_changed = |stream: &&StreamEntry| {
            let (former, now) = (self.former.get(&stream.name), fingerprints.get(&stream.name));
            former
                .zip(now)
                .is_some_and(|(former, now)| former.fingerprint == now.fingerprint && former.blake3 != stream.blake3)
        };
        let changed: Vec<&StreamEntry> = manifest.streams.iter().filter(is_changed).collect();
        let first = &changed.first()?.name;
        Some(format!(
            "{} parts have other content although no file in them looks changed, such as {}: either they were read \
             wrongly, now or before, or something changed them behind the file system; compare with an older snapshot",
            changed.len(),
            first.escape_debug()
        ))
    }

    fn of_streams(&self, manifest: &Manifest) -> Fingerprints {
        let fingerprints = self.fingerprints.lock().unwrap_or_else(PoisonError::into_inner);
        let known = |StreamEntry { name, blake3, .. }: &StreamEntry| {
            let FoundStream { fingerprint, read } = *fingerprints.get(name)?;
            Some(KnownStream { name: name.clone(), fingerprint, blake3: *blake3, read })
        };
        let streams = manifest.streams.iter().filter_map(known).collect();
        Fingerprints { snapshot: manifest.snapshot.clone(), streams }
    }
}

/// How many seconds after it was read a stream of this name is read again.
fn trusted_for(name: &str, every: u64) -> i64 {
    let spread = blake3::hash(name.as_bytes()).as_bytes()[0];
    let sooner = every / 4 / 256 * u64::from(spread);
    i64::try_from(every - sooner).unwrap_or(i64::MAX)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use lifeboat_base::facts::SourceFacts;
    use lifeboat_format::Format;
    use lifeboat_format::manifest::Accounting;
    use lifeboat_format::requirements::Requirements;

    use super::*;

    const DAY: i64 = 86_400;
    const STREAMS: usize = 200;

    fn name(number: usize) -> String {
        format!("tree/+{number}")
    }

    fn manifest(began: DateTime<Utc>) -> Manifest {
        let stream = |number: usize| StreamEntry {
            name: name(number),
            length: 1,
            blake3: Digest([7; 32]),
            exit: 0,
            extents: bytes::Bytes::new(),
            map: None,
        };
        Manifest {
            format: Format::Two,
            requires: Requirements::default(),
            vault: "v".to_owned(),
            dataset: "shop".parse().unwrap(),
            snapshot: lifeboat_format::id::SnapshotId::new(began, 7),
            sequence: 1,
            previous: None,
            host: "db1".parse().unwrap(),
            started: began,
            finished: began,
            group: None,
            source: SourceFacts::default(),
            packs: Vec::new(),
            streams: (0..STREAMS).map(stream).collect(),
            accounting: Accounting::default(),
        }
    }

    #[test]
    fn what_never_changes_is_read_again_in_time_and_not_all_of_it_at_once() {
        let fingerprint = StreamFingerprint { digest: [1; 32], settled: 0, read_every: 30 * DAY as u64 };
        let (mut before, mut known, mut last_read) = (None::<Manifest>, None, [0_i64; STREAMS]);
        for day in 100..300_i64 {
            let now = DateTime::from_timestamp(day * DAY, 0).unwrap();
            let unread = Unread::new(before.as_ref(), known, now);
            let mut read = 0;
            for (number, last) in last_read.iter_mut().enumerate() {
                let stream = name(number);
                match unread.find(&stream, &fingerprint) {
                    Some(_) => unread.taken_over(&stream, &fingerprint, 1),
                    None => {
                        assert!(day == 100 || (day - *last >= 22 && day - *last <= 30), "{number}: {last} {day}");
                        unread.keep(&stream, &fingerprint);
                        (*last, read) = (day, read + 1);
                    }
                }
            }
            assert!(day == 100 || read <= STREAMS / 2, "{read} of {STREAMS} on day {day}");
            let manifest = manifest(now);
            known = Some(unread.of_streams(&manifest));
            before = Some(manifest);
        }
        assert!(last_read.iter().all(|day| *day > 270));
        // One that looks as it did, and is not, is told.
        let unread = Unread::new(before.as_ref(), known.take(), DateTime::from_timestamp(400 * DAY, 0).unwrap());
        (0..STREAMS).for_each(|number| unread.keep(&name(number), &fingerprint));
        let mut manifest = manifest(DateTime::from_timestamp(400 * DAY, 0).unwrap());
        assert_eq!(unread.changed_unseen(&manifest), None);
        manifest.streams[3].blake3 = Digest([8; 32]);
        assert!(unread.changed_unseen(&manifest).unwrap().starts_with("1 parts have other content"));
        known = Some(unread.of_streams(&manifest));
        before = Some(manifest);
        // It may be switched off, by nothing.
        let unread = Unread::new(before.as_ref(), known, DateTime::from_timestamp(401 * DAY, 0).unwrap());
        let never = StreamFingerprint { read_every: 0, ..fingerprint };
        assert!(unread.find(&name(0), &never).is_none());
    }
}
