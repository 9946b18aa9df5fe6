//! `check`: whether this installation works, and what is weak about it, in plain words.
//!
//! Broken is what would make a backup or a restore fail; it decides the exit code. Weak is what
//! works today, but may fail on a bad day.

mod drill_host;
mod keys;
mod replicas;
mod sources;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use chrono::{DateTime, Utc};
use lifeboat_engine::base::escape;
use lifeboat_engine::clock::SharedClock;
use lifeboat_engine::config::{Config, Dataset, ReplicaConfig};
use lifeboat_engine::databases::{ToolFound, WorkContext, registry};
use lifeboat_engine::format::info::{MAX_VAULT_INFO_BYTES, VaultInfo};
use lifeboat_engine::format::layout;
use lifeboat_engine::keep::locks;
use lifeboat_engine::store::{self, Probe};
use lifeboat_engine::{Class, Error, Result};
use serde::Serialize;

use self::replicas::ReplicaCheck;
use super::root_found::{self, CheckedRoot};
use crate::human;
use crate::session::{Place, Session};
use crate::table::Plain;

/// A client tool that does not print its version within this time counts as missing.
const TOOL_ANSWER: Duration = Duration::from_secs(10);

/// Check replicas, keys and tools, and say in plain words what is broken or weak
#[derive(Debug, clap::Args)]
pub(crate) struct Args {}

#[derive(Default, Serialize)]
struct Checked {
    replicas: Vec<ReplicaCheck>,
    /// The places that hold records alone.
    records: Vec<ReplicaCheck>,
    tools: Vec<ToolFound>,
    root: Option<CheckedRoot>,
    broken: Vec<Broken>,
    weak: Vec<String>,
    /// Whether the root names a warden, and these are the credentials of a backup host.
    #[serde(skip)]
    has_warden: bool,
    /// Which vaults the replicas hold.
    #[serde(skip)]
    vaults: BTreeMap<String, Vec<String>>,
}

#[derive(Serialize)]
struct Broken {
    class: &'static str,
    #[serde(skip)]
    error_class: Class,
    what: String,
}

pub(crate) async fn run(_: &Args, session: &Session) -> Result<()> {
    let place = session.place()?;
    let write = place.config.as_ref().is_some_and(backs_up);
    let probes =
        futures::future::join_all(place.replicas.iter().map(|replica| probe(&place, replica, write, &session.clock)));
    let probed = session.cancellable("the check", async { Ok(probes.await) }).await?;
    // With --replica, or a replica that flags name, nobody asks for them.
    let records = place.config.as_ref().filter(|_| session.globals.replica.is_none());
    let records = records.map(|config| config.records.as_slice()).unwrap_or_default();
    let of_records =
        futures::future::join_all(records.iter().map(|record| probe(&place, record, write, &session.clock)));
    let of_records = session.cancellable("the check", async { Ok(of_records.await) }).await?;
    let directories = client_directories(place.config.as_ref());
    let cx = WorkContext {
        scratch: session.temporary.clone(),
        stall: TOOL_ANSWER,
        jobs: 1,
        environment: session.tools.clone(),
        cancel: session.cancel.clone(),
    };
    let tools = registry::client_tools(&directories, &cx);
    let tools = session.cancellable("the check", async { Ok(tools.await) }).await?;

    let mut checked = Checked { tools, ..Checked::default() };
    let root = match &place.config {
        Some(config) => Some(root_found::check(config, session).await),
        None => None,
    };
    let warden = root.iter().flatten().flatten().find_map(|root| root.warden.as_ref());
    checked.has_warden = write && warden.is_some();
    // It extends locks, and this host does not know how far it is.
    let knows_locks = write && warden.is_none();
    let are_set =
        place.config.as_ref().filter(|_| knows_locks).map(|config| locks::are_set(config, session.clock.now()));
    for (replica, result) in probed {
        let are_set = are_set.as_ref().and_then(|set| set.get(&replica.name)).copied();
        checked.judge_replica(replica, result, write, are_set);
    }
    for (record, result) in of_records {
        checked.judge_records(record, result, write);
    }
    checked.judge_vaults();
    if let Some(problem) = session.worker.problem() {
        let what = format!("no drill and no restore into a server works: {}", problem.chain_and_hint());
        checked.broken.push(Broken { class: problem.class().as_str(), error_class: problem.class(), what });
    }
    if let Some(config) = &place.config {
        checked.judge_installation(config, session.clock.now());
        match root.unwrap_or(Ok(None)) {
            Ok(root) => {
                checked.weak.extend(root.iter().flat_map(CheckedRoot::lacking));
                let of_host = root.as_ref().filter(|_| backs_up(config));
                checked.weak.extend(of_host.iter().flat_map(|root| root.weak(session.clock.now())));
                checked.root = root;
            }
            Err(error) => checked.broken(error.class(), error.chain_and_hint()),
        }
        if write {
            sources::check(&mut checked, config, session).await?;
            keys::check_keyrings(&mut checked, config, session).await?;
        }
        if config.keys.drill_identity.path().exists() && !config.keys.may_back_up() {
            drill_host::check(&mut checked, &place, config, session).await?;
        }
    }
    session.out.result(&checked)?;
    checked.verdict()
}

