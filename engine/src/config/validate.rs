//! From the raw file to the validated [`Config`].

use std::collections::BTreeSet;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use toml::Spanned;

use super::findings::Findings;
use super::raw::{RawConfig, RawKeys, RawLimits, RawReplica, Text};
use super::{Config, KeysConfig, Limits, ReplicaConfig, ReplicaKind, S3Config, S3Credentials, SecretRef, Surroundings};
use super::{bandwidth, dataset, defaults, units};
use crate::bytes::sign::SignerKey;
use crate::id::Name;

/// Validates one file.
pub(super) struct Validator<'a> {
    pub findings: Findings<'a>,
    pub surroundings: &'a Surroundings,
    /// Where `credential:` names are looked up without systemd.
    pub key_directory: PathBuf,
}

impl<'a> Validator<'a> {
    pub(super) fn new(path: &'a Path, text: &'a str, surroundings: &'a Surroundings) -> Self {
        Self {
            findings: Findings::new(path, text),
            surroundings,
            key_directory: PathBuf::from(defaults::KEY_DIRECTORY),
        }
    }

    /// `None` where anything was found.
    pub(super) fn config(&mut self, raw: RawConfig) -> Option<Config> {
        let whole = raw.host.span();
        let keys = self.keys(&raw.keys);
        let limits = self.limits(&raw.limits);
        let replicas: Vec<ReplicaConfig> =
            raw.replica.into_iter().filter_map(|replica| self.replica(replica)).collect();
        if replicas.is_empty() {
            self.findings.add(
                whole,
                "there is no usable [[replica]]",
                "add at least one, in another region than the databases",
            );
        }
        self.unique("replica", replicas.iter().map(|replica| &replica.name));
        self.apart(&replicas);
        let datasets: Vec<_> =
            raw.dataset.into_iter().filter_map(|raw| dataset::validate(self, raw, &replicas)).collect();
        self.unique("dataset", datasets.iter().map(|dataset| &dataset.name));
        let min_replicas = match raw.min_replicas {
            Some(count) if *count.get_ref() == 0 || *count.get_ref() > replicas.len() => {
                let problem = format!("min_replicas = {} with {} replicas", count.get_ref(), replicas.len());
                self.findings.add(count.span(), problem, "use 1 to the number of replicas");
                1
            }
            Some(count) => count.into_inner(),
            None => defaults::min_replicas(replicas.len()),
        };
        Some(Config {
            host: self.name(&raw.host)?,
            vault_prefix: self.prefix(raw.vault_prefix.as_ref()),
            state_directory: self.path_or(raw.state_directory.as_ref(), defaults::STATE_DIRECTORY),
            min_replicas,
            listen: self.parsed(raw.listen.as_ref(), defaults::LISTEN, "an address and port such as 127.0.0.1:9847")?,
            control_socket: self.path_or(raw.control_socket.as_ref(), defaults::CONTROL_SOCKET),
            keys,
            limits,
            replicas,
            datasets,
        })
    }

    fn keys(&mut self, raw: &RawKeys) -> KeysConfig {
        self.key_directory = self.path_or(raw.directory.as_ref(), defaults::KEY_DIRECTORY);
        for recipient in raw.master_recipients.iter().chain(&raw.drill_recipients) {
            if !is_recipient(recipient.get_ref()) {
                let problem = "this is not an age recipient";
                self.findings.add(
                    recipient.span(),
                    problem,
                    "use age1…, an ssh-ed25519 public key, or a plugin's recipient",
                );
            }
        }
        for signer in raw.trusted_signers.iter().chain(&raw.trusted_drill_signers) {
            if SignerKey::parse(signer.get_ref()).is_err() {
                let problem = "this is not a minisign public key";
                self.findings.add(signer.span(), problem, "use the line beginning with RW that `lifeboat init` prints");
            }
        }
        let texts = |list: &[Text]| list.iter().map(|text| text.get_ref().clone()).collect();
        KeysConfig {
            directory: self.key_directory.clone(),
            master_recipients: texts(&raw.master_recipients),
            drill_recipients: texts(&raw.drill_recipients),
            trusted_signers: texts(&raw.trusted_signers),
            trusted_drill_signers: texts(&raw.trusted_drill_signers),
            host_key: self.secret_or(raw.host_key.as_ref(), defaults::HOST_KEY),
            host_bundle: self.secret_or(raw.host_bundle.as_ref(), defaults::HOST_BUNDLE),
            drill_identity: self.secret_or(raw.drill_identity.as_ref(), defaults::DRILL_IDENTITY),
            drill_signer: self.secret_or(raw.drill_signer.as_ref(), defaults::DRILL_SIGNER),
        }
    }

