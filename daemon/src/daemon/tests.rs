//! The loop itself, in this process, so that its replicas can be made slow.
#![allow(clippy::unwrap_used, reason = "tests")]

use async_trait::async_trait;
use bytes::Bytes;
use lifeboat_engine::clock::SystemClock;
use lifeboat_engine::keys::{InitOptions, init};
use lifeboat_engine::store::{ObjectMeta, Page, Probe, Replica, ReplicaError, SharedReplica};
use serde_json::Value;
use tempfile::TempDir;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::*;
use crate::control::client::ask;
use crate::control::protocol::Request;
use crate::sample;

/// While it is held, it neither takes marks of a prune nor deletes.
#[derive(Debug)]
struct SlowReplica {
    inner: SharedReplica,
    held: watch::Receiver<bool>,
}

impl SlowReplica {
    async fn wait(&self) {
        self.held.clone().wait_for(|held| !held).await.unwrap();
    }
}

#[async_trait]
impl Replica for SlowReplica {
    fn name(&self) -> &Name {
        self.inner.name()
    }

    fn region(&self) -> &str {
        self.inner.region()
    }

    async fn put_new(&self, key: &str, body: Bytes) -> Result<(), ReplicaError> {
        if key.contains("/marks/") {
            self.wait().await;
        }
        self.inner.put_new(key, body).await
    }

    async fn put_replace(&self, key: &str, body: Bytes) -> Result<(), ReplicaError> {
        self.inner.put_replace(key, body).await
    }

    async fn get(&self, key: &str, limit: u64) -> Result<Bytes, ReplicaError> {
        self.inner.get(key, limit).await
    }

    async fn head(&self, key: &str) -> Result<Option<ObjectMeta>, ReplicaError> {
        self.inner.head(key).await
    }

    async fn list_page(&self, prefix: &str, next: Option<&str>) -> Result<Page, ReplicaError> {
        self.inner.list_page(prefix, next).await
    }

    async fn delete(&self, key: &str) -> Result<(), ReplicaError> {
        self.wait().await;
        self.inner.delete(key).await
    }

    async fn probe(&self, write: bool) -> Result<Probe, ReplicaError> {
        self.inner.probe(write).await
    }
}

/// A daemon with one place, whose prunes can be held.
struct Slow {
    _place: TempDir,
    socket: PathBuf,
    daemon: JoinHandle<Result<()>>,
    hold: watch::Sender<bool>,
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
        let (hold, held) = watch::channel(false);
        let mut installation = Installation::open(slow, &clock).await.unwrap();
        let slowed = |inner: &SharedReplica| -> SharedReplica {
            Arc::new(SlowReplica { inner: inner.clone(), held: held.clone() })
        };
        installation.replicas = installation.replicas.iter().map(slowed).collect();
        daemon.live.install(Arc::new(installation));
        Self { _place: place, socket, daemon: tokio::spawn(daemon.run()), hold }
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

    /// Waits until the status tells `text`.
    async fn until(&self, text: &str) {
        let told = async {
            while !self.ask(Request::Status {}).await.1.contains(text) {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(20), told).await.unwrap_or_else(|_| panic!("it never tells: {text}"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_prune_takes_no_place_and_ends_when_its_dataset_is_wanted() {
    let slow = Slow::start(&["shop", "wiki"]).await;
    slow.trigger("shop").await;
    slow.hold.send(true).unwrap();
    // Of two snapshots, one is to be marked.
    let first = slow.begin("shop");
    slow.until("dataset shop: is backed up, and prunes since ").await;
    let report = slow.trigger("wiki").await;
    assert!(report["pruned"].is_null() && report["deletion_stopped"].is_null(), "two prunes at once: {report}");
    let (status, _) = slow.ask(Request::Status {}).await;
    let shop = &status["running"][0];
    assert!(shop["dataset"] == "shop" && shop["prunes_since"].is_string(), "{status}");
    assert_eq!(shop["committing"], false, "its commit has ended");

    let second = slow.begin("shop");
    let (report, _) = first.await.unwrap().unwrap();
    assert!(report["pruned"].is_null() && report["deletion_stopped"].is_null(), "{report}");
    slow.until("dataset shop: is backed up, and prunes since ").await;
    let (cancelled, told) = slow.ask(Request::Cancel { dataset: "shop".parse().unwrap() }).await;
    assert!(told.starts_with("the prune of shop was cancelled; its backup has ended before, as snapshot "), "{told}");
    let newer = second.await.unwrap().unwrap().0;
    assert!(cancelled["pruned_after"] == newer["snapshot"] && newer["snapshot"] != report["snapshot"], "{cancelled}");

    slow.hold.send(false).unwrap();
    let report = slow.trigger("shop").await;
    assert!(report["pruned"]["marked_snapshots"] == 3 && report["deletion_stopped"].is_null(), "{report}");
    let (status, told) = slow.ask(Request::Status {}).await;
    assert!(status["running"] == serde_json::json!([]) && !told.contains("STOPPED"), "{told}");
}
