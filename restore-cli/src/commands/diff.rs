//! `diff`: what changed between two snapshots.

use std::fmt;
use std::str::FromStr;

use lifeboat_engine::diff::{SnapshotDiff, StreamDiff, StreamState, count_rows};
use lifeboat_engine::format::id::Name;
use lifeboat_engine::format::log::{LogEvent, cut_to_fit};
use lifeboat_engine::restore::Selector;
use lifeboat_engine::{Error, Result};
use serde::Serialize;

use super::drill::own_config;
use crate::access::Need;
use crate::as_unit::{self, UnitUser};
use crate::flags::{Moment, parse_snapshot};
use crate::human;
use crate::recording::{self, Recording, Shorter};
use crate::session::Session;
use crate::table::Plain;
use crate::when::When;

/// Show what changed between two snapshots: bytes of each stream, and with --rows, rows of each
/// table
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Name of the dataset
    dataset: Name,
    /// Snapshot id, the beginning of one, or a time as for `restore --at`
    #[arg(value_name = "OLD")]
    old: WhichSnapshot,
    /// The same, or `latest`
    #[arg(value_name = "NEW", default_value = "latest")]
    new: WhichSnapshot,
    /// Also count rows that only one of the two has. It reads every stream that differs, from both;
    /// without it, manifests are enough
    #[arg(long)]
    rows: bool,
    #[command(flatten)]
    moment: Moment,
    #[command(flatten)]
    recording: Recording,
}

/// A snapshot, by its id or by a time.
#[derive(Debug, Clone)]
enum WhichSnapshot {
    Named(Selector),
    At(When),
}

impl FromStr for WhichSnapshot {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match parse_snapshot(text) {
            Ok(selector) => Ok(Self::Named(selector)),
            Err(no_snapshot) => text
                .parse()
                .map(Self::At)
                .map_err(|no_time: String| format!("{no_snapshot}; nor is it a time: {no_time}")),
        }
    }
}

impl WhichSnapshot {
    fn selector(&self, session: &Session) -> Selector {
        match self {
            Self::Named(selector) => selector.clone(),
            Self::At(when) => Selector::At(when.end_seen_from(session.clock.now())),
        }
    }
}

pub(crate) async fn run(args: &Args, session: &Session) -> Result<()> {
    // What is recorded is remembered in the state of whoever reads here.
    if args.rows
        && !args.recording.is_by_owner()
        && let Some(config) = own_config(session)
        && let Some(user) = UnitUser::of_drill(&config)
    {
        return as_unit::run_again(&config, &user, session).await;
    }
    let place = session.place()?.read_as_of(args.moment.seen_from(session.clock.now()));
    let need = if args.rows { Need::Packs } else { Need::Manifests };
    let reader = session.reader_for(&args.dataset, &place, need).await?;
    let (old, new) = (args.old.selector(session), args.new.selector(session));
    let look = async {
        let now = session.clock.now();
        session.datasets(&reader, Some(&args.dataset)).await?;
        let (old, new) =
            futures::try_join!(reader.select(&args.dataset, &old, now), reader.select(&args.dataset, &new, now),)?;
        if old == new {
            return Err(Error::usage(format!("both are the snapshot {old}"))
                .hint(format!("run `lifeboat list {}` to see its snapshots", args.dataset)));
        }
        reader.diff(&args.dataset, &old, &new).await
    };
    let mut diff = session.cancellable("comparing the snapshots", look).await?;
    if args.rows {
        for snapshot in [&diff.old, &diff.new] {
            let event = |unrecorded| LogEvent::Restore {
                dataset: args.dataset.clone(),
                snapshot: recording::wanted(&Selector::Id(snapshot.clone())),
                target: cut_to_fit("a count of its rows, for a diff"),
                user: recording::user(),
                unrecorded,
            };
            let shorter = Shorter::Ask { accepted: false, expected: place.as_of.is_some() };
            args.recording.record(session, &place, &reader, shorter, event).await?;
        }
        let scratch = session.scratch()?;
        session.cancellable("counting rows", count_rows(&reader, &mut diff, scratch.path())).await?;
    }
    session.out.result(&ToldDiff(diff))
}

/// What is told.
#[derive(Serialize)]
#[serde(transparent)]
struct ToldDiff(SnapshotDiff);

impl fmt::Display for ToldDiff {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(diff) = self;
        let facts = vec![
            ("dataset", diff.dataset.to_string()),
            ("from", diff.old.to_string()),
            ("to", diff.new.to_string()),
            (
                "packs of its own",
                format!(
                    "{} in {} that the first does not refer to",
                    human::bytes(diff.new_pack_bytes),
                    human::count(diff.new_packs as u64, "pack")
                ),
            ),
        ];
        writeln!(f, "{}\n", Plain::facts(facts))?;
        let mut streams = Plain::new(&["STREAM", "STATE", ">FROM", ">TO", ">NEW BYTES"]);
        let size = |bytes: Option<u64>| bytes.map_or_else(|| "-".to_owned(), human::bytes);
        for stream in &diff.streams {
            let StreamDiff { stream: name, state, old_bytes, new_bytes, fresh_bytes, .. } = stream;
            let state = match state {
                StreamState::Added => "added",
                StreamState::Removed => "removed",
                StreamState::Changed => "changed",
                StreamState::Unchanged => "same",
            };
            let row = [name.clone(), state.to_owned(), size(*old_bytes), size(*new_bytes), human::bytes(*fresh_bytes)];
            streams.row(row);
        }
        write!(f, "{streams}")?;
        let Some(tables) = &diff.tables else {
            return write!(f, "\n\nRows were not counted: --rows counts them, and reads what differs.");
        };
        let uncounted = diff.streams.iter().filter(|one| one.state != StreamState::Unchanged && !one.rows_counted);
        let uncounted: Vec<&str> = uncounted.map(|one| one.stream.as_str()).collect();
        if !uncounted.is_empty() {
            write!(f, "\n\nNot counted, as they are not made of rows: {}", uncounted.join(", "))?;
        }
        if tables.is_empty() {
            return write!(f, "\n\nNo row was added or removed in what was counted.");
        }
        let mut rows = Plain::new(&["TABLE", ">ROWS ADDED", ">ROWS REMOVED"]);
        for table in tables {
            rows.row([table.table.clone(), table.added.to_string(), table.removed.to_string()]);
        }
        write!(f, "\n\n{rows}")
    }
}
