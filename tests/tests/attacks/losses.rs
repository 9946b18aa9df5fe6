//! Objects that one replica or both lose between two scheduled runs.

use std::path::{Path, PathBuf};

use lifeboat_tests::by_hand::{Contents, contents, harmed};
use lifeboat_tests::operator::Operator;
use lifeboat_tests::programs::Output;
use tempfile::TempDir;

use crate::{KEEP_TEN, REPLICAS, assert_restores, data, host, place, write};

/// What is lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Harm {
    Signatures,
    Manifests,
    SignaturesAndManifests,
    Indexes,
    Keyring,
    Packs,
    /// An empty bucket is put in its place.
    Bucket,
    /// The bucket of yesterday is put in its place.
    RolledBack,
}

impl Harm {
    fn takes(self, key: &str) -> bool {
        let is_signature = key.ends_with(".minisig");
        let is_in = |folder: &str| key.contains(folder);
        match self {
            Self::Signatures => is_in("/snapshots/") && is_signature,
            Self::Manifests => is_in("/snapshots/") && !is_signature,
            Self::SignaturesAndManifests => is_in("/snapshots/"),
            Self::Indexes => is_in("/index/"),
            Self::Keyring => is_in("/keyring/datasets/"),
            Self::Packs => is_in("/packs/"),
            Self::Bucket => true,
            Self::RolledBack => false,
        }
    }
}

