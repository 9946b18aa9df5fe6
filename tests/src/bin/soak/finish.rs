//! After the troubles: everything becomes complete in all replicas by itself, is verified and
//! restored, and nothing is left behind. Then the sums are judged.

use std::fmt;
use std::path::Path;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use lifeboat_tests::programs::run;

use crate::peaks::Peaks;
use crate::process::Daemon;
use crate::restores::{Judged, Restores, left_below, lifeboat};
use crate::sources::{DATASETS, Sources};
use crate::troubles::Troubles;
use crate::watch::{REPLICAS, Seen, Watch};
use crate::world::finished;
use crate::{MEMORY_MIB, Result, now, say};

/// In which everything must be complete. Replicas that are behind are looked at every five minutes,
/// and after each backup.
const LONGEST_SETTLING: Duration = Duration::from_secs(240);
const DEADLINE: Duration = Duration::from_secs(300);
/// In which what a killed daemon has started must end.
const LONGEST_FAREWELL: Duration = Duration::from_secs(20);
/// What the daemon may have beyond `limits.memory`.
const BEYOND_MEMORY_MIB: u64 = 64;
const MOST_DESCRIPTORS: u64 = 256;
const MOST_THREADS: u64 = 64;

/// Waits until at least one start was watched: in a few minutes, each may have been in some
/// trouble, and then nobody could tell whether one was missed.
pub(crate) async fn watch_a_start(watch: &Watch) {
    let begun = Instant::now();
    while watch.seen().starts == 0 && begun.elapsed() < LONGEST_SETTLING {
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
}

/// Waits until all replicas hold what the sources hold now.
///
/// # Errors
/// It takes too long.
pub(crate) async fn settle(sources: &Sources, watch: &Watch, troubles: &Troubles, daemon: &mut Daemon) -> Result<()> {
    let (since, begun) = (now(), Instant::now());
    let places = || (0..DATASETS.len()).flat_map(|dataset| (0..REPLICAS.len()).map(move |replica| (dataset, replica)));
    let is_complete = |(dataset, replica): &(usize, usize)| {
        let told = watch.complete(*dataset, *replica).unwrap_or_default();
        told - troubles.most_ahead(told) >= since && watch.behind(*dataset, *replica) == 0.0
    };
    loop {
        daemon.must_run()?;
        let lacking: Vec<String> = places()
            .filter(|place| !is_complete(place))
            .map(|(dataset, replica)| format!("{} in {}", DATASETS[dataset], REPLICAS[replica]))
            .collect();
        if lacking.is_empty() {
            break;
        }
        if begun.elapsed() > LONGEST_SETTLING {
            return Err(format!("not complete after {LONGEST_SETTLING:?}: {}", lacking.join(", ")).into());
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    if !sources.are_distinct() {
        return Err("two contents are equal, so a restore proves nothing".into());
    }
    say("everything is complete in all replicas");
    Ok(())
}

/// Verifies and restores everything, and looks for what is left behind. The daemon has ended.
///
/// # Errors
/// Something cannot be looked at.
pub(crate) async fn look(restores: &Restores<'_>, lives: u64) -> Result<Verdict> {
    let during = restores.judged();
    let mut problems = Vec::new();
    let mut verify = lifeboat(restores.place);
    if let Err(error) = finished(run(verify.arg("verify"), DEADLINE).await?) {
        problems.push(format!("verify: {error}"));
    }
    for dataset in 0..DATASETS.len() {
        let newest = restores.sources.newest(dataset);
        for replica in 0..REPLICAS.len() {
            restores.restore(dataset, replica, newest).await?;
        }
    }
    let judged = restores.judged();
    if judged.failed > during.failed {
        problems.push(format!("{} restores failed after the troubles", judged.failed - during.failed));
    }
    problems.extend(left_processes().await?);
    let is_temporary =
        |path: &Path| path.iter().any(|part| part.to_string_lossy().starts_with(".new-") || part == "scratch");
    let mut files = left_below(&restores.place.state(), is_temporary);
    files.extend(left_below(&restores.place.temporary(), |_| true));
    problems.extend(files.iter().map(|file| format!("left behind: {}", file.display())));
    let log = std::fs::read_to_string(restores.place.log())?;
    problems
        .extend(log.lines().filter(|line| line.contains("panicked") || line.contains("crashed")).map(str::to_owned));
    Ok(Verdict {
        seed: 0,
        troubles: restores.troubles.count(),
        lives,
        during,
        judged,
        seen: restores.watch.seen(),
        peak_mib: 0,
        descriptors: 0,
        threads: 0,
        problems,
    })
}

/// Processes that the daemon has left behind: they are children of this one by now.
async fn left_processes() -> Result<Vec<String>> {
    let begun = Instant::now();
    loop {
        let mut left = Vec::new();
        for entry in std::fs::read_dir("/proc")?.flatten() {
            let Ok(text) = std::fs::read_to_string(entry.path().join("stat")) else { continue };
            // "pid (name) state parent …", and the name may hold anything.
            let Some((before, after)) = text.rsplit_once(") ") else { continue };
            let name = before.split_once('(').map_or("", |(_, name)| name);
            let words: Vec<&str> = after.split(' ').collect();
            let is_ours = words.get(1) == Some(&std::process::id().to_string().as_str());
            if is_ours && words[0] != "Z" && !["weed", "postgres"].contains(&name) {
                left.push(format!("left behind: process {before})"));
            }
        }
        if left.is_empty() || begun.elapsed() > LONGEST_FAREWELL {
            return Ok(left);
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

/// What came out.
pub(crate) struct Verdict {
    seed: u64,
    troubles: usize,
    lives: u64,
    /// Before the troubles ended.
    during: Judged,
    judged: Judged,
    seen: Seen,
    peak_mib: u64,
    descriptors: u64,
    threads: u64,
    problems: Vec<String>,
}

impl Verdict {
    pub(crate) fn with_seed(self, seed: u64) -> Self {
        Self { seed, ..self }
    }

    pub(crate) fn with_peaks(self, peaks: &Peaks) -> Self {
        Self {
            peak_mib: peaks.resident_kib.load(Ordering::Relaxed).div_ceil(1024),
            descriptors: peaks.descriptors.load(Ordering::Relaxed),
            threads: peaks.threads.load(Ordering::Relaxed),
            ..self
        }
    }

    /// Whether all is well.
    pub(crate) fn is_good(&self) -> bool {
        self.wrong().is_empty()
    }

    fn wrong(&self) -> Vec<String> {
        let mut wrong = self.problems.clone();
        let mut zero = |what: &str, count: usize| {
            if count > 0 {
                wrong.push(format!("{count} {what}"));
            }
        };
        zero("restores gave bad bytes", self.judged.bad);
        zero("restores gave an older snapshot than was told to be complete", self.judged.old);
        zero("failures without a hint", self.judged.without_hint);
        zero("failures that nothing explains", self.judged.unexplained);
        zero("silent misses", self.seen.silent);
        zero("attempts have no outcome", self.seen.lost);
        zero("starts waited too long", self.seen.stuck);
        let mut most = |what: &str, value: u64, limit: u64| {
            if value > limit {
                wrong.push(format!("{what}: {value}, and {limit} is the most"));
            }
        };
        most("peak memory in MiB", self.peak_mib, MEMORY_MIB + BEYOND_MEMORY_MIB);
        most("descriptors", self.descriptors, MOST_DESCRIPTORS);
        most("threads", self.threads, MOST_THREADS);
        for (what, none) in [
            ("troubles", self.troubles == 0),
            ("runs that succeeded", self.seen.successes == 0.0),
            ("failures that were told", self.seen.failures == 0.0),
            ("starts that were watched", self.seen.starts == 0),
            ("restores during the troubles", self.during.good == 0),
            ("memory that was measured", self.peak_mib == 0),
            ("threads that were measured", self.threads == 0),
        ] {
            if none {
                wrong.push(format!("no {what}"));
            }
        }
        wrong
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { seed, troubles, lives, judged, seen, peak_mib, descriptors, threads, .. } = self;
        write!(
            f,
            "soak: SEED={seed}, {troubles} troubles, {lives} lives, {} runs, {} failures told, {} starts watched, \
             {} silent misses, longest wait {:.0} s, {} restores checked, {} refused, {} bad bytes, \
             peak {peak_mib} MiB, {descriptors} descriptors, {threads} threads",
            seen.successes + seen.failures,
            seen.failures,
            seen.starts,
            seen.silent + seen.lost,
            seen.longest_wait,
            judged.good,
            judged.failed,
            judged.bad + judged.old,
        )?;
        self.wrong().iter().try_for_each(|wrong| write!(f, "\n  {wrong}"))
    }
}
