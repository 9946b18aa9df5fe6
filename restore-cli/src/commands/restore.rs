//! `restore`: puts a snapshot, or one stream of it, where it is wanted.
//!
//! Success means that every byte was checked against the signed manifest and that every tool ended
//! with success. A stream on standard output is checked as it flows: what came before a non-zero
//! exit must not be used.

use std::collections::BTreeSet;
use std::fmt;
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::time::Duration;

use lifeboat_engine::base::Context;
use lifeboat_engine::config::Config;
use lifeboat_engine::databases::streams::{StoredStreams, StreamReader};
use lifeboat_engine::databases::{
    Database, Portion, RestoreOutcome, Target, TreeWanted, Wanted, WorkContext, load, registry,
};
use lifeboat_engine::format::id::{Name, SnapshotId};
use lifeboat_engine::format::log::{LogEvent, cut_to_fit};
use lifeboat_engine::format::manifest::Manifest;
use lifeboat_engine::restore::SnapshotStreams;
use lifeboat_engine::state::place_for;
use lifeboat_engine::{Class, Error, Result, SnapshotTime};
use serde::Serialize;
use tokio::io::AsyncWriteExt;

use super::restore_part::{self, PartFlags, PortionTarget};
use crate::access::{self, Need};
use crate::flags::{Moment, Selection};
use crate::human;
use crate::progress::Progress;
use crate::recording::{self, Recording, Shorter};
use crate::server::{ServerFlag, TARGETS};
use crate::session::Session;
use crate::table::Plain;

/// Not `requires = "to_postgres"`: clap waives a requirement that another target's presence rules
/// out.
const NOT_A_SERVER: [&str; 3] = ["to_directory", "stdout", "to_file"];

/// Restore a snapshot into a database server or a directory, or one table of it; or one stream of
/// it to standard output
#[derive(Debug, clap::Args)]
#[command(group = clap::ArgGroup::new(TARGETS).required(true).args(["to_directory", "stdout", "to_file"]))]
pub(crate) struct Args {
    /// Name of the dataset
    dataset: Name,
    #[command(flatten)]
    selection: Selection,
    #[command(flatten)]
    moment: Moment,
    #[command(flatten)]
    server: ServerFlag,
    /// A directory that gets one file for each stream, or the files of a snapshot of kind `files`;
    /// created if missing
    #[arg(long, value_name = "DIR")]
    to_directory: Option<PathBuf>,
    #[command(flatten)]
    tree: TreeFlags,
    #[command(flatten)]
    part: PartFlags,
    /// One stream, to standard output; `lifeboat show` lists the streams. With --table or
    /// --schema-only, no STREAM is named
    #[arg(long, value_name = "STREAM", num_args = 0..=1, default_missing_value = "")]
    stdout: Option<String>,
    /// File with the password of the server (mode 0600); `-` reads standard input
    #[arg(long, value_name = "FILE", conflicts_with_all = NOT_A_SERVER)]
    password_file: Option<PathBuf>,
    /// Only this database of the snapshot; may be repeated
    #[arg(long = "database", value_name = "NAME", conflicts_with = "to_directory")]
    databases: Vec<String>,
    /// Restore the one --database under another name
    #[arg(long, value_name = "NEW", requires = "databases", conflicts_with_all = NOT_A_SERVER)]
    rename: Option<String>,
    /// How many connections load at once [default: limits.cpu, or the number of cores]; for MariaDB
    /// no more than four, as each reads the whole dump
    #[arg(long, value_name = "N", conflicts_with_all = NOT_A_SERVER)]
    jobs: Option<NonZeroUsize>,
    /// Replace what is already there. PostgreSQL drops a database once the new one is complete;
    /// MariaDB drops it BEFORE the load, so it is gone if the load fails
    #[arg(long, conflicts_with = "stdout")]
    overwrite: bool,
    /// Take the snapshot's roles along into a server that has roles or databases already; roles
    /// that exist there stay as they are. A server without any gets them anyway
    /// (MariaDB: unless --database is passed)
    #[arg(long, conflicts_with_all = NOT_A_SERVER)]
    globals: bool,
    /// Load as the superuser that connects, code in the snapshot included. Without it, a role
    /// without rights is made for the load, which cannot make what only a superuser can
    #[arg(long, conflicts_with_all = NOT_A_SERVER)]
    as_superuser: bool,
    /// Load what can be loaded, list what cannot, and exit with status 4 if there is any
    #[arg(long, conflicts_with_all = NOT_A_SERVER)]
    keep_going: bool,
    /// Return only when the restored files are on stable storage
    #[arg(long, conflicts_with = "stdout")]
    sync: bool,
    /// Do not ask before overwriting
    #[arg(long)]
    yes: bool,
    /// Restore although somebody's log is shorter than this machine has seen it, so that snapshots
    /// may be missing, too
    #[arg(long)]
    accept_older: bool,
    #[command(flatten)]
    recording: Recording,
}

