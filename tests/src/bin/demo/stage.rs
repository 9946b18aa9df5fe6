//! Where each chapter begins: two regions, a company in one of them, and three machines with keys.

use lifeboat_tests::s3::Region;
use tokio_util::sync::CancellationToken;

use crate::company::Company;
use crate::hosts::{BackupHost, DrillHost, Owner};
use crate::{NORTH, Result, SOUTH, step};

/// Everything that the story needs, running.
pub(crate) struct Stage {
    pub(crate) north: Region,
    pub(crate) south: Region,
    pub(crate) company: Company,
    pub(crate) owner: Owner,
    pub(crate) backup_host: BackupHost,
    pub(crate) drill_host: DrillHost,
    /// The public key that signs snapshots.
    pub(crate) signer: String,
}

impl Stage {
    /// Starts the servers, fills the databases, and makes all keys. `shop_scale` 1.0 is a shop of
    /// some 200 MB.
    pub(crate) async fn set(shop_scale: f64, stop: &CancellationToken) -> Result<Self> {
        println!("The machines");
        let north =
            step(stop, "  region eu-north-1: an S3 server with TLS", async { Ok(Region::start(NORTH).await) }).await?;
        let south = step(stop, "  region eu-south-2: another", async { Ok(Region::start(SOUTH).await) }).await?;
        let company = step(stop, "  PostgreSQL, MariaDB and Redis servers in eu-north-1", Company::start()).await?;
        let filled = format!(
            "  a shop of some {:.0} MB, a forum, sessions, a wiki (SQLite), and uploads (files)",
            200.0 * shop_scale
        );
        step(stop, &filled, company.fill(shop_scale)).await?;

        println!("The keys");
        let owner =
            step(stop, "  lifeboat owner init: the owner's keys; they go into the safe", Owner::prepare(stop)).await?;
        let backup_host = BackupHost::prepare(&owner, &company, [&north, &south])?;
        let made = step(stop, "  lifeboat init: vault, keyring, host keys", backup_host.init(stop)).await?;
        step(stop, "  lifeboat owner sign, root install: who is trusted, signed by the owner", async {
            let request = made["request"].as_str().ok_or("init did not print a request")?;
            backup_host.install(&owner.sign(request, stop).await?, stop).await
        })
        .await?;
        let drill_host = DrillHost::prepare(&owner, &backup_host, &company, [&north, &south])?;
        step(stop, "  lifeboat check: both regions answer and keep what they promise", backup_host.check(stop)).await?;
        let signer = made["signer"].as_str().ok_or("init did not tell the signer")?.to_owned();
        Ok(Self { north, south, company, owner, backup_host, drill_host, signer })
    }
}
