//! What lies in a bucket, byte by byte: `FORMAT.md` specifies it, this crate reads and writes it.
//!
//! Bytes in, bytes out: no I/O, no clock, no configuration, no randomness. Signing, encrypting and
//! decrypting are the caller's: age plugins start processes, and encryption draws randomness.
//!
//! Anybody who can write to a bucket decides what this crate has to parse. Manifests and index
//! segments are parsed only after their signature was checked; the parsers are bounded all the
//! same, and each has a fuzz target (`fuzz/`).
//!
//! The key of an object says what the object is:
//!
//! ```
//! use lifeboat_format::id::{Name, SnapshotId};
//! use lifeboat_format::layout;
//!
//! # fn main() -> Result<(), lifeboat_base::Error> {
//! let shop: Name = "shop".parse()?;
//! let key = "datasets/shop/snapshots/20261123T183244123Z-9f2c81aa.json.zst.age";
//! let snapshot: Option<SnapshotId> = layout::parse_manifest(&shop, key);
//! assert_eq!(snapshot.map(|id| layout::manifest(&shop, &id)).as_deref(), Some(key));
//! assert_eq!(layout::parse_manifest(&shop, "datasets/shop/index/x"), None);
//! # Ok(())
//! # }
//! ```

pub mod act;
pub mod chunk_id;
pub mod extents;
pub mod frames;
pub mod id;
pub mod index;
pub mod info;
pub mod keyring;
pub mod layout;
pub mod lease;
pub mod line;
pub mod log;
pub mod manifest;
pub mod map;
pub mod needs;
pub mod pack;
pub mod padding;
pub mod planes;
pub mod record;
pub mod requirements;
pub mod root;
mod signed_line;
pub mod stream_name;
mod strict;
mod utc;
pub mod varint;
pub mod veto;

/// A version of the format.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// Is only read.
    One,
    /// Is read and written.
    Two,
}

impl Format {
    /// The format with this number.
    #[must_use]
    pub fn of(number: u32) -> Option<Self> {
        [Self::One, Self::Two].into_iter().find(|format| format.number() == number)
    }

    /// Its number.
    #[must_use]
    pub fn number(self) -> u32 {
        match self {
            Self::One => 1,
            Self::Two => 2,
        }
    }
}
