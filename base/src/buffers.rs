//! Buffers that are used again: their users never take more memory than a pool holds, and fresh
//! pages are paid for only once.
//!
//! A [`BufferPool`] gives out at most as many buffers as it was made for. Whoever wants one more
//! waits until one comes back. A buffer comes back when it, or the last [`Bytes`] made of it, is
//! dropped. Its old content stays in it.
//!
//! Where a budget counts bytes instead of buffers, [`spare`] gives large buffers of any size. The
//! system's allocator would keep such buffers for each thread that ever made one, which is several
//! times what is in use.

use std::collections::VecDeque;
use std::ops::{Deref, DerefMut};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::error::{Error, Result};

/// What lies idle in a pool, and how many buffers there are.
#[derive(Debug, Default)]
struct Shelf {
    free: Vec<Vec<u8>>,
    count: usize,
    /// So many of those that come back are to go: the pool has shrunk.
    surplus: usize,
}

type SharedShelf = Arc<Mutex<Shelf>>;

fn open(shelf: &Mutex<Shelf>) -> MutexGuard<'_, Shelf> {
    shelf.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A buffer of at least this size is worth keeping for its next use.
const MIN_SPARE_BYTES: usize = 64 << 10;
/// All spare buffers together take no more. With more, some lie idle, of sizes that nobody wants
/// any longer. With half as much, large ones are given back to the system and soon asked for again.
const MAX_SPARES_BYTES: usize = 48 << 20;

/// Where a buffer is longer than this, …
const LONG_BYTES: usize = 18 << 20;
/// … it gets at least this capacity: the system's allocator gives larger ones back at once, and
/// keeps smaller ones for each thread that ever made one. Of pages that nobody touches, none is
/// taken.
const RETURNED_BYTES: usize = 33 << 20;

/// The capacity with which a buffer of this length should be made.
#[must_use]
pub fn roomy(length: usize) -> usize {
    if length > LONG_BYTES { length.max(RETURNED_BYTES) } else { length }
}

/// Buffers that nobody uses now; the one that came back last is the last.
static SPARES: Mutex<VecDeque<Vec<u8>>> = Mutex::new(VecDeque::new());

/// A buffer with a capacity of at least `length` bytes, perhaps a used one.
#[must_use]
pub fn spare(length: usize) -> Buffer {
    if length < MIN_SPARE_BYTES {
        return Buffer { bytes: Vec::with_capacity(length), home: Home::Nowhere };
    }
    // The smallest idle buffer that fits. One of up to twice the size will do: it wastes less than
    // another buffer would.
    let capacity = length.next_multiple_of(MIN_SPARE_BYTES);
    let mut spares = SPARES.lock().unwrap_or_else(PoisonError::into_inner);
    let fits = |spare: &&Vec<u8>| (length..=2 * capacity).contains(&spare.capacity());
    let smallest = spares.iter().filter(fits).map(Vec::capacity).min();
    let found = spares.iter().rposition(|spare| Some(spare.capacity()) == smallest).and_then(|at| spares.remove(at));
    Buffer { bytes: found.unwrap_or_else(|| Vec::with_capacity(roomy(capacity))), home: Home::Spares }
}

fn keep_spare(bytes: Vec<u8>) {
    // No pack is so long. What is, is rare, and would keep its memory from what is made of it.
    if bytes.capacity() > LONG_BYTES {
        return;
    }
    let mut spares = SPARES.lock().unwrap_or_else(PoisonError::into_inner);
    spares.push_back(bytes);
    let mut sum: usize = spares.iter().map(Vec::capacity).sum();
    while sum > MAX_SPARES_BYTES
        && let Some(oldest) = spares.pop_front()
    {
        sum -= oldest.capacity();
    }
}

/// Gives out at most `count` buffers of about `capacity` bytes each.
#[derive(Clone)]
pub struct BufferPool {
    shelf: SharedShelf,
    permits: Arc<Semaphore>,
    capacity: usize,
}

impl BufferPool {
    /// A pool that takes no memory yet: buffers are made when they are first wanted.
    #[must_use]
    pub fn new(count: usize, capacity: usize) -> Self {
        let shelf = Shelf { count, ..Shelf::default() };
        Self { shelf: Arc::new(Mutex::new(shelf)), permits: Arc::new(Semaphore::new(count)), capacity }
    }

