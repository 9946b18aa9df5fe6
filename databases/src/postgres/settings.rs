//! The `[dataset.source]` table of `kind = "postgres"`.

use std::path::PathBuf;

use lifeboat_base::secret::SecretRef;
use lifeboat_base::settings::{Section, SettingsReader, Text, units};
use serde::Deserialize;
use toml::Spanned;

use crate::tool::hosts::is_here;

/// A table of at least this many bytes has a stream of its own unless the file says otherwise.
const DEFAULT_LARGE_TABLE_BYTES: u64 = 64 << 20;
pub(super) const DEFAULT_PORT: u16 = 5432;

/// The validated settings of a PostgreSQL server.
#[derive(Debug, Clone)]
pub struct PostgresConfig {
    /// How to connect.
    pub connection: PostgresConnection,
    /// The password, if one is needed and it is not in `~/.pgpass`.
    pub password: Option<SecretRef>,
    /// The databases to capture. If there are none: all that accept connections, except templates.
    pub databases: Vec<String>,
    /// Directories where client tools are looked for first, before the system's.
    pub client_directories: Vec<PathBuf>,
    /// The connections over which a capture dumps at once; `None` for as many as `limits.cpu`, but
    /// at most 4. One more holds the snapshot.
    pub jobs: Option<usize>,
    /// A table of at least this many bytes is captured in a stream of its own, if several
    /// connections are allowed.
    pub large_table: u64,
}

/// How to connect to PostgreSQL. None of these holds a password.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum PostgresConnection {
    /// `postgresql://user@host:port/database?sslmode=…`.
    Url(url::Url),
    /// A name in `pg_service.conf`.
    Service(String),
    /// A unix socket.
    Socket {
        /// The directory of the socket.
        directory: PathBuf,
        /// The port number, which is part of the socket's name.
        port: u16,
        /// The role to connect as.
        user: Option<String>,
    },
}

/// The keys of the table.
pub(super) const KEYS: [&str; 11] = [
    "url",
    "allow_unverified_tls",
    "service",
    "socket",
    "port",
    "user",
    "password",
    "databases",
    "client_directories",
    "jobs",
    "large_table",
];

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawPostgres {
    url: Option<Text>,
    allow_unverified_tls: Option<Spanned<bool>>,
    service: Option<Text>,
    socket: Option<Text>,
    port: Option<Spanned<u16>>,
    user: Option<Text>,
    password: Option<Text>,
    #[serde(default)]
    databases: Vec<String>,
    #[serde(default)]
    client_directories: Vec<Text>,
    jobs: Option<Spanned<usize>>,
    large_table: Option<Text>,
}

/// Validates the table.
pub(super) fn parse(section: Section<'_>, reader: &mut SettingsReader<'_>) -> Option<PostgresConfig> {
    let place = section.place();
    let raw: RawPostgres = section.read(reader)?;
    let connection = match (&raw.url, &raw.service, &raw.socket) {
        (Some(url), None, None) => {
            let allowed = raw.allow_unverified_tls.as_ref().is_some_and(|allowed| *allowed.get_ref());
            url_of(reader, url, allowed)?
        }
        (None, Some(service), None) => PostgresConnection::Service(reader.filled(service)?),
        (None, None, Some(socket)) => PostgresConnection::Socket {
            directory: reader.path(socket),
            port: raw.port.as_ref().map_or(DEFAULT_PORT, |port| *port.get_ref()),
            user: raw.user.as_ref().map(|user| user.get_ref().clone()),
        },
        _ => {
            let problem = "a PostgreSQL server needs exactly one of url, service and socket";
            reader.findings.add(place, problem, "keep the one that you want to use");
            return None;
        }
    };
    if raw.socket.is_none() && (raw.port.is_some() || raw.user.is_some()) {
        let remedy = "put them into the url or the service";
        reader.findings.add(place, "port and user belong to socket", remedy);
    }
    if let Some(allowed) = raw.allow_unverified_tls.as_ref().filter(|allowed| *allowed.get_ref() && raw.url.is_none()) {
        reader.findings.add(allowed.span(), "allow_unverified_tls belongs to url", "remove it");
    }
    if let Some(jobs) = raw.jobs.as_ref().filter(|jobs| *jobs.get_ref() == 0) {
        reader.findings.add(jobs.span(), "jobs = 0", "use at least 1, or leave it out for as many as limits.cpu");
    }
    Some(PostgresConfig {
        connection,
        password: raw.password.as_ref().map(|password| reader.secret(password)),
        databases: raw.databases,
        client_directories: raw.client_directories.iter().map(|directory| reader.path(directory)).collect(),
        jobs: raw.jobs.as_ref().map(|jobs| *jobs.get_ref()),
        large_table: reader.unit(raw.large_table.as_ref(), units::size).unwrap_or(DEFAULT_LARGE_TABLE_BYTES),
    })
}

