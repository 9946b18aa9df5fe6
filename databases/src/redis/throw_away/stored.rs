//! Reads dumps on threads of their own: from a file, and from a stored stream.

use std::io::Read;
use std::path::Path;

use lifeboat_base::{Class, Context, Result};

use crate::blocking::{StreamBytes, read_apart};
use crate::database::WorkContext;
use crate::proof::multiset::ProofKey;
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
    digest_apart(StreamBytes::of(stream), key, now, None, cx).await
}

async fn digest_apart(
    from: impl Read + Send + 'static,
    key: ProofKey,
    now: i64,
    like: Option<u32>,
    cx: &WorkContext,
) -> Result<RdbDigest> {
    read_apart(from, "the drill", cx, move |from| digest(from, &key, now, like)).await
}
