//! What `--once` runs: datasets by themselves, and groups whose members run at once.

use std::sync::Arc;

use lifeboat_engine::base::{Error, Result};
use lifeboat_engine::config::GroupConfig;
use lifeboat_engine::format::id::Name;
use tokio_util::sync::CancellationToken;

use crate::groups::{GroupRun, MemberRun};
use crate::installation::Installation;
use crate::run_report::RunReport;
use crate::runner::Runner;
use crate::start::{Start, Stop};
use crate::turn::Ended;

/// What runs together.
pub(crate) enum OneRun<'a> {
    Alone(&'a Name),
    Group(&'a GroupConfig),
}

/// How each dataset ended, and why a group has no common moment.
type Outcomes = (Vec<(Name, Result<RunReport>)>, Option<Error>);

impl<'a> OneRun<'a> {
    /// What to run, so that each of `names` runs: datasets and groups, in their order.
    ///
    /// # Errors
    /// There is no dataset or group of that name.
    pub(crate) fn all(names: &[Name], installation: &'a Installation) -> Result<Vec<Self>> {
        let (config, mut all) = (&installation.config, Vec::<Self>::new());
        for name in names {
            let one = match config.group(name).or_else(|| config.group_of(name)) {
                Some(group) => Self::Group(group),
                None => Self::Alone(&installation.dataset(name)?.name),
            };
            if all.iter().all(|known| known.datasets() != one.datasets()) {
                all.push(one);
            }
        }
        Ok(all)
    }

    /// The datasets that it runs.
    pub(crate) fn datasets(&self) -> &[Name] {
        match self {
            Self::Alone(dataset) => std::slice::from_ref(*dataset),
            Self::Group(group) => &group.members,
        }
    }

    /// Runs it.
    pub(crate) async fn run(
        &self,
        runner: &Runner,
        installation: &Installation,
        cancel: &CancellationToken,
    ) -> Outcomes {
        match self {
            Self::Alone(dataset) => {
                let ended = start(runner, installation, dataset, None, cancel).await;
                (vec![((*dataset).clone(), backed_up(dataset, ended))], None)
            }
            Self::Group(group) => {
                let (mut run, parts) = GroupRun::begin(group, Start::Asked, &runner.clock);
                let runs = group.members.iter().zip(parts).map(async |(member, part)| {
                    let ended = start(runner, installation, member, Some(part), cancel).await;
                    (member.clone(), backed_up(member, ended))
                });
                let ended = futures::future::join_all(runs).await;
                for (member, result) in &ended {
                    run.ended(member, result.as_ref());
                }
                (ended, run.tell(&runner.state, &group.name, None, runner.clock.now()).err())
            }
        }
    }
}

/// Runs one dataset; `part` ends with it.
async fn start(
    runner: &Runner,
    installation: &Installation,
    dataset: &Name,
    part: Option<MemberRun>,
    cancel: &CancellationToken,
) -> Result<Ended> {
    let stop = Stop::from(cancel.clone());
    runner.start(installation, dataset, Start::Asked, part.as_ref(), &Arc::default(), &stop).await
}

fn backed_up(dataset: &Name, ended: Result<Ended>) -> Result<RunReport> {
    match ended? {
        Ended::BackedUp(report) => Ok(*report),
        Ended::Locked(error) => Err(error),
        Ended::Left(_) => Err(Error::cancelled(&format!("the backup of {dataset}"))),
    }
}
