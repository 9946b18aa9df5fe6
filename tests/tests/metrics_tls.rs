//! The metrics behind TLS with certificates of both sides, scraped by a real Prometheus.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use lifeboat_tests::operator::{Operator, directory_replica, file_dataset};
use lifeboat_tests::tls::Certificates;
use lifeboat_tests::{ports, programs, tools};
use rustix::process::Signal;
use serde_json::Value;
use tokio::process::{Child, Command};

const DEADLINE: Duration = Duration::from_secs(60);

/// What a web server on this port answers, without TLS.
fn said(port: u16, path: &str) -> Option<String> {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).ok()?;
    stream.write_all(format!("GET {path} HTTP/1.0\r\nHost: localhost\r\n\r\n").as_bytes()).ok()?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).ok()?;
    Some(String::from_utf8_lossy(&answer).into_owned())
}

fn get(port: u16, path: &str) -> Option<Value> {
    serde_json::from_str(said(port, path)?.split_once("\r\n\r\n")?.1).ok()
}

/// Whether Prometheus could scrape each job at its last try, and why not.
fn scraped(prometheus: u16, job: &str) -> Option<(bool, String)> {
    let told = get(prometheus, "/api/v1/targets")?;
    let targets = told["data"]["activeTargets"].as_array()?.clone();
    let target = targets.iter().find(|target| target["labels"]["job"] == job)?;
    let health = target["health"].as_str()?;
    (health != "unknown").then(|| (health == "up", target["lastError"].as_str().unwrap_or_default().to_owned()))
}

async fn until<T>(what: &str, ask: impl Fn() -> Option<T>) -> T {
    let began = Instant::now();
    loop {
        if let Some(answer) = ask() {
            return answer;
        }
        assert!(began.elapsed() < DEADLINE, "not so that {what}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

fn start_prometheus(place: &Path, port: u16, jobs: &str) -> Child {
    let config = place.join("prometheus.yml");
    fs::write(&config, format!("global: {{ scrape_interval: 1s, scrape_timeout: 1s }}\nscrape_configs:\n{jobs}"))
        .unwrap();
    let mut prometheus = Command::new(tools::find("prometheus"));
    prometheus
        .arg(format!("--config.file={}", config.display()))
        .arg(format!("--storage.tsdb.path={}", place.join("series").display()))
        .arg(format!("--web.listen-address=127.0.0.1:{port}"));
    let prometheus = prometheus.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).kill_on_drop(true);
    prometheus.spawn().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn prometheus_scrapes_with_certificates_of_both_sides_and_nobody_else_does() {
    let place = tempfile::tempdir().unwrap();
    let folder = |name: &str| {
        let folder = place.path().join(name);
        fs::create_dir(&folder).unwrap();
        folder
    };
    let (server, client) = (Certificates::create(&folder("server")), Certificates::of_client(&folder("client")));
    let stranger = Certificates::of_client(&folder("stranger"));

    let mut db1 = Operator::at(place.path(), "db1");
    let file = place.path().join("shop.txt");
    fs::write(&file, "one\n").unwrap();
    db1.masters = vec![db1.make_identity("master.txt").await];
    db1.replicas = ["frankfurt", "ireland"].map(|name| directory_replica(place.path(), name)).to_vec();
    db1.datasets = vec![file_dataset("shop", &file, "")];
    db1.init("").await;
    let (plain, port) = (fs::read_to_string(db1.file("lifeboat.toml")).unwrap(), ports::free());
    let listen = plain.lines().find(|line| line.starts_with("listen = ")).unwrap();
    let with_tls = format!(
        "listen = \"127.0.0.1:{port}\"\nlisten_tls = {{ certificate = {:?}, key = {:?}, client_ca = {:?} }}",
        server.cert_file, server.key_file, client.ca_file
    );
    fs::write(db1.file("tls.toml"), plain.replace(listen, &with_tls)).unwrap();
    let log = || fs::read_to_string(db1.file("log")).unwrap_or_default();
    let mut daemon = Command::new(programs::lifeboatd());
    daemon.arg("--config").arg(db1.file("tls.toml")).args(["--log", "text"]).stdout(Stdio::null());
    daemon.stderr(fs::File::create(db1.file("log")).unwrap()).kill_on_drop(true);
    let mut daemon = daemon.spawn().unwrap();
    until("it has started", || log().contains("lifeboatd started").then_some(())).await;

    // Without TLS, and without a certificate, nobody reads a line.
    let plain = said(port, "/metrics").unwrap_or_default();
    assert!(!plain.contains("lifeboat_") && !plain.contains("HTTP"), "{plain}");
    let job = |name: &str, shown: Option<&Certificates>| {
        let shown = shown.map_or(String::new(), |shown| {
            format!(", cert_file: {:?}, key_file: {:?}", shown.cert_file, shown.key_file)
        });
        format!(
            "  - {{ job_name: {name}, scheme: https, tls_config: {{ ca_file: {:?}{shown} }}, static_configs: [{{ targets: ['127.0.0.1:{port}'] }}] }}\n",
            server.ca_file
        )
    };
    let jobs = [job("lifeboat", Some(&client)), job("nobody", None), job("stranger", Some(&stranger))].concat();
    let web = ports::free();
    let _prometheus = start_prometheus(place.path(), web, &jobs);
    until("it is scraped", || scraped(web, "lifeboat").filter(|(up, _)| *up)).await;
    for job in ["nobody", "stranger"] {
        let (up, why) = until("it was tried", || scraped(web, job)).await;
        assert!(!up && why.contains("tls"), "{job}: {why}");
    }
    let version = until("it has the metrics", || {
        let told = get(web, "/api/v1/query?query=lifeboat_build_info")?;
        told["data"]["result"][0]["metric"]["version"].as_str().map(str::to_owned)
    });
    assert_eq!(version.await, env!("CARGO_PKG_VERSION"));

    // Clients that say nothing hold up no other, however many they are.
    let silent: Vec<TcpStream> = (0..40).map(|_| TcpStream::connect(("127.0.0.1", port)).unwrap()).collect();
    let reload = |words: &'static str| {
        let before = log().matches(words).count();
        programs::signal(&daemon, Signal::HUP);
        until("it has reloaded", move || (log().matches(words).count() > before).then_some(()))
    };
    // A certificate that does not fit its key changes nothing.
    let good = fs::read(&server.cert_file).unwrap();
    fs::write(&server.cert_file, fs::read(&client.cert_file).unwrap()).unwrap();
    reload("the metrics endpoint keeps its old certificate: ").await;
    fs::write(&server.cert_file, good).unwrap();
    // One that was replaced, together with its key, is used.
    let newer = Certificates::create(&folder("newer"));
    fs::copy(&newer.cert_file, &server.cert_file).unwrap();
    fs::copy(&newer.key_file, &server.key_file).unwrap();
    reload("configuration reloaded").await;
    let kept = scraped(web, "lifeboat");
    assert!(kept.is_some_and(|(up, _)| up), "a connection that is kept is not cut");
    let mut anew = job("lifeboat", Some(&client));
    anew = anew.replace(&server.ca_file.display().to_string(), &newer.ca_file.display().to_string());
    let web = ports::free();
    let _another = start_prometheus(&folder("again"), web, &anew);
    until("it is scraped with the new one", || scraped(web, "lifeboat").filter(|(up, _)| *up)).await;
    drop(silent);
    programs::terminate(&mut daemon).await.unwrap();
}
