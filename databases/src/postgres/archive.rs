//! Gives a table's archive longer data blocks on its way into `pg_restore`.
//!
//! `pg_dump -Fc -Z0` writes a block for each row, and `pg_restore` sends a message for each block.
//! The message often costs the server more than the row. It means nothing where a block begins, so
//! neighbouring blocks are joined, up to 64 KiB. What is not understood beyond doubt passes
//! unchanged.
//!
//! The format: PostgreSQL's `pg_backup_custom.c`. See [`super::contents`] for the list.

use bytes::Bytes;
use lifeboat_base::Result;

use super::contents::{ContentsList, INT_BYTES, Progress};
use crate::streams::StreamReader;

/// The kind of an item that holds table data.
const DATA_ITEM: u8 = 1;
/// No longer block is made by joining blocks.
const MAX_BLOCK_BYTES: usize = 64 << 10;
/// The list of contents of an archive of one table is shorter than this.
const MAX_LIST_BYTES: usize = 256 << 10;

/// Gives the archive that `inner` gives, with longer blocks.
pub(crate) struct LongBlocks<'a> {
    inner: &'a mut dyn StreamReader,
    place: ArchivePosition,
    /// The end of what was read, which is too short to be understood yet.
    kept: Vec<u8>,
}

#[derive(Clone, Copy)]
enum ArchivePosition {
    /// Before the end of the list of contents.
    List,
    /// Before the kind and the number of a data item.
    Item,
    /// Before the length of a block.
    Length,
    /// Within a block.
    Content { left: usize },
    /// In what is not understood, to the end.
    Beyond,
}

impl<'a> LongBlocks<'a> {
    pub(crate) fn new(inner: &'a mut dyn StreamReader) -> Self {
        Self { inner, place: ArchivePosition::List, kept: Vec::new() }
    }

    /// Takes a piece of the archive, and gives what can be passed on.
    fn take(&mut self, piece: &[u8]) -> Vec<u8> {
        let mut out = Vec::with_capacity(self.kept.len() + piece.len() + INT_BYTES);
        let whole;
        let mut rest = piece;
        if !self.kept.is_empty() {
            whole = [&std::mem::take(&mut self.kept), piece].concat();
            rest = &whole;
        }
        // Where in `out` the length of the block stands that is being made.
        let mut block: Option<usize> = None;
        let close = |out: &mut Vec<u8>, block: &mut Option<usize>| {
            if let Some(at) = block.take() {
                let length = (out.len() - at - INT_BYTES) as u32;
                out[at + 1..at + INT_BYTES].copy_from_slice(&length.to_le_bytes());
            }
        };
        loop {
            match self.place {
                ArchivePosition::List => {
                    let mut list = ContentsList::default();
                    match list.go_on(rest) {
                        Progress::End => {
                            out.extend_from_slice(&rest[..list.at]);
                            (rest, self.place) = (&rest[list.at..], ArchivePosition::Item);
                        }
                        Progress::More if rest.len() < MAX_LIST_BYTES => break,
                        Progress::More | Progress::Unknown => self.place = ArchivePosition::Beyond,
                    }
                }
                ArchivePosition::Item if rest.len() <= INT_BYTES => break,
                ArchivePosition::Item => {
                    self.place = if rest[0] == DATA_ITEM { ArchivePosition::Length } else { ArchivePosition::Beyond };
                    if rest[0] == DATA_ITEM {
                        out.extend_from_slice(&rest[..=INT_BYTES]);
                        rest = &rest[1 + INT_BYTES..];
                    }
                }
                ArchivePosition::Length => {
                    let Some((length, after)) = rest.split_first_chunk::<INT_BYTES>() else { break };
                    let [sign, length @ ..] = *length;
                    let left = u32::from_le_bytes(length) as usize;
                    if sign != 0 {
                        self.place = ArchivePosition::Beyond;
                        continue;
                    }
                    if left == 0 || block.is_some_and(|at| out.len() - at - INT_BYTES + left > MAX_BLOCK_BYTES) {
                        close(&mut out, &mut block);
                    }
                    if left == 0 {
                        out.extend_from_slice(&[0; INT_BYTES]);
                        self.place = ArchivePosition::Item;
                    } else {
                        self.place = ArchivePosition::Content { left };
                    }
                    rest = after;
                }
                ArchivePosition::Content { left } => {
                    if rest.is_empty() {
                        break;
                    }
                    block.get_or_insert_with(|| {
                        out.extend_from_slice(&[0; INT_BYTES]);
                        out.len() - INT_BYTES
                    });
                    let (content, after) = rest.split_at(left.min(rest.len()));
                    out.extend_from_slice(content);
                    let left = left - content.len();
                    self.place = if left == 0 { ArchivePosition::Length } else { ArchivePosition::Content { left } };
                    rest = after;
                }
                ArchivePosition::Beyond => {
                    close(&mut out, &mut block);
                    out.extend_from_slice(rest);
                    rest = &[];
                    break;
                }
            }
        }
        // A row may be split between two blocks.
        close(&mut out, &mut block);
        self.kept = rest.to_vec();
        out
    }
}

