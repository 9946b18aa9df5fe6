//! The chapters of the demonstration beside the first, which `make demo` runs.
#![allow(clippy::unwrap_used)]

use std::time::Duration;

use lifeboat_tests::programs;
use tokio::process::Command;

const DEADLINE: Duration = Duration::from_secs(300);

/// What a chapter says to the end.
async fn told(chapter: &str) -> String {
    let mut demo = Command::new(programs::directory().join("demo"));
    let output = programs::run(demo.arg(chapter), DEADLINE).await.unwrap();
    assert!(output.status.success(), "{output}");
    output.stdout
}

#[tokio::test]
async fn a_table_comes_back_into_the_shop_that_runs() {
    let told = told("table-back").await;
    assert!(told.contains("3 of 5 snapshots were restored"), "{told}");
    assert!(told.ends_with("The table is as it was, and no other was touched.\n"), "{told}");
}

#[tokio::test]
async fn stock_tools_recover_the_shop() {
    let told = told("stock-tools").await;
    assert!(told.ends_with("The shop is back, and no program of ours took part.\n"), "{told}");
}

#[tokio::test]
async fn a_chapter_that_is_not_there_is_told_with_those_that_are() {
    let mut demo = Command::new(programs::directory().join("demo"));
    let output = programs::run(demo.arg("nothing"), DEADLINE).await.unwrap();
    assert_eq!(output.code(), Some(2));
    for chapter in ["region-loss", "table-back", "stock-tools"] {
        assert!(output.stderr.contains(chapter), "{}", output.stderr);
    }
}
