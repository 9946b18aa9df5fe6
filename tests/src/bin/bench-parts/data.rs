//! Data that looks like the uncompressed dump of an invented shop: the same bytes for the same size
//! and edits.
//!
//! Rows in the manner of COPY, tables in turn, a block of rows each: customers (names, addresses,
//! random tokens), orders (numbers, states, times), events (JSON) and, fewer, notes (sentences).
//! Row `n` depends on `n` alone, so that a deleted or inserted block leaves all others as they are.
//! The engine's micro-benchmarks take their bytes from here, too.

use std::io::Write;

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::Result;

/// Rows of one table before the next one's.
const BLOCK: u64 = 20_000;
const TURNS: [Table; 8] = {
    use Table::{Customers, Events, Notes, Orders};
    [Customers, Orders, Events, Orders, Events, Orders, Events, Notes]
};
const FIRST: [&str; 12] =
    ["Anna", "Bela", "Chiara", "Dmitri", "Elif", "Farid", "Greta", "Hugo", "Ines", "Jonas", "Katya", "Liam"];
const LAST: [&str; 12] =
    ["Meyer", "Novak", "Okafor", "Petrov", "Quinn", "Rossi", "Schmidt", "Tanaka", "Ueda", "Varga", "Weber", "Young"];
const STATES: [&str; 5] = ["new", "paid", "sent", "delivered", "returned"];
const KINDS: [&str; 4] = ["view", "search", "basket", "order"];

#[derive(Clone, Copy)]
enum Table {
    Customers,
    Orders,
    Events,
    Notes,
}

/// How a version differs from the first one.
struct Edits {
    /// Rows that are left out.
    deleted: std::ops::Range<u64>,
    /// The row that new ones follow, and how many.
    inserted_after: u64,
    inserted: u64,
    /// Rows with another content.
    changed: std::ops::Range<u64>,
    /// Seeds, and how many rows of a thousand have another content each time, all over.
    scattered: Vec<(u64, u64)>,
    /// The same, of rows that are left out and come at the end of their table's block instead.
    moved: (u64, u64),
    /// Every order has one column more.
    column: bool,
    /// Grows by so many MiB.
    appended: usize,
}

impl Edits {
    /// `append=MIB`, `delete=FROM:ROWS`, `insert=AFTER:ROWS`, `change=FROM:ROWS`,
    /// `scatter=SEED:PER_MILLE`, `move=SEED:PER_MILLE`, `column=1`, separated by commas.
    fn parse(text: &str) -> Result<Self> {
        let mut edits = Self {
            deleted: 0..0,
            inserted_after: 0,
            inserted: 0,
            changed: 0..0,
            appended: 0,
            scattered: Vec::new(),
            moved: (0, 0),
            column: false,
        };
        for edit in text.split(',').filter(|edit| !edit.is_empty()) {
            let (verb, number) = edit.split_once('=').ok_or("an edit looks like delete=1000:50")?;
            let (at, rows) = number.split_once(':').unwrap_or(("0", number));
            let (at, rows): (u64, u64) = (at.parse()?, rows.parse()?);
            match verb {
                "append" => edits.appended = usize::try_from(rows)?,
                "delete" => edits.deleted = at..at + rows,
                "insert" => (edits.inserted_after, edits.inserted) = (at, rows),
                "change" => edits.changed = at..at + rows,
                "scatter" => edits.scattered.push((at, rows)),
                "move" => edits.moved = (at, rows),
                "column" => edits.column = rows > 0,
                _ => return Err(format!("unknown edit `{verb}`").into()),
            }
        }
        Ok(edits)
    }

    /// Which content a row has.
    fn version(&self, row: u64) -> u64 {
        let changed = u64::from(self.changed.contains(&row));
        let scattered = self.scattered.iter().rev().find(|(seed, rate)| hits(row, *seed, *rate));
        scattered.map_or(changed, |(seed, _)| 100 + seed)
    }
}

/// Whether a row is one of those that a seed chooses.
fn hits(row: u64, seed: u64, per_mille: u64) -> bool {
    let mixed = (row ^ seed << 40).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    (mixed ^ mixed >> 32).wrapping_mul(0xD6E8_FEB8_6659_FD93) >> 40 < per_mille * (1 << 24) / 1000
}

