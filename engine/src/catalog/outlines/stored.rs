//! Outlines as bytes, for the state directory.
//!
//! A record holds three lengths (as variable-length integers), outlines as JSON, one after the
//! other, packs, and changes. Each of these continues what the records before it hold, and means
//! nothing alone. Records are short, so what one outline needs may stand in several: it comes in
//! the last of them.

use lifeboat_format::varint;

use super::pack_table::ROW_BYTES;
use super::{ABSENT, Outline, Outlines};
use crate::state::sealed_log::RECORD_BYTES;

impl Outlines {
    /// The outlines from a place on as records, for [`Self::read`].
    pub(super) fn records(&self, from: usize) -> impl Iterator<Item = Vec<u8>> {
        self.records_of(from, RECORD_BYTES)
    }

    /// As [`Self::records`], of about so many bytes each.
    pub(super) fn records_of(&self, from: usize, record_bytes: usize) -> impl Iterator<Item = Vec<u8>> {
        let before = from.checked_sub(1).map(|before| &self.all[before]);
        let (mut packs, mut changes) =
            before.map_or((0, 0), |before| (before.packs_until as usize, before.changes_until as usize));
        let mut rest = self.all.get(from..).unwrap_or_default();
        std::iter::from_fn(move || {
            let (mut json, first_pack, first_change) = (Vec::new(), packs, changes);
            let mut room = record_bytes;
            while let Some((outline, after)) = rest.split_first().filter(|_| room > 0) {
                let (packs_until, changes_until) = (outline.packs_until as usize, outline.changes_until as usize);
                let more = (packs_until - packs).min(room.div_ceil(ROW_BYTES));
                (packs, room) = (packs + more, room.saturating_sub(more * ROW_BYTES));
                let more = (changes_until - changes).min(room);
                (changes, room) = (changes + more, room - more);
                if packs < packs_until || changes < changes_until {
                    break;
                }
                let begin = json.len();
                serde_json::to_writer(&mut json, outline.as_ref()).ok()?;
                (rest, room) = (after, room.saturating_sub(json.len() - begin));
            }
            let changes = &self.changes[first_change..changes];
            if json.is_empty() && packs == first_pack && changes.is_empty() {
                return None;
            }
            let mut out = Vec::with_capacity(json.len() + (packs - first_pack) * ROW_BYTES + changes.len() + 32);
            varint::put(&mut out, json.len() as u64);
            varint::put(&mut out, (packs - first_pack) as u64);
            varint::put(&mut out, changes.len() as u64);
            out.extend(json);
            self.packs.write(first_pack..packs, &mut out);
            out.extend(changes);
            Some(out)
        })
    }

    /// Adds what a record holds. `None`: it does not continue these outlines, and they may be
    /// incomplete now. The caller calls [`Self::found_end`] after the last one.
    pub(super) fn read(&mut self, record: &[u8]) -> Option<()> {
        let mut rest = record;
        let mut length = || varint::take(&mut rest).and_then(|length| usize::try_from(length).ok());
        let (json, packs, changes) = (length()?, length()?, length()?);
        let (json, mut rest) = rest.split_at_checked(json)?;
        self.packs.read(packs, &mut rest)?;
        self.last.resize(self.packs.len(), ABSENT);
        if rest.len() != changes {
            return None;
        }
        self.changes.extend_from_slice(rest);
        for outline in serde_json::Deserializer::from_slice(json).into_iter() {
            self.apply(outline.ok()?)?;
        }
        Some(())
    }

    /// Adds an outline whose packs and changes are there.
    fn apply(&mut self, mut outline: Outline) -> Option<()> {
        let begin = self.all.last().map_or(0, |before| before.changes_until as usize);
        let mut changes = self.changes.get(begin..usize::try_from(outline.changes_until).ok()?)?;
        if outline.packs_until as usize > self.packs.len() {
            return None;
        }
        let mut number = 0_usize;
        while !changes.is_empty() {
            number = number.checked_add(usize::try_from(varint::take(&mut changes)?).ok()?)?;
            let unused = u32::try_from(varint::take(&mut changes)?).ok()?.wrapping_sub(1);
            *self.last.get_mut(number).filter(|_| number < outline.packs_until as usize)? = unused;
            number += 1;
        }
        outline.place = self.all.len() as u32;
        self.all.push(outline.into());
        Some(())
    }

    /// Prepares for more after the last record. `None`: it was not the last that was written.
    pub(super) fn found_end(&mut self) -> Option<()> {
        let last = self.all.last().map_or((0, 0), |last| (last.packs_until as usize, last.changes_until as usize));
        self.named = self.named_last();
        (last == (self.packs.len(), self.changes.len())).then_some(())
    }
}
