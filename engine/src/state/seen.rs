//! The number of the newest act that this host has seen in a dataset. Where every replica shows
//! less, they were rolled back, or emptied.

use lifeboat_base::Result;
use lifeboat_format::id::Name;

use super::{StateDirectory, replace_file};

const FILE: &str = "seen";

/// The number; 0 if none is known.
pub(crate) fn read(state: &StateDirectory, dataset: &Name) -> u64 {
    let path = state.dataset(dataset).map(|folder| folder.join(FILE));
    let text = path.ok().and_then(|path| std::fs::read_to_string(path).ok());
    text.and_then(|text| text.trim().parse().ok()).unwrap_or_default()
}

/// Remembers the number, if it is newer.
///
/// # Errors
/// [`Class::Storage`](lifeboat_base::Class::Storage): the disk fails or is full.
pub(crate) fn remember(state: &StateDirectory, dataset: &Name, number: u64) -> Result<()> {
    if number > read(state, dataset) {
        replace_file(&state.dataset(dataset)?.join(FILE), format!("{number}\n").as_bytes())?;
    }
    Ok(())
}
