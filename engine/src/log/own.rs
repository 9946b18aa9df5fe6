//! Copies of the newest records of the own log. The newest of them is the head that this principal
//! remembers, and what a replica has lost is put back from here.
//!
//! Beside each copy is a list of the replicas that have the record. Who is missing in it was out of
//! reach, or left aside: that it lacks the record is no news. Without a list nobody knows, and what
//! is lacking may have been removed.

use std::collections::BTreeSet;
use std::path::PathBuf;

use bytes::Bytes;
use lifeboat_base::{Class, Context, Error, Result};
use lifeboat_format::id::{Digest, Name};
use lifeboat_format::layout;
use lifeboat_format::log::{LogHead, LogName, MAX_LOG_RECORD_BYTES};

use crate::state::{StateDirectory, create_private, replace_file};

/// So many are kept.
const KEPT: u64 = 4096;
/// How the name of a list of replicas ends.
const TAKEN_END: &str = "taken";

/// Copies of one log.
pub(super) struct OwnRecords<'a> {
    home: &'a StateDirectory,
    log: &'a LogName,
}

impl<'a> OwnRecords<'a> {
    pub(super) fn of(home: &'a StateDirectory, log: &'a LogName) -> Self {
        Self { home, log }
    }

    fn place(&self, number: u64) -> PathBuf {
        self.home.path().join(layout::log_record(self.log, number))
    }

    /// The number of the newest copy; `None` if there is none.
    ///
    /// # Errors
    /// [`Class::Storage`]: the directory cannot be read.
    pub(super) fn newest(&self) -> Result<Option<u64>> {
        let folder = self.home.path().join(layout::log(self.log));
        let failed = || format!("cannot read {}", folder.display());
        let entries = match std::fs::read_dir(&folder) {
            Ok(entries) => entries,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(Error::storage(failed()).because(error)),
        };
        let mut newest = None;
        for entry in entries {
            let name = entry.context(Class::Storage, failed)?.file_name();
            let key = format!("{}{}", layout::log(self.log), name.to_string_lossy());
            newest = newest.max(layout::parse_log_record(&key).map(|(_, number)| number));
        }
        Ok(newest)
    }

    /// The newest record, as its copy tells.
    ///
    /// # Errors
    /// [`Class::Storage`]: it cannot be read.
    pub(super) fn head(&self) -> Result<Option<LogHead>> {
        let Some(number) = self.newest()? else { return Ok(None) };
        let gone = || Error::storage(format!("record {number} of log {} is gone", self.log));
        let stored = self.read(number)?.ok_or_else(gone)?;
        let LogName { kind, name } = self.log;
        Ok(Some(LogHead { kind: *kind, name: name.clone(), number, blake3: Digest::of(&stored) }))
    }

    /// A copy; `None` if there is none.
    ///
    /// # Errors
    /// [`Class::Storage`]: it cannot be read. [`Class::Integrity`]: it is too long.
    pub(super) fn read(&self, number: u64) -> Result<Option<Bytes>> {
        let path = self.place(number);
        match std::fs::read(&path) {
            Ok(stored) if stored.len() <= MAX_LOG_RECORD_BYTES => Ok(Some(stored.into())),
            Ok(_) => Err(Error::integrity(format!("{} is damaged", path.display()))),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(Error::storage(format!("cannot read {}", path.display())).because(error)),
        }
    }

    /// Keeps a copy durably, and forgets one that is old.
    ///
    /// # Errors
    /// [`Class::Storage`]: the disk fails or is full.
    pub(super) fn keep(&self, number: u64, stored: &[u8]) -> Result<()> {
        let path = self.place(number);
        path.parent().map_or(Ok(()), create_private)?;
        replace_file(&path, stored)?;
        if let Some(old) = number.checked_sub(KEPT) {
            let _ = std::fs::remove_file(self.place(old));
            let _ = std::fs::remove_file(self.list_place(old));
        }
        Ok(())
    }

    fn list_place(&self, number: u64) -> PathBuf {
        self.place(number).with_extension(TAKEN_END)
    }

    /// The replicas that have a record; `None` if nobody knows.
    fn taken_by(&self, number: u64) -> Option<BTreeSet<Name>> {
        serde_json::from_slice(&std::fs::read(self.list_place(number)).ok()?).ok()
    }

    fn list(&self, number: u64, replicas: &BTreeSet<Name>) -> Result<()> {
        let json = serde_json::to_vec(replicas).context(Class::Failed, || "cannot write JSON")?;
        replace_file(&self.list_place(number), &json)
    }

    /// Whether it is sure that a replica has taken none of these records.
    pub(super) fn took_none(&self, replica: &Name, first: u64, last: u64) -> bool {
        (first..=last).all(|number| self.taken_by(number).is_some_and(|taken| !taken.contains(replica)))
    }

    /// Remembers who has taken the newest record, and so has what is before it.
    ///
    /// # Errors
    /// [`Class::Storage`]: the disk fails or is full. Then nobody knows.
    pub(super) fn took(&self, newest: u64, replicas: &BTreeSet<Name>) -> Result<()> {
        for replica in replicas {
            // What was sent without an answer may have arrived.
            for number in (1..newest).rev() {
                let Some(mut taken) = self.taken_by(number) else { break };
                if !taken.insert(replica.clone()) {
                    break;
                }
                self.list(number, &taken)?;
            }
        }
        self.list(newest, replicas)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use lifeboat_format::log::LogKind;

    use super::*;

    #[test]
    fn only_a_replica_that_surely_took_nothing_is_not_suspected() {
        let place = tempfile::tempdir().unwrap();
        let home = StateDirectory::open(&place.path().join("state")).unwrap();
        let log = LogName { kind: LogKind::Hosts, name: "db1".parse().unwrap() };
        let own = OwnRecords::of(&home, &log);
        let (near, far): (Name, Name) = ("near".parse().unwrap(), "far".parse().unwrap());
        let took = |number: u64, replicas: &[&Name]| {
            own.keep(number, b"x").unwrap();
            own.took(number, &replicas.iter().copied().cloned().collect()).unwrap();
        };
        // Nobody knows of a record that an older version wrote.
        own.keep(1, b"x").unwrap();
        assert!(!own.took_none(&near, 1, 1));

        took(2, &[&near, &far]);
        took(3, &[&far]);
        took(4, &[&far]);
        assert!(own.took_none(&near, 3, 4));
        for (replica, first) in [(&near, 2), (&near, 1), (&far, 3), (&far, 4)] {
            assert!(!own.took_none(replica, first, 4), "{replica} {first}");
        }
        // It has caught up.
        took(5, &[&near, &far]);
        for number in 1..=5 {
            assert!(!own.took_none(&near, number, number), "{number}");
        }
        took(6, &[]);
        assert!(own.took_none(&near, 6, 6) && own.took_none(&far, 6, 6));
        assert_eq!(own.newest().unwrap(), Some(6), "a list was taken for a record");

        // What cannot be read is not known.
        for content in ["", "[\"far\"", "{}", "[\"a name\"]"] {
            std::fs::write(own.list_place(6), content).unwrap();
            assert!(!own.took_none(&near, 6, 6), "{content}");
        }
        std::fs::remove_file(own.list_place(6)).unwrap();
        assert!(!own.took_none(&near, 6, 6));
    }
}
