//! Runs a list of statements one by one on a server, and tells which of them failed and why.
//!
//! The statements go to the server as rows of a temporary table, which the server itself executes.
//! So no client tool parses them, they stand in no argv, and a server that logs statements does not
//! log the passwords in them. All of it is one transaction.

use bytes::Bytes;
use lifeboat_base::{Error, Result};

use super::server::Server;
use super::sql::conninfo;
use crate::streams::Once;
use crate::tool::process::feed;

/// No more is kept of what the server says about one statement.
const MAX_REASON_BYTES: usize = 500;
/// No more is read of what the server says about all of them.
const MAX_ANSWER_BYTES: usize = 16 << 20;

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
        let database = conninfo(database);
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
            "VERBOSITY=terse",
            "-f",
            "-",
            "-d",
            &database,
        ];
        let psql = self.tool("psql", arguments).envs([("PGCLIENTENCODING", std::ffi::OsStr::new(encoding))]);
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

fn failure(row: &[u8]) -> Option<StepFailure> {
    let row = String::from_utf8_lossy(row);
    let mut fields = row.trim_start_matches('\n').splitn(3, '\u{1f}');
    let step = fields.next()?.parse().ok()?;
    let mended = fields.next()? == "t";
    let reason = fields.next()?;
    let end = reason.char_indices().map(|(at, _)| at).take_while(|at| *at <= MAX_REASON_BYTES).last();
    let reason = if reason.len() > MAX_REASON_BYTES { &reason[..end.unwrap_or_default()] } else { reason };
    let reason = reason.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
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
    fn failures_are_read_as_psql_writes_them() {
        let row = "7\u{1f}t\u{1f}permission\ndenied\u{1f}x".as_bytes();
        let expected = StepFailure { step: 7, mended: true, reason: "permission denied x".to_owned() };
        assert_eq!(failure(row), Some(expected));
        assert_eq!(failure(b""), None);
    }
}
