//! `drill --group NAME`: restores all members of the newest common moment, each as far as its own
//! plan asks for, and looks whether what one refers to is in the other.
//!
//! - **Order**: members that others refer to come first, because what they hold must be known.
//! - **Failure**: a member that cannot be restored does not stop the others. A reference that could
//!   not be checked has failed.
//! - **Evidence**: each member has a drill report of its own, which is signed and kept as always.
//!   It tells the moment, and what was found of the references that begin in that member. That goes
//!   into the reports, and not into a record of its own: so it is signed, copied, shown and deleted
//!   with them, no drill host needs another right, and older programs read on.

use std::collections::BTreeMap;
use std::fmt;

use chrono::{DateTime, Utc};
use lifeboat_engine::config::{Config, GroupConfig, ProofLevel, SnapshotChoice};
use lifeboat_engine::drill::{AcrossMembers, DrillMemory, DrillTrace, FoundMoments, ReferenceResult};
use lifeboat_engine::format::id::{Name, SnapshotId};
use lifeboat_engine::worker::DrillDirectory;
use lifeboat_engine::{Class, Error, Result};
use serde::Serialize;

use super::Args;
use super::named::refuse_dataset;
use super::one::{OfGroup, OneDrill};
use super::view::Drilled;
use super::worst::worse;
use crate::access::Need;
use crate::human;
use crate::session::Session;
use crate::table::Plain;
use crate::textfile::{GroupOutcome, Textfile, file_of, file_of_group};

/// What the drill of a group found.
#[derive(Serialize)]
pub(super) struct GroupDrilled {
    pub(super) group: Name,
    moment: SnapshotId,
    /// When the first view of a member begins.
    at: DateTime<Utc>,
    spread_seconds: f64,
    /// In the order in which they were drilled.
    members: Vec<MemberDrilled>,
    references: Vec<ReferenceResult>,
    /// Whether every member reached its level, and every reference is right.
    pub(super) passed: bool,
}

#[derive(Serialize)]
struct MemberDrilled {
    dataset: Name,
    snapshot: SnapshotId,
    reached: Option<ProofLevel>,
    passed: bool,
    /// The report. `None`: there is none.
    drill: Option<SnapshotId>,
    error: Option<String>,
}

pub(super) async fn run(args: &Args, group: &Name, session: &Session) -> Result<()> {
    let config = session.configuration()?;
    refuse_dataset(&config, group)?;
    let group = group_of(&config, group)?;
    let in_folder = args.textfiles.as_deref().map(|folder| file_of_group(folder, &group.name));
    let textfile = args.textfile.as_deref().or(in_folder.as_deref()).map(Textfile::open).transpose()?;
    let (drilled, error) = drill(args, &config, group, textfile.as_ref(), false, session).await;
    let shown = drilled.map_or(Ok(()), |drilled| session.out.result(&drilled));
    error.map_or(Ok(()), Err).and(shown)
}

/// The group of that name.
///
/// # Errors
/// There is none.
pub(crate) fn group_of<'c>(config: &'c Config, name: &Name) -> Result<&'c GroupConfig> {
    config.group(name).ok_or_else(|| {
        let names: Vec<&str> = config.groups.iter().map(|group| group.name.as_str()).collect();
        let known = if names.is_empty() { "no group".to_owned() } else { names.join(", ") };
        Error::usage(format!("the configuration has no group {name}")).hint(format!("it has: {known}"))
    })
}

