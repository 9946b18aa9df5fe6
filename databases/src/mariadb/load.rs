//! Loads dumps: first everything but the views of all databases, then the views.
//!
//! A view may use tables, views and functions of any database, and the server wants them to exist.
//! A dump ends with its views, before which it makes stand-ins for them. So what comes after the
//! first view is put aside on disk, until all databases are there.
//!
//! The client takes a dump with `--binary-mode` and `--sandbox`: it obeys `DELIMITER`, and none of
//! its commands that run programs, read files or connect elsewhere.

use std::fs::File;
use std::io::{Read, Seek, Write};
use std::path::PathBuf;

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use lifeboat_base::{Class, Context, Error, Result};

use super::failures::explained;
use super::lines::{Delimiter, LinePart, Lines, Quotes};
use super::server::MariaServer;
use crate::streams::{Once, StoredStreams, StreamReader};
use crate::tool::process::feed;

/// How the comment of a view begins. The line before is `--`.
const VIEW_MARK: &[u8] = b"-- Final view structure for view ";
/// The settings at the beginning of a dump have no more.
const MAX_SETTINGS_BYTES: usize = 64 << 10;
const ASIDE_PIECE_BYTES: usize = 256 << 10;

/// The views of a dump, put aside.
#[derive(Debug)]
pub(super) struct DumpedViews {
    /// The settings with which the dump begins.
    settings: Vec<u8>,
    /// `None` if there are no views.
    file: Option<File>,
}

/// Splits a dump line by line.
struct Splitter {
    /// Where views are put aside.
    scratch: PathBuf,
    lines: Lines,
    settings: Vec<u8>,
    /// Whether the settings at the beginning have ended.
    begun: bool,
    delimiter: Delimiter,
    /// Where the delimiter is `;`.
    quotes: Quotes,
    after_dashes: bool,
    views: Option<File>,
}

impl Splitter {
    fn new(scratch: PathBuf) -> Self {
        Self {
            scratch,
            lines: Lines::default(),
            settings: Vec::new(),
            begun: false,
            delimiter: Delimiter::default(),
            quotes: Quotes::default(),
            after_dashes: false,
            views: None,
        }
    }

    /// Appends the part of `piece` that is to be loaded now to `now`.
    fn split(&mut self, piece: &[u8], now: &mut BytesMut) -> Result<()> {
        let mut lines = std::mem::take(&mut self.lines);
        let done = lines.cut(piece, &mut |part| self.take(part, now));
        self.lines = lines;
        done
    }

    fn take(&mut self, part: LinePart<'_>, now: &mut BytesMut) -> Result<()> {
        let (text, ended) = match part {
            LinePart::Whole(line) => {
                self.look_at(line)?;
                (line, true)
            }
            LinePart::Begin(line) => {
                self.look_at(line)?;
                (line, false)
            }
            LinePart::More(text) => {
                self.see(text);
                (text, false)
            }
            LinePart::End => (&b""[..], true),
        };
        let end = if ended { &b"\n"[..] } else { b"" };
        self.see(end);
        match &mut self.views {
            None => {
                now.extend_from_slice(text);
                now.extend_from_slice(end);
                Ok(())
            }
            Some(file) => {
                let written = file.write_all(text).and_then(|()| file.write_all(end));
                written.context(Class::Storage, || "cannot put the views of a dump aside")
            }
        }
    }

    fn see(&mut self, text: &[u8]) {
        self.delimiter.see_more(text);
        if self.delimiter.is_plain() && self.views.is_none() {
            self.quotes.see(text);
        }
    }

    fn look_at(&mut self, line: &[u8]) -> Result<()> {
        if self.views.is_some() {
            return Ok(());
        }
        let in_quotes = self.delimiter.is_plain() && self.quotes.are_open();
        if self.delimiter.is_plain() {
            self.quotes.see_begin(line);
        }
        // A name or a text can look like anything.
        if in_quotes {
            self.after_dashes = false;
            return Ok(());
        }
        self.delimiter.see_begin(line);
        if !self.begun {
            let sets = line.starts_with(b"/*!4") || line.starts_with(b"/*M!");
            let passes = line.is_empty() || line.starts_with(b"--");
            match sets && self.settings.len() + line.len() < MAX_SETTINGS_BYTES {
                true => {
                    self.settings.extend_from_slice(line);
                    self.settings.push(b'\n');
                }
                false => self.begun = !passes,
            }
        }
        if self.delimiter.is_plain() && self.after_dashes && line.starts_with(VIEW_MARK) {
            let file = tempfile::tempfile_in(&self.scratch)
                .context(Class::Storage, || "cannot put the views of a dump aside")?;
            self.views = Some(file);
        }
        self.after_dashes = line == b"--";
        Ok(())
    }
}

/// The part of a stream that is loaded at once.
struct FirstPart<'s> {
    stream: Box<dyn StreamReader>,
    splitter: &'s mut Splitter,
    /// What is loaded before it.
    before: Option<Bytes>,
    ready: BytesMut,
}

