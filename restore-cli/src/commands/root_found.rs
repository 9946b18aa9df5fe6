//! The root and the vault that replicas show, for the commands that are about them.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use lifeboat_engine::base::escape;
use lifeboat_engine::config::Config;
use lifeboat_engine::format::id::Name;
use lifeboat_engine::format::info::{MAX_VAULT_INFO_BYTES, VaultInfo};
use lifeboat_engine::format::layout;
use lifeboat_engine::format::root::Floors;
use lifeboat_engine::keep::warden_log::{WardenWord, warden_tells};
use lifeboat_engine::keys::HostKeys;
use lifeboat_engine::keys::trust::Trust;
use lifeboat_engine::root::{self, FoundRoot, SignedRoot};
use lifeboat_engine::state::StateDirectory;
use lifeboat_engine::store::SharedReplica;
use lifeboat_engine::witness::last_looks;
use lifeboat_engine::{Error, Result};
use serde::Serialize;

use crate::access;
use crate::human;
use crate::session::Session;

/// The replicas of the configuration or the flags, and the newest root that they show.
pub(super) async fn found(session: &Session) -> Result<(Option<Config>, Vec<SharedReplica>, FoundRoot)> {
    let place = session.place()?;
    let config = place.config.as_ref();
    let owners = access::owners(&session.globals, config)?;
    let (replicas, unopened) = place.open_for_reading(&session.clock).await?;
    for (replica, why) in unopened {
        session.out.warning(human::skipping(&replica, &why));
    }
    let state = config.filter(|config| config.state_directory.exists());
    let state = state.and_then(|config| StateDirectory::open(&config.state_directory).ok());
    let known = state.as_ref().map(root::pinned).transpose()?.unwrap_or_default();
    let looked = root::find(&replicas, owners.as_ref(), &known);
    let found = session.cancellable("the look for the root", looked).await?;
    found.junk.iter().for_each(|junk| session.out.warning(junk));
    for (replica, error) in &found.unanswered {
        session.out.warning(human::skipping(replica, &error.chain()));
    }
    if owners.is_none() && found.newest.is_some() {
        session.out.warning("no owners are given, so nobody tells whether this is the owners' root");
    }
    Ok((place.config, replicas, found))
}

/// The newest root, where there must be one.
pub(super) async fn newest(session: &Session) -> Result<(Option<Config>, SignedRoot)> {
    let (config, _, found) = found(session).await?;
    let newest = found.newest.ok_or_else(no_root)?;
    Ok((config, newest))
}

/// The error of replicas that show no root which the owners signed.
pub(super) fn no_root() -> Error {
    Error::keys("there is no root that the owners signed")
        .hint("run `lifeboat init` on the backup host, or `lifeboat root adopt` for an older vault: they print what an owner has to sign")
}

/// The vault that the replicas hold. All that answer must hold the same one.
pub(super) async fn vault_of(replicas: &[SharedReplica]) -> Result<String> {
    let (mut first, mut vault): (_, Option<String>) = (None, None);
    for replica in replicas {
        let read = replica.get(layout::VAULT, MAX_VAULT_INFO_BYTES as u64).await.map_err(Error::from);
        match read.and_then(|data| VaultInfo::parse(&data, replica.name())) {
            Ok(info) if vault.as_ref().is_some_and(|vault| *vault != info.vault) => {
                return Err(Error::configuration(format!(
                    "replica {} holds another vault than the others",
                    replica.name()
                ))
                .hint("correct vault_prefix, or the bucket or path of this replica"));
            }
            Ok(info) => vault = Some(info.vault),
            Err(error) => first = first.or(Some(error)),
        }
    }
    if let Some(vault) = vault {
        return Ok(vault);
    }
    Err(first.unwrap_or_else(|| Error::configuration("there is no replica")))
}

/// A witness looks every hour.
const LATEST_LOOK: TimeDelta = TimeDelta::hours(3);

/// What `check` tells of the root.
#[derive(Serialize)]
pub(super) struct CheckedRoot {
    version: u64,
    least_retention_seconds: Option<u64>,
    least_delay_seconds: Option<u64>,
    /// When each witness looked last; null: never, as far as the replicas show.
    witnesses: BTreeMap<Name, Option<DateTime<Utc>>>,
    /// The warden; null: there is none.
    pub(super) warden: Option<Name>,
    /// What it tells of each dataset of the configuration.
    warden_tells: BTreeMap<Name, WardenWord>,
    /// Where it locks for a shorter time than this configuration says, in words.
    #[serde(skip)]
    shorter_locks: BTreeMap<Name, Vec<String>>,
    /// Replicas that do not show it.
    #[serde(skip)]
    lacking: BTreeSet<Name>,
}

impl CheckedRoot {
    /// What is weak about the replicas.
    pub(super) fn lacking(&self) -> Vec<String> {
        let told = |replica: &Name| {
            format!(
                "replica {replica} does not show the newest root, number {}: it was emptied or rolled back, or is new; the next catch-up of lifeboatd puts it there",
                self.version
            )
        };
        self.lacking.iter().map(told).collect()
    }