/// What of files to restore.
#[derive(Debug, clap::Args)]
struct TreeFlags {
    /// Of a snapshot of kind `files`, only this path, as it is below the folder that was backed up;
    /// may be repeated
    #[arg(long = "path", value_name = "PATH", requires = "to_directory")]
    paths: Vec<PathBuf>,
    /// Give files back to their owners, and their access control lists. Needs root
    #[arg(long, requires = "to_directory")]
    with_owners: bool,
    /// Give back setuid and setgid bits, file capabilities and devices. Needs root, and
    /// --with-owners: else such a program would run as whoever restores
    #[arg(long, requires_all = ["to_directory", "with_owners"])]
    with_special: bool,
}

impl TreeFlags {
    /// Where a snapshot of this engine goes.
    fn aim(&self, target: Target, engine: &str) -> Result<Target> {
        let is_tree = registry::find(engine).is_some_and(Database::is_tree);
        let wanted = TreeWanted { paths: self.paths.clone(), owners: self.with_owners, special: self.with_special };
        match target {
            Target::Directory { overwrite: true, .. } if is_tree => {
                Err(Error::usage("files are restored into an empty directory, without --overwrite")
                    .hint("name an empty directory, or a new one, and move the files from there"))
            }
            Target::Directory { path, .. } if is_tree => Ok(Target::Tree { path, wanted }),
            _ if wanted != TreeWanted::default() => {
                Err(Error::usage(format!("a snapshot of kind {engine} is no tree of files"))
                    .hint("leave out --path, --with-owners and --with-special"))
            }
            target => Ok(target),
        }
    }
}

#[derive(Serialize)]
struct Restored {
    dataset: Name,
    snapshot: SnapshotId,
    target: String,
    #[serde(flatten)]
    outcome: RestoreOutcome,
    /// Of one table, into a file.
    #[serde(skip_serializing_if = "Option::is_none")]
    rows: Option<u64>,
    restored_bytes: u64,
    seconds: f64,
    read_from: Vec<Name>,
    /// Bytes of packs that were fetched.
    fetched_bytes: u64,
    /// These bytes, divided by the size of the whole snapshot in packs.
    read_amplification: f64,
}

