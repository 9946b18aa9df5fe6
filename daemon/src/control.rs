//! The control socket: one line of JSON each way. Who may open it, its file mode and directory decide.
//!
//! `{"command":"trigger","dataset":"shop"}` is answered when the run has ended; `{"command":"status"}` at once. Answers are
//! `{"ok":true,"report":…}` or `{"ok":false,"error":…,"class":…,"hint":…}`.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Duration;

use lifeboat_engine::error::{Class, Context};
use lifeboat_engine::id::Name;
use lifeboat_engine::{Error, Result};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{mpsc, oneshot};

const LONGEST_REQUEST: u64 = 4096;
const LONGEST_ANSWER: u64 = 1 << 20;
const REQUEST_TIME: Duration = Duration::from_secs(5);
const AT_ONCE: usize = 16;

/// What a client asks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "command", rename_all = "lowercase", deny_unknown_fields)]
pub(crate) enum Request {
    /// Back up now.
    Trigger {
        /// Which dataset.
        dataset: Name,
    },
    /// What is going on.
    Status,
}

/// A request and where its answer goes.
pub(crate) struct Call {
    pub(crate) request: Request,
    pub(crate) answer: oneshot::Sender<Result<Value>>,
}

/// Binds the socket, mode 0660. A socket that is left from a daemon that died is replaced: the caller holds the daemon lock.
///
/// # Errors
/// [`Class::Configuration`]: its directory is missing or not writable, or something else has that name.
pub(crate) fn bind(path: &Path) -> Result<UnixListener> {
    let shown = path.display();
    match std::fs::symlink_metadata(path) {
        Ok(metadata) if std::os::unix::fs::FileTypeExt::is_socket(&metadata.file_type()) => {
            std::fs::remove_file(path).context(Class::Configuration, || format!("cannot replace {shown}"))?;
        }
        Ok(_) => {
            return Err(
                Error::configuration(format!("{shown} exists and is not a socket")).hint("correct control_socket")
            );
        }
        Err(_) => {}
    }
    let listener = UnixListener::bind(path)
        .context(Class::Configuration, || format!("cannot listen on {shown}"))
        .map_err(|error| error.hint("its directory must exist and belong to the user lifeboatd runs as"))?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o660))
        .context(Class::Configuration, || format!("cannot protect {shown}"))?;
    Ok(listener)
}

