//! Judges how far deletion is apart from a host, and what a thief of its credentials could still
//! do, as far as it was asked and tried.

use std::fmt;

use crate::guards::{Guards, Lock, LockMode};
use crate::replica::Probe;
use crate::settings::{ReplicaConfig, ReplicaKind};

/// A rule that ends old versions sooner leaves little time to notice a thief.
const SHORTEST_DELAY_DAYS: u32 = 7;

/// What a thief can do where nothing stops him.
const FOR_GOOD: &str = "delete every backup in it for good";

/// How far deletion is apart from this host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum DeletionLevel {
    /// The store offers no requests that would tell.
    Untold,
    /// Its credentials delete for good.
    None,
    /// Its credentials hide objects, and remove no version.
    Versions,
    /// What is there is locked.
    Lock,
    /// Its credentials delete nothing at all: a warden does.
    Warden,
}

impl fmt::Display for DeletionLevel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Untold => "untold",
            Self::None => "none",
            Self::Versions => "versions",
            Self::Lock => "lock",
            Self::Warden => "warden",
        })
    }
}

/// What was found, in words. Each text goes on after the name of the replica.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Protection {
    /// The level; `None` if it is not known.
    pub level: Option<DeletionLevel>,
    /// What a thief of the credentials could still do, in one sentence.
    pub thief: String,
    /// What works, but may fail on a bad day.
    pub weak: Vec<String>,
    /// What does not work.
    pub broken: Vec<String>,
}

impl Protection {
    /// Judges what a probe found. `is_host` tells whether these are the credentials of a host that
    /// backs up. `are_set` tells whether that host has locked all that is needed, if it knows.
    #[must_use]
    pub fn of(config: &ReplicaConfig, probe: &Probe, is_host: bool, are_set: Option<bool>) -> Self {
        let mut all = Self::default();
        let ReplicaKind::S3(s3) = &config.kind else {
            all.weak.push(
                "is a directory: whoever can write to it can delete every backup in it; in at least one other replica, turn on Object Lock and set `lock`, such as lock = \"30d\""
                    .to_owned(),
            );
            return all.at(DeletionLevel::None, FOR_GOOD);
        };
        let guards = &probe.guards;
        if guards.lifecycle.as_ref().is_some_and(|lifecycle| lifecycle.ends_objects) {
            all.broken.push(
                "has a lifecycle rule that deletes objects in use, and with them snapshots that are kept: let the rule end noncurrent versions only, as /usr/share/lifeboat/s3/lifecycle.json does"
                    .to_owned(),
            );
        }
        if s3.lock.is_some() && probe.object_lock == Some(false) {
            all.broken.push(
                "has no Object Lock, so it refuses every object that `lock` wants to be locked: make a bucket with Object Lock, or remove `lock`"
                    .to_owned(),
            );
        }
        if guards.removes_locked {
            all.broken.push(
                "has Object Lock, and removes what is locked all the same, so its locks have no effect: do not count on them; use another store, or remove `lock`"
                    .to_owned(),
            );
            return all.versioned(probe);
        }
        match (probe.object_lock, s3.lock, guards.default_lock_days) {
            (Some(true), Some(lock), _) => match (guards.sets_locks, are_set) {
                (Some(true), None | Some(true)) => return all.locked(lock, guards),
                (Some(false), _) => all.broken.push(
                    "has Object Lock, and these credentials cannot extend a lock, so locks run out: allow them s3:PutObjectRetention and s3:GetObjectRetention"
                        .to_owned(),
                ),
                (Some(true), Some(false)) => all.weak.push(
                    "has locks not set yet: the daemon has not locked all that is needed; it begins a minute after its start, and goes on every hour"
                        .to_owned(),
                ),
                (None, _) => {}
            },
            // Nobody has tried whether it does, and what is still in use outlives it.
            (Some(true), None, Some(days)) => all.weak.push(format!(
                "locks objects for {days} days, and nothing extends that: objects that are older, and still in use, are not locked; set `lock`"
            )),
            (Some(true), None, None) if is_host => all.broken.push(
                "has Object Lock, and nothing in it is locked: set `lock` in its section, such as lock = \"30d\""
                    .to_owned(),
            ),
            _ => {}
        }
        all.versioned(probe)
    }

