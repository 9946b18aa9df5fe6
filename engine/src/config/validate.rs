//! Turns the raw file into the validated [`Config`].

use std::collections::BTreeSet;
use std::time::Duration;

use lifeboat_base::settings::{Section, SettingsReader, Text, units};
use lifeboat_format::id::Name;
use lifeboat_store::ReplicaConfig;
use toml::Spanned;

use super::fields::name;
use super::raw::{RawConfig, RawKeys, RawLimits};
use super::replica::PlaceRole;
use super::{
    Config, Dataset, KeysConfig, Limits, ListenTls, MAX_RUNS, dataset, defaults, drill, group, recovery, replica,
};
use crate::keys::owners::OwnerKey;
use crate::keys::sign::SignerKey;
use crate::keys::ssh::{self, SshRecipient};

/// Returns `None` if a value without a default cannot be used. There may be findings in any case.
pub(crate) fn config(v: &mut SettingsReader<'_>, raw: RawConfig, sources: Vec<Option<Section<'_>>>) -> Option<Config> {
    let whole = raw.host.span();
    let keys = keys(v, &raw.keys);
    let limits = limits(v, &raw.limits);
    let scrub_period = v.unit(raw.scrub.period.as_ref(), units::duration).unwrap_or(defaults::SCRUB_PERIOD);
    let places: Vec<(PlaceRole, ReplicaConfig)> =
        raw.replica.into_iter().filter_map(|replica| replica::validate(v, replica)).collect();
    unique(v, "replica", places.iter().map(|(_, place)| &place.name));
    replica::apart(v, places.iter().map(|(_, place)| place));
    let of_role = |role| places.iter().filter(move |(of, _)| *of == role).map(|(_, place)| place.clone());
    let (replicas, records): (Vec<ReplicaConfig>, Vec<ReplicaConfig>) =
        (of_role(PlaceRole::Replica).collect(), of_role(PlaceRole::Records).collect());
    if replicas.is_empty() {
        v.findings.add(
            whole,
            "there is no usable [[replica]]",
            "add at least one in another region than the databases",
        );
    }
    let host = raw.host.get_ref().parse::<Name>().ok();
    let drill = drill::of_all(v, raw.drill, &replicas);
    let mut datasets: Vec<_> = raw
        .dataset
        .into_iter()
        .zip(sources)
        .filter_map(|(raw, source)| {
            let places = (replicas.as_slice(), &drill);
            dataset::validate(v, raw, source, places, limits.longest_run(), host.as_ref(), keys.may_back_up())
        })
        .collect();
    recovery::order(v, &datasets);
    unique(v, "dataset", datasets.iter().map(|dataset| &dataset.name));
    let groups = group::groups(v, &raw.group, &mut datasets, &limits, keys.may_back_up());
    let min_replicas = match raw.min_replicas {
        Some(count) if *count.get_ref() == 0 || *count.get_ref() > replicas.len() => {
            let problem =
                format!("min_replicas = {} is not possible: usable replicas: {}", count.get_ref(), replicas.len());
            v.findings.add(count.span(), problem, "use a number from 1 to the number of replicas");
            1
        }
        Some(count) => count.into_inner(),
        None => defaults::min_replicas(replicas.len()),
    };
    let mut warnings = group::warnings(&groups, &datasets);
    for dataset in &mut datasets {
        warnings.extend(raise_grace(dataset, limits.longest_run()));
    }
    Some(Config {
        host: name(v, &raw.host)?,
        vault_prefix: prefix(v, raw.vault_prefix.as_ref()),
        state_directory: v.path_or(raw.state_directory.as_ref(), defaults::STATE_DIRECTORY),
        min_replicas,
        listen: v.parsed(raw.listen.as_ref(), defaults::LISTEN, "an address and port such as 127.0.0.1:9847")?,
        listen_tls: raw.listen_tls.as_ref().map(|raw| ListenTls {
            certificate: v.path(&raw.certificate),
            key: v.secret(&raw.key),
            client_ca: raw.client_ca.as_ref().map(|text| v.path(text)),
        }),
        control_socket: v.path_or(raw.control_socket.as_ref(), defaults::CONTROL_SOCKET),
        keys,
        limits,
        scrub_period,
        drill,
        recovery_at_once: recovery::at_once(v, &raw.recovery),
        replicas,
        records,
        datasets,
        groups,
        warnings,
    })
}

/// A run may refer to a pack that it saw before the pack was marked, so no grace period is shorter
/// than a run. Returns a warning if the configured one was.
fn raise_grace(dataset: &mut Dataset, longest_run: Duration) -> Option<String> {
    let grace = &mut dataset.retention.grace;
    if *grace >= longest_run {
        return None;
    }
    *grace = longest_run;
    Some(format!(
        "dataset {}: grace is shorter than limits.run and twice limits.clock_skew, so it is raised to {} s",
        dataset.name,
        longest_run.as_secs()
    ))
}

