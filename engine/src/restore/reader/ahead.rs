//! What a reader of one dataset needs first, asked for before it is known that it is needed.
//!
//! A replica may be far away, and a reader that waits for `vault.json`, then for the listings, and
//! then for the keys waits for three round trips. None of these requests depends on the answer of
//! another. Each answer counts once, for the first who asks.

use std::collections::BTreeMap;

use bytes::Bytes;
use lifeboat_format::id::Name;
use lifeboat_format::keyring::MAX_KEYRING_OBJECT_BYTES;
use lifeboat_format::layout;
use lifeboat_store::{ObjectMeta, ReplicaError, SharedReplica};
use tokio::sync::Mutex;

/// The first generation of a dataset's keys: most datasets have no other.
const FIRST_GENERATION: u32 = 1;

/// Answers by replica, and by the prefix that was listed or the key that was fetched.
type Answers<T> = Mutex<BTreeMap<(Name, String), Result<T, ReplicaError>>>;

/// Answers that were not asked for yet.
#[derive(Default)]
pub(super) struct Ahead {
    lists: Answers<Vec<ObjectMeta>>,
    objects: Answers<Bytes>,
}

impl Ahead {
    /// Asks all replicas at once for what reading `dataset` begins with.
    pub(super) async fn ask(replicas: &[SharedReplica], dataset: &Name) -> Self {
        let folders = [layout::snapshots(dataset), layout::prunes(dataset), layout::keyring(dataset)];
        let key = layout::keyring_generation(dataset, FIRST_GENERATION);
        let each = |folder: &String| replicas.iter().map(|replica| (replica, folder.clone())).collect::<Vec<_>>();
        let lists = folders.iter().flat_map(each).map(|(replica, folder)| async move {
            let listed = replica.list(&folder).await;
            ((replica.name().clone(), folder), listed)
        });
        let objects = replicas.iter().map(|replica| async {
            let fetched = replica.get(&key, MAX_KEYRING_OBJECT_BYTES as u64).await;
            ((replica.name().clone(), key.clone()), fetched)
        });
        let (lists, objects) = futures::join!(futures::future::join_all(lists), futures::future::join_all(objects));
        Self { lists: Mutex::new(lists.into_iter().collect()), objects: Mutex::new(objects.into_iter().collect()) }
    }

    /// Lists `replica`, unless that was done.
    pub(super) async fn list(&self, replica: &SharedReplica, prefix: &str) -> Result<Vec<ObjectMeta>, ReplicaError> {
        let asked = self.lists.lock().await.remove(&(replica.name().clone(), prefix.to_owned()));
        match asked {
            Some(answer) => answer,
            None => replica.list(prefix).await,
        }
    }

    /// Fetches a keyring object, unless that was done.
    pub(super) async fn keyring_object(&self, replica: &SharedReplica, key: &str) -> Result<Bytes, ReplicaError> {
        let asked = self.objects.lock().await.remove(&(replica.name().clone(), key.to_owned()));
        match asked {
            Some(answer) => answer,
            None => replica.get(key, MAX_KEYRING_OBJECT_BYTES as u64).await,
        }
    }
}
