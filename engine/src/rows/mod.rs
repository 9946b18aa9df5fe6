//! Rows: which bytes of a chunk that is new were stored before, though the chunk was not.
//!
//! After a few rows were changed all over a table, nearly every chunk holds one of them and is new.
//! Of the older stream keyed hashes are kept on the host, never bytes: enough to find the rows that
//! are the same, and where they lie.
//!
//! chunk → units (rows, [`units`]) → found among the older stream's ([`matcher`]), of which a
//! [`sketch`] is kept of each chunk → believed where the sums of a group agree ([`parity`]) → runs
//! of older bytes, and new ones between.
//!
//! Why not a difference against the last dump: that would need the dump at hand, and a backup host
//! must not keep a readable copy. 12 bits a row and eight check symbols for 64 rows tell as surely
//! as whole hashes would, in a third of the space.

mod hash;
pub(crate) mod matcher;
pub(crate) mod parity;
pub(crate) mod sketch;
pub(crate) mod units;
