//! Runs of groups: all members at once, and one answer.

use std::time::Duration;

use chrono::TimeDelta;
use lifeboat_engine::base::{Error, Result};
use lifeboat_engine::config::{Config, GroupConfig};
use lifeboat_engine::format::id::Name;

use super::{Daemon, answer_all};
use crate::control::protocol::Answer;
use crate::group_status;
use crate::groups::GroupRun;
use crate::runner::Runner;
use crate::start::Start;
use crate::turn::Ended;

impl Daemon {
    /// Starts all members, which wait for each other.
    pub(super) fn start_group(&mut self, group: &GroupConfig, start: Start) {
        let (run, parts) = GroupRun::begin(group, start, &self.runner.clock);
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
        let installation = self.live.installation();
        let members = installation.config.group(&group).map(|group| group.members.as_slice()).unwrap_or_default();
        let is_wanted = members.iter().any(|member| self.runner.ledger.get(member).retry_at.is_some());
        let retry = retry_pause(&installation.config, &group).filter(|_| run.is_retried(is_wanted));
        let told = run.tell(&self.runner.state, &group, retry, self.runner.clock.now());
        answer_all(waiting, &Answer::from(told));
    }

    /// Takes in what is known of the groups of `config`. If this program begins, their runs that
    /// never ended are counted: later, another one may run them.
    pub(super) fn take_in_groups(runner: &Runner, config: &Config, begins: bool) {
        let now = runner.clock.now();
        for GroupConfig { name, .. } in &config.groups {
            group_status::first_see(&runner.state, name, now);
            if begins {
                group_status::take_in_killed(&runner.state, name, retry_pause(config, name), now);
            }
        }
    }

    /// When the last run of `dataset`, or of its group, is tried again if it failed, and how long
    /// one takes.
    pub(super) fn remember_run(&mut self, dataset: &Name) {
        let members = self.scheduler.members(dataset);
        let statuses: Vec<_> = members.iter().map(|member| self.runner.ledger.get(member)).collect();
        let lasts = statuses.iter().map(|status| status.duration_seconds).fold(0.0, f64::max);
        let retry = match self.live.installation().config.group_of(dataset) {
            Some(group) => group_status::read(&self.runner.state, &group.name).retry_at,
            None => statuses.iter().filter_map(|status| status.retry_at).min(),
        };
        self.scheduler.retry(dataset, retry);
        self.scheduler.lasts(dataset, TimeDelta::seconds(lasts as i64));
    }
}

/// After how long a group is tried again at first: the shortest `retry` of its members. `None`: it
/// is not.
fn retry_pause(config: &Config, group: &Name) -> Option<Duration> {
    let group = config.group(group).filter(|group| group.schedule.is_some())?;
    let members = group.members.iter().filter_map(|member| config.dataset(member));
    members.map(|member| member.retry).filter(|retry| !retry.is_zero()).min()
}
