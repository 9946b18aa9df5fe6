//! Which datasets an operator has paused. Whoever asks goes by what is on disk, so that a restart
//! ends no pause.

use std::collections::BTreeMap;
use std::time::Duration;

use lifeboat_engine::base::Result;
use lifeboat_engine::clock::SharedClock;
use lifeboat_engine::format::id::Name;
use lifeboat_engine::state::StateDirectory;
use lifeboat_engine::state::pause::{self, Pause};

use crate::control::protocol::Resumed;

pub(crate) struct Pauses {
    state: StateDirectory,
    clock: SharedClock,
    known: BTreeMap<Name, Pause>,
}

impl Pauses {
    pub(crate) fn open<'a>(
        state: &StateDirectory,
        clock: &SharedClock,
        datasets: impl Iterator<Item = &'a Name>,
    ) -> Self {
        let mut pauses = Self { state: state.clone(), clock: clock.clone(), known: BTreeMap::new() };
        datasets.for_each(|dataset| pauses.read(dataset));
        pauses
    }

    /// Takes in what is on disk of a dataset.
    pub(crate) fn read(&mut self, dataset: &Name) {
        match pause::read(&self.state, dataset) {
            Ok(Some(pause)) => {
                self.known.insert(dataset.clone(), pause);
            }
            Ok(None) => {
                self.known.remove(dataset);
            }
            Err(error) => {
                self.known.remove(dataset);
                tracing::warn!(%dataset, "it is not paused: {}", error.chain());
            }
        }
    }

    /// Begins a pause, in place of another.
    ///
    /// # Errors
    /// It would be too long, or the disk fails.
    pub(crate) fn begin(&mut self, dataset: &Name, lasts: Duration, why: Option<String>) -> Result<Pause> {
        let pause = Pause::new(self.clock.now(), lasts, why)?;
        pause::write(&self.state, dataset, Some(&pause))?;
        let (until, why) = (pause.until, pause.why.as_deref().unwrap_or("no reason was given"));
        tracing::warn!(%dataset, %until, "no backup starts by schedule, for an operator paused it: {why}");
        self.known.insert(dataset.clone(), pause.clone());
        Ok(pause)
    }

    /// Ends a pause, if there is one.
    ///
    /// # Errors
    /// The disk fails.
    pub(crate) fn end(&mut self, dataset: &Name) -> Result<Resumed> {
        let paused_until = self.now().get(dataset).map(|pause| pause.until);
        if paused_until.is_some() {
            pause::write(&self.state, dataset, None)?;
            self.known.remove(dataset);
            tracing::info!(%dataset, "an operator ended the pause");
        }
        Ok(Resumed { dataset: dataset.clone(), paused_until })
    }

    /// What is paused now. Pauses that have ended are forgotten.
    pub(crate) fn now(&mut self) -> BTreeMap<Name, Pause> {
        let now = self.clock.now();
        let ended = self.known.extract_if(.., |_, pause| !pause.holds(now));
        for (dataset, _) in ended {
            tracing::info!(%dataset, "its pause has ended");
            if let Err(error) = pause::write(&self.state, &dataset, None) {
                tracing::warn!(%dataset, "its pause stays on disk: {}", error.chain());
            }
        }
        self.known.clone()
    }
}
