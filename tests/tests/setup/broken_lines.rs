//! Lines that were copied wrongly, are of another kind, or are a stranger's.

use crate::Machines;

/// A line with its digit at `at` changed.
fn typed_wrongly(line: &str, at: usize) -> String {
    let mut wrong = line.to_owned();
    let other = if line.as_bytes()[at] == b'A' { "B" } else { "A" };
    wrong.replace_range(at..=at, other);
    wrong
}

#[tokio::test(flavor = "multi_thread")]
async fn an_owner_makes_no_root_of_a_broken_line() {
    let machines = Machines::new();
    let (host, drill) = (machines.host_line().await, machines.drill_line().await);
    let owner = machines.path("owner").display().to_string();
    let middle = host.len() / 2;
    let broken = [
        String::new(),
        "lifeboat-host-1".to_owned(),
        "lifeboat-host-1:".to_owned(),
        typed_wrongly(&host, middle),
        host[..host.len() - 1].to_owned(),
        format!("{host}A"),
        format!("{host}{host}"),
        host.replace("lifeboat-host-1", "lifeboat-drill-host-1"),
        drill.replace("lifeboat-drill-host-1", "lifeboat-host-1"),
        host.replace("lifeboat-host-1", "lifeboat-host-2"),
        "x".repeat(100_000),
    ];
    for line in &broken {
        let said = machines.lifeboat("nowhere", &["owner", "init", "--yes", "--directory", &owner, &drill, line]).await;
        assert!(!said.status.success(), "{line}: {said}");
        assert!(!machines.path("owner/last-root.json").exists(), "a root was signed: {line}");
    }
    // No host, no vault; and two hosts that each made one.
    let said = machines.refused("nowhere", &["owner", "init", "--yes", "--directory", &owner, &drill]).await;
    assert!(said.contains("no backup host's line"), "{said}");
    let other = machines.ok("other", &["setup", "host", "--name", "db2"]).await;
    let said =
        machines.refused("nowhere", &["owner", "init", "--yes", "--directory", &owner, &host, &other, &drill]).await;
    assert!(said.contains("of two vaults"), "{said}");
    // However it was typed, a whole line is read.
    let loose = format!("  {}\n", host.replacen(':', ": ", 1).to_lowercase());
    let root = machines.root(&[&loose, &drill]).await;
    assert!(root.starts_with("lifeboat-root-1:"), "{root}");
    let sheet = std::fs::read_to_string(machines.path("owner/sheet.txt")).unwrap();
    assert!(
        sheet.contains("AGE-SECRET-KEY-1")
            && sheet.contains("chmod 600 identity")
            && sheet.contains("lifeboat-owner-1:"),
        "{sheet}"
    );
    // Other machines with the same owner: the first root was signed.
    let said = machines.refused("nowhere", &["owner", "init", "--yes", "--directory", &owner, &host]).await;
    assert!(said.contains("already signed root 1") && said.contains("root request"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_owner_sees_the_words_that_the_machine_showed_and_others_for_a_stranger() {
    let (machines, others) = (Machines::new(), Machines::new());
    let (host, drill) = (machines.host_line().await, machines.drill_line().await);
    let host_words = machines.words("host", &["setup", "host", "--name", "db1"]).await;
    let drill_words = machines.words("drill", &["setup", "drill-host", "--name", "drill1"]).await;
    let owner = machines.path("owner").display().to_string();
    let done = machines.lifeboat("nowhere", &["owner", "init", "--yes", "--directory", &owner, &host, &drill]).await;
    for shown in [format!("backup host db1: {host_words}\n"), format!("drill host drill1: {drill_words}\n")] {
        assert!(done.stderr.contains(&shown), "{shown}: {done}");
    }
    assert!(!done.stderr.contains("no drill will prove"), "{done}");
    // The same names on other machines; and nobody who drills.
    let owner = others.path("owner").display().to_string();
    let strange = others.host_line().await;
    let done = others.lifeboat("nowhere", &["owner", "init", "--yes", "--directory", &owner, &strange]).await;
    assert!(done.stderr.contains("backup host db1: ") && !done.stderr.contains(&host_words), "{done}");
    assert!(done.stderr.contains("no drill will prove any backup"), "{done}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_machine_takes_no_root_that_is_broken_unsigned_or_of_others() {
    let machines = Machines::new();
    let (host, drill) = (machines.host_line().await, machines.drill_line().await);
    let root = machines.root(&[&host, &drill]).await;
    let wiki = machines.sqlite("wiki.db");
    let (near, far) = (machines.path("near").display().to_string(), machines.path("far").display().to_string());
    let (near, far) = (format!("near={near}"), format!("far={far}"));
    let others = Machines::new();
    let strange = others.root(&[&others.host_line().await, &others.drill_line().await]).await;
    let unsigned = {
        let request = machines.path("request");
        std::fs::write(&request, root.replace("lifeboat-root-1", "lifeboat-request-1")).unwrap();
        std::fs::read_to_string(request).unwrap()
    };
    // Eight digits are five whole bytes.
    let digits = (root.len() - "lifeboat-root-1:".len() - 1) / 8 * 8;
    let cut = root[.."lifeboat-root-1:".len() + digits].to_owned();
    let refused = [
        (String::new(), "it has no colon"),
        (host.clone(), "begins otherwise"),
        (typed_wrongly(&root, root.len() / 2), "checksum"),
        (cut, "a part is missing"),
        (unsigned, "nobody has signed it"),
        (strange.clone(), "does not name the keys of this backup host"),
    ];
    for (line, why) in &refused {
        let words = ["setup", "--root", line, "--replica", &near, "--replica", &far, "--sqlite", &wiki, "--yes"];
        let said = machines.refused("host", &words).await;
        assert!(said.contains(why), "{line}: {said}");
        assert!(!machines.config("host").exists() && !machines.path("near").exists(), "{said}");
    }
    let said = machines.refused("drill", &["setup", "drill-host", "--join", &near, "--root", &strange, "--yes"]).await;
    assert!(said.contains("does not name the keys of this drill host"), "{said}");
    let words = ["setup", "--root", &root, "--replica", &near, "--replica", &far, "--sqlite", &wiki, "--yes"];
    let said = machines.refused("nobody", &words).await;
    assert!(said.contains("this host has no keys") && said.contains("lifeboat setup host"), "{said}");
    // The parts stay apart.
    let said = machines.refused("host", &["setup", "drill-host"]).await;
    assert!(said.contains("the other part"), "{said}");
    let said = machines.refused("drill", &["setup", "host"]).await;
    assert!(said.contains("the other part"), "{said}");

    // A thief's root of this very host, whose line is public. Once an owner was believed, no other
    // is.
    let done = machines.lifeboat("host", &words).await;
    assert!(done.status.success(), "{done}");
    let before = std::fs::read(machines.config("host")).unwrap();
    let stolen = others.path("thief").display().to_string();
    let stolen = others.ok("nowhere", &["owner", "init", "--yes", "--directory", &stolen, &host, &drill]).await;
    let words = ["setup", "--root", &stolen, "--replica", &near, "--replica", &far, "--sqlite", &wiki, "--yes"];
    let said = machines.refused("host", &words).await;
    assert!(said.contains("other owners"), "{said}");
    assert_eq!(std::fs::read(machines.config("host")).unwrap(), before);
}
