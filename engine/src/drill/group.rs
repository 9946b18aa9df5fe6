//! The newest common moment of a group, and what its drill looks for in each member.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use chrono::{DateTime, Utc};
use lifeboat_base::{Class, Error, Result};
use lifeboat_databases::ThrowAway;
use lifeboat_format::id::{Name, SnapshotId};
use lifeboat_format::manifest::GroupMoment;

use super::references::{ComparedFolder, GroupPart, ReferenceResult};
use crate::config::{GroupConfig, GroupReference};
use crate::restore::VaultReader;

/// So many manifests are read to find common moments. A group whose members fail for long has many
/// snapshots that belong to none.
const MAX_READ_FOR_MOMENTS: usize = 2000;

/// The snapshot of one member at a moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MemberSnapshot {
    /// Its id.
    pub snapshot: SnapshotId,
    /// When its view begins.
    pub at: DateTime<Utc>,
}

/// A moment of which every member has a snapshot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CommonMembers {
    /// The id of the moment.
    pub moment: SnapshotId,
    /// The snapshots of all members.
    pub snapshots: BTreeMap<Name, MemberSnapshot>,
}

/// Common moments of a group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FoundMoments {
    /// Newest first.
    pub moments: Vec<CommonMembers>,
    /// Where the search ended: of a member, snapshots before this one were not looked at. `None`:
    /// all were, or as many moments were found as were wanted.
    pub ended_before: Option<SnapshotId>,
}

impl FoundMoments {
    /// The newest common moments of `group`, at most `most` of them.
    ///
    /// # Errors
    /// The snapshots of a member cannot be listed or opened. A snapshot that is damaged is part of
    /// no moment.
    pub async fn newest(reader: &VaultReader, group: &GroupConfig, most: usize) -> Result<Self> {
        Self::newest_of(reader, group, most, MAX_READ_FOR_MOMENTS).await
    }

    async fn newest_of(reader: &VaultReader, group: &GroupConfig, most: usize, most_read: usize) -> Result<Self> {
        let mut listed = Vec::new();
        for member in &group.members {
            let snapshots = reader.snapshots(member).await?;
            listed.push((member, snapshots.into_iter().rev().map(|one| one.snapshot).collect::<Vec<_>>()));
        }
        let longest = listed.iter().map(|(_, snapshots)| snapshots.len()).max().unwrap_or(0);
        let (mut found, mut ended_before, mut read) = (GatheredMoments::of(group), None, 0);
        // All members side by side: what they share lies near the same place.
        for place in 0..longest {
            let here: Vec<(&Name, &SnapshotId)> =
                listed.iter().filter_map(|(member, snapshots)| Some((*member, snapshots.get(place)?))).collect();
            if found.count() >= most {
                break;
            }
            if read + here.len() > most_read {
                ended_before = place
                    .checked_sub(1)
                    .and_then(|last| listed.iter().filter_map(|(_, snapshots)| snapshots.get(last)).min().cloned());
                break;
            }
            read += here.len();
            for (member, snapshot) in here {
                match reader.manifest(member, snapshot).await {
                    Ok(manifest) => found.add(member, snapshot, manifest.group),
                    Err(error) if matches!(error.class(), Class::Integrity | Class::Keys) => {
                        tracing::warn!(dataset = %member, %snapshot, "It is part of no moment: {}", error.chain());
                    }
                    Err(error) => return Err(error),
                }
            }
        }
        Ok(Self { moments: found.whole(most), ended_before })
    }
}

/// Snapshots by the moment that they are of.
struct GatheredMoments<'g> {
    group: &'g GroupConfig,
    /// Its members: a snapshot that was taken with others is of no moment of theirs.
    wanted: BTreeSet<&'g Name>,
    moments: BTreeMap<SnapshotId, BTreeMap<Name, MemberSnapshot>>,
}

impl<'g> GatheredMoments<'g> {
    fn of(group: &'g GroupConfig) -> Self {
        Self { group, wanted: group.members.iter().collect(), moments: BTreeMap::new() }
    }

    fn add(&mut self, member: &Name, snapshot: &SnapshotId, told: Option<GroupMoment>) {
        let Some(told) = told.filter(|told| told.name == self.group.name) else { return };
        if told.members.iter().collect::<BTreeSet<_>>() == self.wanted {
            let one = MemberSnapshot { snapshot: snapshot.clone(), at: told.at };
            self.moments.entry(told.moment).or_default().entry(member.clone()).or_insert(one);
        }
    }

