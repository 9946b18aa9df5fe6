//! The credentials of a drill host: the policy to paste is enough, and lets it delete nothing.

use lifeboat_tests::host::section;
use lifeboat_tests::operator::{Operator, file_dataset};
use lifeboat_tests::s3::{Bucket, Region};

#[tokio::test(flavor = "multi_thread")]
async fn the_policy_of_a_drill_host_is_enough_and_lets_it_delete_nothing() {
    let (region, place) = (Region::start_with("far", Bucket::Versioned).await, tempfile::tempdir().unwrap());
    let (mut db1, mut drill) = (Operator::at(place.path(), "db1"), Operator::at(place.path(), "drill"));
    std::fs::write(place.path().join("data"), "data").unwrap();
    db1.masters = vec![db1.make_identity("master.txt").await];
    db1.min_replicas = 1;
    db1.replicas = vec![section(&region.replica_config("far"))];
    db1.datasets = vec![file_dataset("shop", &place.path().join("data"), "")];
    let signer = db1.init("").await;
    db1.backup().await;
    (drill.replicas, drill.masters, drill.trusted_signers) = (db1.replicas.clone(), db1.masters.clone(), vec![signer]);
    drill.min_replicas = 1;
    drill.must("cp -r ../db1/keys/drill-host keys").await;

    let told = drill.must("lifeboat check").await;
    assert!(told.stdout.contains("replica far lets this host delete"), "{told}");
    let (all, own) = (region.credential_file().to_owned(), region.drill_credential_file());
    drill.replicas[0] = drill.replicas[0].replace(&all.display().to_string(), &own.display().to_string());
    let told = drill.must("lifeboat check").await;
    assert!(!told.stdout.contains("lets this host delete"), "{told}");
    // What was tried stays where nobody may delete it, and a drill is not misled by it.
    drill.must("lifeboat drill shop").await;
    let history = db1.must("lifeboat --json drills shop").await.json().unwrap();
    assert_eq!(history["drills"].as_array().unwrap().len(), 1, "{history:#}");
    assert_eq!(history["drills"][0]["replicas_used"][0], "far", "{history:#}");
    // It can write no snapshot, whatever its keys.
    let stolen = drill.must("ls keys").await;
    assert!(stolen.stdout.contains("drill-signer"), "{stolen}");
    db1.replicas[0] = drill.replicas[0].clone();
    let refused = db1.shell("lifeboatd --log text --once shop").await;
    assert!(!refused.status.success(), "{refused}");
}
