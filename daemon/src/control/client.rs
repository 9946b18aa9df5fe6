//! The other end of the control socket: `lifeboatd trigger` and `lifeboatd status`.

use std::path::Path;

use lifeboat_engine::base::{Error, Result};
use serde_json::Value;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;

use super::protocol::{Answer, Request};

const LONGEST_ANSWER: u64 = 1 << 20;

/// Asks the daemon, and waits as long as its answer takes. Gives the report, and the same in words.
///
/// # Errors
/// The daemon is away, or what it answered.
pub(crate) async fn ask(socket: &Path, request: &Request) -> Result<(Value, String)> {
    let away = |error: std::io::Error| {
        Error::failed(format!("lifeboatd does not answer on {}", socket.display()))
            .because(error)
            .hint("start it (`systemctl start lifeboatd`), run this as a member of its group, or run `lifeboatd --once` instead")
    };
    let mut line = serde_json::to_vec(request).map_err(|error| Error::failed("cannot ask").because(error))?;
    line.push(b'\n');
    let mut stream = UnixStream::connect(socket).await.map_err(away)?;
    stream.write_all(&line).await.map_err(away)?;
    let mut answer = String::new();
    BufReader::new(stream.take(LONGEST_ANSWER)).read_line(&mut answer).await.map_err(away)?;
    if answer.is_empty() {
        return Err(Error::failed("lifeboatd closed the connection without an answer")
            .hint("it was stopped or the run was aborted; see its log"));
    }
    let answer: Answer = serde_json::from_str(&answer)
        .map_err(|error| Error::failed("the answer of lifeboatd cannot be understood").because(error))?;
    answer.into_result()
}
