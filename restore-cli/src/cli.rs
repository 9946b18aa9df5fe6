//! The command line: one definition behind parsing, `--help`, completions and the manual.

use std::ffi::OsString;
use std::path::PathBuf;

use chrono::{DateTime, Utc};
use clap::{ArgAction, Args, CommandFactory, FromArgMatches, Parser, Subcommand};
use lifeboat_engine::format::id::Name;
use lifeboat_engine::restore::Selector;

use crate::commands::{check, completions, drill, init, list, man, prune, restore, show, trigger, verify};
use crate::exit;

/// Lists, restores, verifies and drills encrypted backups; needs one replica, an identity and
/// trusted signers
#[derive(Debug, Parser)]
#[command(name = "lifeboat", version, propagate_version = false, max_term_width = 110)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) globals: Globals,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// What is to be done.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    List(list::Args),
    Show(show::Args),
    Restore(restore::Args),
    Verify(verify::Args),
    Drill(drill::Args),
    Prune(prune::Args),
    Init(init::Args),
    Check(check::Args),
    Trigger(trigger::Args),
    Completions(completions::Args),
    Man(man::Args),
}

/// Flags that every command takes.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Options of every command")]
pub(crate) struct Globals {
    /// Configuration file; not read when --directory or --s3-bucket names the replica
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
    /// Age identity or ssh key file that opens the vault, may be repeated; `-` reads standard input
    #[arg(short, long = "identity", global = true, value_name = "FILE")]
    pub(crate) identities: Vec<PathBuf>,
    /// Use only this replica of the configuration
    #[arg(long, global = true, value_name = "NAME")]
    pub(crate) replica: Option<Name>,
    /// Minisign public key of a backup host whose snapshots are believed, may be repeated
    #[arg(long = "trusted-signer", global = true, value_name = "KEY")]
    pub(crate) trusted_signers: Vec<String>,
    /// Say more of what is going on; twice for details
    #[arg(short, long, global = true, action = ArgAction::Count)]
    pub(crate) verbose: u8,
    /// Say nothing but results and errors
    #[arg(short, long, global = true)]
    pub(crate) quiet: bool,
    #[command(flatten)]
    pub(crate) given: GivenReplica,
}

/// One replica, named without any configuration.
#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "One replica, without a configuration")]
pub(crate) struct GivenReplica {
    /// A directory: another disk, a mount, a copy of a bucket
    #[arg(long, global = true, value_name = "PATH")]
    pub(crate) directory: Option<PathBuf>,
    /// An S3 bucket
    #[arg(long, global = true, value_name = "BUCKET")]
    pub(crate) s3_bucket: Option<String>,
    /// Region of the bucket
    #[arg(long, global = true, value_name = "REGION")]
    pub(crate) s3_region: Option<String>,
    /// Endpoint URL, where it is not AWS
    #[arg(long, global = true, value_name = "URL")]
    pub(crate) s3_endpoint: Option<url::Url>,
    /// Address objects as endpoint/bucket/key
    #[arg(long, global = true)]
    pub(crate) s3_path_style: bool,
    /// PEM file with the certificate authorities to trust
    #[arg(long, global = true, value_name = "FILE")]
    pub(crate) s3_ca_file: Option<PathBuf>,
    /// Credentials in the AWS shared-credentials format; otherwise the default AWS chain
    #[arg(long, global = true, value_name = "FILE")]
    pub(crate) s3_credentials: Option<PathBuf>,
    /// Where the vault begins in the replica
    #[arg(long, global = true, value_name = "PREFIX")]
    pub(crate) vault_prefix: Option<String>,
}

/// Which snapshot of a dataset.
#[derive(Debug, Clone, Args)]
pub(crate) struct Selection {
    /// Snapshot id, or `latest` (the default)
    #[arg(long, value_name = "ID", value_parser = parse_snapshot, conflicts_with = "at")]
    pub(crate) snapshot: Option<Selector>,
    /// The newest snapshot begun at or before this time, such as 2026-11-23T18:00:00Z (RFC 3339)
    #[arg(long, value_name = "TIME", value_parser = parse_time)]
    pub(crate) at: Option<DateTime<Utc>>,
}

impl Selection {
    /// What was asked for.
    pub(crate) fn selector(&self) -> Selector {
        match (&self.snapshot, self.at) {
            (_, Some(time)) => Selector::At(time),
            (Some(selector), None) => selector.clone(),
            (None, None) => Selector::Latest,
        }
    }
}