/// What a replica can do, and the vault that it holds.
type Probed = Result<(Probe, Option<VaultInfo>)>;

async fn probe<'a>(
    place: &Place,
    config: &'a ReplicaConfig,
    write: bool,
    clock: &SharedClock,
) -> (&'a ReplicaConfig, Probed) {
    let look = async {
        let replica = store::open(config, &place.vault_prefix, clock).await?;
        let probe = replica.probe(write).await?;
        let vault = match replica.get(layout::VAULT, MAX_VAULT_INFO_BYTES as u64).await {
            Ok(data) => Some(VaultInfo::parse(&data, &config.name)?),
            Err(error) if error.is_not_found() => None,
            Err(error) => return Err(error.into()),
        };
        Ok((probe, vault))
    };
    (config, look.await)
}

/// A drill host names datasets too, for their objectives: its keys tell it apart.
fn backs_up(config: &Config) -> bool {
    !config.datasets.is_empty() && config.keys.may_back_up()
}

fn client_directories(config: Option<&Config>) -> Vec<PathBuf> {
    let mut directories = Vec::new();
    for dataset in config.iter().flat_map(|config| &config.datasets) {
        directories.extend_from_slice(dataset.source.client_directories());
        directories.extend_from_slice(&dataset.drill.server_directories);
    }
    directories
}

impl Checked {
    fn broken(&mut self, class: Class, what: String) {
        self.broken.push(Broken { class: class.as_str(), error_class: class, what });
    }

    fn judge_vaults(&mut self) {
        if self.vaults.len() > 1 {
            let each = self.vaults.iter().map(|(vault, replicas)| format!("{vault} in {}", replicas.join(", ")));
            let each: Vec<String> = each.collect();
            self.broken(
                Class::Configuration,
                format!(
                    "the replicas hold different vaults: {}; correct vault_prefix, the bucket or the path, or put back the vault.json that somebody changed",
                    each.join("; ")
                ),
            );
        }
    }

    fn judge_installation(&mut self, config: &Config, now: DateTime<Utc>) {
        self.weak.extend(config.warnings.iter().cloned());
        // With --replica the others are not known.
        if self.replicas.len() == config.replicas.len() {
            self.judge_spread(config);
        }
        self.judge_datasets(config, now);
        self.judge_keys(config);
    }

    fn judge_spread(&mut self, config: &Config) {
        let regions: BTreeSet<&str> = config.replicas.iter().map(|replica| replica.region.as_str()).collect();
        let spread = match (config.replicas.len(), regions.len()) {
            (1, _) => Some("there is only one replica: if you lose it, you have no backup"),
            (_, 1) => Some("all replicas are in one region: one disaster can destroy them all"),
            _ => None,
        };
        if let Some(spread) = spread {
            self.weak.push(format!("{spread}; add a [[replica]] in another region"));
        }
        if !backs_up(config) {
            return;
        }
        let working = self.replicas.iter().filter(|replica| replica.error.is_none()).count();
        if working < config.min_replicas {
            self.broken(
                Class::Storage,
                format!(
                    "{} {}, but min_replicas is {}: every backup will fail; repair the replicas first",
                    human::count(working as u64, "replica"),
                    if working == 1 { "works" } else { "work" },
                    config.min_replicas
                ),
            );
        }
        if config.min_replicas == 1 && config.replicas.len() > 1 {
            self.weak.push(
                "min_replicas is 1: a backup counts as done when only one region has it; set it to 2 to survive the loss of that region"
                    .to_owned(),
            );
        }
    }

    /// Whether the other hosts of a dataset can take over, and be kept from committing beside this
    /// one.
    fn judge_deputies(&mut self, config: &Config, dataset: &Dataset) {
        let name = &dataset.name;
        if dataset.hosts.len() < 2 {
            return;
        }
        if !config.commits_meet() {
            self.weak.push(format!(
                "dataset {name} has deputies, but min_replicas is not more than half of the replicas: two hosts could commit beside each other, so no takeover is automatic; raise min_replicas, or add a replica or a place for records (role = \"records\")"
            ));
        }
        if config.keys.trusted_signers.is_empty() && config.keys.owners.is_empty() {
            self.weak.push(format!(
                "dataset {name} is backed up by other hosts, too, and none of their signers is trusted here; add them to trusted_signers"
            ));
        }
        let careless =
            self.replicas.iter().chain(&self.records).filter(|replica| replica.conditional_writes == Some(false));
        let careless: Vec<String> = careless.map(|replica| replica.replica.clone()).collect();
        if !careless.is_empty() {
            self.broken(
                Class::Configuration,
                format!(
                    "dataset {name} cannot have a deputy: {} ignores conditional writes, so two hosts could overwrite each other's acts; leave `hosts` out, or use another store",
                    careless.join(", ")
                ),
            );
        }
    }

