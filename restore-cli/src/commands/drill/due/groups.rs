//! Groups whose drill is due, by what this host remembers.

use chrono::{DateTime, Utc};
use lifeboat_engine::config::{Config, GroupConfig};
use lifeboat_engine::drill::{DrillMemory, due_since};
use lifeboat_engine::{Error, Result};

use super::super::Args;
use super::super::group;
use super::super::worst::worse;
use super::DueGroup;
use super::find::Problems;
use crate::human;
use crate::session::Session;
use crate::textfile::{GroupOutcome, Textfile, file_of_group};

/// The groups that are due, and since when. The metrics tell it.
pub(super) fn find<'c>(
    args: &Args,
    config: &'c Config,
    session: &Session,
) -> (Vec<(&'c GroupConfig, DateTime<Utc>)>, Problems) {
    let (mut due, mut problems, now) = (Vec::new(), Problems::default(), session.clock.now());
    for group in &config.groups {
        let Some(schedule) = &group.drill_schedule else { continue };
        let memory = DrillMemory::of_group(&config.state_directory, &group.name);
        problems.unless(session, tell_of_killed(args, group, &memory, session));
        let attempts = memory.attempts().unwrap_or_else(|error| {
            session.out.warning(format!("what this host drilled of {} is not known: {}", group.name, error.chain()));
            Vec::new()
        });
        let begun: Vec<_> = attempts.iter().filter(|attempt| attempt.scheduled).map(|attempt| attempt.began).collect();
        let since = due_since(schedule, now, &begun);
        let noted = textfile(args, group).and_then(|file| {
            file.map_or(Ok(()), |file| file.note_group_due(&group.name, since, schedule.expected_interval(now)))
        });
        problems.unless(session, noted);
        due.extend(since.map(|since| (group, since)));
    }
    (due, problems)
}

/// Drills one of them.
///
/// # Errors
/// Nothing can be shown. What the drill found is the error beside the result.
pub(super) async fn drill(
    args: &Args,
    config: &Config,
    group: &GroupConfig,
    since: DateTime<Utc>,
    session: &Session,
) -> Result<(DueGroup, Option<Error>)> {
    session.out.note(format!("drilling group {}, due since {}", group.name, human::time(since)));
    // What cannot be told is drilled all the same.
    let (textfile, unwritable) = match textfile(args, group) {
        Ok(textfile) => (textfile, None),
        Err(error) => (None, Some(error)),
    };
    let (drill, error) = Box::pin(group::drill(args, config, group, textfile.as_ref(), true, session)).await;
    let error = worse(error, unwritable);
    if let Some(drill) = &drill {
        session.out.text(format!("{drill}\n"))?;
    }
    if let Some(error) = &error {
        session.out.warning(format!("the drill of group {}: {}", group.name, error.chain_and_hint()));
    }
    let due = DueGroup {
        group: group.name.clone(),
        due: since,
        exit_code: error.as_ref().map_or(0, |error| error.class().exit_code()),
        error: error.as_ref().map(Error::chain),
        drill,
    };
    Ok((due, error))
}

/// Records for a drill that was killed that it failed: it could not do so itself.
fn tell_of_killed(args: &Args, group: &GroupConfig, memory: &DrillMemory, session: &Session) -> Result<()> {
    // What cannot be read is told by whoever reads the rest.
    let Ok(Some(began)) = memory.killed() else { return Ok(()) };
    let when = human::time(began);
    session
        .out
        .warning(format!("the drill of group {} that began {when} was killed, and counts as failed", group.name));
    if let Some(file) = textfile(args, group)? {
        let (ended, passed) = (session.clock.now(), false);
        file.record_group(&group.name, &GroupOutcome { ended, passed, failed_members: 0, references: None })?;
    }
    memory.end(began, false, true)
}

fn textfile(args: &Args, group: &GroupConfig) -> Result<Option<Textfile>> {
    args.textfiles.as_deref().map(|folder| Textfile::open(&file_of_group(folder, &group.name))).transpose()
}
