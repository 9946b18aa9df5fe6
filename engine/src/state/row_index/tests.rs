use super::*;
use crate::rows::matcher::{OlderUnits, smallest};
use crate::rows::sketch::{Sketch, sketch};
use crate::rows::units::Unit;

fn units(seed: u64, count: u64) -> Vec<Unit> {
    (0..count)
        .map(|n| Unit { hash: Element::from((seed * 1000 + n + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15)), length: 100 })
        .collect()
}

fn id(seed: u64) -> ChunkId {
    Digest::of(&seed.to_le_bytes())
}

fn add(writer: &mut StreamWriter, seed: u64) -> Result<()> {
    let units = units(seed, 50);
    writer.add(&id(seed), 5000, Fineness::SomeLines, smallest(&units).unwrap_or_default(), &sketch(&units)?)
}

fn files(index: &RowIndex) -> usize {
    fs::read_dir(&index.folder).into_iter().flatten().count()
}

#[test]
fn streams_are_remembered_changed_and_forgotten() -> Result<()> {
    let place = tempfile::tempdir().context(Class::Failed, || "no temporary directory")?;
    let state = StateDirectory::open(place.path())?;
    let index = RowIndex::open(&state, &"shop".parse()?, &HostKey::generate())?;
    let ids: [SnapshotId; 3] =
        [1, 2, 3].map(|n| SnapshotId::new(chrono::DateTime::UNIX_EPOCH + chrono::TimeDelta::hours(n), 1));
    let mut writer = index.write("data", None);
    add(&mut writer, 0)?;
    writer.finish()?;
    assert_eq!(files(&index), 1);
    let mut writer = index.write("data", None);
    add(&mut writer, 0)?;
    drop(writer);
    assert_eq!(files(&index), 1, "a stream that was given up left something");
    assert_eq!(files(&RowIndex::open(&state, &"shop".parse()?, &index.host_key)?), 0, "a failed run left something");
    let mut writer = index.write("data", None);
    (0..40).try_for_each(|seed| add(&mut writer, seed))?;
    index.replace(&ids[0], 1, &[writer.finish()?], &BTreeMap::new())?;
    assert!(index.stream(&ids[1], 1, "data").is_none() && index.stream(&ids[0], 2, "data").is_none());
    assert!(index.stream(&ids[0], 1, "other").is_none());

    let mut older =
        index.stream(&ids[0], 1, "data").map(Arc::new).ok_or_else(|| lifeboat_base::Error::failed("forgotten"))?;
    assert_eq!(older.find(&id(7)), Some(7));
    assert_eq!((older.range(7), older.find(&id(99))), ((35_000, 5000), None));
    assert_eq!(older.sketch(7), Some(Sketch::of(&units(7, 50))));
    assert_eq!(older.sketch(40), None);
    assert_eq!(older.resembling(smallest(&units(9, 50)).unwrap_or_default()), Some(9));

    // Half of the chunks stay: their file stays, too, and goes when the next snapshot has written
    // them anew.
    let mut writer = index.write("data", Some(older.clone()));
    for seed in 0..40 {
        if seed % 2 == 0 { writer.keep(seed as u32)? } else { add(&mut writer, 100 + seed)? }
    }
    index.replace(&ids[1], 1, &[writer.finish()?], &BTreeMap::new())?;
    assert_eq!(files(&index), 3);
    let mut half =
        index.stream(&ids[1], 1, "data").map(Arc::new).ok_or_else(|| lifeboat_base::Error::failed("forgotten"))?;
    assert_eq!(half.sketch(6), Some(Sketch::of(&units(6, 50))));
    assert_eq!(half.sketch(7), Some(Sketch::of(&units(107, 50))));
    Arc::get_mut(&mut half).ok_or_else(|| lifeboat_base::Error::failed("shared"))?.wasteful = true;
    let mut writer = index.write("data", Some(half));
    (0..40).try_for_each(|number| writer.keep(number))?;
    index.replace(&ids[2], 1, &[writer.finish()?], &BTreeMap::new())?;
    assert_eq!(files(&index), 2);
    let mut again =
        index.stream(&ids[2], 1, "data").map(Arc::new).ok_or_else(|| lifeboat_base::Error::failed("forgotten"))?;
    assert_eq!(again.sketch(6), Some(Sketch::of(&units(6, 50))));

    // Under another key, or with a sketch in the place of another, nothing is believed.
    let stranger = RowIndex { host_key: HostKey::generate(), ..index.clone() };
    assert!(stranger.stream(&ids[2], 1, "data").is_none());
    let chunks = &mut Arc::get_mut(&mut again).ok_or_else(|| lifeboat_base::Error::failed("shared"))?.chunks;
    chunks[6].sketch = chunks[8].sketch;
    assert_eq!(again.sketch(6), None);
    index.replace(&ids[2], 1, &[], &BTreeMap::new())?;
    assert_eq!(files(&index), 0);
    Ok(())
}

#[test]
fn sketches_take_no_more_than_a_25th_of_whatever_begins_a_stream() -> Result<()> {
    let place = tempfile::tempdir().context(Class::Failed, || "no temporary directory")?;
    let index = RowIndex::open(&StateDirectory::open(place.path())?, &"shop".parse()?, &HostKey::generate())?;
    let snapshot = SnapshotId::new(chrono::DateTime::UNIX_EPOCH, 1);
    let is_bounded = |writer: &StreamWriter| {
        let mut sums = (0, 0);
        writer.chunks.iter().all(|chunk| {
            sums = (sums.0 + u64::from(chunk.sketch.length), sums.1 + u64::from(chunk.length));
            // What seals an empty one.
            sums.0 as f64 <= sums.1 as f64 / MIN_STREAM_PER_SKETCH + 64.0 * writer.chunks.len() as f64
        })
    };
    let kept = |writer: &StreamWriter| writer.chunks.iter().filter(|chunk| chunk.sketch.length > 64).count();
    // Chunks of few units, then of as many as do not fit for long.
    let mut writer = index.write("data", None);
    assert!(writer.has_room(100_000, 0));
    for seed in 0..100 {
        let (units, length) = (units(seed, if seed < 50 { 500 } else { 4000 }), 100_000);
        writer.add(&id(seed), length, Fineness::EachLine, smallest(&units).unwrap_or_default(), &sketch(&units)?)?;
    }
    assert!((52..95).contains(&kept(&writer)) && is_bounded(&writer), "{} are kept", kept(&writer));
    assert!(!writer.has_room(100_000, 0));
    let lost = writer.chunks.iter().filter(|chunk| chunk.fineness == Fineness::SomeLines).count();
    assert_eq!(lost, 100 - kept(&writer));
    index.replace(&snapshot, 1, &[writer.finish()?], &BTreeMap::new())?;

    // The first ones go: the others do not fit any more.
    let older =
        index.stream(&snapshot, 1, "data").map(Arc::new).ok_or_else(|| lifeboat_base::Error::failed("forgotten"))?;
    let mut writer = index.write("data", Some(older));
    (45..100).try_for_each(|number| writer.keep(number))?;
    assert!((6..40).contains(&kept(&writer)) && is_bounded(&writer), "{} are kept", kept(&writer));
    Ok(())
}
