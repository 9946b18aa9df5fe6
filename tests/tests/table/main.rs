//! Every kind of object, in one replica or in all, removed or exchanged for something else: on the
//! built programs, in a vault with a root. Each case is one of this table; none is written by hand.
//!
//! Whatever is done, it is told by name; nothing of it is adopted, and nothing is deleted for it;
//! and what the other region holds is restored.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod cases;

use std::collections::BTreeMap;
use std::path::Path;

use lifeboat_engine::keys::DRILL_HOST_FOLDER;
use lifeboat_tests::rooted::RootedVault;
use lifeboat_tests::vault::files_below;

use crate::cases::{Case, KINDS, TAMPERINGS};

/// The content of every object of a replica, by key.
pub(crate) type Objects = BTreeMap<String, Vec<u8>>;

const REPLICAS: [&str; 2] = ["r1", "r2"];

/// A vault with all kinds of objects, and what belongs to another one.
struct Prepared {
    vault: RootedVault,
    objects: [Objects; 2],
    foreign: Objects,
    state: Objects,
    /// What the owner remembers of logs.
    owner: Objects,
}

fn objects(folder: &Path) -> Objects {
    let read = |path: std::path::PathBuf| {
        (path.strip_prefix(folder).unwrap().display().to_string(), std::fs::read(&path).unwrap())
    };
    files_below(folder).into_iter().map(read).collect()
}

/// Makes a folder hold these objects and no others, and writes only what differs.
fn put_back(folder: &Path, wanted: &Objects) {
    let there = objects(folder);
    for key in there.keys().filter(|key| !wanted.contains_key(*key)) {
        std::fs::remove_file(folder.join(key)).unwrap();
    }
    for (key, content) in wanted.iter().filter(|(key, content)| there.get(*key) != Some(*content)) {
        std::fs::create_dir_all(folder.join(key).parent().unwrap()).unwrap();
        std::fs::write(folder.join(key), content).unwrap();
    }
}

async fn backup(vault: &RootedVault, host: &str, datasets: &[&str], content: &str) {
    for dataset in datasets {
        std::fs::write(vault.path(host).join(dataset), format!("{content} of {dataset}")).unwrap();
    }
    let once = vault.once(host).await;
    assert!(once.status.success(), "{once}");
}

/// Four snapshots: the first was pruned, the second is marked. Since then all is kept.
async fn made() -> RootedVault {
    let mut vault = RootedVault::new().await;
    vault.clock = Some("-96h".to_owned());
    vault.set_up("db1", &["shop", "wiki"], &[]).await;
    vault.reconfigure("db1", "[limits]\n", "[limits]\nrun = \"1m\"\nclock_skew = \"1s\"\n");
    let keep =
        |number: u32| format!("home_region = \"home\"\nretention = {{ keep_last = {number}, grace = \"1h\" }}\n");
    vault.reconfigure("db1", "home_region = \"home\"\n", &keep(2));
    for content in ["the first", "the second", "the third"] {
        backup(&vault, "db1", &["shop", "wiki"], content).await;
    }
    vault.configure("drill1", &vault.owners(), &[]);
    std::fs::rename(vault.path("db1/keys").join(DRILL_HOST_FOLDER), vault.path("drill1/keys")).unwrap();
    vault.set_up("db2", &["crm"], &["--identity", &vault.identity("ann")]).await;
    vault.reconfigure("db2", "[limits]\n", "[limits]\nrun = \"1m\"\nclock_skew = \"1s\"\n");
    vault.reconfigure("db2", "home_region = \"home\"\n", &keep(2));
    for content in ["the first", "the second", "the third"] {
        backup(&vault, "db2", &["crm"], content).await;
    }
    vault.clock = Some("-76h".to_owned());
    backup(&vault, "db1", &["shop", "wiki"], "the fourth").await;
    backup(&vault, "db2", &["crm"], "the fourth").await;
    for _ in 0..2 {
        for dataset in ["shop", "wiki"] {
            let drilled = vault.lifeboat("drill1", &["drill", dataset, "--level", "fetched"]).await;
            assert!(drilled.status.success(), "{drilled}");
        }
    }
    vault.reconfigure("db1", &keep(2), &keep(50));
    vault.reconfigure("db2", &keep(2), &keep(50));
    // The mark is not due yet.
    backup(&vault, "db1", &["shop", "wiki"], "the newest").await;
    vault
}

impl Prepared {
    async fn new() -> Self {
        let (vault, other) = tokio::join!(made(), made());
        let of = |vault: &RootedVault| REPLICAS.map(|replica| objects(&vault.path(replica)));
        let (state, owner) = (objects(&vault.path("db1/state")), objects(&vault.path("ann")));
        Self { objects: of(&vault), foreign: of(&other)[0].clone(), vault, state, owner }
    }

