//! Reads the metrics, as Prometheus would, and judges whether every start shows.
//!
//! Each dataset is due at each minute. From then on the metrics must show within [`BOUND`] that it
//! began, runs, waits or failed. Time counts only while the daemon answers and nothing keeps it
//! from its work. Several starts that passed meanwhile are made up for by one run. A minute that
//! passes while the daemon's clock is wrong is none to the daemon.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::atomic::AtomicI32;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::Result;
use crate::peaks::{Peaks, measure};
use crate::sources::DATASETS;
use crate::troubles::{Trouble, Troubles};

/// The names of the replicas, by number: two S3 servers, and a directory.
pub(crate) const REPLICAS: [&str; 3] = ["north", "south", "cellar"];
const SCRAPE: Duration = Duration::from_secs(2);
const SCRAPE_DEADLINE: Duration = Duration::from_secs(4);
/// Seconds in which a start must show.
const BOUND: f64 = 30.0;
/// Seconds that one start may wait for a place, with everything in its way.
const LONGEST_WAIT: f64 = 300.0;
/// Seconds after the end of a trouble in which the daemon may still be busy with it.
const AFTER: f64 = 6.0;

/// One scrape: values by name and labels, as they stand on the page.
pub(crate) type Metrics = HashMap<String, f64>;

/// The metrics page.
///
/// # Errors
/// The daemon does not answer in time, or not with the page.
pub(crate) async fn scrape(address: SocketAddr) -> Result<Metrics> {
    let read = async {
        let mut stream = TcpStream::connect(address).await?;
        stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: soak\r\nConnection: close\r\n\r\n").await?;
        let mut page = String::new();
        stream.read_to_string(&mut page).await?;
        std::io::Result::Ok(page)
    };
    let page = tokio::time::timeout(SCRAPE_DEADLINE, read).await??;
    if !page.starts_with("HTTP/1.1 200") {
        return Err("no page of metrics".into());
    }
    let lines = page.lines().filter(|line| line.starts_with("lifeboat_"));
    let parsed = lines.filter_map(|line| {
        let (name, value) = line.rsplit_once(' ')?;
        Some((name.to_owned(), value.parse().ok()?))
    });
    Ok(parsed.collect())
}

/// What is known of one dataset from the metrics.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
struct Shown {
    counted: [f64; 3],
    attempt: f64,
    is_busy: bool,
    waiting: f64,
}

impl Shown {
    fn of(metrics: &Metrics, dataset: &str) -> Self {
        let value = |name: &str| metrics.get(&format!("lifeboat_backup_{name}")).copied().unwrap_or_default();
        let counted = ["success", "failure", "unknown"]
            .map(|result| value(&format!("runs_total{{dataset=\"{dataset}\",result=\"{result}\"}}")));
        let waiting = value(&format!("waiting_seconds{{dataset=\"{dataset}\"}}"));
        let runs = value(&format!("running{{dataset=\"{dataset}\"}}"));
        let attempt = value(&format!("last_attempt_timestamp_seconds{{dataset=\"{dataset}\"}}"));
        Self { counted, attempt, is_busy: runs > 0.0 || waiting > 0.0, waiting }
    }
}

/// A start that is not yet seen.
#[derive(Debug, Clone, Copy)]
struct Due {
    at: f64,
    before: Shown,
    /// For so many seconds the daemon could have shown it.
    answered: f64,
}

/// The sums so far.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Seen {
    pub(crate) successes: f64,
    pub(crate) failures: f64,
    pub(crate) silent: usize,
    pub(crate) stuck: usize,
    /// Attempts that neither succeeded nor failed.
    pub(crate) lost: usize,
    pub(crate) starts: usize,
    pub(crate) longest_wait: f64,
}

/// What the scrapes have shown.
#[derive(Debug, Default)]
pub(crate) struct Watch {
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    seen: Seen,
    last: HashMap<&'static str, Shown>,
    last_scrape: f64,
    due: HashMap<&'static str, Due>,
    /// Since when each dataset waits, in seconds of an answering daemon.
    waits: HashMap<&'static str, f64>,
    /// How many runs had ended before the attempt that is shown, and since when it is.
    ended: HashMap<&'static str, (f64, f64)>,
    complete: HashMap<(usize, usize), f64>,
    metrics: Metrics,
}

impl Watch {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn seen(&self) -> Seen {
        self.lock().seen
    }

    /// The start of the newest snapshot that was told to be complete in a replica, by the daemon's
    /// clock.
    pub(crate) fn complete(&self, dataset: usize, replica: usize) -> Option<f64> {
        self.lock().complete.get(&(dataset, replica)).copied()
    }

    /// How many snapshots a replica lacks, as far as the daemon knows.
    pub(crate) fn behind(&self, dataset: usize, replica: usize) -> f64 {
        let (dataset, replica) = (DATASETS[dataset], REPLICAS[replica]);
        let name = format!("lifeboat_replica_behind_snapshots{{dataset=\"{dataset}\",replica=\"{replica}\"}}");
        self.lock().metrics.get(&name).copied().unwrap_or_default()
    }

