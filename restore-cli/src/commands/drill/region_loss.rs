//! `drill --region-loss REGION`: restores everything as if all replicas of a region were gone, in
//! the order and so many at once as the configuration says, and tells what that would have meant.
//!
//! - **Gone**: no replica of the region is opened, and none is read through an address of it: what
//!   shares one with it would be gone, too, so that is refused.
//! - **Failure**: what comes after a dataset that could not be restored is not restored either, and
//!   says so. All others are.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use futures::stream::{FuturesUnordered, StreamExt};
use lifeboat_engine::base::Context;
use lifeboat_engine::config::{Config, PlaceInRecovery};
use lifeboat_engine::drill::RecoveryOrder;
use lifeboat_engine::format::id::Name;
use lifeboat_engine::state::{StateDirectory, replace_file};
use lifeboat_engine::{Class, Error, Result};

use super::due::{is_granted, worse};
use super::loss::{RegionLoss, Tried, told};
use super::lost_region::LostRegion;
use super::one::{OneDrill, write_signed};
use super::{Args, loss_page};
use crate::access::{self, Need};
use crate::human;
use crate::session::Session;

pub(super) async fn run(args: &Args, region: &str, session: &Session) -> Result<()> {
    if session.globals.replica.is_some() {
        return Err(Error::usage("a rehearsal reads every replica outside the region").hint("leave --replica out"));
    }
    let config = session.configuration()?;
    let (lost, replicas_lost) = LostRegion::of(region, &config).await?;
    let state = StateDirectory::open_for_writing(&config.state_directory)?;
    let Some(_lock) = state.try_lock_drills()? else {
        return Err(Error::failed("scheduled drills or another rehearsal are running").hint("wait until they end"));
    };
    let started = session.clock.now();
    let order = order(args, &config, &lost, session).await?;
    session.out.note(format!(
        "restoring {} as if region {region} were gone: {} at once, from {}",
        human::count(order.datasets().count() as u64, "dataset"),
        order.at_once(),
        lost.left.iter().map(Name::as_str).collect::<Vec<_>>().join(", ")
    ));
    let tried = Box::pin(restore_all(args, session, &lost, &order)).await;
    let told = told(region, replicas_lost, &lost, (&config, &order), &tried, (started, session.clock.now()));
    if let Some(file) = &args.report {
        keep(file, &told, &config)?;
    }
    if let Some(file) = &args.html {
        replace_file(&absolute(file)?, loss_page::page(&told, session.clock.now()).as_bytes())?;
    }
    let shown = session.out.result(&told);
    let missed = told.datasets.iter().any(|dataset| !dataset.objectives_missed.is_empty());
    let worst = tried.into_values().fold(None, |worst, tried| worse(worst, tried.error));
    match worst {
        Some(worst) if worst.class() != Class::ObjectiveMissed => {
            let what = format!("not everything can be restored without region {region}");
            Err(Error::new(worst.class(), what).because(worst.chain()).hint("what each drill found is told above"))
        }
        _ if missed => {
            Err(Error::new(Class::ObjectiveMissed, format!("without region {region}, objectives are missed"))
                .hint("the end of the report says what would shorten it"))
        }
        _ => shown,
    }
}

fn absolute(file: &Path) -> Result<PathBuf> {
    std::path::absolute(file).context(Class::Storage, || format!("cannot make the path {} absolute", file.display()))
}

/// Writes the report as JSON, signed if this host has a drill signer.
fn keep(file: &Path, told: &RegionLoss, config: &Config) -> Result<()> {
    let json = serde_json::to_vec_pretty(told).map_err(|error| Error::failed("cannot write JSON").because(error))?;
    let comment = format!("lifeboat rehearsal of the loss of region {} at {}", told.region, told.started.to_rfc3339());
    write_signed(&absolute(file)?, &json, &comment, access::drill_signer(config)?.as_ref())
}

/// Everything that this host may drill, in the order of the configuration.
async fn order(args: &Args, config: &Config, lost: &LostRegion, session: &Session) -> Result<RecoveryOrder> {
    let reader = session.reader(&session.place()?.narrowed(&lost.left), Need::Manifests).await?;
    let signer = access::drill_signer(config)?.map(|signer| signer.public());
    let known = session.cancellable("listing the vault", reader.datasets()).await?;
    let mut steps: BTreeMap<Name, _> =
        config.datasets.iter().map(|dataset| (dataset.name.clone(), dataset.recovery.clone())).collect();
    for dataset in known {
        if !steps.contains_key(&dataset) && is_granted(&reader, signer.as_ref(), &dataset) {
            steps.insert(dataset, PlaceInRecovery::default());
        }
    }
    if !args.datasets.is_empty() {
        if let Some(unknown) = args.datasets.iter().find(|name| !steps.contains_key(*name)) {
            return Err(Error::usage(format!("neither the vault nor the configuration has a dataset {unknown}")));
        }
        steps.retain(|name, _| args.datasets.contains(name));
    }
    if steps.is_empty() {
        return Err(Error::usage("there is no dataset to restore").hint("back up first"));
    }
    Ok(RecoveryOrder::new(steps, config.recovery_at_once))
}

async fn restore_all(
    args: &Args,
    session: &Session,
    lost: &LostRegion,
    order: &RecoveryOrder,
) -> BTreeMap<Name, Tried> {
    let (mut begun, mut ended) = (BTreeSet::new(), BTreeSet::new());
    let (mut tried, mut running) = (BTreeMap::<Name, Tried>::new(), FuturesUnordered::new());
    loop {
        while let Some(next) = order.next(&begun, &ended).cloned() {
            begun.insert(next.clone());
            let failed = order.before(&next).find(|other| tried.get(*other).is_some_and(|tried| !tried.is_restored()));
            if let Some(other) = failed {
                let error = Error::failed(format!("it comes after {other}, which could not be restored"));
                tried.insert(next.clone(), Tried { drilled: None, error: Some(error) });
                ended.insert(next);
                continue;
            }
            session.out.note(format!("restoring {next}"));
            running.push(async move {
                let drill = OneDrill {
                    args,
                    session,
                    dataset: &next,
                    textfile: None,
                    is_scheduled: false,
                    without: Some(lost),
                };
                let (drilled, error) = Box::pin(drill.run()).await;
                (next, Tried { drilled, error })
            });
        }
        let Some((dataset, one)) = running.next().await else { return tried };
        if let Some(error) = &one.error {
            session.out.warning(format!("the drill of {dataset}: {}", error.chain_and_hint()));
        }
        ended.insert(dataset.clone());
        tried.insert(dataset, one);
    }
}
