//! Runs of groups: all members at once, and one answer.

use lifeboat_engine::base::{Error, Result};
use lifeboat_engine::config::GroupConfig;
use lifeboat_engine::format::id::Name;

use super::{Daemon, answer_all};
use crate::control::protocol::Answer;
use crate::group_status;
use crate::groups::GroupRun;
use crate::start::Start;
use crate::turn::Ended;

impl Daemon {
    /// Starts all members, which wait for each other.
    pub(super) fn start_group(&mut self, group: &GroupConfig, start: Start) {
        let (run, parts) = GroupRun::begin(group, &self.runner.clock);
        tracing::info!(group = %group.name, moment = %run.id, "the members of a group start");
        group_status::update(&self.runner.state, &group.name, |status| {
            status.under_way = Some(run.id.time());
        });
        self.groups.insert(group.name.clone(), run);
        let waiting = self.waiting.remove(&group.name).unwrap_or_default();
        self.waiting_for_groups.entry(group.name.clone()).or_default().extend(waiting);
        for (member, part) in group.members.iter().zip(parts) {
            self.start_run(member.clone(), start, Some(part));
        }
    }

    /// Notes that a member has ended, and answers for the group if it was the last.
    pub(super) fn member_ended(&mut self, dataset: &Name, result: &Result<Ended>) {
        let Some((group, run)) = self.groups.iter_mut().find(|(_, run)| run.has(dataset)) else { return };
        let group = group.clone();
        let have_all_ended = match result {
            Ok(Ended::BackedUp(report)) => run.ended(dataset, Ok(report)),
            Ok(Ended::Locked(error)) => {
                run.waits = true;
                run.ended(dataset, Err(error))
            }
            Ok(Ended::Left(_)) => run.ended(dataset, Err(&Error::cancelled("the run"))),
            Err(error) => run.ended(dataset, Err(error)),
        };
        if !have_all_ended {
            return;
        }
        let Some(run) = self.groups.remove(&group) else { return };
        let waiting = self.waiting_for_groups.remove(&group).unwrap_or_default();
        let told = run.tell(&self.runner.state, &group);
        answer_all(waiting, &Answer::from(told));
    }
}
