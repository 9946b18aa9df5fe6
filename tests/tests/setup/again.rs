//! A set-up that is killed in any of its steps, and run again.

use std::process::Stdio;

use tokio::io::{AsyncBufReadExt, BufReader};

use crate::{Machines, files};

/// Runs the command until it says that this step begins, and kills it a moment later, with what it
/// started. Returns whether it came so far.
async fn killed_in(machines: &Machines, machine: &str, words: &[&str], step: usize) -> bool {
    let mut command = machines.command(machine, words);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).process_group(0);
    let mut child = command.spawn().unwrap();
    let group = rustix::process::Pid::from_raw(child.id().unwrap().cast_signed()).unwrap();
    let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
    let beginning = format!("step {step} of ");
    while let Some(line) = lines.next_line().await.unwrap() {
        if line.contains(&beginning) {
            // So far into the step as the number says, so that not all die at its first line.
            tokio::time::sleep(std::time::Duration::from_millis(40 * (step as u64 % 3))).await;
            let _ = rustix::process::kill_process_group(group, rustix::process::Signal::KILL);
            child.wait().await.unwrap();
            return true;
        }
    }
    child.wait().await.unwrap();
    false
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_that_is_killed_in_any_step_is_set_up_by_the_same_command() {
    let mut steps = 0;
    for step in 1.. {
        let machines = Machines::new();
        let (host, drill) = (machines.host_line().await, machines.drill_line().await);
        let root = machines.root(&[&host, &drill]).await;
        let wiki = machines.sqlite("wiki.db");
        let replicas = ["near", "far"].map(|name| format!("{name}={}", machines.path(name).display()));
        let words = ["setup", "--root", &root, "--replica", &replicas[0], "--replica", &replicas[1]];
        let words = [&words[..], &["--sqlite", &wiki, "--yes"]].concat();
        let keys = || std::fs::read(machines.path("host/keys/host.key")).unwrap();
        let before = keys();
        if !killed_in(&machines, "host", &words, step).await {
            break;
        }
        steps = step;
        let done = machines.lifeboat("host", &words).await;
        assert!(done.status.success(), "killed in step {step}: {done}");
        assert_eq!(keys(), before, "killed in step {step}");
        let list = machines.ok("host", &["--json", "list", "wiki"]).await;
        assert!(list.contains("\"snapshot\""), "killed in step {step}: {list}");

        let join = ["setup", "drill-host", "--join", &replicas[1], "--root", &root, "--yes"];
        killed_in(&machines, "drill", &join, step).await;
        let joined = machines.lifeboat("drill", &join).await;
        assert!(joined.status.success(), "killed in step {step}: {joined}");
        let drilled = machines.ok("drill", &["--json", "drill", "wiki"]).await;
        assert!(drilled.contains("\"reached\": \"proved\""), "killed in step {step}: {drilled}");
    }
    assert_eq!(steps, 7, "six steps, and one for the dataset");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_owner_who_was_killed_between_two_files_goes_on_with_the_same_keys() {
    let machines = Machines::new();
    let (host, drill) = (machines.host_line().await, machines.drill_line().await);
    machines.root(&[&host, &drill]).await;
    let folder = machines.path("owner");
    let identity = std::fs::read(folder.join("identity")).unwrap();
    for gone in [&["sheet.txt"][..], &["sheet.txt", "last-root.json"], &["sheet.txt", "last-root.json", "line"]] {
        for file in gone {
            std::fs::remove_file(folder.join(file)).unwrap();
        }
        let root = machines.root(&[&host, &drill]).await;
        assert!(root.starts_with("lifeboat-root-1:"));
        assert_eq!(std::fs::read(folder.join("identity")).unwrap(), identity, "{gone:?}");
        assert_eq!(files(&folder).len(), 5, "{:?}", files(&folder));
        assert!(files(&folder).iter().all(|(_, mode)| *mode == 0o600), "{:?}", files(&folder));
    }
}
