//! The journal lists packs that were uploaded but not yet committed. After a crash, the next run
//! finds them there.
//!
//! Each record is sealed (AES-256-GCM) under the host key, prefixed with its length, appended and
//! fsynced. The first record that cannot be read ends the journal, for example one that a crash cut
//! short. Packs that are lost in this way are uploaded again.

use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;

use lifeboat_base::{Class, Context, Result};
use lifeboat_format::id::Name;
use lifeboat_format::index::{IndexSegment, IndexedPack};

use super::StateDirectory;
use crate::keys::seal::HostKey;

const JOURNAL_PURPOSE: &str = "lifeboat journal";
const MAX_RECORD_BYTES: u32 = 64 << 20;

/// The journal of one dataset.
pub struct Journal {
    path: PathBuf,
    key: HostKey,
    generation: u32,
}

impl Journal {
    /// The journal of `dataset` in its current key `generation`.
    ///
    /// # Errors
    /// [`Class::Storage`] if the dataset's directory cannot be created.
    pub fn open(state: &StateDirectory, dataset: &Name, key: &HostKey, generation: u32) -> Result<Self> {
        Ok(Self { path: state.dataset(dataset)?.join("journal"), key: key.clone(), generation })
    }

    /// The packs of the current key generation, up to the first record that cannot be read.
    #[must_use]
    pub fn read(&self) -> Vec<IndexedPack> {
        let mut bytes = Vec::new();
        if let Err(error) = File::open(&self.path).and_then(|mut file| file.read_to_end(&mut bytes)) {
            if error.kind() != std::io::ErrorKind::NotFound {
                tracing::warn!(%error, path = %self.path.display(), "cannot read the journal; its packs will be uploaded again");
            }
            return Vec::new();
        }
        let mut packs = Vec::new();
        let mut rest = bytes.as_slice();
        while let Some((length, tail)) = rest.split_first_chunk::<4>() {
            let length = u32::from_le_bytes(*length);
            let Some((sealed, tail)) = tail.split_at_checked(length.min(MAX_RECORD_BYTES) as usize) else { break };
            let record =
                self.key.open(JOURNAL_PURPOSE, sealed).and_then(|plain| IndexSegment::of_content(plain.to_vec()));
            let Ok((segment, _)) = record else { break };
            let Ok(record) = segment.packs().collect::<Result<Vec<_>>>() else { break };
            if segment.generation == self.generation {
                packs.extend(record);
            }
            rest = tail;
        }
        packs
    }

    /// Appends a pack and syncs it to disk.
    ///
    /// # Errors
    /// [`Class::Storage`] if the disk fails or is full.
    pub fn append(&self, pack: &IndexedPack) -> Result<()> {
        let record = IndexSegment::content(self.generation, std::slice::from_ref(pack));
        let sealed = self.key.seal(JOURNAL_PURPOSE, &record)?;
        let write = || -> std::io::Result<()> {
            let mut file = OpenOptions::new().create(true).append(true).mode(0o600).open(&self.path)?;
            file.write_all(&[&(sealed.len() as u32).to_le_bytes(), sealed.as_slice()].concat())?;
            file.sync_data()
        };
        write().context(Class::Storage, || format!("cannot write the journal {}", self.path.display()))
    }

    /// Removes the journal after a commit.
    ///
    /// # Errors
    /// [`Class::Storage`] if the file cannot be removed.
    pub fn clear(&self) -> Result<()> {
        match std::fs::remove_file(&self.path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                Err(error).context(Class::Storage, || format!("cannot remove the journal {}", self.path.display()))
            }
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use lifeboat_format::id::Digest;

    #[test]
    fn records_survive_and_a_cut_one_ends_it() -> Result<()> {
        let place = tempfile::tempdir().context(Class::Failed, || "no temporary directory")?;
        let state = StateDirectory::open(place.path())?;
        let (shop, key) = ("shop".parse()?, HostKey::generate());
        let journal = Journal::open(&state, &shop, &key, 1)?;
        let packs: Vec<IndexedPack> =
            (0..3).map(|n| IndexedPack { id: Digest([n; 32]), size: 9, chunks: vec![(Digest([n; 32]), 1)] }).collect();
        packs.iter().try_for_each(|pack| journal.append(pack))?;
        assert_eq!(journal.read(), packs);
        assert!(Journal::open(&state, &shop, &key, 2)?.read().is_empty(), "another generation's packs were used");
        assert!(Journal::open(&state, &shop, &HostKey::generate(), 1)?.read().is_empty());
        let whole = std::fs::read(&journal.path).unwrap_or_default();
        std::fs::write(&journal.path, &whole[..whole.len() - 1]).context(Class::Failed, || "cannot cut")?;
        assert_eq!(journal.read(), packs[..2]);
        journal.clear()?;
        assert!(journal.read().is_empty());
        journal.clear()
    }
}
