//! The newest records of others' logs that this principal has seen. Where no replica shows one of
//! them any more, that log was cut, and so perhaps was everything else.

use std::collections::BTreeMap;
use std::time::Duration;

use futures::StreamExt;
use futures::future::join_all;
use lifeboat_base::{Class, Context, Error, Result};
use lifeboat_format::id::Digest;
use lifeboat_format::log::{LogHead, LogName, MAX_LOG_HEADS};
use lifeboat_store::SharedReplica;

use super::reader::{LogReader, LoggedRecord};
use crate::catalog::verdict::is_verdict;
use crate::state::{StateDirectory, create_private, replace_file};

const SEEN_FILE: &str = "log/seen.json";
/// No such file is longer.
const MAX_FILE_BYTES: u64 = 1 << 20;
/// So many records are asked for at once.
const RECORDS_AT_ONCE: usize = 8;
/// A replica that takes longer for one log is left aside.
const LONGEST_LOOK_AT_A_LOG: Duration = Duration::from_secs(180);

/// What became of the records that were remembered.
#[derive(Debug, Default)]
pub struct LooksBack {
    /// Logs that are shorter than they were, or say something else. For people to read.
    pub findings: Vec<String>,
    /// What single replicas lack or do not tell.
    pub warnings: Vec<String>,
    /// What cannot be told because a replica did not answer.
    pub doubts: Vec<String>,
}

/// The remembered heads of logs other than `own`, sorted.
pub(super) fn heads(home: &StateDirectory, own: &LogName) -> Result<Vec<LogHead>> {
    let others = read(home)?.into_iter().filter(|(log, _)| log != own).map(|(_, head)| head);
    Ok(others.take(MAX_LOG_HEADS).collect())
}

/// All remembered heads.
///
/// # Errors
/// [`Class::Storage`]: they cannot be read. [`Class::Integrity`]: they are damaged.
pub(super) fn read(home: &StateDirectory) -> Result<BTreeMap<LogName, LogHead>> {
    let path = home.path().join(SEEN_FILE);
    let hint = "mend the disk; or remove the file: then a log that was cut since is not noticed here";
    let damaged = || Error::integrity(format!("{} is damaged", path.display())).hint(hint);
    if path.metadata().is_ok_and(|found| found.len() > MAX_FILE_BYTES) {
        return Err(damaged());
    }
    let text = match std::fs::read(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(BTreeMap::new()),
        Err(error) => {
            return Err(Error::storage(format!("cannot read {}", path.display())).because(error).hint(hint));
        }
    };
    let heads: Vec<LogHead> = serde_json::from_slice(&text).map_err(|_| damaged())?;
    Ok(heads.into_iter().map(|head| (head.log(), head)).collect())
}

fn write(home: &StateDirectory, heads: &BTreeMap<LogName, LogHead>) -> Result<()> {
    let path = home.path().join(SEEN_FILE);
    path.parent().map_or(Ok(()), create_private)?;
    let heads: Vec<&LogHead> = heads.values().collect();
    let text = serde_json::to_vec_pretty(&heads).context(Class::Failed, || "cannot write heads of logs as JSON")?;
    replace_file(&path, &text)
}

/// Forgets what was remembered of all logs, and remembers what replicas show now.
///
/// # Errors
/// As [`look`].
pub async fn accept_what_is_there(
    reader: &LogReader<'_>,
    replicas: &[SharedReplica],
    home: &StateDirectory,
) -> Result<LooksBack> {
    write(home, &BTreeMap::new())?;
    look(reader, replicas, home, None).await
}

/// Compares what replicas show of all logs but `own` with what is remembered, and remembers what is
/// new in logs that go on.
///
/// # Errors
/// What is remembered cannot be read or written.
pub async fn look(
    reader: &LogReader<'_>,
    replicas: &[SharedReplica],
    home: &StateDirectory,
    own: Option<&LogName>,
) -> Result<LooksBack> {
    let known = read(home)?;
    let mut remembered = known.clone();
    let mut back = LooksBack::default();
    let logs = reader.trust.logs().into_iter().filter(|log| Some(log) != own);
    let looks = logs.map(|log| {
        let head = known.get(&log).cloned();
        async move {
            let (of, known) = (&log, head.as_ref());
            let shown = replicas.iter().map(|replica| async move {
                let shown = tokio::time::timeout(LONGEST_LOOK_AT_A_LOG, show(reader, replica, of, known)).await;
                let slow = |_| Err(Error::storage(format!("replica {} took too long", replica.name())));
                (replica, shown.unwrap_or_else(slow))
            });
            let shown = join_all(shown).await;
            (log, head, shown)
        }
    });
    let mut looks = std::pin::pin!(futures::stream::iter(looks).buffered(RECORDS_AT_ONCE));
    while let Some((log, head, shown)) = looks.next().await {
        if let Some(newest) = judge(&log, head.as_ref(), shown, &mut back) {
            remembered.insert(log, newest);
        }
    }
    if remembered != known {
        write(home, &remembered)?;
    }
    Ok(back)
}

