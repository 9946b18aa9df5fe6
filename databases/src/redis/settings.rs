//! The `[dataset.source]` table of `kind = "redis"`.

use std::path::PathBuf;

use lifeboat_base::secret::SecretRef;
use lifeboat_base::settings::{Section, SettingsReader, Text};
use serde::Deserialize;
use toml::Spanned;
use url::Url;

use super::address::{self, RedisAddress};

/// The validated settings of a Redis server.
#[derive(Debug, Clone)]
pub struct RedisConfig {
    /// How to connect.
    pub address: RedisAddress,
    /// The password, if one is needed.
    pub password: Option<SecretRef>,
    /// Directories where client tools are looked for first, before the system's.
    pub client_directories: Vec<PathBuf>,
}

/// The keys of the table.
pub(super) const REDIS_KEYS: [&str; 6] =
    ["url", "allow_unverified_tls", "socket", "user", "password", "client_directories"];

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawRedis {
    url: Option<Text>,
    allow_unverified_tls: Option<Spanned<bool>>,
    socket: Option<Text>,
    user: Option<Text>,
    password: Option<Text>,
    #[serde(default)]
    client_directories: Vec<Text>,
}

/// Validates the table.
pub(super) fn parse(section: Section<'_>, reader: &mut SettingsReader<'_>) -> Option<RedisConfig> {
    let place = section.place();
    let raw: RawRedis = section.read(reader)?;
    let address = match (&raw.url, &raw.socket) {
        (Some(url), None) => {
            let allowed = raw.allow_unverified_tls.as_ref().is_some_and(|allowed| *allowed.get_ref());
            url_of(reader, url, allowed)?
        }
        (None, Some(socket)) => {
            let user = raw.user.as_ref().map(|user| user.get_ref().clone());
            RedisAddress::Socket { path: reader.path(socket), user }
        }
        _ => {
            let problem = "a Redis server needs exactly one of url and socket";
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
    Some(RedisConfig {
        address,
        password: raw.password.as_ref().map(|password| reader.secret(password)),
        client_directories: raw.client_directories.iter().map(|directory| reader.path(directory)).collect(),
    })
}

fn url_of(reader: &mut SettingsReader<'_>, text: &Text, unverified: bool) -> Option<RedisAddress> {
    // The text itself may hold a password, so it is not shown.
    let url = Url::parse(text.get_ref()).ok();
    let url = match url.ok_or("it is no URL").and_then(address::checked) {
        Ok(url) => url,
        Err(why) => {
            let remedy = "use rediss://user@host:6379/?sslrootcert=… and password = \"credential:NAME\", or socket";
            reader.findings.add(text.span(), format!("this is not the address of a Redis server: {why}"), remedy);
            return None;
        }
    };
    let address = RedisAddress::Url(url);
    if let Some(host) = address.unverified_host().filter(|_| !unverified) {
        let problem = format!(
            "nothing would prove that the server is {host}: whoever sits between could read and change everything"
        );
        let remedy = "use rediss:// with ?sslrootcert=, the CA of your own that signed its certificate (redis-cli \
            checks no names in certificates of public CAs); in a network that you trust, set \
            allow_unverified_tls = true";
        reader.findings.add(text.span(), problem, remedy);
    }
    Some(address)
}
