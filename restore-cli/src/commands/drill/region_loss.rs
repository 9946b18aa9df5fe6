//! `drill --region-loss REGION`: restores everything as if all replicas of a region were gone, in
//! the order and so many at once as the configuration says, and tells what that would have meant.
//!
//! - **Gone**: nothing is restored from a replica of the region, and none is read through an
//!   address of it: what shares one with it would be gone, too, so that is refused. Before the
//!   first restore, the region is asked for the names of datasets: what it alone has must not be
//!   overlooked.
//! - **Failure**: what comes after a dataset that could not be restored is not restored either, and
//!   says so. All others are.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use futures::stream::{FuturesUnordered, StreamExt};
use lifeboat_engine::config::{Config, PlaceInRecovery};
use lifeboat_engine::drill::{RecoveryOrder, is_one_moment};
use lifeboat_engine::format::id::Name;
use lifeboat_engine::state::{StateDirectory, place_for, replace_file};
use lifeboat_engine::{Class, Error, Result};

use super::grants::Grants;
use super::loss::{RegionLoss, Tried, told};
use super::lost_region::LostRegion;
use super::one::{OneDrill, write_signed};
use super::worst::worse;
use super::{Args, loss_page};
use crate::access::{self, Need};
use crate::human;
use crate::session::Session;

pub(super) async fn run(args: &Args, region: &str, session: &Session) -> Result<()> {
    if session.globals.replica.is_some() {
        return Err(Error::usage("a rehearsal reads every replica outside the region").hint("leave --replica out"));
    }
    let config = session.configuration()?;
    let lost = LostRegion::of(region, session.clock.now(), &config).await?;
    // Hours later would be too late to find out that one cannot be written.
    let report = args.report.as_deref().map(place_for).transpose()?;
    let page = args.html.as_deref().map(place_for).transpose()?;
    let state = StateDirectory::open_for_writing(&config.state_directory)?;
    let Some(_lock) = state.try_lock_drills()? else {
        return Err(Error::failed("scheduled drills or another rehearsal are running").hint("wait until they end"));
    };
    let Rehearsed { order, left_out, gaps } = order(args, &config, &lost, session).await?;
    gaps.iter().for_each(|gap| session.out.warning(gap));
    session.out.note(format!(
        "restoring {} as if region {region} were gone: {} at once, from {}",
        human::count(order.datasets().count() as u64, "dataset"),
        order.at_once(),
        lost.left.iter().map(Name::as_str).collect::<Vec<_>>().join(", ")
    ));
    let tried = Box::pin(restore_all(args, session, &lost, &order)).await;
    if session.cancel.is_cancelled() {
        return Err(Error::failed("the rehearsal was cancelled: what it did not come to is not known"));
    }
    let apart = apart(&config, &lost, &tried, session).await;
    let told = told(&lost, (&config, &order), (left_out, gaps, apart), &tried, session.clock.now());
    let shown = session.out.result(&told);
    let written = report
        .map_or(Ok(()), |file| keep(&file, &told, &config))
        .and(page.map_or(Ok(()), |file| replace_file(&file, loss_page::page(&told, session.clock.now()).as_bytes())));
    let is_restored = told.is_restored();
    let worst = tried.into_values().fold(None, |worst, tried| worse(worst, tried.error));
    let found = match worst.filter(|worst| worst.class() != Class::ObjectiveMissed) {
        Some(worst) => {
            let what = match is_restored {
                true => format!("everything can be restored without region {region}, but not all of it was told"),
                false => format!("not everything can be restored without region {region}"),
            };
            // The command line asked for nothing that a drill could not find.
            let class = if worst.class() == Class::Usage { Class::Failed } else { worst.class() };
            Err(Error::new(class, what).because(worst.chain()).hint("what each drill found is told above"))
        }
        None => Ok(()),
    };
    let missed = match told.is_missed() {
        true => Err(Error::new(Class::ObjectiveMissed, format!("without region {region}, objectives are missed"))
            .hint("the end of the report says what would shorten it")),
        false => Ok(()),
    };
    found.and(written).and(missed).and(shown)
}