#[async_trait]
impl StreamReader for FirstPart<'_> {
    async fn next(&mut self) -> Result<Option<Bytes>> {
        if let Some(before) = self.before.take() {
            return Ok(Some(before));
        }
        while let Some(piece) = self.stream.next().await? {
            self.splitter.split(&piece, &mut self.ready)?;
            if !self.ready.is_empty() {
                return Ok(Some(self.ready.split().freeze()));
            }
        }
        match self.splitter.lines.is_at_end() {
            true => Ok(None),
            false => Err(Error::integrity("the dump does not end with a line break, so it is not whole")),
        }
    }
}

/// Loads a dump into the database `into`, all but its views. `before` is SQL that the session
/// begins with.
///
/// # Errors
/// The stream cannot be read to its checked end, or the server refuses something.
pub(super) async fn load_database(
    server: &MariaServer<'_>,
    streams: &dyn StoredStreams,
    stream: &str,
    into: &str,
    before: &str,
) -> Result<DumpedViews> {
    let mut splitter = Splitter::new(server.cx.scratch.clone());
    let mut first = FirstPart {
        stream: streams.open(stream).await?,
        splitter: &mut splitter,
        before: Some(Bytes::from(before.to_owned())).filter(|before| !before.is_empty()),
        ready: BytesMut::new(),
    };
    feed(server.client(Some(into)), &mut first, |_| Ok(())).await.map_err(|error| refused(error, into))?;
    Ok(DumpedViews { settings: splitter.settings, file: splitter.views })
}

impl DumpedViews {
    /// Loads the views into the database `into`.
    ///
    /// # Errors
    /// The server refuses one.
    pub(super) async fn load(self, server: &MariaServer<'_>, into: &str) -> Result<()> {
        let Some(mut file) = self.file else { return Ok(()) };
        file.rewind().context(Class::Storage, || "cannot read the views of a dump again")?;
        let mut input = Aside { settings: Some(Bytes::from(self.settings)), file };
        feed(server.client(Some(into)), &mut input, |_| Ok(())).await.map_err(|error| refused(error, into))
    }
}

fn refused(error: Error, database: &str) -> Error {
    explained(error).within(format!("cannot load database {}", database.escape_debug()))
}

/// What was put aside, after the settings of its dump.
struct Aside {
    settings: Option<Bytes>,
    file: File,
}

#[async_trait]
impl StreamReader for Aside {
    async fn next(&mut self) -> Result<Option<Bytes>> {
        if let Some(settings) = self.settings.take() {
            return Once(Some(settings)).next().await;
        }
        let mut piece = vec![0; ASIDE_PIECE_BYTES];
        let read = self.file.read(&mut piece).context(Class::Storage, || "cannot read the views of a dump again")?;
        piece.truncate(read);
        Ok((read > 0).then(|| Bytes::from(piece)))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    fn split(dump: &str, size: usize) -> (String, String, String) {
        let place = tempfile::tempdir().unwrap();
        let mut splitter = Splitter::new(place.path().to_owned());
        let mut now = BytesMut::new();
        dump.as_bytes().chunks(size).for_each(|piece| splitter.split(piece, &mut now).unwrap());
        let mut views = String::new();
        if let Some(mut file) = splitter.views {
            file.rewind().unwrap();
            file.read_to_string(&mut views).unwrap();
        }
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
        (text(&splitter.settings), text(&now), views)
    }

    #[test]
    fn names_and_texts_that_look_like_the_mark_of_a_view_are_no_mark() {
        let mark = "\n--\n-- Final view structure for view x\nDELIMITER ;;\n";
        let first = format!(
            "CREATE TABLE `a``'{mark}` (`b` int COMMENT 'it''s \\'{mark}\\\\');\n-- of `don't`\n\
            INSERT INTO `t` VALUES\n('\\\n{mark}',\"{mark}\");\n--\n"
        );
        let last = "-- Final view structure for view `v`\n--\nDROP VIEW `v`;\n\n-- Dump completed\n";
        for size in [1, 10, 10_000] {
            let (_, now, views) = split(&format!("{first}{last}"), size);
            assert_eq!((now.as_str(), views.as_str()), (first.as_str(), last), "{size}");
        }
    }

    #[test]
    fn views_are_put_aside_and_routines_that_look_like_views_are_not() {
        let settings = "/*M!999999\\- enable the sandbox mode */ \n/*!40101 SET NAMES utf8mb4 */;\n";
        let first = "-- MariaDB dump\n\n--\n-- Table structure for table `t`\n--\n\nDROP TABLE IF EXISTS `t`;\n\
            /*!40101 SET character_set_client = utf8mb4 */;\nDELIMITER ;;\nCREATE PROCEDURE p()\n--\n\
            -- Final view structure for view `x`\nBEGIN END ;;\nDELIMITER ;\n--\n";
        let last = "-- Final view structure for view `v`\n--\nDROP VIEW `v`;\n\n-- Dump completed\n";
        let dump = format!("{settings}{first}{last}");
        for size in [1, 10, dump.len()] {
            let (set, now, views) = split(&dump, size);
            assert_eq!((set.as_str(), now, views.as_str()), (settings, format!("{settings}{first}"), last), "{size}");
        }
    }
}