/// What a program must say: its exit code, and a part of its message.
type Told = (i32, &'static str);

/// What must come of it.
#[derive(Debug, Clone, Copy)]
struct Then {
    /// What the next scheduled run says.
    once: Told,
    /// What the prunes after it say, and a verify.
    prune: Told,
    verify: Told,
    /// What an operator runs then.
    mend: &'static str,
    /// What that says. If all is well, every snapshot comes back from each replica.
    mended: Told,
}

/// Nothing is to be told.
const WELL: Told = (0, "");
const MISSING: Told = (6, "something of dataset shop is missing");
const REPAIR: &str = "lifeboat repair shop";

/// The next run puts it back without a word, or with a warning.
const BACK: Then = Then { once: WELL, prune: WELL, verify: WELL, mend: REPAIR, mended: WELL };
/// The next run says what is missing, deletes nothing, and puts it back.
const TOLD_AND_BACK: Then = Then { once: MISSING, ..BACK };

/// What is lost, what must come of it if one of the two replicas lost it, and if both did. The host
/// remembers what it has seen, and has copies of small objects.
const CASES: [(Harm, Then, Then); 8] = [
    (Harm::Signatures, BACK, BACK),
    (Harm::Manifests, TOLD_AND_BACK, TOLD_AND_BACK),
    (Harm::SignaturesAndManifests, TOLD_AND_BACK, Then { prune: MISSING, verify: (6, "is missing"), ..TOLD_AND_BACK }),
    (Harm::Indexes, BACK, BACK),
    (Harm::Keyring, BACK, Then { once: (7, "run `lifeboat init` again"), verify: (2, "no dataset shop"), ..BACK }),
    (Harm::Packs, BACK, Then { verify: (6, "pack"), mended: (6, "CANNOT BE RESTORED"), ..BACK }),
    (
        Harm::Bucket,
        Then { prune: MISSING, verify: (5, "ireland"), mend: "lifeboat init && lifeboat repair shop", ..TOLD_AND_BACK },
        Then {
            once: NO_VAULT,
            prune: NO_VAULT,
            verify: (5, "no replica of the vault"),
            mend: REPAIR,
            mended: NO_VAULT,
        },
    ),
    (
        Harm::RolledBack,
        TOLD_AND_BACK,
        Then { prune: MISSING, verify: (6, "missing"), mended: (6, "MISSING"), ..TOLD_AND_BACK },
    ),
];
/// Where both buckets are empty, there is nothing to mend.
const NO_VAULT: Told = (5, "vault.json: no such object");

/// A vault with three snapshots in each replica, its host, and the replicas before the third.
struct Scene {
    place: TempDir,
    db1: Operator,
    snapshots: Vec<String>,
    before: Contents,
    state: Contents,
    yesterday: Contents,
}

fn put_in_place(folders: &[PathBuf], content: &Contents) {
    folders.iter().for_each(|folder| drop(std::fs::remove_dir_all(folder)));
    for (file, bytes) in content {
        std::fs::create_dir_all(file.parent().unwrap()).unwrap();
        std::fs::write(file, bytes).unwrap();
    }
    folders.iter().for_each(|folder| std::fs::create_dir_all(folder).unwrap());
}

impl Scene {
    async fn set() -> Self {
        let place = place();
        let db1 = host(place.path(), KEEP_TEN).await;
        let (mut snapshots, mut yesterday) = (Vec::new(), Contents::new());
        for seed in 0..3 {
            write(place.path(), seed);
            yesterday = contents(&Self::folders(place.path()));
            snapshots.push(db1.backup().await["snapshot"].as_str().unwrap().to_owned());
        }
        let before = contents(&Self::folders(place.path()));
        let state = contents([&db1.file("state")]);
        Self { place, db1, snapshots, before, state, yesterday }
    }

    fn folders(place: &Path) -> Vec<PathBuf> {
        REPLICAS.map(|replica| place.join(replica)).to_vec()
    }

    /// Everything is as it was.
    fn reset(&self) {
        put_in_place(&Self::folders(self.place.path()), &self.before);
        put_in_place(&[self.db1.file("state")], &self.state);
        write(self.place.path(), 3);
    }

    fn harm(&self, harm: Harm, who: &[&str]) {
        for replica in who {
            let folder = self.place.path().join(replica);
            if harm == Harm::RolledBack {
                let old = self.yesterday.iter().filter(|(file, _)| file.starts_with(&folder));
                put_in_place(
                    std::slice::from_ref(&folder),
                    &old.map(|(file, body)| (file.clone(), body.clone())).collect(),
                );
            }
            for file in lifeboat_tests::vault::files_below(&folder) {
                if harm.takes(file.to_str().unwrap()) {
                    std::fs::remove_file(file).unwrap();
                }
            }
        }
    }

    fn contents(&self) -> Contents {
        contents(&Self::folders(self.place.path()))
    }

    async fn once(&self) -> (Output, Option<String>) {
        let output = self.db1.shell("lifeboatd --json --log text --once shop").await;
        let report: serde_json::Value =
            serde_json::from_str(output.stdout.lines().next().unwrap_or_default()).unwrap_or_default();
        let snapshot = report["snapshot"].as_str().map(str::to_owned);
        (output, snapshot)
    }

    async fn endure(&mut self, harm: Harm, who: &[&str], then: Then) {
        let when = format!("{harm:?} lost in {who:?}");
        self.reset();
        self.harm(harm, who);
        let left = self.contents();
        assert!(!harmed(&self.before, &left).is_empty(), "{when}: nothing was lost");
        let (once, next) = self.once().await;
        assert_told(&once, then.once, &format!("{when}: the next run"));
        // What marks named for it would go with the second of these.
        for clock in ["+3m", "+6m"] {
            self.db1.clock = Some(clock);
            let prune = self.db1.shell("lifeboat prune shop --yes").await;
            assert_told(&prune, then.prune, &format!("{when}: prune, {clock}"));
        }
        self.db1.clock = None;
        let gone = harmed(&left, &self.contents());
        assert!(gone.is_empty(), "{when}: {gone:?} went");
        let verify = self.db1.shell("lifeboat verify shop").await;
        assert_told(&verify, then.verify, &format!("{when}: verify"));
        let mended = self.db1.shell(then.mend).await;
        assert_told(&mended, then.mended, &format!("{when}: {}", then.mend));
        let gone = harmed(&left, &self.contents());
        assert!(gone.is_empty(), "{when}: {gone:?} went");
        if then.mended != WELL {
            return;
        }
        let pruned = self.db1.shell("lifeboat prune shop --yes").await;
        assert_told(&pruned, WELL, &format!("{when}: prune at the end"));
        let verify = self.db1.shell("lifeboat verify shop").await;
        assert_told(&verify, WELL, &format!("{when}: verify at the end"));
        let all = self.snapshots.iter().chain(&next).zip(0..);
        for (snapshot, seed) in all {
            for replica in REPLICAS {
                assert_restores(&self.db1, replica, snapshot, &data(seed), &format!("{when}, from {replica}")).await;
            }
        }
    }
}

fn assert_told(output: &Output, (code, part): Told, when: &str) {
    let said = format!("{}{}", output.stdout, output.stderr);
    assert!(output.code() == Some(code) && said.contains(part), "{when}: not {code} and `{part}`, but {output}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_one_replica_lost_between_two_runs_comes_back_or_is_told_and_nothing_goes() {
    let mut scene = Scene::set().await;
    for (harm, then, _) in CASES {
        scene.endure(harm, &["ireland"], then).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_both_replicas_lost_between_two_runs_comes_back_or_is_told_and_nothing_goes() {
    let mut scene = Scene::set().await;
    for (harm, _, then) in CASES {
        scene.endure(harm, &REPLICAS, then).await;
    }
}
