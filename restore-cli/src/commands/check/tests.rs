#![allow(clippy::unwrap_used, reason = "tests")]

use lifeboat_engine::config::{S3Config, S3Credentials};
use lifeboat_engine::store::bandwidth::Bandwidth;

use super::*;

fn replica() -> ReplicaConfig {
    ReplicaConfig {
        name: "north".parse().unwrap(),
        region: "eu-north".to_owned(),
        kind: ReplicaKind::S3(S3Config {
            bucket: "b".to_owned(),
            endpoint: None,
            path_style: false,
            ca_file: None,
            storage_class: None,
            credentials: S3Credentials::Default,
        }),
        timeout: Duration::from_secs(1),
        bandwidth: Bandwidth::default(),
    }
}

fn vault() -> Option<VaultInfo> {
    Some(VaultInfo::new("0a".repeat(16), chrono::DateTime::UNIX_EPOCH))
}

fn probe() -> Probe {
    Probe {
        conditional_writes: Some(true),
        versioning: Some(true),
        object_lock: Some(true),
        can_write: Some(true),
        can_delete: Some(true),
        clock_skew_seconds: Some(LARGEST_SKEW_SECONDS),
    }
}

fn judged(probed: Probed, write: bool) -> Checked {
    let mut checked = Checked {
        replicas: Vec::new(),
        tools: Vec::new(),
        broken: Vec::new(),
        weak: Vec::new(),
        vaults: BTreeMap::new(),
    };
    checked.judge_replica(&replica(), probed, write);
    checked
}

#[test]
fn a_good_replica_has_no_weakness_and_an_unknown_is_none() {
    let good = judged(Ok((probe(), vault())), true);
    assert!(good.verdict().is_ok() && good.weak.is_empty(), "{good}");
    assert!(good.to_string().contains("Nothing is broken or weak."));
    let unknown = Probe { versioning: None, object_lock: None, clock_skew_seconds: None, ..probe() };
    assert!(judged(Ok((unknown, vault())), true).weak.is_empty());
}

#[test]
fn each_weakness_is_said_in_plain_words_and_breaks_nothing() {
    for (weak, words) in [
        (Probe { conditional_writes: Some(false), ..probe() }, "ignores conditional writes"),
        (Probe { versioning: Some(false), object_lock: Some(false), ..probe() }, "keeps no old versions"),
        (Probe { object_lock: Some(false), ..probe() }, "no Object Lock"),
        (Probe { can_delete: Some(false), ..probe() }, "prune cannot free space"),
        (Probe { clock_skew_seconds: Some(-31), ..probe() }, "is 31 s behind this host's"),
    ] {
        let checked = judged(Ok((weak, vault())), true);
        assert!(checked.verdict().is_ok());
        assert_eq!(checked.weak.len(), 1);
        assert!(checked.weak[0].contains(words), "{}", checked.weak[0]);
    }
}

#[test]
fn a_dead_or_read_only_replica_decides_the_exit_code() {
    let dead = judged(Err(Error::storage("replica north: cannot list: timed out").hint("look at the network")), true);
    assert_eq!(dead.verdict().unwrap_err().class(), Class::Storage);
    assert!(dead.to_string().contains("look at the network"));
    let misconfigured = judged(Err(Error::configuration("no such bucket")), true);
    assert_eq!(misconfigured.verdict().unwrap_err().class(), Class::Configuration);
    let read_only = Probe { can_write: Some(false), ..probe() };
    assert_eq!(judged(Ok((read_only.clone(), vault())), true).verdict().unwrap_err().class(), Class::Storage);
    // A drill host need not write.
    assert!(judged(Ok((read_only, vault())), false).verdict().is_ok());
}
