#![allow(clippy::unwrap_used, reason = "tests")]

use lifeboat_engine::clock::{ManualClock, SharedClock, SystemClock};
use lifeboat_engine::config::{Config, Surroundings};
use lifeboat_engine::control::ask;
use lifeboat_engine::keys::{InitOptions, init};
use lifeboat_engine::state::StateDirectory;
use tempfile::TempDir;

use super::*;
use crate::installation::Installation;
use crate::sample;
use crate::status::Ledger;

struct Server {
    place: TempDir,
    clock: Arc<ManualClock>,
    live: Arc<Live>,
    wishes: mpsc::Receiver<Wish>,
    stop: CancellationToken,
    served: tokio::task::JoinHandle<()>,
}

impl Server {
    async fn start() -> Self {
        let place = tempfile::tempdir().unwrap();
        for replica in ["frankfurt", "ireland"] {
            std::fs::create_dir(place.path().join(replica)).unwrap();
        }
        let text = sample::text(place.path(), sample::KEY, &[("shop", "schedule = \"@daily\"")]);
        let config = Config::parse(&text, Path::new("lifeboat.toml"), &Surroundings::default()).unwrap();
        let clock = ManualClock::at(SystemClock::shared().now());
        let shared: SharedClock = clock.clone();
        let replicas = config.open_replicas(&SystemClock::shared()).await.unwrap();
        init(&config, &replicas, &InitOptions::default(), &shared).await.unwrap();
        let state = StateDirectory::open(&config.state_directory).unwrap();
        let ledger = Arc::new(Ledger::open(&state, []));
        let installation = Arc::new(Installation::open(config, &shared).await.unwrap());
        let live = Arc::new(Live::new(installation, state, ledger, shared));
        let (sender, wishes) = mpsc::channel(4);
        let stop = CancellationToken::new();
        let listener = bind(&place.path().join("control.sock")).unwrap();
        let served = tokio::spawn(serve(listener, live.clone(), sender, stop.clone()));
        Self { place, clock, live, wishes, stop, served }
    }

    fn socket(&self) -> std::path::PathBuf {
        self.place.path().join("control.sock")
    }

    /// Sends bytes as they are; gives the lines that come back.
    async fn raw(&self, bytes: &[u8]) -> Vec<Answer> {
        let mut stream = UnixStream::connect(self.socket()).await.unwrap();
        // The server may hang up before it has taken everything.
        let _ = stream.write_all(bytes).await;
        let _ = stream.shutdown().await;
        let mut said = Vec::new();
        let _ = stream.read_to_end(&mut said).await;
        String::from_utf8(said).unwrap().lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }
}

fn trigger(dataset: &str) -> Request {
    Request::Trigger { dataset: dataset.parse().unwrap() }
}

#[tokio::test]
async fn a_trigger_is_passed_on_and_answered_at_the_end_of_the_run() {
    let mut server = Server::start().await;
    let socket = server.socket();
    let asked = tokio::spawn(async move { ask(&socket, &trigger("shop")).await });
    let taken = server.wishes.recv().await.unwrap();
    assert_eq!(taken.dataset.as_str(), "shop");
    let error = Error::storage("replica north: full").hint("make room");
    taken.answer.send(error.into()).unwrap();
    let error = asked.await.unwrap().unwrap_err();
    assert_eq!(
        (error.class(), error.message(), error.hint_text()),
        (Class::Storage, "replica north: full", Some("make room"))
    );
}

#[tokio::test]
async fn the_status_and_several_requests_on_one_connection() {
    let server = Server::start().await;
    let (report, summary) = ask(&server.socket(), &Request::Status {}).await.unwrap();
    assert_eq!(report["datasets"]["shop"]["successes"], 0);
    assert!(summary.contains("idle") && summary.contains("shop: never backed up"), "{summary}");
    let answers = server.raw(b"{\"command\":\"status\"}\n{\"command\":\"status\"}\n").await;
    assert!(answers.len() == 2 && answers.iter().all(|answer| answer.ok));
}

#[tokio::test]
async fn refuses_unknown_datasets_and_malformed_or_endless_requests() {
    let server = Server::start().await;
    let error = ask(&server.socket(), &trigger("wiki")).await.unwrap_err();
    assert_eq!((error.class(), error.hint_text()), (Class::Usage, Some("it has: shop")));
    for bad in [
        &b"hello\n"[..],
        b"{\"command\":\"format\"}\n",
        b"{\"command\":\"trigger\"}\n",
        b"{\"command\":\"trigger\",\"dataset\":\"../x\"}\n",
        b"{\"command\":\"status\",\"more\":1}\n",
        b"{\"command\":\"status\"}",
        b"\xff\xfe\n",
        &[b' '; 5000],
    ] {
        let answers = server.raw(bad).await;
        assert!(answers.len() == 1 && !answers[0].ok, "{:?}: {answers:?}", String::from_utf8_lossy(bad));
        assert_eq!(answers[0].class.as_deref(), Some("usage"));
    }
    assert!(ask(&server.socket(), &Request::Status {}).await.is_ok());
}

#[tokio::test]
async fn the_end_answers_those_who_wait_and_hangs_up_on_those_who_do_not() {
    let mut server = Server::start().await;
    let idle = UnixStream::connect(server.socket()).await.unwrap();
    let socket = server.socket();
    let asked = tokio::spawn(async move { ask(&socket, &trigger("shop")).await });
    let taken = server.wishes.recv().await.unwrap();
    server.stop.cancel();
    server.wishes.close();
    drop(taken);
    assert!(asked.await.unwrap().unwrap_err().message().contains("stopping"));
    server.served.await.unwrap();
    drop(idle);
}

#[tokio::test]
async fn the_socket_is_for_owner_and_group_and_a_stale_one_is_replaced() {
    let place = tempfile::tempdir().unwrap();
    let path = place.path().join("control.sock");
    drop(bind(&path).unwrap());
    let _listener = bind(&path).unwrap();
    assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o660);
    let file = place.path().join("file");
    std::fs::write(&file, "precious").unwrap();
    assert!(bind(&file).unwrap_err().hint_text().unwrap().contains("move it away"));
    assert_eq!(std::fs::read(&file).unwrap(), b"precious");
}

#[tokio::test]
async fn health_and_readiness_follow_the_loop_and_the_replicas() {
    let server = Server::start().await;
    let live = &server.live;
    assert!(live.is_healthy() && live.unready().is_some());
    for replica in ["frankfurt", "ireland"] {
        assert!(live.heard(&replica.parse().unwrap(), true));
    }
    assert!(live.unready().is_none() && !live.heard(&"ireland".parse().unwrap(), true));
    server.clock.advance(Duration::from_secs(61));
    assert!(!live.is_healthy());
    live.turned(crate::live::Turn::default());
    assert!(live.is_healthy());
    live.stop();
    assert_eq!(live.unready().as_deref(), Some("stopping"));
}
