//! Finds `redis-cli`, and the programs of a server, of Redis and of Valkey.

use std::path::{Path, PathBuf};

use lifeboat_base::{Error, Result};

use super::rdb::FIRST_VALKEY_RDB_VERSION;
use crate::database::{ToolFound, WorkContext};
use crate::tool::places;
use crate::tool::process::{Invocation, output};

/// What to do if there is no client.
pub(super) const REDIS_CLIENT_REMEDY: &str =
    "install redis-tools or valkey-tools, or name its directory in client_directories";
/// The oldest series that a drill can start: older servers check no value when they load it.
const OLDEST_SERIES: (u32, u32) = (6, 2);

/// The version of dumps that Redis 7.2 and Valkey up to 8 write.
const LAST_COMMON_VERSION: u32 = 11;
/// Since this series, Valkey has a form of dump of its own.
const FIRST_WITH_OWN_DUMPS: (u32, u32) = (9, 0);

/// Redis, or what was made of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum RedisProduct {
    Redis,
    Valkey,
}

impl RedisProduct {
    const ALL: [Self; 2] = [Self::Redis, Self::Valkey];

    /// How it names itself in front of its version.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Redis => "Redis",
            Self::Valkey => "Valkey",
        }
    }

    /// How names of its programs begin.
    fn prefix(self) -> &'static str {
        match self {
            Self::Redis => "redis",
            Self::Valkey => "valkey",
        }
    }

    /// The package with its server.
    fn package(self) -> &'static str {
        match self {
            Self::Redis => "redis-server",
            Self::Valkey => "valkey-server",
        }
    }
}

/// A product and its version: major and minor, which tell the features, and the whole.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct RedisVersion {
    pub(super) product: RedisProduct,
    pub(super) series: (u32, u32),
    pub(super) whole: String,
}

impl RedisVersion {
    /// Reads a version such as `7.0.15`.
    pub(super) fn of(product: RedisProduct, whole: &str) -> Option<Self> {
        let plain = |letter: char| letter.is_ascii_alphanumeric() || ".-+~".contains(letter);
        let mut numbers = whole.split('.').map(|number| number.parse().ok());
        let series = (numbers.next()??, numbers.next()??);
        whole.chars().all(plain).then(|| Self { product, series, whole: whole.to_owned() })
    }

    /// The version in what a program says of itself: `Redis server v=7.0.15 …`, `redis-cli 7.0.15`.
    fn of_program(product: RedisProduct, said: &str) -> Option<Self> {
        let mut words = said.split_whitespace();
        let version = words.find_map(|word| Self::of(product, word.strip_prefix("v=").unwrap_or(word)))?;
        said.to_ascii_lowercase().starts_with(product.prefix()).then_some(version)
    }

    /// The product and its version, as facts of a snapshot tell them.
    pub(super) fn told(&self) -> String {
        match self.product {
            RedisProduct::Redis => self.whole.clone(),
            RedisProduct::Valkey => format!("{} {}", self.product.name(), self.whole),
        }
    }

    /// Reads what [`Self::told`] wrote.
    pub(super) fn of_told(told: &str) -> Option<Self> {
        match told.strip_prefix("Valkey ") {
            Some(whole) => Self::of(RedisProduct::Valkey, whole),
            None => Self::of(RedisProduct::Redis, told),
        }
    }

    /// Whether the server takes what is in a dump of this version by `RESTORE` and by files.
    /// Neither product takes what the other one wrote since they parted.
    pub(super) fn takes_dump(&self, version: u32) -> bool {
        let newest_of_redis = match (self.product, self.series) {
            (RedisProduct::Redis, series) if series < (7, 0) => 9,
            (RedisProduct::Redis, series) if series < (7, 2) => 10,
            (RedisProduct::Redis, series) if series >= (7, 4) => FIRST_VALKEY_RDB_VERSION - 1,
            (RedisProduct::Redis | RedisProduct::Valkey, _) => LAST_COMMON_VERSION,
        };
        version <= newest_of_redis || (version >= FIRST_VALKEY_RDB_VERSION && self.has_own_dumps())
    }

    /// Whether it is a server that writes a form of dump that is not Redis's.
    pub(super) fn has_own_dumps(&self) -> bool {
        self.product == RedisProduct::Valkey && self.series >= FIRST_WITH_OWN_DUMPS
    }

    fn series_text(&self) -> String {
        format!("{} {}.{}", self.product.name(), self.series.0, self.series.1)
    }
}

/// A client of either product: each speaks with servers of both.
#[derive(Debug, Clone)]
pub(super) struct RedisClient {
    pub(super) path: PathBuf,
    pub(super) version: RedisVersion,
}

/// Programs of a server, of one version.
#[derive(Debug, Clone)]
pub(super) struct RedisPrograms {
    pub(super) server: PathBuf,
    /// What looks at a dump before a server does.
    pub(super) check_rdb: PathBuf,
    pub(super) version: RedisVersion,
}

async fn version(product: RedisProduct, program: &Path, cx: &WorkContext) -> Option<RedisVersion> {
    let said = output(Invocation::new(program, ["--version"], cx)).await.ok()?;
    RedisVersion::of_program(product, &said)
}

/// The files of this name in these directories.
fn named(directories: &[PathBuf], name: &str) -> Vec<PathBuf> {
    directories.iter().map(|directory| directory.join(name)).filter(|path| path.is_file()).collect()
}

