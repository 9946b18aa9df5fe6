//! The newest records of others' logs that this principal has seen. Where no replica shows one of
//! them any more, that log was cut, and so perhaps was everything else.

use std::collections::BTreeMap;
use std::time::Duration;

use chrono::{DateTime, Utc};
use futures::StreamExt;
use futures::future::join_all;
use lifeboat_base::{Class, Context, Error, Result};
use lifeboat_format::id::Digest;
use lifeboat_format::log::{LogHead, LogName, MAX_LOG_HEADS};
use lifeboat_store::SharedReplica;
use serde::{Deserialize, Serialize};

use super::reader::{LogReader, LoggedRecord};
use crate::catalog::verdict::is_verdict;
use crate::keys::trust::Trust;
use crate::state::{StateDirectory, create_private, replace_file};

const SEEN_FILE: &str = "log/seen.json";
/// No such file is longer.
const MAX_FILE_BYTES: u64 = 1 << 20;
/// So many records are asked for at once.
const RECORDS_AT_ONCE: usize = 8;
/// A replica that takes longer for one log is left aside.
const LONGEST_LOOK_AT_A_LOG: Duration = Duration::from_secs(180);

/// A record that was seen as the newest of its log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct SeenRecord {
    pub(super) head: LogHead,
    /// The key that signed it, and the time that it tells.
    signer: String,
    time: DateTime<Utc>,
}

impl From<&LoggedRecord> for SeenRecord {
    fn from(found: &LoggedRecord) -> Self {
        Self { head: found.head(), signer: found.signer.as_str().to_owned(), time: found.record.time }
    }
}

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
pub(super) fn heads(home: &StateDirectory, own: &LogName, trust: &Trust) -> Result<Vec<LogHead>> {
    let others = read(home, trust)?.into_iter().filter(|(log, _)| log != own).map(|(_, seen)| seen.head);
    Ok(others.take(MAX_LOG_HEADS).collect())
}

/// The remembered records, without those that count for nothing any more, because owners
/// have revoked their signer as of a time before they were written. Nobody else can have
/// them forgotten.
///
/// # Errors
/// [`Class::Storage`]: they cannot be read. [`Class::Integrity`]: they are damaged.
pub(super) fn read(home: &StateDirectory, trust: &Trust) -> Result<BTreeMap<LogName, SeenRecord>> {
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
    let records: Vec<SeenRecord> = serde_json::from_slice(&text).map_err(|_| damaged())?;
    let records = records.into_iter().map(|seen| (seen.head.log(), seen));
    // A log of nobody whom the root names is not looked at, and its memory waits.
    let names = trust.logs();
    let counts =
        |log: &LogName, seen: &SeenRecord| !names.contains(log) || trust.lets_count(log, &seen.signer, seen.time);
    Ok(records.filter(|(log, seen)| counts(log, seen)).collect())
}

fn write(home: &StateDirectory, records: &BTreeMap<LogName, SeenRecord>) -> Result<()> {
    let path = home.path().join(SEEN_FILE);
    path.parent().map_or(Ok(()), create_private)?;
    let records: Vec<&SeenRecord> = records.values().collect();
    let text = serde_json::to_vec_pretty(&records).context(Class::Failed, || "cannot write heads of logs as JSON")?;
    replace_file(&path, &text)
}

/// Forgets what was remembered of all logs, and remembers what replicas show now.
///
/// # Errors
/// As [`look`]; [`Class::Storage`] if one of them does not show all that it has. Then all stays as
/// it was.
pub async fn accept_what_is_there(
    reader: &LogReader<'_>,
    replicas: &[SharedReplica],
    home: &StateDirectory,
) -> Result<LooksBack> {
    let (back, remembered) = compare(reader, replicas, &BTreeMap::new(), None).await;
    if let Some(why) = back.warnings.iter().chain(&back.doubts).next() {
        return Err(Error::storage("nothing was forgotten, because not all replicas could be looked at")
            .because(why.clone())
            .hint("mend the replica, or take it out of the configuration, and run it again"));
    }
    write(home, &remembered)?;
    Ok(back)
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
    let known = read(home, reader.trust)?;
    let (back, remembered) = compare(reader, replicas, &known, own).await;
    if remembered != known {
        write(home, &remembered)?;
    }
    Ok(back)
}

/// As [`look`], with what is `known`. Returns what is to be remembered, too.
async fn compare(
    reader: &LogReader<'_>,
    replicas: &[SharedReplica],
    known: &BTreeMap<LogName, SeenRecord>,
    own: Option<&LogName>,
) -> (LooksBack, BTreeMap<LogName, SeenRecord>) {
    let mut remembered = known.clone();
    let mut back = LooksBack::default();
    let logs = reader.trust.logs().into_iter().filter(|log| Some(log) != own);
    let looks = logs.map(|log| {
        let seen = known.get(&log).cloned();
        async move {
            let (of, known) = (&log, seen.as_ref());
            let shown = replicas.iter().map(|replica| async move {
                let shown = tokio::time::timeout(LONGEST_LOOK_AT_A_LOG, show(reader, replica, of, known)).await;
                let slow = |_| Err(Error::storage(format!("replica {} took too long", replica.name())));
                (replica, shown.unwrap_or_else(slow))
            });
            let shown = join_all(shown).await;
            (log, seen, shown)
        }
    });
    let mut looks = std::pin::pin!(futures::stream::iter(looks).buffered(RECORDS_AT_ONCE));
    while let Some((log, seen, shown)) = looks.next().await {
        if let Some(newest) = judge(&log, seen.as_ref(), shown, &mut back) {
            remembered.insert(log, newest);
        }
    }
    (back, remembered)
}

/// What one replica shows of a log.
enum ShownLog {
    /// The remembered record, if there is one, and those after it by number.
    Follows(BTreeMap<u64, SeenRecord>),
    /// Not the remembered record.
    Lacks,
    /// Another valid one in its place.
    Differs,
}

async fn show(
    reader: &LogReader<'_>,
    replica: &SharedReplica,
    log: &LogName,
    known: Option<&SeenRecord>,
) -> Result<ShownLog> {
    let Some(known) = known else {
        let newest = reader.newest(replica, log).await?;
        return Ok(ShownLog::Follows(newest.iter().map(|found| (found.record.number, found.into())).collect()));
    };
    let LogHead { number, blake3, .. } = known.head;
    match reader.fetch(replica, log, number).await {
        Ok(Some(found)) if found.hash() == blake3 => {}
        Ok(Some(_)) => return Ok(ShownLog::Differs),
        Ok(None) => return Ok(ShownLog::Lacks),
        Err(error) if is_verdict(&error) => return Ok(ShownLog::Lacks),
        Err(error) => return Err(error),
    }
    let mut heads = BTreeMap::from([(number, known.clone())]);
    let mut hash: Digest = blake3;
    let fetch = |number| reader.fetch(replica, log, number);
    let mut later = std::pin::pin!(futures::stream::iter(number + 1..).map(fetch).buffered(RECORDS_AT_ONCE));
    while let Some(found) = later.next().await {
        match found {
            Ok(Some(found)) if found.record.previous == Some(hash) => {
                hash = found.hash();
                heads.insert(found.record.number, SeenRecord::from(&found));
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
    known: Option<&SeenRecord>,
    shown: Vec<(&SharedReplica, Result<ShownLog>)>,
    back: &mut LooksBack,
) -> Option<SeenRecord> {
    let (mut lacking, mut unanswered, mut differing) = (Vec::new(), Vec::new(), Vec::new());
    let mut heads: BTreeMap<u64, SeenRecord> = BTreeMap::new();
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
    let number = known.head.number;
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
