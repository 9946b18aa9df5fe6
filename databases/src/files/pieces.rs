//! The streams of a stored tree, read one after the other as the archive that they are.
//!
//! For some paths, only those are read that may hold one of them, or a folder on the way to it.
//! What is read between is not the whole archive: see [`ArchiveReader::of_part`](super::decode).

use std::io::Read;

use bytes::{Buf, Bytes};
use lifeboat_base::{Error, Result};
use tokio::runtime::Handle;
use tokio::sync::mpsc;

use super::entry::parent;
use super::shard::may_hold;
use super::{PIECES_FOLDER, TREE_STREAM};
use crate::blocking::{Stoppable, read_apart};
use crate::database::WorkContext;
use crate::streams::StoredStreams;

/// No more pieces of a stream wait to be read.
const MAX_PIECES_WAITING: usize = 4;

/// The bytes of streams that follow each other. An error of ours is inside of an I/O error.
pub(super) struct JoinedBytes {
    pieces: mpsc::Receiver<Result<Bytes>>,
    runtime: Handle,
    piece: Bytes,
}

impl Read for JoinedBytes {
    fn read(&mut self, into: &mut [u8]) -> std::io::Result<usize> {
        while self.piece.is_empty() {
            match self.runtime.block_on(self.pieces.recv()) {
                Some(piece) => self.piece = piece.map_err(std::io::Error::other)?,
                None => return Ok(0),
            }
        }
        let length = into.len().min(self.piece.len());
        self.piece.copy_to_slice(&mut into[..length]);
        Ok(length)
    }
}

/// The streams that hold the tree, in order, and whether that is all of it. Some `paths` are in
/// fewer.
pub(super) fn streams_of(streams: &dyn StoredStreams, paths: &[&[u8]]) -> (Vec<String>, bool) {
    let mut names = streams.names();
    names.retain(|name| name.starts_with(PIECES_FOLDER));
    if names.is_empty() {
        return (vec![TREE_STREAM.to_owned()], true);
    }
    if paths.is_empty() {
        return (names, true);
    }
    let is_needed = |name: &str, next: Option<&str>| {
        paths.iter().any(|path| {
            let mut folders = std::iter::successors(parent(path), |folder| parent(folder));
            may_hold(name, next, path, true) || folders.any(|folder| may_hold(name, next, folder, false))
        })
    };
    let nexts = names.iter().skip(1).map(|next| Some(next.as_str())).chain([None]);
    let needed: Vec<String> =
        names.iter().zip(nexts).filter(|(name, next)| is_needed(name, *next)).map(|(name, _)| name.clone()).collect();
    let is_whole = needed.len() == names.len();
    (needed, is_whole)
}

/// Reads these streams, one after the other, on a thread that may wait. Each was read to its
/// checked end if `read` has come to the end.
pub(super) async fn read_joined<T: Send + 'static>(
    streams: &dyn StoredStreams,
    names: Vec<String>,
    work: &'static str,
    cx: &WorkContext,
    read: impl FnOnce(Stoppable<JoinedBytes>) -> Result<T> + Send + 'static,
) -> Result<T> {
    let (given, pieces) = mpsc::channel(MAX_PIECES_WAITING);
    let joined = JoinedBytes { pieces, runtime: Handle::current(), piece: Bytes::new() };
    let giving = async move {
        for name in names {
            if let Err(error) = give(streams, &name, &given).await {
                // Whoever reads no more has an error of his own.
                let _ = given.send(Err(error)).await;
                break;
            }
        }
    };
    let reading = read_apart(joined, work, cx, read);
    tokio::pin!(giving, reading);
    tokio::select! {
        read = &mut reading => read,
        () = &mut giving => reading.await,
    }
}

/// Gives a stream to whoever reads.
async fn give(streams: &dyn StoredStreams, name: &str, given: &mpsc::Sender<Result<Bytes>>) -> Result<()> {
    let mut reader = streams.open(name).await?;
    while let Some(piece) = reader.next().await? {
        given.send(Ok(piece)).await.map_err(|_| Error::cancelled("reading the tree"))?;
    }
    Ok(())
}
