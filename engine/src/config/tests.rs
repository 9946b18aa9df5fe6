#![allow(clippy::unwrap_used, reason = "tests")]

use super::*;
use crate::backup::compress::Compression;

const KEY: &str = "age1ql3z7hjy54pw3hyww5ayyfg7zqgvc7w3j2elw8zmrj2kg5sfn9aqmcac8p";

fn good() -> String {
    format!(
        r#"host = "db1"
state_directory = "/var/lib/lifeboat"
[keys]
directory = "/nonexistent/keys"
master_recipients = ["{KEY}"]
[[replica]]
name = "frankfurt"
kind = "s3"
region = "eu-central-1"
bucket = "backups-a"
[[replica]]
name = "ireland"
kind = "s3"
region = "eu-west-1"
bucket = "backups-b"
endpoint = "https://s3.example.com"
[[dataset]]
name = "shop"
home_region = "eu-central-1"
schedule = "15 2 * * *"
[dataset.source]
kind = "postgres"
url = "postgresql://backup@db/postgres?sslmode=verify-full"
"#
    )
}

fn parse(text: &str) -> Result<Config> {
    Config::parse(text, Path::new("lifeboat.toml"), &Surroundings::default())
}

/// The findings after one replacement.
fn refused(from: &str, to: &str) -> String {
    let text = good();
    assert!(text.contains(from), "the sample does not contain {from}");
    match parse(&text.replacen(from, to, 1)) {
        Ok(_) => panic!("`{to}` passed"),
        Err(error) => {
            assert_eq!(error.class(), lifeboat_base::Class::Configuration);
            error.message().to_owned()
        }
    }
}

#[test]
fn a_database_elsewhere_must_prove_who_it_is() {
    let found = refused("?sslmode=verify-full", "?sslmode=require");
    assert!(
        found.contains("nothing would prove that the server is db") && found.contains("allow_unverified_tls"),
        "{found}"
    );
    let lab = good().replacen("?sslmode=verify-full\"", "\"\nallow_unverified_tls = true", 1);
    assert!(parse(&lab).is_ok());
    let found = refused(
        "url = \"postgresql://backup@db/postgres?sslmode=verify-full\"",
        "socket = \"/run\"\nallow_unverified_tls = true",
    );
    assert!(found.contains("belongs to url"), "{found}");
}

#[test]
fn one_directory_is_not_two_replicas_by_whatever_name() -> std::io::Result<()> {
    let place = tempfile::tempdir()?;
    std::fs::create_dir_all(place.path().join("near"))?;
    std::os::unix::fs::symlink(place.path().join("near"), place.path().join("link"))?;
    std::os::unix::fs::symlink(place.path(), place.path().join("around"))?;
    let with = |first: &str, second: &str| {
        let mut text = good();
        for (bucket, path) in [("backups-a", first), ("backups-b\"\nendpoint = \"https://s3.example.com", second)] {
            let directory = format!("path = \"{}/{path}\"", place.path().display());
            text = text.replacen(&format!("bucket = \"{bucket}\""), &directory, 1);
        }
        parse(&text.replace("kind = \"s3\"", "kind = \"directory\"")).map_err(|error| error.message().to_owned())
    };
    for (first, second) in [
        ("near", "near/"),
        ("near", "./near"),
        ("near", "link"),
        ("link/", "around/near"),
        ("new", "new/"),
        ("new", "around/./new"),
    ] {
        let error = with(first, second).err().unwrap_or_default();
        assert!(error.contains("in the same place"), "{first} {second}: {error}");
    }
    assert_eq!(with("near", "far").err(), None);
    assert_eq!(with("new", "around/near").err(), None);
    Ok(())
}

#[test]
fn a_good_file_gets_its_defaults() -> Result<()> {
    let config = parse(&good())?;
    assert_eq!((config.min_replicas, config.limits.memory), (2, 192 << 20));
    assert_eq!(config.keys.host_key.path(), Path::new("/nonexistent/keys/host.key"));
    let shop = &config.datasets[0];
    assert_eq!(
        (shop.chunk_size, shop.compression, shop.drill.level),
        (512 << 10, Compression::Auto, Some(ProofLevel::Proved))
    );
    assert!(shop.retention.keeps_everything());
    Ok(())
}

