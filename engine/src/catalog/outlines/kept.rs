//! Outlines that this host keeps, so that it opens no manifest twice. If they are lost, manifests
//! are opened again.
//!
//! They say what a trusted signer signed, as the copies of manifests in the cache do.

use lifeboat_format::id::Name;

use super::{Outline, Outlines};
use crate::keys::HostKeys;
use crate::state::cache::ObjectCache;
use crate::state::sealed_log::{LogEnd, SealedLog};

/// The name of their file. What other programs would not understand needs another name.
const OUTLINES_FILE: &str = ".outlines-1";
/// So many outlines make a record.
const OUTLINES_IN_RECORD: usize = 4096;
/// The file is written anew once so many outlines are of snapshots that are gone, …
const MIN_GONE: usize = 64;
/// … if they are this part of all: a fifth.
const GONE_PART: usize = 5;

/// The outlines of one dataset that this host keeps.
pub(crate) struct KeptOutlines<'a> {
    log: SealedLog<'a>,
}

/// How much of some outlines is kept already.
pub(super) struct KeptUntil {
    outlines: usize,
    /// `None`: nothing is kept.
    end: Option<LogEnd>,
}

impl<'a> KeptOutlines<'a> {
    pub(crate) fn open(cache: &'a ObjectCache, keys: &'a HostKeys, dataset: &Name) -> Self {
        let purpose = format!("lifeboat outlines of {}/{dataset}", keys.vault);
        Self { log: SealedLog::new(cache, OUTLINES_FILE, purpose, &keys.host_key, keys.trust.mark()) }
    }

    /// What is kept, with the snapshots that are gone.
    pub(crate) fn known(&self) -> super::OutlineMap {
        self.read().0.by_snapshot()
    }

    /// What is kept.
    pub(super) fn read(&self) -> (Outlines, KeptUntil) {
        let mut outlines = Outlines::default();
        let end = self.log.read(|record| outlines.read(&record));
        if end.is_none() {
            outlines = Outlines::default();
        }
        outlines.found_end();
        let until = KeptUntil { outlines: outlines.len(), end };
        (outlines, until)
    }

    /// Keeps those that are not kept already. The others are written anew if many of them are not
    /// `there` any more.
    pub(super) fn keep(&self, outlines: &Outlines, until: &KeptUntil, there: impl Fn(&Outline) -> bool) {
        let gone = outlines.all.iter().filter(|outline| !there(outline)).count();
        let many_gone = gone >= MIN_GONE && gone * GONE_PART >= outlines.len();
        match &until.end {
            Some(end) if !many_gone && !end.is_far() => {
                self.log.append(end, records(outlines, until.outlines));
            }
            None if gone == 0 => self.log.replace(records(outlines, 0)),
            _ => self.log.replace(records(&outlines.only(there), 0)),
        }
    }
}

/// The outlines from this place on, a few thousand a record.
fn records(outlines: &Outlines, from: usize) -> impl Iterator<Item = Vec<u8>> {
    let begins = (from..outlines.len()).step_by(OUTLINES_IN_RECORD);
    begins.map_while(|begin| outlines.write(begin..outlines.len().min(begin + OUTLINES_IN_RECORD)))
}
