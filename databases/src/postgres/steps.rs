//! Runs a list of statements one by one on a server, and tells which of them failed and why.
//!
//! The statements go to the server as rows of a temporary table, which the server itself executes.
//! So no client tool parses them, they stand in no argv, and a server that logs statements does not
//! log the passwords in them. All of it is one transaction.

use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use lifeboat_base::{Error, Result};

use super::server::Server;
use super::sql::conninfo;
use crate::streams::Once;
use crate::tool::process::feed;

/// No more steps should be run in one transaction: what they change is locked to its end.
pub(crate) const MAX_STEPS: usize = 500;
/// No more is kept of what the server says about one statement.
const MAX_REASON_BYTES: usize = 500;
/// No more is read of what the server says about all of them.
const MAX_ANSWER_BYTES: usize = 16 << 20;
/// No more is kept of a line that it says besides.
const MAX_SAID_LINE_BYTES: usize = 2000;
/// No more warnings are kept.
const MAX_NOT_GIVEN: usize = 500;
/// How `psql` writes the codes of warnings that rights were not given, or not taken.
const NOT_GIVEN_CODES: [&str; 2] = [":  01007: ", ":  01006: "];

/// One statement.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Step {
    /// What it does, for people. It holds no secret.
    pub(crate) what: String,
    pub(crate) sql: Vec<u8>,
    /// What to run if that fails.
    pub(crate) otherwise: Option<Vec<u8>>,
    /// Whether nothing at all is done if it fails.
    pub(crate) needed: bool,
}

/// A statement that failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct StepFailure {
    /// Its place in the list.
    pub(crate) step: usize,
    /// Whether what was to be run otherwise worked.
    pub(crate) mended: bool,
    pub(crate) reason: String,
}

/// What came of steps of which none is needed.
#[derive(Debug, Default)]
pub(crate) struct StepsOutcome {
    pub(crate) failures: Vec<StepFailure>,
    /// Rights that the server did not give or take, although no step failed: it only warned.
    pub(crate) not_given: Vec<String>,
}

impl Step {
    /// A statement that may fail.
    pub(crate) fn new(what: String, sql: impl Into<Vec<u8>>) -> Self {
        Self { what, sql: sql.into(), otherwise: None, needed: false }
    }
}

const BEFORE: &str = "BEGIN;
CREATE TEMPORARY TABLE lifeboat_steps (n int, needed bool, what text, run text, otherwise text) ON COMMIT DROP;
CREATE TEMPORARY TABLE lifeboat_failures (n int, mended bool, reason text) ON COMMIT DROP;
COPY pg_temp.lifeboat_steps FROM STDIN;
";
const AFTER: &str = r"\.
DO $lifeboat$
DECLARE
    step record;
    mends bool;
    reason text;
BEGIN
    FOR step IN SELECT s.* FROM pg_temp.lifeboat_steps s ORDER BY s.n LOOP
        BEGIN
            EXECUTE step.run;
            CONTINUE;
        EXCEPTION WHEN OTHERS THEN
            reason := SQLERRM;
        END;
        mends := false;
        IF step.otherwise IS NOT NULL THEN
            BEGIN
                EXECUTE step.otherwise;
                mends := true;
            EXCEPTION WHEN OTHERS THEN
                reason := SQLERRM;
            END;
        END IF;
        IF step.needed AND NOT mends THEN
            RAISE EXCEPTION '%: %', step.what, reason;
        END IF;
        INSERT INTO pg_temp.lifeboat_failures VALUES (step.n, mends, reason);
    END LOOP;
END $lifeboat$;
SELECT f.n, f.mended, f.reason FROM pg_temp.lifeboat_failures f ORDER BY f.n;
COMMIT;
";