fn url_of(reader: &mut SettingsReader<'_>, text: &Text, unverified: bool) -> Option<PostgresConnection> {
    let remedy = "use postgresql://user@host:5432/database?sslmode=verify-full; \
        without a host write postgresql:///database?user=…, or use socket";
    let url = url::Url::parse(text.get_ref()).ok().filter(|url| matches!(url.scheme(), "postgresql" | "postgres"));
    let Some(url) = url else {
        // The text itself may hold a password, so it is not shown.
        reader.findings.add(text.span(), "this is not a PostgreSQL URL", remedy);
        return None;
    };
    if holds_password(&url) {
        reader.findings.add(
            text.span(),
            "a URL must not hold a password",
            "use password = \"credential:NAME\" or a 0600 file; in place of sslpassword, a key file of mode 0600 without one",
        );
        return None;
    }
    if let Some(host) = unverified_host(&url).filter(|_| !unverified) {
        let problem = format!(
            "nothing would prove that the server is {host}: whoever sits between could read and change everything"
        );
        let remedy = "add ?sslmode=verify-full to the url (and sslrootcert, if a CA of your own signed its certificate); \
            in a network that you trust, set allow_unverified_tls = true";
        reader.findings.add(text.span(), problem, remedy);
    }
    Some(PostgresConnection::Url(url))
}

/// Whether a URL holds the password of a role, or that of a key file.
pub(super) fn holds_password(url: &url::Url) -> bool {
    url.password().is_some() || url.query_pairs().any(|(key, _)| matches!(&*key, "password" | "sslpassword"))
}

/// A host on another machine whose certificate would not be checked.
pub(super) fn unverified_host(url: &url::Url) -> Option<String> {
    let option = |name: &str| {
        let pairs = url.query_pairs().filter(|(key, value)| key == name && (!is_place(key) || !value.is_empty()));
        pairs.last().map(|(_, value)| value.into_owned())
    };
    if option("sslmode").is_some_and(|mode| mode == "verify-full") {
        return None;
    }
    // The address prevails over the host, which is then only a name. Each may be a list.
    let hosts = option("hostaddr").or_else(|| option("host")).or_else(|| {
        let host = url.host_str().unwrap_or_default();
        percent_encoding::percent_decode_str(host).decode_utf8().ok().map(std::borrow::Cow::into_owned)
    })?;
    let remote = hosts.split(',').find(|host| !is_here(host))?;
    Some(remote.to_owned())
}

/// Whether an option says where the server is. An empty one says nothing, and is passed over.
pub(super) fn is_place(option: &str) -> bool {
    matches!(option, "host" | "hostaddr")
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn only_servers_elsewhere_must_prove_who_they_are() {
        let host = |url: &str| unverified_host(&url.parse().unwrap());
        for url in [
            "postgresql:///shop",
            "postgresql:///shop?host=/run/postgresql",
            "postgresql://%2Frun%2Fpostgresql/shop",
            "postgresql://localhost/shop",
            "postgresql://127.0.0.1:5433/shop?sslmode=disable",
            "postgresql://[::1]/shop",
            "postgresql://db.example.com/shop?sslmode=verify-full",
            "postgresql://db.example.com/shop?hostaddr=127.0.0.1",
        ] {
            assert_eq!(host(url), None, "{url}");
        }
        for url in [
            "postgresql://db.example.com/shop",
            "postgresql://db.example.com/shop?sslmode=require",
            "postgresql://db.example.com/shop?sslmode=verify-ca",
            "postgresql://db.example.com/shop?sslmode=verify-full&sslmode=prefer",
            "postgresql:///shop?host=/run/postgresql,db.example.com",
            "postgresql:///shop?host=db.example.com",
            "postgresql://db.example.com/shop?hostaddr=",
            "postgresql://db.example.com/shop?host=",
            "postgresql://localhost/shop?hostaddr=192.0.2.1&hostaddr=",
            "postgresql://localhost/shop?hostaddr=192.0.2.1",
            "postgresql://localhost.example.com/shop",
        ] {
            assert!(host(url).is_some(), "{url}");
        }
    }
}
