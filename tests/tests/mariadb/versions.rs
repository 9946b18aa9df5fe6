//! Programs that are missing, older than what they are for, or MySQL's: each is refused by name,
//! before anything is begun, and nothing is left of it.

use std::path::{Path, PathBuf};

use lifeboat_engine::base::facts::SourceFacts;
use lifeboat_engine::databases::mariadb::{MariaConfig, MariaSource};
use lifeboat_engine::databases::{Source, Wanted, WorkContext, registry};
use lifeboat_engine::worker::protocol::DrillTools;
use lifeboat_engine::worker::throw_away;
use lifeboat_engine::{Class, Error};
use lifeboat_tests::mariadb::MariaDb;
use lifeboat_tests::programs;
use lifeboat_tests::streams::MemoryStreams;
use lifeboat_tests::work::{assert_nothing_is_left, context, only};

use super::restore::restored;
use super::{captured, scratch, try_captured};

/// What a server of the future says of itself.
const NEWER: &str = "99.1.2-MariaDB";
const MYSQL: &str = "mysqldump  Ver 8.0.36 for Linux on x86_64 (MySQL Community Server - GPL)";
const SHOP: &str = "CREATE DATABASE shop; CREATE TABLE shop.mine (a INT)";

/// A folder that a worker can read, with programs that tell this version and do nothing else.
fn telling(folder: &Path, programs: &[&str], version: &str) -> PathBuf {
    let open = |path: &Path| std::fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(0o755));
    std::fs::create_dir_all(folder).unwrap();
    for parent in folder.ancestors().take_while(|parent| *parent != Path::new("/tmp")) {
        open(parent).unwrap();
    }
    for program in programs {
        let program = folder.join(program);
        std::fs::write(&program, format!("#!/bin/sh\necho '{version}'\n")).unwrap();
        open(&program).unwrap();
    }
    folder.to_owned()
}

/// How a drill fails that looks for programs in these directories first.
async fn drill_error(streams: &MemoryStreams, directories: Vec<PathBuf>) -> Error {
    let place = scratch();
    let tools = DrillTools { directories, ..DrillTools::default() };
    let error = match throw_away(&programs::worker(), streams, tools, &context(&place)).await {
        Ok(_) => panic!("a server of {:?} started", streams.facts.server_version),
        Err(error) => error,
    };
    assert_nothing_is_left(place.path()).await;
    error
}

