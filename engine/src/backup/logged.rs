//! Tells of a commit in this host's log. The snapshot is there already, whatever becomes of that.

use lifeboat_format::log::LogEvent;

use super::Backup;
use crate::catalog::order::FoundAct;
use crate::log::HostLog;

impl Backup<'_> {
    /// Records a commit, after a look at the logs of others. Returns why it is in no replica, if it
    /// is in none.
    pub(super) async fn record(&self, act: &FoundAct, warnings: &mut Vec<String>) -> Option<String> {
        let log = HostLog { keys: self.keys, replicas: self.replicas, state: self.state };
        match log.look().await {
            Ok(back) => warnings.extend(back.findings.into_iter().chain(back.warnings).chain(back.doubts)),
            Err(error) => warnings.push(error.chain_and_hint()),
        }
        let seen = act.seen();
        let event = LogEvent::Commit { dataset: seen.dataset.clone(), number: seen.number, blake3: seen.blake3 };
        match log.record(event, vec![seen], self.clock.now()).await {
            Ok(told) => {
                warnings.extend(told);
                None
            }
            Err(error) => {
                let why = format!("this commit is not in this host's log: {}", error.chain_and_hint());
                warnings.push(why.clone());
                Some(why)
            }
        }
    }
}