impl Server<'_> {
    /// Runs all steps in `database`; their text is in `encoding`. Returns those that failed.
    ///
    /// # Errors
    /// A step that is needed failed, or the server cannot be asked. Then nothing was done.
    pub(crate) async fn run_steps(&self, database: &str, steps: &[Step], encoding: &str) -> Result<Vec<StepFailure>> {
        self.run(database, steps, encoding, "terse", |_| {}).await
    }

    /// As [`Self::run_steps`], for steps of which none is needed. Also tells of what the server
    /// only warned.
    ///
    /// # Errors
    /// The server cannot be asked. Then nothing was done.
    pub(crate) async fn run_all(&self, database: &str, steps: &[Step], encoding: &str) -> Result<StepsOutcome> {
        let warned = Arc::new(Mutex::new(Vec::new()));
        let heard = warned.clone();
        let hear = move |line: &[u8]| {
            let mut all = heard.lock().unwrap_or_else(PoisonError::into_inner);
            if all.len() < MAX_NOT_GIVEN {
                all.extend(not_given(line));
            }
        };
        // Only then does it tell the code of a warning, which is the same in all languages.
        let failures = self.run(database, steps, encoding, "verbose", hear).await?;
        let not_given = std::mem::take(&mut *warned.lock().unwrap_or_else(PoisonError::into_inner));
        Ok(StepsOutcome { failures, not_given })
    }

    /// Runs all steps. `hear` gets each line that the server says besides its answers.
    async fn run(
        &self,
        database: &str,
        steps: &[Step],
        encoding: &str,
        verbosity: &str,
        mut hear: impl FnMut(&[u8]) + Send + 'static,
    ) -> Result<Vec<StepFailure>> {
        if steps.is_empty() {
            return Ok(Vec::new());
        }
        let mut script = BEFORE.as_bytes().to_vec();
        for (n, step) in steps.iter().enumerate() {
            script.extend(format!("{n}\t{}\t", step.needed).bytes());
            escape(step.what.as_bytes(), &mut script);
            script.push(b'\t');
            escape(&step.sql, &mut script);
            script.push(b'\t');
            match &step.otherwise {
                Some(sql) => escape(sql, &mut script),
                None => script.extend(br"\N"),
            }
            script.push(b'\n');
        }
        script.extend(AFTER.bytes());
        let (database, verbosity) = (conninfo(database), format!("VERBOSITY={verbosity}"));
        let arguments = [
            "-X",
            "-A",
            "-t",
            "-q",
            "-w",
            "-0",
            "-F",
            "\u{1f}",
            "-v",
            "ON_ERROR_STOP=1",
            "-v",
            &verbosity,
            "-f",
            "-",
            "-d",
            &database,
        ];
        let mut line = Vec::new();
        let watch = move |piece: &[u8]| {
            for byte in piece {
                if *byte == b'\n' {
                    hear(&line);
                    line.clear();
                } else if line.len() < MAX_SAID_LINE_BYTES {
                    line.push(*byte);
                }
            }
            piece.to_vec()
        };
        let psql = self.tool("psql", arguments).envs([("PGCLIENTENCODING", std::ffi::OsStr::new(encoding))]);
        let psql = psql.watched(watch);
        let mut answer = Vec::new();
        feed(psql, &mut Once(Some(Bytes::from(script))), |piece| {
            answer.extend_from_slice(piece);
            if answer.len() > MAX_ANSWER_BYTES {
                return Err(Error::source_failed("the server gave more answers than statements"));
            }
            Ok(())
        })
        .await?;
        let failures = answer.split(|byte| *byte == 0).filter_map(failure);
        Ok(failures.collect())
    }
}

/// What a warning says of rights that were not given or not taken.
fn not_given(line: &[u8]) -> Option<String> {
    let line = String::from_utf8_lossy(line);
    let said = NOT_GIVEN_CODES.iter().find_map(|code| line.split_once(code))?.1;
    Some(told(said))
}

/// What the server said, for people.
fn told(reason: &str) -> String {
    let end = reason.char_indices().map(|(at, _)| at).take_while(|at| *at <= MAX_REASON_BYTES).last();
    let reason = if reason.len() > MAX_REASON_BYTES { &reason[..end.unwrap_or_default()] } else { reason };
    reason.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

fn failure(row: &[u8]) -> Option<StepFailure> {
    let row = String::from_utf8_lossy(row);
    let mut fields = row.trim_start_matches('\n').splitn(3, '\u{1f}');
    let step = fields.next()?.parse().ok()?;
    let mended = fields.next()? == "t";
    let reason = told(fields.next()?);
    Some(StepFailure { step, mended, reason })
}

/// Writes a field of `COPY`.
fn escape(field: &[u8], out: &mut Vec<u8>) {
    for byte in field {
        match byte {
            b'\\' => out.extend(br"\\"),
            b'\n' => out.extend(br"\n"),
            b'\r' => out.extend(br"\r"),
            b'\t' => out.extend(br"\t"),
            byte => out.push(*byte),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_field_stays_on_its_line_and_in_its_column() {
        let mut out = Vec::new();
        escape(b"a\tb\nc\r\\.\n\\! x", &mut out);
        assert_eq!(out, br"a\tb\nc\r\\.\n\\! x");
    }

    #[test]
    fn rights_that_were_not_given_are_heard_in_any_language() {
        let said = not_given("psql:<stdin>:7: WARNUNG:  01007: es wurden keine Privilegien gewährt".as_bytes());
        assert_eq!(said.as_deref(), Some("es wurden keine Privilegien gewährt"));
        assert_eq!(not_given(b"psql:<stdin>:7: NOTICE:  00000: table has no rows"), None);
    }

    #[test]
    fn failures_are_read_as_psql_writes_them() {
        let row = "7\u{1f}t\u{1f}permission\ndenied\u{1f}x".as_bytes();
        let expected = StepFailure { step: 7, mended: true, reason: "permission denied x".to_owned() };
        assert_eq!(failure(row), Some(expected));
        assert_eq!(failure(b""), None);
    }
}
