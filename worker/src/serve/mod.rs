//! The side without keys: it does one job, and ends.
//!
//! - **Streams** come through pipes, see `streams.rs`.
//! - **Cancellation**: [`Request::Cancel`] and the end of the socket fire the token of the work. A
//!   throw-away database is stopped and removed before [`serve`] returns, whatever happened.

mod inbox;
mod streams;

use std::io::Read;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::Arc;

use lifeboat_base::{Class, Context, Error, Result};
use lifeboat_databases::proof::ProofLevel;
use lifeboat_databases::streams::StoredStreams;
use lifeboat_databases::{ListedItem, Listing, ServerTarget, ThrowAway, Wanted, WorkContext, registry};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use self::inbox::{EndOfListing, Inbox, Outbox};
use self::streams::StreamsOfBroker;
use crate::protocol::{
    Confinement, DrillTools, Job, MAX_REQUEST_BYTES, Password, Reply, Request, Started, WireError, Work,
};
use crate::{channel, disk};

/// Receives the job. `None` if the broker closed the socket first.
///
/// This blocks, and takes nothing but the job from the socket: a worker confines itself for its job
/// before it has a second thread.
///
/// # Errors
/// The socket fails, or the job is not understood.
pub fn receive_job(mut socket: &UnixStream) -> Result<Option<Job>> {
    let failed = || "cannot receive a job";
    let mut length = [0; 4];
    match socket.read_exact(&mut length) {
        Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => return Ok(None),
        received => received.context(Class::Failed, failed)?,
    }
    let length = u32::from_le_bytes(length) as usize;
    if length > MAX_REQUEST_BYTES {
        return Err(Error::failed(format!("the job has {length} bytes, and {MAX_REQUEST_BYTES} are the most")));
    }
    let mut json = zeroize::Zeroizing::new(vec![0; length]);
    socket.read_exact(&mut json).context(Class::Failed, failed)?;
    serde_json::from_slice(&json).map(Some).context(Class::Failed, failed)
}

/// Does the job. `scratch` is a private directory; the caller removes it.
///
/// # Errors
/// The broker cannot be spoken to. What fails in the work is told to the broker.
pub async fn serve(socket: UnixStream, job: Job, confinement: Confinement, scratch: &Path) -> Result<()> {
    let failed = || "cannot use the socket to the broker";
    socket.set_nonblocking(true).context(Class::Failed, failed)?;
    let socket = tokio::net::UnixStream::from_std(socket).context(Class::Failed, failed)?;
    let (sender, receiver) = channel::ends(socket, MAX_REQUEST_BYTES, true);
    let outbox = Arc::new(Outbox::new(sender));
    outbox.send(&Reply::Confined(confinement)).await?;
    let Job { work, facts, streams, left_out, stall, jobs, environment, .. } = job;
    let cx = WorkContext {
        scratch: scratch.to_owned(),
        stall,
        jobs,
        environment: environment.environment(),
        cancel: CancellationToken::new(),
    };
    let (inbox, requests) = Inbox::new(receiver, cx.cancel.clone());
    let streams = StreamsOfBroker::new(facts, (streams, left_out), Arc::clone(&outbox), inbox.readers());
    let end_of_listing = inbox.end_of_listing();
    let listening = tokio::spawn(inbox.listen());
    let served = Service { streams, outbox: Arc::clone(&outbox), end_of_listing, cx }.run(work, requests).await;
    listening.abort();
    match served {
        Ok(()) => Ok(()),
        Err(error) => outbox.send(&Reply::Failed(WireError::from(&error))).await,
    }
}

/// Fails if a directory of another user stands before the place of a throw-away database.
fn reachable(scratch: &Path) -> Result<()> {
    match std::fs::metadata(scratch) {
        Err(error) if error.kind() == std::io::ErrorKind::PermissionDenied => {
            Err(Error::source_failed(format!("the user of the worker cannot reach {}", scratch.display()))
                .because(error)
                .hint("let the user of the worker reach TMPDIR, or set TMPDIR to a directory that it can enter"))
        }
        _ => Ok(()),
    }
}

struct Service {
    streams: StreamsOfBroker,
    outbox: Arc<Outbox>,
    end_of_listing: EndOfListing,
    cx: WorkContext,
}

type Requests = tokio::sync::mpsc::Receiver<Request>;

