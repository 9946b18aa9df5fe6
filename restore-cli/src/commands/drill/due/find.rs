//! Finds what is due.
//!
//! Nothing that fails here stops drills: it is told, counts for the exit code, and the rest goes
//! on. Where the vault cannot be asked, what this host itself remembers decides.

use chrono::{DateTime, Utc};
use lifeboat_engine::config::{Config, ProofLevel, SnapshotChoice};
use lifeboat_engine::drill::{DrillMemory, DrillReport, drilled_datasets, due_since, fulfilled, history};
use lifeboat_engine::format::id::Name;
use lifeboat_engine::restore::VaultReader;
use lifeboat_engine::schedule::Schedule;
use lifeboat_engine::{Class, Error, Result};

use super::super::Args;
use super::super::grants::Grants;
use super::super::one::{OfGroup, remembered};
use super::super::worst::worse;
use super::Waiting;
use crate::access::Need;
use crate::session::Session;
use crate::textfile::{Outcome, Textfile, file_of};

/// So many of the newest reports in the vault are looked at: another host may have failed since.
const MAX_LOOKED_AT: usize = 16;
/// So many snapshots of a dataset without a section are looked at for one that is signed.
const MAX_TRIED: usize = 32;

/// A dataset with a schedule.
pub(super) struct Scheduled {
    pub(super) dataset: Name,
    pub(super) schedule: Schedule,
    /// As far as the plan asks for.
    level: Option<ProofLevel>,
    /// Whether the plan takes the newest snapshot, so that a drill of its group is one of the plan.
    takes_newest: bool,
    has_section: bool,
}

impl Scheduled {
    /// When a drill began, if it did what the plan asks for.
    fn fulfilled(&self, report: &DrillReport) -> Option<DateTime<Utc>> {
        let was_of_group = report.chosen.as_ref().is_some_and(|chosen| chosen.snapshot == OfGroup::CHOSEN);
        fulfilled(report, self.level).filter(|_| self.takes_newest || !was_of_group)
    }
}

/// The worst of what went wrong. Each is told when it is added.
#[derive(Default)]
pub(super) struct Problems(pub(super) Option<Error>);

#[derive(Default)]
pub(super) struct WhatIsDue {
    /// In the order of the drills: those with a section first, then what is due longest.
    pub(super) due: Vec<(Scheduled, DateTime<Utc>)>,
    pub(super) waiting: Vec<Waiting>,
    pub(super) problems: Problems,
}

impl Problems {
    /// What a step gave; `None` if it failed.
    pub(super) fn unless<T>(&mut self, session: &Session, result: Result<T>) -> Option<T> {
        let error = match result {
            Ok(value) => return Some(value),
            Err(error) => error,
        };
        session.out.warning(error.chain_and_hint());
        self.0 = worse(self.0.take(), Some(error));
        None
    }
}

/// What is due, and what is not. `problems` are known already.
pub(super) async fn find(args: &Args, config: &Config, session: &Session, problems: Problems) -> WhatIsDue {
    let finder = Finder { args, config, session, now: session.clock.now() };
    let mut found = WhatIsDue { problems, ..WhatIsDue::default() };
    let sections = config.datasets.iter().filter_map(|dataset| {
        let (schedule, level) = (dataset.drill.schedule.clone()?, dataset.drill.level);
        let takes_newest = dataset.drill.snapshot == SnapshotChoice::Newest;
        Some(Scheduled { dataset: dataset.name.clone(), schedule, level, takes_newest, has_section: true })
    });
    // Before anything can fail.
    let mut scheduled: Vec<(Scheduled, Option<DateTime<Utc>>)> =
        sections.map(|one| finder.by_memory(one, &mut found.problems)).collect();
    // Most often this host itself drilled last, and nobody need be asked.
    let reader = match config.drill.schedule {
        None if scheduled.iter().all(|(_, since)| since.is_none()) => None,
        _ => found.problems.unless(session, finder.reader().await),
    };
    if let Some(schedule) = &config.drill.schedule {
        let others = match &reader {
            Some(reader) => found.problems.unless(session, finder.others(reader).await),
            None => None,
        };
        let without_section = |name: &Name| config.dataset(name).is_none();
        let remembered = || drilled_datasets(&config.state_directory).into_iter().filter(without_section).collect();
        for dataset in others.unwrap_or_else(remembered) {
            let (level, takes_newest) = (config.drill.level, config.drill.snapshot == SnapshotChoice::Newest);
            let one = Scheduled { dataset, schedule: schedule.clone(), level, takes_newest, has_section: false };
            scheduled.push(finder.by_memory(one, &mut found.problems));
        }
    }
    for (one, mut since) in scheduled {
        if let (Some(_), Some(reader)) = (since, &reader) {
            let in_vault = found.problems.unless(session, finder.in_vault(reader, &one).await).unwrap_or_default();
            since = since.filter(|_| due_since(&one.schedule, finder.now, &in_vault).is_some());
            if since.is_none() {
                found.problems.unless(session, finder.note_due(&one, None));
            }
        }
        match since {
            Some(since) => found.due.push((one, since)),
            None => found.waiting.push(Waiting { next: one.schedule.next_after(finder.now), dataset: one.dataset }),
        }
    }
    found.due.sort_by(|(one, since), (other, other_since)| {
        (!one.has_section, since, &one.dataset).cmp(&(!other.has_section, other_since, &other.dataset))
    });
    found
}

