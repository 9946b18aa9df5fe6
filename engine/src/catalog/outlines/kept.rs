//! Outlines that this host keeps, so that it opens no manifest twice. If they are lost, manifests
//! are opened again.
//!
//! They say what a trusted signer signed, as the copies of manifests in the cache do.

use lifeboat_format::id::Name;

use super::{Outline, Outlines};
use crate::keys::seal::HostKey;
use crate::state::cache::ObjectCache;
use crate::state::sealed_log::{LogEnd, SealedLog};

/// The name of their file. What other programs would not understand needs another name.
const OUTLINES_FILE: &str = ".outlines-1";

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
    /// The outlines that are kept beside this cache.
    pub(crate) fn open(cache: &'a ObjectCache, key: &'a HostKey, vault: &str, dataset: &Name) -> Self {
        let purpose = format!("lifeboat outlines of {vault}/{dataset}");
        Self { log: SealedLog::new(cache, OUTLINES_FILE, purpose, key) }
    }

    /// What is kept, with the snapshots that are gone.
    pub(crate) fn known(&self) -> super::OutlineMap {
        self.read().0.by_snapshot()
    }

    /// What is kept.
    pub(super) fn read(&self) -> (Outlines, KeptUntil) {
        let mut outlines = Outlines::default();
        let end = self.log.read(|record| outlines.read(&record));
        let end = end.filter(|_| outlines.found_end().is_some());
        if end.is_none() {
            outlines = Outlines::default();
        }
        let until = KeptUntil { outlines: outlines.len(), end };
        (outlines, until)
    }

    /// Keeps those that are not kept already. If the file is worn, those are written anew that are
    /// still `there`.
    pub(super) fn keep(&self, outlines: &Outlines, until: KeptUntil, there: impl Fn(&Outline) -> bool) {
        let gone = outlines.all.iter().filter(|outline| !there(outline)).count();
        match until.end.and_then(|end| end.unless_worn(gone, outlines.len())) {
            Some(end) => self.log.write(Some(&end), outlines.records(until.outlines)),
            None if gone == 0 => self.log.write(None, outlines.records(0)),
            None => self.log.write(None, outlines.only(there).records(0)),
        }
    }
}
