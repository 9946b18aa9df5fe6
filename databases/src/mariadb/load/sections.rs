//! The sections of a dump: which of its lines are settings, sequences, a table, routines or views.
//!
//! A section begins after a line `--` with a comment that names it. Names, texts, and bodies of
//! routines can hold lines that look like that, so a comment counts only between two statements.

use lifeboat_base::Result;

use crate::mariadb::lines::{LinePart, Lines};
use crate::mariadb::statements::DumpStatements;

const SEQUENCE_MARK: &[u8] = b"-- Sequence structure for ";
/// A stand-in for a view is a table for its users, until the view is made.
const TABLE_MARKS: [&[u8]; 2] = [b"-- Table structure for table ", b"-- Temporary table structure for view "];
const ROUTINE_MARKS: [&[u8]; 2] = [b"-- Dumping events for database ", b"-- Dumping routines for database "];
const VIEW_MARK: &[u8] = b"-- Final view structure for view ";
/// How the settings begin that a dump's session starts with.
const SETTING_BEGINS: [&[u8]; 2] = [b"/*!4", b"/*M!"];
/// They have no more.
const MAX_SETTINGS_BYTES: usize = 64 << 10;

/// Where a line belongs. They come in this order.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum DumpPlace {
    /// Settings of the session that loads the dump, and comments.
    #[default]
    Settings,
    /// Sequences, which the defaults of tables may use.
    Sequences,
    /// The table of this number, from 0: its definition, rows and triggers.
    Table(u64),
    /// Events and routines.
    Routines,
    /// Views, and what ends the dump.
    Views,
}

/// Follows a dump, piece by piece.
#[derive(Debug, Default)]
pub(super) struct Sections {
    lines: Lines,
    place: DumpPlace,
    /// Followed up to the views.
    statements: DumpStatements,
    after_dashes: bool,
    settings: Vec<u8>,
    /// Whether something else than settings came before the first section.
    does_more: bool,
}

impl Sections {
    /// What somebody may have written to mislead whoever loads the dump, if there was any.
    pub(super) fn odd(&self) -> Option<&'static str> {
        self.statements.odd()
    }

    /// Gives each line of `piece`, or each part of a long one, with its place, and then its line
    /// break.
    ///
    /// # Errors
    /// The first of `each`.
    pub(super) fn cut(&mut self, piece: &[u8], each: &mut impl FnMut(DumpPlace, &[u8]) -> Result<()>) -> Result<()> {
        let mut lines = std::mem::take(&mut self.lines);
        let done = lines.cut(piece, &mut |part| match part {
            LinePart::Whole(line) => {
                self.begin(line, true);
                self.follow(|statements| statements.see_line(line));
                each(self.place, line)?;
                each(self.place, b"\n")
            }
            LinePart::Begin(line) => {
                self.begin(line, false);
                self.follow(|statements| statements.see(line));
                each(self.place, line)
            }
            LinePart::More(more) => {
                self.follow(|statements| statements.see(more));
                each(self.place, more)
            }
            LinePart::End => {
                self.follow(DumpStatements::end_line);
                each(self.place, b"\n")
            }
        });
        self.lines = lines;
        done
    }

    /// Whether the last line has its line break.
    pub(super) fn is_at_end(&self) -> bool {
        self.lines.is_at_end()
    }

    pub(super) fn place(&self) -> DumpPlace {
        self.place
    }

    /// The settings at the beginning, a line each.
    pub(super) fn settings(&self) -> &[u8] {
        &self.settings
    }

    /// Whether they are all that came before the first section.
    pub(super) fn knows_settings(&self) -> bool {
        !self.does_more
    }

    fn follow(&mut self, see: impl FnOnce(&mut DumpStatements)) {
        if self.place != DumpPlace::Views {
            see(&mut self.statements);
        }
    }

    fn begin(&mut self, line: &[u8], is_whole: bool) {
        let is_between = self.statements.is_between();
        if is_between && std::mem::take(&mut self.after_dashes) {
            self.place = self.place.at(line);
        }
        self.after_dashes = is_between && line == b"--";
        if self.place == DumpPlace::Settings && !line.is_empty() && !line.starts_with(b"--") {
            let sets =
                is_whole && self.statements.is_outside() && SETTING_BEGINS.iter().any(|begin| line.starts_with(begin));
            match sets && self.settings.len() + line.len() < MAX_SETTINGS_BYTES {
                true => self.settings.extend(line.iter().chain(b"\n")),
                false => self.does_more = true,
            }
        }
    }
}

