//! What the runs of one program share: `limits.memory` and `limits.cpu`, however many run at once.
//!
//! - **Memory**: each run has an equal share. A run that runs alone has everything; when another
//!   begins, its pools shrink as their buffers come back, and grow again when that one ends. No
//!   pool shrinks below what its run needs to go on.
//! - **Processors**: at most `limits.cpu` threads of all runs compress at the same time.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use super::buffers::Buffers;
use crate::config::Limits;

/// What the runs of one program share.
pub struct RunBudget {
    state: Mutex<BudgetState>,
    processor_is_free: Condvar,
}

struct BudgetState {
    memory: u64,
    processors: usize,
    /// Threads that compress now.
    busy: usize,
    /// The buffers of each run.
    runs: Vec<Arc<Buffers>>,
}

impl RunBudget {
    /// A budget for all runs of this program.
    #[must_use]
    pub fn new(limits: &Limits) -> Arc<Self> {
        let state = BudgetState { memory: limits.memory, processors: limits.cpu, busy: 0, runs: Vec::new() };
        Arc::new(Self { state: Mutex::new(state), processor_is_free: Condvar::new() })
    }

    /// Takes other limits, for runs that go on, too.
    pub fn set(&self, limits: &Limits) {
        let mut state = self.lock();
        (state.memory, state.processors) = (limits.memory, limits.cpu);
        state.divide();
        drop(state);
        self.processor_is_free.notify_all();
    }

    /// Gives a run its share, which lasts as long as the result.
    pub(crate) fn share(self: &Arc<Self>, buffers: Arc<Buffers>) -> Share {
        let mut state = self.lock();
        state.runs.push(buffers.clone());
        state.divide();
        drop(state);
        Share { budget: self.clone(), buffers }
    }

    /// Waits for a processor, which is taken as long as the result lasts. The thread blocks.
    pub(crate) fn processor(&self) -> Processor<'_> {
        let is_taken = |state: &mut BudgetState| state.busy >= state.processors;
        let state = self.processor_is_free.wait_while(self.lock(), is_taken);
        state.unwrap_or_else(PoisonError::into_inner).busy += 1;
        Processor(self)
    }

    fn lock(&self) -> MutexGuard<'_, BudgetState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl BudgetState {
    fn divide(&self) {
        let share = self.memory / self.runs.len().max(1) as u64;
        self.runs.iter().for_each(|buffers| buffers.resize(share));
    }
}

/// The share of one run.
pub(crate) struct Share {
    budget: Arc<RunBudget>,
    buffers: Arc<Buffers>,
}

impl Share {
    pub(crate) fn buffers(&self) -> &Buffers {
        &self.buffers
    }

    pub(crate) fn processor(&self) -> Processor<'_> {
        self.budget.processor()
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        let mut state = self.budget.lock();
        state.runs.retain(|buffers| !Arc::ptr_eq(buffers, &self.buffers));
        state.divide();
    }
}

/// A processor of the budget.
pub(crate) struct Processor<'a>(&'a RunBudget);

impl Drop for Processor<'_> {
    fn drop(&mut self) {
        self.0.lock().busy -= 1;
        self.0.processor_is_free.notify_one();
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use std::time::Duration;

    use super::*;

    fn limits(memory: u64, cpu: usize) -> Limits {
        Limits { memory, cpu, ..Limits::default() }
    }

    #[test]
    fn runs_share_the_memory_and_one_alone_has_it_all() {
        let (budget, memory) = (RunBudget::new(&limits(1 << 30, 2)), 1 << 30);
        let buffers = || Arc::new(Buffers::new(memory, 512 << 10, 2));
        let first = budget.share(buffers());
        let alone = first.buffers().packs.count();
        let second = budget.share(buffers());
        let half = (first.buffers().packs.count(), second.buffers().packs.count());
        assert!(half.0 == half.1 && half.0 == alone / 2, "{half:?} of {alone}");
        budget.set(&limits(memory / 2, 2));
        assert_eq!(first.buffers().packs.count(), alone / 4);
        budget.set(&limits(memory, 2));
        drop(second);
        assert_eq!(first.buffers().packs.count(), alone);
        // However many there are, each can go on.
        let many: Vec<Share> = (0..100).map(|_| budget.share(buffers())).collect();
        assert!(many.iter().all(|share| share.buffers().packs.count() >= share.buffers().filling));
    }

    #[test]
    fn no_more_threads_compress_than_there_are_processors() {
        let budget = RunBudget::new(&limits(1 << 30, 2));
        let (first, second) = (budget.processor(), budget.processor());
        std::thread::scope(|scope| {
            let third = scope.spawn(|| drop(budget.processor()));
            std::thread::sleep(Duration::from_millis(50));
            assert!(!third.is_finished(), "three at once");
            drop(first);
            third.join().unwrap();
        });
        drop(second);
    }
}
