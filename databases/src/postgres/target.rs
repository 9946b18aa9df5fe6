//! A server to restore into, and its address: `postgresql://…`, `service:NAME`, or
//! `socket:DIR[?port=5432&user=NAME]`.
//!
//! Every user of the machine can see a command line, so a password in it is refused. The refusal
//! never repeats it.

use std::path::PathBuf;

use lifeboat_base::secret::Secret;
use lifeboat_base::{Error, Result};
use url::Url;

use super::settings::{DEFAULT_PORT, PostgresConnection, holds_password};

/// How an address is written.
pub(super) const ADDRESS_FORM: &str =
    "postgresql://user@host/database, service:NAME, or socket:DIR[?port=5432&user=NAME]";

/// Parses an address. This is not a clap parser, as clap's refusals repeat the value.
///
/// # Errors
/// What is wrong with the address, without a secret.
pub(super) fn parse(text: &str) -> Result<PostgresConnection> {
    if let Some(service) = text.strip_prefix("service:") {
        return match service {
            "" => Err(refused("`service:` needs the name of a service in pg_service.conf")),
            name => Ok(PostgresConnection::Service(name.to_owned())),
        };
    }
    if let Some(socket) = text.strip_prefix("socket:") {
        return parse_socket(socket);
    }
    // The parser's own message may quote what could be a password.
    let url = Url::parse(text).map_err(|_| refused("it is not a URL"))?;
    if !matches!(url.scheme(), "postgres" | "postgresql") {
        return Err(refused("a database URL begins with postgresql://"));
    }
    if holds_password(&url) {
        return Err(Error::usage(
            "the address holds a password, and every user of this machine can see a command line",
        )
        .hint("change the password, then pass it with --password-file or ~/.pgpass"));
    }
    Ok(PostgresConnection::Url(url))
}

/// A PostgreSQL server to restore into.
#[derive(Debug)]
pub struct PostgresTarget {
    /// How to connect. If it names a database, that is the maintenance database.
    pub connection: PostgresConnection,
    /// The password, which the caller has read.
    pub password: Option<Secret>,
    /// Directories where client tools are looked for first, before the system's.
    pub client_directories: Vec<PathBuf>,
}

fn refused(why: &str) -> Error {
    Error::usage(format!("this is not the address of a PostgreSQL server: {why}"))
        .hint("write postgresql://user@host/database, service:NAME, or socket:/run/postgresql?port=5433&user=postgres")
}

fn parse_socket(text: &str) -> Result<PostgresConnection> {
    let (directory, options) = text.split_once('?').unwrap_or((text, ""));
    if !directory.starts_with('/') {
        return Err(refused("`socket:` needs the absolute path of the socket's directory"));
    }
    let (mut port, mut user) = (DEFAULT_PORT, None);
    for (name, value) in url::form_urlencoded::parse(options.as_bytes()) {
        match &*name {
            "port" => port = value.parse().map_err(|_| refused("that is not a port number"))?,
            "user" => user = Some(value.into_owned()),
            _ => return Err(refused("a socket takes `port` and `user`")),
        }
    }
    Ok(PostgresConnection::Socket { directory: PathBuf::from(directory), port, user })
}

/// The files that an address names.
pub(super) fn files(connection: &PostgresConnection) -> Vec<PathBuf> {
    let PostgresConnection::Url(url) = connection else { return Vec::new() };
    let values = url.query_pairs().filter(|(name, _)| name.starts_with("ssl") || name == "passfile");
    values.map(|(_, value)| PathBuf::from(&*value)).filter(|path| path.is_absolute()).collect()
}

/// Where the server is, for people.
pub(super) fn describe(connection: &PostgresConnection) -> String {
    match connection {
        PostgresConnection::Url(url) => {
            format!(
                "{}:{}",
                url.host_str().filter(|host| !host.is_empty()).unwrap_or("the local socket"),
                url.port().unwrap_or(DEFAULT_PORT)
            )
        }
        PostgresConnection::Service(name) => format!("service {name}"),
        PostgresConnection::Socket { directory, port, .. } => format!("{}, port {port}", directory.display()),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::panic, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn takes_urls_services_and_sockets() {
        assert!(matches!(parse("postgresql://shop@db/postgres?sslmode=verify-full"), Ok(PostgresConnection::Url(_))));
        assert!(matches!(parse("service:shop"), Ok(PostgresConnection::Service(name)) if name == "shop"));
        let PostgresConnection::Socket { directory, port, user } =
            parse("socket:/run/postgresql?port=5433&user=postgres").unwrap()
        else {
            panic!("not a socket")
        };
        assert_eq!((directory, port, user), (PathBuf::from("/run/postgresql"), 5433, Some("postgres".to_owned())));
        let plain = parse("socket:/run/postgresql").unwrap();
        assert_eq!(describe(&plain), "/run/postgresql, port 5432");
    }

    #[test]
    fn a_password_is_refused_and_not_repeated() {
        for bad in [
            "postgresql://shop:hunter2@db/shop",
            "postgres://db/shop?user=a&password=hunter2",
            "hunter2@db",
            "mysql://shop:hunter2@db",
            "socket:/run?password=hunter2",
        ] {
            let error = format!("{:?}", parse(bad).unwrap_err());
            assert!(!error.contains("hunter2"), "{bad}: {error}");
        }
    }

    #[test]
    fn half_a_target_is_refused() {
        for bad in ["", "service:", "socket:", "socket:relative", "socket:/run?port=99999", "/run/postgresql"] {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }
}
