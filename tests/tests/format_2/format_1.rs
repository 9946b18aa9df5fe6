//! A vault of format 1 is read for ever and never written: every writer refuses, says why and what
//! to do, and changes not one byte.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use age::Identity;
use data_encoding::{BASE64, HEXLOWER};
use lifeboat_engine::clock::SystemClock;
use lifeboat_engine::config::{Config, Secret, Surroundings};
use lifeboat_engine::format::keyring::DatasetSecrets;
use lifeboat_engine::format::layout;
use lifeboat_engine::keep::catch_up::catch_up;
use lifeboat_engine::keys::seal::HostKey;
use lifeboat_engine::keys::{DRILL_HOST_FOLDER, HostKeys, parse_identities};
use lifeboat_engine::stages::decrypt;
use lifeboat_engine::state::StateDirectory;
use lifeboat_tests::by_hand::{Contents, changed, contents};
use lifeboat_tests::host::BackupHost;
use lifeboat_tests::programs::Output;
use lifeboat_tests::tools;
use lifeboat_tests::vault::{files_below, limits, name};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio_util::sync::CancellationToken;

use crate::{directory, script};

const FROZEN_DATASET: &str = "orders";
const BUNDLE_PURPOSE: &str = "lifeboat host keys";
const MAX_KEYRING_BYTES: usize = 1 << 20;

/// A backup host that holds the keys of the one that wrote the frozen vault, and two copies of it,
/// of which the second lacks a pack.
struct Frozen {
    host: BackupHost,
    config: Config,
    place: TempDir,
    before: Contents,
}

/// Decrypts an object of the keyring as the owner.
fn unwrapped(replica: &Path, key: &str, master: &Path) -> Vec<u8> {
    let identities = parse_identities(&Secret::new(std::fs::read(master).unwrap()), "master.txt").unwrap();
    let identities = identities.iter().map(|identity| identity.as_ref() as &dyn Identity);
    decrypt(identities, &std::fs::read(replica.join(key)).unwrap(), MAX_KEYRING_BYTES).unwrap()
}

impl Frozen {
    async fn new() -> Self {
        let place = TempDir::new().unwrap();
        let copies = ["near", "far"].map(|copy| place.path().join(copy));
        for copy in &copies {
            let folder = tools::workspace().join("tests/vaults/format-1");
            let done = std::process::Command::new("cp").arg("-r").arg(folder).arg(copy).status();
            assert!(done.unwrap().success());
        }
        let master = copies[0].join("master.txt");
        std::fs::set_permissions(&master, PermissionsExt::from_mode(0o600)).unwrap();
        std::fs::write(place.path().join("orders.tsv"), "1\tone\n").unwrap();

        // Keys of its own first, in a vault of its own.
        let data = place.path().join("orders.tsv").display().to_string();
        let source = script(&format!("cat {data}"));
        let host = BackupHost::set_up(&[directory("own", &place.path().join("own"))], &source).await;
        // Then the frozen vault, with the keys of its host.
        let replicas = [directory("near", &copies[0]), directory("far", &copies[1])];
        host.configure(2, &replicas, &format!("{source}[dataset.retention]\nkeep_last = 1\n")).await;
        let signer = std::fs::read_to_string(copies[0].join("signer.pub")).unwrap();
        let mut text = std::fs::read_to_string(host.config()).unwrap();
        for (own, frozen) in [
            ("host = \"host\"\n", "host = \"db1\"\n".to_owned()),
            ("vault_prefix = \"vault\"\n", "vault_prefix = \"replica\"\n".to_owned()),
            ("name = \"data\"\n", format!("name = \"{FROZEN_DATASET}\"\n")),
            ("[keys]\n", format!("[keys]\ntrusted_signers = [\"{}\"]\n", signer.trim())),
        ] {
            assert!(text.contains(own), "{own}{text}");
            text = text.replacen(own, &frozen, 1);
        }
        std::fs::write(host.config(), text).unwrap();
        let config = Config::load(&host.config(), &Surroundings::default()).unwrap();
        take_over(&config, &copies[0].join("replica"), &master);
        for file in ["drill-identity", "drill-signer"] {
            let keys = &config.keys.directory;
            std::fs::rename(keys.join(DRILL_HOST_FOLDER).join(file), keys.join(file)).unwrap();
        }
        let packs = copies[1].join("replica").join(layout::packs(&name(FROZEN_DATASET)));
        std::fs::remove_file(&files_below(&packs)[0]).unwrap();
        let before = contents(&Self::replicas(&place));
        Self { host, config, place, before }
    }

    fn replicas(place: &TempDir) -> [PathBuf; 2] {
        ["near", "far"].map(|copy| place.path().join(copy).join("replica"))
    }

    fn assert_unchanged(&self, by: &str) {
        let changed = changed(&self.before, &contents(&Self::replicas(&self.place)));
        assert!(changed.is_empty(), "{by}: {changed:?}");
    }

    fn master(&self) -> String {
        self.place.path().join("near/master.txt").display().to_string()
    }

    /// A program refused, and said why and what to do.
    fn assert_refused(&self, by: &str, output: &Output) {
        assert_ne!(output.code(), Some(0), "{by}: {output}");
        assert_told(by, &format!("{}{}", output.stdout, output.stderr));
        self.assert_unchanged(by);
    }
}

/// It says what the vault is, and what to set.
fn assert_told(by: &str, text: &str) {
    assert!(text.contains("format 1"), "{by}: {text}");
    assert!(text.contains("vault_prefix"), "{by}: {text}");
}

