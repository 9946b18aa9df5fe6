use std::collections::BTreeMap;

use chrono::TimeDelta;
use lifeboat_base::facts::SourceFacts;
use lifeboat_format::Format;
use lifeboat_format::id::PackId;
use lifeboat_format::manifest::Accounting;
use lifeboat_format::requirements::Requirements;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use super::*;

const MIB: u64 = 1 << 20;
const STORED: StoredAs = StoredAs { hash: Digest([7; 32]), bytes: 1000 };

fn pack(number: u64) -> PackRef {
    let generation = if number.is_multiple_of(50) { 2 } else { 1 };
    PackRef { id: PackId::of(&number.to_le_bytes()), size: 1000 + number, content: MIB, generation }
}

/// A snapshot of this hour that names these packs, each with its unused bytes.
fn manifest(hour: i64, packs: &BTreeMap<u64, u64>) -> Result<Manifest> {
    let time = DateTime::UNIX_EPOCH + TimeDelta::hours(hour);
    Ok(Manifest {
        format: Format::Two,
        requires: Requirements::default(),
        vault: "v".to_owned(),
        dataset: "shop".parse()?,
        snapshot: SnapshotId::new(time, 7),
        sequence: 1 + hour as u64,
        previous: None,
        host: "db1".parse()?,
        started: time + TimeDelta::nanoseconds(hour * 3),
        finished: time,
        group: None,
        source: SourceFacts::default(),
        packs: packs.keys().rev().map(|number| pack(*number)).collect(),
        streams: Vec::new(),
        accounting: Accounting { unused: packs.values().rev().copied().collect(), ..Accounting::default() },
    })
}

/// Snapshots that differ from each other by some packs, and now and then by nearly all.
fn chain(seed: u64, count: i64) -> Result<Vec<Manifest>> {
    let (mut rng, mut packs) = (StdRng::seed_from_u64(seed), BTreeMap::new());
    let mut found = Vec::new();
    for hour in 0..count {
        let kept = if rng.random_bool(0.1) { 0.1 } else { 0.95 };
        packs.retain(|_, _| rng.random_bool(kept));
        for _ in 0..rng.random_range(0..20) {
            packs.insert(rng.random_range(0..200), if rng.random_bool(0.5) { 0 } else { rng.random_range(0..2 * MIB) });
        }
        found.push(manifest(hour, &packs)?);
    }
    Ok(found)
}

fn outlines(manifests: &[Manifest]) -> Result<Outlines> {
    let mut outlines = Outlines::default();
    for manifest in manifests {
        outlines.insert(manifest, STORED)?;
    }
    Ok(outlines)
}

/// The same of each snapshot, by its manifest and by its outline.
fn check(outlines: &Outlines, manifests: &[Manifest]) {
    let mut walk = outlines.walk();
    for manifest in manifests {
        let outline = walk.step().map(|outline| Outline::clone(outline));
        assert_eq!(
            outline.map(|outline| (outline.snapshot, outline.started)),
            Some((manifest.snapshot.clone(), manifest.started))
        );
        let named: BTreeMap<PackId, (PackRef, u64)> =
            manifest.packs_and_unused().map(|(pack, unused)| (pack.id, (*pack, unused.min(MIB)))).collect();
        let told = walk.packs().map(|(number, unused)| (outlines.packs().get(number), u64::from(unused)));
        assert_eq!(told.map(|(pack, unused)| (pack.id, (pack, unused))).collect::<BTreeMap<_, _>>(), named);
    }
    assert!(walk.step().is_none());
    let there = |pack: &PackRef| !pack.size.is_multiple_of(3);
    let lacking = |manifest: &Manifest| manifest.packs.iter().filter(|pack| !there(pack)).count() as u32;
    assert_eq!(outlines.lacking(there), manifests.iter().map(lacking).collect::<Vec<_>>());
    for number in 0..outlines.packs().len() as u32 {
        let pack = outlines.packs().get(number);
        let names = |manifest: &&Manifest| manifest.packs.contains(&pack);
        let oldest = manifests.iter().filter(names).map(|manifest| &manifest.snapshot).min();
        assert_eq!(outlines.oldest_with(&BTreeSet::from([number])).get(&number).copied(), oldest);
        assert_eq!(outlines.packs().numbers(&pack.id).collect::<Vec<_>>(), [number]);
    }
    assert_eq!(outlines.packs().numbers(&PackId::of(b"another")).next(), None);
}

