//! The number of the newest act that this host has seen in a dataset. Where every replica shows
//! less, they were rolled back, or emptied.

use lifeboat_base::Result;
use lifeboat_format::id::Name;

use super::{StateDirectory, replace_file};

const FILE: &str = "seen";

/// The number; 0 if this host has seen none.
///
/// # Errors
/// [`Class::Storage`](lifeboat_base::Class::Storage): what it has seen cannot be read.
pub(crate) fn read(state: &StateDirectory, dataset: &Name) -> Result<u64> {
    let parse = |text: &[u8]| std::str::from_utf8(text).ok()?.trim().parse().ok();
    Ok(state.witness(dataset, FILE, parse)?.unwrap_or_default())
}

/// Remembers the number, if it is newer.
///
/// # Errors
/// [`Class::Storage`](lifeboat_base::Class::Storage): the disk fails or is full, or the number that
/// is there cannot be read. That one stays.
pub(crate) fn remember(state: &StateDirectory, dataset: &Name, number: u64) -> Result<()> {
    if number > read(state, dataset)? {
        replace_file(&state.dataset(dataset)?.join(FILE), format!("{number}\n").as_bytes())?;
    }
    Ok(())
}
