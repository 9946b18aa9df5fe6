//! `setup --try`, in one folder.

use std::path::Path;

use crate::{DEADLINE, Machines, files};
use lifeboat_tests::programs::{self, run};
use tokio::process::Command;

#[tokio::test(flavor = "multi_thread")]
async fn a_trial_ends_proved_and_says_what_is_not_safe() {
    let machines = Machines::new();
    let wiki = machines.sqlite("wiki.db");
    let folder = machines.path("trial").display().to_string();
    let words = ["setup", "--try", &folder, "--sqlite", &wiki];
    let done = machines.lifeboat("nowhere", &words).await;
    assert!(done.status.success(), "{done}");
    let (_, told) = done.stdout.split_once("Not safe: ").unwrap();
    assert_eq!(told.lines().next().unwrap().matches(". ").count(), 2, "three sentences: {told}");
    let status = machines.ok("trial/drill", &["--json", "status"]).await;
    assert!(status.contains("\"standing\": \"proved\""), "{status}");

    // A folder of somebody else is not taken: in the end a trial is removed as a whole.
    let said = machines.refused("nowhere", &["setup", "--try", &machines.path("").display().to_string()]).await;
    assert!(said.contains("is not empty"), "{said}");
    std::fs::create_dir_all(machines.path("similar/host/keys")).unwrap();
    let said = machines.refused("nowhere", &["setup", "--try", &machines.path("similar").display().to_string()]).await;
    assert!(said.contains("is not empty"), "{said}");

    // Again: the same keys, one more backup and drill.
    let keys = |part: &str| files(&Path::new(&folder).join(part));
    let before = [keys("host/keys"), keys("drill/keys"), keys("owner")];
    let again = machines.lifeboat("nowhere", &words).await;
    assert!(again.status.success(), "{again}");
    assert_eq!([keys("host/keys"), keys("drill/keys"), keys("owner")], before);

    // What the owner alone can do with what lies there.
    let out = machines.path("out").display().to_string();
    let owner = Path::new(&folder).join("owner");
    let (identity, line) = (owner.join("identity"), format!("@{}", owner.join("line").display()));
    let restored = machines
        .lifeboat(
            "nowhere",
            &[
                "restore",
                "wiki",
                "--directory",
                &format!("{folder}/replica-far"),
                "--owner",
                &line,
                "--identity",
                &identity.display().to_string(),
                "--owner-directory",
                &owner.display().to_string(),
                "--to-directory",
                &out,
            ],
        )
        .await;
    assert!(restored.status.success(), "{restored}");
    let database = rusqlite::Connection::open(machines.path("out/database.sqlite")).unwrap();
    let text: String = database.query_row("SELECT text FROM page", [], |row| row.get(0)).unwrap();
    assert_eq!(text, "kept");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_system_is_set_up_by_root_alone() {
    if !rustix::process::geteuid().is_root() {
        let refused = run(Command::new(programs::lifeboat()).args(["setup", "host"]), DEADLINE).await.unwrap();
        assert!(refused.stderr.contains("with sudo"), "{refused}");
        return;
    }
    let machines = Machines::new();
    let program = machines.path("lifeboat");
    std::fs::copy(programs::lifeboat(), &program).unwrap();
    std::os::unix::fs::chown(machines.path(""), Some(65_534), Some(65_534)).unwrap();
    let mut command = Command::new(&program);
    command.args(["setup", "host"]).env_remove("LIFEBOAT_CONFIG").uid(65_534).gid(65_534).current_dir("/");
    let refused = run(&mut command, DEADLINE).await.unwrap();
    assert_eq!(refused.code(), Some(2), "{refused}");
    assert!(refused.stderr.contains("run the same command with sudo"), "{refused}");
}
