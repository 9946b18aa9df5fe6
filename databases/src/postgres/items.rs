//! Reads the rows of chosen tables out of an archive, without a client tool.
//!
//! What is not wanted is passed over. No more than a piece is held at a time.
//!
//! The format: PostgreSQL's `pg_backup_custom.c`. See [`super::contents`] for the list.

use lifeboat_base::{Error, Result};

use super::contents::INT_BYTES;
use crate::streams::StreamReader;

/// The kinds of items: rows of a table, and large objects.
const ROWS_ITEM: u8 = 1;
const LARGE_OBJECTS_ITEM: u8 = 3;
/// How long a piece of content is, unless its item ends.
pub(super) const CONTENT_PIECE_BYTES: usize = 64 << 10;

/// The items of an archive, behind its list.
pub(crate) struct Items {
    archive: Box<dyn StreamReader>,
    /// What was read and not taken, from `at` on.
    read: Vec<u8>,
    at: usize,
    is_within: bool,
    /// Whether large objects follow, one after the other.
    is_among_large_objects: bool,
    /// How much of the current block is left.
    left: usize,
}

/// What has content.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ArchiveItem {
    /// Rows of the table with this number.
    Rows(i64),
    /// The large object with this number.
    LargeObject(i64),
}

impl Items {
    /// `rest` is what of `archive` was read after its list.
    pub(crate) fn new(rest: Vec<u8>, archive: Box<dyn StreamReader>) -> Self {
        Self { archive, read: rest, at: 0, is_within: false, is_among_large_objects: false, left: 0 }
    }

    /// Goes on to the next item that holds rows. Returns its number; `None` at the archive's end.
    ///
    /// # Errors
    /// Those of the stream; or it is not understood.
    pub(crate) async fn next(&mut self) -> Result<Option<i64>> {
        loop {
            match self.next_item().await? {
                Some(ArchiveItem::Rows(number)) => return Ok(Some(number)),
                Some(ArchiveItem::LargeObject(_)) => {}
                None => return Ok(None),
            }
        }
    }

    /// Goes on to the next item that has content; `None` at the archive's end.
    ///
    /// # Errors
    /// As [`Self::next`].
    pub(crate) async fn next_item(&mut self) -> Result<Option<ArchiveItem>> {
        while self.content().await?.is_some() {}
        loop {
            if self.is_among_large_objects {
                let number = self.int().await?;
                self.is_among_large_objects = number != 0;
                self.is_within = number != 0;
                if number != 0 {
                    return Ok(Some(ArchiveItem::LargeObject(number)));
                }
            }
            if !self.has(1).await? {
                return Ok(None);
            }
            let kind = self.take(1)[0];
            let number = self.int().await?;
            match kind {
                ROWS_ITEM => {
                    self.is_within = true;
                    return Ok(Some(ArchiveItem::Rows(number)));
                }
                LARGE_OBJECTS_ITEM => self.is_among_large_objects = true,
                _ => return Err(not_understood()),
            }
        }
    }

    /// The next piece of the current item's content; `None` at its end.
    ///
    /// # Errors
    /// As [`Self::next`].
    pub(crate) async fn content(&mut self) -> Result<Option<Vec<u8>>> {
        let mut piece = Vec::new();
        while self.is_within && piece.len() < CONTENT_PIECE_BYTES {
            if self.left == 0 {
                let length = self.int().await?;
                self.left = usize::try_from(length).map_err(|_| not_understood())?;
                self.is_within = self.left > 0;
                continue;
            }
            if !self.has(1).await? {
                return Err(cut());
            }
            let length = self.left.min(self.read.len() - self.at).min(CONTENT_PIECE_BYTES);
            piece.extend_from_slice(self.take(length));
            self.left -= length;
        }
        Ok((!piece.is_empty()).then_some(piece))
    }

    /// Reads the archive to its checked end.
    ///
    /// # Errors
    /// Those of the stream.
    pub(crate) async fn finish(mut self) -> Result<()> {
        drain(self.archive.as_mut()).await
    }