    /// The same, where the root names a warden, and these are the credentials of a backup host.
    #[must_use]
    pub fn under_warden(mut self, probe: &Probe) -> Self {
        match (probe.can_delete, self.level) {
            (Some(false), Some(DeletionLevel::Versions | DeletionLevel::Lock)) => self.at(
                DeletionLevel::Warden,
                "overwrite objects, which `lifeboat undelete` takes back, and mark what the warden then judges: he deletes nothing himself",
            ),
            (Some(true), Some(DeletionLevel::Versions | DeletionLevel::Lock)) => {
                self.weak.push(
                    "lets these credentials delete, though the root names a warden, who alone deletes: take s3:DeleteObject and s3:PutObjectRetention out of their policy"
                        .to_owned(),
                );
                self
            }
            _ => self,
        }
    }

    fn locked(mut self, lock: Lock, guards: &Guards) -> Self {
        if guards.removes_versions == Some(true) {
            self.weak.push(
                "lets these credentials remove old versions as soon as no lock holds them: give them a policy of /usr/share/lifeboat/s3"
                    .to_owned(),
            );
        }
        self.judge_end_of_versions(guards);
        let days = lock.period.as_secs().div_ceil(86_400);
        let most = lock.at_most.saturating_sub(lock.period / 2).as_secs() / 86_400;
        let longer = match lock.at_most > lock.period {
            true => format!(", or {most} days after it where retention keeps it for as long"),
            false => String::new(),
        };
        let bypass = match lock.mode {
            LockMode::Governance => ", and before that only if he may bypass governance",
            LockMode::Compliance => "",
        };
        let what = format!(
            "hide every object, which `lifeboat undelete` takes back; for good, he can delete nothing that is needed before its lock ends, half of {days} days after the theft at the earliest{longer}{bypass}"
        );
        self.at(DeletionLevel::Lock, &what)
    }

    fn versioned(mut self, probe: &Probe) -> Self {
        let Guards { removes_versions, changes_versioning, .. } = &probe.guards;
        if probe.versioning == Some(false) {
            self.weak.push(
                "keeps no old versions: whoever steals the write credentials can delete every backup in it; turn on versioning, as OPERATIONS.md says under \"Deletion apart\""
                    .to_owned(),
            );
            return self.at(DeletionLevel::None, FOR_GOOD);
        }
        for (can, what) in [(removes_versions, "remove old versions"), (changes_versioning, "stop keeping versions")] {
            if *can == Some(true) {
                self.weak.push(format!(
                    "lets these credentials {what}: whoever steals them can delete every backup in it; give them a policy of /usr/share/lifeboat/s3"
                ));
            }
        }
        if *removes_versions == Some(true) || *changes_versioning == Some(true) {
            return self.at(DeletionLevel::None, FOR_GOOD);
        }
        if probe.versioning.is_none() || removes_versions.is_none() || changes_versioning.is_none() {
            if probe.versioning.is_some() && probe.object_lock == Some(false) {
                self.weak.push(
                    "has no Object Lock: whoever has the permission can delete old versions; in at least one replica, turn it on and set `lock`, such as lock = \"30d\""
                        .to_owned(),
                );
            }
            if probe.guards.cannot_say {
                self.level = Some(DeletionLevel::Untold);
                self.thief = "the store cannot tell what a thief of these credentials could do".to_owned();
                return self;
            }
            self.thief = "it is not known what a thief of these credentials could do".to_owned();
            return self;
        }
        let until = self.judge_end_of_versions(&probe.guards);
        let what = format!(
            "hide or overwrite every object, which `lifeboat undelete` takes back{until}; whether he may change lifecycle rules is not tried"
        );
        self.at(DeletionLevel::Versions, &what)
    }

    /// When old versions end, in words.
    fn judge_end_of_versions(&mut self, guards: &Guards) -> String {
        let days = guards.lifecycle.as_ref().map(|lifecycle| lifecycle.old_versions_days);
        match days {
            Some(Some(days)) => {
                if days < SHORTEST_DELAY_DAYS {
                    self.weak.push(format!(
                        "ends old versions after {days} days: what a thief deletes must be noticed by then; raise NoncurrentDays of its lifecycle rule"
                    ));
                }
                format!(" within {days} days")
            }
            Some(None) => {
                self.weak.push(
                    "has no lifecycle rule that ends old versions, so what prune deletes takes space for ever; set the one of /usr/share/lifeboat/s3/lifecycle.json"
                        .to_owned(),
                );
                String::new()
            }
            None => ", until a lifecycle rule ends old versions".to_owned(),
        }
    }

    fn at(mut self, level: DeletionLevel, what: &str) -> Self {
        self.level = Some(level);
        self.thief = format!("a thief of these credentials can {what}");
        self
    }
}