#[test]
fn each_refusal_names_file_line_and_remedy() {
    for (from, to, line, said) in [
        ("host = \"db1\"", "host = \"db1\"\nmin_replica = 1", 2, "did you mean `min_replicas`?"),
        ("host = \"db1\"", "host = \"Db1\"", 1, "a-z"),
        ("state_directory = \"/var", "state_directory = \"var", 2, "absolute path"),
        (KEY, "age1nonsense", 5, "is not an age recipient"),
        ("https://s3.example.com", "http://s3.example.com", 16, "allow_http = true"),
        ("https://s3.example.com", "https://key:secret@s3.example.com", 16, "must not hold credentials"),
        ("region = \"eu-west-1\"", "region = \"eu-central-1\"", 19, "another region"),
        ("15 2 * * *", "15 26 * * *", 20, "hour"),
        ("15 2 * * *", "0 15 2 * * *", 20, "five fields"),
        ("backup@db/postgres", "backup:hunter2@db/postgres", 23, "must not hold a password"),
        ("url = \"postgresql", "password = \"hunter2\"\nurl = \"postgresql", 23, "names no secret"),
        ("host = \"db1\"", "host = \"db1\"\nmin_replicas = \"hunter2\"", 2, "invalid type: text"),
        ("host = \"db1\"", "host = \"db1\"\nmin_replicas = \"hunter2\"", 2, "write the number without quotes"),
        ("bucket = \"backups-a\"", "bucket = \"b\"\npath_style = \"hunter2\"", 11, "true or false without quotes"),
        ("kind = \"postgres\"", "kind = \"postgres\"\nport = \"5433\"", 23, "write the number without quotes"),
        ("[dataset.source]", "[datasets.source]", 21, "did you mean `dataset`?"),
        ("host = \"db1\"", "host = \"db1\"\nmin_replicas = 3", 2, "usable replicas: 2"),
        ("name = \"ireland\"", "name = \"frankfurt\"", 1, "a name of its own"),
        ("schedule = \"15 2 * * *\"", "chunk_size = \"3MiB\"", 20, "power of two"),
        ("kind = \"postgres\"", "kind = \"postgres\"\njobs = 0", 23, "at least 1"),
        ("kind = \"postgres\"", "kind = \"command\"\njobs = 2", 23, "does not belong to kind"),
        ("schedule = \"15 2 * * *\"", "compression = 20", 20, "1 (fast) to 19"),
        ("schedule = \"15 2 * * *\"", "compression = \"best\"", 20, "use \"auto\""),
        ("schedule = \"15 2 * * *\"", "dedup = \"best\"", 20, "`rows` or `chunks`"),
        ("schedule = \"15 2 * * *\"", "time_zone = \"Mars\"", 20, "IANA"),
        ("schedule = \"15 2 * * *\"", "jitter = \"soon\"", 20, "not a duration"),
        (
            "schedule = \"15 2 * * *\"",
            "replaces = \"mysql\"",
            20,
            "use one of: postgres, mariadb, redis, sqlite, files, file, command",
        ),
        ("kind = \"postgres\"", "kind = \"postgres\"\nservice = \"x\"", 22, "exactly one of url, service and socket"),
        (
            "kind = \"postgres\"\nurl = \"postgresql://backup@db/postgres?sslmode=verify-full\"",
            "kind = \"command\"\nargv = [\"x\"]\nexpected_status = []",
            23,
            "lists no status",
        ),
        ("kind = \"postgres\"", "kind = \"mysql\"", 22, "use postgres, mariadb, redis, sqlite, files, file or command"),
        ("kind = \"postgres\"", "kind = \"postgres\"\npath = \"/x\"", 23, "does not belong to kind"),
    ] {
        let message = refused(from, to);
        assert!(message.contains(said), "{to}: {message}");
        assert!(message.contains("lifeboat.toml:"), "{to}: {message}");
        assert!(message.contains(&format!("lifeboat.toml:{line}:")), "{to}: expected line {line}: {message}");
        assert!(!message.contains("hunter2"), "a password is shown: {message}");
    }
}

#[test]
fn a_key_that_others_can_read_is_no_fault_of_a_line() -> std::io::Result<()> {
    use std::os::unix::fs::PermissionsExt;
    let place = tempfile::tempdir()?;
    let key = place.path().join("host.key");
    std::fs::write(&key, "AGE-SECRET-KEY-1")?;
    std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o644))?;
    let text = good().replace("/nonexistent/keys", &place.path().display().to_string());
    let Err(error) = parse(&text) else { panic!("a key that others can read passed") };
    let remedy = format!("chmod 0600 {}", key.display());
    assert!(error.message().contains(&remedy) && !error.message().contains("lifeboat.toml"), "{error:?}");
    assert!(error.hint_text().is_some_and(|hint| !hint.contains("correct the file")), "{error:?}");
    Ok(())
}