/// Drills a group, remembers that, and writes the metrics.
pub(super) async fn drill(
    args: &Args,
    config: &Config,
    group: &GroupConfig,
    textfile: Option<&Textfile>,
    is_scheduled: bool,
    session: &Session,
) -> (Option<GroupDrilled>, Option<Error>) {
    let memory = DrillMemory::of_group(&config.state_directory, &group.name);
    let began = session.clock.now();
    let attempt = DrillTrace {
        began,
        scheduled: is_scheduled,
        running: true,
        failed: false,
        snapshot: None,
        newest: false,
        replica: None,
    };
    if let Err(error) = memory.record(&attempt) {
        if is_scheduled {
            let why = "the drill does not begin, because nothing would remember that it did";
            return (None, Some(error.within(why)));
        }
        session.out.warning(format!("nothing remembers that this drill began: {}", error.chain()));
    }
    let (drilled, error) = match members(args, config, group, is_scheduled, session).await {
        Ok(drilled) => {
            let error = drilled.1;
            (Some(drilled.0), error)
        }
        Err(error) => (None, Some(error)),
    };
    let passed = drilled.as_ref().is_some_and(|drilled| drilled.passed);
    let outcome = GroupOutcome {
        ended: session.clock.now(),
        passed,
        failed_members: drilled.as_ref().map_or(0, GroupDrilled::failed_members),
        references: drilled.as_ref().map(|drilled| drilled.references.as_slice()),
    };
    let recorded = textfile.map_or(Ok(()), |textfile| textfile.record_group(&group.name, &outcome));
    // One by hand that passed is as good as one by schedule.
    let counts = DrillTrace { scheduled: is_scheduled || passed, ..attempt };
    let ended = memory.record(&counts).and_then(|()| memory.end(began, session.cancel.is_cancelled(), !passed));
    if let Err(error) = ended {
        session.out.warning(format!("nothing remembers that this drill ended: {}", error.chain()));
    }
    (drilled, error.or(recorded.err()))
}

/// Drills all members. The error beside the result is that of the worst of what was found.
async fn members(
    args: &Args,
    config: &Config,
    group: &GroupConfig,
    is_scheduled: bool,
    session: &Session,
) -> Result<(GroupDrilled, Option<Error>)> {
    let place = session.place()?;
    let reader = session.reader(&place, Need::Manifests).await?;
    let newest = FoundMoments::newest(&reader, group, 1);
    let newest = session.cancellable("looking for the newest common moment", newest).await?;
    let FoundMoments { moments, ended_before } = newest;
    let Some(moment) = moments.into_iter().next() else {
        return Err(Error::failed(no_moment(&group.name, ended_before.as_ref()))
            .hint(format!("back up all of it on the backup host: `lifeboat trigger {}`", group.name)));
    };
    let (at, spread_seconds) = (moment.at(), moment.spread_seconds());
    session.out.note(format!(
        "drilling {} as it was at {}: the members' views begin within {}",
        group.name,
        human::time(at),
        human::seconds(spread_seconds)
    ));
    // So that whoever sweeps after a drill that was killed finds it, too.
    let directory = DrillDirectory::make(&session.temporary)?;
    let compared = directory.path().join("compared");
    let mut told = GroupDrilled {
        group: group.name.clone(),
        moment: moment.moment.clone(),
        at,
        spread_seconds,
        members: Vec::new(),
        references: Vec::new(),
        passed: false,
    };
    let mut worst = None;
    let snapshots: BTreeMap<&Name, &SnapshotId> =
        moment.snapshots.iter().map(|(member, one)| (member, &one.snapshot)).collect();
    for (member, across) in AcrossMembers::all(group, &moment.part(group), &compared) {
        let Some(snapshot) = snapshots.get(&member).map(|snapshot| (*snapshot).clone()) else { continue };
        if session.cancel.is_cancelled() {
            return Err(Error::failed(format!("the drill of group {} was cancelled", group.name)));
        }
        session.out.note(format!("drilling {member}"));
        let of_group = Some(OfGroup { snapshot: &snapshot, across: &across });
        // Its drill is one of the dataset, too. What cannot be told is drilled all the same.
        let file = args.textfiles.as_deref().map(|folder| Textfile::open(&file_of(folder, &member)));
        let (file, unwritable) = file.transpose().map_or_else(|error| (None, Some(error)), |file| (file, None));
        // A plan that takes older snapshots, too, is not fulfilled by the newest.
        let is_scheduled = is_scheduled && config.drill_of(&member).snapshot == SnapshotChoice::Newest;
        let one = OneDrill {
            args,
            session,
            dataset: &member,
            textfile: file.as_ref(),
            is_scheduled,
            without: None,
            of_group,
        };
        let (drilled, error) = Box::pin(one.run()).await;
        let error = worse(error, unwritable);
        if let Some(error) = &error {
            session.out.warning(format!("the drill of {member}: {}", error.chain_and_hint()));
        }
        told.add(&member, &snapshot, &across, drilled.as_ref(), error.as_ref());
        worst = worse(worst, error);
    }
    told.references.sort_by_key(|found| group.references.iter().position(|of| of.name == found.name));
    worst = worse(worst, wrong(&group.name, &told.references));
    let are_right = told.references.iter().all(ReferenceResult::passed);
    told.passed = are_right && told.members.iter().all(|member| member.passed);
    Ok((told, worst.map(|worst| sum_up(&group.name, &worst))))
}

