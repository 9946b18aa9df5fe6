//! Logs and roots as lines of JSON, each with the replica that it comes from: to be kept elsewhere,
//! and to be checked there.

use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::sync::Arc;

use futures::StreamExt;
use lifeboat_engine::clock::SharedClock;
use lifeboat_engine::format::id::Name;
use lifeboat_engine::format::layout;
use lifeboat_engine::format::log::MAX_LOG_RECORD_BYTES;
use lifeboat_engine::store::{MemoryReplica, Replica, ReplicaErrorKind, SharedReplica};
use lifeboat_engine::{Error, Result};
use serde::{Deserialize, Serialize};

use crate::human;
use crate::session::Session;

/// So many objects are asked for at once.
const EXPORTED_AT_ONCE: usize = 16;
/// No line of an export is longer: JSON may write six bytes for one.
const MAX_EXPORTED_LINE_BYTES: usize = 6 * MAX_LOG_RECORD_BYTES + (4 << 10);

/// One object.
#[derive(Serialize, Deserialize)]
struct ExportedObject {
    replica: Name,
    /// Its name in the vault.
    name: String,
    text: String,
}

/// Prints all roots, logs and signatures that replicas have.
///
/// # Errors
/// None of them can be listed.
pub(super) async fn write(session: &Session, replicas: &[SharedReplica]) -> Result<()> {
    let mut failed = None;
    for replica in replicas {
        if let Err(error) = write_replica(session, replica).await {
            let (name, why) = (replica.name(), error.chain());
            session.out.warning(format!("replica {name} is not exported whole: {}", human::without_name(name, &why)));
            failed = Some(error);
        }
    }
    failed.map_or(Ok(()), Err)
}

async fn write_replica(session: &Session, replica: &SharedReplica) -> Result<()> {
    for folder in [layout::ROOTS, layout::LOGS] {
        let listed = replica.list(folder).await?;
        let fetch = |key: String| async move {
            let fetched = replica.get(&key, MAX_LOG_RECORD_BYTES as u64).await;
            (key, fetched)
        };
        let fetched = futures::stream::iter(listed.into_iter().map(|object| object.key)).map(fetch);
        let mut fetched = std::pin::pin!(fetched.buffered(EXPORTED_AT_ONCE));
        while let Some((name, fetched)) = fetched.next().await {
            let fetched = match fetched {
                Err(error) if error.is_not_found() || matches!(error.kind, ReplicaErrorKind::TooLong { .. }) => {
                    session.out.warning(format!("{error}, and is left out"));
                    continue;
                }
                fetched => fetched?,
            };
            let Ok(text) = String::from_utf8(fetched.to_vec()) else {
                session.out.warning(format!("replica {}: {name} is no text, and is left out", replica.name()));
                continue;
            };
            let object = ExportedObject { replica: replica.name().clone(), name, text };
            let line =
                serde_json::to_string(&object).map_err(|error| Error::failed("cannot write JSON").because(error))?;
            session.out.bytes(format!("{line}\n").as_bytes())?;
        }
    }
    Ok(())
}

/// The replicas of an export, as they were.
///
/// # Errors
/// The file cannot be read, or is none.
pub(super) async fn read(file: &Path, clock: &SharedClock) -> Result<Vec<SharedReplica>> {
    let refused = |why: String| {
        Error::usage(format!("{} is no export of logs", file.display()))
            .because(why)
            .hint("pass what `lifeboat audit export` printed")
    };
    let opened = std::fs::File::open(file).map_err(|error| refused(error.to_string()))?;
    let mut lines = BufReader::new(opened);
    let mut replicas: Vec<Arc<MemoryReplica>> = Vec::new();
    loop {
        let mut line = Vec::new();
        let read = (&mut lines).take(MAX_EXPORTED_LINE_BYTES as u64 + 1).read_until(b'\n', &mut line);
        if read.map_err(|error| refused(error.to_string()))? == 0 {
            break;
        }
        if line.len() > MAX_EXPORTED_LINE_BYTES {
            return Err(refused("a line is too long".to_owned()));
        }
        let object: ExportedObject = serde_json::from_slice(&line).map_err(|error| refused(error.to_string()))?;
        let known = replicas.iter().find(|replica| *replica.name() == object.replica).cloned();
        let replica = known.unwrap_or_else(|| {
            let replica = Arc::new(MemoryReplica::new(object.replica.clone(), "export", clock.clone()));
            replicas.push(replica.clone());
            replica
        });
        replica.put_new(&object.name, object.text.into()).await.map_err(|error| refused(error.to_string()))?;
    }
    Ok(replicas.into_iter().map(|replica| replica as SharedReplica).collect())
}
