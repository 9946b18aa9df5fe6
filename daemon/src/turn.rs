//! Whose turn a start is, where several hosts back a dataset up.
//!
//! A deputy that leaves a start to the leader takes in when the newest snapshot was made, so that
//! its own metrics tell the age of the data, too.

use std::sync::Arc;

use chrono::{DateTime, Utc};
use lifeboat_engine::backup::Progress;
use lifeboat_engine::base::{Error, Result};
use lifeboat_engine::config::Dataset;
use lifeboat_engine::format::id::Name;
use lifeboat_engine::is_future;
use lifeboat_engine::lead::{Lead, Leadership, StartTurn};

use crate::groups::MemberRun;
use crate::installation::Installation;
use crate::run_report::RunReport;
use crate::runner::{Runner, retry_at};
use crate::start::{Start, Stop};

/// How a start ended.
pub(crate) enum Ended {
    /// This host has backed up.
    BackedUp(Box<RunReport>),
    /// That was left to another host. Look again at this time, if there is one.
    Left(Option<DateTime<Utc>>),
    /// Another program works on the dataset, as this error says.
    Locked(Error),
}

impl Runner {
    /// Backs `dataset` up if it is this host's turn.
    ///
    /// # Errors
    /// No snapshot was committed. The error is logged and remembered already, but for the refusal
    /// of a deputy.
    pub(crate) async fn start(
        &self,
        installation: &Installation,
        dataset: &Name,
        start: Start,
        member: Option<&MemberRun>,
        progress: &Arc<Progress>,
        stop: &Stop,
    ) -> Result<Ended> {
        let (of, mut takes_over) = (installation.dataset(dataset)?, false);
        // Before anybody is asked.
        let early = |error: &Error| self.note_failure(of, error, matches!(start, Start::Scheduled | Start::Retry));
        if self.state.take_dataset_lock(dataset).await.inspect_err(early)?.is_none() {
            member.into_iter().for_each(MemberRun::has_no_lock);
            return Ok(Ended::Locked(self.state.taken(dataset)));
        }
        if of.hosts.len() > 1 && start != Start::Takeover {
            let lead = self.lead(installation, of);
            let looked = tokio::select! {
                looked = lead.look() => looked,
                () = stop.token.cancelled() => return Ok(Ended::Left(None)),
            };
            match looked {
                Ok(found) => {
                    let turn = found.turn(&installation.config, of, self.clock.now());
                    tracing::debug!(%dataset, leader = %found.leader, ?turn, "whose turn it is");
                    self.note(installation, dataset, &found, &turn);
                    match turn {
                        StartTurn::Ours => {}
                        _ if start == Start::Asked => return Err(found.not_ours(dataset)),
                        StartTurn::TakeOver => {
                            takes_over = true;
                            tracing::warn!(%dataset, leader = %found.leader, "The leader has not backed up: this host takes over");
                        }
                        StartTurn::Theirs(again) => return Ok(Ended::Left(again)),
                        StartTurn::AskOperator => {
                            tracing::error!(
                                %dataset,
                                leader = %found.leader,
                                "The leader has not backed up, and this host must not take over by itself: run `lifeboat takeover {dataset}` if it is gone"
                            );
                            return Ok(Ended::Left(None));
                        }
                    }
                }
                // A leader tries: its run says best what is wrong.
                Err(_) if self.ledger.get(dataset).has_led(&installation.config.host, of) => {}
                Err(error) if start == Start::Asked => return Err(error),
                Err(error) => {
                    let error = error.within(format!("this deputy cannot see who backs up dataset {dataset}"));
                    self.note_failure(of, &error, false);
                    let again = chrono::TimeDelta::from_std(of.takeover_after).ok();
                    return Ok(Ended::Left(again.map(|wait| self.clock.now() + wait)));
                }
            }
        }
        if of.hosts.len() > 1 && (start == Start::Takeover || takes_over) {
            check_stores(installation, dataset).await.inspect_err(early)?;
        }
        let Some(lock) = self.state.take_dataset_lock(dataset).await.inspect_err(early)? else {
            member.into_iter().for_each(MemberRun::has_no_lock);
            return Ok(Ended::Locked(self.state.taken(dataset)));
        };
        if let Some(member) = member {
            match member.has_lock().await {
                Ok(true) => member.note_start(&self.state),
                Ok(false) => {}
                Err(other) => return Ok(Ended::Locked(self.state.taken(&other))),
            }
        }
        let report = self.run(installation, dataset, (start, lock), member, progress, stop).await?;
        if of.hosts.len() > 1 {
            self.remember(dataset, |status| (status.led_by, status.takeover_needed) = (None, false));
        }
        Ok(Ended::BackedUp(Box::new(report)))
    }

