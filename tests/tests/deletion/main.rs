//! Deletion apart from the backup host: what a thief of its credentials hides comes back, and what
//! he cannot remove.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod drill_host;
mod locks;
mod parts;

use std::path::Path;
use std::time::Duration;

use aws_sdk_s3::error::ProvideErrorMetadata;
use lifeboat_tests::host::{BackupHost, section};
use lifeboat_tests::programs::Output;
use lifeboat_tests::rooted::RootedVault;
use lifeboat_tests::s3::{Bucket, Region, moment};
use lifeboat_tests::vault::noise;
use serde_json::Value;

/// A host with one bucket, and the file that it backs up.
struct Scene {
    host: BackupHost,
    region: Region,
    data: tempfile::TempDir,
    /// What the host's configuration says of its source.
    source: String,
}

impl Scene {
    async fn set(bucket: Bucket, more: &str) -> Self {
        Self::set_with(bucket, "", more).await
    }

    /// The same with more settings of its replica.
    async fn set_with(bucket: Bucket, replica: &str, more: &str) -> Self {
        let (region, data) = (Region::start_with("far", bucket).await, tempfile::tempdir().unwrap());
        let source = format!("kind = \"file\"\npath = \"{}\"\n{more}", data.path().join("data").display());
        let section = format!("{}{replica}", section(&region.replica_config("far")));
        std::fs::write(data.path().join("data"), "nothing yet").unwrap();
        let host = BackupHost::set_up(&[section], &source).await;
        Self { host, region, data, source }
    }

    async fn back_up(&self, seed: u64) {
        std::fs::write(self.data.path().join("data"), noise(2 << 20, seed)).unwrap();
        let (output, _) = self.host.once().await;
        assert!(output.status.success(), "{}", output.stderr);
    }

    /// The host's own credentials from now on, which remove no version.
    async fn restrict(&self) {
        self.restrict_to(&self.region.host_credential_file()).await;
    }

    async fn restrict_to(&self, own: &Path) {
        let section = section(&self.region.replica_config("far"));
        let all = self.region.credential_file().to_owned();
        let section = section.replace(&all.display().to_string(), &own.display().to_string());
        self.host.configure(1, &[section], &self.source).await;
    }

    async fn lifeboat(&self, words: &str) -> Output {
        let words = format!("--identity {} {words}", self.host.master().display());
        self.host.lifeboat(&words.split(' ').collect::<Vec<_>>()).await
    }

    async fn must(&self, words: &str) -> Output {
        let output = self.lifeboat(words).await;
        assert!(output.status.success(), "{words}: {output}");
        output
    }

    /// What `undelete` says that it did in the only replica.
    async fn undelete(&self, words: &str) -> Value {
        let output = self.must(&format!("--json undelete {words}")).await;
        output.json().unwrap()["replicas"][0].clone()
    }

    /// The vault is whole, and its newest snapshot is the one of `seed`.
    async fn is_whole(&self, seed: u64) {
        let verify = self.lifeboat("verify --read-data").await;
        assert!(verify.status.success(), "{verify}");
        let out = tempfile::tempdir().unwrap();
        self.must(&format!("restore data --to-directory {}", out.path().join("out").display())).await;
        assert!(read(&out.path().join("out/data")) == noise(2 << 20, seed), "other bytes");
    }

    async fn keys(&self) -> Vec<String> {
        keys(&self.region).await
    }

    async fn hide(&self, key: &str) {
        hide(&self.region, key).await;
    }

    async fn overwrite(&self, key: &str, body: &[u8]) {
        overwrite(&self.region, key, body).await;
    }
}

async fn keys(region: &Region) -> Vec<String> {
    let (client, mut keys) = (region.client(), Vec::new());
    let mut pages = client.list_objects_v2().bucket(region.bucket()).into_paginator().send();
    while let Some(page) = pages.next().await {
        keys.extend(page.unwrap().contents().iter().filter_map(|object| object.key().map(str::to_owned)));
    }
    keys
}

async fn hide(region: &Region, key: &str) {
    region.client().delete_object().bucket(region.bucket()).key(key).send().await.unwrap();
}

async fn overwrite(region: &Region, key: &str, body: &[u8]) {
    let put = region.client().put_object().bucket(region.bucket()).key(key);
    put.body(body.to_vec().into()).send().await.unwrap();
}

fn read(file: &Path) -> Vec<u8> {
    std::fs::read(file).unwrap()
}

