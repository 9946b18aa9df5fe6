//! The application's own sessions count where a group's are bounded.

use crate::shop::{MEMBERS, Shop};

#[tokio::test(flavor = "multi_thread")]
async fn a_role_with_few_rights_counts_the_sessions_of_others_and_leaves_them_half() {
    let mut shop = Shop::open("").await;
    let role = "CREATE ROLE reader LOGIN; GRANT pg_read_all_data TO reader; GRANT SELECT ON pg_authid TO reader";
    shop.postgres.run_sql("postgres", role).await;
    shop.host.datasets[0] = shop.host.datasets[0].replace("user = \"postgres\"", "user = \"reader\"");
    shop.host.must("lifeboatd --log text --once shop").await;

    // The application takes all but six of the 97 that there are for it.
    let url = shop.postgres.url("shop");
    let psql = shop.postgres.programs().join("psql");
    let mut application: Vec<_> = (0..91)
        .map(|_| {
            let mut session = tokio::process::Command::new(&psql);
            session.args(["-X", "-q", "-c", "SELECT pg_sleep(600)", &url]).kill_on_drop(true).spawn().unwrap()
        })
        .collect();
    let count = "SELECT count(*) FROM pg_stat_activity WHERE query = 'SELECT pg_sleep(600)'";
    while shop.postgres.query("shop", count).await.trim() != "91" {
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    let failed = shop.host.shell("lifeboatd --log text --once shop").await;
    assert_eq!(failed.code(), Some(4), "{failed}");
    assert!(failed.stderr.contains("of the 3 databases of the server, and half of what is free"), "{failed}");
    assert_eq!((shop.snapshots(MEMBERS[0]).await, shop.snapshots(MEMBERS[1]).await), (1, 2));
    for session in &mut application {
        session.kill().await.unwrap();
    }
}