/// Gives the host of `config` the keys of the host that wrote the vault in `replica`, but for its
/// signer.
fn take_over(config: &Config, replica: &Path, master: &Path) {
    let dataset = name(FROZEN_DATASET);
    let vault: Value = serde_json::from_slice(&std::fs::read(replica.join(layout::VAULT)).unwrap()).unwrap();
    let vault = vault["vault"].as_str().unwrap();
    let operations = unwrapped(replica, &layout::host_identity(&config.host), master);
    let operations = String::from_utf8(operations).unwrap();
    let key = layout::keyring_generation(&dataset, 1);
    let secrets = DatasetSecrets::parse(&unwrapped(replica, &key, master), vault, &dataset, 1).unwrap();
    let identity: age::x25519::Identity = secrets.identity.parse().unwrap();

    let host_key = HostKey::parse(&config.keys.host_key.read().unwrap()).unwrap();
    let bundle = config.keys.host_bundle.path();
    let opened = host_key.open(BUNDLE_PURPOSE, &std::fs::read(bundle).unwrap()).unwrap();
    let mut keys: Value = serde_json::from_slice(&opened).unwrap();
    keys["vault"] = json!(vault);
    keys["operations"] = json!(operations.lines().find(|line| line.starts_with("AGE-SECRET-KEY-1")).unwrap());
    keys["datasets"] = json!({ FROZEN_DATASET: {
        "generation": 1,
        "recipient": identity.to_public().to_string(),
        "chunk_id_key": HEXLOWER.encode(secrets.chunk_id_key.expose()),
        "wrapped": BASE64.encode(&std::fs::read(replica.join(key)).unwrap()),
        "granted": keys["masters"],
    } });
    std::fs::write(bundle, host_key.seal(BUNDLE_PURPOSE, keys.to_string().as_bytes()).unwrap()).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn its_host_reads_it_still() {
    let frozen = Frozen::new().await;
    let listed = frozen.host.lifeboat(&["--json", "list", FROZEN_DATASET]).await;
    assert_eq!(listed.code(), Some(0), "{listed}");
    let listed = listed.json().unwrap();
    let rows = listed["snapshots"].as_array().unwrap();
    // So its keys open it, and what is refused below is not refused for want of keys.
    assert!(rows.len() == 3 && rows.iter().all(|row| row["raw_bytes"].is_u64()), "{listed}");
    frozen.assert_unchanged("list");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_is_refused() {
    let frozen = Frozen::new().await;
    let (output, _) = frozen.host.once().await;
    frozen.assert_refused("lifeboatd --once", &output);
    // One replica would be enough, but there is none.
    let text = std::fs::read_to_string(frozen.host.config()).unwrap();
    std::fs::write(frozen.host.config(), text.replacen("min_replicas = 2", "min_replicas = 1", 1)).unwrap();
    let (output, _) = frozen.host.once().await;
    frozen.assert_refused("lifeboatd --once with one replica", &output);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_prune_is_refused() {
    let frozen = Frozen::new().await;
    for words in [&["prune", "--yes"][..], &["prune", FROZEN_DATASET, "--dry-run"]] {
        frozen.assert_refused("lifeboat prune", &frozen.host.lifeboat(words).await);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_catch_up_is_refused() {
    let frozen = Frozen::new().await;
    let keys = HostKeys::load(&frozen.config.keys).unwrap();
    let replicas = frozen.config.open_replicas(&SystemClock::shared()).await.unwrap();
    let state = StateDirectory::open(&frozen.config.state_directory).unwrap();
    let caught_up =
        catch_up(&frozen.config.datasets[0], &keys, &replicas, &state, &limits(), &CancellationToken::new()).await;
    assert_told("catch-up", &format!("{:?}", caught_up.expect_err("it was caught up")));
    frozen.assert_unchanged("catch-up");
}

#[tokio::test(flavor = "multi_thread")]
async fn init_is_refused_also_to_a_new_host_with_the_master_identity() {
    let frozen = Frozen::new().await;
    let master = frozen.master();
    frozen.assert_refused("lifeboat init", &frozen.host.lifeboat(&["init"]).await);
    let with_master = ["--identity", &master, "init"];
    frozen.assert_refused("lifeboat init --identity", &frozen.host.lifeboat(&with_master).await);
    // A new host has no keys.
    std::fs::remove_dir_all(&frozen.config.keys.directory).unwrap();
    for words in [&["init"][..], &with_master] {
        frozen.assert_refused("lifeboat init on a new host", &frozen.host.lifeboat(words).await);
        assert!(!frozen.config.keys.host_bundle.path().exists(), "keys were made for a vault that is not written");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn publishing_a_drill_is_refused_and_the_report_is_kept_in_a_file() {
    let frozen = Frozen::new().await;
    let master = frozen.master();
    let words = ["--json", "--identity", &master, "drill", FROZEN_DATASET, "--level", "fetched"];
    let output = frozen.host.lifeboat(&words).await;
    frozen.assert_unchanged("drill");
    let said = output.json().unwrap();
    assert_eq!((&said["reached"], &said["published"]["replicas"]), (&json!("fetched"), &json!([])), "{output}");
    for replica in ["near", "far"] {
        assert!(said["published"]["refused"][replica].to_string().contains("format 1"), "{replica}: {output}");
    }
    assert!(Path::new(said["file"].as_str().unwrap()).is_file(), "{output}");
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_publishes_a_drill_is_told_what_to_do() {
    let frozen = Frozen::new().await;
    let master = frozen.master();
    for flags in [&["--json"][..], &[]] {
        let words = [flags, &["--identity", &master, "drill", FROZEN_DATASET, "--level", "fetched"]].concat();
        let output = frozen.host.lifeboat(&words).await;
        assert_told("drill", &format!("{}{}", output.stdout, output.stderr));
    }
}
