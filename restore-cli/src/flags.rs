//! Flags that several commands share.

use std::path::PathBuf;

use chrono::{DateTime, Utc};
use clap::{ArgAction, Args};
use lifeboat_engine::format::id::{Name, SnapshotId};
use lifeboat_engine::restore::Selector;

use crate::given_replica::GivenReplica;
use crate::when::When;

/// Flags that every command takes.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Options of every command")]
pub(crate) struct Globals {
    /// Configuration file; it is not read when --directory or --s3-bucket names the replica
    #[arg(
        long,
        global = true,
        value_name = "PATH",
        env = "LIFEBOAT_CONFIG",
        default_value = "/etc/lifeboat/lifeboat.toml"
    )]
    pub(crate) config: PathBuf,
    /// Print one JSON value on standard output, and errors and logs as JSON lines on standard error
    #[arg(long, global = true)]
    pub(crate) json: bool,
    /// File with an age identity or ssh-ed25519 key that opens the vault; may be repeated;
    /// `-` reads standard input
    #[arg(short, long = "identity", global = true, value_name = "FILE")]
    pub(crate) identities: Vec<PathBuf>,
    /// Use only this replica of the configuration
    #[arg(long, global = true, value_name = "NAME", value_parser = ReplicaWord::name)]
    pub(crate) replica: Option<ReplicaWord>,
    /// Minisign public key of a backup host whose snapshots you trust; may be repeated
    #[arg(long = "trusted-signer", global = true, value_name = "KEY")]
    pub(crate) trusted_signers: Vec<String>,
    /// Owner of the vault, by signing key or line; whoever the newest root names is trusted, if the
    /// owners given here signed it or one before it; may be repeated; @FILE reads a file
    #[arg(long = "owner", global = true, value_name = "KEY")]
    pub(crate) owners: Vec<String>,
    /// So many of the owners of --owner must have signed one of these roots
    #[arg(long, global = true, value_name = "N", default_value = "1")]
    pub(crate) owner_threshold: usize,
    /// Log more; pass it twice for details
    #[arg(short, long, global = true, action = ArgAction::Count)]
    pub(crate) verbose: u8,
    /// Print only results, warnings and errors
    #[arg(short, long, global = true)]
    pub(crate) quiet: bool,
    #[command(flatten)]
    pub(crate) given: GivenReplica,
}

/// What `--replica` can be: the name of one that the configuration has, or, where a vault is set
/// up, the name and place of a new one. It is one type, as the flag is that of every command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ReplicaWord {
    pub(crate) name: Name,
    /// The place of a new one.
    pub(crate) place: Option<String>,
}

impl ReplicaWord {
    fn name(text: &str) -> Result<Self, String> {
        let name = text.parse().map_err(|error: lifeboat_engine::Error| error.chain_and_hint())?;
        Ok(Self { name, place: None })
    }

    /// `NAME=PLACE`.
    pub(crate) fn placed(text: &str) -> Result<Self, String> {
        let (name, place) = text.split_once('=').ok_or("a replica is NAME=s3://BUCKET?region=… or NAME=/DIRECTORY")?;
        Ok(Self { place: Some(place.to_owned()), ..Self::name(name)? })
    }
}

/// Which snapshot of a dataset.
#[derive(Debug, Clone, Args)]
pub(crate) struct Selection {
    /// Snapshot id or the beginning of one, such as 20261123T1832; or `latest` (the default)
    #[arg(long, value_name = "ID", value_parser = parse_snapshot, conflicts_with = "at")]
    pub(crate) snapshot: Option<Selector>,
    /// The newest snapshot that began at or before this time, such as 2026-11-23T20:00:00+02:00,
    /// "2026-11-23 18:00:00 UTC" (as `list` prints it), "yesterday 18:00" (UTC) or "2h ago"
    #[arg(long, value_name = "TIME")]
    pub(crate) at: Option<When>,
}

impl Selection {
    /// What was asked for, seen from `now`.
    pub(crate) fn selector(&self, now: DateTime<Utc>) -> Selector {
        match (&self.snapshot, &self.at) {
            (_, Some(when)) => Selector::At(when.end_seen_from(now)),
            (Some(selector), None) => selector.clone(),
            (None, None) => Selector::Latest,
        }
    }
}

/// When the vault is read as of.
#[derive(Debug, Clone, Args)]
pub(crate) struct Moment {
    /// Read the vault as it was at this time, deleted and overwritten objects included. The bucket
    /// must keep versions. A time is written as for `restore --at`
    #[arg(long, value_name = "TIME")]
    as_of: Option<When>,
}

impl Moment {
    /// The time that was asked for, seen from `now`.
    pub(crate) fn seen_from(&self, now: DateTime<Utc>) -> Option<DateTime<Utc>> {
        self.as_of.as_ref().map(|when| when.seen_from(now))
    }
}

/// `latest`, an id, or the beginning of one.
pub(crate) fn parse_snapshot(text: &str) -> Result<Selector, String> {
    if text == "latest" {
        return Ok(Selector::Latest);
    }
    if SnapshotId::is_beginning(text) {
        return Ok(Selector::Beginning(text.to_owned()));
    }
    text.parse().map(Selector::Id).map_err(|error: lifeboat_engine::Error| {
        format!("{error}; {}", error.hint_text().unwrap_or("`lifeboat list` shows the ids"))
    })
}

/// A time as RFC 3339 writes it.
pub(crate) fn parse_time(text: &str) -> Result<DateTime<Utc>, String> {
    DateTime::parse_from_rfc3339(text)
        .map(|time| time.to_utc())
        .map_err(|error| format!("{error}; a time looks like 2026-11-23T18:00:00Z or 2026-11-23T20:00:00+02:00"))
}
