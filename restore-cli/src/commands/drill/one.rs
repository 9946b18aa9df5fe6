//! One drill: the plan of the configuration chooses what flags do not, the attempt is recorded, the
//! drill runs, and its report is kept.
//!
//! The order of the plan lets a drill that is killed count all the same: record the attempt; open
//! the vault; read what past drills there were, if the plan asks for it; choose the replica, and
//! record that; open the vault again by that alone; choose the snapshot, and record that; write
//! into the log; drill.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use chrono::{DateTime, Utc};
use lifeboat_engine::base::Context;
use lifeboat_engine::config::{Config, DrillConfig, Objectives, ReplicaChoice, SnapshotChoice};
use lifeboat_engine::drill::{
    self as flow, AcrossMembers, Drill, DrillChoice, DrillMemory, DrillReport, DrillTrace, PastDrill, base_of, history,
    replicas_to_read, snapshots_in_order,
};
use lifeboat_engine::format::id::{Name, SnapshotId};
use lifeboat_engine::format::log::LogEvent;
use lifeboat_engine::keys::sign::Signer;
use lifeboat_engine::restore::{Selector, VaultReader};
use lifeboat_engine::state::replace_file;
use lifeboat_engine::worker::DrillDirectory;
use lifeboat_engine::{Class, Error, Result};

use super::Args;
use super::lost_region::LostRegion;
use super::view::Drilled;
use crate::access::{self, Need};
use crate::recording::{self, Shorter};
use crate::session::{Place, Session};
use crate::textfile::{Outcome, Textfile};

/// So many of a dataset's newest drills decide what the next one takes.
const MAX_PAST_DRILLS: usize = 256;
/// So long the report of a drill is still being published once somebody cancels.
const PUBLISHING_GRACE: Duration = Duration::from_secs(20);

/// A drill of one dataset.
pub(super) struct OneDrill<'a> {
    pub(super) args: &'a Args,
    pub(super) session: &'a Session,
    pub(super) dataset: &'a Name,
    pub(super) textfile: Option<&'a Textfile>,
    /// Whether the schedule began it: then it must be remembered, or it does not begin.
    pub(super) is_scheduled: bool,
    /// A region that counts as gone: then its newest snapshot elsewhere is drilled, whatever the
    /// plan would take.
    pub(super) without: Option<&'a LostRegion>,
    /// The drill of the group that this is a part of: then the snapshot of its moment is drilled.
    pub(super) of_group: Option<OfGroup<'a>>,
}

/// What the drill of a group asks of the drill of a member.
#[derive(Clone, Copy)]
pub(super) struct OfGroup<'a> {
    pub(super) snapshot: &'a SnapshotId,
    pub(super) across: &'a AcrossMembers,
}

impl OfGroup<'_> {
    /// In the place of a choice: the snapshot is that of the group's moment.
    pub(super) const CHOSEN: &'static str = "group";
}

impl OneDrill<'_> {
    /// Drills, and writes the metrics. The error beside a report is the drill's own, or what became
    /// of telling it.
    pub(super) async fn run(&self) -> (Option<Drilled>, Option<Error>) {
        let (plan, result) = match Plan::make(self) {
            Ok(plan) => {
                let result = plan.run(self).await;
                (Some(plan), result)
            }
            Err(error) => (None, Err(error)),
        };
        let objectives = plan.as_ref().map(|plan| plan.objectives);
        let report = result.as_ref().ok().map(|(drilled, _)| &drilled.report);
        let outcome = Outcome {
            ended: report.map_or_else(|| self.session.clock.now(), |report| report.finished),
            passed: report.is_some_and(|report| report.passed),
            reached: report.and_then(|report| report.reached),
            proved_since: report.and_then(|report| report.in_part.as_ref()).map(|in_part| in_part.proved),
            highest: report.and_then(|report| report.highest),
            rto_seconds: report.and_then(|report| report.rto_seconds),
            rpo_seconds: report.and_then(|report| report.rpo_seconds),
            objectives,
        };
        let recorded = self.textfile.map_or(Ok(()), |textfile| textfile.record(self.dataset, &outcome));
        // Last, so that a drill that is killed before its metrics are written counts as killed.
        if let Some(plan) = &plan {
            plan.end(self, !outcome.passed);
        }
        match result {
            // What the drill found comes before what became of telling it.
            Ok((drilled, error)) => (Some(drilled), error.or(recorded.err())),
            Err(error) => (None, Some(error)),
        }
    }
}

