//! The control socket: whoever may open it (owner and group) may ask for runs and for the status.
//!
//! - **Bounds**: requests have a size and a time to arrive, and the number of connections served
//!   at once is limited.
//! - **Waiting**: the answer to `trigger` and `cancel` comes with the end of the run. One who
//!   hangs up does not stop the run.
//! - **Stale sockets** of a daemon that died are removed; the caller holds the daemon's lock, so
//!   that nobody else can be alive.

pub(crate) mod protocol;

use std::io::ErrorKind;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use lifeboat_engine::base::{Class, Context, Error, Result};
use lifeboat_engine::format::id::Name;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use self::protocol::{Answer, Request};
use crate::live::Live;
use crate::start::Start;

const LONGEST_REQUEST: u64 = 4096;
const TIME_TO_ASK: Duration = Duration::from_secs(10);
const TIME_TO_TAKE: Duration = Duration::from_secs(10);
const CONNECTIONS: usize = 32;

/// What somebody asks of the loop, and waits for.
pub(crate) struct Wish {
    pub dataset: Name,
    pub what: What,
    pub answer: oneshot::Sender<Answer>,
}

/// What is to happen to a dataset.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum What {
    /// A backup.
    Start(Start),
    /// Its backup is cancelled.
    Cancel,
    /// The schedule starts no backup for so long.
    Pause(Duration, Option<String>),
    /// Its pause ends.
    Resume,
}

/// Binds the socket, mode 0660. The caller holds the daemon's lock.
///
/// # Errors
/// [`Class::Storage`]: its directory is missing or not ours; there is a file that is not a
/// socket.
pub(crate) fn bind(path: &Path) -> Result<UnixListener> {
    let cannot = || format!("cannot listen on {}", path.display());
    match std::fs::symlink_metadata(path) {
        Ok(found) if found.file_type().is_socket() => std::fs::remove_file(path).context(Class::Storage, cannot)?,
        Ok(_) => return Err(Error::storage(cannot()).hint("there is a file that is not a socket; move it away")),
        Err(error) if error.kind() == ErrorKind::NotFound => {}
        Err(error) => return Err(Error::storage(cannot()).because(error)),
    }
    let listener = UnixListener::bind(path).map_err(|error| {
        Error::storage(cannot())
            .because(error)
            .hint("create its directory for the user that lifeboatd runs as, or change control_socket")
    })?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o660)).context(Class::Storage, cannot)?;
    Ok(listener)
}

/// Answers until `stop` fires, then until those who wait have their answers.
pub(crate) async fn serve(
    listener: UnixListener,
    live: Arc<Live>,
    wishes: mpsc::Sender<Wish>,
    stop: CancellationToken,
) {
    let (permits, connections) = (Arc::new(Semaphore::new(CONNECTIONS)), TaskTracker::new());
    loop {
        let accepted = tokio::select! {
            accepted = async {
                let permit = permits.clone().acquire_owned().await;
                (permit, listener.accept().await)
            } => accepted,
            () = stop.cancelled() => break,
        };
        match accepted {
            (Ok(permit), Ok((stream, _))) => {
                let (live, wishes, stop) = (live.clone(), wishes.clone(), stop.clone());
                connections.spawn(async move {
                    if let Err(error) = converse(stream, &live, &wishes, &stop).await {
                        tracing::debug!(%error, "a control connection ended");
                    }
                    drop(permit);
                });
            }
            (_, Err(error)) => {
                tracing::warn!(%error, "the control socket cannot accept");
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
            (Err(_), _) => break,
        }
    }
    drop((listener, wishes));
    connections.close();
    connections.wait().await;
}

async fn converse(
    stream: UnixStream,
    live: &Live,
    wishes: &mpsc::Sender<Wish>,
    stop: &CancellationToken,
) -> std::io::Result<()> {
    let (read, mut write) = stream.into_split();
    let mut read = BufReader::new(read);
    loop {
        let mut line = Vec::new();
        let mut bounded = (&mut read).take(LONGEST_REQUEST);
        let arrived = tokio::select! {
            arrived = tokio::time::timeout(TIME_TO_ASK, bounded.read_until(b'\n', &mut line)) => arrived??,
            () = stop.cancelled() => return Ok(()),
        };
        if arrived == 0 {
            return Ok(());
        }
        let whole = line.ends_with(b"\n");
        let answer = if whole { respond(&line, live, wishes).await } else { malformed("it is too long or cut short") };
        let mut text = serde_json::to_vec(&answer)?;
        text.push(b'\n');
        tokio::time::timeout(TIME_TO_TAKE, write.write_all(&text)).await??;
        if !whole {
            return Ok(());
        }
    }
}

async fn respond(line: &[u8], live: &Live, wishes: &mpsc::Sender<Wish>) -> Answer {
    match serde_json::from_slice(line) {
        Ok(request) => {
            let (dataset, what) = match request {
                Request::Status {} => return live.report().into(),
                Request::Trigger { dataset } => (dataset, What::Start(Start::Asked)),
                Request::Takeover { dataset } => (dataset, What::Start(Start::Takeover)),
                Request::Cancel { dataset } => (dataset, What::Cancel),
                Request::Pause { dataset, seconds, why } => (dataset, What::Pause(Duration::from_secs(seconds), why)),
                Request::Resume { dataset } => (dataset, What::Resume),
            };
            ask_loop(dataset, what, live, wishes).await
        }
        Err(error) => malformed(&error.to_string()),
    }
}

async fn ask_loop(dataset: Name, what: What, live: &Live, wishes: &mpsc::Sender<Wish>) -> Answer {
    let installation = live.installation();
    let starts_group = what == What::Start(Start::Asked) && installation.config.group(&dataset).is_some();
    if let Err(error) = installation.dataset(&dataset)
        && !starts_group
    {
        return error.into();
    }
    let (answer, answered) = oneshot::channel();
    let ended = || Error::failed("lifeboatd is stopping").hint("ask again when it has started again").into();
    match wishes.send(Wish { dataset, what, answer }).await {
        Ok(()) => answered.await.unwrap_or_else(|_| ended()),
        Err(_) => ended(),
    }
}

fn malformed(why: &str) -> Answer {
    Error::usage(format!("lifeboatd does not understand the request: {why}"))
        .hint("send {\"command\":\"status\"} or {\"command\":\"trigger\",\"dataset\":\"NAME\"} and a newline")
        .into()
}

#[cfg(test)]
mod tests;
