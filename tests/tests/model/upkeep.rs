//! What a host does beside backups: prune, catch-up, repair, and a look who leads.

use lifeboat_engine::Result;
use lifeboat_engine::format::layout;
use lifeboat_engine::keep::catch_up::catch_up;
use lifeboat_engine::keep::prune::{Accept, Prune};
use lifeboat_engine::keep::repair::{RepairReport, accept, repair};
use lifeboat_engine::keys::{InitOptions, init};
use lifeboat_engine::lead::Lead;
use lifeboat_engine::state::StateDirectory;
use lifeboat_tests::vault::{DATASET, limits, name};
use tokio_util::sync::CancellationToken;

use crate::reference::Reference;
use crate::region::{Crash, Objects};
use crate::world::World;

/// An operator who has seen what is missing gives it up, and keeps both of two branches.
const EVERYTHING: Accept = Accept { loss: true, branches: true };

/// Prunes, and returns what that tells.
pub(crate) async fn run_prune(prune: &Prune<'_>) -> Result<Vec<String>> {
    let plan = prune.plan().await?;
    Ok(prune.execute(&plan).await?.failures)
}

impl World<'_> {
    /// Does `work` with what a prune on this host has.
    pub(crate) async fn with_prune<T>(
        &self,
        host: usize,
        work: impl AsyncFnOnce(&Prune<'_>) -> Result<T>,
    ) -> Result<T> {
        let state = StateDirectory::open(self.states[host].path())?;
        let (replicas, records) = (self.lines(host, &Crash::never()), self.records(host, &Crash::never()));
        let prune = Prune {
            config: &self.config,
            dataset: &self.config.datasets[0],
            keys: &self.beginning.keys,
            replicas: &replicas,
            records: &records,
            state: &state,
            clock: self.clock_of(host),
            cancel: CancellationToken::new(),
        };
        work(&prune).await
    }

    /// Copies what a replica lacks, as the daemon does.
    pub(crate) async fn catch_up(&self, host: usize, before: &[Objects; 2]) {
        let replicas = self.lines(host, &Crash::never());
        if before.iter().any(|objects| !objects.contains_key(layout::VAULT)) {
            // An empty bucket becomes a replica by `init`; if no vault is left, by nothing.
            let _ = init(&self.config, &replicas, &InitOptions::default(), &self.shared_clock()).await;
        }
        let state = StateDirectory::open(self.states[host].path()).unwrap();
        let (dataset, keys) = (&self.config.datasets[0], &self.beginning.keys);
        let states = catch_up(dataset, keys, &replicas, &state, &limits(), &CancellationToken::new()).await;
        if !self.is_troubled() {
            let states = states.unwrap();
            assert!(states.iter().all(|state| state.error.is_none() && state.behind == 0), "{states:?}");
        }
    }

    /// Repairs, and gives up what is missing then, if `accepts`. Neither deletes anything. What is
    /// whole is never given up.
    pub(crate) async fn repair(&mut self, host: usize, accepts: bool, before: &[Objects; 2]) {
        let work = async |prune: &Prune<'_>| {
            let report = repair(prune, None).await?;
            let has_gaps = !report.missing.is_empty() || !report.branches.is_empty();
            if !accepts || !has_gaps {
                return Ok((report, false));
            }
            // It is refused while anything is in doubt.
            let accepted = accept(prune, EVERYTHING, report).await?;
            Ok((accepted, true))
        };
        let outcome = self.with_prune(host, work).await;
        self.totals.repairs.add(1);
        if let Ok((report, _)) = outcome.as_ref()
            && self.records_place().is_some()
        {
            assert!(report.branches.is_empty(), "two commits did not meet: {report:?}");
        }
        let is_accepted = outcome.as_ref().is_ok_and(|(_, is_accepted)| *is_accepted);
        if is_accepted {
            self.totals.given_up.add(1);
        }
        let after = self.objects().await;
        for (before, after) in before.iter().zip(&after) {
            self.reference.note_given_up(before, after);
        }
        if self.is_troubled() {
            return;
        }
        let (report, _) = outcome.unwrap();
        assert!(self.has_wrong_clock(host) || is_well(&report), "nothing is wrong, and yet: {report:?}");
    }

    /// The place for records holds no data.
    pub(crate) async fn judge_records(&self) {
        let Some(place) = self.records_place() else { return };
        let (order, lease) = (layout::order(&name(DATASET)), layout::lease(&name(DATASET)));
        let is_record = |key: &String| key == layout::VAULT || *key == lease || key.starts_with(&order);
        let others: Vec<String> = place.objects().await.into_keys().filter(|key| !is_record(key)).collect();
        assert!(others.is_empty(), "{others:?} with the records");
    }

    /// Asks who leads, as a deputy does.
    pub(crate) async fn look(&self, host: usize) {
        let state = StateDirectory::open(self.states[host].path()).unwrap();
        let (replicas, records) = (self.lines(host, &Crash::never()), self.records(host, &Crash::never()));
        let (config, keys) = (&self.config, &self.beginning.keys);
        let dataset = &config.datasets[0];
        let lead = Lead {
            config,
            dataset,
            keys,
            replicas: &replicas,
            records: &records,
            state: &state,
            clock: self.clock_of(host),
        };
        let found = lead.look().await;
        self.totals.looks.add(1);
        if self.is_troubled() {
            return;
        }
        let newest = found.unwrap().newest.map(|newest| newest.snapshot);
        let objects = self.objects().await;
        let shown = objects.iter().flat_map(Reference::shown).max();
        assert!(newest >= shown, "{shown:?} is shown, and {newest:?} is taken for the newest");
    }
}

/// Whether a repair found nothing that is wrong.
fn is_well(report: &RepairReport) -> bool {
    let are_level = report.replicas.iter().all(|state| state.error.is_none() && state.behind == 0);
    report.is_whole() && report.missing.is_empty() && report.doubts.is_empty() && are_level
}
