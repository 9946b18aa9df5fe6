//! What the programs that a set-up starts can see of its environment.

use std::os::unix::fs::PermissionsExt;

use lifeboat_tests::programs;
use tokio::process::Command;

use crate::{DEADLINE, Machines};

#[tokio::test(flavor = "multi_thread")]
async fn the_daemon_that_is_started_inherits_no_secret() {
    let machines = Machines::new();
    let (host, wiki) = (machines.host_line().await, machines.sqlite("wiki.db"));
    let root = machines.root(&[&host]).await;
    let replicas = ["near", "far"].map(|name| format!("{name}={}", machines.path(name).display()));
    // The set-up starts the daemon that lies beside it: here one that tells what it was given.
    let programs_folder = machines.path("programs");
    std::fs::create_dir(&programs_folder).unwrap();
    let (program, daemon) = (programs_folder.join("lifeboat"), programs_folder.join("lifeboatd"));
    std::fs::copy(programs::lifeboat(), &program).unwrap();
    let worker = programs::lifeboat().with_file_name("lifeboat-worker");
    std::os::unix::fs::symlink(worker, programs_folder.join("lifeboat-worker")).unwrap();
    let (told, real) = (machines.path("environment"), programs::lifeboatd());
    let script = format!("#!/bin/sh\nenv > '{}'\nexec '{}' \"$@\"\n", told.display(), real.display());
    std::fs::write(&daemon, script).unwrap();
    std::fs::set_permissions(&daemon, std::fs::Permissions::from_mode(0o755)).unwrap();

    let mut command = Command::new(&program);
    command.arg("--config").arg(machines.config("host"));
    command.args(["setup", "--root", &root, "--replica", &replicas[0], "--replica", &replicas[1]]);
    command.args(["--sqlite", &wiki, "--yes"]);
    let secrets = ["LIFEBOAT_NEAR_SECRET_ACCESS_KEY", "AWS_SECRET_ACCESS_KEY", "PGPASSWORD", "A_TOKEN_OF_SOMEBODY"];
    for name in secrets {
        command.env(name, "hunter2");
    }
    command.env("PGPASSFILE", "/home/me/.pgpass");
    let done = programs::run(&mut command, DEADLINE).await.unwrap();
    assert!(done.status.success(), "{done}");
    let told = std::fs::read_to_string(told).unwrap();
    assert!(!told.contains("hunter2"), "{told}");
    for kept in ["PATH=", "HOME=", "PGPASSFILE=/home/me/.pgpass"] {
        assert!(told.contains(kept), "{kept}: {told}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn quiet_hides_nothing_that_a_person_compares_or_agrees_to() {
    let machines = Machines::new();
    let line = machines.lifeboat("host", &["--quiet", "setup", "host", "--name", "db1"]).await;
    let words = machines.words("host", &["setup", "host", "--name", "db1"]).await;
    assert!(line.stderr.contains(&words), "{words}: {line}");
    let owner = machines.path("owner").display().to_string();
    let init = ["--quiet", "owner", "init", "--yes", "--directory", &owner, line.stdout.trim()];
    let root = machines.lifeboat("nowhere", &init).await;
    assert!(root.stderr.contains(&words) && root.stderr.contains("Root 1 of vault"), "{words}: {root}");
    let folder = machines.path("found");
    std::fs::create_dir(&folder).unwrap();
    machines.sqlite("found/wiki.db");
    let replicas = ["near", "far"].map(|name| format!("{name}={}", machines.path(name).display()));
    let look = folder.display().to_string();
    let words =
        ["--quiet", "setup", "--root", root.stdout.trim(), "--replica", &replicas[0], "--replica", &replicas[1]];
    let said = machines.lifeboat("host", &[&words[..], &["--look-in", &look, "--yes", "--dry-run"]].concat()).await;
    assert!(said.stderr.contains("found: SQLite file"), "{said}");
}
