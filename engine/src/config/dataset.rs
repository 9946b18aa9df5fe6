//! Validates one `[[dataset]]`.

use std::sync::Arc;
use std::time::Duration;

use lifeboat_base::hours::Hours;
use lifeboat_base::settings::{Section, SettingsReader, Text, units};
use lifeboat_databases::registry;
use lifeboat_databases::{Database, Source};
use lifeboat_format::id::Name;
use lifeboat_store::ReplicaConfig;
use toml::Spanned;

use super::fields::{hours, name, time_zone};
use super::raw::{RawCompression, RawDataset, RawWindow};
use super::{Dataset, DrillConfig, Objectives, Retention, defaults, drill, recovery};
use crate::backup::compress::Compression;
use crate::schedule::Schedule;

const LEVELS: &str = "use \"auto\", or 1 (fast) to 19 (small)";

/// A host that does not back up (`backs_up`) need not reach a replica in another region: it stores
/// nothing.
///
/// Returns `None` if a value without a default cannot be used. The findings say what is wrong.
pub(crate) fn validate(
    v: &mut SettingsReader<'_>,
    raw: Spanned<RawDataset>,
    source: Option<Section<'_>>,
    (replicas, drill_of_all): (&[ReplicaConfig], &DrillConfig),
    longest_run: Duration,
    host: Option<&Name>,
    backs_up: bool,
) -> Option<Dataset> {
    let raw = raw.into_inner();
    let home_region = v.filled(&raw.home_region)?;
    let all_near = !replicas.is_empty() && replicas.iter().all(|replica| replica.region == home_region);
    if all_near && backs_up {
        v.findings.add(
            raw.home_region.span(),
            format!("every replica is in {home_region}, where the database lives"),
            "add a replica in another region, so that a copy survives the loss of this one; only a host with a drill identity and no host keys needs none",
        );
    }
    let hosts = hosts(v, &raw.hosts, host);
    let source = source.and_then(|section| registry::source(section, v));
    let retention = Retention {
        keep_last: raw.retention.keep_last,
        hourly: raw.retention.hourly,
        daily: raw.retention.daily,
        weekly: raw.retention.weekly,
        monthly: raw.retention.monthly,
        yearly: raw.retention.yearly,
        within: v.unit(raw.retention.within.as_ref(), units::duration),
        grace: v
            .unit(raw.retention.grace.as_ref(), units::duration)
            .unwrap_or_else(|| longest_run.saturating_add(defaults::GRACE_AFTER_RUN)),
        removes_dataset: false,
    };
    let objectives = Objectives {
        rpo: v.unit(raw.objectives.rpo.as_ref(), units::duration),
        rto: v.unit(raw.objectives.rto.as_ref(), units::duration),
    };
    let schedule = schedule(v, (&raw.schedule, &raw.time_zone, &raw.jitter), &raw.windows);
    let replaces = raw.replaces.as_ref().and_then(|text| replaces(v, text));
    let chunk_size = chunk_size(v, raw.chunk_size.as_ref());
    let compression = compression(v, raw.compression.as_ref());
    let source: Arc<dyn Source> = source?.into();
    let drill = drill::of_dataset(v, raw.drill, drill_of_all, (source.as_ref(), &home_region), replicas);
    let recovery = recovery::place(v, &raw.recovery);
    Some(Dataset {
        name: name(v, &raw.name)?,
        home_region,
        source,
        replaces,
        schedule,
        retry: v.unit(raw.retry.as_ref(), units::duration).unwrap_or(defaults::RETRY),
        retention,
        objectives,
        chunk_size,
        dedup: raw.dedup.unwrap_or(defaults::DEDUP),
        compression,
        hosts,
        takeover_after: v.unit(raw.takeover_after.as_ref(), units::duration).unwrap_or(defaults::TAKEOVER_AFTER),
        drill,
        recovery,
    })
}

/// The kind of source that another one replaces.
fn replaces(v: &mut SettingsReader<'_>, text: &Text) -> Option<&'static str> {
    let known = registry::find(text.get_ref());
    if known.is_none() {
        let kinds: Vec<&str> = registry::ENGINES.iter().map(|engine| engine.kind()).collect();
        let problem = format!("no source is of kind `{}`", text.get_ref());
        v.findings.add(text.span(), problem, format!("use one of: {}", kinds.join(", ")));
    }
    known.map(Database::kind)
}

/// The hosts of a dataset, if they are named. This host is one of them.
fn hosts(v: &mut SettingsReader<'_>, texts: &[Text], host: Option<&Name>) -> Vec<Name> {
    let hosts: Vec<Name> = texts.iter().filter_map(|text| name(v, text)).collect();
    for (at, text) in texts.iter().enumerate() {
        if texts[..at].iter().any(|before| before.get_ref() == text.get_ref()) {
            v.findings.add(text.span(), format!("host `{}` is named twice", text.get_ref()), "name it once");
        }
    }
    if let (Some(host), Some(first)) = (host.filter(|host| !hosts.is_empty() && !hosts.contains(host)), texts.first()) {
        let problem = format!("this host, `{host}`, is none of the hosts of this dataset");
        v.findings.add(first.span(), problem, "add it, or leave this dataset out of this host's configuration");
    }
    hosts
}

fn compression(v: &mut SettingsReader<'_>, raw: Option<&Spanned<RawCompression>>) -> Compression {
    let Some(wanted) = raw else { return defaults::COMPRESSION };
    match wanted.get_ref() {
        RawCompression::Level(level @ 1..=19) => return Compression::Level(*level),
        RawCompression::Word(word) if word == "auto" => return Compression::Auto,
        RawCompression::Level(level) => {
            v.findings.add(wanted.span(), format!("compression = {level} is not a level"), LEVELS);
        }
        RawCompression::Word(word) => {
            v.findings.add(wanted.span(), format!("compression = \"{word}\" is unknown"), LEVELS);
        }
    }
    defaults::COMPRESSION
}

/// The schedule, in its time zone and with its jitter, within `windows`.
pub(super) fn schedule(
    v: &mut SettingsReader<'_>,
    (text, zone, jitter): (&Option<Text>, &Option<Text>, &Option<Text>),
    raw: &[RawWindow],
) -> Option<Schedule> {
    let jitter = v.unit(jitter.as_ref(), units::duration).unwrap_or_default();
    let time_zone = time_zone(v, zone.as_ref());
    let windows: Vec<Hours> = raw.iter().filter_map(|raw| hours(v, raw.days.as_ref(), &raw.from, &raw.to)).collect();
    let Some(text) = text else {
        if let Some(window) = raw.first() {
            v.findings.add(window.from.span(), "windows without a schedule", "add `schedule`, or leave them out");
        }
        return None;
    };
    match Schedule::parse(text.get_ref(), time_zone, jitter) {
        Ok(schedule) => Some(schedule.within(windows)),
        Err(error) => {
            v.findings.add(text.span(), error.chain(), error.hint_text().unwrap_or_default());
            None
        }
    }
}

fn chunk_size(v: &mut SettingsReader<'_>, text: Option<&Text>) -> u32 {
    let size = v.unit(text, units::size).unwrap_or(u64::from(defaults::CHUNK_SIZE));
    match u32::try_from(size) {
        Ok(size) if size.is_power_of_two() && (64 << 10..=4 << 20).contains(&size) => size,
        _ => {
            let span = text.map_or(0..0, Spanned::span);
            v.findings.add(span, "this chunk size is not usable", "use a power of two from 64KiB to 4MiB");
            defaults::CHUNK_SIZE
        }
    }
}
