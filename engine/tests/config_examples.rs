//! The examples that operators install say what is so: they parse, they name every key, and the
//! defaults they show are the defaults that hold.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::path::{Path, PathBuf};
use std::time::Duration;

use lifeboat_engine::config::{Config, ProofLevel, ReplicaKind, S3Credentials, Surroundings};
use lifeboat_engine::databases::registry::ENGINES;

fn examples() -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../config");
    let files = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let mut files: Vec<PathBuf> = files.filter(|path| path.extension().is_some_and(|end| end == "toml")).collect();
    files.sort();
    files
}

fn text(name: &str) -> String {
    let path = examples().into_iter().find(|path| path.ends_with(name)).expect("the example is there");
    std::fs::read_to_string(path).unwrap()
}

/// Key files of the machine that runs the test must play no part.
fn parse(text: &str, name: &str) -> Config {
    let text = text.replace("\n[keys]\n", "\n[keys]\ndirectory = \"/nonexistent/keys\"\n");
    match Config::parse(&text, Path::new(name), &Surroundings::default()) {
        Ok(config) => config,
        Err(error) => panic!("{error:?}"),
    }
}

/// Turns `#key = value` into `key = value`; prose has a space after `#`.
fn with_shown_defaults(text: &str) -> (String, usize) {
    let shown = |line: &str| line.starts_with('#') && line[1..].starts_with(|c: char| c.is_ascii_lowercase());
    let count = text.lines().filter(|line| shown(line)).count();
    let lines = text.lines().map(|line| if shown(line) { &line[1..] } else { line });
    (lines.collect::<Vec<_>>().join("\n"), count)
}

#[test]
fn every_example_parses() {
    let names: Vec<String> =
        examples().iter().map(|path| path.file_name().unwrap().to_string_lossy().into_owned()).collect();
    assert_eq!(names, ["drill-host.toml", "lifeboat.toml", "minimal.toml", "warden.toml"]);
    for name in names {
        parse(&text(&name), &name);
    }
}

#[test]
fn the_annotated_example_names_every_key() {
    let raw = include_str!("../src/config/raw.rs");
    let mut keys: Vec<&str> =
        raw.lines().filter_map(|line| line.trim().strip_prefix("pub ")?.split_once(':')).map(|(key, _)| key).collect();
    assert!(keys.len() > 40, "keys are no longer found in raw.rs");
    keys.extend(ENGINES.iter().flat_map(|engine| engine.keys()));
    let example = text("lifeboat.toml");
    let named = |key: &str| {
        example.match_indices(key).any(|(at, _)| {
            let before = example[..at].chars().next_back();
            let after = &example[at + key.len()..];
            !before.is_some_and(|c| c.is_alphanumeric() || c == '_')
                && (after.starts_with(" =") || after.starts_with("]") || after.starts_with('.'))
        })
    };
    let missing: Vec<&str> = keys.into_iter().filter(|key| !named(key)).collect();
    assert!(missing.is_empty(), "lifeboat.toml does not show {missing:?}");
}

#[test]
fn the_defaults_it_shows_are_the_defaults() {
    for name in ["lifeboat.toml", "drill-host.toml"] {
        let plain = text(name);
        let (shown, count) = with_shown_defaults(&plain);
        assert!(count > 1, "{name} shows no default");
        // Given once by the test, and once by the example.
        let shown = shown.replace("\ndirectory = \"/etc/lifeboat/keys\"\n", "\n");
        assert_eq!(format!("{:#?}", parse(&plain, name)), format!("{:#?}", parse(&shown, name)), "{name}");
    }
    let default = Config::parse(&text("lifeboat.toml"), Path::new("lifeboat.toml"), &Surroundings::default());
    assert_eq!(default.unwrap().keys.directory, Path::new("/etc/lifeboat/keys"));
}

