//! Validates one `[[dataset]]`.

use toml::Spanned;

use super::raw::{RawCompression, RawDataset, RawDrill, RawSource, Text};
use super::validate::Validator;
use super::{
    CommandConfig, Dataset, DrillConfig, DrillQuery, Objectives, PostgresConfig, PostgresConnection, ProofLevel,
    ReplicaConfig, Retention, SourceConfig, defaults, units,
};
use crate::bytes::compress::Compression;
use crate::schedule::Schedule;

const LEVELS: &str = "use \"auto\", or 1 (fast) to 19 (small)";

/// `None` where something of it cannot be used; what, is in the findings.
pub(super) fn validate(v: &mut Validator<'_>, raw: Spanned<RawDataset>, replicas: &[ReplicaConfig]) -> Option<Dataset> {
    let raw = raw.into_inner();
    let home_region = v.filled(&raw.home_region)?;
    if !replicas.is_empty() && replicas.iter().all(|replica| replica.region == home_region) {
        v.findings.add(
            raw.home_region.span(),
            format!("every replica is in {home_region}, where the database lives"),
            "add a replica in another region: that is what survives the loss of this one",
        );
    }
    for standby in &raw.standby_recipients {
        if standby.get_ref().parse::<age::x25519::Recipient>().is_err() {
            let problem = "this is not an operations recipient";
            v.findings.add(
                standby.span(),
                problem,
                "use operations_recipient from hosts/<host>.json of the standby host",
            );
        }
    }
    let source = source(v, &raw.source);
    let retention = Retention {
        keep_last: raw.retention.keep_last,
        hourly: raw.retention.hourly,
        daily: raw.retention.daily,
        weekly: raw.retention.weekly,
        monthly: raw.retention.monthly,
        yearly: raw.retention.yearly,
        within: v.unit(raw.retention.within.as_ref(), units::duration),
        grace: v.unit(raw.retention.grace.as_ref(), units::duration).unwrap_or(defaults::GRACE),
    };
    let objectives = Objectives {
        rpo: v.unit(raw.objectives.rpo.as_ref(), units::duration),
        rto: v.unit(raw.objectives.rto.as_ref(), units::duration),
    };
    let schedule = schedule(v, &raw);
    let chunk_size = chunk_size(v, raw.chunk_size.as_ref());
    let compression = compression(v, raw.compression.as_ref());
    let source = source?;
    let drill = drill(v, raw.drill, &source);
    Some(Dataset {
        name: v.name(&raw.name)?,
        home_region,
        source,
        schedule,
        retention,
        objectives,
        chunk_size,
        dedup: raw.dedup.unwrap_or(defaults::DEDUP),
        compression,
        standby_recipients: raw.standby_recipients.into_iter().map(Spanned::into_inner).collect(),
        drill,
    })
}

fn compression(v: &mut Validator<'_>, raw: Option<&Spanned<RawCompression>>) -> Compression {
    let Some(wanted) = raw else { return defaults::COMPRESSION };
    match wanted.get_ref() {
        RawCompression::Level(level @ 1..=19) => return Compression::Level(*level),
        RawCompression::Word(word) if word == "auto" => return Compression::Auto,
        RawCompression::Level(level) => v.findings.add(wanted.span(), format!("compression = {level}"), LEVELS),
        RawCompression::Word(word) => v.findings.add(wanted.span(), format!("compression = \"{word}\""), LEVELS),
    }
    defaults::COMPRESSION
}

fn schedule(v: &mut Validator<'_>, raw: &RawDataset) -> Option<Schedule> {
    let jitter = v.unit(raw.jitter.as_ref(), units::duration).unwrap_or_default();
    let time_zone = v.time_zone(raw.time_zone.as_ref());
    let text = raw.schedule.as_ref()?;
    match Schedule::parse(text.get_ref(), time_zone, jitter) {
        Ok(schedule) => Some(schedule),
        Err(error) => {
            v.findings.add(text.span(), error.chain(), error.hint_text().unwrap_or_default());
            None
        }
    }
}