pub(crate) async fn run(args: &Args, session: &Session) -> Result<()> {
    if args.rename.is_some() && args.databases.len() != 1 {
        return Err(
            Error::usage("--rename goes with exactly one --database").hint("name the one database with --database")
        );
    }
    let portion = args.part.portion(args.stdout.as_deref(), args.part.to_file.is_some())?;
    if args.databases.len() > 1 && (!args.part.tables().is_empty() || portion.is_some()) {
        return Err(Error::usage("a table, and a file, is of one database").hint("name one database with --database"));
    }
    if args.stdout.is_some() && !args.part.is_given() && !args.databases.is_empty() {
        return Err(Error::usage("a stream is named by itself").hint("leave --database out"));
    }
    if args.stdout.is_some() && session.out.is_json() {
        return Err(Error::usage("--json and --stdout both use standard output").hint("leave --json out"));
    }
    if args.sync && args.to_directory.is_none() {
        return Err(Error::usage("--sync works with --to-directory only").hint("leave --sync out"));
    }
    // Before anything is asked or read.
    args.part.to_file.as_deref().map(place_for).transpose()?;
    args.server.server(&session.worker, None, None)?;
    let place = session.place()?.read_as_of(args.moment.seen_from(session.clock.now()));
    let target = target(args, session, place.config.as_ref()).await?;
    let reader = session.reader_for(&args.dataset, &place, Need::Packs).await?;
    // What is recorded is what is restored.
    let selector = args.selection.selector(session.clock.now());
    let shorter = Shorter::Ask { accepted: args.accept_older, expected: place.as_of.is_some() };
    let event = |unrecorded| LogEvent::Restore {
        dataset: args.dataset.clone(),
        snapshot: recording::wanted(&selector),
        target: cut_to_fit(&args.part.told(&match (&target, &args.part.to_file) {
            (Some(target), _) => describe(target),
            (None, Some(file)) => file.display().to_string(),
            (None, None) => "standard output".to_owned(),
        })),
        user: recording::user(),
        unrecorded,
    };
    args.recording.record(session, &place, &reader, shorter, event).await?;
    let began = session.clock.elapsed();
    let open = async {
        let now = session.clock.now();
        let (known, snapshot) = futures::join!(
            session.datasets(&reader, Some(&args.dataset)),
            reader.select(&args.dataset, &selector, now)
        );
        known?;
        let snapshot = snapshot?;
        let (streams, settled) =
            futures::join!(reader.streams(&args.dataset, &snapshot), reader.settled_times(&args.dataset));
        let streams = streams?;
        // What is only told does not stop a restore.
        let taken = match settled {
            Ok(settled) => reader.taken_as(streams.manifest(), &settled).await,
            Err(error) => Err(error),
        };
        let taken = taken.unwrap_or_else(|_| SnapshotTime::told(streams.manifest().started));
        Ok((streams, taken))
    };
    let (streams, taken) = session.cancellable("opening the snapshot", open).await?;
    if taken.is_backdated() {
        session.out.warning(format!(
            "this snapshot is backdated: it claims {}, and was first seen {}",
            human::time(taken.claimed.unwrap_or(taken.time)),
            human::time(taken.time)
        ));
    }
    let taken = taken.time;
    let manifest = streams.manifest();
    let age = human::seconds((session.clock.now() - taken).as_seconds_f64());
    session.out.note(format!("snapshot {} of {}, data {age} old", manifest.snapshot, args.dataset));

    let warnings = manifest.source.warnings.iter().map(|warning| format!("the snapshot warns: {warning}"));
    if args.part.is_given() {
        restore_part::must_have_parts(&manifest.source.engine)?;
    }
    if let Some(portion) = portion {
        let warnings: Vec<String> = warnings.collect();
        return give(args, session, &streams, &portion, (warnings, began)).await;
    }
    let Some(target) = target else {
        warnings.for_each(|warning| session.out.warning(warning));
        let name = args.stdout.as_deref().unwrap_or_default();
        return session.cancellable("the restore", to_stdout(&streams, name)).await;
    };
    let target = args.tree.aim(target, &manifest.source.engine)?;
    if args.overwrite {
        session.confirm(args.yes, question(args, manifest, &target)).await?;
    }
    if matches!(target, Target::Server { .. }) {
        session.tell_what_guards_the_keys(&session.worker, "as root, another user does it");
    }
    let scratch = session.scratch()?;
    let cx = WorkContext {
        scratch: scratch.path().to_owned(),
        stall: place.limits.stall,
        jobs: args.jobs.map_or(place.limits.cpu, NonZeroUsize::get),
        environment: session.tools.clone(),
        cancel: session.cancel.clone(),
    };
    let total = wanted_bytes(manifest, &target, &args.databases);
    let progress = Progress::follow(streams.delivered_counter(), total, args.dataset.as_str());
    // Not dropped on a signal: `load` obeys the token and cleans up after itself.
    let outcome = load(&streams, &target, &cx).await;
    drop(progress);
    let (mut outcome, reading) = (outcome?, streams.reading());
    let skipped = &manifest.source.skipped;
    if args.databases.is_empty() && !skipped.is_empty() {
        let warning = format!("the snapshot is PARTIAL: it lacks {}", human::databases(skipped));
        outcome.warnings.insert(0, warning);
    }
    outcome.warnings.extend(warnings);
    let restored = Restored {
        dataset: args.dataset.clone(),
        snapshot: manifest.snapshot.clone(),
        target: describe(&target),
        outcome,
        rows: None,
        restored_bytes: streams.delivered(),
        seconds: elapsed(session, began).as_secs_f64(),
        read_from: streams.read_from(),
        fetched_bytes: reading.fetched,
        read_amplification: reading.amplification(),
    };
    session.out.result(&restored)?;
    match restored.outcome.failures.len() {
        0 => Ok(()),
        lost => {
            Err(Error::source_failed(format!("{} could not be loaded, see above", human::count(lost as u64, "object")))
                .hint("mend what is named, in the source or the flags; what was loaded is complete but for it"))
        }
    }
}

