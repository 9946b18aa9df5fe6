//! Readers that read the same stream beside each other, as a restore over several connections does.
//! What they read counts as one delivery: as much as the one that is farthest has read. And none
//! takes all buffers: one whose consumer is slow would hold the others back to its own pace.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// A reader has at least so many buffers.
const MIN_BUFFERS_OF_READER: usize = 2;

/// The readers of one stream.
#[derive(Debug, Default)]
pub(super) struct ReadersBeside(Mutex<FarthestOf>);

#[derive(Debug, Default)]
struct FarthestOf {
    readers: usize,
    /// How many bytes the farthest of them has read.
    position: u64,
}

/// One of them.
#[derive(Debug)]
pub(super) struct ReaderBeside {
    readers: Arc<ReadersBeside>,
    delivered: Arc<AtomicU64>,
}

impl ReadersBeside {
    fn farthest(&self) -> MutexGuard<'_, FarthestOf> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// One more reader, whose bytes count in `delivered`; and whether others are at work.
    pub(super) fn join(self: &Arc<Self>, delivered: &Arc<AtomicU64>) -> (ReaderBeside, bool) {
        let mut farthest = self.farthest();
        farthest.readers += 1;
        let reader = ReaderBeside { readers: self.clone(), delivered: delivered.clone() };
        (reader, farthest.readers > 1)
    }
}

impl ReaderBeside {
    /// Says that so many bytes of the stream were read in all.
    pub(super) fn reached(&self, position: u64) {
        let mut farthest = self.readers.farthest();
        let more = position.saturating_sub(farthest.position);
        farthest.position += more;
        self.delivered.fetch_add(more, Ordering::Relaxed);
    }

    /// How many of `all` buffers this reader may hold.
    pub(super) fn share(&self, all: usize) -> usize {
        match self.readers.farthest().readers {
            0 | 1 => all,
            several => (all / several).max(MIN_BUFFERS_OF_READER),
        }
    }
}

impl Drop for ReaderBeside {
    fn drop(&mut self) {
        let mut farthest = self.readers.farthest();
        farthest.readers -= 1;
        if farthest.readers == 0 {
            farthest.position = 0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn readers_beside_each_other_count_once_and_one_after_the_other_twice() {
        let (readers, delivered) = (Arc::<ReadersBeside>::default(), Arc::<AtomicU64>::default());
        let told = || delivered.load(Ordering::Relaxed);
        let (first, beside) = readers.join(&delivered);
        assert!(!beside && first.share(6) == 6);
        first.reached(10);
        let (second, beside) = readers.join(&delivered);
        assert!(beside && first.share(6) == 3 && second.share(3) == 2);
        second.reached(7);
        assert_eq!(told(), 10);
        second.reached(12);
        drop(first);
        second.reached(20);
        assert_eq!(told(), 20);
        drop(second);
        let (again, beside) = readers.join(&delivered);
        assert!(!beside);
        again.reached(20);
        assert_eq!(told(), 40);
    }
}
