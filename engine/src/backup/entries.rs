//! Makes a manifest's entries of the streams that a run captured.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use lifeboat_base::{Error, Result};
use lifeboat_format::extents::{Extent, Extents};
use lifeboat_format::id::PackId;
use lifeboat_format::manifest::{MapEntry, MapPlace, PackRef, StreamEntry};
use lifeboat_format::map::{Resolved, StreamMap};

use super::messages::{Captured, CapturedStream, MAP_OF};
use super::predecessor::{Origin, UsedMap};

/// The entries of all streams, and how many bytes of each pack no stream needs. The packs of the
/// maps that streams use are added to `captured`.
pub(crate) fn entries(
    captured: &mut Captured,
    maps: &BTreeMap<String, Arc<UsedMap>>,
) -> Result<(Vec<StreamEntry>, Vec<u64>)> {
    let (made, streams): (Vec<_>, Vec<_>) =
        std::mem::take(&mut captured.streams).into_iter().partition(|stream| stream.name.starts_with(MAP_OF));
    let made: HashMap<String, CapturedStream> =
        made.into_iter().map(|map| (map.name[MAP_OF.len_utf8()..].to_owned(), map)).collect();
    let mut packs = ManifestPacks::new(&mut captured.packs);
    let mut entries = Vec::with_capacity(streams.len());
    for stream in streams {
        let used = maps.get(&stream.name);
        used.iter().flat_map(|map| &map.packs).for_each(|pack| _ = packs.number(pack));
        packs.resolve(stream.extents.clone(), used.map(|map| &map.older)).for_each(|extent| packs.count(&extent));
        let map = match used.map(|map| (map.older.extents.length(), &map.origin)) {
            Some((covers, Origin::Kept { blake3, packs: held })) => {
                let place = held.iter().map(|pack| packs.number(pack)).collect();
                Some(MapEntry { covers, blake3: *blake3, place: MapPlace::Packs(place) })
            }
            Some((covers, Origin::Made(_))) => {
                let lost = || Error::failed(format!("the map of stream `{}` was not stored", stream.name));
                let CapturedStream { blake3, extents, .. } = made.get(&stream.name).ok_or_else(lost)?;
                let place: Vec<u32> = extents.iter().map(|extent| extent.pack).collect();
                Some(MapEntry { covers, blake3: *blake3, place: MapPlace::Packs(place) })
            }
            None => None,
        };
        if let Some(MapEntry { place: MapPlace::Packs(held), .. }) = &map {
            held.iter().for_each(|pack| packs.count_whole(*pack));
        }
        let CapturedStream { name, length, blake3, exit, extents, .. } = stream;
        entries.push(StreamEntry { name, length, blake3, exit, extents: extents.bytes().clone(), map });
    }
    Ok((entries, packs.unused()))
}

/// The packs of a manifest, while more are added.
struct ManifestPacks<'a> {
    packs: &'a mut Vec<PackRef>,
    numbers: HashMap<PackId, u32>,
    /// How many bytes of each pack extents name. Bytes that are named twice count twice.
    needed: Vec<u64>,
}

impl<'a> ManifestPacks<'a> {
    fn new(packs: &'a mut Vec<PackRef>) -> Self {
        let numbers = packs.iter().zip(0..).map(|(pack, number)| (pack.id, number)).collect();
        let needed = vec![0; packs.len()];
        Self { packs, numbers, needed }
    }

    fn number(&mut self, pack: &PackRef) -> u32 {
        *self.numbers.entry(pack.id).or_insert_with(|| {
            self.packs.push(*pack);
            self.needed.push(0);
            self.packs.len() as u32 - 1
        })
    }

    /// Extents that name packs alone. The map's packs must have numbers already.
    fn resolve(&self, extents: Extents, map: Option<&StreamMap>) -> impl Iterator<Item = Extent> + use<> {
        let resolved = match map {
            Some(map) => Resolved::new(extents, map, map.packs.iter().map(|pack| self.numbers[pack]).collect()),
            None => extents.into(),
        };
        resolved.iter()
    }

    fn count(&mut self, extent: &Extent) {
        self.needed[extent.pack as usize] += extent.length;
    }

    fn count_whole(&mut self, pack: u32) {
        self.needed[pack as usize] = self.packs[pack as usize].content;
    }

    fn unused(&self) -> Vec<u64> {
        let each = self.packs.iter().zip(&self.needed);
        each.map(|(pack, needed)| pack.content.saturating_sub(*needed)).collect()
    }
}
