//! The command line.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};
use lifeboat_engine::format::id::Name;
use tracing::level_filters::LevelFilter;

use crate::log::Format;

const EXIT_CODES: &str = "Exit codes:
  0  success
  1  failed, or cancelled
  2  the command line asks for something impossible
  3  the configuration, or what it names, is wrong
  4  a database or dump tool failed
  5  a replica or the local disk failed
  6  stored data is missing, damaged or forged
  7  a key is missing, wrong, unreadable or not trusted
  9  a backup was committed, but lacks a database
 10  a backup may or may not be committed: a replica did not answer

Signals:
  SIGHUP           reload the configuration; an invalid one changes nothing
  SIGTERM, SIGINT  stop; a run may still finish within limits.shutdown, a second signal cancels it";

/// Backs up databases on schedule and keeps every replica complete
#[derive(Debug, Parser)]
#[command(name = "lifeboatd", version, after_help = EXIT_CODES)]
pub(crate) struct Cli {
    /// Configuration file
    #[arg(
        long,
        global = true,
        env = "LIFEBOAT_CONFIG",
        value_name = "PATH",
        default_value = "/etc/lifeboat/lifeboat.toml"
    )]
    pub config: PathBuf,

    #[command(flatten)]
    pub mode: Mode,

    /// Print results on standard output as JSON, one document per line
    #[arg(long, global = true)]
    pub json: bool,

    /// How to write the log
    #[arg(long, global = true, value_enum, default_value = "auto", value_name = "FORMAT")]
    pub log: Format,

    /// How much to log: error, warn, info, debug, trace
    #[arg(long, global = true, default_value = "info", value_name = "LEVEL")]
    pub log_level: LevelFilter,

    #[command(subcommand)]
    pub command: Option<Command>,
}

/// What to do instead of running as a daemon.
#[derive(Debug, Args)]
#[group(multiple = false)]
pub(crate) struct Mode {
    /// Check the configuration, print every problem, and exit
    #[arg(long)]
    pub check_config: bool,

    /// Back up the named datasets and groups, or all, now, and exit; the exit code is that of the
    /// worst failure
    #[arg(long, num_args = 0.., value_name = "DATASET")]
    pub once: Option<Vec<Name>>,
}

/// What to ask the running daemon.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Ask the running daemon to back up a dataset or a group now, and wait for the result. With a
    /// member, its whole group is backed up
    Trigger {
        /// Name of the dataset or of the group
        dataset: Name,
    },
    /// Ask the running daemon to back up a dataset that another host leads, and to lead it from
    /// then on. Better run `lifeboat takeover`: it shows who leads, and asks
    Takeover {
        /// Name of the dataset
        dataset: Name,
    },
    /// Ask the running daemon to cancel the backup of a dataset that runs or waits. One whose
    /// commit has begun is finished
    Cancel {
        /// Name of the dataset
        dataset: Name,
    },
    /// Ask the running daemon for the state of every dataset and replica
    Status,
    /// Look once at what backup hosts have marked, and delete what this machine agrees with;
    /// extend locks. Only the warden of the root may; run it every hour
    Warden {
        /// Make the warden's signer, where the configuration says that it lies, and print the
        /// public half, for `lifeboat root request set-warden`
        #[arg(long)]
        make_signer: bool,

        /// Before the look, forget what was seen first of this dataset, because that is lost or
        /// damaged: the look believes what it sees, and waits anew. Recorded in the warden's log
        #[arg(long, value_name = "DATASET", conflicts_with = "make_signer")]
        begin_anew: Option<Name>,
    },
    /// Write the manual of this program
    Man {
        /// The directory of manuals, such as /usr/local/share/man; `man1` in it is created if
        /// missing
        directory: PathBuf,
    },
}