/// All clients on this machine. Those in `extra` come first.
pub(super) async fn installed(extra: &[PathBuf], cx: &WorkContext) -> Vec<RedisClient> {
    let directories = places::directories(extra.iter().cloned(), cx);
    let mut found = Vec::new();
    for directory in &directories {
        for product in RedisProduct::ALL {
            let path = directory.join(format!("{}-cli", product.prefix()));
            if path.is_file()
                && let Some(version) = version(product, &path, cx).await
            {
                found.push(RedisClient { path, version });
            }
        }
    }
    found
}

/// The first client.
///
/// # Errors
/// There is none.
pub(super) async fn client(extra: &[PathBuf], cx: &WorkContext) -> Result<RedisClient> {
    let found = installed(extra, cx).await.into_iter().next();
    found.ok_or_else(|| Error::source_failed("redis-cli is not installed").hint(REDIS_CLIENT_REMEDY))
}

/// The programs of a server that loads what a server of this version wrote: of the same series, or
/// the next newer one. Those in `extra` come first.
///
/// # Errors
/// They are not installed, or no drill can start such a server.
pub(super) async fn programs(of: &RedisVersion, extra: &[PathBuf], cx: &WorkContext) -> Result<RedisPrograms> {
    let usual = ["/usr/sbin", "/usr/local/sbin"].map(PathBuf::from);
    let directories = places::directories(extra.iter().cloned().chain(usual), cx);
    let (mut fitting, mut others) = (Vec::new(), Vec::new());
    for server in named(&directories, &format!("{}-server", of.product.prefix())) {
        match version(of.product, &server, cx).await {
            Some(version) if version.series >= of.series.max(OLDEST_SERIES) => fitting.push((server, version)),
            Some(other) => others.push(other.whole),
            None => {}
        }
    }
    let series = of.series_text();
    let Some((server, version)) = fitting.into_iter().min_by_key(|(_, version)| version.series) else {
        let passed_over = if others.is_empty() { String::new() } else { format!(" (there is {})", others.join(", ")) };
        let missing = format!("the programs of a {series} server for the drill are not installed{passed_over}");
        let hint = format!(
            "install {} of {series} or newer (no service is needed), or name its directory in [dataset.drill] \
            server_directories",
            of.product.package()
        );
        return Err(Error::source_failed(missing).hint(hint));
    };
    let check_rdb = format!("{}-check-rdb", of.product.prefix());
    let beside = server.with_file_name(&check_rdb);
    let check_rdb = Some(beside).filter(|path| path.is_file()).ok_or_else(|| {
        Error::source_failed(format!("{check_rdb} is not installed beside {}", server.display()))
            .hint("install it from the same package or the same sources as the server")
    })?;
    Ok(RedisPrograms { server, check_rdb, version })
}

/// The tools for people.
pub(super) async fn tools(directories: &[PathBuf], cx: &WorkContext) -> Vec<ToolFound> {
    let found = installed(directories, cx).await;
    let named = |client: &RedisClient| ToolFound {
        tool: format!("{}-cli", client.version.product.prefix()),
        version: client.version.whole.clone(),
        path: client.path.clone(),
    };
    found.iter().map(named).collect()
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn a_dump_suits_the_servers_that_know_its_form() {
        let takes = |told: &str| {
            let server = RedisVersion::of_told(told).unwrap();
            [9, 10, 11, 12, 80].into_iter().filter(|version| server.takes_dump(*version)).collect::<Vec<_>>()
        };
        assert_eq!(takes("6.2.14"), [9]);
        assert_eq!(takes("7.0.15"), [9, 10]);
        assert_eq!(takes("7.2.4"), [9, 10, 11]);
        for redis in ["7.4.0", "8.0.1", "9.0.0"] {
            assert_eq!(takes(redis), [9, 10, 11, 12], "{redis}");
        }
        for valkey in ["Valkey 7.2.5", "Valkey 8.1.3"] {
            assert_eq!(takes(valkey), [9, 10, 11], "{valkey}");
        }
        for valkey in ["Valkey 9.0.0", "Valkey 10.1.0"] {
            assert_eq!(takes(valkey), [9, 10, 11, 80], "{valkey}");
        }
    }

    #[test]
    fn versions_are_read_and_written() {
        for (product, said, told) in [
            (RedisProduct::Redis, "redis-cli 7.0.15", "7.0.15"),
            (RedisProduct::Redis, "Redis server v=7.0.15 sha=00000000:0 malloc=jemalloc-5.2.1 bits=64", "7.0.15"),
            (RedisProduct::Redis, "redis-cli 6.2.5 (git:dd9c0a4b-dirty)", "6.2.5"),
            (RedisProduct::Valkey, "Valkey server v=8.1.3 sha=00000000:0 malloc=jemalloc-5.3.0", "Valkey 8.1.3"),
        ] {
            let version = RedisVersion::of_program(product, said).unwrap();
            assert_eq!(version.told(), told);
            assert_eq!(RedisVersion::of_told(told), Some(version));
        }
        assert_eq!(RedisVersion::of_program(RedisProduct::Redis, "Valkey server v=8.1.3"), None);
        for told in ["", "7", "seven.0", "7.0\nsave 1 1", "Valkey "] {
            assert_eq!(RedisVersion::of_told(told), None, "{told}");
        }
    }
}
