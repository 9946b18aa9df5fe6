//! The place of a new snapshot in its dataset: its number, and the snapshot before it.

use lifeboat_base::{Class, Error, Result};
use lifeboat_format::Format;
use lifeboat_format::id::{Digest, SnapshotId};
use lifeboat_format::manifest::{Manifest, Previous};
use lifeboat_store::SharedReplica;

use crate::catalog::documents::Documents;
use crate::catalog::inventory::{Inventory, all_snapshots};

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
    /// This snapshot is the newest, and no replica that shows it gives it now.
    NotNow(SnapshotId, Error),
}

impl Place {
    /// The place after the newest readable snapshot of a trusted signer, with a warning for each
    /// unreadable one. One that requires what this program does not know has a place, too.
    ///
    /// # Errors
    /// The newest snapshot is of format 1, which is not continued, though `vault.json` says
    /// otherwise.
    pub(super) async fn find(
        documents: &Documents<'_>,
        members: &[Inventory],
        warnings: &mut Vec<String>,
    ) -> Result<PlaceFound> {
        let replicas: Vec<SharedReplica> = members.iter().map(|member| member.replica.clone()).collect();
        for snapshot in all_snapshots(members).into_iter().rev() {
            let error = match documents.manifest(&replicas, &snapshot).await {
                Ok((manifest, _)) if manifest.format == Format::One => {
                    return Err(Error::integrity(format!(
                        "snapshot {snapshot} is of format 1, and its vault.json of format 2"
                    ))
                    .hint("put the vault.json of format 1 back, and set a new vault_prefix for new backups"));
                }
                Ok((manifest, hash)) => {
                    return Ok(PlaceFound::After(Box::new(Self::after(
                        &snapshot,
                        hash,
                        manifest.sequence,
                        Some(manifest),
                    ))));
                }
                // It is there, and only cannot be reached: an older one in its place would be a
                // fork.
                Err(error) if error.class() == Class::Storage => {
                    let problem = format!("snapshot {snapshot}, which the new one follows, cannot be fetched");
                    let error = error.within(problem).hint("back up again when a replica that holds it answers");
                    return Ok(PlaceFound::NotNow(snapshot, error));
                }
                Err(error) => error.chain(),
            };
            if let Ok((head, hash)) = documents.manifest_head(&replicas, &snapshot).await
                && let Some(word) = head.requires.unknown()
            {
                warnings.push(format!(
                    "rows of snapshot {snapshot} are not used for deduplication, because it requires `{word}`: use a newer version of Lifeboat here, too"
                ));
                return Ok(PlaceFound::After(Box::new(Self::after(&snapshot, hash, head.sequence, None))));
            }
            warnings.push(format!("snapshot {snapshot} is unreadable and will not be used for deduplication: {error}"));
        }
        Ok(PlaceFound::After(Box::new(Self { previous: None, sequence: 1, manifest: None })))
    }

    fn after(snapshot: &SnapshotId, hash: Digest, sequence: u64, manifest: Option<Manifest>) -> Self {
        let previous = Previous { snapshot: snapshot.clone(), blake3: Some(hash) };
        Self { previous: Some(previous), sequence: sequence.saturating_add(1), manifest }
    }
}
