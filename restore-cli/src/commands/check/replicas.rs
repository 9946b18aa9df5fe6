//! What a replica can do, and whether that is enough; and a place that holds records alone.

use lifeboat_engine::config::ReplicaConfig;
use lifeboat_engine::format::id::Name;
use lifeboat_engine::format::info::VaultInfo;
use lifeboat_engine::store::{Probe, Protection};
use lifeboat_engine::{Class, Error};
use serde::Serialize;

use super::{Checked, Probed};
use crate::human;

/// S3 refuses requests whose time is 15 minutes off; long before that, times in reports mislead.
pub(super) const LARGEST_SKEW_SECONDS: i64 = 30;

#[derive(Serialize)]
pub(super) struct ReplicaCheck {
    pub(super) replica: String,
    pub(super) region: String,
    /// Why it cannot be used.
    pub(super) error: Option<String>,
    /// How far deletion is apart from this host: `untold`, `none`, `versions` or `lock`.
    pub(super) level: Option<String>,
    /// What a thief of the credentials could still do.
    pub(super) thief: Option<String>,
    pub(super) has_vault: Option<bool>,
    pub(super) conditional_writes: Option<bool>,
    pub(super) versioning: Option<bool>,
    pub(super) object_lock: Option<bool>,
    pub(super) can_write: Option<bool>,
    pub(super) can_delete: Option<bool>,
    pub(super) clock_skew_seconds: Option<i64>,
}

impl ReplicaCheck {
    fn of(config: &ReplicaConfig) -> Self {
        Self {
            replica: config.name.to_string(),
            region: config.region.clone(),
            error: None,
            level: None,
            thief: None,
            has_vault: None,
            conditional_writes: None,
            versioning: None,
            object_lock: None,
            can_write: None,
            can_delete: None,
            clock_skew_seconds: None,
        }
    }
}

impl Checked {
    /// Judges a place that holds records alone. It holds no data, so nobody asks for versions or
    /// locks.
    pub(super) fn judge_records(&mut self, config: &ReplicaConfig, probed: Probed, write: bool) {
        let mut check = ReplicaCheck::of(config);
        match probed {
            Err(error) => self.judge_failure(&mut check, &config.name, &error),
            Ok((probe, vault)) => self.judge_answer(&mut check, config, &probe, vault, write),
        }
        self.records.push(check);
    }

    fn judge_failure(&mut self, check: &mut ReplicaCheck, name: &Name, error: &Error) {
        let chain = error.chain();
        let why = human::without_name(name, &chain);
        let hint = error.hint_text().map(|hint| format!(" ({hint})")).unwrap_or_default();
        check.error = Some(why.to_owned());
        self.broken(error.class(), format!("replica {name} cannot be used: {why}{hint}"));
    }

    fn judge_answer(
        &mut self,
        check: &mut ReplicaCheck,
        config: &ReplicaConfig,
        probe: &Probe,
        vault: Option<VaultInfo>,
        write: bool,
    ) {
        let has_vault = vault.is_some();
        if let Some(vault) = vault {
            self.vaults.entry(vault.vault).or_default().push(config.name.to_string());
        }
        check.has_vault = Some(has_vault);
        check.conditional_writes = probe.conditional_writes;
        check.versioning = probe.versioning;
        check.object_lock = probe.object_lock;
        check.can_write = probe.can_write;
        check.can_delete = probe.can_delete;
        check.clock_skew_seconds = probe.clock_skew_seconds;
        self.judge_probe(config, probe, has_vault, write);
    }

    pub(super) fn judge_replica(&mut self, config: &ReplicaConfig, probed: Probed, write: bool, are_set: Option<bool>) {
        let name = &config.name;
        let mut check = ReplicaCheck::of(config);
        match probed {
            Err(error) => self.judge_failure(&mut check, name, &error),
            Ok((probe, vault)) => {
                self.judge_answer(&mut check, config, &probe, vault, write);
                let found = Protection::of(config, &probe, write, are_set);
                let found = if self.has_warden { found.under_warden(&probe) } else { found };
                let Protection { level, thief, weak, broken } = found;
                check.level = level.map(|level| level.to_string());
                check.thief = Some(thief);
                self.weak.extend(weak.into_iter().map(|what| format!("replica {name} {what}")));
                for what in broken {
                    self.broken(Class::Configuration, format!("replica {name} {what}"));
                }
            }
        }
        self.replicas.push(check);
    }

    fn judge_probe(&mut self, config: &ReplicaConfig, probe: &Probe, has_vault: bool, write: bool) {
        let name = &config.name;
        if write && probe.can_write == Some(false) {
            self.broken(
                Class::Storage,
                format!(
                    "replica {name} refuses writes, so no backup reaches it: allow its credentials to write (PutObject)"
                ),
            );
        }
        let has_warden = self.has_warden;
        let mut weak = |when: bool, what: &str| {
            if when {
                self.weak.push(format!("replica {name} {what}"));
            }
        };
        weak(!has_vault, "holds no vault at this prefix yet: run `lifeboat init`");
        weak(
            probe.conditional_writes == Some(false),
            "ignores conditional writes: two hosts that create a vault or a key at the same moment could overwrite each other's; run `lifeboat init` on one host at a time",
        );
        weak(
            write && probe.can_delete == Some(false) && !has_warden,
            "does not let this host delete: that is safe, but prune cannot free space there",
        );
        if let Some(skew) = probe.clock_skew_seconds.filter(|skew| skew.abs() > LARGEST_SKEW_SECONDS) {
            let way = if skew > 0 { "ahead of" } else { "behind" };
            self.weak.push(format!(
                "the clock of replica {name} is {} s {way} this host's: make sure that this host synchronises its clock",
                skew.abs()
            ));
        }
    }
}
