//! What a set-up finds of MariaDB servers on this machine, and the account that it makes there.

use lifeboat_engine::databases::{Look, registry};
use lifeboat_tests::mariadb::MariaDb;
use lifeboat_tests::work::context;

use super::scratch;

#[tokio::test(flavor = "multi_thread")]
async fn a_server_is_found_and_its_account_has_what_a_capture_needs_and_no_more() {
    let server = MariaDb::start().await;
    server.run_sql("", "CREATE DATABASE shop").await;
    let folder = scratch();
    std::os::unix::fs::symlink(server.socket(), folder.path().join("mysqld.sock")).unwrap();
    let look = Look { user: "lifeboat".to_owned(), places: vec![folder.path().to_owned()] };
    let cx = context(&scratch());
    let found = registry::find_here(&look, &cx).await;
    let socket = folder.path().join("mysqld.sock");
    let source = found.sources.iter().find(|source| source.place.as_ref() == Some(&socket));
    let source = source.unwrap_or_else(|| panic!("{found:?}"));
    // A set-up may be run again.
    for _ in 0..2 {
        registry::find(source.kind).unwrap().make_account(source, &cx).await.unwrap();
    }
    let grants = server.query("", "SHOW GRANTS FOR lifeboat@localhost").await;
    for right in ["SELECT", "SHOW VIEW", "TRIGGER", "EVENT", "SHOW DATABASES", "BINLOG MONITOR", "unix_socket"] {
        assert!(grants.contains(right), "{right}: {grants}");
    }
    for right in ["INSERT", "SUPER", "GRANT OPTION", "ALL PRIVILEGES", "DROP"] {
        assert!(!grants.contains(right), "{right}: {grants}");
    }
}
