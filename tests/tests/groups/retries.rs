//! A group of which a member goes on failing: the others do not pay for that without end.

use std::time::{Duration, Instant};

use chrono::{DateTime, Utc};

use crate::shop::{MEMBERS, Shop};

/// The schedule starts it within two minutes.
const DEADLINE: Duration = Duration::from_secs(150);
/// What `retry` of the members says.
const RETRY_SECONDS: f64 = 2.0;

#[tokio::test(flavor = "multi_thread")]
async fn a_group_that_goes_on_failing_is_tried_less_and_less_often() {
    // Soon, and then not before tomorrow.
    let soon = (Utc::now() + Duration::from_secs(75)).format("%M %H * * *");
    let mut shop = Shop::open(&format!("schedule = \"{soon}\"\ntime_zone = \"UTC\"\n")).await;
    for member in 0..MEMBERS.len() {
        shop.host.datasets[member].push_str(&format!("retry = \"{RETRY_SECONDS}s\"\n"));
    }
    std::fs::rename(shop.uploads(), shop.place.path().join("away")).unwrap();
    shop.host.start().await;
    let began = async || {
        let told = shop.host.must(&format!("lifeboat --json runs {}", MEMBERS[0])).await.json().unwrap();
        let runs = told["runs"].as_array().unwrap().clone();
        let mut began: Vec<(String, DateTime<Utc>)> = runs
            .iter()
            .map(|run| (run["start"].as_str().unwrap().to_owned(), run["began"].as_str().unwrap().parse().unwrap()))
            .collect();
        began.reverse();
        began
    };
    let waits = Instant::now();
    let mut runs = began().await;
    while runs.len() < 4 {
        assert!(waits.elapsed() < DEADLINE, "{runs:?}\n{}", shop.host.log());
        tokio::time::sleep(Duration::from_millis(500)).await;
        runs = began().await;
    }
    let starts: Vec<&str> = runs.iter().map(|(start, _)| start.as_str()).collect();
    assert_eq!(starts[..4], ["schedule", "retry", "retry", "retry"], "{runs:?}");
    let pauses: Vec<f64> = runs.windows(2).map(|two| (two[1].1 - two[0].1).as_seconds_f64()).collect();
    for (times, pause) in [1.0, 2.0, 4.0].iter().zip(&pauses) {
        assert!(*pause >= times * RETRY_SECONDS, "{pauses:?}");
    }
    // Whoever mends it need not wait for the next try.
    let status = shop.host.must("lifeboatd status").await;
    assert!(status.stdout.contains("dataset shop-db: tried again at "), "{status}");
    std::fs::rename(shop.place.path().join("away"), shop.uploads()).unwrap();
    shop.host.must("lifeboat trigger shop").await;
    let status = shop.host.must("lifeboatd status").await;
    assert!(!status.stdout.contains("tried again at "), "{status}");
}
