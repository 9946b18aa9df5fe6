//! What the built programs let out: nothing of their memory, no secret in logs or files, and
//! nothing of others that a terminal obeys.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::fs;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use lifeboat_tests::host::{BackupHost, section};
use lifeboat_tests::postgres::Postgres;
use lifeboat_tests::programs::{self, Output, run};
use lifeboat_tests::s3::Region;
use lifeboat_tests::sample;
use lifeboat_tests::vault::files_below;

const DEADLINE: Duration = Duration::from_secs(60);
const NOBODY: u32 = 65534;

struct Killed(Child);

impl Drop for Killed {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Root could read everything, so it lets an ordinary user try.
fn unprivileged(command: &mut Command) -> &mut Command {
    if rustix::process::geteuid().is_root() { command.uid(NOBODY).gid(NOBODY) } else { command }
}

#[test]
fn another_process_of_the_same_user_cannot_read_the_memory_of_the_programs() {
    let place = tempfile::tempdir().unwrap();
    fs::set_permissions(place.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let pipe = place.path().join("never-written");
    rustix::fs::mknodat(rustix::fs::CWD, &pipe, rustix::fs::FileType::Fifo, 0o644.into(), 0).unwrap();
    for (program, arguments) in [(programs::lifeboatd(), &["--once"][..]), (programs::lifeboat(), &["list"])] {
        // Everybody can reach this copy.
        let copy = place.path().join(program.file_name().unwrap());
        fs::copy(&program, &copy).unwrap();
        let mut command = Command::new(&copy);
        command.arg("--config").arg(&pipe).args(arguments).stdout(Stdio::null());
        let mut child = Killed(unprivileged(&mut command).spawn().unwrap());
        let process = Path::new("/proc").join(child.0.id().to_string());
        let began = Instant::now();
        // Then it waits for its configuration, and has read no secret yet.
        while core_limit(&process) != Some(["0", "0"].map(str::to_owned))
            || fs::metadata(process.join("mem")).unwrap().uid() != 0
        {
            assert!(child.0.try_wait().unwrap().is_none(), "{program:?} has ended");
            assert!(began.elapsed() < DEADLINE, "{program:?} can be dumped: {:?}", core_limit(&process));
            std::thread::sleep(Duration::from_millis(20));
        }
        for secret in ["mem", "environ"] {
            let mut read = Command::new("head");
            let tried = unprivileged(read.args(["-c", "1"]).arg(process.join(secret))).output().unwrap();
            let said = String::from_utf8_lossy(&tried.stderr).into_owned();
            assert!(said.contains("Permission denied"), "{program:?} {secret}: {said}");
        }
    }
}

fn core_limit(process: &Path) -> Option<[String; 2]> {
    let limits = fs::read_to_string(process.join("limits")).ok()?;
    let line = limits.lines().find_map(|line| line.strip_prefix("Max core file size"))?;
    let mut words = line.split_whitespace().map(str::to_owned);
    Some([words.next()?, words.next()?])
}

/// Terminal titles, a screen cleared by a C1 control, a line shown backwards, a forged line.
const HOSTILE: &str = "x\u{1b}]0;title\u{7}y\u{9b}2Jz\u{202e}w\u{2066}v\u{7f}";

fn assert_tame(output: &Output) {
    for text in [&output.stdout, &output.stderr] {
        let acts = |c: char| c.is_control() && c != '\n' || "\u{202e}\u{2066}".contains(c);
        assert!(!text.contains(acts), "{text:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_of_others_acts_on_a_terminal() {
    let place = tempfile::tempdir().unwrap();
    let replica = place.path().join("replica");
    fs::create_dir(&replica).unwrap();
    let replicas = [format!(
        "[[replica]]\nname = \"near\"\nregion = \"near\"\nkind = \"directory\"\npath = \"{}\"",
        replica.display()
    )];
    let tool = place.path().join("tool");
    let write_tool = |script: &str| {
        fs::write(&tool, format!("#!/bin/sh\n{script}\n")).unwrap();
        fs::set_permissions(&tool, fs::Permissions::from_mode(0o755)).unwrap();
    };
    write_tool("echo data");
    let source = format!("kind = \"command\"\nargv = [\"{}\"]", tool.display());
    let host = BackupHost::set_up(&replicas, &source).await;
    let (output, _) = host.once().await;
    assert!(output.status.success(), "{output}");

    // A tool's own words.
    fs::write(place.path().join("words"), format!("{HOSTILE}\nerror: forged\n")).unwrap();
    write_tool(&format!("cat {} >&2; exit 3", place.path().join("words").display()));
    for log in ["text", "json"] {
        for words in [&["--once"][..], &["--json", "--once"]] {
            let mut command = host.lifeboatd();
            let output = run(command.args(["--log", log, "--log-level", "debug"]).args(words), DEADLINE).await.unwrap();
            assert_eq!(output.code(), Some(4), "{output}");
            assert!(output.stderr.contains("title"), "{output}");
            assert_tame(&output);
            assert!(!output.stderr.lines().any(|line| line.starts_with("error: forged")), "{output}");
        }
    }

    // An object's key, and what the command line names.
    let pack = replica.join(format!("vault/datasets/data/packs/{HOSTILE}"));
    let snapshot = replica.join(format!("vault/datasets/data/snapshots/{HOSTILE}.minisig"));
    for planted in [&pack, &snapshot] {
        fs::create_dir_all(planted.parent().unwrap()).unwrap();
        fs::write(planted, "planted").unwrap();
    }
    let master = host.master().display().to_string();
    let hostile_file = format!("/nonexistent/{HOSTILE}");
    let mut shown = 0;
    for json in [&[][..], &["--json"]] {
        for words in [
            &["verify", "data"][..],
            &["list", "--all"],
            &["check"],
            &["--identity", &hostile_file, "restore", "data", "--to-directory", "/nonexistent/x"],
            &["--identity", &master, "restore", "data", "--stdout", HOSTILE],
            &["--identity", &master, "restore", "data", "--to-directory", &hostile_file, "--database", HOSTILE],
        ] {
            let output = host.lifeboat(&[json, &["-vv"], words].concat()).await;
            assert_tame(&output);
            shown += usize::from(output.to_string().contains("title"));
        }
    }
    assert!(shown >= 3, "hostile names were shown {shown} times");
}

#[tokio::test(flavor = "multi_thread")]
async fn no_secret_is_in_a_log_or_a_file() {
    const PASSWORD: &str = "correct-horse-battery-staple";
    let region = Region::start("near").await;
    let database = Postgres::start_with_password(PASSWORD).await;
    database.create_database("shop").await;
    database.run_sql("shop", sample::schema_sql()).await;
    database.run_sql("shop", &sample::fill_sql(0.02)).await;
    let place = tempfile::tempdir().unwrap();
    let password = place.path().join("password");
    let mut file = fs::OpenOptions::new().create_new(true).write(true).mode(0o600).open(&password).unwrap();
    std::io::Write::write_all(&mut file, PASSWORD.as_bytes()).unwrap();
    let source = format!(
        "kind = \"postgres\"\nurl = \"{}\"\ndatabases = [\"shop\"]\npassword = \"{}\"",
        database.url("postgres"),
        password.display()
    );
    let host = BackupHost::set_up(&[section(&region.replica_config("near"))], &source).await;

    let mut said = Vec::new();
    for log in ["text", "json"] {
        let mut command = host.lifeboatd();
        command.args(["--log", log, "--log-level", "trace", "--once"]).env("RUST_LOG", "trace");
        said.push(run(&mut command, DEADLINE).await.unwrap());
    }
    let (master, given) = (host.master().display().to_string(), password.display().to_string());
    let (server, folder) = (database.url("postgres"), place.path().join("restored").display().to_string());
    let into_server = ["--to-postgres", &server, "--password-file", &given, "--database", "shop", "--rename", "copy"];
    for words in [
        &["restore", "data", "--to-directory", &folder][..],
        &[&["restore", "data"][..], &into_server].concat(),
        &["verify", "data", "--read-data"],
        &["drill", "data", "--no-publish"],
    ] {
        let mut command = tokio::process::Command::new(programs::lifeboat());
        command.arg("--config").arg(host.config()).args(["-vvv", "--identity", &master]).args(words);
        said.push(run(command.env("RUST_LOG", "trace"), DEADLINE).await.unwrap());
    }
    for output in &said {
        assert!(output.status.success(), "{output}");
    }
    assert!(said[0].stderr.contains("backup of data started"), "nothing was said: {}", said[0]);

    let identity = fs::read_to_string(host.master()).unwrap();
    let identity = identity.lines().find(|line| line.starts_with("AGE-SECRET-KEY-1")).unwrap().to_owned();
    let credentials = fs::read_to_string(region.credential_file()).unwrap();
    let s3 = credentials.lines().find_map(|line| line.strip_prefix("aws_secret_access_key")).unwrap();
    let host_key = fs::read_to_string(host.path().join("keys/host.key")).unwrap();
    let secrets = [PASSWORD, &identity, s3.trim_start_matches([' ', '=']), host_key.trim(), "AGE-SECRET-KEY-1"];
    let mut files = files_below(&host.path().join("state"));
    files.extend([host.path().join("keys/host-keys"), host.config()]);
    let written = files.iter().map(|file| (file.display().to_string(), fs::read(file).unwrap()));
    let shown = said.iter().map(|output| ("an output".to_owned(), output.to_string().into_bytes()));
    for (place, bytes) in written.chain(shown) {
        let text = String::from_utf8_lossy(&bytes);
        for secret in secrets {
            assert!(secret.len() >= 12 && !text.contains(secret), "{place} holds a secret");
        }
    }
    assert!(files.len() > 2, "the state directory was looked at");
}