impl Service {
    async fn run(&self, work: Work, requests: Requests) -> Result<()> {
        match work {
            Work::Restore { kind, address, password, client_directories, wanted } => {
                let engine = registry::find(&kind).ok_or_else(unknown_engine)?;
                let password = password.map(Password::into_secret);
                let server = engine.server(&address, password, &client_directories)?;
                self.restore(server.as_ref(), &wanted).await
            }
            Work::Drill(DrillTools { directories, commands, needed_disk }) => {
                reachable(&self.cx.scratch)?;
                disk::require(&self.cx.scratch, needed_disk)?;
                let facts = self.streams.facts();
                let engine = registry::find(&facts.engine).ok_or_else(unknown_engine)?;
                let throw_away = if engine.takes_commands() && commands.highest_level() > ProofLevel::Fetched {
                    Some(commands.throw_away(&self.cx)?)
                } else {
                    self.watched(engine.throw_away(facts, &directories, &self.cx)).await?
                };
                match throw_away {
                    Some(throw_away) => self.drill(throw_away, requests).await,
                    None => self.outbox.send(&Reply::NoThrowAway).await,
                }
            }
        }
    }

    /// Work that may be dropped: nothing that it started outlives it, or the throw-away database.
    async fn unless_cancelled<T>(&self, work: impl Future<Output = Result<T>>) -> Result<T> {
        tokio::select! {
            result = work => result,
            () = self.cx.cancel.cancelled() => Err(Error::cancelled("the drill")),
        }
    }

    /// Such work that fills the directory of the throw-away database.
    async fn watched<T>(&self, work: impl Future<Output = Result<T>>) -> Result<T> {
        self.unless_cancelled(disk::watched(&self.cx.scratch, work)).await
    }

    /// Not dropped when it is cancelled: it obeys the token, and drops what is half loaded.
    async fn restore(&self, server: &dyn ServerTarget, wanted: &Wanted) -> Result<()> {
        let outcome = server.load(&self.streams, wanted, &self.cx).await?;
        self.outbox.send(&Reply::Restored(outcome)).await
    }

    /// Sends all items of a listing, unless the broker wants no more of them.
    async fn list(&self, throw_away: &mut dyn ThrowAway, listing: &Listing) -> Result<()> {
        let (items, mut listed) = mpsc::channel::<Vec<ListedItem>>(1);
        // What it takes ends with it, so that nobody waits for whoever has gone.
        let send = async move {
            while let Some(batch) = listed.recv().await {
                let items = batch.iter().map(|item| item.as_deref().map(item_text)).collect();
                self.outbox.send(&Reply::Items(items)).await?;
            }
            Ok(())
        };
        let end = self.end_of_listing.token();
        let list = async {
            tokio::select! {
                result = self.unless_cancelled(throw_away.list(listing, items)) => result,
                () = end.cancelled() => Err(Error::cancelled("the listing")),
            }
        };
        let (told, sent) = tokio::join!(list, send);
        told.and(sent)
    }

    async fn drill(&self, mut throw_away: Box<dyn ThrowAway>, mut requests: Requests) -> Result<()> {
        let started = Started { server_version: throw_away.server_version().to_owned(), address: throw_away.address() };
        self.outbox.send(&Reply::Started(started)).await?;
        loop {
            let reply = match requests.recv().await {
                Some(Request::Load) => self.watched(throw_away.load(&self.streams)).await.map(|()| Reply::Loaded),
                Some(Request::Check { queries }) => {
                    let checked = self.watched(throw_away.check(&queries)).await;
                    checked.and_then(|checks| disk::unless_full(&self.cx.scratch, checks)).map(Reply::Checked)
                }
                Some(Request::Ask { queries }) => self.watched(throw_away.ask(&queries)).await.map(Reply::Checked),
                Some(Request::Prove) => self.watched(throw_away.prove(&self.streams)).await.map(Reply::Proved),
                Some(Request::List(listing)) => self.list(throw_away.as_mut(), &listing).await.map(|()| Reply::Listed),
                Some(Request::Stop) => {
                    throw_away.stop().await?;
                    return self.outbox.send(&Reply::Stopped).await;
                }
                // The broker is gone.
                _ => return throw_away.stop().await,
            };
            self.outbox.send(&reply.unwrap_or_else(|error| Reply::Failed(WireError::from(&error)))).await?;
        }
    }
}

/// An item, as [`Reply::Items`] has it.
pub(crate) fn item_text(item: &[u8]) -> String {
    item.iter().copied().map(char::from).collect()
}

fn unknown_engine() -> Error {
    Error::integrity("the snapshot was captured by an engine that this version does not know")
        .hint("use the version of Lifeboat that wrote the snapshot, or a newer one")
}

/// The socket that a worker gets as its standard input.
///
/// # Errors
/// Standard input is not a socket.
pub fn socket_of_stdin() -> Result<UnixStream> {
    let failed = || "standard input is no socket: lifeboat-worker is started by lifeboat, or by systemd";
    let input = std::io::stdin().as_fd().try_clone_to_owned().context(Class::Usage, failed)?;
    rustix::net::sockopt::socket_domain(&input).context(Class::Usage, failed)?;
    Ok(UnixStream::from(input))
}