    fn judge_datasets(&mut self, config: &Config, now: DateTime<Utc>) {
        for dataset in &config.datasets {
            self.judge_deputies(config, dataset);
            let name = &dataset.name;
            let lacks = match (dataset.objectives.rpo, dataset.objectives.rto) {
                (None, None) => Some("no RPO and no RTO objective: a drill measures, but cannot judge"),
                (None, _) => Some("no RPO objective: a drill measures the recovery point, but cannot judge it"),
                (_, None) => Some("no RTO objective: a drill measures the recovery time, but cannot judge it"),
                (Some(_), Some(_)) => None,
            };
            if let Some(lacks) = lacks {
                self.weak.push(format!("dataset {name} has {lacks}; set objectives"));
            }
            if !backs_up(config) {
                continue;
            }
            if dataset.schedule.is_none() {
                self.weak.push(format!(
                    "dataset {name} has no schedule: it is backed up only when somebody asks; set schedule"
                ));
            }
            if dataset.retention.keeps_everything() {
                self.weak.push(format!("dataset {name} has no retention rule: nothing is ever removed; set retention"));
            }
            if let Some(interval) = dataset.schedule.as_ref().map(|schedule| schedule.expected_interval(now))
                && let Some(kept) = dataset.retention.coarser_than(interval)
            {
                self.weak.push(format!(
                    "dataset {name} is backed up every {}, but its retention keeps no more than {kept}, so a backup soon lets the one before it go; set a finer rule, such as hourly, or within",
                    human::seconds(interval.as_secs_f64())
                ));
            }
            let needed = dataset.source.database().client_tool();
            if let Some(needed) = needed.filter(|needed| self.tools.iter().all(|found| found.tool != needed.tool)) {
                self.broken(
                    Class::Configuration,
                    format!("dataset {name} needs {}, which was not found: {}", needed.tool, needed.remedy),
                );
            }
        }
    }

    /// The first broken thing decides the exit code.
    fn verdict(&self) -> Result<()> {
        let Some(first) = self.broken.first() else { return Ok(()) };
        let more = match self.broken.len() - 1 {
            0 => String::new(),
            more => format!(" (and {more} more)"),
        };
        Err(Error::new(first.error_class, format!("{}{more}", first.what)))
    }
}

impl fmt::Display for Checked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let word = |answer: Option<bool>| match answer {
            Some(true) => "yes".to_owned(),
            Some(false) => "NO".to_owned(),
            None => "-".to_owned(),
        };
        let mut replicas = Plain::new(&[
            "REPLICA",
            "REGION",
            "ANSWERS",
            "VAULT",
            "WRITE",
            "DELETE",
            "CONDITIONAL",
            "VERSIONS",
            "LOCK",
            "LEVEL",
            ">CLOCK",
        ]);
        let records = self.records.iter().map(|check| (check, format!("{} (records)", check.replica)));
        for (check, name) in self.replicas.iter().map(|check| (check, check.replica.clone())).chain(records) {
            replicas.row([
                name,
                check.region.clone(),
                word(Some(check.error.is_none())),
                word(check.has_vault),
                word(check.can_write),
                word(check.can_delete),
                word(check.conditional_writes),
                word(check.versioning),
                word(check.object_lock),
                check.level.clone().unwrap_or_else(|| "-".to_owned()),
                check.clock_skew_seconds.map_or("-".to_owned(), |skew| format!("{skew:+} s")),
            ]);
        }
        write!(f, "{replicas}\n\n")?;
        for check in &self.replicas {
            if let Some(thief) = &check.thief {
                writeln!(f, " {}: {thief}", check.replica)?;
            }
        }
        writeln!(f)?;
        let mut tools = Plain::new(&["TOOL", "VERSION", "PATH"]);
        for tool in &self.tools {
            tools.row([tool.tool.clone(), tool.version.clone(), tool.path.display().to_string()]);
        }
        writeln!(f, "{tools}")?;
        if let Some(root) = &self.root {
            writeln!(f, "\n {root}")?;
        }
        let findings = self.broken.iter().map(|broken| ("BROKEN", &broken.what));
        for (word, what) in findings.chain(self.weak.iter().map(|weak| ("weak", weak))) {
            write!(f, "\n {word}: {}", escape::line(what))?;
        }
        if self.broken.is_empty() && self.weak.is_empty() {
            write!(f, "\n Nothing is broken or weak.")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
