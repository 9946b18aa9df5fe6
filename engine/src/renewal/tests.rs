use std::collections::BTreeSet;

use chrono::DateTime;
use lifeboat_base::Result;
use lifeboat_base::facts::SourceFacts;
use lifeboat_format::Format;
use lifeboat_format::extents::Extent;
use lifeboat_format::id::{Digest, PackId};
use lifeboat_format::manifest::{Accounting, Manifest, PackRef};
use lifeboat_format::requirements::Requirements;

use super::scatter::{Scatter, ScatteredStretch, keep_within};
use super::sparse::budget_beside;

pub(super) const MIB: u64 = 1 << 20;

fn id(pack: u8) -> PackId {
    Digest::of(&[pack])
}

pub(super) fn ids(packs: &[u8]) -> BTreeSet<PackId> {
    packs.iter().map(|pack| id(*pack)).collect()
}

/// A snapshot of so many MiB that needs so many MiB of each of these packs. Each pack has 40 MiB of
/// content in 10 MiB of ciphertext.
pub(super) fn snapshot(raw: u64, needs: &[(u8, u64)]) -> Result<Manifest> {
    let pack = |pack: u8| PackRef { id: id(pack), size: 10 * MIB, content: 40 * MIB, generation: 1 };
    let packs = needs.iter().map(|(number, _)| pack(*number)).collect();
    Ok(Manifest {
        format: Format::Two,
        requires: Requirements::default(),
        vault: "v".to_owned(),
        dataset: "shop".parse()?,
        snapshot: "20261123T183244123Z-9f2c81aa".parse()?,
        sequence: 1,
        previous: None,
        host: "db1".parse()?,
        started: DateTime::UNIX_EPOCH,
        finished: DateTime::UNIX_EPOCH,
        group: None,
        source: SourceFacts::default(),
        packs,
        streams: Vec::new(),
        accounting: Accounting {
            unused: needs.iter().map(|(_, needed)| (40 - needed) * MIB).collect(),
            raw_bytes: raw * MIB,
            ..Accounting::default()
        },
    })
}

/// The stretch that is due of a stream that has so many MiB, each in so many packs.
fn stretch(mib: u64, packs: u64) -> Option<ScatteredStretch> {
    let mut scatter = Scatter::new(mib * MIB);
    let extent = |n| Extent { pack: (n % packs) as u32, offset: 0, length: MIB / packs };
    (0..mib * packs).for_each(|n| scatter.add(&extent(n)));
    scatter.stretch()
}

/// How many MiB of each stream a run stores again, if so many MiB of a pack are due.
fn renewed(due: u64, streams: &[(u64, u64)]) -> Result<Vec<u64>> {
    let newest = snapshot(streams.iter().map(|(mib, _)| mib).sum(), &[(1, due), (2, 40)])?;
    let mut stretches: Vec<_> = streams.iter().map(|(mib, packs)| stretch(*mib, *packs)).collect();
    keep_within(budget_beside(&ids(&[1, 3]), &newest), &mut stretches);
    let length = |stretch: &ScatteredStretch| (stretch.bytes.end - stretch.bytes.start) / MIB;
    Ok(stretches.iter().map(|stretch| stretch.as_ref().map_or(0, length)).collect())
}

#[test]
fn a_stretch_may_take_the_whole_budget_if_nothing_else_is_due() -> Result<()> {
    assert_eq!(renewed(0, &[(64, 64)])?, [16]);
    assert_eq!(renewed(0, &[(1024, 64)])?, [32], "a 32nd");
    assert_eq!(renewed(0, &[(1100, 64), (1, 1)])?, [34, 0], "a 32nd of 1100 MiB is 34.4 MiB");
    assert_eq!(renewed(0, &[(1024, 1)])?, [0], "not scattered");
    Ok(())
}

#[test]
fn sparse_packs_come_first_and_what_they_leave_goes_to_stretches() -> Result<()> {
    let streams = [(1024, 64), (640, 128), (512, 256)];
    assert_eq!(renewed(0, &streams)?, [32, 20, 16], "68 MiB in all");
    assert_eq!(renewed(1, &streams)?, [0, 20, 16], "there is no room for the least scattered one");
    assert_eq!(renewed(32, &streams)?, [0, 20, 16], "there is room for just the others");
    assert_eq!(renewed(33, &streams)?, [0, 0, 16]);
    Ok(())
}

#[test]
fn the_most_scattered_streams_come_first_and_no_run_renews_all_of_them() -> Result<()> {
    let tables = [(16, 64), (16, 256), (16, 128)];
    assert_eq!(renewed(0, &tables)?, [0, 16, 0]);
    assert_eq!(renewed(17, &tables)?, [0, 0, 0], "more is due than the budget allows");
    let tables = [(6, 64), (12, 256), (4, 128)];
    assert_eq!(renewed(0, &tables)?, [0, 12, 4]);
    assert_eq!(renewed(6, &tables)?, [6, 0, 4], "what is shorter may still fit");
    assert_eq!(renewed(12, &tables)?, [0, 0, 4]);
    Ok(())
}