fn keys(v: &mut SettingsReader<'_>, raw: &RawKeys) -> KeysConfig {
    let directory = v.path_or(raw.directory.as_ref(), defaults::KEY_DIRECTORY);
    v.look_for_keys_in(directory.clone());
    for recipient in raw.master_recipients.iter().chain(&raw.drill_recipients) {
        if !is_recipient(recipient.get_ref()) {
            let (problem, remedy) = if ssh::is_rsa(recipient.get_ref()) {
                (ssh::NO_RSA, ssh::NO_RSA_HINT)
            } else {
                ("this is not an age recipient", "use age1…, an ssh-ed25519 public key, or a plugin's recipient")
            };
            v.findings.add(recipient.span(), problem, remedy);
        }
    }
    for signer in raw.trusted_signers.iter().chain(&raw.trusted_drill_signers) {
        if SignerKey::parse(signer.get_ref()).is_err() {
            let problem = "this is not a minisign public key";
            v.findings.add(signer.span(), problem, "use the line that begins with RW, as `lifeboat init` prints it");
        }
    }
    let owner_threshold = owners(v, raw);
    let texts = |list: &[Text]| list.iter().map(|text| text.get_ref().clone()).collect();
    KeysConfig {
        directory,
        owners: texts(&raw.owners),
        owner_threshold,
        master_recipients: texts(&raw.master_recipients),
        drill_recipients: texts(&raw.drill_recipients),
        trusted_signers: texts(&raw.trusted_signers),
        trusted_drill_signers: texts(&raw.trusted_drill_signers),
        host_key: v.key_or(raw.host_key.as_ref(), defaults::HOST_KEY),
        host_bundle: v.key_or(raw.host_bundle.as_ref(), defaults::HOST_BUNDLE),
        drill_identity: v.key_or(raw.drill_identity.as_ref(), defaults::DRILL_IDENTITY),
        drill_signer: v.key_or(raw.drill_signer.as_ref(), defaults::DRILL_SIGNER),
        warden_signer: v.key_or(raw.warden_signer.as_ref(), defaults::WARDEN_SIGNER),
    }
}

/// Checks the owners. Returns how many of them must sign a root.
fn owners(v: &mut SettingsReader<'_>, raw: &RawKeys) -> usize {
    for owner in &raw.owners {
        if let Err(error) = OwnerKey::parse(owner.get_ref()) {
            v.findings.add(owner.span(), error.chain(), "use what `lifeboat owner init` printed");
        }
    }
    let threshold = raw.owner_threshold.as_ref().map_or(1, |threshold| *threshold.get_ref());
    if let Some(told) = &raw.owner_threshold
        && !(1..=raw.owners.len()).contains(&threshold)
    {
        v.findings.add(
            told.span(),
            "owner_threshold is not from 1 to the number of owners",
            "correct it, or leave it out for 1",
        );
    }
    let lists = [&raw.master_recipients, &raw.drill_recipients, &raw.trusted_signers, &raw.trusted_drill_signers];
    if let Some(told) = lists.into_iter().flatten().next().filter(|_| !raw.owners.is_empty()) {
        v.findings.add(
            told.span(),
            "with `owners`, the root tells masters, drill hosts and signers, and nothing else may",
            "remove master_recipients, drill_recipients, trusted_signers and trusted_drill_signers",
        );
    }
    threshold
}

fn limits(v: &mut SettingsReader<'_>, raw: &RawLimits) -> Limits {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let cpu = match &raw.cpu {
        Some(count) if *count.get_ref() == 0 => {
            v.findings.add(count.span(), "cpu = 0", "use at least 1, or leave it out for all cores");
            1
        }
        Some(count) => *count.get_ref(),
        None => cores,
    };
    let memory = v.unit(raw.memory.as_ref(), units::size).unwrap_or(defaults::MEMORY_BYTES);
    if memory < 128 << 20 {
        let span = raw.memory.as_ref().map_or(0..0, Spanned::span);
        v.findings.add(span, "this is less memory than a run needs", "use at least \"128MiB\"");
    }
    let runs = raw.runs.as_ref().map_or(defaults::RUNS, |runs| *runs.get_ref());
    if !(1..=MAX_RUNS).contains(&runs) {
        let span = raw.runs.as_ref().map_or(0..0, Spanned::span);
        v.findings.add(span, format!("runs = {runs}"), format!("use 1 to {MAX_RUNS}"));
    } else if memory < runs as u64 * defaults::MIN_RUN_MEMORY {
        let span = raw.runs.as_ref().map_or(0..0, Spanned::span);
        let problem = format!("{runs} runs at once need more memory than `memory` allows");
        v.findings.add(span, problem, format!("set memory = \"{}MiB\" or more, or lower `runs`", runs * 64));
    }
    Limits {
        cpu,
        memory,
        runs,
        stall: v.unit(raw.stall.as_ref(), units::duration).unwrap_or(defaults::STALL_LIMIT),
        run: v.unit(raw.run.as_ref(), units::duration).unwrap_or(defaults::RUN_LIMIT),
        shutdown: v.unit(raw.shutdown.as_ref(), units::duration).unwrap_or(defaults::SHUTDOWN_LIMIT),
        clock_skew: v.unit(raw.clock_skew.as_ref(), units::duration).unwrap_or(defaults::CLOCK_SKEW),
    }
}

fn prefix(v: &mut SettingsReader<'_>, text: Option<&Text>) -> String {
    let Some(text) = text else { return String::new() };
    let prefix = text.get_ref();
    let legal = |segment: &str| segment.parse::<Name>().is_ok();
    if !prefix.is_empty() && !prefix.split('/').all(legal) {
        let problem = format!("vault_prefix `{prefix}` is not usable");
        v.findings.add(
            text.span(),
            problem,
            "use names of a-z, 0-9, '-', '_' and '.', separated by '/', without '/' at either end",
        );
    }
    prefix.clone()
}

fn unique<'n>(v: &mut SettingsReader<'_>, what: &str, names: impl Iterator<Item = &'n Name>) {
    let mut seen = BTreeSet::new();
    for name in names {
        if !seen.insert(name.clone()) {
            v.findings.add(0..0, format!("two [[{what}]] are named `{name}`"), "give each a name of its own");
        }
    }
}

/// Whether age can parse this as a recipient. No plugin is run.
pub(crate) fn is_recipient(text: &str) -> bool {
    text.parse::<age::x25519::Recipient>().is_ok()
        || SshRecipient::parse(text).is_some()
        || text.parse::<age::plugin::Recipient>().is_ok()
}