#[test]
fn only_a_host_without_host_keys_needs_no_replica_far_away() -> std::io::Result<()> {
    let place = tempfile::tempdir()?;
    let near =
        good().replace("eu-west-1", "eu-central-1").replace("/nonexistent/keys", &place.path().display().to_string());
    let key = |name: &str| {
        std::fs::write(place.path().join(name), "x")?;
        let private = std::os::unix::fs::PermissionsExt::from_mode(0o600);
        std::fs::set_permissions(place.path().join(name), private)
    };
    let refused = || parse(&near).err().map(|error| error.message().to_owned()).unwrap_or_default();
    // Before `init`, nothing tells what kind of host this is.
    assert!(refused().contains("every replica is in eu-central-1"), "{}", refused());
    key("drill-identity")?;
    assert_eq!(refused(), "", "a drill host stores nothing");
    for host_key in ["host.key", "host-keys"] {
        key(host_key)?;
        assert!(refused().contains("every replica is in eu-central-1"), "{host_key}: {}", refused());
        std::fs::remove_file(place.path().join(host_key))?;
    }
    std::fs::remove_file(place.path().join("drill-identity"))?;
    key("drill-signer")?;
    assert_eq!(refused(), "", "its witness is given the signer alone");
    Ok(())
}

#[test]
fn a_retention_coarser_than_the_schedule_is_told() {
    let hours = |hours: u64| Duration::from_secs(hours * 3600);
    let daily = Retention { daily: 14, monthly: 12, ..Retention::default() };
    assert_eq!(daily.coarser_than(hours(1)), Some("one a day"));
    assert_eq!(daily.coarser_than(hours(24)), None);
    assert_eq!(Retention { hourly: 1, ..daily.clone() }.coarser_than(hours(1)), None);
    assert_eq!(Retention { keep_last: 2, ..daily.clone() }.coarser_than(hours(1)), None);
    assert_eq!(Retention { within: Some(hours(48)), ..daily.clone() }.coarser_than(hours(1)), None);
    assert_eq!(Retention { within: Some(hours(1)), ..daily }.coarser_than(hours(1)), Some("one a day"));
    assert_eq!(Retention { keep_last: 1, ..Retention::default() }.coarser_than(hours(24 * 99)), Some("the newest"));
    assert_eq!(Retention::default().coarser_than(hours(1)), None);
}

#[test]
fn a_source_without_a_throw_away_database_is_drilled_to_fetched() -> Result<()> {
    for source in ["kind = \"file\"\npath = \"/etc/hostname\"", "kind = \"command\"\nargv = [\"/bin/date\"]"] {
        let text = good().replacen(
            "kind = \"postgres\"\nurl = \"postgresql://backup@db/postgres?sslmode=verify-full\"",
            source,
            1,
        );
        assert_eq!(parse(&text)?.datasets[0].drill.level, Some(ProofLevel::Fetched), "{source}");
        let proved = format!("{text}[dataset.drill]\nlevel = \"proved\"\n");
        let message = parse(&proved).map(|_| ()).map_err(|error| error.message().to_owned());
        assert!(message.clone().is_err_and(|message| message.contains("use one of: fetched")), "{source}: {message:?}");
    }
    Ok(())
}

#[test]
fn all_findings_come_at_once() {
    let text = good().replace("15 2 * * *", "never").replace("https://s3", "http://s3");
    let message = parse(&text).map(|_| ()).map_err(|error| error.message().to_owned());
    assert_eq!(message.map_err(|message| message.lines().count()), Err(2));
}

#[test]
fn keys_that_do_not_fit_are_all_told_and_the_rest_is_validated() {
    let text = good()
        .replacen("host = \"db1\"", "host = \"db1\"\nmin_replica = 1", 1)
        .replacen("bucket = \"backups-a\"", "bucket = \"b\"\npath_style = \"yes\"\nstorage_clas = \"x\"", 1)
        .replacen("[dataset.source]", "[dataset.objectives]\nrto = 5\n[dataset.source]", 1)
        .replacen("kind = \"postgres\"", "kind = \"postgres\"\nport = \"5433\"\njob = 2", 1)
        .replacen("15 2 * * *", "never", 1);
    let message = parse(&text).map(|_| ()).map_err(|error| error.message().to_owned()).err().unwrap_or_default();
    let told = [
        "toml:2: unknown key `min_replica`",
        "toml:12: invalid type: text, expected a boolean: write true or false without quotes",
        "toml:13: unknown key `storage_clas`",
        "toml:25: invalid type: integer `5`",
        "toml:28: invalid type: text, expected u16: write the number without quotes",
        "toml:29: unknown key `job`",
        "toml:23: ",
    ];
    for told in told {
        assert!(message.contains(told), "{told} is not in\n{message}");
    }
    assert_eq!(message.lines().count(), told.len(), "{message}");
    // One that lacks what it must have is told once, and so are those after it.
    let text =
        good().replacen("region = \"eu-central-1\"\n", "", 1).replacen("name = \"ireland\"", "nam = \"ireland\"", 1);
    let message = parse(&text).map(|_| ()).map_err(|error| error.message().to_owned()).err().unwrap_or_default();
    assert!(message.contains("missing field `region`") && message.contains("unknown key `nam`"), "{message}");
}

