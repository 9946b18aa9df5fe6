//! Holds the packs of a restore: they are fetched ahead of use, and kept for a later use while
//! memory allows.
//!
//! - **Plan**: it is known beforehand what all streams need of a pack. Only the frames of that are
//!   kept, still compressed. A pack is dropped once its last span was read.
//!   Several readers may read a stream beside each other: each visits its spans.
//! - **Bounds**: one budget covers the ciphertext under way and the frames that are kept. Packs
//!   that no reader uses just now take at most half of it. Those that are needed last are dropped
//!   first.
//! - **No deadlock**: a reader waits for memory only for the first pack of its next span. It then
//!   holds no memory that only it can free. The other packs of this span do not wait for memory;
//!   if they are many, they are small. Spans further ahead are begun only if there is room at once.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use lifeboat_base::{Error, Result};
use lifeboat_format::manifest::PackRef;
use lifeboat_format::pack::Excerpt;
use tokio::sync::{OnceCell, OwnedSemaphorePermit, Semaphore};

use super::fetch::PackFetcher;
use super::plan::Span;
use super::wanted::{Wanted, WantedPack};

/// The bytes that one permit of the budget stands for.
const BYTES_PER_PERMIT: u64 = 64 << 10;
/// The number of a visit that never comes.
const NEVER: usize = usize::MAX;

/// A pack that was fetched, or is being fetched.
struct AtHand {
    cell: Arc<OnceCell<Content>>,
    /// Room for ciphertext and frames. Once the pack is fetched, this belongs to the content.
    room: Option<OwnedSemaphorePermit>,
    /// How many readers use the pack or wait for it.
    pinned: usize,
    /// The number of the visit that needs it next, of the reader that used it last.
    next: usize,
}

/// The wanted chunks of a pack. Their room is free once nobody holds them any more.
pub(crate) type Content = Arc<(Excerpt, Option<OwnedSemaphorePermit>)>;

struct AllPacks {
    /// What is wanted of each pack, by its number.
    wanted: Vec<WantedPack>,
    at_hand: HashMap<u32, AtHand>,
}

/// The packs of one snapshot.
pub(crate) struct PackCache {
    fetcher: Arc<PackFetcher>,
    state: Mutex<AllPacks>,
    budget: Arc<Semaphore>,
    /// All permits of the budget.
    most: u32,
    /// How many bytes of ciphertext hold everything that is wanted.
    needed: u64,
    fetched: AtomicU64,
}

impl PackCache {
    /// `memory` is the budget in bytes.
    pub(crate) fn new(fetcher: Arc<PackFetcher>, Wanted(wanted): Wanted, memory: u64) -> Self {
        // Repeated content is named more than once, but needed only once.
        let needed = |pack: &WantedPack| share(&pack.reference, pack.named.min(pack.grains.length()));
        let needed = wanted.iter().map(needed).sum();
        let most = u32::try_from(memory / BYTES_PER_PERMIT).unwrap_or(u32::MAX >> 3);
        Self {
            fetcher,
            state: Mutex::new(AllPacks { wanted, at_hand: HashMap::new() }),
            budget: Arc::new(Semaphore::new(most as usize)),
            most,
            needed,
            fetched: AtomicU64::new(0),
        }
    }

    /// The fetcher of the packs.
    pub(crate) fn fetcher(&self) -> &PackFetcher {
        &self.fetcher
    }

    /// Bytes of ciphertext that were fetched so far, and bytes that all streams need.
    pub(crate) fn fetched_and_needed(&self) -> (u64, u64) {
        (self.fetched.load(Ordering::Relaxed), self.needed)
    }

    fn state(&self) -> MutexGuard<'_, AllPacks> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Says that one more reader will visit these spans, beside the others.
    pub(crate) fn expect(&self, spans: &[Span]) {
        let mut state = self.state();
        for (pack, _) in spans.iter().flat_map(|span| &span.packs) {
            if let Some(wanted) = state.wanted.get_mut(*pack as usize) {
                wanted.visits += 1;
            }
        }
    }

    /// Pins a pack, unless that would mean to wait for memory.
    pub(crate) fn try_pin(self: &Arc<Self>, pack: u32) -> Option<Pin> {
        let mut state = self.state();
        if let Some(pin) = self.pin_at_hand(&mut state, pack) {
            return Some(pin);
        }
        let cost = self.cost(state.wanted.get(pack as usize)?);
        let room = self.budget.clone().try_acquire_many_owned(cost).ok()?;
        Some(self.pin_new(&mut state, pack, Some(room)))
    }

    /// Pins a pack, and waits for memory if necessary. The caller must hold no pin.
    pub(crate) async fn pin(self: &Arc<Self>, pack: u32) -> Result<Pin> {
        if let Some(pin) = self.try_pin(pack) {
            return Ok(pin);
        }
        let cost = self.state().wanted.get(pack as usize).map(|wanted| self.cost(wanted)).ok_or_else(unknown)?;
        let room = self.budget.clone().acquire_many_owned(cost).await;
        let room = room.map_err(|_| Error::failed("the memory budget of the packs was closed"))?;
        let mut state = self.state();
        // Another reader may have pinned the pack meanwhile.
        Ok(match self.pin_at_hand(&mut state, pack) {
            Some(pin) => pin,
            None => self.pin_new(&mut state, pack, Some(room)),
        })
    }