/// What is known before the vault is opened.
struct Plan {
    place: Place,
    settings: DrillConfig,
    objectives: Objectives,
    /// The home region of the dataset, if this host knows it.
    home: Option<String>,
    signer: Option<Signer>,
    memory: Option<DrillMemory>,
    /// Whether all that this host remembers of drills can be read.
    remembers_all: bool,
    /// Whether it was told that this drill is not remembered.
    warned: AtomicBool,
    began: DateTime<Utc>,
}

/// What is known of drills of the dataset.
#[derive(Default)]
struct Past {
    /// By reports in the vault that somebody signed who may, newest first. None if some may be
    /// missing.
    published: Vec<PastDrill>,
    /// The same, and those that are kept on this host, newest first.
    reports: Vec<DrillReport>,
    /// Of all of these, and of what began here.
    traces: Vec<DrillTrace>,
    /// When the last one began that failed, or was killed.
    failed: Option<DateTime<Utc>>,
}

/// What the plan chose.
struct Choice {
    selector: Selector,
    chosen: DrillChoice,
    /// The vault by the replicas that were chosen, if that is not all of them.
    narrow: Option<VaultReader>,
    /// Reports of past drills, newest first, where the plan asks for them.
    past: Vec<DrillReport>,
    /// The drill after which not all need be restored.
    base: Option<DrillReport>,
}

impl Plan {
    fn make(drill: &OneDrill<'_>) -> Result<Self> {
        let mut place = drill.session.place()?;
        if let Some(lost) = drill.without {
            place = place.narrowed(&lost.left);
        }
        let config = place.config.as_ref();
        let dataset = config.and_then(|config| config.dataset(drill.dataset));
        let mut settings = config.map(|config| config.drill_of(drill.dataset).clone()).unwrap_or_default();
        settings.level = drill.args.level.or(settings.level);
        if drill.args.whole || drill.without.is_some() || drill.of_group.is_some() {
            settings.full_every = None;
        }
        if drill.without.is_some() {
            let plain = DrillConfig::default();
            (settings.snapshot, settings.replica, settings.outside) = (plain.snapshot, plain.replica, plain.outside);
        }
        let memory = config.map(|config| DrillMemory::of(&config.state_directory, drill.dataset));
        Ok(Self {
            settings,
            objectives: dataset.map(|dataset| dataset.objectives).unwrap_or_default(),
            home: dataset.map(|dataset| dataset.home_region.clone()),
            signer: config.map(access::drill_signer).transpose()?.flatten(),
            // What cannot be read is replaced by what begins now.
            remembers_all: memory.as_ref().is_none_or(DrillMemory::is_readable),
            memory,
            warned: AtomicBool::new(false),
            began: drill.session.clock.now(),
            place,
        })
    }

    /// The drill's own failure is the error beside the report; an `Err` means that there is no
    /// report.
    async fn run(&self, drill: &OneDrill<'_>) -> Result<(Drilled, Option<Error>)> {
        let (args, session) = (drill.args, drill.session);
        let worker = &args.worker(session);
        session.tell_what_guards_the_keys(worker, "as root, or by lifeboat-worker.socket, another user does it");
        self.remember(drill, &self.attempt(drill, None))?;
        let reader = session.reader_for(drill.dataset, &self.place, Need::Packs).await?;
        let Choice { selector, chosen, narrow, past, base } = self.choose(drill, &reader).await?;
        // What is recorded is what is drilled.
        let event = |unrecorded| LogEvent::Drill {
            dataset: drill.dataset.clone(),
            snapshot: recording::wanted(&selector),
            user: recording::user(),
            unrecorded,
        };
        self.record(drill, &reader, event).await?;
        let scratch = DrillDirectory::make(&session.temporary)?;
        let run = Drill {
            environment: &session.tools,
            worker,
            reader: narrow.as_ref().unwrap_or(&reader),
            dataset: drill.dataset,
            selector,
            settings: &self.settings,
            past: &past,
            base: base.as_ref(),
            objectives: self.objectives,
            rehearses_loss: drill.without.is_some(),
            across: drill.of_group.map(|of| of.across),
            jobs: self.place.limits.cpu,
            scratch: scratch.work().to_owned(),
            clock: session.clock.clone(),
            cancel: session.cancel.clone(),
        };
        let (mut report, error) = run.run().await;
        report.chosen = Some(chosen);
        let mut drilled = Drilled { report, published: None, file: None };
        match self.keep(drill, &reader, &mut drilled).await {
            Ok(()) => Ok((drilled, error)),
            // The drill's own failure matters more.
            Err(lost) => {
                session.out.warning(format!("the report could not be kept: {}", lost.chain()));
                Ok((drilled, error.or(Some(lost))))
            }
        }
    }

