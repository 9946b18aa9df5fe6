//! An operator at a host: a configuration, a daemon, and a shell in which the commands of a runbook
//! are run as they are printed.
#![allow(clippy::expect_used)]

use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::Value;
use tokio::process::{Child, Command};

use crate::programs::{self, Output, run};
use crate::runbook::Runbook;
use crate::{fake_clock, ports, tools};

const DEADLINE: Duration = Duration::from_secs(60);
/// Commands that ask. Nobody sits at a terminal, so they are told the answer.
const ASKING: [&str; 5] =
    ["lifeboat acknowledge", "lifeboat prune", "lifeboat repair", "lifeboat takeover", "lifeboat undelete"];
/// Answered in the command itself, or not asked for.
const ANSWERED: [&str; 2] = ["--dry-run", "--yes"];

/// A host. Its files lie in a directory of its own, in which the shell works.
pub struct Operator {
    home: PathBuf,
    /// Its name in the vault.
    pub host: String,
    /// See the configuration.
    pub vault_prefix: String,
    /// See the configuration.
    pub min_replicas: usize,
    /// `[[replica]]` sections.
    pub replicas: Vec<String>,
    /// Keys of `[keys]` that are lists.
    pub owners: Vec<String>,
    /// As above.
    pub masters: Vec<String>,
    /// As above.
    pub drill_recipients: Vec<String>,
    /// As above.
    pub trusted_signers: Vec<String>,
    /// As above.
    pub trusted_drill_signers: Vec<String>,
    /// Lines of `[limits]`. At first, what is marked may go after a minute.
    pub limits: String,
    /// `[[dataset]]` sections.
    pub datasets: Vec<String>,
    /// What is added to the clock of what the shell runs, such as `+2m`.
    pub clock: Option<&'static str>,
    daemon: Option<Child>,
    listen: String,
}

impl Operator {
    /// The host called `host`, with its files in `place`/`host`, and no configuration yet.
    ///
    /// # Panics
    /// As all of the harness does, on any failure.
    #[must_use]
    pub fn at(place: &Path, host: &str) -> Self {
        let home = place.join(host);
        std::fs::create_dir_all(&home).expect("a directory");
        Self {
            home,
            host: host.to_owned(),
            vault_prefix: "vault".to_owned(),
            min_replicas: 2,
            replicas: Vec::new(),
            owners: Vec::new(),
            masters: Vec::new(),
            drill_recipients: Vec::new(),
            trusted_signers: Vec::new(),
            trusted_drill_signers: Vec::new(),
            limits: "run = \"1m\"\nclock_skew = \"1s\"".to_owned(),
            datasets: Vec::new(),
            clock: None,
            daemon: None,
            listen: format!("127.0.0.1:{}", ports::free()),
        }
    }

    /// A file of the host, as the shell finds it by this name.
    #[must_use]
    pub fn file(&self, name: &str) -> PathBuf {
        self.home.join(name)
    }

    /// Writes the configuration.
    fn configure(&self) {
        let home = self.home.display();
        let text = format!(
            "host = \"{}\"\nvault_prefix = \"{}\"\nmin_replicas = {}\nstate_directory = \"{home}/state\"\n\
             control_socket = \"{home}/control.sock\"\nlisten = \"{}\"\n\
             [keys]\ndirectory = \"{home}/keys\"\nowners = {:?}\nmaster_recipients = {:?}\ndrill_recipients = {:?}\n\
             trusted_signers = {:?}\ntrusted_drill_signers = {:?}\n\
             [limits]\ncpu = 2\n{}\n{}\n{}\n",
            self.host,
            self.vault_prefix,
            self.min_replicas,
            self.listen,
            self.owners,
            self.masters,
            self.drill_recipients,
            self.trusted_signers,
            self.trusted_drill_signers,
            self.limits,
            self.replicas.join("\n"),
            self.datasets.join("\n"),
        );
        std::fs::write(self.file("lifeboat.toml"), text).expect("a configuration");
    }

    /// Makes an identity called `name`, which the shell finds by it; its recipient.
    ///
    /// # Panics
    /// It fails.
    pub async fn make_identity(&self, name: &str) -> String {
        self.must(&format!("age-keygen -o {name} 2>/dev/null && age-keygen -y {name}")).await.stdout.trim().to_owned()
    }

