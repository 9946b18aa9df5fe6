//! Streams: what a capture writes and a load reads. What lies behind them, this crate does not
//! know.

use async_trait::async_trait;
use bytes::Bytes;
use lifeboat_base::Result;
use lifeboat_base::facts::SourceFacts;

/// Takes the streams of one snapshot.
pub trait StreamSink: Send + Sync {
    /// Begins a stream. Names are unique in a snapshot, 1–200 bytes of UTF-8 without control
    /// characters, `/` allowed, such as `globals` or `database/shop`.
    ///
    /// # Errors
    /// A name that is taken or not allowed.
    fn open(&self, name: &str) -> Result<Box<dyn StreamWriter>>;
}

/// Takes the bytes of one stream.
#[async_trait]
pub trait StreamWriter: Send {
    /// Room for the next bytes of the stream, at least for one; waits while the pipeline is full.
    async fn space(&mut self) -> Result<&mut [u8]>;

    /// So many bytes were put at the beginning of [`space`](Self::space): the stream is that much
    /// longer.
    async fn filled(&mut self, length: usize) -> Result<()>;

    /// Appends bytes that lie elsewhere.
    async fn write(&mut self, mut data: Bytes) -> Result<()> {
        while !data.is_empty() {
            let space = self.space().await?;
            let part = data.split_to(data.len().min(space.len()));
            space[..part.len()].copy_from_slice(&part);
            self.filled(part.len()).await?;
        }
        Ok(())
    }

    /// The stream is complete. `exit` is the tool's exit status, 0 where no tool ran.
    async fn finish(self: Box<Self>, exit: i32) -> Result<()>;
}

/// Gives the streams of one stored snapshot.
#[async_trait]
pub trait StoredStreams: Send + Sync {
    /// In the order of capture.
    fn names(&self) -> Vec<String>;

    /// How long a stream is, in bytes, where that is known.
    fn length(&self, name: &str) -> Option<u64> {
        let _ = name;
        None
    }

    /// What the source told when it was captured.
    fn facts(&self) -> &SourceFacts;

    /// Begins to read a stream. May be called again.
    async fn open(&self, name: &str) -> Result<Box<dyn StreamReader>>;
}

/// Gives the bytes of one stream, in order.
#[async_trait]
pub trait StreamReader: Send {
    /// The next piece, `None` after the last. An error at the end where the whole stream's length
    /// or hash is wrong: a loader must not report success before it has seen `None`.
    async fn next(&mut self) -> Result<Option<Bytes>>;
}
