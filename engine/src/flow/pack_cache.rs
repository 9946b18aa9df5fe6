//! The packs that a restore has at hand: fetched ahead of use, and kept for a later use while memory allows.
//!
//! - **Plan**: every range that any stream of the snapshot takes from a pack is known beforehand. What is kept of a
//!   pack is the frames of those and nothing else, still compressed, and a pack is forgotten once its last range was taken.
//! - **Bounds**: one budget for ciphertext on its way and for what is kept of it. Of what nobody uses just now at most half
//!   the budget is kept for later visits; what is needed last goes first.
//! - **No deadlock**: a reader waits for memory only while it holds none that only it can free: for the pack it needs next.
//!   Packs ahead of that are begun only if there is room at once.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::{OnceCell, OwnedSemaphorePermit, Semaphore};

use super::pack_fetch::PackFetcher;
use crate::error::{Error, Result};
use crate::vault::manifest::{Extent, PackRef};
use crate::vault::pack::Excerpt;

/// One permit of the budget.
const UNIT: u64 = 64 << 10;
/// The least budget: two ordinary packs.
const LEAST: u64 = 64 << 20;
/// No visit.
const NEVER: usize = usize::MAX;

/// What is wanted of one pack.
struct Wanted {
    reference: PackRef,
    /// Ranges of its content, in order, apart from each other.
    ranges: Vec<(u64, u64)>,
    /// How many visits are still to come, of all streams.
    visits: usize,
}

/// A pack that is fetched or being fetched.
struct AtHand {
    cell: Arc<OnceCell<Content>>,
    /// Room for ciphertext and frames until it is fetched; then it is the content's.
    room: Option<OwnedSemaphorePermit>,
    /// Readers that use it or have asked for it.
    pinned: usize,
    /// The visit of its last reader that will need it next.
    next: usize,
}

/// What was wanted of a pack. Its room is free once nobody has it any more.
pub(super) type Content = Arc<(Excerpt, Option<OwnedSemaphorePermit>)>;

struct State {
    wanted: HashMap<u32, Wanted>,
    at_hand: HashMap<u32, AtHand>,
}

/// The packs of one snapshot.
pub(super) struct PackCache {
    fetcher: PackFetcher,
    state: Mutex<State>,
    budget: Arc<Semaphore>,
    /// Permits of the budget.
    most: u32,
    /// What all its ranges amount to, as ciphertext.
    needed: u64,
    fetched: AtomicU64,
}

