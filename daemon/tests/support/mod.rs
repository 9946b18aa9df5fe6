//! A backup host and its lifeboatd, for tests of the built program.
#![allow(dead_code, reason = "each test uses some of it")]

#[path = "../../../tests/src/ports.rs"]
#[allow(unreachable_pub, reason = "public where it belongs, among what all tests use")]
mod ports;
#[path = "../../src/sample.rs"]
pub(crate) mod sample;

use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::{Child, Command, Output};
use std::time::{Duration, Instant};

use lifeboat_engine::clock::SystemClock;
use lifeboat_engine::config::{Config, Surroundings};
use lifeboat_engine::keys::{InitOptions, init};
use tempfile::TempDir;

pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// A backup host.
pub(crate) struct Host {
    pub(crate) place: TempDir,
    pub(crate) port: u16,
}

/// A running lifeboatd, killed on drop.
pub(crate) struct Daemon(pub(crate) Child);

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Host {
    /// With a vault, and these datasets.
    pub(crate) async fn new(datasets: &[(&str, &str)]) -> Self {
        let place = tempfile::tempdir().unwrap();
        for replica in ["frankfurt", "ireland"] {
            std::fs::create_dir(place.path().join(replica)).unwrap();
        }
        let port = ports::free();
        let host = Self { place, port };
        host.configure(datasets);
        let config = Config::load(&host.config(), &Surroundings::default()).unwrap();
        let replicas = config.open_replicas(&SystemClock::shared()).await.unwrap();
        init(&config, &replicas, &InitOptions::default(), &SystemClock::shared()).await.unwrap();
        host
    }

    pub(crate) fn configure(&self, datasets: &[(&str, &str)]) {
        let text = sample::text(self.place.path(), sample::KEY, datasets);
        std::fs::write(self.config(), text.replace("127.0.0.1:0", &format!("127.0.0.1:{}", self.port))).unwrap();
    }

    /// Gives every dataset a source that takes until it is stopped, and the installation these
    /// limits.
    pub(crate) fn slow_down(&self, limits: &str) {
        let text = std::fs::read_to_string(self.config()).unwrap();
        let text = text.replace("shutdown = \"5s\"", limits).replace("\"printf\"", "\"sleep\"");
        std::fs::write(self.config(), text.replace("\"sleep\", \"shop\"", "\"sleep\", \"300\"")).unwrap();
    }

    pub(crate) fn config(&self) -> std::path::PathBuf {
        self.place.path().join("lifeboat.toml")
    }

    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_lifeboatd"));
        command.arg("--config").arg(self.config()).args(arguments);
        for variable in ["NOTIFY_SOCKET", "WATCHDOG_USEC", "JOURNAL_STREAM", "CREDENTIALS_DIRECTORY"] {
            command.env_remove(variable);
        }
        command
    }

    pub(crate) fn run(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().unwrap()
    }

    pub(crate) fn start(&self) -> Daemon {
        self.start_until("/readyz")
    }

    /// Starts the daemon, and waits until it answers that all is well there: at `/readyz` once
    /// enough replicas answer it, at `/healthz` whether they do or not.
    pub(crate) fn start_until(&self, path: &str) -> Daemon {
        let log = std::fs::File::create(self.place.path().join("log")).unwrap();
        let mut daemon = Daemon(self.command(&["--log", "json"]).stderr(log).spawn().unwrap());
        until("the daemon is ready", || {
            assert!(daemon.0.try_wait().unwrap().is_none(), "{}", self.log());
            self.get(path).is_some_and(|(status, _)| status == 200)
        });
        daemon
    }

    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(self.place.path().join("log")).unwrap()
    }

    pub(crate) fn get(&self, path: &str) -> Option<(u16, String)> {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port)).ok()?;
        write!(stream, "GET {path} HTTP/1.1\r\nHost: lifeboat\r\nConnection: close\r\n\r\n").ok()?;
        let mut text = String::new();
        stream.read_to_string(&mut text).ok()?;
        let status = text.split(' ').nth(1)?.parse().ok()?;
        Some((status, text.split_once("\r\n\r\n")?.1.to_owned()))
    }

    pub(crate) fn metric(&self, series: &str) -> f64 {
        let (_, page) = self.get("/metrics").unwrap();
        let line = page.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
        line.unwrap_or_else(|| panic!("no {series} in\n{page}")).parse().unwrap()
    }

    pub(crate) fn snapshots(&self, replica: &str, dataset: &str) -> usize {
        let folder = self.place.path().join(replica).join("datasets").join(dataset).join("snapshots");
        let Ok(files) = std::fs::read_dir(folder) else { return 0 };
        files.filter(|file| file.as_ref().unwrap().path().extension().is_some_and(|end| end == "minisig")).count()
    }
}

pub(crate) fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(start.elapsed() < PATIENCE, "waited too long until {what}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

pub(crate) fn signal(daemon: &Daemon, signal: &str) {
    assert!(Command::new("kill").args([signal, &daemon.0.id().to_string()]).status().unwrap().success());
}

pub(crate) fn ends(mut daemon: Daemon) -> Option<i32> {
    let mut code = None;
    until("the daemon ends", || {
        code = daemon.0.try_wait().unwrap();
        code.is_some()
    });
    code.unwrap().code()
}

pub(crate) fn said(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}
