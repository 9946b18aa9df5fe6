//! Servers of this machine that a set-up could back up: those that answer without a password. One
//! that asks for a password is told, as no set-up may know it.

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use lifeboat_base::{Error, Result};
use url::Url;

use super::REDIS_KIND;
use super::address::{self, DEFAULT_REDIS_PORT, RedisAddress};
use crate::database::{FoundHere, FoundSource, Look};

/// Where servers put their socket. In /tmp, any user could put one.
const USUAL_SOCKET: &str = "/run/redis/redis-server.sock";
const REDIS_SOCKET_NAME: &str = "redis-server.sock";
/// What answers no later is not asked again: a set-up must not hang.
const LONGEST_ANSWER: Duration = Duration::from_secs(2);
const QUESTION: &[u8] = b"PING\r\n";
const ANSWER: &[u8] = b"+PONG";

/// Every server that answers on the usual port of the loopback, on the usual socket, or on one in
/// `look.places`.
pub(super) fn find(look: &Look) -> FoundHere {
    let mut found = FoundHere::default();
    let mut sockets = vec![PathBuf::from(USUAL_SOCKET)];
    sockets.extend(look.places.iter().map(|place| place.join(REDIS_SOCKET_NAME)));
    for path in sockets {
        note(
            &mut found,
            at_socket(&path),
            UnixStream::connect(&path).and_then(|stream| {
                stream.set_read_timeout(Some(LONGEST_ANSWER))?;
                stream.set_write_timeout(Some(LONGEST_ANSWER))?;
                ask(stream)
            }),
        );
    }
    let loopback = SocketAddr::from((Ipv4Addr::LOCALHOST, DEFAULT_REDIS_PORT));
    // A server has both, and is one dataset.
    if found.sources.is_empty() {
        let source = at_url(&format!("redis://{loopback}"));
        note(
            &mut found,
            source,
            TcpStream::connect_timeout(&loopback, LONGEST_ANSWER).and_then(|stream| {
                stream.set_read_timeout(Some(LONGEST_ANSWER))?;
                stream.set_write_timeout(Some(LONGEST_ANSWER))?;
                ask(stream)
            }),
        );
    }
    found
}

fn note(found: &mut FoundHere, source: FoundSource, answered: io::Result<bool>) {
    match answered {
        Ok(true) => found.sources.push(source),
        Ok(false) => found.cannot_reach(
            source.what,
            "it lets nobody in without a password; write its [[dataset]] with `password` into the configuration",
        ),
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused) => {}
        Err(error) => found.cannot_reach(source.what, error),
    }
}

/// Whether a server answers who has told no password. What is no Redis server is an error.
fn ask(mut stream: impl Read + Write) -> io::Result<bool> {
    stream.write_all(QUESTION)?;
    let mut answer = [0; ANSWER.len()];
    stream.read_exact(&mut answer)?;
    match answer.first() {
        _ if answer == ANSWER => Ok(true),
        Some(b'-') => Ok(false),
        _ => Err(io::Error::new(io::ErrorKind::InvalidData, "what answers there is no Redis server")),
    }
}

fn at_socket(path: &Path) -> FoundSource {
    let shown = path.display().to_string();
    let settings = toml::Table::from_iter([("socket".to_owned(), shown.clone().into())]);
    FoundSource {
        kind: REDIS_KIND,
        what: format!("Redis at the socket {shown}"),
        place: Some(path.to_owned()),
        name: REDIS_KIND.to_owned(),
        settings,
        account: None,
    }
}

fn at_url(url: &str) -> FoundSource {
    FoundSource {
        kind: REDIS_KIND,
        what: format!("Redis at {url}"),
        place: None,
        name: REDIS_KIND.to_owned(),
        settings: toml::Table::from_iter([("url".to_owned(), url.into())]),
        account: None,
    }
}

/// The server that an operator names by its socket, or by a URL.
pub(super) fn at(address: &str) -> Result<FoundSource> {
    if address.starts_with('/') {
        return Ok(at_socket(Path::new(address)));
    }
    let url = Url::parse(address).map_err(|_| "it is no URL").and_then(address::checked);
    // The text itself may hold a password, so it is not shown.
    let refused = |why: &str| {
        Error::usage(format!("this is not the address of a Redis server: {why}")).hint(
            "write the path of its socket, or redis://127.0.0.1:6379; write what needs a password into the configuration",
        )
    };
    let url = url.map_err(refused)?;
    if RedisAddress::Url(url.clone()).unverified_host().is_some() {
        return Err(refused("a server on another machine must prove who it is, with rediss:// and sslrootcert"));
    }
    Ok(at_url(url.as_str().trim_end_matches('/')))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    /// A stream that answers so.
    struct Answering(&'static [u8]);

    impl Read for Answering {
        fn read(&mut self, space: &mut [u8]) -> io::Result<usize> {
            self.0.read(space)
        }
    }

    impl Write for Answering {
        fn write(&mut self, data: &[u8]) -> io::Result<usize> {
            Ok(data.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn who_lets_nobody_in_and_what_is_no_server_is_told() {
        assert!(ask(Answering(b"+PONG\r\n")).unwrap());
        assert!(!ask(Answering(b"-NOAUTH Authentication required.\r\n")).unwrap());
        assert!(ask(Answering(b"HTTP/1.1 400")).is_err());
        assert!(ask(Answering(b"+PO")).is_err());
    }

    #[test]
    fn an_address_is_a_socket_or_a_url_without_secrets() {
        assert_eq!(at("/run/r.sock").unwrap().settings["socket"].as_str(), Some("/run/r.sock"));
        assert_eq!(at("redis://127.0.0.1:6380").unwrap().settings["url"].as_str(), Some("redis://127.0.0.1:6380"));
        for bad in ["", "x", "http://x", "redis://u:hunter2@127.0.0.1", "redis://db", "rediss://db"] {
            let error = at(bad).unwrap_err();
            assert!(!error.chain_and_hint().contains("hunter2"), "{bad}");
        }
        assert!(at("rediss://db/?sslrootcert=/etc/own-ca.pem").is_ok());
    }
}