    /// What is weak about it.
    pub(super) fn weak(&self, now: DateTime<Utc>) -> Vec<String> {
        let mut weak: Vec<String> = self.floors_missing().into_iter().collect();
        if self.witnesses.is_empty() {
            weak.push(
                "the root has no witness: where a store does not tell the time, whoever steals a backup host can backdate snapshots; add a drill host"
                    .to_owned(),
            );
        }
        let is_late = |last: &Option<DateTime<Utc>>| last.is_none_or(|last| now - last > LATEST_LOOK);
        for (name, last) in self.witnesses.iter().filter(|(_, last)| is_late(last)) {
            weak.push(format!(
                "witness {name} has {}: on drill host {name}, run `systemctl enable --now lifeboat-witness.timer`, or see `journalctl -u lifeboat-witness`",
                since(*last)
            ));
        }
        for (dataset, word) in &self.warden_tells {
            if let Some(because) = word.failed.first() {
                weak.push(format!(
                    "the warden's last look at dataset {dataset} did not do all: {}; on that machine, read `journalctl -u lifeboat-warden`",
                    escape::line(because)
                ));
            }
            weak.extend(self.shorter_locks.get(dataset).into_iter().flatten().map(|shorter| {
                format!("dataset {dataset}, {shorter}: write the same `lock` into both configurations")
            }));
        }
        for (dataset, word) in self.warden_tells.iter().filter(|(_, word)| word.is_late(now)) {
            let name = self.warden.as_ref().map_or("?", Name::as_str);
            weak.push(format!(
                "warden {name} has {} at dataset {dataset}, so nothing of it is deleted, and its locks may run out: on that machine, see that its configuration has the dataset, run `systemctl enable --now lifeboat-warden.timer`, or see `journalctl -u lifeboat-warden`",
                word.last_look()
            ));
        }
        weak
    }

    fn floors_missing(&self) -> Option<String> {
        let missing = match (self.least_retention_seconds.unwrap_or(0), self.least_delay_seconds.unwrap_or(0)) {
            (0, 0) => "no least retention and no least delay",
            (0, _) => "no least retention",
            (_, 0) => "no least delay",
            _ => return None,
        };
        Some(format!(
            "the root has {missing}: whoever steals a backup host decides how soon snapshots go, and other hosts delete them; run `lifeboat root request set --least-retention DAYS --least-delay DAYS`"
        ))
    }
}

fn since(last: Option<DateTime<Utc>>) -> String {
    last.map_or_else(|| "never looked".to_owned(), |last| format!("not looked since {}", human::time(last)))
}

impl fmt::Display for CheckedRoot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let length = |seconds: Option<u64>| match seconds {
            None | Some(0) => "no time".to_owned(),
            Some(seconds) => human::seconds(Duration::from_secs(seconds).as_secs_f64()),
        };
        write!(
            f,
            "root {}: every snapshot is kept for at least {}, and at least {} passes between a mark and its deletion",
            self.version,
            length(self.least_retention_seconds),
            length(self.least_delay_seconds)
        )
    }
}

/// The root, where the configuration names owners. It must let this host work on its datasets.
pub(super) async fn check(config: &Config, session: &Session) -> Result<Option<CheckedRoot>> {
    if config.keys.owners.is_empty() {
        return Ok(None);
    }
    let (_, replicas, found) = found(session).await?;
    let newest = found.newest.ok_or_else(no_root)?;
    let Floors { retention, delay } = newest.root.floors.clone();
    let (version, vault) = (newest.root.version, newest.root.vault.clone());
    let trust = Trust::of_root(Arc::new(newest.root), Vec::new(), session.clock.now())?;
    let looks = async {
        let names = config.datasets.iter().map(|dataset| &dataset.name);
        let warden = warden_tells(&vault, &trust, &replicas, names).await;
        Ok((last_looks(&vault, &trust, &replicas).await, warden))
    };
    let (witnesses, warden) = session.cancellable("the check", looks).await?;
    let (warden, told) = warden.map(|warden| (warden.name, warden.datasets)).unzip();
    let checked = CheckedRoot {
        version,
        least_retention_seconds: retention,
        least_delay_seconds: delay,
        witnesses,
        warden,
        shorter_locks: told
            .iter()
            .flatten()
            .map(|(name, word)| (name.clone(), word.shorter_locks(&replicas)))
            .collect(),
        warden_tells: told.unwrap_or_default(),
        lacking: found.lacking,
    };
    if config.keys.host_bundle.path().exists() {
        let keys = HostKeys::load(&config.keys)?;
        for dataset in &config.datasets {
            trust.check_may_sign(&keys.signer.public(), &dataset.name)?;
        }
    }
    Ok(Some(checked))
}