    fn limits(&mut self, raw: &RawLimits) -> Limits {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let cpu = match &raw.cpu {
            Some(count) if *count.get_ref() == 0 => {
                self.findings.add(count.span(), "cpu = 0", "use at least 1, or leave it out for all cores");
                1
            }
            Some(count) => *count.get_ref(),
            None => cores,
        };
        let memory = self.unit(raw.memory.as_ref(), units::size).unwrap_or(defaults::MEMORY);
        if memory < 128 << 20 {
            let span = raw.memory.as_ref().map_or(0..0, Spanned::span);
            self.findings.add(span, "less memory than a run needs", "use at least \"128MiB\"");
        }
        Limits {
            cpu,
            memory,
            stall: self.unit(raw.stall.as_ref(), units::duration).unwrap_or(defaults::STALL),
            run: self.unit(raw.run.as_ref(), units::duration).unwrap_or(defaults::RUN),
            shutdown: self.unit(raw.shutdown.as_ref(), units::duration).unwrap_or(defaults::SHUTDOWN),
        }
    }

    fn replica(&mut self, raw: Spanned<RawReplica>) -> Option<ReplicaConfig> {
        let whole = raw.span();
        let raw = raw.into_inner();
        let s3_keys = [
            ("bucket", raw.bucket.as_ref().map(Spanned::span)),
            ("endpoint", raw.endpoint.as_ref().map(Spanned::span)),
            ("path_style", raw.path_style.as_ref().map(Spanned::span)),
            ("allow_http", raw.allow_http.as_ref().map(Spanned::span)),
            ("ca_file", raw.ca_file.as_ref().map(Spanned::span)),
            ("storage_class", raw.storage_class.as_ref().map(Spanned::span)),
            ("profile", raw.profile.as_ref().map(Spanned::span)),
            ("credentials", raw.credentials.as_ref().map(Spanned::span)),
        ];
        let kind = match raw.kind.get_ref().as_str() {
            "directory" => {
                self.foreign("directory", s3_keys);
                let path = self.required(raw.path.as_ref(), "path", &whole)?;
                ReplicaKind::Directory { path: self.path(path) }
            }
            "s3" => {
                self.foreign("s3", [("path", raw.path.as_ref().map(Spanned::span))]);
                ReplicaKind::S3(self.s3(&raw, &whole)?)
            }
            other => {
                self.findings.add(
                    raw.kind.span(),
                    format!("there are no replicas of kind `{other}`"),
                    "use s3 or directory",
                );
                return None;
            }
        };
        Some(ReplicaConfig {
            kind,
            timeout: self.unit(raw.timeout.as_ref(), units::duration).unwrap_or(defaults::TIMEOUT),
            bandwidth: bandwidth::validate(self, &raw),
            name: self.name(&raw.name)?,
            region: self.filled(&raw.region)?,
        })
    }

