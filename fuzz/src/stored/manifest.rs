//! Manifests: written again they are the same, they fit one place alone, and all of their extents
//! lie in packs that they name.

use lifeboat_format::extents::OLDER;
use lifeboat_format::manifest::{MANIFEST_VERSION, Manifest};
use lifeboat_format::map::Resolved;

use super::extents::MAX_BLOCKS;

/// Extents of a stream that are looked at.
const MAX_EXTENTS: usize = 100_000;

/// Takes `data` for the JSON of a manifest, of the place that it names itself.
pub fn drive(data: &[u8]) -> bool {
    let Ok(told) = serde_json::from_slice::<Manifest>(data) else { return false };
    let parse = |json: &[u8], vault: &str| Manifest::parse(json, vault, &told.dataset, &told.snapshot).ok();
    let manifest = parse(data, &told.vault);
    assert_eq!(manifest.is_some(), told.version == MANIFEST_VERSION);
    let Some(manifest) = manifest else { return false };
    assert!(parse(data, &format!("{}0", told.vault)).is_none(), "taken for another vault's");
    let Ok(json) = serde_json::to_vec(&manifest) else { panic!("cannot be written again") };
    assert_eq!(parse(&json, &told.vault).as_ref(), Some(&manifest), "written again it is another one");
    assert_eq!(manifest.packs_and_unused().count(), manifest.packs.len());
    assert!(manifest.clone().without_extents().streams.iter().all(|stream| stream.extents.is_empty()));

    let contents = manifest.contents();
    let streams = manifest.streams.iter().map(|stream| manifest.extents(stream, &contents));
    let Ok(streams) = streams.collect::<Result<Vec<_>, _>>() else {
        assert!(manifest.check_extents().is_err());
        return false;
    };
    let maps = manifest.maps();
    let of_maps = maps.streams.iter().filter_map(|stream| maps.extents(stream, &contents).ok());
    if streams.iter().cloned().chain(of_maps).map(|extents| extents.blocks()).sum::<usize>() > MAX_BLOCKS {
        return false;
    }
    let whole = manifest.check_extents().is_ok();
    let inside = |pack: u32, end: u64| manifest.packs.get(pack as usize).is_some_and(|pack| end <= pack.2);
    for (stream, extents) in manifest.streams.iter().zip(streams) {
        assert_eq!(extents.length(), stream.length);
        let older = stream.map.as_ref().map_or(0, |map| map.covers);
        for extent in extents.iter().take(MAX_EXTENTS) {
            let end = extent.offset + extent.length;
            assert!(if extent.pack == OLDER { end <= older } else { inside(extent.pack, end) }, "{extent:?}");
        }
        if let Some(map) = &stream.map {
            let pieces = manifest.map_extents(map).unwrap_or_default();
            assert!(pieces.iter().all(|(pack, extent)| extent.offset + extent.length <= pack.2));
            let sum: u64 = pieces.iter().map(|(_, extent)| extent.length).sum();
            assert!(sum == map.length || !whole, "a map of {} bytes lies in {sum}", map.length);
        } else {
            let mut told = 0;
            let all = Resolved::from(extents).outline(|length, reaches| {
                assert!(reaches.iter().all(|reach| inside(reach.pack, reach.range.end)));
                told += length;
                true
            });
            assert!(if all { told == stream.length } else { !whole }, "told of {told} bytes of {}", stream.length);
        }
    }
    whole
}
