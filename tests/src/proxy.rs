//! A TCP proxy that misbehaves on command.
//!
//! Deterministic: nothing in it is random, and each connection behaves as the mode says that was
//! due when it was accepted. Changing the mode closes the connections that are open, so that
//! kept-alive ones cannot evade it.

#![allow(clippy::expect_used)]

use std::collections::VecDeque;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};

/// How connections are treated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// Everything passes both ways.
    Pass,
    /// Connections are accepted; nothing is ever answered.
    Hang,
    /// Connections are accepted and reset.
    Reset,
    /// Connections are refused: nobody listens. Cannot be part of a script.
    Refuse,
    /// Requests are read and answered with this HTTP status and no body, without asking upstream.
    Status(u16),
    /// Requests are read and answered as S3 answers too many: `SlowDown`, and a `Retry-After` of so
    /// many seconds.
    Throttle(u64),
    /// Everything passes, but each piece of an answer comes later by so much.
    Slow(Duration),
    /// A store without room: what writes is answered with 507, everything else passes.
    Full,
    /// Requests pass; after so many bytes of answer the connection is reset. With 0 upstream has
    /// done its work and begun to answer, and the client never learns it.
    CutAfter(usize),
    /// Requests are read and answered with a page of a listing that goes on and does not say how,
    /// without asking upstream.
    ListingWithoutToken,
    /// After so many bytes of request the connection is reset: upstream gets a part of it.
    CutRequestAfter(usize),
    /// Everything passes, but the byte of the answer that has so many before it is changed.
    DamageAt(usize),
}

/// As no store should answer, and some have.
const LISTING_WITHOUT_TOKEN: &str = "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\
    <ListBucketResult xmlns=\"http://s3.amazonaws.com/doc/2006-03-01/\"><Name>backups</Name><Prefix>vault/</Prefix>\
    <KeyCount>0</KeyCount><MaxKeys>1000</MaxKeys><IsTruncated>true</IsTruncated></ListBucketResult>";

const SLOW_DOWN: &str = "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\
    <Error><Code>SlowDown</Code><Message>Please reduce your request rate.</Message></Error>";

const NO_ROOM: &str = "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\
    <Error><Code>InsufficientStorage</Code><Message>The store is full.</Message></Error>";

/// A listening proxy; dropping it closes everything.
pub struct Proxy {
    address: SocketAddr,
    shared: Arc<Shared>,
    task: JoinHandle<()>,
}

struct Shared {
    upstream: Option<SocketAddr>,
    mode: watch::Sender<Mode>,
    script: Mutex<VecDeque<Mode>>,
    connections: Mutex<usize>,
    requested: AtomicUsize,
    answered: AtomicUsize,
}

