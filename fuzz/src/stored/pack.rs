//! Packs: any part of the content is the same however it is read, and a pack that is written of the
//! same chunks has the same table and content.

use std::io::Cursor;

use lifeboat_format::chunk_id::ChunkIdKey;
use lifeboat_format::pack::{ChunkEntry, Excerpt, PackWriter, TARGET_CONTENT_BYTES, read, read_table};
use lifeboat_format::{frames, padding};

/// Of the content so much is looked at.
const MAX_LOOKED_AT: u64 = 1 << 20;
/// Of the content so much is decompressed at once, if chunks are shorter.
const TARGETS: [usize; 2] = [1 << 10, 1 << 20];

/// An input: where the table begins, then all of a pack before its padding.
#[must_use]
pub fn input(table_at: u32, unpadded: &[u8]) -> Vec<u8> {
    [&table_at.to_le_bytes(), unpadded].concat()
}

/// Takes `data` for the plaintext of a pack, and for one that lacks its padding.
pub fn drive(data: &[u8]) -> bool {
    let unpadded = data.split_first_chunk::<4>().is_some_and(|(table_at, unpadded)| {
        let trailer = [&u64::from(u32::from_le_bytes(*table_at)).to_le_bytes()[..], b"LBPACK02"].concat();
        let mut plaintext = unpadded.to_vec();
        padding::append(&mut plaintext, 0, &trailer);
        drive_plaintext(&plaintext)
    });
    drive_plaintext(data) || unpadded
}

fn drive_plaintext(data: &[u8]) -> bool {
    let Ok(entries) = read_table(&mut Cursor::new(data)) else {
        assert!(read(&mut Cursor::new(data), 0, &[]).is_err(), "a pack without a table");
        return false;
    };
    let content: u64 = entries.iter().map(|entry| u64::from(entry.length)).sum();
    let frames: u64 = entries.iter().map(|entry| u64::from(entry.frame)).sum();
    assert!(content <= TARGET_CONTENT_BYTES as u64 * 3 / 2 && frames < data.len() as u64);
    let read = |content: u64, wanted: &[(u64, u64)]| read(&mut Cursor::new(data), content, wanted);
    assert!(read(content + 1, &[(0, content)]).is_err(), "of two lengths");
    let Ok(all) = read(content, &[(0, content)]) else { panic!("the frames of the table are not there") };
    assert!(read(content, &[]).is_ok_and(|none| none.chunk_at(0).is_none()));

    let looked_at = content.min(MAX_LOOKED_AT);
    let whole = part(&all, 0, looked_at, TARGETS[1]);
    let (third, rest) = (looked_at / 3, looked_at - looked_at / 3);
    for (offset, length) in [(0, third), (third, third), (third, rest), (looked_at / 2, 1.min(looked_at / 2))] {
        let wanted = read(content, &[(offset, length)]);
        let Ok(some) = wanted else { panic!("a part of the frames is not there") };
        assert!(some.size() <= all.size(), "a part takes more than all");
        for target in TARGETS {
            let found = part(&some, offset, length, target);
            if let Some(whole) = &whole {
                assert!(found.as_deref() == Some(&whole[offset as usize..][..length as usize]), "another content");
            }
        }
    }
    let Some(whole) = whole.filter(|_| looked_at == content) else { return false };
    let key = ChunkIdKey::new(&[7; 32]);
    let checked = key.and_then(|key| all.check(&key));
    assert!(checked.is_ok_and(|checked| checked == content) || content > 0, "nothing is named wrongly");
    write_again(data, &entries, &whole);
    true
}

/// A part of the content, unit by unit; `None` if it is damaged.
fn part(excerpt: &Excerpt, mut offset: u64, length: u64, target: usize) -> Option<Vec<u8>> {
    let (end, mut out, mut found) = (offset + length, Vec::new(), Vec::new());
    while offset < end {
        let Some(unit) = excerpt.chunk_run(offset, end - offset, target) else { panic!("nothing at {offset}") };
        let Some(chunk) = excerpt.chunk_at(offset) else { panic!("no chunk at {offset}") };
        assert!(chunk.contains(&offset) && unit.length > 0 && unit.length <= end - offset, "{unit:?} at {offset}");
        assert!(unit.space <= target.max((chunk.end - chunk.start) as usize), "{unit:?} for {target}");
        let place = excerpt.decompress(offset, unit, &mut out).ok()?;
        assert_eq!(place.len() as u64, unit.length);
        found.extend_from_slice(&out[place]);
        offset += unit.length;
    }
    Some(found)
}

/// Writes a pack of the same frames.
fn write_again(data: &[u8], entries: &[ChunkEntry], whole: &[u8]) {
    let (mut writer, mut rest) = (PackWriter::new(Vec::new()), data);
    for entry in entries {
        let frame = rest.split_off(..entry.frame as usize).unwrap_or_default();
        assert!(writer.push(entry.id, entry.length as usize, frame).is_ok());
    }
    let Ok(filled) = writer.finish() else { panic!("cannot be written again") };
    assert_eq!(filled.content, whole.len() as u64);
    // Format 1 had larger packs, and empty chunks, whose frames nobody looks at.
    let of_format_2 = filled.content > 0
        && filled.content <= TARGET_CONTENT_BYTES as u64
        && entries.iter().all(|entry| entry.length > 0);
    let table = read_table(&mut Cursor::new(&filled.out)).ok();
    assert_eq!(table.as_deref(), of_format_2.then_some(entries), "another table");
    if of_format_2 {
        let stock = frames::decompress_document(&*filled.out, 0, MAX_LOOKED_AT);
        assert!(stock.is_ok_and(|stock| stock == whole), "`zstd -d` gives another content");
    }
}