/// Whether a capture, a check and a restore fail with this class, and say this.
async fn assert_all_refuse(server: &MariaDb, streams: &MemoryStreams, told: &str, hint: &str) {
    let place = scratch();
    let cx = context(&place);
    let capture = try_captured(server.source("root"), &cx).await.unwrap_err();
    let restore = restored(streams, &server.address("root"), None, Wanted::default(), &cx).await.unwrap_err();
    let checked = MariaSource(server.source("root")).check(&cx).await;
    assert_eq!(checked.broken.len(), 1, "{checked:?}");
    for error in [&capture, &restore, &checked.broken[0]] {
        assert!(error.class() == Class::Source && error.message().contains(told), "{error:?}");
        assert!(error.hint_text().unwrap().contains(hint), "{error:?}");
    }
    assert_nothing_is_left(place.path()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_is_missing_or_too_old_for_a_drill_is_named_and_nothing_is_left() {
    let server = MariaDb::start().await;
    server.run_sql("", SHOP).await;
    let mut streams = captured(&server).await;
    let here = streams.facts.server_version.clone().unwrap();
    let fakes = scratch();
    let older = telling(&fakes.path().join("older"), &["mariadbd"], "mariadbd  Ver 10.5.1-MariaDB for Linux");

    streams.facts.server_version = Some("99.1.2".to_owned());
    let missing = "the programs of a MariaDB 99.1 server for the drill are not installed (there is ";
    for (directories, there) in [(Vec::new(), here.clone()), (vec![older], format!("10.5.1, {here}"))] {
        let error = drill_error(&streams, directories).await;
        assert!(error.class() == Class::Source, "{error:?}");
        assert!(error.message().contains(&format!("{missing}{there}")), "{error:?}");
        assert!(error.hint_text().unwrap().starts_with("install mariadb-server-core of MariaDB 99.1 "), "{error:?}");
    }
    for told in [Some("10.11\nskip-grant-tables"), Some("8.0.36-0ubuntu"), None] {
        streams.facts.server_version = told.map(str::to_owned);
        let error = drill_error(&streams, Vec::new()).await;
        assert!(error.class() == Class::Integrity && error.message().contains("does not name its"), "{error:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_alone_is_not_enough_for_a_drill() {
    let server = MariaDb::start().await;
    server.run_sql("", SHOP).await;
    let mut streams = captured(&server).await;
    streams.facts.server_version = Some("99.1.2".to_owned());
    let fakes = scratch();
    let sbin = telling(&fakes.path().join("sbin"), &["mariadbd"], &format!("mariadbd  Ver {NEWER} for Linux"));
    let error = drill_error(&streams, vec![sbin.clone()]).await;
    assert!(error.message().contains("a MariaDB 99.1 server for the drill are not installed"), "{error:?}");

    // With what makes its data directory beside it, but with older client tools.
    let bin = telling(&fakes.path().join("bin"), &["mariadb-install-db"], "");
    let error = drill_error(&streams, vec![sbin, bin]).await;
    let told = "the client tools are older than the server, which is MariaDB 99.1.2";
    assert!(error.class() == Class::Source && error.message().contains(told), "{error:?}");
    assert!(error.hint_text().unwrap().contains("install mariadb-client 99.1 or newer"), "{error:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_look_before_a_drill_names_the_program_that_is_missing_or_does_not_run() {
    let (place, fakes) = (scratch(), scratch());
    let put = |folder: &str, program: &str| {
        telling(&fakes.path().join(folder), &[program], &format!("{program}  Ver {NEWER} for Linux"))
    };
    let path = telling(&fakes.path().join("path"), &[], "").into_os_string();
    let environment = registry::tool_environment(|name| (name == "PATH").then(|| path.clone()));
    let cx = WorkContext { environment, ..context(&place) };
    let facts = SourceFacts { server_version: Some("99.1.2".to_owned()), ..SourceFacts::default() };
    let mut directories = Vec::new();
    for (folder, program, told) in [
        ("sbin", "mariadbd", "mariadb-install-db is missing beside "),
        ("bin", "mariadb-install-db", "MariaDB's client tools mariadb and mariadb-dump are not installed"),
        ("bin", "mariadb-dump", "MariaDB's client mariadb is not installed"),
    ] {
        directories.push(put(folder, program));
        let found = registry::find("mariadb").unwrap().has_server_programs(&facts, &directories, &cx).await;
        let error = found.unwrap_err();
        assert!(error.class() == Class::Source && error.message().contains(told), "{error:?}");
        let hint = error.hint_text().unwrap();
        assert!(hint.starts_with("install mariadb-") && hint.contains("server_directories"), "{hint}");
    }
    let client = put("bin", "mariadb").join("mariadb");
    let mode = |mode| std::fs::set_permissions(&client, std::os::unix::fs::PermissionsExt::from_mode(mode)).unwrap();
    let find = registry::find("mariadb").unwrap();
    assert!(find.has_server_programs(&facts, &directories, &cx).await.is_ok());
    mode(0o644);
    let error = find.has_server_programs(&facts, &directories, &cx).await.unwrap_err();
    assert!(error.message().ends_with("/mariadb does not run") && error.chain().contains("denied"), "{error:?}");
    assert!(error.hint_text().unwrap().starts_with("install mariadb-client again"), "{error:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restore_into_an_older_server_is_refused_before_it_is_touched() {
    let from = MariaDb::start().await;
    from.run_sql("", "CREATE DATABASE shop; CREATE TABLE shop.theirs (a INT)").await;
    let streams = captured(&from).await;
    let to = MariaDb::start_with(&["--version=10.6.1-MariaDB"]).await;
    to.run_sql("", SHOP).await;
    let (place, overwrite) = (scratch(), Wanted { overwrite: true, globals: true, ..only("shop") });
    let refused = restored(&streams, &to.address("root"), None, overwrite, &context(&place)).await.unwrap_err();
    let captured = streams.facts.server_version.as_deref().unwrap();
    let told = format!("the snapshot is of MariaDB {captured}, and the server is MariaDB 10.6.1");
    assert!(refused.class() == Class::Usage && refused.message().contains(&told), "{refused:?}");
    assert!(refused.hint_text().unwrap().contains("the same version or a newer one"), "{refused:?}");
    assert_eq!(to.query("", "SHOW TABLES IN shop").await, "mine\n");
}

#[tokio::test(flavor = "multi_thread")]
async fn client_tools_that_are_older_than_the_server_are_refused() {
    let from = MariaDb::start().await;
    from.run_sql("", SHOP).await;
    let streams = captured(&from).await;
    let newer = MariaDb::start_with(&[&format!("--version={NEWER}")]).await;
    let told = "the client tools are older than the server, which is MariaDB 99.1.2";
    assert_all_refuse(&newer, &streams, told, "install mariadb-client 99.1 or newer").await;
    assert!(newer.try_query("", "SHOW TABLES IN shop").await.is_err(), "something was restored");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_is_mysql_is_refused_with_the_way_to_back_it_up() {
    let from = MariaDb::start().await;
    from.run_sql("", SHOP).await;
    let streams = captured(&from).await;
    let mysql = MariaDb::start_with(&["--version=8.0.36"]).await;
    let told = "the server is no MariaDB, but says that it is 8.0.36";
    assert_all_refuse(&mysql, &streams, told, "a source of kind = \"command\" that runs mysqldump").await;
    assert!(mysql.try_query("", "SHOW TABLES IN shop").await.is_err(), "something was restored");
}

#[tokio::test(flavor = "multi_thread")]
async fn client_tools_of_mysql_are_passed_over() {
    let server = MariaDb::start().await;
    server.run_sql("", SHOP).await;
    let (place, fakes) = (scratch(), scratch());
    let folder = telling(&fakes.path().join("mysql"), &["mysqldump", "mysql"], MYSQL);
    let config = MariaConfig { client_directories: vec![folder.clone()], ..server.source("root") };
    let cx = context(&place);
    let streams = try_captured(config.clone(), &cx).await.unwrap();
    let (used, version) = (&streams.facts.tools["mariadb-dump"], streams.facts.server_version.as_ref());
    assert_eq!(Some(used), version, "{:?}", streams.facts);

    // Where there are no others.
    let path = folder.into_os_string();
    let environment = registry::tool_environment(|name| (name == "PATH").then(|| path.clone()));
    let cx = WorkContext { environment, ..cx };
    let error = try_captured(config, &cx).await.unwrap_err();
    let told = "neither mariadb-dump nor MariaDB's mysqldump is installed";
    assert!(error.class() == Class::Source && error.message().contains(told), "{error:?}");
    assert!(error.hint_text().unwrap().contains("install mariadb-client"), "{error:?}");
}
