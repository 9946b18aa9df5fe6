//! The client's side of the daemon's control socket: one line of JSON each way.
//!
//! Whoever waits for a run is told after three seconds what the run waits for. The daemon answers
//! when the run has ended; to stop asking ends the waiting, and not the run.

use std::path::Path;
use std::time::Duration;

use lifeboat_base::{Class, Error, Result};
use lifeboat_format::id::Name;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;

/// A longer answer is none.
const MAX_ANSWER_BYTES: u64 = 1 << 20;
/// Who has waited for so long is told for what.
const TELLS_AFTER: Duration = Duration::from_secs(3);

/// What the daemon answers.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Answer {
    /// Whether it did what was asked.
    pub ok: bool,
    /// What it reports.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub report: Option<Value>,
    /// The report in words.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub summary: Option<String>,
    /// Why it failed, with all causes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// As [`Class::as_str`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub class: Option<String>,
    /// What to do next.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
}

impl Answer {
    /// The answer to what succeeded: a report, and the same in words.
    pub fn good(report: &impl Serialize, summary: String) -> Self {
        match serde_json::to_value(report) {
            Ok(report) => Self { ok: true, report: Some(report), summary: Some(summary), ..Self::default() },
            Err(error) => Error::failed("cannot write the report").because(error).into(),
        }
    }

    /// The answer as the client takes it: the report, and the same in words.
    ///
    /// # Errors
    /// What the daemon answered.
    pub fn into_result(self) -> Result<(Value, String)> {
        if self.ok {
            return Ok((self.report.unwrap_or_default(), self.summary.unwrap_or_default()));
        }
        let class = self.class.and_then(|word| Class::of_word(&word)).unwrap_or(Class::Failed);
        let error = Error::new(class, self.error.unwrap_or_else(|| "lifeboatd refused".to_owned()));
        Err(self.hint.into_iter().fold(error, Error::hint))
    }
}

impl From<Error> for Answer {
    fn from(error: Error) -> Self {
        Self {
            error: Some(error.chain()),
            class: Some(error.class().as_str().to_owned()),
            hint: error.hint_text().map(str::to_owned),
            ..Self::default()
        }
    }
}

impl<R: Into<Answer>> From<Result<R>> for Answer {
    fn from(result: Result<R>) -> Self {
        result.map_or_else(Self::from, R::into)
    }
}

/// Asks the daemon, and waits as long as its answer takes.
///
/// # Errors
/// The daemon does not answer, or it answered with an error.
pub async fn ask(socket: &Path, request: &impl Serialize) -> Result<(Value, String)> {
    let unreachable = |error: std::io::Error| {
        Error::failed(format!("lifeboatd does not answer on {}", socket.display())).because(error).hint(
            "run `systemctl start lifeboatd`, and run this as root or as a member of the daemon's group; or back up without it: `lifeboatd --once`",
        )
    };
    let mut line = serde_json::to_vec(request).map_err(|error| Error::failed("cannot ask").because(error))?;
    line.push(b'\n');
    let mut stream = UnixStream::connect(socket).await.map_err(unreachable)?;
    stream.write_all(&line).await.map_err(unreachable)?;
    let mut answer = String::new();
    BufReader::new(stream.take(MAX_ANSWER_BYTES)).read_line(&mut answer).await.map_err(unreachable)?;
    if answer.is_empty() {
        return Err(Error::failed("lifeboatd closed the connection without an answer")
            .hint("lifeboatd stopped or aborted the run; read its log"));
    }
    let answer: Answer = serde_json::from_str(&answer).map_err(|error| {
        Error::failed("lifeboatd sent an answer that this program does not understand")
            .because(error)
            .hint("install the same version of lifeboat and lifeboatd, and restart lifeboatd")
    })?;
    answer.into_result()
}

/// As [`ask`], for a backup of `dataset`: lines for people who wait long go to `tell`.
///
/// # Errors
/// As [`ask`].
pub async fn ask_and_tell(
    socket: &Path,
    request: &impl Serialize,
    dataset: &Name,
    tell: impl Fn(&str),
) -> Result<(Value, String)> {
    let answer = ask(socket, request);
    tokio::pin!(answer);
    tokio::select! {
        answer = &mut answer => return answer,
        () = tokio::time::sleep(TELLS_AFTER) => {}
    }
    let told = tokio::time::timeout(TELLS_AFTER, standing(socket, dataset)).await.unwrap_or_default();
    told.iter().for_each(|line| tell(line));
    tell("the answer comes when the backup has ended; Ctrl-C ends only the waiting");
    answer.await
}

