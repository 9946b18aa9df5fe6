//! Where a Redis server is: `redis://user@host:port`, `rediss://…` with TLS, or a unix socket.
//!
//! `redis-cli` checks that a certificate is of a CA that it trusts, but not whose name is in it. So
//! only a CA of one's own proves who the server is.

use std::path::{Path, PathBuf};

use lifeboat_base::{Error, Result};
use percent_encoding::percent_decode_str;
use url::Url;

use crate::tool::hosts::{is_here, socket_and_user};

/// How an address is written.
pub(super) const REDIS_ADDRESS_FORM: &str =
    "redis://user@host:6379, rediss://… with TLS, or socket:/run/redis/redis.sock[?user=NAME]";
pub(super) const DEFAULT_REDIS_PORT: u16 = 6379;
/// What a URL can say of TLS, and the options of `redis-cli` for it.
const REDIS_TLS_OPTIONS: [(&str, &str); 3] = [("sslrootcert", "--cacert"), ("sslcert", "--cert"), ("sslkey", "--key")];
const REDIS_TLS_SCHEME: &str = "rediss";
/// Where systems keep the certificates of public authorities.
const PUBLIC_AUTHORITIES: [&str; 7] = [
    "/etc/ssl/certs",
    "/etc/ssl/cert.pem",
    "/etc/ssl/ca-bundle.pem",
    "/etc/pki/tls",
    "/etc/pki/ca-trust",
    "/usr/share/ca-certificates",
    "/var/lib/ca-certificates",
];

/// How to connect to Redis. It holds no password.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum RedisAddress {
    /// `redis://user@host:port`, or `rediss://user@host:port/?sslrootcert=…`.
    Url(Url),
    /// A unix socket.
    Socket {
        /// The socket.
        path: PathBuf,
        /// The user to connect as.
        user: Option<String>,
    },
}

/// A URL whose every part has a meaning here.
pub(super) fn checked(url: Url) -> std::result::Result<Url, &'static str> {
    if !matches!(url.scheme(), "redis" | REDIS_TLS_SCHEME) {
        return Err("a URL begins with redis:// or rediss://");
    }
    if url.password().is_some() || url.query_pairs().any(|(name, _)| name.contains("pass")) {
        return Err("a URL must not hold a password");
    }
    if url.host_str().is_none_or(str::is_empty) {
        return Err("it names no host");
    }
    if !matches!(url.path(), "" | "/") {
        return Err("it names a database, and all databases of the server are captured");
    }
    for (name, _) in url.query_pairs() {
        if url.scheme() != REDIS_TLS_SCHEME || !REDIS_TLS_OPTIONS.iter().any(|(known, _)| *known == name) {
            return Err("rediss:// takes the options sslrootcert, sslcert and sslkey, and redis:// none");
        }
    }
    Ok(url)
}

/// Parses an address. This is not a clap parser, as clap's refusals repeat the value.
///
/// # Errors
/// What is wrong with the address, without a secret.
pub(super) fn parse(text: &str) -> Result<RedisAddress> {
    let Some(socket) = text.strip_prefix("socket:") else {
        // The parser's own message may quote what could be a password.
        let url = Url::parse(text).map_err(|_| refused("it is not a URL"))?;
        return checked(url).map(RedisAddress::Url).map_err(refused);
    };
    let (path, user) = socket_and_user(socket).map_err(refused)?;
    Ok(RedisAddress::Socket { path, user })
}

fn refused(why: &str) -> Error {
    Error::usage(format!("this is not the address of a Redis server: {why}"))
        .hint(format!("write {REDIS_ADDRESS_FORM}; a password goes into a file that --password-file names"))
}

fn decoded(text: &str) -> String {
    percent_decode_str(text).decode_utf8_lossy().into_owned()
}

impl RedisAddress {
    /// The arguments of `redis-cli` for it. None is secret.
    pub(super) fn arguments(&self) -> Vec<String> {
        match self {
            Self::Socket { path, .. } => vec!["-s".to_owned(), path.to_string_lossy().into_owned()],
            Self::Url(url) => {
                let host = decoded(url.host_str().unwrap_or_default()).trim_matches(['[', ']']).to_owned();
                let port = url.port().unwrap_or(DEFAULT_REDIS_PORT).to_string();
                let mut arguments = vec!["-h".to_owned(), host.clone(), "-p".to_owned(), port];
                if url.scheme() == REDIS_TLS_SCHEME {
                    arguments.push("--tls".to_owned());
                    if host.parse::<std::net::IpAddr>().is_err() {
                        arguments.extend(["--sni".to_owned(), host]);
                    }
                    for (name, value) in url.query_pairs() {
                        let option = REDIS_TLS_OPTIONS.iter().find(|(known, _)| *known == name);
                        arguments.extend(
                            option
                                .into_iter()
                                .flat_map(|(_, option)| [(*option).to_owned(), value.clone().into_owned()]),
                        );
                    }
                }
                arguments
            }
        }
    }