/// Takes calls until it is dropped.
pub(crate) async fn serve(listener: UnixListener, calls: mpsc::Sender<Call>) {
    let places = std::sync::Arc::new(tokio::sync::Semaphore::new(AT_ONCE));
    loop {
        let Ok(place) = places.clone().acquire_owned().await else { return };
        match listener.accept().await {
            Ok((stream, _)) => {
                let calls = calls.clone();
                tokio::spawn(async move {
                    if let Err(error) = answer(stream, &calls).await {
                        tracing::debug!(%error, "a control connection broke");
                    }
                    drop(place);
                });
            }
            Err(error) => {
                tracing::warn!(%error, "the control socket cannot accept");
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
        }
    }
}

async fn answer(stream: UnixStream, calls: &mpsc::Sender<Call>) -> std::io::Result<()> {
    let (reader, mut writer) = stream.into_split();
    let mut line = String::new();
    let mut reader = BufReader::new(reader.take(LONGEST_REQUEST));
    let read = tokio::time::timeout(REQUEST_TIME, reader.read_line(&mut line)).await;
    let result = match read {
        Ok(Ok(_)) => match serde_json::from_str::<Request>(&line) {
            Ok(request) => call(request, calls).await,
            Err(error) => Err(Error::usage("the request cannot be understood").because(error)),
        },
        _ => Err(Error::usage("no request came in time")),
    };
    let reply = match result {
        Ok(report) => json!({ "ok": true, "report": report }),
        Err(error) => json!({
            "ok": false,
            "error": error.chain(),
            "class": error.class().as_str(),
            "hint": error.hint_text(),
        }),
    };
    writer.write_all(format!("{reply}\n").as_bytes()).await
}

async fn call(request: Request, calls: &mpsc::Sender<Call>) -> Result<Value> {
    let stopping = || Error::failed("lifeboatd is stopping").hint("ask again when it runs");
    let (answer, answered) = oneshot::channel();
    calls.send(Call { request, answer }).await.map_err(|_| stopping())?;
    answered.await.map_err(|_| stopping())?
}

/// Asks the daemon that listens on `path`.
///
/// # Errors
/// It does not answer; or its own error, with its class.
pub(crate) async fn ask(path: &Path, request: &Request) -> Result<Value> {
    let unreachable = |error: std::io::Error| {
        Error::failed(format!("lifeboatd does not answer on {}", path.display())).because(error).hint(
            "start it (`systemctl start lifeboatd`), run this as a member of its group, or use `lifeboatd --once`",
        )
    };
    let mut stream = UnixStream::connect(path).await.map_err(unreachable)?;
    let line = serde_json::to_string(request).context(Class::Failed, || "cannot write the request")?;
    stream.write_all(format!("{line}\n").as_bytes()).await.map_err(unreachable)?;
    let mut answer = String::new();
    BufReader::new(stream.take(LONGEST_ANSWER)).read_line(&mut answer).await.map_err(unreachable)?;
    let answer: Value =
        serde_json::from_str(&answer).context(Class::Failed, || "lifeboatd closed the connection without an answer")?;
    if answer["ok"] == Value::Bool(true) {
        return Ok(answer["report"].clone());
    }
    let class = [Class::Usage, Class::Configuration, Class::Source, Class::Storage, Class::Integrity, Class::Keys]
        .into_iter()
        .find(|class| answer["class"] == class.as_str())
        .unwrap_or(Class::Failed);
    let error = Error::new(class, answer["error"].as_str().unwrap_or("the run failed"));
    Err(match answer["hint"].as_str() {
        Some(hint) => error.hint(hint),
        None => error,
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    async fn daemon(answer: fn(Request) -> Result<Value>) -> (tempfile::TempDir, std::path::PathBuf) {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("control.sock");
        let (calls, mut received) = mpsc::channel::<Call>(1);
        tokio::spawn(serve(bind(&path).unwrap(), calls));
        tokio::spawn(async move {
            while let Some(call) = received.recv().await {
                let _ = call.answer.send(answer(call.request));
            }
        });
        (place, path)
    }

    #[tokio::test]
    async fn requests_are_answered_and_errors_keep_class_and_hint() {
        let (_place, path) = daemon(|request| match request {
            Request::Status => Ok(json!({ "fine": true })),
            Request::Trigger { dataset } => Err(Error::storage(format!("{dataset}: full")).hint("make room")),
        })
        .await;
        assert_eq!(ask(&path, &Request::Status).await.unwrap(), json!({ "fine": true }));
        let error = ask(&path, &Request::Trigger { dataset: "shop".parse().unwrap() }).await.unwrap_err();
        assert_eq!((error.class(), error.hint_text()), (Class::Storage, Some("make room")));
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o660);
    }

    #[tokio::test]
    async fn nonsense_and_endless_requests_are_refused() {
        let (_place, path) = daemon(|_| Ok(Value::Null)).await;
        for request in ["nonsense\n".to_owned(), "{\"command\":\"erase\"}\n".to_owned(), "x".repeat(10_000)] {
            let mut stream = UnixStream::connect(&path).await.unwrap();
            let _ = stream.write_all(request.as_bytes()).await;
            let mut answer = String::new();
            let _ = BufReader::new(stream).read_line(&mut answer).await;
            assert!(answer.is_empty() || answer.contains("\"ok\":false"), "{answer}");
        }
        assert!(ask(&path, &Request::Status).await.is_ok(), "the socket is worn out");
    }

    #[tokio::test]
    async fn a_stale_socket_is_replaced_and_a_file_is_not() {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("control.sock");
        drop(bind(&path).unwrap());
        assert!(path.exists());
        assert!(bind(&path).is_ok());
        let file = place.path().join("file");
        std::fs::write(&file, "x").unwrap();
        assert!(bind(&file).is_err());
    }
}
