//! The loop itself, in this process, so that its replicas can be made slow.
#![allow(clippy::unwrap_used, clippy::disallowed_methods, reason = "tests")]

use lifeboat_engine::clock::SystemClock;
use lifeboat_engine::keys::{InitOptions, init};
use serde_json::Value;
use tempfile::TempDir;
use tokio::task::JoinHandle;

use super::*;
use crate::control::protocol::Request;
use crate::sample;
use crate::slow::Gate;
use lifeboat_engine::control::ask;

/// A daemon with one place, whose prunes can be held.
struct Slow {
    _place: TempDir,
    socket: PathBuf,
    daemon: JoinHandle<Result<()>>,
    gate: Arc<Gate>,
}

impl Drop for Slow {
    fn drop(&mut self) {
        self.daemon.abort();
    }
}

impl Slow {
    async fn start(datasets: &[&str]) -> Self {
        let (place, clock) = (tempfile::tempdir().unwrap(), SystemClock::shared());
        for replica in ["frankfurt", "ireland"] {
            std::fs::create_dir(place.path().join(replica)).unwrap();
        }
        let datasets: Vec<_> = datasets.iter().map(|name| (*name, "retention = { keep_last = 1 }")).collect();
        let text = sample::text(place.path(), sample::KEY, &datasets);
        let path = place.path().join("lifeboat.toml");
        std::fs::write(&path, text.replace("[limits]", "[limits]\nruns = 1")).unwrap();
        let config = Config::load(&path, &Surroundings::default()).unwrap();
        let replicas = config.open_replicas(&clock).await.unwrap();
        init(&config, &replicas, &InitOptions::default(), &clock).await.unwrap();
        let tools = lifeboat_engine::databases::registry::tool_environment(|name| std::env::var_os(name));
        let (socket, slow) = (config.control_socket.clone(), config.clone());
        let origin = Origin { path, surroundings: Surroundings::default(), tools };
        let daemon = Daemon::start(config, origin, clock.clone()).await.unwrap();
        let gate = Arc::<Gate>::default();
        let mut installation = Installation::open(slow, &clock).await.unwrap();
        installation.replicas = gate.before(&installation.replicas);
        daemon.live.install(Arc::new(installation));
        Self { _place: place, socket, daemon: tokio::spawn(daemon.run()), gate }
    }

    async fn ask(&self, request: Request) -> (Value, String) {
        tokio::time::timeout(Duration::from_secs(20), ask(&self.socket, &request)).await.unwrap().unwrap()
    }

    async fn trigger(&self, dataset: &str) -> Value {
        self.ask(Request::Trigger { dataset: dataset.parse().unwrap() }).await.0
    }

    /// Asks for a backup, and does not wait for it.
    fn begin(&self, dataset: &str) -> JoinHandle<Result<(Value, String)>> {
        let (socket, dataset) = (self.socket.clone(), dataset.parse().unwrap());
        tokio::spawn(async move { ask(&socket, &Request::Trigger { dataset }).await })
    }

    /// Waits until the status tells of a prune that is not the one that began at `before`. Returns
    /// when it began.
    async fn until_it_prunes(&self, before: &Value) -> Value {
        let told = async {
            loop {
                let status = self.ask(Request::Status {}).await.0;
                let since = &status["running"][0]["prunes_since"];
                if since.is_string() && since != before {
                    return since.clone();
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(20), told).await.unwrap()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_prune_takes_no_place_and_ends_when_its_dataset_is_wanted() {
    let slow = Slow::start(&["shop", "wiki"]).await;
    slow.trigger("shop").await;
    slow.gate.hold(&[("put", "/marks/"), ("delete", "")], 0);
    // Of two snapshots, one is to be marked.
    let first = slow.begin("shop");
    let since = slow.until_it_prunes(&Value::Null).await;
    let report = slow.trigger("wiki").await;
    assert!(report["pruned"].is_null() && report["deletion_stopped"].is_null(), "two prunes at once: {report}");
    let (status, _) = slow.ask(Request::Status {}).await;
    let shop = &status["running"][0];
    assert!(shop["dataset"] == "shop" && shop["prunes_since"].is_string(), "{status}");
    assert_eq!(shop["committing"], false, "its commit has ended");
    let (_, told) = slow.ask(Request::Status {}).await;
    assert!(told.contains("dataset shop: is backed up, and prunes since "), "{told}");
    let first_seen = &status["datasets"]["shop"]["first_seen"];
    assert!(first_seen.is_string(), "{status}");

    let second = slow.begin("shop");
    let (report, _) = first.await.unwrap().unwrap();
    assert!(report["pruned"].is_null() && report["deletion_stopped"].is_null(), "{report}");
    slow.until_it_prunes(&since).await;
    let (cancelled, told) = slow.ask(Request::Cancel { dataset: "shop".parse().unwrap() }).await;
    assert!(told.starts_with("the prune of shop was cancelled; its backup has ended before, as snapshot "), "{told}");
    let newer = second.await.unwrap().unwrap().0;
    assert!(cancelled["pruned_after"] == newer["snapshot"] && newer["snapshot"] != report["snapshot"], "{cancelled}");

    slow.gate.release();
    let report = slow.trigger("shop").await;
    assert!(report["pruned"]["marked_snapshots"] == 3 && report["deletion_stopped"].is_null(), "{report}");
    let (status, told) = slow.ask(Request::Status {}).await;
    assert!(status["running"] == serde_json::json!([]) && !told.contains("STOPPED"), "{told}");
}