impl DumpPlace {
    /// The place of a line that may be a mark. No place comes again.
    fn at(self, line: &[u8]) -> Self {
        let is = |mark: &&[u8]| line.starts_with(mark);
        match self {
            Self::Settings if is(&SEQUENCE_MARK) => Self::Sequences,
            Self::Settings | Self::Sequences if TABLE_MARKS.iter().any(is) => Self::Table(0),
            Self::Table(number) if TABLE_MARKS.iter().any(is) => Self::Table(number + 1),
            Self::Settings | Self::Sequences | Self::Table(_) if ROUTINE_MARKS.iter().any(is) => Self::Routines,
            _ if is(&VIEW_MARK) => Self::Views,
            other => other,
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    /// The dump, place by place.
    fn cut(dump: &str, size: usize) -> (Vec<(DumpPlace, String)>, Sections) {
        let (mut found, mut sections): (Vec<(DumpPlace, Vec<u8>)>, _) = (Vec::new(), Sections::default());
        for piece in dump.as_bytes().chunks(size) {
            let each = &mut |place, text: &[u8]| {
                match found.last_mut() {
                    Some((last, before)) if *last == place => before.extend_from_slice(text),
                    _ => found.push((place, text.to_vec())),
                }
                Ok(())
            };
            sections.cut(piece, each).unwrap();
        }
        (found.into_iter().map(|(place, text)| (place, String::from_utf8(text).unwrap())).collect(), sections)
    }

    #[test]
    fn each_line_of_a_dump_has_its_place() {
        let parts = [
            (
                DumpPlace::Settings,
                "/*M!999999\\- enable the sandbox mode */ \n-- MariaDB dump\n\n/*!40101 SET NAMES utf8mb4 */;\n--\n",
            ),
            (DumpPlace::Sequences, "-- Sequence structure for `s`\n--\nCREATE SEQUENCE `s`;\n--\n"),
            (
                DumpPlace::Table(0),
                "-- Table structure for table `a`\n--\nCREATE TABLE `a` (`n` int);\n--\n-- Dumping data for table `a`\n--\n",
            ),
            (DumpPlace::Table(1), "-- Temporary table structure for view `v`\n--\nCREATE VIEW `v` AS SELECT 1;\n--\n"),
            (DumpPlace::Table(2), "-- Table structure for table `z`\n--\n--\n-- Sequence structure for `z`\n--\n"),
            (
                DumpPlace::Routines,
                "-- Dumping events for database 'd'\n--\n--\n-- Dumping routines for database 'd'\n--\n\
                DELIMITER ;;\nCREATE PROCEDURE p()\n--\n-- Final view structure for view `x`\n--\n-- Table structure for table `x`\nBEGIN END ;;\n\
                DELIMITER ;\n--\n-- Table structure for table `late`\n--\n",
            ),
            (
                DumpPlace::Views,
                "-- Final view structure for view `v`\n--\nDROP VIEW `v`;\n--\n-- Table structure for table `x`\n\n-- Dump completed\n",
            ),
        ];
        let whole: String = parts.iter().map(|(_, text)| *text).collect();
        for size in [1, 10, whole.len()] {
            let (found, sections) = cut(&whole, size);
            assert_eq!(found, parts.map(|(place, text)| (place, text.to_owned())), "{size}");
            assert!(sections.knows_settings() && sections.is_at_end() && sections.place() == DumpPlace::Views);
            let settings = "/*M!999999\\- enable the sandbox mode */ \n/*!40101 SET NAMES utf8mb4 */;\n";
            assert_eq!(sections.settings(), settings.as_bytes());
        }
        let (_, sections) = cut("/*!40101 SET NAMES utf8mb4 */;\nSET GLOBAL x = 1;\n--\n", 7);
        assert!(!sections.knows_settings());
    }

    #[test]
    fn names_and_texts_that_look_like_marks_are_none() {
        for mark in
            ["Final view structure for view x", "Table structure for table x", "Dumping events for database 'x'"]
        {
            let mark = format!("\n--\n-- {mark}\nDELIMITER ;;\n");
            let table = format!(
                "-- Table structure for table `a`\n--\nCREATE TABLE `a``'{mark}` (`b` int COMMENT 'it''s \\'{mark}\\\\');\n\
                -- of `don't`\nINSERT INTO `t` VALUES\n('\\\n{mark}',\"{mark}\");\n--\n"
            );
            let views = "-- Final view structure for view `v`\n--\nDROP VIEW `v`;\n\n-- Dump completed\n";
            for size in [1, 10, 10_000] {
                let (found, _) = cut(&format!("--\n{table}{views}"), size);
                let expected =
                    [(DumpPlace::Settings, "--\n"), (DumpPlace::Table(0), &table), (DumpPlace::Views, views)];
                assert_eq!(found, expected.map(|(place, text)| (place, text.to_owned())), "{size}");
            }
        }
    }
}
