//! Reads dumps on threads of their own: from a file, and from a stored stream.

use std::io::Read;
use std::path::Path;

use bytes::{Buf, Bytes};
use lifeboat_base::{Class, Context, Error, Result};
use tokio::runtime::Handle;
use tokio_util::sync::CancellationToken;

use crate::database::WorkContext;
use crate::proof::multiset::ProofKey;
use crate::redis::connect::RedisConnection;
use crate::redis::rdb::{RdbDigest, digest};
use crate::streams::StreamReader;

/// What a file holds. Keys that expire until `now` are counted; of streams, what files of version
/// `like` hold is compared.
pub(super) async fn digest_of_file(
    path: &Path,
    key: ProofKey,
    now: i64,
    like: Option<u32>,
    cx: &WorkContext,
) -> Result<RdbDigest> {
    let file = std::fs::File::open(path).context(Class::Source, || format!("cannot read {}", path.display()))?;
    digest_apart(file, key, now, like, cx).await
}

/// What a stored stream holds. It counts only after the stream's checked end.
pub(super) async fn digest_of_stream(
    stream: Box<dyn StreamReader>,
    key: ProofKey,
    now: i64,
    cx: &WorkContext,
) -> Result<RdbDigest> {
    let from = StreamBytes { stream, runtime: Handle::current(), piece: Bytes::new() };
    digest_apart(from, key, now, None, cx).await
}

async fn digest_apart(
    from: impl Read + Send + 'static,
    key: ProofKey,
    now: i64,
    like: Option<u32>,
    cx: &WorkContext,
) -> Result<RdbDigest> {
    // It also fires when this future is dropped, so that no thread goes on reading.
    let stop = cx.cancel.child_token();
    let _stops_when_dropped = stop.clone().drop_guard();
    let from = Stoppable { from, stop };
    let reading = tokio::task::spawn_blocking(move || digest(from, &key, now, like));
    reading.await.context(Class::Failed, || "a worker thread failed")?
}

/// The bytes of a stream, for a thread that waits for them.
struct StreamBytes {
    stream: Box<dyn StreamReader>,
    runtime: Handle,
    piece: Bytes,
}

impl Read for StreamBytes {
    fn read(&mut self, into: &mut [u8]) -> std::io::Result<usize> {
        while self.piece.is_empty() {
            match self.runtime.block_on(self.stream.next()).map_err(std::io::Error::other)? {
                Some(piece) => self.piece = piece,
                None => return Ok(0),
            }
        }
        let length = into.len().min(self.piece.len());
        self.piece.copy_to_slice(&mut into[..length]);
        Ok(length)
    }
}

struct Stoppable<R> {
    from: R,
    stop: CancellationToken,
}

impl<R: Read> Read for Stoppable<R> {
    fn read(&mut self, into: &mut [u8]) -> std::io::Result<usize> {
        match self.stop.is_cancelled() {
            true => Err(std::io::Error::other(Error::cancelled("the drill"))),
            false => self.from.read(into),
        }
    }
}

/// The server's clock, in milliseconds since 1970.
pub(super) async fn milliseconds(connection: &RedisConnection, cx: &WorkContext) -> Result<i64> {
    let time = connection.values(&["TIME"], cx).await?;
    let seconds: Option<i64> = time.first().and_then(|seconds| seconds.parse().ok());
    let now = seconds.and_then(|seconds| seconds.checked_mul(1000));
    now.ok_or_else(|| Error::source_failed("the throw-away Redis server does not tell its time"))
}
