//! The file as it is written: names and shapes, nothing checked but types and unknown keys.
//!
//! Values that validation may refuse carry their place in the file ([`Spanned`]).

use std::collections::BTreeMap;

use serde::Deserialize;
use toml::Spanned;

use super::Dedup;

pub(super) type Text = Spanned<String>;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawConfig {
    pub host: Text,
    #[serde(default)]
    pub vault_prefix: Option<Text>,
    pub state_directory: Option<Text>,
    pub min_replicas: Option<Spanned<usize>>,
    pub listen: Option<Text>,
    pub control_socket: Option<Text>,
    #[serde(default)]
    pub keys: RawKeys,
    #[serde(default)]
    pub limits: RawLimits,
    #[serde(default)]
    pub replica: Vec<Spanned<RawReplica>>,
    #[serde(default)]
    pub dataset: Vec<Spanned<RawDataset>>,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields)]
pub(super) struct RawKeys {
    pub directory: Option<Text>,
    #[serde(default)]
    pub master_recipients: Vec<Text>,
    #[serde(default)]
    pub drill_recipients: Vec<Text>,
    #[serde(default)]
    pub trusted_signers: Vec<Text>,
    #[serde(default)]
    pub trusted_drill_signers: Vec<Text>,
    pub host_key: Option<Text>,
    pub host_bundle: Option<Text>,
    pub drill_identity: Option<Text>,
    pub drill_signer: Option<Text>,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields)]
pub(super) struct RawLimits {
    pub cpu: Option<Spanned<usize>>,
    pub memory: Option<Text>,
    pub stall: Option<Text>,
    pub run: Option<Text>,
    pub shutdown: Option<Text>,
}

/// The keys of every kind; which belong to which is validated.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawReplica {
    pub name: Text,
    pub kind: Text,
    pub region: Text,
    pub timeout: Option<Text>,
    pub bandwidth: Option<Text>,
    pub time_zone: Option<Text>,
    #[serde(default)]
    pub bandwidth_windows: Vec<RawBandwidthWindow>,
    // kind = "directory"
    pub path: Option<Text>,
    // kind = "s3"
    pub bucket: Option<Text>,
    pub endpoint: Option<Text>,
    pub path_style: Option<Spanned<bool>>,
    pub allow_http: Option<Spanned<bool>>,
    pub ca_file: Option<Text>,
    pub storage_class: Option<Text>,
    pub profile: Option<Text>,
    pub credentials: Option<Text>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawBandwidthWindow {
    pub days: Option<Text>,
    pub from: Text,
    pub to: Text,
    pub rate: Text,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawDataset {
    pub name: Text,
    pub home_region: Text,
    pub source: RawSource,
    pub schedule: Option<Text>,
    pub time_zone: Option<Text>,
    pub jitter: Option<Text>,
    pub chunk_size: Option<Text>,
    pub dedup: Option<Dedup>,
    pub compression: Option<Spanned<RawCompression>>,
    #[serde(default)]
    pub standby_recipients: Vec<Text>,
    #[serde(default)]
    pub retention: RawRetention,
    #[serde(default)]
    pub objectives: RawObjectives,
    #[serde(default)]
    pub drill: RawDrill,
}

/// `"auto"` or a level.
#[derive(Deserialize)]
#[serde(untagged, expecting = "expected \"auto\" or a level, 1 to 19")]
pub(super) enum RawCompression {
    Level(i32),
    Word(String),
}

/// The keys of every kind; which belong to which is validated.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawSource {
    pub kind: Text,
    // kind = "postgres"
    pub url: Option<Text>,
    pub service: Option<Text>,
    pub socket: Option<Text>,
    pub port: Option<Spanned<u16>>,
    pub user: Option<Text>,
    pub password: Option<Text>,
    pub databases: Option<Spanned<Vec<String>>>,
    pub client_directories: Option<Spanned<Vec<Text>>>,
    pub jobs: Option<Spanned<usize>>,
    pub large_table: Option<Text>,
    // kind = "sqlite" or "file"
    pub path: Option<Text>,
    // kind = "command"
    pub argv: Option<Spanned<Vec<String>>>,
    pub environment: Option<Spanned<BTreeMap<String, String>>>,
    pub expected_status: Option<Spanned<i32>>,
    pub stream: Option<Text>,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields)]
pub(super) struct RawRetention {
    #[serde(default)]
    pub keep_last: u32,
    #[serde(default)]
    pub hourly: u32,
    #[serde(default)]
    pub daily: u32,
    #[serde(default)]
    pub weekly: u32,
    #[serde(default)]
    pub monthly: u32,
    #[serde(default)]
    pub yearly: u32,
    pub within: Option<Text>,
    pub grace: Option<Text>,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields)]
pub(super) struct RawObjectives {
    pub rpo: Option<Text>,
    pub rto: Option<Text>,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields)]
pub(super) struct RawDrill {
    pub level: Option<Text>,
    #[serde(default)]
    pub queries: Vec<RawQuery>,
    #[serde(default)]
    pub server_directories: Vec<Text>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawQuery {
    pub database: Option<String>,
    pub sql: String,
    pub expect: Option<String>,
}
