//! Validates one `[[replica]]`.

use std::collections::BTreeSet;
use std::ops::Range;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use lifeboat_base::settings::{SettingsReader, Text, units};
use lifeboat_store::{Lock, LockMode, ReplicaConfig, ReplicaKind, S3Config, S3Credentials};
use toml::Spanned;

use super::fields::name;
use super::raw::RawReplica;
use super::{bandwidth, defaults};

/// A shorter lock could end before a daemon that was down has extended it.
const SHORTEST_LOCK: Duration = Duration::from_secs(86_400);

/// What a place holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum PlaceRole {
    /// A whole copy of the vault.
    Replica,
    /// Acts and leases alone.
    Records,
}

/// Returns `None` if a value without a default cannot be used. The findings say what is wrong.
pub(super) fn validate(v: &mut SettingsReader<'_>, raw: Spanned<RawReplica>) -> Option<(PlaceRole, ReplicaConfig)> {
    let whole = raw.span();
    let raw = raw.into_inner();
    let role = role(v, &raw)?;
    let s3_keys = [
        ("bucket", raw.bucket.as_ref().map(Spanned::span)),
        ("endpoint", raw.endpoint.as_ref().map(Spanned::span)),
        ("path_style", raw.path_style.as_ref().map(Spanned::span)),
        ("allow_http", raw.allow_http.as_ref().map(Spanned::span)),
        ("ca_file", raw.ca_file.as_ref().map(Spanned::span)),
        ("storage_class", raw.storage_class.as_ref().map(Spanned::span)),
        ("lock", raw.lock.as_ref().map(Spanned::span)),
        ("lock_at_most", raw.lock_at_most.as_ref().map(Spanned::span)),
        ("lock_mode", raw.lock_mode.as_ref().map(Spanned::span)),
        ("profile", raw.profile.as_ref().map(Spanned::span)),
        ("credentials", raw.credentials.as_ref().map(Spanned::span)),
    ];
    let kind = match raw.kind.get_ref().as_str() {
        "directory" => {
            v.foreign("directory", s3_keys);
            let path = v.required(raw.path.as_ref(), "path", &whole)?;
            ReplicaKind::Directory { path: v.path(path) }
        }
        "s3" => {
            v.foreign("s3", [("path", raw.path.as_ref().map(Spanned::span))]);
            ReplicaKind::S3(s3(v, &raw, &whole)?)
        }
        other => {
            v.findings.add(raw.kind.span(), format!("a replica cannot be of kind `{other}`"), "use s3 or directory");
            return None;
        }
    };
    let config = ReplicaConfig {
        kind,
        timeout: v.unit(raw.timeout.as_ref(), units::duration).unwrap_or(defaults::REPLICA_TIMEOUT),
        bandwidth: bandwidth::validate(v, &raw),
        name: name(v, &raw.name)?,
        region: v.filled(&raw.region)?,
    };
    Some((role, config))
}

fn role(v: &mut SettingsReader<'_>, raw: &RawReplica) -> Option<PlaceRole> {
    let role = match raw.role.as_ref().map(|role| (role.get_ref().as_str(), role.span())) {
        None | Some(("replica", _)) => PlaceRole::Replica,
        Some(("records", _)) => PlaceRole::Records,
        Some((other, span)) => {
            v.findings.add(span, format!("there is no role `{other}`"), "use replica, or records");
            return None;
        }
    };
    if let (PlaceRole::Records, Some(lock)) = (role, &raw.lock) {
        let problem = "acts go when they have passed, so what holds records alone locks nothing";
        v.findings.add(lock.span(), problem, "leave lock out");
    }
    Some(role)
}

fn s3(v: &mut SettingsReader<'_>, raw: &RawReplica, whole: &Range<usize>) -> Option<S3Config> {
    let credentials = match (&raw.profile, &raw.credentials) {
        (Some(profile), Some(_)) => {
            v.findings.add(profile.span(), "profile and credentials are both set", "remove one of them");
            S3Credentials::Default
        }
        (Some(profile), None) => S3Credentials::Profile(profile.get_ref().clone()),
        (None, Some(place)) => S3Credentials::File(v.secret(place)),
        (None, None) => S3Credentials::Default,
    };
    let is = |flag: &Option<Spanned<bool>>| flag.as_ref().is_some_and(|flag| *flag.get_ref());
    let bucket = v.required(raw.bucket.as_ref(), "bucket", whole)?;
    Some(S3Config {
        bucket: v.filled(bucket)?,
        endpoint: raw.endpoint.as_ref().and_then(|text| endpoint(v, text, is(&raw.allow_http))),
        path_style: is(&raw.path_style),
        ca_file: raw.ca_file.as_ref().map(|path| v.path(path)),
        storage_class: raw.storage_class.as_ref().map(|class| class.get_ref().clone()),
        lock: lock(v, raw),
        credentials,
    })
}

