//! An S3 server that lies: whoever owns an endpoint can answer anything. It plays the attacker, so
//! it is no stand-in for a store that works.

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

/// No head of a request is longer.
const MAX_HEAD_BYTES: usize = 64 << 10;

/// How it lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lie {
    /// Each object has 5 GiB, and says so. Listings have one page, without an object.
    HugeObjects,
    /// Each object is announced with a few bytes, and the connection goes on for ever.
    UnderstatedObjects,
    /// Listings never end: each page has a new token.
    EndlessListing,
    /// Each page comes with the same token.
    CircularListing,
    /// A page says that there are more, and gives no token.
    ListingWithoutToken,
    /// The only page says that it is the last, and comes with a token.
    ListingWithToken,
    /// A page is 5 GiB long.
    HugePage,
    /// A page is of many short tags, which take far more memory than bytes.
    ManyTags,
    /// The removal of several objects succeeds, and says nothing of any of them.
    RemovesNothing,
    /// The removal of several objects succeeds, and says that one of them was refused.
    RefusesOne,
    /// There is no removal of several objects, and that of one succeeds.
    RemovesOneByOne,
}

/// A server that lies, on a port of this machine. It stops when it is dropped.
pub struct Liar {
    address: SocketAddr,
    served: Arc<AtomicU64>,
    task: JoinHandle<()>,
}

impl Drop for Liar {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Liar {
    /// Starts a server. It tells the truth about objects whose path ends as one of `truths` does.
    ///
    /// # Panics
    /// There is no port.
    pub async fn start(lie: Lie, truths: Vec<(String, Vec<u8>)>) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap_or_else(|error| panic!("{error}"));
        let address = listener.local_addr().unwrap_or_else(|error| panic!("{error}"));
        let served = Arc::new(AtomicU64::new(0));
        let (truths, counter) = (Arc::new(truths), served.clone());
        let task = tokio::spawn(async move {
            while let Ok((connection, _)) = listener.accept().await {
                let (truths, counter) = (truths.clone(), counter.clone());
                tokio::spawn(async move {
                    // The client may hang up at any time.
                    let _ = serve(connection, lie, &truths, &counter).await;
                });
            }
        });
        Self { address, served, task }
    }

    /// The `endpoint` of a replica's configuration.
    #[must_use]
    pub fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }

    /// How many bytes of bodies a client has taken.
    #[must_use]
    pub fn served_bytes(&self) -> u64 {
        self.served.load(Ordering::Relaxed)
    }
}

async fn serve(
    mut connection: TcpStream,
    lie: Lie,
    truths: &[(String, Vec<u8>)],
    served: &AtomicU64,
) -> std::io::Result<()> {
    let mut pages = 0_u64;
    loop {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(connection.read_u8().await?);
            if head.len() > MAX_HEAD_BYTES {
                return Ok(());
            }
        }
        let head = String::from_utf8_lossy(&head).into_owned();
        let mut words = head.split(' ');
        let (method, target) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
        let (path, query) = target.split_once('?').unwrap_or((target, ""));
        if method == "POST" && query.split('&').any(|part| part.starts_with("delete")) {
            skip_body(&mut connection, &head).await?;
            let answered = match lie {
                Lie::RemovesNothing => "<DeleteResult></DeleteResult>".to_owned(),
                Lie::RefusesOne => "<DeleteResult><Deleted><Key>vault/one</Key></Deleted><Error><Key>vault/two</Key>\
                     <Code>AccessDenied</Code><Message>no</Message></Error></DeleteResult>"
                    .to_owned(),
                _ => {
                    answer(&mut connection, 501, 0, &[]).await?;
                    continue;
                }
            };
            answer(&mut connection, 200, answered.len() as u64, answered.as_bytes()).await?;
        } else if method == "DELETE" {
            answer(&mut connection, 204, 0, &[]).await?;
        } else if method == "HEAD" {
            answer(&mut connection, 200, 0, &[]).await?;
        } else if method != "GET" {
            return answer(&mut connection, 403, 0, &[]).await;
        } else if query.contains("list-type=2") {
            pages += 1;
            let prefix = query.split('&').find_map(|part| part.strip_prefix("prefix=")).unwrap_or_default();
            list(&mut connection, lie, &prefix.replace("%2F", "/"), pages, served).await?;
        } else if let Some((_, body)) = truths.iter().find(|(end, _)| path.ends_with(end.as_str())) {
            answer(&mut connection, 200, body.len() as u64, body).await?;
        } else {
            match lie {
                Lie::HugeObjects => {
                    answer(&mut connection, 200, 5 << 30, &[]).await?;
                    pour(&mut connection, 5 << 30, served).await?;
                }
                Lie::UnderstatedObjects => {
                    answer(&mut connection, 200, 100, &[]).await?;
                    pour(&mut connection, 5 << 30, served).await?;
                }
                _ => answer(&mut connection, 404, 0, &[]).await?,
            }
        }
    }
}