/// `latest` or an id.
pub(crate) fn parse_snapshot(text: &str) -> Result<Selector, String> {
    if text == "latest" {
        return Ok(Selector::Latest);
    }
    text.parse().map(Selector::Id).map_err(|error: lifeboat_engine::Error| {
        format!("{error}; {}", error.hint_text().unwrap_or("`lifeboat list` shows them"))
    })
}

fn parse_time(text: &str) -> Result<DateTime<Utc>, String> {
    DateTime::parse_from_rfc3339(text)
        .map(|time| time.to_utc())
        .map_err(|error| format!("{error}; a time looks like 2026-11-23T18:00:00Z or 2026-11-23T20:00:00+02:00"))
}

/// The whole command line, exit codes below every help text.
pub(crate) fn command() -> clap::Command {
    let explained = |command: clap::Command| command.after_help(exit::help());
    explained(Cli::command()).mut_subcommands(explained)
}

/// Parses `arguments`, program name first.
pub(crate) fn parse(arguments: impl IntoIterator<Item = OsString>) -> Result<Cli, clap::Error> {
    let mut command = command();
    let mut matches = command.try_get_matches_from_mut(arguments)?;
    Cli::from_arg_matches_mut(&mut matches).map_err(|error| error.format(&mut command))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]
mod tests {
    use super::*;

    fn parsed(line: &str) -> Result<Cli, clap::Error> {
        parse(line.split_whitespace().map(OsString::from))
    }

    #[test]
    fn the_definition_is_consistent() {
        command().debug_assert();
    }

    #[test]
    fn global_flags_are_taken_before_and_after_the_command() {
        for line in ["lifeboat --json --config /c list shop", "lifeboat list shop --json --config /c"] {
            let cli = parsed(line).unwrap();
            assert!(cli.globals.json);
            assert_eq!(cli.globals.config, PathBuf::from("/c"));
        }
        let cli = parsed("lifeboat list -i a --identity b -vv").unwrap();
        assert_eq!(cli.globals.identities, [PathBuf::from("a"), PathBuf::from("b")]);
        assert_eq!(cli.globals.verbose, 2);
    }

    #[test]
    fn restore_wants_exactly_one_target() {
        assert!(parsed("lifeboat restore shop").is_err());
        assert!(parsed("lifeboat restore shop --to-directory /d").is_ok());
        assert!(parsed("lifeboat restore shop --to-directory /d --stdout globals").is_err());
        for flag in ["--database a", "--password-file /p", "--database a --rename b"] {
            assert!(parsed(&format!("lifeboat restore shop --to-directory /d {flag}")).is_err(), "{flag}");
            assert!(parsed(&format!("lifeboat restore shop --to-postgres service:x {flag}")).is_ok(), "{flag}");
        }
        assert!(parsed("lifeboat restore shop --to-postgres service:x --rename b").is_err());
    }

    #[test]
    fn snapshot_and_time_exclude_each_other() {
        let base = "lifeboat drill shop";
        let Command::Drill(args) = parsed(&format!("{base} --at 2026-11-23T20:00:00+02:00")).unwrap().command else {
            panic!("not a drill")
        };
        assert_eq!(args.selection.selector(), Selector::At("2026-11-23T18:00:00Z".parse().unwrap()));
        assert!(parsed(&format!("{base} --at yesterday")).is_err());
        assert!(parsed(&format!("{base} --snapshot nonsense")).is_err());
        assert!(parsed(&format!("{base} --snapshot latest --at 2026-11-23T18:00:00Z")).is_err());
    }

    #[test]
    fn every_help_text_explains_the_exit_codes() {
        let mut command = command();
        assert!(command.render_help().to_string().contains(&exit::help()));
        for name in ["restore", "verify", "drill", "check"] {
            let help = command.find_subcommand_mut(name).unwrap().render_help().to_string();
            assert!(help.contains("6  stored data is missing, damaged, forged"), "{name}: {help}");
        }
    }

    #[test]
    fn bad_names_and_levels_are_usage_errors() {
        for line in ["lifeboat list ../x", "lifeboat drill shop --level excellent", "lifeboat list --replica UPPER"] {
            assert_eq!(parsed(line).unwrap_err().exit_code(), 2, "{line}");
        }
    }
}
