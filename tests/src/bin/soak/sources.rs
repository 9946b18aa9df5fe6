//! What is backed up: a database of PostgreSQL, one of SQLite, five files, and five commands. Each
//! content is written at once, has a number, and is remembered by its hash.

use std::collections::HashMap;
use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use lifeboat_tests::postgres::Postgres;
use lifeboat_tests::vault::{files_below, noise};
use rusqlite::Connection;
use tokio::process::Command;

use crate::Result;

/// Every dataset.
pub(crate) const DATASETS: [&str; 12] = [
    "shop",
    "wiki",
    "file-1",
    "file-2",
    "file-3",
    "file-4",
    "file-5",
    "command-1",
    "command-2",
    "command-3",
    "command-4",
    "command-5",
];
const SHOP: usize = 0;
const WIKI: usize = 1;
/// Those that are one file.
pub(crate) const FILES: std::ops::Range<usize> = 2..12;
/// Rows in each database.
const ROWS: usize = 60;
/// What stays of a small file, and what is new in each of its contents. Of a large one, sixteen
/// times as much is new.
const OLD_BYTES: usize = 60_000;
const NEW_BYTES: usize = 4_000;
const NEW_TIMES: usize = 16;

/// One content of a dataset.
#[derive(Debug, Clone, Copy)]
struct Content {
    /// It may be read from then on, in seconds since 1970, …
    possible: f64,
    /// … and nothing older is read from then on.
    certain: f64,
}

/// The sources, and all that they held.
pub(crate) struct Sources {
    folder: PathBuf,
    postgres: Postgres,
    /// By dataset, in their order.
    contents: Mutex<[Vec<Content>; DATASETS.len()]>,
    numbers: Mutex<HashMap<blake3::Hash, (usize, usize)>>,
    /// The dataset whose source is not there.
    away: Mutex<Option<usize>>,
}

impl Sources {
    /// Every source with its first content.
    pub(crate) async fn start(folder: PathBuf) -> Result<Self> {
        std::fs::create_dir(&folder)?;
        let postgres = Postgres::start().await;
        postgres.create_database("shop").await;
        postgres.run_sql("shop", "CREATE TABLE soak (number int, place int, word text)").await;
        Connection::open(folder.join("wiki"))?
            .execute_batch("CREATE TABLE soak (number INTEGER, place INTEGER, word TEXT)")?;
        let sources =
            Self { folder, postgres, contents: Mutex::default(), numbers: Mutex::default(), away: Mutex::default() };
        for dataset in 0..DATASETS.len() {
            sources.change(dataset).await?;
        }
        Ok(sources)
    }

    fn contents(&self) -> MutexGuard<'_, [Vec<Content>; DATASETS.len()]> {
        self.contents.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn numbers(&self) -> MutexGuard<'_, HashMap<blake3::Hash, (usize, usize)>> {
        self.numbers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn path(&self, dataset: usize) -> PathBuf {
        self.folder.join(DATASETS[dataset])
    }

    /// The `[dataset.source]` section.
    pub(crate) fn section(&self, dataset: usize) -> String {
        let path = self.path(dataset);
        match dataset {
            SHOP => format!("kind = \"postgres\"\nurl = \"{}\"\ndatabases = [\"shop\"]\n", self.postgres.url("shop")),
            WIKI => format!("kind = \"sqlite\"\npath = \"{}\"\n", path.display()),
            2..7 => format!("kind = \"file\"\npath = \"{}\"\n", path.display()),
            _ => format!("kind = \"command\"\nargv = [\"cat\", \"{}\"]\n", path.display()),
        }
    }

    /// Takes the file of a dataset away, or brings back the one that is away.
    ///
    /// # Errors
    /// It cannot be renamed.
    pub(crate) fn set_away(&self, dataset: Option<usize>) -> Result<()> {
        let mut away = self.away.lock().unwrap_or_else(PoisonError::into_inner);
        let aside = self.folder.join("aside");
        if let Some(before) = away.take() {
            std::fs::rename(&aside, self.path(before))?;
        }
        if let Some(dataset) = dataset {
            std::fs::rename(self.path(dataset), &aside)?;
        }
        *away = dataset;
        Ok(())
    }

