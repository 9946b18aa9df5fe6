//! Set-up as an operator does it, on the built programs: lines carried from machine to machine, two
//! real S3 servers with TLS, a real PostgreSQL and an SQLite file; and what is wrong on the way.
//!
//! What this cannot show: `/etc/lifeboat`, the units and systemd are those of a package, and a
//! person at a terminal types answers.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod again;
mod believed;
mod block;
mod broken_lines;
mod environment;
mod refused;
mod trial;
mod tutorial;
mod typing_errors;

use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use lifeboat_tests::programs::{self, Output, run};
use lifeboat_tests::readme::Block;
use lifeboat_tests::s3::Region;
use tempfile::TempDir;
use tokio::process::Command;

const DEADLINE: Duration = Duration::from_secs(240);

/// Machines, each in a folder with a configuration that setup writes.
struct Machines(TempDir);

impl Machines {
    fn new() -> Self {
        Self(tempfile::Builder::new().prefix("lifeboat-setup-").tempdir_in("/tmp").unwrap())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn config(&self, machine: &str) -> PathBuf {
        self.path(machine).join("lifeboat.toml")
    }

    /// The CLI of a machine.
    fn command(&self, machine: &str, words: &[&str]) -> Command {
        let mut program = Command::new(programs::lifeboat());
        program.arg("--config").arg(self.config(machine)).args(words);
        program.env("TMPDIR", self.0.path());
        program
    }

    async fn lifeboat(&self, machine: &str, words: &[&str]) -> Output {
        run(&mut self.command(machine, words), DEADLINE).await.unwrap()
    }

    /// As [`Self::lifeboat`], and it succeeds. Returns what it printed.
    async fn ok(&self, machine: &str, words: &[&str]) -> String {
        let done = self.lifeboat(machine, words).await;
        assert!(done.status.success(), "{words:?}: {done}");
        done.stdout.trim().to_owned()
    }

    /// As [`Self::lifeboat`], and it fails. Returns what it said.
    async fn refused(&self, machine: &str, words: &[&str]) -> String {
        let done = self.lifeboat(machine, words).await;
        assert!(!done.status.success(), "{words:?}: {done}");
        assert!(done.stderr.contains("next: "), "no next step: {done}");
        done.stderr
    }

    /// Runs the next command of the README on a machine. Returns what it printed.
    async fn shown(
        &self,
        block: &mut Block,
        machine: &str,
        shown: &str,
        places: &[(&str, &str)],
        more: &[&str],
    ) -> String {
        let words = block.take(shown, places, more);
        self.ok(machine, &words.iter().map(String::as_str).collect::<Vec<_>>()).await
    }

    /// The eight words that a machine shows beside its line.
    async fn words(&self, machine: &str, words: &[&str]) -> String {
        let shown = self.ok(machine, &[&["--json"], words].concat()).await;
        let shown: serde_json::Value = serde_json::from_str(&shown).unwrap();
        let words = shown["words"].as_str().unwrap();
        assert_eq!(words.split(' ').count(), 8, "{words}");
        words.to_owned()
    }

    /// The line of a backup host in the folder `host`.
    async fn host_line(&self) -> String {
        self.ok("host", &["setup", "host", "--name", "db1"]).await
    }

    /// The line of a drill host in the folder `drill`.
    async fn drill_line(&self) -> String {
        self.ok("drill", &["setup", "drill-host", "--name", "drill1"]).await
    }

    /// The root that an owner in the folder `owner` makes of lines.
    async fn root(&self, lines: &[&str]) -> String {
        let owner = self.path("owner").display().to_string();
        self.ok("nowhere", &[&["owner", "init", "--yes", "--directory", &owner][..], lines].concat()).await
    }

    /// A file of a store's keys.
    fn keys(&self, name: &str, access: &str, secret: &str) -> String {
        let path = self.path(name);
        let text = format!("[default]\naws_access_key_id = {access}\naws_secret_access_key = {secret}\n");
        let mut file = std::fs::File::options().create_new(true).write(true).mode(0o600).open(&path).unwrap();
        std::io::Write::write_all(&mut file, text.as_bytes()).unwrap();
        path.display().to_string()
    }

    /// An SQLite file with a row.
    fn sqlite(&self, name: &str) -> String {
        let path = self.path(name);
        let database = rusqlite::Connection::open(&path).unwrap();
        database.execute_batch("CREATE TABLE page (text TEXT); INSERT INTO page VALUES ('kept');").unwrap();
        path.display().to_string()
    }
}

/// How a flag names a region as a replica.
fn replica(name: &str, region: &Region) -> String {
    format!("{name}={}", bucket_url(region, region.bucket()))
}

fn bucket_url(region: &Region, bucket: &str) -> String {
    let endpoint = region.endpoint().to_string();
    format!("s3://{bucket}?region={}&endpoint={endpoint}&ca_file={}", region.name(), region.ca_file().display())
}

/// Everything below a folder that is no socket, with its mode.
fn files(folder: &Path) -> Vec<(PathBuf, u32)> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).into_iter().flatten().map(Result::unwrap) {
        let metadata = entry.metadata().unwrap();
        if metadata.is_dir() {
            found.extend(files(&entry.path()));
        } else if metadata.is_file() {
            found.push((entry.path(), metadata.permissions().mode() & 0o777));
        }
    }
    found
}
