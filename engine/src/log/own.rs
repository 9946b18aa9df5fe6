//! Copies of the newest records of the own log. The newest of them is the head that this principal
//! remembers, and what a replica has lost is put back from here.

use std::path::PathBuf;

use bytes::Bytes;
use lifeboat_base::{Class, Context, Error, Result};
use lifeboat_format::id::Digest;
use lifeboat_format::layout;
use lifeboat_format::log::{LogHead, LogName, MAX_LOG_RECORD_BYTES};

use crate::state::{StateDirectory, create_private, replace_file};

/// So many are kept.
const KEPT: u64 = 4096;

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
        }
        Ok(())
    }
}
