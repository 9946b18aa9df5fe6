//! The packs that a restore has at hand: fetched ahead of use, and kept for a later use while memory allows.
//!
//! - **Plan**: every range that any stream of the snapshot takes from a pack is known beforehand. What is fetched
//!   of a pack is all of that and nothing else, and a pack is forgotten once its last range was taken.
//! - **Bounds**: one budget. At most half of it is kept for later; what is needed last goes first.
//! - **No deadlock**: a reader waits for memory only while it holds none that only it can free: for the pack it needs next.
//!   Packs ahead of that are begun only if there is room at once.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::{OnceCell, OwnedSemaphorePermit, Semaphore};

use super::pack_fetch::PackFetcher;
use crate::bytes::buffers::{Buffer, BufferPool};
use crate::error::{Error, Result};
use crate::vault::manifest::{Extent, PackRef};
use crate::vault::pack::{Content, MAX_CONTENT, TARGET_CONTENT};

/// What the program needs beside the packs at hand.
const PROGRAM: u64 = 56 << 20;
/// One permit of the budget.
const UNIT: u64 = 64 << 10;
/// Less than this is not worth a large buffer.
const SMALL: u64 = 8 << 20;

/// What is wanted of one pack.
struct Wanted {
    reference: PackRef,
    /// Ranges of its content, in order, apart from each other.
    ranges: Vec<(u64, u64)>,
    /// How many visits are still to come, of all streams.
    visits: usize,
    at_hand: Option<AtHand>,
}

/// A pack that is fetched or being fetched.
struct AtHand {
    cell: Arc<OnceCell<Content>>,
    permit: OwnedSemaphorePermit,
    /// Readers that use it or have asked for it.
    pinned: usize,
    /// The visit of its last reader that will need it next.
    next: usize,
}

/// The packs of one snapshot.
pub(super) struct PackCache {
    fetcher: PackFetcher,
    packs: Mutex<HashMap<u32, Wanted>>,
    budget: Arc<Semaphore>,
    most: u32,
    contents: BufferPool,
    /// What all its ranges amount to, as ciphertext.
    needed: u64,
    fetched: AtomicU64,
}

impl PackCache {
    /// `streams`: the extents of every stream of the snapshot.
    pub(super) fn new<'a>(
        fetcher: PackFetcher,
        packs: &[PackRef],
        streams: impl Iterator<Item = &'a [Extent]>,
        memory: u64,
    ) -> Self {
        let mut wanted: HashMap<u32, Wanted> = HashMap::new();
        for extents in streams {
            let mut last = None;
            for extent in extents {
                let pack = wanted.entry(extent.pack).or_insert_with(|| Wanted {
                    reference: packs[extent.pack as usize],
                    ranges: Vec::new(),
                    visits: 0,
                    at_hand: None,
                });
                pack.ranges.push((extent.offset, extent.length));
                pack.visits += usize::from(last != Some(extent.pack));
                last = Some(extent.pack);
            }
        }
        wanted.values_mut().for_each(|pack| join(&mut pack.ranges));
        let needed = wanted.values().map(|pack| share(&pack.reference, length(&pack.ranges))).sum();
        let most = u32::try_from(memory.saturating_sub(PROGRAM) / UNIT).unwrap_or(u32::MAX).max(1024);
        let contents =
            BufferPool::new((u64::from(most) * UNIT / TARGET_CONTENT as u64) as usize + 1, TARGET_CONTENT + (4 << 20));
        Self {
            fetcher,
            packs: Mutex::new(wanted),
            budget: Arc::new(Semaphore::new(most as usize)),
            most,
            contents,
            needed,
            fetched: AtomicU64::new(0),
        }
    }

    /// Whoever fetches.
    pub(super) fn fetcher(&self) -> &PackFetcher {
        &self.fetcher
    }

    /// Bytes of ciphertext fetched so far, and what all streams amount to.
    pub(super) fn fetched_and_needed(&self) -> (u64, u64) {
        (self.fetched.load(Ordering::Relaxed), self.needed)
    }

    fn packs(&self) -> MutexGuard<'_, HashMap<u32, Wanted>> {
        self.packs.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Pins a pack if that takes no waiting.
    pub(super) fn try_pin(self: &Arc<Self>, pack: u32) -> Option<Pin> {
        let mut packs = self.packs();
        let wanted = packs.get_mut(&pack)?;
        if let Some(at_hand) = &mut wanted.at_hand {
            at_hand.pinned += 1;
            return Some(Pin { cache: self.clone(), pack, cell: at_hand.cell.clone(), next: usize::MAX });
        }
        let permit = self.budget.clone().try_acquire_many_owned(self.cost(wanted)).ok()?;
        Some(self.pin_new(pack, wanted, permit))
    }

    /// Pins a pack; waits for memory. The caller must hold no pin.
    pub(super) async fn pin(self: &Arc<Self>, pack: u32) -> Result<Pin> {
        if let Some(pin) = self.try_pin(pack) {
            return Ok(pin);
        }
        let unknown = || Error::integrity("a pack is wanted that no stream names");
        let cost = self.packs().get(&pack).map(|wanted| self.cost(wanted)).ok_or_else(unknown)?;
        let permit = self.budget.clone().acquire_many_owned(cost).await;
        let permit = permit.map_err(|_| Error::failed("the budget of packs was closed"))?;
        let mut packs = self.packs();
        let wanted = packs.get_mut(&pack).ok_or_else(unknown)?;
        // Another reader may have begun it meanwhile.
        match &mut wanted.at_hand {
            Some(at_hand) => {
                at_hand.pinned += 1;
                Ok(Pin { cache: self.clone(), pack, cell: at_hand.cell.clone(), next: usize::MAX })
            }
            None => Ok(self.pin_new(pack, wanted, permit)),
        }
    }

    fn pin_new(self: &Arc<Self>, pack: u32, wanted: &mut Wanted, permit: OwnedSemaphorePermit) -> Pin {
        let cell = Arc::new(OnceCell::new());
        wanted.at_hand = Some(AtHand { cell: cell.clone(), permit, pinned: 1, next: usize::MAX });
        Pin { cache: self.clone(), pack, cell, next: usize::MAX }
    }

    /// Ciphertext and content while it is fetched, in permits; never more than half of all.
    fn cost(&self, wanted: &Wanted) -> u32 {
        let bytes = wanted.reference.1 + held(wanted);
        u32::try_from(bytes.div_ceil(UNIT)).unwrap_or(u32::MAX).min(self.most / 2)
    }

    async fn fetch(&self, pack: u32) -> Result<Content> {
        let found = self.packs().get(&pack).map(|wanted| (wanted.reference, wanted.ranges.clone()));
        let (reference, ranges) = found.ok_or_else(|| Error::integrity("a pack is wanted that no stream names"))?;
        let large = length(&ranges) > SMALL;
        // The budget bounds what is at hand; a buffer that can be had at once is only faster than a new one.
        let out = if large { self.contents.try_take().unwrap_or_default() } else { Buffer::default() };
        let content = self.fetcher.fetch(&reference, &ranges, out).await?;
        self.fetched.fetch_add(reference.1, Ordering::Relaxed);
        if let Some(Wanted { at_hand: Some(at_hand), .. }) = self.packs().get_mut(&pack) {
            // The ciphertext is gone.
            let held = (content.length() as u64).div_ceil(UNIT) as usize;
            drop(at_hand.permit.split(at_hand.permit.num_permits().saturating_sub(held)));
        }
        Ok(content)
    }

    fn unpin(&self, pack: u32, visited: bool, next: usize) {
        let mut packs = self.packs();
        let Some(wanted) = packs.get_mut(&pack) else { return };
        wanted.visits = wanted.visits.saturating_sub(usize::from(visited));
        let Some(at_hand) = &mut wanted.at_hand else { return };
        at_hand.pinned -= 1;
        if visited {
            at_hand.next = next;
        }
        if at_hand.pinned == 0 && (wanted.visits == 0 || at_hand.cell.get().is_none()) {
            wanted.at_hand = None;
        }
        self.evict(&mut packs);
    }

    /// Forgets what nobody has pinned until half of the budget is free of it: what is needed last, first.
    fn evict(&self, packs: &mut HashMap<u32, Wanted>) {
        let unpinned = |wanted: &Wanted| {
            wanted
                .at_hand
                .as_ref()
                .filter(|at_hand| at_hand.pinned == 0)
                .map(|at_hand| (at_hand.next, at_hand.permit.num_permits()))
        };
        let mut kept: usize = packs.values().filter_map(unpinned).map(|(_, permits)| permits).sum();
        while kept > self.most as usize / 2 {
            let last = packs
                .iter()
                .filter_map(|(pack, wanted)| Some((*pack, unpinned(wanted)?)))
                .max_by_key(|(_, (next, _))| *next);
            let Some((pack, (_, permits))) = last else { return };
            kept -= permits;
            if let Some(wanted) = packs.get_mut(&pack) {
                wanted.at_hand = None;
            }
        }
    }
}

