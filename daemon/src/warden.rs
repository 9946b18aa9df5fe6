//! `lifeboatd warden`: one look at every dataset of the configuration, by the machine that alone
//! deletes. A timer starts it.
//!
//! It holds a signer, and store credentials that delete and extend locks. It opens nothing.

use std::fs::OpenOptions;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::time::Duration;

use lifeboat_engine::base::{Class, Context, Error, Result};
use lifeboat_engine::clock::SharedClock;
use lifeboat_engine::config::Config;
use lifeboat_engine::format::id::Name;
use lifeboat_engine::keep::locks;
use lifeboat_engine::keep::prune::Prune;
use lifeboat_engine::keep::warden::{self, WardenLooks, WardenReport};
use lifeboat_engine::keys::HostKeys;
use lifeboat_engine::keys::owners::Owners;
use lifeboat_engine::keys::sign::Signer;
use lifeboat_engine::log::HostLog;
use lifeboat_engine::root;
use lifeboat_engine::state::StateDirectory;
use tokio_util::sync::CancellationToken;

/// Where so many objects of a replica could not be locked, the next look goes on.
const MOST_REFUSED_LOCKS: u64 = 1000;
/// Extending the locks of a dataset ends after so long, and goes on at the next look.
const LONGEST_LOCKING: Duration = Duration::from_secs(30 * 60);

/// Makes the signer of a warden. Returns its public half.
///
/// # Errors
/// There is one already, or it cannot be written.
pub(crate) fn make_signer(config: &Config) -> Result<String> {
    let path = config.keys.warden_signer.path();
    let signer = Signer::generate()?;
    let text = signer.to_text()?;
    let written = OpenOptions::new()
        .create_new(true)
        .write(true)
        .mode(0o600)
        .open(path)
        .and_then(|mut file| file.write_all(text.as_bytes()).and_then(|()| file.sync_all()));
    written.context(Class::Keys, || format!("cannot make {}", path.display()))?;
    Ok(signer.public().to_string())
}

/// Looks at every dataset. What was seen first of `begin_anew` is forgotten before.
///
/// # Errors
/// Nothing could be looked at, or recorded. What failed in one dataset is in
/// [`WardenLooks::failed`].
pub(crate) async fn look(
    config: &Config,
    begin_anew: Option<&Name>,
    clock: &SharedClock,
    cancel: &CancellationToken,
) -> Result<WardenLooks> {
    if let Some(dataset) = begin_anew.filter(|name| config.datasets.iter().all(|dataset| dataset.name != **name)) {
        return Err(Error::usage(format!("the configuration has no dataset {dataset}"))
            .hint("name one of its [[dataset]] sections"));
    }
    let state = StateDirectory::open_for_writing(&config.state_directory)?;
    let owners = Owners::parse(&config.keys.owners, config.keys.owner_threshold)?.ok_or_else(|| {
        Error::keys("no owners are named, so nobody tells who is the warden")
            .hint("set [keys] owners; a vault without a root has no warden")
    })?;
    let (replicas, records) = (config.open_replicas(clock).await?, config.open_records(clock).await?);
    let (trust, warnings) =
        root::trust_of_reader(&owners, &replicas, &[], Some(&state), Vec::new(), clock.now()).await?;
    warnings.iter().for_each(|warning| tracing::warn!("{warning}"));
    let keys = HostKeys::of_warden(&config.keys, owners, trust)?;
    warden::check_office(&keys, &config.host)?;
    let log = HostLog { keys: &keys, replicas: &replicas, state: &state };
    if let Some(dataset) = begin_anew {
        let _lock = state.lock_dataset(dataset).await?;
        let warnings = warden::begin_anew(&log, dataset, clock.now()).await?;
        warnings.iter().for_each(|warning| tracing::warn!("{warning}"));
    }
    let mut looked = WardenLooks::default();
    let prune = |dataset| Prune {
        config,
        dataset,
        keys: &keys,
        replicas: &replicas,
        records: &records,
        state: &state,
        clock: clock.clone(),
        cancel: cancel.clone(),
    };
    // First, and everywhere: whoever makes a look fail, or end, must not end locks.
    for dataset in &config.datasets {
        extend(&prune(dataset), &mut looked).await;
    }
    if looked.locks.iter().any(|(_, standings)| !standings.is_empty()) {
        // Whoever makes the looks at datasets hang must not hide it.
        match warden::record(&log, &looked, clock.now()).await {
            Ok(warnings) => warnings.iter().for_each(|warning| tracing::warn!("{warning}")),
            Err(error) => tracing::error!("how locks stand was not recorded: {}", error.chain_and_hint()),
        }
    }
    for dataset in &config.datasets {
        if let Err(error) = tend(&prune(dataset), &mut looked).await {
            tracing::error!(dataset = %dataset.name, "{}", error.chain_and_hint());
            looked.failed.push((dataset.name.clone(), error.chain_and_hint()));
        }
    }
    let warnings = warden::record(&log, &looked, clock.now()).await?;
    warnings.iter().for_each(|warning| tracing::warn!("{warning}"));
    Ok(looked)
}