    /// Gives a dataset its next content, all of it at once, unless it is away.
    pub(crate) async fn change(&self, dataset: usize) -> Result<()> {
        if *self.away.lock().unwrap_or_else(PoisonError::into_inner) == Some(dataset) {
            return Ok(());
        }
        let number = self.contents()[dataset].len();
        let content = match dataset {
            SHOP | WIKI => rows(dataset, number).into_bytes(),
            _ => {
                let (seed, (old, new)) = ((dataset * 1_000_000) as u64, sizes(dataset));
                [noise(old, seed), noise(new, seed + 1 + number as u64)].concat()
            }
        };
        let hash = blake3::hash(&content);
        self.numbers().insert(hash, (dataset, number));
        self.contents()[dataset].push(Content { possible: crate::now(), certain: f64::INFINITY });
        match dataset {
            SHOP | WIKI => {
                let mut sql = "BEGIN; DELETE FROM soak;".to_owned();
                for row in rows(dataset, number).lines() {
                    let words: Vec<&str> = row.split('\t').collect();
                    let _ = write!(sql, "INSERT INTO soak VALUES ({}, {}, '{}');", words[0], words[1], words[2]);
                }
                sql.push_str("COMMIT;");
                if dataset == SHOP {
                    self.postgres.try_query("shop", &sql).await?;
                } else {
                    let database = Connection::open(self.path(WIKI))?;
                    database.busy_timeout(std::time::Duration::from_secs(20))?;
                    database.execute_batch(&sql)?;
                }
            }
            _ => {
                let next = self.folder.join("next");
                std::fs::write(&next, content)?;
                std::fs::rename(&next, self.path(dataset))?;
            }
        }
        if let Some(content) = self.contents()[dataset].last_mut() {
            content.certain = crate::now();
        }
        Ok(())
    }

    /// The number of the oldest content that a capture can have read that began at this time.
    pub(crate) fn oldest_since(&self, dataset: usize, time: f64) -> usize {
        let contents = self.contents();
        contents[dataset].iter().rposition(|content| content.certain <= time).unwrap_or_default()
    }

    /// The number of the newest content.
    pub(crate) fn newest(&self, dataset: usize) -> usize {
        self.contents()[dataset].len() - 1
    }

    /// The number of the content that was restored into `target`. An error tells why it is none
    /// that the dataset ever had.
    pub(crate) async fn restored(&self, dataset: usize, target: &Path) -> Result<usize> {
        let files = files_below(target);
        let content = match (dataset, files.as_slice()) {
            (SHOP, files) => {
                let dump = files.iter().find(|file| file.ends_with("database/shop.dump"));
                self.rows_of_dump(dump.ok_or_else(|| format!("no dump in {files:?}"))?).await?.into_bytes()
            }
            (WIKI, [file]) => rows_of_sqlite(file)?.into_bytes(),
            (_, [file]) => std::fs::read(file)?,
            (_, files) => return Err(format!("not one file: {files:?}").into()),
        };
        match self.numbers().get(&blake3::hash(&content)) {
            Some((of, number)) if *of == dataset && self.contents()[dataset][*number].possible <= crate::now() => {
                Ok(*number)
            }
            Some((of, number)) => Err(format!("it is content {number} of {}", DATASETS[*of]).into()),
            None => Err(format!("{} bytes that were never written", content.len()).into()),
        }
    }

    async fn rows_of_dump(&self, dump: &Path) -> Result<String> {
        let mut restore = Command::new(self.postgres.programs().join("pg_restore"));
        let output = restore.args(["--data-only", "-f", "-"]).arg(dump).kill_on_drop(true).output().await?;
        if !output.status.success() {
            return Err(String::from_utf8_lossy(&output.stderr).into());
        }
        let text = String::from_utf8(output.stdout)?;
        let rows = text.lines().skip_while(|line| !line.starts_with("COPY public.soak "));
        let mut rows: Vec<&str> = rows.skip(1).take_while(|line| *line != "\\.").collect();
        // The server puts a row wherever there is room.
        rows.sort_by_key(|row| row.split('\t').nth(1).and_then(|place| place.parse::<usize>().ok()));
        Ok(rows.iter().map(|row| format!("{row}\n")).collect())
    }

    /// Whether no two contents are equal, so that a hash tells which one it is.
    pub(crate) fn are_distinct(&self) -> bool {
        self.numbers().len() == self.contents().iter().map(Vec::len).sum::<usize>()
    }
}

/// How much of a file stays, and how much of it is new each time. Every second file is large, of 2
/// to 12 MiB, as the memory of the daemon grows with what it reads.
fn sizes(dataset: usize) -> (usize, usize) {
    match (dataset - FILES.start, dataset % 2) {
        (place, 0) => ((2 << 20) + place * (10 << 20) / 8, NEW_TIMES * NEW_BYTES),
        _ => (OLD_BYTES, NEW_BYTES),
    }
}

/// What a database holds, as PostgreSQL writes it into a dump.
fn rows(dataset: usize, number: usize) -> String {
    let word = |place: usize| blake3::hash(format!("{dataset} {number} {place}").as_bytes()).to_hex();
    (0..ROWS).map(|place| format!("{number}\t{place}\t{}\n", word(place))).collect()
}

fn rows_of_sqlite(file: &Path) -> Result<String> {
    let database = Connection::open(file)?;
    let check: String = database.query_row("PRAGMA integrity_check", [], |row| row.get(0))?;
    if check != "ok" {
        return Err(check.into());
    }
    let mut query =
        database.prepare("SELECT number || char(9) || place || char(9) || word FROM soak ORDER BY place")?;
    let rows = query.query_map([], |row| row.get::<_, String>(0))?.collect::<rusqlite::Result<Vec<_>>>()?;
    Ok(rows.iter().map(|row| format!("{row}\n")).collect())
}