/// The worst of what is wrong with references: one that dangles comes before one that could not be
/// checked.
fn wrong(group: &Name, references: &[ReferenceResult]) -> Option<Error> {
    let wrong: Vec<&ReferenceResult> = references.iter().filter(|found| !found.passed()).collect();
    let names: Vec<&str> = wrong.iter().map(|found| found.name.as_str()).collect();
    let what = format!("references of group {group} are not right: {}", names.join(", "));
    let errors = wrong.iter().map(|found| {
        Some(match &found.error {
            // Whatever else it is, the drills of members tell more of it.
            Some(why) => {
                let class = found.error_class.filter(|class| *class == Class::Configuration).unwrap_or(Class::Failed);
                let hint = found.error_hint.as_deref().unwrap_or("see what its members' drills found");
                Error::new(class, what.clone()).because(why.clone()).hint(hint)
            }
            None if found.checked < found.at_least => Error::integrity(what.clone()).because(in_words(found)).hint(
                "look whether `sql` and `database` of the [[group.reference]] ask what they should, or set `at_least`",
            ),
            None if found.dangling == found.checked => Error::integrity(what.clone()).because(in_words(found)).hint(
                "look at `prefix` of the [[group.reference]] first: nothing that it names is there",
            ),
            None => Error::integrity(what.clone()).because(in_words(found)).hint(
                "find out who deletes files at once, or rows after their files: \"An application of several datasets\" in OPERATIONS.md",
            ),
        })
    });
    errors.fold(None, worse)
}

/// That there is no common moment, as far as was looked.
pub(crate) fn no_moment(group: &Name, ended_before: Option<&SnapshotId>) -> String {
    let far = ended_before.map_or(String::new(), |snapshot| {
        format!(" back to {}; older snapshots were not looked at", human::time(snapshot.time()))
    });
    format!("no moment is known of which every member of {group} has a snapshot{far}")
}

fn sum_up(group: &Name, worst: &Error) -> Error {
    let what = match worst.class() {
        Class::ObjectiveMissed => format!("the drill of group {group} succeeded, but missed objectives"),
        _ => format!("the drill of group {group} failed"),
    };
    let hint = worst.hint_text().unwrap_or("what each of its members found is told above").to_owned();
    Error::new(worst.class(), what).because(worst.chain()).hint(hint)
}

/// What was found of a reference, in words.
fn in_words(found: &ReferenceResult) -> String {
    let counted = format!("{} of {} dangle", found.dangling, human::count(found.checked, "value"));
    let may = if found.at_most > 0 { format!(", and {} may", found.at_most) } else { String::new() };
    let first = if found.first.is_empty() { String::new() } else { format!(": {}", found.first.join(", ")) };
    let too_few =
        if found.checked < found.at_least { format!(", and {} must be there", found.at_least) } else { String::new() };
    let without = match found.without_value {
        0 => String::new(),
        without => format!(" ({} had none)", human::count(without, "row")),
    };
    format!("{counted}{may}{too_few}{first}{without}")
}

impl GroupDrilled {
    fn failed_members(&self) -> usize {
        self.members.iter().filter(|member| !member.passed).count()
    }

    fn add(
        &mut self,
        member: &Name,
        snapshot: &SnapshotId,
        across: &AcrossMembers,
        drilled: Option<&Drilled>,
        error: Option<&Error>,
    ) {
        let report = drilled.map(|drilled| &drilled.report);
        let part = report.and_then(|report| report.group.as_ref());
        self.references.extend(part.into_iter().flat_map(|part| part.references.clone()));
        self.references.extend(across.unchecked(part));
        self.members.push(MemberDrilled {
            dataset: member.clone(),
            snapshot: snapshot.clone(),
            reached: report.and_then(|report| report.reached),
            passed: report.is_some_and(|report| report.passed),
            drill: report.map(|report| report.drill.clone()),
            error: error.map(Error::chain),
        });
    }
}