    pub(crate) fn lead<'a>(&'a self, installation: &'a Installation, dataset: &'a Dataset) -> Lead<'a> {
        Lead {
            config: &installation.config,
            dataset,
            keys: &installation.keys,
            replicas: &installation.replicas,
            records: &installation.records,
            state: &self.state,
            clock: self.clock.clone(),
        }
    }

    /// Up to when the starts of `dataset` are done with. One that was never seen begins now, and
    /// that is remembered, so that a start which passes while the daemon is down is made up for.
    ///
    /// A run that failed under a clock that was ahead did none of the starts up to that time. They
    /// are done with up to the last snapshot.
    pub(crate) fn considered(&self, dataset: &Name) -> DateTime<Utc> {
        self.ledger.refresh(dataset);
        let (now, status) = (self.clock.now(), self.ledger.get(dataset));
        let known = match status.considered {
            Some(time) if time > now && !status.succeeded => status.last_success.or(status.first_seen).or(Some(now)),
            known => known,
        };
        if known.is_none()
            && let Ok(Some(_lock)) = self.state.try_lock_dataset(dataset)
        {
            self.ledger.update(dataset, |status| (status.first_seen, status.considered) = (Some(now), Some(now)));
        }
        known.unwrap_or(now).min(now)
    }

    /// Tells that a start failed before its run began. If `again`, it is tried again as a run is
    /// that failed.
    fn note_failure(&self, dataset: &Dataset, error: &Error, again: bool) {
        tracing::error!(
            dataset = %dataset.name,
            class = error.class().as_str(),
            hint = error.hint_text().unwrap_or_default(),
            "no backup was begun: {}",
            error.chain_and_hint()
        );
        let retry_at = again.then(|| retry_at(dataset, error, self.clock.now())).flatten();
        self.ledger.missed(&dataset.name, error.chain(), retry_at);
    }

    /// Notes who leads a dataset of which no start asks that, as it has no schedule. Tells whether
    /// it could: another program, or a catch-up, may hold the lock.
    pub(crate) async fn look_who_leads(&self, installation: &Installation, dataset: &Dataset) -> bool {
        match self.lead(installation, dataset).look().await {
            Ok(found) => {
                let turn = found.turn(&installation.config, dataset, self.clock.now());
                self.note(installation, &dataset.name, &found, &turn)
            }
            Err(error) => {
                tracing::debug!(dataset = %dataset.name, "cannot see who leads: {}", error.chain());
                false
            }
        }
    }

    fn note(&self, installation: &Installation, dataset: &Name, found: &Leadership, turn: &StartTurn) -> bool {
        let led_by = Some(&found.leader).filter(|leader| **leader != installation.config.host).cloned();
        let newest = found.newest.as_ref().map(|newest| newest.snapshot.time());
        let newest = newest.filter(|time| !is_future(*time, self.clock.now(), &installation.config.limits));
        self.remember(dataset, |status| {
            status.takeover_needed = *turn == StartTurn::AskOperator;
            if led_by.is_some() {
                status.last_success = newest.or(status.last_success);
                // What was wrong with its own last run is the leader's concern now.
                (status.succeeded, status.error, status.retry_at) = (true, None, None);
                (status.deletion_stopped, status.unlogged, status.skipped) = (None, None, 0);
            }
            status.led_by = led_by;
        })
    }

    /// Remembers, unless another program works on the dataset. Tells whether it did.
    pub(crate) fn remember(&self, dataset: &Name, change: impl FnOnce(&mut crate::status::DatasetStatus)) -> bool {
        let Ok(Some(_lock)) = self.state.try_lock_dataset(dataset) else { return false };
        self.ledger.update(dataset, change);
        true
    }
}

/// Refuses a takeover unless enough stores are seen to keep two hosts apart. One that does not
/// answer takes no part in the run, either.
pub(crate) async fn check_stores(installation: &Installation, dataset: &Name) -> Result<()> {
    let places = installation.replicas.iter().chain(&installation.records);
    let probes = places.map(async |replica| (replica.name(), replica.probe(true).await));
    let (mut good, mut away) = (0, Vec::new());
    for (name, probed) in futures::future::join_all(probes).await {
        match probed.map(|probe| probe.conditional_writes) {
            Ok(Some(true)) => good += 1,
            Ok(Some(false)) => {
                return Err(Error::configuration(format!(
                    "dataset {dataset} cannot have a deputy: replica {name} ignores conditional writes, so two hosts could overwrite each other's acts"
                ))
                .hint("leave `hosts` out of the dataset and let one host back it up, or use another store"));
            }
            Ok(None) => away.push(format!("replica {name} does not show whether it keeps conditional writes")),
            Err(error) => away.push(error.to_string()),
        }
    }
    let required = installation.config.min_places();
    if good < required {
        return Err(Error::storage(format!(
            "a commit needs {required} places that keep two hosts apart, and {good} are seen to"
        ))
        .because(away.join("; "))
        .hint("run `lifeboat check` to find the cause, then take over again"));
    }
    Ok(())
}