    /// Writes into the log what this drill is about to decrypt.
    async fn record(
        &self,
        drill: &OneDrill<'_>,
        reader: &VaultReader,
        event: impl FnOnce(bool) -> LogEvent,
    ) -> Result<()> {
        let (recording, session) = (&drill.args.recording, drill.session);
        let Some(lost) = drill.without else {
            return recording.record(session, &self.place, reader, Shorter::Refuse, event).await;
        };
        // Those that drill beside it wait here for as long as it takes, and not for the log's lock.
        let _one_by_one = lost.recording.lock().await;
        recording.record(session, &self.place, reader, Shorter::Tell, event).await
    }

    /// This drill, as far as it has chosen.
    fn attempt(&self, drill: &OneDrill<'_>, replica: Option<&Name>) -> DrillTrace {
        DrillTrace {
            began: self.began,
            scheduled: drill.is_scheduled,
            running: true,
            // What cannot be read any more may be a failure.
            failed: !self.remembers_all,
            snapshot: None,
            newest: false,
            replica: replica.cloned(),
        }
    }

    /// Records that this drill has ended.
    fn end(&self, drill: &OneDrill<'_>, failed: bool) {
        let Some(memory) = &self.memory else { return };
        if let Err(error) = memory.end(self.began, drill.session.cancel.is_cancelled(), failed) {
            self.warn_once(drill, "ended", &error);
        }
    }

    /// What cannot be written is told once, and not at each step of the drill.
    fn warn_once(&self, drill: &OneDrill<'_>, what: &str, error: &Error) {
        if !self.warned.swap(true, Ordering::Relaxed) {
            let why = error.chain();
            drill.session.out.warning(format!("nothing remembers that this drill {what}: {why}"));
        }
    }

    /// Records that this drill begins, and what it chose.
    fn remember(&self, drill: &OneDrill<'_>, attempt: &DrillTrace) -> Result<()> {
        let Some(memory) = &self.memory else { return Ok(()) };
        let recorded = memory.record(attempt);
        match recorded {
            Err(error) if drill.is_scheduled => {
                Err(error.within("the drill does not begin, because nothing would remember that it did"))
            }
            Err(error) => {
                self.warn_once(drill, "began", &error);
                Ok(())
            }
            Ok(()) => Ok(()),
        }
    }

