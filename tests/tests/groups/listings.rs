//! What a worker lists for a drill of a group, when somebody breaks that off.

use std::time::Duration;

use lifeboat_engine::Result;
use lifeboat_engine::databases::{ListedItem, Listing, ThrowAway};
use lifeboat_engine::worker::protocol::DrillTools;
use lifeboat_tests::programs;
use lifeboat_tests::work::CapturedShop;
use tokio::sync::mpsc;

/// As long as a second listing of all numbers would take, or longer.
const SOON: Duration = Duration::from_secs(20);

fn values(sql: &str) -> Listing {
    Listing::Values { database: Some("shop".to_owned()), sql: sql.to_owned() }
}

/// Lists, and takes only so many batches.
async fn list(server: &mut dyn ThrowAway, sql: &str, most: usize) -> (Result<()>, Vec<ListedItem>) {
    let (to, mut from) = mpsc::channel(1);
    let taking = async move {
        let mut items = Vec::new();
        for _ in 0..most {
            let Some(batch) = from.recv().await else { break };
            items.extend(batch);
        }
        items
    };
    let listing = values(sql);
    tokio::join!(server.list(&listing, to), taking)
}

#[tokio::test(flavor = "multi_thread")]
async fn the_rest_of_a_listing_that_is_broken_off_answers_no_other_question() {
    let shop = CapturedShop::with("CREATE TABLE item (name text)").await;
    let tools = DrillTools { directories: vec![shop.from.programs().to_owned()], ..DrillTools::default() };
    let server =
        lifeboat_engine::worker::throw_away(&programs::worker(), &shop.streams, tools, &shop.cx).await.unwrap();
    let mut server = server.unwrap();
    server.load(&shop.streams).await.unwrap();
    // Nobody could wait for the end of this one.
    let endless = "SELECT repeat('x', 1000) || generate_series(1, 2000000000)";
    for batches in [0, 1, 3] {
        let began = std::time::Instant::now();
        let (told, items) = list(server.as_mut(), endless, batches).await;
        assert!(told.is_err() && items.len() >= batches && began.elapsed() < SOON, "{told:?} {:?}", began.elapsed());
        let (told, items) = list(server.as_mut(), "SELECT 'own'", 9).await;
        told.unwrap();
        assert_eq!(items, [Some(b"own".to_vec())], "after {batches} batches of the other");
    }
    // So does one that fails, or that gives nothing.
    assert!(list(server.as_mut(), "SELECT 1/0", 9).await.0.is_err());
    let (told, items) = list(server.as_mut(), "SELECT 'none' WHERE false", 9).await;
    assert!(told.is_ok() && items.is_empty(), "{told:?} {items:?}");
    assert!(server.check(&[]).await.is_ok_and(|checks| !checks.is_empty()));
    server.stop().await.unwrap();
}