    /// How many there are, in use or not.
    #[must_use]
    pub fn count(&self) -> usize {
        open(&self.shelf).count
    }

    /// Makes it a pool of `count` buffers. Those that are too many go as soon as nobody uses them.
    /// Whoever waits for a buffer that counts as more than `count` waits until the pool grows.
    pub fn resize(&self, count: usize) {
        let mut shelf = open(&self.shelf);
        if count >= shelf.count {
            let more = count - shelf.count;
            let kept = more.min(shelf.surplus);
            shelf.surplus -= kept;
            self.permits.add_permits(more - kept);
        } else {
            let fewer = shelf.count - count;
            let idle = self.permits.forget_permits(fewer);
            shelf.surplus += fewer - idle;
        }
        shelf.count = count;
        let most = self.permits.available_permits();
        shelf.free.truncate(most);
    }

    /// Waits for a buffer.
    ///
    /// # Errors
    /// Never in practice: the pool cannot be closed.
    pub async fn take(&self) -> Result<Buffer> {
        self.take_for(self.capacity).await
    }

    /// Waits for a buffer for `length` bytes. A buffer that is larger than the pool's own counts as
    /// several of them, or as all, and is not kept afterwards.
    ///
    /// # Errors
    /// As [`Self::take`].
    pub async fn take_for(&self, length: usize) -> Result<Buffer> {
        let permit = self.permits.clone().acquire_many_owned(self.weight(length)).await;
        permit.map(|permit| self.lend(length, permit)).map_err(|_| Error::failed("a buffer pool was closed"))
    }

    /// As [`Self::take_for`], but `None` where it would have to wait.
    #[must_use]
    pub fn try_take_for(&self, length: usize) -> Option<Buffer> {
        let permit = self.permits.clone().try_acquire_many_owned(self.weight(length));
        permit.ok().map(|permit| self.lend(length, permit))
    }

    fn weight(&self, length: usize) -> u32 {
        length.div_ceil(self.capacity.max(1)).clamp(1, self.count().max(1)) as u32
    }

    fn lend(&self, length: usize, permit: OwnedSemaphorePermit) -> Buffer {
        if length > self.capacity {
            return Buffer { bytes: Vec::with_capacity(length), home: Home::Counted { _permit: permit } };
        }
        let kept = open(&self.shelf).free.pop();
        let bytes = kept.unwrap_or_else(|| Vec::with_capacity(self.capacity));
        Buffer { bytes, home: Home::Pool { shelf: self.shelf.clone(), permit: Some(permit) } }
    }

    /// As [`Self::take`], on a thread of a tokio runtime that may block.
    ///
    /// # Errors
    /// As [`Self::take`].
    pub fn take_blocking(&self) -> Result<Buffer> {
        tokio::runtime::Handle::current().block_on(self.take())
    }
}

/// A buffer that a pool lent, or one that belongs to no pool.
#[derive(Debug, Default)]
pub struct Buffer {
    bytes: Vec<u8>,
    home: Home,
}

/// Where a buffer goes when it is dropped.
#[derive(Debug, Default)]
enum Home {
    #[default]
    Nowhere,
    Spares,
    Pool {
        shelf: SharedShelf,
        permit: Option<OwnedSemaphorePermit>,
    },
    /// Nowhere, but until then it counts as a buffer of a pool.
    Counted {
        _permit: OwnedSemaphorePermit,
    },
}

impl Buffer {
    /// Its content as shared bytes. The buffer goes back once the last of them is dropped.
    #[must_use]
    pub fn freeze(self) -> Bytes {
        Bytes::from_owner(self)
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        let bytes = std::mem::take(&mut self.bytes);
        match &mut self.home {
            Home::Nowhere | Home::Counted { .. } => {}
            Home::Spares => keep_spare(bytes),
            Home::Pool { shelf, permit } => {
                let mut shelf = open(shelf);
                if shelf.surplus > 0 {
                    shelf.surplus -= 1;
                    if let Some(permit) = permit.take() {
                        permit.forget();
                    }
                } else {
                    shelf.free.push(bytes);
                }
            }
        }
    }
}

impl AsRef<[u8]> for Buffer {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Deref for Buffer {
    type Target = Vec<u8>;