#[async_trait::async_trait]
impl StreamReader for LongBlocks<'_> {
    async fn next(&mut self) -> Result<Option<Bytes>> {
        while let Some(piece) = self.inner.next().await? {
            let out = self.take(&piece);
            if !out.is_empty() {
                return Ok(Some(out.into()));
            }
        }
        // If the archive ends too early, `pg_restore` must see that too.
        let rest = std::mem::take(&mut self.kept);
        Ok((!rest.is_empty()).then(|| rest.into()))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use proptest::prelude::*;

    use super::super::contents::MINOR_VERSIONS;
    use super::*;

    fn int(value: i64) -> Vec<u8> {
        [&[u8::from(value < 0)], &(value.unsigned_abs() as u32).to_le_bytes()[..]].concat()
    }

    fn string(text: &str) -> Vec<u8> {
        [int(text.len() as i64), text.as_bytes().to_vec()].concat()
    }

    /// As `pg_dump` of this archive version begins.
    fn head(minor: u8) -> Vec<u8> {
        let mut archive = b"PGDMP".to_vec();
        archive.extend([1, minor, 0, 4, 8, 1]);
        archive.extend(if minor >= 15 { vec![0] } else { int(0) });
        (0..7).for_each(|n| archive.extend(int(n)));
        ["db", "15.1", "15.2"].iter().for_each(|text| archive.extend(string(text)));
        archive.extend(int(2));
        for entry in 0..2 {
            archive.extend([int(entry), int(1)].concat());
            ["0", "0", "t", "TABLE DATA"].iter().for_each(|text| archive.extend(string(text)));
            archive.extend(int(3));
            ["", "", "COPY t FROM stdin;\n", "public", ""].iter().for_each(|text| archive.extend(string(text)));
            archive.extend(if minor >= 14 { int(-1) } else { Vec::new() });
            archive.extend(if minor >= 16 { int(114) } else { Vec::new() });
            ["owner", "false"].iter().for_each(|text| archive.extend(string(text)));
            archive.extend(if entry == 1 { [string("0"), int(-1)].concat() } else { int(-1) });
            archive.push(1);
            archive.extend([0; 8]);
        }
        archive
    }

    fn item(blocks: &[Vec<u8>]) -> Vec<u8> {
        let mut item = [vec![DATA_ITEM], int(7)].concat();
        blocks.iter().for_each(|block| item.extend([int(block.len() as i64), block.clone()].concat()));
        [item, int(0)].concat()
    }

    struct Pieces(std::vec::IntoIter<Vec<u8>>);

    #[async_trait::async_trait]
    impl StreamReader for Pieces {
        async fn next(&mut self) -> Result<Option<Bytes>> {
            Ok(self.0.next().map(Bytes::from))
        }
    }

    fn through(archive: &[u8], piece: usize) -> Vec<u8> {
        let pieces: Vec<Vec<u8>> = archive.chunks(piece).map(<[u8]>::to_vec).collect();
        let (mut inner, mut all) = (Pieces(pieces.into_iter()), Vec::new());
        let mut long = LongBlocks::new(&mut inner);
        while let Some(piece) = futures::executor::block_on(long.next()).unwrap() {
            all.extend_from_slice(&piece);
        }
        all
    }

    /// The blocks of each item, after the list.
    fn items(mut archive: &[u8]) -> Vec<Vec<Vec<u8>>> {
        let mut items = Vec::new();
        while !archive.is_empty() {
            assert_eq!(archive[..6], [vec![DATA_ITEM], int(7)].concat());
            archive = &archive[6..];
            let mut blocks = Vec::new();
            loop {
                let length = u32::from_le_bytes(archive[1..5].try_into().unwrap()) as usize;
                let (block, rest) = archive[5..].split_at(length);
                archive = rest;
                if length == 0 {
                    break;
                }
                blocks.push(block.to_vec());
            }
            items.push(blocks);
        }
        items
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn content_is_the_same_in_fewer_blocks(
            minor in MINOR_VERSIONS,
            lengths in prop::collection::vec(prop::collection::vec(1usize..3000, 0..200), 0..3),
            piece in 1usize..100_000,
        ) {
            let blocks = |lengths: &Vec<usize>| -> Vec<Vec<u8>> {
                lengths.iter().enumerate().map(|(number, length)| vec![number as u8; *length]).collect()
            };
            let given: Vec<Vec<Vec<u8>>> = lengths.iter().map(blocks).collect();
            let archive = [head(minor), given.iter().flat_map(|blocks| item(blocks)).collect()].concat();
            let found = through(&archive, piece);
            prop_assert_eq!(&found[..head(minor).len()], &head(minor)[..]);
            let found = items(&found[head(minor).len()..]);
            prop_assert_eq!(found.len(), given.len());
            for (found, given) in found.iter().zip(&given) {
                prop_assert_eq!(found.concat(), given.concat());
                prop_assert!(found.iter().all(|block| block.len() <= MAX_BLOCK_BYTES));
            }
            let whole = items(&through(&archive, usize::MAX)[head(minor).len()..]);
            for (found, given) in whole.iter().zip(&given) {
                prop_assert!(found.len() <= given.concat().len() / (MAX_BLOCK_BYTES - 3000) + 1, "{} blocks", found.len());
            }
        }
    }

    #[test]
    fn what_is_not_understood_passes_as_it_is() {
        let rows = item(&[b"1\tone\n".to_vec(), b"2\ttwo\n".to_vec()]);
        let good = [head(14), rows.clone()].concat();
        let mut newer = good.clone();
        newer[6] = 17;
        let blobs = [head(14), vec![3], rows.clone()].concat();
        let negative = [head(14), rows[..6].to_vec(), int(-1), rows.clone()].concat();
        let cut: Vec<&[u8]> = (0..head(14).len()).map(|length| &good[..length]).collect();
        for archive in [&newer, &blobs, &negative, &b"no archive".to_vec()].map(Vec::as_slice).into_iter().chain(cut) {
            for piece in [1, 7, usize::MAX] {
                assert!(through(archive, piece) == archive, "{} bytes were changed", archive.len());
            }
        }
        assert_ne!(through(&good, usize::MAX), good);
    }
}
