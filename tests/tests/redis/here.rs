//! What a set-up finds of Redis servers on this machine, and captures as it is told.

use lifeboat_engine::databases::{Look, registry};
use lifeboat_tests::redis::Redis;
use lifeboat_tests::work::context;

use super::{captured, scratch};

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_lets_everybody_in_is_found_and_one_with_a_password_is_told() {
    let (open, closed) = tokio::join!(Redis::start(), Redis::start_with(&["--requirepass", "secret"]));
    let folders = [scratch(), scratch()];
    for (server, folder) in [&open, &closed].into_iter().zip(&folders) {
        std::os::unix::fs::symlink(server.socket(), folder.path().join("redis-server.sock")).unwrap();
    }
    let places = folders.iter().map(|folder| folder.path().to_owned()).collect();
    let look = Look { user: "lifeboat".to_owned(), places };
    let found = registry::find_here(&look, &context(&scratch())).await;
    let socket = folders[0].path().join("redis-server.sock");
    let source = found.sources.iter().find(|source| source.place.as_ref() == Some(&socket));
    let source = source.unwrap_or_else(|| panic!("{found:?}"));
    assert!(source.account.is_none() && source.settings["socket"].as_str() == socket.to_str(), "{source:?}");
    let told = folders[1].path().display().to_string();
    assert!(found.unreached.iter().any(|of| of.contains(&told) && of.contains("password")), "{found:?}");
    assert!(!found.sources.iter().any(|of| of.place.as_ref().is_some_and(|at| at.starts_with(folders[1].path()))));
    // What was found can be captured as it is.
    open.run("SET a 1").await;
    assert!(captured(&open).await.streams.lock().unwrap().contains_key("dump"));
}