    fn s3(&mut self, raw: &RawReplica, whole: &Range<usize>) -> Option<S3Config> {
        let credentials = match (&raw.profile, &raw.credentials) {
            (Some(profile), Some(_)) => {
                self.findings.add(profile.span(), "both profile and credentials", "keep one of them");
                S3Credentials::Default
            }
            (Some(profile), None) => S3Credentials::Profile(profile.get_ref().clone()),
            (None, Some(place)) => S3Credentials::File(self.secret(place)),
            (None, None) => S3Credentials::Default,
        };
        let is = |flag: &Option<Spanned<bool>>| flag.as_ref().is_some_and(|flag| *flag.get_ref());
        let bucket = self.required(raw.bucket.as_ref(), "bucket", whole)?;
        Some(S3Config {
            bucket: self.filled(bucket)?,
            endpoint: raw.endpoint.as_ref().and_then(|endpoint| self.endpoint(endpoint, is(&raw.allow_http))),
            path_style: is(&raw.path_style),
            ca_file: raw.ca_file.as_ref().map(|path| self.path(path)),
            storage_class: raw.storage_class.as_ref().map(|class| class.get_ref().clone()),
            credentials,
        })
    }

    /// Keys that are there but belong to another kind.
    pub(super) fn foreign<const N: usize>(&mut self, kind: &str, keys: [(&str, Option<Range<usize>>); N]) {
        for (key, span) in keys {
            if let Some(span) = span {
                self.findings.add(
                    span,
                    format!("`{key}` does not belong to kind = \"{kind}\""),
                    "remove it, or correct the kind",
                );
            }
        }
    }