#[test]
fn outlines_say_of_packs_what_manifests_say() -> Result<()> {
    for seed in 0..3 {
        let mut manifests = chain(seed, 30)?;
        check(&outlines(&manifests)?, &manifests);
        manifests.reverse();
        check(&outlines(&manifests)?, &manifests);
    }
    Ok(())
}

#[test]
fn what_is_kept_in_parts_is_the_same_and_what_is_gone_leaves_the_rest() -> Result<()> {
    for seed in 0..3 {
        let manifests = chain(seed, 30)?;
        let mut kept = Outlines::default();
        for until in [1, 2, 11, 30] {
            let all = outlines(&manifests[..until])?;
            // In records that hold several, or of which one needs several.
            let holds_several = until % 2 == 0;
            let record_bytes = if holds_several { 10_000 } else { 50 };
            let new = until - kept.len();
            let records: Vec<Vec<u8>> = all.records_of(kept.len(), record_bytes).collect();
            assert_eq!(records.len() <= new, holds_several, "{} records of {new}", records.len());
            for (at, record) in records.iter().enumerate() {
                assert!(record.len() < record_bytes + 1000, "{} bytes", record.len());
                assert!(kept.read(record).is_some());
                assert!(kept.found_end().is_some() || at + 1 < records.len());
            }
            check(&kept, &manifests[..until]);
        }
        assert!(kept.records(30).next().is_none());
        let is_even = |outline: &Outline| outline.sequence.is_multiple_of(2);
        let mut some = kept.only(is_even);
        let mut left: Vec<Manifest> = manifests.iter().filter(|one| one.sequence.is_multiple_of(2)).cloned().collect();
        check(&some, &left);
        assert!(some.packs().len() <= kept.packs().len());
        let next = manifest(99, &BTreeMap::from([(1, 5), (2, 0), (300, 0)]))?;
        some.insert(&next, STORED)?;
        left.push(next.clone());
        check(&some, &left);
        // What was read goes on as what was kept.
        kept.insert(&next, STORED)?;
        let all: Vec<Manifest> = manifests.iter().cloned().chain([next]).collect();
        check(&kept, &all);
    }
    Ok(())
}

#[test]
fn a_damaged_record_is_refused_or_read_as_something_that_can_be() -> Result<()> {
    let manifests = chain(1, 3)?;
    let record = outlines(&manifests)?.records(0).next().unwrap_or_default();
    for at in 0..record.len() {
        for changed in [record[at] ^ 1, record[at] ^ 0x80, 0xff] {
            let mut damaged = record.clone();
            damaged[at] = changed;
            let mut read = Outlines::default();
            if read.read(&damaged).is_some() {
                let mut walk = read.walk();
                while walk.step().is_some() {}
            }
        }
        assert!(Outlines::default().read(&record[..at]).is_none(), "cut at {at}");
    }
    Ok(())
}

#[test]
fn another_snapshot_of_the_same_packs_takes_few_bytes() -> Result<()> {
    let mut packs: BTreeMap<u64, u64> = (1..20_000).map(|number| (number, 0)).collect();
    let mut outlines = Outlines::default();
    outlines.insert(&manifest(0, &packs)?, STORED)?;
    let first = outlines.changes.len();
    for hour in 1..=100 {
        packs.remove(&(hour * 7));
        packs.insert(20_000 + hour, 0);
        packs.entry(hour * 31).and_modify(|unused| *unused += 4096);
        outlines.insert(&manifest(hour as i64, &packs)?, STORED)?;
    }
    let each = (outlines.changes.len() - first) / 100;
    assert!(each <= 20, "a snapshot takes {each} bytes");
    // At worst, something else of every pack.
    let before = outlines.changes.len();
    packs.values_mut().enumerate().for_each(|(at, unused)| *unused = MIB / 2 + at as u64);
    outlines.insert(&manifest(101, &packs)?, STORED)?;
    let each = (outlines.changes.len() - before) as f64 / packs.len() as f64;
    assert!(each < 4.1, "a pack takes {each} bytes in each snapshot");
    Ok(())
}

#[test]
fn contradictions_are_told_apart() -> Result<()> {
    let mut other = manifest(1, &BTreeMap::from([(1, 0)]))?;
    other.packs[0].size += 1;
    let outlines = outlines(&[manifest(0, &BTreeMap::from([(1, 0)]))?, other])?;
    assert_eq!(outlines.packs().numbers(&pack(1).id).collect::<Vec<_>>(), [0, 1]);
    assert_eq!(outlines.lacking(|pack| pack.size == 1001), [0, 1]);
    Ok(())
}
