//! Where a MariaDB server is: `mariadb://user@host:port/?sslmode=…`, or
//! `socket:/run/mysqld/mysqld.sock?user=NAME`.
//!
//! Every user of the machine can see a command line, so a password in an address is refused. The
//! refusal never repeats it.

use std::path::PathBuf;

use lifeboat_base::{Error, Result};
use percent_encoding::percent_decode_str;
use url::Url;

use crate::tool::hosts::{is_here, socket_and_user};

/// How an address is written.
pub(super) const MARIA_ADDRESS_FORM: &str = "mariadb://user@host:3306, or socket:/run/mysqld/mysqld.sock[?user=NAME]";
const DEFAULT_MARIA_PORT: u16 = 3306;
/// What a URL can say of TLS.
const TLS_OPTIONS: [&str; 4] = ["sslmode", "sslrootcert", "sslcert", "sslkey"];
/// Encrypted, and the server proves that it is the one.
const VERIFIED: &str = "verify-full";
/// The values of `sslmode`.
const TLS_MODES: [&str; 3] = [VERIFIED, "require", "disable"];

/// How to connect to MariaDB. It holds no password.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum MariaAddress {
    /// `mariadb://user@host:port/?sslmode=…`.
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
pub(super) fn checked(url: Url) -> Result<Url, &'static str> {
    if !matches!(url.scheme(), "mariadb" | "mysql") {
        return Err("a URL begins with mariadb://");
    }
    if url.password().is_some() || url.query_pairs().any(|(name, _)| name.contains("pass")) {
        return Err("a URL must not hold a password");
    }
    if url.host_str().is_none_or(str::is_empty) {
        return Err("it names no host");
    }
    if !matches!(url.path(), "" | "/") {
        return Err("it names a database; databases have keys and flags of their own");
    }
    for (name, value) in url.query_pairs() {
        if !TLS_OPTIONS.contains(&&*name) {
            return Err("of options it takes sslmode, sslrootcert, sslcert and sslkey");
        }
        if name == "sslmode" && !TLS_MODES.contains(&&*value) {
            return Err("sslmode is one of verify-full, require and disable");
        }
    }
    Ok(url)
}

/// Parses an address.
///
/// # Errors
/// What is wrong with the address, without a secret.
pub(super) fn parse(text: &str) -> Result<MariaAddress> {
    let Some(socket) = text.strip_prefix("socket:") else {
        // The parser's own message may quote what could be a password.
        let url = Url::parse(text).map_err(|_| refused("it is not a URL"))?;
        if url.password().is_some() {
            return Err(Error::usage(
                "the address holds a password, and every user of this machine can see a command line",
            )
            .hint("change the password, then pass it with --password-file"));
        }
        return checked(url).map(MariaAddress::Url).map_err(refused);
    };
    let (path, user) = socket_and_user(socket).map_err(refused)?;
    Ok(MariaAddress::Socket { path, user })
}

fn refused(why: &str) -> Error {
    Error::usage(format!("this is not the address of a MariaDB server: {why}"))
        .hint(format!("write {MARIA_ADDRESS_FORM}"))
}

impl MariaAddress {
    /// The options of clients for it, by name. None is secret.
    pub(super) fn options(&self) -> Vec<(&'static str, String)> {
        let decoded = |text: &str| percent_decode_str(text).decode_utf8_lossy().into_owned();
        match self {
            Self::Socket { path, user } => {
                let mut options =
                    vec![("protocol", "socket".to_owned()), ("socket", path.to_string_lossy().into_owned())];
                options.extend(user.clone().map(|user| ("user", user)));
                options
            }
            Self::Url(url) => {
                let host = decoded(url.host_str().unwrap_or_default()).trim_matches(['[', ']']).to_owned();
                let port = url.port().unwrap_or(DEFAULT_MARIA_PORT).to_string();
                let mut options = vec![("protocol", "tcp".to_owned()), ("host", host), ("port", port)];
                if !url.username().is_empty() {
                    options.push(("user", decoded(url.username())));
                }
                options.extend(tls(url));
                options
            }
        }
    }

