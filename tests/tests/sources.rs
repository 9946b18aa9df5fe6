//! Sources against real servers: what is captured can be loaded again, and nothing that failed
//! looks like success.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use lifeboat_engine::config::{Secret, SecretRef};
use lifeboat_engine::databases::command::{CommandConfig, CommandSource};
use lifeboat_engine::databases::file::FileSource;
use lifeboat_engine::databases::postgres::{PostgresConfig, PostgresSource, PostgresTarget};
use lifeboat_engine::databases::sqlite::SqliteSource;
use lifeboat_engine::databases::streams::StoredStreams;
use lifeboat_engine::databases::{Source, Target, Wanted, WorkContext, load};
use lifeboat_engine::{Class, Result};
use lifeboat_tests::postgres::Postgres;
use lifeboat_tests::streams::MemoryStreams as Memory;
use lifeboat_tests::tools;
use tempfile::TempDir;
use tokio_util::sync::CancellationToken;

fn context(place: &TempDir) -> WorkContext {
    WorkContext {
        scratch: place.path().to_owned(),
        stall: Duration::from_secs(20),
        jobs: 3,
        environment: tools::environment(),
        cancel: CancellationToken::new(),
    }
}

fn postgres(server: &Postgres) -> PostgresConfig {
    PostgresConfig {
        connection: server.connection(),
        password: None,
        databases: Vec::new(),
        client_directories: vec![server.programs().to_owned()],
        jobs: None,
        large_table: 64 << 20,
    }
}

