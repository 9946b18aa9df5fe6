//! `list --group`: the common moments of a group, with the snapshot of each member.

use std::collections::BTreeMap;
use std::fmt;

use chrono::{DateTime, Utc};
use lifeboat_engine::Result;
use lifeboat_engine::config::Config;
use lifeboat_engine::drill::{CommonMembers, FoundMoments};
use lifeboat_engine::format::id::{Name, SnapshotId};
use lifeboat_engine::restore::VaultReader;
use serde::Serialize;

use super::drill::{group_of, no_moment};
use crate::human;
use crate::session::Session;
use crate::table::Plain;

/// No more of the newest moments are told.
const MAX_LISTED_MOMENTS: usize = 16;

#[derive(Serialize)]
struct ListedMoments {
    group: Name,
    /// Newest first.
    moments: Vec<ListedMoment>,
    /// Snapshots before this one were not looked at. `None`: all were, or there are enough moments.
    #[serde(skip_serializing_if = "Option::is_none")]
    ended_before: Option<SnapshotId>,
}

#[derive(Serialize)]
struct ListedMoment {
    moment: SnapshotId,
    /// When the first view of a member begins.
    at: DateTime<Utc>,
    spread_seconds: f64,
    snapshots: BTreeMap<Name, SnapshotId>,
}

pub(super) async fn run(name: &Name, config: &Config, reader: &VaultReader, session: &Session) -> Result<()> {
    let group = group_of(config, name)?;
    let newest = FoundMoments::newest(reader, group, MAX_LISTED_MOMENTS);
    let FoundMoments { moments, ended_before } = session.cancellable("looking for common moments", newest).await?;
    let moment = |common: CommonMembers| ListedMoment {
        at: common.at(),
        spread_seconds: common.spread_seconds(),
        moment: common.moment,
        snapshots: common.snapshots.into_iter().map(|(member, one)| (member, one.snapshot)).collect(),
    };
    let moments = moments.into_iter().map(moment).collect();
    session.out.result(&ListedMoments { group: group.name.clone(), moments, ended_before })
}

impl fmt::Display for ListedMoments {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.moments.is_empty() {
            let none = no_moment(&self.group, self.ended_before.as_ref());
            return write!(f, "{}.", none.replacen('n', "N", 1));
        }
        let mut table = Plain::new(&["AT", ">WITHIN", "DATASET", "SNAPSHOT"]);
        for one in &self.moments {
            let (mut at, mut spread) = (human::time(one.at), human::seconds(one.spread_seconds));
            for (member, snapshot) in &one.snapshots {
                let (at, spread) = (std::mem::take(&mut at), std::mem::take(&mut spread));
                table.row([at, spread, member.to_string(), snapshot.to_string()]);
            }
        }
        write!(f, "{table}")?;
        match &self.ended_before {
            Some(snapshot) => write!(f, "\n\nSnapshots before {} were not looked at.", human::time(snapshot.time())),
            None => Ok(()),
        }
    }
}