fn chunk_size(v: &mut Validator<'_>, text: Option<&Text>) -> u32 {
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

fn source(v: &mut Validator<'_>, raw: &RawSource) -> Option<SourceConfig> {
    let place = raw.kind.span();
    let postgres_keys = [
        ("url", raw.url.as_ref().map(Spanned::span)),
        ("service", raw.service.as_ref().map(Spanned::span)),
        ("socket", raw.socket.as_ref().map(Spanned::span)),
        ("port", raw.port.as_ref().map(Spanned::span)),
        ("user", raw.user.as_ref().map(Spanned::span)),
        ("password", raw.password.as_ref().map(Spanned::span)),
        ("databases", raw.databases.as_ref().map(Spanned::span)),
        ("client_directories", raw.client_directories.as_ref().map(Spanned::span)),
        ("jobs", raw.jobs.as_ref().map(Spanned::span)),
        ("large_table", raw.large_table.as_ref().map(Spanned::span)),
    ];
    let path_keys = [("path", raw.path.as_ref().map(Spanned::span))];
    let command_keys = [
        ("argv", raw.argv.as_ref().map(Spanned::span)),
        ("environment", raw.environment.as_ref().map(Spanned::span)),
        ("expected_status", raw.expected_status.as_ref().map(Spanned::span)),
        ("stream", raw.stream.as_ref().map(Spanned::span)),
    ];
    match raw.kind.get_ref().as_str() {
        "postgres" => {
            v.foreign("postgres", path_keys);
            v.foreign("postgres", command_keys);
            postgres(v, raw).map(SourceConfig::Postgres)
        }
        kind @ ("sqlite" | "file") => {
            v.foreign(kind, postgres_keys);
            v.foreign(kind, command_keys);
            let path = v.required(raw.path.as_ref(), "path", &place)?;
            let path = v.path(path);
            Some(if kind == "file" { SourceConfig::File { path } } else { SourceConfig::Sqlite { path } })
        }
        "command" => {
            v.foreign("command", postgres_keys);
            v.foreign("command", path_keys);
            command(v, raw).map(SourceConfig::Command)
        }
        other => {
            v.findings.add(
                place,
                format!("there are no sources of kind `{other}`"),
                "use postgres, sqlite, file or command",
            );
            None
        }
    }
}

fn command(v: &mut Validator<'_>, raw: &RawSource) -> Option<CommandConfig> {
    let argv = v.required(raw.argv.as_ref(), "argv", &raw.kind.span())?;
    if argv.get_ref().first().is_none_or(String::is_empty) {
        v.findings.add(argv.span(), "argv is empty", "name a program and its arguments");
        return None;
    }
    let stream = raw.stream.as_ref().map_or(defaults::STREAM, |stream| stream.get_ref().as_str());
    if stream.is_empty() || stream.len() > 200 || stream.chars().any(char::is_control) {
        let span = raw.stream.as_ref().map_or(0..0, Spanned::span);
        v.findings.add(span, "this stream name is not usable", "use 1 to 200 bytes without control characters");
    }
    Some(CommandConfig {
        argv: argv.get_ref().clone(),
        environment: raw.environment.as_ref().map(|environment| environment.get_ref().clone()).unwrap_or_default(),
        expected_status: raw.expected_status.as_ref().map_or(0, |status| *status.get_ref()),
        stream: stream.to_owned(),
    })
}

fn postgres(v: &mut Validator<'_>, raw: &RawSource) -> Option<PostgresConfig> {
    let connection = match (&raw.url, &raw.service, &raw.socket) {
        (Some(url), None, None) => postgres_url(v, url)?,
        (None, Some(service), None) => PostgresConnection::Service(v.filled(service)?),
        (None, None, Some(socket)) => PostgresConnection::Socket {
            directory: v.path(socket),
            port: raw.port.as_ref().map_or(5432, |port| *port.get_ref()),
            user: raw.user.as_ref().map(|user| user.get_ref().clone()),
        },
        _ => {
            let problem = "a PostgreSQL server is reached in exactly one way";
            v.findings.add(raw.kind.span(), problem, "give one of url, service or socket");
            return None;
        }
    };
    if raw.socket.is_none() && (raw.port.is_some() || raw.user.is_some()) {
        let remedy = "put them into the url or the service";
        v.findings.add(raw.kind.span(), "port and user belong to socket", remedy);
    }
    if let Some(jobs) = raw.jobs.as_ref().filter(|jobs| *jobs.get_ref() == 0) {
        v.findings.add(jobs.span(), "jobs = 0", "use at least 1, or leave it out for as many as limits.cpu");
    }
    let directories = raw.client_directories.as_ref().map(|list| list.get_ref().as_slice()).unwrap_or_default();
    Some(PostgresConfig {
        connection,
        password: raw.password.as_ref().map(|password| v.secret(password)),
        databases: raw.databases.as_ref().map(|list| list.get_ref().clone()).unwrap_or_default(),
        client_directories: directories.iter().map(|directory| v.path(directory)).collect(),
        jobs: raw.jobs.as_ref().map(|jobs| *jobs.get_ref()),
        large_table: v.unit(raw.large_table.as_ref(), units::size).unwrap_or(defaults::LARGE_TABLE),
    })
}

fn postgres_url(v: &mut Validator<'_>, text: &Text) -> Option<PostgresConnection> {
    let remedy = "use postgresql://user@host:5432/database?sslmode=verify-full; without a host write postgresql:///database?user=…, or use socket";
    let url = url::Url::parse(text.get_ref()).ok().filter(|url| matches!(url.scheme(), "postgresql" | "postgres"));
    let Some(url) = url else {
        // The text itself may hold a password, so it is not shown.
        v.findings.add(text.span(), "this is not a PostgreSQL URL", remedy);
        return None;
    };
    if url.password().is_some() || url.query_pairs().any(|(key, _)| key == "password") {
        v.findings.add(
            text.span(),
            "a URL must not hold a password",
            "use password = \"credential:NAME\" or a 0600 file",
        );
        return None;
    }
    Some(PostgresConnection::Url(url))
}

fn drill(v: &mut Validator<'_>, raw: RawDrill, source: &SourceConfig) -> DrillConfig {
    let highest = if matches!(source, SourceConfig::Command(_)) { ProofLevel::Fetched } else { ProofLevel::Proved };
    let level = match &raw.level {
        None => highest,
        Some(text) => {
            let levels = [ProofLevel::Fetched, ProofLevel::Loaded, ProofLevel::Checked, ProofLevel::Proved];
            let level = levels.into_iter().find(|level| level.as_str() == text.get_ref());
            if level.is_none_or(|level| level > highest) {
                let problem =
                    format!("level = \"{}\" cannot be for a source of kind {}", text.get_ref(), source.engine());
                let possible: Vec<_> =
                    levels.iter().filter(|level| **level <= highest).map(|level| level.as_str()).collect();
                v.findings.add(text.span(), problem, format!("use {}", possible.join(", ")));
            }
            level.unwrap_or(highest)
        }
    };
    let queries = raw.queries.into_iter();
    DrillConfig {
        level,
        queries: queries
            .map(|query| DrillQuery { database: query.database, sql: query.sql, expect: query.expect })
            .collect(),
        server_directories: raw.server_directories.iter().map(|directory| v.path(directory)).collect(),
    }
}
