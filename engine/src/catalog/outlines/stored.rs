//! Outlines as bytes, for the state directory: what was read since the last time, as one record.
//!
//! A record holds three lengths (as variable-length integers), the outlines as JSON, the packs that
//! are new with them, and the changes. It continues the records before it, and means nothing alone.

use std::ops::Range;
use std::sync::Arc;

use lifeboat_format::varint;

use super::{ABSENT, Outline, Outlines};

impl Outlines {
    /// The outlines of these places, for [`Self::read`]. `None`: there are none.
    pub(super) fn write(&self, places: Range<usize>) -> Option<Vec<u8>> {
        let outlines: Vec<&Outline> = self.all.get(places.clone())?.iter().map(AsRef::as_ref).collect();
        let last = outlines.last()?;
        let before = places.start.checked_sub(1).map(|before| &self.all[before]);
        let (packs, changes) = before.map_or((0, 0), |before| (before.packs_until, before.changes_until));
        let json = serde_json::to_vec(&outlines).ok()?;
        let changes = &self.changes[changes as usize..last.changes_until as usize];
        let mut out = Vec::with_capacity(json.len() + changes.len() + 32);
        varint::put(&mut out, json.len() as u64);
        varint::put(&mut out, u64::from(last.packs_until - packs));
        varint::put(&mut out, changes.len() as u64);
        out.extend(json);
        self.packs.write(packs as usize..last.packs_until as usize, &mut out);
        out.extend(changes);
        Some(out)
    }

    /// Adds what a record holds. `None`: it does not continue these outlines, and they may be
    /// incomplete now. The caller calls [`Self::found_end`] after the last one.
    pub(super) fn read(&mut self, record: &[u8]) -> Option<()> {
        let mut rest = record;
        let mut length = || varint::take(&mut rest).and_then(|length| usize::try_from(length).ok());
        let (json, packs, changes) = (length()?, length()?, length()?);
        let (json, mut rest) = rest.split_at_checked(json)?;
        self.packs.read(packs, &mut rest)?;
        let outlines: Vec<Outline> = serde_json::from_slice(json).ok()?;
        let begin = self.changes.len() as u64;
        if rest.len() != changes || outlines.last()?.changes_until != begin + changes as u64 {
            return None;
        }
        self.changes.extend_from_slice(rest);
        self.last.resize(self.packs.len(), ABSENT);
        let mut at = begin;
        for mut outline in outlines {
            let until = outline.changes_until.checked_sub(at)?;
            let (mut changes, after) = rest.split_at_checked(usize::try_from(until).ok()?)?;
            let mut number = 0_usize;
            while !changes.is_empty() {
                number = number.checked_add(usize::try_from(varint::take(&mut changes)?).ok()?)?;
                let unused = u32::try_from(varint::take(&mut changes)?).ok()?.wrapping_sub(1);
                *self.last.get_mut(number).filter(|_| number < outline.packs_until as usize)? = unused;
                number += 1;
            }
            (rest, at) = (after, outline.changes_until);
            outline.place = self.all.len() as u32;
            self.all.push(Arc::new(outline));
        }
        Some(())
    }
    /// Prepares for more after the last record.
    pub(super) fn found_end(&mut self) {
        self.named = self.named_last();
    }
}
