//! A running server: what it says about itself.

use std::collections::BTreeMap;

use lifeboat_base::{Error, Result};

use super::clients::{RedisProduct, RedisVersion};
use super::connect::{RedisConnection, refused};
use super::failures::{explained, in_one_line};
use crate::database::WorkContext;

/// A module that Valkey has of itself since 9.1: the language of scripts and functions. It holds no
/// data, and each server of a drill has it, too.
const VALKEY_LANGUAGE: &str = "lua";

/// What a server says about itself: `INFO`.
#[derive(Debug, Clone)]
pub(super) struct RedisInfo {
    pub(super) version: RedisVersion,
    values: BTreeMap<String, String>,
    /// The modules that it has loaded.
    pub(super) modules: Vec<String>,
}

impl RedisInfo {
    /// # Errors
    /// The server does not answer, or says no version.
    pub(super) async fn ask(connection: &RedisConnection, cx: &WorkContext) -> Result<Self> {
        let said = connection.values(&["INFO", "everything"], cx).await;
        let said = said.map_err(|error| error.within("cannot query the Redis server"))?;
        // The client prints this answer as it is, and not in quotes.
        Self::of(&said.join("\n"))
    }

    fn of(said: &str) -> Result<Self> {
        let lines = said.lines().filter_map(|line| line.trim_end().split_once(':'));
        let (mut values, mut modules) = (BTreeMap::new(), Vec::new());
        for (name, value) in lines {
            if name == "module" {
                let named = value.split(',').find_map(|part| part.strip_prefix("name="));
                modules.push(named.unwrap_or(value).to_owned());
            } else {
                values.insert(name.to_owned(), value.to_owned());
            }
        }
        let of = |product, name: &str| values.get(name).and_then(|whole| RedisVersion::of(product, whole));
        let version = of(RedisProduct::Valkey, "valkey_version").or_else(|| of(RedisProduct::Redis, "redis_version"));
        let version = version.ok_or_else(|| nameless(said))?;
        if version.product == RedisProduct::Valkey {
            modules.retain(|module| module != VALKEY_LANGUAGE);
        }
        Ok(Self { version, values, modules })
    }

    /// One line of it.
    pub(super) fn value(&self, name: &str) -> &str {
        self.values.get(name).map(String::as_str).unwrap_or_default()
    }

    /// `standalone`, `cluster` or `sentinel`.
    pub(super) fn mode(&self) -> &str {
        // Valkey calls it by a name of its own.
        let mode = ["redis_mode", "server_mode"].into_iter().map(|name| self.value(name));
        mode.into_iter().find(|mode| !mode.is_empty()).unwrap_or_default()
    }

    /// How many keys are in each database that has any.
    pub(super) fn key_counts(&self) -> BTreeMap<u64, u64> {
        self.counts("keys=")
    }

    /// How many hashes have fields that expire. Only Valkey tells it.
    pub(super) fn expiring_hashes(&self) -> u64 {
        self.counts("keys_with_volatile_items=").into_values().sum()
    }

    /// A number of each database that has any key.
    fn counts(&self, named: &str) -> BTreeMap<u64, u64> {
        let count = |(name, value): (&String, &String)| {
            let database = name.strip_prefix("db")?.parse().ok()?;
            let keys = value.split(',').find_map(|part| part.strip_prefix(named))?;
            Some((database, keys.parse().ok()?))
        };
        self.values.iter().filter_map(count).collect()
    }
}

/// Why a server tells no version. The client prints a refusal of `INFO` as it is, too: as a line
/// that begins with a word in capitals.
fn nameless(said: &str) -> Error {
    let first = said.lines().next().unwrap_or_default();
    let word = first.split(' ').next().unwrap_or_default();
    if word == "NOAUTH" {
        return explained(Error::source_failed("the server asks for a password").because(in_one_line(first)));
    }
    if word.len() > 2 && word.bytes().all(|byte| byte.is_ascii_uppercase()) {
        return refused(&["INFO"], first);
    }
    Error::source_failed("the server does not say which Redis it is")
        .hint("see what answers at that address: a Redis or Valkey server says its version in INFO")
}

/// The server's clock, in milliseconds since 1970.
pub(super) async fn milliseconds(connection: &RedisConnection, cx: &WorkContext) -> Result<i64> {
    let time = connection.values(&["TIME"], cx).await?;
    let seconds: Option<i64> = time.first().and_then(|seconds| seconds.parse().ok());
    let now = seconds.and_then(|seconds| seconds.checked_mul(1000));
    now.ok_or_else(|| Error::source_failed("the Redis server does not tell its time"))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn a_server_is_known_by_what_it_says() {
        let info = RedisInfo::of(
            "# Server\r\nredis_version:7.0.15\r\nloading:0\r\n# Modules\r\nmodule:name=bf,ver=20612,api=1\r\n\
            # Keyspace\r\ndb0:keys=46,expires=4,avg_ttl=1\r\ndb12:keys=1,expires=0,avg_ttl=0\r\n",
        )
        .unwrap();
        assert_eq!((info.version.told().as_str(), info.value("loading"), info.value("x")), ("7.0.15", "0", ""));
        assert_eq!(info.modules, ["bf"]);
        assert_eq!(info.key_counts().into_iter().collect::<Vec<_>>(), [(0, 46), (12, 1)]);
        let valkey = RedisInfo::of("redis_version:7.2.4\r\nserver_name:valkey\r\nvalkey_version:8.1.3\r\n").unwrap();
        assert_eq!(valkey.version.told(), "Valkey 8.1.3");
        let valkey = RedisInfo::of(
            "valkey_version:9.1.2\r\nserver_mode:sentinel\r\nmodule:name=lua,ver=1\r\nmodule:name=json,ver=1\r\n\
            db0:keys=2,expires=0,avg_ttl=0,keys_with_volatile_items=1\r\n\
            db3:keys=9,expires=0,avg_ttl=0,keys_with_volatile_items=2\r\n",
        )
        .unwrap();
        assert_eq!((valkey.mode(), valkey.expiring_hashes(), valkey.key_counts()[&3]), ("sentinel", 3, 9));
        assert_eq!((info.mode(), info.expiring_hashes()), ("", 0));
        assert_eq!(valkey.modules, ["json"]);
    }

    #[test]
    fn a_server_that_says_nothing_of_itself_says_why() {
        for (said, told, hint) in [
            ("NOAUTH Authentication required.\r\n", "the server asks for a password: NOAUTH", "give `password`"),
            ("NOPERM this user has no permissions to run the 'info' command", "refuses INFO: NOPERM", "rights"),
            ("+OK", "does not say which Redis it is", "answers at that address"),
            ("", "does not say which Redis it is", "answers at that address"),
        ] {
            let error = RedisInfo::of(said).unwrap_err();
            assert!(error.chain().contains(told), "{error:?}");
            assert!(error.hint_text().unwrap_or_default().contains(hint), "{error:?}");
        }
    }
}
