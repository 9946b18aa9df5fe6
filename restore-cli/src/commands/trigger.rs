//! `trigger`: asks the daemon to back up now, and waits for its report.
//!
//! The protocol is one line of JSON each way over the daemon's control socket.

use std::fmt;
use std::path::Path;
use std::time::Duration;

use lifeboat_engine::format::id::Name;
use lifeboat_engine::{Class, Error, Result};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;

use crate::exit;
use crate::human;
use crate::session::Session;
use crate::table::Plain;

const LONGEST_ANSWER: u64 = 1 << 20;
/// Who has waited for so long is told for what.
const TELLS_AFTER: Duration = Duration::from_secs(3);

/// Ask the daemon to back up a dataset now, and wait for the result
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Name of the dataset
    dataset: Name,
}

#[derive(Deserialize)]
struct Answer {
    ok: bool,
    report: Option<Value>,
    summary: Option<String>,
    error: Option<String>,
    class: Option<String>,
    hint: Option<String>,
}

/// The daemon's report, passed on as it came.
#[derive(Serialize)]
#[serde(transparent)]
struct Report(Value);

pub(crate) async fn run(args: &Args, session: &Session) -> Result<()> {
    let config = session.configuration()?;
    if config.dataset(&args.dataset).is_none() {
        let names: Vec<&str> = config.datasets.iter().map(|dataset| dataset.name.as_str()).collect();
        return Err(Error::usage(format!("the configuration has no dataset {}", args.dataset))
            .hint(format!("it has: {}", names.join(", "))));
    }
    ask_and_show(&config.control_socket, "trigger", &args.dataset, session).await
}

