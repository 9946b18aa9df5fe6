//! Flags that were typed wrongly: what is wrong is told before anything is written, and the right
//! command goes on.

use std::os::unix::net::UnixListener;

use crate::Machines;

#[tokio::test(flavor = "multi_thread")]
async fn a_source_that_is_not_there_changes_nothing_and_the_right_one_goes_on() {
    let machines = Machines::new();
    let (host, drill) = (machines.host_line().await, machines.drill_line().await);
    let root = machines.root(&[&host, &drill]).await;
    let wiki = machines.sqlite("wiki.db");
    let replicas = ["near", "far"].map(|name| format!("{name}={}", machines.path(name).display()));
    let words = ["setup", "--root", &root, "--replica", &replicas[0], "--replica", &replicas[1], "--yes"];
    let (lacking, folder) = (machines.path("wki.db").display().to_string(), machines.path("").display().to_string());
    for (flag, value, why) in [
        ("--sqlite", lacking.as_str(), "No such file"),
        ("--sqlite", &folder, "directory"),
        ("--dataset", &format!("dump=file:{lacking}"), "No such file"),
        ("--postgres", &folder, "No such file"),
        ("--mariadb", &lacking, "No such file"),
        ("--mariadb", &wiki, "is no socket"),
    ] {
        let said = machines.refused("host", &[&words[..], &[flag, value]].concat()).await;
        assert!(said.contains(why) && said.contains("nothing was changed"), "{flag} {value}: {said}");
        assert!(!machines.config("host").exists() && !machines.path("near").exists(), "{said}");
    }
    let done = machines.lifeboat("host", &[&words[..], &["--sqlite", &wiki]].concat()).await;
    assert!(done.status.success(), "{done}");

    // Another database under the name is no typing error, until somebody says so.
    let other = format!("wiki=sqlite:{}", machines.sqlite("other.db"));
    let said = machines.refused("host", &[&words[..], &["--dataset", &other]].concat()).await;
    assert!(said.contains("dataset wiki elsewhere") && said.contains("--replace"), "{said}");
    let done = machines.lifeboat("host", &[&words[..], &["--dataset", &other, "--replace"]].concat()).await;
    assert!(done.status.success(), "{done}");
    let config = std::fs::read_to_string(machines.config("host")).unwrap();
    assert!(config.contains("other.db") && !config.contains("wiki.db"), "{config}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_is_down_is_not_left_out_unnoticed() {
    let machines = Machines::new();
    let host = machines.host_line().await;
    let root = machines.root(&[&host]).await;
    let replicas = ["near", "far"].map(|name| format!("{name}={}", machines.path(name).display()));
    let words = ["setup", "--root", &root, "--replica", &replicas[0], "--replica", &replicas[1], "--yes"];
    let folder = machines.path("found");
    std::fs::create_dir(&folder).unwrap();
    let wiki = machines.sqlite("found/wiki.db");
    // What servers leave behind that were killed.
    for socket in [".s.PGSQL.5433", "mysqld.sock"] {
        drop(UnixListener::bind(folder.join(socket)).unwrap());
    }
    let (look, lacking) = (folder.display().to_string(), machines.path("lacking").display().to_string());
    let said = machines.refused("host", &[&words[..], &["--look-in", &look, "--look-in", &lacking]].concat()).await;
    for down in
        ["port 5433: Connection refused", "mysqld.sock: Connection refused", &format!("{lacking}: No such file")]
    {
        assert_eq!(said.matches(down).count(), 1, "{down}: {said}");
    }
    assert!(said.contains("may be left out") && !machines.config("host").exists(), "{said}");
    // Who names what he wants knows what he leaves out.
    let done = machines.lifeboat("host", &[&words[..], &["--look-in", &look, "--sqlite", &wiki]].concat()).await;
    assert!(done.status.success(), "{done}");
}
