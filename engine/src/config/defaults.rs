//! All defaults are here. The annotated example names the same values, and a test compares them.

use std::time::Duration;

use lifeboat_base::hours::Days;
use lifeboat_store::bandwidth::Rate;

use super::Dedup;
use crate::backup::compress::Compression;

pub(crate) const STATE_DIRECTORY: &str = "/var/lib/lifeboat";
pub(crate) const LISTEN: &str = "127.0.0.1:9847";
pub(crate) const CONTROL_SOCKET: &str = "/run/lifeboat/control.sock";
pub(crate) const KEY_DIRECTORY: &str = "/etc/lifeboat/keys";
pub(crate) const HOST_KEY: &str = "credential:host.key";
pub(crate) const HOST_BUNDLE: &str = "credential:host-keys";
pub(crate) const DRILL_IDENTITY: &str = "credential:drill-identity";
pub(crate) const DRILL_SIGNER: &str = "credential:drill-signer";
pub(crate) const WARDEN_SIGNER: &str = "credential:warden-signer";
pub(crate) const MEMORY_BYTES: u64 = 192 << 20;
pub(crate) const RUNS: usize = 2;
/// Each run needs buffers whatever its share of the memory is.
pub(super) const MIN_RUN_MEMORY: u64 = 64 << 20;
pub(crate) const STALL_LIMIT: Duration = Duration::from_secs(10 * 60);
pub(crate) const CLOCK_SKEW: Duration = Duration::from_secs(5 * 60);
pub(crate) const RUN_LIMIT: Duration = Duration::from_secs(24 * 3600);
pub(crate) const SHUTDOWN_LIMIT: Duration = Duration::from_secs(60);
pub(crate) const SCRUB_PERIOD: Duration = Duration::from_secs(30 * 86_400);
pub(crate) const REPLICA_TIMEOUT: Duration = Duration::from_secs(60);
pub(crate) const BANDWIDTH: Rate = None;
pub(crate) const ALL_DAYS: Days = Days::ALL;
pub(crate) const TIME_ZONE: chrono_tz::Tz = chrono_tz::UTC;
pub(crate) const CHUNK_SIZE: u32 = 512 << 10;
pub(crate) const DEDUP: Dedup = Dedup::Rows;
pub(crate) const COMPRESSION: Compression = Compression::Auto;
pub(crate) const TAKEOVER_AFTER: Duration = Duration::from_secs(15 * 60);
pub(crate) const RETRY: Duration = Duration::from_secs(15 * 60);
pub(crate) const MEMBER_WAIT: Duration = Duration::from_secs(5 * 60);
pub(crate) const MIN_REFERENCES: u64 = 1;
pub(crate) const GRACE_AFTER_RUN: Duration = Duration::from_secs(24 * 3600);

/// A snapshot must reach two replicas, if there are two.
pub(crate) fn min_replicas(replicas: usize) -> usize {
    replicas.clamp(1, 2)
}
/// The place of a dataset in a recovery that names none.
pub(super) const RECOVERY_PRIORITY: u16 = 100;
/// So many datasets are restored at once.
pub(super) const RESTORES_AT_ONCE: usize = 1;
