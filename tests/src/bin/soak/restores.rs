//! Restores random datasets, from random replicas, all the time, and judges what comes.
//!
//! A restore gives a content that the dataset had, and none older than a snapshot that was told to
//! be complete in that replica. Or it fails, says what to do next, and a trouble of that replica
//! explains it.

use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use lifeboat_tests::programs::{self, run};
use rand::RngExt;
use rand_chacha::ChaCha8Rng;
use serde_json::Value;
use tokio::process::Command;
use tokio_util::sync::CancellationToken;

use crate::process::Place;
use crate::sources::{DATASETS, Sources};
use crate::troubles::Troubles;
use crate::watch::{REPLICAS, Watch};
use crate::{Result, now, say};

const DEADLINE: Duration = Duration::from_secs(180);
const PAUSE: Duration = Duration::from_millis(1500);
/// Seconds after the end of a trouble in which a failure is still its.
const AFTER: f64 = 8.0;

/// The sums so far.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Judged {
    pub(crate) good: usize,
    pub(crate) failed: usize,
    /// Not what was backed up.
    pub(crate) bad: usize,
    /// Older than what was told to be complete.
    pub(crate) old: usize,
    /// Failures without a hint.
    pub(crate) without_hint: usize,
    /// Failures that nothing explains.
    pub(crate) unexplained: usize,
}

/// Restores and judges.
pub(crate) struct Restores<'a> {
    pub(crate) place: &'a Place,
    pub(crate) sources: &'a Sources,
    pub(crate) troubles: &'a Troubles,
    pub(crate) watch: &'a Watch,
    judged: Mutex<Judged>,
}

impl<'a> Restores<'a> {
    pub(crate) fn new(place: &'a Place, sources: &'a Sources, troubles: &'a Troubles, watch: &'a Watch) -> Self {
        Self { place, sources, troubles, watch, judged: Mutex::default() }
    }

    pub(crate) fn judged(&self) -> Judged {
        *self.judged.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn note(&self, change: impl FnOnce(&mut Judged)) {
        change(&mut self.judged.lock().unwrap_or_else(PoisonError::into_inner));
    }

    /// Restores until `calm`.
    ///
    /// # Errors
    /// As [`Self::restore`].
    pub(crate) async fn run(&self, mut chance: ChaCha8Rng, calm: &CancellationToken) -> Result<()> {
        while !calm.is_cancelled() {
            let dataset = chance.random_range(0..DATASETS.len());
            let replica = chance.random_range(0..REPLICAS.len());
            if let Some(complete) = self.watch.complete(dataset, replica) {
                let told = complete - self.troubles.most_ahead(complete);
                let oldest = self.sources.oldest_since(dataset, told);
                self.restore(dataset, replica, oldest).await?;
            }
            tokio::time::sleep(PAUSE).await;
        }
        Ok(())
    }

    /// Restores the newest snapshot of a dataset from one replica, and judges it.
    ///
    /// # Errors
    /// The program cannot be run, or does not end.
    pub(crate) async fn restore(&self, dataset: usize, replica: usize, oldest: usize) -> Result<()> {
        let (name, from, begun) = (DATASETS[dataset], REPLICAS[replica], now());
        let target = self.target(name);
        let mut command = lifeboat(self.place);
        command.args(["--json", "--replica", from, "--identity"]).arg(self.place.root.join("master.txt"));
        command.args(["restore", name, "--to-directory"]).arg(&target);
        let output = run(&mut command, DEADLINE).await?;
        let what = format!("{name} from {from}, restored at {begun:.0}");
        if output.status.success() {
            match self.sources.restored(dataset, &target).await {
                Ok(number) if number >= oldest => self.note(|judged| judged.good += 1),
                Ok(number) => {
                    say(&format!("OLD: {what}: content {number}, and {oldest} was told to be complete; {output}"));
                    self.note(|judged| judged.old += 1);
                }
                Err(error) => {
                    say(&format!("BAD: {what}: {error}; {output}"));
                    self.note(|judged| judged.bad += 1);
                }
            }
        } else {
            self.note(|judged| judged.failed += 1);
            let error = output.stderr.lines().rev().find_map(|line| serde_json::from_str::<Value>(line).ok());
            let hint = error.as_ref().and_then(|error| error["error"]["hint"].as_str()).unwrap_or_default();
            if hint.is_empty() {
                say(&format!("NO HINT: {what}: {output}"));
                self.note(|judged| judged.without_hint += 1);
            }
            let spans = self.troubles.within(begun, now(), AFTER);
            if !spans.iter().any(|span| span.trouble.replica() == Some(replica)) {
                let behind = self.watch.behind(dataset, replica);
                say(&format!("UNEXPLAINED: {what}, which lacks {behind}: {output}"));
                self.note(|judged| judged.unexplained += 1);
            }
        }
        let _ = std::fs::remove_dir_all(&target);
        Ok(())
    }

    fn target(&self, name: &str) -> PathBuf {
        self.place.root.join(format!("restored-{name}-{}", rand::random::<u32>()))
    }
}

/// The CLI with the configuration of the host.
pub(crate) fn lifeboat(place: &Place) -> Command {
    let mut command = Command::new(programs::lifeboat());
    command.arg("--config").arg(place.steady_config()).env("TMPDIR", place.temporary());
    command
}

/// What is left below a directory that should be empty.
pub(crate) fn left_below(folder: &Path, is_left: impl Fn(&Path) -> bool) -> Vec<PathBuf> {
    lifeboat_tests::vault::files_below(folder).into_iter().filter(|file| is_left(file)).collect()
}
