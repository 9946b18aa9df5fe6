//! Opens the extents of a stream ahead of its reader, in a task of its own, and passes them on in
//! batches.
//!
//! Extents are checked when they are opened. So a restore reports damaged extents when it comes to
//! them, not before it begins.

use std::ops::ControlFlow;
use std::sync::Arc;

use lifeboat_format::extents::Extent;
use lifeboat_format::map::Resolved;
use tokio::sync::mpsc::{Receiver, Sender, channel};

use super::plan::Span;

/// Shorter extents share a batch, until it is about this long.
pub(crate) const MIN_LONE_EXTENT_BYTES: u64 = 1 << 20;
/// At most so many extents share a batch.
const MAX_EXTENTS_PER_BATCH: usize = 16 << 10;
/// How many batches wait for the reader.
const BATCHES_AHEAD: usize = 8;

/// The next extents of a stream. All of them belong to one span.
pub(crate) struct Batch {
    /// The number of the span, from 0.
    pub span: usize,
    /// The extents.
    pub what: What,
}

/// The extents of a batch.
pub(crate) enum What {
    /// One long extent.
    One(Extent),
    /// Short extents, in the order of the stream.
    Some(Vec<Extent>),
}

/// Starts the task that makes the batches of a whole stream, span by span. It needs a Tokio runtime
/// and ends when the receiver is dropped.
pub(crate) fn batches(extents: &Resolved, spans: Arc<[Span]>) -> Receiver<Batch> {
    let (sender, receiver) = channel(BATCHES_AHEAD);
    let mut walk = extents.walk();
    tokio::spawn(async move {
        let mut some = Vec::new();
        for (number, span) in spans.iter().enumerate() {
            walk.turn_to(span.places.clone());
            let (mut batch, mut length) = (Vec::new(), 0);
            while walk.next(&mut some) {
                let mut rest = &some[..];
                while !rest.is_empty() {
                    let more = fitting(rest, MAX_EXTENTS_PER_BATCH - batch.len(), &mut length);
                    batch.extend_from_slice(&rest[..more]);
                    rest = &rest[more..];
                    if !rest.is_empty() {
                        length = 0;
                        if send(&sender, number, std::mem::take(&mut batch)).await.is_break() {
                            return;
                        }
                    }
                }
            }
            if !batch.is_empty() && send(&sender, number, batch).await.is_break() {
                return;
            }
        }
    });
    receiver
}

/// How many of these extents fit into a batch that is `length` bytes long: at most `most`. Adds
/// their length to `length`. A long extent fits only into an empty batch.
fn fitting(extents: &[Extent], most: usize, length: &mut u64) -> usize {
    let mut taken = 0;
    for extent in extents.iter().take(most) {
        if *length >= MIN_LONE_EXTENT_BYTES || extent.length >= MIN_LONE_EXTENT_BYTES && *length > 0 {
            break;
        }
        *length += extent.length;
        taken += 1;
    }
    taken
}

async fn send(sender: &Sender<Batch>, span: usize, batch: Vec<Extent>) -> ControlFlow<()> {
    let what = match batch[..] {
        [extent] if extent.length >= MIN_LONE_EXTENT_BYTES => What::One(extent),
        _ => What::Some(batch),
    };
    match sender.send(Batch { span, what }).await {
        Ok(()) => ControlFlow::Continue(()),
        Err(_) => ControlFlow::Break(()),
    }
}
