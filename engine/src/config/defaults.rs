//! Every default, in one place. The annotated example names the same values, and a test compares them.

use std::time::Duration;

use super::Dedup;
use crate::bytes::compress::Compression;
use crate::schedule::bandwidth::{Days, Rate};

pub(super) const STATE_DIRECTORY: &str = "/var/lib/lifeboat";
pub(super) const LISTEN: &str = "127.0.0.1:9847";
pub(super) const CONTROL_SOCKET: &str = "/run/lifeboat/control.sock";
pub(super) const KEY_DIRECTORY: &str = "/etc/lifeboat/keys";
pub(super) const HOST_KEY: &str = "credential:host.key";
pub(super) const HOST_BUNDLE: &str = "credential:host-keys";
pub(super) const DRILL_IDENTITY: &str = "credential:drill-identity";
pub(super) const DRILL_SIGNER: &str = "credential:drill-signer";
pub(super) const MEMORY: u64 = 192 << 20;
pub(super) const STALL: Duration = Duration::from_secs(10 * 60);
pub(super) const RUN: Duration = Duration::from_secs(24 * 3600);
pub(super) const SHUTDOWN: Duration = Duration::from_secs(60);
pub(super) const TIMEOUT: Duration = Duration::from_secs(60);
pub(super) const BANDWIDTH: Rate = None;
pub(super) const BANDWIDTH_DAYS: Days = Days::ALL;
pub(super) const TIME_ZONE: chrono_tz::Tz = chrono_tz::UTC;
pub(super) const CHUNK_SIZE: u32 = 512 << 10;
pub(super) const LARGE_TABLE: u64 = 64 << 20;
pub(super) const DEDUP: Dedup = Dedup::Rows;
pub(super) const COMPRESSION: Compression = Compression::Auto;
pub(super) const GRACE: Duration = Duration::from_secs(24 * 3600);
pub(super) const STREAM: &str = "stdout";

/// With two or more replicas a snapshot must reach two.
pub(super) fn min_replicas(replicas: usize) -> usize {
    replicas.clamp(1, 2)
}