fn elapsed(session: &Session, since: Duration) -> Duration {
    session.clock.elapsed().saturating_sub(since)
}

/// `None`: standard output.
async fn target(args: &Args, session: &Session, config: Option<&Config>) -> Result<Option<Target>> {
    if let Some(path) = &args.to_directory {
        return Ok(Some(Target::Directory { path: path.clone(), overwrite: args.overwrite, sync: args.sync }));
    }
    let password = match args.password_file.clone() {
        Some(file) => {
            let read = async {
                let read = tokio::task::spawn_blocking(move || access::read_secret(&file)).await;
                read.map_err(|error| Error::keys("cannot read the password").because(error))?
            };
            Some(session.cancellable("reading the password", read).await?)
        }
        None => None,
    };
    let source = config.and_then(|config| config.dataset(&args.dataset)).map(|dataset| dataset.source.as_ref());
    let wanted = Wanted {
        databases: args.databases.clone(),
        rename: args.rename.clone(),
        overwrite: args.overwrite,
        globals: args.globals,
        keep_going: args.keep_going,
        as_superuser: args.as_superuser,
        tables: args.part.tables().to_vec(),
        schema_only: args.part.is_schema_only(),
    };
    Ok(args.server.server(&session.worker, password, source)?.map(|server| Target::Server { server, wanted }))
}

/// Gives rows of a table, or definitions.
async fn give(
    args: &Args,
    session: &Session,
    streams: &SnapshotStreams,
    portion: &Portion,
    (mut warnings, began): (Vec<String>, Duration),
) -> Result<()> {
    let database = args.databases.first().map(String::as_str);
    let target = match args.part.to_file.clone() {
        Some(path) => PortionTarget::File { path, overwrite: args.overwrite },
        None => PortionTarget::StandardOutput,
    };
    if let PortionTarget::File { path, overwrite: true } = &target
        && path.symlink_metadata().is_ok()
    {
        session.confirm(args.yes, format!("{} is replaced.", path.display())).await?;
    }
    let given = restore_part::give(session, streams, database, (portion, &target)).await?;
    warnings.extend(given.warnings);
    let PortionTarget::File { path, .. } = &target else {
        warnings.iter().for_each(|warning| session.out.warning(warning));
        return Ok(());
    };
    let reading = streams.reading();
    session.out.result(&Restored {
        dataset: args.dataset.clone(),
        snapshot: streams.manifest().snapshot.clone(),
        target: path.display().to_string(),
        outcome: RestoreOutcome { written: vec![path.display().to_string()], warnings, ..RestoreOutcome::default() },
        rows: given.rows,
        restored_bytes: given.bytes,
        seconds: elapsed(session, began).as_secs_f64(),
        read_from: streams.read_from(),
        fetched_bytes: reading.fetched,
        read_amplification: reading.amplification(),
    })
}

