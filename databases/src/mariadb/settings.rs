//! The `[dataset.source]` table of `kind = "mariadb"`.

use std::path::PathBuf;

use lifeboat_base::secret::SecretRef;
use lifeboat_base::settings::{Section, SettingsReader, Text};
use serde::Deserialize;
use toml::Spanned;
use url::Url;

use super::address::{self, MariaAddress};

/// The validated settings of a MariaDB server.
#[derive(Debug, Clone)]
pub struct MariaConfig {
    /// How to connect.
    pub address: MariaAddress,
    /// The password, if one is needed.
    pub password: Option<SecretRef>,
    /// The databases to capture. If there are none: all but those of the system.
    pub databases: Vec<String>,
    /// Databases that are not captured where all others are.
    pub exclude: Vec<String>,
    /// Directories where client tools are looked for first, before the system's.
    pub client_directories: Vec<PathBuf>,
}

/// The keys of the table.
pub(super) const MARIA_KEYS: [&str; 8] =
    ["url", "allow_unverified_tls", "socket", "user", "password", "databases", "exclude", "client_directories"];

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawMaria {
    url: Option<Text>,
    allow_unverified_tls: Option<Spanned<bool>>,
    socket: Option<Text>,
    user: Option<Text>,
    password: Option<Text>,
    #[serde(default)]
    databases: Vec<String>,
    exclude: Option<Spanned<Vec<String>>>,
    #[serde(default)]
    client_directories: Vec<Text>,
}

/// Validates the table.
pub(super) fn parse(section: Section<'_>, reader: &mut SettingsReader<'_>) -> Option<MariaConfig> {
    let place = section.place();
    let raw: RawMaria = section.read(reader)?;
    let address = match (&raw.url, &raw.socket) {
        (Some(url), None) => {
            let allowed = raw.allow_unverified_tls.as_ref().is_some_and(|allowed| *allowed.get_ref());
            url_of(reader, url, allowed)?
        }
        (None, Some(socket)) => {
            let user = raw.user.as_ref().map(|user| user.get_ref().clone());
            MariaAddress::Socket { path: reader.path(socket), user }
        }
        _ => {
            let problem = "a MariaDB server needs exactly one of url and socket";
            reader.findings.add(place, problem, "keep the one that you want to use");
            return None;
        }
    };
    if let Some(user) = raw.user.as_ref().filter(|_| raw.socket.is_none()) {
        reader.findings.add(user.span(), "user belongs to socket", "put it into the url");
    }
    if let Some(allowed) = raw.allow_unverified_tls.as_ref().filter(|allowed| *allowed.get_ref() && raw.url.is_none()) {
        reader.findings.add(allowed.span(), "allow_unverified_tls belongs to url", "remove it");
    }
    if let Some(exclude) = raw.exclude.as_ref().filter(|_| !raw.databases.is_empty()) {
        reader.findings.add(exclude.span(), "exclude has no meaning beside databases", "remove one of them");
    }
    Some(MariaConfig {
        address,
        password: raw.password.as_ref().map(|password| reader.secret(password)),
        databases: raw.databases,
        exclude: raw.exclude.map(Spanned::into_inner).unwrap_or_default(),
        client_directories: raw.client_directories.iter().map(|directory| reader.path(directory)).collect(),
    })
}

fn url_of(reader: &mut SettingsReader<'_>, text: &Text, unverified: bool) -> Option<MariaAddress> {
    // The text itself may hold a password, so it is not shown.
    let url = Url::parse(text.get_ref()).ok();
    let checked = url.ok_or("it is no URL").and_then(address::checked);
    let url = match checked {
        Ok(url) => url,
        Err(why) => {
            let remedy =
                "use mariadb://user@host:3306/?sslmode=verify-full and password = \"credential:NAME\", or socket";
            reader.findings.add(text.span(), format!("this is not the address of a MariaDB server: {why}"), remedy);
            return None;
        }
    };
    let address = MariaAddress::Url(url);
    if let Some(host) = address.unverified_host().filter(|_| !unverified) {
        let problem = format!(
            "nothing would prove that the server is {host}: whoever sits between could read and change everything"
        );
        let remedy = "add ?sslmode=verify-full to the url (and sslrootcert, if a CA of your own signed its certificate); \
            in a network that you trust, set allow_unverified_tls = true";
        reader.findings.add(text.span(), problem, remedy);
    }
    Some(address)
}
