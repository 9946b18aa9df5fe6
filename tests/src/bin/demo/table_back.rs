//! A chapter: somebody emptied a table, and nobody noticed for two days. When was that, what is
//! gone? And back it comes, into the shop that runs.

use lifeboat_tests::postgres::Postgres;
use serde_json::Value;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::stage::Stage;
use crate::{DATASET, Result, step};

/// The shop is small here: a table is the story.
const SCALE: f64 = 0.2;
const TABLE: &str = "shop.events";
const DAYS: usize = 5;
/// The day on which the table is emptied.
const BAD_DAY: usize = 3;
/// A sum over every row of the table, and of one that nobody may touch.
const EVENTS: &str = "SELECT count(*) || ' rows, ' || md5(string_agg(e::text, ',' ORDER BY id)) FROM shop.events e";
const ORDERS: &str = "SELECT count(*) || ' rows, ' || md5(string_agg(o::text, ',' ORDER BY id)) FROM shop.orders o";

pub(crate) async fn tell(stop: &CancellationToken) -> Result<()> {
    let begun = Instant::now();
    let stage = Stage::set(SCALE, stop).await?;
    let Stage { company, owner, backup_host, drill_host, .. } = &stage;
    let shop = company.shop();

    println!("The days");
    let mut before = String::new();
    for day in 1..=DAYS {
        let what = match day {
            BAD_DAY => "a colleague cleans up old events, and forgets the WHERE",
            _ => "business as usual",
        };
        step(stop, &format!("  day {day}: {what}; then a backup"), async {
            company.go_by().await;
            if day == BAD_DAY {
                shop.run_sql(DATASET, "DELETE FROM shop.events").await;
            }
            backup_host.back_up(&[DATASET], stop).await
        })
        .await?;
        if day + 1 == BAD_DAY {
            before = answer(shop, EVENTS).await;
        }
    }

    println!("The question");
    let sql = "SELECT count(*) > 1000 FROM shop.events";
    let search = ["bisect", DATASET, "--sql", sql, "--expect", "t"];
    let what = "  lifeboat bisect on the drill host: when had shop.events still more than 1000 rows?";
    let found = step(stop, what, drill_host.ask(&search, stop)).await?;
    let [good, bad] = ["last_good", "first_bad"].map(|key| found[key].as_str().unwrap_or_default().to_owned());
    let steps = found["steps"].as_array().map_or(0, Vec::len);
    println!("    {steps} of {} snapshots were restored; good until {good}, bad from {bad}", found["snapshots"]);
    let what = "  lifeboat diff --rows: what is missing in the first bad one?";
    let differ = step(stop, what, drill_host.ask(&["diff", DATASET, &good, &bad, "--rows"], stop)).await?;
    let tables = differ["tables"].as_array().ok_or("diff told no tables")?;
    let events = tables.iter().find(|table| names(&table["table"], TABLE)).ok_or("diff does not name the table")?;
    println!("    {TABLE}: {} rows removed, {} added", events["removed"], events["added"]);

    println!("The way back");
    let orders = answer(shop, ORDERS).await;
    let url = shop.url(DATASET);
    let words = ["--snapshot", &good, "--table", TABLE, "--overwrite", "--yes", "--to-postgres", &url];
    let what = "  lifeboat restore --table: into the shop that runs, in one transaction";
    step(stop, what, backup_host.restore(owner, &words, stop)).await?;
    let after = answer(shop, EVENTS).await;
    println!("    before the mistake: {before}\n    now:                {after}");

    println!("\nThe whole story took {:.0} s", begun.elapsed().as_secs_f64());
    if before.is_empty() || after != before {
        return Err(format!("{TABLE} is not as it was").into());
    }
    if answer(shop, ORDERS).await != orders {
        return Err("the restore changed orders, too".into());
    }
    println!("The table is as it was, and no other was touched.");
    Ok(())
}

async fn answer(shop: &Postgres, sql: &str) -> String {
    shop.query(DATASET, sql).await.trim().to_owned()
}

/// Whether the table that `diff` tells is this one: it may name the database first.
fn names(told: &Value, table: &str) -> bool {
    told.as_str().is_some_and(|told| told.ends_with(table))
}