/// Writes the report as JSON, signed if this host has a drill signer.
fn keep(file: &Path, told: &RegionLoss, config: &Config) -> Result<()> {
    let json = serde_json::to_vec_pretty(told).map_err(|error| Error::failed("cannot write JSON").because(error))?;
    let comment = format!("lifeboat rehearsal of the loss of region {} at {}", told.region, told.started.to_rfc3339());
    write_signed(file, &json, &comment, access::drill_signer(config)?.as_ref())
}

/// What is rehearsed, and what is not.
struct Rehearsed {
    order: RecoveryOrder,
    left_out: Vec<Name>,
    gaps: Vec<String>,
}

/// Everything that this host may drill, in the order of the configuration. Names are listed in all
/// regions, the lost one included, as they are before the loss: what was never stored elsewhere
/// must not be overlooked.
async fn order(args: &Args, config: &Config, lost: &LostRegion, session: &Session) -> Result<Rehearsed> {
    let reader = session.reader(&session.place()?, Need::Manifests).await?;
    let gone = lost.lost.iter().filter(|name| reader.unreachable().contains_key(*name));
    let gaps = gone.map(|name| format!("replica {name} does not answer, so what it alone has is not known")).collect();
    let grants = Grants::of_this_host(args, config, &reader)?;
    let known = session.cancellable("listing the vault", reader.datasets()).await?;
    let mut steps: BTreeMap<Name, PlaceInRecovery> =
        config.datasets.iter().map(|dataset| (dataset.name.clone(), dataset.recovery.clone())).collect();
    let mut left_out = Vec::new();
    for dataset in known {
        if steps.contains_key(&dataset) {
            continue;
        }
        match grants.cover(&dataset) {
            true => drop(steps.insert(dataset, PlaceInRecovery::default())),
            false => left_out.push(dataset),
        }
    }
    if steps.is_empty() {
        return Err(Error::failed("there is no dataset to restore").hint("back up first"));
    }
    if !args.datasets.is_empty() {
        let mut wanted: BTreeSet<Name> = BTreeSet::new();
        let mut asked: Vec<Name> = args.datasets.clone();
        while let Some(name) = asked.pop() {
            let Some(place) = steps.get(&name) else {
                let has = steps.keys().map(Name::as_str).collect::<Vec<_>>().join(", ");
                return Err(Error::usage(format!("neither the vault nor the configuration has a dataset {name}"))
                    .hint(format!("they have: {has}")));
            };
            asked.extend(place.after.iter().filter(|other| !wanted.contains(*other)).cloned());
            wanted.insert(name);
        }
        left_out.extend(steps.keys().filter(|name| !wanted.contains(*name)).cloned());
        steps.retain(|name, _| wanted.contains(name));
    }
    left_out.sort();
    Ok(Rehearsed { order: RecoveryOrder::new(steps, config.recovery_at_once), left_out, gaps })
}

/// Groups whose members were all restored, and not as of one moment: each by itself is restored as
/// its newest snapshot.
async fn apart(config: &Config, lost: &LostRegion, tried: &BTreeMap<Name, Tried>, session: &Session) -> Vec<Name> {
    let snapshot = |member: &Name| {
        let report = &tried.get(member).filter(|tried| tried.is_restored())?.drilled.as_ref()?.report;
        Some((member.clone(), report.snapshot.clone()?))
    };
    let mut apart = Vec::new();
    for group in &config.groups {
        let Some(snapshots) = group.members.iter().map(snapshot).collect::<Option<BTreeMap<_, _>>>() else { continue };
        let looked = async {
            let reader = session.reader(&session.place()?.narrowed(&lost.left), Need::Manifests).await?;
            is_one_moment(&reader, group, &snapshots).await
        };
        match session.cancellable("comparing the moments of a group", looked).await {
            Ok(true) => {}
            Ok(false) => apart.push(group.name.clone()),
            Err(error) => {
                session.out.warning(format!(
                    "the moments of group {} cannot be compared: {}",
                    group.name,
                    error.chain()
                ));
                apart.push(group.name.clone());
            }
        }
    }
    apart
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
        while let Some(next) = order.next(&begun, &ended).filter(|_| !session.cancel.is_cancelled()).cloned() {
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
                    of_group: None,
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
