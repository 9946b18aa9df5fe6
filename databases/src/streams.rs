//! Streams: what a capture writes and a load reads. This crate does not know how they are stored.

use async_trait::async_trait;
use bytes::Bytes;
use lifeboat_base::Result;
use lifeboat_base::facts::SourceFacts;

use crate::moment::{ALONE, SharedMoment};

/// No stream has a longer name.
pub(crate) const MAX_STREAM_NAME_BYTES: usize = 1024;

/// What a stream was made of, as far as that can be told without reading it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StreamFingerprint {
    /// It differs wherever the stream would.
    pub digest: [u8; 32],
    /// When the last of it was surely complete, in seconds since 1970. Until some time later, the
    /// digest does not tell every change.
    pub settled: i64,
    /// How many seconds after it was read the stream is read again, however it looks.
    pub read_every: u64,
}

/// Takes the streams of one snapshot.
#[async_trait]
pub trait StreamSink: Send + Sync {
    /// Begins a stream. A name is a path below a folder, such as `globals` or `database/shop`:
    /// 1–1024 bytes of UTF-8 without control characters, and no part of it is empty, `.` or `..`.
    /// Names are unique in a snapshot, and none is a folder of another.
    ///
    /// # Errors
    /// The name is taken, or not allowed.
    fn open(&self, name: &str) -> Result<Box<dyn StreamWriter>>;

    /// Whether fingerprints are of any use: the run after this one may take streams over.
    fn keeps_fingerprints(&self) -> bool {
        false
    }

    /// Takes a stream over from the snapshot before, if it had the same
    /// [fingerprint](Self::fingerprint) there and all of it is still there. It comes in the place
    /// of a stream that is opened now. Gives its length; `None`: it must be read.
    ///
    /// # Errors
    /// As [`Self::open`].
    async fn take_over(&self, name: &str, fingerprint: &StreamFingerprint) -> Result<Option<u64>> {
        let _ = (name, fingerprint);
        Ok(None)
    }

    /// Says what a stream was made of, after it was finished. A stream that lacks anything, or that
    /// changed while it was read, gets no fingerprint.
    fn fingerprint(&self, name: &str, fingerprint: StreamFingerprint) {
        let _ = (name, fingerprint);
    }

    /// The moment that the source shares with others of its group.
    fn moment(&self) -> &SharedMoment {
        &ALONE
    }
}

/// Takes the bytes of one stream.
#[async_trait]
pub trait StreamWriter: Send {
    /// Room for the next bytes of the stream, at least for one. It waits while the pipeline is
    /// full.
    async fn space(&mut self) -> Result<&mut [u8]>;

    /// Says that `length` bytes were put at the beginning of [`space`](Self::space), which makes
    /// the stream that much longer.
    async fn filled(&mut self, length: usize) -> Result<()>;

    /// Appends bytes from elsewhere.
    async fn write(&mut self, mut data: Bytes) -> Result<()> {
        while !data.is_empty() {
            let space = self.space().await?;
            let part = data.split_to(data.len().min(space.len()));
            space[..part.len()].copy_from_slice(&part);
            self.filled(part.len()).await?;
        }
        Ok(())
    }

    /// Says that the stream is complete. `exit` is the tool's exit status, 0 if no tool ran.
    async fn finish(self: Box<Self>, exit: i32) -> Result<()>;
}

/// Gives the streams of one stored snapshot.
#[async_trait]
pub trait StoredStreams: Send + Sync {
    /// The names of the streams, in the order of capture.
    fn names(&self) -> Vec<String>;

    /// The length of a stream in bytes, if that is known.
    fn length(&self, name: &str) -> Option<u64> {
        let _ = name;
        None
    }

    /// What the capture said about the source.
    fn facts(&self) -> &SourceFacts;

    /// Streams of the snapshot that are not given, as an earlier drill proved what they hold:
    /// [parts](crate::Database::parts_to_prove) of it, and
    /// [tables](crate::Database::proved_apart). Nothing of them is loaded or compared.
    fn left_out(&self) -> Vec<String> {
        Vec::new()
    }

    /// Begins to read a stream. The same stream may be opened again.
    async fn open(&self, name: &str) -> Result<Box<dyn StreamReader>>;
}

/// Gives the bytes of one stream, in order.
#[async_trait]
pub trait StreamReader: Send {
    /// The next piece; `None` after the last. If the length or hash of the whole stream is wrong,
    /// an error comes instead of `None`, so a loader must not report success before it has seen
    /// `None`.
    async fn next(&mut self) -> Result<Option<Bytes>>;
}

/// A text that is read as a stream of one piece.
pub(crate) struct Once(pub(crate) Option<Bytes>);

#[async_trait]
impl StreamReader for Once {
    async fn next(&mut self) -> Result<Option<Bytes>> {
        Ok(self.0.take())
    }
}
