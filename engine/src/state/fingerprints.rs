//! What the streams of this host's newest snapshot of a dataset were made of, so that the next run
//! need not read those that are as they were. See `backup/unread.rs`.
//!
//! The file is sealed under the host key for its dataset. One that is missing, damaged, too long or
//! of another snapshot counts for nothing: all streams are read.

use std::fs::File;
use std::io::{ErrorKind, Read};

use lifeboat_base::{Class, Context, Result};
use lifeboat_format::id::{Digest, Name, SnapshotId};
use serde::{Deserialize, Serialize};

use super::{StateDirectory, replace_file};
use crate::keys::seal::HostKey;

const FINGERPRINTS_FILE: &str = "fingerprints";
/// No file is longer: so many streams as a manifest can have, with names of some length.
const MAX_FINGERPRINTS_BYTES: u64 = 64 << 20;

/// The fingerprints of one snapshot.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Fingerprints {
    pub(crate) snapshot: SnapshotId,
    pub(crate) streams: Vec<KnownStream>,
}

/// The fingerprint of one stream.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct KnownStream {
    pub(crate) name: String,
    pub(crate) fingerprint: Digest,
    /// The stream's hash in the manifest.
    pub(crate) blake3: Digest,
    /// When the run began that read it, in seconds since 1970.
    #[serde(default)]
    pub(crate) read: i64,
}

/// The fingerprints of the newest snapshot that this host wrote; `None` if they cannot be read.
pub(crate) fn read(state: &StateDirectory, dataset: &Name, key: &HostKey) -> Option<Fingerprints> {
    let mut sealed = Vec::new();
    let file = File::open(state.dataset_path(dataset).join(FINGERPRINTS_FILE)).ok()?;
    file.take(MAX_FINGERPRINTS_BYTES + 1).read_to_end(&mut sealed).ok()?;
    if sealed.len() as u64 > MAX_FINGERPRINTS_BYTES {
        return None;
    }
    serde_json::from_slice(&key.open_plain(&purpose(dataset), &sealed).ok()?).ok()
}

/// Writes the fingerprints of the newest snapshot, or removes those before it if there are none.
///
/// # Errors
/// [`Class::Storage`]. What is there is then of another snapshot.
pub(crate) fn write(state: &StateDirectory, dataset: &Name, key: &HostKey, fingerprints: &Fingerprints) -> Result<()> {
    let path = state.dataset(dataset)?.join(FINGERPRINTS_FILE);
    if fingerprints.streams.is_empty() {
        return match std::fs::remove_file(&path) {
            Err(error) if error.kind() != ErrorKind::NotFound => {
                Err(error).context(Class::Storage, || format!("cannot remove {}", path.display()))
            }
            _ => Ok(()),
        };
    }
    let plain = serde_json::to_vec(fingerprints).context(Class::Failed, || "cannot write fingerprints of streams")?;
    replace_file(&path, &key.seal(&purpose(dataset), &plain)?)
}

fn purpose(dataset: &Name) -> String {
    format!("lifeboat fingerprints: {dataset}")
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn marks_are_read_as_they_were_written_and_else_not_at_all() {
        let place = tempfile::tempdir().unwrap();
        let state = StateDirectory::open(place.path()).unwrap();
        let (www, key) = ("www".parse().unwrap(), HostKey::generate());
        let snapshot: SnapshotId = "20261101T000000000Z-00000001".parse().unwrap();
        let stream =
            KnownStream { name: "tree".to_owned(), fingerprint: Digest([1; 32]), blake3: Digest([2; 32]), read: 7 };
        let fingerprints = Fingerprints { snapshot: snapshot.clone(), streams: vec![stream] };
        assert_eq!(read(&state, &www, &key), None);
        write(&state, &www, &key, &fingerprints).unwrap();
        assert_eq!(read(&state, &www, &key).as_ref(), Some(&fingerprints));
        assert_eq!(read(&state, &www, &HostKey::generate()), None, "another host key");
        let other: Name = "other".parse().unwrap();
        let path = state.dataset(&www).unwrap().join(FINGERPRINTS_FILE);
        std::fs::copy(&path, state.dataset(&other).unwrap().join(FINGERPRINTS_FILE)).unwrap();
        assert_eq!(read(&state, &other, &key), None, "another dataset");
        let whole = std::fs::read(&path).unwrap();
        for at in [0, whole.len() / 2, whole.len() - 1] {
            let mut damaged = whole.clone();
            damaged[at] ^= 1;
            std::fs::write(&path, damaged).unwrap();
            assert_eq!(read(&state, &www, &key), None, "byte {at}");
        }
        write(&state, &www, &key, &Fingerprints { snapshot, streams: Vec::new() }).unwrap();
        assert!(!path.exists());
    }
}
