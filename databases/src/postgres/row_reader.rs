//! The rows of a stream of a PostgreSQL snapshot, table by table. Definitions, values of sequences
//! and large objects are each a row of their own, in tables that are called so.

use std::collections::BTreeMap;

use lifeboat_base::{Error, Result};

use super::contents::{Contents, ContentsEntry};
use super::items::{ArchiveItem, Items};
use super::names::TypedName;
use super::parts::DumpPart;
use super::values::{SEQUENCE_VALUE, is_of_large_object};
use crate::rows::{RowSink, lines};
use crate::streams::StreamReader;

/// How a frame begins, the longest last.
const FRAMES: [&[u8]; 2] = [b"\\restrict ", b"\\unrestrict "];
/// What ends the rows of a table.
const END_LINE: &[u8] = b"\\.";

/// Gives the rows of a stream, and reads it to its checked end.
///
/// # Errors
/// Those of the stream, or of `sink`; or it is not understood.
pub(super) async fn read(stream: &str, mut reader: Box<dyn StreamReader>, sink: &mut dyn RowSink) -> Result<()> {
    let Some((part, database)) = DumpPart::of_stream(stream) else {
        sink.table(stream)?;
        return lines(reader.as_mut(), &mut WithoutFrames { sink, begin: Vec::new(), is_frame: None }).await;
    };
    let failed = |error: Error| error.within(format!("cannot read {stream}"));
    let mut contents = Contents::read(reader.as_mut()).await.map_err(failed)?;
    if contents.is_compressed {
        return Err(failed(Error::integrity("its rows are compressed, which no capture does")));
    }
    if part.creates() {
        sink.table(&format!("{database}: definitions"))?;
        let is_definition = |entry: &&ContentsEntry| {
            let is_value = contents.get(&entry.kind) == SEQUENCE_VALUE.as_bytes();
            entry.definition.len() > 1 && !is_value && !is_of_large_object(&contents, entry)
        };
        for entry in contents.entries.iter().filter(is_definition) {
            for field in [&entry.kind, &entry.schema, &entry.tag, &entry.owner, &entry.definition] {
                sink.bytes(contents.get(field));
                sink.bytes(&[0]);
            }
            sink.end()?;
        }
    }
    sink.table(&format!("{database}: sequence values"))?;
    for entry in contents.of_kind(SEQUENCE_VALUE) {
        sink.bytes(contents.get(&entry.definition));
        sink.end()?;
    }
    let large_objects = format!("{database}: large objects");
    let tables: BTreeMap<i64, String> = contents
        .of_kind("TABLE DATA")
        .map(|entry| {
            let name = TypedName(contents.get(&entry.schema), contents.get(&entry.tag));
            (entry.id, format!("{database}: {name}"))
        })
        .collect();
    let mut items = Items::new(contents.take_rest(), reader);
    while let Some(item) = items.next_item().await.map_err(failed)? {
        let number = match item {
            ArchiveItem::Rows(number) => number,
            ArchiveItem::LargeObject(number) => {
                sink.table(&large_objects)?;
                sink.bytes(&number.to_le_bytes());
                while let Some(piece) = items.content().await.map_err(failed)? {
                    sink.bytes(&piece);
                }
                sink.end()?;
                continue;
            }
        };
        let Some(table) = tables.get(&number) else { continue };
        sink.table(table)?;
        let mut line = LineStart::default();
        while let Some(piece) = items.content().await.map_err(failed)? {
            line.take(&piece, sink)?;
        }
        line.end().map_err(failed)?;
    }
    items.finish().await.map_err(failed)
}

/// Lines without those by which newer tools frame what they write: they are others each time.
struct WithoutFrames<'a> {
    sink: &'a mut dyn RowSink,
    /// The beginning of the line, until it is known whether it is a frame.
    begin: Vec<u8>,
    is_frame: Option<bool>,
}

