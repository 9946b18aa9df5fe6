//! The program against a real vault in directories: what an operator types on the worst day, and
//! what it answers.
#![allow(clippy::disallowed_methods, clippy::unwrap_used, clippy::expect_used)]

use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use lifeboat_engine::clock::{Clock, SystemClock};
use lifeboat_engine::format::id::SnapshotId;
use lifeboat_engine::format::layout;
use lifeboat_engine::state::StateDirectory;
use lifeboat_tests::by_hand::{changed, contents};
use lifeboat_tests::fake_clock;
use lifeboat_tests::vault::{DATASET, MemorySource, TestVault, files_below, name, noise};
use serde_json::Value;

/// What is added to the clock, so that the grace period is over.
const AFTER_GRACE: &str = "+3d";

/// A vault with two replicas and two snapshots, and a configuration file for each host.
struct Installation {
    vault: TestVault,
    contents: [Vec<u8>; 2],
    snapshots: [String; 2],
}

impl Installation {
    async fn new() -> Self {
        let vault = TestVault::new(2, 2).await;
        let contents = [noise(700_000, 1), [noise(700_000, 1), b"and one line more".to_vec()].concat()];
        let mut snapshots = Vec::new();
        for content in &contents {
            let report = vault.backup(&MemorySource::of(content.clone())).await.expect("the backup succeeds");
            snapshots.push(report.snapshot.to_string());
        }
        let installation = Self { vault, contents, snapshots: snapshots.try_into().unwrap() };
        installation.write_configurations();
        installation
    }

    /// With a schedule by which a pause as long as the grace period is no doubtful time.
    async fn weekly() -> Self {
        let installation = Self::new().await;
        let file = installation.path("backup.toml");
        let text = fs::read_to_string(&file).unwrap().replace("retention =", "schedule = \"@weekly\"\nretention =");
        fs::write(file, text).unwrap();
        installation
    }

    fn path(&self, name: &str) -> PathBuf {
        self.vault.place.path().join(name)
    }

    fn write_configurations(&self) {
        let root = self.vault.place.path().display();
        let replicas: String = (1..=2)
            .map(|n| {
                format!(
                    "[[replica]]\nname = \"r{n}\"\nregion = \"{}\"\nkind = \"directory\"\npath = \"{root}/r{n}\"\n",
                    ["east", "west"][n - 1]
                )
            })
            .collect();
        let recipient = &self.vault.config.keys.master_recipients[0];
        let backup = format!(
            "host = \"db1\"\nvault_prefix = \"vault\"\nstate_directory = \"{root}/state\"\ncontrol_socket = \"{root}/control.sock\"\n\
             [keys]\ndirectory = \"{root}/keys\"\nhost_key = \"{root}/keys/host.key\"\nmaster_recipients = [\"{recipient}\"]\n{replicas}\
             [[dataset]]\nname = \"{DATASET}\"\nhome_region = \"home\"\nretention = {{ keep_last = 1 }}\n\
             source = {{ kind = \"command\", argv = [\"true\"], stream = \"data\" }}\n"
        );
        let drill = format!(
            "host = \"drill\"\nvault_prefix = \"vault\"\nstate_directory = \"{root}/drill-state\"\n\
             [keys]\ndirectory = \"{root}/keys/drill-host\"\ntrusted_signers = [\"{}\"]\n{replicas}\
             [[dataset]]\nname = \"{DATASET}\"\nhome_region = \"home\"\nobjectives = {{ rpo = \"1h\", rto = \"10m\" }}\n\
             source = {{ kind = \"command\", argv = [\"true\"], stream = \"data\" }}\n",
            self.vault.init.signer
        );
        fs::write(self.path("backup.toml"), backup).unwrap();
        fs::write(self.path("drill.toml"), drill).unwrap();
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_lifeboat"));
        command
            .args(arguments)
            .current_dir(self.vault.place.path())
            .env_clear()
            .env("PATH", std::env::var("PATH").unwrap());
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    /// When the grace period of what was marked now is over.
    fn after_grace(&self, arguments: &[&str]) -> Output {
        let config = self.path("backup.toml");
        let mut command = Command::new(env!("CARGO_BIN_EXE_lifeboat"));
        command.envs(fake_clock::environment(AFTER_GRACE)).arg("--config").arg(config).args(arguments);
        command.current_dir(self.vault.place.path()).stdin(Stdio::null()).output().expect("lifeboat starts")
    }

    fn run(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().expect("the program starts")
    }

    /// As the owner, with one replica and nothing else.
    fn with_one_replica(&self, arguments: &[&str]) -> Output {
        let master = self.vault.master.to_str().unwrap();
        let flags =
            ["--directory", "r2", "--vault-prefix", "vault", "-i", master, "--trusted-signer", &self.vault.init.signer];
        self.run(&[&flags[..], arguments].concat())
    }

    fn on(&self, host: &str, arguments: &[&str]) -> Output {
        let config = self.path(&format!("{host}.toml"));
        self.run(&[&["--config", config.to_str().unwrap()][..], arguments].concat())
    }

    fn a_pack(&self, replica: usize) -> PathBuf {
        let mut folders = vec![self.vault.replica_path(replica).join("datasets/shop/packs")];
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(folder).unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() {
                    folders.push(path);
                } else {
                    return path;
                }
            }
        }
        unreachable!("the replica holds no pack")
    }
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn stdout(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn json(output: &Output) -> Value {
    serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|error| panic!("{error}: {}{}", stdout(output), stderr(output)))
}

fn code(output: &Output) -> i32 {
    output.status.code().expect("it exits")
}

