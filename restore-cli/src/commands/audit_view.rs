//! How logs read: one row for each record, one for each log that was checked.

use std::collections::BTreeMap;
use std::fmt;

use chrono::{DateTime, Utc};
use lifeboat_engine::format::id::{Digest, Name};
use lifeboat_engine::format::log::split_record;
use lifeboat_engine::log::{Audit, LoggedRecord};
use lifeboat_engine::{Error, Result};
use serde::Serialize;
use serde_json::{Map, Value};

use crate::human;
use crate::table::Plain;

/// A record.
#[derive(Serialize)]
pub(super) struct RecordRow {
    log: String,
    number: u64,
    blake3: Digest,
    time: DateTime<Utc>,
    /// What it records, as it is written, also by a newer program.
    event: Map<String, Value>,
    why: Option<String>,
}

impl RecordRow {
    pub(super) fn of(found: &LoggedRecord) -> Result<Self> {
        let record = &found.record;
        let line = split_record(&found.stored).map_or(&found.stored[..], |(line, _)| line);
        let mut told: Value =
            serde_json::from_slice(line).map_err(|error| Error::integrity("a record is damaged").because(error))?;
        let event = told.get_mut("event").and_then(Value::as_object_mut).map(std::mem::take).unwrap_or_default();
        let (log, why) = (record.log().to_string(), record.why.clone());
        Ok(Self { log, number: record.number, blake3: found.hash(), time: record.time, event, why })
    }

    /// Whether a dataset has a part in it.
    pub(super) fn is_about(&self, dataset: &Name) -> bool {
        self.event.get("dataset").and_then(Value::as_str) == Some(dataset.as_str())
    }

    fn what(&self) -> String {
        let text = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        let what = self.event.get("what").map(text).unwrap_or_default();
        let fields = self.event.iter().filter(|(name, value)| *name != "what" && **value != Value::Bool(false));
        let fields: Vec<String> = fields.map(|(name, value)| format!("{name} {}", text(value))).collect();
        if fields.is_empty() { what } else { format!("{what}: {}", fields.join(", ")) }
    }
}

/// Records of all logs.
#[derive(Serialize)]
pub(super) struct Records {
    records: Vec<RecordRow>,
}

impl Records {
    pub(super) fn sorted(mut records: Vec<RecordRow>) -> Self {
        records.sort_by(|one, other| (one.time, &one.log, one.number).cmp(&(other.time, &other.log, other.number)));
        Self { records }
    }
}

impl fmt::Display for Records {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut table = Plain::new(&["TIME", "LOG", ">NUMBER", "WHAT", "WHY"]);
        for row in &self.records {
            let why = row.why.clone().unwrap_or_default();
            table.row([human::time(row.time), row.log.clone(), row.number.to_string(), row.what(), why]);
        }
        write!(f, "{table}")
    }
}

/// What a check found.
#[derive(Serialize)]
pub(super) struct AuditReport {
    logs: Vec<LogRow>,
    findings: Vec<String>,
    /// What could not be looked at.
    doubts: Vec<String>,
    notes: Vec<String>,
}

#[derive(Serialize)]
struct LogRow {
    log: String,
    records: u64,
    /// `KIND/NAME=NUMBER:HASH`.
    head: Option<String>,
}

impl AuditReport {
    /// `unopened` are replicas that were not looked at, and why.
    pub(super) fn of(audit: Audit, unopened: &BTreeMap<Name, String>) -> Self {
        let row = |log: lifeboat_engine::log::AuditedLog| LogRow {
            log: log.log.to_string(),
            records: log.records,
            head: log.head.map(|head| head.to_string()),
        };
        let unopened = unopened
            .iter()
            .map(|(name, why)| format!("replica {name} is not looked at: {}", human::without_name(name, why)));
        let doubts = unopened.chain(audit.doubts).collect();
        let logs = audit.logs.into_iter().map(row).collect();
        Self { logs, findings: audit.findings, doubts, notes: audit.notes }
    }

    /// The error of logs with findings, or that could not be looked at whole.
    pub(super) fn verdict(&self) -> Result<()> {
        if self.findings.is_empty() {
            return match self.doubts.first() {
                None => Ok(()),
                Some(_) => Err(Error::storage("not all records could be looked at, see above")
                    .hint("mend the replica, or the right to read below log/, and run it again")),
            };
        }
        let found = human::count(self.findings.len() as u64, "finding");
        Err(Error::integrity(format!("the logs are not as they were written: {found}, see above"))
            .hint("see OPERATIONS.md, \"Somebody's log is shorter\""))
    }
}

impl fmt::Display for AuditReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut table = Plain::new(&["LOG", ">RECORDS", "NEWEST, FOR --head"]);
        for row in &self.logs {
            table.row([row.log.clone(), row.records.to_string(), row.head.clone().unwrap_or_default()]);
        }
        write!(f, "{table}")?;
        for (word, lines) in [("note", &self.notes), ("not looked at", &self.doubts), ("FOUND", &self.findings)] {
            for line in lines {
                write!(f, "\n{word}: {}", lifeboat_engine::base::escape::line(line))?;
            }
        }
        if self.findings.is_empty() && self.doubts.is_empty() {
            write!(f, "\nEvery record follows the one before it, and none is missing.")?;
        }
        Ok(())
    }
}
