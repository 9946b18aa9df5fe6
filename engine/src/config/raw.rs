//! The configuration file as it is written. Only types and unknown keys are checked here.
//!
//! Values that validation may refuse carry their position in the file ([`Spanned`]).

use lifeboat_base::settings::shape::{self, Shape};
use lifeboat_base::settings::{Section, SettingsReader, Text, explain};
use lifeboat_databases::proof::Number;
use serde::Deserialize;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::Dedup;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct RawConfig {
    pub host: Text,
    #[serde(default)]
    pub vault_prefix: Option<Text>,
    pub state_directory: Option<Text>,
    pub min_replicas: Option<Spanned<usize>>,
    pub listen: Option<Text>,
    pub listen_tls: Option<RawListenTls>,
    pub control_socket: Option<Text>,
    #[serde(default)]
    pub keys: RawKeys,
    #[serde(default)]
    pub limits: RawLimits,
    #[serde(default)]
    pub scrub: RawScrub,
    #[serde(default)]
    pub drill: RawDrill,
    #[serde(default)]
    pub recovery: RawRecovery,
    #[serde(default)]
    pub replica: Vec<Spanned<RawReplica>>,
    #[serde(default)]
    pub dataset: Vec<Spanned<RawDataset>>,
    #[serde(default)]
    pub group: Vec<Spanned<RawGroup>>,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields)]
pub(crate) struct RawKeys {
    pub directory: Option<Text>,
    #[serde(default)]
    pub owners: Vec<Text>,
    pub owner_threshold: Option<Spanned<usize>>,
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
    pub warden_signer: Option<Text>,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields)]
pub(crate) struct RawLimits {
    pub cpu: Option<Spanned<usize>>,
    pub memory: Option<Text>,
    pub runs: Option<Spanned<usize>>,
    pub stall: Option<Text>,
    pub run: Option<Text>,
    pub shutdown: Option<Text>,
    pub clock_skew: Option<Text>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct RawListenTls {
    pub certificate: Text,
    pub key: Text,
    pub client_ca: Option<Text>,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields)]
pub(crate) struct RawScrub {
    pub period: Option<Text>,
}

/// The keys of replicas of every kind. Validation refuses those of another kind.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct RawReplica {
    pub name: Text,
    pub role: Option<Text>,
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
    pub lock: Option<Text>,
    pub lock_at_most: Option<Text>,
    pub lock_mode: Option<Text>,
    pub profile: Option<Text>,
    pub credentials: Option<Text>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct RawWindow {
    pub days: Option<Text>,
    pub from: Text,
    pub to: Text,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct RawBandwidthWindow {
    pub days: Option<Text>,
    pub from: Text,
    pub to: Text,
    pub rate: Text,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct RawDataset {
    pub name: Text,
    pub home_region: Text,
    pub replaces: Option<Text>,
    pub schedule: Option<Text>,
    pub time_zone: Option<Text>,
    pub jitter: Option<Text>,
    #[serde(default)]
    pub windows: Vec<RawWindow>,
    pub retry: Option<Text>,
    pub chunk_size: Option<Text>,
    pub dedup: Option<Dedup>,
    pub compression: Option<Spanned<RawCompression>>,
    #[serde(default)]
    pub hosts: Vec<Text>,
    pub takeover_after: Option<Text>,
    #[serde(default)]
    pub retention: RawRetention,
    #[serde(default)]
    pub objectives: RawObjectives,
    #[serde(default)]
    pub drill: RawDrill,
    #[serde(default)]
    pub recovery: RawPlaceInRecovery,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct RawGroup {
    pub name: Text,
    pub members: Vec<Text>,
    pub schedule: Option<Text>,
    pub time_zone: Option<Text>,
    pub jitter: Option<Text>,
    #[serde(default)]
    pub windows: Vec<RawWindow>,
    pub wait: Option<Text>,
    #[serde(default)]
    pub reference: Vec<RawReference>,
    #[serde(default)]
    pub drill: RawGroupDrill,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct RawReference {
    pub name: Text,
    pub from: Text,
    pub database: Option<String>,
    pub sql: Text,
    pub to: Text,
    pub prefix: Option<Text>,
    #[serde(default)]
    pub at_most: u64,
    pub at_least: Option<u64>,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields)]
pub(crate) struct RawGroupDrill {
    pub schedule: Option<Text>,
    pub time_zone: Option<Text>,
}

/// `"auto"`, or a zstd level.
#[derive(Deserialize)]
#[serde(untagged, expecting = "expected \"auto\" or a level, 1 to 19")]
pub(crate) enum RawCompression {
    Level(i32),
    Word(String),
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields)]
pub(crate) struct RawRetention {
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
pub(crate) struct RawObjectives {
    pub rpo: Option<Text>,
    pub rto: Option<Text>,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields)]
pub(crate) struct RawDrill {
    pub level: Option<Text>,
    #[serde(default)]
    pub queries: Vec<Spanned<RawQuery>>,
    pub server_directories: Option<Vec<Text>>,
    pub restore: Option<Spanned<Vec<String>>>,
    pub verify: Option<Spanned<Vec<String>>>,
    pub schedule: Option<Text>,
    pub time_zone: Option<Text>,
    pub snapshot: Option<Text>,
    pub replica: Option<Text>,
    pub outside: Option<Spanned<bool>>,
    pub max_time: Option<Text>,
    pub max_disk: Option<Text>,
    pub full_every: Option<Text>,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields)]
pub(crate) struct RawRecovery {
    pub at_once: Option<Spanned<usize>>,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields)]
pub(crate) struct RawPlaceInRecovery {
    pub priority: Option<u16>,
    #[serde(default)]
    pub after: Vec<Text>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct RawQuery {
    pub database: Option<String>,
    pub sql: String,
    pub expect: Option<String>,
    pub at_least: Option<Number>,
    pub at_most: Option<Number>,
    pub fresher_than: Option<Text>,
}

/// Parses the text. The source table of each `[[dataset]]` is taken out first, in order, because
/// only its engine knows its keys.
///
/// Returns `None` if the text is not TOML or does not have the shape of a configuration. The
/// findings say what is wrong.
pub(super) fn parse<'t>(
    text: &'t str,
    reader: &mut SettingsReader<'_>,
) -> Option<(RawConfig, Vec<Option<Section<'t>>>)> {
    let mut document = match DeTable::parse(text) {
        Ok(document) => document,
        Err(error) => {
            reader.findings.add(error.span().unwrap_or_default(), explain(error.message()), "");
            return None;
        }
    };
    let mut sources = Vec::new();
    if let Some(DeValue::Array(datasets)) = document.get_mut().get_mut("dataset").map(Spanned::get_mut) {
        for dataset in datasets.iter_mut() {
            let place = dataset.span();
            if let DeValue::Table(table) = dataset.get_mut() {
                sources.push(Section::take(table, place, "source", reader));
            }
        }
    }
    // What fits is validated, too, so that all is told at once. It is refused in any case.
    let place = document.span();
    match shape::read(document.into_inner(), place, &mut reader.findings) {
        Shape::Whole(raw) | Shape::Rest(raw) => Some((raw, sources)),
        Shape::Lacking => None,
    }
}