    /// Pins a pack even if there is no room for it: a span may need several packs at once.
    pub(crate) fn pin_beyond(self: &Arc<Self>, pack: u32) -> Result<Pin> {
        if let Some(pin) = self.try_pin(pack) {
            return Ok(pin);
        }
        let mut state = self.state();
        if pack as usize >= state.wanted.len() {
            return Err(unknown());
        }
        Ok(match self.pin_at_hand(&mut state, pack) {
            Some(pin) => pin,
            None => self.pin_new(&mut state, pack, None),
        })
    }

    fn pin_at_hand(self: &Arc<Self>, state: &mut AllPacks, pack: u32) -> Option<Pin> {
        let at_hand = state.at_hand.get_mut(&pack)?;
        at_hand.pinned += 1;
        Some(Pin { cache: self.clone(), pack, cell: at_hand.cell.clone(), visited: None })
    }

    fn pin_new(self: &Arc<Self>, state: &mut AllPacks, pack: u32, room: Option<OwnedSemaphorePermit>) -> Pin {
        let cell = Arc::new(OnceCell::new());
        let at_hand = AtHand { cell: cell.clone(), room, pinned: 1, next: NEVER };
        state.at_hand.insert(pack, at_hand);
        Pin { cache: self.clone(), pack, cell, visited: None }
    }

    /// The permits for ciphertext and frames while a pack is fetched, at most half of all.
    fn cost(&self, wanted: &WantedPack) -> u32 {
        // Whole chunks are kept, so this is a little more than what is wanted.
        let frames = share(&wanted.reference, wanted.grains.length()) * 5 / 4 + (1 << 20);
        permits(wanted.reference.size + frames.min(wanted.reference.size)).min(self.most / 2)
    }

    async fn fetch(&self, pack: u32) -> Result<Content> {
        let (reference, ranges, room) = {
            let mut state = self.state();
            let room = state.at_hand.get_mut(&pack).and_then(|at_hand| at_hand.room.take());
            let wanted = state.wanted.get(pack as usize).ok_or_else(unknown)?;
            (wanted.reference, wanted.grains.ranges(), room)
        };
        let excerpt = self.fetcher.fetch(&reference, &ranges).await?;
        self.fetched.fetch_add(reference.size, Ordering::Relaxed);
        // The ciphertext's part of the room is free from now on. There is no room if another reader
        // tries a failed fetch again.
        let room = room.and_then(|mut room| {
            let kept = permits(excerpt.size() as u64).min(room.num_permits() as u32);
            room.split(kept as usize)
        });
        Ok(Arc::new((excerpt, room)))
    }

    /// If `visited` is given, a visit is over, and its reader needs the pack again at the visit of
    /// this number.
    fn unpin(&self, pack: u32, visited: Option<usize>) {
        let mut state = self.state();
        let state = &mut *state;
        let (Some(wanted), Some(at_hand)) = (state.wanted.get_mut(pack as usize), state.at_hand.get_mut(&pack)) else {
            return;
        };
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

    /// Drops packs that nobody has pinned, until the rest takes at most half of the budget. Those
    /// that are needed last go first.
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

/// The number of permits for so many bytes.
fn permits(bytes: u64) -> u32 {
    u32::try_from(bytes.div_ceil(BYTES_PER_PERMIT)).unwrap_or(u32::MAX)
}

fn unknown() -> Error {
    Error::integrity("a stream needs a pack that the manifest does not list")
}

/// Keeps a pack in memory as long as this exists.
pub(crate) struct Pin {
    cache: Arc<PackCache>,
    pack: u32,
    cell: Arc<OnceCell<Content>>,
    visited: Option<usize>,
}

impl Pin {
    /// The pack's number.
    pub(crate) fn pack(&self) -> u32 {
        self.pack
    }

    /// The wanted chunks of the pack. Fetches it, unless another reader has done so.
    pub(crate) async fn content(&self) -> Result<Content> {
        self.cell.get_or_try_init(|| self.cache.fetch(self.pack)).await.cloned()
    }

    /// Ends the visit. The reader needs the pack again at its visit number `next`, if there is one.
    pub(crate) fn visited(mut self, next: Option<usize>) {
        self.visited = Some(next.unwrap_or(NEVER));
    }
}

impl Drop for Pin {
    fn drop(&mut self) {
        self.cache.unpin(self.pack, self.visited);
    }
}

/// How many bytes of a pack's ciphertext hold `wanted` bytes of its content, in proportion.
fn share(pack: &PackRef, wanted: u64) -> u64 {
    (pack.size as f64 * wanted as f64 / pack.content.max(1) as f64) as u64
}
