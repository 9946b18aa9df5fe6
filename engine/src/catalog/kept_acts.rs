//! Acts that this host has believed, in one file, so that it checks no signature twice and opens no
//! file for each. If they are lost, acts are read and checked again.
//!
//! A record of the file holds acts one after the other: number, length, and the act as it is
//! stored.

use std::collections::BTreeMap;

use bytes::Bytes;
use lifeboat_format::id::Name;
use lifeboat_format::varint;

use crate::keys::seal::HostKey;
use crate::state::cache::ObjectCache;
use crate::state::sealed_log::{LogEnd, RECORD_BYTES, SealedLog};

/// The name of their file. What other programs would not understand needs another name.
const ACTS_FILE: &str = ".acts-1";

/// The acts of one dataset that this host keeps.
pub(super) struct KeptActs<'a> {
    log: SealedLog<'a>,
    /// As they are stored, by number.
    pub(super) known: BTreeMap<u64, Bytes>,
    end: Option<LogEnd>,
}

impl<'a> KeptActs<'a> {
    pub(super) fn read(cache: &'a ObjectCache, key: &'a HostKey, vault: &str, dataset: &Name) -> Self {
        let log = SealedLog::new(cache, ACTS_FILE, format!("lifeboat acts of {vault}/{dataset}"), key);
        let mut known = BTreeMap::new();
        let end = log.read(|record| {
            let record = Bytes::from(record);
            let mut rest = &record[..];
            while !rest.is_empty() {
                let (number, length) = (varint::take(&mut rest)?, usize::try_from(varint::take(&mut rest)?).ok()?);
                let (act, after) = rest.split_at_checked(length)?;
                known.insert(number, record.slice_ref(act));
                rest = after;
            }
            Some(())
        });
        if end.is_none() {
            known.clear();
        }
        Self { log, known, end }
    }

    /// Keeps those of `acts`, as they are stored, that are not kept already. If the file is worn,
    /// all are written anew.
    pub(super) fn keep(self, acts: &BTreeMap<u64, Bytes>) {
        let Self { log, known, end } = self;
        let gone = known.keys().filter(|number| !acts.contains_key(number)).count();
        let end = end.and_then(|end| end.unless_worn(gone, known.len()));
        let is_new = |number: &u64| end.is_none() || !known.contains_key(number);
        let mut new = acts.iter().filter(|(number, _)| is_new(number));
        let records = std::iter::from_fn(|| {
            let mut record = Vec::new();
            while record.len() < RECORD_BYTES
                && let Some((number, stored)) = new.next()
            {
                varint::put(&mut record, *number);
                varint::put(&mut record, stored.len() as u64);
                record.extend_from_slice(stored);
            }
            (!record.is_empty()).then_some(record)
        });
        log.write(end.as_ref(), records);
    }
}
