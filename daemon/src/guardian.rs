//! Looks after deletion apart from this host: once a day, whether the credentials still cannot
//! delete for good; and every hour, whether locks are to be extended.
//!
//! It runs beside everything else and holds no dataset's lock. It ends with the daemon at once, and
//! goes on later.

use std::sync::Arc;
use std::time::Duration;

use lifeboat_engine::base::Result;
use lifeboat_engine::config::Dataset;
use lifeboat_engine::format::id::Name;
use lifeboat_engine::keep::locks::{self, LockStandings};
use lifeboat_engine::keep::warden_log::warden_tells;
use lifeboat_engine::root;
use lifeboat_engine::store::Protection;
use lifeboat_engine::witness::last_looks;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::installation::Installation;
use crate::live::Live;
use crate::metrics::LastLooks;
use crate::runner::Runner;

/// The first look comes so long after the start.
const FIRST: Duration = Duration::from_secs(60);
/// Then it looks again and again.
const GUARD_TURN: Duration = Duration::from_secs(3600);
/// Credentials are tried so often.
const TRY: Duration = Duration::from_secs(24 * 3600);
/// After so many objects of a replica that cannot be locked, the next turn goes on behind them.
const MOST_REFUSED: u64 = 1000;
/// Finding out when others looked last may take this long.
const LONGEST_LOOK: Duration = Duration::from_secs(600);
/// A turn ends after this long. What is left comes with the next one.
const LONGEST_TURN: Duration = Duration::from_secs(12 * 3600);

pub(crate) struct Guardian {
    runner: Runner,
    live: Arc<Live>,
    next: Duration,
    next_try: Duration,
    job: Option<JoinHandle<()>>,
}

impl Guardian {
    pub(crate) fn new(runner: Runner, live: Arc<Live>) -> Self {
        let first = runner.clock.elapsed() + FIRST;
        Self { runner, live, next: first, next_try: first, job: None }
    }

    /// Starts what is due. Never waits.
    pub(crate) fn turn(&mut self) {
        let now = self.runner.clock.elapsed();
        if now < self.next || self.job.as_ref().is_some_and(|job| !job.is_finished()) {
            return;
        }
        self.next = now + GUARD_TURN;
        let is_try_due = now >= self.next_try;
        if is_try_due {
            self.next_try = now + TRY;
        }
        let (runner, live) = (self.runner.clone(), self.live.clone());
        self.job = Some(tokio::spawn(async move {
            let work = async {
                // What is tried then is what holds from now on.
                let is_in_time = tokio::time::timeout(LONGEST_TURN, extend_locks(&runner, &live)).await.is_ok();
                look_for_looks(&runner, &live).await;
                if is_try_due {
                    try_credentials(&runner, &live).await;
                }
                is_in_time
            };
            if !work.await {
                tracing::warn!("extending locks takes long, and goes on in an hour");
            }
        }));
    }

    /// Ends at once.
    pub(crate) fn stop(&mut self) {
        if let Some(job) = self.job.take() {
            job.abort();
        }
    }
}