/// A pack that stays at hand as long as this exists.
pub(super) struct Pin {
    cache: Arc<PackCache>,
    pack: u32,
    cell: Arc<OnceCell<Content>>,
    /// See [`Self::visited`].
    next: usize,
}

impl Pin {
    /// What was wanted of it; fetches it unless somebody has.
    pub(super) async fn content(&self) -> Result<Content> {
        self.cell.get_or_try_init(|| self.cache.fetch(self.pack)).await.cloned()
    }

    /// The visit is over; the reader's visit number `next` will want it again, if any does.
    pub(super) fn visited(mut self, next: Option<usize>) {
        self.next = next.unwrap_or(usize::MAX - 1);
    }
}

impl Drop for Pin {
    fn drop(&mut self) {
        self.cache.unpin(self.pack, self.next != usize::MAX, self.next);
    }
}

fn join(ranges: &mut Vec<(u64, u64)>) {
    ranges.sort_unstable();
    ranges.dedup_by(|later, first| {
        let touches = later.0 <= first.0 + first.1;
        if touches {
            first.1 = first.1.max(later.0 + later.1 - first.0);
        }
        touches
    });
}

fn length(ranges: &[(u64, u64)]) -> u64 {
    ranges.iter().map(|(_, length)| length).sum()
}

/// What is decompressed of a pack: whole chunks, so perhaps some more than is wanted.
fn held(wanted: &Wanted) -> u64 {
    (length(&wanted.ranges) * 5 / 4 + (1 << 20)).min(wanted.reference.2).min(MAX_CONTENT as u64)
}

/// The part of a pack's ciphertext that so many bytes of its content amount to.
fn share(pack: &PackRef, wanted: u64) -> u64 {
    (pack.1 as f64 * wanted as f64 / pack.2.max(1) as f64) as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_joined_where_they_touch_or_overlap() {
        let mut ranges = vec![(10, 5), (0, 4), (4, 2), (12, 10), (30, 1), (30, 1)];
        join(&mut ranges);
        assert_eq!(ranges, [(0, 6), (10, 12), (30, 1)]);
        assert_eq!(length(&ranges), 19);
    }
}
