//! A region that counts as gone: which replicas are left, and that none of them would be lost, too.

use std::collections::BTreeSet;
use std::net::SocketAddr;

use chrono::{DateTime, Utc};
use lifeboat_engine::config::{Config, ReplicaConfig, ReplicaKind};
use lifeboat_engine::format::id::Name;
use lifeboat_engine::{Error, Result};

/// A region that counts as gone.
pub(super) struct LostRegion {
    pub(super) region: String,
    /// The moment of the loss.
    pub(super) at: DateTime<Utc>,
    /// The replicas that are lost with it.
    pub(super) lost: Vec<Name>,
    /// The replicas elsewhere.
    pub(super) left: Vec<Name>,
    /// Held by whoever writes into the log.
    pub(super) recording: tokio::sync::Mutex<()>,
}

impl LostRegion {
    /// The region, and its replicas.
    ///
    /// # Errors
    /// It has none, nothing is left, or what is left is reached by an address of the region.
    pub(super) async fn of(region: &str, at: DateTime<Utc>, config: &Config) -> Result<Self> {
        let (lost, left): (Vec<&ReplicaConfig>, Vec<&ReplicaConfig>) =
            config.replicas.iter().partition(|replica| replica.region == region);
        if lost.is_empty() {
            let regions: BTreeSet<&str> = config.replicas.iter().map(|replica| replica.region.as_str()).collect();
            let regions: Vec<&str> = regions.into_iter().collect();
            return Err(Error::usage(format!("no replica is in region {region}"))
                .hint(format!("the replicas of this configuration are in: {}", regions.join(", "))));
        }
        if left.is_empty() {
            return Err(Error::configuration(format!("every replica that this host knows is in {region}"))
                .hint("list the replicas elsewhere in the configuration of this drill host, or add one"));
        }
        let mut gone = Vec::new();
        for replica in &lost {
            gone.push((replica, Addresses::of(replica).await));
        }
        for replica in &left {
            let addresses = Addresses::of(replica).await;
            if let Some((other, _)) = gone.iter().find(|(_, gone)| addresses.meets(gone)) {
                return Err(Error::configuration(format!(
                    "replica {} is reached by an address of {}, which is in {region}: it would be lost with it",
                    replica.name, other.name
                ))
                .hint("give each region an endpoint of its own"));
            }
        }
        let names = |replicas: &[&ReplicaConfig]| replicas.iter().map(|replica| replica.name.clone()).collect();
        let (lost, left) = (names(&lost), names(&left));
        Ok(Self { region: region.to_owned(), at, lost, left, recording: tokio::sync::Mutex::new(()) })
    }
}

/// How a replica is reached.
#[derive(Debug, Default)]
struct Addresses {
    /// Host and port.
    name: Option<(String, u16)>,
    /// What the name leads to, as far as it leads anywhere now.
    resolved: Vec<SocketAddr>,
}

impl Addresses {
    async fn of(replica: &ReplicaConfig) -> Self {
        let ReplicaKind::S3(s3) = &replica.kind else { return Self::default() };
        let name = match &s3.endpoint {
            Some(url) => url.host_str().zip(url.port_or_known_default()).map(|(host, port)| (host.to_owned(), port)),
            None => Some((format!("s3.{}.amazonaws.com", replica.region), 443)),
        };
        let resolved = match &name {
            Some((host, port)) => tokio::net::lookup_host((host.as_str(), *port)).await.map(Iterator::collect),
            None => Ok(Vec::new()),
        };
        Self { name, resolved: resolved.unwrap_or_default() }
    }

    fn meets(&self, other: &Self) -> bool {
        let same_name = self.name.is_some() && self.name == other.name;
        same_name || self.resolved.iter().any(|address| other.resolved.contains(address))
    }
}
