//! What a tool said on its standard error, and what of it is told.
//!
//! Only the tail is kept. Errors go into logs and reports, so the statement that failed and its
//! row are left out: they may hold a password, or somebody's data. A message of the server can
//! still name a value, such as one that stands twice under a unique key.

use std::sync::{Arc, Mutex, PoisonError};

/// No more warnings of one tool are told.
const MAX_WARNINGS: usize = 20;
/// No more is kept of stderr.
const MAX_STDERR_BYTES: usize = 8 << 10;
/// After these marks tools repeat statements and rows, or what a server did not understand, …
const STATEMENT_MARKS: [&str; 4] =
    ["Command was:", "CONTEXT:", ", with args beginning with:", "for the right syntax to use near"];
/// … and between two of these lines, before what they say of it.
const STATEMENT_FENCE: &str = "\n--------------\n";

/// The tail of what a tool says. All clones are the same.
#[derive(Debug, Clone, Default)]
pub(super) struct Said(Arc<Mutex<Vec<u8>>>);

impl Said {
    /// Takes the next piece.
    pub(super) fn keep(&self, piece: &[u8]) {
        let mut tail = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        tail.extend_from_slice(piece);
        let excess = tail.len().saturating_sub(MAX_STDERR_BYTES);
        tail.drain(..excess);
    }

    fn text(&self) -> String {
        String::from_utf8_lossy(&self.0.lock().unwrap_or_else(PoisonError::into_inner)).into_owned()
    }

    /// The lines that warn, the same one only once, each with the `name` of the tool.
    pub(super) fn warnings(&self, name: &str) -> Vec<String> {
        let mut warnings: Vec<String> = Vec::new();
        for line in self.text().lines() {
            let Some((_, warning)) = line.split_once("warning: ") else { continue };
            let warning = format!("{name}: {}", warning.escape_debug());
            if warnings.len() < MAX_WARNINGS && !warnings.contains(&warning) {
                warnings.push(warning);
            }
        }
        warnings
    }

    /// What it said last, as one line, to be put behind an error. Without the statement that
    /// failed and its row.
    pub(super) fn told(&self) -> String {
        let text = self.text();
        let behind = text.rfind(STATEMENT_FENCE).map_or(0, |fence| fence + STATEMENT_FENCE.len());
        let text = &text[behind..];
        let end = STATEMENT_MARKS.iter().filter_map(|mark| text.find(mark)).min();
        let text = &text[..end.unwrap_or(text.len())];
        let clean: String = text.chars().map(|letter| if letter.is_control() { ' ' } else { letter }).collect();
        let clean = clean.split_whitespace().collect::<Vec<_>>().join(" ");
        if clean.is_empty() { String::new() } else { format!(", saying: {clean}") }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(said: &str) -> String {
        let tail = Said::default();
        said.as_bytes().chunks(4096).for_each(|piece| tail.keep(piece));
        tail.told()
    }

    #[test]
    fn of_a_statement_that_failed_nothing_is_told() {
        let whole =
            "--------------\nINSERT INTO t VALUES ('hunter2')\n--------------\n\nERROR 1180 (HY000) at line 3: no\n";
        assert_eq!(told(whole), ", saying: ERROR 1180 (HY000) at line 3: no");
        let long = format!(
            "--------------\nINSERT INTO t VALUES {}\n--------------\n\nERROR 1: no",
            "('hunter2'),".repeat(9000)
        );
        assert_eq!(told(&long), ", saying: ERROR 1: no");
        for said in [
            "psql: ERROR: no\nCONTEXT:  COPY t, line 1: hunter2",
            "pg_restore: ERROR: no\nCommand was: hunter2",
            "ERROR 1064 (42000) at line 3: no; check the manual for the right syntax to use near 'hunter2' at line 1",
        ] {
            assert!(told(said).contains("no") && !told(said).contains("hunter2"), "{}", told(said));
        }
        assert_eq!(told(" a\u{7}b\n c "), ", saying: a b c");
        assert_eq!(told("\n"), "");
    }

    #[test]
    fn a_warning_is_told_once_with_its_tool() {
        let said = Said::default();
        said.keep("x: warning: odd\nx: warning: odd\nx: error: no\n".as_bytes());
        assert_eq!(said.warnings("x"), ["x: odd"]);
    }
}
