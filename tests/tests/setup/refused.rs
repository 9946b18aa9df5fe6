//! What is refused before anything is written: wrong keys, a missing bucket, another vault, names
//! that collide, a configuration of somebody else.

use lifeboat_tests::s3::Region;

use crate::{Machines, bucket_url, replica};

#[tokio::test(flavor = "multi_thread")]
async fn wrong_keys_and_a_missing_bucket_are_named_and_change_nothing() {
    let region = Region::start("eu-near").await;
    let machines = Machines::new();
    let (host, drill) = (machines.host_line().await, machines.drill_line().await);
    let root = machines.root(&[&host, &drill]).await;
    let wiki = machines.sqlite("wiki.db");
    let right = format!("near={}", region.credential_file().display());
    let wrong = format!("near={}", machines.keys("wrong", "lifeboat-test", "a-key-that-was-changed"));
    let stranger = format!("near={}", machines.keys("stranger", "nobody", "a-key-of-nobody"));
    let far = format!("far={}", machines.path("far").display());
    let (near, lacking) = (replica("near", &region), format!("near={}", bucket_url(&region, "not-there")));
    let elsewhere = near.replace(&region.endpoint().port().unwrap().to_string(), "9");
    for (place, keys, told) in [
        (&near, Some(&wrong), "near"),
        (&near, Some(&stranger), "near"),
        (&lacking, Some(&right), "not-there"),
        (&elsewhere, Some(&right), "127.0.0.1"),
        (&near, None, "LIFEBOAT_NEAR_ACCESS_KEY_ID"),
    ] {
        let words = ["setup", "--root", &root, "--replica", place, "--replica", &far, "--sqlite", &wiki, "--yes"];
        let keys = keys.map(|keys| vec!["--store-keys", keys]).unwrap_or_default();
        let said = machines.refused("host", &[&words[..], &keys].concat()).await;
        assert!(said.contains(told), "{told}: {said}");
        assert!(!said.contains("a-key-"), "{said}");
        assert!(!machines.config("host").exists(), "{said}");
        assert_eq!(std::fs::read_dir(machines.path("host/keys/credentials")).unwrap().count(), 0, "{said}");
        let left = std::fs::read_dir(machines.path("host/keys")).unwrap().map(|file| file.unwrap().file_name());
        assert!(left.into_iter().all(|name| !name.to_string_lossy().starts_with(".unfinished")), "{said}");
    }
    let said =
        machines.refused("drill", &["setup", "drill-host", "--join", &near[5..], "--root", &root, "--yes"]).await;
    assert!(said.contains("--store-keys FILE,") && !said.contains("=FILE"), "{said}");
    let no_file = near.replace(&region.ca_file().display().to_string(), "/nowhere/ca.pem");
    let words = ["setup", "--root", &root, "--replica", &no_file, "--replica", &far, "--sqlite", &wiki, "--yes"];
    let said = machines.refused("host", &[&words[..], &["--store-keys", &right]].concat()).await;
    assert!(said.contains("cannot read /nowhere/ca.pem, the ca_file of replica near"), "{said}");
    // The same command with the right keys goes on, here from the environment.
    let words = ["setup", "--root", &root, "--replica", &near, "--replica", &far, "--sqlite", &wiki, "--yes"];
    let text = std::fs::read_to_string(region.credential_file()).unwrap();
    let value = |key: &str| text.lines().find_map(|line| line.strip_prefix(key)).unwrap().to_owned();
    let mut command = machines.command("host", &words);
    command.env("LIFEBOAT_NEAR_ACCESS_KEY_ID", value("aws_access_key_id = "));
    command.env("LIFEBOAT_NEAR_SECRET_ACCESS_KEY", value("aws_secret_access_key = "));
    let done = lifeboat_tests::programs::run(&mut command, crate::DEADLINE).await.unwrap();
    assert!(done.status.success(), "{done}");

    // Another vault is there already.
    let others = Machines::new();
    let strange = others.root(&[&others.host_line().await]).await;
    let (far, right) = (format!("far={}", others.path("far").display()), right.clone());
    let words = ["setup", "--root", &strange, "--replica", &near, "--replica", &far, "--sqlite", &wiki, "--yes"];
    let said = others.refused("host", &[&words[..], &["--store-keys", &right]].concat()).await;
    assert!(said.contains("holds vault") && said.contains("--vault-prefix"), "{said}");
    let words = [&words[..], &["--store-keys", &right, "--vault-prefix", "second"]].concat();
    let done = others.lifeboat("host", &words).await;
    assert!(done.status.success(), "{done}");
}

