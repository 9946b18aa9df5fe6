//! The newest common moment of a group, and what its drill looks for in each member.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use chrono::{DateTime, Utc};
use lifeboat_base::{Class, Error, Result};
use lifeboat_databases::ThrowAway;
use lifeboat_format::id::{Name, SnapshotId};

use super::references::{ComparedFolder, GroupPart, ReferenceResult};
use crate::config::{GroupConfig, GroupReference};
use crate::restore::VaultReader;

/// So many of the newest snapshots of each member are looked at for a common moment.
const MAX_LOOKED_AT_FOR_MOMENT: usize = 64;

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

impl CommonMembers {
    /// The newest common moments of `group`, newest first, at most `most` of them.
    ///
    /// # Errors
    /// The snapshots of a member cannot be listed or opened. A snapshot that is damaged is part of
    /// no moment.
    pub async fn newest(reader: &VaultReader, group: &GroupConfig, most: usize) -> Result<Vec<Self>> {
        let mut listed = Vec::new();
        for member in &group.members {
            let snapshots = reader.snapshots(member).await?;
            listed.push((member, snapshots.into_iter().rev().take(MAX_LOOKED_AT_FOR_MOMENT).collect::<Vec<_>>()));
        }
        let wanted: BTreeSet<&Name> = group.members.iter().collect();
        let mut moments: BTreeMap<SnapshotId, BTreeMap<Name, MemberSnapshot>> = BTreeMap::new();
        for place in 0..MAX_LOOKED_AT_FOR_MOMENT {
            for (member, snapshots) in &listed {
                let Some(one) = snapshots.get(place) else { continue };
                let manifest = match reader.manifest(member, &one.snapshot).await {
                    Ok(manifest) => manifest,
                    Err(error) if matches!(error.class(), Class::Integrity | Class::Keys) => {
                        tracing::warn!(dataset = %member, snapshot = %one.snapshot, "It is part of no moment: {}", error.chain());
                        continue;
                    }
                    Err(error) => return Err(error),
                };
                let Some(told) = manifest.group.filter(|told| told.name == group.name) else { continue };
                // Where the configuration has other members by now, not all of them were there.
                if told.members.iter().collect::<BTreeSet<_>>() != wanted {
                    continue;
                }
                let snapshot = MemberSnapshot { snapshot: one.snapshot.clone(), at: told.at };
                moments.entry(told.moment).or_default().entry((*member).clone()).or_insert(snapshot);
            }
            // A member may have been backed up by itself in between, but not before a newer moment.
            let common = moments.values().filter(|members| members.len() == wanted.len()).count();
            if common >= most {
                break;
            }
        }
        let common = moments.into_iter().rev().filter(|(_, members)| members.len() == wanted.len());
        Ok(common.take(most).map(|(moment, snapshots)| Self { moment, snapshots }).collect())
    }

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
