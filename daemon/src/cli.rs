//! The command line.

use std::path::PathBuf;

use clap::{Parser, Subcommand, ValueEnum};
use lifeboat_engine::id::Name;

const EXIT_CODES: &str = "Exit codes:
  0  success
  1  failed, or cancelled
  2  the command line asks for something that cannot be
  3  the configuration, or what it names, is wrong
  4  a database or dump tool failed
  5  a replica or the local disk failed
  6  stored data is missing, damaged or forged
  7  a key is missing, wrong, unreadable or not trusted";

/// Back up databases to other regions: on schedule, encrypted, deduplicated.
#[derive(Debug, Parser)]
#[command(name = "lifeboatd", version, after_help = EXIT_CODES)]
pub(crate) struct Cli {
    /// The configuration file
    #[arg(long, env = "LIFEBOAT_CONFIG", default_value = "/etc/lifeboat/lifeboat.toml", global = true)]
    pub(crate) config: PathBuf,
    /// Check the configuration and end
    #[arg(long, conflicts_with = "once")]
    pub(crate) check_config: bool,
    /// Back up now, all datasets or the named ones, and end with the worst result
    #[arg(long, num_args = 0.., value_name = "DATASET")]
    pub(crate) once: Option<Vec<Name>>,
    /// Results as JSON, one document a line
    #[arg(long, global = true)]
    pub(crate) json: bool,
    /// Where and how to log
    #[arg(long, value_enum, default_value = "auto", global = true)]
    pub(crate) log: LogFormat,
    /// What to log: a level, or directives such as `lifeboat_engine=debug`
    #[arg(long, default_value = "info", global = true)]
    pub(crate) log_level: String,
    #[command(subcommand)]
    pub(crate) command: Option<Command>,
}

/// What a running daemon is asked.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Ask the running daemon to back up a dataset now, and wait for the result
    Trigger {
        /// Which dataset
        dataset: Name,
    },
    /// Ask the running daemon what it is doing
    Status,
}

/// How log lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum LogFormat {
    /// journald under systemd, text on a terminal, else JSON
    Auto,
    /// One JSON object a line, on standard error
    Json,
    /// The journal, with fields
    Journald,
    /// For people, on standard error
    Text,
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent_and_tells_the_exit_codes() {
        let mut command = Cli::command();
        command.clone().debug_assert();
        assert!(command.render_long_help().to_string().contains("  7  a key"));
    }
}