impl PackCache {
    /// `streams`: the extents of every stream of the snapshot. `memory`: the budget, in bytes.
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
                });
                pack.ranges.push((extent.offset, extent.length));
                pack.visits += usize::from(last != Some(extent.pack));
                last = Some(extent.pack);
            }
        }
        wanted.values_mut().for_each(|pack| join(&mut pack.ranges));
        let needed = wanted.values().map(|pack| share(&pack.reference, length(&pack.ranges))).sum();
        let most = u32::try_from(memory.max(LEAST) / UNIT).unwrap_or(u32::MAX >> 3);
        Self {
            fetcher,
            state: Mutex::new(State { wanted, at_hand: HashMap::new() }),
            budget: Arc::new(Semaphore::new(most as usize)),
            most,
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

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Pins a pack if that takes no waiting.
    pub(super) fn try_pin(self: &Arc<Self>, pack: u32) -> Option<Pin> {
        let mut state = self.state();
        if let Some(pin) = self.pin_at_hand(&mut state, pack) {
            return Some(pin);
        }
        let cost = self.cost(state.wanted.get(&pack)?);
        let room = self.budget.clone().try_acquire_many_owned(cost).ok()?;
        Some(self.pin_new(&mut state, pack, room))
    }

    /// Pins a pack; waits for memory. The caller must hold no pin.
    pub(super) async fn pin(self: &Arc<Self>, pack: u32) -> Result<Pin> {
        if let Some(pin) = self.try_pin(pack) {
            return Ok(pin);
        }
        let cost = self.state().wanted.get(&pack).map(|wanted| self.cost(wanted)).ok_or_else(unknown)?;
        let room = self.budget.clone().acquire_many_owned(cost).await;
        let room = room.map_err(|_| Error::failed("the budget of packs was closed"))?;
        let mut state = self.state();
        // Another reader may have begun it meanwhile.
        Ok(match self.pin_at_hand(&mut state, pack) {
            Some(pin) => pin,
            None => self.pin_new(&mut state, pack, room),
        })
    }

    fn pin_at_hand(self: &Arc<Self>, state: &mut State, pack: u32) -> Option<Pin> {
        let at_hand = state.at_hand.get_mut(&pack)?;
        at_hand.pinned += 1;
        Some(Pin { cache: self.clone(), pack, cell: at_hand.cell.clone(), visited: None })
    }

    fn pin_new(self: &Arc<Self>, state: &mut State, pack: u32, room: OwnedSemaphorePermit) -> Pin {
        let cell = Arc::new(OnceCell::new());
        let at_hand = AtHand { cell: cell.clone(), room: Some(room), pinned: 1, next: NEVER };
        state.at_hand.insert(pack, at_hand);
        Pin { cache: self.clone(), pack, cell, visited: None }
    }

    /// Ciphertext and frames while it is fetched, in permits, never more than half of all.
    fn cost(&self, wanted: &Wanted) -> u32 {
        // Whole chunks, so perhaps some more than is wanted.
        let frames = share(&wanted.reference, length(&wanted.ranges)) * 5 / 4 + (1 << 20);
        permits(wanted.reference.1 + frames.min(wanted.reference.1)).min(self.most / 2)
    }

    async fn fetch(&self, pack: u32) -> Result<Content> {
        let (reference, ranges, room) = {
            let mut state = self.state();
            let room = state.at_hand.get_mut(&pack).and_then(|at_hand| at_hand.room.take());
            let wanted = state.wanted.get(&pack).ok_or_else(unknown)?;
            (wanted.reference, wanted.ranges.clone(), room)
        };
        let excerpt = self.fetcher.fetch(&reference, &ranges).await?;
        self.fetched.fetch_add(reference.1, Ordering::Relaxed);
        // The ciphertext's part is free now. A fetch that failed is tried again by another reader, which waits for this pack
        // and nothing else: that one has no room.
        let room = room.and_then(|mut room| {
            let kept = permits(excerpt.size() as u64).min(room.num_permits() as u32);
            room.split(kept as usize)
        });
        Ok(Arc::new((excerpt, room)))
    }

    /// `visited`: a visit is over, and its reader will be back at the visit of this number.
    fn unpin(&self, pack: u32, visited: Option<usize>) {
        let mut state = self.state();
        let state = &mut *state;
        let (Some(wanted), Some(at_hand)) = (state.wanted.get_mut(&pack), state.at_hand.get_mut(&pack)) else { return };
        at_hand.pinned -= 1;
        if let Some(next) = visited {
            at_hand.next = next;
            wanted.visits = wanted.visits.saturating_sub(1);
        }
        if at_hand.pinned == 0 && (wanted.visits == 0 || at_hand.cell.get().is_none()) {
            state.at_hand.remove(&pack);
        }
        self.evict(&mut state.at_hand);
    }

    /// Forgets what nobody has pinned, what is needed last first, until half of the budget holds it.
    fn evict(&self, at_hand: &mut HashMap<u32, AtHand>) {
        let kept = |(pack, at_hand): (&u32, &AtHand)| {
            let content = at_hand.cell.get().filter(|_| at_hand.pinned == 0)?;
            Some((at_hand.next, *pack, permits(content.0.size() as u64)))
        };
        let mut kept: Vec<(usize, u32, u32)> = at_hand.iter().filter_map(kept).collect();
        kept.sort_unstable();
        let mut sum = 0;
        for (_, pack, permits) in kept {
            sum += permits;
            if sum > self.most / 2 {
                at_hand.remove(&pack);
            }
        }
    }
}

/// So many bytes, in permits.
fn permits(bytes: u64) -> u32 {
    u32::try_from(bytes.div_ceil(UNIT)).unwrap_or(u32::MAX)
}

fn unknown() -> Error {
    Error::integrity("a pack is wanted that no stream names")
}

/// A pack that stays at hand as long as this exists.
pub(super) struct Pin {
    cache: Arc<PackCache>,
    pack: u32,
    cell: Arc<OnceCell<Content>>,
    visited: Option<usize>,
}

impl Pin {
    /// What was wanted of it; fetches it unless somebody has.
    pub(super) async fn content(&self) -> Result<Content> {
        self.cell.get_or_try_init(|| self.cache.fetch(self.pack)).await.cloned()
    }

    /// The visit is over; the reader's visit number `next` will want it again, if any does.
    pub(super) fn visited(mut self, next: Option<usize>) {
        self.visited = Some(next.unwrap_or(NEVER));
    }
}

impl Drop for Pin {
    fn drop(&mut self) {
        self.cache.unpin(self.pack, self.visited);
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