    async fn choose(&self, drill: &OneDrill<'_>, reader: &VaultReader) -> Result<Choice> {
        let (session, dataset) = (drill.session, drill.dataset);
        let is_asked = drill.args.selection.is_given();
        let named = match &session.globals.replica {
            Some(named) => Some(named.name.clone()),
            // Flags name the place of one replica.
            None => {
                self.place.config.is_none().then(|| self.place.replicas.first().map(|one| one.name.clone())).flatten()
            }
        };
        let rotates = (named.is_none() && self.settings.replica == ReplicaChoice::Rotate)
            || (!is_asked && self.settings.snapshot == SnapshotChoice::Rotate);
        let asks_the_past = rotates || self.settings.max_time.is_some() || self.settings.full_every.is_some();
        let Past { published, reports: past, traces, failed } = match asks_the_past {
            true => self.past(drill, reader).await?,
            false => Past::default(),
        };
        let now = session.clock.now();
        let read = match named {
            Some(_) => None,
            None => replicas_to_read(&self.settings, self.home.as_deref(), &self.place.replicas, &traces, now)?,
        };
        let only = named.clone().or_else(|| match read.as_deref() {
            Some([only]) => Some(only.clone()),
            _ => None,
        });
        let base = {
            let all = || self.place.replicas.iter().map(|replica| &replica.name);
            let read: BTreeSet<&Name> = match (&only, &read) {
                (Some(only), _) => BTreeSet::from([only]),
                (None, Some(names)) => names.iter().collect(),
                (None, None) => all().collect(),
            };
            base_of(&published, failed, &self.settings, &read, now).cloned()
        };
        // One that does not answer was drilled, too: its turn is over.
        self.remember(drill, &self.attempt(drill, only.as_ref()))?;
        let narrow = match &read {
            Some(names) => Some(session.reader_for(dataset, &self.place.narrowed(names), Need::Packs).await?),
            None => None,
        };
        let choice = self.settings.snapshot;
        let mut newest = None;
        let selector = if let Some(of) = drill.of_group {
            Selector::Id(of.snapshot.clone())
        } else if let Some(lost) = drill.without {
            // What came later would not be there.
            Selector::At(lost.at)
        } else if is_asked || choice == SnapshotChoice::Newest {
            drill.args.selection.selector(now)
        } else {
            let order = |kept: &[SnapshotId]| {
                newest = kept.last().cloned();
                snapshots_in_order(choice, kept, &traces, only.as_ref(), now)
            };
            let selected = narrow.as_ref().unwrap_or(reader).select_first(dataset, now, order);
            Selector::Id(session.cancellable("choosing a snapshot", selected).await?)
        };
        let snapshot = match &selector {
            Selector::Id(id) => Some(id.clone()),
            _ => None,
        };
        let newest = snapshot.is_some() && snapshot == newest;
        self.remember(drill, &DrillTrace { snapshot, newest, ..self.attempt(drill, only.as_ref()) })?;
        let chosen = DrillChoice {
            snapshot: match (drill.of_group, is_asked) {
                (Some(_), _) => OfGroup::CHOSEN,
                (None, true) => DrillChoice::ASKED,
                (None, false) => choice.as_str(),
            }
            .to_owned(),
            replica: match (drill.without, &named) {
                (Some(lost), _) => format!("without region {}", lost.region),
                (None, Some(_)) => DrillChoice::ASKED.to_owned(),
                (None, None) => self.settings.replica.as_str().to_owned(),
            },
            outside: named.is_none() && self.settings.outside,
            only,
        };
        Ok(Choice { selector, chosen, narrow, past, base })
    }

    /// What is known of past drills, from the vault and from this host.
    async fn past(&self, drill: &OneDrill<'_>, reader: &VaultReader) -> Result<Past> {
        let session = drill.session;
        let past = history(reader, drill.dataset, MAX_PAST_DRILLS, session.clock.now());
        let past = session.cancellable("reading past drills", past).await?;
        past.gaps.iter().for_each(|gap| session.out.warning(gap));
        let (kept, mut traces) = remembered(self.memory.as_ref(), session);
        let failed = last_failure(&traces, &kept, self.began);
        let mut reports: Vec<DrillReport> = past.drills.iter().map(|past| past.report.clone()).chain(kept).collect();
        reports.sort_by_key(|report| std::cmp::Reverse(report.started));
        traces.extend(reports.iter().map(DrillTrace::of));
        let published = match past.gaps.is_empty() && self.remembers_all {
            true => past.drills,
            false => {
                if self.settings.full_every.is_some() {
                    let why = "whether a drill has failed is not known, so the whole snapshot is drilled";
                    session.out.warning(why);
                }
                Vec::new()
            }
        };
        Ok(Past { published, reports, traces, failed })
    }

    /// In the vault if it can be signed and written there, in a file if that was asked for or
    /// nothing else is left.
    async fn keep(&self, drill: &OneDrill<'_>, reader: &VaultReader, drilled: &mut Drilled) -> Result<()> {
        let (args, session) = (drill.args, drill.session);
        let is_told = !session.cancel.is_cancelled() || says_something(&drilled.report);
        // A signer comes from the configuration, which also tells who this host is.
        let principal = self.place.config.as_ref().map(|config: &Config| &config.host);
        let signed = self.signer.as_ref().zip(principal).filter(|_| !args.no_publish && is_told);
        if let Some((signer, principal)) = signed {
            let publish = flow::publish(reader, &drilled.report, principal, signer);
            let published = unless_too_late(session, publish).await.transpose()?;
            if published.is_none() {
                let next = format!("run `lifeboat drill {}` again", drill.dataset);
                session.out.warning(format!("the report was not published, as somebody cancelled that (next: {next})"));
            }
            drilled.published = published;
        }
        let in_vault = drilled.published.as_ref().is_some_and(|published| !published.replicas.is_empty());
        if let Some(file) = args.report.as_ref().filter(|_| drill.without.is_none()) {
            let file =
                std::path::absolute(file).context(Class::Storage, || "cannot make the path of --report absolute")?;
            write_report(&file, &drilled.report, self.signer.as_ref())?;
            drilled.file = Some(file);
        } else if let Some(memory) = self.memory.as_ref().filter(|_| !in_vault) {
            let file = memory.report_file(&drilled.report.drill);
            match write_report(&file, &drilled.report, self.signer.as_ref()) {
                Ok(()) => drilled.file = Some(file),
                // Nobody asked for this file, so its loss does not make the drill fail.
                Err(error) => session.out.warning(format!("the report could not be kept: {}", error.chain())),
            }
        }
        Ok(())
    }
}

