//! A proxy that counts the requests of a program to its stores, and says when one of them is under
//! way at which the program is to be killed. From that moment on nothing passes any more, so a kill
//! that comes a little later changes nothing in a store.
//!
//! It speaks HTTP/1.1 without TLS, one request at a time on a connection, as the SDK does.

#![allow(clippy::expect_used)]

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use chrono::{DateTime, TimeDelta, Utc};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{JoinHandle, JoinSet};
use tokio_util::sync::CancellationToken;

const END_OF_HEAD: &[u8] = b"\r\n\r\n";
const DATE: &[u8] = b"\r\nDate: ";
/// As `Date` has it, always of the same length.
const DATE_FORMAT: &str = "%a, %d %b %Y %H:%M:%S GMT";

/// What of a request has passed when the program is killed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Moment {
    /// Nothing.
    BeforeRequest,
    /// The head and half of the body.
    WithinRequest,
    /// All of it. The store has answered, and the answer does not pass.
    AfterAnswer,
}

/// The request at which a program is to be killed.
#[derive(Debug)]
struct Trap {
    at: u64,
    moment: Moment,
    sprung: CancellationToken,
}

/// What the proxies before all stores of one program share.
#[derive(Debug, Default)]
pub struct Watch {
    requests: AtomicU64,
    trap: Mutex<Option<Arc<Trap>>>,
    seconds_ahead: AtomicI64,
}

impl Watch {
    /// Counts from 1 again, and springs at no request.
    pub fn disarm(&self) {
        self.set(None);
    }

    /// Counts from 1 again, and springs at the request of this number. The token fires when it
    /// does.
    pub fn arm(&self, at: u64, moment: Moment) -> CancellationToken {
        let sprung = CancellationToken::new();
        self.set(Some(Arc::new(Trap { at, moment, sprung: sprung.clone() })));
        sprung
    }

    fn set(&self, trap: Option<Arc<Trap>>) {
        *self.trap.lock().unwrap_or_else(PoisonError::into_inner) = trap;
        self.requests.store(0, Ordering::SeqCst);
    }

    /// How many requests began since it was last armed or disarmed.
    #[must_use]
    pub fn requests(&self) -> u64 {
        self.requests.load(Ordering::SeqCst)
    }

    /// Makes the stores tell a time that is ahead of theirs by so many seconds, from the next
    /// answer on.
    pub fn set_seconds_ahead(&self, seconds: i64) {
        self.seconds_ahead.store(seconds, Ordering::SeqCst);
    }