impl WithoutFrames<'_> {
    fn decide(&mut self) -> bool {
        let is_frame = FRAMES.iter().any(|frame| self.begin.starts_with(frame));
        if !is_frame {
            self.sink.bytes(&self.begin);
        }
        self.begin.clear();
        *self.is_frame.insert(is_frame)
    }
}

impl RowSink for WithoutFrames<'_> {
    fn table(&mut self, name: &str) -> Result<()> {
        self.sink.table(name)
    }

    fn bytes(&mut self, bytes: &[u8]) {
        match self.is_frame {
            Some(true) => {}
            Some(false) => self.sink.bytes(bytes),
            None => {
                self.begin.extend_from_slice(bytes);
                if self.begin.len() >= FRAMES[1].len() {
                    self.decide();
                }
            }
        }
    }

    fn end(&mut self) -> Result<()> {
        let is_frame = self.is_frame.unwrap_or_else(|| self.decide());
        self.is_frame = None;
        if is_frame { Ok(()) } else { self.sink.end() }
    }
}

/// Rows of a table up to the line that ends them. The beginning of a line is held back, as it may
/// be that line.
#[derive(Default)]
struct LineStart {
    /// The first bytes of the current line, until it cannot be the end.
    kept: Vec<u8>,
    is_within: bool,
    ended: bool,
}

impl LineStart {
    fn take(&mut self, piece: &[u8], sink: &mut dyn RowSink) -> Result<()> {
        for part in piece.split_inclusive(|byte| *byte == b'\n') {
            if self.ended {
                return Ok(());
            }
            let line = part.strip_suffix(b"\n");
            let text = line.unwrap_or(part);
            if self.is_within {
                sink.bytes(text);
            } else {
                self.kept.extend_from_slice(text);
                if line.is_some() && self.kept == END_LINE {
                    self.ended = true;
                    return Ok(());
                }
                if line.is_some() || self.kept.len() > END_LINE.len() {
                    sink.bytes(&std::mem::take(&mut self.kept));
                    self.is_within = true;
                }
            }
            if line.is_some() {
                sink.end()?;
                self.is_within = false;
            }
        }
        Ok(())
    }

    fn end(&self) -> Result<()> {
        if self.ended { Ok(()) } else { Err(Error::integrity("the rows have no end mark, so some may be missing")) }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;
    use crate::rows::split;

    #[derive(Default)]
    struct Heard(Vec<String>, String);

    impl RowSink for Heard {
        fn table(&mut self, _: &str) -> Result<()> {
            Ok(())
        }

        fn bytes(&mut self, bytes: &[u8]) {
            self.1.push_str(&String::from_utf8_lossy(bytes));
        }

        fn end(&mut self) -> Result<()> {
            self.0.push(std::mem::take(&mut self.1));
            Ok(())
        }
    }

    #[test]
    fn frames_are_no_rows_and_the_end_of_rows_is_none() {
        for piece in [1, 2, 5, 100] {
            let mut heard = Heard::default();
            let mut frames = WithoutFrames { sink: &mut heard, begin: Vec::new(), is_frame: None };
            let mut is_within = false;
            for piece in b"\\restrict aB3\nCREATE ROLE a;\n\n\\x\n\\unrestrict aB3\n".chunks(piece) {
                is_within = split(piece, is_within, &mut frames).unwrap();
            }
            assert_eq!(heard.0, ["CREATE ROLE a;", "", "\\x"], "{piece}");

            let (mut heard, mut line) = (Heard::default(), LineStart::default());
            for piece in b"1\ta\n\n\\.x\n\\\\.\n\\.\n\n\n".chunks(piece) {
                line.take(piece, &mut heard).unwrap();
            }
            assert_eq!(heard.0, ["1\ta", "", "\\.x", "\\\\."], "{piece}");
            assert!(line.end().is_ok());
        }
        let mut line = LineStart::default();
        line.take(b"1\ta\n", &mut Heard::default()).unwrap();
        assert!(line.end().is_err());
    }
}
