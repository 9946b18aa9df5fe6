//! When two dumps are the same: but for what tells of the moment, and for the checksum, which must
//! be right.

use lifeboat_base::Result;

use super::rdb::without_passing_fields;
use super::tail::{CHECKSUM_BYTES, DumpTail};
use crate::passing::{PassingMarks, StreamCheck};

pub(super) const RDB_PASSING_MARKS: PassingMarks = PassingMarks {
    head: without_passing_fields,
    tail: |tail| tail.truncate(tail.len().saturating_sub(CHECKSUM_BYTES)),
    check: Some(|| Box::new(DumpTail::default())),
};

impl StreamCheck for DumpTail {
    fn see(&mut self, piece: &[u8]) -> Result<()> {
        Self::see(self, piece).map(drop)
    }

    fn end(self: Box<Self>) -> Result<()> {
        Self::end(*self).map(drop)
    }
}