/// What one replica shows of a log.
enum ShownLog {
    /// The remembered record, if there is one, and those after it by number.
    Follows(BTreeMap<u64, LogHead>),
    /// Not the remembered record.
    Lacks,
    /// Another valid one in its place.
    Differs,
}

async fn show(
    reader: &LogReader<'_>,
    replica: &SharedReplica,
    log: &LogName,
    known: Option<&LogHead>,
) -> Result<ShownLog> {
    let Some(known) = known else {
        let newest = reader.newest(replica, log).await?;
        return Ok(ShownLog::Follows(newest.iter().map(|found| (found.record.number, found.head())).collect()));
    };
    match reader.fetch(replica, log, known.number).await {
        Ok(Some(found)) if found.hash() == known.blake3 => {}
        Ok(Some(_)) => return Ok(ShownLog::Differs),
        Ok(None) => return Ok(ShownLog::Lacks),
        Err(error) if is_verdict(&error) => return Ok(ShownLog::Lacks),
        Err(error) => return Err(error),
    }
    let mut heads = BTreeMap::from([(known.number, known.clone())]);
    let mut hash: Digest = known.blake3;
    let fetch = |number| reader.fetch(replica, log, number);
    let mut later = std::pin::pin!(futures::stream::iter(known.number + 1..).map(fetch).buffered(RECORDS_AT_ONCE));
    while let Some(found) = later.next().await {
        match found {
            Ok(Some(found)) if found.record.previous == Some(hash) => {
                hash = found.hash();
                heads.insert(found.record.number, LoggedRecord::head(&found));
            }
            Ok(_) => break,
            Err(error) if is_verdict(&error) => break,
            Err(error) => return Err(error),
        }
    }
    Ok(ShownLog::Follows(heads))
}

/// Adds to `back` what the answers of replicas tell of one log. Returns the head to be remembered.
fn judge(
    log: &LogName,
    known: Option<&LogHead>,
    shown: Vec<(&SharedReplica, Result<ShownLog>)>,
    back: &mut LooksBack,
) -> Option<LogHead> {
    let (mut lacking, mut unanswered, mut differing) = (Vec::new(), Vec::new(), Vec::new());
    let mut heads: BTreeMap<u64, LogHead> = BTreeMap::new();
    let (mut holders, mut forks) = (0, false);
    for (replica, shown) in shown {
        match shown {
            Ok(ShownLog::Follows(shown)) => {
                holders += 1;
                for (number, head) in shown {
                    forks |= heads.insert(number, head.clone()).is_some_and(|other| other != head);
                }
            }
            Ok(ShownLog::Lacks) => lacking.push(replica.name().as_str()),
            Ok(ShownLog::Differs) => differing.push(replica.name().as_str()),
            Err(error) => {
                unanswered.push(replica.name().as_str());
                back.warnings.push(format!(
                    "log {log} is not looked at in replica {}: {}",
                    replica.name(),
                    error.chain()
                ));
            }
        }
    }
    if forks {
        back.findings.push(format!("the replicas show different logs {log}"));
        return None;
    }
    let Some(known) = known else { return heads.pop_last().map(|(_, head)| head) };
    let number = known.number;
    if !differing.is_empty() {
        let names = differing.join(", ");
        back.findings.push(format!("record {number} of log {log} is another one than before in replica {names}"));
        return None;
    }
    if holders > 0 {
        if !lacking.is_empty() {
            let names = lacking.join(", ");
            back.warnings.push(format!("replica {names} lacks record {number} of log {log}, which another one shows"));
        }
        return heads.pop_last().map(|(_, head)| head);
    }
    let what = format!("log {log} is shorter than it was: no replica that answers shows record {number}");
    if unanswered.is_empty() { &mut back.findings } else { &mut back.doubts }.push(what);
    None
}
