//! Manifests: written again they are the same, they fit one place alone, and all of their extents
//! lie in packs that they name.

use bytes::Bytes;
use lifeboat_format::extents::OLDER;
use lifeboat_format::id::{Name, SnapshotId};
use lifeboat_format::manifest::Manifest;
use lifeboat_format::map::Resolved;
use lifeboat_format::{frames, padding, varint};
use serde_json::Value;

use super::extents::MAX_BLOCKS;

/// Extents of a stream that are looked at.
const MAX_EXTENTS: usize = 100_000;

/// An input: the length of the JSON, the JSON, and the extents of all streams.
#[must_use]
pub fn input(json: &[u8], extents: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    varint::put(&mut out, json.len() as u64);
    [&out, json, extents].concat()
}

/// The plaintext of a manifest with this JSON and these extents.
fn plaintext(json: &[u8], extents: &[u8]) -> Vec<u8> {
    let frame = frames::compress(1, &[json, b"\n"].concat()).unwrap_or_default();
    let mut out = [&frames::SKIPPABLE_MAGIC[..], &16_u32.to_le_bytes(), b"LBMANI02"].concat();
    out.extend((frame.len() as u64).to_le_bytes());
    out.extend(frame);
    out.extend(extents);
    padding::append(&mut out, 0, &[]);
    out
}

/// Takes `data` for the JSON and the extents of a manifest, of the place that it names itself.
pub fn drive(data: &[u8]) -> bool {
    let mut rest = data;
    let length = varint::take(&mut rest).and_then(|length| usize::try_from(length).ok());
    let Some((json, extents)) = length.and_then(|length| rest.split_at_checked(length)) else { return false };
    let Ok(told) = serde_json::from_slice::<Value>(json) else { return false };
    let text = |field: &str| told[field].as_str().unwrap_or_default();
    let (Ok(dataset), Ok(snapshot)) = (text("dataset").parse::<Name>(), text("snapshot").parse::<SnapshotId>()) else {
        return false;
    };
    let parse = |plaintext: Vec<u8>, vault: &str| Manifest::parse(plaintext, vault, &dataset, &snapshot).ok();
    let whole = plaintext(json, extents);
    let Some(manifest) = parse(whole.clone(), text("vault")) else { return false };
    assert!(Manifest::parse_head(Bytes::from(whole.clone()), text("vault"), &dataset, &snapshot).is_ok());
    assert!(parse(whole, &format!("{}0", text("vault"))).is_none(), "taken for another vault's");
    let Ok(again) = manifest.to_plaintext() else { panic!("cannot be written again") };
    assert_eq!(parse(again, text("vault")).as_ref(), Some(&manifest), "written again it is another one");
    assert_eq!(manifest.packs_and_unused().count(), manifest.packs.len());
    assert!(manifest.clone().without_extents().streams.iter().all(|stream| stream.extents.is_empty()));

    let contents = manifest.contents();
    let streams = manifest.streams.iter().map(|stream| manifest.extents(stream, &contents));
    let Ok(streams) = streams.collect::<Result<Vec<_>, _>>() else {
        assert!(manifest.check_extents().is_err());
        return false;
    };
    let Ok(maps) = manifest.maps() else { panic!("its maps lie nowhere") };
    let of_maps = maps.streams.iter().filter_map(|stream| maps.extents(stream, &contents).ok());
    if streams.iter().cloned().chain(of_maps).map(|extents| extents.blocks()).sum::<usize>() > MAX_BLOCKS {
        return false;
    }
    let whole = manifest.check_extents().is_ok();
    let inside = |pack: u32, end: u64| manifest.packs.get(pack as usize).is_some_and(|pack| end <= pack.content);
    for (stream, extents) in manifest.streams.iter().zip(streams) {
        assert_eq!(extents.length(), stream.length);
        let older = stream.map.as_ref().map_or(0, |map| map.covers);
        for extent in extents.iter().take(MAX_EXTENTS) {
            let end = extent.offset + extent.length;
            assert!(if extent.pack == OLDER { end <= older } else { inside(extent.pack, end) }, "{extent:?}");
        }
        if let Some(map) = &stream.map {
            let pieces = manifest.map_extents(map).unwrap_or_default();
            assert!(!pieces.is_empty() && pieces.iter().all(|(pack, extent)| extent.length == pack.content));
        } else {
            let resolved = Resolved::from(extents);
            assert!(resolved.iter().take(MAX_EXTENTS).all(|extent| inside(extent.pack, extent.offset + extent.length)));
        }
    }
    whole
}