    async fn int(&mut self) -> Result<i64> {
        if !self.has(INT_BYTES).await? {
            return Err(cut());
        }
        let bytes = self.take(INT_BYTES);
        let value = i64::from(u32::from_le_bytes([bytes[1], bytes[2], bytes[3], bytes[4]]));
        Ok(if bytes[0] == 0 { value } else { -value })
    }

    /// Whether so many bytes more are there.
    async fn has(&mut self, length: usize) -> Result<bool> {
        while self.read.len() - self.at < length {
            let Some(piece) = self.archive.next().await? else { return Ok(false) };
            self.read.drain(..self.at);
            self.at = 0;
            self.read.extend_from_slice(&piece);
        }
        Ok(true)
    }

    fn take(&mut self, length: usize) -> &[u8] {
        let from = self.at;
        self.at += length;
        &self.read[from..self.at]
    }
}

/// Reads a stream to its checked end.
///
/// # Errors
/// Those of the stream.
pub(crate) async fn drain(archive: &mut dyn StreamReader) -> Result<()> {
    while archive.next().await?.is_some() {}
    Ok(())
}

fn cut() -> Error {
    Error::integrity("the archive ends within rows")
}

fn not_understood() -> Error {
    Error::integrity("the rows of the archive are not understood")
        .hint("restore the snapshot with --to-directory, and take the table out of the archive with pg_restore")
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use async_trait::async_trait;
    use bytes::Bytes;

    use super::*;

    struct Pieces(Vec<Vec<u8>>);

    #[async_trait]
    impl StreamReader for Pieces {
        async fn next(&mut self) -> Result<Option<Bytes>> {
            Ok((!self.0.is_empty()).then(|| self.0.remove(0).into()))
        }
    }

    fn int(value: u32) -> Vec<u8> {
        [&[0], &value.to_le_bytes()[..]].concat()
    }

    fn blocks(blocks: &[&[u8]]) -> Vec<u8> {
        let each = blocks.iter().flat_map(|block| [int(block.len() as u32), block.to_vec()]);
        each.chain([int(0)]).flatten().collect()
    }

    async fn read(archive: &[u8], piece: usize) -> Result<Vec<(i64, Vec<u8>)>> {
        let pieces = Pieces(archive.chunks(piece).map(<[u8]>::to_vec).collect());
        let mut items = Items::new(Vec::new(), Box::new(pieces));
        let mut found = Vec::new();
        while let Some(number) = items.next().await? {
            let mut content = Vec::new();
            // Every second one is passed over.
            if number % 2 == 0 {
                while let Some(more) = items.content().await? {
                    content.extend(more);
                }
            }
            found.push((number, content));
        }
        items.finish().await?;
        Ok(found)
    }

    #[tokio::test]
    async fn rows_are_found_between_what_is_not_wanted() {
        let long = vec![7; 3 * CONTENT_PIECE_BYTES];
        let archive = [
            vec![1],
            int(4),
            blocks(&[b"1\ta\n", b"2\tb\n"]),
            vec![3],
            int(9),
            int(77),
            blocks(&[b"a large object"]),
            int(0),
            vec![1],
            int(5),
            blocks(&[b"not wanted"]),
            vec![1],
            int(6),
            blocks(&[&long, b"end"]),
            vec![1],
            int(8),
            blocks(&[]),
        ]
        .concat();
        for piece in [1, 7, 100_000, usize::MAX] {
            let found = read(&archive, piece).await.unwrap();
            let expected = [(4, b"1\ta\n2\tb\n".to_vec()), (5, vec![]), (6, [&long[..], b"end"].concat()), (8, vec![])];
            assert!(found == expected, "in pieces of {piece}");
        }
        for cut in [1, 5, 8, 20, archive.len() - 1] {
            assert!(read(&archive[..cut], 64).await.is_err(), "{cut} bytes pass");
        }
        assert!(read(&[&[2][..], &int(4), &blocks(&[])].concat(), 64).await.is_err());
    }
}