async fn skip_body(connection: &mut TcpStream, head: &str) -> std::io::Result<()> {
    let length = head.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        name.eq_ignore_ascii_case("content-length").then(|| value.trim().parse::<usize>().ok())?
    });
    let mut body = vec![0; length.unwrap_or_default().min(MAX_HEAD_BYTES)];
    connection.read_exact(&mut body).await.map(drop)
}

async fn answer(connection: &mut TcpStream, status: u16, length: u64, body: &[u8]) -> std::io::Result<()> {
    let head = format!(
        "HTTP/1.1 {status} X\r\nContent-Length: {length}\r\nLast-Modified: Sat, 28 Nov 2026 12:00:00 GMT\r\nETag: \"x\"\r\n\r\n"
    );
    connection.write_all(head.as_bytes()).await?;
    connection.write_all(body).await
}

/// Sends `length` bytes, or as many as the client takes.
async fn pour(connection: &mut TcpStream, length: u64, served: &AtomicU64) -> std::io::Result<()> {
    let block = vec![b'<'; 1 << 20];
    let mut left = length;
    while left > 0 {
        let piece = &block[..left.min(block.len() as u64) as usize];
        connection.write_all(piece).await?;
        served.fetch_add(piece.len() as u64, Ordering::Relaxed);
        left -= piece.len() as u64;
    }
    Ok(())
}

async fn list(
    connection: &mut TcpStream,
    lie: Lie,
    prefix: &str,
    page: u64,
    served: &AtomicU64,
) -> std::io::Result<()> {
    const OBJECTS: u64 = 1000;
    let (objects, truncated, token) = match lie {
        Lie::HugeObjects | Lie::UnderstatedObjects | Lie::RemovesNothing | Lie::RefusesOne | Lie::RemovesOneByOne => {
            (0, false, None)
        }
        Lie::EndlessListing => (OBJECTS, true, Some(page)),
        Lie::CircularListing => (OBJECTS, true, Some(1)),
        Lie::ListingWithoutToken => (OBJECTS, true, None),
        Lie::ListingWithToken => (OBJECTS, false, Some(page)),
        Lie::HugePage => {
            answer(connection, 200, 5 << 30, b"<?xml version=\"1.0\"?><ListBucketResult>").await?;
            return pour(connection, 5 << 30, served).await;
        }
        Lie::ManyTags => {
            let body = format!("<ListBucketResult>{}</ListBucketResult>", "<Contents/>".repeat(180_000));
            return answer(connection, 200, body.len() as u64, body.as_bytes()).await;
        }
    };
    let mut body = format!("<?xml version=\"1.0\"?><ListBucketResult><IsTruncated>{truncated}</IsTruncated>");
    if let Some(token) = token {
        let _ = write!(body, "<NextContinuationToken>{token}</NextContinuationToken>");
    }
    for number in 0..objects {
        let id = blake3::hash(&(page * OBJECTS + number).to_le_bytes()).to_hex();
        let key = if prefix.ends_with("datasets/data/") && !prefix.contains("keyring") {
            format!("{prefix}packs/{}/{id}.zst.age", &id[..2])
        } else {
            format!("{prefix}{id}{id}{id}")
        };
        let _ = write!(
            body,
            "<Contents><Key>{key}</Key><LastModified>2026-11-28T12:00:00.000Z</LastModified><Size>1</Size></Contents>"
        );
    }
    body.push_str("</ListBucketResult>");
    served.fetch_add(body.len() as u64, Ordering::Relaxed);
    answer(connection, 200, body.len() as u64, body.as_bytes()).await
}
