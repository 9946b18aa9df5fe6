//! Streams in memory, between a source and a loader.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use bytes::Bytes;
use lifeboat_engine::base::facts::SourceFacts;
use lifeboat_engine::databases::streams::{StoredStreams, StreamReader, StreamSink, StreamWriter};
use lifeboat_engine::{Error, Result};

/// Content and exit status of each stream, by name.
pub type Contents = BTreeMap<String, (Vec<u8>, Option<i32>)>;

/// Streams in memory: what was written, and whether it was finished.
#[derive(Debug, Default, Clone)]
pub struct MemoryStreams {
    /// Content by name, and the exit status once finished.
    pub streams: Arc<Mutex<Contents>>,
    /// Names in the order of capture.
    pub order: Arc<Mutex<Vec<String>>>,
    /// What the source told. With a detail `damaged`, the stream that it names ends in an error, or
    /// every one if it names none.
    pub facts: SourceFacts,
}

struct MemoryWriter(MemoryStreams, String, Vec<u8>);

impl StreamSink for MemoryStreams {
    fn open(&self, name: &str) -> Result<Box<dyn StreamWriter>> {
        self.order.lock().unwrap().push(name.to_owned());
        assert!(self.streams.lock().unwrap().insert(name.to_owned(), (Vec::new(), None)).is_none());
        Ok(Box::new(MemoryWriter(self.clone(), name.to_owned(), vec![0; 100_000])))
    }
}

#[async_trait]
impl StreamWriter for MemoryWriter {
    async fn space(&mut self) -> Result<&mut [u8]> {
        Ok(&mut self.2)
    }

    async fn filled(&mut self, length: usize) -> Result<()> {
        self.0.streams.lock().unwrap().get_mut(&self.1).unwrap().0.extend_from_slice(&self.2[..length]);
        Ok(())
    }

    async fn finish(self: Box<Self>, exit: i32) -> Result<()> {
        self.0.streams.lock().unwrap().get_mut(&self.1).unwrap().1 = Some(exit);
        Ok(())
    }
}

struct MemoryReader(std::vec::IntoIter<Vec<u8>>, bool);

#[async_trait]
impl StreamReader for MemoryReader {
    async fn next(&mut self) -> Result<Option<Bytes>> {
        match self.0.next() {
            None if self.1 => Err(Error::integrity("the stream is damaged, as the test wants it")),
            piece => Ok(piece.map(Bytes::from)),
        }
    }
}

#[async_trait]
impl StoredStreams for MemoryStreams {
    fn names(&self) -> Vec<String> {
        self.order.lock().unwrap().clone()
    }

    fn facts(&self) -> &SourceFacts {
        &self.facts
    }

    async fn open(&self, name: &str) -> Result<Box<dyn StreamReader>> {
        let content = self.streams.lock().unwrap()[name].0.clone();
        let pieces: Vec<Vec<u8>> = content.chunks(100_000).map(<[u8]>::to_vec).collect();
        let damaged = self.facts.details.get("damaged").is_some_and(|which| which.is_empty() || which == name);
        Ok(Box::new(MemoryReader(pieces.into_iter(), damaged)))
    }
}

impl MemoryStreams {
    /// Streams that were finished.
    ///
    /// # Panics
    /// A test thread panicked before.
    #[must_use]
    pub fn finished(&self) -> Vec<String> {
        let streams = self.streams.lock().unwrap();
        streams.iter().filter(|(_, (_, exit))| exit.is_some()).map(|(name, _)| name.clone()).collect()
    }
}