    fn trap(&self) -> Option<Arc<Trap>> {
        self.trap.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// A listening proxy before one store; dropping it closes everything.
pub struct CrashProxy {
    address: SocketAddr,
    denies: Arc<AtomicBool>,
    task: JoinHandle<()>,
}

impl CrashProxy {
    /// A proxy before `upstream`.
    ///
    /// # Panics
    /// If no port can be bound.
    pub async fn start(upstream: SocketAddr, watch: Arc<Watch>) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a free port");
        let address = listener.local_addr().expect("a bound address");
        let denies = Arc::new(AtomicBool::new(false));
        let denying = denies.clone();
        let task = tokio::spawn(async move {
            let mut open = JoinSet::new();
            while let Ok((client, _)) = listener.accept().await {
                // What ended is forgotten; what is open ends with the proxy.
                while open.try_join_next().is_some() {}
                let (watch, denying) = (watch.clone(), denying.clone());
                open.spawn(async move {
                    let Ok(server) = TcpStream::connect(upstream).await else { return };
                    let _ = client.set_nodelay(true);
                    let _ = server.set_nodelay(true);
                    let trap = watch.trap();
                    let mut line = Line { client, server, watch, trap: trap.clone(), denies: denying };
                    let passes = line.pass();
                    match trap {
                        None => drop(passes.await),
                        Some(trap) => {
                            tokio::select! {
                                biased;
                                () = trap.sprung.cancelled() => {}
                                _ = passes => {}
                            }
                            if trap.sprung.is_cancelled() {
                                line.hold().await;
                            }
                        }
                    }
                });
            }
        });
        Self { address, denies, task }
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Whether the store denies access from now on.
    pub fn set_denies(&self, denies: bool) {
        self.denies.store(denies, Ordering::SeqCst);
    }
}

impl Drop for CrashProxy {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// A connection of a program to a store.
struct Line {
    client: TcpStream,
    server: TcpStream,
    watch: Arc<Watch>,
    trap: Option<Arc<Trap>>,
    denies: Arc<AtomicBool>,
}

/// The program or the store closed the connection, or does not speak HTTP.
struct Closed;

impl From<std::io::Error> for Closed {
    fn from(_: std::io::Error) -> Self {
        Self
    }
}

impl Line {
    async fn pass(&mut self) -> Result<(), Closed> {
        loop {
            let (head, mut rest) = read_head(&mut self.client).await?;
            let number = self.watch.requests.fetch_add(1, Ordering::SeqCst) + 1;
            let trap = self.trap.clone().filter(|trap| trap.at == number);
            let is = |moment| trap.as_ref().is_some_and(|trap| trap.moment == moment);
            if is(Moment::BeforeRequest) {
                return self.spring();
            }
            let length = content_length(&head);
            if self.denies.load(Ordering::SeqCst) {
                return self.deny(length.saturating_sub(rest.len())).await;
            }
            self.server.write_all(&head).await?;
            let passing = if is(Moment::WithinRequest) { length / 2 } else { length };
            rest.truncate(passing);
            self.server.write_all(&rest).await?;
            self.pass_body(passing - rest.len()).await?;
            if is(Moment::WithinRequest) {
                return self.spring();
            }
            let answer = loop {
                let (mut answer, more) = read_head(&mut self.server).await?;
                if is(Moment::AfterAnswer) {
                    return self.spring();
                }
                self.set_date(&mut answer);
                answer.extend(more);
                if !answer.starts_with(b"HTTP/1.1 1") {
                    break answer;
                }
                self.client.write_all(&answer).await?;
            };
            self.client.write_all(&answer).await?;
            self.pass_answer().await?;
        }
    }

    /// Passes a body of a request. A store that answers before the end of it is not expected.
    async fn pass_body(&mut self, mut length: usize) -> Result<(), Closed> {
        let mut buffer = vec![0; 64 << 10];
        while length > 0 {
            let most = length.min(buffer.len());
            let read = self.client.read(&mut buffer[..most]).await?;
            if read == 0 {
                return Err(Closed);
            }
            self.server.write_all(&buffer[..read]).await?;
            length -= read;
        }
        Ok(())
    }

    /// Passes an answer until the program begins the next request.
    async fn pass_answer(&mut self) -> Result<(), Closed> {
        let (mut buffer, mut next) = (vec![0; 64 << 10], [0]);
        loop {
            tokio::select! {
                read = self.server.read(&mut buffer) => match read? {
                    0 => return Err(Closed),
                    length => self.client.write_all(&buffer[..length]).await?,
                },
                peeked = self.client.peek(&mut next) => match peeked? {
                    0 => return Err(Closed),
                    _ => return Ok(()),
                },
            }
        }
    }

    fn spring(&self) -> Result<(), Closed> {
        if let Some(trap) = &self.trap {
            trap.sprung.cancel();
        }
        Ok(())
    }

    /// Passes nothing, until the program is gone.
    async fn hold(&mut self) {
        let mut buffer = vec![0; 64 << 10];
        while self.client.read(&mut buffer).await.is_ok_and(|length| length > 0) {}
    }

    async fn deny(&mut self, mut length: usize) -> Result<(), Closed> {
        let mut buffer = vec![0; 64 << 10];
        while length > 0 {
            let read = self.client.read(&mut buffer).await?;
            if read == 0 {
                return Err(Closed);
            }
            length = length.saturating_sub(read);
        }
        let answer = b"HTTP/1.1 403 Forbidden\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";
        self.client.write_all(answer).await?;
        self.client.shutdown().await?;
        Ok(())
    }

    /// Puts the time forward that the store tells.
    fn set_date(&self, head: &mut [u8]) {
        let ahead = self.watch.seconds_ahead.load(Ordering::SeqCst);
        let Some(at) = head.windows(DATE.len()).position(|window| window.eq_ignore_ascii_case(DATE)) else { return };
        let told = &mut head[at + DATE.len()..];
        let Some(end) = told.windows(2).position(|window| window == b"\r\n") else { return };
        let date = std::str::from_utf8(&told[..end]).ok().and_then(|date| DateTime::parse_from_rfc2822(date).ok());
        let Some(date) = date else { return };
        let date = (date.with_timezone(&Utc) + TimeDelta::seconds(ahead)).format(DATE_FORMAT).to_string();
        assert_eq!(date.len(), end, "{date}");
        told[..end].copy_from_slice(date.as_bytes());
    }
}

/// Reads to the end of a head. Returns it, and what came behind it.
async fn read_head(stream: &mut TcpStream) -> Result<(Vec<u8>, Vec<u8>), Closed> {
    let mut head = Vec::new();
    loop {
        if let Some(end) = head.windows(END_OF_HEAD.len()).position(|window| window == END_OF_HEAD) {
            let rest = head.split_off(end + END_OF_HEAD.len());
            return Ok((head, rest));
        }
        if stream.read_buf(&mut head).await? == 0 {
            return Err(Closed);
        }
    }
}

fn content_length(head: &[u8]) -> usize {
    let head = String::from_utf8_lossy(head).to_ascii_lowercase();
    let length = head.lines().find_map(|line| line.strip_prefix("content-length:"));
    length.and_then(|length| length.trim().parse().ok()).unwrap_or_default()
}
