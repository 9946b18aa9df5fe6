//! The place of a new snapshot in its dataset: its number, and the snapshot before it.

use lifeboat_base::{Error, Result};
use lifeboat_format::Format;
use lifeboat_format::id::{Digest, SnapshotId};
use lifeboat_format::manifest::{Manifest, Previous};

use crate::catalog::documents::Documents;
use crate::catalog::inventory::{Inventory, all_snapshots};
use crate::catalog::unbelieved::Unbelieved;
use crate::catalog::verdict::{Signed, combine};

/// The place of a new snapshot in its dataset.
pub(super) struct Place {
    /// The snapshot before it.
    pub(super) previous: Option<Previous>,
    pub(super) sequence: u64,
    /// The manifest of the snapshot before it; `None` if it is not understood.
    pub(super) manifest: Option<Manifest>,
}

/// What a look for the place found.
pub(super) enum PlaceFound {
    After(Box<Place>),
    /// This snapshot may be the newest: no replica that shows it returns it whole, and one of them
    /// fails.
    NotNow(SnapshotId, Error),
}

/// What the replicas that show a snapshot say of it.
pub(super) enum Holders {
    /// One returns it as a trusted signer signed it.
    Signed(Box<Place>),
    /// None does, and this one may have it whole.
    Failed(Error),
    /// None has it whole.
    Unreadable(Error),
}

impl Place {
    /// The place after the newest readable snapshot of a trusted signer, with warnings of those
    /// that are unreadable. One that requires what this program does not know has a place, too.
    ///
    /// # Errors
    /// The newest snapshot is of format 1, which is not continued, though `vault.json` says
    /// otherwise.
    pub(super) async fn find(
        documents: &Documents<'_>,
        members: &[Inventory],
        warnings: &mut Vec<String>,
    ) -> Result<PlaceFound> {
        let mut unreadable = Unbelieved::new("a snapshot that cannot be read");
        let mut place = Self { previous: None, sequence: 1, manifest: None };
        for snapshot in all_snapshots(members).into_iter().rev() {
            let holders: Vec<&Inventory> =
                members.iter().filter(|member| member.snapshots.contains(&snapshot)).collect();
            let names = || holders.iter().map(|holder| holder.replica.name());
            if unreadable.leaves_aside(names()) {
                continue;
            }
            match Self::ask(documents, &holders, &snapshot, warnings).await? {
                Holders::Signed(found) => {
                    place = *found;
                    if let Some(longer) = Self::longer_branch(documents, members, &snapshot, &place).await {
                        place = longer;
                    }
                    break;
                }
                // An older one in its place would be a fork.
                Holders::Failed(error) => return Ok(PlaceFound::NotNow(snapshot, error)),
                Holders::Unreadable(error) => unreadable.add(names(), &snapshot, &error),
            }
        }
        warnings.extend(unreadable.warnings("it is not used for deduplication"));
        Ok(PlaceFound::After(Box::new(place)))
    }

    /// If the one that is listed before `newest` is not its predecessor, it may belong to a branch
    /// that is as long or longer: then the place after it.
    async fn longer_branch(
        documents: &Documents<'_>,
        members: &[Inventory],
        newest: &SnapshotId,
        place: &Self,
    ) -> Option<Self> {
        let predecessor = place.manifest.as_ref()?.previous.as_ref().map(|previous| &previous.snapshot);
        let all = all_snapshots(members);
        let other = all.range(..newest).next_back().filter(|other| predecessor != Some(*other))?;
        let holders: Vec<&Inventory> = members.iter().filter(|member| member.snapshots.contains(other)).collect();
        match Self::ask(documents, &holders, other, &mut Vec::new()).await {
            Ok(Holders::Signed(found)) if found.sequence > place.sequence => Some(*found),
            _ => None,
        }
    }

    /// Asks one after the other, because what one returns says nothing of what another holds.
    pub(super) async fn ask(
        documents: &Documents<'_>,
        holders: &[&Inventory],
        snapshot: &SnapshotId,
        warnings: &mut Vec<String>,
    ) -> Result<Holders> {
        let mut errors = Vec::new();
        for holder in holders {
            let replica = std::slice::from_ref(&holder.replica);
            match documents.manifest(replica, snapshot).await {
                Ok((manifest, _)) if manifest.format == Format::One => {
                    return Err(Error::integrity(format!(
                        "snapshot {snapshot} is of format 1, and its vault.json of format 2"
                    ))
                    .hint("put the vault.json of format 1 back, and set a new vault_prefix for new backups"));
                }
                Ok((manifest, hash)) => {
                    let sequence = manifest.sequence;
                    return Ok(Holders::Signed(Box::new(Self::after(snapshot, hash, sequence, Some(manifest)))));
                }
                Err(error) if Signed::of(&error) == Signed::Unknown => errors.push(error),
                Err(error) => match documents.manifest_head(replica, snapshot).await {
                    Ok((head, hash)) => {
                        let Some(word) = head.requires.unknown() else {
                            errors.push(error);
                            continue;
                        };
                        warnings.push(format!(
                            "rows of snapshot {snapshot} are not used for deduplication, because it requires `{word}`: use a newer version of Lifeboat here, too"
                        ));
                        return Ok(Holders::Signed(Box::new(Self::after(snapshot, hash, head.sequence, None))));
                    }
                    Err(failed) if Signed::of(&failed) == Signed::Unknown => errors.push(failed),
                    Err(_) => errors.push(error),
                },
            }
        }
        let (failed, refused): (Vec<_>, Vec<_>) =
            errors.into_iter().partition(|error| Signed::of(error) == Signed::Unknown);
        if failed.is_empty() {
            return Ok(Holders::Unreadable(combine("no replica returns it whole".to_owned(), &refused)));
        }
        let problem = format!("snapshot {snapshot}, which the new one follows, cannot be fetched");
        Ok(Holders::Failed(combine(problem, &failed).hint("back up again when a replica that holds it answers")))
    }

    fn after(snapshot: &SnapshotId, hash: Digest, sequence: u64, manifest: Option<Manifest>) -> Self {
        let previous = Previous { snapshot: snapshot.clone(), blake3: Some(hash) };
        Self { previous: Some(previous), sequence: sequence.saturating_add(1), manifest }
    }
}