async fn to_stdout(streams: &SnapshotStreams, name: &str) -> Result<()> {
    let failed = || "cannot write the stream to standard output";
    let names = streams.streams_of(name);
    let (first, others) = names.split_first().map_or((name, &[][..]), |(first, others)| (first.as_str(), others));
    let mut stream: Box<dyn StreamReader> = streams.open(first).await?;
    let length = names.iter().filter_map(|name| streams.length(name)).sum();
    let progress = Progress::follow(streams.delivered_counter(), length, name);
    let (mut stdout, mut others) = (tokio::io::stdout(), others.iter());
    loop {
        while let Some(piece) = stream.next().await? {
            stdout.write_all(&piece).await.context(Class::Storage, failed)?;
        }
        let Some(next) = others.next() else { break };
        stream = streams.open(next).await?;
    }
    stdout.flush().await.context(Class::Storage, failed)?;
    drop(progress);
    Ok(())
}

/// What would be lost, in words that name it.
fn question(args: &Args, manifest: &Manifest, target: &Target) -> String {
    let asked = match target {
        Target::Server { wanted, .. } if !wanted.tables.is_empty() => {
            format!("Those of the tables {} that exist at {} are replaced.", wanted.tables.join(", "), describe(target))
        }
        Target::Server { wanted: Wanted { rename: Some(name), .. }, .. } => {
            format!("If the database {name} exists at {}, it is replaced.", describe(target))
        }
        Target::Server { server, .. } => {
            let names: BTreeSet<String> = manifest
                .streams
                .iter()
                .filter_map(|stream| server.database().database_of(&stream.name))
                .filter(|name| args.databases.is_empty() || args.databases.iter().any(|wanted| wanted == name))
                .collect();
            let mut names: Vec<String> = names.into_iter().collect();
            // Engines whose streams are not of one database.
            if names.is_empty() {
                names = args.databases.clone();
            }
            if names.is_empty() {
                names.push("that the snapshot holds".to_owned());
            }
            format!("Those of the databases {} that exist at {} are replaced.", names.join(", "), describe(target))
        }
        Target::Directory { .. } | Target::Tree { .. } => {
            format!("Files of the same names in {} are replaced.", describe(target))
        }
    };
    match target {
        Target::Server { server, .. } if server.drops_first() => {
            format!("{asked} It is dropped BEFORE the load: if the load fails, it is gone.")
        }
        Target::Server { .. } | Target::Directory { .. } | Target::Tree { .. } => asked,
    }
}

fn describe(target: &Target) -> String {
    match target {
        Target::Server { server, .. } => server.describe(),
        Target::Directory { path, .. } | Target::Tree { path, .. } => path.display().to_string(),
    }
}

/// Bytes of the streams that will be read.
fn wanted_bytes(manifest: &Manifest, target: &Target, databases: &[String]) -> u64 {
    let engine = registry::find(&manifest.source.engine);
    let wanted = |name: &str| match engine.and_then(|engine| engine.database_of(name)) {
        Some(database) => match target {
            Target::Server { server, wanted } if wanted.is_part() => server.database().reads(name, wanted),
            _ => databases.is_empty() || databases.contains(&database),
        },
        None => true,
    };
    manifest.streams.iter().filter(|stream| wanted(&stream.name)).map(|stream| stream.length).sum()
}

impl fmt::Display for Restored {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let read_from: Vec<&str> = self.read_from.iter().map(Name::as_str).collect();
        let mut facts = vec![
            ("restored", format!("{} {}", self.dataset, self.snapshot)),
            ("to", self.target.clone()),
            ("written", self.outcome.written.join(", ")),
            ("rows", self.rows.map_or_else(String::new, |rows| rows.to_string())),
            ("size", human::bytes(self.restored_bytes)),
            ("took", human::seconds(self.seconds)),
            ("read from", format!("{}: {}", read_from.join(", "), human::bytes(self.fetched_bytes))),
        ];
        facts.retain(|(what, value)| *what != "rows" || !value.is_empty());
        facts.extend(self.outcome.warnings.iter().map(|warning| ("warning", warning.clone())));
        let lost = self.outcome.failures.iter();
        facts.extend(lost.map(|lost| ("not loaded", format!("{}: {} ({})", lost.database, lost.object, lost.reason))));
        write!(f, "{}", Plain::facts(facts))
    }
}