/// Whether a drill that was cancelled by then had found what it was to find, or what is wrong.
fn says_something(report: &DrillReport) -> bool {
    report.passed || report.error_class == Some(Class::Integrity)
}

/// What `publish` gives. `None`: somebody cancelled, and it went on for too long after that.
async fn unless_too_late<T>(session: &Session, publish: impl Future<Output = T>) -> Option<T> {
    tokio::select! {
        published = publish => Some(published),
        () = async {
            session.cancel.cancelled().await;
            tokio::time::sleep(PUBLISHING_GRACE).await;
        } => None,
    }
}

/// When the last drill began that failed or was killed, but for the one that begins `now`. One that
/// was cancelled has a report that says that it did not pass, and an attempt that did not fail.
fn last_failure(attempts: &[DrillTrace], reports: &[DrillReport], now: DateTime<Utc>) -> Option<DateTime<Utc>> {
    let was_cancelled = |report: &DrillReport| {
        let of_it =
            attempts.iter().filter(|attempt| attempt.began <= report.started).max_by_key(|attempt| attempt.began);
        of_it.is_some_and(|attempt| !attempt.running && !attempt.failed)
    };
    // What was proved wrong stays so, whatever came after.
    let is_wrong = |report: &DrillReport| {
        report.proof.as_ref().is_some_and(|proof| !proof.is_equal()) || report.checks.iter().any(|check| !check.passed)
    };
    let has_failed = |report: &DrillReport| !report.passed && (is_wrong(report) || !was_cancelled(report));
    let reported = reports.iter().filter(|report| has_failed(report)).map(|report| report.started);
    let here = attempts.iter().filter(|attempt| attempt.failed || (attempt.running && attempt.began != now));
    reported.chain(here.map(|attempt| attempt.began)).max()
}

/// The reports that are kept on this host, and the attempts that it recorded. What of them cannot
/// be read is told.
pub(super) fn remembered(memory: Option<&DrillMemory>, session: &Session) -> (Vec<DrillReport>, Vec<DrillTrace>) {
    let Some(memory) = memory else { return (Vec::new(), Vec::new()) };
    let (reports, unread) = memory.kept();
    unread.iter().for_each(|unread| session.out.warning(unread));
    let attempts = memory.attempts().unwrap_or_else(|error| {
        session.out.warning(format!("what this host drilled is not known: {}", error.chain()));
        Vec::new()
    });
    (reports, attempts)
}

/// The report for people, its signature beside it. It is no object of a vault: the trusted comment
/// names none.
fn write_report(file: &Path, report: &DrillReport, signer: Option<&Signer>) -> Result<()> {
    let json = serde_json::to_vec_pretty(report).map_err(|error| Error::failed("cannot write JSON").because(error))?;
    let comment = format!("lifeboat {} drill report {}/{}", report.vault, report.dataset, report.drill);
    write_signed(file, &json, &comment, signer)
}

/// A file, and beside it the signature of whoever can sign.
pub(super) fn write_signed(file: &Path, json: &[u8], comment: &str, signer: Option<&Signer>) -> Result<()> {
    if let Some(folder) = file.parent() {
        std::fs::create_dir_all(folder).context(Class::Storage, || format!("cannot create {}", folder.display()))?;
    }
    if let Some(signer) = signer {
        let mut signature = file.as_os_str().to_owned();
        signature.push(".minisig");
        replace_file(Path::new(&signature), signer.sign(json, comment)?.as_bytes())?;
    }
    replace_file(file, json)
}