/// What is still due after groups were drilled, by what this host remembers of that.
pub(super) fn look_again(args: &Args, config: &Config, session: &Session, found: WhatIsDue) -> WhatIsDue {
    let finder = Finder { args, config, session, now: session.clock.now() };
    let WhatIsDue { due, mut waiting, mut problems } = found;
    let mut left = Vec::new();
    for (one, since) in due {
        match finder.by_memory(one, &mut problems) {
            (one, Some(_)) => left.push((one, since)),
            (one, None) => waiting.push(Waiting { next: one.schedule.next_after(finder.now), dataset: one.dataset }),
        }
    }
    WhatIsDue { due: left, waiting, problems }
}

struct Finder<'a> {
    args: &'a Args,
    config: &'a Config,
    session: &'a Session,
    now: DateTime<Utc>,
}

impl Finder<'_> {
    async fn reader(&self) -> Result<VaultReader> {
        self.session.reader(&self.session.place()?, Need::Manifests).await
    }

    /// Since when it is due by what this host remembers. The metrics tell it.
    fn by_memory(&self, one: Scheduled, problems: &mut Problems) -> (Scheduled, Option<DateTime<Utc>>) {
        let memory = DrillMemory::of(&self.config.state_directory, &one.dataset);
        problems.unless(self.session, self.tell_of_killed(&one.dataset, &memory));
        let (kept, attempts) = remembered(Some(&memory), self.session);
        let own = attempts.iter().filter(|attempt| attempt.scheduled).map(|attempt| attempt.began);
        let begun: Vec<_> = own.chain(kept.iter().filter_map(|report| one.fulfilled(report))).collect();
        let since = due_since(&one.schedule, self.now, &begun);
        problems.unless(self.session, self.note_due(&one, since));
        (one, since)
    }

    fn note_due(&self, one: &Scheduled, since: Option<DateTime<Utc>>) -> Result<()> {
        let Some(folder) = &self.args.textfiles else { return Ok(()) };
        let interval = one.schedule.expected_interval(self.now);
        Textfile::open(&file_of(folder, &one.dataset))?.note_due(&one.dataset, since, interval)
    }

    /// Records for a drill that was killed that it failed: it could not do so itself.
    fn tell_of_killed(&self, dataset: &Name, memory: &DrillMemory) -> Result<()> {
        // What cannot be read is told by whoever reads the rest.
        let Ok(Some(began)) = memory.killed() else { return Ok(()) };
        let when = crate::human::time(began);
        self.session.out.warning(format!("the drill of {dataset} that began {when} was killed, and counts as failed"));
        if let Some(folder) = &self.args.textfiles {
            let outcome = Outcome {
                ended: self.now,
                passed: false,
                reached: None,
                proved_since: None,
                highest: None,
                rto_seconds: None,
                rpo_seconds: None,
                objectives: None,
            };
            Textfile::open(&file_of(folder, dataset))?.record(dataset, &outcome)?;
        }
        memory.end(began, false, true)
    }

    /// The datasets of the vault that this host is granted, and that have no section.
    async fn others(&self, reader: &VaultReader) -> Result<Vec<Name>> {
        let grants = Grants::of_this_host(self.args, self.config, reader)?;
        let known = self.session.cancellable("listing the vault", reader.datasets()).await?;
        let drilled = drilled_datasets(&self.config.state_directory);
        let (mut others, mut unsigned) = (Vec::new(), Vec::new());
        for dataset in known.into_iter().filter(|name| self.config.dataset(name).is_none() && grants.cover(name)) {
            let is_believed = drilled.contains(&dataset)
                || self.session.cancellable("looking at snapshots", is_believed(reader, &dataset)).await?;
            if is_believed { others.push(dataset) } else { unsigned.push(dataset.to_string()) }
        }
        if !unsigned.is_empty() {
            self.session.out.warning(format!(
                "not drilled, because no snapshot of theirs is signed by anybody who may: {}",
                unsigned.join(", ")
            ));
        }
        Ok(others)
    }

    /// When drills began that count, as far as the vault tells.
    async fn in_vault(&self, reader: &VaultReader, one: &Scheduled) -> Result<Vec<DateTime<Utc>>> {
        let found = history(reader, &one.dataset, MAX_LOOKED_AT, self.now);
        let found = self.session.cancellable("reading past drills", found).await?;
        // To drill once too often does no harm, and the drill itself tells more.
        found.gaps.iter().for_each(|gap| self.session.out.note(format!("{}: {gap}", one.dataset)));
        Ok(found.drills.iter().filter_map(|past| one.fulfilled(&past.report)).collect())
    }
}

/// Whether a snapshot of the dataset is signed. Where that cannot be told, its drill will.
async fn is_believed(reader: &VaultReader, dataset: &Name) -> Result<bool> {
    let Ok(listed) = reader.snapshots(dataset).await else { return Ok(true) };
    for one in listed.iter().rev().take(MAX_TRIED) {
        match reader.check_signed(dataset, &one.snapshot, &one.replicas).await {
            Err(error) if matches!(error.class(), Class::Keys | Class::Integrity) => {}
            _ => return Ok(true),
        }
    }
    // Behind so many that nobody signed, a signed one may be hidden.
    Ok(listed.len() > MAX_TRIED)
}