    /// A host on another machine that does not have to prove who it is.
    pub(super) fn unverified_host(&self) -> Option<String> {
        let Self::Url(url) = self else { return None };
        let host = percent_decode_str(url.host_str()?).decode_utf8_lossy().into_owned();
        (!is_here(&host) && mode(url).as_deref() != Some(VERIFIED)).then_some(host)
    }

    /// Files that it names.
    pub(super) fn files(&self) -> Vec<PathBuf> {
        let Self::Url(url) = self else { return Vec::new() };
        let named = url.query_pairs().filter(|(name, _)| name != "sslmode");
        named.map(|(_, value)| PathBuf::from(&*value)).filter(|path| path.is_absolute()).collect()
    }

    /// Where the server is, for people.
    pub(super) fn describe(&self) -> String {
        match self {
            Self::Url(url) => {
                format!("{}:{}", url.host_str().unwrap_or_default(), url.port().unwrap_or(DEFAULT_MARIA_PORT))
            }
            Self::Socket { path, .. } => path.display().to_string(),
        }
    }
}

fn mode(url: &Url) -> Option<String> {
    url.query_pairs().filter(|(name, _)| name == "sslmode").last().map(|(_, value)| value.into_owned())
}

fn tls(url: &Url) -> Vec<(&'static str, String)> {
    let mut options: Vec<(&'static str, String)> = Vec::new();
    let on = |on: bool| if on { "1" } else { "0" }.to_owned();
    if let Some(mode) = mode(url) {
        options.push(("ssl", on(mode != "disable")));
        options.push(("ssl-verify-server-cert", on(mode == VERIFIED)));
    } else {
        // Newer clients would check what nobody asked for, and refuse most servers.
        options.push(("ssl-verify-server-cert", on(false)));
    }
    for (name, value) in url.query_pairs() {
        let option = match &*name {
            "sslrootcert" => "ssl-ca",
            "sslcert" => "ssl-cert",
            "sslkey" => "ssl-key",
            _ => continue,
        };
        options.push((option, value.into_owned()));
    }
    options
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn addresses_become_options() {
        let shown = |text: &str| {
            let options = parse(text).unwrap().options();
            options.iter().map(|(name, value)| format!("{name}={value}")).collect::<Vec<_>>().join(" ")
        };
        assert_eq!(shown("socket:/run/my sql.sock?user=b%40ck"), "protocol=socket socket=/run/my sql.sock user=b@ck");
        assert_eq!(
            shown("mariadb://b%40ck@db:3307/?sslmode=verify-full&sslrootcert=/etc/ca.pem"),
            "protocol=tcp host=db port=3307 user=b@ck ssl=1 ssl-verify-server-cert=1 ssl-ca=/etc/ca.pem"
        );
        assert_eq!(shown("mariadb://[::1]"), "protocol=tcp host=::1 port=3306 ssl-verify-server-cert=0");
    }

    #[test]
    fn what_has_no_meaning_is_refused_and_a_password_is_not_repeated() {
        for text in [
            "postgresql://db",
            "mariadb://",
            "mariadb://db/shop",
            "mariadb://db?ssl=1",
            "mariadb://db?sslmode=prefer",
            "socket:run/x",
            "socket:/x?port=1",
            "mariadb://u:hunter2@db",
            "mariadb://u@db?password=hunter2",
            "hunter2",
        ] {
            let error = parse(text).unwrap_err();
            assert!(!error.chain_and_hint().contains("hunter2"), "{text}: {error}");
        }
    }

    #[test]
    fn only_servers_elsewhere_must_prove_who_they_are() {
        let host = |text: &str| parse(text).unwrap().unverified_host();
        for text in ["socket:/x", "mariadb://localhost", "mariadb://[::1]", "mariadb://db?sslmode=verify-full"] {
            assert_eq!(host(text), None, "{text}");
        }
        for text in ["mariadb://db", "mariadb://db?sslmode=require", "mariadb://db?sslmode=verify-full&sslmode=disable"]
        {
            assert!(host(text).is_some(), "{text}");
        }
    }
}