/// Asks the daemon for a run, waits for it, and shows its report.
pub(crate) async fn ask_and_show(socket: &Path, command: &str, dataset: &Name, session: &Session) -> Result<()> {
    let answer = async {
        let answer = ask(socket, command, dataset);
        tokio::pin!(answer);
        tokio::select! {
            answer = &mut answer => return answer,
            () = tokio::time::sleep(TELLS_AFTER) => {}
        }
        let told = tokio::time::timeout(TELLS_AFTER, standing(socket, dataset)).await.unwrap_or_default();
        for line in &told {
            session.out.note(line);
        }
        session.out.note("the answer comes when the backup has ended; Ctrl-C ends only the waiting");
        answer.await
    };
    let report = session.cancellable("waiting for lifeboatd (whose run goes on)", answer).await?;
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

/// How the backup of `dataset` stands, and what it waits for, in the words of the daemon. Empty if
/// nobody knows.
async fn standing(socket: &Path, dataset: &Name) -> Vec<String> {
    let Ok(answer) = converse(socket, &json!({ "command": "status" })).await else { return Vec::new() };
    let summary = serde_json::from_str::<Answer>(&answer).ok().and_then(|answer| answer.summary).unwrap_or_default();
    let starts = [
        format!("backing up {dataset} for "),
        format!("dataset {dataset}: a backup "),
        format!("dataset {dataset}: is backed up, and prunes "),
    ];
    let own: Vec<&str> =
        summary.lines().filter(|line| starts.iter().any(|start| line.starts_with(start.as_str()))).collect();
    // What waits for a place waits for these.
    let waits_for_place = own.iter().any(|line| line.contains("for a place"));
    let others = summary.lines().filter(|line| waits_for_place && line.starts_with("backing up "));
    own.iter().copied().chain(others).map(str::to_owned).collect()
}

/// Sends the command and waits as long as the run takes.
pub(super) async fn ask(socket: &Path, command: &str, dataset: &Name) -> Result<Value> {
    let what = format!("the backup of {dataset}");
    interpret(&converse(socket, &json!({ "command": command, "dataset": dataset })).await?, &what)
}

/// The daemon's answer to `status`.
pub(super) async fn ask_status(socket: &Path) -> Result<Value> {
    interpret(&converse(socket, &json!({ "command": "status" })).await?, "the status")
}

/// Sends one request, and returns the answer.
async fn converse(socket: &Path, request: &Value) -> Result<String> {
    let unreachable = |error: std::io::Error| {
        Error::failed(format!("lifeboatd does not answer on {}", socket.display())).because(error).hint(
            "run `systemctl start lifeboatd`, and run this as root or as a member of the daemon's group; or back up without it: `lifeboatd --once`",
        )
    };
    let mut stream = UnixStream::connect(socket).await.map_err(unreachable)?;
    let line = format!("{request}\n");
    stream.write_all(line.as_bytes()).await.map_err(unreachable)?;
    let mut answer = String::new();
    BufReader::new(stream.take(LONGEST_ANSWER)).read_line(&mut answer).await.map_err(unreachable)?;
    if answer.is_empty() {
        return Err(Error::failed("lifeboatd closed the connection without an answer")
            .hint("lifeboatd stopped or aborted the run; read its log"));
    }
    Ok(answer)
}

fn interpret(answer: &str, what: &str) -> Result<Value> {
    let answer: Answer = serde_json::from_str(answer).map_err(|error| {
        Error::failed("lifeboatd sent an answer that this program does not understand")
            .because(error)
            .hint("install the same version of lifeboat and lifeboatd")
    })?;
    if answer.ok {
        return Ok(answer.report.unwrap_or(Value::Null));
    }
    let class = answer.class.as_deref().map_or(Class::Failed, exit::class_of);
    let message = answer.error.unwrap_or_else(|| format!("{what} failed"));
    let error = Error::new(class, message);
    Err(match answer.hint {
        Some(hint) => error.hint(hint),
        None => error,
    })
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
        ];
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
    use tokio::net::UnixListener;

    fn shop() -> Name {
        "shop".parse().unwrap()
    }

    #[tokio::test]
    async fn asks_over_the_socket_and_passes_the_report_on() {
        let place = tempfile::tempdir().unwrap();
        let socket = place.path().join("control.sock");
        let listener = UnixListener::bind(&socket).unwrap();
        let daemon = tokio::spawn(async move {
            let (stream, _) = listener.accept().await.unwrap();
            let mut stream = BufReader::new(stream);
            let mut line = String::new();
            stream.read_line(&mut line).await.unwrap();
            stream.write_all(b"{\"ok\":true,\"report\":{\"snapshot\":\"s1\",\"raw_bytes\":2048}}\n").await.unwrap();
            line
        });
        let report = ask(&socket, "trigger", &shop()).await.unwrap();
        assert_eq!(daemon.await.unwrap(), "{\"command\":\"trigger\",\"dataset\":\"shop\"}\n");
        let text = Report(report).to_string();
        assert!(text.contains("s1") && text.contains("2.0 KiB") && !text.contains("took"), "{text}");
    }

    #[tokio::test]
    async fn who_waits_is_told_for_what() {
        let place = tempfile::tempdir().unwrap();
        let socket = place.path().join("control.sock");
        let listener = UnixListener::bind(&socket).unwrap();
        let summary = "backing up wiki for 2m: 1 GiB read\ndataset shop: a backup waits for a place (an operator asked)\n\
            dataset shop: never backed up, next soon\ndataset wiki: never backed up, not scheduled\nreplica a: up";
        let daemon = tokio::spawn(async move {
            let (stream, _) = listener.accept().await.unwrap();
            let mut stream = BufReader::new(stream);
            let mut line = String::new();
            stream.read_line(&mut line).await.unwrap();
            let answer = json!({ "ok": true, "report": {}, "summary": summary });
            stream.write_all(format!("{answer}\n").as_bytes()).await.unwrap();
            line
        });
        let told = standing(&socket, &shop()).await;
        assert_eq!(daemon.await.unwrap(), "{\"command\":\"status\"}\n");
        let expected =
            ["dataset shop: a backup waits for a place (an operator asked)", "backing up wiki for 2m: 1 GiB read"];
        assert_eq!(told, expected);
        assert!(standing(&place.path().join("none"), &shop()).await.is_empty());
    }

    #[tokio::test]
    async fn a_daemon_that_is_away_or_hangs_up_is_a_clear_error() {
        let place = tempfile::tempdir().unwrap();
        let socket = place.path().join("control.sock");
        let error = ask(&socket, "trigger", &shop()).await.unwrap_err();
        assert!(error.hint_text().unwrap().contains("systemctl start lifeboatd"));
        let listener = UnixListener::bind(&socket).unwrap();
        tokio::spawn(async move {
            let (stream, _) = listener.accept().await.unwrap();
            BufReader::new(stream).read_line(&mut String::new()).await.unwrap();
        });
        let error = ask(&socket, "trigger", &shop()).await.unwrap_err();
        assert!(error.message().contains("without an answer"), "{error:?}");
    }

    #[test]
    fn a_failed_run_keeps_the_class_and_hint_of_the_daemon() {
        let answer = r#"{"ok":false,"error":"replica north: full","class":"storage","hint":"make room"}"#;
        let error = interpret(answer, "the backup of shop").unwrap_err();
        assert_eq!((error.class(), error.hint_text()), (Class::Storage, Some("make room")));
        assert!(interpret("garbage", "it").is_err());
        assert_eq!(interpret(r#"{"ok":false}"#, "it").unwrap_err().class(), Class::Failed);
    }
}
