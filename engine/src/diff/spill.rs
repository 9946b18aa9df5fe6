//! Compares two multisets of rows in bounded memory: each row becomes a keyed hash of 128 bits,
//! which goes to one of many files by its first bits; then file after file is compared. A file
//! whose rows are too many to hold is divided again.
//!
//! The key is drawn anew each time and kept nowhere, so what is on the disk tells nothing of a row.
//! Two different rows count as one with a probability below 2⁻⁶⁴, for 2³² rows.

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::io::{BufReader, BufWriter, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use lifeboat_base::{Class, Context, Result};

/// A hash, then the number of the table.
const SPILL_RECORD_BYTES: usize = 16 + 4;
/// Into so many files rows are divided.
const SPILL_FILES: usize = 32;
/// So many different rows are held at once: about 100 MB.
const MAX_ROWS_HELD: usize = 1 << 20;
/// After so many divisions, rows with different hashes are apart.
const MAX_DIVISIONS: usize = 15;

/// One of the two multisets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Side {
    Old,
    New,
}

/// How many rows of a table only one of the two has.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct SideCounts {
    pub(super) added: u64,
    pub(super) removed: u64,
}

/// Two multisets on the disk.
pub(super) struct Spill {
    folder: PathBuf,
    files: Vec<SpillFile>,
    /// More rows are not held at once.
    most: usize,
}

struct SpillFile {
    /// Those of the old multiset, and of the new one.
    sides: [BufWriter<File>; 2],
}

impl SpillFile {
    fn new(folder: &Path) -> Result<Self> {
        let failed = || format!("cannot write to {}", folder.display());
        let file = || tempfile::tempfile_in(folder).map(BufWriter::new).context(Class::Storage, failed);
        Ok(Self { sides: [file()?, file()?] })
    }

    fn add(&mut self, side: Side, record: &[u8]) -> Result<()> {
        let file = &mut self.sides[usize::from(side == Side::New)];
        file.write_all(record).context(Class::Storage, || "cannot write rows' hashes to the temporary directory")
    }
}

impl Spill {
    /// Nothing yet, in files below `folder` that have no names.
    pub(super) fn new(folder: &Path) -> Result<Self> {
        Self::holding(folder, MAX_ROWS_HELD)
    }

    fn holding(folder: &Path, most: usize) -> Result<Self> {
        let files = (0..SPILL_FILES).map(|_| SpillFile::new(folder)).collect::<Result<_>>()?;
        Ok(Self { folder: folder.to_owned(), files, most })
    }

    /// Adds a row of a table.
    pub(super) fn add(&mut self, side: Side, table: u32, hash: [u8; 16]) -> Result<()> {
        let mut record = [0; SPILL_RECORD_BYTES];
        record[..16].copy_from_slice(&hash);
        record[16..].copy_from_slice(&table.to_le_bytes());
        self.files[usize::from(hash[0]) % SPILL_FILES].add(side, &record)
    }

    /// Counts, by table. Takes time.
    pub(super) fn count(self) -> Result<BTreeMap<u32, SideCounts>> {
        let mut counts = BTreeMap::new();
        for file in self.files {
            compare(file, &self.folder, self.most, 1, &mut counts)?;
        }
        Ok(counts)
    }
}

/// Compares the two sides of a file. `byte` is the first byte of the hashes that may tell them
/// apart.
fn compare(
    mut file: SpillFile,
    folder: &Path,
    most: usize,
    byte: usize,
    counts: &mut BTreeMap<u32, SideCounts>,
) -> Result<()> {
    let failed = || "cannot read rows' hashes from the temporary directory";
    let mut held: HashMap<[u8; SPILL_RECORD_BYTES], i64> = HashMap::new();
    // Both first: a division reads both, too.
    for side in &mut file.sides {
        side.flush().context(Class::Storage, failed)?;
    }
    for (side, more) in file.sides.iter_mut().zip([-1, 1]) {
        side.get_mut().seek(SeekFrom::Start(0)).context(Class::Storage, failed)?;
        let mut reader = BufReader::new(side.get_ref());
        while let Some(record) = next(&mut reader)? {
            *held.entry(record).or_default() += more;
            if held.len() > most && byte <= MAX_DIVISIONS {
                return divide(file, folder, most, byte, counts);
            }
        }
    }
    for (record, more) in held {
        let [.., a, b, c, d] = record;
        let table = counts.entry(u32::from_le_bytes([a, b, c, d])).or_default();
        if more > 0 {
            table.added += more.unsigned_abs();
        } else {
            table.removed += more.unsigned_abs();
        }
    }
    Ok(())
}

fn divide(
    mut file: SpillFile,
    folder: &Path,
    most: usize,
    byte: usize,
    counts: &mut BTreeMap<u32, SideCounts>,
) -> Result<()> {
    let failed = || "cannot read rows' hashes from the temporary directory";
    let mut parts: Vec<SpillFile> = (0..SPILL_FILES).map(|_| SpillFile::new(folder)).collect::<Result<_>>()?;
    for (file, side) in file.sides.iter_mut().zip([Side::Old, Side::New]) {
        file.get_mut().seek(SeekFrom::Start(0)).context(Class::Storage, failed)?;
        let mut reader = BufReader::new(file.get_ref());
        while let Some(record) = next(&mut reader)? {
            parts[usize::from(record[byte]) % SPILL_FILES].add(side, &record)?;
        }
    }
    drop(file);
    parts.into_iter().try_for_each(|part| compare(part, folder, most, byte + 1, counts))
}

fn next(reader: &mut impl Read) -> Result<Option<[u8; SPILL_RECORD_BYTES]>> {
    let mut record = [0; SPILL_RECORD_BYTES];
    match reader.read_exact(&mut record) {
        Ok(()) => Ok(Some(record)),
        Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => Ok(None),
        Err(error) => Err(error).context(Class::Storage, || "cannot read rows' hashes from the temporary directory"),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn hash(row: u8) -> [u8; 16] {
        blake3::hash(&[row]).as_bytes()[..16].try_into().unwrap()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]
        #[test]
        fn counts_what_only_one_side_has_however_little_is_held(
            old in prop::collection::vec((0_u32..3, 0_u8..40), 0..120),
            new in prop::collection::vec((0_u32..3, 0_u8..40), 0..120),
            most in 1_usize..50,
        ) {
            let folder = tempfile::tempdir().unwrap();
            let mut spill = Spill::holding(folder.path(), most).unwrap();
            let mut model: BTreeMap<(u32, u8), i64> = BTreeMap::new();
            for (side, rows, more) in [(Side::Old, &old, -1), (Side::New, &new, 1)] {
                for (table, row) in rows {
                    spill.add(side, *table, hash(*row)).unwrap();
                    *model.entry((*table, *row)).or_default() += more;
                }
            }
            let counts = spill.count().unwrap();
            for table in 0..3 {
                let of = |sign: i64| -> u64 {
                    let rows = model.iter().filter(|((of, _), more)| *of == table && **more * sign > 0);
                    rows.map(|(_, more)| more.unsigned_abs()).sum()
                };
                let found = counts.get(&table).copied().unwrap_or_default();
                prop_assert_eq!((found.added, found.removed), (of(1), of(-1)));
            }
        }
    }
}
