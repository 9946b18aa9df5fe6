//! The runbook for a new version, on installations as older programs left them.

use std::path::{Path, PathBuf};

use lifeboat_tests::operator::{Operator, directory_replica, file_dataset};
use lifeboat_tests::runbook::Runbook;
use lifeboat_tests::tools;
use lifeboat_tests::vault::files_below;
use tempfile::TempDir;

use crate::place;

/// Copies a folder. What git does not keep of modes is put right: all of it is private.
fn copy(from: &Path, to: &Path) {
    let done = std::process::Command::new("cp").arg("-r").arg(from).arg(to).status();
    assert!(done.unwrap().success());
    let done = std::process::Command::new("chmod").args(["-R", "u=rwX,go="]).arg(to).status();
    assert!(done.unwrap().success());
}

/// The hosts of an installation, as the programs of its day left them.
struct Installed {
    place: TempDir,
    db1: Operator,
    drill: Operator,
}

impl Installed {
    fn copied(folder: &Path) -> Self {
        let place = place();
        let (mut db1, mut drill) = (Operator::at(place.path(), "db1"), Operator::at(place.path(), "drill"));
        db1.replicas = ["frankfurt", "ireland"].map(|name| directory_replica(place.path(), name)).to_vec();
        for name in ["frankfurt", "ireland"] {
            copy(&folder.join("replica"), &place.path().join(name).join("vault"));
        }
        for name in ["keys", "state", "owner"] {
            copy(&folder.join(name), &db1.file(name));
        }
        copy(&folder.join("keys/drill-host"), &drill.file("keys"));
        copy(&folder.join("drill-state"), &drill.file("state"));
        for name in ["data", "app.db"] {
            copy(&folder.join(name), &place.path().join(name));
        }
        let owner = std::fs::read_to_string(folder.join("owner/line")).unwrap();
        db1.owners = vec![owner.trim().to_owned()];
        let app = format!(
            "[[dataset]]\nname = \"app\"\nhome_region = \"home\"\nsource = {{ kind = \"sqlite\", path = \"{}\" }}\n",
            place.path().join("app.db").display()
        );
        let shop = file_dataset("shop", &place.path().join("data"), "retention = { keep_last = 3, grace = \"1m\" }");
        db1.datasets = vec![shop, app];
        (drill.owners, drill.replicas, drill.datasets) =
            (db1.owners.clone(), db1.replicas.clone(), db1.datasets.clone());
        Self { place, db1, drill }
    }
}

fn installations() -> Vec<PathBuf> {
    let entries = std::fs::read_dir(tools::workspace().join("tests/installations")).unwrap();
    let folders: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).filter(|path| path.is_dir()).collect();
    assert!(!folders.is_empty());
    folders
}

async fn snapshots(host: &Operator, dataset: &str) -> Vec<String> {
    let list = host.must(&format!("lifeboat --json list {dataset}")).await.json().unwrap();
    let all = list["snapshots"].as_array().unwrap();
    all.iter().map(|one| one["snapshot"].as_str().unwrap().to_owned()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_installation_goes_on_with_the_programs_of_today() {
    for folder in installations() {
        let mut book = Runbook::open("Upgrade");
        let Installed { place, mut db1, mut drill } = Installed::copied(&folder);
        let packs = |name: &str| {
            let all = files_below(&place.path().join(name));
            all.into_iter().filter(|path| path.display().to_string().contains("/packs/")).count()
        };
        let (before, stored) = (snapshots(&db1, "shop").await, packs("frankfurt"));
        assert_eq!((before.len(), snapshots(&db1, "app").await.len()), (4, 2));
        let real = [("shop", "app")];
        let oldest = before.iter().min().unwrap();
        let flags = format!("--identity owner/identity --owner-directory owner --snapshot {oldest}");
        let first = db1.restored(&flags).await;
        let drilled = drill.follow(&mut book, "lifeboat drill shop", &real).await;
        assert!(drilled.stdout.contains("PROVED"), "{drilled}");

        // What holds while the daemon is replaced holds for the new one.
        db1.start().await;
        db1.follow(&mut book, "lifeboat pause --all --for 1h --reason upgrade", &[]).await;
        db1.stop().await;
        db1.start().await;
        let status = db1.follow(&mut book, "lifeboatd status", &[]).await;
        assert!(status.stdout.contains("upgrade"), "{status}");
        db1.follow(&mut book, "lifeboatd --check-config", &[]).await;
        db1.follow(&mut book, "lifeboat check", &[]).await;
        db1.follow(&mut book, "lifeboat resume --all", &[]).await;
        // Unchanged data is known: nothing is stored anew.
        db1.follow(&mut book, "lifeboat trigger shop", &[]).await;
        db1.must("lifeboat trigger app").await;
        assert!(packs("frankfurt") <= stored + 2, "{} packs, and {stored} before", packs("frankfurt"));
        db1.stop().await;

        // All that there was is there, and believed; the mark of the older program was carried out.
        for dataset in ["shop", "app"] {
            db1.must(&format!("lifeboat verify {dataset}")).await;
        }
        db1.must("lifeboat audit verify").await;
        let left = snapshots(&db1, "shop").await;
        let expected = before.iter().filter(|id| *id != oldest);
        assert!(left.len() == 4 && expected.clone().all(|id| left.contains(id)), "{left:?} of {before:?}");
        let data = std::fs::read_to_string(place.path().join("data")).unwrap();
        assert_eq!(db1.restored("--identity owner/identity --owner-directory owner").await, data);
        assert_ne!(first, data);
    }
}
