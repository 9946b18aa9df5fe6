//! The extents of a stream ahead of its reader: worked out beside it, in batches that it can put to
//! work.
//!
//! Extents are checked as they are opened. So a restore reports damage in them when it comes there,
//! not before it begins.

use std::ops::ControlFlow;
use std::sync::Arc;

use lifeboat_format::extents::Extent;
use lifeboat_format::map::Resolved;
use tokio::sync::mpsc::{Receiver, Sender, channel};

use super::plan::Span;

/// An extent that is shorter is put together with others, to about as much.
pub(crate) const MIN_LONE_EXTENT_BYTES: u64 = 1 << 20;
/// Extents of a batch.
const MAX_EXTENTS_PER_BATCH: usize = 16 << 10;
/// Batches ahead.
const BATCHES_AHEAD: usize = 8;

/// What comes next in a stream. It is all of one span.
pub(crate) struct Batch {
    /// The span's number.
    pub span: usize,
    /// What.
    pub what: What,
}

/// What a batch holds.
pub(crate) enum What {
    /// A long extent.
    One(Extent),
    /// Short ones.
    Some(Vec<Extent>),
}

/// All of a stream, span by span. Must be called on a runtime; ends when the receiver is dropped.
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

/// How many of these a batch takes yet, that is `length` bytes long and will be as long as is told:
/// at most `most`. A long one is taken by an empty batch alone.
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
