//! The other end of the control socket: `lifeboatd trigger` and `lifeboatd status`.

use std::path::Path;

use lifeboat_engine::base::{Error, Result};
use serde_json::Value;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;

use super::protocol::{Answer, Request};

const LONGEST_ANSWER: u64 = 1 << 20;

/// Asks the daemon, and waits as long as its answer takes. Returns the report as JSON and in words.
///
/// # Errors
/// The daemon does not answer, or it answered with an error.
pub(crate) async fn ask(socket: &Path, request: &Request) -> Result<(Value, String)> {
    let unreachable = |error: std::io::Error| {
        Error::failed(format!("lifeboatd does not answer on {}", socket.display()))
            .because(error)
            .hint("run `systemctl start lifeboatd`, and run this as root or as a member of the daemon's group; or back up without it: `lifeboatd --once`")
    };
    let mut line = serde_json::to_vec(request).map_err(|error| Error::failed("cannot ask").because(error))?;
    line.push(b'\n');
    let mut stream = UnixStream::connect(socket).await.map_err(unreachable)?;
    stream.write_all(&line).await.map_err(unreachable)?;
    let mut answer = String::new();
    BufReader::new(stream.take(LONGEST_ANSWER)).read_line(&mut answer).await.map_err(unreachable)?;
    if answer.is_empty() {
        return Err(Error::failed("lifeboatd closed the connection without an answer")
            .hint("lifeboatd stopped or aborted the run; read its log"));
    }
    let answer: Answer = serde_json::from_str(&answer).map_err(|error| {
        Error::failed("lifeboatd sent an answer that this program does not understand")
            .because(error)
            .hint("restart lifeboatd, so that both are of the same version")
    })?;
    answer.into_result()
}