impl fmt::Display for GroupDrilled {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let verdict = if self.passed { "passed" } else { "FAILED" };
        let (at, spread) = (human::time(self.at), human::seconds(self.spread_seconds));
        writeln!(f, "Drill of group {}: {verdict}\n", self.group)?;
        writeln!(f, "Common moment {}, from {at} on, views within {spread}\n", self.moment)?;
        let mut members = Plain::new(&["DATASET", "SNAPSHOT", "RESULT"]);
        for member in &self.members {
            let reached = member.reached.map_or("nothing", ProofLevel::as_str);
            let result = if member.passed { reached.to_owned() } else { format!("FAILED, reached {reached}") };
            members.row([member.dataset.to_string(), member.snapshot.to_string(), result]);
        }
        write!(f, "{members}")?;
        if !self.references.is_empty() {
            let mut references = Plain::new(&["REFERENCE", "TO", "RESULT"]);
            for found in &self.references {
                let result = match &found.error {
                    Some(why) => format!("NOT CHECKED: {why}"),
                    None if found.passed() => in_words(found),
                    None => format!("WRONG: {}", in_words(found)),
                };
                references.row([found.name.to_string(), found.to.to_string(), result]);
            }
            write!(f, "\n\n{references}")?;
        }
        write!(f, "\n\nTo restore this moment, restore each member with --snapshot and the id above.")
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn what_dangles_is_told_with_its_first_values() {
        let found = ReferenceResult {
            name: "attachments".parse().unwrap(),
            to: "shop-uploads".parse().unwrap(),
            checked: 1200,
            without_value: 1,
            dangling: 2,
            at_most: 1,
            at_least: 1,
            first: vec!["a".to_owned(), "b".to_owned()],
            error: None,
            error_class: None,
            error_hint: None,
        };
        assert_eq!(in_words(&found), "2 of 1,200 values dangle, and 1 may: a, b (1 row had none)");
        let unchecked =
            ReferenceResult { name: "b".parse().unwrap(), error: Some("no relation".to_owned()), ..found.clone() };
        let shop = "shop".parse().unwrap();
        let worst = wrong(&shop, &[unchecked.clone(), found.clone()]).unwrap();
        assert_eq!(worst.class(), Class::Integrity, "what could not be checked hides nothing");
        let told = worst.chain();
        assert!(told.contains("are not right: b, attachments") && told.contains("2 of 1,200"), "{told}");
        assert_eq!(wrong(&shop, std::slice::from_ref(&unchecked)).unwrap().class(), Class::Failed);
        let typed = ReferenceResult {
            error_class: Some(Class::Configuration),
            error_hint: Some("correct `sql` of the [[group.reference]]".to_owned()),
            ..unchecked.clone()
        };
        let told = wrong(&shop, &[unchecked, typed]).unwrap();
        let told = (told.class(), told.hint_text());
        assert_eq!(told, (Class::Configuration, Some("correct `sql` of the [[group.reference]]")));
        let all = ReferenceResult { dangling: 1200, ..found.clone() };
        let hint = wrong(&shop, &[all]).unwrap().hint_text().unwrap().to_owned();
        assert!(hint.starts_with("look at `prefix`"), "{hint}");
        assert!(wrong(&shop, &[ReferenceResult { at_most: 2, ..found.clone() }]).is_none());
        let none = ReferenceResult { checked: 0, dangling: 0, first: Vec::new(), without_value: 0, ..found };
        assert_eq!(in_words(&none), "0 of 0 values dangle, and 1 may, and 1 must be there");
        let missed = sum_up(&"shop".parse().unwrap(), &Error::new(Class::ObjectiveMissed, "rto"));
        assert_eq!((missed.class(), missed.message().contains("succeeded")), (Class::ObjectiveMissed, true));
    }
}