#[test]
fn min_replicas_is_between_one_and_all() {
    for (count, good_count) in [(0, false), (1, true), (2, true), (3, false)] {
        let text = good().replacen("host =", &format!("min_replicas = {count}\nhost ="), 1);
        assert_eq!(parse(&text).is_ok(), good_count, "min_replicas = {count}");
    }
}

#[test]
fn a_secret_that_others_can_read_is_refused() -> Result<()> {
    use std::os::unix::fs::PermissionsExt;
    let place = tempfile::tempdir().map_err(|error| Error::failed(error.to_string()))?;
    let secret = place.path().join("s3");
    std::fs::write(&secret, "x").map_err(|error| Error::failed(error.to_string()))?;
    let line = format!("bucket = \"backups-a\"\ncredentials = \"{}\"", secret.display());
    let text = good().replacen("bucket = \"backups-a\"", &line, 1);
    for (mode, passes) in [(0o600, true), (0o400, true), (0o640, false), (0o604, false)] {
        let _ = std::fs::set_permissions(&secret, std::fs::Permissions::from_mode(mode));
        assert_eq!(parse(&text).is_ok(), passes, "mode {mode:o}");
    }
    Ok(())
}

#[test]
fn credentials_come_from_systemd_where_it_hands_them_over() -> Result<()> {
    let place = tempfile::tempdir().map_err(|error| Error::failed(error.to_string()))?;
    let handed = place.path().join("host.key");
    std::fs::write(&handed, "x").map_err(|error| Error::failed(error.to_string()))?;
    // One of a directory of credentials.
    let signer = place.path().join("credentials_drill-signer");
    std::fs::write(&signer, "x").map_err(|error| Error::failed(error.to_string()))?;
    for file in [&handed, &signer] {
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o440);
        std::fs::set_permissions(file, mode).map_err(|error| Error::failed(error.to_string()))?;
    }
    let surroundings = Surroundings { credentials_directory: Some(place.path().to_owned()) };
    let config = Config::parse(&good(), Path::new("lifeboat.toml"), &surroundings)?;
    assert_eq!(config.keys.host_key.path(), handed);
    assert_eq!(config.keys.drill_signer.path(), signer);
    assert_eq!(config.keys.drill_identity.path(), Path::new("/nonexistent/keys/drill-identity"));
    Ok(())
}

/// The second replica with these lines.
fn with_bandwidth(lines: &str) -> String {
    good().replacen("bucket = \"backups-b\"", &format!("bucket = \"backups-b\"\n{lines}"), 1)
}

#[test]
fn caps_are_read_with_their_windows_and_time_zone() -> Result<()> {
    let config = parse(&with_bandwidth(
        r#"bandwidth = "20MiB/s"
time_zone = "Europe/Berlin"
bandwidth_windows = [
  { days = "mon-fri", from = "08:00", to = "18:00", rate = "5MiB/s" },
  { from = "22:00", to = "06:00", rate = "unlimited" },
]"#,
    ))?;
    assert!(!config.replicas[0].bandwidth.is_capped());
    let bandwidth = &config.replicas[1].bandwidth;
    for (time, rate) in [
        // Tuesday and Sunday, an hour ahead of UTC.
        ("2026-11-24T06:59:59Z", Some(20 << 20)),
        ("2026-11-24T07:00:00Z", Some(5 << 20)),
        ("2026-11-24T20:59:59Z", Some(20 << 20)),
        ("2026-11-24T21:00:00Z", None),
        ("2026-11-29T12:00:00Z", Some(20 << 20)),
    ] {
        assert_eq!(bandwidth.rate(time.parse().unwrap_or_default()), rate, "{time}");
    }
    Ok(())
}

