use std::io::Cursor;

use super::*;
use crate::frames;

fn key() -> Result<ChunkIdKey> {
    ChunkIdKey::new(&[7; 32])
}

fn pack_of(chunks: &[&[u8]]) -> Result<FilledPack<Vec<u8>>> {
    let (key, mut writer) = (key()?, PackWriter::new(Vec::new()));
    for chunk in chunks {
        writer.push(key.id_of(chunk), chunk.len(), &frames::compress(3, chunk)?)?;
    }
    writer.finish()
}

/// This range, run by run.
fn range(excerpt: &Excerpt, mut offset: u64, length: u64, target: usize) -> Result<Vec<u8>> {
    let (end, mut all, mut out) = (offset + length, Vec::new(), vec![b'x'; 3]);
    while offset < end {
        let run = excerpt.chunk_run(offset, end - offset, target).ok_or_else(damaged)?;
        assert!(run.length > 0, "an empty run at {offset}");
        let place = excerpt.decompress(offset, run, &mut out)?;
        all.extend_from_slice(&out[place]);
        offset += run.length;
    }
    Ok(all)
}

/// All of it, each chunk's id checked.
fn read_all(plaintext: &[u8], content: u64) -> Result<Vec<u8>> {
    let all = read(&mut Cursor::new(plaintext), content, &[(0, content)])?;
    assert_eq!(all.check(&key()?)?, content);
    range(&all, 0, content, 5)
}

#[test]
fn gives_its_content_back_and_is_padded() -> Result<()> {
    let pack = pack_of(&[b"one", b"two two two"])?;
    assert_eq!(pack.out.len(), 64 << 10);
    assert_eq!(read_all(&pack.out, 14)?, b"onetwo two two");
    assert_eq!(read_table(&mut Cursor::new(&pack.out))?, pack.entries);
    assert!(read_all(&pack.out, 13).is_err());
    Ok(())
}

#[test]
fn gives_only_the_chunks_that_are_wanted() -> Result<()> {
    let pack = pack_of(&[b"aaaa", b"bbbb", b"cccc", b"dddd", b"eeee"])?;
    let read = |wanted: &[(u64, u64)]| read(&mut Cursor::new(&pack.out), 20, wanted);
    let some = read(&[(1, 2), (9, 2), (12, 1)])?;
    assert_eq!(some.chunks.iter().map(|chunk| chunk.begin).collect::<Vec<_>>(), [0, 8, 12]);
    for target in [1, 4, 8, 100] {
        for (offset, length, due) in [(0, 4, "aaaa"), (1, 2, "aa"), (8, 8, "ccccdddd"), (9, 5, "cccdd")] {
            assert_eq!(range(&some, offset, length, target)?, due.as_bytes(), "{offset}, {length}, {target}");
        }
        for (offset, length) in [(3, 2), (4, 1), (7, 2), (15, 2), (16, 1), (40, 1)] {
            assert!(range(&some, offset, length, target).is_err(), "{offset}, {length}");
        }
    }
    assert!(read(&[])?.chunks.is_empty());
    assert_eq!(range(&read(&[(3, 14)])?, 3, 14, 8)?, b"abbbbccccdddde");
    Ok(())
}

#[test]
fn a_run_ends_with_a_chunk_and_is_no_longer_than_wanted() -> Result<()> {
    let pack = pack_of(&[b"aaaa", b"bbbb", b"cccc"])?;
    let all = read(&mut Cursor::new(&pack.out), 12, &[(0, 12)])?;
    for (offset, length, target, due) in [
        (0, 12, 4, (4, 4)),
        (0, 12, 8, (8, 8)),
        (0, 12, 11, (8, 8)),
        (0, 12, 12, (12, 12)),
        (0, 12, 1, (4, 4)),
        (2, 10, 8, (6, 8)),
        (2, 1, 8, (1, 4)),
        (0, 4, 100, (4, 4)),
        (0, 5, 100, (5, 8)),
    ] {
        let due = ChunkRun { length: due.0, space: due.1 };
        assert_eq!(all.chunk_run(offset, length, target), Some(due), "{offset}, {length}, {target}");
    }
    assert_eq!(all.chunk_run(12, 1, 8), None);
    Ok(())
}

#[test]
fn a_stock_zstd_decoder_reads_the_content() -> Result<()> {
    let pack = pack_of(&[b"one", b"two two two"])?;
    assert_eq!(frames::decompress_document(&*pack.out, 0, 1 << 20)?, b"onetwo two two");
    Ok(())
}

#[test]
fn a_flipped_bit_anywhere_is_found() -> Result<()> {
    let pack = pack_of(&[b"one", b"two two two"])?;
    for position in (0..300).chain(pack.out.len() - 300..pack.out.len()) {
        let mut changed = pack.out.clone();
        changed[position] ^= 0x10;
        let content = read_all(&changed, 14);
        assert!(content.is_err() || content? == b"onetwo two two", "flipped bit in byte {position} passed");
    }
    Ok(())
}

#[test]
fn has_room_until_its_plaintext_or_its_content_is_full() -> Result<()> {
    let mut by_content = PackWriter::new(Vec::new());
    assert!(by_content.has_room(MAX_CHUNK_BYTES, MAX_CHUNK_BYTES + 9), "an empty one takes any");
    by_content.push(Digest([0; 32]), TARGET_CONTENT_BYTES - 1, b"")?;
    assert!(by_content.has_room(1, 9) && !by_content.has_room(2, 9));
    let mut by_frames = PackWriter::new(Vec::new());
    by_frames.push(Digest([0; 32]), 1, &vec![0; TARGET_PLAINTEXT_BYTES - 1000])?;
    let most = (0..1000).rev().find(|frame| by_frames.has_room(1, *frame)).unwrap_or_default();
    by_frames.push(Digest([0; 32]), 1, &vec![0; most])?;
    assert_eq!(by_frames.finish()?.out.len(), TARGET_PLAINTEXT_BYTES);
    assert!((800..1000).contains(&most), "{most} of 1000 bytes were free");
    Ok(())
}

#[test]
fn limits_are_those_of_format_md() -> Result<()> {
    let table = |chunks: &[(usize, usize)]| {
        let mut writer = PackWriter::new(Vec::new());
        for (length, frame) in chunks {
            writer.push(Digest([0; 32]), *length, &vec![0; *frame])?;
        }
        read_table(&mut Cursor::new(writer.finish()?.out))
    };
    for (chunks, good) in [
        (vec![], false),
        (vec![(0, 9)], false),
        (vec![(16 << 20, 9)], true),
        (vec![((16 << 20) + 1, 9)], false),
        (vec![(16 << 20, 9); 2], true),
        (vec![(16 << 20, 9), (16 << 20, 9), (1, 9)], false),
        (vec![(1, 1); 131_072], true),
        (vec![(1, 1); 131_073], false),
    ] {
        assert_eq!(table(&chunks).is_ok(), good, "{} chunks, first {:?}", chunks.len(), chunks.first());
    }
    Ok(())
}

#[test]
fn in_format_1_padding_is_not_checked() -> Result<()> {
    let mut plaintext = pack_of(&[b"one", b"two two two"])?.out;
    let (middle, last) = (plaintext.len() / 2, plaintext.len() - 1);
    plaintext[middle] = 1;
    assert!(read_all(&plaintext, 14).is_err());
    plaintext[last] = b'1';
    assert_eq!(read_all(&plaintext, 14)?, b"onetwo two two");
    Ok(())
}