    /// Scrapes until it is dropped.
    pub(crate) async fn run(
        &self,
        address: SocketAddr,
        troubles: &Troubles,
        (process, peaks): (&AtomicI32, &Arc<Peaks>),
    ) -> std::convert::Infallible {
        loop {
            measure(process, peaks);
            let begun = crate::now();
            match scrape(address).await {
                Ok(metrics) => self.lock().take_in(metrics, begun, troubles),
                Err(_) => self.lock().last_scrape = 0.0,
            }
            tokio::time::sleep(SCRAPE).await;
        }
    }
}

impl Inner {
    fn take_in(&mut self, metrics: Metrics, now: f64, troubles: &Troubles) {
        // Since the last scrape, nothing kept the daemon from its work.
        let since = if self.last_scrape == 0.0 { now } else { self.last_scrape };
        let is_hindered = troubles.within(since, now, AFTER).iter().any(|span| {
            matches!(
                span.trouble,
                Trouble::DaemonKilled
                    | Trouble::DaemonEnded
                    | Trouble::DaemonStopped
                    | Trouble::NoDescriptors
                    | Trouble::ClockWrong(_)
            )
        });
        let passed = if is_hindered { 0.0 } else { now - since };
        let minute = (now / 60.0).floor() * 60.0;
        let is_due = self.last_scrape > 0.0
            && minute > since
            && !troubles
                .within(minute, minute, AFTER)
                .iter()
                .any(|span| matches!(span.trouble, Trouble::ClockWrong(_)));
        for dataset in DATASETS {
            let shown = Shown::of(&metrics, dataset);
            let before = self.last.insert(dataset, shown).unwrap_or(shown);
            self.count(&before, &shown);
            self.watch_attempt(dataset, (&before, &shown), now, troubles);
            self.watch_wait(dataset, &shown, passed);
            if is_due {
                self.seen.starts += 1;
                self.due.entry(dataset).or_insert(Due { at: minute, before, answered: 0.0 });
            }
            let Some(due) = self.due.get_mut(dataset) else { continue };
            let began = shown.attempt >= due.at - 1.0 && shown.attempt <= now + 5.0;
            let has_changed = shown.counted != due.before.counted || shown.attempt != due.before.attempt;
            due.answered += passed;
            if shown.is_busy || began || has_changed {
                self.due.remove(dataset);
            } else if due.answered > BOUND {
                crate::say(&format!("SILENT: {dataset} was due at {} and shows nothing: {shown:?}", due.at));
                self.seen.silent += 1;
                self.due.remove(dataset);
            }
        }
        self.take_in_complete(&metrics);
        (self.metrics, self.last_scrape) = (metrics, now);
    }

    fn count(&mut self, before: &Shown, shown: &Shown) {
        let more = |at: usize| (shown.counted[at] - before.counted[at]).max(0.0);
        self.seen.successes += more(0);
        self.seen.failures += more(1) + more(2);
    }

    /// An attempt is followed by another one only when it has ended, and that is counted. A daemon
    /// that could not write, and was then killed, remembers less.
    fn watch_attempt(
        &mut self,
        dataset: &'static str,
        (before, shown): (&Shown, &Shown),
        now: f64,
        troubles: &Troubles,
    ) {
        let ended = |shown: &Shown| shown.counted.iter().sum::<f64>();
        if shown.attempt < before.attempt || ended(shown) < ended(before) {
            self.ended.remove(dataset);
        } else if shown.attempt > before.attempt
            && let Some((counted, since)) = self.ended.insert(dataset, (ended(before), now))
        {
            let forgets = |trouble| matches!(trouble, Trouble::StateFull | Trouble::NoDescriptors);
            let is_excused = troubles.within(since, now, AFTER).iter().any(|span| forgets(span.trouble));
            if ended(shown) == counted && !is_excused {
                crate::say(&format!("LOST: the attempt of {dataset} at {} never ended: {shown:?}", before.attempt));
                self.seen.lost += 1;
            }
        }
    }

    fn watch_wait(&mut self, dataset: &'static str, shown: &Shown, passed: f64) {
        // A wrong clock tells a wrong wait.
        if passed > 0.0 {
            self.seen.longest_wait = self.seen.longest_wait.max(shown.waiting);
        }
        let waits = self.waits.entry(dataset).or_default();
        *waits = if shown.waiting > 0.0 { *waits + passed } else { 0.0 };
        if *waits > LONGEST_WAIT {
            crate::say(&format!("STUCK: {dataset} has waited {waits:.0} s: {shown:?}"));
            *waits = 0.0;
            self.seen.stuck += 1;
        }
    }

    fn take_in_complete(&mut self, metrics: &Metrics) {
        for (at, dataset) in DATASETS.iter().enumerate() {
            for (number, replica) in REPLICAS.iter().enumerate() {
                let labels = format!("dataset=\"{dataset}\",replica=\"{replica}\"");
                let told = metrics.get(&format!("lifeboat_replica_last_complete_timestamp_seconds{{{labels}}}"));
                if let Some(told) = told.filter(|told| **told > 0.0) {
                    let newest = self.complete.entry((at, number)).or_default();
                    *newest = newest.max(*told);
                }
            }
        }
    }
}
