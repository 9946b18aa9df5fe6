//! Notices that a dataset is older than all that tells of it: its manifests, acts and prune records
//! are gone together, and this host may have lost its memory, too. Then no number is missed, and no
//! predecessor. What such a loss leaves are packs, and the index segments of what was committed.
//!
//! - **Before the next backup** not one manifest, act or record is there beside the segments.
//! - **After it** the order begins anew, with a snapshot that follows none, and the segments are
//!   from before it. They are witnesses for as long as no sweep has ever been written down.
//! - **No witness** are packs alone, and segments of one run alone: a first run that was killed
//!   leaves such packs, and such segments if that was in the midst of its commit.

use std::collections::BTreeSet;

use chrono::{DateTime, Utc};
use lifeboat_format::act::ActKind;
use lifeboat_format::id::SnapshotId;
use lifeboat_format::layout;

use crate::catalog::documents::Documents;
use crate::catalog::inventory::Inventory;
use crate::catalog::order::Acts;
use crate::catalog::outlines::{Outline, OutlineMap};
use crate::catalog::unbelieved::Unbelieved;
use crate::catalog::verdict::is_verdict;

/// The key of an object from before the beginning of a dataset of which no prune record is known.
pub(crate) async fn object_before_the_beginning(
    documents: &Documents<'_>,
    inventories: &[Inventory],
    acts: &Acts,
    outlines: &OutlineMap,
) -> Option<String> {
    let is_bare = outlines.is_empty() && acts.found.is_empty();
    if is_bare && inventories.iter().all(|inventory| inventory.unsigned.is_empty()) {
        let segments: BTreeSet<&SnapshotId> = inventories.iter().flat_map(|inventory| &inventory.indexes).collect();
        let oldest = segments.first()?;
        let is_of_several_runs = segments.last().is_some_and(|newest| newest.time() != oldest.time());
        return is_of_several_runs.then(|| layout::index(documents.dataset, oldest));
    }
    let first = &acts.found.get(&1)?.act;
    let begins = |outline: &Outline| first.act == ActKind::Commit && outline.predecessor().is_none();
    outlines.get(&first.id).filter(|outline| begins(outline))?;
    // The segments of one run have the time of its manifest.
    let unsigned = inventories.iter().flat_map(|inventory| &inventory.unsigned);
    let known: BTreeSet<DateTime<Utc>> = outlines.keys().chain(unsigned).map(SnapshotId::time).collect();
    let (mut unbelieved, mut witness) = (Unbelieved::new("an index segment that cannot be read"), None::<SnapshotId>);
    for inventory in inventories {
        let name = inventory.replica.name();
        let older = inventory.indexes.iter().take_while(|segment| segment.time() < first.id.time());
        for segment in older.filter(|segment| !known.contains(&segment.time())) {
            if unbelieved.leaves_aside([name]) {
                break;
            }
            match documents.index(std::slice::from_ref(&inventory.replica), segment).await {
                // Anybody can put objects into a bucket. One that cannot be looked at may be true.
                Err(error) if is_verdict(&error) => unbelieved.add([name], segment, &error),
                Ok(_) | Err(_) => match &witness {
                    Some(other) if other.time() != segment.time() => {
                        return Some(layout::index(documents.dataset, segment.min(other)));
                    }
                    _ => witness = Some(segment.clone()),
                },
            }
        }
    }
    None
}
