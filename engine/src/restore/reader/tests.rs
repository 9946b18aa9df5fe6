use std::sync::Arc;

use bytes::Bytes;
use lifeboat_base::Class;
use lifeboat_base::clock::SystemClock;
use lifeboat_store::{FailingReplica, Failure, MemoryReplica, Replica};

use super::*;
use crate::keys::sign::Signer;
use crate::keys::trust::Trust;

const GOOD: &str = "0123456789abcdef0123456789abcdef";

async fn replica(name: &str, vault: &str, datasets: impl IntoIterator<Item = String>) -> SharedReplica {
    let replica = MemoryReplica::new(name.parse().unwrap(), "nowhere", SystemClock::shared());
    let info = VaultInfo::new(vault.to_owned(), SystemClock::shared().now());
    let info = serde_json::to_vec(&info).unwrap();
    replica.put_new(layout::VAULT, info.into()).await.unwrap();
    for dataset in datasets {
        let key = layout::keyring_generation(&dataset.parse().unwrap(), 1);
        replica.put_new(&key, Bytes::from_static(b"keys")).await.unwrap();
    }
    Arc::new(replica)
}

async fn open(replicas: &[SharedReplica], signer: &Signer) -> Result<VaultReader> {
    let keys = ReaderKeys { identities: Vec::new(), trust: Trust::listed(vec![signer.public()], Vec::new()) };
    VaultReader::open(replicas, keys, Limits::default(), CancellationToken::new()).await
}

#[tokio::test]
async fn a_replica_that_names_too_many_datasets_does_not_hide_those_of_the_others() {
    let (signer, shop) = (Signer::generate().unwrap(), "shop".parse::<Name>().unwrap());
    let good = replica("good", GOOD, ["shop".to_owned()]).await;
    let most = replica("most", GOOD, (0..MAX_DATASETS).map(|n| format!("d{n}"))).await;
    let bad = replica("bad", GOOD, (0..=MAX_DATASETS).map(|n| format!("d{n}"))).await;
    let reader = open(&[good.clone(), bad.clone()], &signer).await.unwrap();
    assert_eq!(reader.datasets().await.unwrap(), std::slice::from_ref(&shop));
    let reader = open(&[good, most], &signer).await.unwrap();
    assert_eq!(reader.datasets().await.unwrap().len(), MAX_DATASETS + 1);
    let alone = open(&[bad], &signer).await.unwrap();
    let error = alone.datasets().await.unwrap_err();
    assert_eq!(error.class(), Class::Integrity, "{error:?}");
    // Whoever names a dataset needs no list.
    assert!(alone.has_dataset(&"d7".parse().unwrap()).await.unwrap());
    assert!(!alone.has_dataset(&shop).await.unwrap());
}

#[tokio::test(start_paused = true)]
async fn a_slow_replica_of_another_vault_does_not_keep_a_reader_for_an_hour() {
    let (signer, shop) = (Signer::generate().unwrap(), "shop".parse::<Name>().unwrap());
    let good = replica("good", GOOD, ["shop".to_owned()]).await;
    let key = layout::manifest(&shop, &SnapshotId::new(SystemClock::shared().now(), 1));
    let signature = signer.sign(b"manifest", &layout::trusted_comment(GOOD, &key)).unwrap();
    good.put_new(&key, Bytes::from_static(b"manifest")).await.unwrap();
    good.put_new(&layout::signature(&key), signature.into()).await.unwrap();
    let slow = FailingReplica::new(replica("slow", &"0a".repeat(16), ["shop".to_owned()]).await);
    // After `vault.json`.
    slow.fail(2, Failure::Hang(Duration::from_secs(3600)));
    let began = tokio::time::Instant::now();
    let reader = open(&[Arc::new(slow), good], &signer).await.unwrap();
    assert_eq!(reader.vault_id(), GOOD);
    assert!(reader.unreachable().contains_key(&"slow".parse::<Name>().unwrap()));
    assert!(began.elapsed() <= MAX_PROOF_TIME + Duration::from_secs(1), "{:?}", began.elapsed());
}