    /// How many moments have a snapshot of every member.
    fn count(&self) -> usize {
        self.moments.values().filter(|members| members.len() == self.wanted.len()).count()
    }

    fn whole(self, most: usize) -> Vec<CommonMembers> {
        let wanted = self.wanted.len();
        let whole = self.moments.into_iter().rev().filter(|(_, members)| members.len() == wanted);
        whole.take(most).map(|(moment, snapshots)| CommonMembers { moment, snapshots }).collect()
    }
}

/// Whether these snapshots, one of each member of `group`, are of one moment.
///
/// # Errors
/// One of them cannot be opened.
pub async fn is_one_moment(
    reader: &VaultReader,
    group: &GroupConfig,
    snapshots: &BTreeMap<Name, SnapshotId>,
) -> Result<bool> {
    let mut moments = BTreeSet::new();
    for (member, snapshot) in snapshots {
        let told = reader.manifest(member, snapshot).await?.group.filter(|told| told.name == group.name);
        moments.insert(told.map(|told| told.moment));
    }
    Ok(moments.len() == 1 && !moments.contains(&None))
}

impl CommonMembers {
    /// When the first view begins.
    #[must_use]
    pub fn at(&self) -> DateTime<Utc> {
        self.snapshots.values().map(|one| one.at).min().unwrap_or_else(|| self.moment.time())
    }

    /// How much later the last view begins.
    #[must_use]
    pub fn spread_seconds(&self) -> f64 {
        let last = self.snapshots.values().map(|one| one.at).max().unwrap_or_else(|| self.at());
        (last - self.at()).as_seconds_f64()
    }

    /// What the reports of all members tell.
    #[must_use]
    pub fn part(&self, group: &GroupConfig) -> GroupPart {
        GroupPart {
            name: group.name.clone(),
            moment: self.moment.clone(),
            spread_seconds: self.spread_seconds(),
            references: Vec::new(),
        }
    }
}

/// What the drill of a group looks for in one member, while that is loaded.
#[derive(Debug)]
pub struct AcrossMembers {
    /// What the report tells of the group.
    pub part: GroupPart,
    member: Name,
    /// Whether others refer to its paths.
    lists_paths: bool,
    references: Vec<GroupReference>,
    compared: std::sync::Arc<ComparedFolder>,
}

impl AcrossMembers {
    /// For each member, in the order of the drills: those that others refer to come first. `folder`
    /// holds what is compared.
    #[must_use]
    pub fn all(group: &GroupConfig, part: &GroupPart, folder: &Path) -> Vec<(Name, Self)> {
        let compared = std::sync::Arc::new(ComparedFolder::new(folder));
        let lists_paths = |member: &Name| group.references.iter().any(|reference| reference.to == *member);
        let of = |member: &Name| {
            let references = group.references.iter().filter(|reference| reference.from == *member);
            let across = Self {
                part: part.clone(),
                member: member.clone(),
                lists_paths: lists_paths(member),
                references: references.cloned().collect(),
                compared: compared.clone(),
            };
            (member.clone(), across)
        };
        let (first, then): (Vec<&Name>, Vec<&Name>) = group.members.iter().partition(|member| lists_paths(member));
        first.into_iter().chain(then).map(of).collect()
    }

    /// Looks. What fails does not fail the drill of the member: the reference has failed, whose
    /// result says so.
    pub(super) async fn look(&self, server: &mut dyn ThrowAway, part: &mut GroupPart) {
        if self.lists_paths
            && let Err(error) = self.compared.list_paths(&self.member, server).await
        {
            tracing::warn!(dataset = %self.member, "The paths that others refer to cannot be listed: {}", error.chain());
        }
        for reference in &self.references {
            let found = self.compared.look_for(reference, server).await;
            part.references.push(found.unwrap_or_else(|error| ReferenceResult::unchecked(reference, &error)));
        }
    }

    /// The references of this member that no report tells of, as it was never loaded.
    #[must_use]
    pub fn unchecked(&self, part: Option<&GroupPart>) -> Vec<ReferenceResult> {
        let is_told = |reference: &&GroupReference| {
            part.is_some_and(|part| part.references.iter().any(|told| told.name == reference.name))
        };
        let error = Error::failed(format!("{} was not loaded", self.member));
        let lacking = self.references.iter().filter(|reference| !is_told(reference));
        lacking.map(|reference| ReferenceResult::unchecked(reference, &error)).collect()
    }
}
