//! What comes from the broker, sorted: news of readers to the readers, requests to the work.

use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, PoisonError};

use lifeboat_base::{Error, Result};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::channel::{Receiver, Sender};
use crate::protocol::{Reply, Request, WireError};

/// The broker sends the next request after the reply to the one before.
const MAX_WAITING_REQUESTS: usize = 4;
/// A reader hears of its pipe and of its end.
const MAX_NEWS: usize = 2;

/// What a reader hears from the broker.
pub(super) enum News {
    /// Its pipe is this.
    Opened(OwnedFd),
    /// Its pipe gets no more, for this reason.
    Ended(Result<u64, WireError>),
}

type ByNumber = HashMap<u32, mpsc::Sender<News>>;

/// The readers that wait for news, by number; `None` once the broker is gone.
#[derive(Clone, Default)]
pub(super) struct Readers(Arc<Mutex<Option<ByNumber>>>);

impl Readers {
    fn new() -> Self {
        Self(Arc::new(Mutex::new(Some(HashMap::new()))))
    }

    /// A new reader's news. There are none if the broker is gone.
    pub(super) fn add(&self, reader: u32) -> mpsc::Receiver<News> {
        let (sender, receiver) = mpsc::channel(MAX_NEWS);
        if let Some(readers) = self.0.lock().unwrap_or_else(PoisonError::into_inner).as_mut() {
            readers.insert(reader, sender);
        }
        receiver
    }

    /// A reader that is gone may still get its news: nobody listens.
    fn tell(&self, reader: u32, news: News) {
        let mut readers = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(readers) = readers.as_mut() else { return };
        let last = matches!(news, News::Ended(_));
        if let Some(sender) = readers.get(&reader) {
            let _ = sender.try_send(news);
        }
        if last {
            readers.remove(&reader);
        }
    }

    /// Nobody hears anything any more.
    fn close(&self) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take();
    }
}

/// Ends the listing that runs, if the broker wants no more of it.
#[derive(Clone, Default)]
pub(super) struct EndOfListing(Arc<Mutex<CancellationToken>>);

impl EndOfListing {
    /// Of the listing that was asked for last.
    pub(super) fn token(&self) -> CancellationToken {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// For a listing that is asked for. What ended an earlier one does not end it.
    fn begin(&self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = CancellationToken::new();
    }
}

/// Listens to the broker.
pub(super) struct Inbox {
    receiver: Receiver,
    readers: Readers,
    requests: mpsc::Sender<Request>,
    listing: EndOfListing,
    cancel: CancellationToken,
}

impl Inbox {
    /// An inbox, and the requests that come out of it.
    pub(super) fn new(receiver: Receiver, cancel: CancellationToken) -> (Self, mpsc::Receiver<Request>) {
        let (requests, coming) = mpsc::channel(MAX_WAITING_REQUESTS);
        (Self { receiver, readers: Readers::new(), requests, listing: EndOfListing::default(), cancel }, coming)
    }

    pub(super) fn readers(&self) -> Readers {
        self.readers.clone()
    }

    pub(super) fn end_of_listing(&self) -> EndOfListing {
        self.listing.clone()
    }

    /// Listens until the broker is gone, or is not understood; then the work is cancelled.
    pub(super) async fn listen(mut self) {
        loop {
            match self.receiver.next::<Request>().await {
                Ok(Some(Request::Opened { reader })) => match self.receiver.descriptor() {
                    Ok(pipe) => self.readers.tell(reader, News::Opened(pipe)),
                    Err(_) => break,
                },
                Ok(Some(Request::Ended { reader, result })) => self.readers.tell(reader, News::Ended(result)),
                Ok(Some(Request::Cancel)) => self.cancel.cancel(),
                Ok(Some(Request::Enough)) => self.listing.token().cancel(),
                Ok(Some(request)) => {
                    if matches!(request, Request::List(_)) {
                        self.listing.begin();
                    }
                    if self.requests.try_send(request).is_err() {
                        break;
                    }
                }
                Ok(None) | Err(_) => break,
            }
        }
        self.cancel.cancel();
        self.readers.close();
    }
}

/// Speaks to the broker.
pub(super) struct Outbox(tokio::sync::Mutex<Sender>);

impl Outbox {
    pub(super) fn new(sender: Sender) -> Self {
        Self(tokio::sync::Mutex::new(sender))
    }

    /// Sends a reply. A future that is dropped halfway would leave half a message, so this goes on
    /// in a task of its own.
    pub(super) async fn send(self: &Arc<Self>, reply: &Reply) -> Result<()> {
        let (outbox, reply) = (Arc::clone(self), reply.clone());
        let sending = tokio::spawn(async move { outbox.0.lock().await.send(&reply, None).await });
        sending.await.map_err(|error| Error::failed("cannot speak to the broker").because(error))?
    }
}