/// How the backup of `dataset` stands, and what it waits for, in the words of the daemon. Empty if
/// nobody knows.
async fn standing(socket: &Path, dataset: &Name) -> Vec<String> {
    let Ok((_, summary)) = ask(socket, &json!({ "command": "status" })).await else { return Vec::new() };
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

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use std::sync::Mutex;

    use tokio::net::UnixListener;

    use super::*;

    fn shop() -> Name {
        "shop".parse().unwrap()
    }

    /// A daemon that answers each question with the next of `answers`, and each `status` with
    /// `summary`; gives what it was asked.
    fn daemon(socket: &Path, answers: Vec<(u64, String)>, summary: &str) -> tokio::task::JoinHandle<Vec<String>> {
        let listener = UnixListener::bind(socket).unwrap();
        let status = format!("{}\n", json!({ "ok": true, "report": {}, "summary": summary }));
        tokio::spawn(async move {
            let (mut asked, mut writers) = (Vec::new(), Vec::new());
            let mut answers = answers.into_iter();
            while let Ok(Ok((stream, _))) = tokio::time::timeout(Duration::from_secs(20), listener.accept()).await {
                let mut stream = BufReader::new(stream);
                let mut line = String::new();
                stream.read_line(&mut line).await.unwrap();
                let (after, answer) =
                    if line.contains("status") { (0, status.clone()) } else { answers.next().unwrap() };
                writers.push(tokio::spawn(async move {
                    tokio::time::sleep(Duration::from_secs(after)).await;
                    stream.write_all(answer.as_bytes()).await.unwrap();
                }));
                asked.push(line);
                if answers.len() == 0 && (after == 0 || asked.len() > 1) {
                    break;
                }
            }
            for writer in writers {
                writer.await.unwrap();
            }
            asked
        })
    }

    #[tokio::test]
    async fn asks_over_the_socket_and_passes_the_report_on() {
        let place = tempfile::tempdir().unwrap();
        let socket = place.path().join("control.sock");
        let good = format!("{}\n", json!({ "ok": true, "report": { "snapshot": "s1" }, "summary": "done" }));
        let asked = daemon(&socket, vec![(0, good)], "");
        let request = json!({ "command": "trigger", "dataset": shop() });
        let told = Mutex::new(Vec::new());
        let (report, summary) =
            ask_and_tell(&socket, &request, &shop(), |line| told.lock().unwrap().push(line.to_owned())).await.unwrap();
        assert_eq!((report["snapshot"].as_str(), summary.as_str()), (Some("s1"), "done"));
        assert_eq!(asked.await.unwrap(), ["{\"command\":\"trigger\",\"dataset\":\"shop\"}\n"]);
        assert!(told.lock().unwrap().is_empty(), "who does not wait is told nothing");
    }

    #[tokio::test]
    async fn who_waits_is_told_for_what() {
        let place = tempfile::tempdir().unwrap();
        let socket = place.path().join("control.sock");
        let summary = "backing up wiki for 2m: 1 GiB read\ndataset shop: a backup waits for a place (an operator asked)\n\
            dataset shop: never backed up, next soon\ndataset wiki: never backed up, not scheduled\nreplica a: up";
        let good = format!("{}\n", json!({ "ok": true, "report": {}, "summary": "done" }));
        let asked = daemon(&socket, vec![(5, good)], summary);
        let told = Mutex::new(Vec::new());
        let request = json!({ "command": "trigger", "dataset": shop() });
        ask_and_tell(&socket, &request, &shop(), |line| told.lock().unwrap().push(line.to_owned())).await.unwrap();
        assert_eq!(asked.await.unwrap().last().unwrap(), "{\"command\":\"status\"}\n");
        let expected = [
            "dataset shop: a backup waits for a place (an operator asked)",
            "backing up wiki for 2m: 1 GiB read",
            "the answer comes when the backup has ended; Ctrl-C ends only the waiting",
        ];
        assert_eq!(*told.lock().unwrap(), expected);
        assert!(standing(&place.path().join("none"), &shop()).await.is_empty());
    }

    #[tokio::test]
    async fn a_daemon_that_is_away_or_hangs_up_is_a_clear_error() {
        let place = tempfile::tempdir().unwrap();
        let socket = place.path().join("control.sock");
        let error = ask(&socket, &json!({})).await.unwrap_err();
        assert!(error.hint_text().unwrap().contains("systemctl start lifeboatd"));
        let _asked = daemon(&socket, vec![(0, String::new())], "");
        let error = ask(&socket, &json!({})).await.unwrap_err();
        assert!(error.message().contains("without an answer"), "{error:?}");
    }

    #[test]
    fn a_failed_run_keeps_the_class_and_hint_of_the_daemon() {
        let answer = r#"{"ok":false,"error":"replica north: full","class":"storage","hint":"make room"}"#;
        let error = serde_json::from_str::<Answer>(answer).unwrap().into_result().unwrap_err();
        assert_eq!((error.class(), error.hint_text()), (Class::Storage, Some("make room")));
        let unknown = r#"{"ok":false,"class":"from a newer daemon"}"#;
        let error = serde_json::from_str::<Answer>(unknown).unwrap().into_result().unwrap_err();
        assert_eq!(error.class(), Class::Failed);
    }
}
