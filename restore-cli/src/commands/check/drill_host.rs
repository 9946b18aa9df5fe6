//! Whether this drill host could drill: its identity opens the newest snapshots, a server of their
//! version can start, there is room, and the proof can be written where prune looks for it.
//!
//! What is tried is one object at a fixed key below `drills/`, which looks like a report whose
//! upload was cut off: readers pass it over. It is deleted where this host may delete. The right to
//! write the log is not tried: an object that is no record would stay there, and a drill without
//! that right stops before it decrypts, and says so.

use std::collections::BTreeSet;

use lifeboat_engine::config::{Config, DrillConfig, ReplicaConfig, ReplicaKind};
use lifeboat_engine::databases::streams::StoredStreams;
use lifeboat_engine::databases::{WorkContext, registry};
use lifeboat_engine::drill::needed_disk;
use lifeboat_engine::format::id::{Name, SnapshotId};
use lifeboat_engine::format::layout;
use lifeboat_engine::restore::{Selector, VaultReader};
use lifeboat_engine::state::StateDirectory;
use lifeboat_engine::store::{ReplicaErrorKind, SharedReplica};
use lifeboat_engine::worker::disk;
use lifeboat_engine::{Error, Result};

use super::{Checked, TOOL_ANSWER};
use crate::access::Need;
use crate::human;
use crate::session::{Place, Session};

/// The id of the report that is tried: none was ever made in 1970.
const TRIED_REPORT: &str = "19700101T000000000Z-00000000";

/// Tries what a drill needs, for each dataset that the configuration names, or that the vault has.
///
/// # Errors
/// The check was cancelled.
pub(super) async fn check(checked: &mut Checked, place: &Place, config: &Config, session: &Session) -> Result<()> {
    if let Err(error) = session.scratch() {
        checked.broken(error.class(), format!("no drill works: {}", error.chain_and_hint()));
    }
    let reader = match session.reader(place, Need::Packs).await {
        Err(error) if session.cancel.is_cancelled() => return Err(error),
        Err(error) => {
            checked.broken(error.class(), error.chain_and_hint());
            return Ok(());
        }
        Ok(reader) => reader,
    };
    // A folder that root makes in a directory would keep the drill's own user out.
    let is_others = config.state_directory.exists()
        && StateDirectory::open(&config.state_directory).is_ok_and(|state| state.is_of_another_user());
    let is_directory = |replica: &&ReplicaConfig| is_others && matches!(replica.kind, ReplicaKind::Directory { .. });
    let left_alone: BTreeSet<&Name> = place.replicas.iter().filter(is_directory).map(|replica| &replica.name).collect();
    let buckets = place.replicas.iter().filter(|replica| matches!(replica.kind, ReplicaKind::S3(_)));
    let buckets: BTreeSet<&Name> = buckets.map(|replica| &replica.name).collect();
    let (is_bucket, mut warned) = (|replica: &Name| buckets.contains(replica), BTreeSet::new());
    let named: Vec<Name> = config.datasets.iter().map(|dataset| dataset.name.clone()).collect();
    let datasets = if named.is_empty() { all(checked, &reader, session).await? } else { named };
    for dataset in &datasets {
        let drilled = could_drill(&reader, dataset, config.drill_of(dataset), session);
        if let Err(error) = session.cancellable("the check of the drill", async { Ok(drilled.await) }).await? {
            checked.broken(error.class(), format!("dataset {dataset} cannot be drilled: {}", error.chain_and_hint()));
        }
        let writes = async { Ok(may_write(&reader, dataset, &left_alone).await) };
        for TriedReport { replica, refused, deletes } in session.cancellable("the check of drills/", writes).await? {
            if deletes && is_bucket(&replica) && warned.insert(replica.clone()) {
                checked.weak.push(format!(
                    "replica {replica} lets this host delete: who steals a drill host could hide backups there; give it the rights of drill-host-policy.json and no more"
                ));
            }
            let Some(why) = refused else { continue };
            checked.weak.push(format!(
                "replica {replica} takes no report below {}: prune does not learn there which snapshot is proved; allow this host's credentials to write datasets/*/drills/* ({})",
                layout::drills(dataset),
                human::without_name(&replica, &why)
            ));
        }
    }
    Ok(())
}

/// Every dataset of the vault. What hinders this look hides what it would have found.
async fn all(checked: &mut Checked, reader: &VaultReader, session: &Session) -> Result<Vec<Name>> {
    let listed = session.cancellable("listing the vault", async { Ok(reader.datasets().await) }).await?;
    match listed {
        Err(error) => {
            checked.broken(error.class(), error.chain_and_hint());
            Ok(Vec::new())
        }
        Ok(datasets) => {
            if datasets.is_empty() {
                checked
                    .weak
                    .push("the vault has no dataset yet, so it was not tried whether this host can drill".to_owned());
            }
            Ok(datasets)
        }
    }
}

async fn could_drill(reader: &VaultReader, dataset: &Name, settings: &DrillConfig, session: &Session) -> Result<()> {
    let snapshot = reader.select(dataset, &Selector::Latest, session.clock.now()).await?;
    let streams = reader.streams(dataset, &snapshot).await?;
    let cx = WorkContext {
        scratch: session.temporary.clone(),
        stall: TOOL_ANSWER,
        jobs: 1,
        environment: session.tools.clone(),
        cancel: session.cancel.clone(),
    };
    let engine = registry::find(&streams.facts().engine);
    let engine = engine.ok_or_else(|| {
        Error::configuration(format!("this version knows no sources of kind {}", streams.facts().engine))
            .hint("install the version that the backup host runs")
    })?;
    engine.has_server_programs(streams.facts(), &settings.server_directories, &cx).await?;
    let level = settings.level.unwrap_or_else(|| settings.highest_level(engine));
    let needed = needed_disk(settings, Some(engine), streams.manifest().length(), level)?;
    disk::require(&session.temporary, needed)
}

/// What came of a report that was tried.
struct TriedReport {
    replica: Name,
    /// Why the replica refuses it, if it does.
    refused: Option<String>,
    /// Whether it was deleted again.
    deletes: bool,
}

/// Tries a report in each replica.
async fn may_write(reader: &VaultReader, dataset: &Name, left_alone: &BTreeSet<&Name>) -> Vec<TriedReport> {
    let Ok(id) = TRIED_REPORT.parse::<SnapshotId>() else { return Vec::new() };
    let key = layout::drill(dataset, &id);
    let tried = reader.replicas().iter().filter(|replica| !left_alone.contains(replica.name())).map(
        async |replica: &SharedReplica| {
            let text = "Lifeboat has tried whether drill reports can be written here; this object can be deleted.\n";
            let refused = match replica.put_new(&key, text.into()).await {
                Ok(()) => None,
                Err(error) if matches!(error.kind, ReplicaErrorKind::AlreadyExists) => None,
                Err(error) => Some(Error::from(error).chain()),
            };
            let deletes = replica.delete(&key).await.is_ok();
            TriedReport { replica: replica.name().clone(), refused, deletes }
        },
    );
    futures::future::join_all(tried).await
}