    pub(super) fn required<'t, T>(&mut self, value: Option<&'t T>, key: &str, place: &Range<usize>) -> Option<&'t T> {
        if value.is_none() {
            self.findings.add(place.clone(), format!("`{key}` is missing"), "");
        }
        value
    }

    fn endpoint(&mut self, text: &Text, allow_http: bool) -> Option<url::Url> {
        let url = match url::Url::parse(text.get_ref()) {
            Ok(url) if matches!(url.scheme(), "http" | "https") && url.has_host() => url,
            _ => {
                let problem = "this is not an endpoint";
                self.findings.add(text.span(), problem, "use a URL such as https://s3.example.com");
                return None;
            }
        };
        if !url.username().is_empty() || url.password().is_some() {
            self.findings.add(
                text.span(),
                "an endpoint must not hold credentials",
                "use credentials = \"credential:NAME\"",
            );
            return None;
        }
        let loopback = match url.host() {
            Some(url::Host::Domain(domain)) => domain == "localhost",
            Some(url::Host::Ipv4(address)) => address.is_loopback(),
            Some(url::Host::Ipv6(address)) => address.is_loopback(),
            None => false,
        };
        if url.scheme() == "http" && !loopback && !allow_http {
            self.findings.add(
                text.span(),
                "plain http would show object names and credentials' use to the network",
                "use https, or allow_http = true in a lab",
            );
        }
        Some(url)
    }

    fn prefix(&mut self, text: Option<&Text>) -> String {
        let Some(text) = text else { return String::new() };
        let prefix = text.get_ref();
        let legal = |segment: &str| segment.parse::<Name>().is_ok();
        if !prefix.is_empty() && !prefix.split('/').all(legal) {
            let problem = format!("vault_prefix `{prefix}` is not usable");
            self.findings.add(
                text.span(),
                problem,
                "use names of a-z, 0-9, '-', '_' and '.', separated by '/', none at the ends",
            );
        }
        prefix.clone()
    }

    fn unique<'n>(&mut self, what: &str, names: impl Iterator<Item = &'n Name>) {
        let mut seen = BTreeSet::new();
        for name in names {
            if !seen.insert(name.clone()) {
                self.findings.add(0..0, format!("two of [[{what}]] are named `{name}`"), "names are unique");
            }
        }
    }

    /// Two replicas in one place are one copy.
    fn apart(&mut self, replicas: &[ReplicaConfig]) {
        let place = |replica: &ReplicaConfig| match &replica.kind {
            ReplicaKind::Directory { path } => path.display().to_string(),
            ReplicaKind::S3(s3) => {
                format!("{} {}", s3.endpoint.as_ref().map_or(replica.region.as_str(), url::Url::as_str), s3.bucket)
            }
        };
        let mut seen = BTreeSet::new();
        for replica in replicas {
            if !seen.insert(place(replica)) {
                let problem = format!("replica {} is in the same place as another one", replica.name);
                self.findings.add(0..0, problem, "one place holds one copy: give it a bucket or directory of its own");
            }
        }
    }

    pub(super) fn name(&mut self, text: &Text) -> Option<Name> {
        let name = text.get_ref().parse::<Name>();
        if let Err(error) = &name {
            self.findings.add(text.span(), error.message(), error.hint_text().unwrap_or_default());
        }
        name.ok()
    }

    pub(super) fn filled(&mut self, text: &Text) -> Option<String> {
        if text.get_ref().trim().is_empty() {
            self.findings.add(text.span(), "this must not be empty", "");
            return None;
        }
        Some(text.get_ref().clone())
    }

    pub(super) fn path(&mut self, text: &Text) -> PathBuf {
        let path = PathBuf::from(text.get_ref());
        if !path.is_absolute() {
            self.findings.add(text.span(), format!("`{}` is not an absolute path", text.get_ref()), "begin it with /");
        }
        path
    }

    fn path_or(&mut self, text: Option<&Text>, default: &str) -> PathBuf {
        text.map_or_else(|| PathBuf::from(default), |text| self.path(text))
    }

    pub(super) fn secret(&mut self, text: &Text) -> SecretRef {
        self.resolve(text.get_ref(), text.span())
    }

    fn secret_or(&mut self, text: Option<&Text>, default: &str) -> SecretRef {
        match text {
            Some(text) => self.secret(text),
            None => self.resolve(default, 0..0),
        }
    }

    fn resolve(&mut self, text: &str, span: Range<usize>) -> SecretRef {
        let secret = match text.strip_prefix("credential:") {
            Some(name) if !name.is_empty() && !name.contains('/') && !name.starts_with('.') => {
                let handed = self.surroundings.credentials_directory.as_ref().map(|folder| folder.join(name));
                match handed.filter(|path| path.exists()) {
                    Some(path) => SecretRef::handed_over(path),
                    None => SecretRef::file(self.key_directory.join(name)),
                }
            }
            None if Path::new(text).is_absolute() => SecretRef::file(text),
            _ => {
                let problem = "this names no secret";
                self.findings.add(span.clone(), problem, "use \"credential:NAME\" or the absolute path of a 0600 file");
                SecretRef::file(text)
            }
        };
        if let Err(error) = secret.check_mode() {
            self.findings.add(span, error.message(), error.hint_text().unwrap_or_default());
        }
        secret
    }

    pub(super) fn unit<T>(&mut self, text: Option<&Text>, parse: fn(&str) -> Result<T, String>) -> Option<T> {
        let text = text?;
        match parse(text.get_ref()) {
            Ok(value) => Some(value),
            Err(problem) => {
                self.findings.add(text.span(), problem, "");
                None
            }
        }
    }

    pub(super) fn time_zone(&mut self, name: Option<&Text>) -> chrono_tz::Tz {
        let Some(name) = name else { return defaults::TIME_ZONE };
        name.get_ref().parse().unwrap_or_else(|_| {
            let problem = format!("`{}` is not a time zone", name.get_ref());
            self.findings.add(name.span(), problem, "use an IANA name such as Europe/Berlin");
            defaults::TIME_ZONE
        })
    }

    fn parsed<T: FromStr>(&mut self, text: Option<&Text>, default: &str, wanted: &str) -> Option<T> {
        let value = text.map_or(default, |text| text.get_ref().as_str());
        let parsed = value.parse().ok();
        if parsed.is_none() {
            let span = text.map_or(0..0, Spanned::span);
            self.findings.add(span, format!("`{value}` is not {wanted}"), "");
        }
        parsed
    }
}

/// Whether `age` could encrypt to it; plugins are not run.
pub(super) fn is_recipient(text: &str) -> bool {
    text.parse::<age::x25519::Recipient>().is_ok()
        || text.parse::<age::ssh::Recipient>().is_ok()
        || text.parse::<age::plugin::Recipient>().is_ok()
}
