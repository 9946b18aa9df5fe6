//! `trigger`: asks the daemon to back up now, and waits for its report.

use std::fmt;
use std::path::Path;

use lifeboat_engine::control;
use lifeboat_engine::format::id::Name;
use lifeboat_engine::{Class, Error, Result};
use serde::Serialize;
use serde_json::{Value, json};

use crate::exit;
use crate::human;
use crate::session::Session;
use crate::table::Plain;

/// Ask the daemon to back up a dataset or a group now, and wait for the result
///
/// A member of a group is backed up with its group: all members at one moment.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Name of the dataset or of the group
    dataset: Name,
}

/// The daemon's report, passed on as it came.
#[derive(Serialize)]
#[serde(transparent)]
struct Report(Value);

pub(crate) async fn run(args: &Args, session: &Session) -> Result<()> {
    let config = session.configuration()?;
    if !config.has(&args.dataset) {
        let datasets = config.datasets.iter().map(|dataset| dataset.name.as_str());
        let names: Vec<&str> = datasets.chain(config.groups.iter().map(|group| group.name.as_str())).collect();
        return Err(Error::usage(format!("the configuration has no dataset or group {}", args.dataset))
            .hint(format!("it has: {}", names.join(", "))));
    }
    ask_and_show(&config.control_socket, "trigger", &args.dataset, session).await
}

/// Asks the daemon for a run, waits for it, and shows its report.
pub(crate) async fn ask_and_show(socket: &Path, command: &str, dataset: &Name, session: &Session) -> Result<()> {
    let request = json!({ "command": command, "dataset": dataset });
    let answer = control::ask_and_tell(socket, &request, dataset, |line| session.out.note(line));
    let (report, _) = session.cancellable("waiting for lifeboatd (whose run goes on)", answer).await?;
    session.out.result(&Report(report.clone()))?;
    if let Some(error) = stopped(&report) {
        return Err(error);
    }
    match report["skipped"].as_array().map_or(0, Vec::len) {
        0 => Ok(()),
        lacking => Err(Error::new(
            Class::Partial,
            format!("the snapshot is partial: it lacks {}", human::count(lacking as u64, "database")),
        )
        .hint("read the warnings of the run to see why, and run it again once that is mended")),
    }
}

/// The error of a run that was committed, and after which not all could be deleted.
fn stopped(report: &Value) -> Option<Error> {
    let told = |field: &str| report["deletion_stopped"][field].as_str();
    let why = told("why")?;
    let class = told("class").map_or(Class::Failed, exit::class_of);
    let error = Error::new(class, "the snapshot was committed, but old ones stay, at least in part").because(why);
    Some(told("hint").into_iter().fold(error, Error::hint))
}

/// Sends the command and waits as long as the run takes.
pub(super) async fn ask(socket: &Path, command: &str, dataset: &Name) -> Result<Value> {
    Ok(control::ask(socket, &json!({ "command": command, "dataset": dataset })).await?.0)
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let report = &self.0;
        let bytes = |field: &str| report[field].as_u64().map(human::bytes).unwrap_or_default();
        let text = |field: &str| report[field].as_str().unwrap_or_default().to_owned();
        let mut facts = vec![
            ("dataset", text("dataset")),
            ("snapshot", text("snapshot")),
            ("took", report["duration_seconds"].as_f64().map(human::seconds).unwrap_or_default()),
            ("size", bytes("raw_bytes")),
            ("known before", bytes("deduplicated_bytes")),
            ("stored", bytes("stored_bytes")),
            ("group", text("group")),
            ("moment", text("moment")),
            ("views within", report["spread_seconds"].as_f64().map(human::seconds).unwrap_or_default()),
        ];
        for (member, snapshot) in report["snapshots"].as_object().into_iter().flatten() {
            facts.push(("snapshot", format!("{member} {}", snapshot.as_str().unwrap_or_default())));
        }
        for replica in report["replicas"].as_array().into_iter().flatten() {
            let name = replica["replica"].as_str().unwrap_or_default();
            let state = match replica["complete"].as_bool() {
                Some(true) => "complete".to_owned(),
                _ => format!("BEHIND: {}", replica["error"].as_str().unwrap_or("not complete")),
            };
            facts.push(("replica", format!("{name}: {state}")));
        }
        for warning in report["warnings"].as_array().into_iter().flatten() {
            facts.push(("warning", warning.as_str().unwrap_or_default().to_owned()));
        }
        facts.retain(|(_, value)| !value.is_empty());
        write!(f, "{}", Plain::facts(facts))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn a_report_is_shown_in_words_and_leaves_out_what_it_lacks() {
        let text = Report(json!({ "snapshot": "s1", "raw_bytes": 2048 })).to_string();
        assert!(text.contains("s1") && text.contains("2.0 KiB") && !text.contains("took"), "{text}");
    }
}
