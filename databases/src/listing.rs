//! What a throw-away database lists, item by item: the paths of a tree, or the values of a query. A
//! drill of a group compares the ones with the others.

use lifeboat_base::{Error, Result};
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;

/// What to list.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Listing {
    /// The path of each entry below the root that is no folder.
    Paths,
    /// What a query of one column gives, which may only read.
    Values {
        /// The database to ask. `None`: the only one but `postgres`.
        database: Option<String>,
        /// The query.
        sql: String,
    },
}

/// An item; `None` where a row has no value. Of one that is longer than [`MAX_ITEM_BYTES`], only
/// the beginning.
pub type ListedItem = Option<Vec<u8>>;

/// Longer than any path, so that the beginning of a longer item is none either.
pub const MAX_ITEM_BYTES: usize = 4096;
/// So many bytes of items are passed on at once, and one item more.
const BATCH_BYTES: usize = 256 << 10;
/// What an item takes beside its bytes.
const ITEM_OVERHEAD_BYTES: usize = 16;

/// Takes items, and passes them on in batches.
pub(crate) struct ItemBatches {
    to: mpsc::Sender<Vec<ListedItem>>,
    batch: Vec<ListedItem>,
    bytes: usize,
}

impl ItemBatches {
    pub(crate) fn new(to: mpsc::Sender<Vec<ListedItem>>) -> Self {
        Self { to, batch: Vec::new(), bytes: 0 }
    }

    /// Adds an item. Tells whether the batch is to be passed on.
    fn add(&mut self, item: Option<&[u8]>) -> bool {
        let item = item.map(|item| item[..item.len().min(MAX_ITEM_BYTES)].to_vec());
        self.bytes += ITEM_OVERHEAD_BYTES + item.as_ref().map_or(0, Vec::len);
        self.batch.push(item);
        self.bytes >= BATCH_BYTES
    }

    fn take(&mut self) -> Vec<ListedItem> {
        self.bytes = 0;
        std::mem::take(&mut self.batch)
    }

    /// Passes an item on. The thread may wait.
    pub(crate) fn push_blocking(&mut self, item: &[u8]) -> Result<()> {
        if self.add(Some(item)) {
            let batch = self.take();
            self.to.blocking_send(batch).map_err(|_| nobody_listens())?;
        }
        Ok(())
    }

    /// As [`Self::push_blocking`], for whoever may not block.
    pub(crate) async fn push(&mut self, item: Option<&[u8]>) -> Result<()> {
        if self.add(item) { self.pass_on().await } else { Ok(()) }
    }

    /// Passes on what is left, if anything is.
    pub(crate) async fn pass_on(&mut self) -> Result<()> {
        let batch = self.take();
        if batch.is_empty() {
            return Ok(());
        }
        self.to.send(batch).await.map_err(|_| nobody_listens())
    }

    /// As [`Self::pass_on`], for a thread that may wait.
    pub(crate) fn pass_on_blocking(&mut self) -> Result<()> {
        let batch = self.take();
        if batch.is_empty() {
            return Ok(());
        }
        self.to.blocking_send(batch).map_err(|_| nobody_listens())
    }
}

fn nobody_listens() -> Error {
    Error::cancelled("the listing")
}