    #[inline]
    fn deref(&self) -> &Vec<u8> {
        &self.bytes
    }
}

impl DerefMut for Buffer {
    #[inline]
    fn deref_mut(&mut self) -> &mut Vec<u8> {
        &mut self.bytes
    }
}

impl std::io::Write for Buffer {
    fn write(&mut self, data: &[u8]) -> std::io::Result<usize> {
        self.bytes.extend_from_slice(data);
        Ok(data.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::FutureExt;

    #[tokio::test]
    async fn gives_out_no_more_than_its_count_and_the_same_memory_again() -> Result<()> {
        let pool = BufferPool::new(2, 100);
        let (mut first, second) = (pool.take().await?, pool.take().await?);
        assert!(pool.take().now_or_never().is_none(), "a third buffer was given out");
        first.extend_from_slice(b"content");
        let place = first.as_ptr();
        let shared = first.freeze();
        let part = shared.slice(2..4);
        drop(shared);
        assert!(pool.take().now_or_never().is_none(), "a buffer came back while a part of it was in use");
        assert_eq!(&part[..], b"nt");
        drop(part);
        let again = pool.take().await?;
        assert_eq!(again.as_ptr(), place);
        drop(second);
        Ok(())
    }

    #[tokio::test]
    async fn a_pool_shrinks_as_buffers_come_back_and_grows_again() -> Result<()> {
        let pool = BufferPool::new(3, 100);
        let (first, second) = (pool.take().await?, pool.take().await?);
        pool.resize(1);
        assert!(pool.try_take_for(1).is_none(), "it did not shrink");
        drop(first);
        assert!(pool.try_take_for(1).is_none(), "it has two, and one is out");
        drop(second);
        let only = pool.take().await?;
        assert!(pool.try_take_for(1).is_none(), "it has two");
        pool.resize(2);
        let other = pool.take().await?;
        // Shrunk and grown while all are out: nothing is lost, nothing is won.
        pool.resize(1);
        pool.resize(3);
        let third = pool.take().await?;
        assert!(pool.try_take_for(1).is_none(), "it has four");
        drop((only, other, third));
        let all = [pool.take().await?, pool.take().await?, pool.take().await?];
        assert!(pool.try_take_for(1).is_none() && all.len() == pool.count());
        Ok(())
    }

    #[test]
    fn a_spare_buffer_is_used_again_where_it_fits_and_spares_are_bounded() {
        // Others may take and give meanwhile: of these sizes only this test does.
        let first = spare(17 << 20);
        let was = first.as_ptr();
        drop(first);
        assert_ne!(spare(8 << 20).as_ptr(), was, "much larger than is needed");
        let again = spare((17 << 20) - 5);
        assert_eq!((again.as_ptr(), again.capacity()), (was, 17 << 20), "it was not used again");
        let more: Vec<Buffer> = (0..2 * MAX_SPARES_BYTES / (17 << 20)).map(|_| spare(17 << 20)).collect();
        drop((again, more));
        let kept: usize = SPARES.lock().unwrap_or_else(PoisonError::into_inner).iter().map(Vec::capacity).sum();
        assert!(kept > 0 && kept <= MAX_SPARES_BYTES, "{kept} bytes are kept");
        drop(spare(23 << 20));
        let kept = SPARES.lock().unwrap_or_else(PoisonError::into_inner).iter().map(Vec::capacity).max();
        assert!(kept.is_some_and(|longest| longest <= LONG_BYTES), "{kept:?}");
    }

    #[tokio::test]
    async fn a_large_buffer_counts_as_several_and_is_not_kept() -> Result<()> {
        let pool = BufferPool::new(3, 100);
        let large = pool.take_for(150).await?;
        assert!(large.capacity() >= 150);
        let small = pool.take_for(1).await?;
        assert!(pool.try_take_for(1).is_none(), "more was given out than there is");
        drop(large);
        assert!(pool.try_take_for(300).is_none(), "more was given out than there is");
        drop(small);
        // More than all of it is had once nothing else is out.
        let all = pool.try_take_for(1000).ok_or_else(|| Error::failed("a buffer is not back"))?;
        assert!(pool.try_take_for(1).is_none(), "more was given out than there is");
        drop(all);
        let again = [pool.take().await?, pool.take().await?, pool.take().await?];
        assert!(again.iter().all(|buffer| buffer.capacity() < 150), "a large buffer was kept");
        Ok(())
    }
}
