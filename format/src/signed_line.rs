//! The container of acts, leases and log records: JSON on one line, and behind it the minisign
//! signature of this line, line feed included. See "Order" in `FORMAT.md`.

use lifeboat_base::{Class, Context, Error, Result};
use serde::{Deserialize, Serialize};

use crate::requirements;

/// The line that a signature covers. `what` names it in errors.
///
/// # Errors
/// [`Class::Failed`]: it would be longer than `limit`.
pub(crate) fn write<T: Serialize>(value: &T, limit: usize, what: &str) -> Result<Vec<u8>> {
    let mut line = serde_json::to_vec(value).context(Class::Failed, || format!("cannot write {what} as JSON"))?;
    line.push(b'\n');
    if line.len() > limit {
        return Err(Error::failed(format!("{what} would be too long")));
    }
    Ok(line)
}

/// Reads a line whose signature was checked.
///
/// # Errors
/// [`Class::Integrity`]: it is damaged, or requires what this program does not know.
pub(crate) fn read<T: for<'a> Deserialize<'a>>(line: &[u8], what: &str) -> Result<T> {
    let json = line.strip_suffix(b"\n").filter(|json| !json.contains(&b'\n'));
    requirements::read_json(json.ok_or_else(|| Error::integrity(format!("{what} is damaged")))?, what)
}

/// Splits an object as it is stored into its line and the signature of this line; `None` if it is
/// none or longer than `limit`.
pub(crate) fn split(stored: &[u8], limit: usize) -> Option<(&[u8], &[u8])> {
    let stored = Some(stored).filter(|stored| stored.len() <= limit)?;
    let end = stored.iter().position(|byte| *byte == b'\n')?;
    Some(stored.split_at(end + 1))
}