/// Waits until `ready`, for a minute at most.
async fn eventually(what: &str, mut ready: impl FnMut() -> bool) {
    let began = Instant::now();
    while !ready() {
        assert!(began.elapsed() < Duration::from_secs(60), "{what} did not come");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

async fn captured(config: impl Source, cx: &WorkContext) -> Result<Memory> {
    let mut memory = Memory::default();
    memory.facts = config.capture(&memory, cx).await?;
    Ok(memory)
}

const SCHEMA: &str = r#"
CREATE ROLE "Bücher leser" LOGIN PASSWORD 'gehe''im';
CREATE ROLE owner_of_all NOLOGIN;
GRANT owner_of_all TO "Bücher leser";
CREATE TABLE "größe" (id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, text text DEFAULT E'a\tb', half numeric GENERATED ALWAYS AS (1) STORED);
ALTER TABLE "größe" OWNER TO owner_of_all;
INSERT INTO "größe" (text) SELECT 'Zeile ' || n || E' 日本\n\\.' FROM generate_series(1, 2000) n;
SELECT lo_from_bytea(4711, 'large object content');
"#;

#[tokio::test(flavor = "multi_thread")]
async fn postgres_is_captured_and_loaded_into_another_server() {
    let (from, to) = (Postgres::start().await, Postgres::start().await);
    let odd = "an \"odd\" näme='x'";
    from.create_database(odd).await;
    from.run_sql(odd, SCHEMA).await;
    let place = TempDir::new().unwrap();
    let cx = context(&place);
    let memory = captured(PostgresSource(postgres(&from)), &cx).await.unwrap();
    let escaped = "database/an%20%22odd%22%20n%C3%A4me%3D%27x%27";
    assert_eq!(memory.names(), ["globals", escaped, "database/postgres"]);
    assert_eq!(memory.finished().len(), 3);
    assert!(memory.facts.server_version.as_deref().unwrap().starts_with(char::is_numeric));
    assert_eq!(memory.facts.details["superuser"], "postgres");

    let target = |overwrite, rename: Option<&str>| Target::Server {
        server: Box::new(PostgresTarget {
            connection: to.connection(),
            password: None,
            client_directories: vec![to.programs().to_owned()],
        }),
        wanted: Wanted {
            databases: vec![odd.to_owned()],
            rename: rename.map(str::to_owned),
            overwrite,
            ..Wanted::default()
        },
    };
    let outcome = load(&memory, &target(false, None), &cx).await.unwrap();
    assert_eq!(outcome.written, [odd]);
    let sums =
        r#"SELECT count(*), md5(string_agg(text, '|' ORDER BY id)), convert_from(lo_get(4711), 'UTF8') FROM "größe""#;
    assert_eq!(to.query(odd, sums).await, from.query(odd, sums).await);
    let hash = "SELECT rolpassword FROM pg_authid WHERE rolname = 'Bücher leser'";
    assert_eq!(to.query("postgres", hash).await, from.query("postgres", hash).await);

    // What is there is not touched unless told so.
    to.run_sql(odd, "DELETE FROM \"größe\"").await;
    let refused = load(&memory, &target(false, None), &cx).await.unwrap_err();
    assert_eq!(refused.class(), Class::Usage, "{refused:?}");
    load(&memory, &target(false, Some("copy")), &cx).await.unwrap();
    assert_eq!(to.query("copy", sums).await, from.query(odd, sums).await);
    load(&memory, &target(true, None), &cx).await.unwrap();
    assert_eq!(to.query(odd, sums).await, from.query(odd, sums).await);

    // Everything, the database that we connect through included.
    let everything = Target::Server {
        server: Box::new(PostgresTarget {
            connection: to.connection(),
            password: None,
            client_directories: vec![to.programs().to_owned()],
        }),
        wanted: Wanted { databases: Vec::new(), rename: None, overwrite: true, ..Wanted::default() },
    };
    let outcome = load(&memory, &everything, &cx).await.unwrap();
    assert_eq!(outcome.written, [odd, "postgres"]);
    assert_eq!(to.query(odd, sums).await, from.query(odd, sums).await);

    // A stream that turns out damaged at its end leaves no database behind.
    let mut damaged = memory.clone();
    damaged.facts.details.insert("damaged".to_owned(), String::new());
    damaged.order = Arc::new(Mutex::new(vec![escaped.to_owned()]));
    let refused = load(&damaged, &target(false, Some("half")), &cx).await.unwrap_err();
    assert_eq!(refused.class(), Class::Integrity, "{refused:?}");
    assert_eq!(to.query("postgres", "SELECT count(*) FROM pg_database WHERE datname = 'half'").await.trim(), "0");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_password_is_used_and_seen_in_no_process_list() {
    let password = "hush:\\pass-4711";
    let server = Postgres::start_with_password(password).await;
    server.run_sql("postgres", "CREATE TABLE t AS SELECT n, repeat('x', 2000) FROM generate_series(1, 20000) n").await;
    let place = TempDir::new().unwrap();
    let cx = context(&place);
    let secret = place.path().join("secret");
    std::fs::write(&secret, password).unwrap();
    std::fs::set_permissions(&secret, std::fs::Permissions::from_mode(0o600)).unwrap();
    let config = PostgresConfig { password: Some(SecretRef::file(&secret)), ..postgres(&server) };
    let (watching, captured_all) = (CancellationToken::new(), CancellationToken::new());
    let (begun, over) = (watching.clone(), captured_all.clone());
    let watched = tokio::task::spawn_blocking(move || {
        let (mut seen, mut tools) = (false, false);
        while !over.is_cancelled() {
            for entry in std::fs::read_dir("/proc").unwrap().flatten() {
                let line = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
                let line = String::from_utf8_lossy(&line);
                seen |= line.contains("hush:");
                tools |= line.contains("pg_dump");
            }
            begun.cancel();
        }
        (seen, tools)
    });
    watching.cancelled().await;
    captured(PostgresSource(config), &cx).await.unwrap();
    captured_all.cancel();
    let (seen, tools) = watched.await.unwrap();
    assert!(tools, "the dump was over before it was looked at");
    assert!(!seen, "the password stands in a process list");
    let left: Vec<_> = std::fs::read_dir(place.path()).unwrap().flatten().map(|entry| entry.file_name()).collect();
    assert_eq!(left, ["secret"], "the password file is left behind");

    let wrong = PostgresConfig { password: None, ..postgres(&server) };
    let error = captured(PostgresSource(wrong), &cx).await.err().unwrap();
    assert_eq!(error.class(), Class::Source, "{error:?}");
    let _ = Secret::new(Vec::new());
}

/// A directory of client tools in which `pg_dump` is a script.
fn fake_clients(real: &Path, place: &TempDir, pg_dump: Option<&str>) -> PathBuf {
    let folder = place.path().join("clients");
    std::fs::create_dir(&folder).unwrap();
    for tool in ["psql", "pg_dumpall", "pg_restore"] {
        std::os::unix::fs::symlink(real.join(tool), folder.join(tool)).unwrap();
    }
    let script = folder.join("pg_dump");
    let real = real.join("pg_dump");
    let body = pg_dump.unwrap_or("exit 127");
    let text = format!("#!/bin/sh\nreal={}\n[ \"$1\" = --version ] && exec $real --version\n{body}\n", real.display());
    std::fs::write(&script, text).unwrap();
    std::fs::set_permissions(&script, std::fs::Permissions::from_mode(0o755)).unwrap();
    folder
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dump_tool_that_fails_is_killed_or_stalls_fails_the_capture() {
    let server = Postgres::start().await;
    server.run_sql("postgres", "CREATE TABLE t AS SELECT n, md5(n::text) FROM generate_series(1, 50000) n").await;
    for (how, body, said) in [
        ("halfway", "$real \"$@\" | head -c 300000; echo 'lost connection' >&2; exit 1", "lost connection"),
        ("killed", "$real \"$@\" | head -c 300000; kill -9 $$", "signal 9"),
        ("stalling", "$real \"$@\" | head -c 300000; sleep 600", "gave no byte"),
        ("empty", "exit 0", "wrote nothing"),
        ("wrong", "echo this is no archive", "did not write an archive"),
    ] {
        let place = TempDir::new().unwrap();
        let cx = WorkContext { stall: Duration::from_secs(2), ..context(&place) };
        let clients = fake_clients(server.programs(), &place, Some(body));
        let memory = Memory::default();
        let config = PostgresConfig { client_directories: vec![clients], ..postgres(&server) };
        let error = PostgresSource(config).capture(&memory, &cx).await.unwrap_err();
        assert_eq!(error.class(), Class::Source, "{how}: {error:?}");
        assert!(error.chain().contains(said), "{how}: {error:?}");
        assert_eq!(memory.finished(), ["globals"], "{how}: the broken stream counts as finished");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn client_tools_that_are_too_old_are_refused_and_fitting_ones_chosen() {
    let newer = tools::workspace().join(".tools/pg18/bin");
    assert!(newer.join("postgres").is_file(), "PostgreSQL 18 is not installed: run `make setup`");
    let server = Postgres::start_with(&newer).await;
    let place = TempDir::new().unwrap();
    let cx = context(&place);
    let only_old = PostgresConfig { client_directories: Vec::new(), ..postgres(&server) };
    let error = captured(PostgresSource(only_old), &cx).await.err().unwrap();
    assert!(error.message().contains("version 18") && error.chain().contains("too old"), "{error:?}");
    assert!(error.hint_text().unwrap().contains("postgresql-client-18"), "{error:?}");
    let memory = captured(PostgresSource(postgres(&server)), &cx).await.unwrap();
    assert!(memory.facts.tools["pg_dump"].starts_with("18"), "{:?}", memory.facts);
}

#[tokio::test(flavor = "multi_thread")]
async fn sqlite_is_consistent_while_a_writer_is_active() {
    let place = TempDir::new().unwrap();
    let path = place.path().join("app.db");
    let writer = rusqlite::Connection::open(&path).unwrap();
    writer.execute_batch("PRAGMA journal_mode=WAL; CREATE TABLE a(n); CREATE TABLE b(n);").unwrap();
    let (stop, writes) = (CancellationToken::new(), Arc::new(AtomicU64::new(0)));
    let (stopped, written) = (stop.clone(), writes.clone());
    let writing = tokio::task::spawn_blocking(move || {
        let mut n = 0;
        while !stopped.is_cancelled() {
            n += 1;
            // Both tables always hold the same rows; a torn copy would not.
            let sql = format!("BEGIN; INSERT INTO a VALUES({n}); INSERT INTO b VALUES({n}); COMMIT;");
            writer.execute_batch(&sql).unwrap();
            written.store(n, Ordering::SeqCst);
        }
    });
    for round in 0..5 {
        let before = writes.load(Ordering::SeqCst);
        eventually("a write", || writes.load(Ordering::SeqCst) > before).await;
        let scratch = TempDir::new().unwrap();
        let memory = captured(SqliteSource { path: path.clone() }, &context(&scratch)).await.unwrap();
        let target = scratch.path().join("restored");
        let target = Target::Directory { path: target, overwrite: false, sync: false };
        let outcome = load(&memory, &target, &context(&scratch)).await.unwrap();
        let copy = rusqlite::Connection::open(&outcome.written[0]).unwrap();
        let counts: (i64, i64) = copy
            .query_row("SELECT (SELECT count(*) FROM a), (SELECT count(*) FROM b)", [], |row| {
                Ok((row.get(0)?, row.get(1)?))
            })
            .unwrap();
        assert!(counts.0 == counts.1 && counts.0 > 0, "round {round}: {counts:?}");
        assert!(outcome.written[0].ends_with("database.sqlite"));
    }
    stop.cancel();
    writing.await.unwrap();
    let missing = SqliteSource { path: place.path().join("none.db") };
    let error = captured(missing, &context(&place)).await.err().unwrap();
    assert!(error.message().contains("no SQLite database"), "{error:?}");
}

#[tokio::test]
async fn a_file_is_captured_as_it_is_and_refused_if_it_changes() {
    let place = TempDir::new().unwrap();
    let path = place.path().join("export.bin");
    let content: Vec<u8> = (0..3_000_000_u32).flat_map(|n| (n % 251).to_le_bytes()).collect();
    std::fs::write(&path, &content).unwrap();
    let memory = captured(FileSource { path: path.clone(), allow_empty: false }, &context(&place)).await.unwrap();
    assert_eq!(memory.finished(), ["export.bin"]);
    assert!(memory.streams.lock().unwrap()["export.bin"].0 == content);

    let stop = CancellationToken::new();
    let (stopped, grown) = (stop.clone(), path.clone());
    let growing = tokio::task::spawn_blocking(move || {
        let mut file = std::fs::OpenOptions::new().append(true).open(grown).unwrap();
        while !stopped.is_cancelled() {
            std::io::Write::write_all(&mut file, b"more").unwrap();
        }
    });
    let error = captured(FileSource { path: path.clone(), allow_empty: false }, &context(&place)).await.err().unwrap();
    stop.cancel();
    growing.await.unwrap();
    assert!(error.message().contains("changed while it was read"), "{error:?}");
    let nowhere = FileSource { path: place.path().join("none"), allow_empty: false };
    assert!(captured(nowhere, &context(&place)).await.is_err());
    let folder = FileSource { path: place.path().to_owned(), allow_empty: false };
    assert!(captured(folder, &context(&place)).await.err().unwrap().message().contains("is a directory"));
}

fn command(script: &str, expected_status: i32) -> CommandSource {
    CommandSource(CommandConfig {
        argv: vec!["/bin/sh".to_owned(), "-c".to_owned(), script.to_owned()],
        environment: BTreeMap::from([("GIVEN".to_owned(), "value".to_owned())]),
        expected_status: vec![expected_status],
        allow_empty: false,
        stream: "out".to_owned(),
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn a_command_gets_its_environment_only_and_must_end_as_expected() {
    let place = TempDir::new().unwrap();
    let cx = context(&place);
    let memory = captured(command("env; exit 3", 3), &cx).await.unwrap();
    let environment = String::from_utf8(memory.streams.lock().unwrap()["out"].0.clone()).unwrap();
    assert!(environment.contains("GIVEN=value") && !environment.contains("CARGO"), "{environment}");
    let error = captured(command("echo oops >&2; exit 2", 0), &cx).await.err().unwrap();
    assert!(error.message().contains("status 2") && error.message().contains("oops"), "{error:?}");
    let gone = CommandSource(CommandConfig {
        argv: vec!["/nonexistent/tool".to_owned()],
        environment: BTreeMap::new(),
        expected_status: vec![0],
        allow_empty: false,
        stream: "out".to_owned(),
    });
    assert!(captured(gone, &cx).await.err().unwrap().hint_text().unwrap().contains("install"));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_empty_is_no_snapshot_unless_that_is_said() {
    let place = TempDir::new().unwrap();
    let cx = context(&place);
    let empty = place.path().join("empty");
    std::fs::write(&empty, b"").unwrap();
    let file = |allow_empty| FileSource { path: empty.clone(), allow_empty };
    let program = |script: &str, allow_empty| {
        let CommandSource(config) = command(script, 0);
        CommandSource(CommandConfig { allow_empty, ..config })
    };
    for script in ["true", "false | cat"] {
        let error = captured(program(script, false), &cx).await.err().unwrap();
        assert!(error.message().contains("wrote nothing"), "{error:?}");
        assert!(error.hint_text().unwrap().contains("allow_empty"), "{error:?}");
        assert!(captured(program(script, true), &cx).await.is_ok(), "{script}");
    }
    let error = captured(file(false), &cx).await.err().unwrap();
    assert!(error.message().contains("is empty") && error.hint_text().unwrap().contains("allow_empty"), "{error:?}");
    assert!(captured(file(true), &cx).await.is_ok());
}

#[tokio::test(flavor = "multi_thread")]
async fn one_of_several_statuses_is_success_with_a_warning() {
    let place = TempDir::new().unwrap();
    let cx = context(&place);
    for (status, warnings) in [(0, 0), (1, 1)] {
        let CommandSource(config) = command(&format!("echo x; exit {status}"), 0);
        let source = CommandSource(CommandConfig { expected_status: vec![0, 1], ..config });
        let memory = captured(source, &cx).await.unwrap();
        assert_eq!(memory.facts.warnings.len(), warnings, "{:?}", memory.facts.warnings);
    }
    let error = captured(command("echo x; exit 1", 0), &cx).await.err().unwrap();
    assert!(error.hint_text().unwrap().contains("expected_status"), "{error:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancelled_or_dropped_capture_leaves_no_child() {
    let lines = || {
        let processes = std::fs::read_dir("/proc").unwrap().flatten();
        processes.map(|process| std::fs::read_to_string(process.path().join("cmdline")).unwrap_or_default())
    };
    let alive = |mark: &str| lines().any(|line| line.contains(mark));
    let sleepers = |mark: &str| lines().filter(|line| *line == format!("sleep\0{mark}\0")).count();
    for (mark, cancel) in [("4711.25", true), ("4712.25", false)] {
        let place = TempDir::new().unwrap();
        let cx = context(&place);
        let config = command(&format!("echo x; sleep {mark} & sleep {mark}"), 0);
        let (token, run) = (cx.cancel.clone(), captured(config, &cx));
        let started = eventually("both children", || sleepers(mark) == 2);
        if cancel {
            let (result, ()) = tokio::join!(run, async {
                started.await;
                token.cancel();
            });
            assert!(result.is_err());
        } else {
            tokio::select! {
                _ = run => panic!("the command ended"),
                () = started => {}
            }
        }
        eventually("the end of every child", || !alive(mark)).await;
    }
}
