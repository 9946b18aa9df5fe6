//! A chapter: Lifeboat's programs, hosts and keys are gone. With the owner's identity, a copy of
//! one bucket and the script that FORMAT.md prints, stock tools restore the shop.

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

use lifeboat_tests::postgres::Postgres;
use lifeboat_tests::recovery;
use lifeboat_tests::s3::Region;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::stage::Stage;
use crate::{DATASET, Result, step};

/// Small enough that each of its databases is one archive.
const SCALE: f64 = 0.2;
const ORDERS: &str = "SELECT count(*) || ' rows, ' || md5(string_agg(o::text, ',' ORDER BY id)) FROM shop.orders o";

pub(crate) async fn tell(stop: &CancellationToken) -> Result<()> {
    let begun = Instant::now();
    let Stage { north, south, company, owner, backup_host, drill_host, signer } = Stage::set(SCALE, stop).await?;
    step(stop, "  lifeboatd --once: a backup of the shop", backup_host.back_up(&[DATASET], stop)).await?;
    let before = answer(company.shop()).await;

    println!("The disaster");
    let place = tempfile::Builder::new().prefix("lifeboat-demo-").tempdir()?;
    let copy = place.path().join("copy");
    step(stop, "  somebody copies the bucket of eu-south-2, as `aws s3 sync` does", copied(&south, &copy)).await?;
    step(stop, "  both regions are gone, all machines, and Lifeboat with them; the safe is left", async {
        drop((north, south, company, backup_host, drill_host));
        Ok(())
    })
    .await?;

    println!("The way back");
    let out = place.path().join("recovered");
    let master = owner.master();
    let vault = copy.join("lifeboat");
    step(stop, "  bash recover.sh, printed in FORMAT.md: age, zstd, minisign, b3sum, python3", async {
        done(&recovery::recover(&vault, &master, &signer, DATASET, "latest", &out))
    })
    .await?;
    let server = step(stop, "  a new PostgreSQL server", async { Ok(Postgres::start().await) }).await?;
    step(stop, "  psql and pg_restore load what the script wrote", async {
        let (programs, url) = (server.programs(), server.url("postgres"));
        let globals = out.join("globals");
        done(&Command::new(programs.join("psql")).args(["-qX", "-d", &url, "-f"]).arg(globals).output()?)?;
        let mut load = Command::new(programs.join("pg_restore"));
        load.args(["--exit-on-error", "--create", "-d", &url]).arg(out.join("database").join(DATASET));
        done(&load.output()?)
    })
    .await?;
    let after = answer(&server).await;
    println!("    orders before: {before}\n    orders now:    {after}");
    println!("\nThe whole story took {:.0} s", begun.elapsed().as_secs_f64());
    if after != before {
        return Err("the orders are not as they were".into());
    }
    println!("The shop is back, and no program of ours took part.");
    Ok(())
}

async fn answer(server: &Postgres) -> String {
    server.query(DATASET, ORDERS).await.trim().to_owned()
}

fn done(output: &Output) -> Result<()> {
    if output.status.success() {
        return Ok(());
    }
    Err(format!("{}: {}", output.status, String::from_utf8_lossy(&output.stderr)).into())
}

/// Every object of the bucket, as a file.
async fn copied(region: &Region, copy: &Path) -> Result<()> {
    let client = region.client();
    let mut pages = client.list_objects_v2().bucket(region.bucket()).into_paginator().send();
    while let Some(page) = pages.next().await {
        for object in page?.contents() {
            let key = object.key().ok_or("an object has no key")?;
            let file = copy.join(key);
            fs::create_dir_all(file.parent().ok_or("a key has no parent")?)?;
            let got = client.get_object().bucket(region.bucket()).key(key).send().await?;
            fs::write(file, got.body.collect().await?.into_bytes())?;
        }
    }
    Ok(())
}