#[tokio::test(flavor = "multi_thread")]
async fn names_that_collide_and_datasets_that_the_root_does_not_allow_are_refused() {
    let machines = Machines::new();
    let host = machines.ok("host", &["setup", "host", "--name", "db1", "--only", "wiki*"]).await;
    let root = machines.root(&[&host]).await;
    let wiki = machines.sqlite("wiki.db");
    let replicas = ["near", "far"].map(|name| format!("{name}={}", machines.path(name).display()));
    let words = ["setup", "--root", &root, "--replica", &replicas[0], "--replica", &replicas[1], "--yes"];
    let named = |name: &str| format!("{name}=sqlite:{wiki}");
    let (first, other) = (named("wiki"), named("shop"));
    for (more, why) in [
        (vec!["--dataset", &first, "--dataset", &first], "two datasets would be called wiki"),
        (vec!["--dataset", &first, "--sqlite", &wiki], "two datasets would be called wiki"),
        (vec!["--dataset", &other], "does not let host db1 back up dataset shop"),
        (vec!["--dataset", "wiki=oracle:/x"], "no sources of kind `oracle`"),
        (vec!["--sqlite", &wiki, "--replica", &replicas[0]], "two replicas are called near"),
        (vec!["--sqlite", &wiki, "--store-keys", "fra=x"], "no replica"),
    ] {
        let said = machines.refused("host", &[&words[..], &more].concat()).await;
        assert!(said.contains(why), "{why}: {said}");
        assert!(!machines.config("host").exists(), "{said}");
    }
    let one = ["setup", "--root", &root, "--replica", &replicas[0], "--sqlite", &wiki, "--yes"];
    assert!(machines.refused("host", &one).await.contains("two replicas at least"));

    // What is found here under one name twice gets a number.
    let folder = machines.path("found");
    std::fs::create_dir_all(folder.join("wiki")).unwrap();
    for place in ["found/wiki.db", "found/wiki/wiki.sqlite"] {
        machines.sqlite(place);
    }
    let look = folder.display().to_string();
    let config = machines.ok("host", &[&words[..], &["--look-in", &look, "--dry-run"]].concat()).await;
    assert!(config.contains("name = \"wiki\"") && config.contains("name = \"wiki-2\""), "{config}");

    // A configuration of somebody else is never replaced; one of setup, that nobody changed, is.
    let done = machines.lifeboat("host", &[&words[..], &["--dataset", &first]].concat()).await;
    assert!(done.status.success(), "{done}");
    let second = named("wiki-too");
    let both = [&words[..], &["--dataset", &first, "--dataset", &second]].concat();
    let done = machines.lifeboat("host", &both).await;
    assert!(done.status.success() && done.stdout.contains("wiki, wiki-too"), "{done}");
    // What was backed up before does not vanish because somebody forgot a flag, and a replica whose
    // disk is not mounted is not made on the disk below.
    let said = machines.refused("host", &[&words[..], &["--dataset", &second]].concat()).await;
    assert!(said.contains("no dataset wiki") && said.contains("add --replace"), "{said}");
    let third = format!("third={}", machines.path("not-mounted/third").display());
    let said = machines.refused("host", &[&both[..], &["--replica", &third]].concat()).await;
    assert!(said.contains("mount its disk") && !machines.path("not-mounted").exists(), "{said}");
    // Nor is one that was backed up to: its disk is gone for now, or its backups are.
    let (far, away) = (machines.path("far"), machines.path("away"));
    std::fs::rename(&far, &away).unwrap();
    let said = machines.refused("host", &both).await;
    assert!(said.contains("mount its disk") && !far.exists(), "{said}");
    std::fs::rename(&away, &far).unwrap();
    let done = machines.lifeboat("host", &[&words[..], &["--dataset", &second, "--replace"]].concat()).await;
    assert!(done.status.success() && done.stdout.contains("first time: wiki-too."), "{done}");
    let config = machines.config("host");
    let text = std::fs::read_to_string(&config).unwrap();
    std::fs::write(&config, format!("{text}# mine\n")).unwrap();
    let said = machines.refused("host", &[&words[..], &["--dataset", &first, "--replace"]].concat()).await;
    assert!(said.contains("is never replaced"), "{said}");
    assert!(std::fs::read_to_string(&config).unwrap().ends_with("# mine\n"));
}
