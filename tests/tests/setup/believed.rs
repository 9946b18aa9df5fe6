//! Whom a machine believes: the root's words are compared the first time, and a root that is known
//! to be out of date is never gone by.

use crate::Machines;

#[tokio::test(flavor = "multi_thread")]
async fn the_words_of_the_first_root_are_compared_before_anything_is_written() {
    let machines = Machines::new();
    let (host, drill) = (machines.host_line().await, machines.drill_line().await);
    let owner = machines.path("owner").display().to_string();
    let init = ["owner", "init", "--yes", "--directory", &owner, &host, &drill];
    let made = machines.lifeboat("nowhere", &init).await;
    let (_, root_words) =
        made.stderr.split_once("Root 1 of vault ").and_then(|(_, rest)| rest.split_once(": ")).unwrap();
    let (root, root_words) = (made.stdout.trim(), root_words.lines().next().unwrap());
    assert_eq!(root_words.split(' ').count(), 8, "{made}");
    let wiki = machines.sqlite("wiki.db");
    let replicas = ["near", "far"].map(|name| format!("{name}={}", machines.path(name).display()));
    let words = ["setup", "--root", root, "--replica", &replicas[0], "--replica", &replicas[1], "--sqlite", &wiki];
    let other_words = root_words.split(' ').rev().collect::<Vec<_>>().join(" ");
    for (more, why) in [
        (vec!["--root-words", &other_words, "--yes"], "the root has other words"),
        (vec!["--root-words", "", "--yes"], "the root has other words"),
        (vec![], "--root-words"),
    ] {
        let said = machines.refused("host", &[&words[..], &more].concat()).await;
        assert!(said.contains(why), "{why}: {said}");
        assert!(!machines.config("host").exists() && !machines.path("near").exists(), "{said}");
    }
    let unseen = format!("nobody compared the root's words with those that the owner's machine showed: {root_words}");
    let typed = format!("  {}\n", root_words.to_uppercase().replace(' ', "  "));
    let done = machines.lifeboat("host", &[&words[..], &["--root-words", &typed, "--yes"]].concat()).await;
    assert!(done.status.success() && !done.stderr.contains("nobody compared"), "{done}");
    // What is made is told with the file system that it is made on.
    let made = format!("the directory {} is made for replica far, on the file system", machines.path("far").display());
    assert!(done.stderr.contains(&made), "{done}");
    // Who was believed is believed.
    let again = machines.lifeboat("host", &[&words[..], &["--yes"]].concat()).await;
    assert!(again.status.success() && !again.stderr.contains("nobody compared"), "{again}");
    let lacking = format!("near={}", machines.path("not-mounted").display());
    let said = machines.refused("drill", &["setup", "drill-host", "--join", &lacking, "--root", root, "--yes"]).await;
    assert!(said.contains("there is nothing to drill") && !machines.config("drill").exists(), "{said}");
    let join = ["setup", "drill-host", "--join", &replicas[0], "--root", root];
    let said = machines.refused("drill", &join).await;
    assert!(said.contains("--root-words") && !machines.config("drill").exists(), "{said}");
    let done = machines.lifeboat("drill", &[&join[..], &["--yes"]].concat()).await;
    assert!(done.status.success() && done.stderr.contains(&unseen), "{done}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_machine_goes_by_the_newest_root_that_it_knows() {
    let machines = Machines::new();
    let (host, drill) = (machines.host_line().await, machines.drill_line().await);
    let root = machines.root(&[&host, &drill]).await;
    let wiki = machines.sqlite("wiki.db");
    let replicas = ["near", "far"].map(|name| format!("{name}={}", machines.path(name).display()));
    let words = ["--replica", &replicas[0], "--replica", &replicas[1], "--sqlite", &wiki, "--yes"];
    let with = |root: &str| -> Vec<String> {
        ["setup", "--root", root].iter().chain(&words).map(|word| (*word).to_owned()).collect()
    };
    let set_up = async |root: &str| {
        let words = with(root);
        machines.lifeboat("host", &words.iter().map(String::as_str).collect::<Vec<_>>()).await
    };
    let done = set_up(&root).await;
    assert!(done.status.success(), "{done}");
    let request = machines.ok("host", &["root", "request", "set", "--least-delay", "3"]).await;
    let owner = machines.path("owner").display().to_string();
    let second = machines.ok("nowhere", &["owner", "sign", "--yes", "--directory", &owner, &request]).await;
    machines.ok("host", &["root", "install", &second]).await;

    // Root 2 follows from the one that is given, so it is taken.
    let done = set_up(&root).await;
    assert!(done.status.success() && done.stderr.contains("root 1 is followed by root 2"), "{done}");
    let shown = machines.ok("host", &["root", "show", "--line"]).await;
    assert_eq!(shown, second);
    // Nobody knows whether it does where root 1 is kept no more.
    let config = std::fs::read(machines.config("host")).unwrap();
    std::fs::remove_dir_all(machines.path("host/state/roots")).unwrap();
    let done = set_up(&root).await;
    assert!(
        !done.status.success() && done.stderr.contains("root 2 is installed here, and another root 1 was given"),
        "{done}"
    );
    assert!(done.stderr.contains("lifeboat root show --line"), "{done}");
    assert_eq!(std::fs::read(machines.config("host")).unwrap(), config);
    let done = set_up(&shown).await;
    assert!(done.status.success(), "{done}");

    // The lines of machines are public: a stranger signs a root of them.
    let stranger = machines.path("stranger").display().to_string();
    let init = ["owner", "init", "--yes", "--directory", &stranger, &host, &drill];
    let theirs = with(&machines.ok("nowhere", &init).await);
    let theirs: Vec<&str> = theirs.iter().map(String::as_str).collect();
    for more in [&[][..], &["--replace"]] {
        let done = machines.lifeboat("host", &[&theirs[..], more].concat()).await;
        assert!(!done.status.success() && done.stderr.contains("the one that was given has other owners"), "{done}");
        assert_eq!(std::fs::read(machines.config("host")).unwrap(), config);
        assert_eq!(machines.ok("host", &["root", "show", "--line"]).await, second);
    }
}
