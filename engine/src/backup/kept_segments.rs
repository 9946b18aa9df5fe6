//! Index segments that this host keeps opened, in one file, so that a run opens no file for each
//! snapshot that is kept. Only short ones: long ones are few, and cost what they hold. If they are
//! lost, segments are opened again.
//!
//! A record of the file holds segments one after the other: the length of an id, the id, the length
//! of a content, and the content.

use std::collections::BTreeSet;

use lifeboat_format::id::{Name, SnapshotId};
use lifeboat_format::index::IndexSegment;
use lifeboat_format::varint;

use crate::keys::HostKeys;
use crate::state::cache::ObjectCache;
use crate::state::sealed_log::{LogEnd, RECORD_BYTES, SealedLog};

/// The name of their file. What other programs would not understand needs another name.
const SEGMENTS_FILE: &str = ".segments-1";
/// A longer content is not kept.
const MAX_KEPT_BYTES: usize = 16 << 10;

/// The segments of one dataset that this host keeps.
pub(super) struct KeptSegments<'a> {
    log: SealedLog<'a>,
    known: BTreeSet<SnapshotId>,
    /// How many of these are gone.
    gone: usize,
    end: Option<LogEnd>,
    /// Records with those that are new.
    new: Vec<Vec<u8>>,
}

impl<'a> KeptSegments<'a> {
    pub(super) fn open(cache: &'a ObjectCache, keys: &'a HostKeys, dataset: &Name) -> Self {
        let purpose = format!("lifeboat index segments of {}/{dataset}", keys.vault);
        let log = SealedLog::new(cache, SEGMENTS_FILE, purpose, &keys.host_key);
        Self { log, known: BTreeSet::new(), gone: 0, end: None, new: Vec::new() }
    }

    /// Gives those that are `shown` to `each`. `None`: the file is damaged, and `each` may have got
    /// some of them.
    pub(super) fn read(
        &mut self,
        shown: &BTreeSet<&SnapshotId>,
        mut each: impl FnMut(IndexSegment) -> Option<()>,
    ) -> Option<()> {
        let Self { log, known, gone, .. } = self;
        let end = log.read(|record| {
            let mut rest = &record[..];
            while !rest.is_empty() {
                let id: SnapshotId = std::str::from_utf8(take(&mut rest)?).ok()?.parse().ok()?;
                let content = take(&mut rest)?;
                if shown.contains(&id) {
                    each(IndexSegment::of_content(content.to_vec()).ok()?.0)?;
                } else {
                    *gone += 1;
                }
                known.insert(id);
            }
            Some(())
        });
        if end.is_none() {
            (self.known, self.gone) = (BTreeSet::new(), 0);
        }
        self.end = end;
        self.end.as_ref().map(drop)
    }

    /// Whether it was given by [`Self::read`].
    pub(super) fn knows(&self, segment: &SnapshotId) -> bool {
        self.known.contains(segment)
    }

    /// Notes a segment that was opened.
    pub(super) fn add(&mut self, id: &SnapshotId, segment: &IndexSegment) {
        let Some(content) = segment.short_content(MAX_KEPT_BYTES) else { return };
        if self.new.last().is_none_or(|record| record.len() >= RECORD_BYTES) {
            self.new.push(Vec::new());
        }
        let Some(record) = self.new.last_mut() else { return };
        for bytes in [id.as_str().as_bytes(), content] {
            varint::put(record, bytes.len() as u64);
            record.extend_from_slice(bytes);
        }
    }

    /// Keeps what was added. If the file is worn, the next run begins it anew.
    pub(super) fn keep(self) {
        let Self { log, known, gone, end, new } = self;
        let is_there = end.is_some();
        match end.and_then(|end| end.unless_worn(gone, known.len())) {
            None if is_there => log.remove(),
            end if !new.is_empty() => log.write(end.as_ref(), new),
            _ => {}
        }
    }
}

/// Takes bytes with their length before them.
fn take<'r>(input: &mut &'r [u8]) -> Option<&'r [u8]> {
    let length = usize::try_from(varint::take(input)?).ok()?;
    let (bytes, rest) = input.split_at_checked(length)?;
    *input = rest;
    Some(bytes)
}
