//! How a root comes into being, and how it changes.

use std::path::PathBuf;

use chrono::{SecondsFormat, Utc};
use lifeboat_engine::format::id::Digest;
use lifeboat_engine::format::line::{self, RequestLine};
use lifeboat_engine::format::root::Root;
use lifeboat_tests::programs::Output;
use lifeboat_tests::rooted::RootedVault;
use lifeboat_tests::tools;
use lifeboat_tests::vault::files_below;
use tokio::process::Command;

/// Two commands more than without a root: `owner sign` and `root install`.
#[tokio::test(flavor = "multi_thread")]
async fn one_person_sets_up_a_vault_and_a_new_machine_and_nothing_is_stored_anew() {
    let vault = RootedVault::new().await;
    vault.configure("db1", &vault.owners(), &["shop"]);
    let init = vault.lifeboat("db1", &["--json", "init"]).await;
    assert!(init.status.success(), "{init}");
    let refused = vault.once("db1").await;
    assert!(!refused.status.success() && refused.stderr.contains("no replica shows a root"), "{refused}");
    let report = init.json().unwrap();
    vault.sign_and_install("db1", report["request"].as_str().unwrap()).await;
    assert!(vault.once("db1").await.status.success());
    assert_eq!(vault.restored("shop", "r1", &[]).await.unwrap(), "shop of db1");

    // The machine is lost. Another one is set up from the root and the master.
    for lost in ["keys", "state"] {
        std::fs::remove_dir_all(vault.path("db1").join(lost)).unwrap();
    }
    let init = vault.lifeboat("db1", &["--json", "init", "--identity", &vault.identity("ann")]).await;
    assert!(init.status.success(), "{init}");
    let refused = vault.once("db1").await;
    assert!(refused.stderr.contains("does not let this host back up dataset shop"), "{refused}");
    let report = init.json().unwrap();
    vault.sign_and_install("db1", report["request"].as_str().unwrap()).await;
    let packs = || files_below(&vault.path("r1/datasets/shop/packs"));
    let before = packs();
    let second = vault.once("db1").await;
    assert!(second.status.success(), "{second}");
    assert_eq!(packs(), before, "a new machine stored data anew");
    let shown = vault.lifeboat("db1", &["--json", "root", "show"]).await.json().unwrap();
    assert_eq!((&shown["version"], &shown["signed_by"][0]), (&2.into(), &"ann".into()), "{shown}");

    // Stock minisign checks a root.
    let signer = shown["says"][0].as_str().unwrap().split(['(', ')']).nth(1).unwrap().to_owned();
    let root = vault.path("r2/root/2.json");
    let mut minisign = Command::new(tools::find("minisign"));
    let minisign = minisign.args(["-V", "-H", "-Q", "-P", &signer, "-m"]).arg(&root);
    let checked = minisign.arg("-x").arg(root.with_extension("json.ann.minisig")).output().await.unwrap();
    let comment = String::from_utf8(checked.stdout).unwrap();
    assert_eq!(comment.trim(), format!("lifeboat {} root/2.json", shown["vault"].as_str().unwrap()));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_owner_signs_nothing_that_is_older_of_another_vault_or_locks_everybody_out() {
    let vault = RootedVault::new().await;
    vault.set_up("db1", &["shop"], &[]).await;
    let request = async |words: &[&str]| vault.lifeboat("db1", &[&["root", "request"], words].concat()).await;
    let first = request(&["set", "--least-retention", "7"]).await.stdout;
    let other = request(&["set", "--least-retention", "8"]).await.stdout;
    vault.signed("ann", first.trim()).await;
    let refused = vault.sign("ann", other.trim()).await;
    assert!(refused.stderr.contains("already signed root 2"), "{refused}");
    let elsewhere = RootedVault::new().await;
    elsewhere.configure("db1", &vault.owners(), &["shop"]);
    let init = elsewhere.lifeboat("db1", &["--json", "init"]).await.json().unwrap();
    let refused = vault.sign("ann", init["request"].as_str().unwrap()).await;
    assert!(refused.stderr.contains("has signed roots of vault"), "{refused}");
    let refused = request(&["remove-owner", "ann"]).await;
    assert!(refused.stderr.contains("threshold"), "{refused}");
    let master = vault.master("ann");
    let stranger = "age1vcamj97jj90ell5av6ja5kh4erf7vs6lgekuvx8zpn2kraxy85rqucw2c3";
    let refused = request(&["set", "--remove-master", &master, "--add-master", stranger]).await;
    assert!(refused.stderr.contains("lock everybody out"), "{refused}");
    // What changes nothing, and what this program cannot tell.
    let text = std::fs::read_to_string(vault.path("r1/root/1.json")).unwrap();
    let mut root = Root::parse(text.as_bytes(), "root 1").unwrap();
    (root.version, root.previous) = (3, Some(Digest::of(text.as_bytes())));
    let of = |root: String| line::write(&RequestLine { root, signatures: Default::default() }).unwrap();
    let same = String::from_utf8(root.to_json().unwrap()).unwrap();
    let strange = same.replacen('{', "{\n  \"more\": true,", 1);
    for (root, why) in [(same, "changes nothing"), (strange, "does not know")] {
        std::fs::write(vault.path("ann/last-root.json"), &text).unwrap();
        let refused = vault.sign("ann", &of(root)).await;
        assert!(!refused.status.success() && refused.stderr.contains(why), "{refused}");
    }
    // The first root without his master; with it, he finds himself.
    elsewhere.configure("db1", &elsewhere.owners(), &["shop"]);
    let init = elsewhere.lifeboat("db1", &["--json", "init"]).await.json().unwrap();
    let first = init["request"].as_str().unwrap();
    let mut left_out = Root::parse(line::read::<RequestLine>(first).unwrap().root.as_bytes(), "").unwrap();
    left_out.masters = vec![stranger.to_owned()];
    let refused = elsewhere.sign("ann", &of(String::from_utf8(left_out.to_json().unwrap()).unwrap())).await;
    assert!(refused.stderr.contains("your own master identity"), "{refused}");
    let signed = elsewhere.sign("ann", first).await;
    assert_eq!(signed.stderr.matches("(you)").count(), 2, "{signed}");
    assert!(signed.stderr.contains("operations age1"), "{signed}");
    let typed = vault.sign("ann", &other.trim().replacen('A', "B", 1)).await;
    assert!(!typed.status.success() && typed.stderr.contains("whole line"), "{typed}");
}

#[tokio::test(flavor = "multi_thread")]
async fn two_of_two_owners_must_sign_and_one_can_be_replaced() {
    let vault = RootedVault::new().await;
    vault.set_up("db1", &["shop"], &[]).await;
    let bob = vault.new_owner("bob").await;
    vault.change("db1", &["add-owner", &bob]).await;
    vault.change_by("db1", &["set", "--threshold", "2"], &["ann", "bob"]).await;
    let request = vault.lifeboat("db1", &["root", "request", "set", "--least-delay", "3"]).await.stdout;
    let [ann, of_bob] = [vault.signed("ann", request.trim()).await, vault.signed("bob", request.trim()).await];
    let one = vault.lifeboat("db1", &["root", "install", &ann]).await;
    assert!(one.stderr.contains("1 more of its owners must sign it"), "{one}");
    let both = vault.lifeboat("db1", &["root", "install", &ann, &of_bob]).await;
    assert!(both.status.success(), "{both}");
    let (r1, identity) = (vault.path("r1").display().to_string(), vault.identity("ann"));
    let nobody = RootedVault::new().await.owner;
    for (second, is_enough) in [(&bob, true), (&nobody, false)] {
        let owners = ["--owner", &vault.owner, "--owner", second, "--owner-threshold", "2"];
        let words = [&["list", "--directory", &r1, "--identity", &identity], &owners[..]].concat();
        let listed = vault.plain(&words).await;
        assert_eq!(listed.status.success(), is_enough, "{listed}");
    }
    // The same, by a line that goes from one owner to the other. Ann is replaced.
    vault.change_by("db1", &["set", "--threshold", "1"], &["ann", "bob"]).await;
    vault.change_by("db1", &["remove-owner", "ann"], &["ann", "bob"]).await;
    vault.change_by("db1", &["set", "--least-delay", "4"], &["bob"]).await;
    let shown = vault.lifeboat("db1", &["--json", "root", "show"]).await.json().unwrap();
    assert_eq!(shown["signed_by"], serde_json::json!(["bob"]));
    assert!(vault.once("db1").await.status.success());
    // Who knows only the owner of before follows the chain; who knows a stranger finds none. He who
    // is an owner no more has no log, either.
    let refused = vault.restored("shop", "r1", &[]).await.expect_err("nobody recorded it");
    assert!(refused.stderr.contains("does not name the owner"), "{refused}");
    let restored = vault.restored("shop", "r1", &["--unrecorded", "ann is no owner"]).await;
    assert_eq!(restored.unwrap(), "shop of db1");
    let stranger = RootedVault::new().await;
    let (r1, identity) = (vault.path("r1").display().to_string(), vault.identity("ann"));
    let words = ["list", "--directory", &r1, "--owner", &stranger.owner, "--identity", &identity];
    let refused = vault.plain(&words).await;
    assert!(refused.stderr.contains("no replica shows a root that the owners signed"), "{refused}");
}

/// A vault of before: its configuration lists signers.
#[tokio::test(flavor = "multi_thread")]
async fn a_vault_without_a_root_adopts_one_and_loses_nothing() {
    let vault = RootedVault::new().await;
    let listed = |more: &str| format!("master_recipients = [\"{}\"]\n{more}", vault.master("ann"));
    vault.configure("db1", &listed(""), &["shop", "wiki"]);
    assert!(vault.lifeboat("db1", &["init"]).await.status.success());
    assert!(vault.once("db1").await.status.success());
    let weak = vault.lifeboat("db1", &["--json", "check"]).await;
    assert!(weak.stdout.contains("there is no root"), "{weak}");
    // As a version without roots left it.
    for key in files_below(&vault.path("r1/keyring")).iter().chain(&files_below(&vault.path("r2/keyring"))) {
        if key.extension().is_some_and(|extension| extension == "minisig") {
            std::fs::remove_file(key).unwrap();
        }
    }
    let packs =
        || [files_below(&vault.path("r1/datasets/shop/packs")), files_below(&vault.path("r2/datasets/wiki/packs"))];
    let before = packs();
    let request = vault.lifeboat("db1", &["root", "adopt", "--owner", &vault.owner]).await;
    assert!(request.status.success(), "{request}");
    vault.sign_and_install("db1", request.stdout.trim()).await;
    // Nothing has changed yet for whoever goes by lists.
    assert!(vault.once("db1").await.status.success());
    vault.configure("db1", &listed(&vault.owners()), &["shop", "wiki"]);
    let both = vault.lifeboat("db1", &["list"]).await;
    assert!(both.stderr.contains("the root tells masters"), "{both}");
    vault.configure("db1", &vault.owners(), &["shop", "wiki"]);
    let init = vault.lifeboat("db1", &["--json", "init"]).await;
    assert!(init.status.success() && init.json().unwrap()["request"].is_null(), "{init}");
    let again = vault.once("db1").await;
    assert!(again.status.success(), "{again}");
    assert_eq!(packs(), before);
    let listed = vault.lifeboat("db1", &["--json", "list"]).await.json().unwrap();
    assert_eq!(listed["snapshots"].as_array().unwrap().len(), 6, "{listed}");
    assert_eq!(vault.restored("wiki", "r2", &[]).await.unwrap(), "wiki of db1");
    // Now its keyring is signed, so a host takes it over.
    vault.set_up("db2", &["shop"], &["--identity", &vault.identity("ann")]).await;
    assert!(!vault.lifeboat("db1", &["check"]).await.stdout.contains("there is no root"));
}

/// A list reads no manifest that its host remembers, if its reader believes whom the host believed.
#[tokio::test(flavor = "multi_thread")]
async fn a_list_takes_from_the_memory_of_its_host_only_what_its_reader_believes() {
    let vault = RootedVault::new().await;
    vault.set_up("db1", &["shop"], &[]).await;
    let back_up_and_look = async || {
        let run = vault.once("db1").await;
        assert!(run.status.success(), "{run}");
        let looked = vault.lifeboat("db1", &["prune", "shop", "--dry-run"]).await;
        assert!(looked.status.success(), "{looked}");
    };
    back_up_and_look().await;
    let list = async |more: &[&str]| vault.lifeboat("db1", &[&["--json", "list"], more].concat()).await;
    let sizes = |listed: &Output| {
        let listed = listed.json().unwrap_or_else(|_| panic!("{listed}"));
        let sizes = listed["snapshots"].as_array().unwrap().iter().map(|row| row["raw_bytes"].as_u64());
        sizes.collect::<Vec<_>>()
    };
    let manifests = || {
        let all =
            ["r1", "r2"].map(|replica| files_below(&vault.path(replica).join("datasets/shop/snapshots"))).concat();
        all.into_iter().filter(|file| file.extension().is_none_or(|end| end != "minisig")).collect::<Vec<_>>()
    };
    // While they cannot be read, only the memory tells sizes.
    let listed_from_memory = async |more: &[&str]| {
        let whole: Vec<(PathBuf, Vec<u8>)> =
            manifests().into_iter().map(|file| (file.clone(), std::fs::read(&file).unwrap())).collect();
        whole.iter().for_each(|(file, content)| std::fs::write(file, vec![0; content.len()]).unwrap());
        let listed = list(more).await;
        whole.iter().for_each(|(file, content)| std::fs::write(file, content).unwrap());
        listed
    };
    let listed = listed_from_memory(&[]).await;
    assert_eq!(sizes(&listed), [Some(11)], "{listed}");

    // The owner revokes this host, which goes by its list of signers from now on.
    let now = Utc::now().to_rfc3339_opts(SecondsFormat::Secs, true);
    vault.change("db1", &["remove-host", "db1", "--until", &now]).await;
    let revoked = list(&[]).await;
    assert_eq!(sizes(&revoked), [None], "{revoked}");
    // It does not ask to be believed again with the key that may be a thief's.
    for words in [&["init"][..], &["root", "request", "add-host", "--dataset", "shop"]] {
        let asked = vault.lifeboat("db1", words).await;
        assert!(!asked.status.success() && asked.stderr.contains("has revoked this key of host db1"), "{asked}");
    }
    vault.configure("db1", "", &["shop"]);
    back_up_and_look().await;
    let listed = listed_from_memory(&[]).await;
    assert_eq!(sizes(&listed), [Some(11); 2], "{listed}");
    let of_owner = list(&["--owner", &vault.owner]).await;
    assert_eq!(sizes(&of_owner), [None; 2], "{of_owner}");
    let told = vault.lifeboat("db1", &["list", "--owner", &vault.owner]).await;
    assert!(told.stderr.contains("revoked"), "{told}");
}