/// Writes `mib` MiB, with `edits`.
pub(super) fn write(out: &mut impl Write, mib: usize, edits: &str) -> Result<()> {
    let edits = Edits::parse(edits)?;
    let wanted = (mib + edits.appended) << 20;
    let (mut block, mut written, mut row) = (Vec::with_capacity(1 << 21), 0, 0_u64);
    let (words, mut moved) = (words(), Vec::new());
    while written < wanted {
        block.clear();
        while block.len() < 1 << 20 {
            let moves = hits(row, edits.moved.0, edits.moved.1);
            if !edits.deleted.contains(&row) {
                let out = if moves { &mut moved } else { &mut block };
                push_row(out, &words, row, edits.version(row), edits.column)?;
            }
            if row % BLOCK == BLOCK - 1 {
                block.append(&mut moved);
            }
            if edits.inserted > 0 && row == edits.inserted_after {
                for new in 0..edits.inserted {
                    push_row(&mut block, &words, row / BLOCK * BLOCK + new, 7, edits.column)?;
                }
            }
            row += 1;
        }
        block.truncate(wanted - written);
        out.write_all(&block)?;
        written += block.len();
    }
    Ok(out.flush()?)
}

/// A vocabulary in which the first words are the common ones.
fn words() -> Vec<String> {
    let mut random = ChaCha8Rng::seed_from_u64(4711);
    let mut word = || -> String {
        let length = random.random_range(2..9);
        (0..length).map(|_| char::from(b"etaoinshrdlucmfw"[random.random_range(0..16)])).collect()
    };
    (0..2048).map(|_| word()).collect()
}

fn push_row(out: &mut Vec<u8>, words: &[String], row: u64, version: u64, column: bool) -> Result<()> {
    let mut state = (row + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15) ^ version.wrapping_mul(0xD1B5_4A32_D192_ED03);
    // xorshift64*: quick, and every row has its own.
    let mut next = |below: u64| {
        state ^= state >> 12;
        state ^= state << 25;
        state ^= state >> 27;
        (state.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 33) % below
    };
    let (second, day) = (row / 9 % 60, 1 + row / 400_000 % 28);
    let time = format_args!("2026-10-{day:02} {:02}:{:02}:{second:02}", row / 32_400 % 24, row / 540 % 60).to_string();
    match TURNS[(row / BLOCK % 8) as usize] {
        Table::Customers => {
            let (first, last) = (FIRST[next(12) as usize], LAST[next(12) as usize]);
            let (street, city) = (&words[next(400) as usize], &words[next(90) as usize]);
            writeln!(
                out,
                "{row}\t{first} {last}\t{}.{}{}@example.com\t{street} street {}\t{city}\t{:08x}{:08x}\t{time}",
                first.to_lowercase(),
                last.to_lowercase(),
                next(9999),
                next(180),
                next(1 << 32),
                next(1 << 32)
            )?;
        }
        Table::Orders => {
            let (cents, state) = (next(30_000), STATES[(next(25) as f64).sqrt() as usize]);
            writeln!(
                out,
                "{row}\t{}\t{}.{:02}\t{state}\t{time}\t\\N\tf\t{}{}",
                next(40_000) + row / 40,
                cents / 100,
                cents % 100,
                1 + next(4),
                if column { "\tstandard" } else { "" }
            )?;
        }
        Table::Events => writeln!(
            out,
            "{row}\t{time}\t{{\"type\": \"{}\", \"session\": {}, \"page\": \"/products/{}\", \"ms\": {}, \"ok\": {}}}",
            KINDS[next(4) as usize],
            row / 13,
            next(5000),
            next(900),
            next(50) != 0
        )?,
        Table::Notes => {
            write!(out, "{row}\t{time}\t")?;
            for _ in 0..6 + next(14) {
                // Squared: common words come first.
                let rank = next(45) * next(45);
                write!(out, "{} ", words[rank as usize])?;
            }
            writeln!(out, "\t{}", next(5))?;
        }
    }
    Ok(())
}
