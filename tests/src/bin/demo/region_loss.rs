//! The first chapter: a company's databases are backed up to two regions, one region is lost, the
//! other restores all of them, and drills prove the restored ones equal.
//!
//! Writes `target/demo/report.json` and `target/demo/region-loss.html`.

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::evidence::{self, Evidence};
use crate::stage::Stage;
use crate::{DATASET, NORTH, Result, SOUTH, step};

pub(crate) async fn tell(stop: &CancellationToken) -> Result<()> {
    let begun = Instant::now();
    let Stage { mut north, south, company, backup_host, drill_host, owner: _owner, .. } = Stage::set(1.0, stop).await?;

    let page = step(stop, "  lifeboat status: what an operator sees first", backup_host.status(&[], stop)).await?;
    println!("    {}", page.trim_end().replace('\n', "\n    "));

    println!("The backups");
    step(stop, "  lifeboatd --once: the first backup, to both regions at once", backup_host.back_up(&[], stop)).await?;
    let first = evidence::stored_bytes(&south, DATASET).await?;
    step(stop, "  a business day goes by in the shop", async {
        company.go_by().await;
        Ok(())
    })
    .await?;
    step(
        stop,
        "  lifeboatd --once: the second backup, what is known is not stored again",
        backup_host.back_up(&[], stop),
    )
    .await?;
    let second = evidence::stored_bytes(&south, DATASET).await? - first;

    let status = step(stop, "  lifeboat status: all at a glance", backup_host.status(&["--json"], stop)).await?;
    let status: serde_json::Value = serde_json::from_str(&status)?;
    let sentence = status["sentence"].as_str().ok_or("status said nothing")?;
    println!("    {}", evidence::lines(sentence, 94).join("\n    "));

    println!("The disaster");
    step(stop, "  region eu-north-1 is killed, and all of the company's servers with it", async {
        north.kill();
        drop(company);
        Ok(())
    })
    .await?;

    println!("The proof");
    let drill = step(
        stop,
        "  lifeboat drill on a host with the drill identity alone: restore, check, dump, compare",
        drill_host.drill(stop),
    )
    .await?;

    let page = evidence::directory()?.join("region-loss.html");
    let loss = step(
        stop,
        "  lifeboat drill --region-loss eu-north-1: everything, from the region that is left",
        drill_host.rehearse(NORTH, &page, stop),
    )
    .await?;

    let evidence = Evidence { drill, loss, dead: NORTH, alive: SOUTH, first, second, total: begun.elapsed() };
    let file = evidence.write()?;
    println!(
        "\n{evidence}\nThe whole story took {:.0} s; the reports are {} and {}",
        begun.elapsed().as_secs_f64(),
        evidence::from_here(&file).display(),
        evidence::from_here(&page).display()
    );
    evidence.verdict()
}
