//! What all stages of a run share.

use std::sync::{Arc, OnceLock};

use lifeboat_base::Error;
use tokio_util::sync::CancellationToken;

use super::Progress;
use super::budget::Share;
use super::chunk_index::ChunkIndex;
use super::compress::Compression;
use super::fleet::Fleet;
use super::row_search::Rows;
use super::unread::Unread;
use crate::keys::DatasetKeys;
use crate::state::journal::Journal;

/// What all stages of a run share.
pub(crate) struct Shared {
    pub index: ChunkIndex,
    /// `None` if whole chunks alone are deduplicated.
    pub rows: Option<Arc<Rows>>,
    pub unread: Unread,
    pub keys: DatasetKeys,
    pub fleet: Fleet,
    pub journal: Journal,
    /// Why the journal cannot be written, if so. The run goes on without it.
    pub journal_failure: OnceLock<Error>,
    pub progress: Arc<Progress>,
    pub cancel: CancellationToken,
    pub chunk_size: u32,
    pub compression: Compression,
    pub threads: usize,
    /// The buffers, and processors to compress with.
    pub share: Share,
}