fn objects(replica: &Value, of: &str) -> u64 {
    replica[of]["objects"].as_u64().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_thief_hid_or_overwrote_is_brought_back_and_the_vault_is_whole() {
    let scene = Scene::set(Bucket::Versioned, "").await;
    scene.back_up(1).await;
    scene.back_up(2).await;
    let before = moment().await;
    let all = scene.keys().await;

    // Everything was deleted. The host's own credentials suffice to copy it to the top.
    for key in &all {
        scene.hide(key).await;
    }
    assert!(!scene.lifeboat("list").await.status.success());
    scene.restrict().await;
    let plan = scene.must(&format!("undelete --dry-run --as-of {before}")).await;
    assert!(plan.stdout.contains("deleted since, to bring back"), "{plan}");
    assert!(scene.keys().await.is_empty(), "a plan changed something");
    let asked = scene.lifeboat(&format!("undelete --as-of {before}")).await;
    assert_eq!(asked.status.code(), Some(2), "{asked}");
    let done = scene.undelete(&format!("--yes --as-of {before}")).await;
    assert_eq!(objects(&done, "done"), all.len() as u64, "{done}");
    assert_eq!(scene.keys().await, all);
    scene.is_whole(2).await;
    let again = scene.undelete(&format!("--yes --as-of {before}")).await;
    assert_eq!((objects(&again, "hidden"), objects(&again, "overwritten")), (0, 0), "{again}");

    // Half of it was deleted, the other half overwritten: with more rights, markers are removed.
    let section = section(&scene.region.replica_config("far"));
    scene.host.configure(1, &[section], &scene.source).await;
    let before = moment().await;
    for (number, key) in all.iter().enumerate() {
        if number % 2 == 0 { scene.hide(key).await } else { scene.overwrite(key, &[7; 99]).await }
    }
    let done = scene.undelete(&format!("--yes --as-of {before}")).await;
    assert_eq!(objects(&done, "hidden"), all.len().div_ceil(2) as u64, "{done}");
    assert_eq!(objects(&done, "overwritten"), (all.len() / 2) as u64, "{done}");
    let versions = scene.region.client().list_object_versions().bucket(scene.region.bucket()).send().await.unwrap();
    let hidden_twice = versions.delete_markers().iter().filter(|marker| marker.is_latest() == Some(true)).count();
    assert_eq!(hidden_twice, 0);
    scene.is_whole(2).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn newer_valid_objects_and_what_prunes_deleted_stay_unless_somebody_wants_them() {
    let scene = Scene::set(Bucket::Versioned, "[dataset.retention]\nkeep_last = 1").await;
    scene.back_up(1).await;
    let early = moment().await;
    let first: Vec<String> = scene.keys().await.into_iter().filter(|key| key.contains("/packs/")).collect();
    scene.back_up(2).await;
    scene.must("prune --yes").await;
    let swept = scene.host.swept().await;
    assert!(swept.snapshots == 1 && swept.packs > 0 && swept.hidden > swept.packs, "{swept:?}");
    // Somebody hides the rest, and writes what describes the host anew.
    let description = "vault/hosts/host.json";
    for key in scene.keys().await.iter().filter(|key| key.as_str() != description) {
        scene.hide(key).await;
    }
    let mut host: Value = {
        let object = scene.region.client().get_object().bucket(scene.region.bucket()).key(description).send().await;
        serde_json::from_slice(&object.unwrap().body.collect().await.unwrap().into_bytes()).unwrap()
    };
    host["note"] = "newer".into();
    scene.overwrite(description, host.to_string().as_bytes()).await;

    // The time is before the prune, whose record was hidden, too: nobody says that it pruned.
    let plan = scene.undelete(&format!("--dry-run --as-of {early}")).await;
    assert_eq!(objects(&plan, "pruned"), 0, "{plan}");
    assert!(plan["newer_hidden"].as_u64().unwrap() > 0, "{plan}");
    assert_eq!(plan["rewritten"], serde_json::json!(["hosts/host.json"]), "{plan}");
    // With its record, it is believed.
    let (client, bucket) = (scene.region.client(), scene.region.bucket());
    let records = client.list_object_versions().bucket(bucket).prefix("vault/datasets/data/prunes/");
    for marker in records.send().await.unwrap().delete_markers() {
        let (key, version) = (marker.key().unwrap(), marker.version_id().unwrap());
        client.delete_object().bucket(bucket).key(key).version_id(version).send().await.unwrap();
    }
    let plan = scene.undelete(&format!("--dry-run --as-of {early}")).await;
    assert_eq!(plan["prunes"][0]["snapshots"], 1, "{plan}");
    let pruned = objects(&plan, "pruned");
    assert!(pruned > first.len() as u64, "{plan}");
    let done = scene.undelete(&format!("--yes --as-of {early}")).await;
    let keys = scene.keys().await;
    assert!(first.iter().all(|pack| !keys.contains(pack)), "{done}");
    let done = scene.undelete(&format!("--yes --also-pruned --also-rewritten --as-of {early}")).await;
    assert!(objects(&done, "done") >= pruned, "{done}");
    let keys = scene.keys().await;
    assert!(first.iter().all(|pack| keys.contains(pack)), "{done}");
    let out = scene.data.path().join("early");
    scene.must(&format!("restore data --to-directory {}", out.display())).await;
    assert!(read(&out.join("data")) == noise(2 << 20, 1), "other bytes");
}

#[tokio::test(flavor = "multi_thread")]
async fn roots_come_back_and_a_newer_one_stays() {
    let region = Region::start_with("far", Bucket::Versioned).await;
    let mut vault = RootedVault::new().await;
    vault.replicas = vec![section(&region.replica_config("far"))];
    vault.set_up("db1", &["shop"], &[]).await;
    vault.change("db1", &["set", "--least-delay", "3"]).await;
    let once = vault.once("db1").await;
    assert!(once.status.success(), "{once}");
    let all = keys(&region).await;
    let root = |version: u8| all.iter().find(|key| key.ends_with(&format!("root/{version}.json"))).unwrap();
    let signature = |version: u8| format!("{}.ann.minisig", root(version));
    // What was uploaded in parts may have come later than its date.
    for key in [root(1), &signature(1)] {
        parts::overwrite_in_parts(&region, key, b"rubbish").await;
    }
    let before = moment().await;
    let identity = vault.identity("ann");
    let undelete = async || {
        let words = ["--json", "--identity", &identity, "undelete", "--yes", "--as-of", &before];
        let done = vault.lifeboat("db1", &words).await;
        assert!(done.status.success(), "{done}");
        done.json().unwrap()["replicas"][0].clone()
    };
    let is_sound = async |version: u8| {
        let shown = vault.lifeboat("db1", &["--json", "root", "show"]).await;
        assert_eq!(shown.json().unwrap()["version"], version, "{shown}");
        let verify = vault.lifeboat("db1", &["--identity", &identity, "verify"]).await;
        assert!(verify.status.success(), "{verify}");
    };
    for key in &all {
        hide(&region, key).await;
    }
    let done = undelete().await;
    assert_eq!((objects(&done, "done"), keys(&region).await), (all.len() as u64, all.clone()), "{done}");
    assert_eq!(done["strange_hidden"], 0, "{done}");
    is_sound(2).await;

    // An older root lies in place of a newer one; a signature is rubbish, another one gone.
    let older = region.client().get_object().bucket(region.bucket()).key(root(1)).send().await.unwrap();
    let older = older.body.collect().await.unwrap().into_bytes();
    overwrite(&region, root(2), &older).await;
    overwrite(&region, &signature(2), b"rubbish").await;
    hide(&region, &signature(1)).await;
    let done = undelete().await;
    assert_eq!((objects(&done, "hidden"), objects(&done, "overwritten")), (1, 2), "{done}");
    is_sound(2).await;

    // One that was made later stays.
    vault.change("db1", &["set", "--least-delay", "4"]).await;
    hide(&region, root(2)).await;
    let done = undelete().await;
    assert_eq!((objects(&done, "hidden"), objects(&done, "overwritten")), (1, 0), "{done}");
    is_sound(3).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn after_a_failure_nothing_appears_that_may_need_what_failed() {
    let scene = Scene::set(Bucket::Versioned, "").await;
    scene.back_up(1).await;
    // Nobody can tell which of two is right where there is no root that is trusted.
    scene.overwrite("vault/root/1.json", b"one").await;
    let (before, all) = (moment().await, scene.keys().await);
    for key in &all {
        scene.hide(key).await;
    }
    scene.overwrite("vault/root/1.json", b"two").await;
    let failed = scene.lifeboat(&format!("undelete --yes --as-of {before}")).await;
    assert!(failed.status.code() == Some(5) && failed.stderr.contains("root/1.json"), "{failed}");
    let there = scene.keys().await;
    assert!(there.iter().any(|key| key.contains("/packs/")), "{there:?}");
    assert!(!there.iter().any(|key| key.contains("/snapshots/") || key.ends_with("vault.json")), "{there:?}");
    scene.overwrite("vault/root/1.json", b"one").await;
    scene.undelete(&format!("--yes --as-of {before}")).await;
    assert_eq!(scene.keys().await, all);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bucket_that_shows_no_vault_of_then_is_no_success() {
    let scene = Scene::set(Bucket::Versioned, "").await;
    scene.back_up(1).await;
    let before = moment().await;
    let near = Region::start_with("near", Bucket::Versioned).await;
    let sections = [section(&scene.region.replica_config("far")), section(&near.replica_config("near"))];
    scene.host.configure(1, &sections, &scene.source).await;
    let done = scene.lifeboat(&format!("undelete --yes --as-of {before}")).await;
    assert!(done.status.code() == Some(5) && done.stderr.contains("replica near: nothing was brought back"), "{done}");
}

/// What `check` says of the only replica, its exit code and all that it prints.
async fn checked(scene: &Scene) -> (Value, i32, String) {
    let output = scene.lifeboat("--json check").await;
    let report = output.json().unwrap();
    (report["replicas"][0].clone(), output.status.code().unwrap(), output.to_string())
}

#[tokio::test(flavor = "multi_thread")]
async fn check_names_the_level_and_the_policy_of_a_host_makes_it_versions() {
    let scene = Scene::set(Bucket::Versioned, "").await;
    let (replica, _, all) = checked(&scene).await;
    assert_eq!(replica["level"], "none", "{all}");
    assert!(all.contains("lets these credentials remove old versions"), "{all}");
    // Whoever may not even hide removes no version, either.
    scene.restrict_to(&scene.region.writer_credential_file()).await;
    let (replica, _, all) = checked(&scene).await;
    assert!(replica["level"] == "versions" && replica["can_delete"] == false, "{all}");
    scene.restrict().await;
    let (replica, code, all) = checked(&scene).await;
    assert!(replica["level"] == "versions" && code == 0, "{all}");
    assert!(all.contains("no lifecycle rule that ends old versions"), "{all}");

    // The lifecycle rule, as operators paste it.
    let file = lifeboat_tests::tools::workspace().join("config/s3/lifecycle.json");
    let rules: Value = serde_json::from_slice(&read(&file)).unwrap();
    let rule = &rules["Rules"][0];
    let days = i32::try_from(rule["NoncurrentVersionExpiration"]["NoncurrentDays"].as_i64().unwrap()).unwrap();
    let set = async |days: i32, deletes: bool| {
        use aws_sdk_s3::types as s3;
        let end = s3::NoncurrentVersionExpiration::builder().noncurrent_days(days).build();
        let mut all = s3::LifecycleRule::builder().id("r").status(s3::ExpirationStatus::Enabled);
        all = all.filter(s3::LifecycleRuleFilter::builder().prefix("").build()).noncurrent_version_expiration(end);
        if deletes {
            all = all.expiration(s3::LifecycleExpiration::builder().days(400).build());
        }
        let rules = s3::BucketLifecycleConfiguration::builder().rules(all.build().unwrap()).build().unwrap();
        let client = scene.region.client();
        let put = client.put_bucket_lifecycle_configuration().bucket(scene.region.bucket());
        put.lifecycle_configuration(rules).send().await.unwrap();
    };
    set(days, false).await;
    let (replica, _, all) = checked(&scene).await;
    assert!(replica["thief"].as_str().unwrap().contains("takes back within 30 days"), "{all}");
    set(days, true).await;
    let (_, code, all) = checked(&scene).await;
    assert!(code == 3 && all.contains("deletes objects in use"), "{all}");
    // And with the policy, backups and prunes work.
    scene.back_up(1).await;
    scene.must("prune --yes").await;
}

#[test]
fn the_policies_to_paste_are_json_and_let_a_host_remove_no_version() {
    let folder = lifeboat_tests::tools::workspace().join("config/s3");
    for file in ["aws-policy.json", "ceph-bucket-policy.json", "minio-policy.json", "seaweedfs-policy.json"] {
        let policy: Value = serde_json::from_slice(&read(&folder.join(file))).unwrap();
        let statements = policy["Statement"].as_array().unwrap();
        let actions = |effect: &str| -> Vec<&str> {
            let of = statements.iter().filter(|statement| statement["Effect"] == effect);
            of.flat_map(|statement| statement["Action"].as_array().unwrap())
                .map(|action| action.as_str().unwrap())
                .collect()
        };
        let (allowed, denied) = (actions("Allow"), actions("Deny"));
        for needed in ["s3:ListBucket", "s3:GetObject", "s3:PutObject", "s3:DeleteObject", "s3:ListBucketVersions"] {
            assert!(allowed.contains(&needed), "{file} lacks {needed}");
        }
        for forbidden in ["DeleteObjectVersion", "Bypass", "PutBucket", "PutLifecycle", "*"] {
            assert!(allowed.iter().all(|action| !action.contains(forbidden)), "{file} allows {forbidden}");
        }
        // In MinIO, whoever may delete objects may delete versions, unless that is denied.
        assert_eq!(denied, ["s3:DeleteObjectVersion", "s3:BypassGovernanceRetention"], "{file}");
        // A thief locks for no longer than the host, where the store can tell.
        let locks = statements.iter().find(|statement| statement["Action"][0] == "s3:PutObjectRetention").unwrap();
        let is_bounded = locks["Condition"]["NumericLessThanEquals"]["s3:object-lock-remaining-retention-days"] == "31";
        assert_eq!(is_bounded, ["aws-policy.json", "minio-policy.json"].contains(&file), "{file}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bucket_whose_lock_has_no_effect_is_broken_and_with_lock_nothing_can_be_deleted() {
    let scene = Scene::set_with(Bucket::Locked, "lock = \"30d\"\n", "").await;
    // Nothing shows yet that all is locked.
    let (replica, _, all) = checked(&scene).await;
    assert!(replica["level"] != "lock" && all.contains("locks not set yet"), "{all}");
    scene.back_up(1).await;
    let state = scene.host.path().join("state/datasets/data/locks");
    let day = chrono::TimeDelta::days(1);
    for (age, mode, is_locked) in [(day, false, true), (day, true, false), (day * 31, false, false)] {
        let last = (chrono::Utc::now() - age).to_rfc3339();
        let far = serde_json::json!({"period": 2_592_000, "is_compliance": mode, "last": last, "extended": 9});
        std::fs::write(&state, serde_json::json!({"far": far}).to_string()).unwrap();
        let (replica, code, all) = checked(&scene).await;
        assert!((replica["level"] == "lock") == is_locked && code == 0, "{all}");
    }
    let (client, bucket) = (scene.region.client(), scene.region.bucket());
    let listed = client.list_object_versions().bucket(bucket).prefix("vault/").send().await.unwrap();
    for part in ["vault.json", "/packs/", "/snapshots/", "/order/", "keyring/", "hosts/"] {
        assert!(listed.versions().iter().any(|version| version.key().unwrap().contains(part)), "no {part}");
    }
    for version in listed.versions() {
        let (key, id) = (version.key().unwrap(), version.version_id().unwrap());
        let delete = client.delete_object().bucket(bucket).key(key).version_id(id).send().await;
        let refused = delete.map_err(|error| error.code().unwrap_or_default().to_owned());
        assert_eq!(refused.unwrap_err(), "AccessDenied", "{key}");
    }
    let section = section(&scene.region.replica_config("far"));
    scene.host.configure(1, &[section], &scene.source).await;
    let (_, code, all) = checked(&scene).await;
    assert!(code == 3 && all.contains("nothing in it is locked"), "{all}");
}

#[tokio::test(flavor = "multi_thread")]
async fn where_no_versions_are_kept_nothing_is_brought_back() {
    let scene = Scene::set(Bucket::Plain, "").await;
    let plain = scene.lifeboat("undelete --dry-run --as-of 2026-01-01T00:00:00Z").await;
    assert!(!plain.status.success() && plain.stderr.contains("keeps no old versions"), "{plain}");
    let future = scene.lifeboat("undelete --dry-run --as-of 2999-01-01T00:00:00Z").await;
    assert!(future.status.code() == Some(2) && future.stderr.contains("future"), "{future}");
    let words = ["undelete", "--dry-run", "--as-of", "2026-01-01T00:00:00Z", "--directory", "/tmp"];
    let mut directory = tokio::process::Command::new(lifeboat_tests::programs::lifeboat());
    let directory = lifeboat_tests::programs::run(directory.args(words), Duration::from_secs(60)).await;
    let directory = directory.unwrap();
    let hint = directory.stderr.contains("lifeboat repair");
    assert!(directory.status.code() == Some(2) && hint, "{directory}");
}