    /// Runs `lifeboat init`; the signer that it prints.
    ///
    /// # Panics
    /// It fails.
    pub async fn init(&self, more: &str) -> String {
        let init = self.must(&format!("lifeboat --json init {more}")).await;
        init.json().expect("a report")["signer"].as_str().expect("a signer").to_owned()
    }

    /// Runs a line of shell. The configuration is what the fields say. While the daemon holds the
    /// lock, it is run again, as its hint says: a catch-up takes a moment.
    ///
    /// # Panics
    /// The shell cannot be run, or takes too long.
    pub async fn shell(&self, line: &str) -> Output {
        self.configure();
        let began = Instant::now();
        loop {
            let output = self.run_shell(line).await;
            if !output.stderr.contains("and holds its lock") || began.elapsed() > DEADLINE {
                return output;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    /// [`Self::shell`], which is not run again.
    ///
    /// # Panics
    /// As [`Self::shell`].
    pub async fn run_once(&self, line: &str) -> Output {
        self.configure();
        self.run_shell(line).await
    }

    async fn run_shell(&self, line: &str) -> Output {
        let mut shell = Command::new("bash");
        shell.envs(self.clock.into_iter().flat_map(fake_clock::environment));
        let path = std::env::var("PATH").unwrap_or_default();
        let postgresql = tools::postgresql();
        shell.args(["-c", line]).current_dir(&self.home).env("LIFEBOAT_CONFIG", self.file("lifeboat.toml"));
        shell.env("PATH", format!("{}:{}:{path}", programs::directory().display(), postgresql.display()));
        run(&mut shell, DEADLINE).await.expect("the shell runs")
    }

    /// [`Self::shell`], which must succeed.
    ///
    /// # Panics
    /// It does not.
    pub async fn must(&self, line: &str) -> Output {
        let output = self.shell(line).await;
        assert!(output.status.success(), "{}: {line}: {output}", self.host);
        output
    }

    /// What a runbook shows, with its examples replaced, such as `NAME` by `ireland`.
    ///
    /// `systemctl` is given to the daemon of this host, as the unit would pass it on.
    ///
    /// # Panics
    /// The runbook does not show it, or not yet.
    pub async fn try_follow(&mut self, book: &mut Runbook, shown: &str, replacing: &[(&str, &str)]) -> Output {
        book.take(shown);
        if let Some(verb) = shown.strip_prefix("systemctl ").and_then(|line| line.strip_suffix(" lifeboatd")) {
            self.systemctl(verb).await;
            return self.must("true").await;
        }
        let mut line = replacing.iter().fold(shown.to_owned(), |line, (example, real)| line.replace(example, real));
        if ASKING.iter().any(|asking| line.starts_with(asking)) && !ANSWERED.iter().any(|word| line.contains(word)) {
            line.push_str(" --yes");
        }
        self.shell(&line).await
    }

    /// [`Self::try_follow`], which must succeed.
    ///
    /// # Panics
    /// It does not.
    pub async fn follow(&mut self, book: &mut Runbook, shown: &str, replacing: &[(&str, &str)]) -> Output {
        let output = self.try_follow(book, shown, replacing).await;
        assert!(output.status.success(), "{}: {shown}: {output}", self.host);
        output
    }

    async fn systemctl(&mut self, verb: &str) {
        self.configure();
        match verb {
            "stop" | "disable --now" => self.stop().await,
            "start" | "restart" | "enable --now" => self.start().await,
            "reload" => {
                let reloads = || self.log().matches("configuration reloaded").count();
                let before = reloads();
                programs::signal(self.daemon.as_ref().expect("a daemon"), Signal::HUP);
                self.until("it has reloaded", || reloads() > before).await;
            }
            _ => panic!("systemctl {verb}"),
        }
    }

    /// Starts the daemon, anew if it runs, and waits until it answers.
    ///
    /// # Panics
    /// It does not answer.
    pub async fn start(&mut self) {
        self.stop().await;
        self.configure();
        let log = std::fs::File::create(self.file("log")).expect("a log");
        let mut daemon = Command::new(programs::lifeboatd());
        daemon.arg("--config").arg(self.file("lifeboat.toml")).args(["--log", "text"]);
        let daemon = daemon.stdout(Stdio::null()).stderr(log).kill_on_drop(true).spawn();
        self.daemon = Some(daemon.expect("lifeboatd starts"));
        self.until("it answers", || self.page().is_some()).await;
    }

    /// Stops the daemon, if it runs.
    ///
    /// # Panics
    /// It cannot be waited for.
    pub async fn stop(&mut self) {
        if let Some(mut daemon) = self.daemon.take() {
            programs::terminate(&mut daemon).await.expect("lifeboatd ends");
        }
    }

    /// Kills the daemon, which runs.
    ///
    /// # Panics
    /// It does not, or cannot be waited for.
    pub async fn kill(&mut self) {
        self.daemon.take().expect("a daemon").kill().await.expect("it is killed");
    }

    /// Where the daemon tells its metrics.
    #[must_use]
    pub fn listen(&self) -> &str {
        &self.listen
    }

    /// What the daemon logged since it was started.
    #[must_use]
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.file("log")).unwrap_or_default()
    }

    /// Waits until something is so.
    ///
    /// # Panics
    /// It is not, for long.
    pub async fn until(&self, what: &str, is: impl Fn() -> bool) {
        let began = Instant::now();
        while !is() {
            assert!(began.elapsed() < DEADLINE, "{}: not so that {what}\n{}", self.host, self.log());
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// `/metrics`, if the daemon answers.
    fn page(&self) -> Option<String> {
        let mut stream = std::net::TcpStream::connect(&self.listen).ok()?;
        stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: lifeboat\r\nConnection: close\r\n\r\n").ok()?;
        let mut page = String::new();
        stream.read_to_string(&mut page).ok()?;
        page.contains("lifeboat_build_info").then_some(page)
    }

    /// A metric of the running daemon, such as `lifeboat_replica_up{replica="ireland"}`.
    #[must_use]
    pub fn metric(&self, name: &str) -> Option<f64> {
        let page = self.page()?;
        page.lines().find_map(|line| line.strip_prefix(name)?.trim().parse().ok())
    }

    /// Waits until a metric has a value.
    ///
    /// # Panics
    /// It has another one, for long.
    pub async fn until_metric(&self, name: &str, value: f64) {
        let is = || self.metric(name).is_some_and(|now| (now - value).abs() < 0.5);
        self.until(&format!("{name} is {value}"), is).await;
    }

    /// Backs `shop` up without the daemon; the report of what was committed.
    ///
    /// # Panics
    /// Nothing was committed.
    pub async fn backup(&self) -> Value {
        let output = self.shell("lifeboatd --json --log text --once shop").await;
        let report: Value = serde_json::from_str(output.stdout.lines().next().unwrap_or_default()).unwrap_or_default();
        assert!(report["snapshot"].is_string(), "{}: {output}", self.host);
        report
    }

    /// Restores `shop` into files with `flags`, and gives the only stream.
    ///
    /// # Panics
    /// It cannot be restored.
    pub async fn restored(&self, flags: &str) -> String {
        let out = tempfile::tempdir_in(&self.home).expect("a directory");
        let out = out.path().join("out");
        self.must(&format!("lifeboat restore shop {flags} --to-directory {}", out.display())).await;
        only_file(&out)
    }
}

/// The content of the only file of a directory.
///
/// # Panics
/// There is none.
#[must_use]
pub fn only_file(directory: &Path) -> String {
    let files = crate::vault::files_below(directory);
    assert_eq!(files.len(), 1, "{files:?}");
    std::fs::read_to_string(&files[0]).expect("the restored stream")
}

/// The `[[replica]]` section of a directory, which is made if it is missing.
///
/// # Panics
/// It cannot be made.
#[must_use]
pub fn directory_replica(place: &Path, name: &str) -> String {
    let path = place.join(name);
    std::fs::create_dir_all(&path).expect("a directory");
    format!(
        "[[replica]]\nname = \"{name}\"\nkind = \"directory\"\nregion = \"{name}\"\npath = \"{}\"\n",
        path.display()
    )
}

/// The `[[dataset]]` section of a file that is backed up as `name`, with more lines before its
/// source.
#[must_use]
pub fn file_dataset(name: &str, file: &Path, more: &str) -> String {
    format!(
        "[[dataset]]\nname = \"{name}\"\nhome_region = \"home\"\nchunk_size = \"64KiB\"\n{more}\n\
         source = {{ kind = \"file\", path = \"{}\" }}\n",
        file.display()
    )
}