async fn tend(prune: &Prune<'_>, looked: &mut WardenLooks) -> Result<()> {
    let dataset = prune.dataset;
    let _lock = prune.state.lock_dataset(&dataset.name).await?;
    let report = warden::tend(prune).await?;
    for (mark, because) in &report.refused {
        tracing::warn!(dataset = %dataset.name, %mark, "a mark names what this warden keeps: {because}");
    }
    for (mark, names) in &report.vetoed {
        let names: Vec<&str> = names.iter().map(Name::as_str).collect();
        tracing::warn!(dataset = %dataset.name, %mark, "a mark is not carried out: {} vetoed it", names.join(", "));
    }
    for failure in &report.outcome.failures {
        looked.failed.push((dataset.name.clone(), failure.clone()));
    }
    looked.datasets.push(report);
    Ok(())
}

/// Extends the locks of a dataset, until that takes too long or the program is to stop. Those that
/// were refused, or are late, are failures.
async fn extend(prune: &Prune<'_>, looked: &mut WardenLooks) {
    let dataset = prune.dataset;
    let mut fail = |why: String| {
        tracing::error!(dataset = %dataset.name, "{why}");
        looked.failed.push((dataset.name.clone(), why));
    };
    let extended = async {
        // A look of it writes down what is seen first.
        let _lock = prune.state.lock_dataset(&dataset.name).await?;
        locks::extend(prune, MOST_REFUSED_LOCKS).await
    };
    let extended = in_time(extended, LONGEST_LOCKING, &prune.cancel).await;
    match extended {
        Some(Ok(_)) => {}
        Some(Err(error)) => fail(format!("not all locks were extended: {}", error.chain_and_hint())),
        // How they stand tells whether they are late.
        None => tracing::warn!(dataset = %dataset.name, "extending locks was cut short, and goes on at the next look"),
    }
    match locks::standings(prune) {
        Ok(standings) => {
            let now = prune.clock.now();
            for (replica, standing) in standings.iter().filter(|(_, standing)| standing.is_late(now)) {
                let until = standing.locked_until().map_or("nobody knows when".to_owned(), |until| until.to_string());
                fail(format!("replica {replica}: the locks of what is needed are late, and hold until {until}"));
            }
            looked.locks.push((dataset.name.clone(), standings));
        }
        Err(error) => fail(format!("nobody can tell how locks stand: {}", error.chain_and_hint())),
    }
}

/// `None`: it took too long, or was to stop.
async fn in_time<T>(work: impl Future<Output = T>, longest: Duration, stop: &CancellationToken) -> Option<T> {
    tokio::select! {
        biased;
        () = stop.cancelled() => None,
        done = tokio::time::timeout(longest, work) => done.ok(),
    }
}

/// Looks, in words.
pub(crate) fn line(looked: &WardenLooks) -> String {
    let line = |report: &WardenReport| {
        let done = &report.outcome;
        let hidden = match done.hidden {
            0 => String::new(),
            hidden => format!("; {hidden} objects are only hidden: their buckets keep versions"),
        };
        format!(
            "{}: {} of {} marks carried out ({} snapshots and {} packs deleted), {} name what stays, {} vetoed{hidden}",
            report.dataset,
            report.carried_out.len(),
            report.carried_out.len() + report.waiting.len() + report.vetoed.len(),
            done.snapshots,
            done.packs,
            report.refused.len(),
            report.vetoed.len()
        )
    };
    let failed = looked.failed.iter().map(|(dataset, why)| format!("{dataset}: failed: {why}"));
    looked.datasets.iter().map(line).chain(failed).collect::<Vec<_>>().join("\n")
}

/// # Errors
/// Something failed.
pub(crate) fn check(looked: &WardenLooks) -> Result<()> {
    match looked.failed.first() {
        None => Ok(()),
        Some((dataset, _)) => Err(Error::failed(format!("not all could be done in dataset {dataset}"))
            .hint("the lines above tell why: what this warden doubts, it does not delete")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn work_ends_when_it_takes_too_long_or_is_to_stop() {
        let stop = CancellationToken::new();
        assert_eq!(in_time(async { 7 }, LONGEST_LOCKING, &stop).await, Some(7));
        assert_eq!(in_time(std::future::pending::<()>(), LONGEST_LOCKING, &stop).await, None);
        let began = tokio::time::Instant::now();
        let stopper = stop.clone();
        let stops = async move {
            tokio::time::sleep(Duration::from_secs(1)).await;
            stopper.cancel();
        };
        let (ended, ()) = tokio::join!(in_time(std::future::pending::<()>(), LONGEST_LOCKING, &stop), stops);
        assert!(ended.is_none() && began.elapsed() < LONGEST_LOCKING);
    }
}