#[test]
fn the_annotated_example_means_what_it_says() {
    let config = parse(&text("lifeboat.toml"), "lifeboat.toml");
    assert_eq!(config.min_replicas, 2);
    assert_eq!(config.limits.memory, 192 << 20);
    assert_eq!(config.listen.to_string(), "127.0.0.1:9847");
    let regions: Vec<&str> = config.replicas.iter().map(|replica| replica.region.as_str()).collect();
    assert_eq!(regions, ["eu-central-1", "eu-west-1"]);
    for replica in &config.replicas {
        let ReplicaKind::S3(s3) = &replica.kind else { panic!("{} is no bucket", replica.name) };
        assert!(matches!(s3.credentials, S3Credentials::File(_)));
    }
    let engines: Vec<&str> = config.datasets.iter().map(|dataset| dataset.source.database().kind()).collect();
    assert_eq!(engines, ["postgres", "sqlite", "command", "files", "postgres", "files"]);
    let [shop, wiki, uploads, www, ..] = config.datasets.as_slice() else { panic!("four datasets") };
    let forum = &config.groups[0];
    assert_eq!(
        forum.members.iter().map(lifeboat_format::id::Name::as_str).collect::<Vec<_>>(),
        ["forum-db", "forum-files"]
    );
    assert_eq!((forum.references[0].at_most, forum.drill_schedule.is_some()), (0, true));
    assert_eq!(www.drill.level, Some(ProofLevel::Proved));
    assert_eq!(shop.objectives.rpo, Some(Duration::from_secs(2 * 3600)));
    assert_eq!((shop.drill.level, shop.drill.queries.len()), (Some(ProofLevel::Proved), 4));
    assert_eq!((shop.retention.hourly, shop.retention.grace), (48, Duration::from_secs((48 * 60 + 10) * 60)));
    assert_eq!((shop.recovery.priority, wiki.recovery.priority, config.recovery_at_once), (10, 100, 1));
    assert_eq!(wiki.schedule.as_ref().unwrap().time_zone().name(), "Europe/Berlin");
    assert_eq!(uploads.drill.level, Some(ProofLevel::Fetched));
    let command = format!("{:?}", uploads.source);
    assert!(command.contains("expected_status: [0, 1]") && command.contains("stream: \"stdout\""), "{command}");
}

#[test]
fn a_recipient_that_was_never_filled_in_is_nobody() {
    for name in ["lifeboat.toml", "minimal.toml"] {
        let config = parse(&text(name), name);
        let nobody = config.keys.master_recipients.is_empty() && config.keys.owners.is_empty();
        assert!(nobody, "{name}: `init` must refuse an example as it stands");
        assert!(config.keys.drill_recipients.is_empty() && config.keys.trusted_signers.is_empty());
    }
}

#[test]
fn no_example_lets_a_backup_go_when_the_next_one_is_made() {
    for name in ["lifeboat.toml", "minimal.toml"] {
        for dataset in parse(&text(name), name).datasets {
            let Some(schedule) = &dataset.schedule else { continue };
            let interval = schedule.expected_interval("2026-11-23T18:00:00Z".parse().unwrap());
            assert_eq!(dataset.retention.coarser_than(interval), None, "{name}: {}", dataset.name);
        }
    }
}

#[test]
fn the_warden_believes_an_owner_and_keeps_what_its_own_rules_say() {
    let config = parse(&text("warden.toml"), "warden.toml");
    assert_eq!((config.keys.owners.len(), config.datasets.len()), (1, 1));
    assert_eq!(config.state_directory, Path::new("/var/lib/lifeboat-warden"));
    assert!(!config.datasets[0].retention.keeps_everything() && config.datasets[0].schedule.is_none());
}

#[test]
fn the_drill_host_believes_an_owner_and_keeps_its_own_state() {
    let config = parse(&text("drill-host.toml"), "drill-host.toml");
    assert_eq!(config.keys.owners.len(), 1);
    assert_eq!(config.state_directory, Path::new("/var/lib/lifeboat-drill"));
    assert!(config.datasets[0].schedule.is_none(), "a drill host backs nothing up");
}