    /// The user to connect as.
    pub(super) fn user(&self) -> Option<String> {
        match self {
            Self::Socket { user, .. } => user.clone(),
            Self::Url(url) => Some(decoded(url.username())).filter(|user| !user.is_empty()),
        }
    }

    /// The files that it names.
    pub(super) fn files(&self) -> Vec<PathBuf> {
        let Self::Url(url) = self else { return Vec::new() };
        url.query_pairs().map(|(_, value)| PathBuf::from(&*value)).filter(|path| path.is_absolute()).collect()
    }

    /// Where the server is, for people.
    pub(super) fn describe(&self) -> String {
        match self {
            Self::Socket { path, .. } => path.display().to_string(),
            Self::Url(url) => {
                format!("{}:{}", url.host_str().unwrap_or_default(), url.port().unwrap_or(DEFAULT_REDIS_PORT))
            }
        }
    }

    /// A host on another machine that does not have to prove who it is.
    pub(super) fn unverified_host(&self) -> Option<String> {
        let Self::Url(url) = self else { return None };
        let host = decoded(url.host_str()?);
        // `redis-cli` checks no names: whoever has a certificate of a public authority would pass.
        let is_own = |file: &str| !PUBLIC_AUTHORITIES.iter().any(|folder| Path::new(file).starts_with(folder));
        let proves = url.scheme() == REDIS_TLS_SCHEME
            && url.query_pairs().any(|(name, file)| name == "sslrootcert" && is_own(&file));
        (!is_here(&host) && !proves).then_some(host)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    fn address(text: &str) -> std::result::Result<RedisAddress, &'static str> {
        checked(Url::parse(text).unwrap()).map(RedisAddress::Url)
    }

    #[test]
    fn addresses_become_arguments() {
        let shown = |text: &str| address(text).unwrap().arguments().join(" ");
        assert_eq!(shown("redis://b%40ck@db:6380"), "-h db -p 6380");
        assert_eq!(address("redis://b%40ck@db").unwrap().user().unwrap(), "b@ck");
        assert_eq!(shown("rediss://[::1]"), "-h ::1 -p 6379 --tls");
        assert_eq!(
            shown("rediss://db/?sslrootcert=/etc/ca.pem&sslcert=/c&sslkey=/k"),
            "-h db -p 6379 --tls --sni db --cacert /etc/ca.pem --cert /c --key /k"
        );
        let socket = RedisAddress::Socket { path: "/run/r.sock".into(), user: None };
        assert_eq!(socket.arguments().join(" "), "-s /run/r.sock");
    }

    #[test]
    fn an_operator_writes_a_url_or_a_socket() {
        let socket = parse("socket:/run/r.sock?user=lifeboat").unwrap();
        assert_eq!(socket, RedisAddress::Socket { path: "/run/r.sock".into(), user: Some("lifeboat".to_owned()) });
        assert_eq!(parse("rediss://db:6380").unwrap().describe(), "db:6380");
        for text in ["redis://u:hunter2@db", "hunter2@db", "socket:r.sock", "socket:/r?pass=hunter2", "db:6379"] {
            let error = parse(text).unwrap_err();
            assert!(!error.chain_and_hint().contains("hunter2"), "{text}");
        }
    }

    #[test]
    fn what_has_no_meaning_is_refused() {
        for text in [
            "postgresql://db",
            "redis://db/1",
            "redis://u:hunter2@db",
            "redis://db?password=x",
            "redis://db?sslrootcert=/x",
            "rediss://db?insecure=1",
        ] {
            assert!(address(text).is_err(), "{text}");
        }
    }

    #[test]
    fn only_a_ca_of_ones_own_proves_who_a_server_elsewhere_is() {
        let host = |text: &str| address(text).unwrap().unverified_host();
        for text in ["redis://localhost", "redis://[::1]", "rediss://db?sslrootcert=/ca"] {
            assert_eq!(host(text), None, "{text}");
        }
        for text in [
            "redis://db",
            "rediss://db",
            "rediss://db?sslcert=/c",
            "rediss://db?sslrootcert=/etc/ssl/certs/ca-certificates.crt",
        ] {
            assert!(host(text).is_some(), "{text}");
        }
    }
}