#[test]
fn caps_that_mean_nothing_are_refused_with_line_and_remedy() {
    let window = |keys: &str| format!("bandwidth_windows = [\n  {{ {keys} }},\n]");
    for (lines, line, said) in [
        ("bandwidth = \"20MiB\"".to_owned(), 16, "such as \"20MiB/s\""),
        ("bandwidth = \"0B/s\"".to_owned(), 16, "at least \"64KiB/s\""),
        ("time_zone = \"Mars\"".to_owned(), 16, "IANA"),
        (window(r#"days = "workdays", from = "08:00", to = "18:00", rate = "5MiB/s""#), 17, "such as \"mon-fri\""),
        (window(r#"from = "8", to = "18:00", rate = "5MiB/s""#), 17, "\"00:00\" to \"24:00\""),
        (window(r#"from = "24:00", to = "18:00", rate = "5MiB/s""#), 17, "name the next day"),
        (window(r#"from = "08:00", to = "08:00", rate = "5MiB/s""#), 17, "for a whole day"),
        (window(r#"from = "08:00", to = "18:00", rate = "slow""#), 17, "or \"unlimited\""),
        (window(r#"from = "08:00", until = "18:00", rate = "5MiB/s""#), 17, "unknown key `until`"),
        (window(r#"from = "08:00", to = "18:00""#), 17, "missing field"),
    ] {
        let message = match parse(&with_bandwidth(&lines)) {
            Ok(_) => panic!("`{lines}` passed"),
            Err(error) => error.message().to_owned(),
        };
        assert!(message.contains(said), "{lines}: {message}");
        assert!(message.contains(&format!("lifeboat.toml:{line}:")), "{lines}: expected line {line}: {message}");
    }
}

#[test]
fn what_is_kept_for_long_is_locked_for_no_shorter_than_the_rest() {
    let with = |lines: &str| {
        let place = "[[replica]]\nname = \"paris\"\nkind = \"s3\"\nregion = \"eu-west-3\"\nbucket = \"b\"\n";
        parse(&good().replacen("[[dataset]]\n", &format!("{place}{lines}[[dataset]]\n"), 1))
    };
    let lock = |lines: &str| {
        let config = with(lines).unwrap();
        let ReplicaKind::S3(s3) = &config.replicas[2].kind else { panic!("it is S3") };
        s3.lock.map(|lock| (lock.period.as_secs() / 86_400, lock.at_most.as_secs() / 86_400))
    };
    assert_eq!(lock("lock = \"30d\"\n"), Some((30, 30)));
    assert_eq!(lock("lock = \"30d\"\nlock_at_most = \"365d\"\n"), Some((30, 365)));
    assert_eq!(lock("lock = \"30d\"\nlock_at_most = \"30d\"\n"), Some((30, 30)));
    for (lines, why) in [
        ("lock = \"30d\"\nlock_at_most = \"29d\"\n", "no lock is shorter than `lock`"),
        ("lock_at_most = \"365d\"\n", "lock_at_most is set, and nothing is locked"),
        ("lock_mode = \"compliance\"\n", "lock_mode is set, and nothing is locked"),
    ] {
        let told = with(lines).map(|_| ()).unwrap_err();
        assert!(told.message().contains(why), "{why}: {told:?}");
    }
}

#[test]
fn a_place_for_records_counts_where_commits_meet_and_never_as_a_replica() {
    let place = |more: &str| {
        let place = "[[replica]]\nname = \"paris\"\nrole = \"records\"\nkind = \"s3\"\nregion = \"eu-west-3\"\n";
        format!("{place}bucket = \"records\"\n{more}[[dataset]]\n")
    };
    let with = |min_replicas: usize, more: &str| {
        let text = format!("min_replicas = {min_replicas}\n{}", good());
        parse(&text.replacen("[[dataset]]\n", more, 1))
    };
    for (min_replicas, more, min_places, meet) in [
        (1, "[[dataset]]\n", 1, false),
        (2, "[[dataset]]\n", 2, true),
        (1, &place(""), 2, true),
        (2, &place(""), 2, true),
    ] {
        let config = with(min_replicas, more).unwrap();
        assert_eq!((config.min_places(), config.commits_meet()), (min_places, meet), "{min_replicas} {more}");
        assert_eq!(config.replicas.len(), 2, "{more}");
    }
    // It is no third replica.
    assert!(with(3, &place("")).is_err());
    for (more, why) in [
        (place("lock = \"30d\"\n"), "locks nothing"),
        (place("").replace("\"records\"\nkind", "\"spare\"\nkind"), "there is no role `spare`"),
        (place("").replace("paris", "ireland"), "ireland"),
        (
            place("").replace("\"records\"\n[", "\"backups-a\"\n[").replace("eu-west-3", "eu-central-1"),
            "in the same place",
        ),
    ] {
        let told = with(1, &more).map(|_| ()).unwrap_err();
        assert!(told.message().contains(why), "{why}: {told:?}");
    }
}