#[tokio::test(flavor = "multi_thread")]
async fn one_replica_and_an_identity_are_enough_to_restore() {
    let place = Installation::new().await;
    fs::remove_dir_all(place.path("r1")).unwrap();
    fs::remove_dir_all(place.path("state")).unwrap();
    fs::rename(place.path("keys"), place.path("keys-are-gone")).unwrap();

    let listed = json(&place.with_one_replica(&["list", "--json"]));
    let snapshots = listed["snapshots"].as_array().unwrap();
    assert_eq!(snapshots.len(), 2);
    assert_eq!(snapshots[1]["raw_bytes"], place.contents[1].len());

    let latest = place.with_one_replica(&["restore", DATASET, "--stdout", "data"]);
    assert_eq!(code(&latest), 0, "{}", stderr(&latest));
    assert!(latest.stdout == place.contents[1], "the newest snapshot is not what was captured");
    let first = place.with_one_replica(&["restore", DATASET, "--snapshot", &place.snapshots[0], "--stdout", "data"]);
    assert!(first.stdout == place.contents[0], "the first snapshot is not what was captured");
    // As `list` prints it, and the beginning of an id.
    let listed = stdout(&place.with_one_replica(&["list"]));
    let mut cells = listed.lines().nth(1).unwrap().split("  ").map(str::trim);
    let time = cells.find(|cell| cell.ends_with(" UTC")).unwrap();
    let id = &place.snapshots[0][..26];
    for selection in [["--at", time], ["--snapshot", id]] {
        let first = place.with_one_replica(&[&["restore", DATASET, "--stdout", "data"], &selection[..]].concat());
        assert!(first.stdout == place.contents[0], "{selection:?}: {}", stderr(&first));
    }
    let several = place.with_one_replica(&["show", DATASET, &place.snapshots[0][..8]]);
    assert_eq!(code(&several), 2);
    assert!(stderr(&several).contains("2 snapshots of dataset shop begin with"), "{}", stderr(&several));

    let shown = place.with_one_replica(&["show", DATASET]);
    assert!(stdout(&shown).contains(&place.snapshots[0]), "its predecessor is named: {}", stdout(&shown));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restore_without_the_right_keys_is_exit_7_and_says_where_they_are() {
    let place = Installation::new().await;
    let (signer, master) = (place.vault.init.signer.clone(), place.vault.master.clone());
    let one = ["--directory", "r1", "--vault-prefix", "vault"];
    let restore = ["restore", DATASET, "--stdout", "data"];
    let master = master.to_str().unwrap();

    let no_identity = place.run(&[&one[..], &["--trusted-signer", &signer], &restore].concat());
    assert_eq!(code(&no_identity), 7);
    assert!(stderr(&no_identity).contains("  next: pass --identity"), "{}", stderr(&no_identity));
    let no_signer = place.run(&[&one[..], &["-i", master], &restore].concat());
    assert_eq!(code(&no_signer), 7);
    assert!(stderr(&no_signer).contains("`lifeboat init` printed it"), "{}", stderr(&no_signer));

    let stranger = place.path("stranger");
    assert!(Command::new("age-keygen").arg("-o").arg(&stranger).stderr(Stdio::null()).status().unwrap().success());
    let wrong =
        place.run(&[&one[..], &["--trusted-signer", &signer, "-i", stranger.to_str().unwrap()], &restore].concat());
    assert_eq!(code(&wrong), 7, "{}", stderr(&wrong));
    assert!(wrong.stdout.is_empty());

    assert!(stderr(&wrong).contains("master_recipients of the backup host has its public half"), "{}", stderr(&wrong));
    let other = place.vault.init.drill_signer.clone().unwrap();
    let distrusted = place.run(&[&one[..], &["--trusted-signer", &other, "-i", master, "list"]].concat());
    let said = stderr(&distrusted);
    assert!(said.contains("trusted_signers") && !said.contains("pass --identity"), "{said}");

    fs::set_permissions(master, fs::Permissions::from_mode(0o644)).unwrap();
    let readable = place.with_one_replica(&restore);
    assert_eq!(code(&readable), 7);
    assert!(stderr(&readable).contains("chmod 0600"), "{}", stderr(&readable));
    // The backup host itself holds no key that opens data.
    assert_eq!(code(&place.on("backup", &restore)), 7);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_identity_may_come_through_a_pipe() {
    let place = Installation::new().await;
    let arguments =
        ["--directory", "r1", "--vault-prefix", "vault", "-i", "-", "--trusted-signer", &place.vault.init.signer];
    let mut child = place.command(&[&arguments[..], &["restore", DATASET, "--stdout", "data"]].concat());
    let mut child = child.stdin(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(&fs::read(&place.vault.master).unwrap()).unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!(code(&output), 0, "{}", stderr(&output));
    assert!(output.stdout == place.contents[1]);
}

#[tokio::test(flavor = "multi_thread")]
async fn without_an_identity_ids_are_listed_and_on_the_backup_host_sizes_too() {
    let place = Installation::new().await;
    let one = ["--directory", "r1", "--vault-prefix", "vault", "--trusted-signer", &place.vault.init.signer];
    let output = place.run(&[&one[..], &["list"]].concat());
    assert_eq!(code(&output), 0, "{}", stderr(&output));
    assert!(stdout(&output).contains(&place.snapshots[0]));
    assert!(stderr(&output).contains("the sizes are unknown"), "{}", stderr(&output));
    let listed = json(&place.on("backup", &["list", DATASET, "--json"]));
    assert_eq!(listed["snapshots"][0]["raw_bytes"], place.contents[0].len());
    assert_eq!(listed["snapshots"][0]["replicas"], serde_json::json!(["r1", "r2"]));
    let unknown = place.on("backup", &["list", "shopp"]);
    assert_eq!(code(&unknown), 2);
    assert!(stderr(&unknown).contains("it has: shop"), "{}", stderr(&unknown));
}

#[tokio::test(flavor = "multi_thread")]
async fn verify_tells_good_from_damaged_from_unreachable() {
    let place = Installation::new().await;
    let good = place.on("backup", &["verify", "--json"]);
    assert_eq!(code(&good), 0, "{}{}", stdout(&good), stderr(&good));
    assert_eq!(json(&good)["datasets"][DATASET]["snapshots"], 2);
    let deep = place.on("drill", &["verify", "--read-data", "--json"]);
    assert_eq!(code(&deep), 0, "{}{}", stdout(&deep), stderr(&deep));
    assert!(json(&deep)["datasets"][DATASET]["decrypted_bytes"].as_u64().unwrap() > 1_400_000);

    let pack = place.a_pack(1);
    let mut content = fs::read(&pack).unwrap();
    let middle = content.len() / 2;
    content[middle] ^= 1;
    fs::set_permissions(&pack, fs::Permissions::from_mode(0o600)).unwrap();
    fs::write(&pack, content).unwrap();
    let damaged = place.on("backup", &["verify", DATASET]);
    assert_eq!(code(&damaged), 6, "{}", stderr(&damaged));
    assert!(stdout(&damaged).contains("PROBLEM in replica r1"), "{}", stdout(&damaged));
    assert_eq!(code(&place.on("backup", &["verify", "--replica", "r2"])), 0, "the other replica is whole");

    fs::rename(place.path("r1"), place.path("unmounted")).unwrap();
    let unreachable = place.on("backup", &["verify", "--json"]);
    assert_eq!(code(&unreachable), 5, "{}", stderr(&unreachable));
    assert!(json(&unreachable)["unreachable"].get("r1").is_some());
}

#[tokio::test(flavor = "multi_thread")]
async fn verify_leaves_out_what_another_host_backs_up_unless_it_is_named() {
    let place = Installation::new().await;
    let (root, text) = (place.path(""), fs::read_to_string(place.path("backup.toml")).unwrap());
    let keys = format!("{}keys", root.display());
    let text = text.replace("\"db1\"", "\"db2\"").replace(&keys, &format!("{keys}-2"));
    let text = text.replace(&format!("name = \"{DATASET}\""), "name = \"wiki\"").replace("/state\"", "/state-2\"");
    fs::write(place.path("other.toml"), text).unwrap();
    let init = place.on("other", &["init"]);
    assert_eq!(code(&init), 0, "{}", stderr(&init));
    let verified = place.on("other", &["verify", "--json"]);
    assert_eq!(code(&verified), 0, "its own dataset has no snapshot yet: {}", stderr(&verified));
    assert_eq!(json(&verified)["left_out"], serde_json::json!([DATASET]));
    for replica in [1, 2] {
        fs::remove_dir_all(place.vault.replica_path(replica).join("keyring/datasets/wiki")).unwrap();
    }
    let verified = place.on("other", &["verify"]);
    let told = stderr(&verified);
    assert_eq!(code(&verified), 7, "nothing was verified: {told}");
    assert!(told.contains("dataset shop was not verified, because this host has no keys for it"), "{told}");
    assert!(told.contains("nothing was verified"), "{told}");
    assert_ne!(code(&place.on("other", &["verify", DATASET])), 0, "no key of this host opens it");
    let master = place.vault.master.to_str().unwrap();
    let signer = &place.vault.init.signer;
    let asked = place.on("other", &["verify", "--json", "-i", master, "--trusted-signer", signer]);
    assert_eq!(code(&asked), 0, "{}", stderr(&asked));
    assert!(json(&asked)["datasets"][DATASET].is_object());
}

#[tokio::test(flavor = "multi_thread")]
async fn verify_repairs_from_a_whole_replica_and_names_what_no_replica_has_whole() {
    let place = Installation::new().await;
    let roots = [place.vault.replica_path(1), place.vault.replica_path(2)];
    let rot = |file: &Path| {
        let mut content = fs::read(file).unwrap();
        let middle = content.len() / 2;
        content[middle] ^= 1;
        fs::set_permissions(file, fs::Permissions::from_mode(0o600)).unwrap();
        fs::write(file, content).unwrap();
    };
    let before = contents(&roots);
    let pack = place.a_pack(1);
    let first = |folder: &str| files_below(&roots[0].join(format!("datasets/{DATASET}/{folder}"))).remove(0);
    let [manifest, act, index] = ["snapshots", "order", "index"].map(first);
    let keyring = roots[0].join(layout::keyring_generation(&name(DATASET), 1));
    let harmed = [&pack, &manifest, &act, &index, &keyring];
    harmed.iter().for_each(|file| rot(file));
    // And one is gone.
    fs::remove_file(files_below(&roots[1].join(format!("datasets/{DATASET}/index"))).remove(2)).unwrap();

    let found = place.on("backup", &["verify"]);
    assert_eq!(code(&found), 6);
    assert!(stderr(&found).contains("lifeboat verify --repair"), "{}", stderr(&found));
    assert_eq!(code(&place.on("backup", &["verify", "--repair", "--replica", "r1"])), 2);
    let repaired = place.on("backup", &["verify", "--repair"]);
    assert_eq!(code(&repaired), 0, "{}{}", stdout(&repaired), stderr(&repaired));
    for file in harmed {
        let key = file.strip_prefix(&roots[0]).unwrap().display();
        assert!(stdout(&repaired).contains("repaired in replica r1, from "), "{}", stdout(&repaired));
        assert!(stdout(&repaired).contains(&format!(": {key}\n")), "{key}: {}", stdout(&repaired));
    }
    assert!(changed(&before, &contents(&roots)).is_empty());

    [&pack, &roots[1].join(pack.strip_prefix(&roots[0]).unwrap())].into_iter().for_each(|file| rot(file));
    let damaged = contents(&roots);
    let left = place.on("backup", &["verify", "--repair", "--json"]);
    assert_eq!(code(&left), 6, "{}{}", stdout(&left), stderr(&left));
    let report = json(&left);
    let mended = report["repairs"][DATASET]["mended"].as_array().unwrap();
    assert_eq!(mended.len(), 2, "{report}");
    assert!(mended.iter().all(|mended| mended["unrepaired"].as_str().unwrap().contains("no other replica")));
    assert_eq!(report["datasets"][DATASET]["findings"].as_array().unwrap().len(), 2, "{report}");
    assert!(changed(&damaged, &contents(&roots)).is_empty(), "something was written or deleted");
}

#[tokio::test(flavor = "multi_thread")]
async fn verify_reads_a_random_share_of_the_packs_and_tells_which() {
    let place = Installation::new().await;
    let subset = |arguments: &[&str]| {
        let output = place.on("backup", &[&["verify", "--json", "--read-data-subset"], arguments].concat());
        assert_eq!(code(&output), 0, "{}{}", stdout(&output), stderr(&output));
        json(&output)
    };
    let coverage = |report: &Value, of: &str| report["datasets"][DATASET]["coverage"][of].as_u64().unwrap();
    let all = subset(&["100%"]);
    assert_eq!(coverage(&all, "packs"), coverage(&all, "of_packs"));
    let few = subset(&["1%"]);
    assert_eq!(coverage(&few, "packs"), 2, "one in each replica: {few}");
    assert_eq!(coverage(&few, "of_bytes"), coverage(&all, "bytes"));
    assert_eq!(few["datasets"][DATASET]["bytes"], coverage(&few, "bytes"));
    let seed = few["subset"]["seed"].to_string();
    assert_eq!(subset(&["1", "--seed", &seed])["datasets"], few["datasets"]);
    assert_eq!(code(&place.on("backup", &["verify", "--read-data-subset", "0%"])), 2);
    assert_eq!(code(&place.on("backup", &["verify", "--seed", "1"])), 2);

    // What is not read is looked up all the same.
    let pack = place.a_pack(1);
    fs::remove_file(&pack).unwrap();
    for seed in ["1", "2", "3", "4"] {
        let arguments = ["verify", "--read-data-subset", "1%", "--seed", seed];
        let output = place.on("backup", &arguments);
        assert_eq!(code(&output), 6, "{}", stdout(&output));
        assert!(stdout(&output).contains("is missing"), "{}", stdout(&output));
        assert!(stdout(&output).contains(&format!("the same again with --seed {seed}")), "{}", stdout(&output));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drill_leaves_signed_evidence_and_metrics() {
    let place = Installation::new().await;
    let drill =
        ["drill", DATASET, "--level", "fetched", "--report", "report.json", "--textfile", "drill.prom", "--json"];
    let output = place.on("drill", &drill);
    assert_eq!(code(&output), 0, "{}{}", stdout(&output), stderr(&output));
    let said = json(&output);
    assert_eq!(said["reached"], "fetched");
    assert_eq!(said["published"]["replicas"], serde_json::json!(["r1", "r2"]));
    let report: Value = serde_json::from_slice(&fs::read(place.path("report.json")).unwrap()).unwrap();
    assert_eq!(report["drill"], said["drill"]);

    let signer = place.vault.init.drill_signer.as_deref().unwrap();
    let published = place
        .vault
        .replica_path(2)
        .join(format!("datasets/{DATASET}/drills/{}.json", report["drill"].as_str().unwrap()));
    for file in [place.path("report.json"), published] {
        let checked = Command::new("minisign").args(["-V", "-P", signer, "-m"]).arg(&file).output().unwrap();
        assert!(checked.status.success(), "{}: {}", file.display(), stderr(&checked));
    }
    let metrics = fs::read_to_string(place.path("drill.prom")).unwrap();
    assert!(metrics.contains("lifeboat_drill_last_status{dataset=\"shop\"} 1\n"), "{metrics}");
    assert!(metrics.contains("lifeboat_drill_last_level{dataset=\"shop\"} 1\n"), "{metrics}");
    assert!(metrics.contains("lifeboat_objective_seconds{dataset=\"shop\",objective=\"rto\"} 600.000\n"), "{metrics}");
    assert!(metrics.contains("lifeboat_drill_highest_level{dataset=\"shop\"} 1\n"), "{metrics}");

    // No replica answers: there is nothing to report on, and the metrics say so all the same.
    for replica in ["r1", "r2"] {
        fs::rename(place.path(replica), place.path(&format!("{replica}-lost"))).unwrap();
    }
    let failed = place.on("drill", &drill);
    assert_eq!(code(&failed), 5, "{}", stderr(&failed));
    let after = fs::read_to_string(place.path("drill.prom")).unwrap();
    assert!(after.contains("lifeboat_drill_last_status{dataset=\"shop\"} 0\n"), "{after}");
    let success =
        |text: &str| text.lines().find(|line| line.starts_with("lifeboat_drill_last_success")).map(str::to_owned);
    assert_eq!(success(&after), success(&metrics));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drill_without_settings_goes_as_far_as_the_source_does() {
    let place = Installation::new().await;
    let config = fs::read_to_string(place.path("drill.toml")).unwrap();
    let (without, _) = config.split_once("[[dataset]]").unwrap();
    fs::write(place.path("drill.toml"), without).unwrap();
    let output = place.on("drill", &["drill", DATASET, "--json"]);
    assert_eq!(code(&output), 0, "{}{}", stdout(&output), stderr(&output));
    let report = json(&output);
    assert_eq!((&report["required"], &report["reached"]), (&Value::from("fetched"), &Value::from("fetched")));
    // Who insists on more is told that there is no more.
    let more = place.on("drill", &["drill", DATASET, "--level", "proved"]);
    assert_eq!(code(&more), 1, "{}{}", stdout(&more), stderr(&more));
    assert!(stderr(&more).contains("it can be `fetched`, and `checked` where"), "{}", stderr(&more));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drill_that_only_misses_an_objective_is_exit_8() {
    let place = Installation::new().await;
    let config = fs::read_to_string(place.path("drill.toml")).unwrap();
    fs::write(place.path("drill.toml"), config.replace("rpo = \"1h\"", "rpo = \"1s\"")).unwrap();
    // The program goes by the wall clock, and the harness is ahead of it: it gave each snapshot a
    // second of its own.
    let missed = place.vault.clock.now() + Duration::from_secs(1);
    while SystemClock::shared().now() <= missed {
        std::thread::sleep(Duration::from_millis(50));
    }
    let late = place.on("drill", &["drill", DATASET, "--textfile", "drill.prom"]);
    assert_eq!(code(&late), 8, "{}{}", stdout(&late), stderr(&late));
    assert!(stdout(&late).starts_with("Drill of shop: FETCHED, OBJECTIVE MISSED (rpo)"), "{}", stdout(&late));
    assert!(stderr(&late).contains("error: the drill succeeded, but missed its objectives: rpo"), "{}", stderr(&late));
    let metrics = fs::read_to_string(place.path("drill.prom")).unwrap();
    assert!(metrics.contains("lifeboat_drill_last_status{dataset=\"shop\"} 1\n"), "it restored: {metrics}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drill_that_cannot_publish_keeps_its_report_in_a_file() {
    let place = Installation::new().await;
    fs::remove_file(place.path("keys/drill-host/drill-signer")).unwrap();
    let output = place.on("drill", &["drill", DATASET, "--level", "fetched", "--json"]);
    assert_eq!(code(&output), 0, "{}", stderr(&output));
    let said = json(&output);
    assert_eq!(said["published"], Value::Null);
    let file = said["file"].as_str().unwrap();
    assert!(file.starts_with(place.path("drill-state/drills/shop").to_str().unwrap()), "{file}");
    assert!(Path::new(file).is_file() && !Path::new(&format!("{file}.minisig")).exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drill_that_cannot_find_its_last_record_among_others_says_so() {
    const TOLD: &str = "None of the newest drill records is of this host";
    let place = Installation::new().await;
    let drill = || {
        let output = place.on("drill", &["drill", DATASET, "--level", "fetched"]);
        assert_eq!(code(&output), 0, "{}", stderr(&output));
        stderr(&output)
    };
    // Records of others: newer ones, as their ids say.
    let start = SystemClock::shared().now() + Duration::from_secs(60);
    let invent = |number: u32| {
        let id = SnapshotId::new(start + Duration::from_millis(number.into()), number);
        let file = place.vault.replica_path(1).join(layout::drill(&name(DATASET), &id));
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        fs::write(&file, b"no record").unwrap();
        fs::write(layout::signature(file.to_str().unwrap()), b"no signature").unwrap();
    };
    drill();
    (0..255).for_each(invent);
    let said = drill();
    assert!(!said.contains(TOLD), "the last one is the 256th: {said}");
    (255..256).for_each(invent);
    let said = drill();
    assert!(said.contains(TOLD), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn prune_plans_asks_and_only_then_marks_and_removes_after_the_grace_period() {
    let place = Installation::weekly().await;
    let planned = json(&place.on("backup", &["prune", "--dry-run", "--json"]));
    assert_eq!(planned[0]["outcome"], Value::Null);
    assert_eq!(planned[0]["plan"]["verdicts"][0]["keep_because"], serde_json::json!([]));
    let unasked = place.on("backup", &["prune"]);
    assert_eq!(code(&unasked), 2, "nobody can be asked");
    let first = &place.snapshots[0];
    assert!(stdout(&unasked).contains(&format!("mark  {first}")), "the plan is shown: {}", stdout(&unasked));
    let listed = || json(&place.on("backup", &["list", "--json"]))["snapshots"].as_array().unwrap().len();
    let objects = || files_below(&place.path("r1"));
    let before = objects();
    assert_eq!(json(&place.after_grace(&["prune", "--dry-run", "--json"]))[0]["plan"]["due"], serde_json::json!([]));
    assert_eq!(objects(), before, "something was marked");

    let marked = json(&place.on("backup", &["prune", "--yes", "--json"]));
    let outcome = &marked[0]["outcome"];
    assert_eq!((&outcome["marked_snapshots"], &outcome["snapshots"]), (&1.into(), &0.into()), "{outcome}");
    for _ in 0..2 {
        let again = place.on("backup", &["prune", "--yes"]);
        assert!(stdout(&again).contains(&format!("marked  {first}")), "{}{}", stdout(&again), stderr(&again));
        assert_eq!(listed(), 2, "its grace period is not over");
    }
    let unasked = place.after_grace(&["prune"]);
    assert_eq!(code(&unasked), 2, "nobody can be asked");
    assert!(stdout(&unasked).contains(&format!("remove  {first}")), "the plan is shown: {}", stdout(&unasked));
    assert_eq!(listed(), 2);

    let done = json(&place.after_grace(&["prune", "--yes", "--json"]));
    assert_eq!(done[0]["outcome"]["snapshots"], 1, "{done}");
    let left = json(&place.on("backup", &["list", "--json"]));
    assert_eq!(left["snapshots"][0]["snapshot"], place.snapshots[1]);
    assert_eq!(left["snapshots"].as_array().unwrap().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_grace_period_that_is_raised_is_told() {
    const RAISED: &str = "dataset shop: grace is shorter than limits.run";
    let place = Installation::new().await;
    assert!(!stderr(&place.on("backup", &["prune", "--dry-run"])).contains(RAISED));
    assert!(!stdout(&place.on("backup", &["check"])).contains(RAISED));
    let file = place.path("backup.toml");
    let text = fs::read_to_string(&file).unwrap().replace("keep_last = 1", "keep_last = 1, grace = \"1h\"");
    fs::write(file, text).unwrap();
    let planned = place.on("backup", &["--quiet", "prune", "--dry-run"]);
    assert_eq!(code(&planned), 0, "{}", stderr(&planned));
    assert!(stderr(&planned).starts_with(&format!("warning: {RAISED}")), "{}", stderr(&planned));
    let checked = stdout(&place.on("backup", &["check"]));
    assert!(checked.contains(&format!(" weak: {RAISED}")), "{checked}");
}

#[tokio::test(flavor = "multi_thread")]
async fn repair_puts_back_what_it_can_names_the_rest_and_asks_before_it_gives_that_up() {
    let place = Installation::new().await;
    let lost = &place.snapshots[0];
    let manifest = |replica: usize| {
        let folder = place.vault.replica_path(replica).join(format!("datasets/{DATASET}/snapshots"));
        let files = fs::read_dir(folder).unwrap().map(|file| file.unwrap().path());
        files.filter(|file| file.to_str().unwrap().contains(lost.as_str())).collect::<Vec<PathBuf>>()
    };
    let remove = |replica| manifest(replica).iter().for_each(|file| fs::remove_file(file).unwrap());
    remove(1);
    let done = place.on("backup", &["repair", DATASET]);
    assert_eq!(code(&done), 0, "{}", stdout(&done));
    assert!(stdout(&done).contains("copied to replica r1") && stdout(&done).contains("nothing is missing"));
    assert_eq!(manifest(1).len(), 2);

    // The other replica has it, and is only away.
    let (cache, away) = (place.path(&format!("state/datasets/{DATASET}/cache")), place.path("away"));
    remove(1);
    fs::remove_dir_all(&cache).unwrap();
    fs::rename(place.vault.replica_path(2), &away).unwrap();
    let told = place.on("backup", &["repair", DATASET]);
    assert_eq!(code(&told), 5, "{}{}", stdout(&told), stderr(&told));
    assert!(stdout(&told).contains(&format!("missing where it was looked for: snapshot {lost}")), "{}", stdout(&told));
    assert!(!stdout(&told).contains("MISSING") && !stderr(&told).contains("accept-loss"), "{}", stderr(&told));
    fs::rename(&away, place.vault.replica_path(2)).unwrap();

    [1, 2].into_iter().for_each(remove);
    let _ = fs::remove_dir_all(&cache);
    for arguments in [&["repair", DATASET][..], &["repair", DATASET, "--accept-branches", "--yes"]] {
        let told = place.on("backup", arguments);
        assert_eq!(code(&told), 6, "{}", stdout(&told));
        assert!(stdout(&told).contains(&format!("MISSING: snapshot {lost}")), "{}", stdout(&told));
    }
    assert_eq!(code(&place.on("backup", &["prune", "--yes"])), 6);
    assert_eq!(code(&place.on("backup", &["repair", DATASET, "--accept-loss"])), 2, "nobody can be asked");
    assert_eq!(code(&place.on("backup", &["repair", DATASET])), 6, "nobody has agreed");
    let accept = format!("repair {DATASET} --accept-loss");
    let refused = on_a_terminal(&place, &accept, "no", false, |state| {
        drop(state.try_lock_dataset(&name(DATASET)).unwrap().unwrap());
    });
    assert!(code(&refused) == 1 && stdout(&refused).contains("you did not confirm"), "{}", stdout(&refused));
    let agreed = place.on("backup", &["repair", DATASET, "--accept-loss", "--yes", "--json"]);
    assert_eq!((code(&agreed), &json(&agreed)["missing"]), (0, &serde_json::json!([])));
    for arguments in [&["repair", DATASET][..], &["prune", "--yes"]] {
        let done = place.on("backup", arguments);
        assert_eq!(code(&done), 0, "{arguments:?}: {}", stdout(&done));
    }
}

/// Runs the backup host's `prune` on a terminal, where a person types `answer`.
fn prune_on_a_terminal(place: &Installation, answer: &str, after_grace: bool) -> Output {
    on_a_terminal(place, "prune", answer, after_grace, |_| {})
}

/// Runs `arguments` on the backup host's terminal. `meanwhile` happens once the program asks, with
/// the state directory of that host; then a person types `answer`.
fn on_a_terminal<Kept>(
    place: &Installation,
    arguments: &str,
    answer: &str,
    after_grace: bool,
    meanwhile: impl FnOnce(StateDirectory) -> Kept,
) -> Output {
    let line = format!("{} --config backup.toml {arguments}", env!("CARGO_BIN_EXE_lifeboat"));
    let mut script = Command::new("script");
    script.args(["--quiet", "--return", "--command", &line, "/dev/null"]).current_dir(place.vault.place.path());
    script.envs(after_grace.then(|| fake_clock::environment(AFTER_GRACE)).into_iter().flatten());
    let mut child = script.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("script, of bsdutils");
    let (mut said, mut stdout) = (Vec::new(), child.stdout.take().unwrap());
    while !String::from_utf8_lossy(&said).contains("Type `yes`") {
        let mut some = [0; 4096];
        let length = stdout.read(&mut some).unwrap();
        assert!(length > 0, "it asks nothing: {}", String::from_utf8_lossy(&said));
        said.extend_from_slice(&some[..length]);
    }
    let _kept = meanwhile(StateDirectory::open(&place.path("state")).unwrap());
    child.stdin.take().unwrap().write_all(format!("{answer}\n").as_bytes()).unwrap();
    stdout.read_to_end(&mut said).unwrap();
    let output = child.wait_with_output().unwrap();
    Output { stdout: said, ..output }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_open_question_of_prune_holds_no_lock_and_the_answer_needs_it() {
    let place = Installation::weekly().await;
    let lock =
        |state: StateDirectory| state.try_lock_dataset(&name(DATASET)).unwrap().expect("the question holds the lock");
    let refused = on_a_terminal(&place, "prune", "yes", false, lock);
    assert_eq!(code(&refused), 1, "{}", stdout(&refused));
    let told = format!("works on dataset {DATASET} and holds its lock");
    assert!(stdout(&refused).contains(&told), "{}", stdout(&refused));
    assert!(!stdout(&refused).contains("marked 1 snapshot"), "{}", stdout(&refused));
    let agreed = on_a_terminal(&place, "prune", "yes", false, |state| drop(lock(state)));
    assert!(code(&agreed) == 0 && stdout(&agreed).contains("marked 1 snapshot"), "{}", stdout(&agreed));
}

#[tokio::test(flavor = "multi_thread")]
async fn prune_goes_on_past_a_dataset_that_another_run_works_on() {
    let place = Installation::weekly().await;
    let file = place.path("backup.toml");
    let text = fs::read_to_string(&file).unwrap();
    let wiki = "[[dataset]]\nname = \"wiki\"\nhome_region = \"home\"\nsource = { kind = \"command\", argv = [\"true\"], stream = \"data\" }\n";
    fs::write(file, format!("{text}{wiki}")).unwrap();
    assert_eq!(code(&place.on("backup", &["init"])), 0);
    let state = StateDirectory::open(&place.path("state")).unwrap();
    let held = state.try_lock_dataset(&name(DATASET)).unwrap().unwrap();
    let output = place.on("backup", &["prune", "--yes"]);
    assert_eq!(code(&output), 1, "{}", stderr(&output));
    assert!(stdout(&output).contains("Dataset wiki"), "it stopped at the locked one: {}", stdout(&output));
    assert_eq!(stdout(&output).matches(" removed 0 snapshots").count(), 1, "{}", stdout(&output));
    let told = format!("dataset {DATASET} was not pruned: another run (process {}) works on", std::process::id());
    assert!(stderr(&output).contains(&told), "{}", stderr(&output));
    let output = place.on("backup", &["prune", "--yes", "--json"]);
    let all = json(&output);
    assert!(all[0]["error"].as_str().unwrap().contains("holds its lock") && all[0]["outcome"].is_null(), "{all}");
    assert!(all[1]["error"].is_null() && all[1]["outcome"]["snapshots"] == 0, "{all}");
    drop(held);
    let output = place.on("backup", &["prune", "--yes"]);
    assert!(code(&output) == 0 && stdout(&output).contains("marked 1 snapshot"), "{}", stderr(&output));
}

#[tokio::test(flavor = "multi_thread")]
async fn on_a_terminal_only_yes_means_yes() {
    let place = Installation::weekly().await;
    for (after_grace, asked, told) in [
        (false, "Mark these of dataset shop for deletion?", "marked 1 snapshot"),
        (true, "Permanently delete these of dataset shop?", "removed 1 snapshot"),
    ] {
        for answer in ["", "y", "no"] {
            let refused = prune_on_a_terminal(&place, answer, after_grace);
            assert_eq!(code(&refused), 1, "{}", stdout(&refused));
            assert!(stdout(&refused).contains(asked), "{}", stdout(&refused));
            assert!(stdout(&refused).contains("you did not confirm; nothing was changed"), "{}", stdout(&refused));
        }
        let agreed = prune_on_a_terminal(&place, "yes", after_grace);
        assert_eq!(code(&agreed), 0, "{}", stdout(&agreed));
        assert!(stdout(&agreed).contains(told), "{}", stdout(&agreed));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn init_run_again_keeps_every_key_and_names_the_signer() {
    let place = Installation::new().await;
    let before = fs::read(place.path("keys/host.key")).unwrap();
    let output = place.on("backup", &["init"]);
    assert_eq!(code(&output), 0, "{}", stderr(&output));
    assert!(stdout(&output).contains(&place.vault.init.signer), "{}", stdout(&output));
    assert_eq!(fs::read(place.path("keys/host.key")).unwrap(), before);
    fs::rename(place.path("r2"), place.path("r2-away")).unwrap();
    let partly = place.on("backup", &["init", "--json"]);
    assert_eq!(code(&partly), 5, "one replica was not reached");
    assert_eq!(json(&partly)["signer"], place.vault.init.signer);
}

#[tokio::test(flavor = "multi_thread")]
async fn init_that_was_cut_short_goes_on_with_the_keys_that_it_made() {
    let place = Installation::new().await;
    let keys = place.path("new-keys");
    let text = fs::read_to_string(place.path("backup.toml")).unwrap().replace("\"db1\"", "\"db2\"");
    let text = text.replace(&place.path("keys").display().to_string(), &keys.display().to_string());
    let text = text.replace(&format!("name = \"{DATASET}\""), "name = \"wiki\"");
    let bundle = format!("[keys]\nhost_bundle = \"{}/later/host-keys\"\n", keys.display());
    fs::write(place.path("other.toml"), text.replace("[keys]\n", &bundle)).unwrap();

    let cut = place.on("other", &["init"]);
    assert!(code(&cut) != 0 && stderr(&cut).contains("later/host-keys"), "{}", stderr(&cut));
    let identity = fs::read(keys.join("drill-host/drill-identity")).unwrap();
    fs::remove_file(keys.join("drill-host/drill-signer")).unwrap();
    fs::create_dir(keys.join("later")).unwrap();
    let again = place.on("other", &["init", "--json"]);
    assert_eq!(code(&again), 0, "{}", stderr(&again));
    assert_eq!(fs::read(keys.join("drill-host/drill-identity")).unwrap(), identity);
    let opens = Command::new("age-keygen").arg("-y").arg(keys.join("drill-host/drill-identity")).output().unwrap();
    assert_eq!(json(&again)["drill_recipient"], stdout(&opens).trim());
    assert!(json(&again)["drill_signer"].is_string() && keys.join("drill-host/drill-signer").exists());

    // What is no key is not taken for one, and the way out is told.
    fs::remove_file(keys.join("later/host-keys")).unwrap();
    fs::write(keys.join("drill-host/drill-identity"), "").unwrap();
    let torn = place.on("other", &["init", "--identity", place.vault.master.to_str().unwrap()]);
    assert_eq!(code(&torn), 7, "{}", stderr(&torn));
    assert!(stderr(&torn).contains("drill-host away"), "{}", stderr(&torn));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restore_into_a_directory_overwrites_only_when_it_is_meant() {
    let place = Installation::new().await;
    let restore = ["restore", DATASET, "--to-directory", "out"];
    let first = place.with_one_replica(&[&restore[..], &["--json"]].concat());
    assert_eq!(code(&first), 0, "{}", stderr(&first));
    let said = json(&first);
    assert_eq!(said["restored_bytes"], place.contents[1].len());
    assert_eq!(said["read_from"], serde_json::json!(["directory"]));
    let file = place.path(said["written"][0].as_str().unwrap());
    assert!(fs::read(&file).unwrap() == place.contents[1]);

    fs::write(&file, "changed since").unwrap();
    for (flags, why) in [(&[][..], "is not empty"), (&["--overwrite"], "pass --yes")] {
        let refused = place.with_one_replica(&[&restore[..], flags].concat());
        assert_eq!(code(&refused), 2, "{flags:?}");
        assert!(stderr(&refused).contains(why), "{}", stderr(&refused));
        assert_eq!(fs::read(&file).unwrap(), b"changed since");
    }
    let meant = place.with_one_replica(&[&restore[..], &["--overwrite", "--yes"]].concat());
    assert_eq!(code(&meant), 0, "{}", stderr(&meant));
    assert!(fs::read(&file).unwrap() == place.contents[1]);
}

#[tokio::test(flavor = "multi_thread")]
async fn check_says_what_is_weak_and_fails_on_what_is_broken() {
    let place = Installation::new().await;
    let weak = place.on("backup", &["check"]);
    assert_eq!(code(&weak), 0, "{}{}", stdout(&weak), stderr(&weak));
    for words in ["has no schedule", "no RPO and no RTO objective", "the drill identity is still on this host"] {
        assert!(stdout(&weak).contains(words), "{words} is not in\n{}", stdout(&weak));
    }
    let hourly = fs::read_to_string(place.path("backup.toml")).unwrap();
    let hourly = hourly.replace("retention =", "schedule = \"@hourly\"\nobjectives = { rpo = \"2h\" }\nretention =");
    fs::write(place.path("hourly.toml"), hourly).unwrap();
    let weak = place.on("hourly", &["check"]);
    for words in ["is backed up every 1 h, but its retention keeps no more than the newest", "no RTO objective"] {
        assert!(stdout(&weak).contains(words), "{words} is not in\n{}", stdout(&weak));
    }
    let drill_host = json(&place.on("drill", &["check", "--json"]));
    assert_eq!(drill_host["broken"], serde_json::json!([]));
    assert_eq!(drill_host["weak"].as_array().unwrap().len(), 2, "only that its replicas are directories: {drill_host}");
    assert_eq!(drill_host["replicas"][0]["can_write"], Value::Null, "a drill host is not asked to write");

    // What it tried is gone, and where it may not write its reports, it says so.
    let drills = place.path("r1/vault/datasets/shop/drills");
    assert!(fs::read_dir(&drills).map_or(0, Iterator::count) == 0);
    let _ = fs::remove_dir_all(&drills);
    fs::write(&drills, "").unwrap();
    let told = stdout(&place.on("drill", &["check"]));
    assert!(told.contains("replica r1 takes no report below datasets/shop/drills/"), "{told}");
    fs::remove_file(&drills).unwrap();
    // An identity of somebody else opens nothing.
    let identity = place.path("keys/drill-host/drill-identity");
    let own = fs::read(&identity).unwrap();
    fs::write(&identity, Command::new("age-keygen").output().unwrap().stdout).unwrap();
    let told = place.on("drill", &["check"]);
    assert_eq!(code(&told), 7, "{}", stderr(&told));
    assert!(stdout(&told).contains("dataset shop cannot be drilled"), "{}", stdout(&told));
    fs::write(&identity, own).unwrap();
    // Somebody is to drill to whom the keys were not given.
    let newcomer = String::from_utf8(Command::new("age-keygen").output().unwrap().stdout).unwrap();
    let recipient = newcomer.lines().find_map(|line| line.strip_prefix("# public key: ")).unwrap();
    let text = fs::read_to_string(place.path("backup.toml")).unwrap();
    let text = text.replacen("[[replica]]", &format!("drill_recipients = [\"{recipient}\"]\n[[replica]]"), 1);
    fs::write(place.path("granted.toml"), text).unwrap();
    assert!(!stdout(&place.on("backup", &["check"])).contains("were written for other"));
    let told = stdout(&place.on("granted", &["check"]));
    assert!(told.contains("the keys of dataset shop were written for other masters or drill hosts"), "{told}");
    // A source that is not there, and the owner of the example.
    let text = fs::read_to_string(place.path("backup.toml")).unwrap();
    fs::write(place.path("gone.toml"), text.replace("[\"true\"]", "[\"gone-program\"]")).unwrap();
    let told = place.on("gone", &["check"]);
    assert!(code(&told) == 4 && stdout(&told).contains("install gone-program"), "{}", stdout(&told));
    let text = fs::read_to_string(place.path("drill.toml")).unwrap();
    let example = "owners = [\"RWTJ09VYtv37H61y+KvFkmBbuNgYIqCfCn4H5sgGCL8kOEKarvGpmqVf\"]\n[[replica]]";
    let signers = text.lines().find(|line| line.starts_with("trusted_signers")).unwrap().to_owned();
    let text = text.replace(&signers, "").replacen("[[replica]]", example, 1);
    fs::write(place.path("example.toml"), text).unwrap();
    let told = stdout(&place.on("example", &["check"]));
    assert!(told.contains("is that of the example"), "{told}");

    fs::rename(place.path("r1"), place.path("unmounted")).unwrap();
    let broken = place.on("backup", &["check", "--json"]);
    assert!(matches!(code(&broken), 3 | 5), "{}", stderr(&broken));
    let what = |at: usize| json(&broken)["broken"][at]["what"].as_str().unwrap().to_owned();
    assert!(what(0).starts_with("replica r1 cannot be used: ") && !what(0).contains("replica r1: "), "{}", what(0));
    assert!(what(1).starts_with("1 replica works, but min_replicas is 2"), "{}", what(1));
    // One replica by flags, as on the day of a restore.
    assert_eq!(code(&place.run(&["check", "--directory", "r2", "--vault-prefix", "vault"])), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_signal_ends_it_even_while_it_waits_for_a_key() {
    let place = Installation::new().await;
    let fifo = place.path("key.fifo");
    assert!(Command::new("mkfifo").arg(&fifo).status().unwrap().success());
    let mut command = place.command(&["list", "--directory", "r1", "--vault-prefix", "vault", "-i"]);
    let mut child = command.arg(&fifo).spawn().unwrap();
    // A pipe can be opened for writing once somebody reads from it, and who reads waits for what is
    // never written.
    let (tell, told) = mpsc::channel();
    std::thread::spawn(move || tell.send(fs::File::options().write(true).open(fifo)));
    let _writer = told.recv_timeout(Duration::from_secs(60)).expect("it reads the key").unwrap();
    assert!(child.try_wait().unwrap().is_none(), "it does not wait for the key");
    assert!(Command::new("kill").args(["-TERM", &child.id().to_string()]).status().unwrap().success());
    let deadline = Instant::now() + Duration::from_secs(10);
    while child.try_wait().unwrap().is_none() {
        assert!(Instant::now() < deadline, "it did not end");
        std::thread::sleep(Duration::from_millis(50));
    }
    let output = child.wait_with_output().unwrap();
    assert_eq!(code(&output), 1);
    assert!(stderr(&output).contains("error: reading an identity was cancelled"), "{}", stderr(&output));
}