    async fn try_case(&self, case: &Case) -> Vec<String> {
        let vault = &self.vault;
        put_back(&vault.path("db1/state"), &self.state);
        put_back(&vault.path("ann"), &self.owner);
        for (replica, objects) in REPLICAS.iter().zip(&self.objects) {
            put_back(&vault.path(replica), objects);
        }
        for replica in &case.places {
            let mut tampered = self.objects[usize::from(*replica == "r2")].clone();
            for (key, content) in &case.changes {
                match content {
                    Some(content) => drop(tampered.insert(key.clone(), content.clone())),
                    None => drop(tampered.remove(key)),
                }
            }
            put_back(&vault.path(replica), &tampered);
        }
        let mut wrong = Vec::new();
        let verified = vault.lifeboat("db1", &["verify"]).await;
        let audited = vault.lifeboat("db1", &["audit", "verify"]).await;
        let shown = vault.lifeboat("db1", &["root", "show"]).await;
        std::fs::write(vault.path("db1/shop"), "after all").unwrap();
        let once = vault.once("db1").await;
        let told: String = [&verified, &audited, &shown, &once]
            .iter()
            .map(|output| format!("{}{}", output.stdout, output.stderr))
            .collect();
        let is_told = case.names.iter().any(|name| told.contains(name));
        if is_told == case.silent.is_some() {
            wrong.push(format!("{case}: told: {is_told}, of {:?}; {:?}: {told}", case.names, case.silent));
        }
        for (replica, before) in REPLICAS.iter().zip(&self.objects) {
            let (after, is_tampered) = (objects(&vault.path(replica)), case.places.contains(replica));
            for (key, content) in before.iter().filter(|(key, _)| !is_daily(key)) {
                let was_changed = is_tampered && case.changes.iter().any(|(changed, _)| changed == key);
                if !was_changed && after.get(key) != Some(content) {
                    wrong.push(format!("{case}: {key} in {replica} is gone or another one: {once}"));
                }
            }
            for (key, content) in case.changes.iter().filter(|_| !is_tampered) {
                if content.is_some() && after.get(key) == content.as_ref() {
                    wrong.push(format!("{case}: {key} was adopted in {replica}: {once}"));
                }
            }
        }
        let restored = vault.restored("shop", "r2", &["--snapshot", &newest(&self.objects[1])]).await;
        match restored {
            Ok(content) if content == "the newest of shop" => {}
            Err(_) if case.places.len() == 2 => {}
            Ok(content) => wrong.push(format!("{case}: restored `{content}`")),
            Err(output) => wrong.push(format!("{case}: not restored from the other region: {output}")),
        }
        wrong
    }
}

/// The newest snapshot of `shop`.
fn newest(objects: &Objects) -> String {
    let ids = objects.keys().filter_map(|key| key.strip_prefix("datasets/shop/snapshots/"));
    ids.filter_map(|key| key.strip_suffix(".json.zst.age")).next_back().unwrap().to_owned()
}

/// What daily work replaces or removes.
fn is_daily(key: &str) -> bool {
    ["/order/", "/marks/", "/prunes/", "/lease"].iter().any(|part| key.contains(part)) || key.starts_with("probe/")
}

/// Tries every case of these kinds.
async fn try_all(kinds: impl Iterator<Item = &'static str>) {
    let prepared = Prepared::new().await;
    let (mut tried, mut wrong) = (0, Vec::new());
    for kind in kinds {
        for tampering in TAMPERINGS {
            for places in [&REPLICAS[..1], &REPLICAS[..]] {
                let Some(case) = Case::of(kind, tampering, places, &prepared.objects[0], &prepared.foreign) else {
                    continue;
                };
                tried += 1;
                wrong.extend(prepared.try_case(&case).await);
            }
        }
    }
    assert!(wrong.is_empty(), "{} of {tried} cases:\n{}", wrong.len(), wrong.join("\n\n"));
    assert!(tried > 20, "only {tried} cases");
}

fn share(of: usize) -> impl Iterator<Item = &'static str> {
    KINDS.iter().skip(of).step_by(3).copied()
}

#[tokio::test(flavor = "multi_thread")]
async fn every_kind_of_object_is_tampered_with_1() {
    try_all(share(0)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_kind_of_object_is_tampered_with_2() {
    try_all(share(1)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_kind_of_object_is_tampered_with_3() {
    try_all(share(2)).await;
}