impl Shared {
    fn script(&self) -> MutexGuard<'_, VecDeque<Mode>> {
        self.script.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn connections(&self) -> MutexGuard<'_, usize> {
        self.connections.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Proxy {
    /// A proxy before `upstream`, in [`Mode::Pass`].
    ///
    /// # Panics
    /// If no port can be bound.
    pub async fn start(upstream: SocketAddr) -> Self {
        Self::listen(Some(upstream), Mode::Pass).await
    }

    /// A server of its own, which never passes anything on: for every mode but [`Mode::Pass`],
    /// [`Mode::CutAfter`], [`Mode::CutRequestAfter`], [`Mode::DamageAt`], [`Mode::Full`] and
    /// [`Mode::Slow`], which reset here.
    ///
    /// # Panics
    /// If no port can be bound.
    pub async fn standalone(mode: Mode) -> Self {
        Self::listen(None, mode).await
    }

    async fn listen(upstream: Option<SocketAddr>, mode: Mode) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a free port");
        let address = listener.local_addr().expect("a bound address");
        let (mode, changes) = watch::channel(mode);
        let shared = Arc::new(Shared {
            upstream,
            mode,
            script: Mutex::default(),
            connections: Mutex::default(),
            requested: AtomicUsize::default(),
            answered: AtomicUsize::default(),
        });
        let task = tokio::spawn(accept(listener, address, shared.clone(), changes));
        Self { address, shared, task }
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Closes what is open and treats new connections as `mode` says.
    pub fn set(&self, mode: Mode) {
        self.play([], mode);
    }

    /// Closes what is open, treats each of the next connections as the script says, one mode each,
    /// then as `mode`.
    pub fn play(&self, script: impl IntoIterator<Item = Mode>, mode: Mode) {
        *self.shared.script() = script.into_iter().collect();
        *self.shared.connections() = 0;
        self.shared.mode.send_replace(mode);
    }

    /// How many connections were accepted since the mode was last set.
    #[must_use]
    pub fn connections(&self) -> usize {
        *self.shared.connections()
    }

    /// How many bytes of requests were passed on since it began.
    #[must_use]
    pub fn requested(&self) -> usize {
        self.shared.requested.load(Ordering::Relaxed)
    }

    /// How many bytes of answers were passed on since it began.
    #[must_use]
    pub fn answered(&self) -> usize {
        self.shared.answered.load(Ordering::Relaxed)
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn accept(listener: TcpListener, address: SocketAddr, shared: Arc<Shared>, mut changes: watch::Receiver<Mode>) {
    let mut listener = Some(listener);
    let mut open = JoinSet::new();
    loop {
        let mode = *changes.borrow_and_update();
        if mode == Mode::Refuse {
            listener = None;
        } else if listener.is_none() {
            listener = Some(TcpListener::bind(address).await.expect("its port again"));
        }
        let next = async {
            match &listener {
                Some(listener) => listener.accept().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            changed = changes.changed() => {
                open.abort_all();
                if changed.is_err() {
                    return;
                }
            }
            accepted = next => {
                let Ok((client, _)) = accepted else { continue };
                *shared.connections() += 1;
                let mode = shared.script().pop_front().unwrap_or(mode);
                open.spawn(treat(client, mode, shared.clone()));
            }
        }
    }
}

async fn treat(mut client: TcpStream, mode: Mode, shared: Arc<Shared>) {
    match (mode, shared.upstream) {
        (Mode::Hang, _) => std::future::pending().await,
        (Mode::Status(status), _) => answer(&mut client, status, "", "").await,
        (Mode::ListingWithoutToken, _) => answer(&mut client, 200, "", LISTING_WITHOUT_TOKEN).await,
        (Mode::Throttle(seconds), _) => {
            answer(&mut client, 503, &format!("retry-after: {seconds}\r\n"), SLOW_DOWN).await;
        }
        (Mode::Full, Some(upstream)) => without_room(client, upstream, &shared).await,
        (Mode::Slow(delay), Some(upstream)) => {
            forward(client, upstream, Fate { delay, ..Fate::WHOLE }, &shared).await;
        }
        (Mode::Pass, Some(upstream)) => forward(client, upstream, Fate::WHOLE, &shared).await,
        (Mode::CutAfter(bytes), Some(upstream)) => {
            forward(client, upstream, Fate { limit: bytes, ..Fate::WHOLE }, &shared).await;
        }
        (Mode::CutRequestAfter(bytes), Some(upstream)) => {
            forward(client, upstream, Fate { request_limit: bytes, ..Fate::WHOLE }, &shared).await;
        }
        (Mode::DamageAt(place), Some(upstream)) => {
            forward(client, upstream, Fate { damage: Some(place), ..Fate::WHOLE }, &shared).await;
        }
        (
            Mode::Pass | Mode::CutAfter(_) | Mode::CutRequestAfter(_) | Mode::DamageAt(_) | Mode::Full | Mode::Slow(_),
            None,
        )
        | (Mode::Reset | Mode::Refuse, _) => reset(&client),
    }
}

/// The socket sends RST instead of FIN when it is dropped.
fn reset(client: &TcpStream) {
    let _ = client.set_zero_linger();
}

/// What becomes of the requests and the answers of a connection.
#[derive(Clone, Copy)]
struct Fate {
    /// So many bytes of requests are passed.
    request_limit: usize,
    /// So many bytes of answers are passed.
    limit: usize,
    /// The byte that is changed.
    damage: Option<usize>,
    /// Each piece of an answer comes later by so much.
    delay: Duration,
}

impl Fate {
    const WHOLE: Self = Self { request_limit: usize::MAX, limit: usize::MAX, damage: None, delay: Duration::ZERO };
}

/// Passes bytes until either side closes, or until as many were passed as may be and another one is
/// due.
async fn forward(client: TcpStream, upstream: SocketAddr, fate: Fate, shared: &Shared) {
    let Ok(server) = TcpStream::connect(upstream).await else { return reset(&client) };
    pass(client, server, fate, shared).await;
}

async fn pass(mut client: TcpStream, mut server: TcpStream, fate: Fate, shared: &Shared) {
    let (mut requested, mut answered) = (0, 0);
    let (mut request, mut answer) = (vec![0; 64 * 1024], vec![0; 64 * 1024]);
    loop {
        let passed = tokio::select! {
            read = client.read(&mut request) => match read {
                Ok(length @ 1..) => {
                    let passing = length.min(fate.request_limit - requested);
                    shared.requested.fetch_add(passing, Ordering::Relaxed);
                    let passed = server.write_all(&request[..passing]).await;
                    if passing < length {
                        reset(&server);
                        return reset(&client);
                    }
                    requested += passing;
                    passed
                }
                _ => return,
            },
            read = server.read(&mut answer) => match read {
                Ok(length @ 1..) => {
                    tokio::time::sleep(fate.delay).await;
                    if let Some(place) = fate.damage.and_then(|place| place.checked_sub(answered)) {
                        answer[..length].get_mut(place).into_iter().for_each(|byte| *byte ^= 1);
                    }
                    let passing = length.min(fate.limit - answered);
                    let passed = client.write_all(&answer[..passing]).await;
                    if passing < length {
                        return reset(&client);
                    }
                    answered += passing;
                    shared.answered.fetch_add(passing, Ordering::Relaxed);
                    passed
                }
                _ => return,
            },
        };
        if passed.is_err() {
            return reset(&client);
        }
    }
}

/// Passes one request that does not write, and answers one that does. The connection ends after
/// it, so that the next request is looked at as well.
async fn without_room(mut client: TcpStream, upstream: SocketAddr, shared: &Shared) {
    let Some((mut request, head)) = read_head(&mut client).await else { return };
    let text = String::from_utf8_lossy(&request[..head]).into_owned();
    // Deleting several objects at once is a POST, too.
    if text.starts_with("PUT ") || (text.starts_with("POST ") && !text.contains("?delete")) {
        if read_body(&mut client, &mut request, head).await.is_some() {
            reply(&mut client, 507, "", NO_ROOM).await;
        }
        return;
    }
    let Ok(mut server) = TcpStream::connect(upstream).await else { return reset(&client) };
    request.splice(head - 2..head - 2, *b"connection: close\r\n");
    if server.write_all(&request).await.is_ok() {
        pass(client, server, Fate::WHOLE, shared).await;
    }
}

/// Reads one request whole, its body included, and answers it.
async fn answer(client: &mut TcpStream, status: u16, headers: &str, body: &str) {
    let Some((mut request, head)) = read_head(client).await else { return };
    if read_body(client, &mut request, head).await.is_some() {
        reply(client, status, headers, body).await;
    }
}

/// What has come up to the end of the head at least, and where that is.
async fn read_head(client: &mut TcpStream) -> Option<(Vec<u8>, usize)> {
    let mut request = Vec::new();
    loop {
        if !matches!(client.read_buf(&mut request).await, Ok(1..)) {
            return None;
        }
        if let Some(end) = request.windows(4).position(|window| window == b"\r\n\r\n") {
            return Some((request, end + 4));
        }
    }
}

async fn read_body(client: &mut TcpStream, request: &mut Vec<u8>, head: usize) -> Option<()> {
    let text = String::from_utf8_lossy(&request[..head]).to_ascii_lowercase();
    let length = text.lines().find_map(|line| line.strip_prefix("content-length:"));
    let length: usize = length.and_then(|length| length.trim().parse().ok()).unwrap_or_default();
    while request.len() < head + length {
        if !matches!(client.read_buf(request).await, Ok(1..)) {
            return None;
        }
    }
    Some(())
}

async fn reply(client: &mut TcpStream, status: u16, headers: &str, body: &str) {
    let length = body.len();
    let answer =
        format!("HTTP/1.1 {status} as told\r\n{headers}content-length: {length}\r\nconnection: close\r\n\r\n{body}");
    let _ = client.write_all(answer.as_bytes()).await;
    let _ = client.shutdown().await;
}
