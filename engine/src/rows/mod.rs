//! Finds the rows of a new chunk that are stored already.
//!
//! After a few rows have changed all over a table, nearly every chunk holds a changed row and is
//! new. The host keeps keyed hashes of the older stream, but never its bytes. They are enough to
//! find the rows that are the same, and where they lie.
//!
//! 1. [`units`] cuts a chunk into units, which are rows or a few short rows.
//! 2. [`sketch`] is what the host keeps of the units of each older chunk.
//! 3. [`matcher`] finds the units of a new chunk in the sketches of the older stream.
//! 4. [`parity`] decides whether to believe what was found, group by group.
//!
//! The result is runs of older bytes, with new bytes between them.
//!
//! A difference against the last dump would be simpler, but a backup host must not keep a readable
//! copy of it. 12 bits for each row and eight check symbols for each 64 rows are as reliable as
//! whole hashes, and take a third of the space.

mod hash;
pub(crate) mod matcher;
pub(crate) mod parity;
pub(crate) mod sketch;
pub(crate) mod units;
