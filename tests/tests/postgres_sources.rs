//! Servers that are odd, but healthy: standbys, roles that may not see everything, databases that
//! cannot be dumped, and names that somebody chose to break a backup.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::time::{Duration, Instant};

use async_trait::async_trait;
use lifeboat_engine::databases::postgres::{PostgresConfig, PostgresConnection, PostgresSource};
use lifeboat_engine::databases::streams::{StoredStreams, StreamSink, StreamWriter};
use lifeboat_engine::databases::{Source, Target, Wanted, load};
use lifeboat_engine::{Class, Error, Result};
use lifeboat_tests::host::BackupHost;
use lifeboat_tests::postgres::Postgres;
use lifeboat_tests::streams::MemoryStreams;
use lifeboat_tests::work::{CapturedShop, context, source, throw_away, try_captured};
use tempfile::TempDir;
use tokio::sync::watch;

/// Loads, checks and proves what was captured.
async fn assert_proved(streams: &MemoryStreams) {
    let place = TempDir::new().unwrap();
    let cx = context(&place);
    let mut restored = throw_away(&streams.facts, &[], &cx).await;
    restored.load(streams).await.unwrap();
    for check in restored.check(&[]).await.unwrap() {
        assert!(check.passed, "{}: {}", check.check, check.detail);
    }
    let proof = restored.prove(streams).await.unwrap();
    assert!(proof.is_equal(), "{:?}", proof.differences);
    restored.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_standby_warns_of_unlogged_tables_and_is_proved_without_their_rows() {
    let primary = Postgres::start().await;
    primary.create_database("App").await;
    primary
        .run_sql(
            "App",
            "CREATE UNLOGGED TABLE ul (a serial); INSERT INTO ul DEFAULT VALUES;
             CREATE TABLE kept (a int); INSERT INTO kept VALUES (1), (2);",
        )
        .await;
    let standby = Postgres::standby_of(&primary).await;
    for large_table in [u64::MAX, 0] {
        let place = TempDir::new().unwrap();
        let streams = try_captured(source(&standby, large_table), &context(&place)).await.unwrap();
        let told = streams.facts.warnings.iter().find(|warning| warning.contains("unlogged tables"));
        assert!(told.is_some_and(|told| told.contains("public.ul")), "{:?}", streams.facts.warnings);
        assert_proved(&streams).await;
    }
    // The primary has these rows, and they are backed up without a warning.
    let place = TempDir::new().unwrap();
    let streams = try_captured(source(&primary, u64::MAX), &context(&place)).await.unwrap();
    assert!(streams.facts.warnings.is_empty(), "{:?}", streams.facts.warnings);
    assert_proved(&streams).await;
}

/// Takes the bytes of databases only once it is told to.
struct Held(MemoryStreams, watch::Receiver<bool>);

struct HeldWriter(Box<dyn StreamWriter>, watch::Receiver<bool>);

impl StreamSink for Held {
    fn open(&self, name: &str) -> Result<Box<dyn StreamWriter>> {
        let writer = StreamSink::open(&self.0, name)?;
        Ok(if name == "globals" { writer } else { Box::new(HeldWriter(writer, self.1.clone())) })
    }
}

#[async_trait]
impl StreamWriter for HeldWriter {
    async fn space(&mut self) -> Result<&mut [u8]> {
        self.1.wait_for(|goes_on| *goes_on).await.unwrap();
        self.0.space().await
    }

    async fn filled(&mut self, length: usize) -> Result<()> {
        self.0.filled(length).await
    }

    async fn finish(self: Box<Self>, exit: i32) -> Result<()> {
        self.0.finish(exit).await
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_standby_that_cancels_the_dump_says_what_would_keep_it_from_that() {
    let primary = Postgres::start().await;
    primary.create_database("shop").await;
    let rows = "CREATE TABLE long AS SELECT n, repeat(md5(n::text), 40) FROM generate_series(1, 50000) n";
    primary.run_sql("shop", rows).await;
    let standby = Postgres::standby_of(&primary).await;
    for set in ["hot_standby_feedback = off", "max_standby_streaming_delay = '10ms'"] {
        standby.run_sql("postgres", &format!("ALTER SYSTEM SET {set}")).await;
    }
    standby.run_sql("postgres", "SELECT pg_reload_conf()").await;
    let place = TempDir::new().unwrap();
    let cx = context(&place);
    let config = PostgresConfig { databases: vec!["shop".to_owned()], ..source(&standby, u64::MAX) };
    let found = PostgresSource(config.clone()).check(&cx).await;
    assert!(found.weak.iter().any(|weak| weak.contains("longer than 10ms: set hot_standby_feedback")), "{found:?}");

    // The table is under way when its old rows go.
    let (go_on, held) = watch::channel(false);
    let sink = Held(MemoryStreams::default(), held);
    let capture = tokio::spawn(async move { PostgresSource(config).capture(&sink, &cx).await });
    let sends =
        "SELECT count(*) FROM pg_stat_activity WHERE query LIKE 'COPY public.long %' AND wait_event = 'ClientWrite'";
    let began = Instant::now();
    while standby.query("postgres", sends).await.trim() != "1" {
        assert!(began.elapsed() < Duration::from_secs(30) && !capture.is_finished(), "the dump does not begin");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    primary.run_sql("shop", "DELETE FROM long").await;
    primary.run_sql("shop", "VACUUM long").await;
    let written = primary.query("postgres", "SELECT pg_current_wal_lsn()").await;
    let received = format!("SELECT pg_last_wal_receive_lsn() >= '{}'", written.trim());
    while standby.query("postgres", &received).await.trim() != "t" {
        assert!(began.elapsed() < Duration::from_secs(60), "the standby receives nothing");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    tokio::time::sleep(Duration::from_secs(1)).await;
    go_on.send(true).unwrap();
    let error = capture.await.unwrap().unwrap_err();
    assert!(error.chain().contains("conflict with recovery"), "{}", error.chain_and_hint());
    assert!(error.hint_text().is_some_and(|hint| hint.contains("hot_standby_feedback = on")), "{error:?}");

    standby.run_sql("postgres", "ALTER SYSTEM SET hot_standby_feedback = on").await;
    standby.run_sql("postgres", "SELECT pg_reload_conf()").await;
    let place = TempDir::new().unwrap();
    let found = PostgresSource(source(&standby, u64::MAX)).check(&context(&place)).await;
    assert!(found.weak.iter().all(|weak| !weak.contains("standby")), "{found:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn extensions_that_a_server_lacks_are_named_before_a_row_is_loaded() {
    // Only its name in the catalog says which one it is.
    let shop = CapturedShop::with(
        "CREATE EXTENSION hstore; CREATE EXTENSION citext; CREATE TABLE kept AS SELECT 1 AS n;
         SET allow_system_table_mods = on;
         UPDATE pg_extension SET extname = 'vector' WHERE extname = 'hstore';
         UPDATE pg_extension SET extname = 'we need; rm' WHERE extname = 'citext';",
    )
    .await;
    let major = shop.streams.facts.server_version.as_deref().and_then(|version| version.split('.').next()).unwrap();
    let judge = |error: Error| {
        let said = error.chain_and_hint();
        assert!(
            said.contains("database shop uses extensions that the server does not have: vector, we need; rm"),
            "{said}"
        );
        assert!(said.contains(&format!("apt install postgresql-{major}-pgvector postgresql-{major}-…")), "{said}");
        assert_eq!(error.class(), Class::Source);
    };
    let mut drill = throw_away(&shop.streams.facts, &[], &shop.cx).await;
    judge(drill.load(&shop.streams).await.unwrap_err());
    drill.stop().await.unwrap();
    judge(shop.restored(Wanted::default()).await.unwrap_err());
    assert_eq!(shop.to.query("postgres", "SELECT count(*) FROM pg_database WHERE datname = 'shop'").await.trim(), "0");
    // Whoever asks for the rest gets it.
    let outcome = shop.restored(Wanted { keep_going: true, ..Wanted::default() }).await.unwrap();
    assert!(outcome.failures.iter().any(|failure| failure.class == "missing_software"), "{:?}", outcome.failures);
    assert_eq!(shop.to.query("shop", "SELECT n FROM kept").await.trim(), "1");
}

#[tokio::test(flavor = "multi_thread")]
async fn options_that_the_role_cannot_see_are_a_warning() {
    let server = Postgres::start().await;
    server.create_database("shop").await;
    let sql = "CREATE ROLE lifeboat LOGIN PASSWORD 'x'; GRANT pg_read_all_data TO lifeboat; CREATE ROLE joe LOGIN;
        CREATE EXTENSION postgres_fdw; CREATE SERVER far FOREIGN DATA WRAPPER postgres_fdw;
        CREATE SERVER plain FOREIGN DATA WRAPPER postgres_fdw;
        CREATE USER MAPPING FOR postgres SERVER far OPTIONS (user 'u', password 'hunter2');
        CREATE USER MAPPING FOR postgres SERVER plain;
        ALTER ROLE ALL SET work_mem = '8MB';";
    server.run_sql("shop", sql).await;
    let as_role = |role: &str| {
        let PostgresConnection::Socket { directory, port, .. } = server.connection() else { panic!("a socket") };
        let connection = PostgresConnection::Socket { directory, port, user: Some(role.to_owned()) };
        PostgresConfig { connection, databases: vec!["shop".to_owned()], ..source(&server, u64::MAX) }
    };
    let place = TempDir::new().unwrap();
    let streams = try_captured(as_role("lifeboat"), &context(&place)).await.unwrap();
    let warnings = streams.facts.warnings.join("\n");
    assert!(warnings.contains("user mappings") && warnings.contains("of servers far"), "{warnings}");
    assert!(!warnings.contains("plain") && !warnings.contains("hunter2"), "{warnings}");
    assert!(warnings.contains("ALTER ROLE ALL"), "{warnings}");
    // pg_read_all_data covers the hashes of passwords.
    let globals = String::from_utf8(streams.streams.lock().unwrap()["globals"].0.clone()).unwrap();
    assert!(globals.contains("SCRAM-SHA-256"), "the password of the role is missing");
    assert_proved(&streams).await;
    let streams = try_captured(as_role("postgres"), &context(&place)).await.unwrap();
    let warnings = streams.facts.warnings.join("\n");
    assert!(!warnings.contains("user mappings") && !warnings.contains("owners"), "{warnings}");

    // Those that a dump holds are not told.
    server
        .run_sql(
            "shop",
            "CREATE ROLE owner; ALTER FUNCTION pg_catalog.lo_export(oid, text) OWNER TO owner;
             ALTER SCHEMA public OWNER TO owner; SELECT lo_create(77); ALTER LARGE OBJECT 77 OWNER TO owner;
             CREATE TABLE owned (a int); ALTER TABLE owned OWNER TO owner;",
        )
        .await;
    let streams = try_captured(as_role("postgres"), &context(&place)).await.unwrap();
    let told = streams.facts.warnings.iter().find(|warning| warning.contains("the server's own objects")).unwrap();
    assert!(told.ends_with(": function pg_catalog.lo_export(pg_catalog.oid,pg_catalog.text) (of owner)"), "{told}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_configured_database_that_cannot_be_dumped_is_refused_for_the_true_reason() {
    let server = Postgres::start().await;
    server.create_database("frozen").await;
    server.create_database("tmpl").await;
    server
        .run_sql("postgres", "ALTER DATABASE tmpl IS_TEMPLATE true; ALTER DATABASE frozen ALLOW_CONNECTIONS false")
        .await;
    for (name, said) in [
        ("tmpl", "is a template"),
        ("frozen", "accepts no connections"),
        ("nowhere", "the server has no database `nowhere`"),
    ] {
        let place = TempDir::new().unwrap();
        let wanted = PostgresConfig { databases: vec![name.to_owned()], ..source(&server, u64::MAX) };
        let error = try_captured(wanted, &context(&place)).await.err().unwrap();
        assert!(error.message().contains(said), "{name}: {error:?}");
        assert!(error.hint_text().is_some(), "{name}: {error:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_lets_nobody_in_is_skipped_loudly_and_the_others_are_backed_up() {
    let server = Postgres::start().await;
    server.create_database("shop").await;
    server.create_database("trap\n").await;
    server
        .run_sql(
            "shop",
            "CREATE TABLE t AS SELECT 1 AS n; CREATE ROLE lifeboat LOGIN; GRANT pg_read_all_data TO lifeboat;
             REVOKE CONNECT ON DATABASE \"trap\n\" FROM PUBLIC;",
        )
        .await;
    let source = |host: &str, databases: &str| {
        format!("kind = \"postgres\"\nsocket = \"{host}\"\nuser = \"lifeboat\"\ndatabases = [{databases}]")
    };
    let PostgresConnection::Socket { directory, .. } = server.connection() else { panic!("a socket") };
    let (at, place) = (directory.display().to_string(), TempDir::new().unwrap());
    let replica = format!(
        "[[replica]]\nname = \"near\"\nkind = \"directory\"\nregion = \"near\"\npath = \"{}\"\n",
        place.path().join("near").display()
    );
    std::fs::create_dir(place.path().join("near")).unwrap();
    let host = BackupHost::set_up(std::slice::from_ref(&replica), &source(&at, "")).await;
    let (run, _) = host.once().await;
    assert_eq!(run.status.code(), Some(9), "{}", run.stderr);
    assert!(run.stderr.contains("is partial") && run.stderr.contains("PARTIAL: lacks 1 database"), "{}", run.stderr);
    let shown = host.lifeboat(&["--json", "show", "data", "latest"]).await.json().unwrap();
    assert_eq!(shown["source"]["skipped"], serde_json::json!(["trap\n"]), "{shown}");
    let streams = shown["streams"].to_string();
    assert!(streams.contains("database/shop") && !streams.contains("trap"), "{streams}");

    // A drill and a restore of everything say so, too.
    let master = host.master().display().to_string();
    let drill = host.lifeboat(&["-i", &master, "drill", "data", "--no-publish"]).await;
    assert!(drill.status.success(), "{}", drill.stderr);
    let first = "Drill of data: PROVED, PARTIAL: the snapshot lacks database trap\\n\n";
    assert!(drill.stdout.starts_with(first), "{}", drill.stdout);
    let out = place.path().join("out").display().to_string();
    let restore = host.lifeboat(&["-i", &master, "--json", "restore", "data", "--to-directory", &out]).await;
    let said = &restore.json().unwrap()["warnings"][0];
    assert_eq!(said, "the snapshot is PARTIAL: it lacks database trap\\n", "{}", restore.stdout);

    // If no database can be read, there is no snapshot.
    host.configure(1, &[replica], &source(&at, "\"trap\\n\"")).await;
    let (run, _) = host.once().await;
    assert_eq!(run.status.code(), Some(4), "{}", run.stderr);
}

/// Whoever may create a database chooses its name.
const NAMES: [&str; 12] = [
    "line\nbreak",
    "ends in one\n",
    "return\r",
    "tab\t, unit\u{1f}, bell\u{7}",
    "../../etc/cron.d/x",
    "..",
    " \u{85}\u{202e} ",
    "it's \"quoted\" = \\ %2F $(touch x)",
    "dbname=postgres host=/nowhere",
    "-d",
    "\\connect",
    "üüüüüüüüüüüüüüüüüüüüüüüüüüüüüüü",
];

#[tokio::test(flavor = "multi_thread")]
async fn no_name_of_a_database_breaks_a_backup_a_drill_or_a_restore() {
    let server = Postgres::start().await;
    for name in NAMES {
        server.create_database(name).await;
        server
            .run_sql(
                name,
                "CREATE SCHEMA \"s\u{1f}\n\"; CREATE TABLE \"s\u{1f}\n\".\"../t\u{7}\r\n\" AS SELECT 7 AS \"c\n,\u{1f}\";
                 CREATE TABLE plain AS SELECT 1 AS n",
            )
            .await;
    }
    for large_table in [u64::MAX, 0] {
        let place = TempDir::new().unwrap();
        let cx = context(&place);
        let streams = try_captured(source(&server, large_table), &cx).await.unwrap();
        assert!(streams.facts.warnings.is_empty(), "{:?}", streams.facts.warnings);
        assert_proved(&streams).await;

        let out = place.path().join("out");
        let target = Target::Directory { path: out.join("deep"), overwrite: false, sync: false };
        let written = load(&streams, &target, &cx).await.unwrap().written;
        assert_eq!(written.len(), streams.names().len());
        let beside: Vec<_> = std::fs::read_dir(&out).unwrap().flatten().map(|entry| entry.file_name()).collect();
        assert_eq!(beside, ["deep"], "something was written outside");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_is_backed_up_even_if_the_role_may_not_ask_what_a_dump_leaves_out() {
    let server = Postgres::start().await;
    server.run_sql("postgres", "CREATE ROLE lifeboat LOGIN; GRANT SELECT ON pg_user_mapping TO lifeboat").await;
    for database in ["mapped", "silent"] {
        server.create_database(database).await;
        server
            .run_sql(
                database,
                "CREATE TABLE t AS SELECT 1 AS n; GRANT SELECT ON t TO lifeboat;
                 CREATE EXTENSION postgres_fdw; CREATE SERVER far FOREIGN DATA WRAPPER postgres_fdw;",
            )
            .await;
    }
    server.run_sql("mapped", "CREATE USER MAPPING FOR postgres SERVER far OPTIONS (user 'u')").await;
    server.run_sql("silent", "DROP SERVER far; REVOKE SELECT ON pg_user_mappings FROM PUBLIC").await;
    let PostgresConnection::Socket { directory, port, .. } = server.connection() else { panic!("a socket") };
    let connection = PostgresConnection::Socket { directory, port, user: Some("lifeboat".to_owned()) };
    let databases = ["mapped", "silent"].map(str::to_owned).to_vec();
    let place = TempDir::new().unwrap();
    let wanted = PostgresConfig { connection, databases, ..source(&server, u64::MAX) };
    let streams = try_captured(wanted, &context(&place)).await.unwrap();
    assert_eq!(streams.facts.skipped, [""; 0]);
    for (database, said) in [("mapped", "options of user mappings"), ("silent", "cannot be told")] {
        let told = streams.facts.warnings.iter().any(|warning| warning.contains(database) && warning.contains(said));
        assert!(told, "{database}: {:?}", streams.facts.warnings);
        assert!(streams.streams.lock().unwrap().contains_key(&format!("database/{database}")), "{database}");
    }
}