fn lock(v: &mut SettingsReader<'_>, raw: &RawReplica) -> Option<Lock> {
    let mode = match raw.lock_mode.as_ref().map(|mode| (mode.get_ref().as_str(), mode.span())) {
        None | Some(("governance", _)) => LockMode::Governance,
        Some(("compliance", _)) => LockMode::Compliance,
        Some((other, span)) => {
            v.findings.add(span, format!("a lock cannot be of mode `{other}`"), "use governance or compliance");
            return None;
        }
    };
    for (key, set) in [("lock_mode", &raw.lock_mode), ("lock_at_most", &raw.lock_at_most)] {
        if let (Some(set), None) = (set, &raw.lock) {
            let problem = format!("{key} is set, and nothing is locked");
            v.findings.add(set.span(), problem, "set lock, too, such as lock = \"30d\"");
            return None;
        }
    }
    let text = raw.lock.as_ref()?;
    let period = v.unit(Some(text), units::duration)?;
    if period < SHORTEST_LOCK {
        let problem = "a lock is extended at half of its time, and this is too short for that";
        v.findings.add(text.span(), problem, "lock for 1d at least");
        return None;
    }
    let at_most = match &raw.lock_at_most {
        None => period,
        Some(text) => v.unit(Some(text), units::duration)?,
    };
    if at_most < period {
        let problem = "no lock is shorter than `lock`, and this is";
        let span = raw.lock_at_most.as_ref().map_or(text.span(), Spanned::span);
        v.findings.add(span, problem, "set it to more than lock, such as lock_at_most = \"365d\", or leave it out");
        return None;
    }
    Some(Lock { mode, period, at_most })
}

fn endpoint(v: &mut SettingsReader<'_>, text: &Text, allow_http: bool) -> Option<url::Url> {
    let url = match url::Url::parse(text.get_ref()) {
        Ok(url) if matches!(url.scheme(), "http" | "https") && url.has_host() => url,
        _ => {
            let problem = "this is not the URL of an endpoint";
            v.findings.add(text.span(), problem, "use a URL such as https://s3.example.com");
            return None;
        }
    };
    if !url.username().is_empty() || url.password().is_some() {
        v.findings.add(text.span(), "an endpoint must not hold credentials", "use credentials = \"credential:NAME\"");
        return None;
    }
    let loopback = match url.host() {
        Some(url::Host::Domain(domain)) => domain == "localhost",
        Some(url::Host::Ipv4(address)) => address.is_loopback(),
        Some(url::Host::Ipv6(address)) => address.is_loopback(),
        None => false,
    };
    if url.scheme() == "http" && !loopback && !allow_http {
        v.findings.add(
            text.span(),
            "plain HTTP would show object names and requests to everybody on the network",
            "use https, or set allow_http = true in a lab",
        );
    }
    Some(url)
}

/// Refuses two replicas in one place, because they are only one copy.
pub(super) fn apart<'r>(v: &mut SettingsReader<'_>, replicas: impl Iterator<Item = &'r ReplicaConfig>) {
    let place = |replica: &ReplicaConfig| match &replica.kind {
        ReplicaKind::Directory { path } => real_place(path),
        ReplicaKind::S3(s3) => {
            format!("{} {}", s3.endpoint.as_ref().map_or(replica.region.as_str(), url::Url::as_str), s3.bucket)
        }
    };
    let mut seen = BTreeSet::new();
    for replica in replicas {
        if !seen.insert(place(replica)) {
            let problem = format!("replica {} is in the same place as another one", replica.name);
            v.findings.add(0..0, problem, "give each replica a bucket or directory of its own");
        }
    }
}

/// The same text for all names of one directory: with a slash at the end, through a symlink, or
/// mounted twice. What does not exist yet is told apart by its path in the nearest folder that
/// does.
fn real_place(path: &Path) -> String {
    if let Ok(found) = std::fs::metadata(path) {
        return format!("directory {} of device {}", found.ino(), found.dev());
    }
    let existing = path.ancestors().find_map(|folder| Some((folder, std::fs::canonicalize(folder).ok()?)));
    let (folder, real) = existing.unwrap_or((path, path.to_owned()));
    real.join(path.strip_prefix(folder).unwrap_or(path)).components().collect::<PathBuf>().display().to_string()
}