/// Looks what the warden of the root tells, and when its witnesses looked last: a backup does not
/// need them, so nobody else would notice that they are gone. Where the newest root that this host
/// has seen names no warden, nobody is asked.
async fn look_for_looks(runner: &Runner, live: &Live) {
    match root::names_warden(&runner.state) {
        Ok(true) => {}
        Ok(false) => return live.looked(LastLooks::new(), None),
        Err(error) => {
            tracing::warn!("it is not known whether there is a warden: {}", error.chain_and_hint());
            return;
        }
    }
    let installation = live.installation();
    let Installation { config, keys, replicas, .. } = installation.as_ref();
    let looked = async {
        // Until a backup has run, nobody has looked for the root.
        if let Err(error) = root::renew(keys, replicas, &runner.state, runner.clock.now()).await {
            tracing::warn!("it is not known who is a witness: {}", error.chain_and_hint());
        }
        let (vault, trust) = (&keys.vault, &keys.trust);
        let names = config.datasets.iter().map(|dataset| &dataset.name);
        (last_looks(vault, trust, replicas).await, warden_tells(vault, trust, replicas, names).await)
    };
    // A replica that hangs must not keep locks from being extended. What is known stays known: how
    // late locks are, and looks, is told by the clock of whoever asks.
    if let Ok((witnesses, warden)) = tokio::time::timeout(LONGEST_LOOK, looked).await {
        let is_led = |dataset: &Name| !runner.ledger.is_led_elsewhere(dataset);
        for (dataset, word) in warden.iter().flat_map(|warden| &warden.datasets).filter(|(name, _)| is_led(name)) {
            live.locked(dataset, word.locks(replicas));
            word.shorter_locks(replicas).iter().for_each(|shorter| tracing::warn!(%dataset, "{shorter}"));
        }
        if let Some(warden) = warden.as_ref().filter(|warden| warden.unbelieved > 0) {
            tracing::warn!(
                warden = %warden.name,
                "{} names in the log of the warden are no records that can be believed: somebody may have written them to hide others",
                warden.unbelieved
            );
        }
        live.looked(witnesses, warden);
    }
}

/// Tries with throw-away objects what a thief of the credentials could do.
async fn try_credentials(runner: &Runner, live: &Live) {
    let installation = live.installation();
    let are_set = locks::are_set(&installation.config, runner.clock.now());
    let has_warden = installation.keys.only_marks();
    for (config, replica) in installation.config.replicas.iter().zip(&installation.replicas) {
        let name = &config.name;
        let found = match replica.probe(true).await {
            Ok(probe) if has_warden => Protection::of(config, &probe, true, None).under_warden(&probe),
            Ok(probe) => Protection::of(config, &probe, true, are_set.get(name).copied()),
            Err(error) => {
                tracing::warn!(replica = %name, "it is not known whether deletion is apart from this host: {}", error.kind);
                live.unguarded(name);
                continue;
            }
        };
        for what in &found.broken {
            tracing::error!(replica = %name, "replica {name} {what}");
        }
        let Some(level) = found.level else {
            live.unguarded(name);
            continue;
        };
        if let Some(before) = live.guarded(name, level).filter(|before| *before > level) {
            tracing::error!(replica = %name, %before, now = %level, "{} (next: run `lifeboat check`)", found.thief);
        }
    }
}

async fn extend_locks(runner: &Runner, live: &Live) {
    let installation = live.installation();
    let has_locks = installation.replicas.iter().any(|replica| replica.lock().is_some());
    let is_ours = |dataset: &&Dataset| has_locks && !runner.ledger.is_led_elsewhere(&dataset.name);
    let ours: Vec<&Dataset> = installation.config.datasets.iter().filter(is_ours).collect();
    live.locks_only(&ours.iter().map(|dataset| &dataset.name).collect());
    if installation.keys.only_marks() {
        // The warden extends them, and its log tells how they stand.
        return;
    }
    for dataset in ours {
        let (standings, failed) = runner.extend_locks(&installation, dataset).await;
        live.locked(&dataset.name, standings);
        if let Some(error) = failed {
            tracing::error!(dataset = %dataset.name, hint = error.hint_text().unwrap_or_default(), "locks were not extended: {}", error.chain());
        }
    }
}

impl Runner {
    async fn extend_locks(
        &self,
        installation: &Installation,
        dataset: &Dataset,
    ) -> (LockStandings, Option<lifeboat_engine::Error>) {
        let prune = self.prune_of(installation, dataset, CancellationToken::new());
        let standings: Result<LockStandings> = locks::extend(&prune, MOST_REFUSED).await;
        match standings {
            Ok(standings) => (standings, None),
            Err(error) => (locks::standings(&prune).unwrap_or_default(), Some(error)),
        }
    }
}
